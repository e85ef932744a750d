"""Answers on disk: a dataclass of arrays and JSON values as one `.npz` file, without pickles."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np

from hf_ecgtext.io import written_whole

_TEXTS = "texts"
_SEQUENCES = ("class_names", "record_ids", "seed")
"""Tuples, which JSON would turn into lists."""


def save_fields(path: str | os.PathLike[str], instance: Any) -> None:
    """Write the fields of a dataclass, whole or not at all.

    Args:
        path (`str` or `os.PathLike`): Where to; its folder is made if absent.
        instance: Its fields are numeric arrays, the object array `patients`, JSON values, or `None`.
    """
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.dtype != object}
    texts = {name: value for name, value in values.items() if name not in arrays}
    if texts.get("patients") is not None:
        texts["patients"] = list(texts["patients"])
    with written_whole(path) as unfinished, open(unfinished, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{_TEXTS: np.array(json.dumps(texts))}, **arrays)


def load_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields that `save_fields` wrote."""
    with np.load(path, allow_pickle=False) as file:
        fields: dict[str, Any] = json.loads(str(file[_TEXTS]))
        fields |= {name: file[name] for name in file.files if name != _TEXTS}
    for name in _SEQUENCES:
        if isinstance(fields.get(name), list):
            fields[name] = tuple(fields[name])
    if fields.get("patients") is not None:
        fields["patients"] = np.array(fields["patients"], dtype=object)
    return fields
