"""Every command: what it is for, its options, and the function that runs it.

One vocabulary: `--model` is a trained model; `--data`, `--data-dir` and `--data-set` name data and its options; `--set`
changes a recipe; `--output-dir` is written to, and `--resume` goes on with the training there; `--results` is a file
that gets all result lines of the command in place of what it held.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hf_ecgtext_cli import names
from hf_ecgtext_cli.parsing import CommandParser

_FORMER = {"--out": "--output-dir"}

NUM_RANDOM_ENCODERS = 5
PROMPTS = ["plain"]
SEED = 0
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Command:
    """A command of `hf-ecgtext`.

    Args:
        summary (`str`): What it does, in a line.
        add_options (`Callable`): Declares its options.
        former (`Mapping[str, str]`): What to write now, by the names that options had in earlier versions.
        makes_datasets (`bool`): Whether it uses the package `datasets`, which takes a second to import.
    """

    summary: str
    add_options: Callable[[CommandParser], None]
    former: Mapping[str, str] = field(default_factory=lambda: _FORMER)
    makes_datasets: bool = True


def _prepare(parser: CommandParser) -> None:
    parser.add_argument("name", choices=names.source_names(), help="which dataset")
    parser.add_argument("--source", required=True, help="its original download: a folder, .zip, .tar or address")
    _add_output_dir(parser, "folder to write; with the same options again, an unfinished one goes on")
    add_data_set(parser)
    parser.add_argument(
        "--workers", type=int, help="processes (default: one for every 20,000 records, and at most one per core)"
    )
    parser.add_argument(
        "--compression",
        default="none",
        choices=["none", "lz4", "zstd"],
        help="of the samples: none is fastest to train from, zstd is half the size, for the Hub (default: %(default)s)",
    )
    parser.add_argument("--records-per-shard", type=int, default=2048, help="records of a file (default: %(default)s)")
    parser.add_argument(
        "--order",
        default="mixed",
        choices=["mixed", "source"],
        help="of the train records: mixed by a hash of their ids, or as in the tables (default: %(default)s)",
    )
    parser.add_argument(
        "--max-skipped",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="exit with code 3 if more records than this had faults (default: %(default)s)",
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload the folder to this dataset repository")
    parser.epilog = (
        "Exit codes: 0 prepared; 1 error, or stopped half-way: the same command continues; 2 wrong options; "
        "3 prepared, but with more skipped records than --max-skipped; 130 stopped by Ctrl-C."
    )


def _train(parser: CommandParser) -> None:
    parser.add_argument("--method", default="merl", choices=names.method_names(), help="default: %(default)s")
    parser.add_argument("--recipe", default="quickstart", help=f"{_recipes()} (default: %(default)s)")
    _add_data(parser)
    _add_output_dir(parser, "default: outputs/METHOD-RECIPE-DATA", required=False)
    _add_set(parser, "text_model=..., config.X=..., ecg.X=..., text.X=..., training.X=...")
    _add_seed(parser, "of weights and order")
    _add_resume(parser)
    _add_flag(parser, "--zero-shot", default=True, help="at the end, answer the test split zero-shot")
    _add_prompts(parser)
    _add_allow_seen(parser)


def _evaluate(parser: CommandParser) -> None:
    parser.add_argument(
        "--model",
        nargs="+",
        required=True,
        metavar="FOLDER or NAME=FOLDER,FOLDER",
        help="folders or Hub repositories of trained models; several trainings of one model as NAME=FOLDER,FOLDER: "
        "results are means over them, with an interval for another training",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=["synthetic"],
        metavar="NAME[=PLACE]",
        help=f"{', '.join(names.data_names())}, each with its download or prepared folder; or prepared folders alone "
        "(default: synthetic)",
    )
    parser.add_argument("--data-dir", help="the place of --data, if it is one name")
    add_data_set(parser, "; with several data, ptb_xl.report=12sl")
    parser.add_argument("--tasks", nargs="+", help="such as ptbxl_super (default: all tasks of the data)")
    parser.add_argument(
        "--evaluations", nargs="+", default=["zero_shot"], choices=names.EVALUATIONS, help="default: zero_shot"
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        default=["strict"],
        metavar="NAME[:SWITCH=VALUE,...]",
        help=f"{', '.join(names.PROTOCOLS)}; with other switches: published:probe_solver=cmelt; factorial: each switch "
        "alone in both directions (default: strict)",
    )
    _add_prompts(parser)
    parser.add_argument(
        "--fractions", nargs="+", type=float, default=[0.01, 0.1, 1.0], help="of the training labels, for probes"
    )
    parser.add_argument(
        "--baselines", nargs="*", default=list(names.BASELINES), choices=names.BASELINES, help="default: all of them"
    )
    _add_random_encoders(parser)
    parser.add_argument("--reference", help="the model that differences are taken to (default: the first)")
    _add_allow_seen(parser)
    _add_seed(parser, "of draws, resamples and baselines")
    _add_resamples(parser)
    _add_output_dir(parser, "what is evaluated there already is not done again (default: %(default)s)", "evaluation")
    parser.add_argument("--cache", type=Path, help="folder of cached features (default: features in --output-dir)")
    _add_results(parser)
    _add_flag(parser, "--pages", help="also write tables, figures and one HTML page (extra plots)")
    parser.add_argument("--batch-size", type=int, default=64, help="records per forward pass (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read records (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="default: %(default)s")
    parser.add_argument("--device", help="such as cuda:1 (default: cuda where there is a GPU, else cpu)")
    _add_flag(parser, "--all-tables", help="print the tables of all metrics, not of AUROC only")
    _add_flag(parser, "--per-class", help="also print every class of the zero-shot answers")
    _add_markdown(parser)


def _finetune(parser: CommandParser) -> None:
    _add_model(parser)
    _add_data(parser)
    parser.add_argument("--task", help="what to learn; may be left out where the data has one task only")
    _add_leads(parser)
    parser.add_argument(
        "--recipe",
        default="default",
        choices=names.FINETUNING_RECIPES,
        help="how long and how fast (default: %(default)s)",
    )
    _add_flag(parser, "--lora", help="train low-rank adapters and the head only (peft)")
    _add_set(
        parser,
        "training.X=..., patience=..., classifier_dropout=..., and lora.rank, lora.alpha, lora.dropout, "
        "lora.target_modules",
    )
    _add_seed(parser, "of head and order")
    _add_output_dir(parser, "gets a folder for each number of leads")
    _add_resume(parser)
    _add_allow_seen(parser)
    _add_results(parser)
    _add_resamples(parser)
    _add_markdown(parser)


def _identify(parser: CommandParser) -> None:
    _add_model(parser)
    _add_data(parser, "cinc2021")
    _add_allow_seen(parser)
    parser.add_argument("--split", default="test", choices=["validation", "test"], help="default: %(default)s")
    _add_leads(parser)
    _add_flag(parser, "--finetune", help="train on the training people first")
    _add_set(parser, "training.X=..., scale=..., margin=..., patience=...")
    _add_resume(parser)
    _add_output_dir(parser, "default: %(default)s", "identification")
    _add_seed(parser, "of fine-tuning and bootstrap")
    _add_random_encoders(parser)
    _add_results(parser)
    _add_markdown(parser)


def _compare(parser: CommandParser) -> None:
    methods = names.method_names()
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods, help="default: all")
    parser.add_argument(
        "--recipe", default="ptb_xl_100hz", help="a recipe that all of them have (default: %(default)s)"
    )
    parser.add_argument(
        "--reference", default="merl", help="the method that differences are taken to (default: %(default)s)"
    )
    _add_data(parser, "ptb_xl")
    _add_allow_seen(parser)
    _add_set(parser, "as in train")
    _add_prompts(parser)
    _add_seed(parser, "of weights, order and bootstrap")
    _add_random_encoders(parser)
    parser.add_argument(
        "--trainings",
        type=int,
        default=1,
        help="trainings of each method, with seeds from --seed on; answers are means over them (default: 1)",
    )
    _add_output_dir(parser, "default: %(default)s", "compare")
    _add_resume(parser)
    _add_results(parser)
    _add_markdown(parser)


def _classify(parser: CommandParser) -> None:
    parser.add_argument("records", nargs="+", help="WFDB records, with or without extension")
    _add_model(parser)
    parser.add_argument("--labels", nargs="+", required=True, help="what to look for, such as 'atrial fibrillation'")
    parser.add_argument("--template", default="{}", help="wraps each label (default: %(default)s)")
    _add_flag(parser, "--exclusive", help="exactly one label is true: scores sum to one")
    parser.add_argument(
        "--windows",
        default="average",
        choices=["average", "each", "first"],
        help="of recordings longer than the model reads: average over all of them, answer each, or read the first only "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--lead-names",
        nargs="+",
        metavar="NAME",
        help="names for the rows of every record, in order; or new names for some, such as MLII=II",
    )
    parser.add_argument(
        "--unknown-leads",
        default="raise",
        choices=["raise", "ignore"],
        help="rows that are none of the twelve leads: refuse the record, or leave them out (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, help="windows per forward pass (default: those of one record)")
    parser.add_argument("--device", help="such as cuda:1 (default: cuda where there is a GPU, else cpu)")
    form = parser.add_mutually_exclusive_group()
    _add_flag(form, "--json", help="print one line of JSON per record")
    _add_flag(form, "--csv", help="print one line of CSV per label")
    parser.epilog = (
        "A record that cannot be used is left out; it is named at the end. Exit codes: 0 all records were answered; 1 "
        "some were not, or none; 2 wrong options."
    )


def _convert(parser: CommandParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="the published file: a pickle of weights, or safetensors")
    _add_output_dir(parser, "new folder for model and processor")
    parser.add_argument(
        "--method", default="auto", choices=["auto", *names.convertible_methods()], help="auto reads it off the weights"
    )
    parser.add_argument(
        "--text-model",
        help="name or folder of the text encoder inside the file, for its config and tokenizer (default: the one that "
        "the authors used, from the Hub); a file of the ECG encoder alone needs none",
    )
    parser.add_argument(
        "--lead-order",
        choices=names.LEAD_ORDERS,
        help="of the weights (default: what is known of the published ones)",
    )


def _report(parser: CommandParser) -> None:
    parser.add_argument("results", type=Path, nargs="+", help="files of result lines (.jsonl)")
    parser.add_argument("--scores", type=Path, help="folder of the scores behind the lines, for reliability plots")
    _add_output_dir(parser, "folder for tables.md, figures and index.html")
    _add_flag(parser, "--latex", help="also write tables.tex (needs the package booktabs)")
    parser.add_argument(
        "--titles",
        nargs="+",
        default=[],
        metavar="CHECKPOINT=NAME",
        help="how checkpoints are called, in the order of the rows (default: their names as they are)",
    )
    parser.add_argument("--title", default="ECG-text benchmark", help="of the page (default: %(default)s)")
    _add_flag(parser, "--published", default=True, help="show the papers' numbers")
    _add_flag(parser, "--figures", default=True, help="draw figures (extra plots)")


COMMANDS: dict[str, Command] = {
    "prepare": Command(
        "an original download, from a folder, archive or address, to a folder that trains at once.",
        _prepare,
        {**_FORMER, "--set": "--data-set"},
    ),
    "train": Command("train a method by a recipe, save it, and see what it answers zero-shot.", _train),
    "evaluate": Command("models and baselines on tasks, under strict and published protocols.", _evaluate),
    "finetune": Command("train the whole encoder of a saved model on labels, with fewer and fewer leads.", _finetune),
    "identify": Command(
        "find people again by frozen features, or after fine-tuning, with fewer and fewer leads.", _identify
    ),
    "compare": Command(
        "train several methods with equal budgets, and set their zero-shot answers side by side.", _compare
    ),
    "classify": Command("ask a saved model about recordings, in words.", _classify, makes_datasets=False),
    "convert": Command("published weights to a folder that `from_pretrained` loads.", _convert),
    "report": Command("tables, figures and one HTML page of a benchmark run, from its result lines.", _report),
}


def _add_model(parser: CommandParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub repository of a trained model")


def _add_data(parser: CommandParser, default: str = "synthetic") -> None:
    parser.add_argument(
        "--data",
        default=default,
        help=f"{', '.join(names.data_names())}; or a folder, address or repository of prepared data "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        help="for data given by name: the original download (folder, archive or address), or prepared data",
    )
    add_data_set(parser)


def add_data_set(
    parser: CommandParser,
    more: str = "",
    examples: str = ", such as num_records=4000 or sampling_rate_hz=100 report=12sl",
) -> None:
    """`--data-set`, also for the scripts in `dataset_scripts/`."""
    parser.add_argument(
        "--data-set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help=f"options of the data{examples}{more}",
    )


def _add_set(parser: CommandParser, description: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help=f"change the recipe: {description}",
    )


def _add_output_dir(
    parser: CommandParser, description: str, default: str | None = None, required: bool | None = None
) -> None:
    """`--output-dir`, required unless it has a default in `outputs/`, or the command finds one."""
    folder = None if default is None else Path("outputs", default)
    required = folder is None if required is None else required
    parser.add_argument("--output-dir", type=Path, default=folder, required=required, help=description)


def _add_flag(parser: argparse._ActionsContainer, name: str, *, help: str, default: bool = False) -> None:
    # In %-formatting, so that argparse adds no "(default: False)" of its own.
    parser.add_argument(
        name, action=argparse.BooleanOptionalAction, default=default, help=help + (" (default)" if default else "")
    )


def _add_resume(parser: CommandParser) -> None:
    _add_flag(parser, "--resume", help="go on with the training that --output-dir holds, which is refused otherwise")


def _add_allow_seen(parser: CommandParser) -> None:
    _add_flag(
        parser,
        "--allow-seen",
        help="evaluate even on records, or patients, that were trained on; the log and the result lines say so",
    )


def _add_prompts(parser: CommandParser) -> None:
    parser.add_argument(
        "--prompts",
        nargs="+",
        default=PROMPTS,
        help=f"prompt sets ({', '.join(names.prompt_set_names())}), JSON files, or ensembles such as plain+members "
        f"(default: {' '.join(PROMPTS)})",
    )


def _add_random_encoders(parser: CommandParser) -> None:
    parser.add_argument(
        "--random-encoders",
        type=int,
        default=NUM_RANDOM_ENCODERS,
        help="encoders with random weights beside each model (default: %(default)s)",
    )


def _add_seed(parser: CommandParser, of_what: str) -> None:
    parser.add_argument("--seed", type=int, default=SEED, help=f"{of_what} (default: %(default)s)")


def _add_resamples(parser: CommandParser) -> None:
    parser.add_argument("--resamples", type=int, default=NUM_RESAMPLES, help="of the bootstrap (default: %(default)s)")


def _add_leads(parser: CommandParser) -> None:
    known = ", ".join(f"{number} ({leads})" for number, leads in names.LEADS.items())
    parser.add_argument(
        "--leads",
        nargs="+",
        type=int,
        default=[12],
        choices=names.LEADS,
        help=f"numbers of leads, one after the other: {known} (default: 12)",
    )


def _add_results(parser: CommandParser) -> None:
    parser.add_argument(
        "--results", type=Path, help="also write all result lines to this .jsonl or .jsonl.gz file, which is replaced"
    )


def _add_markdown(parser: CommandParser) -> None:
    _add_flag(parser, "--markdown", help="print Markdown instead of plain tables")


def _recipes() -> str:
    """All names that recipes of methods have, those of every method first."""
    found = [names.recipe_names(method) for method in names.method_names()]
    shared = [name for name in found[0] if all(name in recipes for recipes in found)]
    others = sorted({name for recipes in found for name in recipes} - set(shared))
    return f"{', '.join(shared)}; some methods also have {', '.join(others)}"
