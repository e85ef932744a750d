"""Zero-shot classification: a record's score for a class is the cosine of its embedding and the class prompt's.

Protocol `strict` (docs/protocols.md): macro AUROC and AUPRC over the classes present, with intervals
from a bootstrap over patients, always beside encoders with random weights; nothing is chosen on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext, EvaluationOutcome, scores_of_test
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, FrozenEncoder
from hf_ecgtext.evaluation.prompts.sets import PromptSet, load_prompt_sets


def evaluate(runs: EncoderRuns, task: EvaluatedTask, context: EvaluationContext) -> EvaluationOutcome:
    """Answer a task zero-shot with each prompt set, from cached embeddings.

    Nothing is fitted or chosen here, so all protocols give the same scores where they prepare the records alike. The
    validation split is answered too, where the data has one with labels of the task: thresholds and calibration come
    from there.

    Args:
        runs ([`EncoderRuns`]): With a text tower.
        task ([`EvaluatedTask`]): What is asked.
        context ([`EvaluationContext`]): Cache, protocol and prompt sets.

    Returns:
        [`EvaluationOutcome`]: One [`TaskScores`] of cosines per prompt set.

    Raises:
        TypeError: An encoder has no text tower.
        PromptError: A prompt set is unknown, or lacks the task or a class of it.
        ValueError: The data has no test split, or none of its records has a label of the task.
    """
    check_has_text(runs)
    prompt_sets = prompts_of_task(task, context.prompt_sets)
    test_embeds = context.probe_features(runs, task, "test", "ecg_embeds")
    validation_embeds: list[NDArray[np.float32]] = []
    details: dict[str, Any] = {}
    if has_labelled_records(task, "validation"):
        validation_embeds = context.probe_features(runs, task, "validation", "ecg_embeds")
    else:
        details["validation"] = f"no record of a validation split with a label of {task.name}"
    return EvaluationOutcome(
        scores=tuple(
            scores_of_test(
                runs,
                task,
                context,
                "zero_shot",
                similarities(context.cache, runs, prompts, test_embeds),
                similarities(context.cache, runs, prompts, validation_embeds) if validation_embeds else None,
                score_kind="similarity",
                prompts=prompts.name,
                details={**prompt_details(prompts), **details},
            )
            for prompts in prompt_sets
        )
    )


def prompts_of_task(task: EvaluatedTask, prompt_sets: Sequence[str]) -> list[PromptSet]:
    """The prompt sets of a task, with its classes in the order of their labels.

    Raises:
        PromptError: As [`~hf_ecgtext.evaluation.prompts.sets.load_prompt_sets`].
    """
    names = {label: task.task.class_names[label] for label in task.labels}
    return load_prompt_sets(names, prompt_sets, task.task.class_members, task=task.name)


def prompt_details(prompts: PromptSet) -> dict[str, Any]:
    """What result lines say about a prompt set: where it is from, and how many texts it has."""
    return {
        "prompts_source": prompts.source,
        "prompts_licence": prompts.licence,
        "num_prompts": sum(len(texts) for texts in prompts.prompts.values()),
    }


def similarities(
    cache: FeatureCache, runs: EncoderRuns, prompts: PromptSet, ecg_embeds: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Cosines of ECG embeddings and class embeddings.

    Args:
        cache ([`FeatureCache`]): Keeps the text embeddings.
        runs ([`EncoderRuns`]): Whose text towers embed the prompts.
        prompts ([`PromptSet`]): Classes and their texts.
        ecg_embeds (`Sequence[np.ndarray]`): Of each member, shape `(num_records, projection_dim)`, L2-normalised.

    Returns:
        `np.ndarray` of shape `(num_members, num_records, num_classes)`: float32.
    """
    classes = (class_embeddings(cache, member, prompts.prompts) for member in runs.members)
    return np.stack([ecg @ of_classes.T for ecg, of_classes in zip(ecg_embeds, classes, strict=True)])


def class_embeddings(
    cache: FeatureCache, encoder: FrozenEncoder, prompts: Mapping[str, Sequence[str]]
) -> NDArray[np.float32]:
    """One embedding per class: the mean of its texts' embeddings, normalised; from the cache.

    Args:
        cache ([`FeatureCache`]): Keeps the text embeddings.
        encoder ([`FrozenEncoder`]): With a text tower.
        prompts (`Mapping[str, Sequence[str]]`): Texts by class.

    Returns:
        `np.ndarray` of shape `(num_classes, projection_dim)`: float32, L2-normalised.

    Raises:
        ValueError: An embedding is NaN or infinite.
    """
    texts = list(dict.fromkeys(text for group in prompts.values() for text in group))
    embeds = np.asarray(cache.texts(encoder, texts), dtype=np.float64)
    if not np.isfinite(embeds).all():
        bad = texts[int(np.flatnonzero(~np.isfinite(embeds).all(axis=1))[0])]
        raise ValueError(f"The embedding of the prompt '{bad}' is NaN or infinite. Look for NaN in the weights.")
    row = {text: place for place, text in enumerate(texts)}
    means = np.stack([embeds[[row[text] for text in group]].mean(axis=0) for group in prompts.values()])
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def check_has_text(runs: EncoderRuns) -> None:
    """Refuse encoders that cannot read prompts.

    Raises:
        TypeError: An encoder has no text tower.
    """
    if not runs.has_text:
        raise TypeError(
            f"'{runs.name}' ({runs.kind}) has no text tower, so it has no zero-shot answers. Evaluate it with a linear "
            "probe."
        )


def has_labelled_records(task: EvaluatedTask, split: str) -> bool:
    """Whether the data has this split, with records that have a label of the task."""
    rows = getattr(task.data, split)
    return rows is not None and len(rows) > 0 and bool(task.task.targets(rows).any())
