"""The published splits of CPSC2018, CSN and PTB-XL's tasks, as lists of record names.

Every paper on zero-shot ECG classification since MERL uses these 70:10:20 splits, drawn once by its authors and only
published as tables. The files here hold nothing but the name of each record and its split, one letter per record in
rows of a hundred. The published tables number CPSC2018's records in the order of a directory listing, which differs
from machine to machine; the names do not. The order of their training records, and of CSN's, is kept apart; PTB-XL's
tables are in the order of `ecg_id`, and its lists only say which records each table has: its splits are its own folds.

Source: github.com/cheliu-computation/MERL-ICML2024, commit 38799b7, folder `data_split`; MIT licence,
Copyright (c) 2024 Che Liu.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from hf_ecgtext.data.sources.base import SkippedRecord

SPLIT_LISTS = ("cpsc2018", "csn", "ptbxl_diagnostic", "ptbxl_form", "ptbxl_rhythm")

_LIST_OF_TASK = {
    "ptbxl_super": "ptbxl_diagnostic",  # both diagnostic tasks have the same records
    "ptbxl_sub": "ptbxl_diagnostic",
    "ptbxl_form": "ptbxl_form",
    "ptbxl_rhythm": "ptbxl_rhythm",
}

SPLITS_OF_OTHERS = ("leave_out", "train")
"""What to do with records that the published splits do not name."""

_SPLIT_OF_LETTER = {"t": "train", "v": "validation", "e": "test"}
_NO_RECORD = "."


def published_list(data: str, task: str) -> str | None:
    """The list whose records a published table holds, or `None` where no table was published.

    Args:
        data (`str`): Name of the data.
        task (`str`): Name of one of its tasks; those of CPSC2018 and CSN share their data's list.
    """
    if data == "ptb_xl":
        return _LIST_OF_TASK.get(task)
    return data if data in SPLIT_LISTS else None


@cache
def read_split_list(name: str) -> dict[str, str]:
    """Record name -> `"train"`, `"validation"` or `"test"`, in the order of the names.

    Args:
        name (`str`): One of `SPLIT_LISTS`, such as `"cpsc2018"` (6,877 records) or `"csn"` (23,026).

    Raises:
        ValueError: If there is no such list, or the installed file is damaged.
    """
    if name not in SPLIT_LISTS:
        raise ValueError(f"There is no split list '{name}'. Known lists: {', '.join(SPLIT_LISTS)}.")
    text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="ascii")
    splits: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        first, letters = line.split()
        prefix, digits = first.rstrip("0123456789"), first.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for offset, letter in enumerate(letters):
            if letter == _NO_RECORD:
                continue
            if letter not in _SPLIT_OF_LETTER:
                raise ValueError(
                    f"The installed split list '{name}' is damaged at '{line}'. Install the package again."
                )
            splits[f"{prefix}{int(digits) + offset:0{len(digits)}}"] = _SPLIT_OF_LETTER[letter]
    return splits


@cache
def read_train_order(name: str) -> tuple[str, ...]:
    """The training records of a list in the order of the published table, which decides the published draws of them.

    Args:
        name (`str`): One of `SPLIT_LISTS`, such as `"cpsc2018"` (4,950 records) or `"csn"` (16,546).

    Raises:
        ValueError: If there is no such list, or the installed files are damaged.
    """
    splits = read_split_list(name)
    train = [record for record, split in splits.items() if split == "train"]
    if name in _LIST_OF_TASK.values():
        return tuple(train)
    text = resources.files(__name__).joinpath(f"{name}_train_order.txt").read_text(encoding="ascii")
    prefix = next(iter(splits)).rstrip("0123456789")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = tuple(f"{prefix}{number}" for line in lines for number in line.split())
    if sorted(names) != train:
        raise ValueError(f"The installed order of the split list '{name}' is damaged. Install the package again.")
    return names


def check_split_of_others(value: str) -> str:
    """The option, if it is one of `SPLITS_OF_OTHERS`.

    Raises:
        ValueError: If it is not.
    """
    if value not in SPLITS_OF_OTHERS:
        raise ValueError(f"split_of_others is '{value}'; choose one of {', '.join(SPLITS_OF_OTHERS)}.")
    return value


def split_by_list(
    name: str, entries: Iterable[Mapping[str, Any]], split_of_others: str
) -> tuple[list[dict[str, Any]], list[SkippedRecord]]:
    """Adds the published split to each record.

    Args:
        name (`str`): Of the list.
        entries (`Iterable[Mapping[str, Any]]`): With a `record_id` each, such as `"A0001"` or `"JS00001"`.
        split_of_others (`str`): `"train"`, or `"leave_out"` for records that the list does not name.

    Returns:
        `tuple` of the entries with a `split`, and the records that are left out.
    """
    splits = read_split_list(name)
    kept: list[dict[str, Any]] = []
    left_out: list[SkippedRecord] = []
    for entry in entries:
        split = splits.get(entry["record_id"])
        if split is None and split_of_others == "leave_out":
            left_out.append(
                SkippedRecord(entry["record_id"], "it is in none of the published splits (split_of_others=leave_out).")
            )
        else:
            kept.append({**entry, "split": split or split_of_others})
    return kept, left_out
