"""State dicts as MERL publishes them, with weights made from their names."""

from __future__ import annotations

import torch
from parity_files import reference_state_dict
from transformers import BertConfig, BertModel

from hf_ecgtext.encoders.text import tiny_bert_tokenizer

TINY_TEXT = BertConfig(
    vocab_size=len(tiny_bert_tokenizer()), hidden_size=768, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=8,
)  # fmt: skip


def published_state_dict(reference) -> dict[str, torch.Tensor]:
    text = BertModel(TINY_TEXT).state_dict()  # the parity files start behind the text encoder; any will do
    return reference_state_dict(reference) | {f"lm_model.{name}": tensor for name, tensor in text.items()}
