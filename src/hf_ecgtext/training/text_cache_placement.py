"""Where a text cache is kept and how exactly, decided by its size before a single report is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from hf_ecgtext.training.free_memory import FreeMemory

CacheLocation = Literal["device", "host"]

SHARE = 0.5
"""Of what is free, at most this much is taken unasked: gradients, optimiser states, activations and the workers of the
data loader come later, and are not known beforehand."""

ROUNDING = {torch.bfloat16: "0.4 %", torch.float16: "0.05 %"}
"""By how much a value may change at most."""


@dataclass(frozen=True)
class Placement:
    """A decision.

    Args:
        location (`"device"` or `"host"`): Where the cache is kept.
        dtype (`torch.dtype`): How.
        is_second_choice (`bool`): Whether it would have been kept elsewhere or more exactly if there were more room.
        description (`str`): Size, place and reason, for the log.
    """

    location: CacheLocation
    dtype: torch.dtype
    is_second_choice: bool
    description: str


def choose_placement(
    num_values: int,
    device: torch.device,
    free: FreeMemory,
    location: Literal["auto", "device", "host"] = "auto",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> Placement:
    """The first that fits of: the device, the host; then, if `dtype` is `"auto"`, both in bfloat16.

    Unless `location` names one place, at most half of what is free may be taken. On the CPU, device and host are one.

    Args:
        num_values (`int`): Numbers that the cache holds.
        device (`torch.device`): Where batches are computed.
        free ([`~hf_ecgtext.training.free_memory.FreeMemory`]): What may be taken.
        location (`"auto"`, `"device"` or `"host"`): Where it may be kept.
        dtype (`torch.dtype` or `"auto"`): How; `"auto"` is float32 if that fits anywhere, else bfloat16.

    Raises:
        ValueError: If it fits nowhere; the message names the settings that help.
    """
    places: list[CacheLocation] = ["device", "host"] if device.type != "cpu" else ["device"]
    if location != "auto":
        places = [location]
    dtypes = [torch.float32, torch.bfloat16] if dtype == "auto" else [dtype]
    share = SHARE if location == "auto" else 1.0
    for kind in dtypes:
        for place in places:
            available = free.host if place == "host" else free.device
            if available is not None and num_values * kind.itemsize > share * available:
                continue
            description = f"{_size(num_values, kind)} in {_room([place], device, free)}"
            is_second_choice = (kind, place) != (dtypes[0], places[0])
            if is_second_choice:
                description += _reason(num_values, dtypes[0], places if kind != dtypes[0] else places[:1], device, free)
            if kind in ROUNDING:
                description += f"; each value is rounded by up to {ROUNDING[kind]}"
            if place == "host" and device.type != "cpu":
                description += "; every batch is copied from there"
            return Placement(place, kind, is_second_choice, description)
    part = "half" if location == "auto" else "all"
    raise ValueError(
        f"The text cache would take {_size(num_values, dtypes[-1])}, more than {part} of "
        f"{_room(places, device, free)}. Set {_advice(location, dtypes[-1])}text_cache=False, which encodes the "
        "reports of every batch anew."
    )


def _reason(
    num_values: int, dtype: torch.dtype, places: Sequence[CacheLocation], device: torch.device, free: FreeMemory
) -> str:
    return f", since {_size(num_values, dtype)} would take too much of {_room(places, device, free)}"


def _room(places: Sequence[CacheLocation], device: torch.device, free: FreeMemory) -> str:
    """Places, each with what is free there."""
    described = []
    for place in places:
        on_host = place == "host" or device.type == "cpu"
        available = free.host if on_host else free.device
        name = "host memory" if on_host else f"the memory of {device}"
        room = "how much is free cannot be told" if available is None else f"{available / 1e9:.1f} GB free"
        described.append(f"{name} ({room}{' for each process' if on_host else ''})")
    return " and of ".join(described)


def _size(num_values: int, dtype: torch.dtype) -> str:
    return f"{num_values * dtype.itemsize / 1e9:.1f} GB ({str(dtype).removeprefix('torch.')})"


def _advice(location: str, dtype: torch.dtype) -> str:
    """Settings that may help, for a list that goes on."""
    settings = []
    if dtype.itemsize > 2:
        settings.append(f"text_cache_dtype='bfloat16' (half of it, rounded by up to {ROUNDING[torch.bfloat16]}), ")
    if location == "auto":
        settings.append("text_cache_location='host' or 'device' (which may take all that is free), ")
    elif location == "device":
        settings.append("text_cache_location='auto' (host memory, if more is free there), ")
    return f"{''.join(settings)}or " if settings else ""
