"""Gathering embeddings and BatchNorm statistics across processes: the only place that knows there is more than one."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)


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


def gather_batch(*rows: Tensor, with_grad: bool = True) -> tuple[Tensor, ...]:
    """The rows of the joined batch of all processes, each in its own type.

    Floating-point rows travel in one collective call. Integers and bool, such as patient ids, would be rounded among
    them: they travel as the bytes that they are, in a second call, which is left out where there are none.

    With the loss of the joined batch computed on every process and DDP averaging the parameters' gradients, the
    result equals one process with the joined batch (`tests/training/test_distributed.py`).

    Args:
        rows (`torch.Tensor` of shape `(batch, ...)`): Same batch size on every process and for every tensor; shapes and
            types are the same on every process.
        with_grad (`bool`): Let gradients flow to all processes. `False` gathers without gradient and puts the own
            rows back, as MERL's released code does; it divides the gradient by the number of processes.

    Returns:
        `tuple` of `torch.Tensor` of shape `(num_processes * batch, ...)`; the inputs themselves in a single process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    flat = [row.flatten(1) if row.ndim > 1 else row.unsqueeze(1) for row in rows]
    numbers = [row for row in flat if row.is_floating_point()]
    exact = [row.contiguous().view(torch.uint8) for row in flat if not row.is_floating_point()]
    joined_numbers = iter(_gather_packed(numbers, with_grad) if numbers else ())
    joined_exact = iter(_gather_packed(exact, with_grad=True) if exact else ())
    joined = []
    for row in rows:
        if row.is_floating_point():
            joined.append(next(joined_numbers).reshape(-1, *row.shape[1:]).to(row.dtype))
        else:
            joined.append(next(joined_exact).contiguous().view(row.dtype).reshape(-1, *row.shape[1:]))
    return tuple(joined)


def _gather_packed(parts: list[Tensor], with_grad: bool) -> tuple[Tensor, ...]:
    """Tensors `(batch, dim)`, each with a `dim` of its own, in one collective call."""
    packed = torch.cat(parts, dim=1)
    if with_grad:
        joined = _GatherRows.apply(packed)
    else:
        with torch.no_grad():
            joined = _GatherRows.apply(packed)
        start = dist.get_rank() * len(packed)
        joined = torch.cat([joined[:start], packed, joined[start + len(packed) :]])
    return joined.split([part.shape[1] for part in parts], dim=1)


class _SumOverProcesses(torch.autograd.Function):
    """Elementwise sum over processes, with the same sum on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class SynchronisedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm over the joined batch of all processes, on any device; torch's own `SyncBatchNorm` needs a GPU."""

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, channels)` or `(batch, channels, length)` to the same shape."""
        if not self.training:
            return super().forward(hidden)
        dtype = hidden.dtype
        hidden = hidden.to(torch.promote_types(dtype, torch.float32))  # half precision cannot even count the samples
        dims = [0] if hidden.ndim == 2 else [0, 2]
        shape = (1, -1) if hidden.ndim == 2 else (1, -1, 1)
        local = torch.cat([hidden.sum(dims), hidden.new_tensor([hidden.numel() // self.num_features])])
        total = _SumOverProcesses.apply(local)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = hidden - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(dims)) / count
        self._update_running_statistics(mean.detach(), (variance * count / (count - 1)).detach())
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        return (normalised * self.weight.view(shape) + self.bias.view(shape)).to(dtype)

    def _update_running_statistics(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), momentum)


def synchronise_batch_norm(model: ModelT, device: torch.device | None = None) -> ModelT:
    """Make every `BatchNorm1d` of a model see the joined batch, in place; names of weights stay the same.

    Args:
        model (`nn.Module`): Not yet wrapped in DDP.
        device (`torch.device`, *optional*): Where it will train; where it is now by default.
    """
    if device is None:
        device = next(model.parameters()).device
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SynchronisedBatchNorm1d
    return model
