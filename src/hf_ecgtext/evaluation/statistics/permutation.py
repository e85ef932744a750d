"""Paired differences of two models that answered the same records: a permutation test, and the interval it agrees with.

The null hypothesis: which of the two models gave an answer does not matter. So all answers about a patient are swapped
between the models with probability one half, and the difference of a ranking metric is computed anew. Two models score
on other scales, and a swap of raw scores would compare the scales; so each model's scores of each class are first
replaced by their ranks among all records (mid-ranks for ties), which leaves every ranking metric as it was.

The interval is the observed difference, plus and minus the smallest difference that the test would call significant: it
leaves out 0 exactly where p is below 1 - confidence. It is a little too wide for large differences, since swapping two
models that differ much moves more than chance does.

Test and interval speak of records, not of trainings: a small p says that other patients would show the same order of
these encoders, not that encoders of other seeds would. For that there is the prediction interval, which adds the
variance between the runs of both.

Source: Bandos, Rockette and Gur 2005 (permutation test for paired ROC areas); Phipson and Smyth 2010 (p is never 0);
Good 2005, chapter 3 (intervals from permutation tests).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.statistics.bootstrap import check_confidence, patient_indices, score_runs
from hf_ecgtext.evaluation.statistics.intervals import Interval
from hf_ecgtext.evaluation.statistics.metrics import (
    HEADLINE_MIN_POSITIVES,
    Metric,
    auroc,
    average_precision,
    macro,
)

# Differences that are equal by algebra may differ in the last bits, and must then count as equal.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class PairedDifference:
    """A metric of A minus that of B, and what it was when patients were swapped at random.

    Args:
        run_values (`np.ndarray` of shape `(num_pairs, num_classes)`): Difference of each pair of runs; NaN for a class
            without positive or negative records.
        permuted (`np.ndarray` of shape `(num_permutations, num_classes)`): The mean over the pairs after each
            permutation.
        num_positives (`np.ndarray` of shape `(num_classes,)`): Positive records.
        is_exhaustive (`bool`): Whether `permuted` holds every permutation once, the identity included; then p values
            are exact shares. Otherwise they are `(1 + as extreme) / (1 + permutations)`.
        confidence (`float`): Coverage of the intervals.
    """

    run_values: NDArray[np.float64]
    permuted: NDArray[np.float64]
    num_positives: NDArray[np.int64]
    is_exhaustive: bool
    confidence: float

    @property
    def values(self) -> NDArray[np.float64]:
        """Mean difference of each class, of shape `(num_classes,)`."""
        return self.run_values.mean(axis=0)

    def p_values(self) -> NDArray[np.float64]:
        """Two-sided p of each class, of shape `(num_classes,)`; NaN where undefined. Not corrected; see `holm`."""
        return permutation_p(self.values, self.permuted, self.is_exhaustive)

    def per_class(self) -> list[Interval]:
        """Difference and interval of each class."""
        return [self._interval(value, column) for value, column in zip(self.values, self.permuted.T, strict=True)]

    def macro(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> Interval:
        """Difference of the macro means over classes with at least so many positive records, with its interval."""
        value = np.float64(macro(self.values, self.num_positives, min_positives))
        return self._interval(value, np.asarray(macro(self.permuted, self.num_positives, min_positives)))

    def macro_p_value(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> float:
        """Two-sided p of that difference; NaN where no class is left."""
        permuted = np.asarray(macro(self.permuted, self.num_positives, min_positives))
        value = np.float64(macro(self.values, self.num_positives, min_positives))
        return float(permutation_p(value, permuted, self.is_exhaustive))

    def macro_runs(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> NDArray[np.float64]:
        """Difference of the macro means of each pair of runs, of shape `(num_pairs,)`."""
        return np.asarray(macro(self.run_values, self.num_positives, min_positives))

    def _interval(self, value: np.float64, permuted: NDArray[np.float64]) -> Interval:
        return permutation_interval(value, permuted, self.is_exhaustive, self.confidence)


def paired_difference(
    scores_a: ArrayLike | Sequence[ArrayLike],
    scores_b: ArrayLike | Sequence[ArrayLike],
    targets: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None,
    metrics: Sequence[Metric] = (auroc, average_precision),
    num_permutations: int = 1999,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """How much better scores A rank the records than scores B.

    Several runs of a model (seeds, draws) are compared by the mean of their metrics. As many runs of A as of B are
    compared run by run, and a patient is swapped in all of them together. Where the numbers differ, runs are repeated
    in turn until they match (one against five: five times the one). Then a model and its repetition are no longer
    exchangeable with several models, so that the test is not exact, but only right for many records.

    Args:
        scores_a (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): One or several runs.
        scores_b (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): One or several runs.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): Whose record each row is; all records of a
            patient are swapped together. `None` takes every record for a patient of its own.
        metrics (`Sequence[Metric]`): Metrics that depend on the order of the scores alone.
        num_permutations (`int`): Random swaps. With so few patients that there are no more swaps than this, every
            one is tried once instead.
        confidence (`float`): Between 0 and 1.
        seed (`int`): Seed of the swaps.

    Returns:
        `dict[str, PairedDifference]`: By name of the metric function.

    Raises:
        RecordError: A score is not finite, or a patient id is missing.
        ValueError: Shapes disagree, or a setting is out of range.
    """
    if num_permutations < 1:
        raise ValueError(f"num_permutations is {num_permutations}; it must be at least 1.")
    check_confidence(confidence)
    runs_a, runs_b = (_mid_ranks(score_runs(scores, targets)) for scores in (scores_a, scores_b))
    num_pairs = math.lcm(len(runs_a), len(runs_b))
    pairs = [(runs_a[pair % len(runs_a)], runs_b[pair % len(runs_b)]) for pair in range(num_pairs)]
    patient_of_record = patient_indices(patient_ids, len(runs_a[0]))
    swaps, is_exhaustive = random_swaps(int(patient_of_record.max()) + 1, num_permutations, seed)
    swapped = swaps[:, patient_of_record]
    return {
        metric.__name__: PairedDifference(
            run_values=np.stack([metric(a, targets) - metric(b, targets) for a, b in pairs]),
            permuted=np.mean([_swapped_differences(metric, a, b, targets, swapped) for a, b in pairs], axis=0),
            num_positives=np.asarray(targets).astype(bool).sum(axis=0),
            is_exhaustive=is_exhaustive,
            confidence=confidence,
        )
        for metric in metrics
    }


def permutation_p(
    values: np.float64 | NDArray[np.float64], permuted: NDArray[np.float64], is_exhaustive: bool
) -> NDArray[np.float64]:
    """Two-sided p of differences.

    Args:
        values (`np.ndarray` of shape `(...)`): Observed.
        permuted (`np.ndarray` of shape `(num_permutations, ...)`): After each permutation.
        is_exhaustive (`bool`): As in [`PairedDifference`].
    """
    num_extreme = (np.abs(permuted) >= np.abs(values) - _ROUNDING).sum(axis=0)
    p = num_extreme / len(permuted) if is_exhaustive else (1 + num_extreme) / (1 + len(permuted))
    return np.where(np.isnan(values), np.nan, p)


def permutation_interval(
    value: np.float64 | float, permuted: NDArray[np.float64], is_exhaustive: bool, confidence: float
) -> Interval:
    """The difference, plus and minus the largest one that [`permutation_p`] does not put below `1 - confidence`.

    Args:
        value (`float`): Observed.
        permuted (`np.ndarray` of shape `(num_permutations,)`): After each permutation.
        is_exhaustive (`bool`): As in [`PairedDifference`].
        confidence (`float`): Such as 0.95.

    Returns:
        [`Interval`]: NaN ends where the value is undefined, or no difference could be significant with so few swaps.
    """
    if np.isnan(value):
        return Interval(float("nan"), float("nan"), float("nan"))
    # p is below alpha where fewer than `not_rare` permuted differences are as large (one fewer where p counts itself).
    total = len(permuted) + (0 if is_exhaustive else 1)
    not_rare = math.ceil((1 - confidence) * total - _ROUNDING) - (0 if is_exhaustive else 1)
    if not_rare < 1:
        return Interval(float(value), float("nan"), float("nan"))
    largest = float(np.sort(np.abs(permuted))[-not_rare]) + _ROUNDING
    return Interval(float(value), float(value) - largest, float(value) + largest)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values of a family of tests: at most a share `alpha` of families has any false claim below `alpha`.

    Args:
        p_values (`np.ndarray` of shape `(num_tests,)`): Between 0 and 1. NaN stands for a test that could not be made;
            it stays NaN and does not count.

    Returns:
        `np.ndarray` of shape `(num_tests,)`: Never below the given ones.

    Raises:
        ValueError: A value lies outside 0 to 1.

    Source: Holm 1979.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if ((given < 0) | (given > 1)).any():
        raise ValueError(f"p values lie between 0 and 1; the family has {given[(given < 0) | (given > 1)].tolist()}.")
    adjusted = np.full(given.shape, np.nan)
    order = np.argsort(given, kind="stable")[: int((~np.isnan(given)).sum())]  # NaN sorts to the end
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1)
    return adjusted


def _mid_ranks(runs: list[NDArray[np.floating]]) -> list[NDArray[np.float64]]:
    from scipy.stats import rankdata

    return [rankdata(run, method="average", axis=0) for run in runs]


def random_swaps(num_patients: int, num_permutations: int, seed: int) -> tuple[NDArray[np.bool_], bool]:
    """Which patients each permutation swaps, of shape `(num_permutations, num_patients)`, and whether these are all."""
    if num_patients < 63 and 2**num_patients <= num_permutations:
        numbers = np.arange(2**num_patients)[:, None]
        return (numbers >> np.arange(num_patients) & 1).astype(bool), True
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size=(num_permutations, num_patients), dtype=np.int8).astype(bool), False


def _swapped_differences(
    metric: Metric,
    ranks_a: NDArray[np.float64],
    ranks_b: NDArray[np.float64],
    targets: ArrayLike,
    swapped: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Metric of A minus metric of B after each permutation, of shape `(num_permutations, num_classes)`.

    What a model answers after a swap is a selection from the answers of both models; so one sort of all answers and a
    weight of 0 or 1 for each serve all permutations.
    """
    answers, truth = np.concatenate([ranks_a, ranks_b]), np.concatenate([targets, targets])
    taken_from_a = np.concatenate([~swapped, swapped], axis=1)
    return metric(answers, truth, taken_from_a) - metric(answers, truth, ~taken_from_a)
