"""What every converter of published weights does: open the file safely, rename, and fill a model completely."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_ecgtext.errors import CheckpointError

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Pattern of a published name, and what replaces it. The first pattern that matches wins."""


def load_published(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a published file. `weights_only=True` refuses a pickle that would run code.

    Raises:
        CheckpointError: If the file is damaged, or holds anything but tensors and plain containers.
        OSError: If it cannot be opened.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, RuntimeError, ValueError) as error:
        # torch says at length which switch would run the code: keep only the name of what it refused.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would run {refused[1]}" if refused else "it is damaged, or something else"
        raise CheckpointError(
            f"'{path}' is not a plain file of weights ({reason}) and was not opened. Download it again from its "
            "author, or ask for a plain state dict."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}, not a state dict.")
    return content


def plain_state_dict(content: Mapping[str, Any], method: str, wrappers: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights in a published file by name, without what training tools put around them.

    Args:
        content (`Mapping[str, Any]`): What [`load_published`] returned.
        method (`str`): Name of the method, for messages.
        wrappers (`Sequence[str]`): Keys under which the file may hold its state dict, such as `"model_state_dict"`.

    Returns:
        `dict[str, torch.Tensor]`: Names no longer begin with `module.`.

    Raises:
        CheckpointError: If it holds anything but tensors.
    """
    weights = next((content[key] for key in wrappers if isinstance(content.get(key), Mapping)), content)
    strangers = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(f"This is no {method} state dict: {strangers[:5]} are not tensors.")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def rename(weights: Mapping[str, Tensor], renames: Renames, unused: re.Pattern[str] | None = None) -> dict[str, Tensor]:
    """The same weights under our names, without those that nothing here uses."""
    renamed = {}
    for name, tensor in weights.items():
        if unused is None or not unused.match(name):
            renamed[_new_name(name, renames)] = tensor
    return renamed


def _new_name(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name


def fill_model(model: ModelT, weights: Mapping[str, Tensor], title: str) -> ModelT:
    """Load weights into a model; every weight must find its place.

    Args:
        model ([`~transformers.PreTrainedModel`]): A new model.
        weights (`Mapping[str, torch.Tensor]`): Under our names.
        title (`str`): What the weights should make, for messages, such as `"MERL model"`.

    Returns:
        The model in `eval()` mode.

    Raises:
        CheckpointError: If weights are missing, left over or of another shape; each is named.
    """
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    left_over = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{name}: {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    problems = [
        f"{heading} {names[:8]}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for heading, names in (("missing:", missing), ("left over:", left_over), ("of another shape:", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"These weights do not make a complete {title}; {'; '.join(problems)}.")
    model.load_state_dict(dict(weights))
    return model.eval()
