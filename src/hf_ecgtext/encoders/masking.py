"""Hiding parts of the input: which patches an encoder sees, and which tokens of a report are replaced.

Every choice is made by noise in [0, 1) that the caller draws or is given, so that masks differ from step to step, come
back with the seed, and can be told in a test. Counts are exact per sample; shapes do not depend on the noise, so that
nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def masking_noise(shape: Sequence[int], device: torch.device, training: bool) -> Tensor:
    """Uniform noise in [0, 1): of torch's global seed in training, always the same in evaluation.

    The fixed noise makes validation losses comparable from epoch to epoch.

    Args:
        shape (`Sequence[int]`): Of the noise.
        device (`torch.device`): Where to draw.
        training (`bool`): Whether the model trains.
    """
    if training:
        return torch.rand(*shape, device=device)
    generator = torch.Generator(device).manual_seed(0)
    return torch.rand(*shape, device=device, generator=generator)


def num_kept(num_items: int, mask_ratio: float) -> int:
    """How many of `num_items` stay visible: `int(num_items * (1 - mask_ratio))`, as MAE, ST-MEM and D-BETA count."""
    # 1 - 0.9 is a little less than 0.1: without rounding, 10 items would keep 0 instead of 1.
    return int(round(num_items * (1.0 - mask_ratio), 6))


def kept_indices(noise: Tensor, keep: int) -> Tensor:
    """The places of the `keep` smallest values along the last axis, in the order of the places.

    Args:
        noise (`torch.Tensor` of shape `(..., num_items)`): Uniform noise.
        keep (`int`): Items that stay visible.

    Returns:
        `torch.Tensor` of shape `(..., keep)`: Ascending indices.
    """
    return noise.argsort(dim=-1)[..., :keep].sort(dim=-1).values


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens at `indices` `(batch, keep)` of `(batch, num_tokens, dim)`: `(batch, keep, dim)`."""
    return tokens.gather(1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def scatter_tokens(visible: Tensor, indices: Tensor, mask_token: Tensor, num_tokens: int) -> Tensor:
    """The full sequence, with a mask token wherever no visible token belongs.

    Args:
        visible (`torch.Tensor` of shape `(batch, keep, dim)`): Encoded visible tokens.
        indices (`torch.Tensor` of shape `(batch, keep)`): Their places.
        mask_token (`torch.Tensor` of shape `(1, 1, dim)`): What stands for a hidden token.
        num_tokens (`int`): Length of the full sequence.

    Returns:
        `torch.Tensor` of shape `(batch, num_tokens, dim)`.
    """
    batch, _, dim = visible.shape
    full = mask_token.to(visible.dtype).expand(batch, num_tokens, dim)
    return full.scatter(1, indices.unsqueeze(-1).expand(-1, -1, dim), visible)


def is_hidden(indices: Tensor, num_tokens: int) -> Tensor:
    """`True` where no visible token stands, `(batch, num_tokens)`, from their places `(batch, keep)`."""
    hidden = torch.ones(len(indices), num_tokens, dtype=torch.bool, device=indices.device)
    return hidden.scatter(1, indices, False)


@dataclass(frozen=True)
class MaskedText:
    """A batch of reports with some tokens replaced.

    Args:
        input_ids (`torch.Tensor` of shape `(batch, num_tokens)`): What the text encoder reads.
        positions (`torch.Tensor` of shape `(batch, max_masked)`): Places of the masked tokens; rows with fewer are
            filled with places that do not count.
        labels (`torch.Tensor` of shape `(batch, max_masked)`): The original tokens there; -100 does not count.
    """

    input_ids: Tensor
    positions: Tensor
    labels: Tensor


def mask_text(
    input_ids: Tensor,
    attention_mask: Tensor,
    noise: Tensor,
    *,
    probability: float,
    mask_token_id: int,
    special_token_ids: Sequence[int],
    vocab_size: int,
    replacement: tuple[float, float] = (0.8, 0.1),
) -> MaskedText:
    """Choose a fixed share of each report's ordinary tokens, and replace them as BERT does.

    Of `n` ordinary tokens, `round(probability * n)` are chosen, at least one where there is any. BERT's own recipe
    draws every token independently, so that only the mean is fixed.

    Args:
        input_ids, attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`): Reports.
        noise (`torch.Tensor` of shape `(batch, num_tokens, 3)`): Uniform: which tokens are chosen, how each is
            replaced, and by which random token.
        probability (`float`): Share of the ordinary tokens that are chosen.
        mask_token_id (`int`): What replaces most of them.
        special_token_ids (`Sequence[int]`): Tokens that are never chosen, such as those that begin and end a text.
        vocab_size (`int`): Random replacements are below it.
        replacement (`tuple[float, float]`): Shares replaced by the mask token and by a random token; the rest stays.
    """
    ordinary = attention_mask.bool()
    # By comparison with numbers: a tensor of ids would have to be copied to the device in every step.
    for first, last in _runs(special_token_ids):
        ordinary = ordinary & ((input_ids < first) | (input_ids > last))
    available = ordinary.sum(dim=1, keepdim=True)  # (batch, 1)
    # In float32 0.15 * 190 is a little more than 28.5: without the inner rounding it would become 29 instead of 28.
    count = torch.round(probability * available, decimals=3).round().clamp_min(1).minimum(available)
    max_masked = max(1, math.ceil(probability * input_ids.shape[1]))
    choice = noise[..., 0].masked_fill(~ordinary, 2.0)  # ordinary tokens first
    positions = choice.argsort(dim=1)[:, :max_masked]  # (batch, max_masked)
    counts = torch.arange(positions.shape[1], device=input_ids.device) < count
    originals = input_ids.gather(1, positions)
    by_mask, by_random = replacement
    fate = noise[..., 1].gather(1, positions)
    random_ids = (noise[..., 2].gather(1, positions) * vocab_size).to(input_ids.dtype)
    replaced = torch.where(fate < by_mask, torch.full_like(originals, mask_token_id), originals)
    replaced = torch.where((fate >= by_mask) & (fate < by_mask + by_random), random_ids, replaced)
    masked_ids = input_ids.scatter(1, positions, torch.where(counts, replaced, originals))
    return MaskedText(masked_ids, positions, originals.masked_fill(~counts, -100))


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive ids: T5's hundred sentinels are one run."""
    runs: list[tuple[int, int]] = []
    for token_id in sorted(set(ids)):
        if runs and token_id == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], token_id)
        else:
            runs.append((token_id, token_id))
    return runs
