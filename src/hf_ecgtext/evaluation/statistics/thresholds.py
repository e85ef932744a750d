"""Decision thresholds, and the metrics that need one: F1, sensitivity, specificity, precision, accuracy.

A threshold is searched on one split and used on another; searched on the test split itself (defect 6) it gives an
upper bound that nobody could have known. Every metric here has the signature of those in `metrics.py` once
its thresholds are given, so that the bootstrap can call it. The bootstrap keeps the thresholds fixed: its intervals
are those of a reader with a given working point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.metrics import Metric, check_scores_and_targets, check_weights

ThresholdMetric = Literal["f1", "sensitivity", "specificity", "precision", "accuracy"]


def max_f1_thresholds(scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """The score of each class at and above which "positive" gives the highest F1.

    All distinct scores are tried; records with tied scores pass together. Of equally good thresholds the lowest is
    taken.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Larger means more likely; any monotone scale.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.

    Returns:
        `np.ndarray` of shape `(num_classes,)`: NaN where a class has no positive record.

    Raises:
        RecordError: A score is NaN or infinite.
        ValueError: Shapes disagree, or a target is not 0 or 1.
    """
    return _search(_f1_of_counts, scores, targets)


def youden_thresholds(scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """The score of each class at and above which "positive" gives the highest sensitivity + specificity - 1.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Larger means more likely; any monotone scale.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.

    Returns:
        `np.ndarray` of shape `(num_classes,)`: NaN where a class has no positive or no negative record.

    Raises:
        RecordError: A score is NaN or infinite.
        ValueError: Shapes disagree, or a target is not 0 or 1.

    Source: Youden 1950.
    """
    return _search(_youden_of_counts, scores, targets)


def at_thresholds(thresholds: ArrayLike, metric: ThresholdMetric, strict_inequality: bool = False) -> Metric:
    """A metric of the decisions "the score is at least the threshold", with the signature that the bootstrap needs.

    As in `metrics.py`, a class without a positive or without a negative record has no value, so
    that the macro means of all metrics average over the same classes. Precision has none either where nothing is
    called positive.

    Args:
        thresholds (`np.ndarray` of shape `(num_classes,)`): NaN where a class has none; it then has no value.
        metric (`str`): `"f1"`, `"sensitivity"`, `"specificity"`, `"precision"` or `"accuracy"`.
        strict_inequality (`bool`): Decide by "the score is above the threshold". A threshold that is itself a score
            then loses that record, as in the accuracy of MERL's code.

    Returns:
        `Metric`: Its `__name__` is `metric`.
    """
    if metric not in _METRICS:
        raise ValueError(f"There is no threshold metric '{metric}'; choose one of {', '.join(_METRICS)}.")
    limits = np.asarray(thresholds, dtype=np.float64)

    def at_given_thresholds(
        scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        checked_scores, positive = check_scores_and_targets(scores, targets)
        if limits.shape != (positive.shape[1],):
            raise ValueError(f"{limits.shape} thresholds for {positive.shape[1]} classes; give one per class.")
        # Comparisons with NaN are false; such classes are taken out below.
        decided = checked_scores > limits if strict_inequality else checked_scores >= limits
        counts = _confusion(decided, positive, weights)
        defined = ~np.isnan(limits) & (counts.positives > 0) & (counts.negatives > 0)
        numerator, denominator = _METRICS[metric](counts)
        return np.where(defined & (denominator > 0), numerator / np.maximum(denominator, 1), np.nan)

    at_given_thresholds.__name__ = metric
    return at_given_thresholds


@dataclass(frozen=True, eq=False)
class TaskThresholds:
    """Thresholds of every run of an encoder on a task.

    Args:
        values (`np.ndarray` of shape `(num_runs, num_classes)`): NaN where a class has none.
        split (`str`): Where they were searched: `"validation"` or `"test"`.
        classes_without (`tuple[str, ...]`): Classes that have no threshold, because the split has no positive record.
    """

    values: NDArray[np.float64]
    split: str
    classes_without: tuple[str, ...]

    def margins(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Scores minus the thresholds of their run, of shape `(num_runs, num_records, num_classes)`.

        A margin of 0 or more means "positive", so that runs with other thresholds can share one metric. The sign of a
        difference of two floats is exact. Classes without a threshold keep their scores; the metrics leave them out.
        """
        return np.asarray(scores, dtype=np.float64) - np.nan_to_num(self.values, nan=0.0)[:, None, :]

    def metrics(
        self, names: Sequence[ThresholdMetric] = ("f1", "sensitivity", "specificity", "precision", "accuracy")
    ) -> list[Metric]:
        """Metrics of `margins`, for `bootstrap_intervals`.

        Those of thresholds that were searched on the test split decide accuracy by ">", as published.
        """
        at_zero = np.where(np.isnan(self.values).any(axis=0), np.nan, 0.0)
        published = self.split == "test"
        return [at_thresholds(at_zero, name, strict_inequality=published and name == "accuracy") for name in names]

    def details(self, class_names: Sequence[str]) -> dict[str, Any]:
        """JSON values for a result line: the split, each run's thresholds by class, and the classes without one."""
        by_class = {
            name: column.tolist()
            for name, column in zip(class_names, self.values.T, strict=True)
            if name not in self.classes_without
        }
        return {
            "thresholds_from": self.split,
            "thresholds": by_class,
            "classes_without_threshold": list(self.classes_without),
        }


def task_thresholds(
    scores: TaskScores, split: Literal["validation", "test"], criterion: Literal["max_f1", "youden"] = "max_f1"
) -> TaskThresholds:
    """Search thresholds for each run.

    Args:
        scores ([`~hf_ecgtext.evaluation.scores.TaskScores`]): With validation scores unless `split` is `"test"`.
        split (`str`): The switch `thresholds` of the protocol.
        criterion (`str`): `"max_f1"` or `"youden"`.

    Raises:
        ValueError: The scores hold no validation split.
    """
    search = {"max_f1": max_f1_thresholds, "youden": youden_thresholds}[criterion]
    if split == "test":
        runs, targets = scores.scores, scores.targets
    else:
        runs, targets = validation_of(scores, "Thresholds")
    values = np.stack([search(run, targets) for run in runs])
    names = tuple(name for name, column in zip(scores.class_names, values.T, strict=True) if np.isnan(column).any())
    return TaskThresholds(values=values, split=split, classes_without=names)


def validation_of(scores: TaskScores, what: str) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Validation scores and targets.

    Args:
        scores ([`~hf_ecgtext.evaluation.scores.TaskScores`]): Any.
        what (`str`): What needs them, for the message.

    Raises:
        ValueError: There are none.
    """
    if scores.validation_scores is None or scores.validation_targets is None:
        raise ValueError(
            f"{what} of '{scores.task}' come from validation, but the scores of '{scores.checkpoint}' hold none. Give "
            "the data a validation split, or report threshold-free metrics only."
        )
    return scores.validation_scores, scores.validation_targets


@dataclass(frozen=True, eq=False)
class _Confusion:
    """Weighted counts of shape `(num_classes,)` or `(num_resamples, num_classes)`."""

    true_positives: NDArray[np.float64]
    decided: NDArray[np.float64]
    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]

    @property
    def true_negatives(self) -> NDArray[np.float64]:
        return self.negatives - (self.decided - self.true_positives)


_METRICS: dict[str, Callable[[_Confusion], tuple[NDArray[np.float64], NDArray[np.float64]]]] = {
    "f1": lambda counts: (2 * counts.true_positives, counts.decided + counts.positives),
    "sensitivity": lambda counts: (counts.true_positives, counts.positives),
    "specificity": lambda counts: (counts.true_negatives, counts.negatives),
    "precision": lambda counts: (counts.true_positives, counts.decided),
    "accuracy": lambda counts: (counts.true_positives + counts.true_negatives, counts.positives + counts.negatives),
}
"""Numerator and denominator of each metric."""


def _confusion(decided: NDArray[np.bool_], positive: NDArray[np.bool_], weights: ArrayLike | None) -> _Confusion:
    num_records = len(positive)
    # Matrix products in float64 run in BLAS and are exact for counts below 2**53.
    occurrences = np.ones(num_records) if weights is None else check_weights(weights, num_records).astype(np.float64)
    positives = occurrences @ positive.astype(np.float64)
    return _Confusion(
        true_positives=occurrences @ (decided & positive).astype(np.float64),
        decided=occurrences @ decided.astype(np.float64),
        positives=positives,
        negatives=occurrences.sum(axis=-1, keepdims=True) - positives,
    )


def _search(
    quality: Callable[[NDArray, NDArray, int, int], NDArray[np.float64]], scores: ArrayLike, targets: ArrayLike
) -> NDArray[np.float64]:
    """The lowest of each class's distinct scores at which the quality of the counts is highest."""
    checked_scores, positive = check_scores_and_targets(scores, targets)
    thresholds = np.full(positive.shape[1], np.nan)
    for index in range(positive.shape[1]):
        distinct, place = np.unique(checked_scores[:, index], return_inverse=True)
        at_each = np.bincount(place, minlength=len(distinct))
        true_at_each = np.bincount(place, weights=positive[:, index], minlength=len(distinct))
        decided, true = (counts[::-1].cumsum()[::-1] for counts in (at_each, true_at_each))
        values = quality(true, decided, int(positive[:, index].sum()), int((~positive[:, index]).sum()))
        if not np.isnan(values).any():
            thresholds[index] = distinct[values.argmax()]
    return thresholds


def _f1_of_counts(true: NDArray, decided: NDArray, num_positives: int, num_negatives: int) -> NDArray[np.float64]:
    return 2 * true / (decided + num_positives) if num_positives else np.full(len(true), np.nan)


def _youden_of_counts(true: NDArray, decided: NDArray, num_positives: int, num_negatives: int) -> NDArray[np.float64]:
    if not num_positives or not num_negatives:
        return np.full(len(true), np.nan)
    # Sensitivity + specificity - 1 over a common denominator: integers, so that ties are exact.
    return (true * num_negatives - (decided - true) * num_positives) / (num_positives * num_negatives)
