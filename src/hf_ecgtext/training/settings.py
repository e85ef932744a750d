"""Settings by dotted name, and errors that name the wrong one and where it was written."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from hf_ecgtext.training.arguments import EcgTextTrainingArguments


def check_training_settings(overrides: Mapping[str, Any]) -> None:
    """Refuse what transformers would refuse late or with a traceback: an unknown field, or text for a number.

    Args:
        overrides (`Mapping[str, Any]`): Settings of a recipe by dotted name; only `training.X` are looked at.

    Raises:
        ValueError: If one cannot be used; the message names it, and the nearest one that there is.
    """
    fields = {field.name: field for field in dataclasses.fields(EcgTextTrainingArguments) if field.init}
    for name, value in overrides.items():
        group, _, setting = name.partition(".")
        if group != "training":
            continue
        if setting in ("output_dir", "seed"):
            raise ValueError(f"--set {name}: write --{setting.replace('_', '-')} instead.")
        if setting not in fields:
            close = difflib.get_close_matches(setting, fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "see EcgTextTrainingArguments."
            raise ValueError(f"--set {name}: there is no such training setting; {hint}")
        default = fields[setting].default
        if isinstance(default, bool):
            fits, kind = isinstance(value, bool), "true or false"
        elif isinstance(default, int | float):
            fits, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        else:
            continue
        if not fits:
            raise ValueError(f"--set {name} must be {kind}, not '{value}'.")


@contextmanager
def explain_settings(option: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Name the option where settings from the command line are unknown, of a wrong type or impossible.

    Args:
        option (`str`): Such as `"--set"`.
        settings (`Mapping[str, Any]`): What stood behind it, by name.

    Raises:
        ValueError: In place of a `TypeError`, or of what a strict config raises, while there are settings to blame.
    """
    try:
        yield
    except (TypeError, StrictDataclassError) as error:
        if not settings:  # nobody set anything: a mistake of ours, which must keep its traceback
            raise
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown:
            written = [name for name in settings if name.split(".")[-1] == unknown[1]]
            raise ValueError(f"{option}: there is no setting '{(written or [unknown[1]])[0]}'.") from error
        given = " ".join(f"{name}={value}" for name, value in settings.items())
        # A strict config wraps the error of its own check, which says more.
        raise ValueError(f"{option} {given} cannot be used: {error.__cause__ or error}") from error
