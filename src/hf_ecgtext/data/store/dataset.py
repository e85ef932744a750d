"""A split of a prepared folder, read row group by row group: constant memory, whatever the size."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from hf_ecgtext.data.bad_records import BadRecords
from hf_ecgtext.data.records import StoredEcg
from hf_ecgtext.data.store.block_order import DEFAULT_WINDOW
from hf_ecgtext.data.store.manifest import MANIFEST_FILE, ROWS_PER_GROUP, Manifest, Shard, is_prepared, read_manifest
from hf_ecgtext.data.store.rows import StoredRows
from hf_ecgtext.data.store.schema import ECG_FEATURES, decode_table, row_to_stored
from hf_ecgtext.errors import RecordError

_OPEN_SHARDS = 16
_READ_AHEAD = 2**20  # bytes: the small columns of a row group in one request


def is_address(location: str | Path) -> bool:
    """Whether a location is an address, such as `https://...`, `hf://...` or `s3://...`, and no folder."""
    return "://" in str(location)


def is_prepared_location(location: str | Path) -> bool:
    """Whether a folder or address holds a finished prepared dataset."""
    if not is_address(location):
        return is_prepared(location)
    filesystem, root = url_to_fs(str(location))
    return bool(filesystem.exists(f"{root.rstrip('/')}/{MANIFEST_FILE}"))


def read_manifest_at(location: str | Path) -> Manifest:
    """The manifest of a prepared folder or address.

    Raises:
        FileNotFoundError: If it is not prepared, or not finished.
        ValueError: If the manifest cannot be used.
    """
    if not is_address(location):
        return read_manifest(location)
    filesystem, root = url_to_fs(str(location))
    try:
        content = filesystem.cat_file(f"{root.rstrip('/')}/{MANIFEST_FILE}")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"'{location}' holds no {MANIFEST_FILE}: it is no prepared dataset. Give the address of a folder that "
            "`hf-ecgtext prepare` has written."
        ) from error
    return Manifest.from_json(content.decode("utf-8"), str(location))


def row_group_sizes(num_records: int) -> list[int]:
    """Of a shard: full groups, and what remains."""
    full, rest = divmod(num_records, ROWS_PER_GROUP)
    return [ROWS_PER_GROUP] * full + [rest] * (rest > 0)


class ParquetEcgDataset(StoredRows):
    """One split of a prepared dataset, map-style.

    Items are dicts of `"ecg"` ([`~hf_ecgtext.data.records.StoredEcg`]) and `"index"` (`int`, the position). A whole row
    group is read at once and kept until about `cache_records` newer ones have been read. Any order works; that of
    [`~hf_ecgtext.data.store.block_order.BlockOrder`] reads every row group once. Worker processes open their own
    files.

    Args:
        location (`str` or `Path`): A prepared folder, or its address (`https://`, `s3://`, `hf://datasets/...`).
        split (`str`): One of its splits.
        manifest ([`~hf_ecgtext.data.store.manifest.Manifest`], *optional*): Its manifest, if already read.
        cache_records (`int`): More than the window of the order, by two row groups.
        bad_records (`"raise"` or `"replace"`): What to do about a record without one valid sample, which `prepare`
            skips now but did not always.

    Raises:
        FileNotFoundError: If there is no finished prepared dataset.
        ValueError: If there is no such split, or no such policy.
    """

    def __init__(
        self,
        location: str | Path,
        split: str,
        *,
        manifest: Manifest | None = None,
        cache_records: int = DEFAULT_WINDOW + 2 * ROWS_PER_GROUP,
        bad_records: BadRecords = "raise",
    ):
        manifest = read_manifest_at(location) if manifest is None else manifest
        if not manifest.splits.get(split):
            raise ValueError(f"'{location}' has no split '{split}'; it has {', '.join(manifest.splits)}.")
        # A worker may have another current folder.
        self.location = str(location) if is_address(location) else str(Path(location).absolute())
        self.split = split
        self.shards: list[Shard] = manifest.splits[split]
        self.cache_records = cache_records
        self.block_sizes: list[int] = []
        """Records of each row group, in order."""
        self._place: list[tuple[int, int]] = []  # of each row group: its shard, and its number there
        for number, shard in enumerate(self.shards):
            sizes = row_group_sizes(shard.records)
            self._place.extend((number, group) for group in range(len(sizes)))
            self.block_sizes.extend(sizes)
        self._starts = np.append(0, np.cumsum(self.block_sizes))
        self.set_bad_records(bad_records)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._blocks: OrderedDict[int, list[StoredEcg]] = OrderedDict()
        self._filesystem: tuple[AbstractFileSystem, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Neither open files nor decoded records."""
        state = dict(self.__dict__)
        for name in ("_process", "_files", "_blocks", "_filesystem"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read_stored(self, positions: Sequence[int]) -> list[StoredEcg]:
        """See [`StoredRows`]; each row group is looked up once.

        Raises:
            OSError: If a shard is missing or damaged; the message names it.
        """
        blocks = np.searchsorted(self._starts, positions, side="right") - 1
        # In the order of the batch: where it is the end of one window and the beginning of the next, the row groups of
        # the first are in memory still.
        rows = {block: self._rows(block) for block in dict.fromkeys(blocks.tolist())}
        return [
            rows[block][position - int(self._starts[block])]
            for position, block in zip(positions, blocks.tolist(), strict=True)
        ]

    def index_column(self, name: str) -> list[Any]:
        """See [`StoredRows`].

        Raises:
            KeyError: If there is no such column.
            OSError: If a shard is missing or damaged.
        """
        values: list[Any] = []
        for shard in range(len(self.shards)):
            values.extend(self._column_of(shard, name))
        return values

    def unique_reports(self) -> list[str]:
        """The distinct reports in order of first appearance; records without a report are left out."""
        found: dict[str, None] = {}
        for shard in range(len(self.shards)):  # one shard's at a time in memory
            found.update(dict.fromkeys(report for report in self._column_of(shard, "report") if report is not None))
        return list(found)

    def _column_of(self, shard: int, name: str) -> list[Any]:
        file = self._open(shard)
        if name not in file.schema_arrow.names:
            raise KeyError(f"No column '{name}'; there are {file.schema_arrow.names}.")
        try:
            return file.read(columns=[name], use_threads=False).column(name).to_pylist()
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise self._damaged(shard, str(error)) from error

    def _rows(self, block: int) -> list[StoredEcg]:
        if self._process != os.getpid():  # after a fork, open files belong to the parent
            self._forget()
        rows = self._blocks.get(block)
        if rows is not None:
            self._blocks.move_to_end(block)
            return rows
        shard, group = self._place[block]
        file = self._open(shard)
        try:
            # With threads, a process that stops in the middle of the data may hang at its end.
            table = file.read_row_group(group, use_threads=False)
            rows = [row_to_stored(row) for row in decode_table(table)]
        except (OSError, pa.ArrowException, UnicodeDecodeError, RecordError) as error:
            raise self._damaged(shard, str(error)) from error
        self._blocks[block] = rows
        cached = sum(self.block_sizes[number] for number in self._blocks)
        while cached > self.cache_records and len(self._blocks) > 1:
            oldest, _ = self._blocks.popitem(last=False)
            cached -= self.block_sizes[oldest]
        return rows

    def _open(self, shard: int) -> pq.ParquetFile:
        if self._process != os.getpid():
            self._forget()
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        path = str(PurePosixPath(self.shards[shard].file))
        try:
            if is_address(self.location):
                if self._filesystem is None:
                    self._filesystem = url_to_fs(self.location)
                filesystem, root = self._filesystem
                source = filesystem.open(f"{root.rstrip('/')}/{path}", block_size=_READ_AHEAD, cache_type="readahead")
            else:
                source = os.path.join(self.location, path)
            file = pq.ParquetFile(source, pre_buffer=False, memory_map=True)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"The shard '{path}' is missing in '{self.location}'. Copy it again, or prepare the data again."
            ) from error
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise self._damaged(shard, str(error)) from error
        self._check(shard, file)
        self._files[shard] = file
        if len(self._files) > _OPEN_SHARDS:
            self._files.popitem(last=False)[1].close(force=True)
        return file

    def _check(self, shard: int, file: pq.ParquetFile) -> None:
        found = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        if found != row_group_sizes(self.shards[shard].records):
            raise self._damaged(shard, f"{sum(found)} records, not {self.shards[shard].records} in its row groups")
        absent = [name for name in ECG_FEATURES if name not in file.schema_arrow.names]
        if absent:
            raise self._damaged(shard, f"it lacks the columns {absent}")

    def _damaged(self, shard: int, problem: str) -> OSError:
        told = " ".join(problem.split())
        return OSError(
            f"The shard '{self.shards[shard].file}' in '{self.location}' is damaged ({told}). Copy it again, or "
            "prepare the data again."
        )
