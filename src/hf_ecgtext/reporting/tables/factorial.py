"""Strict against published as a factorial: what each switch of the protocols changes, alone and all together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hf_ecgtext.evaluation.protocols import (
    FACTORIAL_SWITCHES,
    PUBLISHED,
    STRICT,
    EvaluationProtocol,
    factorial_protocols,
)
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.statistics.metrics import HEADLINE_MIN_POSITIVES
from hf_ecgtext.reporting.tables.grid import headline_auroc, latest, measure_title
from hf_ecgtext.reporting.tables.probes import BEST_TEST_EPOCH, BEST_VALIDATION_EPOCH, fraction, fraction_title
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable

_Place = tuple[str, str, tuple[tuple[str, str], ...], float]
_SWITCH_TITLES = {
    "probe_solver": "solver: published recipe",
    "probe_selection": "chosen on the test split",
    "feature_scaling": "raw features",
    "batch_norm": "BatchNorm adapted to the training signals",
    "subsets": "one published draw",
    "class_columns": "columns by position (Sub)",
    "long_records": "first 5 s (CPSC2018)",
}
_ALL = "all together"
_SUM = "sum of the switches alone"


def factorial_table(results: Sequence[EvaluationResult], *, tasks: Sequence[str] | None = None) -> NamedTable:
    """The mean change in macro AUROC per switch and fraction, over trained encoders and tasks.

    Every change is published less strict: in the columns "among strict", the strict protocol with the switch as
    published less the strict protocol; in the columns "among published", the published protocol less the published
    protocol with the switch as in strict. Where switches act together, the two differ, and the switches alone do not
    add up to all together.

    Args:
        results (`Sequence[EvaluationResult]`): Lines of the protocols of
            [`~hf_ecgtext.evaluation.protocols.factorial_protocols`]; others are passed over.
        tasks (`Sequence[str]`, *optional*): Which; all by default.

    Raises:
        ValueError: If a protocol is missing for an encoder, task and fraction that another has. A switch without any
            line is left out.
    """
    protocols = {protocol.name: protocol for protocol in factorial_protocols()}
    values: dict[str, dict[_Place, float]] = {}
    for result in headline_auroc(latest(results)):
        is_probe = (result.evaluation, result.encoder, result.compared_with) == ("linear_probe", "trained", None)
        if not is_probe or result.value is None:
            continue
        protocol = protocols.get(result.protocol)
        if protocol is None or (tasks is not None and result.task not in tasks):
            continue
        if result.settings.get("selection") == _reported(protocol):
            place = (result.checkpoint, result.task, tuple(sorted(result.data.items())), fraction(result))
            values.setdefault(protocol.name, {})[place] = 100 * result.value
    switches = [switch for switch in FACTORIAL_SWITCHES if {name.name for name in _alone(switch)} & set(values)]
    places = list(values.get(STRICT.name, {}))
    for protocol in factorial_protocols(switches):
        found = values.get(protocol.name, {})
        if not switches or set(found) != set(places):
            gone = next(iter(set(places) ^ set(found)), None)
            where = "any encoder" if gone is None else f"'{gone[0]}' on {gone[1]} at {fraction_title(gone[-1])}"
            raise ValueError(
                "The factorial needs the same encoders, tasks and fractions under every protocol, but "
                f"'{protocol.name}' and '{STRICT.name}' do not both have lines of {where}. Run `hf-ecgtext evaluate "
                "--protocols factorial --evaluations linear_probe`."
            )
    shares = sorted({place[-1] for place in places})

    def changes(high: str, low: str) -> list[float]:
        """The mean of one protocol less another, by fraction."""
        means = []
        for share in shares:
            found = [values[high][place] - values[low][place] for place in places if place[-1] == share]
            means.append(sum(found) / len(found))
        return means

    alone = {}
    for switch in switches:
        to_published, to_strict = _alone(switch)
        alone[switch] = (changes(to_published.name, STRICT.name), changes(PUBLISHED.name, to_strict.name))
    sums = [[sum(means) for means in zip(*side, strict=True)] for side in zip(*alone.values(), strict=True)]
    total = changes(PUBLISHED.name, STRICT.name)
    rows = [[_SWITCH_TITLES[switch], *_cells(before), *_cells(after)] for switch, (before, after) in alone.items()]
    rows += [[_SUM, *_cells(sums[0]), *_cells(sums[1])], [_ALL, *_cells(total), *[UNDEFINED] * len(shares)]]
    encoders, asked = {place[0] for place in places}, {place[1] for place in places}
    return NamedTable(
        "Strict and published as a factorial",
        [
            "switch as published",
            *(f"among strict, {fraction_title(share)}" for share in shares),
            *(f"among published, {fraction_title(share)}" for share in shares),
        ],
        rows,
        [
            f"Points of macro {measure_title('auroc', HEADLINE_MIN_POSITIVES)}: means over "
            f"{_number(encoders, 'trained encoder')} and {_number(asked, 'task')} ({', '.join(sorted(asked))}), "
            "published less strict. Among strict: the one switch is changed in the strict protocol; among published: "
            "in "
            f"the published one. Published probes are those of the {PUBLISHED.probe_solver} recipe; where they choose "
            f"on "
            "the test split, the value is that of the best test epoch, an upper bound. Where switches act together, "
            "they "
            "do not add up.",
        ],
        breaks=(len(switches),),
    )


def _alone(switch: str) -> tuple[EvaluationProtocol, EvaluationProtocol]:
    """The strict protocol with the published value of a switch, and the published one with the strict value."""
    _, _, to_published, to_strict = factorial_protocols([switch])
    return to_published, to_strict


def _reported(protocol: EvaluationProtocol) -> str | None:
    """The `selection` of the lines that a protocol reports."""
    if protocol.probe_solver == STRICT.probe_solver:
        return None
    return BEST_TEST_EPOCH if protocol.probe_selection == "test" else BEST_VALIDATION_EPOCH


def _number(things: Collection[str], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) > 1 else ''}"


def _cells(values: Sequence[float]) -> list[str]:
    return [f"{value:+.2f}" for value in values]
