"""A stored row as datasets hand it out: not yet decoded, so that its integers can travel to the device as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.records import EcgRecord, digital_to_millivolts


@dataclass(frozen=True, eq=False)
class StoredEcg:
    """One recording as a prepared dataset stores it; `hf_ecgtext.data.storage.row_to_stored` makes it from a row.

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
