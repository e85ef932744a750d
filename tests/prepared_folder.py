"""Writes small prepared folders without the preparing code, and knows what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from hf_ecgtext.data.prepare.card import open_writer
from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.sources.synthetic import SYNTHETIC_FEATURES
from hf_ecgtext.data.store.manifest import MANIFEST_FILE, ROWS_PER_GROUP, Manifest, Shard
from hf_ecgtext.data.store.schema import record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import CONDITIONS, SyntheticEcgGenerator
from hf_ecgtext.data.tasks import LabelTask

SIZES: Mapping[str, tuple[int, ...]] = {"train": (150, 128, 90), "validation": (40,), "test": (70,)}
"""Records of each shard: row groups of 64, 64, 22, then 64, 64, then 64, 26."""


def records_of(split: str, count: int, rate_hz: float = 100.0) -> list[EcgRecord]:
    """The first records of a split."""
    seed = {"train": 1, "validation": 2, "test": 3}[split]
    return list(SyntheticEcgGenerator(seed=seed, sampling_rate_hz=rate_hz).records(count))


def write_prepared(
    folder: Path,
    sizes: Mapping[str, tuple[int, ...]] = SIZES,
    name: str = "tiny",
    compression: str = "none",
    **source_options: Any,
) -> Manifest:
    """A prepared folder of synthetic records, with shards of the sizes given."""
    (folder / "data").mkdir(parents=True)
    splits: dict[str, list[Shard]] = {}
    for split, shard_sizes in sizes.items():
        rows = [record_to_row(record) for record in records_of(split, sum(shard_sizes))]
        splits[split] = []
        for number, size in enumerate(shard_sizes):
            file = f"data/{split}-{number:05d}-of-{len(shard_sizes):05d}.parquet"
            shard_rows, rows = rows[:size], rows[size:]
            with open_writer(folder / file, SYNTHETIC_FEATURES.arrow_schema, compression) as writer:
                for start in range(0, size, ROWS_PER_GROUP):
                    table = rows_to_table(shard_rows[start : start + ROWS_PER_GROUP], SYNTHETIC_FEATURES)
                    writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            digest = xxhash.xxh3_128_hexdigest((folder / file).read_bytes())
            splits[split].append(Shard(file, size, digest))
    manifest = Manifest(
        name=name,
        version="1.0",
        source_options=source_options,
        fingerprint="0123456789abcdef" * 2,
        library_version="0",
        compression=compression,
        splits=splits,
        tasks=(LabelTask("findings", "labels", {key: condition.name for key, condition in CONDITIONS.items()}),),
        summary={},
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return manifest
