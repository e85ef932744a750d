"""One process of `test_gradient_cache.py`: gradients and training of its half of every batch, in chunks, under DDP.

The tests share its functions.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.gradient_cache import backward_in_chunks

TINY_VIT = {
    "model_type": "ecg_vit1d", "patch_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "head_dim": 16, "intermediate_size": 64,
}  # fmt: skip


def has_batch_norm(model) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def build(method: str, overrides: dict | None = None):
    """The method's debug recipe without dropout; with a ViT in place of an ECG encoder that has BatchNorm."""
    recipe = get_recipe(method, "debug")
    model, _ = recipe.build()
    if has_batch_norm(model.ecg_encoder):
        # Of signals in [0, 1] an untrained ViT sees little beside its position embedding.
        recipe = recipe.override({"config.ecg_config": TINY_VIT, "ecg.scaling": "zscore_lead"})
    if method == "etp":
        recipe = recipe.override({"config.learnable_temperature": True})
    model, processor = recipe.override(overrides or {}).build()
    return silence_dropout(model.train()), processor


def silence_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def complete(model, batch: dict) -> dict:
    """The batch with all random choices of the forward pass, and with negatives where the method takes them."""
    size, length = len(batch["ecg_values"]), batch["attention_mask"].shape[1] if "attention_mask" in batch else 1
    torch.manual_seed(1)
    batch = {**batch, **model.draw_noise(size, length)}
    if model.uses_negatives:
        batch["is_aligned"] = torch.arange(size) % 3 != 1
    return batch


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def trainer_of(dataset, folder, overrides=None, **settings) -> EcgTextTrainer:
    """ETP with a ViT, by SGD and without anything random but the order of the records."""
    model, processor = build("etp", overrides)
    options = {
        "per_device_train_batch_size": 8, "max_steps": 3, "optim": "sgd", "learning_rate": 0.05, "logging_steps": 1,
        "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, **settings,
    }  # fmt: skip
    return EcgTextTrainer(model, EcgTextTrainingArguments(str(folder), **options), processor, dataset)


class Records(torch.utils.data.Dataset):
    """Rows that were collated beforehand."""

    def __init__(self, batch: dict):
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["ecg_values"])

    def __getitem__(self, index: int) -> dict:
        return {name: value[index] for name, value in self.batch.items()}


def train(folder: Path, batch: dict, **settings) -> dict[str, torch.Tensor]:
    trainer = trainer_of(Records(batch), folder, **settings)
    trainer.data_collator = torch.utils.data.default_collate
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def count_and_reduce(synchronisations: list[bool], bucket):
    synchronisations.append(bucket.is_last())
    return allreduce_hook(None, bucket)


def main(folder: Path, methods: list[str]) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    found = {"world_size": torch.tensor(world_size)}
    for method in methods:
        batch = load_file(folder / f"{method}.safetensors")
        half = len(batch["ecg_values"]) // world_size
        local = {name: value[rank * half : (rank + 1) * half] for name, value in batch.items()}
        model, _ = build(method)
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(synchronisations := [], count_and_reduce)
        loss, _ = backward_in_chunks(wrapped, model, local, chunk_size=3)  # 3 and 1 records
        found |= {f"{method}:loss": loss} | {f"{method}:{name}": value for name, value in gradients_of(model).items()}
        assert sum(synchronisations) == 1, "with the last chunk only"
        del wrapped
    batch = load_file(folder / "train.safetensors")
    settings = {"per_device_train_batch_size": 4, "grad_cache_chunk_size": 3, "gradient_accumulation_steps": 2}
    found |= {f"weights:{name}": value for name, value in train(folder / "run", batch, **settings).items()}
    if rank == 0:
        save_file({name: value.contiguous() for name, value in found.items()}, folder / "found.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
