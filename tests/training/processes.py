"""Starting `train.py` and friends the way a user does, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(cache: Path) -> dict[str, str]:
    """The caller's environment, offline, on CPU, one thread per process, with a data cache of its own."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(cache),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def launch(arguments: list[str], cache: Path, num_processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a Python program, under `torchrun` where there is more than one process; fail with its output."""
    finished = try_to_launch(arguments, cache, num_processes)
    assert finished.returncode == 0, f"{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}"
    return finished


def try_to_launch(arguments: list[str], cache: Path, num_processes: int = 1) -> subprocess.CompletedProcess[str]:
    """As [`launch`], of a program that may fail."""
    # `accelerate launch --cpu --num_processes 2` silently runs one process; torchrun starts as many as it is told.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [sys.executable, *(launcher if num_processes > 1 else []), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment(cache), capture_output=True, text=True, timeout=300)
