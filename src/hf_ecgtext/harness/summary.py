"""Result lines from scores: metrics with intervals, decisions at thresholds, calibration, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores, joined_contamination
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.calibration import calibrate
from hf_ecgtext.evaluation.statistics.calibration_metrics import brier_score, ece_equal_mass
from hf_ecgtext.evaluation.statistics.intervals import PATIENT_PERMUTATION
from hf_ecgtext.evaluation.statistics.metrics import HEADLINE_MIN_POSITIVES, Metric, auroc, average_precision
from hf_ecgtext.evaluation.statistics.permutation import paired_difference
from hf_ecgtext.evaluation.statistics.thresholds import ThresholdMetric, task_thresholds

_DECISIONS: tuple[ThresholdMetric, ...] = ("f1", "sensitivity", "specificity", "accuracy")
_CALIBRATION: tuple[Any, ...] = (brier_score, ece_equal_mass)
_LESS = (HEADLINE_MIN_POSITIVES, 1)
"""Decisions and calibration are summarised for the headline's classes, and for all."""


def task_results(
    scores: TaskScores, protocol: EvaluationProtocol, *, seed: int = 0, num_resamples: int = 1000
) -> list[EvaluationResult]:
    """Ranking metrics over all classes and over the frequent ones, decisions at thresholds, and calibration.

    Decisions and calibration need scores of the validation split, and are left out where there are none; with
    thresholds from the test split, as published, decisions need none.

    Args:
        scores ([`TaskScores`]): Of one or several runs; a value is the mean over the runs, and the interval is of
            that mean.
        protocol ([`EvaluationProtocol`]): Says which classes count and where thresholds come from.
        seed (`int`): Of the resamples.
        num_resamples (`int`): The same ones for all runs.
    """
    settings: dict[str, Any] = {"seed": seed, "num_resamples": num_resamples}
    lines = _lines(scores, scores.scores, (auroc, average_precision), protocol.min_positives, {}, **settings)
    if protocol.thresholds == "test" or scores.validation_scores is not None:
        thresholds = task_thresholds(scores, protocol.thresholds)
        margins = thresholds.margins(scores.scores)
        for metric in thresholds.metrics(_DECISIONS):
            # The thresholds are the same for all; the lines of F1 hold them.
            is_f1 = metric.__name__ == _DECISIONS[0]
            details = thresholds.details(scores.class_names) if is_f1 else {"thresholds_from": thresholds.split}
            lines += _lines(scores, margins, [metric], _LESS, details, **settings)
    if scores.validation_scores is not None:
        calibration = calibrate(scores)
        before = {name: value for name, value in calibration.pooled().items() if name.endswith("_before")}
        details = {**calibration.details(), **before}
        lines += _lines(scores, calibration.after, _CALIBRATION, _LESS, details, **settings)
    return lines


def _lines(
    scores: TaskScores,
    runs: NDArray[np.floating],
    metrics: Sequence[Metric],
    min_positives: Sequence[int],
    details: dict[str, Any],
    *,
    seed: int,
    num_resamples: int,
) -> list[EvaluationResult]:
    distributions = bootstrap_intervals(
        runs,
        scores.targets,
        _patients(scores),
        metrics=metrics,
        num_resamples=num_resamples,
        seed=seed,
        num_units=scores.num_units,
    )
    common = provenance(scores)
    common["details"] = {**common["details"], **details}
    return [
        EvaluationResult.from_bootstrap(
            distribution,
            list(scores.class_names),
            min_positives=least,
            metric=name,
            **common,
        )
        for name, distribution in distributions.items()
        for least in min_positives
    ]


def difference_results(
    scores: TaskScores,
    reference: TaskScores,
    protocol: EvaluationProtocol,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
) -> list[EvaluationResult]:
    """How much better one encoder is than another on the same records, run by run.

    Interval and p value are those of one two-sided permutation test that swaps whole patients, so that they agree.

    Raises:
        ValueError: If the two are not about the same question.
    """
    check_comparable(scores, reference)
    differences = paired_difference(
        scores.scores,
        reference.scores,
        scores.targets,
        _patients(scores),
        num_permutations=num_permutations(num_resamples),
        seed=seed,
    )
    common = {
        **provenance(scores),
        "contamination": joined_contamination(scores, reference),
        "compared_with": reference.checkpoint,
        "compared_encoder": reference.encoder,
        "interval_method": PATIENT_PERMUTATION,
    }
    return [
        EvaluationResult.from_difference(
            difference, list(scores.class_names), min_positives=min_positives, metric=name, **common
        )
        for name, difference in differences.items()
        for min_positives in protocol.min_positives
    ]


def num_permutations(num_resamples: int) -> int:
    """Permutations of a test: two per resample, so that the smallest p survives Holm's correction of 100 tests."""
    return 2 * num_resamples - 1


def check_comparable(scores: TaskScores, reference: TaskScores) -> None:
    """Refuse to pair scores of other questions.

    Raises:
        ValueError: If records, classes, targets or settings differ.
    """
    question = ("evaluation", "prompts", "settings") if reference.evaluation != "supervised" else ()
    for name in (*question, "task", "protocol", "data", "class_names", "record_ids"):
        if getattr(scores, name) != getattr(reference, name):
            raise ValueError(
                f"'{scores.checkpoint}' and '{reference.checkpoint}' cannot be paired on '{scores.task}': their {name} "
                "differ."
            )
    if not np.array_equal(scores.targets, reference.targets):
        raise ValueError(
            f"The targets of '{scores.checkpoint}' and '{reference.checkpoint}' on '{scores.task}' differ."
        )


def provenance(scores: TaskScores) -> dict[str, Any]:
    """The fields of a result line that its scores know."""
    return {
        "evaluation": scores.evaluation,
        "task": scores.task,
        "protocol": scores.protocol,
        "num_records": len(scores.record_ids),
        "seed": scores.seed,
        "checkpoint": scores.checkpoint,
        "data": scores.data,
        "prompts": scores.prompts,
        "encoder": scores.encoder,
        "contamination": scores.contamination,
        "settings": scores.settings,
        "details": scores.details,
    }


def _patients(scores: TaskScores) -> Sequence[object] | None:
    return None if scores.patients is None else scores.patients.tolist()
