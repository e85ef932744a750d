"""From texts to tokens, the same way everywhere: padded and cut on the right, whatever the tokenizer was made for.

Tokenizers of generative models pad on the left, and some have no token to pad with. An encoder with absolute positions
would then read a report at other positions beside a longer one, and its first token would be padding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from transformers import BatchEncoding, PreTrainedTokenizerBase


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer itself if it pads and cuts on the right, else a copy that does.

    One without a padding token pads with its end-of-text token: `attention_mask` tells padding from words, so that what
    stands there does not matter, and no embedding has to be added to the text encoder.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Of any text encoder; it is not changed.

    Raises:
        ValueError: If it has neither a padding nor an end-of-text token.
    """
    lacks_padding = tokenizer.pad_token_id is None
    if tokenizer.padding_side == tokenizer.truncation_side == "right" and not lacks_padding:
        return tokenizer
    if lacks_padding and tokenizer.eos_token_id is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has neither a padding token nor an end-of-text token to pad with: set "
            "tokenizer.pad_token to a token of its vocabulary (any will do, since attention_mask marks padding)."
        )
    prepared = copy.deepcopy(tokenizer)
    prepared.padding_side = prepared.truncation_side = "right"
    if lacks_padding:
        prepared.pad_token = prepared.eos_token
    return prepared


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, padding: bool | str = True
) -> BatchEncoding:
    """Token ids and attention mask of texts, without token types.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): From [`prepare_tokenizer`].
        texts (`Sequence[str]`): As the text encoder is to read them.
        max_length (`int`): Tokens at most, special tokens included; longer texts lose their end.
        padding (`bool` or `str`): `True` pads to the longest text, `"max_length"` to `max_length`.
    """
    return tokenizer(
        list(texts),
        padding=padding,
        padding_side="right",
        truncation=True,
        max_length=max_length,
        return_attention_mask=True,
        return_token_type_ids=False,
    )
