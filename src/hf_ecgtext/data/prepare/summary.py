"""What a prepared dataset holds, counted from its files: for the manifest, the dataset card and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_ecgtext.data.prepare.card import dataset_card
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.sources.options import current_options

_LABELS_SHOWN = 15


def summarize_split(files: Iterable[Path], label_columns: Sequence[str]) -> dict[str, Any]:
    """Counts of one split, from everything but its samples.

    Args:
        files (`Iterable[Path]`): Its shards.
        label_columns (`Sequence[str]`): Columns of label lists.
    """
    records = 0
    patients: set[str] = set()
    reports: set[str] = set()
    leads: Counter[str] = Counter()
    rates: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {column: Counter() for column in label_columns}
    seconds = []
    common = ["patient_id", "report", "lead_names", "sampling_rate_hz", "num_samples"]
    for file in files:
        table = pq.ParquetFile(file).read([*common, *label_columns], use_threads=False)
        records += len(table)
        patients.update(pc.unique(table.column("patient_id")).drop_null().to_pylist())
        reports.update(pc.unique(table.column("report")).drop_null().to_pylist())
        _count(leads, pc.binary_join(table.column("lead_names"), ", "))
        _count(rates, table.column("sampling_rate_hz"))
        seconds.append(table.column("num_samples").to_numpy() / table.column("sampling_rate_hz").to_numpy())
        for column, counts in labels.items():
            _count(counts, pc.list_flatten(table.column(column)))
    lengths = np.concatenate(seconds)
    return {
        "records": records,
        "patients": len(patients),
        "distinct_reports": len(reports),
        "lead_sets": _sorted(leads),
        "sampling_rates_hz": _sorted(rates),
        "length_s": [float(lengths.min()), float(np.median(lengths)), float(lengths.max())],
        "labels": {column: _sorted(counts) for column, counts in labels.items()},
    }


def label_columns_of(source: EcgSource) -> list[str]:
    """The columns that hold lists of labels: the common one, and those of the tasks."""
    return list(dict.fromkeys(["labels", *(task.label_column for task in source.tasks())]))


def _count(counts: Counter[str], values: pa.ChunkedArray) -> None:
    for found in pc.value_counts(values).to_pylist():
        value = found["values"]
        if value is not None:
            counts[f"{value:g}" if isinstance(value, float) else str(value)] += found["counts"]


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def summary_table(summary: Mapping[str, Any]) -> str:
    """The counts as Markdown, which is as readable in a terminal.

    Args:
        summary (`Mapping[str, Any]`): Of a [`~hf_ecgtext.data.store.manifest.Manifest`].
    """
    splits: Mapping[str, Any] = summary["splits"]
    rows = [["", *splits]]
    for title, name in (("records", "records"), ("patients", "patients"), ("distinct reports", "distinct_reports")):
        rows.append([title, *(f"{split[name]:,}" for split in splits.values())])
    for title, name in (("leads", "lead_sets"), ("sampling rate (Hz)", "sampling_rates_hz")):
        rows += [
            [f"{title}: {value}", *(f"{split[name].get(value, 0):,}" for split in splits.values())]
            for value in _first_seen(split[name] for split in splits.values())
        ]
    rows.append(["length (s): min / median / max", *(_lengths(split["length_s"]) for split in splits.values())])
    parts = [_markdown(rows)]
    columns = next(iter(splits.values()))["labels"]
    for column in columns:
        parts += _label_table(column, [split["labels"][column] for split in splits.values()], list(splits))
    parts.append(
        f"Left out by rule: {summary['left_out']:,}"
        + (" (left_out.csv)" if summary["left_out"] else "")
        + f". Skipped because of faults: {summary['skipped']:,}"
        + (" (skipped.csv)." if summary["skipped"] else ".")
    )
    parts += [f"* {note}" for note in summary["notes"]]
    return "\n\n".join(parts)


def _label_table(column: str, counts: list[dict[str, int]], splits: list[str]) -> list[str]:
    total = sum((Counter(of_split) for of_split in counts), Counter())
    if not total:
        return []
    shown = list(_sorted(total))[:_LABELS_SHOWN]
    rows = [[f"`{column}`", *splits]]
    rows += [[label, *(f"{of_split.get(label, 0):,}" for of_split in counts)] for label in shown]
    rest = len(total) - len(shown)
    return [_markdown(rows), *([f"... and {rest} more in prepared.json."] if rest else [])]


def _first_seen(counts: Iterable[Mapping[str, int]]) -> list[str]:
    return list(dict.fromkeys(value for of_split in counts for value in of_split))


def _lengths(length_s: Sequence[float]) -> str:
    return " / ".join(f"{value:g}" for value in length_s)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(cell.ljust(width) if not index else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]
    ruler = " | ".join("-" * width if not index else "-" * (width - 1) + ":" for index, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [lines[0], ruler, *lines[1:]])


def prepared_card(source: EcgSource, summary: Mapping[str, Any]) -> str:
    """The dataset card: what the source says of itself, and the counts.

    Args:
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): What was prepared.
        summary (`Mapping[str, Any]`): As for [`summary_table`].
    """
    options = ", ".join(f"`{name}={value}`" for name, value in current_options(source.options).items())
    body = f"""
{source.title} {source.version}, prepared with `hf-ecgtext prepare {source.name}`{f" ({options})" if options else ""}.

{source.description.strip()}

## Access, licence, citation

{source.access.strip()} Homepage: {source.homepage}

```bibtex
{source.citation.strip()}
```
"""
    card = dataset_card(source.title, source.license_id, summary["splits"], body)
    return card.replace("{counts}", summary_table(summary))
