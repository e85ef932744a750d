"""Losses that keep two representations of one sample apart."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def orthogonality(first: Tensor, second: Tensor) -> Tensor:
    """Squared cosine of two vectors per sample, mean over the batch: 0 where they are orthogonal, 1 where parallel.

    Args:
        first, second (`torch.Tensor` of shape `(batch, dim)`): Need not be normalised.

    Returns:
        `torch.Tensor` of shape `()`.

    Source: CG-DMER (arXiv 2602.21154), eq. 5, one of its two summands.
    """
    return F.cosine_similarity(first, second, dim=-1).square().mean()
