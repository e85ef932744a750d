"""Who is recorded and what they have: patients, their lasting findings, and the findings of the day.

Patients come in blocks of six records, with one, two and three consecutive records in drawn order, so that any record
finds its patient without drawing the records before it.

`PREVALENCE` says how often each finding occurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hf_ecgtext.data.synthetic.conditions import CONDITIONS, SINUS_RHYTHMS, TERRITORIES

RECORDS_PER_BLOCK = 6
PATIENTS_PER_BLOCK = 3

# Names of the independent random streams, the second entry of every seed.
BLOCK_STREAM, PATIENT_STREAM, RECORD_STREAM, NOISE_STREAM = range(4)


@dataclass(frozen=True)
class Patient:
    """What stays the same from record to record.

    Args:
        number (`int`): Counts the patients of one seed.
        age (`int`): Years.
        sex (`str`): `"female"` or `"male"`.
        healthy (`bool`): Whether a record without any finding is likely.
        lasting (`frozenset[str]`): Keys of the findings that every record of this patient shows.
        axis_deg (`float`): Frontal QRS axis.
        voltage (`float`): QRS voltage between 0 (smallest) and 1 (largest) within the range of the findings.
        pr_s, qrs_s, qtc_s (`float`): Intervals; QT by Fridericia at 60 beats per minute.
        p_gain, t_gain (`float`): Relative size of P and T.
        loop_variation (`tuple`): Relative size of the x, y, z parts of the four QRS waves.
        ectopic_focus (`int`): Where ventricular premature beats start.
    """

    number: int
    age: int
    sex: str
    healthy: bool
    lasting: frozenset[str]
    axis_deg: float
    voltage: float
    pr_s: float
    qrs_s: float
    qtc_s: float
    p_gain: float
    t_gain: float
    loop_variation: tuple[tuple[float, float, float], ...]
    ectopic_focus: int


def stream(seed: int, name: int, index: int) -> np.random.Generator:
    """The random generator of one patient or record, independent of all others."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, name, index))))


def patient_number(seed: int, index: int) -> int:
    """Which patient record `index` belongs to."""
    block, position = divmod(index, RECORDS_PER_BLOCK)
    sizes = stream(seed, BLOCK_STREAM, block).permutation([1, 2, 3])
    return PATIENTS_PER_BLOCK * block + int(np.searchsorted(np.cumsum(sizes), position, side="right"))


def draw_patient(seed: int, number: int) -> Patient:
    """The patient of that number, the same for all of their records."""
    rng = stream(seed, PATIENT_STREAM, number)
    healthy = bool(rng.random() < 0.39)
    lasting = frozenset() if healthy else _lasting_findings(rng)
    age = int(np.clip(rng.normal(44 if healthy else 64, 15), 18, 95))
    variation = np.exp(0.13 * np.clip(rng.standard_normal((4, 3)), -2, 2))
    block = lasting & {"left_bundle_branch_block", "right_bundle_branch_block"}
    return Patient(
        number=number,
        age=age,
        sex=str(rng.choice(("female", "male"))),
        healthy=healthy,
        lasting=lasting,
        axis_deg=_axis(rng, lasting, age),
        voltage=float(rng.beta(2, 2)),
        pr_s=rng.uniform(0.225, 0.31) if "first_degree_av_block" in lasting else rng.uniform(0.13, 0.185),
        qrs_s=rng.uniform(0.132, 0.165) if block else rng.uniform(0.082, 0.106),
        qtc_s=rng.uniform(0.385, 0.435) + (0.03 if block else 0.0),
        p_gain=rng.uniform(0.8, 1.3),
        t_gain=rng.uniform(0.8, 1.25),
        loop_variation=tuple((float(x), float(y), float(z)) for x, y, z in variation),
        ectopic_focus=int(rng.integers(3)),
    )


def _lasting_findings(rng: np.random.Generator) -> frozenset[str]:
    """Conduction, axis, voltage and scars.

    Exclusions: bundle branch blocks, hypertrophy, scars and low voltage never meet, because each explains the QRS that
    another would need (a block hides scars and hypertrophy from a machine, too); for the same reason an inferior scar
    has no axis deviation, and left bundle branch block and hypertrophy no right axis deviation.
    """
    structures = {
        "left_bundle_branch_block": 0.12,
        "right_bundle_branch_block": 0.11,
        "left_ventricular_hypertrophy": 0.13,
        "old_inferior_infarction": 0.11,
        "old_anterior_infarction": 0.11,
        "low_voltage": 0.11,
        "": 0.31,
    }
    structure = str(rng.choice(list(structures), p=list(structures.values())))
    found = {structure} if structure else set()
    if structure != "old_inferior_infarction":
        to_left = 0.17
        to_right = 0.0 if structure in ("left_bundle_branch_block", "left_ventricular_hypertrophy") else 0.17
        deviation = rng.choice(("left_axis_deviation", "right_axis_deviation", ""), p=_with_rest(to_left, to_right))
        if deviation:
            found.add(str(deviation))
    if rng.random() < 0.17:
        found.add("first_degree_av_block")
    return frozenset(found)


def _axis(rng: np.random.Generator, lasting: frozenset[str], age: int) -> float:
    if "left_axis_deviation" in lasting:
        return rng.uniform(-70, -38)
    if "right_axis_deviation" in lasting:
        return rng.uniform(100, 135)
    if "old_inferior_infarction" in lasting:
        return rng.uniform(-18, 30)
    # The axis moves to the left with age.
    return float(np.clip(rng.normal(75 - 0.6 * age, 18), -18, 82))


def draw_findings(rng: np.random.Generator, patient: Patient) -> tuple[str, ...]:
    """Keys of all findings of one record, in the order of `CONDITIONS`.

    Exclusions: one rhythm; first-degree AV block only in sinus rhythm that is not fast; premature atrial beats only in
    sinus rhythm; premature beats not in tachycardia or flutter; one ST deviation; ST-T findings neither in left bundle
    branch block nor in low voltage; no anterior ones in right bundle branch block.
    """
    lasting = set(patient.lasting)
    if patient.healthy and rng.random() < 0.55:
        return _ordered({"sinus_rhythm"})
    rhythm = _rhythm(rng, "first_degree_av_block" in lasting)
    found = lasting | {rhythm}
    if rhythm not in SINUS_RHYTHMS:
        found.discard("first_degree_av_block")
    calm = rhythm in ("sinus_rhythm", "sinus_bradycardia")
    if calm and rng.random() < 0.15:
        found.add("premature_atrial_complexes")
    if (calm or rhythm == "atrial_fibrillation") and rng.random() < 0.12:
        found.add("premature_ventricular_complexes")
    return _ordered(found | _repolarization(rng, found))


def _rhythm(rng: np.random.Generator, long_pr: bool) -> str:
    shares = {"sinus_rhythm": 0.49, "sinus_bradycardia": 0.14, "sinus_tachycardia": 0.14}
    shares |= {"atrial_fibrillation": 0.14, "atrial_flutter": 0.09}
    if long_pr:  # a P wave that far ahead would vanish in the T wave of a fast rhythm
        shares["sinus_rhythm"] += shares.pop("sinus_tachycardia")
    return str(rng.choice(list(shares), p=list(shares.values())))


def _repolarization(rng: np.random.Generator, found: set[str]) -> set[str]:
    if found & {"left_bundle_branch_block", "low_voltage"}:
        return set()
    if "left_ventricular_hypertrophy" in found:  # strain, in the leads that face the left ventricle
        return {"lateral_st_depression", "lateral_t_wave_inversion"} if rng.random() < 0.35 else set()
    territories = list(TERRITORIES)
    if "right_bundle_branch_block" in found:
        territories.remove("anterior")
    territory = str(rng.choice(territories))
    kind = rng.choice(("elevation", "depression", "inversion", "both", ""), p=(0.28, 0.18, 0.17, 0.09, 0.28))
    changes = {
        "elevation": {f"{territory}_st_elevation"},
        "depression": {f"{territory}_st_depression"},
        "inversion": {f"{territory}_t_wave_inversion"},
        "both": {f"{territory}_st_depression", f"{territory}_t_wave_inversion"},
    }
    return changes.get(str(kind), set())


def _ordered(found: set[str]) -> tuple[str, ...]:
    if found == {"sinus_rhythm"}:
        found = found | {"normal_ecg"}
    return tuple(key for key in CONDITIONS if key in found)


def _with_rest(*shares: float) -> tuple[float, ...]:
    return (*shares, 1 - sum(shares))


PREVALENCE: Mapping[str, float] = MappingProxyType(
    {
        "sinus_rhythm": 0.612,
        "sinus_bradycardia": 0.111,
        "sinus_tachycardia": 0.094,
        "atrial_fibrillation": 0.109,
        "atrial_flutter": 0.074,
        "premature_atrial_complexes": 0.077,
        "premature_ventricular_complexes": 0.075,
        "first_degree_av_block": 0.077,
        "left_bundle_branch_block": 0.071,
        "right_bundle_branch_block": 0.069,
        "left_axis_deviation": 0.091,
        "right_axis_deviation": 0.067,
        "left_ventricular_hypertrophy": 0.080,
        "low_voltage": 0.067,
        "old_inferior_infarction": 0.066,
        "old_anterior_infarction": 0.062,
        "anterior_st_elevation": 0.045,
        "anterior_st_depression": 0.045,
        "inferior_st_elevation": 0.057,
        "inferior_st_depression": 0.053,
        "lateral_st_elevation": 0.056,
        "lateral_st_depression": 0.083,
        "anterior_t_wave_inversion": 0.043,
        "inferior_t_wave_inversion": 0.050,
        "lateral_t_wave_inversion": 0.081,
        "normal_ecg": 0.245,
    }
)
"""Share of records with each finding, measured on 20,000 records of seed 0; a test holds the generator to it."""
