"""Reliability: how often is it true, where an encoder says with some probability that it is?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.calibration import Calibration, calibrate
from hf_ecgtext.evaluation.statistics.calibration_metrics import ReliabilityCurve
from hf_ecgtext.reporting.figures.style import COLOURS, GRID_COLOUR, below_legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_BINS = 10
_BEFORE_COLOUR, _AFTER_COLOUR = "#7f7f7f", COLOURS[0]
_COLUMNS = 3
_ECE = "pooled_ece_equal_width"


@dataclass(frozen=True)
class ReliabilityQuestion:
    """Scores that stand in one figure: several encoders on the same question.

    Args:
        title (`str`): One line.
        scores (`list[TaskScores]`): One per encoder.
    """

    title: str
    scores: list[TaskScores]

    def caption(self) -> str:
        """What is shown, of how many records."""
        first = self.scores[0]
        several = any(len(scores.scores) > 1 for scores in self.scores)
        runs = " Of several draws or seeds the first is drawn, and the ECE is the mean over all." if several else ""
        fit = (
            "one temperature, fitted on the validation split"
            if first.score_kind == "logit"
            else "a scale and biases, fitted on the validation split; similarities are no probabilities before"
        )
        return (
            f"Observed share of positives against predicted probability, answers about all {len(first.class_names)} "
            f"classes together, in {_NUM_BINS} bins of equal width with 95 % Wilson intervals, which take answers for "
            f"independent. Below: answers per bin, on a logarithmic scale. Calibration: {fit}.{runs} Random encoders "
            f"are left out. n = {len(first.record_ids):,} records of {first.data['name']} ({first.data['revision']}, "
            f"{first.data['split']} split). Protocol: {first.protocol}."
        )


def reliability_questions(scores: Sequence[TaskScores]) -> tuple[list[ReliabilityQuestion], list[str]]:
    """What reliability figures can show: strict zero-shot answers and probes on the most labels, by task.

    Args:
        scores (`Sequence[TaskScores]`): Of a run.

    Returns:
        `tuple[list[ReliabilityQuestion], list[str]]`: And a sentence for whatever is left out.
    """
    wanted = [
        answer
        for answer in scores
        if answer.evaluation in ("zero_shot", "linear_probe", "supervised") and answer.encoder != "random"
    ]
    usable = [answer for answer in wanted if answer.validation_scores is not None]
    notes = []
    if len(usable) < len(wanted):
        names = ", ".join(sorted({answer.task for answer in wanted if answer.validation_scores is None}))
        notes.append(f"Reliability is not drawn where there are no validation scores to calibrate on: {names}.")
    protocols = list(dict.fromkeys(answer.protocol for answer in usable))
    protocol = "strict" if "strict" in protocols else next(iter(protocols), None)
    usable = [answer for answer in usable if answer.protocol == protocol and "upper_bound" not in answer.details]
    prompts = next((answer.prompts for answer in usable if answer.evaluation == "zero_shot"), None)
    fractions = [_fraction(answer) for answer in usable if answer.evaluation == "linear_probe"]
    groups: dict[tuple[str, ...], dict[tuple[str, str], TaskScores]] = {}
    for answer in usable:
        if answer.evaluation == "zero_shot":
            if answer.prompts != prompts:
                continue
            kind = f"zero-shot, prompts {prompts}"
        else:
            if fractions and _fraction(answer) != max(fractions):
                continue
            kind = "linear probe"
        key = (answer.task, kind, *(answer.data[name] for name in ("name", "revision", "split")))
        groups.setdefault(key, {})[answer.checkpoint, answer.encoder] = answer
    questions = [
        ReliabilityQuestion(f"{task}: reliability, {kind}", list(group.values()))
        for (task, kind, *_), group in groups.items()
    ]
    if not questions:
        notes.append("Reliability is not drawn: there are no scores of probes or zero-shot answers.")
    return questions, notes


def reliability_panels(scores: Sequence[TaskScores], names: Sequence[str]) -> Figure:
    """One panel per encoder: observed against predicted, before and after calibration, and a histogram below.

    Args:
        scores (`Sequence[TaskScores]`): With validation scores.
        names (`Sequence[str]`): How the encoders are called.

    Returns:
        `matplotlib.figure.Figure`: Two axes per encoder, the curves first.
    """
    columns = min(_COLUMNS, len(scores))
    num_rows = math.ceil(len(scores) / columns)
    figure = new_figure(max(2.6 * columns, 4.2), 3.3 * num_rows + 0.5)

    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullFormatter

    grid = figure.add_gridspec(2 * num_rows, columns, height_ratios=[3.2, 1] * num_rows)
    any_before = False
    for place, (answer, name) in enumerate(zip(scores, names, strict=True)):
        row, column = divmod(place, columns)
        curves = figure.add_subplot(grid[2 * row, column])
        histogram = figure.add_subplot(grid[2 * row + 1, column], sharex=curves)
        calibration = calibrate(answer)
        drawn = calibration.reliability(0, _NUM_BINS, "equal_width")
        curves.plot([0, 1], [0, 1], color="#444444", linewidth=0.9, linestyle=":", label="perfect")
        if "before" in drawn:
            any_before = True
            _draw(curves, histogram, drawn["before"], _BEFORE_COLOUR, "s", "before")
        _draw(curves, histogram, drawn["after"], _AFTER_COLOUR, "o", "after")
        curves.set_xlim(-0.02, 1.02)
        curves.set_ylim(-0.02, 1.02)
        curves.set_title(name, fontsize=9, loc="left")
        curves.text(0.03, 0.95, _summary(calibration), transform=curves.transAxes, fontsize=8, va="top")
        curves.tick_params(labelbottom=False, labelleft=column == 0)
        histogram.set_yscale("log")
        histogram.yaxis.set_minor_formatter(NullFormatter())
        histogram.tick_params(labelsize=7.5)
        if column == 0:
            curves.set_ylabel("observed share", fontsize=9)
            histogram.set_ylabel("answers", fontsize=9)
        if place + columns >= len(scores):
            histogram.set_xlabel("predicted probability", fontsize=9)
        for axes in (curves, histogram):
            axes.grid(color=GRID_COLOUR, linewidth=0.8)
            axes.set_axisbelow(True)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
    entries = {
        "before calibration": Line2D([], [], color=_BEFORE_COLOUR, marker="s", linestyle="--", markersize=4),
        "after calibration": Line2D([], [], color=_AFTER_COLOUR, marker="o", markersize=4),
        "perfect": Line2D([], [], color="#444444", linestyle=":"),
    }
    if not any_before:
        del entries["before calibration"]
    below_legend(figure, entries)
    return figure


def _draw(curves: Any, histogram: Any, curve: ReliabilityCurve, colour: str, marker: str, label: str) -> None:
    below, above = (abs(curve.observed - bound) for bound in (curve.low, curve.high))
    curves.errorbar(
        curve.mean_predicted,
        curve.observed,
        yerr=[below, above],
        color=colour,
        marker=marker,
        markersize=3.5,
        linewidth=1.2,
        linestyle="--" if label == "before" else "-",
        elinewidth=0.8,
        capsize=1.5,
        label=label,
    )
    is_before = label == "before"
    histogram.step(curve.mean_predicted, curve.counts, color=colour, where="mid", linestyle="--" if is_before else "-")
    if len(curve.counts) == 1:  # a step needs two points
        histogram.plot(curve.mean_predicted, curve.counts, color=colour, marker=marker, markersize=3.5)


def _summary(calibration: Calibration) -> str:
    pooled = calibration.pooled()
    values = [f"{100 * pooled[name]:.1f}" for when in ("before", "after") if (name := f"{_ECE}_{when}") in pooled]
    return f"ECE {' → '.join(values)} %"


def _fraction(answer: TaskScores) -> float:
    return float(answer.settings.get("fraction", 1.0))
