"""The results table of a model card, from result lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.render import percent, render_table

_HEADER = ["recipe", "data", "question", "model (95 % CI)", "random twins", "always the commonest report"]


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
        for line in lines:
            question = _question(line)
            if question is not None:
                cells.setdefault((line.task, question), {})[line.encoder] = line
        for (task, question), found in cells.items():
            if "trained" in found:
                values = [_value(found.get(kind)) for kind in ("trained", "random")]
                constant = found["trained"].details.get("always_commonest")
                values.append("-" if constant is None else f"{100 * constant:.1f}")
                rows.append([f"`{recipe}`", task, question, *values])
    if not rows:
        raise ValueError("There are no lines of the strict protocol that a card shows.")
    return render_table(_HEADER, rows, "markdown")


def _question(line: EvaluationResult) -> str | None:
    """What a line answers, if a card shows it."""
    if line.compared_with is not None or line.protocol != "strict" or line.min_positives != 1:
        return None
    if line.evaluation == "zero_shot" and line.metric == "auroc":
        return f"zero-shot, {line.prompts} prompts"
    if line.evaluation == "linear_probe" and line.metric == "auroc":
        return f"probe, {100 * line.settings['fraction']:g} % of labels"
    if line.evaluation == "retrieval" and line.metric == "recall_at_10":
        return f"R@10, {line.settings['direction'].replace('_', ' ')}"
    return None


def _value(line: EvaluationResult | None) -> str:
    return "-" if line is None else percent(line.value, line.confidence_interval)
