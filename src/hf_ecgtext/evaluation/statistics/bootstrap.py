"""Resamples of patients, and what a metric is in each: the source of the intervals of macro means.

A resample draws as many patients as there are, with replacement, and takes all records of each, because records of one
patient are not independent. The draw is plain. (Until result lines of schema 2, patients were drawn within strata of
their rarest class; a stratum of one patient has no spread, so those intervals were too narrow wherever classes are
rare: on PTB-XL's Rhythm, 60 of 100 held the truth.) A plain draw may lose a rare class; such resamples are counted,
never dropped in silence, and their macro mean is over the other classes.

Several score arrays are repeated runs: trainings, random initialisations, draws of the training labels. The value is
their mean, and the interval is that of *this* mean: the same resamples for all runs, averaged over the runs first. What
*another* run may give is the prediction interval, which adds the variance between the runs.

Source: docs/statistics.md; Efron and Tibshirani 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics.intervals import (
    MACRO_INTERVALS,
    Interval,
    class_interval,
    methods_of,
    prediction_interval,
    small_sample_scale,
)
from hf_ecgtext.evaluation.statistics.metrics import (
    HEADLINE_MIN_POSITIVES,
    Metric,
    auroc,
    average_precision,
    check_scores_and_targets,
    macro,
)


@dataclass(frozen=True, eq=False)
class BootstrapDistribution:
    """What a metric is on the test set, and what it was in each resample.

    Args:
        metric (`str`): Name of the metric function, which decides how intervals are made.
        run_values (`np.ndarray` of shape `(num_runs, num_classes)`): On the test set itself; NaN where a class has no
            value.
        resamples (`np.ndarray` of shape `(num_runs, num_resamples, num_classes)`): The same in each resample of
            patients.
        num_positives, num_negatives (`np.ndarray` of shape `(num_classes,)`): Records of the test set.
        num_positive_patients, num_negative_patients (`np.ndarray` of shape `(num_classes,)`): Patients with such a
            record.
        confidence (`float`): Coverage of the intervals, such as 0.95.
        num_units (`int`): Into how many trainings (or initialisations) the runs fall, each with equally many runs in
            turn; what differs within one, such as draws of labels, is averaged first.
    """

    metric: str
    run_values: NDArray[np.float64]
    resamples: NDArray[np.float64]
    num_positives: NDArray[np.int64]
    num_negatives: NDArray[np.int64]
    num_positive_patients: NDArray[np.int64]
    num_negative_patients: NDArray[np.int64]
    confidence: float
    num_units: int

    @property
    def values(self) -> NDArray[np.float64]:
        """Mean over the runs, of shape `(num_classes,)`; NaN where a run has no value."""
        return self.run_values.mean(axis=0)

    @cached_property
    def resample_means(self) -> NDArray[np.float64]:
        """Mean over the runs in each resample, of shape `(num_resamples, num_classes)`."""
        return self.resamples.mean(axis=0)

    @property
    def num_undefined(self) -> NDArray[np.int64]:
        """Resamples in which each class had no value, of shape `(num_classes,)`; intervals leave them out."""
        return np.isnan(self.resample_means).sum(axis=0)

    def per_class(self) -> list[Interval]:
        """Value and interval of each class, by the method that [`intervals.METHODS`] names for the metric."""
        columns = zip(
            self.values.tolist(),
            self.resample_means.T,
            self.num_positive_patients.tolist(),
            self.num_negative_patients.tolist(),
            strict=True,
        )
        return [class_interval(self.metric, *column, self.confidence) for column in columns]

    def counted(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> NDArray[np.bool_]:
        """Which classes a macro mean is over, of shape `(num_classes,)`: those with a value and enough positives."""
        return ~np.isnan(self.values) & (self.num_positives >= min_positives)

    def macro(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> Interval:
        """Mean over classes, with an interval where one holds.

        It does not hold where a class counts that has fewer positive or negative records than
        [`intervals.METHODS`] asks for. Of a single class, the interval is that class's. A resample in which a class has
        no value averages over the others; `num_undefined` tells how often.

        Args:
            min_positives (`int`): Leave out classes with fewer positive records on the test set.
        """
        value = float(macro(self.values, self.num_positives, min_positives))
        counted = np.flatnonzero(self.counted(min_positives))
        if len(counted) == 1:
            return self.per_class()[int(counted[0])]
        if not self.holds(min_positives):
            return Interval(value, np.nan, np.nan)
        method = methods_of(self.metric).macro
        assert method is not None
        found = MACRO_INTERVALS[method](value, self.macro_resamples(min_positives), self.confidence)
        return Interval(value, max(found.low, 0.0), found.high if value > 1 else min(found.high, 1.0))

    def holds(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> bool:
        """Whether a macro mean over these classes has an interval that holds."""
        return not self.too_rare(min_positives).any() and methods_of(self.metric).macro is not None

    def too_rare(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> NDArray[np.bool_]:
        """Which counted classes have too few positive or negative records for an interval of the macro mean."""
        least = methods_of(self.metric).min_positives
        return self.counted(min_positives) & (np.minimum(self.num_positives, self.num_negatives) < least)

    def macro_resamples(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> NDArray[np.float64]:
        """The macro mean of the runs' mean in each resample, of shape `(num_resamples,)`.

        The deviation of each class from its value is scaled up for its few patients, see `small_sample_scale`.
        """
        rarer = np.minimum(self.num_positive_patients, self.num_negative_patients)
        scaled = self.values + small_sample_scale(rarer) * (self.resample_means - self.values)
        return np.asarray(macro(scaled, self.num_positives, min_positives))

    def unit_values(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> NDArray[np.float64]:
        """The macro mean of each training (or initialisation, or draw), of shape `(num_units,)`."""
        per_run = np.asarray(macro(self.run_values, self.num_positives, min_positives))
        return per_run.reshape(self.num_units, -1).mean(axis=1)

    def prediction(self, min_positives: int = HEADLINE_MIN_POSITIVES) -> tuple[float, float] | None:
        """Where the macro mean of another training (or initialisation, or draw) would lie; `None` where unknown."""
        if not self.holds(min_positives) or not self.counted(min_positives).any():
            return None
        found = prediction_interval(
            self.unit_values(min_positives), self.macro_resamples(min_positives), self.confidence
        )
        return None if found is None else (max(found[0], 0.0), min(found[1], 1.0))


def bootstrap_intervals(
    scores: ArrayLike | Sequence[ArrayLike],
    targets: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None,
    metrics: Sequence[Metric] = (auroc, average_precision),
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    num_units: int | None = None,
) -> dict[str, BootstrapDistribution]:
    """Per-class and macro values with intervals, from a bootstrap of patients.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): Several arrays are repeated
            runs; see the head of this module.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): Whose record each row is. `None` states that the
            dataset has no patient ids (CPSC2018) and takes every record for a patient of its own.
        metrics (`Sequence[Metric]`): Functions of `hf_ecgtext.evaluation.statistics.metrics`.
        num_resamples (`int`): At least 1.
        confidence (`float`): Between 0 and 1.
        seed (`int`): Seed of the resamples.
        num_units (`int`, *optional*): See [`BootstrapDistribution`]; every run for itself by default.

    Returns:
        `dict[str, BootstrapDistribution]`: By name of the metric function.

    Raises:
        RecordError: A score is not finite, or a patient id is missing.
        ValueError: Shapes disagree, or a setting is out of range.
    """
    check_confidence(confidence)
    runs = score_runs(scores, targets)
    units = len(runs) if num_units is None else num_units
    if units < 1 or len(runs) % units:
        raise ValueError(f"{len(runs)} runs do not fall into {units} trainings with equally many runs each.")
    positive = np.asarray(targets).astype(bool)
    weights = resample_weights(len(positive), patient_ids, num_resamples, seed)
    patient_of_record = patient_indices(patient_ids, len(positive))
    return {
        metric.__name__: BootstrapDistribution(
            metric=metric.__name__,
            run_values=np.stack([metric(run, targets) for run in runs]),
            resamples=np.stack([metric(run, targets, weights) for run in runs]),
            num_positives=positive.sum(axis=0),
            num_negatives=(~positive).sum(axis=0),
            num_positive_patients=_patients_with(positive, patient_of_record),
            num_negative_patients=_patients_with(~positive, patient_of_record),
            confidence=confidence,
            num_units=units,
        )
        for metric in metrics
    }


def resample_weights(
    num_records: int,
    patient_ids: Sequence[object] | NDArray | None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.int32]:
    """How often each record occurs in each resample.

    Args:
        num_records (`int`): Records of the test set.
        patient_ids (`Sequence` of length `num_records`, *optional*): As in `bootstrap_intervals`.
        num_resamples (`int`): At least 1.
        seed (`int`): Seed of the draws.

    Returns:
        `np.ndarray` of shape `(num_resamples, num_records)`: All records of a patient have the same count.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; it must be at least 1.")
    patient_of_record = patient_indices(patient_ids, num_records)
    num_patients = int(patient_of_record.max()) + 1
    drawn = np.random.default_rng(seed).integers(num_patients, size=(num_resamples, num_patients))
    # One bincount for all resamples: resample r counts in its own range of num_patients bins.
    flat = (drawn + np.arange(num_resamples)[:, None] * num_patients).ravel()
    counts = np.bincount(flat, minlength=num_resamples * num_patients).astype(np.int32)
    return counts.reshape(num_resamples, num_patients)[:, patient_of_record]


def _patients_with(records: NDArray[np.bool_], patient_of_record: NDArray[np.intp]) -> NDArray[np.int64]:
    """How many patients have such a record, per class; `records` has shape `(num_records, num_classes)`."""
    has_one = np.zeros((patient_of_record.max() + 1, records.shape[1]), dtype=bool)
    np.logical_or.at(has_one, patient_of_record, records)
    return has_one.sum(axis=0)


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


def check_confidence(confidence: float) -> None:
    """Refuse a coverage that is none."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95.")
