"""The validation score that chooses the epoch of a fine-tuning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro
from hf_ecgtext.finetuning import cinc2021
from hf_ecgtext.finetuning.labelled_records import LabelledSplit, LabelProblem, task_part
from hf_ecgtext.finetuning.trainer import Score


def selection_score(problem: LabelProblem, validation: LabelledSplit) -> tuple[str, Score]:
    """The name of the score, and the function from the logits of the validation records.

    It is the macro AUROC over the classes that have both positive and negative records; for PhysioNet/CinC 2021, the
    challenge's score at its best threshold. Of several tasks, it is the mean.

    Raises:
        ValueError: If the score of a task is undefined on its validation records.
    """
    metrics = {_metric_of(task)[0] for task in problem.tasks}

    def score(logits: NDArray[np.float32]) -> float:
        values = []
        for task in problem.tasks:
            records = task.records("validation")
            own = task_part(records, validation.record_ids, logits, problem.columns(task))
            values.append(_metric_of(task)[1](own, task))
        return float(np.mean(values))

    score(np.zeros((len(validation.record_ids), len(problem.labels)), np.float32))  # hours before the first epoch ends
    return " and ".join(sorted(metrics)), score


def _metric_of(task: EvaluatedTask) -> tuple[str, Callable[[NDArray[np.float32], EvaluatedTask], float]]:
    return ("CinC 2021 score", _cinc2021) if task.name == cinc2021.TASK else ("macro AUROC", _macro_auroc)


def _macro_auroc(logits: NDArray[np.float32], task: EvaluatedTask) -> float:
    value = float(macro(auroc(logits, task.records("validation").targets)))
    if np.isnan(value):
        raise ValueError(
            f"No class of task '{task.name}' has both positive and negative records in the validation split of "
            f"{task.data.name}, so that no epoch can be chosen. Give it more records."
        )
    return value


def _cinc2021(logits: NDArray[np.float32], task: EvaluatedTask) -> float:
    return cinc2021.best_threshold(logits, task.records("validation").targets, task.labels)[1]
