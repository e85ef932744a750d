"""Losses over classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def matching_loss(logits: Tensor, is_match: Tensor) -> Tensor:
    """Does this text belong to this ECG? Cross-entropy, mean over the batch.

    Args:
        logits (`torch.Tensor` of shape `(batch, 2)` or `(batch, 1)`): Scores of "no" and "yes", or the logit of "yes".
        is_match (`torch.Tensor` of shape `(batch,)`): 1 or `True` where they belong together.

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Source: Li et al. 2021 (ALBEF), eq. 4, for two scores; C-MELT (arXiv 2410.02131), eq. 3, for one logit. The first is
    the latter of the difference of both scores.
    """
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], is_match.to(logits.dtype))
    return F.cross_entropy(logits, is_match.long())
