"""Parts of PhysioNet/CinC 2021's recordings: windows of long ones, and 5-s segments for the published diagnosis task.

Everything here is arithmetic on names and lengths; no signal is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from hf_ecgtext.data.sources.cinc2021.sets import Recording

SEGMENT_S = 5.0
"""Length of the published segments: 2,500 samples at the 500 Hz they are restricted to.

Source: fairseq-signals, `preprocess_physionet2021.py` (`--sec 5`, other rates are left out, and so is what remains of a
recording after its last full segment).
"""
SEGMENT_RATE_HZ = 500.0
DIAGNOSIS_SETS = ("cpsc_2018", "georgia")
"""The sets of the published diagnosis task (fairseq-signals, `manifest.py`, `--finetune_subset`)."""

HELD_OUT_FRACTION = 0.1
"""Share of the segments of each set that are validation, and as many test (fairseq-signals, `manifest.py`).

40,798 segments of 5 s give exactly the 32,640 / 4,079 / 4,079 of Oh et al. 2022 and C-MELT when they are drawn one by
one, so that parts of one recording are in training and test alike; by recording, the two would hardly be equal.
"""

INDEX_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("path", pa.string()),
        ("origin_set", pa.string()),
        ("origin_id", pa.string()),
        ("first_sample", pa.int64()),
        ("window_samples", pa.int64()),  # null: the whole recording
        ("header_problem", pa.string()),  # why the index could not use its header, where it needed it
    ]
)
"""Columns of the index."""


class Window(NamedTuple):
    """A part of a recording.

    Args:
        first_sample (`int`): Where it starts.
        num_samples (`int`): How long it is, per lead.
    """

    first_sample: int
    num_samples: int


def cut(num_samples: int, window_samples: int, *, keep_remainder: bool) -> list[Window]:
    """Consecutive windows of a recording from its first sample on.

    Args:
        num_samples (`int`): Of the recording, per lead.
        window_samples (`int`): Of each window.
        keep_remainder (`bool`): Whether what is left at the end is a shorter window, or dropped.

    Raises:
        ValueError: If the windows have no sample.
    """
    if window_samples <= 0:
        raise ValueError(f"Windows need at least one sample, not {window_samples}.")
    end = num_samples if keep_remainder else num_samples // window_samples * window_samples
    return [Window(start, min(window_samples, end - start)) for start in range(0, end, window_samples)]


def draw_splits(keys: Sequence[str], held_out: float, salt: str) -> list[str]:
    """A split per key, in exact proportions: `int(len(keys) * held_out)` validation, as many test, the rest training.

    The published draw shuffles the order in which one machine listed its files, which nobody else has; this one orders
    the keys by their hashes, so that it is the same everywhere. It has the published proportions, not the same members.

    Args:
        keys (`Sequence[str]`): Distinct.
        held_out (`float`): Share of validation and of test, at most one half.
        salt (`str`): Another salt gives another draw.
    """
    if not 0 <= held_out <= 0.5:
        raise ValueError(f"held_out must be between 0 and 0.5, not {held_out}.")
    order = sorted(
        range(len(keys)),
        key=lambda index: hashlib.blake2b(keys[index].encode(), digest_size=16, key=salt.encode()).digest(),
    )
    num_held_out = int(len(keys) * held_out)
    num_train = len(keys) - 2 * num_held_out
    splits = [""] * len(keys)
    for rank, index in enumerate(order):
        splits[index] = "train" if rank < num_train else "validation" if rank < num_train + num_held_out else "test"
    return splits


def draw_segment_splits(cuts: Mapping[Recording, Sequence[Window]], *, by_record: bool) -> dict[Recording, list[str]]:
    """A split per segment of one set.

    Args:
        cuts (`Mapping[Recording, Sequence[Window]]`): The segments of each recording.
        by_record (`bool`): Whether all segments of a recording are together; as published they are not.
    """
    if by_record:
        drawn = draw_splits([recording.record_id for recording in cuts], HELD_OUT_FRACTION, salt="dx_by_record")
        return {
            recording: [split] * len(windows) for (recording, windows), split in zip(cuts.items(), drawn, strict=True)
        }
    names = [f"{recording.record_id}/{part}" for recording, windows in cuts.items() for part in range(len(windows))]
    remaining = iter(draw_splits(names, HELD_OUT_FRACTION, salt="dx_published"))
    return {recording: [next(remaining) for _ in windows] for recording, windows in cuts.items()}


def index_rows(
    recording: Recording,
    patient_id: str,
    splits: Sequence[str],
    windows: Sequence[Window],
    mark: str,
    header_problem: str | None,
) -> Iterator[dict[str, Any]]:
    """Rows of the index: one per window, or one for the whole recording where there are none.

    Args:
        recording (`Recording`): Which.
        patient_id (`str`): Whose.
        splits (`Sequence[str]`): One per row.
        windows (`Sequence[Window]`): The parts.
        mark (`str`): Letter before the number in a window's name, such as `w` in `I0001_w003`.
        header_problem (`str`, *optional*): Why the recording cannot be used, where that is known already.
    """
    parts: Sequence[Window | None] = windows or [None]
    for part, (split, window) in enumerate(zip(splits, parts, strict=True)):
        yield {
            "record_id": recording.record_id if window is None else f"{recording.record_id}_{mark}{part:03d}",
            "patient_id": patient_id,
            "split": split,
            "path": recording.path,
            "origin_set": recording.origin_set,
            "origin_id": recording.origin_id,
            "first_sample": 0 if window is None else window.first_sample,
            "window_samples": None if window is None else window.num_samples,
            "header_problem": header_problem,
        }
