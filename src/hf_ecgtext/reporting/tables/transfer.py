"""Tables of what leaves the labels or the leads of a task: distribution shift, retrieval, lead subsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.published_numbers import PublishedNumber, published_numbers
from hf_ecgtext.reporting.tables.grid import (
    EncoderRows,
    Grid,
    cell,
    footnotes,
    is_quoted_beside,
    level_cell,
    measure,
    measure_title,
    published_notes,
    published_row,
    reference_row,
    rest_of_settings,
    split_by,
    task_titles,
)
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable

_CLASSIFIERS = {"linear_probe": "linear probe", "zero_shot": "zero-shot"}
_DIRECTIONS = {"ecg_to_report": "ECG to report", "report_to_ecg": "report to ECG"}
_CSN_AS_SOURCE = "csn_as_source"
_REFERENCES = {"chance": "chance", "always_commonest": "always the commonest report"}
_RETRIEVAL_METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")


def shift_tables(
    results: Sequence[EvaluationResult], rows: EncoderRows, *, published: bool = True
) -> Iterator[NamedTable]:
    """One table per protocol, label map and metric: directions in columns, both sides of each classifier in rows.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of the distribution shift.
        rows ([`EncoderRows`]): Of the run.
        published (`bool`): Quote the papers' numbers beside the map that the papers used.
    """
    by_map = split_by(results, lambda result: (result.protocol, str(result.settings.get("label_map")), measure(result)))
    for (protocol, label_map, name), lines in by_map.items():
        title = task_titles(lines, "side")
        grid = Grid(corner=("encoder", "classifier", "side"))
        # The sides of one classifier stand below each other.
        ordered = sorted(lines, key=lambda result: (_classifier(result), str(result.settings.get("side"))))
        grid.columns = {title(result): title(result) for result in lines}
        for result in ordered:
            row = rows.row(result).with_titles(_classifier(result), str(result.settings.get("side", UNDEFINED)))
            grid.put(row, title(result), title(result), cell(result))
        quoted = [
            number
            for number in published_numbers("distribution_shift")
            if published
            and number.task in grid.columns
            and is_quoted_beside(name[0], name[1], of=number.metric)
            and number.settings["label_map"] == label_map
        ]
        for number in quoted:
            row = published_row(number).with_titles(
                _CLASSIFIERS[number.settings["classifier"]], number.settings["side"]
            )
            grid.put(row, number.task, number.task, number.text)
        yield grid.table(
            f"Distribution shift: macro {measure_title(*name)}, {label_map.replace('_', ' ')} label map, "
            f"{protocol} protocol",
            [
                "In percent. Each classifier is that of the source's classes: 'source' is its value on the source's "
                "test records, 'target' on those of the target.",
                *_unmapped(lines),
                *footnotes(lines, rows),
                *published_notes(quoted),
            ],
        )


def retrieval_tables(results: Sequence[EvaluationResult], rows: EncoderRows) -> Iterator[NamedTable]:
    """One table per data, protocol and treatment of duplicates: both directions; below, what chance gives.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of the retrieval.
        rows ([`EncoderRows`]): Of the run.
    """
    title = task_titles(results)
    groups = split_by(
        results, lambda result: (title(result), result.protocol, rest_of_settings(result, "direction"), result.prompts)
    )
    for (data, protocol, settings, prompts), lines in groups.items():
        grid = Grid(corner=("encoder",))
        ordered = sorted(lines, key=_retrieval_place)
        grid.columns = {column: column for column in dict.fromkeys(map(_retrieval_column, ordered))}
        for result in ordered:
            grid.put(rows.row(result), _retrieval_column(result), _retrieval_column(result), cell(result))
        put_references(grid, [(_retrieval_column(result), result) for result in ordered], list(_REFERENCES))
        galleries = {str(r.settings.get("direction")): r.details["gallery"] for r in lines if "gallery" in r.details}
        sizes = ", ".join(f"{_DIRECTIONS.get(name, name)} {size:,}" for name, size in galleries.items())
        yield grid.table(
            ", ".join(["Retrieval on " + data, *([settings] if settings else []), *([prompts] if prompts else [])])
            + f", {protocol} protocol",
            [
                "R@k: queries whose own answer is among the first k, in percent; the median rank counts from 1.",
                *([f"Gallery: {sizes}."] if sizes else []),
                *footnotes(lines, rows),
            ],
        )


def put_references(grid: Grid, placed: Sequence[tuple[str, EvaluationResult]], references: Sequence[str]) -> None:
    """Below the encoders, what retrieval gives without looking at an ECG.

    Args:
        grid ([`Grid`]): Of the table; its columns are those of `placed`.
        placed (`Sequence[tuple[str, EvaluationResult]]`): Columns and the lines in them; only retrieval has references.
        references (`Sequence[str]`): Among `chance` and `always_commonest`.
    """
    for column in dict.fromkeys(column for column, _ in placed):
        found = [line for place, line in placed if place == column and line.evaluation == "retrieval"]
        for reference in references:
            levels = [line.details[reference] for line in found if line.details.get(reference) is not None]
            if levels:
                grid.put(reference_row(_REFERENCES[reference]), column, column, level_cell(found[0].metric, levels))


def lead_tables(
    results: Sequence[EvaluationResult], rows: EncoderRows, what: str, *, published: bool = True
) -> Iterator[NamedTable]:
    """One table per task, protocol and metric: numbers of leads in columns.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of fine-tuning, or of patient identification.
        rows ([`EncoderRows`]): Of the run.
        what (`str`): Begins the title, such as `"Fine-tuning"`.
        published (`bool`): Quote the papers' numbers of the same task and metric.
    """
    title = task_titles(results)
    for (task, protocol, name), lines in split_by(
        results, lambda result: (title(result), result.protocol, measure(result))
    ).items():
        grid = Grid(corner=("encoder", "settings"))
        leads = sorted({_leads(result) for result in lines}, reverse=True)
        grid.columns = {number: _leads_title(number) for number in leads}
        for result in lines:
            settings = rest_of_settings(result, "leads")
            prompts = [result.prompts] if result.prompts else []
            row = rows.row(result).with_titles(", ".join([*prompts, settings]) or UNDEFINED)
            grid.put(row, _leads(result), grid.columns[_leads(result)], cell(result, spread=True))
        for column, found in split_by(lines, _leads).items():
            levels = [result.details["chance"] for result in found if result.details.get("chance") is not None]
            if levels:
                grid.put(reference_row("chance", UNDEFINED), column, grid.columns[column], level_cell(name[0], levels))
        quoted = _published_leads(lines[0], grid) if published and name[1] == 1 else []
        for number in quoted:
            column = number.settings["leads"]
            grid.put(published_row(number).with_titles("as published"), column, grid.columns[column], number.text)
        yield grid.table(
            f"{what}: {measure_title(*name)} on {task} by leads, {protocol} protocol",
            ["In percent.", *footnotes(lines, rows), *published_notes(quoted)],
        )


def _unmapped(results: Sequence[EvaluationResult]) -> list[str]:
    found = split_by(results, lambda result: result.settings.get(_CSN_AS_SOURCE))
    return [
        f"{', '.join(dict.fromkeys(result.task for result in lines))}, zero-shot: {what}, as in the papers."
        for what, lines in found.items()
        if what is not None
    ]


def _classifier(result: EvaluationResult) -> str:
    name = str(result.settings.get("classifier", UNDEFINED))
    details = [*([result.prompts] if result.prompts else [])]
    # The target task is part of the direction, which is the column.
    rest = rest_of_settings(result, "classifier", "target_task", "label_map", "side", _CSN_AS_SOURCE)
    details += [rest] if rest else []
    text = _CLASSIFIERS.get(name, name)
    return f"{text} ({', '.join(details)})" if details else text


def _retrieval_place(result: EvaluationResult) -> tuple[int, str, int, str]:
    direction, known = str(result.settings.get("direction")), list(_DIRECTIONS)
    metrics = list(_RETRIEVAL_METRICS)
    return (
        known.index(direction) if direction in known else len(known),
        direction,
        metrics.index(result.metric) if result.metric in metrics else len(metrics),
        result.metric,
    )


def _retrieval_column(result: EvaluationResult) -> str:
    direction = str(result.settings.get("direction"))
    return f"{_DIRECTIONS.get(direction, direction)} {measure_title(*measure(result))}"


def _leads(result: EvaluationResult) -> int:
    leads = result.settings.get("leads", 12)
    return len(leads) if isinstance(leads, (list, tuple)) else int(leads)


def _leads_title(number: int) -> str:
    return f"{number} lead{'s' if number > 1 else ''}"


def _published_leads(like: EvaluationResult, grid: Grid) -> list[PublishedNumber]:
    return [
        number
        for number in published_numbers(like.evaluation)
        if (number.task, number.metric) == (like.task, like.metric) and number.settings.get("leads") in grid.columns
    ]
