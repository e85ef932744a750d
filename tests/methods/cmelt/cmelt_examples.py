"""Tiny C-MELTs, batches for them, and state dicts as D-BETA publishes them."""

from __future__ import annotations

import torch
from parity_files import reference_state_dict
from torch import nn
from transformers import T5Config, T5EncoderModel

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.cmelt import CmeltModel, CmeltProcessor

# Flan-T5's width and vocabulary, which other weights of the published file have too; the rest is as small as can be.
TINY_T5 = T5Config(
    vocab_size=32128, d_model=768, d_kv=8, d_ff=8, num_layers=1, num_heads=1, feed_forward_proj="gated-gelu"
)

REPORTS = [
    "sinus rhythm. normal ecg",
    "atrial fibrillation with rapid ventricular response. left bundle branch block",
    "sinus bradycardia. first degree av block. left axis deviation",
    "ventricular pacing",
]


def published_state_dict(reference) -> dict[str, torch.Tensor]:
    text = T5EncoderModel(TINY_T5).state_dict()  # the parity file starts behind the text encoder; any will do
    return reference_state_dict(reference) | {f"language_encoder.{name}": tensor for name, tensor in text.items()}


def build(settings: dict | None = None, **fields) -> tuple[CmeltModel, CmeltProcessor]:
    """The debug recipe with some fields of the config changed, in `eval()` and without dropout in training."""
    overrides = {f"config.{name}": value for name, value in fields.items()} | (settings or {})
    model, processor = get_recipe("cmelt", "debug").override(overrides).build(seed=0)
    return without_dropout(model).eval(), processor


def without_dropout(model: CmeltModel) -> CmeltModel:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def make_batch(processor: CmeltProcessor, seed: int = 0) -> dict[str, torch.Tensor]:
    """Noise for ECGs; four reports of different lengths."""
    tokens = processor(text=REPORTS, return_tensors="pt")
    ecg = torch.randn(4, 12, 1000, generator=torch.Generator().manual_seed(seed))
    return {"ecg_values": ecg, "input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


ALIGNED = torch.tensor([True, False, True, True])
