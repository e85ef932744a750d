"""Tables that set methods side by side: each with interval, random encoder and paired difference to one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.render import UNDEFINED, Style, percent, render_table


def comparison_table(results: Sequence[EvaluationResult], titles: Mapping[str, str], style: Style = "markdown") -> str:
    """One row per task and checkpoint: macro AUROC, the random encoder's, and the paired difference to the reference.

    Args:
        results (`Sequence[EvaluationResult]`): Of one data set and one prompt set, paired differences to one
            checkpoint among them.
        titles (`Mapping[str, str]`): How the checkpoints are called, in the order of the rows.
        style (`str`): `"markdown"` or `"terminal"`.

    Raises:
        ValueError: If the results are of several prompt sets or data sets, or differ in what they are compared with.
    """
    chosen = [result for result in results if result.checkpoint in titles and result.min_positives == 1]
    settings = {(result.prompts, *sorted(result.data.items())) for result in chosen}
    references = {result.compared_with for result in chosen if result.compared_with is not None}
    if len(settings) != 1 or len(references) > 1:
        raise ValueError(
            f"A comparison is of one prompt set, one data set and one reference, not of {len(settings)} settings and "
            f"{sorted(references)}."
        )
    cells = {
        (result.task, result.checkpoint, result.metric, result.encoder, result.compared_with is not None): result
        for result in chosen
    }
    reference = next(iter(references), None)
    coverage = f"{100 * chosen[0].confidence:g} %"
    header = ["task", "method", f"AUROC ({coverage} CI)", "random encoder", "AUPRC", "n"]
    if reference is not None:
        header.insert(4, f"difference to {titles.get(reference, reference)}")
    rows = []
    for task in dict.fromkeys(result.task for result in chosen):
        for checkpoint, title in titles.items():
            if (task, checkpoint, "auroc", "trained", False) not in cells:
                continue
            trained = cells[task, checkpoint, "auroc", "trained", False]
            row = [
                task,
                title,
                _cell(trained),
                _cell(cells.get((task, checkpoint, "auroc", "random", False))),
                _cell(cells.get((task, checkpoint, "average_precision", "trained", False))),
                f"{trained.num_records:,}",
            ]
            if reference is not None:
                difference = cells.get((task, checkpoint, "auroc", "trained", True))
                row.insert(4, "" if checkpoint == reference else _cell(difference))
            rows.append(row)
    first = chosen[0]
    notes = (
        f"Macro means over classes in percent, with {coverage} intervals from a bootstrap over patients; differences "
        f"are taken on the same resamples. Prompts: {first.prompts}. Data: {first.data['name']}, "
        f"{first.data['revision']}, {first.data['split']} split."
    )
    return render_table(header, rows, style) + "\n\n" + notes + "\n"


def runs_table(runs: Mapping[str, Mapping[str, Any]], style: Style = "markdown") -> str:
    """What each training cost, so that a reader sees whether budgets were equal.

    Args:
        runs (`dict[str, dict]`): By method, as `compare` notes them in `<results>.runs.json`.
        style (`str`): `"markdown"` or `"terminal"`.
    """
    header = ["method", "parameters (M)", "trained (M)", "steps", "batch", "minutes", "best epoch by validation loss"]
    rows = [
        [
            method,
            f"{run['parameters'] / 1e6:.2f}",
            f"{run['trained_parameters'] / 1e6:.2f}",
            f"{run['steps']:,}",
            f"{run['batch_size']}",
            f"{run['seconds'] / 60:.1f}",
            "-" if run["best_epoch"] is None else f"{run['best_epoch']:g}",
        ]
        for method, run in runs.items()
    ]
    return render_table(header, rows, style)


def _cell(result: EvaluationResult | None) -> str:
    return UNDEFINED if result is None else percent(result.value, result.confidence_interval)
