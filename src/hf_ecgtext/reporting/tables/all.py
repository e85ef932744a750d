"""All tables of a benchmark run, in the papers' shape, from its result lines."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.statistics.permutation import holm
from hf_ecgtext.evaluation.statistics.retrieval_ranks import METRICS as RETRIEVAL_METRICS
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
    as_text,
    cell,
    footnotes,
    headline_auroc,
    headline_lines,
    is_quoted_beside,
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
from hf_ecgtext.reporting.tables.probes import fraction, fraction_title, probe_tables, variant
from hf_ecgtext.reporting.tables.prompt_mean import mean_note, mean_over_prompts
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable, percent
from hf_ecgtext.reporting.tables.transfer import lead_tables, retrieval_tables, shift_tables

_RANKING_METRICS = ("auroc", "average_precision")
_TESTED_METRICS = ("auroc", "recall_at_10")
_MEAN = "mean"
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
    by_set = [result for result in kinds.get("zero_shot", []) if result.prompts != PROMPT_MEAN]
    zero_shot = [*mean_over_prompts(kinds.get("zero_shot", [])), *_ranking(by_set)]
    tables = list(zero_shot_tables(zero_shot, supervised, rows, published=published))
    tables += sensitivity_tables(by_set, rows)
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


def headlines(results: Sequence[EvaluationResult], *more_metrics: str) -> list[EvaluationResult]:
    """What a command prints: AUROC over classes with 5 or more positives, retrieval, differences between checkpoints.

    The result lines and the pages have the rest, the differences to the baselines among it.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one run.
        *more_metrics: Metrics to print beside, such as `"average_precision"`.
    """
    metrics = {"auroc", *RETRIEVAL_METRICS, *more_metrics}
    return headline_lines(
        result for result in results if result.metric in metrics and result.compared_encoder in (None, "trained")
    )


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
            words = "mean over prompt sets" if prompts == PROMPT_MEAN else f"{prompts} prompts"
            named = ", ".join([words if prompts else "no prompt set named", *filter(None, [settings])])
            yield _zero_shot_table(
                [*lines, *beside],
                rows,
                f"Zero-shot: macro {measure_title(*name)}, {named}, {protocol} protocol",
                published=published and is_quoted_beside(*name),
            )


def sensitivity_tables(results: Sequence[EvaluationResult], rows: EncoderRows) -> Iterator[NamedTable]:
    """One table per protocol with several prompt sets: lowest, highest and range of macro AUROC by encoder and task.

    Args:
        results (`Sequence[EvaluationResult]`): Zero-shot lines.
        rows ([`EncoderRows`]): Of the run.
    """
    macro = headline_auroc(results)
    title = task_titles(macro)
    for protocol, lines in split_by(macro, lambda result: result.protocol).items():
        sets = list(dict.fromkeys(str(result.prompts) for result in lines))
        if len(sets) < 2:
            continue
        grid = Grid(corner=("encoder", "task"))
        for (row, task), found in split_by(lines, lambda result: (rows.row(result), title(result))).items():
            low = min(found, key=lambda result: float(result.value or 0.0))
            high = max(found, key=lambda result: float(result.value or 0.0))
            place = row.with_titles(task)
            grid.put(place, "low", "lowest", f"{percent(low.value)} ({low.prompts})")
            grid.put(place, "high", "highest", f"{percent(high.value)} ({high.prompts})")
            grid.put(place, "range", "range", f"{100 * (float(high.value or 0.0) - float(low.value or 0.0)):.1f}")
        yield grid.table(
            f"Zero-shot: spread over {len(sets)} prompt sets, {protocol} protocol",
            [
                "Macro AUROC in percent. The spread is no confidence interval: it says what the same encoder would "
                "have scored with other words.",
                f"Prompt sets: {', '.join(sets)}.",
                *footnotes(lines, rows, intervals=False),
            ],
        )


def difference_tables(results: Sequence[EvaluationResult], rows: EncoderRows) -> Iterator[NamedTable]:
    """One table per evaluation, protocol, metric and reference: paired differences, p values, corrected ones.

    The tests of one evaluation against one reference, over all encoders, tasks, prompt sets and fractions, are one
    claim, and Holm's correction is over them: of the headline's metric, AUROC over classes with at least 5 positive
    records (or recall at 10), and each distinct test once. Other metrics are shown with their intervals alone.

    Args:
        results (`Sequence[EvaluationResult]`): Lines with `compared_with`.
        rows ([`EncoderRows`]): Of the run.
    """
    headline = set(map(id, headline_lines(results)))
    groups = split_by(
        results,
        lambda result: (result.evaluation, result.protocol, measure(result), rows.reference_title(result)),
    )
    for (evaluation, protocol, name, reference), lines in groups.items():
        title = task_titles(lines)
        grid = Grid(corner=("encoder", "task", "settings"))
        is_family = name[0] in _TESTED_METRICS and all(id(line) in headline for line in lines)
        corrected = holm_of_claim(lines) if is_family else {}
        for place, result in enumerate(lines):
            row = rows.row(result).with_titles(title(result), _settings(result))
            grid.put(row, "difference", f"less {reference}", cell(result))
            if is_family:
                grid.put(row, "p", "p", p_cell(result.p_value))
                grid.put(row, "holm", "p (Holm)", p_cell(corrected.get(place)))
        tested = len({_test_identity(result) for result in lines if result.p_value is not None})
        yield grid.table(
            f"Differences to {reference}: {_title(evaluation)}, {measure_title(*name)}, {protocol} protocol",
            [
                "Paired differences on the same records, in points of percent where the metric is one.",
                *(
                    [
                        "p: two-sided permutation test, below 0.05 exactly where the interval leaves out 0; "
                        f"p (Holm): corrected for the {tested} distinct tests of this table, one claim."
                    ]
                    if is_family and tested
                    else []
                ),
                *footnotes(lines, rows),
            ],
        )


def holm_of_claim(lines: Sequence[EvaluationResult]) -> dict[int, float]:
    """Corrected p values of the tests of one claim, by place in `lines`; a test that occurs twice counts once.

    Two lines are the same test where they compare the same encoders on the same records, classes and question.
    """
    places: dict[Hashable, list[int]] = {}
    for place, line in enumerate(lines):
        if line.p_value is not None:
            places.setdefault(_test_identity(line), []).append(place)
    adjusted = holm([float(lines[found[0]].p_value or 0.0) for found in places.values()])
    return {place: float(p) for found, p in zip(places.values(), adjusted, strict=True) for place in found}


def _test_identity(line: EvaluationResult) -> Hashable:
    return (
        *(line.evaluation, line.protocol, line.metric, line.task, line.prompts, as_text(line.settings)),
        *(line.checkpoint, line.encoder, line.compared_with, line.compared_encoder, as_text(line.data)),
        tuple(sorted(line.per_class)),
    )


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
    notes = ["In percent.", *mean_note(lines)]
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
