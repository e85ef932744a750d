"""Distribution shift: a classifier of one dataset's classes on the recordings of another.

A source class counts as present in a target recording if any target class that stands for it is
([`~hf_ecgtext.data.label_maps`]). The classifier is never changed: a probe trained on the source, or the prompts of the
source's classes. Each is scored on both sides over the same mapped classes, the source's own test split and the
target's, so that what is lost is the shift and not another classifier (docs/protocols.md, defect 13).

All target records that take part in their own task count, also those without any mapped class; no target record is
used for anything else.

The papers have zero-shot values only. In their columns with CSN as source these equal the plain zero-shot values of the
target: its own prompts, its own classes, nothing mapped. With published maps that is what is computed there, named by
the setting `csn_as_source`; there is no source side, because CSN has no part in it.

Source: C-MELT (arXiv 2410.02131), Table 11 and its shift table; MERL's and DERI's shift tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.label_maps import has_label_map, label_matches, map_targets
from hf_ecgtext.data.tasks import SPLITS
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext, EvaluationOutcome
from hf_ecgtext.evaluation.downstream.zero_shot import (
    has_labelled_records,
    prompt_details,
    prompts_of_task,
    similarities,
)
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.prompts.sets import PromptSet
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.logistic_regression import fit_probe

CLASSIFIERS = ("linear_probe", "zero_shot")

_SPLIT = "test"
_CSN_TASKS = ("csn", "csn_exact", "csn_merl")
_PLAIN_ZERO_SHOT = "plain zero-shot of the target"

Scores = NDArray[np.float32]


def shift_targets(source_task: str, task_names: Iterable[str]) -> tuple[str, ...]:
    """The tasks among some that a map leads to from the source task, sorted."""
    return tuple(sorted(name for name in task_names if has_label_map(source_task, name)))


def usable_classifiers(has_text: bool, protocol: EvaluationProtocol) -> tuple[str, ...]:
    """Which of [`CLASSIFIERS`] an encoder can be evaluated with: probes are converged ones only, prompts need text."""
    usable = {"linear_probe": protocol.probe_solver == "logistic_regression", "zero_shot": has_text}
    return tuple(name for name in CLASSIFIERS if usable[name])


def evaluate(
    runs: EncoderRuns,
    task: EvaluatedTask,
    context: EvaluationContext,
    *,
    classifiers: Sequence[str] | None = None,
) -> EvaluationOutcome:
    """Scores of the source's classifiers on its own test split and on that of every task that a map leads to.

    Args:
        runs ([`EncoderRuns`]): Encoders.
        task ([`EvaluatedTask`]): The source.
        context ([`EvaluationContext`]): Its `other_tasks` are the targets, its `prompt_sets` those of the source.
        classifiers (`Sequence[str]`, *optional*): Of [`CLASSIFIERS`]; all that are usable by default.

    Raises:
        ValueError: If there is no such target or classifier, a probe lacks a split of the source, or labels of a task
            are not those of the map.
    """
    targets = shift_targets(task.name, context.other_tasks)
    if not targets:
        raise ValueError(
            f"No map leads from '{task.name}' to {', '.join(sorted(context.other_tasks)) or 'nothing'}. There are maps "
            "between ptbxl_super, cpsc2018 and csn_exact or csn_merl: add such data, or leave out this source."
        )
    usable = usable_classifiers(runs.has_text, context.protocol)
    asked = usable if classifiers is None else tuple(classifiers)
    if not asked:
        raise ValueError(
            f"'{runs.name}' ({runs.kind}) has no classifier under protocol '{context.protocol.name}': it has no text "
            "tower for zero-shot questions, and the papers have no probes here. Leave it out, or set probe_solver to "
            "logistic_regression."
        )
    if refused := [name for name in asked if name not in usable]:
        raise ValueError(
            f"'{runs.name}' ({runs.kind}) cannot be evaluated by {', '.join(refused)} under protocol "
            f"'{context.protocol.name}'; it can by: {', '.join(usable) or 'nothing'}."
        )
    is_plain = context.protocol.label_map == "as_published" and task.name in _CSN_TASKS
    classifiers_of_source = [_probe(runs, task, context)] if "linear_probe" in asked else []
    if "zero_shot" in asked and not is_plain:
        classifiers_of_source += _zero_shot(runs, task, context)
    scores: list[TaskScores] = []
    for target in (context.other_tasks[name] for name in targets):
        for classifier in classifiers_of_source:
            scores += _both_sides(runs, task, target, classifier, context)
        if "zero_shot" in asked and is_plain:
            scores += [_plain(runs, task, target, own, context) for own in _zero_shot(runs, target, context)]
    return EvaluationOutcome(scores=tuple(scores))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Classifier:
    """A probe or prompts of every encoder of a row.

    Args:
        name (`str`): Of [`CLASSIFIERS`].
        task ([`EvaluatedTask`]): Whose classes it knows, in the order of the labels.
        score (`Callable`): From the records of any task and one of its splits to scores of shape
            `(num_runs, num_records, num_classes)`.
        prompts (`str`, *optional*): Name of the prompt set.
        details (`dict[str, Any]`): For the result lines.
    """

    name: str
    task: EvaluatedTask
    score: Callable[[EvaluatedTask, str], Scores]
    prompts: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def _probe(runs: EncoderRuns, task: EvaluatedTask, context: EvaluationContext) -> _Classifier:
    for split in ("train", "validation"):
        if not has_labelled_records(task, split):
            present = [name for name in SPLITS if has_labelled_records(task, name)]
            raise ValueError(
                f"A probe on '{task.name}' needs labelled records in the {split} split of {task.data.name}, which has "
                f"some only in: {', '.join(present)}. Add records, or ask for classifiers=('zero_shot',)."
            )
    probes = [
        fit_probe(
            features,
            task.records("train").targets,
            validation_features,
            task.records("validation").targets,
            labels=task.labels,
        )
        for features, validation_features in zip(
            context.probe_features(runs, task, "train"), context.probe_features(runs, task, "validation"), strict=True
        )
    ]
    untrained = [label for label, undefined in zip(task.labels, probes[0].undefined, strict=True) if undefined]

    def score(asked: EvaluatedTask, split: str) -> Scores:
        features = context.probe_features(runs, asked, split)
        return np.stack([probe.scores(rows) for probe, rows in zip(probes, features, strict=True)])

    return _Classifier(
        name="linear_probe",
        task=task,
        score=score,
        details={
            "num_train": len(task.records("train")),
            "strengths": [probe.l2_penalty for probe in probes],
            "absent_labels": untrained,
        },
    )


def _zero_shot(runs: EncoderRuns, task: EvaluatedTask, context: EvaluationContext) -> list[_Classifier]:
    def classifier(prompts: PromptSet) -> _Classifier:
        def score(asked: EvaluatedTask, split: str) -> Scores:
            embeds = context.probe_features(runs, asked, split, "ecg_embeds")
            return similarities(context.cache, runs, prompts, embeds)

        return _Classifier(
            name="zero_shot", task=task, score=score, prompts=prompts.name, details=prompt_details(prompts)
        )

    return [classifier(prompts) for prompts in prompts_of_task(task, context.prompt_sets)]


def _both_sides(
    runs: EncoderRuns, source: EvaluatedTask, target: EvaluatedTask, classifier: _Classifier, context: EvaluationContext
) -> list[TaskScores]:
    version = context.protocol.label_map
    mapped_targets, mapped = map_targets(
        target.records(_SPLIT).targets, target.labels, source.name, target.name, version
    )
    if unknown := sorted(set(mapped) - set(source.labels)):
        raise ValueError(
            f"'{source.name}' of {source.data.name} has no class {', '.join(unknown)}, which the map to "
            f"'{target.name}' asks for; its classes are {', '.join(source.labels)}."
        )
    labels = tuple(sorted(mapped))
    matches = label_matches(source.name, target.name, version)
    details = {
        "matches": {label: [match.target for match in matches if match.source == label] for label in labels},
        "broader": sorted({match.source for match in matches if match.relation == "broader"}),
        "unmapped": [label for label in source.labels if label not in mapped],
    }
    columns = [source.labels.index(label) for label in labels]
    sides = (
        ("source", source, source.records(_SPLIT).targets[:, columns]),
        ("target", target, mapped_targets[:, [mapped.index(label) for label in labels]]),
    )
    return [
        _task_scores(
            runs, source, target, classifier, context, side=side, asked=asked, labels=labels, targets=targets,
            details=details,
        )
        for side, asked, targets in sides
    ]  # fmt: skip


def _plain(
    runs: EncoderRuns, source: EvaluatedTask, target: EvaluatedTask, classifier: _Classifier, context: EvaluationContext
) -> TaskScores:
    """What stands for a shift from CSN in the published tables."""
    return _task_scores(
        runs,
        source,
        target,
        classifier,
        context,
        side="target",
        asked=target,
        labels=target.labels,
        targets=target.records(_SPLIT).targets,
        settings={"csn_as_source": _PLAIN_ZERO_SHOT},
    )


def _task_scores(
    runs: EncoderRuns,
    source: EvaluatedTask,
    target: EvaluatedTask,
    classifier: _Classifier,
    context: EvaluationContext,
    *,
    side: str,
    asked: EvaluatedTask,
    labels: tuple[str, ...],
    targets: NDArray[np.int8],
    settings: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> TaskScores:
    records = asked.records(_SPLIT)
    columns = [classifier.task.labels.index(label) for label in labels]
    num_positives = dict(zip(labels, targets.sum(axis=0).tolist(), strict=True))
    # Thresholds are the classifier's own, on both sides: nobody has labelled validation records of the target.
    tuned = classifier.task if has_labelled_records(classifier.task, "validation") else None
    return TaskScores(
        evaluation="distribution_shift",
        task=f"{source.name}->{target.name}",
        protocol=context.protocol.name,
        checkpoint=runs.name,
        encoder=runs.kind,
        class_names=labels,
        record_ids=records.record_ids,
        targets=targets,
        patients=records.patients,
        scores=classifier.score(asked, _SPLIT)[..., columns],
        data=asked.description(_SPLIT),
        validation_targets=None if tuned is None else tuned.records("validation").targets[:, columns],
        validation_scores=None if tuned is None else classifier.score(tuned, "validation")[..., columns],
        score_kind="logit" if classifier.name == "linear_probe" else "similarity",
        prompts=classifier.prompts,
        settings={
            "classifier": classifier.name,
            "target_task": target.name,
            "label_map": context.protocol.label_map,
            "side": side,
            **(settings or {}),
        },
        details={
            **classifier.details,
            **(details or {}),
            "without_mapped_class": int((~targets.any(axis=1)).sum()),
            "no_positives": [label for label, count in num_positives.items() if count == 0],
            "no_negatives": [label for label, count in num_positives.items() if count == len(targets)],
        },
        seed=runs.seed,
        contamination=context.contamination,
    )
