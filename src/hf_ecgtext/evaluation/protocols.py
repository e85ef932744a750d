"""Protocols as named switches: what the papers did, and what an honest comparison needs.

Numbers in the comments are those of the defects in docs/protocols.md. A protocol decides nothing about
the encoder; which prompts, fractions and seeds are evaluated is asked for apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from hf_ecgtext.evaluation.statistics.metrics import FREQUENT_CLASS_MIN_POSITIVES, HEADLINE_MIN_POSITIVES


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """Switches of an evaluation. The defaults are the strict protocol.

    Args:
        name (`str`): Stands in every result line.
        probe_solver (`str`): `"logistic_regression"`, converged; or a published recipe of gradient steps, by method
            (defect 2).
        probe_selection (`str`): Where the penalty or the epoch of a probe is chosen (defect 1): on the `"validation"`
            split; by cross-validation within the `"draw"` itself, for probes with a budget of labels; on the `"test"`
            split, an upper bound that nobody could have known.
        feature_scaling (`str`): A probe learns from features that are `"standardised"` by its training records, or
            from `"raw"` ones, as published.
        batch_norm (`str`): `"pretrained"` statistics, or `"adapted"` to the target's training signals, as a probe
            that is trained with the encoder in `train()` mode has them (defect 3).
        subsets (`str`): `"stratified"` draws of whole patients, or the one `"published"` draw (defect 4).
        num_draws (`int`): Stratified draws per fraction below 1; the published draw is one.
        thresholds (`str`): Split on which thresholds for F1, sensitivity and specificity are searched (defect 6).
        min_positives (`tuple[int, ...]`): Macro means over classes with at least so many positives each (defect 8);
            the first is the headline.
        long_records (`str`): `"whole"`: features are averaged over windows that cover the record; `"first_5_s"`:
            recordings of CPSC2018 are cut to 5 s and padded with zeros before scaling (defect 10).
        label_map (`str`): Between datasets, `"reviewed"` or `"as_published"` (defect 12).
        class_columns (`str`): Classes are matched `"by_name"`; `"by_position"` repeats the exchanged columns of
            PTB-XL's subclasses in the published probes (defect 19).
        duplicate_reports (`str`): In retrieval, reports with the same text are `"recognised"` as the same, or `"wrong"`
            unless they are the record's own.
    """

    name: str = "strict"
    probe_solver: Literal["logistic_regression", "merl", "deri", "deri_paper", "cmelt"] = "logistic_regression"
    probe_selection: Literal["validation", "draw", "test"] = "validation"
    feature_scaling: Literal["standardised", "raw"] = "standardised"
    batch_norm: Literal["pretrained", "adapted"] = "pretrained"
    subsets: Literal["stratified", "published"] = "stratified"
    num_draws: int = 5
    thresholds: Literal["validation", "test"] = "validation"
    min_positives: tuple[int, ...] = (HEADLINE_MIN_POSITIVES, 1, FREQUENT_CLASS_MIN_POSITIVES)
    long_records: Literal["whole", "first_5_s"] = "whole"
    label_map: Literal["reviewed", "as_published"] = "reviewed"
    class_columns: Literal["by_name", "by_position"] = "by_name"
    duplicate_reports: Literal["recognised", "wrong"] = "recognised"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices, value = get_args(hint), getattr(self, name)
            if choices and Ellipsis not in choices and value not in choices:
                raise ValueError(f"Protocol '{self.name}': {name} is '{value}'; choose one of {', '.join(choices)}.")
        if self.num_draws < 1:
            raise ValueError(f"Protocol '{self.name}': num_draws is {self.num_draws}; at least one draw is needed.")
        if self.probe_selection == "draw" and self.probe_solver != "logistic_regression":
            raise ValueError(
                f"Protocol '{self.name}': probe_selection=draw cross-validates the strength of the regression, but "
                f"probe_solver is {self.probe_solver}, which has none. Choose its epoch on validation."
            )

    def with_switches(self, switches: dict[str, Any]) -> EvaluationProtocol:
        """This protocol with some switches changed; its name says which.

        Raises:
            ValueError: If there is no such switch, or it has no such value.
        """
        known = {field.name for field in dataclasses.fields(self)} - {"name"}
        if unknown := sorted(set(switches) - known):
            raise ValueError(f"There is no switch {', '.join(unknown)}; the switches are {', '.join(sorted(known))}.")
        changed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in switches.items()
        }
        different: dict[str, Any] = {name: value for name, value in changed.items() if getattr(self, name) != value}
        texts = [f"{name}={value}" for name, value in sorted(different.items())]
        return dataclasses.replace(self, name=" ".join([self.name, *texts]), **different)


STRICT = EvaluationProtocol()
PUBLISHED = EvaluationProtocol(
    name="published",
    probe_solver="merl",
    probe_selection="test",
    feature_scaling="raw",
    batch_norm="adapted",
    subsets="published",
    thresholds="test",
    long_records="first_5_s",
    label_map="as_published",
    class_columns="by_position",
    duplicate_reports="wrong",
)

FACTORIAL = "factorial"
"""Asks for all protocols of [`factorial_protocols`]."""

FACTORIAL_SWITCHES = (
    *("probe_solver", "probe_selection", "feature_scaling", "batch_norm", "subsets"),
    *("class_columns", "long_records"),
)
"""The switches that change the AUROC of a probe and have another value as published."""

_PROTOCOLS = {protocol.name: protocol for protocol in (STRICT, PUBLISHED)}


def protocol_names() -> tuple[str, ...]:
    """The protocols that the library defines."""
    return tuple(_PROTOCOLS)


def get_protocol(name: str, **switches: Any) -> EvaluationProtocol:
    """A protocol by name, with some of its switches changed.

    Raises:
        ValueError: If there is no such protocol or switch.
    """
    if name not in _PROTOCOLS:
        raise ValueError(f"There is no protocol '{name}'; choose one of {', '.join(_PROTOCOLS)}.")
    return _PROTOCOLS[name].with_switches(switches)


def factorial_protocols(switches: Sequence[str] = FACTORIAL_SWITCHES) -> tuple[EvaluationProtocol, ...]:
    """Strict, published, strict with each published switch alone, and published with each strict switch alone.

    Of two switches that act together, the two ways of setting one alone give different changes; the table of
    [`~hf_ecgtext.reporting.tables.factorial.factorial_table`] shows both.

    Args:
        switches (`Sequence[str]`): Which; `long_records` does nothing but in CPSC2018, and `class_columns` but in
            PTB-XL's subclasses.
    """
    single = [
        base.with_switches({switch: getattr(other, switch)})
        for base, other in ((STRICT, PUBLISHED), (PUBLISHED, STRICT))
        for switch in switches
    ]
    return (STRICT, PUBLISHED, *single)
