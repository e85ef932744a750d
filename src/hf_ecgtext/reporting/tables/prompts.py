"""How much zero-shot answers depend on the wording: the spread over the prompt sets of a run (defect 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.grid import EncoderRows, Grid, footnotes, measure, split_by, task_titles
from hf_ecgtext.reporting.tables.render import NamedTable, percent


def sensitivity_tables(results: Sequence[EvaluationResult], rows: EncoderRows) -> Iterator[NamedTable]:
    """One table per protocol with several prompt sets: lowest, highest and range of macro AUROC by encoder and task.

    Args:
        results (`Sequence[EvaluationResult]`): Zero-shot lines.
        rows ([`EncoderRows`]): Of the run.
    """
    macro = [result for result in results if measure(result) == ("auroc", 1) and result.value is not None]
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
