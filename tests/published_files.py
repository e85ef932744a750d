"""Checkpoints as the authors of each method publish them: the right names and shapes, made-up weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, PreTrainedConfig, T5Config, T5EncoderModel

from hf_ecgtext.encoders.text import tiny_bert_tokenizer

TINY_BERT = BertConfig(
    vocab_size=len(tiny_bert_tokenizer()), hidden_size=768, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=8,
)  # fmt: skip
TINY_T5 = T5Config(
    vocab_size=32128, d_model=768, d_kv=8, d_ff=8, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
)


@dataclass(frozen=True)
class PublishedFile:
    """A kind of published file.

    Args:
        method: Whose converter reads it.
        content: `"model"`, or `"encoder"` for a file of the ECG encoder alone.
        parity_file: Which file of `../shared/golden` lists its names and shapes, without the text encoder.
        text_prefix: Of the text encoder's weights.
        encoder_prefixes: Of the weights that an encoder-only file keeps.
        keeps_prefix: Whether that file keeps the prefix, too.
        unused: Pattern of the names that the released code itself never uses.
    """

    method: str
    content: str
    parity_file: str
    text_prefix: str = "lm_model."
    encoder_prefixes: tuple[str, ...] = ()
    keeps_prefix: bool = False
    unused: str = r"^(ecg_encoder\.)?linear\."

    @property
    def text_config(self) -> PreTrainedConfig:
        return TINY_T5 if self.text_prefix == "language_encoder." else TINY_BERT

    def names_and_shapes(self, golden: Path) -> list[tuple[str, list[int]]]:
        listed = json.loads(str(np.load(golden / f"{self.parity_file}.npz")["keys"]))
        if self.content == "model":
            with torch.device("meta"):
                is_t5 = self.text_config is TINY_T5
                text = T5EncoderModel(TINY_T5) if is_t5 else BertModel(TINY_BERT)
            return listed + [(self.text_prefix + name, list(value.shape)) for name, value in text.state_dict().items()]
        kept = [(name, shape) for name, shape in listed if name.startswith(self.encoder_prefixes)]
        if self.keeps_prefix:
            return kept
        return [(name.removeprefix(self.encoder_prefixes[0]), shape) for name, shape in kept]

    def zeros(self, golden: Path) -> dict[str, torch.Tensor]:
        """The weights, all 0: made in no time, and no memory is touched."""
        return {name: torch.zeros(shape) for name, shape in self.names_and_shapes(golden)}


PUBLISHED_FILES = {
    "MERL ResNet18": PublishedFile("merl", "model", "merl_resnet18"),
    "MERL ViT-tiny": PublishedFile("merl", "model", "merl_vit_tiny"),
    "MERL ResNet18 encoder": PublishedFile("merl", "encoder", "merl_resnet18", encoder_prefixes=("ecg_encoder.",)),
    "MERL ViT-tiny encoder": PublishedFile("merl", "encoder", "merl_vit_tiny", encoder_prefixes=("ecg_encoder.",)),
    "DERI": PublishedFile("deri", "model", "deri_resnet18", unused=r"^ecg_encoder\.linear\.|\.c_proj\."),
    "D-BETA": PublishedFile("cmelt", "model", "cmelt_dbeta", text_prefix="language_encoder."),
    "D-BETA encoder": PublishedFile(
        "cmelt",
        "encoder",
        "cmelt_dbeta",
        encoder_prefixes=("ecg_encoder.", "class_embedding", "multi_modal_ecg_proj.", "unimodal_ecg_pooler."),
        keeps_prefix=True,
    ),
}
