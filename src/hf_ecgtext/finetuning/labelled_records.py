"""Labelled records for training: the targets of one or several tasks side by side, and batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from hf_ecgtext.data.random_crops import RandomCrops
from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.tasks import EcgData, EcgRows
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.context import EvaluatedTask, TaskRecords
from hf_ecgtext.evaluation.encoders.feature_cache import canonical_order
from hf_ecgtext.evaluation.encoders.frozen import cut_windows
from hf_ecgtext.finetuning.lead_subsets import restrict_extractor, restrict_leads
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor


@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """The records of a split that take part in one of the tasks at least.

    Args:
        rows ([`SelectedRows`]): In the order of their ids, where the data lie in no blocks on disk.
        record_ids (`tuple[str, ...]`): Of the rows.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): int8, classes of all tasks side by side.
        known (`np.ndarray` of shape `(num_records, num_classes)`): bool; `False` at the classes of tasks in which the
            record does not take part.
    """

    rows: SelectedRows
    record_ids: tuple[str, ...]
    targets: NDArray[np.int8]
    known: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelProblem:
    """One or several tasks on the same data, to be learnt by one network.

    Args:
        tasks (`tuple[EvaluatedTask, ...]`): One or more, all on the same data.

    Raises:
        ValueError: If there is no task, a name occurs twice, or they are on different data.
    """

    tasks: tuple[EvaluatedTask, ...]

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Give one or more tasks, each once, not {names}.")
        if any(task.data is not self.tasks[0].data for task in self.tasks):
            raise ValueError(f"The tasks {', '.join(names)} must be on the same data to be learnt together.")

    @property
    def data(self) -> EcgData:
        """What the tasks are on."""
        return self.tasks[0].data

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One per class: the task's own, or `task/label` where there are several tasks."""
        if len(self.tasks) == 1:
            return self.tasks[0].labels
        return tuple(f"{task.name}/{label}" for task in self.tasks for label in task.labels)

    def columns(self, task: EvaluatedTask) -> slice:
        """Where the classes of a task stand."""
        start = 0
        for other in self.tasks:
            if other is task:
                break
            start += len(other.labels)
        return slice(start, start + len(task.labels))

    def split(self, name: str) -> LabelledSplit:
        """The labelled records of a split.

        Raises:
            ValueError: As [`EvaluatedTask.records`]; or if a task has no record there.
        """
        order, ids = canonical_order(self.data, name)
        targets = np.zeros((len(ids), len(self.labels)), dtype=np.int8)
        known = np.zeros(targets.shape, dtype=bool)
        for task in self.tasks:
            records = task.records(name)
            targets[records.rows, self.columns(task)] = records.targets
            known[records.rows, self.columns(task)] = True
        places = np.flatnonzero(known.any(axis=1))
        rows = self.data.split(name)
        if hasattr(rows, "block_sizes"):  # they are read block by block, in an order that follows the disk
            places = places[np.argsort(order[places])]
        return LabelledSplit(
            SelectedRows.of(rows, order[places]),
            tuple(ids[place] for place in places.tolist()),
            targets[places],
            known[places],
        )


class SelectedRows(TorchDataset):
    """Some rows of a split, in an order of their own.

    Args:
        rows ([`EcgRows`]): All rows.
        positions (`np.ndarray` of shape `(num_selected,)`): int64; which ones.
    """

    def __init__(self, rows: EcgRows, positions: NDArray[np.int64]):
        self.rows = rows
        self.positions = positions

    @classmethod
    def of(cls, rows: EcgRows, positions: NDArray[np.int64]) -> SelectedRows:
        """The rows; as [`SelectedBlocks`] if they lie in blocks, for which the positions must ascend."""
        return (SelectedBlocks if hasattr(rows, "block_sizes") else cls)(rows, positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """All items of a batch."""
        return self.rows.__getitems__(self.positions[list(indices)].tolist())

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order."""
        return self._chosen(self.rows.column(name))

    def index_column(self, name: str) -> list[Any]:
        """As `column`, but of the records that the tables name, also where others are read in their place."""
        return self._chosen(getattr(self.rows, "index_column", self.rows.column)(name))

    def _chosen(self, values: Sequence[Any]) -> list[Any]:
        return [values[position] for position in self.positions.tolist()]


class SelectedBlocks(SelectedRows):
    """The same for rows that lie in blocks on disk."""

    @property
    def block_sizes(self) -> NDArray[np.int64]:
        """How many of the selected rows each block holds; blocks without any are left out."""
        rows: Any = self.rows
        ends = np.cumsum(np.asarray(rows.block_sizes, dtype=np.int64))
        sizes = np.bincount(np.searchsorted(ends, self.positions, side="right"), minlength=len(ends))
        return sizes[sizes > 0].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Preparation:
    """From recordings to the input of a classifier.

    Args:
        extractor ([`~hf_ecgtext.processing.EcgFeatureExtractor`]): Already restricted to the leads.
        leads (`tuple[str, ...]`, *optional*): As in [`~hf_ecgtext.finetuning.lead_subsets.restrict_leads`].
        long_records (`str`): As in [`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`].
    """

    extractor: EcgFeatureExtractor
    leads: tuple[str, ...] | None = None
    long_records: str = "whole"

    @classmethod
    def of(
        cls,
        processor: EcgTextProcessor | EcgFeatureExtractor,
        leads: Sequence[str] | None = None,
        long_records: str = "whole",
    ) -> Preparation:
        """With the feature extractor of a processor, or itself; without leads, those that it names."""
        extractor = processor.feature_extractor if isinstance(processor, EcgTextProcessor) else processor
        if leads is None:
            return cls(extractor, None, long_records)
        return cls(restrict_extractor(extractor, leads), tuple(leads), long_records)

    def windows(self, ecg: AnyEcg) -> list[AnyEcg]:
        """The parts of a recording that a model reads one by one."""
        ecg = ecg if self.leads is None else restrict_leads(ecg, self.leads)
        return cut_windows(ecg, self.extractor.duration_s, self.long_records)

    def training_window(self, ecg: AnyEcg) -> AnyEcg:
        """What training reads of a recording: the part of a longer one that the processor's `crop` says."""
        ecg = ecg if self.leads is None else restrict_leads(ecg, self.leads)
        return (
            ecg if self.long_records == "whole" else cut_windows(ecg, self.extractor.duration_s, self.long_records)[0]
        )


class LabelCollator:
    """Batches of signals with their labels; stored integers stay integers until they are on the device.

    Args:
        preparation ([`Preparation`]): From recordings to input.
        split ([`LabelledSplit`]): Whose rows are collated.

    Attributes:
        crops ([`~hf_ecgtext.data.random_crops.RandomCrops`]): As in [`~hf_ecgtext.training.collator.EcgTextCollator`].
    """

    def __init__(self, preparation: Preparation, split: LabelledSplit):
        self.preparation = preparation
        self._places: Mapping[str, int] = {name: place for place, name in enumerate(split.record_ids)}
        self._targets = torch.from_numpy(split.targets)
        self._known = torch.from_numpy(split.known)
        self.crops = RandomCrops()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Packed signals, `labels` int8 and `label_mask` bool, each of shape `(batch, num_classes)`.

        Raises:
            RecordError: If a record that was read in place of a bad one has no label.
        """
        ecgs = [row["ecg"] for row in rows]
        for ecg in ecgs:
            if ecg.record_id not in self._places:
                raise RecordError(
                    ecg.record_id, "it has no label of the task.", "Do not train with bad_records=replace."
                )
        places = torch.tensor([self._places[ecg.record_id] for ecg in ecgs])
        extractor = self.preparation.extractor
        positions = self.crops.draw(extractor.crop, [ecg.record_id for ecg in ecgs])
        signals = extractor.pack([self.preparation.training_window(ecg) for ecg in ecgs], positions)
        return {**signals, "labels": self._targets[places], "label_mask": self._known[places]}

    def unpack(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with `ecg_values` in place of packed integers, on the device of its tensors."""
        return self.preparation.extractor.unpack(batch)


def task_part(records: TaskRecords, record_ids: Sequence[str], values: NDArray[Any], columns: slice) -> NDArray[Any]:
    """The rows of a task's records and the columns of its classes, out of those of all tasks.

    Args:
        records ([`TaskRecords`]): Of the task.
        record_ids (`Sequence[str]`): Rows of the values.
        values (`np.ndarray` of shape `(num_rows, num_classes)`): Such as logits.
        columns (`slice`): Of the task.
    """
    places = {name: place for place, name in enumerate(record_ids)}
    return values[[places[name] for name in records.record_ids], columns]
