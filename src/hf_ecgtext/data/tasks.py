"""What opened data is, and the questions that can be asked of it; `data.opening` opens it by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


class EcgRows(Protocol):
    """A split as training and evaluation use it, wherever its records are: in a cache, a prepared folder, a download.

    Items are dicts of `"ecg"` ([`~hf_ecgtext.data.records.EcgRecord`] or [`~hf_ecgtext.data.records.StoredEcg`]) and
    `"index"` (`int`). A dataset that has `block_sizes` too, the records of each block on disk in order, is trained on
    in the order of [`~hf_ecgtext.data.store.block_order.BlockOrder`].
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...

    def __getitems__(self, indices: Iterable[int], /) -> list[dict[str, Any]]:
        """All items of a batch."""

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order."""

    def unique_reports(self) -> list[str]:
        """The distinct reports, in order of first appearance."""


@dataclass(frozen=True)
class LabelTask:
    """A multi-label question about recordings.

    Args:
        name (`str`): Such as `"ptbxl_super"`.
        label_column (`str`): Column of the dataset that lists each record's labels.
        class_names (`Mapping[str, str]`): Label to readable name, such as `{"CD": "conduction disturbance"}`.
        class_members (`Mapping[str, tuple[str, ...]]`): For classes that group several statements, their names.
    """

    name: str
    label_column: str
    class_names: Mapping[str, str]
    class_members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(self, dataset: EcgRows) -> NDArray[np.int8]:
        """0/1 targets of shape `(num_records, num_classes)`, columns in the order of `class_names`.

        Raises:
            ValueError: If the dataset holds a label that the task does not name.
        """
        columns = {label: index for index, label in enumerate(self.class_names)}
        targets = np.zeros((len(dataset), len(columns)), dtype=np.int8)
        for row, labels in enumerate(dataset.column(self.label_column)):
            for label in labels:
                if label not in columns:
                    raise ValueError(f"Task '{self.name}' has no class '{label}'; its classes: {', '.join(columns)}.")
                targets[row, columns[label]] = 1
        return targets


@dataclass(frozen=True)
class EcgData:
    """Up to three splits without shared patients, and the tasks that their labels answer.

    Args:
        name (`str`): Name of the data.
        revision (`str`): Version, seed or fingerprint: what makes a result repeatable.
        train, validation, test ([`EcgRows`], *optional*): Rows of records; `None` where the data has no such split.
        tasks (`tuple[LabelTask, ...]`): Zero-shot questions.
        further_tasks (`tuple[LabelTask, ...]`): Others, which are asked only by name.
        unlabelled_take_part (`bool`): Every record was read for all classes, so that one without any of them is a
            negative of each. If not, records without a label of a task stay out of it, as in the published splits.
    """

    name: str
    revision: str
    train: EcgRows | None
    validation: EcgRows | None
    test: EcgRows | None
    tasks: tuple[LabelTask, ...] = field(default=())
    further_tasks: tuple[LabelTask, ...] = field(default=())
    unlabelled_take_part: bool = False

    def split(self, name: str) -> EcgRows:
        """One split.

        Raises:
            ValueError: If the data has no such split.
        """
        rows: EcgRows | None = getattr(self, name)
        if rows is None:
            present = [split for split in SPLITS if getattr(self, split) is not None]
            raise ValueError(f"{self.name} has no {name} split here; it has: {', '.join(present)}.")
        return rows
