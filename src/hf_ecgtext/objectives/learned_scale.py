"""A learned factor of similarities that has an upper bound, and does not get stuck behind it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _ClampFromAbove(torch.autograd.Function):
    """`clamp(max=...)` whose gradient is held back above the bound only where a step along it would lead further up."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(value > bound)
        return value.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (is_above,) = ctx.saved_tensors
        return gradient.masked_fill(is_above & (gradient < 0), 0.0), None


def bounded_scale(log_scale: Tensor, largest: float) -> Tensor:
    """`exp(log_scale)`, but at most `largest`.

    An ordinary clamp has no gradient above its bound, so that a parameter which an optimiser's momentum, or a
    checkpoint, has brought there would stay there for ever. This one lets the gradient pass that points back.

    Args:
        log_scale (`torch.Tensor` of shape `()`): The parameter.
        largest (`float`): Bound of the scale; CLIP's is 100.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    return _ClampFromAbove.apply(log_scale, math.log(largest)).exp()
