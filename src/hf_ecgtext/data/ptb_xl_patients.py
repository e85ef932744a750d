"""Which recordings of PTB-XL are of one patient, for where its tables are not: PhysioNet/CinC 2021 renames its records.

Only the 2,111 patients with several recordings are listed, 5,041 recordings of 21,799: for all others the recording is
the patient. The list is a part of this package, so that nobody must be told of a table to see that a checkpoint knows
a patient.

Source: `ptbxl_database.csv` of PTB-XL 1.0.3 (CC BY 4.0). Of the 38 recordings that 1.0.3 withdrew nothing is known.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

WITHDRAWN_IN_1_0_3 = frozenset(
    f"{ecg_id:05d}"
    for ecg_id in (
        *(137, 139, 140, 141, 142, 143, 145, 456, 458, 459, 461, 462, 2506, 2511, 3795, 3798, 3800, 3801, 3832, 5817),
        *(7777, 7779, 7782, 9821, 9825, 9888, 11810, 11814, 11815, 11817, 11838, 13791, 13793, 13796, 13797, 13799),
        *(15742, 18150),
    )
)
"""Record ids of PTB-XL 1.0.1 that 1.0.3 left out, as copies of recordings that it kept: the two tables' difference."""


@cache
def recordings_of_patients() -> dict[str, tuple[str, ...]]:
    """Patient -> the record ids of those who have several, such as `{"302": ("00030", ...)}`."""
    text = resources.files("hf_ecgtext.data").joinpath("ptb_xl_patients.txt").read_text(encoding="ascii")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {patient: tuple(f"{int(ecg_id):05d}" for ecg_id in ecg_ids) for patient, *ecg_ids in rows}


@cache
def patients_of_recordings() -> dict[str, str]:
    """Record id -> patient, for the recordings of `recordings_of_patients`."""
    return {record: patient for patient, records in recordings_of_patients().items() for record in records}


def same_patient(key: str) -> tuple[str, ...]:
    """The keys of all recordings of a recording's patient, itself among them; empty where it is the only one.

    Args:
        key (`str`): Of a record as in [`~hf_ecgtext.data.ledger`], such as `"ptb_xl:06009"`.
    """
    name, _, record_id = key.partition(":")
    patient = patients_of_recordings().get(record_id) if name == "ptb_xl" else None
    return () if patient is None else tuple(f"ptb_xl:{record}" for record in recordings_of_patients()[patient])
