"""Calibration of scores on the validation split, so that they mean what they say.

Two kinds of score need two fits. The logits of a classifier are divided by one temperature for all classes (Guo et al.
2017). Cosine similarities are no probabilities, and their level differs by prompt; so a scale for all classes and a
bias for each are fitted: p = sigmoid(scale * similarity + bias). That is Platt's logistic calibration, with his
smoothed targets, under which a class that validation lacks is rare instead of impossible. Both fits minimise the
negative log-likelihood to convergence, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.calibration_metrics import (
    METRICS,
    NUM_BINS,
    Binning,
    ReliabilityCurve,
    reliability_curve,
)
from hf_ecgtext.evaluation.statistics.metrics import check_scores_and_targets
from hf_ecgtext.evaluation.statistics.thresholds import validation_of

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True, eq=False)
class Calibrator:
    """p = sigmoid(scale * score + bias).

    Args:
        scale (`float`): Of a logit, 1 / temperature.
        biases (`np.ndarray` of shape `(num_classes,)`): 0 for logits.
        is_at_limit (`bool`): A temperature of 0.01 or 100, the ends of the search: validation separates its classes
            without an error, or its scores say nothing.
    """

    scale: float
    biases: NDArray[np.float64]
    is_at_limit: bool = False

    @property
    def temperature(self) -> float:
        """1 / scale; infinite where validation scores say nothing."""
        return 1 / self.scale if self.scale else float("inf")

    def probabilities(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities of scores of shape `(..., num_classes)`."""
        from scipy.special import expit

        return expit(self.scale * np.asarray(scores, dtype=np.float64) + self.biases)


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> Calibrator:
    """The one temperature, between 0.01 and 100, under which the logits of all classes have the highest likelihood.

    Args:
        logits (`np.ndarray` of shape `(num_records, num_classes)`): Of validation records.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.

    Raises:
        RecordError: A logit is not finite.
        ValueError: Shapes disagree, or a target is not 0 or 1.

    Source: Guo et al. 2017, with a sigmoid per class in place of the softmax.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    checked, positive = check_scores_and_targets(logits, targets)
    values = checked.astype(np.float64)

    def slope(scale: float) -> float:
        return float(((expit(scale * values) - positive) * values).mean())

    # The likelihood is concave in the scale, so its slope changes sign at most once.
    lowest, highest = 1 / _MAX_TEMPERATURE, 1 / _MIN_TEMPERATURE
    biases = np.zeros(values.shape[1])
    if slope(lowest) >= 0:
        return Calibrator(lowest, biases, is_at_limit=True)
    if slope(highest) <= 0:
        return Calibrator(highest, biases, is_at_limit=True)
    return Calibrator(float(brentq(slope, lowest, highest, xtol=1e-13, rtol=1e-13)), biases)


def fit_platt(similarities: ArrayLike, targets: ArrayLike) -> Calibrator:
    """The scale of all classes and the bias of each under which similarities have the highest likelihood.

    Targets are smoothed as Platt did: (positives + 1) / (positives + 2) and 1 / (negatives + 2). A scale below 0 is
    not allowed; where the similarities rank the wrong way it is 0, and each class has its base rate.

    Args:
        similarities (`np.ndarray` of shape `(num_records, num_classes)`): Of validation records.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.

    Raises:
        RecordError: A similarity is not finite.
        ValueError: Shapes disagree, a target is not 0 or 1, or the fit did not converge.

    Source: Platt 1999.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    checked, positive = check_scores_and_targets(similarities, targets)
    num_classes = checked.shape[1]
    num_positives = positive.sum(axis=0)
    num_negatives = len(positive) - num_positives
    smoothed = np.where(positive, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))
    base_rates = logit(smoothed.mean(axis=0))
    centres = checked.mean(axis=0, dtype=np.float64)
    centred = checked - centres
    unit = float(centred.std())
    if unit == 0:
        return Calibrator(0.0, base_rates)
    centred /= unit  # else the scale is hundreds of times the biases, and Newton steps lose digits

    def loss_and_slope(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = parameters[0] * centred + parameters[1:]
        loss = (np.logaddexp(0, logits) - smoothed * logits).mean()
        residual = (expit(logits) - smoothed) / logits.size
        return float(loss), np.r_[(residual * centred).sum(), residual.sum(axis=0)]

    def curvature(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        share = expit(parameters[0] * centred + parameters[1:])
        second = share * (1 - share) / share.size
        matrix = np.diag(np.r_[(second * centred**2).sum(), second.sum(axis=0)])
        matrix[0, 1:] = matrix[1:, 0] = (second * centred).sum(axis=0)
        return matrix

    start = np.r_[0.0, base_rates]
    fit = minimize(loss_and_slope, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10})
    remaining = float(np.abs(loss_and_slope(fit.x)[1]).max())
    if remaining > 1e-7:
        raise ValueError(
            f"The calibration of {num_classes} classes on {len(positive)} records stopped at a slope of "
            f"{remaining:.1e} ({fit.message}). Look for similarities far from all others."
        )
    scale = float(fit.x[0]) / unit
    if scale <= 0:
        return Calibrator(0.0, base_rates)
    return Calibrator(scale, fit.x[1:] - scale * centres)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Test probabilities of every run, before and after a calibration that was fitted on validation.

    Args:
        calibrators (`tuple[Calibrator, ...]`): One per run.
        after (`np.ndarray` of shape `(num_runs, num_records, num_classes)`): Calibrated probabilities.
        before (`np.ndarray` of the same shape, *optional*): Sigmoids of the logits; `None` for similarities, which are
            no probabilities.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
    """

    calibrators: tuple[Calibrator, ...]
    after: NDArray[np.float64]
    before: NDArray[np.float64] | None
    targets: NDArray[np.int8]

    def per_class(self) -> dict[str, NDArray[np.float64]]:
        """Metrics by name, such as `"brier_score_before"` and `"ece_equal_mass_after"`, of shape `(num_classes,)`.

        Means over the runs.
        """
        return {
            f"{metric.__name__}_{when}": np.mean([metric(run, self.targets) for run in runs], axis=0)
            for when, runs in self._stages().items()
            for metric in METRICS
        }

    def pooled(self) -> dict[str, float]:
        """The same over the answers about all classes together, such as `"pooled_brier_score_before"`."""
        truth = self.targets.reshape(-1, 1)
        return {
            f"pooled_{metric.__name__}_{when}": float(np.mean([metric(run.reshape(-1, 1), truth) for run in runs]))
            for when, runs in self._stages().items()
            for metric in METRICS
        }

    def reliability(
        self, run: int = 0, num_bins: int = NUM_BINS, binning: Binning = "equal_mass"
    ) -> dict[str, ReliabilityCurve]:
        """Curves of one run over all classes together: `"before"` (of logits) and `"after"`."""
        return {
            when: reliability_curve(runs[run], self.targets, num_bins, binning) for when, runs in self._stages().items()
        }

    def details(self) -> dict[str, Any]:
        """JSON values for a result line."""
        return {
            "calibration_scales": [calibrator.scale for calibrator in self.calibrators],
            "runs_at_temperature_limit": sum(calibrator.is_at_limit for calibrator in self.calibrators),
        }

    def _stages(self) -> Mapping[str, NDArray[np.float64]]:
        return ({} if self.before is None else {"before": self.before}) | {"after": self.after}


def calibrate(scores: TaskScores) -> Calibration:
    """Fit each run on its validation scores, and apply the fit to its test scores.

    Args:
        scores ([`~hf_ecgtext.evaluation.scores.TaskScores`]): Logits get a temperature, similarities a scale and
            biases.

    Raises:
        ValueError: The scores hold no validation split, or are of another kind.
    """
    from scipy.special import expit

    validation_scores, validation_targets = validation_of(scores, "Calibrations")
    fits = {"logit": fit_temperature, "similarity": fit_platt}
    if scores.score_kind not in fits:
        raise ValueError(f"Scores of kind '{scores.score_kind}' can not be calibrated; known are {', '.join(fits)}.")
    fit = fits[scores.score_kind]
    calibrators = tuple(fit(run, validation_targets) for run in validation_scores)
    return Calibration(
        calibrators=calibrators,
        after=np.stack([one.probabilities(run) for one, run in zip(calibrators, scores.scores, strict=True)]),
        before=expit(scores.scores.astype(np.float64)) if scores.score_kind == "logit" else None,
        targets=scores.targets,
    )
