"""Either tower as a program of its own, by `torch.export`: any number of records or texts, any number of tokens.

What is built on exported programs, such as ONNX, can begin with `ecg_tower` and `text_tower`, which are plain modules
with tensors as their only arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hf_ecgtext.encoders.base import EcgEncoder
from hf_ecgtext.encoders.text import text_max_length
from hf_ecgtext.methods.base import EcgTextModel

# Of the examples that a program is traced with. Sizes of 0 and 1 would be taken for constants.
_EXAMPLE_BATCH = 2
_EXAMPLE_TOKENS = 8


class _EcgTower(nn.Module):
    """`get_ecg_features` as a module."""

    def __init__(self, model: EcgTextModel | EcgEncoder):
        super().__init__()
        self.model = model

    def forward(self, ecg_values: Tensor, lead_mask: Tensor | None = None) -> Tensor:
        """`(batch, num_leads, num_samples)` and `(batch, num_leads)` to `(batch, projection_dim)`."""
        return self.model.get_ecg_features(ecg_values, lead_mask)


class _TextTower(nn.Module):
    """`get_text_features` as a module."""

    def __init__(self, model: EcgTextModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both `(batch, num_tokens)` to `(batch, projection_dim)`."""
        return self.model.get_text_features(input_ids, attention_mask)


def ecg_tower(model: EcgTextModel | EcgEncoder) -> nn.Module:
    """A module from `ecg_values` and `lead_mask` (*optional*) to what `get_ecg_features` gives.

    Args:
        model ([`EcgTextModel`] or [`EcgEncoder`]): In `eval()`; its weights are shared, not copied.

    Raises:
        ValueError: If the model is in training mode.
    """
    _check_mode(model)
    return _EcgTower(model).eval()


def text_tower(model: EcgTextModel) -> nn.Module:
    """A module from `input_ids` and `attention_mask` to what `get_text_features` gives; otherwise as `ecg_tower`."""
    _check_mode(model)
    return _TextTower(model).eval()


def export_ecg_tower(model: EcgTextModel | EcgEncoder, with_lead_mask: bool = True) -> ExportedProgram:
    """Export `get_ecg_features` for batches of any size.

    Args:
        model ([`EcgTextModel`] or [`EcgEncoder`]): In `eval()`.
        with_lead_mask (`bool`): Whether the program takes a `lead_mask`; without, all leads count as present.

    Returns:
        `torch.export.ExportedProgram` whose `module()` takes `ecg_values` float32 of shape `(batch, num_leads,
        num_samples)` and `lead_mask` bool of shape `(batch, num_leads)`, and returns `(batch, projection_dim)`.

    Raises:
        ValueError: If the model is in training mode.
    """
    tower = ecg_tower(model)
    config = model.config.ecg_config if isinstance(model, EcgTextModel) else model.config
    shape = (_EXAMPLE_BATCH, config.num_leads, config.num_samples)
    inputs = {"ecg_values": torch.zeros(shape, device=model.device)}
    if with_lead_mask:
        inputs["lead_mask"] = torch.ones(shape[:2], dtype=torch.bool, device=model.device)
    batch = Dim("batch", min=1)
    return torch.export.export(tower, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})


def export_text_tower(model: EcgTextModel) -> ExportedProgram:
    """Export `get_text_features` for any number of texts, and of tokens up to what the text encoder can read.

    Args:
        model ([`EcgTextModel`]): In `eval()`.

    Returns:
        `torch.export.ExportedProgram` whose `module()` takes `input_ids` and `attention_mask`, int64 of shape `(batch,
        num_tokens)`, and returns `(batch, projection_dim)`.

    Raises:
        ValueError: If the model is in training mode.
    """
    tower = text_tower(model)
    ids = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_TOKENS, dtype=torch.int64, device=model.device)
    shape: dict[int, Any] = {
        0: Dim("batch", min=1),
        1: Dim("num_tokens", min=1, max=text_max_length(model.config.text_config)),
    }
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return torch.export.export(tower, (), inputs, dynamic_shapes=dict.fromkeys(inputs, shape))


def _check_mode(model: nn.Module) -> None:
    if model.training:
        raise ValueError("The model is in training mode, whose dropout and BatchNorm would be exported: call eval().")
