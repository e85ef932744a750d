"""What `prepare` will write: decided once, saved in the output folder, and the same whenever it is decided again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hf_ecgtext.data.prepare.shard_writer import SOURCE_ROW, ShardJob, write_whole
from hf_ecgtext.data.sources.base import EcgSource, SourceIndex
from hf_ecgtext.data.sources.options import current_options
from hf_ecgtext.data.store.manifest import ROWS_PER_GROUP, SCHEMA_VERSION
from hf_ecgtext.data.tasks import SPLITS
from hf_ecgtext.errors import PreparationError

Order = Literal["mixed", "source"]
Compression = Literal["none", "lz4", "zstd"]

_PLAN_FILE = "plan.json"
_INDEX_FILE = "index.arrow"


@dataclass(frozen=True)
class Plan:
    """What is written, from which records.

    Args:
        settings (`dict[str, Any]`): Everything that the output depends on, as plain values.
        jobs (`list[ShardJob]`): The shards, in order.
        index ([`~hf_ecgtext.data.sources.base.SourceIndex`]): In the source's order.
        rows (`np.ndarray` of shape `(num_records,)`): Rows of the index in the order of the shards.
    """

    settings: dict[str, Any]
    jobs: list[ShardJob]
    index: SourceIndex
    rows: NDArray[np.int64]

    def save(self, folder: Path) -> None:
        """Write index and plan; a folder without plan has none, whatever else is in it."""
        unfinished = folder / f"{_INDEX_FILE}.part"
        records = self.index.records.append_column(SOURCE_ROW, pa.array(np.arange(len(self.rows)))).take(self.rows)
        try:
            with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, records.schema) as writer:
                writer.write_table(records.combine_chunks(), max_chunksize=2048)
            unfinished.rename(self.index_file(folder))
        finally:
            unfinished.unlink(missing_ok=True)
        write_whole(folder / _PLAN_FILE, json.dumps(self.settings, indent=1, ensure_ascii=False))

    @staticmethod
    def index_file(folder: Path) -> Path:
        """Where the index is, in the order of the shards."""
        return folder / _INDEX_FILE

    @staticmethod
    def saved_settings(folder: Path) -> dict[str, Any] | None:
        """The settings of the plan that a folder holds, if it holds one."""
        path = folder / _PLAN_FILE
        if not path.is_file():
            return None
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return settings


def make_plan(source: EcgSource, *, records_per_shard: int, compression: str, order: str) -> Plan:
    """Read the source's index and cut it into shards.

    Args:
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): Of the download.
        records_per_shard (`int`): Rounded up to whole row groups.
        compression (`str`): `"none"`, `"lz4"` or `"zstd"`.
        order (`str`): Of the train records: `"mixed"`, or `"source"` as the other splits.

    Raises:
        ValueError: If a setting is out of its range, or the index is not what it must be.
        FileNotFoundError: If the download lacks a table.
    """
    if records_per_shard < 1:
        raise ValueError(f"records_per_shard must be positive, not {records_per_shard}.")
    for name, value, values in (
        ("compression", compression, ("none", "lz4", "zstd")),
        ("order", order, ("mixed", "source")),
    ):
        if value not in values:
            raise ValueError(f"{name} must be one of {', '.join(values)}, not '{value}'.")
    records_per_shard = -(-records_per_shard // ROWS_PER_GROUP) * ROWS_PER_GROUP
    index = source.index()
    _check_index(index.records, source)
    jobs: list[ShardJob] = []
    rows: list[NDArray[np.int64]] = []
    first = 0
    for split in SPLITS:
        of_split = np.flatnonzero(pc.equal(index.records.column("split"), split).to_numpy())
        if split == "train" and order == "mixed":
            of_split = of_split[_stable_shuffle(index.records.column("record_id").take(of_split).to_pylist())]
        rows.append(of_split)
        for number, start in enumerate(range(0, len(of_split), records_per_shard)):
            stop = min(start + records_per_shard, len(of_split))
            jobs.append(ShardJob(f"{split}-{number:05d}", split, first + start, first + stop))
        first += len(of_split)
    settings = {
        "schema_version": SCHEMA_VERSION,
        "name": source.name,
        "version": source.version,
        "source_options": source.options,
        "fingerprint": fingerprint(source, index.records),
        "library_version": version("hf-ecgtext"),
        "records_per_shard": records_per_shard,
        "compression": compression,
        "order": order,
    }
    # As they will be read back, so that a tuple among the options does not differ from the list it becomes.
    return Plan(json.loads(json.dumps(settings)), jobs, index, np.concatenate(rows))


def _check_index(records: pa.Table, source: EcgSource) -> None:
    if not len(records):
        raise ValueError(f"{source.files.location} holds no record of {source.title}. Check path and options.")
    ids = records.column("record_id")
    if ids.null_count or pc.count_distinct(ids).as_py() != len(ids):
        counts = pc.value_counts(ids.combine_chunks())
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        named = f"'{twice[0]}' more than once" if len(twice) else "a record without id"
        raise ValueError(f"The tables of {source.title} name {named}. Download them again.")
    unknown = set(pc.unique(records.column("split")).to_pylist()) - set(SPLITS)
    if unknown:
        raise ValueError(f"{source.title} has records in the splits {sorted(map(str, unknown))}, not {list(SPLITS)}.")


def _stable_shuffle(record_ids: Iterable[str]) -> NDArray[np.intp]:
    """An order that depends on nothing but the ids: records of one patient are neighbours in the tables."""
    keys = [hashlib.blake2b(str(record_id).encode(), digest_size=8).digest() for record_id in record_ids]
    return np.argsort(np.frombuffer(b"".join(keys), ">u8"), kind="stable")


def fingerprint(source: EcgSource, records: pa.Table) -> str:
    """A hash of name, version, options, columns and index: equal for equal data, wherever it lies.

    Args:
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): Whose it is.
        records (`pa.Table`): Its index.
    """
    content = hashlib.blake2b(digest_size=16)
    settings = (source.name, source.version, sorted(source.options.items()), str(source.features))
    content.update(repr(settings).encode())
    for name in records.column_names:
        content.update(name.encode())
        # Values, not Arrow's buffers, which may differ for equal tables.
        for chunk in records.select([name]).combine_chunks().to_batches(max_chunksize=4096):
            content.update(repr(chunk.column(0).to_pylist()).encode("utf-8", "surrogatepass"))
    return content.hexdigest()


def check_resumable(saved: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    """Refuse to continue an unfinished preparation with other settings.

    Raises:
        PreparationError: If anything differs.
    """
    differences = _differences(saved, settings)
    if differences:
        raise PreparationError(
            f"'{out}' holds an unfinished preparation of {saved.get('name')} with {differences}. Finish it with these "
            "settings, or remove the folder."
        )


def check_same(prepared: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    """Refuse to take a finished folder for what was asked for, where it is something else.

    Raises:
        PreparationError: If anything differs but the version of this package.
    """
    differences = _differences(prepared, {name: settings[name] for name in prepared})
    if differences:
        raise PreparationError(
            f"'{out}' holds {prepared['name']}, prepared with {differences}. Choose another folder, or remove it."
        )


def _differences(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    there, wanted = _flat(there), _flat(wanted)
    different = [name for name in {**there, **wanted} if there.get(name) != wanted.get(name)]
    if different == ["fingerprint"]:
        return "other records (the tables of the download differ)"
    return ", ".join(
        f"{name}={there.get(name)!r} (now {wanted.get(name)!r})" for name in different if name != "fingerprint"
    )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, **current_options(settings["source_options"]), "source_options": None}


def sync_folder(folder: Path) -> None:
    """Make renames in a folder safe against a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
