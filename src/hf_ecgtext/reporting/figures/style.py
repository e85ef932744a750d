"""What the figures of a benchmark share: which lines they show, one style per encoder in all of them, and saving."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.io import written_whole
from hf_ecgtext.reporting.tables.grid import headline_lines, latest
from hf_ecgtext.reporting.tables.render import METRIC_TITLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, without black and yellow: told apart with all common kinds of colour blindness. Markers tell them
# apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
GRID_COLOUR = "#e6e6e6"
ENCODERS_PER_FIGURE = 6
"""Trained encoders in one figure of lines; more are drawn in parts."""

_BASELINES: dict[str, tuple[str, str, Any, str]] = {  # name, colour, line, marker
    "supervised": ("supervised from scratch", "#000000", (0, (3, 1, 1, 1)), "*"),
    "interval_features": ("interval features", "#555555", (0, (1, 1)), "x"),
    "random": ("random weights", "#9a9a9a", "--", "."),
}
_LONGEST_NAME = 26
_DPI = 150


class EncoderRow(NamedTuple):
    """Whose values a line, a bar or a dot shows."""

    checkpoint: str
    encoder: str


@dataclass(frozen=True)
class RowStyle:
    """How an encoder looks in every figure of a run: trained ones solid and in colour, baselines grey and dashed."""

    label: str
    colour: str
    marker: str
    line: Any
    is_trained: bool


class Panel(NamedTuple):
    """Whose records the values of one panel come from."""

    task: str
    data_name: str
    data_revision: str
    data_split: str


def own_values(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Lines with an encoder's own values; of a repeated run the later line stands.

    Paired differences, and macro means over frequent classes only, are in the tables.
    """
    return headline_lines(line for line in latest(results) if line.compared_with is None)


def row_of(line: EvaluationResult | TaskScores) -> EncoderRow:
    """The encoder of a result line or of scores."""
    return EncoderRow(line.checkpoint, line.encoder)


def panel_of(line: EvaluationResult) -> Panel:
    """The task and data of a result line."""
    return Panel(line.task, line.data["name"], line.data["revision"], line.data["split"])


def panel_titles(panels: Sequence[Panel]) -> dict[Panel, str]:
    """The tasks' names, with revision and split where one task was asked of several."""
    tasks = [panel.task for panel in panels]
    return {
        panel: panel.task if tasks.count(panel.task) == 1 else f"{panel.task} ({', '.join(panel[1:])})"
        for panel in panels
    }


def row_styles(
    lines: Sequence[EvaluationResult | TaskScores], titles: Mapping[str, str] | None = None
) -> dict[EncoderRow, RowStyle]:
    """A style for every encoder of a run: trained ones first, in the order of their titles, then the baselines.

    Args:
        lines (`Sequence`): Of the whole run, so that an encoder looks the same in all figures.
        titles (`Mapping[str, str]`, *optional*): How checkpoints are called; others by their own names.
    """
    titles = titles or {}
    order = {checkpoint: place for place, checkpoint in enumerate(titles)}
    rows = sorted(dict.fromkeys(row_of(line) for line in lines), key=lambda row: order.get(row.checkpoint, len(order)))
    styles = {}
    for place, row in enumerate(row for row in rows if row.encoder == "trained"):
        name = plain_text(_short(titles.get(row.checkpoint, row.checkpoint)))
        styles[row] = RowStyle(name, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], "-", True)
    for kind, (name, colour, pattern, marker) in _BASELINES.items():
        same_kind = [row for row in rows if row.encoder == kind]
        for row in same_kind:
            whose = plain_text(_short(titles.get(row.checkpoint, row.checkpoint)))
            is_named = len(same_kind) > 1 or kind == "random"  # of a random encoder: whose architecture it shares
            label = f"{name} ({whose.strip()})" if is_named else name
            styles[row] = RowStyle(label, colour, marker, pattern, False)
    return styles


def parts(rows: Sequence[EncoderRow], size: int = ENCODERS_PER_FIGURE) -> list[list[EncoderRow]]:
    """The encoders of each figure where there are too many for one.

    Trained encoders are shared out evenly, with their random initialisations; other baselines are in every part.
    """
    trained = [row for row in rows if row.encoder == "trained"]
    if not trained:
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    length = math.ceil(len(trained) / math.ceil(len(trained) / size))
    chosen = []
    for start in range(0, len(trained), length):
        part = trained[start : start + length]
        names, everyone = {row.checkpoint for row in part}, {row.checkpoint for row in trained}
        chosen.append(
            part
            + [
                row
                for row in rows
                if row.encoder != "trained"
                and (row.encoder != "random" or row.checkpoint in names or row.checkpoint not in everyone)
            ]
        )
    return chosen


def plain_text(text: str) -> str:
    """Text that matplotlib shows as it is: no formulas, and no label that hides for its first character."""
    escaped = text.replace("$", r"\$").replace("\n", " ")
    return f" {escaped}" if escaped.startswith("_") else escaped


def metric_title(metric: str) -> str:
    """How figures call a metric."""
    return METRIC_TITLES.get(metric, metric.replace("_", " "))


def percent_whiskers(value: float, interval: tuple[float, float] | None) -> tuple[float, float]:
    """Lengths of the whiskers below and above a value, in percent.

    A value outside its own percentile interval is possible for rare classes; a whisker cannot be negative.
    """
    low, high = interval or (value, value)
    return 100 * max(value - low, 0.0), 100 * max(high - value, 0.0)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, apart from pyplot: the user's backend and open figures stay as they are.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "hf-ecgtext[plots]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(
    num_panels: int, *, columns: int, width: float, height: float, x_label: str, share_x: bool = True, footer: float = 0
) -> tuple[Any, list[Any]]:
    """A figure with panels in rows, which share their axes.

    Args:
        num_panels (`int`): How many.
        columns (`int`): Most panels side by side.
        width, height (`float`): Of one panel in inches.
        x_label (`str`): Below the lowest panels; a legend would cover a label of the whole figure.
        share_x (`bool`): Whether the panels have one x axis in common; they always have one y axis.
        footer (`float`): Inches for the legend.
    """
    columns = min(columns, num_panels)
    num_rows = math.ceil(num_panels / columns)
    figure = new_figure(width * columns, height * num_rows + footer)
    grid = figure.subplots(num_rows, columns, sharex=share_x, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for empty in axes[num_panels:]:
        empty.set_axis_off()
    for place, panel in enumerate(axes[:num_panels]):
        panel.grid(color=GRID_COLOUR, linewidth=0.8)
        panel.set_axisbelow(True)
        is_lowest = place + columns >= num_panels
        panel.tick_params(labelbottom=is_lowest or not share_x)
        if is_lowest and x_label:
            panel.set_xlabel(x_label, fontsize=9.5)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure, axes[:num_panels]


def encoder_legend(
    figure: Figure,
    styles: Mapping[EncoderRow, RowStyle],
    rows: Sequence[EncoderRow],
    others: Mapping[str, Any] | None = None,
) -> None:
    """A legend of encoders below the panels, and of other artists; several random encoders share one entry."""
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    num_random = sum(row.encoder == "random" for row in rows)
    for row in rows:
        style = styles[row]
        label = style.label
        if row.encoder == "random" and num_random > 1:
            label = f"{_BASELINES['random'][0]} (each encoder's architecture)"
        entries[label] = Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker, markersize=5)
    below_legend(figure, entries | dict(others or {}))


def below_legend(figure: Figure, entries: Mapping[str, Any], columns: int = 4, marker_scale: float = 1.0) -> None:
    """A legend below all panels, in as many columns as fit the figure's width."""
    longest = max(len(label) for label in entries)
    fitting = int(figure.get_figwidth() / (0.55 + 0.075 * longest))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=max(1, min(columns, fitting, len(entries))),
        frameon=False,
        fontsize=8.5,
        markerscale=marker_scale,
    )


def legend_height(num_entries: int) -> float:
    """Inches that a legend below the panels takes at most, in two columns."""
    return 0.3 + 0.19 * math.ceil(num_entries / 2)


def save_figure(figure: Figure, folder: str | os.PathLike[str], name: str, formats: Sequence[str]) -> Path:
    """Write a figure in each format, whole or not at all, and give back the path of the first.

    Files are the same whenever the figure is: no date is written into them.
    """
    for ending in formats:
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending, {})
        with written_whole(Path(folder) / f"{name}.{ending}") as unfinished:
            figure.savefig(unfinished, format=ending, dpi=_DPI, metadata=metadata)
    return Path(folder) / f"{name}.{formats[0]}"


def _short(name: str) -> str:
    """Its end, where the names of checkpoints differ."""
    return name if len(name) <= _LONGEST_NAME else "…" + name[-_LONGEST_NAME + 1 :]
