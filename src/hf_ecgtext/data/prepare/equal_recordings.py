"""Recordings that a dataset holds more than once, under different names: found by their samples, and named.

CSN has such pairs, some of them with one copy in the Chapman part and one in Ningbo, or with different diagnoses; they
can put a test recording into training where no patient id gives them away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import xxhash

EQUAL_RECORDINGS_FILE = "equal_recordings.csv"
HEADER = ("group", "record_id", "patient_id", "split", "labels")
_SHOWN = 5


class EqualRecording(NamedTuple):
    """One of several records with the same samples.

    Args:
        group (`int`): The same for all of them, from 1.
        record_id (`str`): Its name.
        patient_id (`str`, *optional*): Its patient.
        split (`str`): Where it is.
        labels (`tuple[tuple[str, ...], ...]`): Sorted labels of each column of labels.
        report (`str`, *optional*): Its report.
    """

    group: int
    record_id: str
    patient_id: str | None
    split: str
    labels: tuple[tuple[str, ...], ...]
    report: str | None

    def csv_row(self) -> tuple[str, ...]:
        """The values of `HEADER`."""
        return str(self.group), self.record_id, self.patient_id or "", self.split, " ".join(self.labels[0])


def recording_digest(row: Mapping[str, Any], samples: Any) -> str:
    """What two records have in common that hold the same recording: samples, gains, leads and rate.

    Args:
        row (`Mapping[str, Any]`): Of the stored form.
        samples (buffer): Its samples, as they are stored.
    """
    digest = xxhash.xxh3_128(samples)
    digest.update(repr((list(row["lead_names"]), float(row["sampling_rate_hz"]), row["sample_type"])).encode())
    for name, dtype in (("gain_per_mv", np.float64), ("baseline", np.int32)):
        digest.update(np.asarray(row[name], dtype).tobytes())
    return digest.hexdigest()


def find_equal_recordings(
    shards: Iterable[tuple[str, Path, Sequence[str]]], label_columns: Sequence[str]
) -> list[EqualRecording]:
    """All records that are not the only one with their samples, in the order of their first copies.

    Args:
        shards (`Iterable[tuple[str, Path, Sequence[str]]]`): Split, file and the digest of each of its rows.
        label_columns (`Sequence[str]`): Columns of label lists, `labels` first.
    """
    known = [(split, file, np.array(digests, dtype="S32")) for split, file, digests in shards if len(digests)]
    if not known:
        return []
    _, first, copy_of, counts = np.unique(
        np.concatenate([digests for *_, digests in known]), return_index=True, return_inverse=True, return_counts=True
    )
    is_repeated = counts[copy_of] > 1
    group_of = {place: number for number, place in enumerate(np.unique(first[counts > 1]).tolist(), start=1)}
    columns = ["record_id", "patient_id", "report", *label_columns]
    found: list[EqualRecording] = []
    start = 0
    for split, file, digests in known:
        rows = np.flatnonzero(is_repeated[start : start + len(digests)])
        if len(rows):
            # Every column but the samples; few shards have such records.
            table = pq.ParquetFile(file).read(columns, use_threads=False).take(rows)
            for row, entry in zip(rows.tolist(), table.to_pylist(), strict=True):
                group = group_of[int(first[copy_of[start + row]])]
                labels = tuple(tuple(sorted(entry[column] or ())) for column in label_columns)
                found.append(
                    EqualRecording(group, entry["record_id"], entry["patient_id"], split, labels, entry["report"])
                )
        start += len(digests)
    return sorted(found, key=lambda recording: recording.group)


def count_equal_recordings(found: Sequence[EqualRecording]) -> dict[str, int]:
    """How many there are, and how many groups of them disagree about labels, reports, patients or splits."""
    groups: dict[int, list[EqualRecording]] = {}
    for recording in found:
        groups.setdefault(recording.group, []).append(recording)
    return {
        "groups": len(groups),
        "records": len(found),
        **{
            f"different_{what}": sum(len({getattr(one, field) for one in group}) > 1 for group in groups.values())
            for what, field in (
                ("labels", "labels"),
                ("reports", "report"),
                ("patients", "patient_id"),
                ("splits", "split"),
            )
        },
    }


def equal_recordings_note(found: Sequence[EqualRecording]) -> str:
    """The same in words, for the dataset card and the terminal."""
    counts = count_equal_recordings(found)
    pairs = [
        " = ".join(one.record_id for one in found if one.group == group)
        for group in range(1, min(_SHOWN, counts["groups"]) + 1)
    ]
    more = ", ..." if counts["groups"] > _SHOWN else ""
    return (
        f"{counts['records']:,} records hold the same samples as another one ({EQUAL_RECORDINGS_FILE}), in "
        f"{counts['groups']:,} groups: {counts['different_labels']:,} with different labels, "
        f"{counts['different_reports']:,} with different reports, {counts['different_patients']:,} of different "
        f"patients, {counts['different_splits']:,} in different splits. {', '.join(pairs)}{more}."
    )
