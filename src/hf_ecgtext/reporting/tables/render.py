"""What a table is, and how it is printed: Markdown, plain text or LaTeX; numbers are percent with one decimal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from hf_ecgtext.reporting.tables.latex import latex_table, latex_tabular

Style = Literal["markdown", "terminal", "latex"]

METRIC_TITLES = {
    "auroc": "AUROC",
    "average_precision": "AUPRC",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "brier_score": "Brier score",
    "ece_equal_mass": "ECE",
    "cinc2021_score": "CinC 2021 score",
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "median_rank": "median rank",
}
"""How tables and figures call the metrics of result lines."""

UNDEFINED = "-"

_TAG = re.compile(r"<(?=[A-Za-z/!?])")


@dataclass(frozen=True)
class NamedTable:
    """A table before it is rendered.

    Args:
        title (`str`): One line.
        header (`list[str]`): Column titles.
        rows (`list[list[str]]`): Cells as text, as many per row as there are columns.
        notes (`list[str]`): What the numbers are; one sentence or more each.
        breaks (`tuple[int, ...]`): Rows before which a new block begins, such as that of the baselines.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    breaks: tuple[int, ...] = ()

    def render(self, style: Style = "markdown") -> str:
        """Title, table and notes: a Markdown section, plain text, or a LaTeX `table*` that needs booktabs."""
        if style == "latex":
            return latex_table(self.title, self.header, self.rows, self.notes, self.breaks)
        title, notes = self.title, " ".join(self.notes)
        if style == "markdown":
            title, notes = f"### {_markdown_text(title)}", _markdown_text(notes)
        parts = [title, render_table(self.header, self.rows, style), notes]
        return "\n\n".join(part for part in parts if part) + "\n"


def percent(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """A fraction as percent with one decimal, such as `74.2 (72.9 to 75.4)`; `-` where undefined."""
    if value is None:
        return UNDEFINED
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def render_table(header: list[str], rows: list[list[str]], style: Style) -> str:
    """The rows below their header, as Markdown, as aligned plain text, or as a LaTeX `tabular`."""
    if style == "latex":
        return latex_tabular(header, rows)
    if style == "markdown":
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join(
            "| " + " | ".join(_markdown_text(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
        )
    if style == "terminal":
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = [header, ["-" * width for width in widths], *rows]
        return "\n".join(_aligned(line, widths) for line in lines)
    raise ValueError(f"style is '{style}'; expected 'markdown', 'terminal' or 'latex'.")


def _markdown_text(text: str) -> str:
    """Names are data: one line, and no HTML, which Markdown would pass on to the browser."""
    return _TAG.sub("&lt;", " ".join(text.split()))


def _aligned(cells: list[str], widths: list[int]) -> str:
    """First column to the left, numbers to the right."""
    texts = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
    return "  ".join(texts).rstrip()
