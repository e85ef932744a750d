"""What all splits of stored records have in common: items, columns, and what becomes of records without a signal."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

from torch.utils.data import Dataset as TorchDataset

from hf_ecgtext.data.bad_records import BadRecordPolicy, BadRecords, no_valid_sample
from hf_ecgtext.data.records import StoredEcg, has_valid_sample
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

_WAY_OUT = (
    "`hf-ecgtext prepare` skips and lists such records now: prepare the data again, into a new folder or cache; or, "
    "for training records, set bad_records=replace."
)
_HOPELESS = "Prepare the data again from a complete download."
_READ_AT_ONCE = 64


class StoredRows(TorchDataset):
    """One split of stored records, map-style: items are dicts of `"ecg"` and `"index"`.

    A subclass reads: it implements `__len__`, [`read_stored`] and [`index_column`].
    """

    def set_bad_records(self, bad_records: BadRecords) -> None:
        """What to do about a record without one valid sample; call it once the length is known.

        Args:
            bad_records (`"raise"` or `"replace"`): As in [`~hf_ecgtext.data.bad_records.BadRecordPolicy`].

        Raises:
            ValueError: If there is no such policy.
        """
        self._policy = BadRecordPolicy(bad_records, len(self), way_out=_WAY_OUT, hopeless=_HOPELESS)
        self._replacements: dict[int, int] | None = None

    @property
    def bad_records(self) -> BadRecords:
        """`"raise"` or `"replace"`."""
        return self._policy.name

    def with_bad_records(self, bad_records: BadRecords) -> Self:
        """The same rows under another policy."""
        other = copy.copy(self)
        other.set_bad_records(bad_records)
        return other

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read_stored(self, positions: Sequence[int]) -> list[StoredEcg]:
        """The records at some positions, which are counted from the front."""

    @abstractmethod
    def index_column(self, name: str) -> list[Any]:
        """All values of one column as they are stored, in order, without reading the signals.

        Raises:
            KeyError: If there is no such column.
        """

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """All items of a batch with one look-up; `DataLoader` calls this instead of `__getitem__`.

        Raises:
            IndexError: If an index is out of range.
            OSError: If a file is missing or damaged; the message names it.
            RecordError: If a record has no valid sample and may not be replaced.
        """
        positions = checked_positions(indices, len(self))
        return [
            {"ecg": ecg, "index": place}
            for place, ecg in map(self._usable, positions, self.read_stored(positions))
        ]  # fmt: skip

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order, without reading the signals.

        With `bad_records="replace"`, these are the values of the items; all signals are read once to know them.

        Raises:
            KeyError: If there is no such column.
            OSError: If a file is missing or damaged.
        """
        values = self.index_column(name)
        if self.bad_records == "raise":
            return values
        if self._replacements is None:
            self._replacements = self._find_replacements()
        return [values[self._replacements.get(position, position)] for position in range(len(values))]

    def _find_replacements(self) -> dict[int, int]:
        logger.info("Reading %d records to know which of them others replace.", len(self))
        found: dict[int, int] = {}
        for start in range(0, len(self), _READ_AT_ONCE):
            positions = range(start, min(start + _READ_AT_ONCE, len(self)))
            items = zip(positions, self.__getitems__(positions), strict=True)
            found.update({position: item["index"] for position, item in items if item["index"] != position})
        return found

    def _usable(self, position: int, ecg: StoredEcg) -> tuple[int, StoredEcg]:
        if has_valid_sample(ecg.samples):
            return position, ecg
        return self._policy.usable(position, ecg.record_id, no_valid_sample(ecg.record_id), self._read_one)

    def _read_one(self, position: int) -> StoredEcg | RecordError:
        (ecg,) = self.read_stored([position])
        return ecg if has_valid_sample(ecg.samples) else no_valid_sample(ecg.record_id)


def checked_positions(indices: Iterable[int], size: int) -> list[int]:
    """Indices counted from the front.

    Raises:
        IndexError: If one is out of range.
    """
    positions = [int(index) for index in indices]
    for position in positions:
        if not -size <= position < size:
            raise IndexError(f"There is no record {position}; the split has {size}.")
    return [position % size for position in positions]
