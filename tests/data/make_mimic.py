"""Writes a download that is laid out like MIMIC-IV-ECG 1.0, of synthetic signals: tests and benchmarks read it.

Of the format: `files/p1000/p10000032/s40689238/40689238.{hea,dat}`, format 16, 200 units per mV, 500 Hz, 10 s, leads in
MIMIC's order (aVF before aVL), the subject's id as comment, `record_list.csv`, `machine_measurements.csv` and
`waveform_note_links.csv`. The rows of the last two are in an order of their own.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
GAIN = 200
RATE_HZ = 500
REPORT_COLUMNS = [f"report_{number}" for number in range(18)]
MEASUREMENTS = ["rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"]
STATEMENTS = (
    "Sinus rhythm",
    "Sinus bradycardia",
    "Sinus tachycardia",
    "Atrial fibrillation",
    "Left axis deviation",
    "Possible right atrial abnormality",
    "Left bundle branch block",
    "Inferior infarct - age undetermined",
    "*** Lateral ST elevation, CONSIDER ACUTE INFARCT ***",
    "Prolonged QT interval",
    "--- Poor quality data, interpretation may be affected ---",
    "Compared to previous EKG: no significant change",
    "Borderline ECG",
    "Abnormal ECG",
)
_TRAILING_COLUMNS = ["bandwidth", "filtering", *MEASUREMENTS]


@dataclass(frozen=True)
class MimicStudy:
    """One row of the tables, and how to make its signal again."""

    number: int
    subject_id: int
    study_id: int
    statements: tuple[str | None, ...]
    num_samples: int

    @property
    def path(self) -> str:
        """Without extension, relative to the root."""
        return f"files/p{self.subject_id // 10_000}/p{self.subject_id}/s{self.study_id}/{self.study_id}"

    @property
    def report(self) -> str:
        """The present statements, as they are."""
        return ". ".join(statement for statement in self.statements if statement)

    def adc(self) -> NDArray[np.int16]:
        """The stored integers, `(12, num_samples)`; every study's are its own."""
        pool = _pool(self.num_samples)
        signal = np.roll(pool[self.number % len(pool)], 7 * self.number, axis=1)
        signal[:, 0] = self.number % 10_000
        return signal


@lru_cache(maxsize=2)
def _pool(num_samples: int) -> NDArray[np.int16]:
    """A few smooth signals with beats and noise, `(8, 12, num_samples)`."""
    rng = np.random.default_rng(0)
    seconds = np.arange(num_samples) / RATE_HZ
    beat = np.exp(-0.5 * (((seconds % 0.8) - 0.4) / 0.012) ** 2)
    wave = np.exp(-0.5 * (((seconds % 0.8) - 0.65) / 0.04) ** 2)
    amplitude = rng.normal(0, 200, (8, 12, 2))
    noise = rng.normal(0, 4, (8, 12, num_samples))
    signals = amplitude[..., :1] * beat + 0.3 * amplitude[..., 1:] * wave + noise
    return np.rint(signals).astype(np.int16)


def write_mimic_tree(
    folder: Path,
    num_records: int,
    *,
    num_samples: int = 5000,
    seed: int = 0,
    records_per_subject: float = 5.0,
    short_reports: float = 0.04,
    note_links: bool = True,
    waveforms: bool = True,
) -> list[MimicStudy]:
    """Write the tables, and the waveforms unless told otherwise.

    Args:
        folder: Made where it does not exist.
        num_records: Studies.
        num_samples: Per lead; 5000 in MIMIC-IV-ECG.
        seed: Of ids and reports.
        records_per_subject: Mean; 5 in MIMIC-IV-ECG.
        short_reports: Share of studies whose report has fewer than four words; half of them have none.
        note_links: Whether to write `waveform_note_links.csv`, for about two thirds of the studies.
        waveforms: Whether to write the signal files.

    Returns:
        The studies in the order of `record_list.csv`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    num_subjects = max(1, round(num_records / records_per_subject))
    subjects = 10_000_032 + 37 * np.arange(num_subjects)
    owners = np.sort(rng.integers(0, num_subjects, num_records))
    studies = 40_000_017 + rng.permutation(num_records) * 3
    records = [
        MimicStudy(number, int(subjects[owner]), int(study), _statements(rng, short_reports), num_samples)
        for number, (owner, study) in enumerate(zip(owners, studies, strict=True))
    ]
    _write_tables(folder, records, rng, note_links)
    if waveforms:
        for record in records:
            write_waveform(folder, record)
    return records


def write_waveform(folder: Path, record: MimicStudy, adc: NDArray[np.int16] | None = None) -> None:
    """The `.hea` and `.dat` of one study, of its own signal or of the one given."""
    adc = record.adc() if adc is None else adc
    name = str(record.study_id)
    checksums = adc.sum(axis=1, dtype=np.int64).astype(np.uint16)
    lines = [f"{name} {len(LEADS)} {RATE_HZ} {adc.shape[1]} 08:44:00 23/07/2180"]
    lines += [
        f"{name}.dat 16 {GAIN}.0(0)/mV 16 0 {first} {checksum} 0 {lead}"
        for lead, first, checksum in zip(LEADS, adc[:, 0], checksums, strict=True)
    ]
    lines.append(f"# <subject_id>: {record.subject_id}")
    path = folder / record.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")
    path.with_suffix(".dat").write_bytes(np.ascontiguousarray(adc.T, "<i2").tobytes())


def _statements(rng: np.random.Generator, short_reports: float) -> tuple[str | None, ...]:
    draw = rng.random()
    if draw < short_reports / 2:
        return (None,) * 18
    if draw < short_reports:
        return ("Sinus rhythm", *(None,) * 17)
    chosen = rng.choice(len(STATEMENTS), size=int(rng.integers(2, 7)), replace=False)
    statements: list[str | None] = [STATEMENTS[index] for index in chosen]
    statements.insert(int(rng.integers(1, len(statements) + 1)), None)  # blank cells stand between statements
    return tuple(statements + [None] * (18 - len(statements)))


def _write_tables(folder: Path, records: list[MimicStudy], rng: np.random.Generator, note_links: bool) -> None:
    time = "2180-07-23 08:44:00"
    with (folder / "record_list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject_id", "study_id", "file_name", "ecg_time", "path"])
        writer.writerows([r.subject_id, r.study_id, r.study_id, time, r.path] for r in records)
    numbers = rng.integers(30, 600, (len(records), len(MEASUREMENTS)))
    numbers[:, -3:] -= 300  # axes in degrees
    numbers[:, 1:3][rng.random(len(records)) < 0.1] = 29_999  # no P wave was found
    with (folder / "machine_measurements.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject_id", "study_id", "cart_id", "ecg_time", *REPORT_COLUMNS, *_TRAILING_COLUMNS])
        for index in rng.permutation(len(records)):
            record = records[index]
            texts = ["" if text is None else text for text in record.statements]
            first = [record.subject_id, record.study_id, 6_848_296, time]
            last = ["0.005-150 Hz", "60 Hz notch Baseline filter", *numbers[index].tolist()]
            writer.writerow([*first, *texts, *last])
    if note_links:
        with (folder / "waveform_note_links.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["subject_id", "study_id", "waveform_path", "note_id", "note_seq", "charttime"])
            for index in rng.permutation(len(records))[: 2 * len(records) // 3]:
                record = records[index]
                sequence = int(index) + 1
                note = f"{record.subject_id}-EK-{sequence}"
                writer.writerow([record.subject_id, record.study_id, record.path, note, sequence, time])
