"""A training step never waits for the device: nothing in it reads a tensor's value into Python."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training.collator import EcgTextCollator

# What copies from a GPU to the host and so waits for it: .item(), bool(tensor), shapes that depend on values. A mask
# used as an index is the same, and is looked for apart.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique", "aten::is_nonzero"}


class WaitsForDevice(TorchDispatchMode):
    """Notes every operation that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.pauses = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        by_mask = name.startswith("aten::index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in _flat(args)
        )
        if not self.pauses and (name in WAITING or by_mask):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _flat(values) -> list:
    return [leaf for value in values for leaf in (_flat(value) if isinstance(value, list | tuple) else [value])]


def test_the_mode_sees_what_waits():
    with WaitsForDevice() as mode:
        values = torch.arange(4.0)
        values[values > 1]
        values.sum().item()
        bool(values.all())
    assert len(mode.found) == 3


@pytest.mark.parametrize("method", method_names())
def test_a_training_step_does_not_wait_for_the_device(method, synthetic_dataset):
    model, processor = get_recipe(method, "debug").override({"config.freeze_text": True}).build(seed=0)
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
    mode = WaitsForDevice()
    # transformers asks the mask whether there is any padding: once per forward pass of a live text tower.
    model.text_tower.register_forward_pre_hook(lambda *_: setattr(mode, "pauses", True))
    model.text_tower.register_forward_hook(lambda *_: setattr(mode, "pauses", False))
    model.train()
    with mode:
        model(**batch).loss.backward()
    assert not mode.found
