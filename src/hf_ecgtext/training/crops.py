"""Random crops belong to training: a new draw in every epoch, and none in evaluation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ecgtext.data.random_crops import RandomCrops


class CropEpochs(TrainerCallback):
    """Tells the training's collator, where it has `crops`, that an epoch begins; a resumed one too."""

    def __init__(self) -> None:
        self.epoch = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The epoch that comes first: of a resumed training, that of its checkpoint."""
        self.epoch = int(state.epoch or 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, train_dataloader: Any, **_: Any
    ) -> None:
        """Called before the epoch's first batch, and before its worker processes start."""
        crops = getattr(train_dataloader.collate_fn, "crops", None)
        if isinstance(crops, RandomCrops):
            crops.begin_epoch(args.seed if args.data_seed is None else args.data_seed, self.epoch)
        self.epoch += 1


@contextmanager
def without_random_crops(trainer: Trainer) -> Iterator[None]:
    """What is made meanwhile from the trainer's collator draws nothing: data loaders of evaluations."""
    collator = trainer.data_collator
    if isinstance(getattr(collator, "crops", None), RandomCrops):
        trainer.data_collator = copy.copy(collator)
        trainer.data_collator.crops = RandomCrops()
    try:
        yield
    finally:
        trainer.data_collator = collator
