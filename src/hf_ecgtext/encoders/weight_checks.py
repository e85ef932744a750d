"""What is wrong with the weights of a checkpoint, in words that name the file or the tensor."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import has_file

from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.hub import LEDGER_FILES

# The Trainer writes these beside the weights; they hold none.
_OF_THE_TRAINER = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")


@contextmanager
def without_load_report() -> Iterator[None]:
    """Silence the table of keys that transformers prints: the caller raises or tells what matters of it."""

    def is_no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)


def misfits(info: Mapping[str, Any]) -> dict[str, str]:
    """In words, what of a checkpoint does not fit the model that it was loaded into.

    Args:
        info (`Mapping[str, Any]`): What `from_pretrained(..., output_loading_info=True)` gives beside the model.

    Returns:
        `dict[str, str]`: By kind (`"missing"`, `"left over"`, `"of another shape"`); empty where everything fits.
    """
    shapes = [
        f"{name} is {tuple(saved)} where the config asks for {tuple(wanted)}"
        for name, saved, wanted in sorted(info["mismatched_keys"])
    ]
    kinds = {
        "missing": sorted(map(str, info["missing_keys"])),
        "left over": sorted(map(str, info["unexpected_keys"])),
        "of another shape": shapes,
    }
    return {
        kind: f"{names[:5]}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for kind, names in kinds.items()
        if names
    }


def check_finite(model: nn.Module, name: Any) -> None:
    """Refuse weights that are NaN or infinite: every answer of the model would be.

    One pass over the weights without a copy; those without values (on the meta device) are not checked.

    Args:
        model (`nn.Module`): With its weights loaded.
        name (`str` or `os.PathLike`): What it was loaded from, for the message.

    Raises:
        CheckpointError: If a value of a tensor is not finite; the message names the tensor.
    """
    for tensor_name, tensor in _floating_tensors(model):
        low, high = torch.aminmax(tensor.detach())  # NaN if any value is
        if not (torch.isfinite(low) and torch.isfinite(high)):
            count = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"The weights of '{name}' are unusable: {count} of the {tensor.numel()} values of {tensor_name} are "
                "NaN or infinite. Copy an intact checkpoint, or train again from an earlier one."
            )


def _floating_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for tensor_name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            yield tensor_name, tensor


def unreadable_weights(name_or_path: Any, error: Exception, options: Mapping[str, Any]) -> str | None:
    """What to say about a checkpoint whose weights transformers could not open; `None` if that is not what is wrong.

    Args:
        name_or_path (`str` or `os.PathLike`): Folder or Hub repository.
        error (`Exception`): What transformers raised.
        options (`Mapping[str, Any]`): What `from_pretrained` was given beside.
    """
    if isinstance(error, SafetensorError):
        return f"The weights in {_damaged_file(name_or_path)} are damaged ({error}). Save or download them again."
    if pickles := _pickled_weights(name_or_path, options):
        return (
            f"'{name_or_path}' holds its weights only as a pickle ({', '.join(pickles)}), which can run code and is "
            "not opened. Ask its author for model.safetensors."
        )
    folder = Path(str(name_or_path), options.get("subfolder") or "")
    if not (folder / "config.json").is_file():
        return None
    index = folder / "model.safetensors.index.json"
    weights = [file for file in folder.glob("*.safetensors") if file.name not in LEDGER_FILES]
    if not weights and not index.exists():
        return (
            f"'{name_or_path}' holds settings but no weights: model.safetensors is missing. Copy it from where the "
            "model was saved, or name another folder (a run that was killed has its weights in checkpoint-N)."
        )
    return f"The weights in '{name_or_path}' cannot be loaded ({error}). Save or download them again."


def _damaged_file(name_or_path: Any) -> str:
    """The first file of a folder that is no safetensors file, or the folder."""
    for file in sorted(Path(str(name_or_path)).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return f"'{file}'"
    return f"'{name_or_path}'"


def _pickled_weights(name_or_path: Any, options: Mapping[str, Any]) -> list[str]:
    """Names of the files in a folder or Hub repository that PyTorch would open as a pickle."""
    if not isinstance(name_or_path, str | os.PathLike):
        return []
    folder = Path(name_or_path)
    if folder.is_dir():
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)]
        return sorted(pickle for pickle in pickles if not pickle.startswith(_OF_THE_TRAINER))
    where = {key: options[key] for key in ("revision", "token", "local_files_only", "cache_dir") if key in options}
    names = ("pytorch_model.bin", "pytorch_model.bin.index.json")  # what transformers would load from the Hub
    try:
        return [name for name in names if has_file(str(name_or_path), name, **where)]
    except (OSError, ValueError):  # no such repository: the caller's own error says so
        return []
