"""`hf-ecgtext finetune`: train the whole encoder of a saved model on labels, with fewer and fewer leads."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.results import EvaluationResult, write_results
from hf_ecgtext.finetuning import cinc2021
from hf_ecgtext.finetuning.finetune import Finetuned, finetune
from hf_ecgtext.finetuning.lead_subsets import LEAD_SUBSETS
from hf_ecgtext.finetuning.lora import LoraSettings
from hf_ecgtext.finetuning.recipes import get_finetuning_recipe
from hf_ecgtext.harness.summary import task_results
from hf_ecgtext.reporting.tables.all import benchmark_tables
from hf_ecgtext.reporting.tables.render import Style
from hf_ecgtext.training.settings import check_training_settings, explain_settings


def run(arguments: argparse.Namespace) -> None:
    """Train, save, evaluate and print."""
    overrides, data_settings = parse_settings(arguments.overrides), parse_settings(arguments.data_set)
    check_training_settings(overrides)
    lora_settings = {name[len("lora.") :]: value for name, value in overrides.items() if name.startswith("lora.")}
    if lora_settings and not arguments.lora:
        raise ValueError(f"--set lora.{next(iter(lora_settings))} has no effect without --lora.")
    with explain_settings("--set", overrides):
        lora = _lora(lora_settings) if arguments.lora else None
        recipe = get_finetuning_recipe(arguments.recipe).override(
            {name: value for name, value in overrides.items() if not name.startswith("lora.")}
        )
    model, processor = load_checkpoint(arguments.model)
    with explain_settings("--data-set", data_settings):
        data = open_data(arguments.data, arguments.data_dir, **data_settings)
    task = _task(data, arguments.task)
    results: list[EvaluationResult] = []
    for number in dict.fromkeys(arguments.leads):
        print(f"{task.name} with {_named(number)}", flush=True)
        outcome = finetune(
            model,
            processor,
            task,
            arguments.output_dir / f"leads-{number}",
            checkpoint=arguments.model,
            recipe=recipe,
            leads=number,
            lora=lora,
            seed=arguments.seed,
            resume=arguments.resume,
            allow_seen=arguments.allow_seen,
        )
        details = outcome.scores[task.name].details
        print(
            f"Best of {details['epochs']} epochs: {details['best_epoch']} ({details['selected_by']} "
            f"{details['validation_score']:.4f}). Saved to {outcome.folder}.",
            flush=True,
        )
        results += _results(outcome, task, arguments.seed, arguments.resamples)
        write_results(arguments.output_dir / "results.jsonl", results)
    if arguments.results:
        write_results(arguments.results, results)
    style: Style = "markdown" if arguments.markdown else "terminal"
    for table in benchmark_tables(results):
        print(f"\n{table.render(style)}")


def _results(outcome: Finetuned, task: EvaluatedTask, seed: int, num_resamples: int) -> list[EvaluationResult]:
    scores = outcome.scores[task.name]
    lines = task_results(scores, STRICT, seed=seed, num_resamples=num_resamples)
    if task.name == cinc2021.TASK:
        lines += cinc2021.cinc2021_results(scores, seed=seed, num_resamples=num_resamples)
    return lines


def _task(data: EcgData, name: str | None) -> EvaluatedTask:
    tasks = {task.name: task for task in (*data.tasks, *data.further_tasks)}
    known = ", ".join(tasks) or "none"
    if name is None and len(data.tasks) != 1:
        raise ValueError(f"Say by --task what to learn; the tasks of {data.name}: {known}.")
    if name is not None and name not in tasks:
        raise ValueError(f"{data.name} has no task '{name}'; its tasks: {known}.")
    return EvaluatedTask(data, tasks[name] if name else data.tasks[0])


def _lora(settings: Mapping[str, Any]) -> LoraSettings:
    given = dict(settings)
    if "target_modules" in given:
        modules = given["target_modules"]
        given["target_modules"] = tuple([modules] if isinstance(modules, str) else modules)
    known = [field.name for field in dataclasses.fields(LoraSettings)]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"--set lora.{unknown[0]}: there is no such setting; there are {', '.join(known)}.")
    return LoraSettings(**given)


def _named(number: int) -> str:
    leads = LEAD_SUBSETS[number]
    return (
        "all leads" if number == len(LEAD_SUBSETS[12]) else f"{'lead' if number == 1 else 'leads'} {', '.join(leads)}"
    )
