"""Confidence intervals by a bootstrap over patients, stratified by label.

A resample draws patients with replacement and takes all records of each, because records of one patient are not
independent. Patients are drawn within strata, because a plain draw loses the classes that few patients have:

    stratum of a patient = the rarest class among the positive labels of all their records,
    counted in patients; ties go to the first class; patients without any label form a stratum of their own.

Each stratum keeps its number of patients in every resample. So the class that is rarest of all keeps its exact number
of positive patients, and a class can only vanish where all its patients also have a rarer one (or an equally rare one
that comes first). Such resamples are counted, never dropped in silence.

Rare classes keep two weaknesses. Their intervals are too narrow, because a resample cannot show patients that were
never recorded: of 1,000 simulated test sets (`benchmarks/bootstrap.py --coverage`), the 95 % interval of AUROC held the
truth in 93 to 95 % with 30 or more positive patients, in 88 % with 12 and in 80 % with 6. And average precision is
biased upwards in resamples, because a positive that is drawn twice supports itself. So report the macro over frequent
classes beside the macro over all.

Source: docs/protocols.md, defects 8 (rare labels) and 9 (no intervals);
Efron and Tibshirani 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics.metrics import Metric, auroc, average_precision, check_scores_and_targets, macro

_MIN_RESAMPLES_PER_RUN = 100


class Interval(NamedTuple):
    """A value with its percentile interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class BootstrapDistribution:
    """What a metric is on the test set, and what it was in each resample.

    Args:
        values (`np.ndarray` of shape `(num_classes,)`): On the test set itself; the mean over the score arrays where
            several were given.
        resamples (`np.ndarray` of shape `(num_score_arrays * num_resamples, num_classes)`): NaN where a class had no
            positive or no negative record.
        num_positives (`np.ndarray` of shape `(num_classes,)`): Positive records on the test set.
        num_positive_patients (`np.ndarray` of shape `(num_classes,)`): Patients with a positive record.
        confidence (`float`): Coverage of the intervals, such as 0.95.
    """

    values: NDArray[np.float64]
    resamples: NDArray[np.float64]
    num_positives: NDArray[np.int64]
    num_positive_patients: NDArray[np.int64]
    confidence: float

    @property
    def num_undefined(self) -> NDArray[np.int64]:
        """Resamples in which each class had no value, of shape `(num_classes,)`; its interval leaves them out."""
        return np.isnan(self.resamples).sum(axis=0)

    def per_class(self) -> list[Interval]:
        """Value and percentile interval of each class, over the resamples in which the class has a value.

        A class with a single positive patient has no interval (NaN): all its resamples hold the same positive.
        """
        intervals = [
            _interval(value, column, self.confidence)
            for value, column in zip(self.values, self.resamples.T, strict=True)
        ]
        return [
            interval if num_patients > 1 else Interval(interval.value, float("nan"), float("nan"))
            for interval, num_patients in zip(intervals, self.num_positive_patients, strict=True)
        ]

    def macro(self, min_positives: int = 1) -> Interval:
        """Mean over classes, with interval.

        A resample in which a class has no value averages over its other classes; `num_undefined` tells how often.

        Args:
            min_positives (`int`): Leave out classes with fewer positive records on the test set.
        """
        value = float(macro(self.values, self.num_positives, min_positives))
        return _interval(value, self.macro_resamples(min_positives), self.confidence)

    def macro_resamples(self, min_positives: int = 1) -> NDArray[np.float64]:
        """The macro value of each resample, of shape `(num_score_arrays * num_resamples,)`."""
        return np.asarray(macro(self.resamples, self.num_positives, min_positives))


@dataclass(frozen=True, eq=False)
class PairedDifference(BootstrapDistribution):
    """Metric of scores A minus metric of scores B, on the same resamples."""

    def share_not_above_zero(self) -> NDArray[np.float64]:
        """Share of resamples in which A is not better than B, of shape `(num_classes,)`; NaN where undefined."""
        return np.array([_share_not_above_zero(column) for column in self.resamples.T])

    def macro_share_not_above_zero(self, min_positives: int = 1) -> float:
        """Share of resamples in which the macro value of A is not better than that of B."""
        return _share_not_above_zero(self.macro_resamples(min_positives))


def bootstrap_intervals(
    scores: ArrayLike | Sequence[ArrayLike],
    targets: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None,
    metrics: Sequence[Metric] = (auroc, average_precision),
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, BootstrapDistribution]:
    """Per-class and macro percentile intervals from a patient-clustered, label-stratified bootstrap.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): Several arrays are repeated
            runs, such as random encoders of several seeds: the value is their mean, and the interval pools all their
            resamples, so that it spans what one run may give.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): Whose record each row is. `None` states that the
            dataset has no patient ids (CPSC2018) and takes every record for a patient of its own.
        metrics (`Sequence[Metric]`): Functions of `hf_ecgtext.evaluation.statistics.metrics`.
        num_resamples (`int`): Resamples per score array.
        confidence (`float`): Between 0 and 1.
        seed (`int`): Seed of the resamples.

    Returns:
        `dict[str, BootstrapDistribution]`: By name of the metric function.

    Raises:
        RecordError: A score is not finite, or a patient id is missing.
        ValueError: Shapes disagree, or a setting is out of range.
    """
    _check_confidence(confidence)
    runs = score_runs(scores, targets)
    weights = resample_weights(targets, patient_ids, num_resamples, seed)
    positive = np.asarray(targets).astype(bool)
    patients_with_class = _patient_labels(positive, patient_indices(patient_ids, len(positive))).sum(axis=0)
    return {
        metric.__name__: BootstrapDistribution(
            values=np.mean([metric(run, targets) for run in runs], axis=0),
            resamples=np.concatenate([metric(run, targets, weights) for run in runs]),
            num_positives=positive.sum(axis=0),
            num_positive_patients=patients_with_class,
            confidence=confidence,
        )
        for metric in metrics
    }


def paired_difference(
    scores_a: ArrayLike | Sequence[ArrayLike],
    scores_b: ArrayLike | Sequence[ArrayLike],
    targets: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None,
    metrics: Sequence[Metric] = (auroc, average_precision),
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    pair_runs: bool = False,
) -> dict[str, PairedDifference]:
    """How much better scores A are than scores B on the same records, with both evaluated on the same resamples.

    Where A or B are several runs, every run of A is compared with every run of B, unless they are paired.

    Args:
        scores_a (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): One or several runs.
        scores_b (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): One or several runs.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): As in `bootstrap_intervals`.
        metrics (`Sequence[Metric]`): Functions of `hf_ecgtext.evaluation.statistics.metrics`.
        num_resamples (`int`): Resamples per run.
        confidence (`float`): Between 0 and 1.
        seed (`int`): Seed of the resamples.
        pair_runs (`bool`): Compare the first run of A with the first of B and so on, as where both learned from the
            same draws of the training records.

    Returns:
        `dict[str, PairedDifference]`: By name of the metric function.

    Raises:
        RecordError: A score is not finite, or a patient id is missing.
        ValueError: Shapes disagree, or a setting is out of range.
    """
    a = bootstrap_intervals(scores_a, targets, patient_ids, metrics, num_resamples, confidence, seed)
    b = bootstrap_intervals(scores_b, targets, patient_ids, metrics, num_resamples, confidence, seed)
    return {name: _difference(a[name], b[name], num_resamples, pair_runs) for name in a}


def resample_weights(
    targets: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.int32]:
    """How often each record occurs in each resample.

    Args:
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): As in `bootstrap_intervals`.
        num_resamples (`int`): At least 1.
        seed (`int`): Seed of the draws.

    Returns:
        `np.ndarray` of shape `(num_resamples, num_records)`: All records of a patient have the same count.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; it must be at least 1.")
    positive = np.asarray(targets).astype(bool)
    patient_of_record = patient_indices(patient_ids, len(positive))
    strata = patient_strata(positive, patient_of_record)
    rng = np.random.default_rng(seed)
    counts = np.zeros((num_resamples, len(strata)), dtype=np.int32)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = rng.integers(len(members), size=(num_resamples, len(members)))
        # One bincount for all resamples: resample r counts in its own range of len(members) bins.
        flat = (drawn + np.arange(num_resamples)[:, None] * len(members)).ravel()
        occurrences = np.bincount(flat, minlength=num_resamples * len(members))
        counts[:, members] = occurrences.reshape(num_resamples, len(members))
    return counts[:, patient_of_record]


def resamples_per_run(num_resamples: int, num_runs: int) -> int:
    """Resamples of each of several runs that are pooled: as many as asked for together, but at least 100 each."""
    return max(_MIN_RESAMPLES_PER_RUN, -(-num_resamples // num_runs)) if num_runs > 1 else num_resamples


def patient_strata(positive: NDArray[np.bool_], patient_of_record: NDArray[np.intp]) -> NDArray[np.intp]:
    """The stratum of each patient: the rarest class they have.

    Args:
        positive (`np.ndarray` of shape `(num_records, num_classes)`): bool.
        patient_of_record (`np.ndarray` of shape `(num_records,)`): Index of each record's patient, from 0 without gaps.

    Returns:
        `np.ndarray` of shape `(num_patients,)`: Class index, or `num_classes` for patients without any label.
    """
    has_class = _patient_labels(positive, patient_of_record)
    rarest_first = np.argsort(has_class.sum(axis=0), kind="stable")
    first = has_class[:, rarest_first].argmax(axis=1)
    return np.where(has_class.any(axis=1), rarest_first[first], positive.shape[1])


def _patient_labels(positive: NDArray[np.bool_], patient_of_record: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which classes each patient has in any record, of shape `(num_patients, num_classes)`."""
    has_class = np.zeros((patient_of_record.max() + 1, positive.shape[1]), dtype=bool)
    np.logical_or.at(has_class, patient_of_record, positive)
    return has_class


def patient_indices(patient_ids: Sequence[object] | NDArray | None, num_records: int) -> NDArray[np.intp]:
    """Index of each record's patient, in the order of their first records, without gaps."""
    if patient_ids is None:
        return np.arange(num_records)
    if len(patient_ids) != num_records:
        raise ValueError(f"{len(patient_ids)} patient ids for {num_records} records.")
    index_of: dict[object, int] = {}
    indices = np.empty(num_records, dtype=np.intp)
    for row, patient in enumerate(patient_ids):
        if patient is None or patient != patient:  # NaN is the only value that differs from itself
            raise RecordError(
                f"row {row}",
                "has no patient id.",
                "Pass patient_ids=None if the dataset has none, or give the record an id of its own.",
            )
        indices[row] = index_of.setdefault(patient, len(index_of))
    return indices


def score_runs(scores: ArrayLike | Sequence[ArrayLike], targets: ArrayLike) -> list[NDArray[np.floating]]:
    """The score arrays as a list, each checked against the targets."""
    array = np.asarray(scores)
    runs = [array] if array.ndim == 2 else list(array)
    if array.ndim not in (2, 3) or not runs:
        raise ValueError(
            f"scores have shape {array.shape}; expected (num_records, num_classes) or a sequence of such arrays."
        )
    return [check_scores_and_targets(run, targets)[0] for run in runs]


def _difference(
    a: BootstrapDistribution, b: BootstrapDistribution, num_resamples: int, pair_runs: bool
) -> PairedDifference:
    num_classes = len(a.values)
    if pair_runs and len(a.resamples) != len(b.resamples):
        raise ValueError(f"{len(a.resamples)} and {len(b.resamples)} resamples are not of as many runs; no pairs.")
    runs_a = a.resamples.reshape(-1, 1, num_resamples, num_classes)
    shape = (-1, 1) if pair_runs else (1, -1)
    runs_b = b.resamples.reshape(*shape, num_resamples, num_classes)
    return PairedDifference(
        values=a.values - b.values,
        resamples=(runs_a - runs_b).reshape(-1, num_classes),
        num_positives=a.num_positives,
        num_positive_patients=a.num_positive_patients,
        confidence=a.confidence,
    )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95.")


def _interval(value: float, resamples: NDArray[np.float64], confidence: float) -> Interval:
    defined = resamples[~np.isnan(resamples)]
    if np.isnan(value) or not defined.size:
        return Interval(float(value), float("nan"), float("nan"))
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Interval(float(value), float(low), float(high))


def _share_not_above_zero(resamples: NDArray[np.float64]) -> float:
    defined = resamples[~np.isnan(resamples)]
    return float(np.mean(defined <= 0)) if defined.size else float("nan")
