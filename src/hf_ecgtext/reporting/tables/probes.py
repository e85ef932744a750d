"""Linear probes in the papers' shape, strict and published side by side, and what choosing epochs on the test adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.published_numbers import PublishedNumber, published_numbers
from hf_ecgtext.reporting.tables.grid import (
    EncoderRows,
    Grid,
    Row,
    cell,
    footnotes,
    headline_auroc,
    is_quoted_beside,
    latest,
    measure,
    measure_title,
    published_notes,
    published_row,
    rest_of_settings,
    split_by,
    task_titles,
)
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable

BEST_TEST_EPOCH = "best test epoch"
BEST_VALIDATION_EPOCH = "best validation epoch"
LAST_EPOCH = "last epoch"

_STRICT_SOLVER = "logistic_regression"
_UPPER_BOUND = (
    "'Best test epoch' is how the papers choose: the epoch with the highest value on the test split itself, an upper "
    "bound that nobody could have known."
)
_SPREAD = "± standard deviation over draws of the training subset and over random seeds."


def probe_tables(
    probes: Sequence[EvaluationResult],
    supervised: Sequence[EvaluationResult],
    rows: EncoderRows,
    *,
    published: bool = True,
) -> Iterator[NamedTable]:
    """An overview per metric, one table per task with intervals, and the inflation.

    Args:
        probes (`Sequence[EvaluationResult]`): Lines of the linear probe, of AUROC and AUPRC.
        supervised (`Sequence[EvaluationResult]`): Lines of the supervised baseline of the same metrics.
        rows ([`EncoderRows`]): Of the run.
        published (`bool`): Quote the papers' numbers too.
    """
    asked = {result.task for result in probes}
    baseline = [result for result in supervised if result.task in asked]
    compared = without_other_epochs(probes)
    for name, lines in split_by(compared, measure).items():
        beside = [result for result in baseline if measure(result) == name]
        yield _overview([*lines, *beside], rows, name, published=published and is_quoted_beside(*name))
    for task, lines in split_by(compared, lambda result: result.task).items():
        beside = [result for result in baseline if result.task == task]
        shown = headline_auroc([*lines, *beside])
        if shown:
            yield _detail(shown, rows, task)
    yield from inflation_tables(probes, rows, published=published)


def fraction(result: EvaluationResult) -> float:
    """Fraction of the training split; 1 where the line does not say."""
    return float(result.settings.get("fraction", 1.0))


def fraction_title(value: float) -> str:
    """Such as `10 %`."""
    return f"{100 * value:g} %"


def variant(result: EvaluationResult) -> str:
    """Protocol of a probe, with the recipe and how the epoch was chosen where it is a published one."""
    if result.evaluation != "linear_probe":
        return result.protocol
    solver = result.settings.get("solver", _STRICT_SOLVER)
    parts = [result.protocol, *([solver] if solver != _STRICT_SOLVER else [])]
    parts += [result.settings["selection"]] if "selection" in result.settings else []
    rest = rest_of_settings(result, "fraction", "solver", "selection")
    return ", ".join([*parts, *([rest] if rest else [])])


def without_other_epochs(probes: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Probes without the other epochs of those that a published protocol reports at the best test epoch."""
    reported = {_recipe(result) for result in probes if result.settings.get("selection") == BEST_TEST_EPOCH}
    return [
        result
        for result in probes
        if result.settings.get("selection") in (None, BEST_TEST_EPOCH) or _recipe(result) not in reported
    ]


def inflation_tables(
    probes: Sequence[EvaluationResult], rows: EncoderRows, *, published: bool = True
) -> Iterator[NamedTable]:
    """One table per published recipe: the best test epoch less the epoch that validation chooses, and less strict."""
    macro = headline_auroc(probes)
    epochs = [result for result in macro if "selection" in result.settings]
    strict = [result for result in macro if "selection" not in result.settings]
    title = task_titles(macro)

    def place_of(result: EvaluationResult) -> tuple[Row, str, float]:
        return rows.row(result), title(result), fraction(result)

    for (protocol, solver), lines in split_by(epochs, _recipe).items():
        if not any(result.settings["selection"] == BEST_TEST_EPOCH for result in lines):
            continue
        grid = Grid(
            corner=("encoder", "task", "fraction"),
            columns={name: name for name in (BEST_TEST_EPOCH, BEST_VALIDATION_EPOCH, LAST_EPOCH)},
        )
        used = list(lines)
        for place, found in split_by(lines, place_of).items():
            encoder, task, part = place
            row = encoder.with_titles(task, fraction_title(part))
            values = {result.settings["selection"]: result for result in found}
            for selection, result in values.items():
                grid.put(row, selection, selection, cell(result, interval=False))
            best = values.get(BEST_TEST_EPOCH)
            _put_difference(grid, row, "best test less best validation", best, values.get(BEST_VALIDATION_EPOCH))
            for result in strict:
                if place_of(result) == place:
                    used.append(result)
                    grid.put(row, variant(result), variant(result), cell(result, interval=False))
                    _put_difference(grid, row, f"best test less {variant(result)}", best, result)
        quoted = _published_epochs() if published and solver == "deri" else []
        _put_published_epochs(grid, quoted)
        yield grid.table(
            f"Inflation: the best test epoch against honest choices, {solver} recipe, {protocol} protocol",
            [
                "Macro AUROC in percent, differences in points.",
                _UPPER_BOUND,
                "'Best validation epoch' is of the same training runs.",
                *footnotes(used, rows, intervals=False),
                *published_notes(quoted),
            ],
        )


def inflation_summary(results: Sequence[EvaluationResult]) -> NamedTable:
    """What choosing the epoch on the test split adds, over all trained encoders and tasks, by recipe and fraction.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of published probes, and of strict ones for the last column.

    Raises:
        ValueError: If there are no published probes.
    """
    chosen: dict[tuple[str, float], dict[tuple[str, str], dict[str, float]]] = {}
    converged: dict[tuple[str, str, float], float] = {}
    for result in headline_auroc(latest(results)):
        is_probe = (result.evaluation, result.encoder, result.compared_with) == ("linear_probe", "trained", None)
        if not is_probe or result.value is None:
            continue
        place, part = (result.checkpoint, result.task), fraction(result)
        if "selection" in result.settings:
            values = chosen.setdefault((result.settings["solver"], part), {}).setdefault(place, {})
            values[result.settings["selection"]] = 100 * result.value
        elif result.settings["solver"] == _STRICT_SOLVER:
            converged[*place, part] = 100 * result.value
    if not chosen:
        raise ValueError("There are no lines of published probes.")
    rows = []
    for (solver, part), places in chosen.items():
        inflation = [values[BEST_TEST_EPOCH] - values[BEST_VALIDATION_EPOCH] for values in places.values()]
        known = [place for place in places if (*place, part) in converged]
        shortfall = [converged[*place, part] - places[place][BEST_TEST_EPOCH] for place in known]
        rows.append(
            [
                solver,
                fraction_title(part),
                f"{sum(inflation) / len(inflation):+.2f}",
                f"{max(inflation):+.1f}",
                f"{sum(shortfall) / len(shortfall):+.1f}" if shortfall else UNDEFINED,
                str(len(inflation)),
            ]
        )
    header = ["recipe", "fraction", "inflation, mean", "inflation, largest", "strict less best test, mean", "cells"]
    notes = [
        "Points of macro AUROC, over trained encoders and tasks. Inflation: best test epoch less the epoch that "
        "validation chooses, of the same training. Strict: converged logistic regression."
    ]
    return NamedTable("What the choice of the epoch on the test split adds", header, rows, notes)


def _overview(
    lines: Sequence[EvaluationResult], rows: EncoderRows, name: tuple[str, int], *, published: bool
) -> NamedTable:
    title = task_titles(lines)
    asked = split_by(lines, title)
    columns = [(task, part) for task, found in asked.items() for part in sorted({fraction(result) for result in found})]
    grid = Grid(
        corner=("encoder", "protocol"),
        columns={(task, part): f"{task} {fraction_title(part)}" for task, part in columns},
    )
    for result in lines:
        row = rows.row(result).with_titles(variant(result))
        column = (title(result), fraction(result))
        grid.put(row, column, grid.columns[column], cell(result, interval=False))
    quoted = [number for number in _quotable() if (number.task, number.settings["fraction"]) in grid.columns]
    quoted = quoted if published else []
    for number in quoted:
        column = (number.task, number.settings["fraction"])
        text = number.settings.get("selection", "as published")
        grid.put(published_row(number).with_titles(text), column, grid.columns[column], number.text)
    return grid.table(
        f"Linear probe: macro {measure_title(*name)} by fraction of the training split",
        [
            "Means over draws, in percent; intervals stand in the tables of single tasks.",
            *([_UPPER_BOUND] if any(BEST_TEST_EPOCH in variant(result) for result in lines) else []),
            *footnotes(lines, rows, intervals=False),
            *published_notes(quoted),
        ],
    )


def _detail(lines: Sequence[EvaluationResult], rows: EncoderRows, task: str) -> NamedTable:
    """One task: all fractions, the protocols side by side."""
    title = task_titles(lines)
    grid = Grid(corner=("encoder",))
    several = len({title(result) for result in lines}) > 1
    supervised = [result for result in lines if result.evaluation != "linear_probe"]
    variants = dict.fromkeys(variant(result) for result in lines if result.evaluation == "linear_probe")
    columns = [(part, name) for part in sorted({fraction(result) for result in lines}) for name in variants]
    filled = {(fraction(result), variant(result)) for result in lines}
    grid.columns = {column: f"{fraction_title(column[0])}, {column[1]}" for column in columns if column in filled}
    for result in lines:
        row = rows.row(result)
        row = row._replace(titles=(f"{row.titles[0]}, {title(result)}",)) if several else row
        column = (fraction(result), variant(result))
        grid.put(row, column, f"{fraction_title(column[0])}, {column[1]}", cell(result, spread=True))
    return grid.table(
        f"Linear probe on {task}: macro AUROC, protocols side by side",
        [
            "In percent.",
            *([_SPREAD] if any(result.spread is not None for result in lines) else []),
            *([_UPPER_BOUND] if any(BEST_TEST_EPOCH in name for name in variants) else []),
            *(["'Supervised from scratch' is a whole network, no probe."] if supervised else []),
            *_budgets(lines),
            *footnotes(lines, rows),
        ],
    )


def _budgets(lines: Sequence[EvaluationResult]) -> list[str]:
    """How many labelled records each column used in all, with those that a strength or an epoch was chosen on."""
    found: dict[str, None] = {}
    for result in sorted(lines, key=fraction):
        budget = result.details.get("label_budget")
        if budget:
            chosen = [f"{count:,} of {split}" for split, count in budget.items() if split not in ("drawn", "total")]
            parts = " + ".join([_range(budget["drawn"]), *chosen])
            found[f"{fraction_title(fraction(result))}, {variant(result)}: {parts}"] = None
    return [f"Labelled records used: {'; '.join(found)}."] if found else []


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _put_difference(
    grid: Grid, row: Row, title: str, best: EvaluationResult | None, other: EvaluationResult | None
) -> None:
    values = [result.value for result in (best, other) if result is not None and result.value is not None]
    grid.put(row, title, title, f"{100 * (values[0] - values[1]):+.1f}" if len(values) == 2 else UNDEFINED)


def _recipe(result: EvaluationResult) -> tuple[str, str]:
    return result.protocol, str(result.settings.get("solver", _STRICT_SOLVER))


def _quotable() -> list[PublishedNumber]:
    """Published probes of the same task as ours: macro AUROC, one number per source, row and cell."""
    return [
        number
        for evaluation in ("linear_probe", "supervised")
        for number in published_numbers(evaluation)
        if number.metric == "auroc" and not {"records", "solver"} & set(number.settings)
    ]


def _published_epochs() -> list[PublishedNumber]:
    return [number for number in published_numbers("linear_probe") if "solver" in number.settings]


def _put_published_epochs(grid: Grid, numbers: Sequence[PublishedNumber]) -> None:
    for number in numbers:
        row = published_row(number).with_titles(number.task, fraction_title(number.settings["fraction"]))
        selection = number.settings["selection"]
        grid.put(row, selection, selection, number.text)
