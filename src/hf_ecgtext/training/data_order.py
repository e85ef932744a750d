"""Which order the records come in, noted in every checkpoint: a run goes on in mid-epoch in the same order only."""

from __future__ import annotations

import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

logger = logging.getLogger(__name__)


def sampler_settings(dataset: Any, args: TrainingArguments, batch_size: int) -> dict[str, Any]:
    """All that the order of a dataset with a length depends on, where transformers and Accelerate sample it.

    Args:
        dataset: With a length.
        args (`TrainingArguments`): Seed, processes.
        batch_size (`int`): Of one process.
    """
    return {
        "num_records": len(dataset),
        "batch_size": batch_size,
        "world_size": args.world_size,
        "seed": args.seed if args.data_seed is None else args.data_seed,
        "drop_last": args.dataloader_drop_last,
    }


class DataOrderCallback(TrainerCallback, ExportableState):
    """Keeps the settings of the order in every checkpoint, and refuses to go on in mid-epoch in another order.

    With another batch size, number of processes or workers, or other data, some records would come twice in that
    epoch and some never.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def follow(self, settings: dict[str, Any], batches_per_epoch: int, accumulation: int) -> None:
        """The order of the training that is about to begin.

        Args:
            settings (`dict[str, Any]`): All that it depends on; empty where the data has no length.
            batches_per_epoch (`int`): Of one process.
            accumulation (`int`): Batches of one optimiser step.
        """
        self.settings = {}
        if settings:
            steps = max(math.ceil(batches_per_epoch / accumulation), 1)
            self.settings = {**settings, "gradient_accumulation_steps": accumulation, "steps_per_epoch": steps}

    def state(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"args": {}, "attributes": {"settings": self.settings}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare with the checkpoint that the training goes on from, whose state has been loaded by now.

        Raises:
            ValueError: If the checkpoint lies in the middle of an epoch of another order, or its epochs had another
                number of steps: then neither the epochs that are done nor the schedule could be told.
        """
        if not self.settings or args.ignore_data_skip or state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("settings", {})
        is_in_epoch = state.global_step % self.settings["steps_per_epoch"] != 0
        if not saved:
            if is_in_epoch:
                logger.warning(
                    "The checkpoint does not say in which order it read the records. With another batch size or "
                    "number of processes, some would come twice in this epoch and some never."
                )
            return
        # Checkpoints of earlier versions lack some of the settings.
        differing = [name for name, value in self.settings.items() if saved.get(name, value) != value]
        if not differing:
            return
        now = ", ".join(f"{name}={self.settings[name]} (was {saved[name]})" for name in differing)
        if "steps_per_epoch" in differing:
            raise ValueError(
                f"The checkpoint is of a run whose epochs had another number of steps: {now}. Neither its schedule "
                "nor the records of its epochs would be those of one run. Resume with the old settings, or start anew."
            )
        if is_in_epoch:
            raise ValueError(
                f"The checkpoint lies in the middle of an epoch of another order of the records: {now}. Some would "
                "come twice and some never. Resume with the old settings, or from a checkpoint at the end of an epoch."
            )
        logger.warning("From this epoch on, the records come in another order than before: %s.", now)
