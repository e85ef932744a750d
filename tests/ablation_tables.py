"""The ablations that the methods' pages list, read from the pages themselves, so that pages and tests agree.

Under "## Ablations" stand a block of commands, which name the recipes, and tables whose columns headed `--set` hold
what stands behind `--set`: one code span is one run, "none" is the recipe as it is, and a second such column, headed by
the recipe it is for, may say "the same".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "docs" / "methods"
OPTION = "`--set`"


@dataclass(frozen=True)
class Ablation:
    """One run: what it is called, and the words behind `--set` by recipe."""

    method: str
    table: str
    row: str
    words: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        return f"{self.method}, {self.table}, {self.row}: {' '.join(self.words['paper']) or 'none'}"


def sections() -> dict[str, str]:
    """The text of each method's ablations."""
    found = {}
    for page in sorted(PAGES.glob("*.md")):
        section = re.search(r"^## Ablations\n(.*?)(?=^## )", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        if section:
            found[page.stem] = section[1]
    return found


def commands(section: str) -> list[str]:
    """The command lines above the tables."""
    block = re.search(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    assert block, "no commands stand above the tables"
    return block[1].strip().splitlines()


def tables(section: str) -> Iterator[list[list[str]]]:
    """The cells of each table, its header first."""
    for block in re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.strip().splitlines()]


def runs(cell: str) -> list[tuple[str, ...]]:
    """The words of each run in a cell."""
    if cell == "none":
        return [()]
    spans = re.findall(r"`([^`]+)`", cell)
    assert re.sub(r"`[^`]+`", "", cell).replace(";", "").strip() == "", f"what is not a code span in '{cell}'?"
    return [tuple(shlex.split(span)) for span in spans]


def ablations() -> list[Ablation]:
    """Every run of every table."""
    found = []
    for method, section in sections().items():
        for header, rule, *rows in tables(section):
            assert set("".join(rule)) <= set("|-"), f"no table: {header}"
            column = header.index(OPTION)
            small = next((index for index, title in enumerate(header) if title.startswith(f"{OPTION}, ")), None)
            for cells in rows:
                assert len(cells) == len(header), f"{method}: {cells}"
                published = runs(cells[column])
                at_100hz = published if small is None or cells[small] == "the same" else runs(cells[small])
                found += [
                    Ablation(method, header[0], cells[0], {"paper": paper, "ptb_xl_100hz": ours})
                    for paper, ours in zip(published, at_100hz, strict=True)
                ]
    return found
