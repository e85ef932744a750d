"""A learned factor of similarities that has an upper bound, and does not get stuck behind it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


# An operator of its own rather than a `torch.autograd.Function`, in whose place `torch.compile` warns.
@torch.library.custom_op("hf_ecgtext::clamp_from_above", mutates_args=())
def _clamp_from_above(value: Tensor, bound: float) -> Tensor:
    """`clamp(max=bound)` whose gradient is held back above the bound only where it would lead further up."""
    return value.clamp(max=bound)


@_clamp_from_above.register_fake
def _(value: Tensor, bound: float) -> Tensor:
    return torch.empty_like(value)


def _keep_what_is_above(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    value, bound = inputs
    ctx.save_for_backward(value > bound)


def _hold_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (is_above,) = ctx.saved_tensors
    return gradient.masked_fill(is_above & (gradient < 0), 0.0), None


_clamp_from_above.register_autograd(_hold_back, setup_context=_keep_what_is_above)


def bounded_scale(log_scale: Tensor, largest: float) -> Tensor:
    """`exp(log_scale)`, but at most `largest`.

    An ordinary clamp has no gradient above its bound, so that a parameter which momentum, or a checkpoint, has brought
    there would stay there for ever. This one lets the gradient pass that leads back.

    Args:
        log_scale (`torch.Tensor` of shape `()`): The parameter.
        largest (`float`): Bound of the scale; CLIP's is 100.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    return _clamp_from_above(log_scale, math.log(largest)).exp()
