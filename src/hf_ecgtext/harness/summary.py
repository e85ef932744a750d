"""Result lines from scores: metrics with intervals, decisions at thresholds, calibration, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.bootstrap import (
    BootstrapDistribution,
    bootstrap_intervals,
    paired_difference,
    resamples_per_run,
)
from hf_ecgtext.evaluation.statistics.calibration import calibrate
from hf_ecgtext.evaluation.statistics.calibration_metrics import brier_score, ece_equal_mass
from hf_ecgtext.evaluation.statistics.metrics import Metric, auroc, average_precision, macro
from hf_ecgtext.evaluation.statistics.permutation import permutation_test
from hf_ecgtext.evaluation.statistics.thresholds import ThresholdMetric, task_thresholds

_DECISIONS: tuple[ThresholdMetric, ...] = ("f1", "sensitivity", "specificity", "accuracy")
_CALIBRATION: tuple[Any, ...] = (brier_score, ece_equal_mass)


def task_results(
    scores: TaskScores, protocol: EvaluationProtocol, *, seed: int = 0, num_resamples: int = 1000
) -> list[EvaluationResult]:
    """Ranking metrics over all classes and over the frequent ones, decisions at thresholds, and calibration.

    Decisions and calibration need scores of the validation split, and are left out where there are none; with
    thresholds from the test split, as published, decisions need none.

    Args:
        scores ([`TaskScores`]): Of one or several runs; a value is the mean over the runs, `spread` their standard
            deviation, and the interval pools resamples of all runs.
        protocol ([`EvaluationProtocol`]): Says which classes count and where thresholds come from.
        seed (`int`): Of the resamples.
        num_resamples (`int`): Over all runs together, but at least 100 of each.
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
            lines += _lines(scores, margins, [metric], (1,), details, **settings)
    if scores.validation_scores is not None:
        calibration = calibrate(scores)
        before = {name: value for name, value in calibration.pooled().items() if name.endswith("_before")}
        details = {**calibration.details(), **before}
        lines += _lines(scores, calibration.after, _CALIBRATION, (1,), details, **settings)
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
        num_resamples=resamples_per_run(num_resamples, len(runs)),
        seed=seed,
    )
    per_run = {metric.__name__: [metric(run, scores.targets) for run in runs] for metric in metrics}
    common = provenance(scores)
    common["details"] = {**common["details"], **details}
    return [
        EvaluationResult.from_bootstrap(
            distribution,
            list(scores.class_names),
            min_positives=least,
            metric=name,
            spread=_spread(per_run[name], distribution, least),
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
    """How much better one encoder is than another on the same records and resamples, run by run.

    The p values of AUROC are those of a two-sided permutation test that swaps whole patients; average precision has
    none.

    Raises:
        ValueError: If the two are not about the same question.
    """
    check_comparable(scores, reference)
    pair_runs = len(scores.scores) == len(reference.scores)  # draws do not depend on the encoder
    num_pairs = len(scores.scores) * (1 if pair_runs else len(reference.scores))
    distributions = paired_difference(
        scores.scores,
        reference.scores,
        scores.targets,
        _patients(scores),
        num_resamples=resamples_per_run(num_resamples, num_pairs),
        seed=seed,
        pair_runs=pair_runs,
    )
    test = permutation_test(
        scores.scores,
        reference.scores,
        scores.targets,
        _patients(scores),
        num_permutations=num_permutations(num_resamples),
        seed=seed,
    )
    contamination = scores.contamination
    if reference.contamination != contamination:
        contamination = f"{contamination}; '{reference.checkpoint}': {reference.contamination}"
    return [
        EvaluationResult.from_bootstrap(
            distribution,
            list(scores.class_names),
            min_positives=min_positives,
            metric=name,
            compared_with=reference.checkpoint,
            p_value=_number(test.macro_p_value(min_positives)) if name == auroc.__name__ else None,
            **{**provenance(scores), "contamination": contamination},
        )
        for name, distribution in distributions.items()
        for min_positives in protocol.min_positives
    ]


def num_permutations(num_resamples: int) -> int:
    """Permutations of a test: ten per resample, so that the smallest p survives Holm's correction of a large family."""
    return 10 * num_resamples - 1


def check_comparable(scores: TaskScores, reference: TaskScores) -> None:
    """Refuse to pair scores of other questions.

    Raises:
        ValueError: If records, classes, targets or settings differ.
    """
    for name in ("evaluation", "task", "protocol", "prompts", "settings", "data", "class_names", "record_ids"):
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


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _patients(scores: TaskScores) -> Sequence[object] | None:
    return None if scores.patients is None else scores.patients.tolist()


def _spread(
    per_run: Sequence[NDArray[np.float64]], distribution: BootstrapDistribution, min_positives: int
) -> float | None:
    values = [float(macro(values, distribution.num_positives, min_positives)) for values in per_run]
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return float(np.std(values, ddof=1))
