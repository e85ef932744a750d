"""The compact tables of README.md and of the model cards; `scripts/update_docs.py` writes them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.grid import EncoderRows, Grid, cell, footnotes, headline_lines, latest
from hf_ecgtext.reporting.tables.probes import BEST_TEST_EPOCH, fraction, fraction_title
from hf_ecgtext.reporting.tables.prompt_mean import mean_note, mean_over_prompts
from hf_ecgtext.reporting.tables.render import UNDEFINED, Style, percent, render_table
from hf_ecgtext.reporting.tables.transfer import put_references

_README_RETRIEVAL = {
    ("recall_at_10", "ecg_to_report"): "R@10 ECG to report",
    ("recall_at_10", "report_to_ecg"): "R@10 report to ECG",
}
_CARD_HEADER = ["recipe", "data", "question", "model (95 % CI)", "random initialisation", "always the commonest report"]


def readme_benchmark_table(
    results: Sequence[EvaluationResult],
    *,
    titles: Mapping[str, str] | None = None,
    tasks: Sequence[str] | None = None,
    prompts: str | None = None,
    recipe: str = "merl",
    intervals: bool = True,
    style: Style = "markdown",
    history: Sequence[EvaluationResult] = (),
) -> str:
    """One compact table: zero-shot, probe (strict and published) and retrieval, one row per task and encoder.

    Below, what the most frequent report reaches in retrieval where it answers every ECG.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of one run.
        titles (`Mapping[str, str]`, *optional*): How checkpoints are called, in the order of the rows.
        tasks (`Sequence[str]`, *optional*): Which, in order; all by default.
        prompts (`str`, *optional*): The prompt set of the zero-shot column; by default the mean over the library's
            sets, `"mean"`, or the only one that was asked.
        recipe (`str`): The published probe.
        intervals (`bool`): Print intervals.
        style (`str`): As in `render_table`.
        history (`Sequence[EvaluationResult]`): Lines of other runs, which have read the same test splits.

    Raises:
        ValueError: If no mean can be taken over several prompt sets and none is chosen, or no result of these tasks.
    """
    lines = headline_lines(result for result in latest(results) if result.compared_with is None)
    rows = EncoderRows(lines, titles or {}, history)
    lines = [*(line for line in lines if line.prompts != PROMPT_MEAN), *mean_over_prompts(lines)]
    macro = [result for result in lines if result.metric == "auroc"]
    asked = list(dict.fromkeys(result.task for result in macro if result.evaluation in ("zero_shot", "linear_probe")))
    wanted = asked if tasks is None else [task for task in tasks if task in asked]
    sets = list(dict.fromkeys(result.prompts for result in macro if result.evaluation == "zero_shot"))
    if prompts is None and len(sets) > 1 and PROMPT_MEAN in sets:
        prompts = PROMPT_MEAN
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
    asked_with = (
        mean_note(used) if prompts == PROMPT_MEAN else [f"Zero-shot with {prompts or sets[0]} prompts."] if sets else []
    )
    notes = [
        "Macro AUROC in percent.",
        *asked_with,
        f"Published: {recipe} recipe, best test epoch, an upper bound that nobody could have known." if recipe else "",
        "R@10: own answer among the first ten." if set(_README_RETRIEVAL.values()) & filled else "",
        *footnotes(used, rows, intervals=intervals),
    ]
    about = f"{wanted[0]}. " if len(wanted) == 1 else ""
    return render_table(header, table_rows, style) + "\n\n" + about + " ".join(note for note in notes if note) + "\n"


def card_table(results: Mapping[str, Sequence[EvaluationResult]]) -> str:
    """One Markdown row per question that a checkpoint was asked under the strict protocol.

    Zero-shot answers and probes are macro AUROC over all classes; retrieval is recall at 10, with what the most
    frequent reports reach where they answer every ECG.

    Args:
        results (`Mapping[str, Sequence[EvaluationResult]]`): Lines of one checkpoint each, by recipe.

    Raises:
        ValueError: If there are no such lines, or lines of several checkpoints of a recipe.
    """
    rows = []
    for recipe, lines in results.items():
        if len({line.checkpoint for line in lines}) > 1:
            raise ValueError(f"The lines of recipe '{recipe}' are of several checkpoints; a card is of one.")
        cells: dict[tuple[str, str], dict[str, EvaluationResult]] = {}
        shown = headline_lines(latest(lines))
        single = [line for line in shown if line.prompts != PROMPT_MEAN]
        for line in [*mean_over_prompts(shown), *single]:
            question = _card_question(line)
            if question is not None:
                cells.setdefault((line.task, question), {})[line.encoder] = line
        for (task, question), found in cells.items():
            if "trained" in found:
                values = [_card_value(found.get(kind)) for kind in ("trained", "random")]
                constant = found["trained"].details.get("always_commonest")
                values.append(UNDEFINED if constant is None else f"{100 * constant:.1f}")
                rows.append([f"`{recipe}`", task, question, *values])
    if not rows:
        raise ValueError("There are no lines of the strict protocol that a card shows.")
    return render_table(_CARD_HEADER, rows, "markdown")


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
            ", ".join(f"{seconds / 60:.1f}" for seconds in _as_list(run["seconds"])),
            ", ".join(UNDEFINED if epoch is None else f"{epoch:g}" for epoch in _as_list(run["best_epoch"])),
        ]
        for method, run in runs.items()
    ]
    return render_table(header, rows, style)


def _as_list(value: Any) -> list[Any]:
    """Of several trainings, one value each."""
    return value if isinstance(value, list) else [value]


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


def _card_question(line: EvaluationResult) -> str | None:
    """What a line answers, if a card shows it."""
    if line.compared_with is not None or line.protocol != "strict":
        return None
    if line.evaluation == "zero_shot" and line.metric == "auroc":
        return (
            "zero-shot, mean over prompt sets" if line.prompts == PROMPT_MEAN else f"zero-shot, {line.prompts} prompts"
        )
    if line.evaluation == "linear_probe" and line.metric == "auroc":
        return f"probe, {100 * line.settings['fraction']:g} % of labels"
    if line.evaluation == "retrieval" and line.metric == "recall_at_10":
        return f"R@10, {line.settings['direction'].replace('_', ' ')}"
    return None


def _card_value(line: EvaluationResult | None) -> str:
    return UNDEFINED if line is None else percent(line.value, line.confidence_interval)
