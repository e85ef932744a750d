"""A whole training as a function: recipe, data, trainer, checkpoints, and where to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from hf_ecgtext.data.bad_records import for_validation_in_training
from hf_ecgtext.data.ledger import TRAINING_SPLIT, TrainingLedger
from hf_ecgtext.data.opening import data_name, open_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training.arguments import EcgTextTrainingArguments
from hf_ecgtext.training.checkpoints import (
    check_same_model,
    last_complete_checkpoint,
    last_intact_checkpoint,
    saved_steps,
)
from hf_ecgtext.training.output_lock import found_by_main_process, locked_output
from hf_ecgtext.training.progress import loss_terms
from hf_ecgtext.training.recorded_recipe import recorded_recipe
from hf_ecgtext.training.settings import check_training_settings, explain_settings
from hf_ecgtext.training.trainer import EcgTextTrainer


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    """What a training gave.

    Args:
        trainer ([`EcgTextTrainer`]): With the trained `model`, its `processing_class`, `ledger` and `state`.
        data ([`~hf_ecgtext.data.tasks.EcgData`]): What it was trained on.
        data_options (`dict[str, Any]`): Options of the data, those of the recipe among them.
        output_dir (`Path`): Where model, processor, ledger, recipe and checkpoints are.
        steps (`int`): Optimiser steps of the whole training.
        was_finished (`bool`): Whether nothing was left to train.
        loss_terms (`dict[str, float]`): The last loss and its named terms, means since the log before.
    """

    trainer: EcgTextTrainer
    data: EcgData
    data_options: dict[str, Any]
    output_dir: Path
    steps: int
    was_finished: bool
    loss_terms: dict[str, float]


def train(
    method: str,
    recipe: str = "quickstart",
    *,
    data: str = "synthetic",
    data_dir: str | None = None,
    output_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    data_settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    before_training: Callable[[EcgTextTrainer, EcgData], None] | None = None,
) -> TrainingOutcome:
    """Train a method by a recipe, and save model, processor, ledger and recipe; this is `hf-ecgtext train`.

    ```python
    from hf_ecgtext.training.run import train

    outcome = train("merl", "debug", output_dir="outputs/mine", settings={"training.max_steps": 20})
    outcome.trainer.model.get_ecg_features(...)
    ```

    Args:
        method, recipe (`str`): A method, and the name of one of its recipes.
        data, data_dir (`str`): As [`~hf_ecgtext.data.opening.open_data`] takes them.
        output_dir (`str` or `Path`, *optional*): `outputs/METHOD-RECIPE-DATA` by default.
        settings (`Mapping[str, Any]`, *optional*): Changes of the recipe by dotted name, such as
            `{"config.temperature": 0.1}`; see [`~hf_ecgtext.methods.recipe.Recipe.override`].
        data_settings (`Mapping[str, Any]`, *optional*): Options of the data, before those of the recipe.
        seed (`int`): Of weights and order.
        resume (`bool`): Go on with the training in `output_dir`, by its newest intact checkpoint. What is trained to
            its end is only loaded.
        before_training (`Callable`, *optional*): Called on every process with trainer and data when everything is
            loaded and nothing is trained; what it raises ends the run there.

    Raises:
        CheckpointError: If the checkpoints are damaged or of another model.
        FileExistsError: If `output_dir` holds a training and `resume` is `False`, or another one writes into it.
        FileNotFoundError: If there is nothing to resume, or no data.
        ValueError: If there is no such method, recipe, data or setting.
    """
    changes, options = dict(settings or {}), dict(data_settings or {})
    name = data_name(data)
    folder = Path(output_dir or Path("outputs", f"{method}-{recipe}-{name}".replace("_", "-")))
    check_training_settings(changes)
    with explain_settings("--set", changes):
        chosen = get_recipe(method, recipe).override(changes)
        arguments = EcgTextTrainingArguments(output_dir=str(folder), seed=seed, **chosen.training)
    with locked_output(folder):
        start = found_by_main_process(lambda: _find_start(folder, resume))
        with explain_settings("--set", changes):
            model, processor = chosen.build(seed=seed)  # before the data, which take longer
        if start.folder is not None:
            check_same_model(str(start.folder), model.config, processor.feature_extractor)
        set_seed(seed)
        data_options = {**chosen.data_options(name), **options}
        with arguments.main_process_first(desc="reading the data"), explain_settings("--data-set", options):
            opened = open_data(data, data_dir, **data_options)
        # Not by `split` where it is never evaluated: a data set may have no validation split.
        validation = opened.split("validation") if arguments.eval_strategy != "no" else opened.validation
        trainer = EcgTextTrainer(
            model=model,
            args=arguments,
            processor=processor,
            train_dataset=opened.split("train"),
            eval_dataset=for_validation_in_training(validation, opened.train),
            ledger=TrainingLedger.of_splits(
                opened.name, opened.revision, {TRAINING_SPLIT: opened.train, "validation": opened.validation}
            ),
            recorded_recipe=recorded_recipe(
                chosen,
                method=method,
                name=recipe,
                data=data,
                data_dir=data_dir,
                data_options=data_options,
                data_revision=opened.revision,
                seed=seed,
            ),
        )
        if before_training is not None:
            before_training(trainer, opened)
        steps, was_finished = _train_and_save(trainer, start, folder)
    return TrainingOutcome(
        trainer, opened, data_options, folder, steps, was_finished, _last_terms(trainer.state.log_history)
    )


def _train_and_save(trainer: EcgTextTrainer, start: _Start, folder: Path) -> tuple[int, bool]:
    """Train what is not trained yet, and save what is not saved yet; steps, and whether all was done before."""
    if start.saved_steps is not None and start.saved_steps >= trainer.num_training_steps():
        return trainer.train(resume_from_checkpoint=str(folder)).global_step, True
    checkpoint = start.checkpoint
    if start.saved_steps is not None:  # of a shorter run: only now are its checkpoints of interest
        checkpoint = found_by_main_process(lambda: _newest_checkpoint(folder))
    steps = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint)).global_step
    trainer.save_model()
    trainer.save_state()
    return steps, False


class _Start(NamedTuple):
    """What a run goes on from; nothing, if it is a new one.

    Args:
        checkpoint (`Path`, *optional*): The newest intact checkpoint, of a run that was not saved as a whole.
        saved_steps (`int`, *optional*): Steps of the run that was saved as a whole.
        folder (`Path`, *optional*): Where the model's settings stand.
    """

    checkpoint: Path | None = None
    saved_steps: int | None = None
    folder: Path | None = None


def _newest_checkpoint(folder: Path) -> Path:
    checkpoint = last_intact_checkpoint(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"There is no complete checkpoint in '{folder}'; start without --resume.")
    return checkpoint


def _find_start(folder: Path, resume: bool) -> _Start:
    if resume:
        steps = saved_steps(folder)
        if steps is not None:
            return _Start(saved_steps=steps, folder=folder)
        checkpoint = _newest_checkpoint(folder)
        return _Start(checkpoint, folder=checkpoint)
    if (folder / "config.json").exists():
        raise FileExistsError(f"'{folder}' already holds a trained model. Choose another --output-dir, or delete it.")
    if last_complete_checkpoint(folder) is not None:
        # The trainer would take them for its own: delete newer ones in their place, or resume from them later.
        raise FileExistsError(
            f"'{folder}' already holds checkpoints of another run. Go on with it by --resume, choose another "
            "--output-dir, or delete it."
        )
    return _Start()


def _last_terms(history: list[dict[str, Any]]) -> dict[str, float]:
    return next((loss_terms(entry) for entry in reversed(history) if "loss" in entry), {})
