"""What becomes of a record that cannot be used: it is named and stops the work, or another one is read in its place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Literal, get_args

from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

BadRecords = Literal["raise", "replace"]
_MOST_ATTEMPTS = 100
_MOST_UNREADABLE = 3
"""Files that are there but cannot be read, one after the other, are no matter of single records any more."""


class BadRecordPolicy:
    """The policy of one split.

    Args:
        name (`"raise"` or `"replace"`): `"raise"` stops at a record that cannot be used. In its place, `"replace"`
            gives another one of the split, always the same, and logs it once.
        num_records (`int`): Of the split.
        way_out (`str`): What a user can do about such a record beside mending it.
        hopeless (`str`): What to do where even `"replace"` finds no usable record.

    Raises:
        ValueError: If there is no such policy.
    """

    def __init__(self, name: BadRecords, num_records: int, *, way_out: str, hopeless: str):
        if name not in get_args(BadRecords):
            raise ValueError(
                f'bad_records must be "raise" or "replace", not {name!r}. To leave such records out, prepare the data: '
                "`hf-ecgtext prepare` skips and lists them."
            )
        self.name = name
        self._num_records = num_records
        self._way_out = way_out
        self._hopeless = hopeless
        self._replaced: set[int] = set()

    def usable(
        self, position: int, record_id: str, found: Any, read: Callable[[int], Any | RecordError]
    ) -> tuple[int, Any]:
        """Position and content of a record, or those of the one in its place.

        Args:
            position (`int`): Of the record.
            record_id (`str`): Its id, which decides what takes its place.
            found: The record, or the [`~hf_ecgtext.errors.RecordError`] that says why it cannot be used.
            read (`Callable`): Gives the same for another position.

        Raises:
            RecordError: If it cannot be used and may not be replaced, or nothing usable can be found.
        """
        if not isinstance(found, RecordError):
            return position, found
        if self.name == "raise":
            raise RecordError(found.record, found.problem, f"{found.fix} {self._way_out}".strip()) from found
        unreadable = int(is_unreadable(found))
        for attempt in range(_MOST_ATTEMPTS):
            key = f"{record_id}|{attempt}".encode()
            other = int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % self._num_records
            replacement = read(other)
            if not isinstance(replacement, RecordError):
                if position not in self._replaced:
                    self._replaced.add(position)
                    logger.warning("%s In its place: record '%s'.", found, _id_of(replacement))
                return other, replacement
            unreadable = unreadable + 1 if is_unreadable(replacement) else 0
            if unreadable > _MOST_UNREADABLE:  # else a server that is down would be asked for hours
                raise RecordError(
                    found.record,
                    f"{found.problem} Nor can {_MOST_UNREADABLE} others be read that could take its place; the last: "
                    f"{replacement}",
                    "Check disk, network or server.",
                ) from replacement
        raise RecordError(
            found.record,
            f"{found.problem} So were {_MOST_ATTEMPTS} other records that could have been read in its place",
            self._hopeless,
        ) from found


def is_unreadable(error: RecordError) -> bool:
    """Whether a record's files are there but cannot be read: a fault of disk, network or server, gone tomorrow.

    A missing file is a fact about the download, such as a partial one.
    """
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)


def _id_of(record: Any) -> str:
    return str(record["record_id"] if isinstance(record, Mapping) else record.record_id)


def no_valid_sample(record: str) -> RecordError:
    """Why a record cannot be used that has a file, but not one valid sample in it."""
    return RecordError(record, "all samples of all leads are missing.", "Leave it out: there is nothing to repair.")


def for_validation_in_training(validation: Any, train: Any) -> Any:
    """The validation rows as a training reads them: bad ones are replaced if those of its training split are.

    An evaluation asks whose label a signal has, and must not do so; the loss of a training does not ask.

    Args:
        validation, train ([`~hf_ecgtext.data.tasks.EcgRows`], *optional*): Of the same data.
    """
    if validation is None or getattr(train, "bad_records", "raise") == "raise":
        return validation
    return validation.with_bad_records(train.bad_records) if hasattr(validation, "with_bad_records") else validation
