"""Numbers that no model has, refused before anything is made of them: NaN, and sizes that would fill the memory.

JSON as Python reads it knows NaN and infinity, and a config may come from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psutil
from torch import nn
from transformers import PreTrainedConfig

from hf_ecgtext.errors import CheckpointError

LARGEST_DEPTH = 1000
"""Layers, stages or blocks: each is an object, and the deepest known models have about 150."""
LARGEST_NUMBER = 10**8
"""Of whatever else a config counts; 24 hours at 1000 Hz are 86,400,000 samples."""
LARGEST_NUMBER_OF_LABELS = 10**5
"""Each is a string."""

# Weights are saved in a quarter of their width at least, and some are saved once and used twice.
_MOST_TIMES_THE_FILES = 8
_TOO_SMALL_TO_MATTER = 10**9

_source: ContextVar[tuple[str, int]] = ContextVar("source", default=("a model", 0))
"""What is being loaded, and how many bytes its weights have on disk."""


def check_numbers(owner: str, settings: Mapping[str, Any]) -> None:
    """Refuse NaN, infinities and absurd sizes among settings, whatever their meaning.

    Args:
        owner (`str`): What the settings are of, for the message.
        settings (`Mapping[str, Any]`): By name; what is inside of lists and mappings is checked too.

    Raises:
        ValueError: If there is such a number; the message names the setting.
    """
    for name, value in settings.items():
        if isinstance(value, PreTrainedConfig):
            continue  # checked when it was made
        if name in ("id2label", "label2id"):
            if isinstance(value, Mapping) and len(value) > LARGEST_NUMBER_OF_LABELS:
                raise ValueError(f"{owner}: {name} has {len(value)} entries, more than {LARGEST_NUMBER_OF_LABELS}.")
        elif isinstance(value, Mapping):
            check_numbers(f"{owner}, {name}", {str(key): entry for key, entry in value.items()})
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            limit = LARGEST_DEPTH if _counts_layers(name) or name == "widths" else LARGEST_NUMBER
            if len(value) > limit:
                raise ValueError(f"{owner}: {name} has {len(value)} entries, more than {limit}.")
            for entry in value:
                if entry not in (math.inf, -math.inf):  # an end of a range, as in Mamba's time_step_limit
                    _check_number(owner, name, entry)
        else:
            _check_number(owner, name, value)


def _check_number(owner: str, name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{owner}: {name} is {value}. It must be a finite number: correct the file or argument.")
    if isinstance(value, int) and not isinstance(value, bool):
        limit = LARGEST_NUMBER
        if _counts_layers(name):
            limit = LARGEST_DEPTH
        elif name == "num_labels":
            limit = LARGEST_NUMBER_OF_LABELS
        if abs(value) > limit:
            raise ValueError(f"{owner}: {name} is {value}, which no model has (at most {limit}).")


def _counts_layers(name: str) -> bool:
    return "layer" in name or "depth" in name


@contextmanager
def loading_from(name_or_path: Any) -> Iterator[None]:
    """While a model is made to take the weights of a folder, `check_total_size` compares it with their files."""
    files = [file for file in Path(str(name_or_path)).glob("*.safetensors") if file.is_file()]  # the ledger is small
    token = _source.set((str(name_or_path), sum(file.stat().st_size for file in files)))
    try:
        yield
    finally:
        _source.reset(token)


def check_total_size(model: nn.Module) -> None:
    """Refuse a model that is made without values, on the meta device, and whose sizes cannot be right.

    Args:
        model (`nn.Module`): Complete.

    Raises:
        CheckpointError: If its weights need more than all memory of the machine, or many times what is saved.
    """
    needed = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.is_meta)
    memory, (name, saved) = psutil.virtual_memory().total, _source.get()
    if needed > memory:
        limit = f"this machine has {memory / 1e9:,.1f} GB of memory"
    elif saved and needed > _MOST_TIMES_THE_FILES * saved + _TOO_SMALL_TO_MATTER:
        limit = f"the saved weights have {saved / 1e9:,.3f} GB"
    else:
        return
    raise CheckpointError(
        f"The config of '{name}' asks for a {type(model).__name__} of {needed / 1e9:,.1f} GB, and {limit}. Its sizes "
        "cannot be right: compare config.json with the original."
    )
