"""`hf-ecgtext evaluate`: models and baselines on tasks, under strict and published protocols."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.commands.report import write_pages
from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import data_name, open_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.downstream.human_readers import human_readers
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.protocols import FACTORIAL, EvaluationProtocol, factorial_protocols, get_protocol
from hf_ecgtext.evaluation.results import write_results
from hf_ecgtext.harness.baselines import baseline_models, first_training
from hf_ecgtext.harness.matrix import MatrixOutcome, run_matrix
from hf_ecgtext.harness.models import EvaluatedModel, PooledModel, TrainedModel
from hf_ecgtext.harness.plan import MatrixPlan
from hf_ecgtext.reporting.figures.embeddings import EmbeddedTask
from hf_ecgtext.reporting.tables.all import benchmark_tables, headlines
from hf_ecgtext.reporting.tables.classes import class_tables
from hf_ecgtext.reporting.tables.readers import reader_table
from hf_ecgtext.reporting.tables.render import NamedTable, Style
from hf_ecgtext.training.recorded_recipe import recorded_seed
from hf_ecgtext.training.settings import explain_settings


def run(arguments: argparse.Namespace) -> int:
    """Evaluate what is not evaluated yet, and print the tables.

    Returns:
        `int`: 0, or 1 if something could not be evaluated; it is listed.
    """
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    models = [load_models(text, device, arguments.dtype, arguments.seed) for text in arguments.model]
    data = open_all(arguments.data, arguments.data_dir, arguments.data_set)  # takes longer than a wrong folder's name
    cache_folder = arguments.cache or arguments.output_dir / "features"
    evaluated: list[EvaluatedModel] = [*models]
    evaluated += baseline_models(
        arguments.baselines,
        models,
        arguments.evaluations,
        num_random=arguments.random_encoders,
        folder=cache_folder / "supervised",
        seed=arguments.seed,
    )
    plan = MatrixPlan(
        models=evaluated,
        data=data,
        tasks=arguments.tasks,
        evaluations=arguments.evaluations,
        protocols=parse_protocols(arguments.protocols),
        prompt_sets=arguments.prompts,
        fractions=arguments.fractions,
        seed=arguments.seed,
        num_resamples=arguments.resamples,
        reference=arguments.reference,
        allow_seen=arguments.allow_seen,
    )
    cache = FeatureCache(cache_folder, batch_size=arguments.batch_size, num_workers=arguments.workers)
    outcome = run_matrix(plan, arguments.output_dir, cache)
    readers = reader_tables(data, arguments.resamples, arguments.seed)
    present(outcome, arguments, readers)
    if arguments.pages and outcome.results:
        write_pages(
            arguments.output_dir / "pages",
            outcome.results,
            outcome.scores,
            titles=_titles([model.name for model in models]),
            features=_embedded_tasks(plan, models, cache),
            failed=outcome.failed,
            protocols=plan.protocols,
            more_tables=readers,
        )
    return 1 if outcome.failed else 0


def parse_protocols(texts: Sequence[str]) -> list[EvaluationProtocol]:
    """The protocols of `--protocols`.

    `factorial` stands for all of [`~hf_ecgtext.evaluation.protocols.factorial_protocols`]; others beside it may be
    among them.

    Raises:
        ValueError: As `parse_protocol`.
    """
    asked = [factorial_protocols() if text == FACTORIAL else (parse_protocol(text),) for text in texts]
    if FACTORIAL in texts:
        return list({protocol.name: protocol for group in asked for protocol in group}.values())
    return [protocol for group in asked for protocol in group]


def parse_protocol(text: str) -> EvaluationProtocol:
    """`"published:probe_solver=cmelt,num_draws=3"` to that protocol.

    Raises:
        ValueError: If there is no such protocol, switch or value.
    """
    name, _, switches = text.partition(":")
    return get_protocol(name, **parse_settings(switches.split(",") if switches else []))


def open_all(names: list[str], data_dir: str | None, settings: list[str]) -> list[EcgData]:
    """The data of `--data`, `--data-dir` and `--data-set`.

    Raises:
        ValueError: If a place is missing or given twice, or options name no data.
    """
    if data_dir is not None and len(names) > 1:
        raise ValueError("--data-dir is the place of one data; with several, write --data NAME=PLACE NAME=PLACE.")
    opened = []
    options = parse_settings(settings)
    places = [(name, place or data_dir) for name, _, place in (entry.partition("=") for entry in names)]
    own = [data_name(name) for name, _ in places]
    if strange := [name for name in options if "." in name and name.split(".")[0] not in own]:
        raise ValueError(f"--data-set {strange[0]}: there is no such data; there are {', '.join(own)}.")
    for (name, place), title in zip(places, own, strict=True):
        mine = {key: value for key, value in options.items() if "." not in key}
        mine |= {
            key.partition(".")[2]: value for key, value in options.items() if key.split(".")[0] == title and "." in key
        }
        with explain_settings("--data-set", mine):
            opened.append(open_data(name, place or None, **mine))
    return opened


def load_models(text: str, device: str, dtype: Literal["float32", "bfloat16"], seed: int) -> TrainedModel | PooledModel:
    """A checkpoint, or several trainings of a model, on a device.

    Args:
        text (`str`): A folder or repository; or `NAME=FOLDER,FOLDER,...`.
        device, dtype (`str`): Where and how they compute.
        seed (`int`): Of a checkpoint that does not say with which seed it was trained.
    """
    title, separator, places = text.partition("=")
    if not separator or Path(text).is_dir():
        return load_model(text, device, dtype, seed)
    return PooledModel(title, [load_model(place, device, dtype, seed) for place in places.split(",")])


def load_model(name: str, device: str, dtype: Literal["float32", "bfloat16"], seed: int) -> TrainedModel:
    """A checkpoint with its processor and ledger, on a device."""
    model, processor = load_checkpoint(name)
    recorded = recorded_seed(name)
    own_seed = seed if recorded is None else recorded
    return TrainedModel(name, model.to(device), processor, load_ledger(name), dtype=dtype, seed=own_seed)


def reader_tables(data: Sequence[EcgData], num_resamples: int, seed: int) -> list[NamedTable]:
    """What people answered, where the data has it."""
    found = ((part, human_readers(part, num_resamples=num_resamples, seed=seed)) for part in data)
    return [reader_table(readers, len(part.split("test"))) for part, readers in found if readers]


def _titles(models: Sequence[str]) -> dict[str, str]:
    """The names of the folders, as far as they differ."""
    names = [Path(model).name for model in models]
    return {model: name if names.count(name) == 1 else model for model, name in zip(models, names, strict=True)}


def _embedded_tasks(
    plan: MatrixPlan, models: Sequence[TrainedModel | PooledModel], cache: FeatureCache
) -> list[EmbeddedTask]:
    """Test embeddings of every model on the first task of each data, for the maps."""
    found = []
    for data in plan.data:
        tasks = [task for task in plan.subjects() if task.data is data][:1]
        for task in tasks:
            records = task.records("test")
            for model in models:
                embeds = cache.features(first_training(model).encoder, data, "test").arrays["ecg_embeds"][records.rows]
                description = task.description("test")
                found.append(EmbeddedTask(model.name, task.name, description, embeds, records.targets, task.labels))
    return found


def present(outcome: MatrixOutcome, arguments: argparse.Namespace, more_tables: Sequence[NamedTable]) -> None:
    """Print the tables and what failed, and copy the lines where they were asked for."""
    lines = arguments.output_dir / "results.jsonl"
    if arguments.results:
        write_results(arguments.results, outcome.results)
    style: Style = "markdown" if arguments.markdown else "terminal"
    titles = _titles([text.partition("=")[0] for text in arguments.model])
    shown = outcome.results if arguments.all_tables else headlines(outcome.results)
    tables: list[NamedTable] = benchmark_tables(shown, titles=titles) if shown else []
    if arguments.per_class:
        tables += class_tables(outcome.results, titles)
    for table in [*tables, *more_tables]:
        print(table.render(style))
    print(f"{len(outcome.results)} result lines: {lines}. Pages: hf-ecgtext report {lines} --output-dir FOLDER")
    for title, problem in outcome.failed.items():
        print(f"Not evaluated: {title}: {problem}")
