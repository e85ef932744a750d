"""Gathering embeddings across processes: the only place in the library that knows there is more than one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    """All processes' rows, in rank order; the gradient of a row is summed over all processes' losses."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.num_rows
        return gradient[start : start + ctx.num_rows]


def gather_batch(*embeds: Tensor, with_grad: bool = True) -> tuple[Tensor, ...]:
    """The embeddings of the joined batch of all processes, in one collective call.

    With the loss of the joined batch computed on every process and DDP averaging the parameters' gradients, the
    result equals one process with the joined batch (`tests/training/test_distributed.py`).

    Args:
        embeds (`torch.Tensor` of shape `(batch, dim)`): Same batch size on every process and for every tensor; each
            may have a `dim` of its own.
        with_grad (`bool`): Let gradients flow to all processes. `False` gathers without gradient and puts the own
            rows back, as MERL's released code does; it divides the gradient by the number of processes.

    Returns:
        `tuple` of `torch.Tensor` of shape `(num_processes * batch, dim)`; the inputs themselves in a single process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return embeds
    packed = torch.cat(embeds, dim=1)
    if with_grad:
        joined = _GatherRows.apply(packed)
    else:
        with torch.no_grad():
            joined = _GatherRows.apply(packed)
        start = dist.get_rank() * len(packed)
        joined = torch.cat([joined[:start], packed, joined[start + len(packed) :]])
    return joined.split([part.shape[1] for part in embeds], dim=1)
