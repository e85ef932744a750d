"""What every evaluation is given and gives: the records of a task, what may be used, and the answers of the encoders.

An evaluation is a function `(EncoderRuns, EvaluatedTask, EvaluationContext) -> EvaluationOutcome`. Records stand in the
order of their ids and classes in the order of their labels, so that no order in a file can change a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, canonical_order
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import NOT_CHECKED, TaskScores
from hf_ecgtext.evaluation.statistics.retrieval_ranks import RetrievalRanks


@dataclass(frozen=True, eq=False)
class TaskRecords:
    """The records of one split that take part in a task: those with at least one of its labels, or all.

    Args:
        rows (`np.ndarray` of shape `(num_records,)`): int64 places in the split's [`SplitFeatures`], ascending.
        record_ids (`tuple[str, ...]`): Ascending.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): int8; columns in the order of the sorted labels.
        patients (`np.ndarray` of shape `(num_records,)`, *optional*): Patient ids; `None` where the data has none.
    """

    rows: NDArray[np.int64]
    record_ids: tuple[str, ...]
    targets: NDArray[np.int8]
    patients: NDArray[np.object_] | None

    def __len__(self) -> int:
        return len(self.record_ids)


@dataclass(frozen=True, eq=False)
class EvaluatedTask:
    """A task on the data that can answer it.

    Args:
        data ([`~hf_ecgtext.data.tasks.EcgData`]): Splits.
        task ([`~hf_ecgtext.data.tasks.LabelTask`]): One of the data's tasks.
    """

    data: EcgData
    task: LabelTask

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of the classes, sorted: the columns of all targets and scores."""
        return tuple(sorted(self.task.class_names))

    @cached_property
    def _splits(self) -> dict[str, TaskRecords]:
        return {}

    def records(self, split: str) -> TaskRecords:
        """The records of a split that take part.

        Raises:
            ValueError: If the data has no such split, none of its records has a label of the task, a record has a
                label that the task does not name, or some records have a patient and others have none.
        """
        if split not in self._splits:
            self._splits[split] = task_records(self.data, self.task, split)
        return self._splits[split]

    def description(self, split: str) -> dict[str, str]:
        """`name`, `revision` and `split` for result lines."""
        return {"name": self.data.name, "revision": self.data.revision, "split": split}


def task_records(data: EcgData, task: LabelTask, split: str) -> TaskRecords:
    """See [`EvaluatedTask.records`]."""
    order, ids = canonical_order(data, split)
    dataset = data.split(split)
    columns = sorted(range(len(task.class_names)), key=list(task.class_names).__getitem__)
    targets = task.targets(dataset)[order][:, columns]
    has_label = targets.any(axis=1)
    takes_part = np.flatnonzero(has_label | data.unlabelled_take_part)
    if not has_label.any():
        raise ValueError(f"No record of {data.name}'s {split} split has a label of task '{task.name}'.")
    record_ids = tuple(ids[row] for row in takes_part.tolist())
    return TaskRecords(
        rows=takes_part,
        record_ids=record_ids,
        targets=targets[takes_part],
        patients=known_patients(data, split, order[takes_part], record_ids),
    )


def known_patients(
    data: EcgData, split: str, rows: NDArray[np.int64], record_ids: Sequence[str]
) -> NDArray[np.object_] | None:
    """The patient of each of some rows of a split, or `None` where the data has no patient ids.

    Raises:
        ValueError: If some records have a patient and others have none.
    """
    column = data.split(split).column("patient_id")
    patients = np.array([column[row] for row in rows.tolist()], dtype=object)
    known = np.array([patient is not None for patient in patients])
    if known.any() and not known.all():
        missing = record_ids[int(np.flatnonzero(~known)[0])]
        raise ValueError(
            f"Record '{missing}' of {data.name}'s {split} split has no patient id, but others have. Give each record "
            "one, so that resamples and draws keep patients together."
        )
    return patients if known.any() else None


@dataclass(frozen=True, eq=False)
class EvaluationOutcome:
    """What one evaluation of one encoder on one task under one protocol gave.

    Args:
        scores (`tuple[TaskScores, ...]`): Answers, from which `harness.summary` makes result lines.
        results (`tuple[EvaluationResult, ...]`): Lines that no scores stand behind, such as those of retrieval.
        ranks (`tuple[RetrievalRanks, ...]`): Places behind the lines of retrieval, for comparisons.
    """

    scores: tuple[TaskScores, ...] = ()
    results: tuple[EvaluationResult, ...] = ()
    ranks: tuple[RetrievalRanks, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationContext:
    """What an evaluation may use.

    Args:
        cache ([`~hf_ecgtext.evaluation.encoders.feature_cache.FeatureCache`]): Features by encoder, data and split.
        protocol ([`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`]): Switches.
        seed (`int`): Of draws and resamples.
        num_resamples (`int`): Bootstrap resamples.
        prompt_sets (`Sequence[str]`): Names or JSON files, for zero-shot questions.
        fractions (`Sequence[float]`): Of the training split, for probes.
        contamination (`str`): What the encoder has seen of the task's test records, for result lines.
        other_tasks (`Mapping[str, EvaluatedTask]`): Tasks on the user's other data, by name, for distribution shift.
    """

    cache: FeatureCache
    protocol: EvaluationProtocol
    seed: int = 0
    num_resamples: int = 1000
    prompt_sets: Sequence[str] = ("plain",)
    fractions: Sequence[float] = (0.01, 0.1, 1.0)
    contamination: str = NOT_CHECKED
    other_tasks: Mapping[str, EvaluatedTask] = field(default_factory=dict)

    def probe_features(
        self, runs: EncoderRuns, task: EvaluatedTask, split: str, name: str = "probe"
    ) -> list[NDArray[np.float32]]:
        """One array of shape `(num_task_records, dim)` per member, of the records of `task.records(split)`."""
        rows = task.records(split).rows
        return [np.asarray(self.cache.features(member, task.data, split).arrays[name][rows]) for member in runs.members]


def scores_of_test(
    runs: EncoderRuns,
    task: EvaluatedTask,
    context: EvaluationContext,
    evaluation: str,
    scores: NDArray[np.float32],
    validation_scores: NDArray[np.float32] | None,
    **more: Any,
) -> TaskScores:
    """Answers of one row of encoders about the test records of a task, with those about its validation records.

    Args:
        runs, task, context: What the evaluation was called with.
        evaluation (`str`): Its name.
        scores (`np.ndarray` of shape `(num_runs, num_records, num_classes)`): Of `task.records("test")`.
        validation_scores (`np.ndarray`, *optional*): Of `task.records("validation")`.
        more: Other fields of [`TaskScores`].
    """
    test = task.records("test")
    return TaskScores(
        evaluation=evaluation,
        task=task.name,
        protocol=context.protocol.name,
        checkpoint=runs.name,
        encoder=runs.kind,
        class_names=task.labels,
        record_ids=test.record_ids,
        targets=test.targets,
        patients=test.patients,
        scores=scores,
        data=task.description("test"),
        validation_targets=None if validation_scores is None else task.records("validation").targets,
        validation_scores=validation_scores,
        seed=runs.seed,
        contamination=context.contamination,
        **more,
    )
