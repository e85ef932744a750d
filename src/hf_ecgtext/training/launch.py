"""Does every process know of the others? Launchers can start several that each believe to be alone."""

from __future__ import annotations

import os
from collections.abc import Mapping

# What torchrun, Accelerate and MPI launchers set for each of their processes.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_launch(world_size: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a launch of several processes that would train apart, or of one process where several were asked for.

    * `torchrun` on CPUs without `ACCELERATE_USE_CPU=true`: Accelerate finds no GPU and sets nothing up, so that each
      process trains on all records, and all of them write into one folder.
    * `accelerate launch --cpu --num_processes 2`: starts one process, since several on CPUs mean MPI to it. It sets the
      address of a main process, which it does for several processes only, and no rank.

    Args:
        world_size (`int`): Processes that training knows of (`TrainingArguments.world_size`).
        environment (`Mapping[str, str]`): Environment variables.

    Raises:
        ValueError: If the launch is one of these; the message has the command to use.
    """
    if world_size > 1:
        return
    launched = {name: int(value) for name in _WORLD_SIZES if (value := environment.get(name, "")).isdigit()}
    name, number = max(launched.items(), key=lambda item: item[1], default=("", 1))
    if number > 1:
        raise ValueError(
            f"{number} processes were launched ({name}={number}), but each trains as if it were alone. On CPUs, start "
            f"them by `ACCELERATE_USE_CPU=true torchrun --nproc_per_node {number} train.py ...`; on GPUs, by "
            f"`accelerate launch --multi_gpu --num_processes {number} train.py ...`. For one process, run "
            "`python train.py ...`."
        )
    if not launched and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise ValueError(
            "`accelerate launch` was asked for several processes and started one, as it does on CPUs and without "
            "--multi_gpu. On CPUs, use `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N train.py ...`; on GPUs, "
            "add --multi_gpu; for one process, add --num_processes 1 and unset MASTER_ADDR."
        )
