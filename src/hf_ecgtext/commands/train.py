"""`hf-ecgtext train`: train a method by a recipe, save it, and see what it answers zero-shot."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.results import write_results
from hf_ecgtext.harness.matrix import evaluate_zero_shot
from hf_ecgtext.reporting.tables.all import benchmark_tables, headlines
from hf_ecgtext.training import EcgTextTrainer
from hf_ecgtext.training.recorded_recipe import RECIPE_FILE
from hf_ecgtext.training.run import TrainingOutcome, train


def run(arguments: argparse.Namespace) -> None:
    """Train, save and evaluate."""

    def before_training(trainer: EcgTextTrainer, data: EcgData) -> None:
        if arguments.zero_shot and _has_questions(data):  # before hours of training, not after
            check_contamination(
                trainer.ledger, data, "test", checkpoint=trainer.args.output_dir, allow_seen=arguments.allow_seen
            )
        describe_training(trainer, data)

    outcome = train(
        arguments.method,
        arguments.recipe,
        data=arguments.data,
        data_dir=arguments.data_dir,
        output_dir=arguments.output_dir,
        settings=parse_settings(arguments.overrides),
        data_settings=parse_settings(arguments.data_set),
        seed=arguments.seed,
        resume=arguments.resume,
        before_training=before_training,
    )
    if not outcome.trainer.is_world_process_zero():
        return
    if outcome.was_finished:
        print(f"Already trained: {outcome.steps} steps, nothing is left to do.")
    else:
        print(f"Trained {outcome.steps} steps on {outcome.trainer.args.world_size} process(es).")
    print(f"Last loss and its terms: {', '.join(f'{name} {value:.4f}' for name, value in outcome.loss_terms.items())}")
    print(f"Saved to {outcome.output_dir}: model, processor, list of the training records, and {RECIPE_FILE}.")
    if arguments.zero_shot and _has_questions(outcome.data):
        _answer_zero_shot(outcome, arguments)
    elif arguments.zero_shot:
        print(f"{outcome.data.name} has no zero-shot task here; those of other data can be asked by evaluate --data.")
    _name_next_commands(outcome, arguments)


def describe_training(trainer: EcgTextTrainer, data: EcgData) -> None:
    """Print what will be trained on what, how long, on which device, and where to."""
    if not trainer.is_world_process_zero():
        return
    arguments, (total, trained) = trainer.args, count_parameters(trainer.model)
    sizes = [f"{len(rows):,} {split}" for split in ("train", "validation", "test") if (rows := getattr(data, split))]
    with torch.random.fork_rng(devices=[]):  # making a loader may draw
        steps = trainer.num_training_steps()
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    epochs = steps * batch / len(data.split("train"))
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"
    processes = "1 process" if arguments.world_size == 1 else f"{arguments.world_size} processes"
    print(f"Training {type(trainer.model).__name__} on {data.name}")
    for title, text in {
        "parameters": f"{total / 1e6:.2f} M, of which {trained / 1e6:.2f} M are trained",
        "records": f"{', '.join(sizes)} ({data.revision})",
        "length": f"{steps:,} steps of {batch:,} records, about {epochs:.3g} epochs",
        "device": f"{arguments.device}, {precision}, {processes}",
        "output": arguments.output_dir,
    }.items():
        print(f"  {title:<12}{text}")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of all parameters, and of those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)


def _has_questions(data: EcgData) -> bool:
    return bool(data.tasks) and data.test is not None


def _answer_zero_shot(outcome: TrainingOutcome, arguments: argparse.Namespace) -> None:
    trainer, data, folder = outcome.trainer, outcome.data, outcome.output_dir
    results = evaluate_zero_shot(
        trainer.model,
        trainer.processing_class,
        data,
        checkpoint=str(folder),
        seed=arguments.seed,
        folder=folder / "evaluation",
        prompt_sets=arguments.prompts,
        ledger=trainer.ledger,
        allow_seen=arguments.allow_seen,
    )
    write_results(folder / "results.jsonl", results)
    print(
        f"\nZero-shot on the {data.name} test split ({len(data.split('test'))} records); contamination: "
        f"{results[0].contamination}.\n"
    )
    shown = headlines(results, "average_precision")
    for table in benchmark_tables(shown, titles={str(folder): folder.name}, published=False):
        print(table.render("terminal"))


def _name_next_commands(outcome: TrainingOutcome, arguments: argparse.Namespace) -> None:
    model = shlex.quote(str(outcome.output_dir))
    print("Next:")
    if _has_questions(outcome.data):
        print(f"  hf-ecgtext evaluate --model {model} {' '.join(_data_words(outcome.data_options, arguments))}")
    print(f"  hf-ecgtext classify RECORD --model {model} --labels 'atrial fibrillation' 'sinus rhythm'")


def _data_words(options: Mapping[str, Any], arguments: argparse.Namespace) -> list[str]:
    """The options that name the same data to another command."""
    words = ["--data", arguments.data]
    if arguments.data_dir is not None:
        words += ["--data-dir", arguments.data_dir]
    if options:
        pairs = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items())
        words += ["--data-set", *pairs]
    return [shlex.quote(word) for word in words]
