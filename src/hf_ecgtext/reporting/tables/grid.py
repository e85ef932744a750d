"""What all tables of a benchmark share: rows of encoders with the baselines at the bottom, cells, and footnotes."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import NOT_CONTAMINATED
from hf_ecgtext.evaluation.statistics.metrics import HEADLINE_MIN_POSITIVES
from hf_ecgtext.reporting.published_numbers import PublishedNumber
from hf_ecgtext.reporting.tables.looks import looks_at_test, looks_note
from hf_ecgtext.reporting.tables.render import METRIC_TITLES, UNDEFINED, NamedTable, percent

PUBLISHED_NOTE = (
    "Rows 'as published' are numbers of the papers, on their data and splits and under their protocol; they are quoted "
    "for comparison and enter none of our means."
)

_PUBLISHED, _TRAINED, _BASELINE, _REFERENCE = range(4)
_BASELINE_ORDER = {"supervised": 0, "interval_features": 1, "random": 2}
_RANKS = {"median_rank"}  # these are no fractions
_ALPHA = 0.001  # smallest p value that is printed as a number


class Row(NamedTuple):
    """A row's place and titles; rows are sorted by block, then order, then first appearance."""

    block: int
    order: tuple[int, int]
    titles: tuple[str, ...]

    def with_titles(self, *titles: str) -> Row:
        """The same encoder with more title columns."""
        return self._replace(titles=self.titles + titles)


class EncoderRows:
    """Rows of a run's encoders: trained ones in the order of their titles, then the baselines.

    Args:
        results (`Sequence[EvaluationResult]`): All lines of the run.
        titles (`Mapping[str, str]`): How checkpoints are called; others keep their name.
        history (`Sequence[EvaluationResult]`): Lines of other runs, which have read the same test splits.

    Raises:
        ValueError: If two checkpoints of the results have the same title.
    """

    def __init__(
        self,
        results: Sequence[EvaluationResult],
        titles: Mapping[str, str],
        history: Sequence[EvaluationResult] = (),
    ):
        self.looks = looks_at_test([*results, *history])
        self._titles = dict(titles)
        found = dict.fromkeys(result.checkpoint for result in results)
        known = [checkpoint for checkpoint in titles if checkpoint in found]
        self._places = {name: place for place, name in enumerate(dict.fromkeys([*known, *found]))}
        called: dict[str, str] = {}
        for checkpoint in found:
            if (other := called.setdefault(self.title(checkpoint), checkpoint)) != checkpoint:
                raise ValueError(
                    f"The checkpoints '{other}' and '{checkpoint}' are both called '{self.title(checkpoint)}'; give "
                    "each a title of its own."
                )
        kinds = {(result.encoder, result.checkpoint) for result in results}
        self._several = {kind for kind, _ in kinds if sum(other == kind for other, _ in kinds) > 1}

    def title(self, checkpoint: str) -> str:
        """How a checkpoint is called."""
        return self._titles.get(checkpoint, checkpoint)

    def reference_title(self, result: EvaluationResult) -> str:
        """What a paired difference was taken to, such as `merl`, or `the random twin` of each encoder."""
        if result.compared_encoder in (None, "trained"):
            return self.title(str(result.compared_with))
        return {
            "random": "the random twin",
            "interval_features": "interval features",
            "supervised": "supervised from scratch",
        }[str(result.compared_encoder)]

    def row(self, result: EvaluationResult) -> Row:
        """The row of a result."""
        title, place = self.title(result.checkpoint), self._places[result.checkpoint]
        if result.encoder == "trained":
            return Row(_TRAINED, (0, place), (title,))
        own = f" ({title})" if result.encoder in self._several else ""
        text = {
            "random": f"random weights ({title})",  # whose architecture they share
            "supervised": f"supervised from scratch{own}",
            "interval_features": f"interval features{own}",
        }[result.encoder]
        return Row(_BASELINE, (_BASELINE_ORDER[result.encoder], place), (text,))


def reference_row(*titles: str) -> Row:
    """A row below all encoders, such as that of chance."""
    return Row(_REFERENCE, (0, 0), titles)


def published_row(number: PublishedNumber) -> Row:
    """A row above our encoders that holds nothing but numbers of one source."""
    return Row(_PUBLISHED, (0, 0), (number.row_title,))


@dataclass
class Grid:
    """A table while it is filled, by row and column in any order.

    Args:
        corner (`tuple[str, ...]`): Titles of the columns that name a row.
        columns (`dict[Hashable, str]`): Key to title, in order; columns are added as cells come.
    """

    corner: tuple[str, ...]
    columns: dict[Hashable, str] = field(default_factory=dict)
    cells: dict[Row, dict[Hashable, str]] = field(default_factory=dict)

    def put(self, row: Row, column: Hashable, title: str, text: str) -> None:
        """Fill a cell.

        Raises:
            ValueError: If it is filled already: two numbers that differ in something that the table does not show.
        """
        self.columns.setdefault(column, title)
        cells = self.cells.setdefault(row, {})
        if column in cells:
            raise ValueError(
                f"Two results belong into the row '{', '.join(row.titles)}', column '{title}': {cells[column]} and "
                f"{text}. Show them separately."
            )
        cells[column] = text

    def table(self, title: str, notes: Iterable[str]) -> NamedTable:
        """The table, with a new block before our encoders, the baselines, and chance."""
        rows = sorted(self.cells, key=lambda row: (row.block, row.order))
        blocks = [row.block for row in rows]
        return NamedTable(
            title=title,
            header=[*self.corner, *self.columns.values()],
            rows=[[*row.titles, *(self.cells[row].get(column, UNDEFINED) for column in self.columns)] for row in rows],
            notes=list(notes),
            breaks=tuple(place for place in range(1, len(rows)) if blocks[place] != blocks[place - 1]),
        )


def latest(results: Iterable[EvaluationResult]) -> list[EvaluationResult]:
    """Results without those that a later line repeats: a results file is only ever appended to."""
    lines: dict[Hashable, EvaluationResult] = {}
    for result in results:
        data = tuple(sorted(result.data.items()))
        names = ("evaluation", "task", "protocol", "metric", "min_positives", "prompts", "checkpoint", "encoder")
        compared = (result.compared_with, result.compared_encoder)
        identity = (*(getattr(result, name) for name in names), data, compared, as_text(result.settings))
        lines[identity] = result
    return list(lines.values())


def headline_lines(results: Iterable[EvaluationResult]) -> list[EvaluationResult]:
    """Of the macro means over other numbers of classes the headline, of each evaluation, task, protocol and metric.

    That is the one over classes with at least 5 positive records; all classes in lines of before schema 3, or where the
    protocol names no such mean. Metrics without classes, such as recall, have one line each.
    """
    found = list(results)
    groups = split_by(found, lambda line: (line.evaluation, line.task, line.protocol, line.metric))
    chosen: dict[object, int] = {}
    for key, lines in groups.items():
        has_headline = any(line.min_positives == HEADLINE_MIN_POSITIVES for line in lines)
        chosen[key] = HEADLINE_MIN_POSITIVES if has_headline else 1
    return [
        line for line in found if line.min_positives == chosen[line.evaluation, line.task, line.protocol, line.metric]
    ]


def split_by(
    results: Iterable[EvaluationResult], key: Callable[[EvaluationResult], Any]
) -> dict[Any, list[EvaluationResult]]:
    """Results by a key, in order of first appearance."""
    groups: dict[Any, list[EvaluationResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def headline_auroc(results: Iterable[EvaluationResult]) -> list[EvaluationResult]:
    """The headline's lines of AUROC that have a value."""
    return [line for line in headline_lines(results) if line.metric == "auroc" and line.value is not None]


def is_quoted_beside(metric: str, min_positives: int, *, of: str = "auroc") -> bool:
    """Whether the papers' numbers stand in a table: theirs are over all classes, ours over all or the headline's."""
    return metric == of and min_positives in (1, HEADLINE_MIN_POSITIVES)


def measure(result: EvaluationResult) -> tuple[str, int]:
    """Metric and `min_positives`: what one table shows."""
    return result.metric, result.min_positives


def measure_title(metric: str, min_positives: int = 1) -> str:
    """Such as `AUROC`, or `AUROC over classes with 20+ positives`."""
    title = METRIC_TITLES.get(metric, metric.replace("_", " "))
    return title if min_positives == 1 else f"{title} over classes with {min_positives}+ positives"


def cell(result: EvaluationResult, *, interval: bool = True, spread: bool = False) -> str:
    """A value with its interval, in percent; ranks as they are. `spread` adds `± sd`, before the interval.

    A summary of several classes that only one class enters is that class's value, and says so: `95.0 [SR alone]`.
    """
    if result.metric in _RANKS:
        return _rank(result, interval)
    text = percent(result.value)
    if result.value is not None and spread and result.spread is not None:
        text += f" ± {100 * result.spread:.1f}"
    bounds = result.confidence_interval if interval and result.value is not None else None
    text = text if bounds is None else f"{text} ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"
    alone = only_class(result)
    return text if alone is None else f"{text} [{alone} alone]"


def classes_averaged(result: EvaluationResult) -> tuple[int, int | None] | None:
    """How many classes a value averages, and of how many; `None` for a metric that is no mean over classes.

    Lines of before schema 3 do not say of how many where they leave out rare classes.
    """
    if not result.per_class:
        return None
    averaged = sum(value is not None for value in result.per_class.values())
    return averaged, result.num_task_classes or (len(result.per_class) if result.min_positives == 1 else None)


def only_class(result: EvaluationResult) -> str | None:
    """The class whose value a summary of a task with several classes is, if it is of one only."""
    counted = classes_averaged(result)
    if counted is None or counted[0] != 1 or counted[1] == 1 or result.value is None:
        return None
    return next(label for label, value in result.per_class.items() if value is not None)


def class_counts(results: Sequence[EvaluationResult]) -> list[str]:
    """Over how many classes the values of one table are means, by task and, where those differ, by metric."""
    title = task_titles(results)
    counts: dict[str, dict[str, list[str]]] = {}
    for result in results:
        counted = classes_averaged(result)
        if counted is not None and counted[0] > 0:
            averaged, of = counted
            text = str(averaged) if of is None else f"all {of}" if averaged == of else f"{averaged} of {of}"
            if (alone := only_class(result)) is not None:
                text += f" ({alone} alone, no macro mean)"
            names = counts.setdefault(title(result), {}).setdefault(text, [])
            names.append(measure_title(*measure(result)))
    if not counts:
        return []
    by_task = [
        f"{task} {next(iter(found))}"
        if len(found) == 1
        else f"{task} {', '.join(f'{text} ({_list(names)})' for text, names in found.items())}"
        for task, found in counts.items()
    ]
    return [f"Means over classes: {'; '.join(by_task)}."]


def level_cell(metric: str, levels: Iterable[float]) -> str:
    """A level of chance as `cell` writes values, or the range where it differs between encoders."""
    texts = [f"{level:,.1f}" if metric in _RANKS else percent(level) for level in sorted(levels)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def p_cell(p_value: float | None) -> str:
    """A p value with three decimals."""
    if p_value is None:
        return UNDEFINED
    return f"<{_ALPHA}" if p_value < _ALPHA else f"{p_value:.3f}"


def rest_of_settings(result: EvaluationResult, *shown: str) -> str:
    """The settings that a table does not show elsewhere, such as `recipe=paper`."""
    return ", ".join(f"{name}={_plain(value)}" for name, value in result.settings.items() if name not in shown)


def as_text(settings: Mapping[str, Any]) -> str:
    """Settings as JSON text, the same for the same settings."""
    return json.dumps(settings, sort_keys=True)


def task_titles(results: Sequence[EvaluationResult], *by: str) -> Callable[[EvaluationResult], str]:
    """How tasks are called: by name, and by data where the same task was asked of several.

    Args:
        results (`Sequence[EvaluationResult]`): Those of one table.
        *by: Settings that the table shows, in which results on different data may differ.
    """

    def place(result: EvaluationResult) -> tuple[object, ...]:
        return (result.task, *(str(result.settings.get(name)) for name in by))

    sources: dict[tuple[object, ...], set[tuple[str, ...]]] = {}
    for result in results:
        sources.setdefault(place(result), set()).add(tuple(result.data[name] for name in ("name", "revision", "split")))

    def title(result: EvaluationResult) -> str:
        if len(sources[place(result)]) == 1:
            return result.task
        return f"{result.task} ({result.data['name']} {result.data['revision']}, {result.data['split']})"

    return title


def footnotes(results: Sequence[EvaluationResult], rows: EncoderRows, *, intervals: bool = True) -> list[str]:
    """Protocol, intervals, number of records, data, seeds and contamination of the results of one table.

    Args:
        results (`Sequence[EvaluationResult]`): What the table shows.
        rows ([`EncoderRows`]): Of the run.
        intervals (`bool`): Whether it shows them.

    Raises:
        ValueError: If intervals differ in coverage.
    """
    coverages = sorted({result.confidence for result in results})
    if len(coverages) > 1:
        raise ValueError(f"The results have intervals of different coverage, {coverages}; show them separately.")
    made = {(line.interval_method, line.num_resamples) for line in results if line.confidence_interval is not None}
    methods = [f"{method} ({number:,})" if number else method for method, number in sorted(made)]
    notes = [f"Protocol: {_list(result.protocol for result in results)}."]
    if made and intervals:
        notes.append(f"Intervals: {100 * coverages[0]:g} %, {_list(methods, '; ')}.")
        if len(made) and any(line.run_values for line in results):
            notes.append("Of several runs, the interval is of their mean; that of another run is in the lines.")
    title = task_titles(results)
    counts: dict[str, set[int]] = {}
    for result in results:
        counts.setdefault(title(result), set()).add(result.num_records)
    numbers = (f"{task} {' / '.join(f'{n:,}' for n in sorted(found))}" for task, found in counts.items())
    notes.append(f"Records: {', '.join(numbers)}.")
    notes += class_counts(results)
    data = _list((f"{r.data['name']}, {r.data['revision']}, {r.data['split']} split" for r in results), "; ")
    notes.append(f"Data: {data}.")
    notes += looks_note(results, rows.looks)
    notes.append(f"Seeds: {_by_encoder(results, rows, lambda result: _seeds(result.seed))}.")
    if {result.contamination for result in results} == {NOT_CONTAMINATED}:
        notes.append("Contamination: none; no test record was seen in training.")
    else:
        notes.append(f"Contamination: {_by_encoder(results, rows, lambda result: result.contamination)}.")
    return notes


def published_notes(numbers: Sequence[PublishedNumber]) -> list[str]:
    """What the quoted rows are, where they come from, and what is doubtful about them."""
    if not numbers:
        return []
    references = _list((number.reference for number in numbers), "; ")
    remarks: dict[str, list[str]] = {}
    for number in numbers:
        for remark in number.remarks:
            remarks.setdefault(remark, []).append(f"{number.title} ({number.source})")
    return [PUBLISHED_NOTE, f"Sources: {references}.", *(f"{_list(who)}: {remark}" for remark, who in remarks.items())]


def _by_encoder(
    results: Sequence[EvaluationResult], rows: EncoderRows, value: Callable[[EvaluationResult], str]
) -> str:
    """Such as `0`, or `merl: 0; random weights (merl): 0, 1` where encoders differ; with tasks where those do."""
    by_row = split_by(sorted(results, key=lambda result: rows.row(result)[:2]), rows.row)
    found: dict[str, list[str]] = {}
    for row, lines in by_row.items():
        differs = len({value(result) for result in lines}) > 1
        for result in lines:
            found.setdefault(value(result), []).append(row.titles[0] + (f" on {result.task}" if differs else ""))
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{_list(titles)}: {text}" for text, titles in found.items())


def _seeds(seed: int | tuple[int, ...]) -> str:
    return str(seed) if isinstance(seed, int) else ", ".join(map(str, seed))


def _list(texts: Iterable[str], separator: str = ", ") -> str:
    return separator.join(dict.fromkeys(texts))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rank(result: EvaluationResult, interval: bool) -> str:
    if result.value is None:
        return UNDEFINED
    bounds = result.confidence_interval
    text = f"{result.value:,.1f}"
    return text if bounds is None or not interval else f"{text} ({bounds[0]:,.1f} to {bounds[1]:,.1f})"
