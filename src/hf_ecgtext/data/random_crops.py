"""Which part of a longer recording a training step reads: another one in every epoch, and always the same by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class RandomCrops:
    """Draws where the windows of a training epoch begin; where no epoch has begun, nothing is drawn.

    A draw depends on the seed, the epoch and the record's id, and on nothing that was drawn before. So a resumed run
    reads what one that never stopped reads, whatever the number of workers; and several processes, each with records of
    its own, read together what one process reads.
    """

    def __init__(self) -> None:
        self._epoch: torch.Tensor | None = None

    def begin_epoch(self, seed: int, epoch: int) -> None:
        """Draw anew from now on.

        Args:
            seed (`int`): Of the run.
            epoch (`int`): Counted from 0.
        """
        if self._epoch is None:
            # In shared memory, where worker processes that outlive an epoch see the next one begin.
            self._epoch = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._epoch.copy_(torch.tensor([seed, epoch]))

    def draw(self, crop: str, record_ids: Sequence[str]) -> NDArray[np.float64] | None:
        """Of each record, where in [0, 1) of the possible starts its window begins.

        Args:
            crop (`str`): The setting of the feature extractor.
            record_ids (`Sequence[str]`): Of a batch.

        Returns:
            `np.ndarray` of shape `(batch,)`, or `None` before the first epoch and if the setting is not `"random"`:
            then the feature extractor knows by itself.
        """
        if self._epoch is None or crop != "random":
            return None
        seed, epoch = self._epoch.tolist()
        keys = (f"{seed}|{epoch}|{record_id}".encode() for record_id in record_ids)
        numbers = (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") for key in keys)
        return np.array([(number >> 11) / 2**53 for number in numbers])  # 53 bits: what a float64 in [0, 1) can hold
