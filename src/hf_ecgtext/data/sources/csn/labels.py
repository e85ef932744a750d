"""CSN's statements: SNOMED CT codes, the data set's own acronyms, and the 38 classes of the published benchmark.

The acronyms are CSN's: `AF` is atrial flutter and `AFIB` atrial fibrillation, `ST` is sinus tachycardia, `SA` sinus
irregularity. The benchmark's published label columns were made by looking for each acronym anywhere in the
comma-joined list of a record's acronyms, so that `AFIB` also counted as `AF`, `STTC` as `ST` and `1AVB` as `VB` and
`AVB`. Both labellings are offered: `exact` by whole acronyms, and `merl` as published.

Source: `ConditionNames_SNOMED-CT.csv` of PhysioNet's ecg-arrhythmia 1.0.0 (CC-BY-4.0) for codes and acronyms; MERL
(github.com/cheliu-computation/MERL-ICML2024, commit 38799b7) for the choice of 38.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

CSN_ACRONYMS: dict[str, str] = {
    "270492004": "1AVB",
    "195042002": "2AVB",
    "54016002": "2AVB1",
    "28189009": "2AVB2",
    "27885002": "3AVB",
    "251173003": "ABI",
    "39732003": "ALS",
    "284470004": "APB",
    "164917005": "AQW",
    "47665007": "ARS",
    "233917008": "AVB",
    "251199005": "CCR",
    "251198002": "CR",
    "428417006": "ERV",
    "164942001": "FQRS",
    "698252002": "IDC",
    "426995002": "JEB",
    "251164006": "JPT",
    "164909002": "LBBB",
    "164873001": "LVH",
    "251146004": "LVQRSAL",
    "251148003": "LVQRSCL",
    "251147008": "LVQRSLL",
    "164865005": "MI",
    "164947007": "PRIE",
    "164912004": "PWC",
    "111975006": "QTIE",
    "446358003": "RAH",
    "59118001": "RBBB",
    "89792004": "RVH",
    "429622005": "STDD",
    "164930006": "STE",
    "428750005": "STTC",
    "164931005": "STTU",
    "164934002": "TWC",
    "59931005": "TWO",
    "164937009": "UW",
    "11157007": "VB",
    "75532003": "VEB",
    "13640000": "VFW",
    "17338001": "VPB",
    "195060002": "VPE",
    "251180001": "VET",
    "195101003": "WAVN",
    "74390002": "WPW",
    "426177001": "SB",
    "426783006": "SR",
    "164889003": "AFIB",
    "427084000": "ST",
    "164890007": "AF",
    "427393009": "SA",
    "426761007": "SVT",
    "713422000": "AT",
    "233896004": "AVNRT",
    "233897008": "AVRT",
}
"""SNOMED CT code -> acronym. Where the table gives one code several acronyms (five for myocardial infarction), the
first counts, as in the published label columns."""

CSN_CLASSES: dict[str, str] = {
    "1AVB": "first-degree atrioventricular block",
    "2AVB": "second-degree atrioventricular block",
    "2AVB1": "second-degree atrioventricular block, Mobitz type I (Wenckebach)",
    "AF": "atrial flutter",
    "AFIB": "atrial fibrillation",
    "ALS": "left axis deviation",
    "APB": "atrial premature beats",
    "AQW": "abnormal Q wave",
    "ARS": "right axis deviation",
    "AT": "atrial tachycardia",
    "AVB": "atrioventricular block",
    "CCR": "counterclockwise rotation",
    "CR": "clockwise rotation",
    "ERV": "early repolarization",
    "JEB": "junctional escape beat",
    "LBBB": "left bundle branch block",
    "LVH": "left ventricular hypertrophy",
    "MI": "myocardial infarction",
    "PRIE": "prolonged PR interval",
    "PWC": "P wave change",
    "QTIE": "prolonged QT interval",
    "RBBB": "right bundle branch block",
    "RVH": "right ventricular hypertrophy",
    "SA": "sinus irregularity",
    "SR": "sinus rhythm",
    "ST": "sinus tachycardia",
    "STDD": "ST-segment depression",
    "STE": "ST segment extension",
    "STTC": "ST-T change",
    "STTU": "upsloping ST elevation",
    "SVT": "supraventricular tachycardia",
    "TWC": "T wave change",
    "TWO": "inverted T wave",
    "UW": "U wave",
    "VB": "ventricular bigeminy",
    "VEB": "ventricular escape beat",
    "VPB": "ventricular premature beats",
    "WPW": "Wolff-Parkinson-White syndrome",
}
"""Class -> its name in words; ours, after the statements' full names. Sinus bradycardia (`SB`) is none of the 38.

`STE` is "ST extension" in the download's own table, with the code of an abnormal ST interval; ST elevation has the
code of `STTU`, "ST tilt up".
"""

_COLUMNS = ("acronymname", "fullname", "snomedct")


def read_condition_names(content: bytes, location: str) -> dict[str, str]:
    """SNOMED CT code -> acronym, the first of each code, from the download's own table.

    Args:
        content (`bytes`): Of `ConditionNames_SNOMED-CT.csv`.
        location (`str`): What messages call the table.

    Raises:
        ValueError: If the table has other columns, or a row without acronym or code.
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace")))
    header = next(rows, [])
    if tuple("".join(character for character in name.lower() if character.isalnum()) for name in header) != _COLUMNS:
        raise ValueError(
            f"{location} has the columns {header} instead of 'Acronym Name', 'Full Name' and 'Snomed_CT'. Download it "
            "again from https://physionet.org/content/ecg-arrhythmia/1.0.0/."
        )
    acronyms: dict[str, str] = {}
    for row in rows:
        fields = [field.strip() for field in row]
        if not any(fields):
            continue
        # A comma inside a full name would only add fields in the middle.
        if len(fields) < len(_COLUMNS) or not fields[0] or not fields[-1].isdecimal():
            raise ValueError(f"{location} has the row {row}, which is no acronym, name and code. Download it again.")
        acronyms.setdefault(fields[-1], fields[0])
    return acronyms


def exact_classes(acronyms: Sequence[str]) -> list[str]:
    """The classes whose acronym a record has, in the order of `CSN_CLASSES`."""
    present = set(acronyms)
    return [name for name in CSN_CLASSES if name in present]


def merl_classes(acronyms: Sequence[str]) -> list[str]:
    """The classes whose acronym occurs anywhere in the comma-joined acronyms: the published labelling."""
    joined = ",".join(acronyms)
    return [name for name in CSN_CLASSES if name in joined]
