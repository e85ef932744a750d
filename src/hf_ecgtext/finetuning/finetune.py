"""Fine-tuning of a whole ECG encoder on labels, from a trained model to scores of test records."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.ledger import TRAINING_SPLIT, TrainingLedger
from hf_ecgtext.data.tasks import SPLITS
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.encoders.frozen import hash_weights
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.scores import Encoder, TaskScores
from hf_ecgtext.finetuning.classifier import EcgForClassification
from hf_ecgtext.finetuning.labelled_records import LabelProblem, Preparation, task_part
from hf_ecgtext.finetuning.lead_subsets import lead_subset
from hf_ecgtext.finetuning.lora import LoraSettings, add_adapters, merge_adapters
from hf_ecgtext.finetuning.prediction import predict_logits
from hf_ecgtext.finetuning.recipes import FinetuningRecipe, get_finetuning_recipe
from hf_ecgtext.finetuning.selection import selection_score
from hf_ecgtext.finetuning.trainer import FinetuningTrainer, StopWithoutProgress, validation_scores
from hf_ecgtext.io import full_disk_named, written_whole
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor
from hf_ecgtext.training import EcgTextTrainingArguments
from hf_ecgtext.training.checkpoints import last_complete_checkpoint, last_intact_checkpoint
from hf_ecgtext.training.output_lock import found_by_main_process

logger = logging.getLogger(__name__)

ALL_LEADS = 12
_VERSION = 1
_SETTINGS_FILE = "finetuning_settings.json"
_DONE_FILE = "finetuning.json"


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What a fine-tuning gave.

    Args:
        model ([`EcgForClassification`]): Of the best epoch, in `eval()` mode, adapters merged.
        preparation ([`Preparation`]): From recordings to its input.
        scores (`dict[str, TaskScores]`): By task: logits of the test records, and of the validation records.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`]): What it was trained on, before and now.
        folder (`Path`): Where model, extractor, ledger and scores are saved.
    """

    model: EcgForClassification
    preparation: Preparation
    scores: dict[str, TaskScores]
    ledger: TrainingLedger
    folder: Path


def finetune(
    model: EcgTextModel | EcgForClassification,
    processor: EcgTextProcessor | EcgFeatureExtractor,
    tasks: EvaluatedTask | Sequence[EvaluatedTask],
    output_dir: str | Path,
    *,
    checkpoint: str,
    recipe: FinetuningRecipe | str = "default",
    leads: int = ALL_LEADS,
    lora: LoraSettings | None = None,
    seed: int = 0,
    resume: bool = False,
    allow_seen: bool = False,
    evaluation: str = "finetune",
    encoder: Encoder = "trained",
    protocol: str = STRICT.name,
    long_records: str = "whole",
    settings: dict[str, Any] | None = None,
    show_progress: bool = True,
) -> Finetuned:
    """Train an encoder and a new head on the training split, keep the best epoch by validation, and score the test.

    The scores are logits. Training reads of a record longer than the model's input what the processor's `crop` says;
    validation and test read all of it. A killed run goes on with `resume=True`, and ends as if nothing had happened.
    The Trainer's checkpoints are deleted at the end.

    Args:
        model ([`EcgTextModel`] or [`EcgForClassification`]): Where to start: a method's model, which is left as it is;
            or a classifier of the tasks' classes, which is trained itself.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`] or [`~hf_ecgtext.processing.EcgFeatureExtractor`]): Of
            the model.
        tasks ([`EvaluatedTask`] or several): What to learn; several tasks on the same data share the network, and each
            record teaches those in which it takes part.
        output_dir (`str` or `Path`): For checkpoints, model, extractor, ledger and scores.
        checkpoint (`str`): Name of the model, for result lines.
        recipe ([`FinetuningRecipe`] or `str`): How long and how fast.
        leads (`int`): 12, 6, 3, 2 or 1; see [`~hf_ecgtext.finetuning.lead_subsets.LEAD_SUBSETS`].
        lora ([`LoraSettings`], *optional*): Train low-rank adapters and the head only; they are merged at the end.
        seed (`int`): Of head, adapters, dropout and order.
        resume (`bool`): Go on with, or load, what is in `output_dir`; it must be of the same settings.
        allow_seen (`bool`): Score test records even if the model was trained on them; results say so.
        evaluation, encoder, protocol (`str`): For the scores, as in [`TaskScores`].
        long_records (`str`): As in [`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`].
        settings (`dict`, *optional*): Of the scores, in place of leads, LoRA and recipe.
        show_progress (`bool`): Show progress bars and the Trainer's log.

    Raises:
        ContaminationError: If the model has seen test records.
        FileExistsError: If `output_dir` holds another fine-tuning, and `resume` is `False`.
        ValueError: If a split is empty, no class of the validation split has both positive and negative records, or
            what is to be resumed had other settings.
    """
    recipe = get_finetuning_recipe(recipe) if isinstance(recipe, str) else recipe
    problem = LabelProblem((tasks,) if isinstance(tasks, EvaluatedTask) else tuple(tasks))
    preparation = Preparation.of(processor, None if leads == ALL_LEADS else lead_subset(leads), long_records)
    if isinstance(model, EcgForClassification):
        if model.config.labels != problem.labels:
            raise ValueError(f"The classifier knows other classes than the tasks: {', '.join(model.config.labels)}.")
        classifier = model
    else:
        classifier = EcgForClassification.from_ecg_text_model(model, problem.labels, seed, recipe.classifier_dropout)
    classifier.config.leads = preparation.leads
    folder = Path(output_dir)
    identity = finetuning_identity(classifier, preparation, problem, recipe, lora, seed)
    _check_folder(folder, identity, resume)

    if not (resume and (folder / _DONE_FILE).is_file()):
        trainer, splits = _build_trainer(classifier, preparation, problem, recipe, lora, seed, folder, show_progress)
        contamination = check_contamination(
            trainer.ledger, problem.data, "test", checkpoint=checkpoint, allow_seen=allow_seen
        )
        _train(trainer, folder if resume else None, recipe.patience)
        best = trainer.model if lora is None else merge_adapters(trainer.model)
        with full_disk_named(folder, "Make room, then run the same command again with --resume"):
            best.save_pretrained(folder)
            preparation.extractor.save_pretrained(folder)
        trainer.ledger.save(folder)
        per_epoch = validation_scores(trainer.state)
        details = {
            "epochs": len(per_epoch),
            "best_epoch": int(np.argmax(per_epoch)) + 1,
            "selected_by": f"validation {splits.metric}",
            "validation_score": max(per_epoch),
            "train_records": len(splits.train.record_ids),
        }
        logits = {
            split: (
                labelled.record_ids,
                predict_logits(best, preparation, labelled.rows, title=split, show_progress=show_progress),
            )
            for split, labelled in (("validation", splits.validation), ("test", splits.test))
        }
        if settings is None:
            settings = {"leads": leads, "lora": lora is not None, "recipe": recipe.name}
        for task in problem.tasks:
            _task_scores(
                problem,
                task,
                logits,
                evaluation=evaluation,
                encoder=encoder,
                protocol=protocol,
                checkpoint=checkpoint,
                seed=seed,
                contamination=contamination,
                settings=settings,
                details=details,
            ).save(_scores_file(folder, task))
        with written_whole(folder / _DONE_FILE) as file:
            file.write_text(json.dumps({**details, "scores_per_epoch": per_epoch}, indent=1) + "\n")
        for checkpoint_folder in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint_folder)
    return Finetuned(
        model=EcgForClassification.from_pretrained(folder).eval(),
        preparation=preparation,
        scores={task.name: TaskScores.load(_scores_file(folder, task)) for task in problem.tasks},
        ledger=TrainingLedger.load(folder),
        folder=folder,
    )


@dataclass(frozen=True, eq=False)
class _Splits:
    train: Any
    validation: Any
    test: Any
    metric: str


def _build_trainer(
    classifier: EcgForClassification,
    preparation: Preparation,
    problem: LabelProblem,
    recipe: FinetuningRecipe,
    lora: LoraSettings | None,
    seed: int,
    folder: Path,
    show_progress: bool,
) -> tuple[FinetuningTrainer, _Splits]:
    train, validation, test = (problem.split(name) for name in SPLITS)
    metric, score = selection_score(problem, validation)
    arguments = EcgTextTrainingArguments(
        **{
            "per_device_eval_batch_size": 64,
            "logging_strategy": "epoch",
            "save_total_limit": 1,
            "dataloader_drop_last": False,  # a mean over records is fair whatever their number
            "disable_tqdm": not show_progress,
            **recipe.training,
            "output_dir": str(folder),
            "seed": seed,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "score",
            "greater_is_better": True,
            "text_cache": False,
        }
    )
    data = problem.data
    ledger = TrainingLedger.of_splits(
        data.name, data.revision, {TRAINING_SPLIT: train.rows, "validation": validation.rows}
    )
    trainer = FinetuningTrainer(
        classifier if lora is None else add_adapters(classifier, lora, seed),
        arguments,
        preparation,
        train,
        validation,
        score,
        recipe.patience,
        ledger,
    )
    return trainer, _Splits(train, validation, test, metric)


def _train(trainer: FinetuningTrainer, resumed_folder: Path | None, patience: int) -> None:
    checkpoint = None
    if resumed_folder is not None:
        checkpoint = found_by_main_process(lambda: last_intact_checkpoint(resumed_folder))
    if checkpoint is not None:
        state = type(trainer.state).load_from_json(str(checkpoint / "trainer_state.json"))
        if StopWithoutProgress(patience).is_exhausted(state):  # it was killed after its last epoch
            trainer.args.max_steps = state.global_step
        logger.info("Going on from %s.", checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _task_scores(
    problem: LabelProblem, task: EvaluatedTask, logits: dict[str, tuple[tuple[str, ...], NDArray]], **provenance: Any
) -> TaskScores:
    test, validation = task.records("test"), task.records("validation")
    scores = {
        split: task_part(records, *logits[split], problem.columns(task))
        for split, records in (("test", test), ("validation", validation))
    }
    return TaskScores(
        task=task.name,
        class_names=task.labels,
        record_ids=test.record_ids,
        targets=test.targets,
        patients=test.patients,
        scores=scores["test"][None],
        data=task.description("test"),
        validation_targets=validation.targets,
        validation_scores=scores["validation"][None],
        **provenance,
    )


def _scores_file(folder: Path, task: EvaluatedTask) -> Path:
    return folder / "scores" / f"{task.name}.npz"


def finetuning_identity(
    classifier: EcgForClassification,
    preparation: Preparation,
    problem: LabelProblem,
    recipe: FinetuningRecipe,
    lora: LoraSettings | None,
    seed: int,
) -> dict[str, Any]:
    """JSON values that decide what a fine-tuning gives."""
    identity = {
        "version": _VERSION,
        "weights": hash_weights(classifier),
        "processor": preparation.extractor.to_dict(),
        "leads": preparation.leads,
        "long_records": preparation.long_records,
        "data": [problem.data.name, problem.data.revision],
        "train_records": sha256("\n".join(problem.split("train").record_ids).encode()).hexdigest(),
        "classes": problem.labels,
        "recipe": asdict(recipe),
        "lora": None if lora is None else asdict(lora),
        "seed": seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return plain


def _check_folder(folder: Path, identity: dict[str, Any], resume: bool) -> None:
    file = folder / _SETTINGS_FILE
    if file.is_file():
        if not resume:
            raise FileExistsError(
                f"'{folder}' already holds a fine-tuning. Go on with it by --resume (resume=True), choose another "
                "--output-dir, or delete it."
            )
        theirs = json.loads(file.read_text())
        differing = sorted(name for name in identity if theirs.get(name) != identity[name])
        if differing:
            raise ValueError(f"'{folder}' was fine-tuned with other settings: {', '.join(differing)}.")
    elif folder.is_dir() and ((folder / "config.json").is_file() or last_complete_checkpoint(folder) is not None):
        raise FileExistsError(f"'{folder}' holds a model that was not fine-tuned here. Choose another --output-dir.")
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(identity, indent=1) + "\n")
