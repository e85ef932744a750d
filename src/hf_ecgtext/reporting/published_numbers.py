"""Numbers of the papers, each with its source: quoted beside our tables, never mixed with our results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

SIX_TASKS = ("ptbxl_super", "ptbxl_sub", "ptbxl_form", "ptbxl_rhythm", "cpsc2018", "csn_merl")
"""The tasks of which the papers print a mean."""

MEAN_OF_SIX = "mean of the six tasks"
"""Task of a number of which nothing but the mean over `SIX_TASKS` is known."""

_FILE = "published_numbers.json"


@dataclass(frozen=True)
class PublishedNumber:
    """One number of a paper.

    Args:
        method (`str`): Key, such as `"merl"`; for our five methods, the name of the method.
        title (`str`): How tables call it.
        evaluation, task, metric (`str`): As in [`~hf_ecgtext.evaluation.results.EvaluationResult`].
        percent (`float`): As printed, in percent.
        source (`str`): Short: paper, table, and whether it re-ran another paper's method.
        reference (`str`): The source in full.
        settings (`dict`): Such as `{"fraction": 0.01}`; what the paper does not say is left out.
        remarks (`tuple[str, ...]`): Where the setting differs from that of the other rows, or the number is in doubt.
    """

    method: str
    title: str
    evaluation: str
    task: str
    metric: str
    percent: float
    source: str
    reference: str
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def row_title(self) -> str:
        """Title of the row in which the number may stand."""
        return f"{self.title}, as published ({self.source})"

    @property
    def text(self) -> str:
        """The number with one decimal, or two where the paper prints two."""
        return f"{self.percent:.1f}" if round(self.percent, 1) == self.percent else f"{self.percent:.2f}"


def published_numbers(evaluation: str | None = None) -> list[PublishedNumber]:
    """All numbers, or those of one evaluation, in the order of the file."""
    return [number for number in _read() if evaluation in (None, number.evaluation)]


def published_mean(numbers: Sequence[PublishedNumber]) -> float | None:
    """The mean over the six tasks of one row of a paper: computed, or printed where nothing else is; `None` without.

    Args:
        numbers (`Sequence[PublishedNumber]`): Of one method, source, metric and setting.
    """
    values = {number.task: number.percent for number in numbers}
    if set(SIX_TASKS) <= set(values):
        return sum(values[task] for task in SIX_TASKS) / len(SIX_TASKS)
    return values.get(MEAN_OF_SIX)


@cache
def _read() -> tuple[PublishedNumber, ...]:
    text = resources.files("hf_ecgtext.reporting").joinpath(_FILE).read_text(encoding="utf-8")
    document = json.loads(text)
    return tuple(number for group in document["groups"] for number in _numbers(group, document["sources"]))


def _numbers(group: dict[str, Any], sources: dict[str, dict[str, str]]) -> Iterator[PublishedNumber]:
    source = sources[group["source"]]
    parts = [
        source["short"],
        *([group["table"]] if "table" in group else []),
        *(["re-run"] if "rerun" in group else []),
    ]
    varies = group.get("varies")
    for task, values in group["values"].items():
        columns = [({}, values)] if varies is None else _columns(varies, values)
        for settings, value in columns:
            yield PublishedNumber(
                method=group["method"],
                title=group["title"],
                evaluation=group["evaluation"],
                task=task,
                metric=group["metric"],
                percent=value,
                source=", ".join(parts),
                reference=source["reference"],
                settings=group.get("settings", {}) | settings,
                remarks=tuple(group.get("remarks", ())),
            )


def _columns(varies: dict[str, Any], values: list[float]) -> list[tuple[dict[str, Any], float]]:
    return [({varies["setting"]: level}, value) for level, value in zip(varies["values"], values, strict=True)]
