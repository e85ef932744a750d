"""All tables of a benchmark run, in the papers' shape, from its result lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.statistics.permutation import holm
from hf_ecgtext.reporting.published_numbers import (
    SIX_TASKS,
    PublishedNumber,
    published_mean,
    published_numbers,
)
from hf_ecgtext.reporting.tables.grid import (
    EncoderRows,
    Grid,
    Row,
    cell,
    footnotes,
    latest,
    measure,
    measure_title,
    p_cell,
    published_notes,
    published_row,
    rest_of_settings,
    split_by,
    task_titles,
)
from hf_ecgtext.reporting.tables.probes import BEST_TEST_EPOCH, fraction, fraction_title, probe_tables, variant
from hf_ecgtext.reporting.tables.prompts import sensitivity_tables
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable, Style, render_table
from hf_ecgtext.reporting.tables.transfer import lead_tables, put_references, retrieval_tables, shift_tables

_RANKING_METRICS = ("auroc", "average_precision")
_MEAN = "mean"
_README_RETRIEVAL = {
    ("recall_at_10", "ecg_to_report"): "R@10 ECG to report",
    ("recall_at_10", "report_to_ecg"): "R@10 report to ECG",
}
_TITLES = {
    "zero_shot": "Zero-shot",
    "linear_probe": "Linear probe",
    "supervised": "Supervised from scratch",
    "distribution_shift": "Distribution shift",
    "retrieval": "Retrieval",
    "finetune": "Fine-tuning",
    "identification": "Patient identification",
    "single_label": "Single-label records",
}


def benchmark_tables(
    results: Sequence[EvaluationResult], *, titles: Mapping[str, str] | None = None, published: bool = True
) -> list[NamedTable]:
    """Zero-shot, linear probe, distribution shift, retrieval, lead subsets, other metrics, differences.

    Baselines stand at the bottom of each table; numbers of the papers in rows of their own, above ours.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one run; of repeated lines the last counts.
        titles (`Mapping[str, str]`, *optional*): How checkpoints are called, in the order of the rows.
        published (`bool`): Quote the papers' numbers.

    Raises:
        ValueError: If there are no results, two checkpoints are called the same, or intervals differ in coverage.
    """
    lines = latest(results)
    if not lines:
        raise ValueError("There are no results to show.")
    rows = EncoderRows(lines, titles or {})
    plain = [result for result in lines if result.compared_with is None]
    kinds = split_by(plain, lambda result: result.evaluation)
    supervised = _ranking(kinds.get("supervised", []))
    tables = list(zero_shot_tables(_ranking(kinds.get("zero_shot", [])), supervised, rows, published=published))
    tables += sensitivity_tables(kinds.get("zero_shot", []), rows)
    tables += probe_tables(_ranking(kinds.get("linear_probe", [])), supervised, rows, published=published)
    if not kinds.keys() & {"zero_shot", "linear_probe"}:
        tables += _metric_tables(supervised, rows)
    tables += shift_tables(_ranking(kinds.get("distribution_shift", [])), rows, published=published)
    tables += retrieval_tables(kinds.get("retrieval", []), rows)
    for name in ("finetune", "identification"):
        tables += lead_tables(kinds.get(name, []), rows, _TITLES[name], published=published)
    shown = ("zero_shot", "linear_probe", "supervised", "distribution_shift")
    whole = ("retrieval", "finetune", "identification")
    for name, found in kinds.items():
        if name not in whole:
            rest = [result for result in found if name not in shown or result.metric not in _RANKING_METRICS]
            tables += _metric_tables(rest, rows, published=published)
    tables += difference_tables([result for result in lines if result.compared_with is not None], rows)
    return tables


def zero_shot_tables(
    results: Sequence[EvaluationResult],
    supervised: Sequence[EvaluationResult],
    rows: EncoderRows,
    *,
    published: bool = True,
) -> Iterator[NamedTable]:
    """One table per protocol, prompt set and metric: encoders in rows, tasks in columns.

    Args:
        results (`Sequence[EvaluationResult]`): Zero-shot lines.
        supervised (`Sequence[EvaluationResult]`): Lines of the supervised baseline; it answers the same tasks.
        rows ([`EncoderRows`]): Of the run.
        published (`bool`): Quote the papers' macro AUROC.
    """
    groups = split_by(results, lambda result: (result.protocol, result.prompts, rest_of_settings(result)))
    for (protocol, prompts, settings), group in groups.items():
        for name, lines in split_by(group, measure).items():
            asked = {(result.task, result.data["name"]) for result in lines}
            beside = [
                result
                for result in supervised
                if measure(result) == name and (result.task, result.data["name"]) in asked and fraction(result) == 1.0
            ]
            beside = [result for result in beside if result.protocol == protocol] or beside
            named = ", ".join([f"{prompts} prompts" if prompts else "no prompt set named", *filter(None, [settings])])
            yield _zero_shot_table(
                [*lines, *beside],
                rows,
                f"Zero-shot: macro {measure_title(*name)}, {named}, {protocol} protocol",
                published=published and name == ("auroc", 1),
            )


def difference_tables(results: Sequence[EvaluationResult], rows: EncoderRows) -> Iterator[NamedTable]:
    """One table per evaluation, protocol, metric and reference: paired differences, p values, corrected ones.

    Args:
        results (`Sequence[EvaluationResult]`): Lines with `compared_with`.
        rows ([`EncoderRows`]): Of the run.
    """
    groups = split_by(
        results, lambda result: (result.evaluation, result.protocol, measure(result), result.compared_with)
    )
    for (evaluation, protocol, name, reference), lines in groups.items():
        title = task_titles(lines)
        grid = Grid(corner=("encoder", "task", "settings"))
        adjusted = holm(np.array([np.nan if result.p_value is None else result.p_value for result in lines]))
        tested = sum(result.p_value is not None for result in lines)
        for result, corrected in zip(lines, adjusted.tolist(), strict=True):
            row = rows.row(result).with_titles(title(result), _settings(result))
            grid.put(row, "difference", f"less {rows.title(str(reference))}", cell(result))
            grid.put(row, "p", "p", p_cell(result.p_value))
            grid.put(row, "holm", "p (Holm)", p_cell(None if result.p_value is None else corrected))
        yield grid.table(
            f"Differences to {rows.title(str(reference))}: {_title(evaluation)}, {measure_title(*name)}, "
            f"{protocol} protocol",
            [
                "Paired differences on the same records and resamples, in points of percent where the metric is one.",
                *(
                    [f"p: two-sided permutation test; p (Holm): corrected for the {tested} tests of this table."]
                    if tested
                    else []
                ),
                *footnotes(lines, rows),
            ],
        )


def readme_benchmark_table(
    results: Sequence[EvaluationResult],
    *,
    titles: Mapping[str, str] | None = None,
    tasks: Sequence[str] | None = None,
    prompts: str | None = None,
    recipe: str = "merl",
    intervals: bool = True,
    style: Style = "markdown",
) -> str:
    """One compact table: zero-shot, probe (strict and published) and retrieval, one row per task and encoder.

    Below, what the most frequent report reaches in retrieval where it answers every ECG.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one run.
        titles (`Mapping[str, str]`, *optional*): How checkpoints are called, in the order of the rows.
        tasks (`Sequence[str]`, *optional*): Which, in order; all by default.
        prompts (`str`, *optional*): The prompt set of the zero-shot column; not needed if there is one.
        recipe (`str`): The published probe.
        intervals (`bool`): Print intervals.
        style (`str`): As in `render_table`.

    Raises:
        ValueError: If there are several prompt sets and none is chosen, or no result of these tasks.
    """
    lines = [result for result in latest(results) if result.compared_with is None and result.min_positives == 1]
    rows = EncoderRows(lines, titles or {})
    macro = [result for result in lines if result.metric == "auroc"]
    asked = list(dict.fromkeys(result.task for result in macro if result.evaluation in ("zero_shot", "linear_probe")))
    wanted = asked if tasks is None else [task for task in tasks if task in asked]
    sets = list(dict.fromkeys(result.prompts for result in macro if result.evaluation == "zero_shot"))
    if prompts is None and len(sets) > 1:
        raise ValueError(f"The results are of the prompt sets {', '.join(map(str, sets))}; choose one of them.")
    if not wanted or (prompts is not None and prompts not in sets):
        raise ValueError(
            f"There are no results of tasks {tasks} and prompts {prompts}; the results have tasks "
            f"{', '.join(asked) or 'none'} and prompts {', '.join(map(str, sets)) or 'none'}."
        )
    shares = sorted({fraction(result) for result in macro if result.evaluation == "linear_probe"})
    names = [f"{fraction_title(share)} {kind}" for share in shares for kind in ("strict", "published")]
    columns = ["zero-shot", *(f"probe {name}" for name in names), *_README_RETRIEVAL.values()]
    placed: dict[str, list[tuple[str, EvaluationResult]]] = {task: [] for task in wanted}
    for result in lines:
        column = _readme_column(result, prompts, recipe)
        if column in columns and result.evaluation == "retrieval":
            homes = dict.fromkeys(other.task for other in macro if other.data == result.data)
        else:
            homes = {result.task: None}
        for task in homes.keys() & placed.keys() if column in columns else ():
            placed[task].append((str(column), result))
    filled = {column for found in placed.values() for column, _ in found}
    table_rows: list[list[str]] = []
    for task, found in placed.items():
        grid = Grid(corner=("encoder",), columns={column: column for column in columns if column in filled})
        for column, result in found:
            grid.put(rows.row(result), column, column, cell(result, interval=intervals))
        put_references(grid, found, ["always_commonest"])
        table_rows += [[task, *row] for row in grid.table(task, []).rows]
    header = ["task", "encoder", *(column for column in columns if column in filled)]
    if len(wanted) == 1:
        header, table_rows = header[1:], [row[1:] for row in table_rows]
    used = [result for found in placed.values() for _, result in found]
    notes = [
        f"Macro AUROC in percent; zero-shot with {prompts or sets[0]} prompts." if sets else "Macro AUROC in percent.",
        f"Published: {recipe} recipe, best test epoch, an upper bound that nobody could have known." if recipe else "",
        "R@10: own answer among the first ten." if set(_README_RETRIEVAL.values()) & filled else "",
        *footnotes(used, rows, intervals=intervals),
    ]
    about = f"{wanted[0]}. " if len(wanted) == 1 else ""
    return render_table(header, table_rows, style) + "\n\n" + about + " ".join(note for note in notes if note) + "\n"


def _readme_column(result: EvaluationResult, prompts: str | None, recipe: str) -> str | None:
    """The column of the README's table in which a result stands, if in any."""
    settings, strict = result.settings, result.protocol == "strict"
    share = fraction_title(fraction(result))
    if result.evaluation == "retrieval" and strict:
        return _README_RETRIEVAL.get((result.metric, str(settings.get("direction"))))
    if result.metric != "auroc":
        return None
    if result.evaluation == "zero_shot" and strict and prompts in (None, result.prompts):
        return "zero-shot"
    if result.evaluation == "linear_probe" and result.protocol == "published":
        best = settings.get("selection") == BEST_TEST_EPOCH and settings.get("solver") == recipe
        return f"probe {share} published" if best else None
    if result.evaluation in ("linear_probe", "supervised") and strict and "selection" not in settings:
        return f"probe {share} strict"
    return None


def _zero_shot_table(
    lines: Sequence[EvaluationResult], rows: EncoderRows, title: str, *, published: bool
) -> NamedTable:
    task = task_titles(lines)
    tasks = list(dict.fromkeys(map(task, lines)))
    grid = Grid(corner=("encoder",), columns={name: name for name in tasks})
    for result in lines:
        grid.put(rows.row(result), task(result), task(result), cell(result))
    quoted = _quoted_rows(tasks) if published else {}
    for row, numbers in quoted.items():
        for number in numbers:
            if number.task in tasks:
                grid.put(row, number.task, number.task, number.text)
    notes = ["In percent."]
    if set(tasks) == set(SIX_TASKS):
        notes.append(f"'{_MEAN}': over the six tasks, of rows that have all.")
        for row, found in split_by(lines, rows.row).items():
            values = [result.value for result in found if result.value is not None]
            if len(values) == len(tasks):
                grid.put(row, _MEAN, _MEAN, f"{100 * sum(values) / len(values):.1f}")
        for row, numbers in quoted.items():
            if (mean := published_mean(numbers)) is not None:
                grid.put(row, _MEAN, _MEAN, f"{mean:.2f}")  # the papers print two decimals
    notes += footnotes(lines, rows)
    if quoted:
        notes.append("The papers' prompts are not ours.")
    return grid.table(title, [*notes, *published_notes([number for found in quoted.values() for number in found])])


def _quoted_rows(tasks: Sequence[str]) -> dict[Row, list[PublishedNumber]]:
    """Published rows with a number for one of the tasks; those that have only a mean count where it can be shown."""
    found: dict[Row, list[PublishedNumber]] = {}
    for number in published_numbers("zero_shot"):
        if number.metric == "auroc":
            found.setdefault(published_row(number), []).append(number)
    has_mean = set(tasks) == set(SIX_TASKS)
    return {
        row: numbers
        for row, numbers in found.items()
        if {number.task for number in numbers} & set(tasks) or (has_mean and published_mean(numbers) is not None)
    }


def _metric_tables(
    results: Sequence[EvaluationResult], rows: EncoderRows, *, published: bool = False
) -> Iterator[NamedTable]:
    """One table per evaluation, protocol and number of positives: metrics in columns.

    Of several fractions of a task only the largest is shown: the others are in the result lines.
    """
    title = task_titles(results)
    groups = split_by(results, lambda result: (result.evaluation, result.protocol, result.min_positives))
    for (evaluation, protocol, min_positives), group in groups.items():
        largest = {task: max(map(fraction, found)) for task, found in split_by(group, title).items()}
        lines = [result for result in group if fraction(result) == largest[title(result)]]
        grid = Grid(corner=("encoder", "task", "settings"))
        for result in lines:
            row = rows.row(result).with_titles(title(result), _settings(result))
            grid.put(row, result.metric, measure_title(result.metric), cell(result))
        quoted = [
            number
            for number in published_numbers(evaluation)
            if published and evaluation == "single_label" and number.task in {result.task for result in lines}
        ]
        for number in quoted:
            row = published_row(number).with_titles(number.task, "as published")
            grid.put(row, number.metric, measure_title(number.metric), number.text)
        positives = "" if min_positives == 1 else f", over classes with {min_positives}+ positives"
        shares = sorted({fraction(result) for result in group if "fraction" in result.settings})
        shown = (
            [f"Of the fractions of the training split, the largest: {fraction_title(shares[-1])}."] if shares else []
        )
        yield grid.table(
            f"{_title(evaluation)}: metrics{positives}, {protocol} protocol",
            ["In percent.", *(shown if len(shares) > 1 else []), *footnotes(lines, rows), *published_notes(quoted)],
        )


def _settings(result: EvaluationResult) -> str:
    """Everything that distinguishes a result from another of the same task, protocol and metric."""
    parts = [f"{result.prompts} prompts"] if result.prompts else []
    parts += [fraction_title(fraction(result))] if "fraction" in result.settings else []
    parts += [variant(result)] if {"solver", "selection"} & set(result.settings) else []
    rest = rest_of_settings(result, "fraction", "solver", "selection") if result.evaluation != "linear_probe" else ""
    return ", ".join([*parts, *([rest] if rest else [])]) or UNDEFINED


def _ranking(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    return [result for result in results if result.metric in _RANKING_METRICS]


def _title(evaluation: str) -> str:
    return _TITLES.get(evaluation, evaluation.replace("_", " ").capitalize())
