"""One process of `test_distributed.py`: gradients of its half of a batch, under DDP with gloo."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.distributed import synchronise_batch_norm


def model_of(method: str, overrides: dict):
    """A model without any randomness in its forward pass."""
    model, _ = get_recipe(method, "debug").override({"config.freeze_text": True, **overrides}).build(seed=0)
    return model.train()


def main(folder: Path, method: str, gather_with_grad: bool) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    batch = load_file(folder / "batch.safetensors")
    half = len(batch["ecg_values"]) // world_size
    local = {name: value[rank * half : (rank + 1) * half] for name, value in batch.items()}
    overrides = {"config.uma_dropout": 0.0} if method == "merl" else {}
    if not gather_with_grad:
        overrides["config.gather_with_grad"] = False
    model = DistributedDataParallel(synchronise_batch_norm(model_of(method, overrides)))
    output = model(**local)
    output["loss"].backward()
    if rank == 0:
        gradients = {
            name: parameter.grad for name, parameter in model.module.named_parameters() if parameter.requires_grad
        }
        buffers = {f"buffer:{name}": value for name, value in model.module.named_buffers() if "running" in name}
        facts = {"world_size": torch.tensor(world_size), "loss": output["loss"].detach()}
        save_file({**gradients, **buffers, **facts}, folder / "gradients.safetensors")
    # The process group must go last: DDP holds it, and destroying it first can hang at exit.
    del output, model
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "exact")
