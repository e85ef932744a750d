"""Losses over classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def matching_loss(logits: Tensor, is_match: Tensor) -> Tensor:
    """Does this text belong to this ECG? Two-way cross-entropy, mean over the batch.

    Args:
        logits (`torch.Tensor` of shape `(batch, 2)`): Scores of "no" and "yes".
        is_match (`torch.Tensor` of shape `(batch,)`): 1 or `True` where they belong together.

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Source: Li et al. 2021 (ALBEF), eq. 4; the same as binary cross-entropy of the difference of both logits.
    """
    return F.cross_entropy(logits, is_match.long())
