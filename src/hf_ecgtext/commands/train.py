"""`hf-ecgtext train`: train a method by a recipe, save it, and see what it answers zero-shot."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from hf_ecgtext.commands.options import (
    add_data_options,
    add_overrides_option,
    add_seen_option,
    explain_settings,
    parse_settings,
)
from hf_ecgtext.data.bad_records import for_validation_in_training
from hf_ecgtext.data.ledger import TRAINING_SPLIT, TrainingLedger
from hf_ecgtext.data.opening import data_name, open_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.results import write_results
from hf_ecgtext.harness.matrix import evaluate_zero_shot
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.reporting.tables.all import benchmark_tables, headlines
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.checkpoints import (
    check_same_model,
    last_complete_checkpoint,
    last_intact_checkpoint,
    saved_steps,
)
from hf_ecgtext.training.output_lock import found_by_main_process, locked_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--method", default="merl", choices=method_names(), help="default: %(default)s")
    parser.add_argument("--recipe", default="quickstart", help="a function of the method's recipes.py (%(default)s)")
    add_data_options(parser)
    parser.add_argument("--output-dir", type=Path, help="default: outputs/METHOD-RECIPE-DATA")
    add_overrides_option(
        parser,
        "text_model=..., config.X=..., ecg.X=..., text.X=..., training.X=...",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint in --output-dir")
    parser.add_argument("--prompts", nargs="+", default=["plain"], help="prompt sets or JSON files (default: plain)")
    add_seen_option(parser)
    parser.add_argument("--no-zero-shot", action="store_true", help="train and save only")


def run(arguments: argparse.Namespace) -> None:
    """Train, save and evaluate."""
    name = data_name(arguments.data)
    output_dir: Path = arguments.output_dir or Path(
        "outputs", f"{arguments.method}-{arguments.recipe}-{name}".replace("_", "-")
    )
    overrides, data_settings = parse_settings(arguments.overrides), parse_settings(arguments.data_set)
    check_training_settings(overrides)
    with explain_settings("--set", overrides):
        recipe = get_recipe(arguments.method, arguments.recipe).override(overrides)
        training_arguments = EcgTextTrainingArguments(
            output_dir=str(output_dir), seed=arguments.seed, **recipe.training
        )
    with locked_output(output_dir):
        start = found_by_main_process(lambda: _find_start(output_dir, arguments.resume))
        with explain_settings("--set", overrides):
            model, processor = recipe.build(seed=arguments.seed)  # before the data, which take longer
        if start.folder is not None:
            check_same_model(str(start.folder), model.config, processor.feature_extractor)
        set_seed(arguments.seed)
        with (
            training_arguments.main_process_first(desc="reading the data"),
            explain_settings("--data-set", data_settings),
        ):
            data_options = {**recipe.data_options(name), **data_settings}
            data = open_data(arguments.data, arguments.data_dir, **data_options)
        # Not by `data.split` where it is never evaluated: a data set may have no validation split.
        validation = data.split("validation") if training_arguments.eval_strategy != "no" else data.validation
        trainer = EcgTextTrainer(
            model=model,
            args=training_arguments,
            processor=processor,
            train_dataset=data.split("train"),
            eval_dataset=for_validation_in_training(validation, data.train),
            ledger=TrainingLedger.of_splits(
                data.name, data.revision, {TRAINING_SPLIT: data.train, "validation": data.validation}
            ),
        )
        asks = bool(data.tasks) and data.test is not None and not arguments.no_zero_shot
        if asks:  # before hours of training, not after
            check_contamination(
                trainer.ledger, data, "test", checkpoint=str(output_dir), allow_seen=arguments.allow_seen
            )
        _describe(trainer, data)
        _train_and_save(trainer, start, output_dir)
        if trainer.is_world_process_zero():
            if asks:
                _answer_zero_shot(trainer, data, output_dir, arguments)
            elif not arguments.no_zero_shot:
                print(
                    f"{data.name} has no zero-shot task here; `hf-ecgtext evaluate --data ...` answers those of other "
                    "data."
                )


def _train_and_save(trainer: EcgTextTrainer, start: _Start, output_dir: Path) -> None:
    """Train what is not trained yet, and save what is not saved yet."""
    if start.saved_steps is not None and start.saved_steps >= trainer.num_training_steps():
        outcome = trainer.train(resume_from_checkpoint=str(output_dir))
        done = f"Already trained: {outcome.global_step} steps, nothing is left to do."
    else:
        checkpoint = start.checkpoint
        if start.saved_steps is not None:  # of a shorter run: only now are its checkpoints of interest
            checkpoint = found_by_main_process(lambda: _newest_checkpoint(output_dir))
        outcome = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        done = f"Trained {outcome.global_step} steps on {trainer.args.world_size} process(es)."
        trainer.save_model()
        trainer.save_state()
    if trainer.is_world_process_zero():
        print(done)
        print(f"Final loss terms: {json.dumps(_last_terms(trainer.state.log_history))}")
        print(
            f"Saved to {output_dir}; load it with AutoModel.from_pretrained('{output_dir}') after `import hf_ecgtext`."
        )


def _answer_zero_shot(trainer: EcgTextTrainer, data: EcgData, output_dir: Path, arguments: argparse.Namespace) -> None:
    results = evaluate_zero_shot(
        trainer.model,
        trainer.processing_class,
        data,
        checkpoint=str(output_dir),
        seed=arguments.seed,
        folder=output_dir / "evaluation",
        prompt_sets=arguments.prompts,
        ledger=trainer.ledger,
        allow_seen=arguments.allow_seen,
    )
    write_results(output_dir / "results.jsonl", results)
    print(
        f"\nZero-shot on the {data.name} test split ({len(data.split('test'))} records); contamination: "
        f"{results[0].contamination}.\n"
    )
    shown = headlines(results, "average_precision")
    for table in benchmark_tables(shown, titles={str(output_dir): output_dir.name}, published=False):
        print(table.render("terminal"))


def check_training_settings(overrides: Mapping[str, Any]) -> None:
    """Refuse what transformers would refuse late or with a traceback: an unknown field, or text for a number."""
    fields = {field.name: field for field in dataclasses.fields(EcgTextTrainingArguments) if field.init}
    for name, value in overrides.items():
        group, _, setting = name.partition(".")
        if group != "training":
            continue
        if setting in ("output_dir", "seed"):
            raise ValueError(f"--set {name}: write --{setting.replace('_', '-')} instead.")
        if setting not in fields:
            close = difflib.get_close_matches(setting, fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see EcgTextTrainingArguments."
            raise ValueError(f"--set {name}: there is no such training setting; {hint}")
        default = fields[setting].default
        if isinstance(default, bool):
            fits, kind = isinstance(value, bool), "true or false"
        elif isinstance(default, int | float):
            fits, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        else:
            continue
        if not fits:
            raise ValueError(f"--set {name} must be {kind}, not '{value}'.")


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


def _newest_checkpoint(output_dir: Path) -> Path:
    checkpoint = last_intact_checkpoint(output_dir)
    if checkpoint is None:
        raise FileNotFoundError(f"There is no complete checkpoint in '{output_dir}'; start without --resume.")
    return checkpoint


def _find_start(output_dir: Path, resume: bool) -> _Start:
    if resume:
        steps = saved_steps(output_dir)
        if steps is not None:
            return _Start(saved_steps=steps, folder=output_dir)
        checkpoint = _newest_checkpoint(output_dir)
        return _Start(checkpoint, folder=checkpoint)
    if (output_dir / "config.json").exists():
        raise FileExistsError(
            f"'{output_dir}' already holds a trained model. Choose another --output-dir, or delete it."
        )
    if last_complete_checkpoint(output_dir) is not None:
        # The trainer would take them for its own: delete newer ones in their place, or resume from them later.
        raise FileExistsError(
            f"'{output_dir}' already holds checkpoints of another run. Go on with it by --resume, choose another "
            "--output-dir, or delete it."
        )
    return _Start()


def _describe(trainer: EcgTextTrainer, data: EcgData) -> None:
    if trainer.is_world_process_zero():
        trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in trainer.model.parameters())
        sizes = " / ".join(str(len(rows or ())) for rows in (data.train, data.validation, data.test))
        print(
            f"{type(trainer.model).__name__}: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained. "
            f"{data.name}: {sizes} records."
        )


def _last_terms(history: list[dict[str, Any]]) -> dict[str, float]:
    not_terms = {"epoch", "step", "grad_norm", "learning_rate"}
    for entry in reversed(history):
        if "loss" in entry:
            return {name: round(value, 4) for name, value in entry.items() if name not in not_terms}
    return {}
