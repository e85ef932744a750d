"""Zero-shot classification of records with one label: the class of the highest cosine, as ETP evaluates.

ETP (arXiv 2309.07145) keeps the records with exactly one label of the task, prompts with its own sentence, and gives
AUC, ACC and F1 per class. Its ACC is the one-vs-rest accuracy of each class, which is high for a rare class whatever
the answer: a record that is neither of the class nor taken for it counts as right. `top1_accuracy`, the share of
records whose class is found, therefore stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext, EvaluationOutcome
from hf_ecgtext.evaluation.downstream.zero_shot import check_has_text, prompt_details, prompts_of_task, similarities
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals, resample_weights
from hf_ecgtext.evaluation.statistics.intervals import PATIENT_BOOTSTRAP, percentile_interval, prediction_interval
from hf_ecgtext.evaluation.statistics.metrics import (
    Metric,
    auroc,
    single_label_records,
    top1_accuracy,
    top1_class_accuracy,
    top1_f1,
)

PROMPT_SET = "etp"

_CLASS_METRICS: tuple[Metric, ...] = (auroc, top1_class_accuracy, top1_f1)
_CONFIDENCE = 0.95


def evaluate(runs: EncoderRuns, task: EvaluatedTask, context: EvaluationContext) -> EvaluationOutcome:
    """Classify the test records that have exactly one label of the task.

    All classes of the task stand for choice, those without a single-label record too: they can only be wrong. They
    have no value of their own and are named in `details`.

    Args:
        runs ([`EncoderRuns`]): With a text tower. Of several, values are their means.
        task ([`EvaluatedTask`]): What is asked.
        context ([`EvaluationContext`]): Cache, protocol, seed, and the prompt sets that are asked for beside ETP's.

    Returns:
        [`EvaluationOutcome`]: Result lines: `auroc`, `top1_class_accuracy` (ETP's ACC) and `top1_f1` per class and
        averaged, and `top1_accuracy` of all records.

    Raises:
        TypeError: An encoder has no text tower.
        PromptError: A prompt set is unknown, or lacks the task or a class of it.
        ValueError: The data has no test split, or no record of it has exactly one label of the task.

    Source: ETP, arXiv 2309.07145, zero-shot classification.
    """
    check_has_text(runs)
    test = task.records("test")
    kept = single_label_records(test.targets)
    if not kept.any():
        raise ValueError(
            f"No record of {task.data.name}'s test split has exactly one label of task '{task.name}', so none can be "
            "right or wrong by its one class. Leave out the evaluation single_label for this task."
        )
    targets = test.targets[kept]
    patients = None if test.patients is None else test.patients[kept].tolist()
    ecg_embeds = [embeds[kept] for embeds in context.probe_features(runs, task, "test", "ecg_embeds")]
    absent = [label for label, count in zip(task.labels, targets.sum(axis=0), strict=True) if count == 0]
    results: list[EvaluationResult] = []
    for prompts in prompts_of_task(task, list(dict.fromkeys((PROMPT_SET, *context.prompt_sets)))):
        scores = similarities(context.cache, runs, prompts, ecg_embeds)
        provenance = {
            "evaluation": "single_label",
            "task": task.name,
            "protocol": context.protocol.name,
            "num_records": len(targets),
            "seed": runs.seed,
            "checkpoint": runs.name,
            "data": task.description("test"),
            "prompts": prompts.name,
            "encoder": runs.kind,
            "contamination": context.contamination,
            "details": {
                **prompt_details(prompts),
                "records_with_several_labels": int((~kept).sum()),
                "classes_without_single_label_record": absent,
            },
        }
        results += _class_results(scores, targets, patients, task.labels, context, provenance)
        results.append(_accuracy_result(scores, targets, patients, context, provenance))
    return EvaluationOutcome(results=tuple(results))


def _class_results(
    scores: NDArray[np.float32],
    targets: NDArray[np.int8],
    patients: list[object] | None,
    labels: Sequence[str],
    context: EvaluationContext,
    provenance: dict[str, Any],
) -> list[EvaluationResult]:
    distributions = bootstrap_intervals(
        scores,
        targets,
        patients,
        _CLASS_METRICS,
        context.num_resamples,
        _CONFIDENCE,
        context.seed,
    )
    return [
        EvaluationResult.from_bootstrap(
            distributions[metric.__name__],
            list(labels),
            min_positives=min_positives,
            metric=metric.__name__,
            **provenance,
        )
        for metric in _CLASS_METRICS
        for min_positives in context.protocol.min_positives
    ]


def _accuracy_result(
    scores: NDArray[np.float32],
    targets: NDArray[np.int8],
    patients: list[object] | None,
    context: EvaluationContext,
    provenance: dict[str, Any],
) -> EvaluationResult:
    """The one metric that has no classes."""
    weights = resample_weights(len(targets), patients, context.num_resamples, context.seed)
    accuracy: Callable[..., ArrayLike] = top1_accuracy
    per_run = np.array([float(np.asarray(accuracy(run, targets))) for run in scores])
    resamples = np.mean([np.asarray(accuracy(run, targets, weights)) for run in scores], axis=0)
    interval = percentile_interval(float(per_run.mean()), resamples, _CONFIDENCE)
    prediction = prediction_interval(per_run, resamples, _CONFIDENCE)
    return EvaluationResult(
        metric="top1_accuracy",
        value=interval.value,
        confidence_interval=(interval.low, interval.high),
        interval_method=PATIENT_BOOTSTRAP,
        prediction_interval=None if prediction is None else (max(prediction[0], 0.0), min(prediction[1], 1.0)),
        num_positives={},
        per_class={},
        per_class_intervals={},
        confidence=_CONFIDENCE,
        num_resamples=len(resamples),
        run_values=tuple(per_run.tolist()) if len(per_run) > 1 else (),
        spread=float(per_run.std(ddof=1)) if len(per_run) > 1 else None,
        **provenance,
    )
