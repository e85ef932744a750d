"""Write a dataset as the folder that the Hub and `load_dataset` understand: sharded Parquet files and a card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from hf_ecgtext.data.store.manifest import ROWS_PER_GROUP
from hf_ecgtext.data.store.schema import ECG_FEATURES

if TYPE_CHECKING:
    from datasets import IterableDataset


def write_parquet_folder(
    splits: Mapping[str, IterableDataset],
    folder: str | Path,
    *,
    card: str,
    records_per_file: int = 2048,
) -> dict[str, int]:
    """Write each split as `data/<split>-00000-of-0000N.parquet` and the card as `README.md`.

    Everything is written to a temporary folder beside `folder`, which is renamed at the end: `folder` is either
    complete or absent. Samples are compressed with zstd, which halves their size or better.

    Args:
        splits (`Mapping[str, IterableDataset]`): Streams with the columns of `ECG_FEATURES`, as from
            `builder.as_streaming_dataset()`.
        folder (`str` or `Path`): Must not exist yet.
        card (`str`): Text of the dataset card after the title. `{counts}` in it becomes a table of the splits.
        records_per_file (`int`): Rounded up to whole row groups. The number of files bounds how many workers can
            share a streamed split.

    Returns:
        `dict[str, int]`: Number of records per split.

    Raises:
        FileExistsError: If `folder` exists.
        ValueError: If a split is empty.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already. Remove it, or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # Renamed out of the scratch folder, whose private access rights it must not inherit.
        unfinished = Path(scratch) / folder.name
        (unfinished / "data").mkdir(parents=True)
        for split, stream in splits.items():
            counts[split] = _write_split(stream, unfinished / "data", split, records_per_file)
        table = "\n".join(["| split | records |", "|---|---|", *(f"| {name} | {n:,} |" for name, n in counts.items())])
        (unfinished / "README.md").write_text(card.replace("{counts}", table), encoding="utf-8")
        os.rename(unfinished, folder)
    return counts


def _write_split(stream: IterableDataset, folder: Path, split: str, records_per_file: int) -> int:
    schema = stream.features.arrow_schema  # carries the features, so that `load_dataset` restores them
    rows_per_table = min(ROWS_PER_GROUP, records_per_file)
    tables = iter(stream.with_format("arrow").iter(batch_size=rows_per_table))
    paths: list[Path] = []
    count = 0
    # One table at a time in memory: a file of 500 Hz recordings would need a quarter of a gigabyte.
    table = next(tables, None)
    while table is not None:
        paths.append(folder / f"{split}-{len(paths):05d}.part")
        rows_in_file = 0
        with open_writer(paths[-1], schema) as writer:
            while table is not None and rows_in_file < records_per_file:
                writer.write_table(table.cast(schema), row_group_size=ROWS_PER_GROUP)
                rows_in_file += table.num_rows
                table = next(tables, None)
        count += rows_in_file
    if not count:
        raise ValueError(f"The split '{split}' has no records; leave it out.")
    for index, path in enumerate(paths):
        path.rename(folder / f"{split}-{index:05d}-of-{len(paths):05d}.parquet")
    return count


def open_writer(file: str | Path | IO[bytes], schema: pa.Schema, compression: str = "zstd") -> pq.ParquetWriter:
    """A Parquet writer for the columns of `ECG_FEATURES`: nothing but `samples` is worth more than a dictionary.

    Args:
        file (`str`, `Path` or binary file): Where to write; an open file is left open.
        schema (`pa.Schema`): `features.arrow_schema`, so that `load_dataset` restores the features.
        compression (`str`): `"none"`, `"lz4"` or `"zstd"`.
    """
    return pq.ParquetWriter(
        file,
        schema,
        compression=compression,
        use_dictionary=[_leaf_name(schema, name) for name in schema.names if name not in ("samples", "record_id")],
        write_statistics=[name for name in schema.names if name != "samples"],
        write_page_checksum=True,  # for those who read from an address, without the whole file
    )


def _leaf_name(schema: pa.Schema, name: str) -> str:
    return f"{name}.list.element" if pa.types.is_list(schema.field(name).type) else name


def dataset_card(title: str, license_id: str, splits: Iterable[str], body: str) -> str:
    """A card with the metadata that the Hub reads, and the columns explained.

    Args:
        title (`str`): Name of the dataset.
        license_id (`str`): As the Hub spells it, such as `cc-by-4.0`.
        splits (`Iterable[str]`): Names of the splits in `data/`.
        body (`str`): Markdown about this dataset.
    """
    files = "\n".join(f"  - split: {split}\n    path: data/{split}-*" for split in splits)
    columns = ", ".join(f"`{name}`" for name in ECG_FEATURES)
    return f"""---
pretty_name: {title}
license: {license_id}
tags:
- ecg
- electrocardiogram
configs:
- config_name: default
  data_files:
{files}
---

# {title}

{body.strip()}

## Records

{{counts}}

## Columns

Common to all datasets of `hf_ecgtext`: {columns}. `samples` are the bytes of a
little-endian array of `sample_type` and shape `(num_leads, num_samples)`:
`np.frombuffer(row["samples"], row["sample_type"]).reshape(-1, row["num_samples"])`. Millivolts are
`(samples - baseline) / gain_per_mv` with the gain and baseline of each lead, and -32768 marks a missing sample of
type int16. `hf_ecgtext.data.store.schema.EcgDataset` decodes them.

```python
from datasets import load_dataset
from hf_ecgtext.data.store.schema import EcgDataset

records = EcgDataset(load_dataset("path/to/this/folder", split="train"))
records[0]["ecg"].signal  # float32 millivolts, (num_leads, num_samples)
```

Not a medical device: for research only.
"""


def push_folder_to_hub(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a folder of `write_parquet_folder` as a dataset repository; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(folder_path=str(folder), repo_id=repo_id, repo_type="dataset")
    return str(url)
