"""Result lines of the mean over prompt sets, beside those of each set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN, list_prompt_sets
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals, resamples_per_run
from hf_ecgtext.evaluation.statistics.metrics import Metric, auroc, average_precision, macro
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
        num_resamples (`int`): Over all runs together, but at least 100 of each.

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
            num_resamples=resamples_per_run(num_resamples, len(first.scores)),
            seed=seed,
        )
        for name in sets
    ]
    results = []
    for metric in _METRICS:
        distribution = mean_over_prompt_sets([distributions[metric.__name__] for distributions in per_set])
        runs = np.mean([[metric(run, first.targets) for run in asked[name].scores] for name in sets], axis=0)
        for least in protocol.min_positives:
            values = macro(runs, distribution.num_positives, least)
            has_spread = len(runs) > 1 and bool(np.isfinite(values).all())
            results.append(
                EvaluationResult.from_bootstrap(
                    distribution,
                    list(first.class_names),
                    min_positives=least,
                    metric=metric.__name__,
                    spread=float(np.std(values, ddof=1)) if has_spread else None,
                    **{**provenance(first), "prompts": PROMPT_MEAN, "details": {"mean_over": sets}},
                )
            )
    return results
