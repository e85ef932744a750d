"""Which interval each metric gets, and where none holds.

The interval of a macro mean comes from a bootstrap of patients (see `bootstrap.py`). It holds for the mean over classes
with enough positive records; over rarer ones resamples cannot show patients that were never recorded, and the interval
comes out too narrow. A single class gets an interval of its metric's own sampling theory, which holds down to one
positive patient. Where neither holds, there is no interval. `benchmarks/coverage.py` prints how often each interval of
this module holds the truth on the label tables of the six tasks; docs/statistics.md has its table.

Sources: Newcombe 2006, Statistics in Medicine 25:559 (method 5, area under the ROC curve); Boyd, Eng and Page 2013
(average precision on the logit scale); Wilson 1927 and Korn and Graubard 1998 (proportions of clustered samples, by
their effective size); Efron and Tibshirani 1993, chapter 13 (percentiles); Satterthwaite 1946 (degrees of freedom).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.statistics.calibration_metrics import wilson_interval
from hf_ecgtext.evaluation.statistics.metrics import FREQUENT_CLASS_MIN_POSITIVES, HEADLINE_MIN_POSITIVES

PATIENT_BOOTSTRAP = "percentiles of a bootstrap of patients"
REPORT_BOOTSTRAP = "percentiles of a bootstrap of reports"
PATIENT_PERMUTATION = "permutation of patients"
REPORT_PERMUTATION = "permutation of reports"
STRATIFIED_BOOTSTRAP = "stratified bootstrap (schema 2): too narrow where classes are rare"
NO_INTERVAL = "none"

_NAMES = {
    "percentile": PATIENT_BOOTSTRAP,
    "logit_debiased": "debiased logits of a bootstrap of patients",
    "mann_whitney": "Newcombe's method 5, patients",
    "logit": "logit of the precision, patients",
    "wilson": "Wilson, effective number of patients",
    "wilson_f1": "Wilson, effective number of patients",
}
"""How result lines name the method of `confidence_interval`."""

_INSIDE = 0.25
"""How many records an average precision of 0 or 1 is moved inside, before its logit is taken."""


class Interval(NamedTuple):
    """A value with its interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalMethods:
    """How a metric gets its intervals.

    Args:
        macro (`str`, *optional*): `"percentile"` of the resamples; `"logit_debiased"`: normal on the logit scale, less
            the bias that resamples have; `None`: no interval.
        min_positives (`int`): The least number of positive (and of negative) records that each class of a macro mean
            must have for its interval to hold.
        per_class (`str`, *optional*): Of a single class: `"mann_whitney"`, `"logit"`, `"wilson"`, `"wilson_f1"`,
            `"percentile"` or `None`.
        min_class_patients (`int`): The least number of positive (and of negative) patients for the interval of a class.
    """

    macro: Literal["percentile", "logit_debiased"] | None
    min_positives: int
    per_class: Literal["mann_whitney", "logit", "wilson", "wilson_f1", "percentile"] | None
    min_class_patients: int = 1


_HEADLINE, _FREQUENT = HEADLINE_MIN_POSITIVES, FREQUENT_CLASS_MIN_POSITIVES

METHODS: dict[str, IntervalMethods] = {
    "auroc": IntervalMethods("percentile", _HEADLINE, "mann_whitney"),
    "average_precision": IntervalMethods("logit_debiased", _FREQUENT, "logit", 3),
    "sensitivity": IntervalMethods("percentile", _HEADLINE, "wilson"),
    "specificity": IntervalMethods("percentile", _HEADLINE, "wilson"),
    "precision": IntervalMethods("percentile", _FREQUENT, "wilson"),
    "accuracy": IntervalMethods("percentile", _HEADLINE, "wilson"),
    "top1_class_accuracy": IntervalMethods("percentile", _HEADLINE, "wilson"),
    "f1": IntervalMethods("percentile", _HEADLINE, "wilson_f1"),
    "top1_f1": IntervalMethods("percentile", _HEADLINE, "wilson_f1"),
    "brier_score": IntervalMethods("percentile", _FREQUENT, "percentile", _FREQUENT),
    "negative_log_likelihood": IntervalMethods("percentile", _FREQUENT, "percentile", _FREQUENT),
    # Resamples of a calibration error are biased upwards; its estimate often lies below all of them.
    "ece_equal_width": IntervalMethods(None, 0, None),
    "ece_equal_mass": IntervalMethods(None, 0, None),
}
"""By name of the metric function. Other metrics are taken for means of records, as sensitivity is."""

_OTHERS = IntervalMethods("percentile", _HEADLINE, "percentile", _FREQUENT)


def methods_of(metric: str) -> IntervalMethods:
    """How a metric gets its intervals, by its name."""
    return METHODS.get(metric, _OTHERS)


def method_name(metric: str, *, single_class: bool) -> str:
    """What a result line says of how the interval of its value was made."""
    method = methods_of(metric)
    name = method.per_class if single_class else method.macro
    return NO_INTERVAL if name is None else _NAMES[name]


def class_interval(
    metric: str,
    value: float,
    resamples: NDArray[np.float64],
    num_positive_patients: int,
    num_negative_patients: int,
    confidence: float,
) -> Interval:
    """The interval of one class.

    Args:
        metric (`str`): Name of the metric function.
        value (`float`): On the test set; NaN where undefined.
        resamples (`np.ndarray` of shape `(num_resamples,)`): The class's value in each, NaN where it had none.
        num_positive_patients, num_negative_patients (`int`): Patients with a record of the class, and with one that is
            not of it; all records of a patient count as one.
        confidence (`float`): Such as 0.95.
    """
    method = methods_of(metric)
    enough = min(num_positive_patients, num_negative_patients) >= max(method.min_class_patients, 1)
    if method.per_class is None or not enough or np.isnan(value):
        return Interval(value, np.nan, np.nan)
    defined = resamples[~np.isnan(resamples)]
    if method.per_class == "mann_whitney":
        return Interval(value, *mann_whitney_interval(value, num_positive_patients, num_negative_patients, confidence))
    if method.per_class == "logit":
        return Interval(value, *_logit_interval(value, defined, num_positive_patients, confidence))
    if method.per_class == "percentile":
        return percentile_interval(value, defined, confidence)
    # Trials of the proportion: positive patients for sensitivity, all others' for specificity, everyone for accuracy.
    trials = {
        "specificity": num_negative_patients,
        "accuracy": num_positive_patients + num_negative_patients,
        "top1_class_accuracy": num_positive_patients + num_negative_patients,
    }.get(metric, num_positive_patients)
    return Interval(value, *_wilson(value, defined, trials, confidence, is_f1=method.per_class == "wilson_f1"))


def percentile_interval(value: float, resamples: NDArray[np.float64], confidence: float) -> Interval:
    """The percentiles of the resamples in which there is a value."""
    defined = resamples[~np.isnan(resamples)]
    if np.isnan(value) or not defined.size:
        return Interval(float(value), np.nan, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Interval(float(value), float(low), float(high))


def logit_debiased_interval(value: float, resamples: NDArray[np.float64], confidence: float) -> Interval:
    """Normal interval on the logit scale, moved by as much as the resamples' mean lies off the estimate.

    Resamples of average precision lie above the estimate, since a positive that is drawn twice supports itself, as the
    estimate itself lies above the truth; so the same step is taken back once.
    """
    defined = resamples[~np.isnan(resamples)]
    if np.isnan(value) or not defined.size or not 0 < value < 1:
        return Interval(float(value), np.nan, np.nan)
    logits = _logit(np.clip(defined, 1e-6, 1 - 1e-6))
    centre = 2 * _logit(np.float64(value)) - logits.mean()
    half = _z(confidence) * logits.std()
    low, high = _sigmoid(centre - half), _sigmoid(centre + half)
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))


def mann_whitney_interval(
    area: float, num_positives: int, num_negatives: int, confidence: float
) -> tuple[float, float]:
    """Score interval of an area under the ROC curve: all areas that the observed one does not contradict.

    Args:
        area (`float`): Observed, from 0 to 1.
        num_positives, num_negatives (`int`): Independent positives and negatives, at least 1 each: patients.
        confidence (`float`): Such as 0.95.

    Source: Newcombe 2006, method 5.
    """
    from scipy.optimize import brentq

    z_squared = _z(confidence) ** 2
    excess = (num_positives + num_negatives) / 2 - 1

    def contradiction(truth: float) -> float:
        # Variance of the area if `truth` were true, by Hanley and McNeil's exponential model with a common size.
        variance = truth * (1 - truth) * (1 + excess * (1 - truth) / (2 - truth) + excess * truth / (1 + truth))
        return (area - truth) ** 2 - z_squared * variance / (num_positives * num_negatives)

    tiny = 1e-12
    low = brentq(contradiction, tiny, area) if area > tiny and contradiction(tiny) > 0 and area < 1 else 0.0
    high = (
        brentq(contradiction, area, 1 - tiny) if area < 1 - tiny and area > 0 and contradiction(1 - tiny) > 0 else 1.0
    )
    # At the ends the observed area itself solves the equation; the other solution is looked for from outside.
    if area >= 1 - tiny:
        low = brentq(contradiction, tiny, 1 - 1e-9) if contradiction(1 - 1e-9) < 0 < contradiction(tiny) else 0.0
    if area <= tiny:
        high = brentq(contradiction, 1e-9, 1 - tiny) if contradiction(1e-9) < 0 < contradiction(1 - tiny) else 1.0
    return float(low), float(high)


def small_sample_scale(num_patients: NDArray[np.int64]) -> NDArray[np.float64]:
    """By how much a bootstrap of so many patients understates the spread of their mean: the root of n / (n - 1).

    Args:
        num_patients (`np.ndarray` of shape `(num_classes,)`): The rarer of positive and negative patients.
    """
    return np.sqrt(num_patients / np.maximum(num_patients - 1, 1))


def prediction_interval(
    run_values: ArrayLike, resample_means: NDArray[np.float64], confidence: float
) -> tuple[float, float] | None:
    """Where a new run (training, random initialisation, draw of labels) would lie on new patients of the same kind.

    Mean plus and minus t times the root of (variance over patients + variance over runs * (1 + 1 / runs)), with
    Satterthwaite's degrees of freedom; the variance over patients is that of the resamples.

    Args:
        run_values (`np.ndarray` of shape `(num_runs,)`): A metric of each run.
        resample_means (`np.ndarray` of shape `(num_resamples,)`): The mean over the runs, in each resample.
        confidence (`float`): Such as 0.95.

    Returns:
        `tuple[float, float]`: Low and high, not cut to the metric's range; `None` for fewer than two runs, or where a
        value is undefined.
    """
    from scipy.stats import t

    values = np.asarray(run_values, dtype=np.float64)
    defined = resample_means[~np.isnan(resample_means)]
    if len(values) < 2 or not np.isfinite(values).all() or not defined.size:
        return None
    of_runs = float(values.var(ddof=1)) * (1 + 1 / len(values))
    of_patients = float(defined.var())
    total = of_runs + of_patients
    if total == 0:
        return float(values.mean()), float(values.mean())
    freedom = total**2 / (of_runs**2 / (len(values) - 1)) if of_runs > 0 else np.inf
    half = float(t.ppf(0.5 + confidence / 2, freedom)) * total**0.5
    return float(values.mean() - half), float(values.mean() + half)


MACRO_INTERVALS: dict[str, Callable[[float, NDArray[np.float64], float], Interval]] = {
    "percentile": percentile_interval,
    "logit_debiased": logit_debiased_interval,
}


def _logit_interval(
    value: float, resamples: NDArray[np.float64], num_positive_patients: int, confidence: float
) -> tuple[float, float]:
    """Average precision of one class: the larger of the binomial and the resampled standard error, as logits."""
    inside = _INSIDE / num_positive_patients
    estimate = float(np.clip(value, inside, 1 - inside))
    errors = [1 / np.sqrt(num_positive_patients * estimate * (1 - estimate))]
    if resamples.size and num_positive_patients > 1:
        errors.append(float(_logit(np.clip(resamples, inside, 1 - inside)).std()))
    half = _z(confidence) * max(errors)
    centre = _logit(np.float64(estimate))
    return min(float(_sigmoid(centre - half)), value), max(float(_sigmoid(centre + half)), value)


def _wilson(
    value: float, resamples: NDArray[np.float64], trials: int, confidence: float, *, is_f1: bool
) -> tuple[float, float]:
    """Wilson's interval with the number of independent answers that explains the spread of the resamples.

    F1 is 2 J / (1 + J) of the proportion J = true positives / (called or truly positive), and takes J's interval.
    """
    share, drawn = (value / (2 - value), resamples / (2 - resamples)) if is_f1 else (value, resamples)
    variance = float(drawn.var()) if drawn.size else 0.0
    effective = min(trials, share * (1 - share) / variance) if variance > 0 and 0 < share < 1 else trials
    low, high = (float(end) for end in wilson_interval(share * effective, effective, confidence))
    return (2 * low / (1 + low), 2 * high / (1 + high)) if is_f1 else (low, high)


def _z(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2))


def _logit(share: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    from scipy.special import logit

    return np.asarray(logit(share))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(logits))
