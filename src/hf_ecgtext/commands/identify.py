"""`hf-ecgtext identify`: find people again by frozen features, or after fine-tuning, with fewer and fewer leads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.commands.options import (
    add_data_options,
    add_overrides_option,
    add_seen_option,
    explain_settings,
    parse_settings,
)
from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.sources.cinc2021.segments import identification_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.downstream.identification import evaluate_identification
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.results import EvaluationResult, append_result
from hf_ecgtext.evaluation.scores import NOT_CONTAMINATED
from hf_ecgtext.finetuning.identification import (
    CMELT,
    FewerLeads,
    IdentificationRecipe,
    finetune_identification,
    identification_baseline,
)
from hf_ecgtext.finetuning.lead_subsets import LEAD_SUBSETS, lead_subset
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.reporting.tables.all import benchmark_tables
from hf_ecgtext.reporting.tables.render import Style


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, help="folder or Hub repository of a trained model")
    add_data_options(parser, default="cinc2021")
    add_seen_option(parser)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--leads", nargs="+", type=int, default=[12], choices=list(LEAD_SUBSETS), help="default: 12")
    parser.add_argument("--finetune", action="store_true", help="train on the training people first")
    add_overrides_option(
        parser,
        "scale, margin, patience, or a training setting such as num_train_epochs=20",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoints")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/identification"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of fine-tuning and bootstrap (default: %(default)s)")
    parser.add_argument("--random-encoders", type=int, default=5, help="baseline encoders (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="append the result lines to this .jsonl file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain tables")


def run(arguments: argparse.Namespace) -> None:
    """Fine-tune where asked, evaluate and print."""
    settings, data_settings = parse_settings(arguments.overrides), parse_settings(arguments.data_set)
    if settings and not arguments.finetune:
        raise ValueError("--set changes the fine-tuning; add --finetune.")
    recipe = CMELT.override(**settings) if settings else CMELT
    model, processor = load_checkpoint(arguments.model)
    with explain_settings("--data-set", data_settings):
        data = identification_data(open_data(arguments.data, arguments.data_dir, **data_settings))
    if arguments.split == "test" and data.test is None:
        raise ValueError(
            f"{data.name} names no patient with two recordings here, so that nobody can be found again. Patients of "
            "PhysioNet 2021 are named with --data-set ptb_xl_table=.../ptbxl_database.csv; or use --split validation."
        )
    contamination = check_contamination(
        load_ledger(arguments.model), data, arguments.split, checkpoint=arguments.model, allow_seen=arguments.allow_seen
    )
    cache = FeatureCache(arguments.output_dir / "features")
    results: list[EvaluationResult] = []
    for number in dict.fromkeys(arguments.leads):
        for runs, seen, settings, details in _rows(arguments, model, processor, data, number, recipe, contamination):
            for result in evaluate_identification(
                runs,
                data,
                cache,
                split=arguments.split,
                seed=arguments.seed,
                contamination=seen,
                settings={"leads": number, **settings},
                details=details,
            ):
                results.append(result)
                if arguments.results:
                    append_result(arguments.results, result)
    style: Style = "markdown" if arguments.markdown else "terminal"
    for table in benchmark_tables(results):
        print(f"\n{table.render(style)}")


_Row = tuple[EncoderRuns, str, dict[str, Any], dict[str, Any]]


def _rows(
    arguments: argparse.Namespace,
    model: EcgTextModel,
    processor: Any,
    data: EcgData,
    leads: int,
    recipe: IdentificationRecipe,
    contamination: str,
) -> Iterator[_Row]:
    """Encoders with what they have seen, and with settings and details of their result lines."""
    frozen = FewerLeads(model, processor, lead_subset(leads))
    name = arguments.model
    yield EncoderRuns(name, "trained", (frozen,), arguments.seed), contamination, {"training": "none"}, {}
    if arguments.finetune:
        tuned = finetune_identification(
            model,
            processor,
            data,
            arguments.output_dir / f"leads-{leads}",
            leads=leads,
            recipe=recipe,
            seed=arguments.seed,
            resume=arguments.resume,
        )
        seen = check_contamination(
            tuned.ledger, data, arguments.split, checkpoint=arguments.model, allow_seen=arguments.allow_seen
        )
        runs = EncoderRuns(name, "trained", (tuned.encoder,), arguments.seed, tuned.ledger)
        yield runs, seen, {"training": recipe.name}, tuned.details
    if arguments.random_encoders:
        seeds = range(arguments.random_encoders)
        runs = identification_baseline(model, processor, data, leads, name, seeds)
        yield runs, NOT_CONTAMINATED, {"training": "none"}, {}
