"""Training on datasets that lie in blocks on disk: who reads what, in an order that a killed run finds again."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import seed_worker

from hf_ecgtext.data.block_order import BlockOrder
from hf_ecgtext.training.arguments import EcgTextTrainingArguments


def block_order(dataset: Any, args: EcgTextTrainingArguments, batch_size: int) -> BlockOrder:
    """The order in which one process trains on a dataset with `block_sizes`."""
    return BlockOrder(
        dataset.block_sizes,
        batch_size,
        rank=args.process_index,
        world_size=args.world_size,
        num_workers=args.dataloader_num_workers,
        seed=args.seed if args.data_seed is None else args.data_seed,
        drop_last=args.dataloader_drop_last,
    )


def block_loader(
    dataset: Any, order: BlockOrder, collator: Any, args: EcgTextTrainingArguments, device: torch.device
) -> DataLoaderShard:
    """The batches of an order, moved to the device one ahead, as Accelerate does with other data."""
    loader = DataLoaderShard(
        dataset,
        device=device,
        batch_sampler=order,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        in_order=args.dataloader_in_order,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        _drop_last=order.drop_last,
        _non_blocking=bool(args.accelerator_config.non_blocking),
    )
    loader._is_accelerate_prepared = True  # the order shares the records out; Accelerate must not do so once more
    return loader


class DataOrderCallback(TrainerCallback, ExportableState):
    """Keeps the settings of the order in every checkpoint, and refuses to go on in mid-epoch in another order.

    With another batch size, number of processes or workers, or other data, some records would come twice in that
    epoch and some never.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.batches_per_epoch = 0

    def follow(self, order: BlockOrder | None) -> None:
        """The order of the training that is about to begin; `None` where that is not ours."""
        self.settings, self.batches_per_epoch = ({}, 0) if order is None else (order.settings, len(order))

    def state(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"args": {}, "attributes": {"settings": self.settings}}

    def on_train_begin(
        self, args: EcgTextTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare with the checkpoint that the training goes on from, whose state has been loaded by now.

        Raises:
            ValueError: If the checkpoint lies in the middle of an epoch of another order.
        """
        if not self.settings or args.ignore_data_skip:
            return
        if state.global_step % math.ceil(self.batches_per_epoch / args.gradient_accumulation_steps) == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__, {})
        saved = saved.get("attributes", {}).get("settings", {})
        differing = [name for name, value in self.settings.items() if saved.get(name) != value]
        if differing:
            now = ", ".join(f"{name}={self.settings[name]} (was {saved.get(name)})" for name in differing)
            raise ValueError(
                f"The checkpoint lies in the middle of an epoch of another order of the records: {now}. Some would "
                "come twice and some never. Resume with the old settings, or from a checkpoint at the end of an epoch."
            )
