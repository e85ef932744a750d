"""`hf-ecgtext compare`: train several methods with equal budgets, and set their zero-shot answers side by side."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.commands.train import count_parameters, describe_training
from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import data_name, open_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.harness.baselines import first_training
from hf_ecgtext.harness.matrix import run_matrix
from hf_ecgtext.harness.models import EvaluatedModel, PooledModel, RandomModel, TrainedModel
from hf_ecgtext.harness.plan import MatrixPlan
from hf_ecgtext.io import written_whole
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.reporting.tables.all import benchmark_tables, headlines
from hf_ecgtext.reporting.tables.documents import runs_table
from hf_ecgtext.training.checkpoints import last_complete_checkpoint
from hf_ecgtext.training.run import train

# Options that decide what a training gives; a comparison never mixes runs in which they differ.
_TRAINING_SETTINGS = ("recipe", "data", "data_set", "overrides", "seed")


def run(arguments: argparse.Namespace) -> None:
    """Train what is not trained yet, score what is not scored yet, compare."""
    if arguments.reference not in arguments.methods:
        raise ValueError(f"--reference {arguments.reference} is not among --methods {' '.join(arguments.methods)}.")
    if arguments.trainings < 1:
        raise ValueError(f"--trainings is {arguments.trainings}; each method is trained at least once.")
    folders = {method: _folders(method, arguments) for method in arguments.methods}
    for method, trainings in folders.items():
        for seed, folder in trainings.items():
            _train(method, folder, seed, arguments)
    results = _evaluate(folders, _open_data(arguments), arguments)
    if arguments.results:
        _write(arguments.results, [result.to_json() for result in results])
        _write(arguments.results.with_suffix(".runs.json"), [json.dumps(_runs(folders), indent=2)])
    style: Any = "markdown" if arguments.markdown else "terminal"
    titles = {_name(method, folders): method for method in folders}
    for table in benchmark_tables(headlines(results, "average_precision"), titles=titles, published=False):
        print(table.render(style))
    print(runs_table(_runs(folders), style))


_Folders = dict[str, dict[int, Path]]
"""By method and seed."""


def _folders(method: str, arguments: argparse.Namespace) -> dict[int, Path]:
    seeds = range(arguments.seed, arguments.seed + arguments.trainings)
    if len(seeds) == 1:
        return {arguments.seed: arguments.output_dir / method}
    return {seed: arguments.output_dir / f"seed{seed}" / method for seed in seeds}


def _name(method: str, folders: _Folders) -> str:
    """How the result lines call a method: by its folder, or by itself where several trainings are pooled."""
    trainings = folders[method]
    return method if len(trainings) > 1 else str(next(iter(trainings.values())))


def _runs(folders: _Folders) -> dict[str, Any]:
    """What the trainings cost; of several, of the first, with the seconds and best epochs of all."""
    found: dict[str, Any] = {}
    for method, trainings in folders.items():
        runs = [_read_run(folder) for folder in trainings.values()]
        found[method] = runs[0]
        if len(runs) > 1:
            found[method] |= {name: [run[name] for run in runs] for name in ("seconds", "best_epoch")}
            found[method]["seeds"] = list(trainings)
    return found


def _train(method: str, folder: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Train one method, or go on where a killed run stopped; nothing is done twice."""
    settings = {name: getattr(arguments, name) for name in _TRAINING_SETTINGS} | {"seed": seed}
    if _run_file(folder).is_file():
        differing = [name for name in settings if _read_run(folder).get("settings", {}).get(name) != settings[name]]
        if differing:
            raise ValueError(
                f"'{folder}' was trained with other settings ({', '.join(differing)}). Repeat those, choose another "
                "--output-dir, or delete the folder."
            )
        if not arguments.resume:
            raise FileExistsError(
                f"'{folder}' is trained already. Go on with this comparison by --resume, choose another "
                "--output-dir, or delete it."
            )
        print(f"{method}: already trained, {folder}.")
        return
    if (folder / "config.json").is_file():
        raise FileExistsError(
            f"'{folder}' holds a model that no comparison trained. Choose another --output-dir, or delete it."
        )
    print(f"{method}, seed {seed}: training with recipe {arguments.recipe} ...")
    started = time.monotonic()
    resumed = arguments.resume and last_complete_checkpoint(folder) is not None
    outcome = train(
        method,
        arguments.recipe,
        data=arguments.data,
        data_dir=arguments.data_dir,
        output_dir=folder,
        settings=parse_settings(arguments.overrides),
        data_settings=parse_settings(arguments.data_set),
        seed=seed,
        resume=resumed,
        before_training=describe_training,
    )
    state = outcome.trainer.state
    best = state.best_global_step
    total, trained = count_parameters(outcome.trainer.model)
    run = {
        "settings": settings,
        "parameters": total,
        "trained_parameters": trained,
        "steps": state.global_step,
        "batch_size": state.train_batch_size,
        "best_epoch": best * (state.epoch or 0.0) / state.global_step if best else None,
        "seconds": round(time.monotonic() - started, 1),
        "resumed": resumed,  # then the seconds are those of the last part only
        "threads": torch.get_num_threads(),
    }
    _write(_run_file(folder), [json.dumps(run, indent=2)])


def _evaluate(folders: _Folders, data: EcgData, arguments: argparse.Namespace) -> list[EvaluationResult]:
    """Zero-shot answers of all methods and their random initialisations, and the differences to the reference."""
    trained: list[TrainedModel | PooledModel] = []
    for method, trainings in folders.items():
        found = [
            TrainedModel(str(folder), *load_checkpoint(str(folder)), load_ledger(str(folder)), seed=seed)
            for seed, folder in trainings.items()
        ]
        trained.append(found[0] if len(found) == 1 else PooledModel(_name(method, folders), found))
    models: list[EvaluatedModel] = [*trained]
    if arguments.random_encoders:
        seeds = range(arguments.seed, arguments.seed + arguments.random_encoders)
        models += [RandomModel(first_training(model), seeds, model.name) for model in trained]
    plan = MatrixPlan(
        models=models,
        data=[data],
        protocols=[STRICT],
        prompt_sets=arguments.prompts,
        seed=arguments.seed,
        reference=_name(arguments.reference, folders),
        allow_seen=arguments.allow_seen,
    )
    folder = arguments.output_dir / "evaluation"
    outcome = run_matrix(plan, folder, FeatureCache(folder / "features"))
    if outcome.failed:
        raise ValueError("; ".join(f"{title}: {problem}" for title, problem in outcome.failed.items()))
    return outcome.results


def _open_data(arguments: argparse.Namespace) -> EcgData:
    recipe = get_recipe(arguments.reference, arguments.recipe)
    options = {**recipe.data_options(data_name(arguments.data)), **parse_settings(arguments.data_set)}
    return open_data(arguments.data, arguments.data_dir, **options)


def _run_file(folder: Path) -> Path:
    return folder / "run.json"


def _read_run(folder: Path) -> dict[str, Any]:
    return json.loads(_run_file(folder).read_text(encoding="utf-8"))


def _write(path: Path, lines: list[str]) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
