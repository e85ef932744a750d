"""Zero-shot answers as the mean over the prompt sets of the library: what headline tables print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN, list_prompt_sets
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.statistics.intervals import NO_INTERVAL

_METRICS = ("auroc", "average_precision")


def mean_over_prompts(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """One line per zero-shot question: the mean over the library's prompt sets that all encoders have answered.

    Ensembles and files of the user do not enter it. Values are means of values, per class and macro, without intervals:
    those need the resamples ([`~hf_ecgtext.evaluation.statistics.prompt_mean.mean_over_prompt_sets`]). Lines that are
    such means already are taken as they are.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one run, without repetitions.

    Returns:
        `list[EvaluationResult]`: With `prompts="mean"` and the sets in `details["mean_over"]`; none where fewer than
        two sets were asked.
    """
    lines = [
        line
        for line in results
        if line.evaluation == "zero_shot" and line.metric in _METRICS and line.compared_with is None
    ]
    made = [line for line in lines if line.prompts == PROMPT_MEAN]
    ready = {_question(line) for line in made}
    packaged = [each.name for each in list_prompt_sets()]
    questions: dict[tuple[Any, ...], dict[tuple[str, str], dict[str, EvaluationResult]]] = {}
    for line in lines:
        if line.prompts in packaged and _question(line) not in ready:
            encoder = (line.checkpoint, line.encoder)
            questions.setdefault(_question(line), {}).setdefault(encoder, {})[str(line.prompts)] = line
    for encoders in questions.values():
        common = [name for name in packaged if all(name in found for found in encoders.values())]
        if len(common) > 1:
            made += [_mean([found[name] for name in common]) for found in encoders.values()]
    return made


def mean_note(lines: Sequence[EvaluationResult]) -> list[str]:
    """Which sets the means among some lines are over."""
    sets = {", ".join(line.details["mean_over"]): None for line in lines if line.prompts == PROMPT_MEAN}
    return [f"Mean over the prompt sets {' or '.join(sets)}; none was chosen by its score."] if sets else []


def _question(line: EvaluationResult) -> tuple[Any, ...]:
    settings, data = (
        tuple(sorted((name, str(value)) for name, value in each.items())) for each in (line.settings, line.data)
    )
    return line.task, line.protocol, line.metric, line.min_positives, settings, data


def _mean(lines: Sequence[EvaluationResult]) -> EvaluationResult:
    first = lines[0]
    per_class = {label: _average([line.per_class[label] for line in lines]) for label in first.per_class}
    details = {"mean_over": [line.prompts for line in lines]}
    return replace(
        first,
        prompts=PROMPT_MEAN,
        value=_average([line.value for line in lines]),
        confidence_interval=None,
        interval_method=NO_INTERVAL,
        prediction_interval=None,
        run_values=(),
        per_class=per_class,
        per_class_intervals=dict.fromkeys(per_class),
        num_resamples=0,
        num_undefined={},
        spread=None,
        details=details,
    )


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None
