"""Tiny DERI models and inputs for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.deri import DeriModel


def tiny_deri(**settings: Any) -> DeriModel:
    """The debug model with a frozen text encoder; settings are the config's."""
    overrides = {"freeze_text": True, **settings}
    recipe = get_recipe("deri", "debug").override({f"config.{name}": value for name, value in overrides.items()})
    return recipe.build(seed=0)[0]


def silence_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def random_inputs(batch: int = 5, num_text_tokens: int = 9, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Signals and outputs of a text tower; the reports have 9, 8, 7 ... tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = num_text_tokens - torch.arange(batch) % (num_text_tokens - 1)
    return {
        "ecg_values": torch.rand(batch, 12, 1000, generator=generator, dtype=dtype),
        "text_tower_embeds": torch.randn(batch, 64, generator=generator, dtype=dtype),
        "text_tower_tokens": torch.randn(batch, num_text_tokens, 64, generator=generator, dtype=dtype),
        "attention_mask": (torch.arange(num_text_tokens) < lengths[:, None]).long(),
        "rme_noise": torch.rand(batch, 2, 21, generator=generator, dtype=dtype),
    }
