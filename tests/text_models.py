"""Tiny text encoders of many families in folders, as `text_model` takes them, with tokenizers of all habits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    ConvBertConfig,
    ConvBertModel,
    DistilBertConfig,
    DistilBertModel,
    FNetConfig,
    FNetModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLNetConfig,
    XLNetModel,
)

TEXT = """
normal sinus rhythm bradycardia tachycardia atrial fibrillation flutter with rapid ventricular response left right axis
deviation bundle branch block abnormal ecg st elevation inferior infarct of undetermined age
"""
WORDS = TEXT.split()
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PAD = SPECIAL.index("<pad>")
VOCAB_SIZE = len(SPECIAL) + len(WORDS)

REPORTS = [
    "sinus bradycardia",
    "atrial fibrillation with rapid ventricular response left axis deviation abnormal ecg",
    "normal",
    "sinus rhythm with left bundle branch block and inferior infarct of undetermined age",
]

_SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_WIDE = {**_SIZES, "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": PAD}
_GPT2 = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48, "eos_token_id": 2}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(**_WIDE)),
    "causal bert": lambda: BertModel(BertConfig(**_WIDE, is_decoder=True)),
    "roberta": lambda: RobertaModel(RobertaConfig(**_WIDE)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=VOCAB_SIZE, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64,
            pad_token_id=PAD,
        )
    ),
    "t5": lambda: T5EncoderModel(
        T5Config(vocab_size=VOCAB_SIZE, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=PAD)
    ),
    "xlnet": lambda: XLNetModel(
        XLNetConfig(vocab_size=VOCAB_SIZE, d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=PAD)
    ),
    "gpt2": lambda: GPT2Model(GPT2Config(**_GPT2, bos_token_id=0)),
    "llama": lambda: LlamaModel(
        LlamaConfig(**{**_WIDE, "pad_token_id": None}, num_key_value_heads=1, bos_token_id=0, eos_token_id=2)
    ),
    "fnet": lambda: FNetModel(FNetConfig(**{name: _WIDE[name] for name in _WIDE if name != "num_attention_heads"})),
    "convbert": lambda: ConvBertModel(ConvBertConfig(**_WIDE, embedding_size=32, conv_kernel_size=3)),
    "bart": lambda: BartModel(
        BartConfig(
            vocab_size=VOCAB_SIZE, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        )
    ),
}  # fmt: skip


def word_tokenizer(
    *, pads: bool = True, begins: bool = True, ends: bool = True, more_words: tuple[str, ...] = (), **options: str | int
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words.

    Args:
        pads: Whether it has a padding token; GPT-2's and Llama's have none.
        begins, ends: Whether it puts `<s>` before and `</s>` behind a text, as RoBERTa's does.
        more_words: Behind the vocabulary that the encoders above know.
        options: Of the tokenizer, such as `padding_side`.
    """
    words = [*SPECIAL, *WORDS, *more_words]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    template = " ".join(["<s>"] * begins + ["$A"] + ["</s>"] * ends)
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pads else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"model_max_length": 40, **tokens, **options})


def save_text_model(folder: Path, family: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> str:
    """The folder, with a random encoder of that family and the tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MODELS[family]().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
