"""Data by name or by place: an original download, read as it is or through a cache, or a prepared folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hf_ecgtext.data.bad_records import BadRecords
from hf_ecgtext.data.files.remote import RemoteTree
from hf_ecgtext.data.prepare.plan import fingerprint
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.sources.by_name import (
    modules_with,
    open_source,
    option_defaults,
    source_class,
    source_module,
    source_names,
)
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.data.sources.options import check_option_names, current_options
from hf_ecgtext.data.store.dataset import ParquetEcgDataset, is_address, is_prepared_location, read_manifest_at
from hf_ecgtext.data.store.manifest import Manifest
from hf_ecgtext.data.store.schema import EcgDataset
from hf_ecgtext.data.tasks import SPLITS, EcgData, EcgRows, LabelTask
from hf_ecgtext.errors import RecordError, ShardError

logger = logging.getLogger(__name__)

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def data_names() -> list[str]:
    """The data that [`open_data`] knows by name."""
    return sorted({*source_names(), *modules_with("open_data")})


def data_name(data: str) -> str:
    """The name of data that may be given by its place: that of the source a prepared folder was prepared from.

    Raises:
        ValueError, FileNotFoundError: As [`open_data`].
    """
    return data if data in data_names() else read_manifest_at(_prepared_place(data)).name


def open_data(
    name: str,
    data_dir: str | Path | None = None,
    *,
    streaming: bool | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> EcgData:
    """Open data by name or place: a prepared dataset, or an original download.

    Args:
        name (`str`): One of [`data_names`]; or a folder of `hf-ecgtext prepare`, its address, or a dataset repository
            of the Hub that holds it.
        data_dir (`str` or `Path`, *optional*): With a name: the original download (folder, archive or address) or the
            folder prepared from it.
        streaming (`bool`, *optional*): Whether records are read from where they are, in constant memory. `False` makes
            an Arrow cache first. By default, only PTB-XL's original download is cached.
        cache_dir (`str` or `Path`, *optional*): Where a cache goes; Hugging Face's cache by default.
        num_proc (`int`, *optional*): Processes that make the cache of a download.
        options: Of the source. For prepared data, they must be those it was prepared with. `bad_records` says what
            happens to records that cannot be used, or hold no valid sample: `"raise"` stops, `"replace"` gives another
            training record in place of one that is read as it is or was prepared by an earlier version, and `"skip"`
            leaves them out of the cache of a download.

    Raises:
        ValueError: If there is no such data, it takes no such option, or was prepared with another one.
        RecordError: If a download is to be cached whose files are not all there, or cannot all be used.
        FileNotFoundError: If nothing is there.
    """
    cache = {key: value for key, value in (("cache_dir", cache_dir), ("num_proc", num_proc)) if value is not None}
    if name not in data_names():
        place = _prepared_place(name)
        if data_dir is not None:
            raise ValueError(f"'{name}' is no name of data, so that data_dir has no meaning. {_known_names()}")
        return _open_prepared(place, streaming is not False, cache, options)
    if data_dir is not None and is_prepared_location(data_dir):
        manifest = read_manifest_at(data_dir)
        if manifest.name != name:
            raise ValueError(f"'{data_dir}' was prepared from {manifest.name}, not from {name}.")
        return _open_prepared(str(data_dir), streaming is not False, cache, options)
    if name not in source_names():
        if streaming:
            raise ValueError(f"The data '{name}' cannot be streamed.")
        data: EcgData = source_module(name).open_data(data_dir=data_dir, **cache, **options)
        return data
    if data_dir is None:
        raise ValueError(f"{name} needs --data-dir: its original download, or the folder prepared from it.")
    return _open_download(name, data_dir, streaming, cache, options)


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


def _open_prepared(place: str, streaming: bool, cache: Mapping[str, Any], options: Mapping[str, Any]) -> EcgData:
    manifest = read_manifest_at(place)
    if manifest.name in source_names() and (
        warning := source_class(manifest.name).warning_about(manifest.source_options)
    ):
        logger.warning("'%s': %s", place, warning)
    policy, options = _take_policy(options)
    _check_options(manifest, place, options)
    _check_cache_settings(cache, {"cache_dir"}, streaming)
    present = [split for split in SPLITS if manifest.splits.get(split)]
    of_split = {**dict.fromkeys(SPLITS, "raise"), "train": policy}
    splits: dict[str, EcgRows]
    if streaming:
        splits = {
            split: ParquetEcgDataset(place, split, manifest=manifest, bad_records=of_split[split]) for split in present
        }
    else:
        splits = _cached_folder(place, manifest, present, of_split, cache)
    return _opened(
        manifest.name, manifest.version, manifest.source_options, manifest.fingerprint, manifest.tasks, splits
    )


def _take_policy(options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What is done about bad records, and the options that are the source's own."""
    rest = dict(options)
    # Labels are read apart from the signals, so only training may see one record in place of another.
    return rest.pop("bad_records", "raise"), rest


def _check_cache_settings(cache: Mapping[str, Any], usable: set[str], streaming: bool) -> None:
    if unused := sorted(set(cache) if streaming else set(cache) - usable):
        raise ValueError(
            f"{', '.join(unused)} has no meaning here: {'no cache is made' if streaming else 'the shards are there'}."
        )


def _cached_folder(
    place: str, manifest: Manifest, splits: list[str], policy: Mapping[str, BadRecords], cache: Mapping[str, Any]
) -> dict[str, EcgRows]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError
    from pyarrow.dataset import ParquetFragmentScanOptions

    settings: dict[str, Any] = {name: str(value) for name, value in cache.items()}
    if is_address(place):
        settings["fragment_scan_options"] = ParquetFragmentScanOptions(page_checksum_verification=True)
    else:
        for split in splits:
            ParquetEcgDataset(place, split, manifest=manifest).verify()
    root = place if is_address(place) else str(Path(place).absolute())
    files = {split: [f"{root.rstrip('/')}/{shard.file}" for shard in manifest.splits[split]] for split in splits}
    try:
        cached = load_dataset("parquet", data_files=files, **settings)
    except DatasetGenerationError as error:  # says only that something happened
        raise ShardError(f"'{place}' cannot be copied into a cache: {error.__cause__ or error}") from error
    return {split: EcgDataset(cached[split], bad_records=policy[split]) for split in splits}


def _check_options(manifest: Manifest, place: str, options: Mapping[str, Any]) -> None:
    defaults = option_defaults(manifest.name) if manifest.name in source_names() else {}
    prepared_with = {**defaults, **current_options(manifest.source_options)}
    options = current_options(options)
    check_option_names(manifest.name, options, prepared_with)
    for option, value in options.items():
        if prepared_with[option] != value:
            raise ValueError(
                f"'{place}' was prepared with {option}={json.dumps(prepared_with[option])}, not {json.dumps(value)}. "
                f"Prepare {manifest.name} with that option into another folder, or ask for what is there."
            )


def _open_download(
    name: str, location: str | Path, streaming: bool | None, cache: Mapping[str, Any], options: Mapping[str, Any]
) -> EcgData:
    policy, options = _take_policy(options)
    if streaming is None:
        streaming = not source_class(name).is_cached
    _check_cache_settings(cache, {"cache_dir", "num_proc"}, streaming)
    splits: dict[str, EcgRows] = {}
    if streaming:
        source = open_source(name, location, **options)
        index = source.index()
        records = index.records.combine_chunks()
        for split in SPLITS:
            rows = records.filter(pc.equal(records.column("split"), split))
            if rows.num_rows:
                splits[split] = RawEcgDataset(source, rows, bad_records=policy if split == "train" else "raise")
    else:
        from hf_ecgtext.data.builders import cached_splits, source_builder

        builder = source_builder(name, location, options, bad_records=policy, cache_dir=cache.get("cache_dir"))
        source, index = builder.config.opened, builder.config.index
        records = index.records
        _check_presence(source, records)
        cached = cached_splits(builder, cache.get("num_proc"))
        splits = {split: EcgDataset(rows) for split, rows in cached.items() if len(rows)}
    if not splits:
        raise FileNotFoundError(f"'{location}' holds no record of {name}.")
    for note in index.notes:
        logger.warning("%s: %s", source.title, note)
    return _opened(name, source.version, source.options, fingerprint(source, records), source.tasks(), splits)


def _check_presence(source: EcgSource, records: pa.Table) -> None:
    """Refuse an incomplete download before any signal is read, where its source can leave records out."""
    # Servers need not say which files they have: there, the first record without files stops the reading.
    if current_options(source.options).get("missing") != "raise" or isinstance(source.files, RemoteTree):
        return
    there = set(source.files.list_files())
    absent: list[tuple[str, str]] = []  # records, each with the first file that it lacks
    for batch in records.to_batches(max_chunksize=4096):
        for entry in batch.to_pylist():
            missing = [path for path in source.files_of(entry) if path not in there]
            if missing:
                absent.append((entry["record_id"], missing[0]))
    if absent:
        record_id, path = absent[0]
        raise RecordError(
            record_id,
            f"its file '{path}' is missing in {source.files.location}, as are files of {len(absent) - 1:,} more of "
            f"the {records.num_rows:,} records.",
            "Download them, or use only the records that are there: missing=skip.",
        )


def _opened(
    name: str,
    version: str,
    options: Mapping[str, Any],
    fingerprint: str,
    tasks: tuple[LabelTask, ...],
    splits: Mapping[str, EcgRows],
) -> EcgData:
    source = source_class(name) if name in source_names() else EcgSource
    counts = {split: len(rows) for split, rows in splits.items()}
    return EcgData(
        name=name,
        revision=source.revision(version, options, fingerprint, counts),
        tasks=tuple(task for task in tasks if task.name not in source.further_tasks),
        further_tasks=tuple(task for task in tasks if task.name in source.further_tasks),
        train=splits.get("train"),
        validation=splits.get("validation"),
        test=splits.get("test"),
        unlabelled_take_part=source.unlabelled_take_part,
    )
