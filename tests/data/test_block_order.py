"""Every record once in an epoch, in another order each time, and exactly where a run stopped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.data.store.block_order import DEFAULT_WINDOW, BlockOrder

blocks_of = st.lists(st.integers(1, 70), min_size=1, max_size=40)
small = st.integers(1, 5)


def batches_of_all_ranks(block_sizes, batch_size, world_size, epoch=0, **settings):
    orders = [
        BlockOrder(block_sizes, batch_size, rank=rank, world_size=world_size, **settings) for rank in range(world_size)
    ]
    for order in orders:
        order.set_epoch(epoch)
    return [list(order) for order in orders]


def blocks_of_rows(block_sizes):
    return np.repeat(np.arange(len(block_sizes)), block_sizes)


@settings(max_examples=150, deadline=None)
@given(
    blocks_of, st.integers(1, 40), small, st.integers(0, 4), st.integers(1, 200), st.integers(0, 5), st.integers(0, 3)
)
def test_with_drop_last_no_record_comes_twice_and_fewer_than_a_joined_batch_are_left_out(
    block_sizes, batch_size, world_size, num_workers, window, seed, epoch
):
    joined = batch_size * world_size
    total = sum(block_sizes)
    arguments = {"num_workers": num_workers, "window": window, "seed": seed}
    if total < joined:
        with pytest.raises(ValueError, match="too few"):
            BlockOrder(block_sizes, batch_size, world_size=world_size, **arguments)
        return
    ranks = batches_of_all_ranks(block_sizes, batch_size, world_size, epoch, **arguments)
    assert {len(batches) for batches in ranks} == {total // joined}
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    seen = [row for batches in ranks for batch in batches for row in batch]
    assert len(set(seen)) == len(seen) == total - total % joined
    assert set(seen) <= set(range(total))


@settings(max_examples=150, deadline=None)
@given(blocks_of, st.integers(2, 40), small, st.integers(0, 4), st.integers(1, 200), st.integers(0, 5))
def test_without_drop_last_every_record_comes_once_and_ranks_have_equally_many_batches(
    block_sizes, batch_size, world_size, num_workers, window, seed
):
    total = sum(block_sizes)
    arguments = {"num_workers": num_workers, "window": window, "seed": seed, "drop_last": False}
    if total < world_size:
        with pytest.raises(ValueError, match="too few"):
            BlockOrder(block_sizes, batch_size, world_size=world_size, **arguments)
        return
    ranks = batches_of_all_ranks(block_sizes, batch_size, world_size, **arguments)
    assert {len(batches) for batches in ranks} == {-(-total // (batch_size * world_size))}
    assert all(1 <= len(batch) <= batch_size for batches in ranks for batch in batches)
    assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(total))
    sizes = [sum(map(len, batches)) for batches in ranks]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=80, deadline=None)
@given(blocks_of, st.integers(1, 12), small, st.integers(0, 4), st.integers(1, 200), st.booleans(), st.data())
def test_resuming_at_any_batch_gives_the_rest_of_the_epoch(
    block_sizes, batch_size, world_size, num_workers, window, drop_last, data
):
    try:

        def make():
            return BlockOrder(
                block_sizes, batch_size, rank=world_size - 1, world_size=world_size, num_workers=num_workers,
                window=window, seed=7, drop_last=drop_last,
            )  # fmt: skip

        whole = make()
    except ValueError:
        return
    whole.set_epoch(3)
    expected = list(whole)
    done = data.draw(st.integers(0, len(expected)))
    stopped = make()
    stopped.set_epoch(3)
    batches = iter(stopped)
    first = [next(batches) for _ in range(done)]
    assert stopped.state_dict() == {"epoch": 3, "batches_done": done}
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert first + list(resumed) == expected
    assert list(resumed) == expected, "afterwards, the epoch is whole again"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=8, max_size=60), st.integers(1, 16), st.integers(1, 3), st.integers(1, 3))
def test_each_worker_reads_a_block_in_one_go_and_neighbours_share_one_block_at_most(
    block_sizes, batch_size, world_size, num_workers
):
    if sum(block_sizes) < batch_size * world_size:
        return
    block_of = blocks_of_rows(block_sizes)
    window = 100
    readers: dict[int, set[tuple[int, int]]] = {}
    reads = 0
    arguments = {"num_workers": num_workers, "window": window}
    for rank, batches in enumerate(batches_of_all_ranks(block_sizes, batch_size, world_size, **arguments)):
        for worker in range(num_workers):
            held: dict[int, None] = {}  # as the cache of ParquetEcgDataset
            for batch in batches[worker::num_workers]:
                for block in dict.fromkeys(block_of[batch].tolist()):
                    readers.setdefault(block, set()).add((rank, worker))
                    if block in held:
                        held[block] = held.pop(block)
                        continue
                    reads += 1
                    held[block] = None
                    while sum(block_sizes[kept] for kept in held) > window + 2 * 64 and len(held) > 1:
                        held.pop(next(iter(held)))
    streams = world_size * num_workers
    # One block is cut at each border between two workers, and one where the epoch begins inside it. A block of the
    # border between two batches of a worker may be read again only if a window is smaller than a batch.
    assert reads <= len(block_sizes) + streams
    assert sum(len(who) - 1 for who in readers.values()) <= streams


def test_the_order_follows_from_seed_and_epoch_alone():
    def rows(seed, epoch):
        order = BlockOrder([64] * 20, 32, num_workers=2, seed=seed)
        order.set_epoch(epoch)
        return list(order)

    assert rows(0, 1) == rows(0, 1)
    assert rows(0, 1) != rows(0, 2)
    assert rows(0, 1) != rows(1, 1)


def test_the_order_is_golden():
    """Resuming a run with a newer version of this library must find the same order.

    If this fails on purpose, say in CHANGELOG.md that checkpoints in mid-epoch cannot be resumed with the new version.
    """
    order = BlockOrder([4, 4, 4, 3], 3, world_size=2, rank=1, num_workers=1, window=6, seed=5)
    order.set_epoch(2)
    assert list(order) == [[8, 12, 13], [7, 14, 6]]


def test_what_is_left_out_differs_from_epoch_to_epoch_even_where_there_is_one_block():
    order = BlockOrder([50], 8)
    left_out = []
    for epoch in range(40):
        order.set_epoch(epoch)
        left_out.append(frozenset(range(50)) - {row for batch in order for row in batch})
    assert all(len(rows) == 2 for rows in left_out)
    assert len(frozenset().union(*left_out)) > 25


def test_neighbours_on_disk_are_far_apart_in_the_order():
    order = BlockOrder([64] * 160, 64)
    rows = np.array([row for batch in order for row in batch])
    place = np.empty_like(rows)
    place[rows] = np.arange(len(rows))
    # Half of all pairs of random places in a window of length w are less than (1 - sqrt(1/2)) w apart.
    assert abs(np.median(np.abs(np.diff(place))) / (DEFAULT_WINDOW * (1 - 0.5**0.5)) - 1) < 0.1
    blocks = blocks_of_rows([64] * 160)[rows].reshape(-1, 64)
    assert min(len(set(batch)) for batch in blocks.tolist()) > 5, "a batch holds records of many blocks"


def test_the_index_of_mimic_iv_ecg_takes_few_megabytes():
    import tracemalloc

    order = BlockOrder([64] * 12500, 256, num_workers=4)
    tracemalloc.start()
    batches = iter(order)
    for _ in range(50):
        next(batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


def test_settings_tell_orders_apart():
    settings_of = BlockOrder([5, 5], 2).settings
    assert settings_of == BlockOrder([5, 5], 2, num_workers=1).settings
    assert settings_of == BlockOrder([5, 5], 2, rank=0).settings
    for other in (BlockOrder([5, 4], 2), BlockOrder([6, 4], 2), BlockOrder([5, 5], 3), BlockOrder([5, 5], 2, seed=1),
                  BlockOrder([5, 5], 2, world_size=2), BlockOrder([5, 5], 2, num_workers=2)):  # fmt: skip
        assert other.settings != settings_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_sizes": [3, 0], "batch_size": 1}, "positive"),
        ({"block_sizes": [3], "batch_size": 0}, "out of its range"),
        ({"block_sizes": [3], "batch_size": 1, "rank": 2, "world_size": 2}, "out of its range"),
        ({"block_sizes": [3], "batch_size": 1, "num_workers": -1}, "out of its range"),
        ({"block_sizes": [], "batch_size": 1}, "too few"),
        ({"block_sizes": [3], "batch_size": 1, "world_size": 2, "drop_last": False}, "cannot be shared evenly"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockOrder(**arguments)


def test_a_position_beyond_the_epoch_is_refused():
    with pytest.raises(ValueError, match="an epoch has 5 batches"):
        BlockOrder([10], 2).load_state_dict({"epoch": 0, "batches_done": 6})
