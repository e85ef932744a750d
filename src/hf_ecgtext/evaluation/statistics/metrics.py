"""Multi-label ranking metrics and single-label arg-max metrics, per class, with optional record weights.

Every metric takes `scores` and `targets` of shape `(num_records, num_classes)` and `weights` that say how often each
record occurs. A bootstrap resample is such a weight vector, so that 1,000 resamples cost one sort per class. A class
without a positive or without a negative record has no value: it is NaN, never 0 or 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.errors import RecordError

HEADLINE_MIN_POSITIVES = 5
"""The headline of a task averages over classes with at least so many positive records; its interval holds there."""

FREQUENT_CLASS_MIN_POSITIVES = 20
"""A class with fewer positive records than this says little alone (docs/protocols.md, defect 8)."""

# One block of resamples: a few hundred kB stay in the L2 cache, which measured faster than one large block.
_BLOCK_ELEMENTS = 200_000


class Metric(Protocol):
    """A per-class metric of this module, such as `auroc`, as the bootstrap calls it."""

    __name__: str

    def __call__(self, scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
        """Values of shape `(num_classes,)`, or `(num_resamples, num_classes)` for two-dimensional weights."""
        ...


def auroc(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Area under the ROC curve of each class: the probability that a positive record outscores a negative one.

    A tie between a positive and a negative counts one half (mid-rank), as the trapezoidal rule does.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Larger means more likely; any monotone scale.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        weights (`np.ndarray` of shape `(num_records,)` or `(num_resamples, num_records)`, *optional*): Integers, how
            often each record occurs. Equal to repeating the rows.

    Returns:
        `np.ndarray` of shape `(num_classes,)` or `(num_resamples, num_classes)`: float64; NaN where a class has no
        positive or no negative record.

    Raises:
        RecordError: A score is NaN or infinite.
        ValueError: Shapes disagree, a target is not 0 or 1, or a weight is not a non-negative integer.

    Source: Mann-Whitney U statistic; equals `sklearn.metrics.roc_auc_score` per class.
    """
    return _per_class(_block_auroc, scores, targets, weights)


def average_precision(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Average precision of each class: the precision at the threshold of each positive record, averaged over them.

    Records with tied scores pass the threshold together. There is no interpolation between thresholds.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Larger means more likely; any monotone scale.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        weights (`np.ndarray` of shape `(num_records,)` or `(num_resamples, num_records)`, *optional*): Integers, how
            often each record occurs. Equal to repeating the rows.

    Returns:
        `np.ndarray` of shape `(num_classes,)` or `(num_resamples, num_classes)`: float64; NaN where a class has no
        positive or no negative record.

    Raises:
        RecordError: A score is NaN or infinite.
        ValueError: Shapes disagree, a target is not 0 or 1, or a weight is not a non-negative integer.

    Source: the definition of `sklearn.metrics.average_precision_score`, which however gives 0 for a class without
        positives and 1 for a class without negatives.
    """
    return _per_class(_block_average_precision, scores, targets, weights)


def macro(
    values: ArrayLike, num_positives: ArrayLike | None = None, min_positives: int = 1
) -> np.float64 | NDArray[np.float64]:
    """Mean over the classes that have a value.

    Args:
        values (`np.ndarray` of shape `(..., num_classes)`): Per-class values; NaN where undefined.
        num_positives (`np.ndarray` of shape `(num_classes,)`, *optional*): Positive records of each class; needed when
            `min_positives` is above 1.
        min_positives (`int`): Classes with fewer positive records are left out.

    Returns:
        `float` or `np.ndarray` of shape `(...)`: NaN where no class is left.
    """
    per_class = np.asarray(values, dtype=np.float64)
    if num_positives is None and min_positives > 1:
        raise ValueError("macro(min_positives > 1) needs num_positives, the number of positive records of each class.")
    counted = ~np.isnan(per_class)
    if num_positives is not None:
        counted &= np.asarray(num_positives) >= min_positives
    num_counted = counted.sum(axis=-1)
    total = np.where(counted, per_class, 0.0).sum(axis=-1)
    mean = np.where(num_counted > 0, total / np.maximum(num_counted, 1), np.nan)
    return mean if mean.ndim else np.float64(mean)


def single_label_records(targets: ArrayLike) -> NDArray[np.bool_]:
    """Which records have exactly one positive class, the only ones on which arg-max metrics are defined.

    Args:
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.

    Returns:
        `np.ndarray` of shape `(num_records,)`: bool.

    Source: ETP (arXiv 2309.07145) evaluates on single-label records only.
    """
    return np.asarray(targets).sum(axis=1) == 1


def top1_accuracy(
    scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
) -> np.float64 | NDArray[np.float64]:
    """Share of records whose highest score is at their one true class. Of tied scores the first class wins.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Comparable across classes.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): Exactly one 1 per row.
        weights (`np.ndarray` of shape `(num_records,)` or `(num_resamples, num_records)`, *optional*): Integers.

    Returns:
        `float` or `np.ndarray` of shape `(num_resamples,)`.
    """
    counts = _confusion_counts(scores, targets, weights)
    return counts.true_positives.sum(axis=-1) / counts.num_records[..., 0]


def top1_class_accuracy(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """One-vs-rest accuracy of the arg-max class, per class. Dominated by the negatives of a rare class.

    Arguments as in `top1_accuracy`.

    Returns:
        `np.ndarray` of shape `(num_classes,)` or `(num_resamples, num_classes)`: NaN for absent classes.

    Source: ETP (arXiv 2309.07145), the column "ACC".
    """
    counts = _confusion_counts(scores, targets, weights)
    num_wrong = counts.num_predicted + counts.num_positives - 2 * counts.true_positives
    return np.where(counts.num_positives > 0, 1 - num_wrong / counts.num_records, np.nan)


def top1_f1(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """F1 of the arg-max class against the rest, per class; no threshold is searched.

    Arguments as in `top1_accuracy`.

    Returns:
        `np.ndarray` of shape `(num_classes,)` or `(num_resamples, num_classes)`: NaN for absent classes.

    Source: ETP (arXiv 2309.07145), the column "F1".
    """
    counts = _confusion_counts(scores, targets, weights)
    size = np.maximum(counts.num_predicted + counts.num_positives, 1)
    return np.where(counts.num_positives > 0, 2 * counts.true_positives / size, np.nan)


@dataclass(frozen=True, eq=False)
class _ConfusionCounts:
    """Weighted counts, each of shape `(num_classes,)` or `(num_resamples, num_classes)`; the last ends in 1."""

    true_positives: NDArray[Any]
    num_predicted: NDArray[Any]
    num_positives: NDArray[Any]
    num_records: NDArray[Any]


def _confusion_counts(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None) -> _ConfusionCounts:
    checked_scores, positive = check_scores_and_targets(scores, targets)
    labels_per_record = positive.sum(axis=1)
    if (labels_per_record != 1).any():
        row = int(np.flatnonzero(labels_per_record != 1)[0])
        raise RecordError(
            f"row {row}",
            f"has {labels_per_record[row]} positive classes, but arg-max metrics need exactly one.",
            "Select rows with single_label_records(targets).",
        )
    num_records, num_classes = positive.shape
    occurrences = np.ones(num_records, dtype=np.int64) if weights is None else check_weights(weights, num_records)
    predicted = np.eye(num_classes, dtype=bool)[checked_scores.argmax(axis=1)]
    # float64 matrix products run in BLAS and are exact for counts below 2**53.
    counts = occurrences.astype(np.float64)
    return _ConfusionCounts(
        true_positives=counts @ (predicted & positive).astype(np.float64),
        num_predicted=counts @ predicted.astype(np.float64),
        num_positives=counts @ positive.astype(np.float64),
        num_records=counts.sum(axis=-1, keepdims=True),
    )


def check_scores_and_targets(scores: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Scores as a floating array and targets as booleans, or an error that names the row.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Finite.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.

    Raises:
        RecordError: A score is NaN or infinite.
        ValueError: Shapes disagree, there is no record, or a target is not 0 or 1.
    """
    score_array, target_array = np.asarray(scores), np.asarray(targets)
    if not np.issubdtype(score_array.dtype, np.floating):
        score_array = score_array.astype(np.float64)
    if score_array.ndim != 2 or score_array.shape != target_array.shape:
        raise ValueError(
            f"scores have shape {score_array.shape} and targets {target_array.shape}; both must be "
            "(num_records, num_classes)."
        )
    if score_array.shape[0] == 0:
        raise ValueError("scores and targets hold no record.")
    finite = np.isfinite(score_array)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise RecordError(
            f"row {row}",
            f"the score of class {column} is {score_array[row, column]}.",
            "Scores must be finite: look for NaN samples in the recording or a diverged checkpoint.",
        )
    if not np.isin(target_array, (0, 1)).all():
        row, column = np.argwhere(~np.isin(target_array, (0, 1)))[0]
        raise ValueError(f"Target of row {row}, class {column} is {target_array[row, column]}; targets are 0 or 1.")
    return score_array, target_array.astype(bool)


def check_weights(weights: ArrayLike, num_records: int) -> NDArray[np.integer]:
    """Weights as integers of shape `(num_records,)` or `(num_resamples, num_records)`, or an error."""
    array = np.asarray(weights)
    if array.ndim not in (1, 2) or array.shape[-1] != num_records:
        raise ValueError(
            f"weights have shape {array.shape}; expected ({num_records},) or (num_resamples, {num_records})."
        )
    if array.dtype.kind not in "iub":
        raise ValueError(f"weights have dtype {array.dtype}; they count how often a record occurs, so use integers.")
    if array.size and array.min() < 0:
        raise ValueError("weights must not be negative: they count how often a record occurs.")
    return array


@dataclass(frozen=True, eq=False)
class _Ranking:
    """One class's records in ascending order of score.

    Args:
        order (`np.ndarray` of shape `(num_records,)`): Indices that sort the scores.
        positive (`np.ndarray` of shape `(num_records,)`): int32 targets in that order.
        positions (`np.ndarray` of shape `(num_positives,)`): Where the positives stand in that order.
        tie_start, tie_end (`np.ndarray` of shape `(num_positives,)`): Half-open range of the records that share the
            score of each positive.
    """

    order: NDArray[np.intp]
    positive: NDArray[np.int32]
    positions: NDArray[np.intp]
    tie_start: NDArray[np.intp]
    tie_end: NDArray[np.intp]


def _rank(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> _Ranking:
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    positions = np.flatnonzero(positive[order])
    return _Ranking(
        order=order,
        positive=positive[order].astype(np.int32),
        positions=positions,
        tie_start=np.searchsorted(ascending, ascending[positions], side="left"),
        tie_end=np.searchsorted(ascending, ascending[positions], side="right"),
    )


def _per_class(
    block_metric: Callable[[_Ranking, NDArray[np.int32]], NDArray[np.float64]],
    scores: ArrayLike,
    targets: ArrayLike,
    weights: ArrayLike | None,
) -> NDArray[np.float64]:
    """Evaluate a metric class by class, on blocks of resamples of bounded size."""
    checked_scores, positive = check_scores_and_targets(scores, targets)
    num_records, num_classes = positive.shape
    occurrences = np.ones(num_records, dtype=np.int32) if weights is None else check_weights(weights, num_records)
    resamples = np.atleast_2d(occurrences)
    values = np.empty((len(resamples), num_classes))
    rankings = [_rank(checked_scores[:, index], positive[:, index]) for index in range(num_classes)]
    block_size = max(1, _BLOCK_ELEMENTS // num_records)
    for start in range(0, len(resamples), block_size):
        # Sums of counts stay exact in int32 below 2**31 records, and int32 moves half the memory of int64.
        block = resamples[start : start + block_size].astype(np.int32, copy=False)
        for index, ranking in enumerate(rankings):
            values[start : start + block_size, index] = block_metric(ranking, block)
    return values[0] if occurrences.ndim == 1 else values


def _counts_below(counts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Cumulative sum with a leading zero: entry `i` counts the records before place `i`; shape `(block, n + 1)`."""
    below = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int32)
    np.cumsum(counts, axis=1, dtype=np.int32, out=below[:, 1:])
    return below


def _block_auroc(ranking: _Ranking, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    sorted_weights = np.take(weights, ranking.order, axis=1)  # (block, num_records)
    positives = sorted_weights[:, ranking.positions].astype(np.float64)  # (block, num_positives)
    below = _counts_below(sorted_weights * (1 - ranking.positive))
    # Twice the mid-rank: negatives strictly below plus negatives below or tied.
    twice_outscored = below[:, ranking.tie_start] + below[:, ranking.tie_end].astype(np.float64)
    num_positives = positives.sum(axis=1)
    num_pairs = num_positives * below[:, -1]
    wins = np.einsum("rp,rp->r", positives, twice_outscored) / 2
    return np.where(num_pairs > 0, wins / np.maximum(num_pairs, 1), np.nan)


def _block_average_precision(ranking: _Ranking, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    sorted_weights = np.take(weights, ranking.order, axis=1)  # (block, num_records)
    positives = sorted_weights[:, ranking.positions].astype(np.float64)  # (block, num_positives)
    all_below = _counts_below(sorted_weights)
    positives_below = _counts_below(sorted_weights * ranking.positive)
    # A record passes the threshold of a positive if it scores at least as high.
    num_passing = all_below[:, -1:] - all_below[:, ranking.tie_start]
    num_true = positives_below[:, -1:] - positives_below[:, ranking.tie_start]
    precision = num_true / np.maximum(num_passing, 1)  # nobody passes only where the positive itself has weight 0
    num_positives = positives_below[:, -1]
    defined = (num_positives > 0) & (num_positives < all_below[:, -1])
    total = np.einsum("rp,rp->r", positives, precision)
    return np.where(defined, total / np.maximum(num_positives, 1), np.nan)
