"""The diagnoses of PhysioNet/CinC 2021: SNOMED CT codes, their abbreviations, and the 26 classes that are scored.

`cinc2021_codes.csv` lists the 133 codes of the public training data. Thirty are scored; four pairs of them count as
one diagnosis each, which leaves 26 classes. The abbreviations are the challenge's: `AF` is atrial fibrillation and
`AFL` flutter, whereas Chapman-Shaoxing-Ningbo's own `AF` is flutter.

Source: `dx_mapping_scored.csv`, `dx_mapping_unscored.csv` and `weights.csv` of
https://github.com/physionetchallenges/evaluation-2021 (codes, abbreviations, equivalences and order of the classes; the
names are worded here).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple


class Diagnosis(NamedTuple):
    """One SNOMED CT code of the challenge.

    Args:
        code (`str`): SNOMED CT.
        abbreviation (`str`): The challenge's, such as `"CRBBB"`.
        name (`str`): In words.
        is_scored (`bool`): Whether it belongs to one of the 26 classes.
    """

    code: str
    abbreviation: str
    name: str
    is_scored: bool


CINC2021_CLASSES: dict[str, tuple[str, ...]] = {
    "AF": ("164889003",),
    "AFL": ("164890007",),
    "BBB": ("6374002",),
    "Brady": ("426627000",),
    "CLBBB|LBBB": ("733534002", "164909002"),
    "CRBBB|RBBB": ("713427006", "59118001"),
    "IAVB": ("270492004",),
    "IRBBB": ("713426002",),
    "LAD": ("39732003",),
    "LAnFB": ("445118002",),
    "LPR": ("164947007",),
    "LQRSV": ("251146004",),
    "LQT": ("111975006",),
    "NSIVCB": ("698252002",),
    "NSR": ("426783006",),
    "PAC|SVPB": ("284470004", "63593006"),
    "PR": ("10370003",),
    "PRWP": ("365413008",),
    "PVC|VPB": ("427172004", "17338001"),
    "QAb": ("164917005",),
    "RAD": ("47665007",),
    "SA": ("427393009",),
    "SB": ("426177001",),
    "STach": ("427084000",),
    "TAb": ("164934002",),
    "TInv": ("59931005",),
}
"""Scored class -> its codes, in the order of the final `weights.csv`."""

_NAMES_OF_PAIRS = {
    "CLBBB|LBBB": "left bundle branch block",
    "CRBBB|RBBB": "right bundle branch block",
    "PAC|SVPB": "premature atrial contraction",
    "PVC|VPB": "premature ventricular contraction",
}

CLASS_OF_CODE: dict[str, str] = {code: name for name, codes in CINC2021_CLASSES.items() for code in codes}
"""SNOMED CT code -> scored class; codes outside it are not scored."""


@cache
def diagnoses() -> dict[str, Diagnosis]:
    """SNOMED CT code -> what the challenge says about it, for the 133 codes of its training data."""
    text = (resources.files("hf_ecgtext.data.sources.cinc2021") / "codes.csv").read_text(encoding="utf-8")
    return {
        row["code"]: Diagnosis(row["code"], row["abbreviation"], row["name"], row["is_scored"] == "1")
        for row in csv.DictReader(text.splitlines())
    }


def class_names() -> dict[str, str]:
    """The 26 classes and their names in words, such as `{"AF": "atrial fibrillation", ...}`."""
    known = diagnoses()
    return {label: _NAMES_OF_PAIRS.get(label) or known[codes[0]].name for label, codes in CINC2021_CLASSES.items()}


def class_members() -> dict[str, tuple[str, ...]]:
    """The names of the two diagnoses of each class that joins two."""
    known = diagnoses()
    return {
        label: tuple(known[code].name for code in codes) for label, codes in CINC2021_CLASSES.items() if len(codes) > 1
    }


def classes_of_codes(codes: Iterable[str]) -> list[str]:
    """The distinct scored classes of a record's codes, in the order of the codes."""
    return list(dict.fromkeys(CLASS_OF_CODE[code] for code in codes if code in CLASS_OF_CODE))
