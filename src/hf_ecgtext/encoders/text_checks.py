"""What a text encoder must do for its embeddings to mean something, found out by trying: any architecture may come.

Two things go wrong without a word. A first token that sees no other one (causal encoders) is the same for every report.
And where padding reaches the words (FNet mixes all positions, ConvBERT's kernels cross into it), an embedding depends
on the other reports of its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ecgtext.errors import CheckpointError

_TOLERANCE = 1e-3
"""Of the largest value: sound encoders differ by less than 1e-6, ConvBERT (the mildest case known) by 5e-3."""


@torch.no_grad()
def check_text_model(model: PreTrainedModel, pooling: str) -> None:
    """Refuse an encoder whose pooled output would not depend on the report, or would depend on its padding.

    Three short sequences are encoded. Weights below float32 are not checked, since rounding could hide what is looked
    for, nor are those without values (on the meta device, or in shards of several processes).

    Args:
        model (`PreTrainedModel`): The encoder.
        pooling (`str`): As in [`~hf_ecgtext.encoders.text.TextTower`].

    Raises:
        ValueError: If padding on the right changes the words' states, or the pooled token sees no other one.
    """
    weights = list(model.parameters())
    if any(weight.is_meta or not weight.numel() or weight.element_size() < 4 for weight in weights):
        return
    num_embeddings = len(model.get_input_embeddings().weight)
    pad = getattr(model.config, "pad_token_id", None)
    pad = pad if isinstance(pad, int) and 0 <= pad < num_embeddings else 0
    # Words from the middle of the vocabulary: at its ends are often rows that were never trained.
    words = [token for token in range(num_embeddings) if token != pad]
    first, second, third = (words[len(words) * quarter // 4] for quarter in (1, 2, 3))
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.autocast(model.device.type, enabled=False):
        states = _encode(model, [first, second, first, second])
        padded = _encode(model, [first, second, first, second], pad, 3)
        with_other_end = _encode(model, [first, second, first, third])
    model.train(was_training)
    name = type(model).__name__
    if (padded[: len(states)] - states).abs().max() > _TOLERANCE * states.abs().max():
        raise ValueError(
            f"{name} lets padding change what it makes of the words, though attention_mask marks it: a report's "
            "embedding would depend on the other reports of its batch. Choose another text_model."
        )
    tells_words_apart = not torch.equal(states[-1], with_other_end[-1])  # not so where all weights are 0
    if pooling in {"cls", "pooler"} and tells_words_apart and torch.equal(states[0], with_other_end[0]):
        raise ValueError(
            f"text_pooling='{pooling}' reads the first token, which in {name} sees none of those behind it (the model "
            "is causal): reports with the same first word would be the same. Set text_pooling='last' or 'mean'."
        )


def _encode(model: PreTrainedModel, tokens: list[int], pad: int = 0, num_padded: int = 0) -> Tensor:
    """The last layer of one sequence, `(num_tokens + num_padded, hidden_size)`."""
    input_ids = torch.tensor([tokens + [pad] * num_padded], device=model.device)
    attention_mask = torch.tensor([[1] * len(tokens) + [0] * num_padded], device=model.device)
    states: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[0]
    return states


def check_vocabulary(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that gives tokens for which the encoder has no embedding.

    Args:
        name (`str`): Of the encoder, for the message.
        model (`PreTrainedModel`): The encoder, or a model whose input embeddings are the encoder's.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.

    Raises:
        CheckpointError: If there are such tokens.
    """
    num_embeddings = len(model.get_input_embeddings().weight)
    highest = max(tokenizer.get_vocab().values())
    if highest >= num_embeddings:
        raise CheckpointError(
            f"The tokenizer of '{name}' gives token ids up to {highest}, but the text encoder has embeddings for 0 to "
            f"{num_embeddings - 1} only. They do not belong together, or tokens were added to the tokenizer alone: "
            f"save the encoder again after model.resize_token_embeddings({highest + 1})."
        )


def check_padding_side(attention_mask: Tensor) -> None:
    """Refuse a batch that is padded on the left: positions and the first token would be those of the padding.

    On another device than the CPU a training step is not checked, since it would have to wait for the answer; there
    batches come from the processor, which pads on the right.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`): 1 for real tokens.

    Raises:
        ValueError: If a row begins with padding.
    """
    device = attention_mask.device.type
    if torch.compiler.is_compiling() or device == "meta" or (device != "cpu" and torch.is_grad_enabled()):
        return
    if not attention_mask[:, 0].all():
        raise ValueError(
            "attention_mask begins with padding: the text tower reads reports that are padded on the right. Tokenise "
            "with the processor, or set tokenizer.padding_side='right'; a text without any token cannot be encoded."
        )
