"""Checks of the settings that are saved beside a checkpoint."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

HUGGING_FACE_KEYS = ("auto_map", "chat_template", "feature_extractor_type", "processor_class")
"""Keys that transformers itself writes into a processor's JSON file."""


def setting_names(cls: type) -> tuple[str, ...]:
    """Names of the settings that a class takes: the named parameters of its `__init__`, without `self`."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))[1:]


def reject_unknown_settings(names: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raises `TypeError` if a name is neither a setting nor a key of Hugging Face's own."""
    for name in names:
        if name not in known and name not in HUGGING_FACE_KEYS:
            raise TypeError(f"{owner} has no setting {name!r}{_suggestion(name, known)}. Settings: {', '.join(known)}.")


def reject_misspelt_settings(names: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raises `TypeError` if a name is nearly a setting; others pass, because loaders take arguments of many owners."""
    for name in names:
        suggestion = _suggestion(name, known)
        if name not in known and suggestion:
            raise TypeError(f"{owner} has no setting {name!r}{suggestion}.")


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Returns `value` if it is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}.")
    return value


def check_flag(name: str, value: Any) -> bool:
    """Returns `value` if it is a `bool`."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r}.")
    return value


def check_positive(name: str, value: Any) -> float:
    """Returns `value` as `float` if it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0, got {value!r}.")
    return float(value)


def check_positive_integer(name: str, value: Any) -> int:
    """Returns `value` if it is an `int` above 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value!r}.")
    return value
