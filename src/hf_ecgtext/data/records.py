"""The shapes in which ECGs travel through this library: in millivolts, as the converter wrote them, and as stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

INVALID_SAMPLE = np.iinfo(np.int16).min
"""WFDB's mark for "no valid sample" in 16-bit signals; it becomes NaN."""


def has_valid_sample(samples: NDArray[Any]) -> bool:
    """Whether there is any sample that is not missing.

    Args:
        samples (`np.ndarray` of shape `(num_leads, num_samples)`): int16 with `INVALID_SAMPLE` for a missing sample, or
            floating point with NaN; infinite values are no valid samples either.
    """
    if not samples.size:
        return False
    if samples.dtype.kind == "f":
        # The first sample decides for nearly every record.
        return bool(np.isfinite(samples[0, 0]) or np.isfinite(samples).any())
    return bool(samples[0, 0] != INVALID_SAMPLE or samples.max() != INVALID_SAMPLE)


@dataclass(frozen=True, eq=False)
class EcgRecord:
    """One recording in physical units, with what its files say about it.

    Args:
        signal (`np.ndarray` of shape `(num_leads, num_samples)`): float32, millivolts; NaN where the file marks a
            sample as invalid.
        sampling_rate_hz (`float`): Samples per second.
        lead_names (`tuple[str, ...]`): One name per row, as the source spells it.
        record_id (`str`): Unique within its dataset.
        patient_id (`str`, *optional*): Records of one patient must not be split between training and test.
        report (`str`, *optional*): Free text, as the source words it.
        labels (`tuple[str, ...]`): Codes or class names, such as SNOMED CT or SCP.
        comments (`tuple[str, ...]`): Comment lines of the header, without the leading `#`.
        attributes (`dict[str, Any]`): Whatever else the source says, such as age and sex.
    """

    signal: NDArray[np.float32]
    sampling_rate_hz: float
    lead_names: tuple[str, ...]
    record_id: str
    patient_id: str | None = None
    report: str | None = None
    labels: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or self.signal.shape[0] != len(self.lead_names):
            raise ValueError(
                f"Record '{self.record_id}': signal has shape {self.signal.shape} but {len(self.lead_names)} lead "
                "names; expected (num_leads, num_samples) with one name per lead."
            )

    @property
    def num_samples(self) -> int:
        """Number of samples per lead."""
        return self.signal.shape[1]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sampling_rate_hz


@dataclass(frozen=True, eq=False)
class DigitalEcg:
    """A recording as the converter wrote it: integers, and what turns them into millivolts.

    This is what is stored on disk and sent to training workers, at half the size of float32 and without loss.

    Args:
        adc (`np.ndarray` of shape `(num_leads, num_samples)`): int16; `INVALID_SAMPLE` marks a missing sample.
        gain_per_mv (`np.ndarray` of shape `(num_leads,)`): float64, ADC units per millivolt, not zero.
        baseline (`np.ndarray` of shape `(num_leads,)`): int32, the ADC value of 0 mV.
    """

    adc: NDArray[np.int16]
    gain_per_mv: NDArray[np.float64]
    baseline: NDArray[np.int32]

    def to_millivolts(self) -> NDArray[np.float32]:
        """float32 millivolts of shape `(num_leads, num_samples)`, NaN at invalid samples."""
        return digital_to_millivolts(self.adc, self.gain_per_mv, self.baseline)


def digital_to_millivolts(
    adc: NDArray[np.int16], gain_per_mv: NDArray[np.float64], baseline: NDArray[np.int32]
) -> NDArray[np.float32]:
    """`(adc - baseline) / gain`, rounded once to float32.

    Args:
        adc (`np.ndarray` of shape `(..., num_leads, num_samples)`): int16.
        gain_per_mv, baseline (`np.ndarray` of shape `(..., num_leads)`): Per lead.

    Returns:
        `np.ndarray` of the shape of `adc`: float32 millivolts, NaN at invalid samples.
    """
    gain = np.asarray(gain_per_mv, dtype=np.float64)
    offset = np.asarray(baseline, dtype=np.float64)
    # An int16 minus a small integer is exact in float32, so one float32 division rounds exactly once, as float64
    # would; only gains that float32 cannot hold need the wider type.
    narrow_gain = gain.astype(np.float32)
    is_shifted = bool(offset.any())
    exact = (narrow_gain == gain).all() and (not is_shifted or (np.abs(offset) < 2**23).all())
    dtype: type[np.floating] = np.float32 if exact else np.float64
    signal: NDArray[np.floating] = adc.astype(dtype)
    if is_shifted:
        signal -= offset[..., None].astype(dtype)
    signal /= (narrow_gain if exact else gain)[..., None]
    if adc.size and adc.min() == INVALID_SAMPLE:
        signal[adc == INVALID_SAMPLE] = np.nan
    return signal.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class StoredEcg:
    """One recording as a prepared dataset stores it; `hf_ecgtext.data.store.schema.row_to_stored` makes it from a row.

    It has the attributes of an [`EcgRecord`], but `signal` is computed each time it is asked for.

    Args:
        samples (`np.ndarray` of shape `(num_leads, num_samples)`): int16 with `INVALID_SAMPLE` for a missing sample, or
            float32 in millivolts. Often a read-only view of a whole table's memory: copy what you keep.
        gain_per_mv (`np.ndarray` of shape `(num_leads,)`): float64, units per millivolt; 1 for float32 samples.
        baseline (`np.ndarray` of shape `(num_leads,)`): int32, the sample that means 0 mV; 0 for float32 samples.
        sampling_rate_hz, lead_names, record_id, patient_id, report, labels, attributes: As in [`EcgRecord`].
    """

    samples: NDArray[np.int16] | NDArray[np.float32]
    gain_per_mv: NDArray[np.float64]
    baseline: NDArray[np.int32]
    sampling_rate_hz: float
    lead_names: tuple[str, ...]
    record_id: str
    patient_id: str | None = None
    report: str | None = None
    labels: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape, num_leads = self.samples.shape, len(self.lead_names)
        if len(shape) != 2 or not shape[0] == num_leads == len(self.gain_per_mv) == len(self.baseline):
            raise ValueError(
                f"Record '{self.record_id}': samples of shape {shape}, {len(self.gain_per_mv)} gains and "
                f"{len(self.baseline)} baselines for {num_leads} lead names; expected one of each per lead."
            )
        if self.samples.dtype not in (np.int16, np.float32):
            raise ValueError(f"Record '{self.record_id}': samples are {self.samples.dtype}, not int16 or float32.")

    @property
    def signal(self) -> NDArray[np.float32]:
        """Millivolts of shape `(num_leads, num_samples)`, NaN at missing samples; a new array each time."""
        if self.samples.dtype == np.float32:
            return np.array(self.samples)
        return digital_to_millivolts(self.samples, self.gain_per_mv, self.baseline)  # type: ignore[arg-type]

    @property
    def comments(self) -> tuple[str, ...]:
        """Empty: header comments are not stored."""
        return ()

    @property
    def num_samples(self) -> int:
        """Number of samples per lead."""
        return self.samples.shape[1]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sampling_rate_hz

    def to_record(self) -> EcgRecord:
        """The same recording in millivolts."""
        return EcgRecord(
            signal=self.signal,
            sampling_rate_hz=self.sampling_rate_hz,
            lead_names=self.lead_names,
            record_id=self.record_id,
            patient_id=self.patient_id,
            report=self.report,
            labels=self.labels,
            attributes=self.attributes,
        )


AnyEcg = EcgRecord | StoredEcg
"""Either shape of a record; `isinstance(value, AnyEcg)` works."""
