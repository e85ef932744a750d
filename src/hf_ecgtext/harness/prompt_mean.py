"""Result lines of the mean over prompt sets, beside those of each set."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN, list_prompt_sets
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.metrics import Metric, auroc, average_precision
from hf_ecgtext.evaluation.statistics.prompt_mean import mean_over_prompt_sets
from hf_ecgtext.harness.summary import provenance

_METRICS: tuple[Metric, ...] = (auroc, average_precision)


def prompt_mean_results(
    scores: Sequence[TaskScores], protocol: EvaluationProtocol, *, seed: int = 0, num_resamples: int = 1000
) -> list[EvaluationResult]:
    """Ranking metrics as means over the library's prompt sets, with intervals.

    Args:
        scores (`Sequence[TaskScores]`): Of one encoder on one task, one per prompt set. Ensembles and files of the user
            do not enter the mean.
        protocol ([`EvaluationProtocol`]): Says which classes count.
        seed (`int`): Of the resamples.
        num_resamples (`int`): The same ones for all runs.

    Returns:
        `list[EvaluationResult]`: With `prompts="mean"`; none of fewer than two sets, or of other answers than
            zero-shot ones.
    """
    packaged = [each.name for each in list_prompt_sets()]
    asked = {each.prompts: each for each in scores if each.evaluation == "zero_shot" and each.prompts in packaged}
    sets = [name for name in packaged if name in asked]
    if len(sets) < 2:
        return []
    first = asked[sets[0]]
    patients = None if first.patients is None else first.patients.tolist()
    per_set = [
        bootstrap_intervals(
            asked[name].scores,
            first.targets,
            patients,
            metrics=_METRICS,
            num_resamples=num_resamples,
            seed=seed,
            num_units=first.num_units,
        )
        for name in sets
    ]
    means = {
        metric.__name__: mean_over_prompt_sets([distributions[metric.__name__] for distributions in per_set])
        for metric in _METRICS
    }
    return [
        EvaluationResult.from_bootstrap(
            distribution,
            list(first.class_names),
            min_positives=least,
            metric=name,
            **{**provenance(first), "prompts": PROMPT_MEAN, "details": {"mean_over": sets}},
        )
        for name, distribution in means.items()
        for least in protocol.min_positives
    ]
