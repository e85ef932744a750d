"""The supervised baseline: one network per dataset, trained here from scratch (docs/protocols.md, defect 15)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from transformers import PretrainedConfig

from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.finetuning.classifier import EcgForClassification
from hf_ecgtext.finetuning.finetune import finetune, finetuning_identity
from hf_ecgtext.finetuning.labelled_records import LabelProblem, Preparation
from hf_ecgtext.finetuning.recipes import FinetuningRecipe, get_finetuning_recipe
from hf_ecgtext.io import hash_of_json
from hf_ecgtext.processing import EcgFeatureExtractor


def supervised_scores(
    data: EcgData,
    tasks: Sequence[EvaluatedTask],
    feature_extractor: EcgFeatureExtractor,
    encoder_config: PretrainedConfig,
    cache_folder: str | Path,
    seed: int = 0,
    *,
    recipe: FinetuningRecipe | str = "from_scratch",
    protocol: str = STRICT.name,
    long_records: str = "whole",
    show_progress: bool = True,
) -> dict[str, TaskScores]:
    """Answers of a network that learnt all tasks of some data at once, on their test and validation records.

    A record teaches the classes of those tasks in which it takes part. The epoch is chosen by the mean over the tasks
    of the validation macro AUROC. Networks are kept: a second call with the same arguments loads.

    Args:
        data ([`~hf_ecgtext.data.tasks.EcgData`]): What the tasks are on.
        tasks (`Sequence[EvaluatedTask]`): One or more; their order does not matter.
        feature_extractor ([`~hf_ecgtext.processing.EcgFeatureExtractor`]): Prepares the signals.
        encoder_config (`PreTrainedConfig`): Of the ECG encoder.
        cache_folder (`str` or `Path`): Where networks are kept, each in a folder named by a hash of what decides it.
        seed (`int`): Of weights and order.
        recipe ([`FinetuningRecipe`] or `str`): How long and how fast.
        protocol (`str`): Name for the scores.
        long_records (`str`): As in [`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`].
        show_progress (`bool`): Show progress bars and the Trainer's log.

    Returns:
        `dict[str, TaskScores]` by name of the task: `encoder="supervised"`, `evaluation="supervised"`.

    Raises:
        ValueError: As [`~hf_ecgtext.finetuning.finetune.finetune`].
    """
    recipe = get_finetuning_recipe(recipe) if isinstance(recipe, str) else recipe
    ordered = sorted((EvaluatedTask(data, task.task) for task in tasks), key=lambda task: task.name)
    problem = LabelProblem(tuple(ordered))
    model = EcgForClassification.from_scratch(encoder_config, problem.labels, seed, recipe.classifier_dropout)
    preparation = Preparation.of(feature_extractor, None, long_records)
    identity = finetuning_identity(model, preparation, problem, recipe, None, seed)
    key = hash_of_json(identity)[:32]
    folder = Path(cache_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock"):
        outcome = finetune(
            model,
            feature_extractor,
            problem.tasks,
            folder / key,
            checkpoint=f"supervised {encoder_config.model_type}",
            recipe=recipe,
            seed=seed,
            resume=True,
            allow_seen=True,  # the splits are the data's own; result lines say what they share
            evaluation="supervised",
            encoder="supervised",
            long_records=long_records,
            settings={"fraction": 1.0},
            show_progress=show_progress,
        )
    return {name: dataclasses.replace(scores, protocol=protocol) for name, scores in outcome.scores.items()}
