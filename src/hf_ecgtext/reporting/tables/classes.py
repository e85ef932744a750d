"""Zero-shot answers class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.grid import EncoderRows, footnotes, latest, measure_title, split_by, task_titles
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable, percent

_METRICS = ("auroc", "average_precision")


def class_tables(results: Sequence[EvaluationResult], titles: Mapping[str, str] | None = None) -> Iterator[NamedTable]:
    """One table per checkpoint and question: AUROC of each class, that of random weights, AUPRC, positive records.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one run.
        titles (`Mapping[str, str]`, *optional*): How checkpoints are called.

    Raises:
        ValueError: If intervals differ in coverage.
    """
    lines = [
        result
        for result in latest(results)
        if (result.evaluation, result.compared_with, result.min_positives) == ("zero_shot", None, 1)
        and result.metric in _METRICS
    ]
    rows, task = EncoderRows(lines, titles or {}), task_titles(lines)
    groups = split_by(lines, lambda result: (task(result), result.checkpoint, result.protocol, result.prompts))
    for (name, checkpoint, protocol, prompts), group in groups.items():
        by_column = {(result.metric, result.encoder): result for result in group}
        columns = {
            measure_title("auroc"): by_column.get(("auroc", "trained")),
            "random weights": by_column.get(("auroc", "random")),
            measure_title("average_precision"): by_column.get(("average_precision", "trained")),
        }
        yield NamedTable(
            title=f"Classes of {name}: {rows.title(checkpoint)}, {prompts} prompts, {protocol} protocol",
            header=["class", *columns, "positives"],
            rows=[
                [label, *(_value(result, label) for result in columns.values()), f"{count:,}"]
                for label, count in group[0].num_positives.items()
            ],
            notes=["In percent.", *footnotes(group, rows)],
        )


def _value(result: EvaluationResult | None, label: str) -> str:
    if result is None:
        return UNDEFINED
    return percent(result.per_class.get(label), result.per_class_intervals.get(label))
