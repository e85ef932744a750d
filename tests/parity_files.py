"""How the parity files of `../shared/golden` make weights and inputs from names."""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import torch


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The parity files' rule for making a tensor from its name."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    values = rng.standard_normal(shape)
    if name.endswith("running_var"):
        values = 0.5 + np.abs(values)
    elif not name.startswith("input:"):
        if len(shape) <= 1:
            values = float(name.endswith("weight")) + 0.1 * values
        else:
            values = values / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)


def reference_state_dict(reference) -> dict[str, torch.Tensor]:
    """The weights that a loaded parity file describes, by their published names."""
    return {name: torch.from_numpy(fill(name, tuple(shape))) for name, shape in json.loads(str(reference["keys"]))}


def parity_input(reference, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """An input of the parity file, such as `"ecg"`."""
    return torch.from_numpy(fill(f"input:{name}" + str(reference["salt"]), shape))
