"""Memory is used again only when nobody can see it any more."""

import threading

import numpy as np
import torch

from hf_ecgtext.processing.buffers import BufferPool

SHAPE = (4, 500, 1000)


def test_memory_comes_back_when_the_last_view_of_it_is_gone():
    pool = BufferPool()
    array = pool.empty(SHAPE, np.int16)
    address = array.ctypes.data
    part = torch.from_numpy(array)[1:2, 3]  # shares the memory
    del array
    assert pool.empty(SHAPE, np.int16).ctypes.data != address, "a tensor still sees the first"
    del part
    held = [pool.empty(SHAPE, np.int16) for _ in range(3)]
    assert address in [array.ctypes.data for array in held]


def test_arrays_in_use_never_share_memory():
    pool = BufferPool()
    kept: list[np.ndarray] = []

    def fill(value: int) -> None:
        for _ in range(20):
            array = pool.empty(SHAPE, np.float32)
            array[:] = value
            assert (array == value).all()
        kept.append(array)

    threads = [threading.Thread(target=fill, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(array.flat[0] for array in kept) == [0, 1, 2, 3]
    assert all((array == array.flat[0]).all() for array in kept)


def test_arrays_can_be_written_and_have_the_shape_and_type_asked_for():
    pool = BufferPool()
    for shape, dtype in [(SHAPE, np.int16), ((3, 2), np.float32), ((0, 5), np.int16), ((1 << 20,), np.uint8)]:
        array = pool.empty(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.writeable
        assert array.flags.c_contiguous
    large = pool.empty((2, 1 << 20), np.float32)
    del large
    assert pool.empty((2, 1 << 20), np.int16).shape == (2, 1 << 20)
