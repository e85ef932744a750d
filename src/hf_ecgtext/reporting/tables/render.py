"""Tables of evaluation results, from results lines only. All values are percent (times 100) with one decimal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hf_ecgtext.evaluation.results import EvaluationResult
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
        title = f"### {self.title}" if style == "markdown" else self.title
        parts = [title, render_table(self.header, self.rows, style), " ".join(self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"


class Comparison(NamedTuple):
    """What results must have in common to stand in one row: everything but metric and encoder.

    `settings` are JSON text, `None` where nothing was set.
    """

    task: str
    protocol: str
    prompts: str | None
    checkpoint: str
    data_name: str
    data_revision: str
    data_split: str
    compared_with: str | None = None
    evaluation: str = "zero_shot"
    settings: str | None = None


@dataclass(frozen=True)
class ComparedResults:
    """The results of one row, by metric, encoder and `min_positives`."""

    comparison: Comparison
    cells: dict[tuple[str, str, int], EvaluationResult] = field(default_factory=dict)

    def get(self, metric: str, encoder: str = "trained", min_positives: int = 1) -> EvaluationResult | None:
        """The result of a cell, or `None` if it was not evaluated."""
        return self.cells.get((metric, encoder, min_positives))


def group_results(results: Sequence[EvaluationResult]) -> list[ComparedResults]:
    """Bring the results together that belong into one row, in order of first appearance.

    Where a run was repeated, the later line stands: a results file is only ever appended to.
    """
    groups: dict[Comparison, ComparedResults] = {}
    for result in results:
        comparison = Comparison(
            task=result.task,
            protocol=result.protocol,
            prompts=result.prompts,
            checkpoint=result.checkpoint,
            data_name=result.data["name"],
            data_revision=result.data["revision"],
            data_split=result.data["split"],
            compared_with=result.compared_with,
            evaluation=result.evaluation,
            settings=json.dumps(result.settings, sort_keys=True) if result.settings else None,
        )
        group = groups.setdefault(comparison, ComparedResults(comparison))
        group.cells[result.metric, result.encoder, result.min_positives] = result
    return list(groups.values())


def zero_shot_table(results: Sequence[EvaluationResult], style: Style = "markdown") -> str:
    """One row per task: macro AUROC with interval, the random encoder's beside it, macro AUPRC and number of records.

    A column for checkpoint, protocol, prompts or data appears where rows differ in it. AUROC over frequent classes
    only (`min_positives` above 1) has columns of its own.

    Args:
        results (`Sequence[EvaluationResult]`): As `read_results` returns them.
        style (`str`): `"markdown"`, or `"terminal"` for aligned plain text.

    Returns:
        `str`: The table, and below it what the numbers are.

    Raises:
        ValueError: There are no results, or their intervals differ in coverage.
    """
    coverage = _shared_coverage(results)
    groups = group_results(results)
    shared = {name: len({getattr(group.comparison, name) for group in groups}) == 1 for name in Comparison._fields}
    varying = [name for name in Comparison._fields if name != "task" and not shared[name]]
    thresholds = sorted({key[2] for group in groups for key in group.cells if key[0] == "auroc"} | {1})
    header = ["task", *(name.replace("_", " ") for name in varying)]
    for threshold in thresholds:
        frequent = "" if threshold == 1 else f", {threshold}+ positives"
        header += [f"AUROC{frequent} ({coverage} CI)", f"random encoder{frequent}"]
    header += ["AUPRC", "n"]
    rows = []
    for group in groups:
        row = [group.comparison.task, *(str(getattr(group.comparison, name)) for name in varying)]
        for threshold in thresholds:
            row += [_macro_cell(group.get("auroc", encoder, threshold)) for encoder in ("trained", "random")]
        num_records = {result.num_records for result in group.cells.values()}
        counts = " / ".join(f"{count:,}" for count in sorted(num_records))
        rows.append([*row, _macro_cell(group.get("average_precision")), counts])
    notes = [
        f"Macro means over classes in percent, with {coverage} confidence intervals.",
        *(f"{n}+ positives: over classes with at least {n} positive records only." for n in thresholds if n > 1),
        "Random encoder: the same architecture with random weights.",
        *_shared_facts(groups[0].comparison, shared),
    ]
    return render_table(header, rows, style) + "\n\n" + " ".join(notes) + "\n"


def per_class_table(results: Sequence[EvaluationResult], task: str | None = None, style: Style = "markdown") -> str:
    """One row per class of one task: AUROC with interval, the random encoder's, AUPRC and number of positives.

    Args:
        results (`Sequence[EvaluationResult]`): As `read_results` returns them.
        task (`str`, *optional*): Which task; not needed if the results are of one.
        style (`str`): `"markdown"`, or `"terminal"` for aligned plain text.

    Raises:
        ValueError: The results are of no or of several tasks, checkpoints, protocols, prompt sets or data sets.
    """
    group = single_comparison(results, task)
    coverage = _shared_coverage(list(group.cells.values()))
    trained, random, precision = (
        group.get("auroc"),
        group.get("auroc", "random"),
        group.get("average_precision"),
    )
    first = next(iter(group.cells.values()))
    rows = [
        [label, _class_cell(trained, label), _class_cell(random, label), _class_cell(precision, label), f"{count:,}"]
        for label, count in first.num_positives.items()
    ]
    header = ["class", f"AUROC ({coverage} CI)", "random encoder", "AUPRC", "positives"]
    facts = _shared_facts(group.comparison, dict.fromkeys(Comparison._fields, True))
    notes = [f"In percent. {group.comparison.task}, {first.num_records:,} records.", *facts]
    return render_table(header, rows, style) + "\n\n" + " ".join(notes) + "\n"


def single_comparison(results: Sequence[EvaluationResult], task: str | None = None) -> ComparedResults:
    """The one group of results that a per-class table or figure shows.

    Raises:
        ValueError: There is none, or more than one.
    """
    groups = [group for group in group_results(results) if task in (None, group.comparison.task)]
    if len(groups) != 1:
        found = "; ".join(", ".join(map(str, group.comparison)) for group in groups) or "none"
        raise ValueError(
            f"Classes are shown for one task, checkpoint, protocol, prompt set and data set at a time; task={task!r} "
            f"selects: {found}. Filter the results, or pass another task."
        )
    return groups[0]


def percent(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """A fraction as percent with one decimal, such as `74.2 (72.9 to 75.4)`; `-` where undefined."""
    if value is None:
        return UNDEFINED
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _macro_cell(result: EvaluationResult | None) -> str:
    return UNDEFINED if result is None else percent(result.value, result.confidence_interval)


def _class_cell(result: EvaluationResult | None, label: str) -> str:
    if result is None:
        return UNDEFINED
    return percent(result.per_class.get(label), result.per_class_intervals.get(label))


def _shared_coverage(results: Sequence[EvaluationResult]) -> str:
    if not results:
        raise ValueError("There are no results to show.")
    coverages = sorted({result.confidence for result in results})
    if len(coverages) > 1:
        raise ValueError(f"The results have intervals of different coverage, {coverages}; show them separately.")
    return f"{100 * coverages[0]:g} %"


def _shared_facts(comparison: Comparison, shared: dict[str, bool]) -> list[str]:
    facts = [
        f"{name.replace('_', ' ')}: {getattr(comparison, name)}."
        for name in Comparison._fields
        if name != "task" and shared[name] and getattr(comparison, name) is not None
    ]
    return [fact[0].upper() + fact[1:] for fact in facts]


def render_table(header: list[str], rows: list[list[str]], style: Style) -> str:
    """The rows below their header, as Markdown, as aligned plain text, or as a LaTeX `tabular`."""
    if style == "latex":
        return latex_tabular(header, rows)
    if style == "markdown":
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    if style == "terminal":
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        lines = [header, ["-" * width for width in widths], *rows]
        return "\n".join(_aligned(line, widths) for line in lines)
    raise ValueError(f"style is '{style}'; expected 'markdown', 'terminal' or 'latex'.")


def _aligned(cells: list[str], widths: list[int]) -> str:
    """First column to the left, numbers to the right."""
    texts = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
    return "  ".join(texts).rstrip()
