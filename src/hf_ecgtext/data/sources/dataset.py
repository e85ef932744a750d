"""A split of an original download, read as it is: no preparation, and no copy."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from hf_ecgtext.data.bad_records import BadRecordPolicy, BadRecords
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.store.manifest import ROWS_PER_GROUP
from hf_ecgtext.data.store.rows import checked_positions
from hf_ecgtext.data.store.schema import row_to_stored
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

_WAY_OUT = (
    "Or run `hf-ecgtext prepare`, which skips and lists such records, or, for training records, set "
    "bad_records=replace."
)


class RawEcgDataset(TorchDataset):
    """One split of a download, map-style; each batch's files are read when it is asked for.

    Items are those of [`~hf_ecgtext.data.store.dataset.ParquetEcgDataset`].

    Args:
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): The download.
        records (`pyarrow.Table`): The rows of its index that are in the split.
        bad_records (`"raise"` or `"replace"`): What to do about a record that cannot be read or has no valid sample. In
            its place, `"replace"` gives another one of the split, always the same, and logs it.

    Raises:
        ValueError: If there are no records, or `bad_records` is unknown.
    """

    def __init__(self, source: EcgSource, records: pa.Table, *, bad_records: BadRecords = "raise"):
        if not records.num_rows:
            raise ValueError(f"'{source.files.location}' has no record for this split.")
        self.source = source
        self.records = records.combine_chunks()  # rows are taken by index, which is slow where there are many chunks
        self._policy = self._policy_named(bad_records)

    def _policy_named(self, name: BadRecords) -> BadRecordPolicy:
        return BadRecordPolicy(name, len(self), way_out=_WAY_OUT, hopeless="Check that the download is complete.")

    @property
    def bad_records(self) -> BadRecords:
        """`"raise"` or `"replace"`."""
        return self._policy.name

    def with_bad_records(self, bad_records: BadRecords) -> Self:
        """The same rows under another policy."""
        other = copy.copy(self)
        other._policy = self._policy_named(bad_records)
        return other

    @property
    def block_sizes(self) -> NDArray[np.int64]:
        """One for each record: files of their own are read one by one, so that any order is as good as another."""
        return np.ones(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return self.records.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """All items of a batch, whose files are asked for together.

        Raises:
            IndexError: If an index is out of range.
            RecordError: If a record cannot be read and may not be replaced.
        """
        positions = checked_positions(indices, len(self))
        return [
            {"ecg": row_to_stored(row), "index": position}
            for position, row in (self._usable(*found) for found in zip(positions, self._read(positions), strict=True))
        ]

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order: from the download's tables where they have it, else from the records.

        Raises:
            KeyError: If there is no such column.
            RecordError: If records must be read for it, and one cannot be.
        """
        if name not in self.source.features:
            raise KeyError(f"No column '{name}'; there are {list(self.source.features)}.")
        if name in self.records.column_names and self.bad_records == "raise":
            return self.records.column(name).to_pylist()
        if name == "samples":
            raise KeyError("The samples of all records do not fit into memory; ask for records.")
        logger.info("Reading %d records of %s for their '%s'.", len(self), self.source.files.location, name)
        schema = pa.schema([self.source.features.arrow_schema.field(name)])
        values: list[Any] = []
        for start in range(0, len(self), ROWS_PER_GROUP):
            positions = range(start, min(start + ROWS_PER_GROUP, len(self)))
            rows = [self._usable(*found)[1] for found in zip(positions, self._read(positions), strict=True)]
            values.extend(pa.array([row[name] for row in rows], type=schema.field(0).type).to_pylist())
        return values

    def index_column(self, name: str) -> list[Any]:
        """As `column`, but of the records that the tables name, also where others are read in their place."""
        return self.records.column(name).to_pylist() if name in self.records.column_names else self.column(name)

    @property
    def lists_reports(self) -> bool:
        """Whether the download's tables hold the reports, so that no record must be read to know them."""
        return "report" in self.records.column_names

    def unique_reports(self) -> list[str]:
        """The distinct reports in order of first appearance; records without a report are left out."""
        if self.lists_reports:  # replaced or not, all reports are among them
            reports = pc.unique(self.records.column("report")).to_pylist()
        else:
            reports = list(dict.fromkeys(self.column("report")))
        return [report for report in reports if report is not None]

    def _read(self, positions: Sequence[int]) -> list[dict[str, Any] | RecordError]:
        return list(self.source.read(self.records.take(pa.array(positions, pa.int64())).to_pylist()))

    def _usable(self, position: int, found: Mapping[str, Any] | RecordError) -> tuple[int, Mapping[str, Any]]:
        """The record's position and row, or those of the one in its place."""
        record_id = self.records["record_id"][position].as_py()
        return self._policy.usable(position, record_id, found, lambda other: self._read([other])[0])
