"""Gradient caching: the gradients of a large contrastive batch, at the memory of a small one.

A contrastive loss needs the embeddings of the whole batch at once, but not the activations behind them. So the batch is
cut into chunks, and every chunk is computed twice: first without gradient, to get the rows of all of them; then, with
the gradient of the loss with respect to the rows in hand, once more with gradient, one chunk at a time. Every method's
contract (`training_rows`, `loss_from_rows`) cuts the model where this needs it.

Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import has_compiled_regions, is_compiled_module
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_ecgtext.methods.base import EcgTextModel


def backward_in_chunks(
    model: nn.Module,
    unwrapped: EcgTextModel,
    inputs: Mapping[str, Any],
    chunk_size: int,
    *,
    prepare: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    loss_scale: float = 1.0,
    batch_norm_per_chunk: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Accumulate the gradient of the whole batch's loss in the parameters, one chunk at a time.

    It equals that of `loss_scale * model(**inputs).loss` but for rounding, and with dropout but for other random
    numbers. Under DDP, gradients are synchronised once, with the last chunk.

    Args:
        model (`nn.Module`): What is called: the model itself, or DDP or `torch.compile` around it.
        unwrapped ([`EcgTextModel`]): The model itself.
        inputs (`Mapping[str, Any]`): Of `forward`; tensors have the batch as their first dimension.
        chunk_size (`int`): Records whose activations are held at a time; the last chunk may be smaller.
        prepare (`Callable`): Applied to every chunk before the model is called, such as the look-up in a text cache.
        backward (`Callable`): Called with a scalar whose gradient is wanted; a gradient scaler's place.
        loss_scale (`float`): Multiplies the loss.
        batch_norm_per_chunk (`bool`): Accept that BatchNorm normalises every chunk by its own statistics.

    Returns:
        The scaled loss, and the unweighted terms; both detached.

    Raises:
        ValueError: If the inputs cannot be cut, or the model has BatchNorm and `batch_norm_per_chunk` is not set.
    """
    if not batch_norm_per_chunk:
        check_no_batch_norm(unwrapped)
    no_sync = getattr(model, "no_sync", nullcontext)  # DDP's
    chunks = split_batch(inputs, chunk_size)
    states, parts = [], []
    # A program that was compiled without gradient need not draw the same dropout; and compiling takes long enough.
    is_compiled = is_compiled_module(model) or has_compiled_regions(model)
    with no_sync(), _unchanged_running_statistics(unwrapped), torch.set_grad_enabled(is_compiled):
        for chunk in chunks:
            states.append(_random_state(unwrapped.device))
            rows = model(**prepare(chunk), return_rows=True)["rows"]
            parts.append({name: row.detach() for name, row in rows.items()})
            del rows
    torch.clear_autocast_cache()  # there, older versions of torch keep weights that were cast without gradient

    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    loss, terms, row_gradients, parameter_gradients = _loss_and_gradients(unwrapped, rows, loss_scale)
    sizes = [len(next(iter(part.values()))) for part in parts]
    gradient_parts = {name: gradient.split(sizes) for name, gradient in row_gradients.items()}
    last = len(chunks) - 1
    for index, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        with nullcontext() if index == last else no_sync():
            _restore_random_state(state, unwrapped.device)
            rows = model(**prepare(chunk), return_rows=True)["rows"]
            # The gradient of this sum with respect to a row is what the loss's is: the chain rule does the rest.
            products = [
                (rows[name] * gradients[index]).sum()
                for name, gradients in gradient_parts.items()
                if rows[name].requires_grad
            ]
            if index == last:
                products += [(parameter * gradient).sum() for parameter, gradient in parameter_gradients]
            del rows
            backward(torch.stack(products).sum())
    return loss, terms


def split_batch(inputs: Mapping[str, Any], chunk_size: int) -> list[dict[str, Any]]:
    """Cut every tensor or array of a batch along its first dimension; anything else, or without one, stays whole.

    Args:
        inputs (`Mapping[str, Any]`): Of `forward`; `ecg_values` tells the size of the batch.
        chunk_size (`int`): Records per chunk; the last may have fewer.

    Raises:
        ValueError: If a tensor's first dimension is not the batch.
    """
    batch_size = len(inputs["ecg_values"])
    for name, value in inputs.items():
        if isinstance(value, Tensor | np.ndarray) and value.ndim and len(value) != batch_size:
            raise ValueError(
                f"Gradient caching cannot cut '{name}' of shape {tuple(value.shape)} into chunks: the batch has "
                f"{batch_size} records. Give it the batch as its first dimension, or unset grad_cache_chunk_size."
            )
    return [
        {
            name: value[start : start + chunk_size] if isinstance(value, Tensor | np.ndarray) and value.ndim else value
            for name, value in inputs.items()
        }
        for start in range(0, batch_size, chunk_size)
    ]


def check_no_batch_norm(model: nn.Module) -> None:
    """Refuse a model in which a record's row depends on the other records of its chunk.

    Raises:
        ValueError: If the model has BatchNorm; the message names the layers.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if names:
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        raise ValueError(
            f"Gradient caching would let BatchNorm ({', '.join(names[:2])}{more}) normalise every chunk by its own "
            "statistics, so that gradients would not be those of the whole batch. Choose an ECG encoder and heads "
            "without BatchNorm, such as Vit1dConfig, unset grad_cache_chunk_size, or accept statistics per chunk by "
            "grad_cache_batch_norm_per_chunk=True."
        )


def _loss_and_gradients(
    model: EcgTextModel, rows: dict[str, Tensor], loss_scale: float
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], list[tuple[nn.Parameter, Tensor]]]:
    """The loss and its terms, and its gradients: of rows by name, and of parameters that the loss itself uses."""
    leaves = {name: row.requires_grad_(row.is_floating_point()) for name, row in rows.items()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    floating = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    loss, terms = model.loss_from_rows(leaves)
    loss = loss * loss_scale
    gradients = torch.autograd.grad(loss, [*floating.values(), *parameters], allow_unused=True)
    of_rows = {name: value for name, value in zip(floating, gradients, strict=False) if value is not None}
    of_parameters = [
        (parameter, value)
        for parameter, value in zip(parameters, gradients[len(floating) :], strict=True)
        if value is not None
    ]
    return loss.detach(), terms, of_rows, of_parameters


@contextmanager
def _unchanged_running_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm sees every chunk twice but must count it once."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    saved = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    yield
    for buffer, value in saved:
        buffer.copy_(value)


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the CPU's generator, and of the device's where there is one."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def _restore_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
