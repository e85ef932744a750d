"""PhysioNet/CinC 2021 diagnoses: decisions from logits, and the challenge's score of them.

One threshold on the probability holds for all 26 classes. Strict: the one with the best score on the validation
records, of 0.02, 0.04 to 0.98; a threshold per class would fit 26 numbers to few positives. Published: 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.cinc2021_score import cinc2021_interval, cinc2021_score
from hf_ecgtext.evaluation.statistics.intervals import NO_INTERVAL, PATIENT_BOOTSTRAP

TASK = "cinc2021"
"""Name of the task that is scored so."""

PUBLISHED_THRESHOLD = 0.5
_THRESHOLDS = np.arange(1, 50) / 50


def best_threshold(
    logits: NDArray[np.floating], targets: NDArray[np.integer], class_names: tuple[str, ...]
) -> tuple[float, float]:
    """The threshold on the probability with the best score, and that score; of equals, the one nearest to 0.5.

    Args:
        logits (`np.ndarray` of shape `(num_records, num_classes)`): Of validation records.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        class_names (`tuple[str, ...]`): Columns.

    Raises:
        ValueError: If the score is undefined, because every record is normal.
    """
    scores = {
        float(threshold): float(cinc2021_score(decide(logits, threshold), targets, class_names))
        for threshold in _THRESHOLDS
    }
    if np.isnan(list(scores.values())).any():
        raise ValueError(
            "The CinC 2021 score needs validation records that are not all in sinus rhythm and nothing else."
        )
    best = max(scores, key=lambda threshold: (scores[threshold], -abs(threshold - PUBLISHED_THRESHOLD)))
    return best, scores[best]


def decide(logits: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Yes where the probability is at least the threshold, which lies between 0 and 1."""
    return logits >= np.log(threshold / (1 - threshold))


def cinc2021_results(scores: TaskScores, *, num_resamples: int = 1000, seed: int = 0) -> list[EvaluationResult]:
    """The challenge's score with interval: strict, by the threshold from validation, and with the published 0.5.

    Args:
        scores ([`TaskScores`]): Of the task `"cinc2021"`, with validation scores.
        num_resamples (`int`): Bootstrap resamples.
        seed (`int`): Of the resamples.

    Raises:
        ValueError: If there are no validation scores, or the score is undefined on them.
    """
    if scores.validation_scores is None or scores.validation_targets is None:
        raise ValueError(f"Scores of '{scores.checkpoint}' have none of validation records to choose a threshold on.")
    chosen = [best_threshold(run, scores.validation_targets, scores.class_names)[0] for run in scores.validation_scores]
    return [
        _result(scores, scores.protocol, chosen, "validation", num_resamples, seed),
        _result(scores, "published", [PUBLISHED_THRESHOLD] * len(chosen), "published", num_resamples, seed),
    ]


def _result(
    scores: TaskScores, protocol: str, thresholds: list[float], origin: str, num_resamples: int, seed: int
) -> EvaluationResult:
    decisions = np.stack([decide(run, threshold) for run, threshold in zip(scores.scores, thresholds, strict=True)])
    patients: Any = None if scores.patients is None else scores.patients.tolist()
    interval = cinc2021_interval(
        decisions, scores.targets, scores.class_names, patients, num_resamples=num_resamples, seed=seed
    )
    has_interval = np.isfinite([interval.low, interval.high]).all()
    return EvaluationResult(
        evaluation=scores.evaluation,
        task=scores.task,
        protocol=protocol,
        metric="cinc2021_score",
        value=interval.value if np.isfinite(interval.value) else None,
        confidence_interval=(interval.low, interval.high) if has_interval else None,
        num_records=len(scores.record_ids),
        num_positives={},
        per_class={},
        per_class_intervals={},
        seed=scores.seed,
        checkpoint=scores.checkpoint,
        data=scores.data,
        prompts=None,
        encoder=scores.encoder,
        num_resamples=num_resamples,
        interval_method=PATIENT_BOOTSTRAP if has_interval else NO_INTERVAL,
        contamination=scores.contamination,
        settings=scores.settings,
        details={**scores.details, "thresholds": thresholds, "thresholds_from": origin},
    )
