"""`prepared.json`: what a prepared folder holds, so that it can be opened without reading any of its shards."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hf_ecgtext.data.tasks import LabelTask

MANIFEST_FILE = "prepared.json"
SKIPPED_FILE = "skipped.csv"
SCHEMA_VERSION = 1
ROWS_PER_GROUP = 64
"""Records of every Parquet row group but the last of a shard: 8 MB of 12 x 5000 samples, which are decoded at once."""

_MOST_RECORDS = 10**8
"""Of a shard. No dataset of ECGs has as many; a larger number would only fill the memory with the index of its rows."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Args:
        file (`str`): Path below the prepared folder.
        records (`int`): How many it holds, in row groups of `ROWS_PER_GROUP`; the last may be smaller.
        xxh3_128 (`str`): Checksum of the file; SHA-256 would take as long as reading and writing it.

    Raises:
        ValueError: If the path leaves the folder, or a value is not what it must be.
    """

    file: str
    records: int
    xxh3_128: str

    def __post_init__(self) -> None:
        # Backslashes and colons lead out of the folder on Windows.
        if not isinstance(self.file, str) or re.search(r"[\\:\0]", self.file):
            raise ValueError(f"the shard {self.file!r} is no path below the folder")
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"the shard '{self.file}' is no path below the folder")
        if type(self.records) is not int or not 0 <= self.records <= _MOST_RECORDS:
            raise ValueError(f"the shard '{self.file}' has {self.records!r} records")
        if not isinstance(self.xxh3_128, str) or not re.fullmatch("[0-9a-f]{32}", self.xxh3_128):
            raise ValueError(f"the checksum of the shard '{self.file}' is {self.xxh3_128!r}, not 32 hexadecimal digits")


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds; written last, so that a folder without it is unfinished.

    Args:
        name (`str`): Of the source, such as `"ptb_xl"`.
        version (`str`): Of the download.
        source_options (`dict[str, Any]`): What the source was opened with.
        fingerprint (`str`): Of the source's index and options: equal for equal data, wherever it was prepared.
        library_version (`str`): Of this package.
        compression (`str`): Of the samples: `"none"`, `"lz4"` or `"zstd"`.
        splits (`dict[str, list[Shard]]`): Shards by split, in order.
        tasks (`tuple[LabelTask, ...]`): Questions that the labels answer.
        summary (`dict[str, Any]`): Counts for people to read: records, patients, leads, rates, lengths, labels.
    """

    name: str
    version: str
    source_options: dict[str, Any]
    fingerprint: str
    library_version: str
    compression: str
    splits: dict[str, list[Shard]]
    tasks: tuple[LabelTask, ...]
    summary: dict[str, Any]

    def num_records(self, split: str) -> int:
        """Records of one split."""
        return sum(shard.records for shard in self.splits[split])

    def to_json(self) -> str:
        """The text of `prepared.json`."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, location: str) -> Manifest:
        """Read the text of `prepared.json`.

        Raises:
            ValueError: If it is of another schema version or damaged.
        """
        try:
            content = json.loads(text)
            schema_version = content.pop("schema_version")
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise _damaged(location, error) from error
        if schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"{location} was prepared with schema version {schema_version}; this version of hf_ecgtext reads "
                f"{SCHEMA_VERSION}. Prepare it again."
            )
        try:
            splits = {split: [Shard(**shard) for shard in shards] for split, shards in content.pop("splits").items()}
            tasks = tuple(
                LabelTask(
                    task["name"],
                    task["label_column"],
                    task["class_names"],
                    {label: tuple(members) for label, members in task["class_members"].items()},
                )
                for task in content.pop("tasks")
            )
            return cls(splits=splits, tasks=tasks, **content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(location, error) from error


def _damaged(location: str, error: Exception) -> ValueError:
    return ValueError(f"{location}/{MANIFEST_FILE} is damaged ({error}). Copy it again, or prepare the data again.")


def is_prepared(folder: str | Path) -> bool:
    """Whether a folder of this machine is a finished prepared dataset."""
    return (Path(folder) / MANIFEST_FILE).is_file()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a prepared folder of this machine.

    Raises:
        FileNotFoundError: If the folder is not prepared, or not finished.
        ValueError: If the manifest cannot be used.
    """
    if not is_prepared(folder):
        raise FileNotFoundError(
            f"'{folder}' holds no {MANIFEST_FILE}: it is no prepared dataset, or its preparation is not finished. Run "
            "`hf-ecgtext prepare` with the same --output-dir again; finished shards are kept."
        )
    return Manifest.from_json((Path(folder) / MANIFEST_FILE).read_text(encoding="utf-8"), str(folder))
