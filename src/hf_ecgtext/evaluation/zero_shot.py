"""Zero-shot classification: a record's score for a class is the cosine of its embedding and the class prompt's.

Protocol `strict` (PAPERS.md, "Evaluation protocols"): macro AUROC and AUPRC over the classes present, with intervals
from a bootstrap over patients, always beside encoders with random weights; nothing is chosen on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.tasks import EcgData, EcgRows
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.features import FeatureCache
from hf_ecgtext.evaluation.frame import CellOutcome, EvaluatedTask, EvaluationContext, TaskScores
from hf_ecgtext.evaluation.frozen_encoders import EncoderRuns, FrozenEncoder
from hf_ecgtext.evaluation.prompt_sets import PromptSet, load_prompt_set, load_prompt_sets
from hf_ecgtext.evaluation.random_encoders import random_encoders, signal_batches
from hf_ecgtext.evaluation.results import NOT_CHECKED, EvaluationResult
from hf_ecgtext.evaluation.scores import ZeroShotScores
from hf_ecgtext.methods.base import EcgTextModel


def evaluate(runs: EncoderRuns, task: EvaluatedTask, context: EvaluationContext) -> CellOutcome:
    """Answer a task zero-shot with each prompt set, from cached embeddings.

    Nothing is fitted or chosen here, so all protocols give the same scores where they prepare the records alike. The
    validation split is answered too, where the data has one with labels of the task: thresholds and calibration come
    from there.

    Args:
        runs ([`EncoderRuns`]): With a text tower.
        task ([`EvaluatedTask`]): What is asked.
        context ([`EvaluationContext`]): Cache, protocol and prompt sets.

    Returns:
        [`CellOutcome`]: One [`TaskScores`] of cosines per prompt set.

    Raises:
        TypeError: An encoder has no text tower.
        PromptError: A prompt set is unknown, or lacks the task or a class of it.
        ValueError: The data has no test split, or none of its records has a label of the task.
    """
    check_has_text(runs)
    prompt_sets = prompts_of_task(task, context.prompt_sets)
    test = task.records("test")
    test_embeds = context.probe_features(runs, task, "test", "ecg_embeds")
    validation, validation_embeds = None, []
    details: dict[str, Any] = {}
    if has_labelled_records(task, "validation"):
        validation = task.records("validation")
        validation_embeds = context.probe_features(runs, task, "validation", "ecg_embeds")
    else:
        details["validation"] = f"no record of a validation split with a label of {task.name}"
    return CellOutcome(
        scores=tuple(
            TaskScores(
                evaluation="zero_shot",
                task=task.name,
                protocol=context.protocol.name,
                checkpoint=runs.name,
                encoder=runs.kind,
                class_names=task.labels,
                record_ids=test.record_ids,
                targets=test.targets,
                patients=test.patients,
                scores=similarities(context.cache, runs, prompts, test_embeds),
                data=task.description("test"),
                validation_targets=None if validation is None else validation.targets,
                validation_scores=(
                    None if validation is None else similarities(context.cache, runs, prompts, validation_embeds)
                ),
                score_kind="similarity",
                prompts=prompts.name,
                details={**prompt_details(prompts), **details},
                seed=runs.seed,
                contamination=context.contamination,
            )
            for prompts in prompt_sets
        )
    )


def prompts_of_task(task: EvaluatedTask, prompt_sets: Sequence[str]) -> list[PromptSet]:
    """The prompt sets of a task, with its classes in the order of their labels.

    Raises:
        PromptError: As [`~hf_ecgtext.evaluation.prompt_sets.load_prompt_sets`].
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
    classes = (cached_class_embeddings(cache, member, prompts.prompts) for member in runs.members)
    return np.stack([ecg @ of_classes.T for ecg, of_classes in zip(ecg_embeds, classes, strict=True)])


def cached_class_embeddings(
    cache: FeatureCache, encoder: FrozenEncoder, prompts: Mapping[str, Sequence[str]]
) -> NDArray[np.float32]:
    """One embedding per class, as `class_embeddings`, from cached text embeddings.

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


@torch.no_grad()
def class_embeddings(model: EcgTextModel, processor: Any, prompts: Mapping[str, Sequence[str]]) -> Tensor:
    """One embedding per class: the mean of its prompts' embeddings, normalised.

    Args:
        model ([`EcgTextModel`]): In `eval()` mode.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Tokenises.
        prompts (`Mapping[str, Sequence[str]]`): Texts by class.

    Returns:
        `torch.Tensor` of shape `(num_classes, projection_dim)`: L2-normalised.
    """
    texts = [text for group in prompts.values() for text in group]
    tokens = processor(text=texts, return_tensors="pt").to(model.device)
    embeds = model.get_text_features(**tokens)
    means = [part.mean(dim=0) for part in embeds.split([len(group) for group in prompts.values()])]
    return F.normalize(torch.stack(means), dim=-1)


@torch.no_grad()
def embed_ecgs(
    models: Sequence[EcgTextModel],
    processor: Any,
    dataset: EcgRows,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress: bool = True,
) -> list[NDArray[np.float32]]:
    """Embed a dataset with several models in one pass over the data.

    Args:
        models (`Sequence[EcgTextModel]`): In `eval()` mode, all reading what `processor` prepares.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Prepares the signals.
        dataset ([`EcgRows`]): Records.
        batch_size (`int`): Records per forward pass.
        num_workers (`int`): Processes that read and prepare.
        show_progress (`bool`): Show a progress bar.

    Returns:
        `list` of `np.ndarray` of shape `(num_records, projection_dim)`, one per model.
    """
    parts: list[list[NDArray[np.float32]]] = [[] for _ in models]
    for batch in signal_batches(processor, dataset, batch_size, num_workers, "Embedding ECGs", show_progress):
        for model, embeds in zip(models, parts, strict=True):
            features = model.get_ecg_features(
                batch["ecg_values"].to(model.device), lead_mask=batch["lead_mask"].to(model.device)
            )
            embeds.append(features.float().cpu().numpy())
    return [np.concatenate(embeds) for embeds in parts]


def zero_shot_scores(
    model: EcgTextModel,
    processor: Any,
    data: EcgData,
    *,
    split: str = "test",
    prompt_sets: Sequence[str] = ("plain",),
    num_random_encoders: int = 5,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress: bool = True,
    contamination: str = NOT_CHECKED,
) -> list[ZeroShotScores]:
    """Answer every task of some data zero-shot; the arguments are those of [`evaluate_zero_shot`].

    Nothing is checked here: `contamination` is noted as [`~hf_ecgtext.evaluation.contamination.check_contamination`]
    returned it.
    """
    dataset = data.split(split)
    if not data.tasks:
        raise ValueError(f"{data.name} has no labels that a task asks for. Evaluate on other data.")
    if num_random_encoders and data.train is None:
        raise ValueError(
            f"{data.name} has no train split here, on which random encoders are calibrated. Set num_random_encoders to "
            "0 (--random-encoders 0)."
        )
    was_training = model.training
    model.eval()
    encoders = [model]
    if num_random_encoders:
        encoders += random_encoders(model, processor, data.split("train"), range(num_random_encoders))
    embeds = embed_ecgs(encoders, processor, dataset, batch_size, num_workers, show_progress)
    patients = _patients(dataset)
    answers = []
    for task in data.tasks:
        targets = task.targets(dataset)
        kept = targets.any(axis=1)
        if not kept.any():
            raise ValueError(f"No record of {data.name}'s {split} split has a label of task '{task.name}'.")
        for prompt_set in prompt_sets:
            prompts = load_prompt_set(task.class_names, prompt_set, task.class_members, task=task.name)
            scores = [
                (ecg @ class_embeddings(encoder, processor, prompts.prompts).float().cpu().numpy().T)[kept]
                for encoder, ecg in zip(encoders, embeds, strict=True)
            ]
            answers.append(
                ZeroShotScores(
                    task=task.name,
                    prompts=prompts.name,
                    class_names=tuple(task.class_names),
                    targets=targets[kept],
                    patients=None if patients is None else patients[kept],
                    trained=scores[0],
                    random=np.stack(scores[1:]) if scores[1:] else np.empty((0, *scores[0].shape), np.float32),
                    data={"name": data.name, "revision": data.revision, "split": split},
                    contamination=contamination,
                )
            )
    model.train(was_training)
    return answers


def evaluate_zero_shot(
    model: EcgTextModel,
    processor: Any,
    data: EcgData,
    *,
    checkpoint: str,
    seed: int,
    num_resamples: int = 1000,
    ledger: TrainingLedger | None = None,
    allow_seen: bool = False,
    **options: Any,
) -> list[EvaluationResult]:
    """Answer every task of some data zero-shot, and say how sure the answer is.

    Records without any label of a task stay out of it, as in the published splits.

    Args:
        model ([`EcgTextModel`]): The trained model.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        data ([`EcgData`]): Splits and tasks; the training split calibrates the random encoders.
        checkpoint (`str`): Name or path, for the result lines.
        seed (`int`): Seed of the training, for the result lines, and of the bootstrap.
        num_resamples (`int`): Bootstrap resamples.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): What the model was trained on, as
            [`~hf_ecgtext.data.ledger.load_ledger`] finds it; without one, the result lines say that it is unknown.
        allow_seen (`bool`): Evaluate on records that were trained on too, and note it in the result lines.
        options: `split` (`"test"` or `"validation"`); `prompt_sets`, names of
            [`~hf_ecgtext.evaluation.prompt_sets.list_prompt_sets`] or JSON files, for all of which the ECGs are
            embedded once; `num_random_encoders`, whose pooled results stand beside the model's; `batch_size`,
            `num_workers` and `show_progress` of the forward passes.

    Returns:
        `list[EvaluationResult]`: Per task: AUROC and average precision, over all classes and over those with at least
        20 positives, of the model and of the random encoders.

    Raises:
        ContaminationError: If records of the split, or of their patients, were trained on.
        ValueError: If the data has no such split or no tasks, no record of the split has a label of some task, or
            there is no training split for the random encoders.
    """
    contamination = check_contamination(
        ledger, data, options.get("split", "test"), checkpoint=checkpoint, allow_seen=allow_seen
    )
    return [
        result
        for scores in zero_shot_scores(model, processor, data, contamination=contamination, **options)
        for result in scores.results(checkpoint=checkpoint, seed=seed, num_resamples=num_resamples)
    ]


def _patients(dataset: EcgRows) -> NDArray[np.object_] | None:
    patients = dataset.column("patient_id")
    if all(patient is None for patient in patients):
        return None
    return np.asarray(patients, dtype=object)
