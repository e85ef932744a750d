"""From a seed and an index to a 12-lead ECG with its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.synthetic.atria import AtrialActivity, FibrillatoryWaves, FlutterWaves
from hf_ecgtext.data.synthetic.heart import DOWER_MATRIX, Heart, Wave, beat_waves
from hf_ecgtext.data.synthetic.noise import NoiseParameters, draw_noise_parameters, electrode_noise
from hf_ecgtext.data.synthetic.patients import (
    NOISE_STREAM,
    RECORD_STREAM,
    Patient,
    draw_findings,
    draw_patient,
    patient_number,
    stream,
)
from hf_ecgtext.data.synthetic.reports import write_report
from hf_ecgtext.data.synthetic.rhythm import (
    PREMATURE_ATRIAL,
    PREMATURE_VENTRICULAR,
    Beats,
    Breathing,
    add_premature_beats,
    fibrillation_beats,
    flutter_beats,
    sinus_beats,
)
from hf_ecgtext.leads import STANDARD_LEADS, limb_leads_from_i_and_ii

_PADDING_S = 3.0  # longer than the margin of beats plus any wave, so that no wave is cut by an array's end


@dataclass(frozen=True, eq=False)
class EcgParameters:
    """Everything about one synthetic record except its samples.

    Args:
        record_id, patient_id (`str`): As in the record.
        labels (`tuple[str, ...]`): Keys of `CONDITIONS`.
        report (`str`): What the machine says.
        age (`int`): Years.
        sex (`str`): `"female"` or `"male"`.
        heart (`Heart`): Intervals, axis, amplitudes.
        beats (`Beats`): QRS onsets and origins.
        atria (`FibrillatoryWaves` or `FlutterWaves`, *optional*): Atrial activity in fibrillation or flutter.
        breathing (`Breathing`): Respiration.
        noise (`NoiseParameters`): How noisy the recording is, where noise is wanted.
    """

    record_id: str
    patient_id: str
    labels: tuple[str, ...]
    report: str
    age: int
    sex: str
    heart: Heart
    beats: Beats
    atria: AtrialActivity | None
    breathing: Breathing
    noise: NoiseParameters

    @property
    def attributes(self) -> dict[str, Any]:
        """Patient and measurements, as in the record's `attributes`; `pr_ms` is `None` without P waves."""
        pr_s = self.heart.pr_s
        return {
            "age": self.age,
            "sex": self.sex,
            "heart_rate_bpm": round(self.beats.heart_rate_bpm, 1),
            "qrs_axis_deg": round(self.heart.axis_deg),
            "pr_ms": None if pr_s is None else round(1000 * pr_s),
            "qrs_ms": round(1000 * self.heart.qrs_s),
            "qt_ms": round(1000 * self.heart.qt_s),
        }


class SyntheticEcgGenerator:
    """An endless data set of 12-lead ECGs with machine-style reports, drawn from a seed.

    Record `i` of a seed is always the same, whatever was drawn before. At another sampling rate it is the same patient
    with the same beats, baseline wander and hum, sampled at other times; only the muscle noise is a new draw.

    Limb leads III, aVR, aVL and aVF are computed from the rounded leads I and II (even microvolts), so Einthoven's and
    Goldberger's identities hold exactly in microvolts and within 1e-6 mV in float32.

    Args:
        seed (`int`): Not negative. Different seeds share no record.
        sampling_rate_hz (`float`): At least 50.
        duration_s (`float`): At least 5, so that every rhythm can be told.
        noise (`bool`): Whether to add baseline wander, mains hum and muscle noise.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        ```python
        generator = SyntheticEcgGenerator(seed=0, sampling_rate_hz=100)
        record = generator.record(7)
        print(record.report, record.labels)
        ```
    """

    def __init__(
        self, seed: int = 0, sampling_rate_hz: float = 500.0, duration_s: float = 10.0, noise: bool = True
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}.")
        if not sampling_rate_hz >= 50:
            raise ValueError(f"sampling_rate_hz must be at least 50 to show a QRS complex, got {sampling_rate_hz}.")
        if not duration_s >= 5:
            raise ValueError(f"duration_s must be at least 5 to show a rhythm, got {duration_s}.")
        self.seed = seed
        self.sampling_rate_hz = float(sampling_rate_hz)
        self.duration_s = float(duration_s)
        self.noise = noise

    def records(self, num_records: int, start: int = 0) -> Iterator[EcgRecord]:
        """Records `start` to `start + num_records - 1`."""
        for index in range(start, start + num_records):
            yield self.record(index)

    def record(self, index: int) -> EcgRecord:
        """The record of that index, with its signal."""
        parameters = self.draw(index)
        return EcgRecord(
            signal=self._signal(index, parameters),
            sampling_rate_hz=self.sampling_rate_hz,
            lead_names=STANDARD_LEADS,
            record_id=parameters.record_id,
            patient_id=parameters.patient_id,
            report=parameters.report,
            labels=parameters.labels,
            attributes=parameters.attributes,
        )

    def draw(self, index: int) -> EcgParameters:
        """What record `index` shows and says, without its samples; about ten times as fast as `record`."""
        if index < 0:
            raise ValueError(f"index must not be negative, got {index}.")
        number = patient_number(self.seed, index)
        patient = draw_patient(self.seed, number)
        rng = stream(self.seed, RECORD_STREAM, index)
        labels = draw_findings(rng, patient)
        breathing = Breathing(rate_hz=rng.uniform(0.2, 0.33), phase=rng.uniform(0, 2 * np.pi))
        noise = draw_noise_parameters(rng)
        rr_s, beats, atria, conduction = _draw_rhythm(rng, labels, self.duration_s, breathing)
        heart = _draw_heart(rng, patient, labels, rr_s)
        for label, origin in (
            ("premature_ventricular_complexes", PREMATURE_VENTRICULAR),
            ("premature_atrial_complexes", PREMATURE_ATRIAL),
        ):
            if label in labels:
                beats = add_premature_beats(rng, beats, origin, earliest_s=heart.qt_s + 0.02)
        return EcgParameters(
            record_id=f"synthetic-{self.seed}-{index}",
            patient_id=f"synthetic-{self.seed}-patient-{number}",
            labels=labels,
            report=write_report(rng, labels, beats.heart_rate_bpm, conduction),
            age=patient.age,
            sex=patient.sex,
            heart=heart,
            beats=beats,
            atria=atria,
            breathing=breathing,
            noise=noise,
        )

    def _signal(self, index: int, parameters: EcgParameters) -> NDArray[np.float32]:
        num_samples = round(self.duration_s * self.sampling_rate_hz)
        time_s = np.arange(num_samples) / self.sampling_rate_hz
        waves = beat_waves(parameters.heart)
        vectors = np.array([wave.vector for wave in waves])
        heights = _wave_heights(waves, parameters.beats, parameters.breathing, self.sampling_rate_hz, num_samples)
        seen = (DOWER_MATRIX @ vectors.T).astype(np.float32)  # (8, num_waves): what each lead sees of each wave
        leads = seen @ heights  # (8, num_samples)
        if parameters.atria is not None:
            leads += (DOWER_MATRIX @ parameters.atria.heart_vector(time_s)).astype(np.float32)
        if self.noise:
            rng = stream(self.seed, NOISE_STREAM, index)
            leads += electrode_noise(rng, parameters.noise, parameters.breathing, time_s, self.sampling_rate_hz)
        return _to_standard_leads(leads)


def _draw_rhythm(
    rng: np.random.Generator, labels: Sequence[str], duration_s: float, breathing: Breathing
) -> tuple[float, Beats, AtrialActivity | None, int | None]:
    """Mean RR interval, beats, atrial activity where it is not tied to beats, and flutter waves per beat."""
    if "atrial_flutter" in labels:
        rate_hz = rng.uniform(4.5, 5.2)  # 270 to 312 per minute
        conduction = (2, 3, 4, None)[int(rng.integers(4))]
        beats = flutter_beats(rng, duration_s, rate_hz, conduction)
        amplitude_mv = rng.uniform(0.15, 0.26) * (0.6 if "low_voltage" in labels else 1.0)
        flutter = FlutterWaves(amplitude_mv, rate_hz, rng.uniform(0, 2 * np.pi))
        return (conduction or 2.5) / rate_hz, beats, flutter, conduction
    if "atrial_fibrillation" in labels:
        rr_s = 60 / rng.uniform(55, 140)
        rates, phases = tuple(rng.uniform(5.2, 8.0, 3)), tuple(rng.uniform(0, 2 * np.pi, 3))
        fibrillation = FibrillatoryWaves(rng.uniform(0.04, 0.09), rates, phases)
        return rr_s, fibrillation_beats(rng, duration_s, rr_s), fibrillation, None
    slowest, fastest = {"sinus_bradycardia": (42, 56), "sinus_tachycardia": (105, 145)}.get(labels[0], (63, 96))
    rr_s = 60 / rng.uniform(slowest, fastest)
    return rr_s, sinus_beats(rng, duration_s, rr_s, breathing), None, None


def _draw_heart(rng: np.random.Generator, patient: Patient, labels: Sequence[str], rr_s: float) -> Heart:
    findings = frozenset(labels)
    size = float(np.clip(patient.voltage + rng.normal(0, 0.05), 0, 1))
    low, high = (0.26, 0.43) if "low_voltage" in findings else (0.85, 1.9)
    sokolow_mv = 3.9 + 1.5 * size if "left_ventricular_hypertrophy" in findings else 3.0
    if "left_bundle_branch_block" in findings:
        low, high, sokolow_mv = 0.75, 1.4, 3.0
    # The PR interval shortens with rate.
    pr_s = patient.pr_s + rng.normal(0, 0.004) - 0.1 * max(0.0, 0.6 - rr_s)
    has_p_waves = not findings & {"atrial_fibrillation", "atrial_flutter"}
    return Heart(
        findings=findings,
        pr_s=pr_s if has_p_waves else None,
        qrs_s=patient.qrs_s + rng.normal(0, 0.001),
        qt_s=(patient.qtc_s + rng.normal(0, 0.005)) * rr_s ** (1 / 3),  # Fridericia 1920
        axis_deg=patient.axis_deg + rng.normal(0, 1.5),
        limb_voltage_mv=low + (high - low) * size,
        sokolow_mv=sokolow_mv,
        p_gain=patient.p_gain * rng.uniform(0.95, 1.05),
        t_gain=patient.t_gain * rng.uniform(0.9, 1.1),
        st_gain=rng.uniform(0.85, 1.7),
        loop_variation=patient.loop_variation,
        ectopic_focus=patient.ectopic_focus,
    )


def _wave_heights(
    waves: Sequence[Wave], beats: Beats, breathing: Breathing, sampling_rate_hz: float, num_samples: int
) -> NDArray[np.float32]:
    """Height of every wave at every sample, `(num_waves, num_samples)`: all beats of a wave are evaluated at once."""
    padding = round(_PADDING_S * sampling_rate_hz)
    heights = np.zeros((len(waves), num_samples + 2 * padding), dtype=np.float32)
    expansion = 1 + 0.04 * breathing.at(beats.onset_s)  # breathing moves the heart towards and away from the leads
    for row, wave in zip(heights, waves, strict=True):
        chosen = np.logical_or.reduce([beats.origin == origin for origin in wave.origins])
        onset_s = beats.onset_s[chosen, None]
        first = np.ceil((onset_s + wave.start_s) * sampling_rate_hz).astype(np.int64)
        samples = first + np.arange(int((wave.end_s - wave.start_s) * sampling_rate_hz) + 1)  # (beats, width)
        row[samples + padding] = wave.height(samples / sampling_rate_hz - onset_s) * expansion[chosen, None]
    return heights[:, padding : padding + num_samples]


def _to_standard_leads(leads: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twelve leads in millivolts, rounded to microvolts, from the eight independent ones.

    Leads I and II are rounded to even microvolts: half of each is then whole, and so are all derived leads.
    """
    microvolts = np.empty((len(STANDARD_LEADS), leads.shape[1]), dtype=np.float32)
    limb = 2 * np.rint(500 * leads[:2])
    microvolts[:6] = limb_leads_from_i_and_ii(limb[0], limb[1])
    microvolts[6:] = np.rint(1000 * leads[2:])
    microvolts /= 1000
    return microvolts
