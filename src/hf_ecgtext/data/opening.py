"""Sources and data by name: the modules of `data.sources` that define a `SOURCE` or an `open_data`."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from hf_ecgtext.data import sources
from hf_ecgtext.data.bad_records import BadRecords
from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.prepare.plan import fingerprint
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.data.store.dataset import ParquetEcgDataset, is_address, is_prepared_location, read_manifest_at
from hf_ecgtext.data.store.manifest import Manifest
from hf_ecgtext.data.store.schema import EcgDataset
from hf_ecgtext.data.tasks import SPLITS, EcgData, EcgRows

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def source_names() -> list[str]:
    """The datasets whose original downloads can be read: the modules of `data.sources` that define `SOURCE`."""
    return _modules_with("SOURCE")


def _modules_with(attribute: str) -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(sources.__path__)]
    return sorted(name for name in names if hasattr(_module(name), attribute))


def _module(name: str) -> Any:
    return importlib.import_module(f"{sources.__name__}.{name}")


def source_class(name: str) -> type[EcgSource]:
    """The class that reads the original download of a dataset.

    Raises:
        ValueError: If there is no such source.
    """
    if name not in source_names():
        raise ValueError(f"There is no source '{name}'. Known sources: {', '.join(source_names())}.")
    found: type[EcgSource] = _module(name).SOURCE
    return found


def open_source(name: str, location: str | Path, *, scratch: Path | None = None, **options: Any) -> EcgSource:
    """The original download of a dataset.

    Args:
        name (`str`): One of [`source_names`].
        location (`str` or `Path`): Folder, archive or address, as for [`~hf_ecgtext.data.files.opening.open_tree`].
        scratch (`Path`, *optional*): Folder for what must be copied or unpacked first.
        options: Of the source's class.

    Raises:
        ValueError: If there is no such source, or an option has an impossible value.
        TypeError: If the source takes no such option.
        FileNotFoundError: If nothing is there.
    """
    return source_class(name)(open_tree(location, scratch), **options)


def data_names() -> list[str]:
    """The data that [`open_data`] knows by name."""
    return sorted({*source_names(), *_modules_with("open_data")})


def data_name(data: str) -> str:
    """The name of data that may be given by its place: that of the source a prepared folder was prepared from.

    Raises:
        ValueError, FileNotFoundError: As [`open_data`].
    """
    return data if data in data_names() else read_manifest_at(_prepared_place(data)).name


def open_data(
    name: str, data_dir: str | Path | None = None, *, streaming: bool | None = None, **options: Any
) -> EcgData:
    """Open data by name or place: a prepared dataset, or an original download as it is.

    Args:
        name (`str`): One of [`data_names`]; or a folder of `hf-ecgtext prepare`, its address, or a dataset repository
            of the Hub that holds it.
        data_dir (`str` or `Path`, *optional*): With a name: the original download (folder, archive or address) or the
            folder prepared from it.
        streaming (`bool`, *optional*): Whether records are read from where they are, in constant memory. `False`
            makes an Arrow cache of prepared data first. Only PTB-XL's original download is cached unless asked.
        options: Of the source. For prepared data, they must be those it was prepared with. `bad_records="replace"`
            gives another training record in place of one of the original download that cannot be read, or of one
            without a valid sample, which earlier versions prepared; PTB-XL's cache has `bad_records="skip"`.

    Raises:
        ValueError: If there is no such data, it takes no such option, or was prepared with another one.
        FileNotFoundError: If nothing is there.
    """
    if name not in data_names():
        place = _prepared_place(name)
        if data_dir is not None:
            raise ValueError(f"'{name}' is no name of data, so that data_dir has no meaning. {_known_names()}")
        return _open_prepared(place, streaming is not False, options)
    if data_dir is not None and is_prepared_location(data_dir):
        manifest = read_manifest_at(data_dir)
        if manifest.name != name:
            raise ValueError(f"'{data_dir}' was prepared from {manifest.name}, not from {name}.")
        return _open_prepared(str(data_dir), streaming is not False, options)
    module = _module(name)
    if hasattr(module, "open_data") and not (streaming and hasattr(module, "SOURCE")):
        if streaming:
            raise ValueError(f"The data '{name}' cannot be streamed.")
        data: EcgData = module.open_data(data_dir=data_dir, **options)
        return data
    if data_dir is None:
        raise ValueError(f"{name} needs --data-dir: its original download, or the folder prepared from it.")
    if streaming is False:
        raise ValueError(f"Without streaming, {name} must be prepared first: `hf-ecgtext prepare {name} ...`.")
    return _open_download(name, data_dir, options)


def _known_names() -> str:
    return f"Known data: {', '.join(data_names())}; or a folder, address or Hub repository of prepared data."


def _prepared_place(data: str) -> str:
    """Where prepared data is that was given by place."""
    if is_address(data) or Path(data).is_dir():
        return data
    if _REPOSITORY.fullmatch(data) and not data.startswith("."):
        place = f"hf://datasets/{data}"
        if is_prepared_location(place):
            return place
    raise ValueError(f"There is no data '{data}'. {_known_names()}")


def _open_prepared(place: str, streaming: bool, options: Mapping[str, Any]) -> EcgData:
    manifest = read_manifest_at(place)
    policy, options = _take_policy(options)
    _check_options(manifest, place, options)
    present = [split for split in SPLITS if manifest.splits.get(split)]
    splits: dict[str, EcgRows]
    if streaming:
        splits = {
            split: ParquetEcgDataset(place, split, manifest=manifest, bad_records=policy[split]) for split in present
        }
    else:
        splits = _cached(place, manifest, present, policy)
    counts = {split: len(splits[split]) for split in present}
    return EcgData(
        name=manifest.name,
        revision=_revision(manifest.version, manifest.fingerprint, manifest.source_options, counts),
        tasks=manifest.tasks,
        train=splits.get("train"),
        validation=splits.get("validation"),
        test=splits.get("test"),
    )


def _take_policy(options: Mapping[str, Any]) -> tuple[dict[str, BadRecords], dict[str, Any]]:
    """What each split does about bad records, and the options that are the source's own."""
    rest = dict(options)
    # Labels are read apart from the signals, so only training may see one record in place of another.
    return {**dict.fromkeys(SPLITS, "raise"), "train": rest.pop("bad_records", "raise")}, rest


def _cached(place: str, manifest: Manifest, splits: list[str], policy: Mapping[str, BadRecords]) -> dict[str, EcgRows]:
    from datasets import load_dataset

    root = place if is_address(place) else str(Path(place).absolute())
    files = {split: [f"{root.rstrip('/')}/{shard.file}" for shard in manifest.splits[split]] for split in splits}
    cached = load_dataset("parquet", data_files=files)
    return {split: EcgDataset(cached[split], bad_records=policy[split]) for split in splits}


def _check_options(manifest: Manifest, place: str, options: Mapping[str, Any]) -> None:
    defaults = {}
    if manifest.name in source_names():
        parameters = inspect.signature(source_class(manifest.name)).parameters.values()
        defaults = {option.name: option.default for option in parameters if option.kind is option.KEYWORD_ONLY}
    prepared_with = {**defaults, **manifest.source_options}
    for option, value in options.items():
        if option not in prepared_with:
            raise ValueError(f"{manifest.name} has no option '{option}'; it has: {', '.join(prepared_with) or 'none'}.")
        if prepared_with[option] != value:
            raise ValueError(
                f"'{place}' was prepared with {option}={json.dumps(prepared_with[option])}, not {json.dumps(value)}. "
                f"Prepare {manifest.name} with that option into another folder, or ask for what is there."
            )


def _open_download(name: str, location: str | Path, options: Mapping[str, Any]) -> EcgData:
    policy, options = _take_policy(options)
    source = open_source(name, location, **options)
    records = source.index().records.combine_chunks()
    splits: dict[str, EcgRows] = {}
    for split in SPLITS:
        rows = records.filter(pc.equal(records.column("split"), split))
        if rows.num_rows:
            splits[split] = RawEcgDataset(source, rows, bad_records=policy[split])
    if not splits:
        raise FileNotFoundError(f"'{location}' holds no record of {name}.")
    counts = {split: len(rows) for split, rows in splits.items()}
    return EcgData(
        name=name,
        revision=_revision(source.version, fingerprint(source, records), source.options, counts),
        tasks=source.tasks(),
        train=splits.get("train"),
        validation=splits.get("validation"),
        test=splits.get("test"),
    )


def _revision(version: str, fingerprint: str, options: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    settings = "".join(f", {name} {value}" for name, value in options.items())
    sizes = " / ".join(f"{split} {count}" for split, count in counts.items())
    return f"{version}{settings}, {fingerprint[:16]}, {sizes} records"
