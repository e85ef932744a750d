"""Figures of evaluation results, from results lines only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.render import METRIC_TITLES, single_comparison

_TRAINED_COLOUR = "#5b9bd5"
_RANDOM_COLOUR = "#c9c9c9"
_BAR_HEIGHT = 0.38
_CHANCE = {"auroc": 0.5}  # the chance level of AUPRC differs from class to class


def per_class_bars(
    results: Sequence[EvaluationResult],
    path: str | os.PathLike[str],
    task: str | None = None,
    metric: str = "auroc",
) -> None:
    """Draw one horizontal bar per class with its confidence interval, the random encoder's beside it.

    Classes are sorted by the trained encoder's value, best on top; classes without a value come last, without a bar.

    Args:
        results (`Sequence[EvaluationResult]`): As `read_results` returns them.
        path (`str` or `os.PathLike`): Where to write; the suffix (`.png`, `.pdf`, `.svg`) decides the format.
        task (`str`, *optional*): Which task; not needed if the results are of one.
        metric (`str`): Name of the metric.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The results are of no or of several tasks, or the trained encoder has no such metric.
    """
    try:
        # A Figure of its own, not pyplot: the user's backend and open figures stay as they are.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "hf-ecgtext[plots]"') from error

    group = single_comparison(results, task)
    trained, random = group.get(metric), group.get(metric, "random")
    if trained is None:
        raise ValueError(f"There is no '{metric}' of a trained encoder for task '{group.comparison.task}'.")
    # The y axis points up, so ascending order puts the best class on top and undefined ones at the bottom.
    labels = sorted(trained.per_class, key=lambda label: -1.0 if (v := trained.per_class[label]) is None else v)

    figure = Figure(figsize=(7.0, 1.4 + 0.34 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    offset = 0.0 if random is None else _BAR_HEIGHT / 2
    _draw_bars(axes, labels, trained, offset, _TRAINED_COLOUR, "trained encoder")
    if random is not None:
        _draw_bars(axes, labels, random, -offset, _RANDOM_COLOUR, "random encoder")
    if metric in _CHANCE:
        axes.axvline(100 * _CHANCE[metric], color="#444444", linewidth=0.9, linestyle="--", label="chance")
    axes.set_yticks(range(len(labels)), [f"{label}  ({trained.num_positives[label]:,})" for label in labels])
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{METRIC_TITLES.get(metric, metric)} in percent, with {100 * trained.confidence:g} % interval")
    axes.set_title(f"{group.comparison.task}: {group.comparison.checkpoint}", fontsize=11, loc="left")
    axes.set_ylabel("class (positive records)")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    shown = [name for name in ("trained encoder", "random encoder", "chance") if name in by_name]
    figure.legend(
        [by_name[name] for name in shown], shown, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=150)


def _draw_bars(axes: Any, labels: list[str], result: EvaluationResult, offset: float, colour: str, name: str) -> None:
    """Bars of one encoder at a vertical offset from their class, those without a value left out."""
    places, lengths, whiskers = [], [], []
    for place, label in enumerate(labels):
        value, interval = result.per_class.get(label), result.per_class_intervals.get(label)
        if value is None:
            continue
        # A value outside its own percentile interval is possible for rare classes; a whisker cannot be negative.
        low, high = interval or (value, value)
        places.append(place + offset)
        lengths.append(100 * value)
        whiskers.append((100 * max(value - low, 0.0), 100 * max(high - value, 0.0)))
    axes.barh(places, lengths, height=_BAR_HEIGHT, color=colour, label=name)
    errors = list(zip(*whiskers, strict=True))
    if errors:
        axes.errorbar(lengths, places, xerr=errors, fmt="none", ecolor="#222222", elinewidth=0.9, capsize=2)
