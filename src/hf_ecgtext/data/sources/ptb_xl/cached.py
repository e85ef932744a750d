"""PTB-XL (Wagner et al. 2020): 21,799 clinical 12-lead ECGs of 10 s from 18,869 patients, with reports and SCP codes.

`PtbXlBuilder` and `load_ptb_xl` turn the original download, which `PtbXl` reads, into a `datasets` dataset.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from hf_ecgtext.data.sources.ptb_xl.download import (
    PtbXl,
    check_settings,
    find_ptbxl_plus_dir,
    metadata_file,
    waveforms_on_disk,
)
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES, SPLIT_FOLDS, class_members, class_names
from hf_ecgtext.data.sources.ptb_xl.reports import STATEMENTS_FILE, full_text_file, open_ptbxl_plus
from hf_ecgtext.data.sources.ptb_xl.source import PtbXlSource
from hf_ecgtext.data.sources.ptb_xl.tables import CITATION, PTB_XL_FEATURES, read_statements
from hf_ecgtext.data.store.schema import EcgDataset
from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

SOURCE = PtbXlSource


@dataclass
class PtbXlConfig(datasets.BuilderConfig):
    """Settings of `PtbXlBuilder`; see `PtbXl` for their meaning.

    Args:
        records_per_shard (`int`): How many records one unit of parallel work holds; workers, ranks and `num_proc`
            share the shards.
    """

    sampling_rate_hz: int = 500
    report: str = "12sl"
    missing: str = "raise"
    ptbxl_plus_dir: str | None = None
    bad_records: str = "raise"
    records_per_shard: int = 256

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Names the cache folder after every setting and what the folders hold now.

        Without the second, records downloaded later, or tables of another version, would never enter a cache once
        it exists.
        """
        if self.data_dir is None:
            raise ValueError("PtbXlBuilder needs data_dir, the folder with ptbxl_database.csv.")
        check_settings(self.sampling_rate_hz, self.report, self.missing, self.bad_records)
        content = hashlib.sha256()
        data_dir = Path(self.data_dir).absolute()
        for name in ("ptbxl_database.csv", "scp_statements.csv"):
            content.update(metadata_file(data_dir, name).read_bytes())
        if self.report == "12sl":
            plus = open_ptbxl_plus(find_ptbxl_plus_dir(data_dir, self.ptbxl_plus_dir))
            content.update(plus.read(STATEMENTS_FILE) + plus.read(full_text_file(plus)))
        content.update("\n".join(sorted(waveforms_on_disk(data_dir, self.sampling_rate_hz))).encode())
        content.update(repr(PTB_XL_FEATURES).encode())  # a cache of an older schema is not taken for a new one
        settings = f"{data_dir}|{self.sampling_rate_hz}|{self.report}|{self.missing}|{self.records_per_shard}"
        if self.bad_records != "raise":  # caches without such records keep their names
            settings += f"|{self.bad_records}"
        content.update(settings.encode())
        own_id = f"{self.name}-{self.sampling_rate_hz}hz-{self.report}-{content.hexdigest()[:16]}"
        # `config_kwargs` are all in the settings above; only the caller's own features can add to them.
        if custom_features is None:
            return own_id
        return own_id + super().create_config_id({}, custom_features).removeprefix(self.name)


class PtbXlBuilder(datasets.ArrowBasedBuilder):
    """PTB-XL as a `datasets` builder with the splits train (folds 1-8), validation (9) and test (10).

    `PtbXlBuilder(data_dir=..., sampling_rate_hz=100).as_streaming_dataset("train")` reads the files as it goes;
    `.download_and_prepare()` and `.as_dataset("train")` go through the cache. Splits without a record are left out.
    """

    VERSION = datasets.Version("1.0.3")
    BUILDER_CONFIG_CLASS = PtbXlConfig

    @cached_property
    def source(self) -> PtbXl:
        """The download this builder reads."""
        config = self.config
        return PtbXl(
            config.data_dir,
            sampling_rate_hz=config.sampling_rate_hz,
            report=config.report,
            missing=config.missing,
            ptbxl_plus_dir=config.ptbxl_plus_dir,
            bad_records=config.bad_records,
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="PTB-XL: clinical 12-lead ECGs of 10 s with reports, SCP codes and the labels of four tasks.",
            features=PTB_XL_FEATURES,
            homepage="https://physionet.org/content/ptb-xl/",
            license="CC-BY-4.0",
            citation=CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        size = self.config.records_per_shard
        generators = []
        for split, folds in SPLIT_FOLDS.items():
            ids = self.source.record_ids(folds)
            if not ids:
                logger.warning("PTB-XL in %s: no record of the split '%s' is there.", self.config.data_dir, split)
                continue
            shards = [ids[start : start + size] for start in range(0, len(ids), size)]
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": shards}))
        return generators

    def _generate_tables(self, shards: list[list[int]]) -> Iterator[tuple[Key, pa.Table]]:
        for shard_index, ecg_ids in enumerate(shards):
            for table_index, table in enumerate(self.source.tables(ecg_ids)):
                yield Key(shard_index, table_index), table


def load_ptb_xl(
    data_dir: str | Path,
    *,
    split: str | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **settings: Any,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """PTB-XL's original download as a dataset; wrap it in `EcgDataset` to train on it.

    Args:
        data_dir (`str` or `Path`): The folder with `ptbxl_database.csv`.
        split (`str`, *optional*): `"train"`, `"validation"` or `"test"`; all three by default.
        streaming (`bool`): Read the files on the fly instead of preparing an Arrow cache first.
        cache_dir (`str` or `Path`, *optional*): Where the cache goes; Hugging Face's cache by default.
        num_proc (`int`, *optional*): Processes that prepare the cache.
        settings: Fields of `PtbXlConfig`: `sampling_rate_hz`, `report`, `missing`, `ptbxl_plus_dir`, `bad_records`.

    Raises:
        FileNotFoundError: If a table is missing.
        RecordError: If signal files are missing and `missing="raise"`, or a record cannot be used and
            `bad_records="raise"`.
    """
    builder = PtbXlBuilder(cache_dir=None if cache_dir is None else str(cache_dir), data_dir=str(data_dir), **settings)
    if streaming:
        return builder.as_streaming_dataset(split)
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:  # says only that something happened
        if isinstance(error.__cause__, RecordError):
            raise error.__cause__ from None
        raise
    return builder.as_dataset(split)


def open_data(
    data_dir: str | Path | None = None, *, sampling_rate_hz: int = 500, report: str = "12sl", **settings: Any
) -> EcgData:
    """PTB-XL with its four zero-shot tasks, for `train.py --data ptb_xl`.

    Args:
        data_dir (`str` or `Path`): The folder with `ptbxl_database.csv`.
        sampling_rate_hz (`int`): 100 or 500.
        report (`str`): `"12sl"` or `"original"`.
        settings: As in [`load_ptb_xl`].

    Raises:
        ValueError: If `data_dir` is not given.
    """
    if data_dir is None:
        raise ValueError("PTB-XL needs --data-dir: the folder with ptbxl_database.csv, records100 and records500.")
    splits = load_ptb_xl(data_dir, sampling_rate_hz=sampling_rate_hz, report=report, **settings)
    absent = [split for split in SPLIT_FOLDS if split not in splits]
    if absent:
        raise FileNotFoundError(f"PTB-XL in {data_dir} has no record of the splits {absent}; see SPLIT_FOLDS.")
    statements = read_statements(data_dir)
    return EcgData(
        name="ptb_xl",
        revision=f"1.0.3, {sampling_rate_hz} Hz, {report} reports, {sum(map(len, splits.values()))} records",
        **{split: EcgDataset(splits[split]) for split in SPLIT_FOLDS},
        tasks=tuple(
            LabelTask(f"ptbxl_{task}", f"labels_{task}", class_names(task), class_members(statements, task))
            for task in PTB_XL_CLASSES
        ),
    )
