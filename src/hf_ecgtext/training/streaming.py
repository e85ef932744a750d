"""Training on datasets that lie in blocks on disk: who reads what, in an order that a killed run finds again."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from transformers.trainer_utils import seed_worker

from hf_ecgtext.data.store.block_order import BlockOrder
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
