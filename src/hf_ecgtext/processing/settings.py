"""Checks of the settings that are saved beside a checkpoint."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from hf_ecgtext.leads import STANDARD_LEADS, canonical_lead_name

HUGGING_FACE_KEYS = ("auto_map", "chat_template", "feature_extractor_type", "processor_class")
"""Keys that transformers itself writes into a processor's JSON file."""
LARGEST_NUM_SAMPLES = 10**8
"""Of a window; 24 hours at 1000 Hz are 86,400,000."""
LARGEST_MAX_LENGTH = 10**6
"""Tokens of a text."""
LARGEST_FILTER_ORDER = 20
"""Of a Butterworth filter in second-order sections; above about 10 nothing is gained."""


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


def check_positive_integer(name: str, value: Any, largest: int) -> int:
    """Returns `value` if it is an `int` above 0, and none that nobody has a use for."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if not 0 < value <= largest:
        raise ValueError(f"{name} must be above 0 and at most {largest}, got {value!r}.")
    return value


def check_lead_names(lead_names: Any) -> tuple[str, ...]:
    """Returns the standard names of leads, each given once in any usual spelling."""
    if isinstance(lead_names, str) or not isinstance(lead_names, Sequence) or not lead_names:
        raise TypeError(f'lead_names must be a list of names, such as ["I", "II"], got {lead_names!r}.')
    names = []
    for name in lead_names:
        lead = canonical_lead_name(name) if isinstance(name, str) else None
        if lead is None:
            raise ValueError(f"lead_names: {name!r} is none of the twelve leads {', '.join(STANDARD_LEADS)}.")
        if lead in names:
            raise ValueError(f"lead_names names lead {lead} twice: {list(lead_names)}.")
        names.append(lead)
    return tuple(names)


def check_band(band_hz: Any, sampling_rate_hz: float) -> tuple[float | None, float | None] | None:
    """Returns the edges of a band-pass filter in Hz, which must fit below half of the sampling rate."""
    if band_hz is None:
        return None
    if not isinstance(band_hz, list | tuple) or len(band_hz) != 2 or (band_hz[0] is None and band_hz[1] is None):
        raise ValueError(f"bandpass_hz must be two edges in Hz, at most one of them null, got {band_hz!r}.")
    low, high = (None if edge is None else check_positive("an edge of bandpass_hz", edge) for edge in band_hz)
    nyquist = sampling_rate_hz / 2
    if (low or 0) >= (high or nyquist) or (high or 0) >= nyquist:
        raise ValueError(
            f"bandpass_hz={tuple(band_hz)} must rise and stay below {nyquist:g} Hz, half of the model's sampling rate."
        )
    return low, high
