"""A split of a prepared folder, read row group by row group: constant memory, whatever the size."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from hf_ecgtext.data.store.verification import FileState, verified_state
from hf_ecgtext.errors import RecordError, ShardError

_OPEN_SHARDS = 16
_READ_AT_ONCE = 2**18  # bytes of a column: what is copied on is still in the processor's cache
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
        self.name, self.split = manifest.name, split
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
        self._files: OrderedDict[int, tuple[pq.ParquetFile, FileState | None]] = OrderedDict()
        self._blocks: OrderedDict[int, list[StoredEcg]] = OrderedDict()
        self._filesystem: AbstractFileSystem | None = None

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
            FileNotFoundError: If a shard is missing.
            ShardError: If a shard is damaged, or changed since it was opened; the message names it.
        """
        blocks = np.searchsorted(self._starts, positions, side="right") - 1
        # In the order of the batch: where it is the end of one window and the beginning of the next, the row groups of
        # the first are in memory still.
        rows = {block: self._rows(block) for block in dict.fromkeys(blocks.tolist())}
        return [
            rows[block][position - int(self._starts[block])]
            for position, block in zip(positions, blocks.tolist(), strict=True)
        ]

    def verify(self) -> None:
        """Verify every shard on this machine now, not when it is first read.

        Raises:
            FileNotFoundError: If a shard is missing.
            ShardError: If a shard is damaged.
        """
        for shard in range(len(self.shards)):
            with self._opened(shard):
                pass

    def index_column(self, name: str) -> list[Any]:
        """See [`StoredRows`].

        Raises:
            KeyError: If there is no such column.
            FileNotFoundError: If a shard is missing.
            ShardError: If a shard is damaged, or changed since it was opened.
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
        with self._opened(shard) as file:
            if name not in file.schema_arrow.names:
                raise KeyError(f"No column '{name}'; there are {file.schema_arrow.names}.")
            table = file.read(columns=[name], use_threads=False)
        with self._damage_named(shard):
            values: list[Any] = table.column(name).to_pylist()
        return values

    def _rows(self, block: int) -> list[StoredEcg]:
        if self._process != os.getpid():  # after a fork, open files belong to the parent
            self._forget()
        rows = self._blocks.get(block)
        if rows is not None:
            self._blocks.move_to_end(block)
            return rows
        shard, group = self._place[block]
        with self._opened(shard) as file:
            # With threads, a process that stops in the middle of the data may hang at its end.
            table = file.read_row_group(group, use_threads=False)
        with self._damage_named(shard):
            rows = [row_to_stored(row) for row in decode_table(table)]
        self._blocks[block] = rows
        cached = sum(self.block_sizes[number] for number in self._blocks)
        while cached > self.cache_records and len(self._blocks) > 1:
            oldest, _ = self._blocks.popitem(last=False)
            cached -= self.block_sizes[oldest]
        return rows

    @contextmanager
    def _opened(self, shard: int) -> Iterator[pq.ParquetFile]:
        """A verified shard; what was read of it in this context may be used behind it, where nothing changed."""
        if self._process != os.getpid():
            self._forget()
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            with self._damage_named(shard):
                self._files[shard] = self._open(shard)
            if len(self._files) > _OPEN_SHARDS:
                self._files.popitem(last=False)[1][0].close(force=True)
        file, state = self._files[shard]
        with self._damage_named(shard):
            yield file
            if state is not None and FileState.of(self._path(shard)) != state:
                raise ShardError("it was changed after it was opened")

    def _path(self, shard: int) -> str:
        separator = "/" if is_address(self.location) else os.sep
        return f"{self.location.rstrip('/')}{separator}{PurePosixPath(self.shards[shard].file)}"

    def _open(self, shard: int) -> tuple[pq.ParquetFile, FileState | None]:
        path = self._path(shard)
        if is_address(self.location):
            if self._filesystem is None:
                self._filesystem = url_to_fs(self.location)[0]
            source = self._filesystem.open(path, block_size=_READ_AHEAD, cache_type="readahead")
            # The whole file is not here to be compared.
            file, state = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True), None
        else:
            state = verified_state(path, self.shards[shard].xxh3_128)
            file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AT_ONCE)
        found = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        if found != row_group_sizes(self.shards[shard].records):
            raise ShardError(f"{sum(found)} records, not {self.shards[shard].records} in its row groups")
        absent = [name for name in ECG_FEATURES if name not in file.schema_arrow.names]
        if absent:
            raise ShardError(f"it lacks the columns {absent}")
        return file, state

    @contextmanager
    def _damage_named(self, shard: int) -> Iterator[None]:
        """Errors of reading and decoding as one of ours, which says which shard it is and what to do."""
        file, place = f"The shard '{self.shards[shard].file}'", f"in '{self.location}'"
        advice = (
            f"Copy it again, or prepare the data again, into a new folder (`hf-ecgtext prepare {self.name} --help`)."
        )
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{file} is missing {place}. {advice}") from error
        except (OSError, pa.ArrowException, UnicodeDecodeError, RecordError) as error:
            # Once it is whole again, it must be opened and verified anew.
            if shard in self._files:
                self._files.pop(shard)[0].close(force=True)
            told = " ".join(str(error).split())
            raise ShardError(f"{file} {place} is damaged ({told}). {advice}") from error
