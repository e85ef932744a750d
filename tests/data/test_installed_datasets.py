"""The installed `datasets` does what the loaders here rely on."""

from __future__ import annotations

from datasets import IterableDataset


def numbers(shards):
    for shard in shards:
        yield from ({"number": 10 * shard + place} for place in range(10))


def test_a_shuffled_stream_keeps_its_shards():
    """With 5.0.1 one was left, so that all workers but one had nothing to read."""
    stream = IterableDataset.from_generator(numbers, gen_kwargs={"shards": list(range(8))})
    shuffled = stream.shuffle(seed=0, buffer_size=5)
    assert stream.num_shards == shuffled.num_shards == 8
    parts = [{row["number"] for row in shuffled.shard(4, index)} for index in range(4)]
    assert [len(part) for part in parts] == [20] * 4
    assert set.union(*parts) == set(range(80))
