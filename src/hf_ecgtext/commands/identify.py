"""`hf-ecgtext identify`: find people again by frozen features, or after fine-tuning, with fewer and fewer leads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.sources.cinc2021.segments import identification_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.downstream.identification import evaluate_identification
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.results import EvaluationResult, write_results
from hf_ecgtext.evaluation.scores import NOT_CONTAMINATED
from hf_ecgtext.finetuning.identification import (
    CMELT,
    FewerLeads,
    IdentificationRecipe,
    finetune_identification,
    identification_baseline,
)
from hf_ecgtext.finetuning.lead_subsets import lead_subset
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.reporting.tables.all import benchmark_tables
from hf_ecgtext.reporting.tables.render import Style
from hf_ecgtext.training.settings import check_training_settings, explain_settings


def run(arguments: argparse.Namespace) -> None:
    """Fine-tune where asked, evaluate and print."""
    settings, data_settings = parse_settings(arguments.overrides), parse_settings(arguments.data_set)
    if settings and not arguments.finetune:
        raise ValueError("--set changes the fine-tuning; add --finetune.")
    check_training_settings(settings)
    recipe = CMELT.override(settings)
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
                    write_results(arguments.results, results)
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
        seeds = range(arguments.seed, arguments.seed + arguments.random_encoders)
        runs = identification_baseline(model, processor, data, leads, name, seeds)
        yield runs, NOT_CONTAMINATED, {"training": "none"}, {}
