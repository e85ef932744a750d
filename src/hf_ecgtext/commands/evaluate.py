"""`hf-ecgtext evaluate`: zero-shot results of a saved model, beside random encoders, as JSON lines and a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_ecgtext.commands.checkpoints import load_checkpoint
from hf_ecgtext.commands.options import add_data_options, add_seen_option, explain_settings, parse_settings
from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.evaluation.results import append_result
from hf_ecgtext.evaluation.zero_shot import evaluate_zero_shot
from hf_ecgtext.reporting.tables import Style, per_class_table, zero_shot_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, help="folder or Hub repository of a trained model")
    add_data_options(parser)
    add_seen_option(parser)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--prompts", nargs="+", default=["plain"], help="prompt sets or JSON files (default: plain)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the bootstrap, and noted as the training's (%(default)s)"
    )
    parser.add_argument("--random-encoders", type=int, default=5, help="baseline encoders (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="append the result lines to this .jsonl file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of plain tables")
    parser.add_argument("--per-class", action="store_true", help="also print every class")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate and print."""
    model, processor = load_checkpoint(arguments.model)
    data_options = parse_settings(arguments.data_set)
    with explain_settings("--data-set", data_options):
        data = open_data(arguments.data, arguments.data_dir, **data_options)
    results = evaluate_zero_shot(
        model,
        processor,
        data,
        checkpoint=arguments.model,
        seed=arguments.seed,
        split=arguments.split,
        prompt_sets=arguments.prompts,
        num_random_encoders=arguments.random_encoders,
        ledger=load_ledger(arguments.model),
        allow_seen=arguments.allow_seen,
    )
    if arguments.results:
        for result in results:
            append_result(arguments.results, result)
    style: Style = "markdown" if arguments.markdown else "terminal"
    print(zero_shot_table(results, style=style))
    if arguments.per_class:
        for task in data.tasks:
            print(f"\n{task.name}\n")
            print(per_class_table(results, task=task.name, style=style))
