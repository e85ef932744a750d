"""State dicts and inputs as DERI's released code has them, with numbers made from their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from parity_files import parity_input, reference_state_dict
from transformers import BertConfig, BertModel

from hf_ecgtext.encoders.text import tiny_bert_tokenizer

TINY_TEXT = BertConfig(
    vocab_size=len(tiny_bert_tokenizer()), hidden_size=768, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=8,
)  # fmt: skip


def released_state_dict(reference: Any) -> dict[str, torch.Tensor]:
    text = BertModel(TINY_TEXT).state_dict()  # the parity file starts behind the text encoder; any will do
    return reference_state_dict(reference) | {f"lm_model.{name}": tensor for name, tensor in text.items()}


def released_inputs(reference: Any) -> dict[str, torch.Tensor]:
    """Arguments of `DeriModel.forward`."""
    batch = int(reference["batch"])
    noise = np.stack([reference["mask_noise1"], reference["mask_noise2"]], axis=1)
    return {
        "ecg_values": parity_input(reference, "ecg", (batch, 12, 5000)),
        "text_tower_embeds": parity_input(reference, "text_pooled", (batch, 768)),
        "text_tower_tokens": parity_input(reference, "text_hidden", (batch, 256, 768)),
        "rme_noise": torch.from_numpy(noise),
    }
