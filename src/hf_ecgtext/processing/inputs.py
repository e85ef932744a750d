"""What a user may hand to the feature extractor, read into one list of recordings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers.utils import is_torch_tensor

from hf_ecgtext.data import plausibility
from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.units import canonical_unit
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS

if TYPE_CHECKING:
    from torch import Tensor

    EcgInput = AnyEcg | NDArray | Tensor | Sequence[AnyEcg] | Sequence[NDArray] | Sequence[Tensor]


class Recording(NamedTuple):
    """One recording as it was given: any real dtype, the unit still to be applied."""

    signal: NDArray  # (num_leads, num_samples)
    sampling_rate_hz: float
    lead_names: tuple[str, ...]
    record_id: str


def collect_recordings(
    ecg: EcgInput,
    sampling_rate_hz: float | None,
    lead_names: Sequence[str] | None,
    unit: str,
    record_ids: Sequence[str] | None,
) -> list[Recording]:
    """Reads the arguments of `EcgFeatureExtractor.__call__`; see there.

    Raises:
        RecordError: If one recording has an unusable shape, dtype, rate or set of names.
        TypeError: If `ecg` is none of the accepted types.
        ValueError: If arguments contradict each other or are missing.
    """
    try:
        unit = canonical_unit(unit)
    except ValueError as error:
        raise ValueError(f"unit: the signal {error}. Convert it to mV.") from error
    items = [ecg] if isinstance(ecg, AnyEcg) else ecg
    if isinstance(items, list | tuple) and any(isinstance(item, AnyEcg) for item in items):
        recordings = _from_records(items, sampling_rate_hz, lead_names, unit, record_ids)
    else:
        recordings = _from_arrays(items, sampling_rate_hz, lead_names, record_ids)
    for recording in recordings:
        _check_recording(recording, unit)
    return [_with_nan_where_masked(recording) for recording in recordings]


def _from_records(
    records: Sequence[Any],
    sampling_rate_hz: float | None,
    lead_names: Sequence[str] | None,
    unit: str,
    record_ids: Sequence[str] | None,
) -> list[Recording]:
    if not all(isinstance(record, AnyEcg) for record in records):
        raise TypeError("A list with EcgRecords must hold nothing else.")
    if not (sampling_rate_hz is None and lead_names is None and record_ids is None and unit == "mV"):
        raise ValueError(
            "An EcgRecord brings its own rate, lead names and id, and is in mV: "
            "leave sampling_rate_hz, lead_names, record_ids and unit out."
        )
    return [
        Recording(record.signal, record.sampling_rate_hz, tuple(record.lead_names), record.record_id)
        for record in records
    ]


def _from_arrays(
    ecg: Any, sampling_rate_hz: float | None, lead_names: Sequence[str] | None, record_ids: Sequence[str] | None
) -> list[Recording]:
    if isinstance(ecg, list | tuple):
        arrays = [_as_array(item) for item in ecg]
    else:
        whole = _as_array(ecg)
        if whole.ndim not in (1, 2, 3):
            raise ValueError(
                f"ecg has shape {whole.shape}; expected (num_leads, num_samples) or (batch, num_leads, num_samples)."
            )
        arrays = list(whole) if whole.ndim == 3 else [whole]
    if not arrays:
        raise ValueError("ecg is empty: pass at least one recording.")
    if sampling_rate_hz is None:
        raise ValueError(
            "sampling_rate_hz is required for arrays: pass the rate at which they were sampled, such as "
            "sampling_rate_hz=500, or pass EcgRecords, which carry it."
        )
    if record_ids is not None and len(record_ids) != len(arrays):
        raise ValueError(f"record_ids has {len(record_ids)} entries for {len(arrays)} recordings.")
    if isinstance(lead_names, str):
        raise TypeError(f'lead_names must be a list of names, such as ["{lead_names}"].')
    names = None if lead_names is None else tuple(lead_names)
    ids = [f"batch index {index}" for index in range(len(arrays))] if record_ids is None else record_ids
    recordings = []
    for array, record_id in zip(arrays, ids, strict=True):
        signal = array[None] if array.ndim == 1 else array
        recordings.append(Recording(signal, sampling_rate_hz, _names_of(signal, names, str(record_id)), str(record_id)))
    return recordings


def _with_nan_where_masked(recording: Recording) -> Recording:
    """A masked sample is a missing one; NumPy's functions would read what stands below the mask."""
    if not isinstance(recording.signal, np.ma.MaskedArray):
        return recording
    signal = np.asarray(recording.signal, dtype=None if recording.signal.dtype.kind == "f" else np.float32)
    missing = np.ma.getmaskarray(recording.signal)
    return recording._replace(signal=np.where(missing, signal.dtype.type(np.nan), signal))


def _as_array(value: Any) -> NDArray:
    """A NumPy view of an array or tensor."""
    if isinstance(value, np.ndarray):
        return value
    if is_torch_tensor(value):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    raise TypeError(
        f"ecg must be an EcgRecord, a NumPy array, a torch tensor, or a list of these; got {type(value).__name__}."
    )


def _names_of(signal: NDArray, lead_names: tuple[str, ...] | None, record_id: str) -> tuple[str, ...]:
    """The names given, or the standard twelve for twelve unnamed rows."""
    if lead_names is not None:
        return lead_names
    if signal.ndim == 2 and _looks_transposed(signal):
        raise _transposed(signal, record_id)
    if signal.ndim != 2 or len(signal) != len(STANDARD_LEADS):
        raise RecordError(
            record_id,
            f"lead_names is missing for a signal of shape {signal.shape}.",
            f"Pass lead_names; only twelve rows may go without, and are then read as {', '.join(STANDARD_LEADS)}.",
        )
    return STANDARD_LEADS


def check_sampling_rate(sampling_rate_hz: Any, record_id: str) -> None:
    """Raise a `RecordError` unless a sampling rate is a number that an ECG can have."""
    is_number = isinstance(sampling_rate_hz, int | float | np.number) and not isinstance(sampling_rate_hz, bool)
    if not (is_number and sampling_rate_hz > 0 and math.isfinite(sampling_rate_hz)):
        raise RecordError(
            record_id, f"sampling rate {sampling_rate_hz!r} is not a positive number.", "Pass the rate in Hz."
        )
    plausibility.check_sampling_rate(sampling_rate_hz, record_id, "Pass the rate in Hz at which it was sampled.")


def _looks_transposed(signal: NDArray) -> bool:
    return signal.shape[0] > signal.shape[1] > 0


def _transposed(signal: NDArray, record_id: str) -> RecordError:
    return RecordError(
        record_id,
        f"shape {signal.shape} looks like (num_samples, num_leads).",
        "Pass (num_leads, num_samples), for example ecg.T.",
    )


def _check_recording(recording: Recording, unit: str) -> None:
    signal, rate, names, record_id = recording
    if signal.ndim != 2 or signal.size == 0:
        raise RecordError(
            record_id,
            f"shape {signal.shape} is not (num_leads, num_samples) with at least one lead and one sample.",
            "Drop the record or correct its shape.",
        )
    if _looks_transposed(signal):
        raise _transposed(signal, record_id)
    if len(names) != len(signal):
        raise RecordError(record_id, f"{len(signal)} rows but {len(names)} lead names.", "Pass one name per row.")
    check_sampling_rate(rate, record_id)
    if signal.dtype.kind == "f" or (signal.dtype.kind in "iu" and unit in ("uV", "nV")):
        return
    raise RecordError(
        record_id,
        f"dtype {signal.dtype} with unit {unit!r} is not a signal in physical units (integers are usually ADC counts).",
        "Divide by the gain in the file's header to get mV as floating point, or pass unit='uV' for whole microvolts.",
    )
