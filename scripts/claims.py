"""Sentences of the documentation that say what result lines show; each is made from the lines that carry it.

In a page, a claim stands between `<!-- claim: NAME RESULTS -->` and `<!-- /claim -->`, and `scripts/update_docs.py`
writes it there. So no number in such a sentence can be older than its lines, and a sentence whose lines are gone fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.tables.all import holm_of_claim
from hf_ecgtext.reporting.tables.grid import headline_auroc, headline_lines

Lines = Sequence[EvaluationResult]

_TITLES = {"merl": "MERL", "etp": "ETP", "deri": "DERI", "cmelt": "C-MELT", "cgdmer": "CG-DMER"}
_TASKS = {"ptbxl_super": "Super", "ptbxl_sub": "Sub", "ptbxl_form": "Form", "ptbxl_rhythm": "Rhythm"}
_SHARES = (0.01, 0.1, 1.0)


def learned_against_intervals(lines: Lines) -> str:
    """Probes of learned features less those of measured intervals."""
    return _against(_differences(lines, "linear_probe", "interval_features"), "measured intervals")


def learned_against_random(lines: Lines) -> str:
    """Probes of learned features less those of their random twins."""
    return _against(_differences(lines, "linear_probe", "random"), "those of the random twin")


def zero_shot_against_random(lines: Lines) -> str:
    """Zero-shot answers less those of random twins, over all prompt sets."""
    found = _differences(lines, "zero_shot", "random")
    above, below, total = _significant(found)
    return (
        f"Of {total} zero-shot comparisons with the random twin (five methods, four tasks, all prompt sets), {above} "
        f"are "
        f"significantly above it after Holm's correction and {below} below."
    )


def against_supervised(lines: Lines) -> str:
    """Probes of all labels less a network trained from scratch on them."""
    found = _differences(lines, "linear_probe", "supervised")
    higher = sum((line.value or 0.0) > 0 for line in found)
    above, below, total = _significant(found)
    return (
        f"Of {total} probes of all labels, {higher} lie above the network trained from scratch on the same labels, "
        f"{above} of "
        f"them significantly; {below} lie significantly below."
    )


def best_at_all_labels(lines: Lines) -> str:
    """Which row has the highest value of a probe of all labels, by task."""
    best: dict[str, EvaluationResult] = {}
    for line in headline_auroc(_own(lines)):
        is_asked = line.evaluation in ("linear_probe", "supervised") and line.settings.get("fraction") == 1.0
        if is_asked and line.protocol == "strict" and line.task in _TASKS:
            current = best.get(line.task)
            if current is None or (line.value or 0.0) > (current.value or 0.0):
                best[line.task] = line
    parts = [
        f"{_TASKS[task]} {_row(best[task])} ({100 * (best[task].value or 0.0):.1f})" for task in _TASKS if task in best
    ]
    return f"With all labels, the highest value is that of: {', '.join(parts)}."


def zero_shot_against_merl(lines: Lines) -> str:
    """Which zero-shot differences to MERL survive the correction."""
    found = [line for line in _differences(lines, "zero_shot", "trained") if line.checkpoint != line.compared_with]
    corrected = holm_of_claim(found)
    surviving: dict[str, list[str]] = {}
    for place, line in enumerate(found):
        if corrected.get(place, 1.0) < 0.05:
            sign = "above" if (line.value or 0.0) > 0 else "below"
            surviving.setdefault(f"{_row(line)} {sign}", []).append(
                f"{_TASKS.get(line.task, line.task)}, {line.prompts}"
            )
    number = sum(map(len, surviving.values()))
    text = f"Of {len(corrected)} zero-shot differences to MERL, {number} survive Holm's correction"
    if surviving:
        text += ": " + "; ".join(f"{who} ({', '.join(where)})" for who, where in surviving.items())
    return text + "."


def wording_against_method(lines: Lines) -> str:
    """How far values lie apart by method, and by prompt set, for each task."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    for line in headline_auroc(_own(lines)):
        if (line.evaluation, line.encoder, line.protocol) == ("zero_shot", "trained", "strict"):
            by_method = values.setdefault(line.task, {}).setdefault(_row(line), {})
            by_method[str(line.prompts)] = 100 * (line.value or 0.0)
    parts = []
    for task, title in _TASKS.items():
        methods = values[task]
        means = [found[PROMPT_MEAN] for found in methods.values()]
        sets = [[value for name, value in found.items() if name != PROMPT_MEAN] for found in methods.values()]
        ranges = [max(found) - min(found) for found in sets]
        parts.append(f"{title} {max(means) - min(means):.0f} and {min(ranges):.0f} to {max(ranges):.0f}")
    return (
        "How far zero-shot values lie apart, in points: between methods (means over prompt sets), and between prompt "
        "sets "
        f"within a method: {'; '.join(parts)}."
    )


def retrieval_constant(lines: Lines) -> str:
    """Retrieval against one and the same answer."""
    found = {
        (line.metric, _row(line)): line
        for line in _own(lines)
        if line.evaluation == "retrieval"
        and line.protocol == "strict"
        and line.encoder == "trained"
        and line.settings["direction"] == "ecg_to_report"
    }
    parts = []
    for metric, title in (("recall_at_1", "R@1"), ("recall_at_10", "R@10")):
        own = {who: line for (name, who), line in found.items() if name == metric}
        constant = 100 * float(next(iter(own.values())).details["always_commonest"])
        listed = ", ".join(f"{who} {100 * (line.value or 0.0):.1f}" for who, line in own.items())
        parts.append(f"{title} {constant:.1f} for the constant; {listed}")
    return f"Naming the commonest reports for every ECG gives: {'. '.join(parts)}."


def training_noise(lines: Lines) -> str:
    """How much three trainings of one method differ."""
    spreads: dict[str, list[float]] = {}
    for line in headline_auroc(_own(lines)):
        if line.encoder == "trained" and line.protocol == "strict" and line.spread is not None and line.task in _TASKS:
            if line.evaluation == "zero_shot" and line.prompts == PROMPT_MEAN:
                spreads.setdefault("zero-shot (mean over prompt sets)", []).append(100 * line.spread)
            if line.evaluation == "linear_probe" and line.settings.get("fraction") == 1.0:
                spreads.setdefault("probes of all labels", []).append(100 * line.spread)
    parts = [f"{title} {_median(found):.1f}, at most {max(found):.1f}" for title, found in spreads.items()]
    return f"Standard deviation over three trainings, in points, median over methods and tasks: {'; '.join(parts)}."


def labels_used(lines: Lines) -> str:
    """How many labelled records the few-label probes used."""
    parts = []
    for line in headline_lines(_own(lines)):
        is_asked = (line.evaluation, line.task, line.encoder, line.metric) == (
            *("linear_probe", "ptbxl_super", "interval_features", "auroc"),
        )
        if is_asked and line.protocol == "strict" and line.settings["fraction"] < 1:
            budget = line.details["label_budget"]
            share = f"{100 * line.settings['fraction']:g} %"
            parts.append(
                f"{share} is {max(budget['drawn'])} records drawn and {budget['validation']} to choose the strength on"
            )
    return f"Of the superclasses, {'; '.join(dict.fromkeys(parts))}."


CLAIMS: dict[str, Callable[[Lines], str]] = {
    claim.__name__: claim
    for claim in (
        learned_against_intervals,
        learned_against_random,
        zero_shot_against_random,
        against_supervised,
        best_at_all_labels,
        zero_shot_against_merl,
        wording_against_method,
        retrieval_constant,
        training_noise,
        labels_used,
    )
}


def _against(found: Lines, what: str) -> str:
    """Of probes by fraction: how many lie above a reference, and how many significantly above and below."""
    corrected = holm_of_claim(found)
    parts = []
    for share in _SHARES:
        places = [place for place, line in enumerate(found) if line.settings.get("fraction") == share]
        higher = sum((found[place].value or 0.0) > 0 for place in places)
        counts = [
            sum((found[place].value or 0.0) * sign > 0 and corrected.get(place, 1.0) < 0.05 for place in places)
            for sign in (1, -1)
        ]
        parts.append(
            f"at {100 * share:g} % of the labels {higher} of {len(places)} lie above ({counts[0]} significantly, and "
            f"{counts[1]} "
            "significantly below)"
        )
    return (
        f"Probes of learned features against {what}, over five methods and four tasks: {'; '.join(parts)}; significant "
        f"after "
        f"Holm's correction over the {len(corrected)} tests."
    )


def _significant(found: Lines) -> tuple[int, int, int]:
    corrected = holm_of_claim(found)
    signs = [found[place].value or 0.0 for place, p_value in corrected.items() if p_value < 0.05]
    return sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs), len(corrected)


def _differences(lines: Lines, evaluation: str, reference: str) -> list[EvaluationResult]:
    """The tests of one claim: of the headline's AUROC under the strict protocol."""
    return [
        line
        for line in headline_auroc(line for line in lines if line.compared_with is not None)
        if (line.evaluation, line.compared_encoder, line.protocol) == (evaluation, reference, "strict")
    ]


def _own(lines: Lines) -> list[EvaluationResult]:
    return [line for line in lines if line.compared_with is None]


def _row(line: EvaluationResult) -> str:
    if line.encoder == "trained":
        return _TITLES.get(Path(line.checkpoint).name, line.checkpoint)
    names = {"interval_features": "measured intervals", "supervised": "the supervised network"}
    return names.get(line.encoder, f"random weights ({_TITLES.get(Path(line.checkpoint).name, line.checkpoint)})")


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
