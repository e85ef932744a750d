"""One process of `test_distributed.py`: gradients of its half of each batch, under DDP with gloo."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.methods.distributed import synchronise_batch_norm


def model_of(method: str, **config: Any) -> EcgTextModel:
    """A training model without dropout, in double precision; what else is random comes with the batch."""
    overrides = {f"config.{name}": value for name, value in config.items()}
    model, _ = get_recipe(method, "debug").override(overrides).build(seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.double().train()  # the rounding of single precision would hide small errors


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    for job in sorted(folder.glob("*/job.json")):
        run(job.parent, **json.loads(job.read_text()))
    dist.barrier()
    dist.destroy_process_group()


def run(folder: Path, method: str, config: dict[str, Any]) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    batch = load_file(folder / "batch.safetensors")
    half = len(batch["ecg_values"]) // world_size
    local = {name: value[rank * half : (rank + 1) * half] for name, value in batch.items()}
    model = DistributedDataParallel(synchronise_batch_norm(model_of(method, **config)))
    output = model(**local)
    output["loss"].backward()
    losses = output["loss"].new_empty(world_size)
    dist.all_gather_into_tensor(losses, output["loss"].detach().view(1))
    if rank == 0:
        trained = {name: value for name, value in model.module.named_parameters() if value.requires_grad}
        gradients = {f"gradient:{name}": value.grad for name, value in trained.items()}
        buffers = {f"buffer:{name}": value for name, value in model.module.named_buffers() if "running" in name}
        terms = {f"term:{name}": value for name, value in output["loss_terms"].items()}
        save_file({**gradients, **buffers, **terms, "losses": losses}, folder / "results.safetensors")
    # The process group must go after this: DDP holds it, and destroying it first can hang at exit.
    del output, model


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    main(Path(sys.argv[1]))
