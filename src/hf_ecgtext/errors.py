"""The exceptions that users of this library may want to catch."""

from __future__ import annotations


class EcgTextError(Exception):
    """Base class of every error this library raises on purpose."""


class RecordError(EcgTextError, ValueError):
    """A recording cannot be used as it is.

    Args:
        record (`str`): Path or id of the recording.
        problem (`str`): What is wrong with it.
        fix (`str`): What the user can do about it.
    """

    def __init__(self, record: str, problem: str, fix: str):
        super().__init__(f"Record '{record}': {problem} {fix}")
        self.record = record
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[type[RecordError], tuple[str, str, str]]:
        # The default would call RecordError(message) when the error crosses a process boundary.
        return type(self), (self.record, self.problem, self.fix)


class CheckpointError(EcgTextError, ValueError):
    """A checkpoint does not hold what the model needs, or holds something it must not."""


class ContaminationError(EcgTextError, ValueError):
    """Records to evaluate on, or other records of their patients, were trained on."""


class PreparationError(EcgTextError):
    """A dataset cannot be prepared, or not finished now; what is finished is kept."""


class ShardError(EcgTextError, OSError):
    """A shard of a prepared dataset is not what `prepare` wrote: damaged, cut off, or changed since."""


class ArchiveError(EcgTextError, ValueError):
    """A zip or tar archive cannot be used: it is damaged, encrypted, or holds what no honest download holds."""
