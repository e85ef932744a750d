"""Writes every table of README.md and the model cards anew from the result lines.

    python scripts/update_docs.py            # rewrites the files
    python scripts/update_docs.py --check    # exit code 1 if a table is stale

A table stands behind a comment that says what it shows: `<!-- benchmark: RESULTS PROMPTS TASK -->`,
`<!-- inflation: RESULTS -->`, `<!-- runs: RESULTS -->`, and in a card `<!-- results: RECIPE ... -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hf_ecgtext.evaluation.results import EvaluationResult, read_results
from hf_ecgtext.reporting.tables.documents import card_table, readme_benchmark_table, runs_table
from hf_ecgtext.reporting.tables.probes import inflation_summary

ROOT = Path(__file__).resolve().parents[1]
_TABLE = r"(?:\|[^\n]*\n)+"
_TABLE_WITH_NOTES = _TABLE + r"\n[^\n]+\n"
_CARD_TASKS = ("ptbxl_super", "ptb_xl", "synthetic")  # the superclasses stand for PTB-XL


def lines_of(name: str) -> list[EvaluationResult]:
    """The result lines that are kept under a name."""
    return read_results(ROOT / "results" / f"{name}.jsonl.gz")


def benchmark(name: str, prompts: str, task: str) -> str:
    """The compact benchmark table with its notes."""
    lines = lines_of(name)
    titles = {line.checkpoint: Path(line.checkpoint).name for line in lines}
    tasks = None if task == "all" else [task]
    return readme_benchmark_table(lines, titles=titles, tasks=tasks, prompts=prompts, intervals=task != "all")


def inflation(name: str) -> str:
    """What the published way of choosing adds, with its notes."""
    table = inflation_summary([*lines_of(name), *lines_of(f"{name}.recipes")])
    return table.render("markdown").split("\n\n", 1)[1].strip() + "\n"


def runs(name: str) -> str:
    """What each training cost."""
    found = json.loads((ROOT / "results" / f"{name}.runs.json").read_text(encoding="utf-8"))
    return runs_table(found).strip() + "\n"


def card(method: str, recipes: str) -> str:
    """A method's answers to all questions, by recipe."""
    found = {}
    for recipe in recipes.split():
        own = [line for line in lines_of(recipe) if re.search(rf"\b{method}\b", Path(line.checkpoint).name)]
        found[recipe] = [line for line in own if line.task in _CARD_TASKS]
    return card_table(found) + "\n"


def rewritten(text: str, marker: str, table: str, make: Callable[..., str]) -> str:
    """The text with every table behind such a marker made anew."""

    def replace(match: re.Match[str]) -> str:
        return match["marker"] + make(*match["arguments"].split(" ")).strip("\n") + "\n"

    pattern = rf"(?P<marker><!-- {marker}: (?P<arguments>[^>]+?) -->\n+)(?:{table})"
    return re.sub(pattern, replace, text)


def documents() -> dict[Path, str]:
    """Every file with tables, as it should be."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for marker, table, make in (
        ("benchmark", _TABLE_WITH_NOTES, benchmark),
        ("inflation", _TABLE_WITH_NOTES, inflation),
        ("runs", _TABLE, runs),
    ):
        text = rewritten(text, marker, table, make)
    found = {readme: text}
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
    stale = {path: text for path, text in documents().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'stale' if arguments.check else 'rewritten'}")
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
