"""Learning-rate schedules that follow the length of the run.

A length below 1 is a share of the run, as in transformers' own `warmup_steps`; from 1 on it counts optimiser steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

logger = logging.getLogger(__name__)

LENGTHS = {SchedulerType.WARMUP_STABLE_DECAY: "num_decay_steps", SchedulerType.INVERSE_SQRT: "timescale"}
"""The setting in `lr_scheduler_kwargs` that is a length, of the schedules that have one."""


@dataclass
class ScheduleArguments(TrainingArguments):
    """The settings of schedules that transformers does not have.

    Args:
        lr_stage_fractions (`list[float]`, *optional*): Replace the schedule by a linear warm-up, a constant stage and
            an exponential decay for these shares of the run, such as `[0.1, 0.4, 0.5]`: C-MELT's "tri-stage".
        lr_initial_scale, lr_final_scale (`float`): Where its warm-up begins and its decay ends, relative to
            `learning_rate`.
        lr_restart_steps (`float`, *optional*): Replace the schedule by cosine annealing that restarts every so many
            optimiser steps, as MERL's released code does; below 1 it is a share of the run.
        lr_restart_minimum (`float`): Learning rate at the end of each such cycle.
    """

    lr_stage_fractions: list[float] | None = None
    lr_initial_scale: float = 0.01  # these two: fairseq-signals
    lr_final_scale: float = 0.01
    lr_restart_steps: float | None = None
    lr_restart_minimum: float = 0.0


def steps_of_run(length: float, num_training_steps: int) -> int:
    """Whole optimiser steps of a length; a share of the run is rounded up, as transformers does with its warm-up.

    Args:
        length (`float`): A share of the run where below 1, else steps.
        num_training_steps (`int`): Optimiser steps of the whole run.
    """
    # 0.07 * 100 is 7.000000000000001, which are 7 steps and not 8.
    return int(length) if length >= 1 else max(1, math.ceil(round(num_training_steps * length, 6)))


def tri_stage_schedule(
    optimizer: torch.optim.Optimizer,
    num_training_steps: int,
    fractions: Sequence[float],
    initial_scale: float = 0.01,
    final_scale: float = 0.01,
) -> LambdaLR:
    """Linear warm-up, constant stage, exponential decay, each for its share of the run.

    Args:
        optimizer (`torch.optim.Optimizer`): Its learning rates are the peaks.
        num_training_steps (`int`): Optimiser steps of the whole run.
        fractions (`Sequence[float]`): Shares of the run of the three stages; their sum is 1. The warm-up is rounded up
            to whole steps, and the end of the constant stage to the nearest.
        initial_scale, final_scale (`float`): The first learning rate, and the one that the decay would reach one step
            after the last, relative to the peak.

    Source: `tri_stage` with `phase_ratio` in fairseq-signals, whose scales both default to 0.01.
    """
    warmup_end = steps_of_run(fractions[0], num_training_steps)
    hold_end = max(warmup_end, round(num_training_steps * (fractions[0] + fractions[1])))
    multiplier = partial(
        _tri_stage_multiplier,
        warmup_end=warmup_end,
        hold_end=hold_end,
        num_training_steps=num_training_steps,
        initial_scale=initial_scale,
        final_scale=final_scale,
    )
    # LambdaLR keeps the attributes of a callable object in checkpoints, and would bring back another run's length from
    # there. A partial has none.
    return LambdaLR(optimizer, multiplier)


def _tri_stage_multiplier(
    step: int, *, warmup_end: int, hold_end: int, num_training_steps: int, initial_scale: float, final_scale: float
) -> float:
    """What the peak is multiplied by in a step, counted from 0."""
    if step < warmup_end:
        return initial_scale + (1.0 - initial_scale) * step / warmup_end
    if step < hold_end:
        return 1.0
    if step < num_training_steps:
        return final_scale ** ((step - hold_end) / (num_training_steps - hold_end))
    return final_scale


class RestartingCosine(CosineAnnealingWarmRestarts):
    """Cosine annealing with restarts, which goes on from a checkpoint of the same restarts only."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As usual; that of PyTorch would silently go on with the checkpoint's restarts.

        Raises:
            ValueError: If the checkpoint restarts at other steps or falls to another minimum.
        """
        theirs, ours = (state_dict["T_0"], state_dict["eta_min"]), (self.T_0, self.eta_min)
        if theirs != ours:
            raise ValueError(
                f"The checkpoint's learning rate restarts every {theirs[0]:,} steps down to {theirs[1]:g}; now "
                f"lr_restart_steps and lr_restart_minimum ask for every {ours[0]:,} steps down to {ours[1]:g}. Resume "
                "with the settings, and the length, of the first run."
            )
        super().load_state_dict(state_dict)


def create_schedule(args: ScheduleArguments, optimizer: torch.optim.Optimizer, num_training_steps: int) -> LRScheduler:
    """The schedule that the arguments ask for, for a run of this length.

    Args:
        args ([`ScheduleArguments`]): `lr_stage_fractions`, `lr_restart_steps` or transformers' own settings.
        optimizer (`torch.optim.Optimizer`): What it steers.
        num_training_steps (`int`): Optimiser steps of the whole run.
    """
    if args.lr_stage_fractions is not None:
        return tri_stage_schedule(
            optimizer, num_training_steps, args.lr_stage_fractions, args.lr_initial_scale, args.lr_final_scale
        )
    if args.lr_restart_steps is not None:
        period = steps_of_run(args.lr_restart_steps, num_training_steps)
        return RestartingCosine(optimizer, T_0=period, eta_min=args.lr_restart_minimum)
    return schedule_of_transformers(args, optimizer, num_training_steps)


def schedule_of_transformers(
    args: TrainingArguments, optimizer: torch.optim.Optimizer, num_training_steps: int
) -> LRScheduler:
    """As transformers builds it, with the lengths in `lr_scheduler_kwargs` read as shares of the run.

    Args:
        args (`TrainingArguments`): Those of transformers or ours.
        optimizer (`torch.optim.Optimizer`): What it steers.
        num_training_steps (`int`): Optimiser steps of the whole run.
    """
    num_warmup_steps = args.get_warmup_steps(num_training_steps)
    settings = dict(args.lr_scheduler_kwargs or {})
    name = LENGTHS.get(SchedulerType(args.lr_scheduler_type))
    if name in settings:
        steps = steps_of_run(settings[name], num_training_steps)
        # Warm-up and decay are both rounded up; together they are no longer than the run.
        settings[name] = min(steps, num_training_steps - num_warmup_steps) if name == "num_decay_steps" else steps
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        scheduler_specific_kwargs=settings,
    )


def follow_after_resuming(scheduler: Any, num_training_steps: int) -> None:
    """Let a schedule that was loaded from a checkpoint go on as this run asks for, and say so where that differs.

    The checkpoint brings the learning rate of its own last step. In a run of another length, or with other settings of
    the schedule, this is not the learning rate of that step.

    Args:
        scheduler (`LRScheduler`): With the state of the checkpoint.
        num_training_steps (`int`): Optimiser steps of the whole run.
    """
    if not isinstance(scheduler, LambdaLR):
        return  # it goes on from the state alone, or has checked it
    step = scheduler.last_epoch
    asked = [
        float(peak) * multiplier(step)
        for peak, multiplier in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    saved = [float(rate) for rate in scheduler.get_last_lr()]
    if all(math.isclose(ours, theirs, rel_tol=1e-9) for ours, theirs in zip(asked, saved, strict=True)):
        return
    logger.warning(
        "The checkpoint was trained by another schedule: its learning rate at step %s is %.4g, and that of this run of "
        "%s steps is %.4g. From here on this run's schedule counts. To go on as before, resume with the settings, and "
        "the length, of the first run.",
        f"{step:,}",
        saved[0],
        f"{num_training_steps:,}",
        asked[0],
    )
    for group, rate in zip(scheduler.optimizer.param_groups, asked, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(asked)
