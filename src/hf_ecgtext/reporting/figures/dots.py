"""Figures with one row per encoder and one dot per variant: prompt sets, and ways to choose a probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.figures.curves import ProbeVariant, probe_variant
from hf_ecgtext.reporting.figures.style import (
    COLOURS,
    MARKERS,
    EncoderRow,
    RowStyle,
    below_legend,
    legend_height,
    metric_title,
    panel_grid,
    panel_of,
    panel_titles,
    percent_whiskers,
    plain_text,
    row_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANCE = {"auroc": 0.5}
_RANGE_COLOUR = "#cfcfcf"
_COLUMNS = 3


def prompt_dots(lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> Figure:
    """One dot per prompt set and encoder, over a bar from the lowest to the highest; one panel per task.

    Args:
        lines (`Sequence[EvaluationResult]`): Of one metric and protocol; evaluation `"zero_shot"`.
        styles (`Mapping`): See `row_styles`; gives the order of the rows.

    Returns:
        `matplotlib.figure.Figure`: Values in percent with intervals.
    """
    names = list(dict.fromkeys(str(line.prompts) for line in lines))
    titles = {name: plain_text(name) for name in names}
    chance = _CHANCE.get(lines[0].metric)
    return _dot_panels(lines, styles, titles, lambda line: str(line.prompts), chance)


def inflation_dots(
    lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle], variants: Sequence[ProbeVariant]
) -> Figure:
    """One dot per way to train and choose a probe: how much of a published number is the choice on the test split.

    Args:
        lines (`Sequence[EvaluationResult]`): Of one metric and fraction; evaluation `"linear_probe"`.
        styles (`Mapping`): See `row_styles`; gives the order of the rows.
        variants (`Sequence[ProbeVariant]`): Which to show.

    Returns:
        `matplotlib.figure.Figure`: Values in percent with intervals; one panel per task.
    """
    shown = [line for line in lines if probe_variant(line) in variants]
    return _dot_panels(shown, styles, {variant: variant.title for variant in variants}, probe_variant)


def _dot_panels(
    lines: Sequence[EvaluationResult],
    styles: Mapping[EncoderRow, RowStyle],
    series: Mapping[Any, str],
    series_of: Callable[[EvaluationResult], Any],
    chance: float | None = None,
) -> Any:
    rows = [row for row in styles if any(row_of(line) == row for line in lines)]
    panels = list(dict.fromkeys(panel_of(line) for line in lines))
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    titles = panel_titles(panels)
    spacing = 0.11 * max(2, len(series)) + 0.08  # inches from row to row
    figure, grid = panel_grid(
        len(panels),
        columns=columns,
        width=3.2,
        height=0.55 + spacing * len(rows),
        x_label=f"macro {metric_title(lines[0].metric)}, percent",
        share_x=False,
        footer=legend_height(len(series)) + 0.2,
    )

    from matplotlib.lines import Line2D

    offset = 0.72 / max(2, len(series))
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        for place, row in enumerate(rows):
            own = {series_of(line): line for line in lines if panel_of(line) == panel and row_of(line) == row}
            values = [100 * line.value for line in own.values() if line.value is not None]
            if values:
                axes.plot(
                    [min(values), max(values)], [place, place], color=_RANGE_COLOUR, linewidth=6, zorder=1,
                    solid_capstyle="butt", label="range",
                )  # fmt: skip
            for index, (key, label) in enumerate(series.items()):
                line = own.get(key)
                if line is None or line.value is None:
                    continue
                below, above = percent_whiskers(line.value, line.confidence_interval)
                axes.errorbar(
                    [100 * line.value],
                    [place + offset * (index - (len(series) - 1) / 2)],
                    xerr=[[below], [above]],
                    fmt=MARKERS[index % len(MARKERS)],
                    markersize=4.5,
                    color=COLOURS[index % len(COLOURS)],
                    elinewidth=0.8,
                    label=label,
                    zorder=3,
                )
        if chance is not None:
            axes.axvline(100 * chance, color="#444444", linewidth=0.9, linestyle="--")
        axes.set_title(plain_text(titles[panel]), fontsize=9.5, loc="left")
        axes.tick_params(axis="y", length=0, labelsize=8.5, labelleft=number % columns == 0)
        axes.grid(axis="y", visible=False)
    grid[0].set_yticks(range(len(rows)), [styles[row].label for row in rows])
    grid[0].set_ylim(len(rows) - 0.4, -0.6)  # the first encoder on top
    entries = {
        label: Line2D([], [], color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], linestyle="")
        for index, label in enumerate(series.values())
    }
    below_legend(figure, entries)
    return figure


def panel_groups(lines: Sequence[EvaluationResult], size: int = 6) -> list[list[EvaluationResult]]:
    """The lines of each figure where they are of too many tasks for one."""
    panels = list(dict.fromkeys(panel_of(line) for line in lines))
    length = math.ceil(len(panels) / math.ceil(len(panels) / size)) if panels else 1
    groups = [set(panels[start : start + length]) for start in range(0, len(panels), length)]
    return [[line for line in lines if panel_of(line) in group] for group in groups]
