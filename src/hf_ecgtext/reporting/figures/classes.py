"""Bars per class for several encoders of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.figures.style import (
    GRID_COLOUR,
    EncoderRow,
    RowStyle,
    below_legend,
    legend_height,
    metric_title,
    new_figure,
    percent_whiskers,
    plain_text,
    row_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES_PER_FIGURE = 24
_CHANCE = {"auroc": 0.5}  # the chance level of AUPRC differs from class to class
_FILLED = 0.82  # of the height of a class
_HATCHES = {"random": "", "interval_features": "////", "supervised": "...."}


def class_bars(
    lines: Sequence[EvaluationResult],
    styles: Mapping[EncoderRow, RowStyle],
    labels: Sequence[str] | None = None,
) -> Figure:
    """One group of horizontal bars per class, one bar per encoder, with intervals.

    A class without a value has no bar. Baselines are grey, and hatched so that they can be told apart.

    Args:
        lines (`Sequence[EvaluationResult]`): Of one task, metric, evaluation and setting, one per encoder.
        styles (`Mapping`): See `row_styles`; gives the order of the bars.
        labels (`Sequence[str]`, *optional*): The classes from top to bottom; all by default, see `class_order`.

    Returns:
        `matplotlib.figure.Figure`: Values in percent.

    Raises:
        ValueError: If two lines are of the same encoder.
    """
    by_row = {row_of(line): line for line in lines}
    if len(by_row) != len(lines):
        raise ValueError(f"{len(lines)} lines of {len(by_row)} encoders; bars show one value per encoder and class.")
    rows = [row for row in styles if row in by_row]
    shown = list(labels) if labels is not None else class_order(lines, styles)
    height = _FILLED / len(rows)
    group = 0.11 * len(rows) + 0.12  # inches
    figure = new_figure(7.4, 0.9 + group * len(shown) + legend_height(len(rows)))

    from matplotlib.patches import Patch

    axes = figure.add_subplot()
    for index, row in enumerate(rows):
        style, line = styles[row], by_row[row]
        places, lengths, whiskers = [], [], []
        for place, label in enumerate(shown):
            value = line.per_class.get(label)
            if value is not None:
                places.append(place - _FILLED / 2 + height * (index + 0.5))
                lengths.append(100 * value)
                whiskers.append(percent_whiskers(value, line.per_class_intervals.get(label)))
        axes.barh(
            places,
            lengths,
            height=height * 0.92,
            color=style.colour if style.is_trained or row.encoder == "random" else "#ffffff",
            edgecolor=style.colour,
            linewidth=0.6,
            hatch=_HATCHES.get(row.encoder, ""),
            label=style.label,
        )
        if places:
            errors = list(zip(*whiskers, strict=True))
            axes.errorbar(lengths, places, xerr=errors, fmt="none", ecolor="#222222", elinewidth=0.7, capsize=1.2)
    chance = _CHANCE.get(lines[0].metric)
    if chance is not None:
        axes.axvline(100 * chance, color="#444444", linewidth=0.9, linestyle="--")
    positives = by_row[rows[0]].num_positives
    axes.set_yticks(
        range(len(shown)), [plain_text(f"{label}  ({positives[label]:,})") for label in shown], fontsize=8.5
    )
    axes.set_ylim(len(shown) - 0.45, -0.55)  # the first class on top
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{metric_title(lines[0].metric)}, percent")
    axes.set_ylabel("class (positive records)")
    axes.grid(axis="x", color=GRID_COLOUR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    entries = {
        styles[row].label: Patch(
            facecolor=styles[row].colour if styles[row].is_trained or row.encoder == "random" else "#ffffff",
            edgecolor=styles[row].colour,
            hatch=_HATCHES.get(row.encoder, ""),
        )
        for row in rows
    }
    below_legend(figure, entries, columns=3)
    return figure


def class_order(lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> list[str]:
    """Classes by the first encoder's value, best first, those without a value last."""
    by_row = {row_of(line): line for line in lines}
    first = next(by_row[row] for row in styles if row in by_row)
    return sorted(first.per_class, key=lambda label: math.inf if (v := first.per_class[label]) is None else -v)


def class_pages(labels: Sequence[str], size: int = CLASSES_PER_FIGURE) -> list[list[str]]:
    """The classes of each figure where there are too many for one, shared out evenly."""
    length = math.ceil(len(labels) / math.ceil(len(labels) / size))
    return [list(labels[start : start + length]) for start in range(0, len(labels), length)]
