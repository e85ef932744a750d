"""Makes every generated table, page and picture anew: from the result lines, the parsers and the import statements.

    python scripts/update_docs.py            # rewrites the files
    python scripts/update_docs.py --check    # exit code 1 if one is stale

A table stands behind a comment that says what it shows:

* `<!-- headline: RESULTS PROMPTS -->` in the README;
* `<!-- benchmark: RESULTS PROMPTS TASK -->`, `<!-- inflation: RESULTS -->`, `<!-- factorial: RESULTS TASK -->`,
  `<!-- runs: RESULTS -->`, `<!-- quickstart: RESULTS -->` and `<!-- study: FILE -->` in docs/results, and
  `<!-- prompt sets: all -->` in docs/protocols.md;
* `<!-- coverage: FILE -->` in docs/statistics.md;
* `<!-- results: RECIPE ... -->` in a model card.

A sentence that says what lines show stands between `<!-- claim: NAME RESULTS -->` and `<!-- /claim -->`, see
`claims.py`.

Whole files: docs/commands.md, docs/images/house.svg and docs/results/results.csv.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))  # also where a test runs this file

from claims import CLAIMS  # noqa: E402
from command_reference import command_reference  # noqa: E402
from house import picture  # noqa: E402

from hf_ecgtext.evaluation.prompts.sets import list_prompt_sets  # noqa: E402
from hf_ecgtext.evaluation.results import EvaluationResult, read_results  # noqa: E402
from hf_ecgtext.methods import method_names  # noqa: E402
from hf_ecgtext.reporting.tables.documents import card_table, readme_benchmark_table, runs_table  # noqa: E402
from hf_ecgtext.reporting.tables.factorial import factorial_table  # noqa: E402
from hf_ecgtext.reporting.tables.grid import headline_lines  # noqa: E402
from hf_ecgtext.reporting.tables.probes import inflation_summary  # noqa: E402
from hf_ecgtext.reporting.tables.prompt_mean import mean_over_prompts  # noqa: E402
from hf_ecgtext.reporting.tables.render import percent  # noqa: E402

_TABLE = r"(?:\|[^\n]*\n)*"
_TABLE_WITH_NOTES = r"(?:(?:\|[^\n]*\n)+\n[^\n]+\n)?"
_CARD_TASKS = ("ptbxl_super", "ptb_xl", "synthetic")  # the superclasses stand for PTB-XL
_TITLES = {"merl": "MERL", "etp": "ETP", "deri": "DERI", "cmelt": "C-MELT", "cgdmer": "CG-DMER"}
_CSV_COLUMNS = (
    "results", "checkpoint", "encoder", "data", "task", "evaluation", "protocol", "metric", "min_positives", "prompts",
    "settings", "value", "low", "high", "interval_method", "prediction_low", "prediction_high", "spread", "p_value",
    "compared_with", "compared_encoder", "num_classes", "num_records", "seed", "contamination",
)  # fmt: skip


@lru_cache
@cache
def lines_of(name: str) -> list[EvaluationResult]:
    """The result lines that are kept under a name."""
    return read_results(ROOT / "results" / f"{name}.jsonl.gz")


def _is_of(line: EvaluationResult, method: str) -> bool:
    """Whether a checkpoint's folder is named after the method, such as `merl` or `merl-quickstart-synthetic`."""
    return re.search(rf"\b{method}\b", Path(line.checkpoint).name) is not None


def headline(name: str, prompts: str) -> str:
    """The README's table: the five superclasses and retrieval, the best methods first."""
    lines = headline_lines(line for line in lines_of(name) if line.compared_with is None)
    lines += mean_over_prompts(lines)
    questions: dict[str, Callable[[EvaluationResult], bool]] = {
        "zero-shot": lambda line: (line.evaluation, line.prompts) == ("zero_shot", prompts),
        "linear probe, 1 % of labels": lambda line: line.settings.get("fraction") == 0.01,
        "linear probe, all labels": lambda line: line.settings.get("fraction") == 1.0,
    }
    rows: dict[tuple[str, str], dict[str, EvaluationResult]] = {}
    for line in lines:
        key = (line.encoder, Path(line.checkpoint).name)
        if line.protocol != "strict" or (line.encoder == "random" and key[1] != "merl"):
            continue
        if (line.metric, line.settings.get("direction")) == ("recall_at_10", "ecg_to_report"):
            rows.setdefault(key, {})["retrieval"] = line
        for title, is_asked in questions.items():
            if (line.task, line.metric) == ("ptbxl_super", "auroc") and is_asked(line):
                rows.setdefault(key, {})[title] = line
    columns = [*questions, "retrieval"]
    order = sorted(
        (key for key in rows if key[0] == "trained"),
        key=lambda key: rows[key]["zero-shot"].value or 0.0,
        reverse=True,
    )
    named = [(_TITLES[key[1]], rows[key]) for key in order]
    named += [
        (title, found)
        for (encoder, _), found in rows.items()
        for kind, title in (("interval_features", "measured intervals"), ("random", "random weights (MERL)"))
        if encoder == kind
    ]
    table = [
        f"| | {' | '.join(questions)} | retrieval: own report in the first ten |",
        "|---|" + "---:|" * len(columns),
    ]
    for title, found in named:
        cells = [
            percent(found[column].value, found[column].confidence_interval) if column in found else "-"
            for column in columns
        ]
        table.append(f"| {title} | {' | '.join(cells)} |")
    constant = next(found["retrieval"] for _, found in named).details["always_commonest"]
    table.append(f"| always the commonest reports | - | - | - | {100 * constant:.1f} |")
    return "\n".join(table)


def benchmark(name: str, prompts: str, task: str) -> str:
    """The compact benchmark table with its notes."""
    lines = lines_of(name)
    titles = {line.checkpoint: Path(line.checkpoint).name for line in lines}
    tasks = None if task == "all" else [task]
    others = [path.name.removesuffix(".jsonl.gz") for path in sorted((ROOT / "results").glob(f"{name}.*.jsonl.gz"))]
    history = [line for other in others for line in lines_of(other)]
    return readme_benchmark_table(
        lines, titles=titles, tasks=tasks, prompts=prompts, intervals=task != "all", history=history
    )


def inflation(name: str) -> str:
    """What the published way of choosing adds, with its notes."""
    table = inflation_summary([*lines_of(name), *lines_of(f"{name}.recipes")])
    return table.render("markdown").split("\n\n", 1)[1].strip() + "\n"


def factorial(name: str, task: str) -> str:
    """What each switch between strict and published changes, of all tasks together or of one, with its notes."""
    table = factorial_table(lines_of(f"{name}.factorial"), tasks=None if task == "all" else [task])
    return table.render("markdown").split("\n\n", 1)[1].strip() + "\n"


def runs(name: str) -> str:
    """What each training cost."""
    found = json.loads((ROOT / "results" / f"{name}.runs.json").read_text(encoding="utf-8"))
    return runs_table(found).strip() + "\n"


def prompt_sets(_: str) -> str:
    """When the wording of each prompt set of the library was fixed, and which test scores had been seen."""
    table = ["| prompt set | commit | fixed | test scores seen by then |", "|---|---|---|---|"]
    for each in list_prompt_sets():
        about = each.provenance
        table.append(f"| `{each.name}` | `{about.commit}` | {about.fixed} | {about.scores_seen} |")
    return "\n".join(table)


def quickstart(name: str) -> str:
    """The quickstart's zero-shot answers, by method."""
    lines = headline_lines(line for line in lines_of(name) if (line.metric, line.compared_with) == ("auroc", None))
    table = ["| method | macro AUROC (95 % CI) | random weights (95 % CI) |", "|---|---:|---:|"]
    for method in method_names():
        own = {line.encoder: percent(line.value, line.confidence_interval) for line in lines if _is_of(line, method)}
        if own:
            table.append(f"| {_TITLES[method]} | {own['trained']} | {own.get('random', '-')} |")
    return "\n".join(table)


def study(name: str) -> str:
    """The trainings of `benchmarks/retrieval_study.py`, one line each."""
    lines = [json.loads(line) for line in (ROOT / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    columns = ("R@1", "R@10", "R@10 to ECG", "MRR", "effective rank")
    table = [f"| method | variant | seed | {' | '.join(columns)} |", "|---|---|---:|" + "---:|" * len(columns)]
    for line in sorted(lines, key=lambda line: (line["method"], line["variant"], line["seed"])):
        numbers = " | ".join(f"{line[column]:.1f}" for column in columns)
        table.append(f"| {_TITLES[line['method']]} | {line['variant']} | {line['seed']} | {numbers} |")
    first, tenth = lines[0]["commonest R@1"], lines[0]["commonest R@10"]
    table.append(f"| - | always the commonest reports | - | {first} | {tenth} | - | - | - |")
    return "\n".join(table)


def card(method: str, recipes: str) -> str:
    """A method's answers to all questions, by recipe."""
    found = {}
    for recipe in recipes.split():
        own = [line for line in lines_of(recipe) if _is_of(line, method)]
        found[recipe] = [line for line in own if line.task in _CARD_TASKS]
    return card_table(found) + "\n"


def all_results() -> str:
    """Every result line as a row of one CSV file; the lines themselves also have classes, versions and commands."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for path in sorted((ROOT / "results").glob("*.jsonl.gz")):
        name = path.name.removesuffix(".jsonl.gz")
        writer.writerows(_csv_row(name, line) for line in read_results(path))
    return file.getvalue()


def _csv_row(name: str, line: EvaluationResult) -> Iterator[object]:
    low, high = line.confidence_interval or (None, None)
    prediction_low, prediction_high = line.prediction_interval or (None, None)
    special = {
        "results": name,
        "data": line.data["name"],
        "settings": json.dumps(line.settings, sort_keys=True) if line.settings else "",
        "low": low,
        "high": high,
        "prediction_low": prediction_low,
        "prediction_high": prediction_high,
        "seed": " ".join(map(str, line.seed)) if isinstance(line.seed, tuple) else line.seed,
    }
    for column in _CSV_COLUMNS:
        value = special[column] if column in special else getattr(line, column)
        yield f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def coverage(name: str) -> str:
    """How often intervals hold and tests find nothing, from the counts of `benchmarks/coverage.py`."""
    specification = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.table_of(json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8")))


def with_claims(text: str) -> str:
    """The text with every claim written anew from the lines that carry it."""

    def replace(match: re.Match[str]) -> str:
        return f"{match['marker']}{CLAIMS[match['name']](lines_of(match['results']))}{match['end']}"

    pattern = r"(?P<marker><!-- claim: (?P<name>\w+) (?P<results>\w+) -->\s*).*?(?P<end>\s*<!-- /claim -->)"
    return re.sub(pattern, replace, text, flags=re.DOTALL)


def rewritten(text: str, marker: str, table: str, make: Callable[..., str]) -> str:
    """The text with every table behind such a marker made anew."""

    def replace(match: re.Match[str]) -> str:
        return match["marker"] + make(*match["arguments"].split(" ")).strip("\n") + "\n"

    pattern = rf"(?P<marker><!-- {marker}: (?P<arguments>[^>]+?) -->\n+)(?:{table})"
    return re.sub(pattern, replace, text)


def documents() -> dict[Path, str]:
    """Every file with something generated in it, as it should be."""
    docs = ROOT / "docs"
    found = {
        docs / "commands.md": command_reference(),
        docs / "images" / "house.svg": picture(),
        docs / "results" / "results.csv": all_results(),
    }
    for page in (
        ROOT / "README.md",
        docs / "limits.md",
        docs / "protocols.md",
        docs / "statistics.md",
        docs / "results" / "index.md",
        docs / "results" / "retrieval.md",
    ):
        text = page.read_text(encoding="utf-8")
        for marker, table, make in (
            ("headline", _TABLE, headline),
            ("benchmark", _TABLE_WITH_NOTES, benchmark),
            ("inflation", _TABLE_WITH_NOTES, inflation),
            ("factorial", _TABLE_WITH_NOTES, factorial),
            ("runs", _TABLE, runs),
            ("quickstart", _TABLE, quickstart),
            ("prompt sets", _TABLE, prompt_sets),
            ("study", _TABLE, study),
            ("coverage", _TABLE, coverage),
        ):
            text = rewritten(text, marker, table, make)
        found[page] = with_claims(text)
    for path in sorted((ROOT / "model_cards").glob("*.md")):
        method, content = path.stem, path.read_text(encoding="utf-8")
        found[path] = rewritten(
            content, "results", _TABLE, lambda *recipes, method=method: card(method, " ".join(recipes))
        )
    return found


def main() -> int:
    """Rewrite what is stale, or only name it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    stale = {
        path: text
        for path, text in documents().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'stale' if arguments.check else 'rewritten'}")
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
