"""Synthetic ECGs and reports as a `datasets` dataset: `SyntheticBuilder` and `load_synthetic`, no download needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Value
from datasets.builder import Key

from hf_ecgtext.data.sources.options import check_option_names
from hf_ecgtext.data.store.schema import EcgDataset, ecg_features, record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import CONDITIONS, SyntheticEcgGenerator
from hf_ecgtext.data.tasks import SPLITS, EcgData, LabelTask

SYNTHETIC_FEATURES = ecg_features(
    {
        "age": Value("int32"),
        "sex": Value("string"),
        "heart_rate_bpm": Value("float64"),
        "qrs_axis_deg": Value("int32"),
        "pr_ms": Value("int32"),
        "qrs_ms": Value("int32"),
        "qt_ms": Value("int32"),
    }
)
"""`labels` holds keys of `hf_ecgtext.data.synthetic.CONDITIONS`; `pr_ms` is null without P waves."""

_ROWS_PER_TABLE = 64
_RECORDS_PER_SHARD = 256


def split_seed(seed: int, split: str) -> int:
    """The generator's seed of one split.

    Patients are drawn from the generator's seed, so splits with seeds of their own share no patient and no record,
    whatever their sizes; and no split of one dataset seed equals any split of another.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split '{split}'; choose one of {list(SPLITS)}.")
    return len(SPLITS) * seed + SPLITS.index(split)


@dataclass
class SyntheticConfig(datasets.BuilderConfig):
    """Settings of `SyntheticBuilder`.

    Args:
        num_records (`int`): Of all splits together: a tenth each, rounded down, is for validation and test.
        seed (`int`): Of the dataset; each split has a seed of its own (see `split_seed`).
        sampling_rate_hz (`float`): Samples per second.
        duration_s (`float`): Length of each record.
        noise (`bool`): Whether to add baseline wander, mains hum and muscle noise.
    """

    num_records: int = 1000
    seed: int = 0
    sampling_rate_hz: float = 500.0
    duration_s: float = 10.0
    noise: bool = True

    def generator(self, split: str) -> SyntheticEcgGenerator:
        """The generator of one split's records.

        Raises:
            ValueError: If a setting is out of the generator's range.
        """
        return SyntheticEcgGenerator(
            seed=split_seed(self.seed, split),
            sampling_rate_hz=self.sampling_rate_hz,
            duration_s=self.duration_s,
            noise=self.noise,
        )

    def split_sizes(self) -> dict[str, int]:
        """Number of records per split.

        Raises:
            ValueError: If a split would be empty.
        """
        if self.num_records < 10:
            raise ValueError(f"num_records must be at least 10 so that no split is empty, not {self.num_records}.")
        tenth = self.num_records // 10
        return {"train": self.num_records - 2 * tenth, "validation": tenth, "test": tenth}

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Names the cache folder after every setting and a sample of what the generator draws.

        The sample is there so that a cache of an older version of the generator is not taken for a new one.
        """
        content = hashlib.sha256(repr(SYNTHETIC_FEATURES).encode())
        settings = (self.num_records, self.seed, float(self.sampling_rate_hz), float(self.duration_s), self.noise)
        content.update(repr((settings, self.split_sizes())).encode())
        for record in self.generator("train").records(4):
            content.update(record.signal.tobytes())
            content.update(repr((record.report, record.labels, record.attributes)).encode())
        own_id = (
            f"{self.name}-{self.num_records}-seed{self.seed}-{self.sampling_rate_hz:g}hz-{content.hexdigest()[:16]}"
        )
        # `config_kwargs` are all in the settings above; only the caller's own features can add to them.
        if custom_features is None:
            return own_id
        return own_id + super().create_config_id({}, custom_features).removeprefix(self.name)


class SyntheticBuilder(datasets.ArrowBasedBuilder):
    """Synthetic ECGs with reports as a `datasets` builder with the splits train, validation and test.

    `SyntheticBuilder(num_records=100).as_streaming_dataset("train")` draws records as it goes;
    `.download_and_prepare()` and `.as_dataset("train")` go through the cache.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = SyntheticConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Synthetic 12-lead ECGs with machine-style reports, drawn from a seed. Not for clinical use.",
            features=SYNTHETIC_FEATURES,
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    "split": split,
                    # A list of index ranges: `datasets` shares its elements out to workers, ranks and processes.
                    "shards": [
                        (start, min(start + _RECORDS_PER_SHARD, size)) for start in range(0, size, _RECORDS_PER_SHARD)
                    ],
                },
            )
            for split, size in self.config.split_sizes().items()
        ]

    def _generate_tables(self, split: str, shards: list[tuple[int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        generator = self.config.generator(split)
        for shard_index, (first, end) in enumerate(shards):
            for table_index, start in enumerate(range(first, end, _ROWS_PER_TABLE)):
                records = generator.records(min(_ROWS_PER_TABLE, end - start), start)
                rows = [record_to_row(record) for record in records]
                yield Key(shard_index, table_index), rows_to_table(rows, SYNTHETIC_FEATURES)


def load_synthetic(
    num_records: int = 1000,
    seed: int = 0,
    sampling_rate_hz: float = 500.0,
    split: str | None = None,
    *,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **settings: Any,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """Synthetic ECGs with reports as a dataset; wrap it in `EcgDataset` to train on it.

    Args:
        num_records (`int`): Of all splits together; 80 % train, 10 % validation, 10 % test.
        seed (`int`): Another seed gives other patients.
        sampling_rate_hz (`float`): Samples per second.
        split (`str`, *optional*): `"train"`, `"validation"` or `"test"`; all three by default.
        streaming (`bool`): Draw the records on the fly instead of preparing an Arrow cache first.
        cache_dir (`str` or `Path`, *optional*): Where the cache goes; Hugging Face's cache by default.
        num_proc (`int`, *optional*): Processes that prepare the cache.
        settings: Other fields of `SyntheticConfig`: `duration_s`, `noise`.

    Raises:
        ValueError: If a setting is out of its range.
    """
    builder = SyntheticBuilder(
        cache_dir=None if cache_dir is None else str(cache_dir),
        num_records=num_records,
        seed=seed,
        sampling_rate_hz=sampling_rate_hz,
        **settings,
    )
    if streaming:
        return builder.as_streaming_dataset(split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split)


def open_data(
    data_dir: str | Path | None = None, *, num_records: int = 1000, seed: int = 0, **settings: Any
) -> EcgData:
    """Synthetic data with all its conditions as one zero-shot task, for `train.py --data synthetic`.

    Args:
        data_dir: Not used; synthetic data needs no download.
        num_records (`int`): Of all splits together.
        seed (`int`): Another seed gives other patients.
        settings: As in [`load_synthetic`].
    """
    if data_dir is not None:
        raise ValueError("Synthetic data is drawn from a seed and needs no --data-dir.")
    elsewhere = {"cache_dir", "num_proc"}  # where and how, but not what
    known = ["num_records", "seed", "sampling_rate_hz", "duration_s", "noise"]
    check_option_names("synthetic", set(settings) - elsewhere, known)
    splits = load_synthetic(num_records, seed, **settings)
    others = "".join(f", {name} {value}" for name, value in settings.items() if name not in elsewhere)
    return EcgData(
        name="synthetic",
        revision=f"{SyntheticBuilder.VERSION}, seed {seed}, {num_records} records{others}",
        train=EcgDataset(splits["train"]),
        validation=EcgDataset(splits["validation"]),
        test=EcgDataset(splits["test"]),
        tasks=(LabelTask("synthetic", "labels", {key: condition.name for key, condition in CONDITIONS.items()}),),
    )
