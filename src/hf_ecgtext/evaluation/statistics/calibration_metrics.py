"""Metrics of probabilities: Brier score, log-likelihood, expected calibration error, and the data of reliability plots.

All metrics are per class and take record weights, as those of `metrics.py` do, so that the bootstrap can call them.
Reshape answers to one column to pool the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics.metrics import check_scores_and_targets, check_weights

NUM_BINS = 15
"""Bins of a calibration error. Guo et al. 2017."""

_SMALLEST_PROBABILITY = 2.0**-53  # half the distance of 1.0 to the next smaller double
Binning = Literal["equal_width", "equal_mass"]


def brier_score(probabilities: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Mean squared difference between probability and truth, per class. 0 is perfect.

    A class without positives has a value here: it is how much probability is wasted on it.

    Args:
        probabilities (`np.ndarray` of shape `(num_records, num_classes)`): From 0 to 1.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        weights (`np.ndarray` of shape `(num_records,)` or `(num_resamples, num_records)`, *optional*): Integers, how
            often each record occurs.

    Returns:
        `np.ndarray` of shape `(num_classes,)` or `(num_resamples, num_classes)`.

    Raises:
        RecordError: A probability lies outside 0 to 1.
        ValueError: Shapes disagree, or a target is not 0 or 1.
    """
    checked, positive = _check_probabilities(probabilities, targets)
    return _weighted_mean((checked - positive) ** 2, weights)


def negative_log_likelihood(
    probabilities: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Mean of -ln of the probability that was given to the truth, per class, in nats. 0 is perfect.

    Arguments, result and errors as in `brier_score`. A truth that was called impossible counts as one of probability
    2**-53 (36.7 nats): a sigmoid in double precision cannot come closer to 1 without reaching it.
    """
    checked, positive = _check_probabilities(probabilities, targets)
    of_truth = np.where(positive, checked, 1 - checked)
    return _weighted_mean(-np.log(np.maximum(of_truth, _SMALLEST_PROBABILITY)), weights)


def ece_equal_width(
    probabilities: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, num_bins: int = NUM_BINS
) -> NDArray[np.float64]:
    """Expected calibration error per class: |observed share - mean probability|, averaged over bins by their records.

    Bins divide 0 to 1 into equal parts; a bin holds its lower end. Estimates are biased upwards where bins hold few
    records, and more so in bootstrap resamples.

    Args:
        probabilities (`np.ndarray` of shape `(num_records, num_classes)`): From 0 to 1.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        weights (`np.ndarray` of shape `(num_records,)` or `(num_resamples, num_records)`, *optional*): Integers, how
            often each record occurs.
        num_bins (`int`): At least 1.

    Returns:
        `np.ndarray` of shape `(num_classes,)` or `(num_resamples, num_classes)`.

    Raises:
        RecordError: A probability lies outside 0 to 1.
        ValueError: Shapes disagree, or a target is not 0 or 1.

    Source: Naeini, Cooper and Hauskrecht 2015, for each class against the rest.
    """
    return _calibration_error("equal_width", probabilities, targets, weights, num_bins)


def ece_equal_mass(
    probabilities: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, num_bins: int = NUM_BINS
) -> NDArray[np.float64]:
    """Expected calibration error per class, with bins that hold equally many records as far as ties allow.

    Arguments, result and errors as in `ece_equal_width`. Equal probabilities never fall into two bins; resamples keep
    the bins of all records.

    Source: Nixon et al. 2019 (adaptive calibration error), for each class against the rest.
    """
    return _calibration_error("equal_mass", probabilities, targets, weights, num_bins)


METRICS = (brier_score, ece_equal_width, ece_equal_mass, negative_log_likelihood)
"""All have the signature that the bootstrap needs."""


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Observed share of positives by predicted probability; one entry per bin that holds a record.

    Args:
        mean_predicted (`np.ndarray` of shape `(num_filled_bins,)`): Mean probability, ascending.
        observed (`np.ndarray` of shape `(num_filled_bins,)`): Share of positives.
        counts (`np.ndarray` of shape `(num_filled_bins,)`): Answers in the bin.
        low, high (`np.ndarray` of shape `(num_filled_bins,)`): Wilson interval of `observed`; it takes the answers of a
            bin for independent, so it is too narrow where many come from one record or patient.
    """

    mean_predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def reliability_curve(
    probabilities: ArrayLike,
    targets: ArrayLike,
    num_bins: int = NUM_BINS,
    binning: Binning = "equal_mass",
    confidence: float = 0.95,
) -> ReliabilityCurve:
    """The data of a reliability plot of one class, or of all classes pooled.

    Args:
        probabilities (`np.ndarray` of any shape): From 0 to 1; flattened.
        targets (`np.ndarray` of the same shape): 0 or 1.
        num_bins (`int`): At least 1.
        binning (`str`): `"equal_width"` or `"equal_mass"`.
        confidence (`float`): Coverage of the intervals.

    Raises:
        RecordError: A probability lies outside 0 to 1.
        ValueError: Shapes disagree, or a target is not 0 or 1.
    """
    checked, positive = _check_probabilities(np.reshape(probabilities, (-1, 1)), np.reshape(targets, (-1, 1)))
    bins = _bins(checked[:, 0], num_bins, binning)
    counts = np.bincount(bins)
    filled = counts > 0
    num_positives = np.bincount(bins, weights=positive[:, 0])[filled]
    low, high = wilson_interval(num_positives, counts[filled], confidence)
    return ReliabilityCurve(
        mean_predicted=np.bincount(bins, weights=checked[:, 0])[filled] / counts[filled],
        observed=num_positives / counts[filled],
        counts=counts[filled],
        low=low,
        high=high,
    )


def wilson_interval(
    num_successes: ArrayLike, num_trials: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high of a proportion. Unlike a bootstrap, it is honest about 16 of 16.

    Args:
        num_successes, num_trials (`np.ndarray`): Counts of the same shape.
        confidence (`float`): Between 0 and 1.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: NaN where there was no trial.

    Source: Wilson 1927.
    """
    from scipy.special import ndtri

    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95.")
    successes, trials = np.asarray(num_successes, dtype=np.float64), np.asarray(num_trials, dtype=np.float64)
    z_squared = float(ndtri(0.5 + confidence / 2)) ** 2
    number = np.where(trials > 0, trials, np.nan)
    centre = (successes + z_squared / 2) / (number + z_squared)
    spread = np.sqrt(z_squared * (successes * (number - successes) / number + z_squared / 4)) / (number + z_squared)
    # By algebra the ends reach 0 and 1 exactly there; rounding would leave the observed share outside its interval.
    return np.where(successes == 0, 0 * number, centre - spread), np.where(successes == number, 1.0, centre + spread)


def _check_probabilities(probabilities: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    checked, positive = check_scores_and_targets(probabilities, targets)
    outside = (checked < 0) | (checked > 1)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise RecordError(
            f"row {row}",
            f"the probability of class {column} is {checked[row, column]}.",
            "Probabilities lie between 0 and 1: apply a sigmoid to logits, and calibrate similarities first.",
        )
    return checked.astype(np.float64), positive


def _weighted_mean(values: NDArray[np.float64], weights: ArrayLike | None) -> NDArray[np.float64]:
    """Mean over records, per class; of shape `(num_classes,)` or `(num_resamples, num_classes)`."""
    if weights is None:
        return values.mean(axis=0)
    counts = check_weights(weights, len(values)).astype(np.float64)
    number = counts.sum(axis=-1, keepdims=True)
    return np.where(number > 0, counts @ values / np.maximum(number, 1), np.nan)


def _calibration_error(
    binning: Binning, probabilities: ArrayLike, targets: ArrayLike, weights: ArrayLike | None, num_bins: int
) -> NDArray[np.float64]:
    checked, positive = _check_probabilities(probabilities, targets)
    num_records, num_classes = checked.shape
    counts = np.ones(num_records) if weights is None else check_weights(weights, num_records).astype(np.float64)
    errors = np.empty((*counts.shape[:-1], num_classes))
    for index in range(num_classes):
        bins = _bins(checked[:, index], num_bins, binning)
        gaps = np.zeros((num_records, bins.max() + 1))
        gaps[np.arange(num_records), bins] = checked[:, index] - positive[:, index]
        errors[..., index] = np.abs(counts @ gaps).sum(axis=-1)
    number = counts.sum(axis=-1, keepdims=True)
    return np.where(number > 0, errors / np.maximum(number, 1), np.nan)


def _bins(probabilities: NDArray[np.float64], num_bins: int, binning: Binning) -> NDArray[np.intp]:
    """The bin of each probability, of shape `(num_records,)`. No order of the records changes it."""
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}; it must be at least 1.")
    if binning == "equal_width":
        return np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], probabilities, side="right")
    # In whole numbers: a quantile of 0.3 of 120 records may round to the 37th.
    last_places = (np.arange(1, num_bins) * len(probabilities) + num_bins - 1) // num_bins - 1
    return np.searchsorted(np.sort(probabilities)[last_places], probabilities, side="left")
