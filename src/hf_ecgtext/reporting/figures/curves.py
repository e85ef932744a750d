"""Figures with one line per encoder: probes by fraction of the labels, retrieval by k, shift from source to target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.figures.style import (
    EncoderRow,
    RowStyle,
    encoder_legend,
    legend_height,
    metric_title,
    panel_grid,
    percent_whiskers,
    plain_text,
    row_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAND = 0.13
_RECALL = re.compile(r"recall_at_(\d+)")
_DIRECTIONS = {"ecg_to_report": "ECG to report", "report_to_ecg": "report to ECG"}
_SIDES = ("source", "target")
_WITHOUT_LOOKING = {"chance": ("chance", ":"), "always_commonest": ("always the commonest report", "-.")}


class ProbeVariant(NamedTuple):
    """How a probe was trained and chosen."""

    protocol: str
    solver: str
    selection: str | None

    @property
    def title(self) -> str:
        """For a panel or a legend."""
        chosen = "" if self.selection is None else f", {self.selection}"
        return plain_text(f"{self.protocol}: {self.solver.replace('_', ' ')}{chosen}")


def probe_variant(line: EvaluationResult) -> ProbeVariant:
    """The variant of a line of `"linear_probe"`."""
    return ProbeVariant(line.protocol, str(line.settings.get("solver", "probe")), line.settings.get("selection"))


def fraction_curves(
    lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle], variants: Sequence[ProbeVariant]
) -> Figure:
    """Macro value of a probe against the fraction of the training labels, one panel per variant.

    Bands are intervals. What was trained on all labels without a probe is a point with whiskers in the panels of its
    protocol.

    Args:
        lines (`Sequence[EvaluationResult]`): Of one task and metric; evaluations `"linear_probe"` and `"supervised"`.
        styles (`Mapping`): See `row_styles`.
        variants (`Sequence[ProbeVariant]`): The panels.

    Returns:
        `matplotlib.figure.Figure`: Values in percent.
    """
    rows = [row for row in styles if any(row_of(line) == row for line in lines)]
    figure, panels = panel_grid(
        len(variants),
        columns=2,
        width=3.9,
        height=3.1,
        x_label="training labels used, percent",
        footer=legend_height(len(rows)),
    )
    fractions = sorted({100 * float(line.settings["fraction"]) for line in lines})
    for axes, variant in zip(panels, variants, strict=True):
        for row in rows:
            own = [line for line in lines if row_of(line) == row and _belongs(line, variant)]
            _draw_curve(axes, {100 * float(line.settings["fraction"]): line for line in own}, styles[row])
        axes.set_xscale("log")
        axes.set_xticks(fractions, [f"{fraction:g}" for fraction in fractions])
        axes.minorticks_off()
        axes.set_title(variant.title, fontsize=9.5, loc="left")
    figure.supylabel(f"macro {metric_title(lines[0].metric)}, percent", fontsize=10)
    encoder_legend(figure, styles, rows)
    return figure


def recall_curves(lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> Figure:
    """Recall against the number of results looked at, one panel per direction.

    Args:
        lines (`Sequence[EvaluationResult]`): Of one data set, protocol and treatment of duplicates; metrics
            `"recall_at_k"`, others are left out.
        styles (`Mapping`): See `row_styles`.

    Returns:
        `matplotlib.figure.Figure`: Recall in percent, with the levels that answers without looking reach.
    """
    lines = [line for line in lines if _RECALL.fullmatch(line.metric)]
    rows = [row for row in styles if any(row_of(line) == row for line in lines)]
    directions = list(dict.fromkeys(str(line.settings["direction"]) for line in lines))
    figure, panels = panel_grid(
        len(directions),
        columns=2,
        width=3.9,
        height=3.1,
        x_label="k: results looked at",
        footer=legend_height(len(rows) + len(_WITHOUT_LOOKING)),
    )
    places = sorted({_recall_place(line) for line in lines})
    others: dict[str, Any] = {}
    for axes, direction in zip(panels, directions, strict=True):
        here = [line for line in lines if line.settings["direction"] == direction]
        for row in rows:
            _draw_curve(axes, {_recall_place(line): line for line in here if row_of(line) == row}, styles[row])
        for key, (label, pattern) in _WITHOUT_LOOKING.items():
            levels = {_recall_place(line): float(line.details[key]) for line in here if key in line.details}
            known = sorted(levels)
            if known:
                heights = [100 * levels[place] for place in known]
                (drawn,) = axes.plot(known, heights, color="#000000", linestyle=pattern, linewidth=1.1, label=label)
                others[label] = drawn
        axes.set_xticks(places)
        axes.set_ylim(bottom=0)
        axes.set_title(plain_text(_DIRECTIONS.get(direction, direction)), fontsize=9.5, loc="left")
    figure.supylabel("recall@k, percent", fontsize=10)
    encoder_legend(figure, styles, rows, others)
    return figure


def shift_slopes(lines: Sequence[EvaluationResult], styles: Mapping[EncoderRow, RowStyle]) -> Figure:
    """From the test records of the source to those of the target, one panel per direction.

    Args:
        lines (`Sequence[EvaluationResult]`): Of one metric, classifier, prompt set, protocol and label map; evaluation
            `"distribution_shift"`.
        styles (`Mapping`): See `row_styles`.

    Returns:
        `matplotlib.figure.Figure`: One line per encoder between the same classifier's values on both sides, in percent.
    """
    rows = [row for row in styles if any(row_of(line) == row for line in lines)]
    directions = list(dict.fromkeys(line.task for line in lines))
    figure, panels = panel_grid(
        len(directions), columns=3, width=2.9, height=2.7, x_label="", footer=legend_height(len(rows))
    )
    for axes, direction in zip(panels, directions, strict=True):
        here = [line for line in lines if line.task == direction]
        for place, row in enumerate(rows):
            shift = 0.1 * (place / max(1, len(rows) - 1) - 0.5)  # so that whiskers do not overlap
            points = {
                _SIDES.index(line.settings["side"]) + shift: line
                for line in here
                if row_of(line) == row and line.settings.get("side") in _SIDES
            }
            _draw_curve(axes, points, styles[row], whiskers=True)
        axes.set_xticks(range(len(_SIDES)), _SIDES)
        axes.set_xlim(-0.25, 1.25)
        axes.set_title(plain_text(direction.replace("->", " → ")), fontsize=9.5, loc="left")
    figure.supylabel(f"macro {metric_title(lines[0].metric)}, percent", fontsize=10)
    encoder_legend(figure, styles, rows)
    return figure


def recall_metrics(lines: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """The lines that `recall_curves` draws."""
    return [line for line in lines if _RECALL.fullmatch(line.metric)]


def _draw_curve(axes: Any, points: Mapping[float, EvaluationResult], style: RowStyle, whiskers: bool = False) -> None:
    """A line through the values, with a band of their intervals, or whiskers."""
    places = [place for place in sorted(points) if points[place].value is not None]
    if not places:
        return
    values = [float(points[place].value or 0.0) for place in places]
    lengths = [
        percent_whiskers(value, points[place].confidence_interval) for place, value in zip(places, values, strict=True)
    ]
    heights = [100 * value for value in values]
    axes.plot(
        places,
        heights,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=5 if style.is_trained else 6,
        linewidth=1.6 if style.is_trained else 1.1,
        label=style.label,
        zorder=3 if style.is_trained else 2,
    )
    if whiskers or len(places) == 1:
        axes.errorbar(
            places,
            heights,
            yerr=list(zip(*lengths, strict=True)),
            fmt="none",
            ecolor=style.colour,
            elinewidth=0.8,
            capsize=1.5,
            alpha=0.7,
        )
    else:
        low, high = zip(*lengths, strict=True)
        axes.fill_between(
            places,
            [height - length for height, length in zip(heights, low, strict=True)],
            [height + length for height, length in zip(heights, high, strict=True)],
            color=style.colour,
            alpha=_BAND,
            linewidth=0,
        )


def _belongs(line: EvaluationResult, variant: ProbeVariant) -> bool:
    if line.evaluation == "supervised":
        return line.protocol == variant.protocol
    return probe_variant(line) == variant


def _recall_place(line: EvaluationResult) -> int:
    match = _RECALL.fullmatch(line.metric)
    if match is None:
        raise ValueError(f"'{line.metric}' is not recall at k.")
    return int(match.group(1))
