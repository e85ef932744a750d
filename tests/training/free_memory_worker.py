"""One process of `test_free_memory.py`: each has measured something else."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hf_ecgtext.training import free_memory as measured
from hf_ecgtext.training.free_memory import FreeMemory, least_free_memory, processes_on_this_machine


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    cases = {
        "known": [FreeMemory(300, 90), FreeMemory(400, 50)],
        "unknown": [FreeMemory(None, 50), FreeMemory(None, 60)],
        "known to one": [FreeMemory(None, 50), FreeMemory(300, 60)],
    }
    found: dict[str, object] = {}
    for name, of_rank in cases.items():
        measured.free_memory = lambda device, mine=of_rank[rank]: mine
        least = least_free_memory(torch.device("cpu"))
        found[name] = [least.device, least.host]
    del os.environ["LOCAL_WORLD_SIZE"]  # then all processes are taken to be on this machine
    found["machine"] = processes_on_this_machine()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
