"""The eight sets that PhysioNet/CinC 2021 joins: how their folders and records are called, and where they are from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from hf_ecgtext.data.sources.base import SkippedRecord


class OriginSet(NamedTuple):
    """One of the eight sets.

    Args:
        folders (`tuple[str, ...]`): Names of its folder in lower case: PhysioNet's, then those of the tarballs.
        record_name (`re.Pattern`): How its records are called.
        num_records (`int`): In the public training data.
    """

    folders: tuple[str, ...]
    record_name: re.Pattern[str]
    num_records: int


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


ORIGIN_SETS: dict[str, OriginSet] = {
    "cpsc_2018": OriginSet(("cpsc_2018", "wfdb_cpsc2018", "cpsc2018", "training_wfdb"), _pattern(r"A\d{4}"), 6877),
    "cpsc_2018_extra": OriginSet(
        ("cpsc_2018_extra", "wfdb_cpsc2018_2", "cpsc2018_2", "training_2"), _pattern(r"Q\d{4}"), 3453
    ),
    "st_petersburg_incart": OriginSet(
        ("st_petersburg_incart", "wfdb_stpetersburg", "stpetersburg", "training_stpetersburg"),
        _pattern(r"I\d{2,4}"),
        74,
    ),
    "ptb": OriginSet(("ptb", "wfdb_ptb", "training_ptb"), _pattern(r"S\d{4}"), 516),
    "ptb-xl": OriginSet(("ptb-xl", "wfdb_ptbxl", "ptbxl", "training_ptb-xl"), _pattern(r"HR\d{5}"), 21837),
    "georgia": OriginSet(("georgia", "wfdb_ga", "ga", "training_e"), _pattern(r"E\d{5}"), 10344),
    "chapman_shaoxing": OriginSet(
        ("chapman_shaoxing", "wfdb_chapmanshaoxing", "chapmanshaoxing"), _pattern(r"JS\d{5}"), 10247
    ),
    "ningbo": OriginSet(("ningbo", "wfdb_ningbo"), _pattern(r"JS\d{5}"), 34905),
}
"""The sets in the order of the challenge's own tables.

Source: https://physionet.org/content/challenge-2021/1.0.3/ (folders and counts; they add up to its 88,253 records), and
the names of the tarballs at https://moody-challenge.physionet.org/2020/ and /2021/.
"""

HEADER_NAMES = {"JS23074": "S23074"}
"""Record -> the name of its header where it is another: version 1.0.3 has `S23074.hea` beside `JS23074.mat`."""

_RECORD_OF_HEADER = {header: record for record, header in HEADER_NAMES.items()}
_SET_OF_FOLDER = {folder: name for name, origin in ORIGIN_SETS.items() for folder in origin.folders}
_FIRST_NINGBO_RECORD = 10647  # JS10647..JS45551 are as many as Ningbo's 34,905 records
_CSN_SETS = ("chapman_shaoxing", "ningbo")


class Recording(NamedTuple):
    """A record of the download, by name.

    Args:
        record_id (`str`): Its name, such as `"HR06009"`; unique in the challenge.
        origin_set (`str`): One of `ORIGIN_SETS`.
        path (`str`): In the download, without extension.
    """

    record_id: str
    origin_set: str
    path: str

    @property
    def origin_id(self) -> str:
        """The record in the dataset it was taken from: `"ptb_xl:06009"`, `"cpsc2018:A0001"`, `"csn:JS00001"`.

        The first part is the name of this library's source of that dataset, where it has one.
        """
        if self.origin_set == "ptb-xl":
            return f"ptb_xl:{self.record_id.removeprefix('HR')}"
        if self.origin_set == "cpsc_2018":
            return f"cpsc2018:{self.record_id}"
        if self.origin_set in _CSN_SETS:
            return f"csn:{self.record_id}"
        return f"{self.origin_set}:{self.record_id}"


def find_recordings(paths: Iterable[str]) -> tuple[list[Recording], list[SkippedRecord]]:
    """The records among the files of a download, by set and name, and the files that look like records but are none.

    The set is that of the innermost folder with a known name, and else follows from the record's name.

    Args:
        paths (`Iterable[str]`): Of all files.

    Raises:
        ValueError: If two records have the same name: nothing would tell them apart afterwards.
    """
    found: dict[str, Recording] = {}
    left_out: list[SkippedRecord] = []
    # By header or by signal: a record with one of the two is read, and reported with what is missing.
    stems = {path[: -len(".hea")] for path in paths if path.endswith((".hea", ".mat"))}
    for stem in sorted(stems):
        *folders, name = stem.split("/")
        if name in _RECORD_OF_HEADER:
            name = _RECORD_OF_HEADER[name]
            stem = "/".join([*folders, name])
            if stem in stems:
                continue
        origin_set = _set_of(folders, name)
        if origin_set is None:
            left_out.append(SkippedRecord(stem, "its name is none that the sets of PhysioNet/CinC 2021 give records"))
            continue
        if name in found:
            raise ValueError(
                f"PhysioNet/CinC 2021: the record '{name}' is there twice, as '{found[name].path}' and '{stem}'. "
                "Remove one of them; the tarballs of 2020 and 2021 hold the same records."
            )
        found[name] = Recording(name, origin_set, stem)
    order = {name: position for position, name in enumerate(ORIGIN_SETS)}
    return sorted(found.values(), key=lambda recording: (order[recording.origin_set], recording.record_id)), left_out


def _set_of(folders: list[str], name: str) -> str | None:
    for folder in reversed(folders):
        if origin_set := _SET_OF_FOLDER.get(folder.lower()):
            return origin_set if ORIGIN_SETS[origin_set].record_name.fullmatch(name) else None
    if ORIGIN_SETS["ningbo"].record_name.fullmatch(name):
        return "ningbo" if int(name.removeprefix("JS")) >= _FIRST_NINGBO_RECORD else "chapman_shaoxing"
    for origin_set, origin in ORIGIN_SETS.items():
        if origin.record_name.fullmatch(name):
            return origin_set
    return None
