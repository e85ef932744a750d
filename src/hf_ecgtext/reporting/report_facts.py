"""What the result lines of a run say about themselves: what was evaluated, under which switches, and what is wrong."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN
from hf_ecgtext.evaluation.protocols import EvaluationProtocol, factorial_protocols, get_protocol, protocol_names
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import NOT_CONTAMINATED
from hf_ecgtext.reporting.tables.grid import headline_lines, latest, split_by
from hf_ecgtext.reporting.tables.render import NamedTable

_UNTRAINED = ("random", "interval_features")  # these have seen nothing
_RARE = 20  # positives; docs/protocols.md, defect 8
_SHAKY = 0.1  # share of resamples without a value
_SWITCH = re.compile(r"(\w+)=(.*?)(?= \w+=|$)")


@dataclass(frozen=True)
class BadNews:
    """One kind of bad news.

    Args:
        title (`str`): What is wrong.
        explanation (`str`): What it means for the numbers.
        items (`list[str]`): Where.
    """

    title: str
    explanation: str
    items: list[str] = field(default_factory=list)


def checkpoint_table(results: Sequence[EvaluationResult]) -> NamedTable:
    """One row per encoder: kind, seeds, evaluations, tasks, and what it has seen of the test records."""
    rows = []
    for (checkpoint, kind), lines in split_by(_own(results), lambda line: (line.checkpoint, line.encoder)).items():
        seen = "-" if kind in _UNTRAINED else "; ".join(_distinct(line.contamination for line in lines))
        rows.append(
            [
                checkpoint,
                kind.replace("_", " "),
                ", ".join(_distinct(_seeds(line.seed) for line in lines)),
                ", ".join(_distinct(line.evaluation for line in lines)),
                str(len({line.task for line in lines})),
                seen,
            ]
        )
    header = ["checkpoint", "kind", "seeds", "evaluations", "tasks", "test records seen in training"]
    notes = ["Of random encoders, the checkpoint is the one whose architecture they share."]
    return NamedTable("Encoders", header, rows, notes)


def data_table(results: Sequence[EvaluationResult]) -> NamedTable:
    """One row per data revision and split: tasks and numbers of records."""
    rows = []
    keys = ("name", "revision", "split")
    for names, lines in split_by(_own(results), lambda line: tuple(line.data[key] for key in keys)).items():
        counts = {line.task: line.num_records for line in lines}
        rows.append([*names, ", ".join(f"{task} ({count:,})" for task, count in counts.items())])
    return NamedTable("Data", ["data", "revision", "split", "tasks (records)"], rows)


def provenance_table(results: Sequence[EvaluationResult]) -> NamedTable:
    """Library versions, commands, prompts, intervals."""
    asked = [line for line in results if line.prompts != PROMPT_MEAN]
    rows = [["prompt sets", ", ".join(_distinct(line.prompts for line in asked if line.prompts)) or "-"]]
    coverages = _distinct(f"{100 * line.confidence:g} %" for line in results)
    resamples = sorted({line.num_resamples for line in results})
    rows.append(["intervals", f"{', '.join(coverages)}; resamples: {', '.join(f'{number:,}' for number in resamples)}"])
    packages = _distinct(name for line in results for name in line.library_versions)
    for package in packages:
        versions = _distinct(line.library_versions.get(package, "not recorded") for line in results)
        rows.append([package, ", ".join(versions)])
    rows += [["command", command] for command in _distinct(line.command for line in results)]
    return NamedTable("How the lines were made", ["what", "value"], rows)


def protocol_table(results: Sequence[EvaluationResult], known: Sequence[EvaluationProtocol] = ()) -> NamedTable:
    """One row per switch, one column per protocol of the results.

    Args:
        results (`Sequence[EvaluationResult]`): Whose protocols are shown. A name such as `"strict num_draws=3"` says
            what differs from a protocol of the library.
        known (`Sequence[EvaluationProtocol]`): Others, by their names.
    """
    by_name = {protocol.name: protocol for protocol in (*factorial_protocols(), *known)}
    names = _distinct(line.protocol for line in results)
    columns = {name: _switches(name, by_name) for name in names}
    switches = [entry.name for entry in dataclasses.fields(EvaluationProtocol) if entry.name != "name"]
    rows = [
        [switch.replace("_", " "), *(columns[name].get(switch, "not recorded") for name in names)]
        for switch in switches
    ]
    return NamedTable("Switches", ["switch", *names], rows)


def bad_news(results: Sequence[EvaluationResult], failed: Mapping[str, str]) -> list[BadNews]:
    """Whatever a reader should hold against the numbers; kinds without an instance are left out.

    Args:
        results (`Sequence[EvaluationResult]`): All lines.
        failed (`Mapping[str, str]`): Why an evaluation could not be done, by its title.
    """
    lines = _own(results)
    found = [
        BadNews(
            "Evaluations that could not be done",
            "They are missing from all tables and figures.",
            [f"{title}: {reason}" for title, reason in failed.items()],
        ),
        BadNews(
            "Contaminated or unknown checkpoints",
            "An encoder that has seen test records, or may have, is measured too high on them.",
            _contamination(lines),
        ),
        BadNews(
            "Chosen on the test split",
            "Upper bounds that nobody could have known; they show what published numbers contain.",
            _upper_bounds(lines),
        ),
        BadNews(
            "Labels absent from training draws",
            "A probe cannot learn them there and answers the same for every record (AUROC 50.0).",
            _absent_labels(lines),
        ),
        BadNews("Classes without a value", "They are left out of macro means.", _undefined(lines)),
        BadNews(
            f"Classes with fewer than {_RARE} positive records",
            f"Each weighs as much as any other in a macro mean; their intervals are too narrow. See the means over "
            f"classes with {_RARE} or more.",
            _rare(lines),
        ),
        BadNews(
            "Classes that lack a value in many resamples",
            f"In more than {100 * _SHAKY:g} % of them; the interval rests on the others.",
            _shaky(lines),
        ),
        BadNews("Mixed runs", "Lines of several revisions or versions stand side by side.", _mixed(results)),
    ]
    return [news for news in found if news.items]


def _contamination(lines: Sequence[EvaluationResult]) -> list[str]:
    trained = [line for line in lines if line.encoder not in _UNTRAINED and line.contamination != NOT_CONTAMINATED]
    return _distinct(f"{line.checkpoint} on {line.data['name']}: {line.contamination}" for line in trained)


def _upper_bounds(lines: Sequence[EvaluationResult]) -> list[str]:
    bounds = [line for line in lines if "upper_bound" in line.details]
    groups = split_by(bounds, lambda line: (line.evaluation, line.protocol, str(line.details["upper_bound"])))
    return [
        f"{evaluation.replace('_', ' ')}, protocol {protocol}: {reason} "
        f"Tasks: {', '.join(_distinct(line.task for line in own))}."
        for (evaluation, protocol, reason), own in groups.items()
    ]


def _absent_labels(lines: Sequence[EvaluationResult]) -> list[str]:
    texts = []
    for line in lines:
        absent = line.details.get("absent_labels")
        if absent:
            counts = absent if isinstance(absent, Mapping) else dict.fromkeys(absent)
            draws = line.details.get("draws")
            names = [
                str(label) if count is None or draws is None else f"{label} ({count} of {draws} draws)"
                for label, count in counts.items()
            ]
            fraction = line.settings.get("fraction")
            share = "" if fraction is None else f", {100 * float(fraction):g} % of the labels"
            texts.append(f"{line.task}{share}, protocol {line.protocol}: {', '.join(names)}")
    return _distinct(texts)


def _undefined(lines: Sequence[EvaluationResult]) -> list[str]:
    texts = []
    for (task, metric), own in split_by(lines, lambda line: (line.task, line.metric)).items():
        labels = {label: line.num_positives[label] for line in own for label, v in line.per_class.items() if v is None}
        if labels:
            total = max(line.num_records for line in own)
            named = ", ".join(f"{label} ({count:,} of {total:,} records)" for label, count in labels.items())
            texts.append(f"{task}, {metric}: {named}")
        if any(line.value is None for line in own):
            names = _distinct(f"{x.checkpoint} ({x.evaluation})" for x in own if x.value is None)
            texts.append(f"{task}, {metric}: no value at all for {', '.join(names)}")
    return texts


def _rare(lines: Sequence[EvaluationResult]) -> list[str]:
    texts = []
    for task, own in split_by([line for line in lines if line.num_positives], lambda line: line.task).items():
        counts = own[0].num_positives
        rare = {label: count for label, count in counts.items() if 0 < count < _RARE}
        if rare:
            named = ", ".join(f"{label} ({count})" for label, count in sorted(rare.items(), key=lambda item: item[1]))
            texts.append(f"{task}, {len(rare)} of {len(counts)} classes: {named}")
    return texts


def _shaky(lines: Sequence[EvaluationResult]) -> list[str]:
    shaky: dict[str, dict[str, float]] = {}
    for line in lines:
        for label, count in line.num_undefined.items():
            share = count / max(1, line.num_resamples)
            if share > _SHAKY:
                shares = shaky.setdefault(line.task, {})
                shares[label] = max(share, shares.get(label, 0.0))
    return [
        f"{task}: {', '.join(f'{label} ({100 * share:.0f} %)' for label, share in shares.items())}"
        for task, shares in shaky.items()
    ]


def _mixed(results: Sequence[EvaluationResult]) -> list[str]:
    texts = []
    for name, own in split_by(results, lambda line: line.data["name"]).items():
        revisions = _distinct(line.data["revision"] for line in own)
        if len(revisions) > 1:
            texts.append(f"{name}: revisions {', '.join(revisions)}")
    for package in _distinct(name for line in results for name in line.library_versions):
        versions = _distinct(line.library_versions.get(package, "not recorded") for line in results)
        if len(versions) > 1:
            texts.append(f"{package}: versions {', '.join(versions)}")
    repeated = len(results) - len(latest(results))
    if repeated:
        texts.append(f"{repeated:,} lines are repeated by later ones, which stand")
    return texts


def _switches(name: str, known: Mapping[str, EvaluationProtocol]) -> dict[str, str]:
    """Values of the switches of a protocol, as far as they can be known from its name."""
    if name in known:
        return _as_texts(known[name])
    base, _, changes = name.partition(" ")
    if base not in protocol_names():
        return {}
    return _as_texts(get_protocol(base)) | dict(_SWITCH.findall(changes))


def _as_texts(protocol: EvaluationProtocol) -> dict[str, str]:
    values: dict[str, Any] = dataclasses.asdict(protocol)
    if protocol.subsets == "published":
        values["num_draws"] = 1  # there is no other published draw
    return {name: str(value) for name, value in values.items()}


def _own(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Lines with an encoder's own values, over the headline's classes."""
    return headline_lines(line for line in latest(results) if line.compared_with is None)


def _seeds(seed: int | tuple[int, ...]) -> str:
    if isinstance(seed, int):
        return str(seed)
    is_range = len(seed) > 2 and list(seed) == list(range(seed[0], seed[-1] + 1))
    return f"{seed[0]} to {seed[-1]}" if is_range else " and ".join(map(str, seed))


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
