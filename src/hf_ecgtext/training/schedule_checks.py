"""What is refused of the settings of the learning rate: contradictions, and lengths that do not fit the run."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from hf_ecgtext.training.schedules import LENGTHS, ScheduleArguments, steps_of_run

_WITHOUT_WARMUP = {SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY}


def check_schedule_settings(args: ScheduleArguments) -> None:
    """Refuse settings of the learning rate that contradict each other or would have no effect.

    Raises:
        ValueError: The message names them.
    """
    if args.lr_stage_fractions is not None:
        _check_stages(args)
        _check_alone(args, "lr_stage_fractions", {SchedulerType.LINEAR})  # the default of transformers
        if args.lr_restart_steps is not None:
            raise ValueError("lr_stage_fractions and lr_restart_steps are two schedules; set one of them to null.")
    elif (args.lr_initial_scale, args.lr_final_scale) != (0.01, 0.01):
        raise ValueError("lr_initial_scale and lr_final_scale belong to lr_stage_fractions, which is not set.")
    if args.lr_restart_steps is not None:
        length = args.lr_restart_steps
        if not _is_number(length) or not length > 0 or (length >= 1 and length != int(length)):
            raise ValueError(
                f"lr_restart_steps must be positive, a share of the run below 1 or whole steps, not {length}."
            )
        _check_alone(args, "lr_restart_steps", {SchedulerType.LINEAR, SchedulerType.COSINE})
    elif args.lr_restart_minimum != 0:
        raise ValueError(
            f"lr_restart_minimum={args.lr_restart_minimum:g} belongs to lr_restart_steps, which is not set."
        )
    check_schedule_of_transformers(args)


def check_schedule_of_transformers(args: TrainingArguments) -> None:
    """Refuse what transformers would ignore, and absolute lengths in `lr_scheduler_kwargs`, given or by default.

    Args:
        args (`TrainingArguments`): Those of transformers or ours.

    Raises:
        ValueError: The message names the setting, and says what to set.
    """
    kind = SchedulerType(args.lr_scheduler_type)
    if kind in _WITHOUT_WARMUP and args.warmup_steps:
        hint = "; 'constant_with_warmup' has" if kind == SchedulerType.CONSTANT else ""
        raise ValueError(
            f"lr_scheduler_type='{kind.value}' has no warm-up{hint}: warmup_steps={args.warmup_steps:g} contradicts it."
        )
    settings: Any = args.lr_scheduler_kwargs or {}
    if "num_stable_steps" in settings:
        raise ValueError(
            "lr_scheduler_kwargs: num_stable_steps is what warm-up and decay leave of the run; leave it out."
        )
    name = LENGTHS.get(kind)
    if name in settings:
        if not _is_number(settings[name]) or not 0 < settings[name] < 1:
            raise ValueError(
                f"lr_scheduler_kwargs: {name} must be a share of the run above 0 and below 1, not {settings[name]}. "
                "Schedules follow the length of the run."
            )
    elif kind == SchedulerType.WARMUP_STABLE_DECAY:
        raise ValueError(
            f"lr_scheduler_type='{kind.value}' needs the share of the run that decays: "
            'lr_scheduler_kwargs={"num_decay_steps": 0.5}. Or use lr_stage_fractions.'
        )
    elif kind == SchedulerType.INVERSE_SQRT and not args.warmup_steps:
        raise ValueError(
            f"lr_scheduler_type='{kind.value}' without warm-up has a time scale of 10,000 steps, however long the run "
            'is. Set warmup_steps, or a share of the run: lr_scheduler_kwargs={"timescale": 0.1}.'
        )


def check_run_length(args: TrainingArguments, num_training_steps: int, num_epochs: float | None = None) -> None:
    """Refuse absolute lengths that do not fit into the run.

    Args:
        args (`TrainingArguments`): Those of transformers or ours.
        num_training_steps (`int`): Optimiser steps of the whole run.
        num_epochs (`float`, *optional*): Its epochs, where they are known.

    Raises:
        ValueError: The message names the setting, and says what to set.
    """
    run = f"a run of {num_training_steps:,} steps"
    if args.warmup_steps >= num_training_steps:
        raise ValueError(
            f"warmup_steps={args.warmup_steps:g} does not fit {run}, which would never leave its warm-up. Give a share "
            "of the run instead, such as warmup_steps=0.1, or train longer."
        )
    restart_steps = getattr(args, "lr_restart_steps", None)
    if restart_steps is not None and restart_steps > num_training_steps:
        raise ValueError(
            f"lr_restart_steps={restart_steps:g} does not fit {run}, which ends before its first restart. Set it "
            "lower, or to a share of the run such as 0.25; or, for one cosine without restarts, set "
            "lr_restart_steps=null lr_restart_minimum=0 lr_scheduler_type=cosine."
        )
    decay = (args.lr_scheduler_kwargs or {}).get("num_decay_steps")
    if decay is not None:
        warmup_steps, decay_steps = args.get_warmup_steps(num_training_steps), steps_of_run(decay, num_training_steps)
        if warmup_steps + decay_steps > num_training_steps + 1:  # both may be rounded up
            raise ValueError(
                f"warmup_steps={args.warmup_steps:g} and num_decay_steps={decay:g} do not fit {run}: they are "
                f"{warmup_steps:,} and {decay_steps:,} steps. Choose shares of the run whose sum is at most 1."
            )
    length, unit = {
        IntervalStrategy.STEPS: (num_training_steps, "steps"),
        IntervalStrategy.EPOCH: (num_epochs, "epochs"),
    }.get(args.eval_strategy, (None, ""))
    if length is not None and args.eval_delay > length:
        raise ValueError(
            f"eval_delay={args.eval_delay:g} does not fit a run of {length:,} {unit}, which would end before its first "
            "evaluation. Set it lower."
        )


def _check_stages(args: ScheduleArguments) -> None:
    fractions = args.lr_stage_fractions
    if (
        not isinstance(fractions, list | tuple)
        or len(fractions) != 3
        or not all(_is_number(fraction) and fraction > 0 for fraction in fractions)
        or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6)
    ):
        raise ValueError(
            "lr_stage_fractions must be three positive shares of the run for warm-up, constant stage and decay, with "
            f"the sum 1, such as [0.1, 0.4, 0.5]; not {fractions}."
        )
    if not 0 <= args.lr_initial_scale <= 1:
        raise ValueError(f"lr_initial_scale must lie in [0, 1], not {args.lr_initial_scale}.")
    if not 0 < args.lr_final_scale <= 1:
        raise ValueError(
            f"lr_final_scale must be above 0, which an exponential decay never reaches, and at most 1, "
            f"not {args.lr_final_scale}."
        )


def _check_alone(args: ScheduleArguments, name: str, kinds: set[SchedulerType]) -> None:
    """Refuse settings of the schedule that `name` replaces."""
    kind = SchedulerType(args.lr_scheduler_type)
    contradicting = [f"warmup_steps={args.warmup_steps:g}"] if args.warmup_steps else []
    contradicting += [] if kind in kinds else [f"lr_scheduler_type='{kind.value}'"]
    contradicting += [f"lr_scheduler_kwargs={args.lr_scheduler_kwargs}"] if args.lr_scheduler_kwargs else []
    if contradicting:
        raise ValueError(
            f"{' and '.join(contradicting)} would have no effect beside {name}={getattr(args, name)}, which is a "
            f"schedule of its own. Leave one out: {name}=null, or warmup_steps=0 lr_scheduler_type="
            f"{kind.value if kind in kinds else SchedulerType.LINEAR.value} lr_scheduler_kwargs=null."
        )
    if "layerwise" in str(getattr(args.optim, "value", args.optim)):
        raise ValueError(f"{name} does not reach the parameters under optim='{args.optim}'; choose another optimiser.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
