"""How much memory a process may still take, on its device and on its machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import distributed as dist


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that one process may count on.

    Args:
        device (`int`, *optional*): On its device; `None` where that cannot be told. On the CPU it is `host`.
        host (`int`): On its machine, of which each process there has an equal part.
    """

    device: int | None
    host: int


def free_memory(device: torch.device) -> FreeMemory:
    """What this process may count on.

    Args:
        device (`torch.device`): Where it computes.
    """
    host = free_host_bytes() // processes_on_this_machine()
    return FreeMemory(host if device.type == "cpu" else free_device_bytes(device), host)


def least_free_memory(device: torch.device) -> FreeMemory:
    """The least of what the processes of a training may count on, so that all of them decide alike.

    All have measured before the first goes on, and so before any has taken something.

    Args:
        device (`torch.device`): Where this process computes.
    """
    free = free_memory(device)
    if not dist.is_available() or not dist.is_initialized():
        return free
    unknown = torch.iinfo(torch.int64).max
    values = torch.tensor([unknown if free.device is None else free.device, free.host], device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MIN)
    on_device, on_host = values.tolist()
    return FreeMemory(None if on_device == unknown else on_device, on_host)


def free_device_bytes(device: torch.device) -> int | None:
    """What no process holds of a GPU's memory, and what torch keeps in reserve for this one; `None` for other devices.

    Args:
        device (`torch.device`): With or without an index.
    """
    if device.type not in {"cuda", "xpu"}:
        return None
    module = torch.get_device_module(device)
    free, _total = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def free_host_bytes(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """What the machine has without swapping, or the container's limit leaves, whichever is less.

    Args:
        cgroups (`pathlib.Path`): Where Linux shows the control groups; elsewhere there are none.
        membership (`pathlib.Path`): Where it lists those of this process.
    """
    limits = [_left_in(folder) for folder in _memory_groups(cgroups, membership)]
    return max(min([psutil.virtual_memory().available, *(limit for limit in limits if limit is not None)]), 0)


def processes_on_this_machine() -> int:
    """How many processes of this training run here: what the launcher says, or all of them."""
    local = os.environ.get("LOCAL_WORLD_SIZE")
    if local is not None:
        return max(int(local), 1)
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _memory_groups(cgroups: Path, membership: Path) -> Iterator[Path]:
    """The groups whose memory limit holds for this process: its own, and all around it."""
    if not membership.exists():
        return
    for line in membership.read_text(encoding="utf-8").splitlines():
        _number, controllers, path = line.split(":", 2)  # 0::/path in version 2, 4:memory:/path in version 1
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        folder = root / path.lstrip("/")
        # In a container, the path may be that outside it, while its own limit is at the root.
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(root) and group.is_dir())


def _left_in(group: Path) -> int | None:
    """Limit less usage of a control group, of either version; files that are cached can be given back."""
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if not (group / limit).exists() or not (group / usage).exists():
            continue
        allowed = (group / limit).read_text(encoding="utf-8").strip()
        if allowed == "max":
            return None
        statistics = (group / "memory.stat").read_text(encoding="utf-8").split()
        given_back = dict(zip(statistics[::2], statistics[1::2], strict=True)).get(cached, "0")
        return int(allowed) - int((group / usage).read_text(encoding="utf-8")) + int(given_back)
    return None
