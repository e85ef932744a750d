"""The order in which records that lie in blocks on disk are trained on: index arithmetic, without any data.

A block is what is read at once, such as a row group of a Parquet file. Each epoch visits the blocks in another order,
and shuffles the records of some neighbouring blocks together, so that few blocks are in memory at a time and none is
read twice. Ranks and workers own disjoint stretches of the sequence of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_WINDOW = 512
"""Records that a worker shuffles together. Where one window follows the other, it has two of them in memory: 123 MB of
12 x 5000 samples."""


@dataclass(frozen=True)
class _Epoch:
    """The sequence of one epoch: pieces of blocks, one after the other."""

    first_rows: NDArray[np.int64]
    """Of each piece, its first row in the dataset."""
    starts: NDArray[np.int64]
    """Of each piece, and the end of the last one, its position in the sequence."""


class BlockOrder:
    """A batch sampler: iterating gives the batches of one rank in one epoch, as lists of row numbers.

    Batch `t` of a rank is for worker `t % num_workers`, as `DataLoader` deals them out. All ranks have equally many
    batches. With `drop_last`, all are full; fewer than `batch_size * world_size` records are left out, other ones each
    epoch. Without it, every record comes exactly once, and the last batch of a rank may be smaller.

    Args:
        block_sizes (`Sequence[int]`): Records of each block, in the order of the dataset.
        batch_size (`int`): Of one rank.
        rank, world_size (`int`): Which of how many processes.
        num_workers (`int`): Of the `DataLoader`. Another number gives another order.
        window (`int`): Records that are shuffled together; rounded up to whole blocks.
        seed (`int`): Another seed gives other orders. All ranks must have the same.
        drop_last (`bool`): Leave out what does not fill a batch on every rank.

    Raises:
        ValueError: If a number is out of its range, or there are too few records for one batch on every rank.
    """

    def __init__(
        self,
        block_sizes: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        window: int = DEFAULT_WINDOW,
        seed: int = 0,
        drop_last: bool = True,
    ):
        self.block_sizes = np.asarray(block_sizes, dtype=np.int64)
        self.num_records = int(self.block_sizes.sum())
        self.batch_size, self.world_size, self.rank = batch_size, world_size, rank
        self.num_workers, self.window = num_workers, window
        self.seed, self.drop_last = seed, drop_last
        self.epoch = 0
        self.batches_done = 0
        if self.block_sizes.ndim != 1 or (self.block_sizes < 1).any():
            raise ValueError("block_sizes must be a list of positive numbers.")
        if min(batch_size, world_size, window) < 1 or num_workers < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size={batch_size}, window={window}, num_workers={num_workers}, rank={rank} of {world_size}: "
                "one of these is out of its range."
            )
        joined = batch_size * world_size
        self._num_batches = self.num_records // joined if drop_last else -(-self.num_records // joined)
        smallest = joined if drop_last else world_size
        if self.num_records < smallest:
            raise ValueError(
                f"{self.num_records} records are too few: {smallest} are needed for one batch per process."
            )
        if not drop_last and batch_size == 1 and self.num_records % world_size:
            raise ValueError(
                f"{self.num_records} records cannot be shared evenly among {world_size} processes in batches of 1. "
                "Use larger batches, or drop_last."
            )

    def __len__(self) -> int:
        """Batches of one rank in an epoch."""
        return self._num_batches

    def set_epoch(self, epoch: int) -> None:
        """Iterate over this epoch from now on, from its beginning unless it is the present one."""
        if epoch != self.epoch:
            self.epoch, self.batches_done = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The position: the epoch, and how many of its batches iterating has given.

        A `DataLoader` with workers asks for batches ahead of time: count those that arrived yourself then.
        """
        return {"epoch": self.epoch, "batches_done": self.batches_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a position: the next iteration gives the batches of the epoch that are not done."""
        if not 0 <= state["batches_done"] <= len(self):
            raise ValueError(f"batches_done={state['batches_done']}, but an epoch has {len(self)} batches.")
        self.epoch, self.batches_done = state["epoch"], state["batches_done"]

    @property
    def settings(self) -> dict[str, Any]:
        """All that the order depends on but the epoch; equal on all ranks, and for equal orders."""
        return {
            "num_records": self.num_records,
            "blocks": blake2b(self.block_sizes.tobytes(), digest_size=8).hexdigest(),
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "num_workers": max(self.num_workers, 1),  # the main process alone reads like one worker
            "window": self.window,
            "seed": self.seed,
            "drop_last": self.drop_last,
        }

    def __iter__(self) -> Iterator[list[int]]:
        """The batches that are not done yet; afterwards the position is the beginning of the same epoch."""
        epoch = self.epoch
        sequence = self._sequence(epoch)
        streams = [self._worker_batches(worker, sequence, epoch) for worker in range(max(self.num_workers, 1))]
        for number in range(len(self)):
            batch = next(streams[number % len(streams)])
            if number >= self.batches_done:
                self.batches_done = number + 1
                yield batch.tolist()
        self.batches_done = 0

    def _sequence(self, epoch: int) -> _Epoch:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.block_sizes))
        first_rows = (np.cumsum(self.block_sizes) - self.block_sizes)[order]
        sizes = self.block_sizes[order]
        # The first block begins somewhere inside, and its head comes last. Otherwise, the records that drop_last
        # leaves out of a dataset of one block would be the same in every epoch.
        cut = rng.integers(sizes[0])
        first_rows = np.append(first_rows, first_rows[0])
        sizes = np.append(sizes, cut)
        first_rows[0] += cut
        sizes[0] -= cut
        return _Epoch(first_rows, np.append(0, np.cumsum(sizes)))

    def _sizes_of_rank(self, rank: int) -> NDArray[np.int64]:
        """Of the rank's batches."""
        sizes = np.full(len(self), self.batch_size, dtype=np.int64)
        if not self.drop_last:
            records = self.num_records // self.world_size + (rank < self.num_records % self.world_size)
            sizes[-1] -= sizes.sum() - records
            if sizes[-1] == 0:  # every rank needs as many batches as the others
                sizes[-2:] = self.batch_size - 1, 1
        return sizes

    def _worker_batches(self, worker: int, sequence: _Epoch, epoch: int) -> Iterator[NDArray[np.int64]]:
        num_streams = max(self.num_workers, 1)
        sizes = self._sizes_of_rank(self.rank)
        start = sum(int(self._sizes_of_rank(rank).sum()) for rank in range(self.rank))
        start += sum(int(sizes[other::num_streams].sum()) for other in range(worker))
        end = start + int(sizes[worker::num_streams].sum())
        rows = np.empty(0, dtype=np.int64)
        windows = self._windows(start, end, sequence, [self.seed, epoch, self.rank, worker])
        for size in sizes[worker::num_streams]:
            while len(rows) < size:
                rows = np.concatenate([rows, next(windows)])
            yield rows[:size]
            rows = rows[size:]

    def _windows(self, start: int, end: int, sequence: _Epoch, key: list[int]) -> Iterator[NDArray[np.int64]]:
        """The rows at positions `[start, end)` of the sequence, each window of them shuffled."""
        number = 0
        while start < end:
            border = (
                sequence.starts[np.searchsorted(sequence.starts, start + self.window)]
                if (start + self.window < end)
                else end
            )
            positions = np.arange(start, min(int(border), end))
            pieces = np.searchsorted(sequence.starts, positions, side="right") - 1
            rows = sequence.first_rows[pieces] + positions - sequence.starts[pieces]
            yield np.random.default_rng([*key, number]).permutation(rows)
            start, number = int(positions[-1]) + 1, number + 1
