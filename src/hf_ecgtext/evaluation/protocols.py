"""Protocols as named switches: what the papers did, and what an honest comparison needs.

Numbers in the comments are those of the defects in docs/protocols.md. A protocol decides nothing about
the encoder; which prompts, fractions and seeds are evaluated is asked for apart.
"""

from __future__ import annotations

import dataclasses
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
        probe_selection (`str`): Split on which the penalty or the epoch of a probe is chosen (defect 1). `"test"` is
            the best test epoch, an upper bound that nobody could have known.
        batch_norm (`str`): `"pretrained"` statistics, or `"adapted"` to the target's training signals, as a probe
            that is trained with the encoder in `train()` mode has them (defect 3).
        subsets (`str`): `"stratified"` draws of whole patients, or the one `"published"` draw (defect 4).
        num_draws (`int`): Draws per fraction below 1; the published draw is one.
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
    probe_selection: Literal["validation", "test"] = "validation"
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
    batch_norm="adapted",
    subsets="published",
    num_draws=1,
    thresholds="test",
    long_records="first_5_s",
    label_map="as_published",
    class_columns="by_position",
    duplicate_reports="wrong",
)

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
