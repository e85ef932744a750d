"""A Trainer whose runs can be killed, resumed and started on many processes, and give what an undisturbed run gives."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy, TrainOutput

from hf_ecgtext.io import full_disk_named
from hf_ecgtext.training.checkpoints import best_checkpoint, global_step, last_intact_checkpoint, write_checksums
from hf_ecgtext.training.data_order import DataOrderCallback, sampler_settings
from hf_ecgtext.training.output_lock import found_by_main_process, locked_output
from hf_ecgtext.training.progress import TrainingProgress

logger = logging.getLogger(__name__)

_GO_ON = "Checkpoints before it are whole. Make room (a smaller save_total_limit keeps fewer), then go on by --resume"


class ResumableTrainer(Trainer):
    """[`~transformers.Trainer`], with what it leaves open about random numbers, kills and several processes.

    * Each of several processes has random numbers of its own (masks, dropout, augmentations), and all share one order
      of the records. One process trains as transformers does.
    * A run whose last step is done is not trained on, whatever is missing behind it.
    * A checkpoint notes the checksums of its weights, and the order of the records; going on in mid-epoch in another
      order is refused.
    * While it trains, no other training can write into its folder.

    Args:
        kwargs: As in [`~transformers.Trainer`].
    """

    args: TrainingArguments

    def __init__(self, *, args: TrainingArguments, **kwargs: Any):
        if args.world_size > 1 and args.data_seed is None:
            args.data_seed = args.seed  # as without it, but whatever random numbers the process has by then
        super().__init__(args=args, **kwargs)
        # Not in a notebook, where transformers has a callback of another kind.
        if self.pop_callback(ProgressCallback) or self.pop_callback(PrinterCallback):
            self.add_callback(TrainingProgress(show_bar=not args.disable_tqdm))
        self.data_order = DataOrderCallback()
        self.add_callback(self.data_order)
        self.add_callback(_ExactCheckpoints())

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As usual; what is already trained to its end is only loaded.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): Folder of a checkpoint or of a saved run; `True`: the
                newest intact checkpoint in `args.output_dir`.
            kwargs: As in [`~transformers.Trainer.train`].

        Raises:
            CheckpointError: If all checkpoints are damaged.
            FileExistsError: If another training writes into the folder.
            FileNotFoundError: If there is no checkpoint to go on from.
        """
        with locked_output(self.args.output_dir):
            if resume_from_checkpoint is True:
                resume_from_checkpoint = found_by_main_process(self._newest_checkpoint)
            if resume_from_checkpoint and global_step(resume_from_checkpoint) >= self.num_training_steps():
                return self._load_finished(resume_from_checkpoint)
            self.before_training()
            if self.args.world_size > 1:
                # A resumed training replaces it by what the checkpoint has of this process.
                set_seed(seed_of_process(self.args.seed, self.args.process_index))
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def before_training(self) -> None:
        """What a run needs beforehand, such as caches; not called where nothing is left to train."""

    def num_training_steps(self) -> int:
        """Optimiser steps of a whole run with these arguments and data."""
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        return int(max_steps)

    def get_train_dataloader(self) -> DataLoader:
        """As usual; the order is noted in every checkpoint."""
        loader = super().get_train_dataloader()
        has_length = hasattr(self.train_dataset, "__len__")
        settings = sampler_settings(self.train_dataset, self.args, self._train_batch_size) if has_length else {}
        self.data_order.follow(settings, len(loader) if has_length else 0, self.args.gradient_accumulation_steps)
        return loader

    def _newest_checkpoint(self) -> str:
        checkpoint = last_intact_checkpoint(self.args.output_dir)
        if checkpoint is None:
            raise FileNotFoundError(f"There is no complete checkpoint in '{self.args.output_dir}' to go on from.")
        return str(checkpoint)

    def _load_finished(self, checkpoint: str) -> TrainOutput:
        """The weights that the run would have ended with."""
        self.state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        best = best_checkpoint(vars(self.state), Path(checkpoint).parent)
        if self.args.load_best_model_at_end and best is not None and best.parent == Path(self.args.output_dir):
            self._load_from_checkpoint(str(best))
        else:  # also a saved run, which ended with its best weights
            self._load_from_checkpoint(checkpoint)
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else float("nan"), {})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As usual, with an error that says where there is no room."""
        with full_disk_named(os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}"), _GO_ON):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As usual, with an error that says where there is no room; a checkpoint gets the checksums of its weights."""
        with full_disk_named(output_dir or str(self.args.output_dir), _GO_ON):
            super()._save(output_dir, state_dict)
        if (
            self.args.should_save
            and output_dir is not None
            and os.path.abspath(output_dir) != os.path.abspath(self.args.output_dir)
        ):
            write_checksums(output_dir)


def seed_of_process(seed: int, process: int) -> int:
    """A seed for each process of a run, such that no two processes of neighbouring seeds share theirs.

    `seed + process` would give the second process of one run what the first process of the next seed has.
    """
    return int(np.random.SeedSequence([seed, process]).generate_state(1)[0])


class _ExactCheckpoints(TrainerCallback):
    """Makes every checkpoint a place from which a run goes on as if it had never stopped."""

    def __init__(self) -> None:
        self._delayed_step: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the best checkpoint where the folder lies now: transformers knows the place that it had.

        Raises:
            FileNotFoundError: If the run is to end with its best weights, and they are gone.
        """
        if not (args.load_best_model_at_end and state.best_global_step):
            return
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if not best.is_dir():
            raise FileNotFoundError(
                f"'{best}', the best checkpoint so far, is missing, and the run is to end with the best "
                "(load_best_model_at_end). Copy it back, or start anew in another folder."
            )
        state.best_model_checkpoint = str(best)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the last step of an epoch behind the evaluation that follows it, which draws random numbers too."""
        is_last_of_epoch = state.epoch is not None and float(state.epoch).is_integer()
        if control.should_save and is_last_of_epoch and args.eval_strategy == IntervalStrategy.EPOCH:
            control.should_save = False
            self._delayed_step = state.global_step

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Now is the time for the checkpoint of the last step."""
        if self._delayed_step == state.global_step:
            control.should_save, self._delayed_step = True, None
