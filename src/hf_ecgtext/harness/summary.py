"""Result lines from scores: metrics with intervals, decisions at thresholds, calibration, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.bootstrap import BootstrapDistribution, bootstrap_intervals, paired_difference
from hf_ecgtext.evaluation.frame import TaskScores
from hf_ecgtext.evaluation.metrics import Metric, auroc, average_precision, macro
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult

_MIN_RESAMPLES_PER_RUN = 100


def task_results(
    scores: TaskScores, protocol: EvaluationProtocol, *, seed: int = 0, num_resamples: int = 1000
) -> list[EvaluationResult]:
    """AUROC and average precision with intervals, over all classes and over the frequent ones.

    Args:
        scores ([`TaskScores`]): Of one or several runs; a value is the mean over the runs, `spread` their standard
            deviation, and the interval pools resamples of all runs.
        protocol ([`EvaluationProtocol`]): Says which classes count.
        seed (`int`): Of the resamples.
        num_resamples (`int`): Over all runs together, but at least 100 of each.
    """
    distributions = bootstrap_intervals(
        scores.scores,
        scores.targets,
        _patients(scores),
        num_resamples=_resamples_per_run(num_resamples, len(scores.scores)),
        seed=seed,
    )
    metrics: tuple[Metric, ...] = (auroc, average_precision)
    per_run = {metric.__name__: [metric(run, scores.targets) for run in scores.scores] for metric in metrics}
    return [
        EvaluationResult.from_bootstrap(
            distribution,
            list(scores.class_names),
            min_positives=min_positives,
            metric=name,
            spread=_spread(per_run[name], distribution, min_positives),
            **provenance(scores),
        )
        for name, distribution in distributions.items()
        for min_positives in protocol.min_positives
    ]


def difference_results(
    scores: TaskScores,
    reference: TaskScores,
    protocol: EvaluationProtocol,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
) -> list[EvaluationResult]:
    """How much better one encoder is than another on the same records and resamples.

    Raises:
        ValueError: If the two are not about the same question.
    """
    check_comparable(scores, reference)
    distributions = paired_difference(
        scores.scores,
        reference.scores,
        scores.targets,
        _patients(scores),
        num_resamples=_resamples_per_run(num_resamples, len(scores.scores) * len(reference.scores)),
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
            **{**provenance(scores), "contamination": contamination},
        )
        for name, distribution in distributions.items()
        for min_positives in protocol.min_positives
    ]


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


def _patients(scores: TaskScores) -> Sequence[object] | None:
    return None if scores.patients is None else scores.patients.tolist()


def _resamples_per_run(num_resamples: int, num_runs: int) -> int:
    return max(_MIN_RESAMPLES_PER_RUN, -(-num_resamples // num_runs)) if num_runs > 1 else num_resamples


def _spread(
    per_run: Sequence[NDArray[np.float64]], distribution: BootstrapDistribution, min_positives: int
) -> float | None:
    values = [float(macro(values, distribution.num_positives, min_positives)) for values in per_run]
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return float(np.std(values, ddof=1))
