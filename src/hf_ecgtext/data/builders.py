"""Any source as a `datasets` builder that streams and prepares: `MimicIvEcgBuilder`, `CsnBuilder` and so on.

    MimicIvEcgBuilder(source="mimic-iv-ecg", options={"min_words": 1}).as_streaming_dataset("train")

`hf-ecgtext prepare` writes the same rows many times as fast, skips what cannot be read and can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from hf_ecgtext.data.sources.base import EcgSource, SourceIndex
from hf_ecgtext.data.sources.by_name import open_source, source_class
from hf_ecgtext.data.store.schema import rows_to_table
from hf_ecgtext.data.tasks import SPLITS
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

_ROWS_PER_TABLE = 64


@dataclass
class EcgSourceConfig(datasets.BuilderConfig):
    """Settings of an [`EcgSourceBuilder`].

    Args:
        source_name (`str`): Of the source; the builder of each source sets it.
        source (`str`): The download: a folder, an archive or an address.
        options (`dict[str, Any]`): Of the source's class.
        bad_records (`str`): `"raise"` stops at a record that cannot be read; `"skip"` leaves it out and logs why.
        records_per_shard (`int`): How many records one unit of parallel work holds; workers, ranks and `num_proc`
            share the shards.
    """

    source_name: str = ""
    source: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    bad_records: str = "raise"
    records_per_shard: int = 256

    @cached_property
    def opened(self) -> EcgSource:
        """The download.

        Raises:
            ValueError: If a setting is missing or has an impossible value.
            FileNotFoundError: If nothing is there.
        """
        if not self.source:
            raise ValueError(f"The builder of {self.source_name} needs source: the folder, archive or address.")
        if self.bad_records not in ("raise", "skip"):
            raise ValueError(
                f"bad_records must be 'raise' or 'skip' where records are cached, not '{self.bad_records}'; 'replace' "
                "is for training on the download as it is (streaming=true)."
            )
        if self.records_per_shard < 1:
            raise ValueError(f"records_per_shard must be at least 1, not {self.records_per_shard}.")
        return open_source(self.source_name, self.source, **self.options)

    @cached_property
    def index(self) -> SourceIndex:
        """The records of the download, read once per builder."""
        return self.opened.index()

    def __getstate__(self) -> dict[str, Any]:
        # Workers read their shards, and have no use for the index of all.
        return {name: value for name, value in self.__dict__.items() if name != "index"}

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Names the cache folder after every setting and all that the tables say.

        Without the second, records added later, or tables of another version, would never enter a cache once it
        exists. Signals that change under the same names and tables are not noticed: delete the cache then.
        """
        settings = [self.opened.files.location, self.opened.options, self.bad_records, self.records_per_shard]
        content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        content.update(repr(self.opened.features).encode())  # a cache of an older schema is not taken for a new one
        content.update(_ipc_bytes(self.index.records))
        own_id = f"{self.source_name}-{content.hexdigest()[:16]}"
        # `config_kwargs` are all in the settings above; only the caller's own features can add to them.
        if custom_features is None:
            return own_id
        return own_id + super().create_config_id({}, custom_features).removeprefix(self.name)


class EcgSourceBuilder(datasets.ArrowBasedBuilder):
    """A source as a `datasets` builder with the splits that it has of train, validation and test.

    `.as_streaming_dataset("train")` reads the files as it goes; `.download_and_prepare()` and `.as_dataset("train")`
    go through the cache, and `.download_and_prepare(folder, file_format="parquet")` writes Parquet files.
    """

    BUILDER_CONFIG_CLASS = EcgSourceConfig
    SOURCE_NAME: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any):
        source = source_class(self.SOURCE_NAME)
        self.VERSION = datasets.Version(_three_numbers(source.version))
        kwargs.setdefault("dataset_name", self.SOURCE_NAME)  # the cache's folder; by default this module's name
        super().__init__(*args, source_name=self.SOURCE_NAME, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        source = self.config.opened
        return datasets.DatasetInfo(
            description=f"{source.title}. {source.description}",
            features=source.features,
            homepage=source.homepage,
            license=source.license_id,
            citation=source.citation,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        records = self.config.index.records
        size = self.config.records_per_shard
        generators = []
        for split in SPLITS:
            rows = records.filter(pc.equal(records.column("split"), split))
            if rows.num_rows:
                shards = [_ipc_bytes(rows.slice(start, size)) for start in range(0, rows.num_rows, size)]
                # A list: `datasets` shares its elements out to workers, ranks and processes.
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": shards}))
        if not generators:
            raise ValueError(f"{self.config.source} holds no record of {self.SOURCE_NAME} that its options keep.")
        return generators

    def _generate_tables(self, shards: list[bytes]) -> Iterator[tuple[Key, pa.Table]]:
        source = self.config.opened
        for shard_index, shard in enumerate(shards):
            entries = pa.ipc.open_stream(shard).read_all().to_pylist()
            for table_index, start in enumerate(range(0, len(entries), _ROWS_PER_TABLE)):
                rows = []
                for row in source.read(entries[start : start + _ROWS_PER_TABLE]):
                    if not isinstance(row, RecordError):
                        rows.append(row)
                    elif self.config.bad_records == "raise":
                        raise row
                    else:
                        logger.warning("%s is skipped. %s", self.SOURCE_NAME, row)
                yield Key(shard_index, table_index), rows_to_table(rows, source.features)


class MimicIvEcgBuilder(EcgSourceBuilder):
    """See [`~hf_ecgtext.data.sources.mimic_iv_ecg.MimicIvEcg`] for the options."""

    SOURCE_NAME = "mimic_iv_ecg"


class PtbXlBuilder(EcgSourceBuilder):
    """See [`~hf_ecgtext.data.sources.ptb_xl.source.PtbXlSource`] for the options."""

    SOURCE_NAME = "ptb_xl"


class Cpsc2018Builder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.cpsc2018`] for the options."""

    SOURCE_NAME = "cpsc2018"


class CsnBuilder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.csn.source`] for the options."""

    SOURCE_NAME = "csn"


class Cinc2021Builder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.cinc2021.source`] for the options."""

    SOURCE_NAME = "cinc2021"


class CodeTestBuilder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.code_test`] for the options."""

    SOURCE_NAME = "code_test"


class Code15Builder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.code15`] for the options."""

    SOURCE_NAME = "code15"


class SamiTropBuilder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.sami_trop`] for the options."""

    SOURCE_NAME = "sami_trop"


class SphBuilder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.sph`] for the options."""

    SOURCE_NAME = "sph"


class LudbBuilder(EcgSourceBuilder):
    """See `SOURCE` of [`hf_ecgtext.data.sources.ludb`] for the options."""

    SOURCE_NAME = "ludb"


def source_builder(
    name: str,
    location: str | Path,
    options: Mapping[str, Any],
    *,
    bad_records: str = "raise",
    cache_dir: str | Path | None = None,
) -> EcgSourceBuilder:
    """The builder of a source by its name.

    Args:
        name (`str`): Of the source.
        location (`str` or `Path`): The download: a folder, an archive or an address.
        options (`Mapping[str, Any]`): Of the source's class.
        bad_records (`str`): As in [`EcgSourceConfig`].
        cache_dir (`str` or `Path`, *optional*): Where the cache goes; Hugging Face's cache by default.

    Raises:
        ValueError: If a setting has an impossible value.
        FileNotFoundError: If nothing is there.
    """
    builders = {builder.SOURCE_NAME: builder for builder in EcgSourceBuilder.__subclasses__()}
    return builders[name](
        source=str(location),
        options=dict(options),
        bad_records=bad_records,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )


def cached_splits(builder: EcgSourceBuilder, num_proc: int | None = None) -> datasets.DatasetDict:
    """A download as an Arrow cache, made where it is not there yet.

    Args:
        builder ([`EcgSourceBuilder`]): Of the download.
        num_proc (`int`, *optional*): Processes that make the cache.

    Raises:
        RecordError: If a record cannot be used and the builder's `bad_records` is `"raise"`.
    """
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except DatasetGenerationError as error:  # says only that something happened
        if not isinstance(cause := error.__cause__, RecordError):
            raise
        fix = f"{cause.fix} Or leave such records out by bad_records=skip."
        raise RecordError(cause.record, cause.problem, fix) from error
    return builder.as_dataset()


def _three_numbers(version: str) -> str:
    """`"1.0"` as `"1.0.0"`: what `datasets` takes for a version."""
    parts = [part for part in version.split(".") if part.isdigit()][:3]
    return ".".join(parts + ["0"] * (3 - len(parts)))


def _ipc_bytes(table: pa.Table) -> bytes:
    """The rows as bytes; unlike a pickled slice they hold nothing of the rest of the table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
