"""One shard of a prepared dataset: records of the index in, a Parquet file and a note beside it out."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from hf_ecgtext.data.bad_records import is_unreadable
from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.prepare.card import open_writer
from hf_ecgtext.data.prepare.equal_recordings import recording_digest
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.store.manifest import ROWS_PER_GROUP
from hf_ecgtext.data.store.schema import SAMPLE_DTYPES, rows_to_table
from hf_ecgtext.errors import PreparationError, RecordError

SOURCE_ROW = "source_row"
"""Column of the index file: the record's row in the source's own order."""

MAX_UNREADABLE_IN_A_ROW = 100
"""Files that are there but cannot be read, one after the other, are no matter of single records any more."""


@dataclass(frozen=True)
class ShardJob:
    """Records of one future shard.

    Args:
        name (`str`): Such as `"train-00003"`.
        split (`str`): Its split.
        start, stop (`int`): Rows of the index file.
    """

    name: str
    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class ShardNote:
    """What is known of a finished shard; its file beside the shard is what makes it count as finished.

    Args:
        records, num_bytes (`int`): Of the Parquet file; there is none where no record could be used.
        xxh3_128 (`str`): Of the file.
        skipped (`list[tuple[int, str, str, str]]`): Row in the source's order, record id, problem and fix.
        digests (`list[str]`): Of each record; see [`~hf_ecgtext.data.prepare.equal_recordings.recording_digest`].
    """

    records: int
    num_bytes: int
    xxh3_128: str
    skipped: list[tuple[int, str, str, str]]
    digests: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Save it, whole or not at all."""
        write_whole(path, json.dumps(asdict(self), ensure_ascii=False))

    @classmethod
    def read(cls, path: Path) -> ShardNote:
        """What [`write`] saved."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**content, "skipped": [tuple(entry) for entry in content["skipped"]]})


class _RowGroup:
    """Up to `ROWS_PER_GROUP` rows; their samples go into one buffer that is used again for the next group.

    New memory for every group costs as much as decoding the samples: the system clears each page first.
    """

    def __init__(self, schema: pa.Schema):
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._ends: list[int] = [0]
        self._buffer: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: dict[str, Any]) -> NDArray[np.uint8]:
        """Copy a row, whose samples need not be kept; returns their bytes, until the group is written."""
        samples: NDArray[Any] = row["samples"]
        start, stop = self._ends[-1], self._ends[-1] + samples.nbytes
        if stop > len(self._buffer):
            if stop > np.iinfo(np.int32).max:
                raise RecordError(
                    row["record_id"],
                    f"it and the {len(self)} records before it have more than 2 GB of samples.",
                    "Cut the recordings into shorter ones.",
                )
            larger = np.empty(max(stop, 2 * len(self._buffer), ROWS_PER_GROUP * samples.nbytes), np.uint8)
            larger[:start] = self._buffer[:start]
            self._buffer = larger
        self._buffer[start:stop].view(SAMPLE_DTYPES[row["sample_type"]]).reshape(samples.shape)[...] = samples
        self._ends.append(stop)
        self._rows.append({**row, "samples": None})
        return self._buffer[start:stop]

    def write(self, writer: pq.ParquetWriter) -> int:
        """Write the rows as one row group and forget them; returns how many they were."""
        if not self._rows:
            return 0
        offsets = pa.py_buffer(np.array(self._ends, np.int32))
        samples = pa.BinaryArray.from_buffers(
            pa.binary(), len(self), [None, offsets, pa.py_buffer(self._buffer[: self._ends[-1]])]
        )
        writer.write_table(rows_to_table(self._rows, self._schema, samples), row_group_size=ROWS_PER_GROUP)
        count = len(self)
        self._rows, self._ends = [], [0]
        return count


class _ChecksummedFile(io.FileIO):
    """A new file that adds its checksum up as it is written: reading it again would take half as long as writing."""

    def __init__(self, path: Path):
        super().__init__(path, "wb")
        self.checksum = xxhash.xxh3_128()

    def write(self, content: Any, /) -> int:
        """Write all of it."""
        view = memoryview(content).cast("B")
        written = 0
        while written < len(view):
            written += super().write(view[written:])
        self.checksum.update(view)
        return written


class ShardWriter:
    """Writes shards in one process.

    Args:
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): Where the records are.
        index_file (`Path`): Arrow file of the source's index in the order of the shards, with `SOURCE_ROW`.
        folder (`Path`): For the shards.
        compression (`str`): `"none"`, `"lz4"` or `"zstd"`.
    """

    def __init__(self, source: EcgSource, index_file: Path, folder: Path, compression: str):
        self.source = source
        self.folder = folder
        self.compression = compression
        self.schema = source.features.arrow_schema
        # Mapped, not read: a worker touches the pages of its own rows alone.
        self._index = pa.ipc.open_file(pa.memory_map(str(index_file))).read_all()
        self._group = _RowGroup(self.schema)
        # Few files at once stay in the processor's cache; far away, all of a group are asked for together.
        self._read_at_once = 8 if isinstance(source.files, LocalTree) else ROWS_PER_GROUP
        self._unreadable_in_a_row = 0

    def write(self, job: ShardJob, on_progress: Callable[[int], None]) -> ShardNote:
        """Write one shard and its note, both whole or not at all.

        Args:
            job ([`ShardJob`]): Which one.
            on_progress (`Callable[[int], None]`): Called with the number of index rows that were worked off since.

        Raises:
            PreparationError: If too many records in a row cannot be read at all.
            OSError: If the shard cannot be written.
        """
        # The process's id: a worker whose parent was killed may still be writing when the next run begins.
        unfinished = self.folder / f"{job.name}.{os.getpid()}.part"
        try:
            note = self._write_groups(unfinished, job, on_progress)
            if note.records:
                unfinished.rename(self.folder / f"{job.name}.parquet")
            else:
                note = ShardNote(0, 0, "", note.skipped)
        finally:
            unfinished.unlink(missing_ok=True)
        note.write(self.folder / f"{job.name}.json")
        return note

    def _write_groups(self, path: Path, job: ShardJob, on_progress: Callable[[int], None]) -> ShardNote:
        skipped: list[tuple[int, str, str, str]] = []
        digests: list[str] = []
        records = 0
        with _ChecksummedFile(path) as file:
            with open_writer(file, self.schema, self.compression) as writer:
                for row in self._rows(job, skipped, on_progress):
                    digests.append(recording_digest(row, self._group.append(row)))
                    if len(self._group) == ROWS_PER_GROUP:
                        records += self._group.write(writer)
                records += self._group.write(writer)
            os.fsync(file.fileno())
            return ShardNote(records, file.tell(), file.checksum.hexdigest(), skipped, digests)

    def _rows(
        self, job: ShardJob, skipped: list[tuple[int, str, str, str]], on_progress: Callable[[int], None]
    ) -> Iterator[dict[str, Any]]:
        """The usable records of a shard; the others are noted in `skipped`."""
        for start in range(job.start, job.stop, ROWS_PER_GROUP):
            part = self._index.slice(start, min(ROWS_PER_GROUP, job.stop - start))
            source_rows = part.column(SOURCE_ROW)
            entries = part.drop_columns([SOURCE_ROW]).to_pylist()
            for number, (entry, outcome) in enumerate(zip(entries, self._read(entries), strict=True)):
                if isinstance(outcome, RecordError):
                    skipped.append((source_rows[number].as_py(), str(entry["record_id"]), outcome.problem, outcome.fix))
                    self._check_source_is_there(outcome)
                else:
                    self._unreadable_in_a_row = 0
                    yield outcome
            on_progress(len(entries))

    def _read(self, entries: list[dict[str, Any]]) -> Iterator[dict[str, Any] | RecordError]:
        for start in range(0, len(entries), self._read_at_once):
            yield from self.source.read(entries[start : start + self._read_at_once])

    def _check_source_is_there(self, error: RecordError) -> None:
        if not is_unreadable(error):
            self._unreadable_in_a_row = 0
            return
        self._unreadable_in_a_row += 1
        if self._unreadable_in_a_row >= MAX_UNREADABLE_IN_A_ROW:
            raise PreparationError(
                f"{MAX_UNREADABLE_IN_A_ROW} records in a row of {self.source.files.location} cannot be read; the last: "
                f"{error} Check disk, network or server."
            )


def write_whole(path: Path, text: str, unfinished_in: Path | None = None) -> None:
    """Write a text file, or leave the old one as it is.

    Args:
        path (`Path`): The file.
        text (`str`): Its content.
        unfinished_in (`Path`, *optional*): Where it is until it is whole; beside the file by default.
    """
    unfinished = (unfinished_in or path.parent) / f"{path.name}.{os.getpid()}.part"
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
