"""Large arrays that are used again: fresh memory costs page faults, which take longer than filling it."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SMALLEST_BYTES = 1 << 20  # below, the allocator keeps memory by itself
_LARGEST_BYTES = 1 << 28  # of all that waits to be used again


class BufferPool:
    """Hands out uninitialised arrays, and takes their memory back once nobody holds them, or tensors made of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[NDArray[np.uint8]] = []

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array as from `np.empty`."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if num_bytes < _SMALLEST_BYTES:
            return np.empty(shape, dtype)
        with self._lock:
            found = next((i for i, memory in enumerate(self._free) if num_bytes <= memory.size < 2 * num_bytes), None)
            memory = np.empty(num_bytes, np.uint8) if found is None else self._free.pop(found)
        # All views of `whole`, and tensors that share its memory, keep it alive; a memoryview comes between, since
        # NumPy would let them hold `memory` itself.
        whole = np.frombuffer(memory.data, np.uint8, num_bytes)
        weakref.finalize(whole, self._take_back, memory).atexit = False
        return whole.view(dtype).reshape(shape)

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            if sum(other.size for other in self._free) + memory.size <= _LARGEST_BYTES:
                self._free.append(memory)
