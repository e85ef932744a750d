"""What a pipeline accepts as an ECG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hf_ecgtext.data.reading import read_record
from hf_ecgtext.data.records import EcgRecord

EcgInput = str | os.PathLike[str] | EcgRecord | Mapping[str, Any] | Any
"""A path of a WFDB record, a record, an array with `sampling_rate_hz`, or a mapping with both."""


def prepare_ecg(
    processor: Any,
    ecg: EcgInput,
    sampling_rate_hz: float | None = None,
    lead_names: Sequence[str] | None = None,
    unit: str = "mV",
) -> dict[str, Any]:
    """Model input for one ECG.

    Args:
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): The checkpoint's processor.
        ecg (`str`, `os.PathLike`, `EcgRecord`, `np.ndarray` or `Mapping`): A path of a WFDB record; a record; an array
            `(num_leads, num_samples)`; or a mapping of the array under `"ecg"` and of the other arguments.
        sampling_rate_hz (`float`, *optional*): Of an array.
        lead_names (`Sequence[str]`, *optional*): Of an array; the twelve standard leads by default.
        unit (`str`): Of an array.

    Returns:
        `dict` with `ecg_values` `(1, num_leads, num_samples)` and `lead_mask` `(1, num_leads)`.
    """
    if isinstance(ecg, Mapping):
        options = dict(ecg)
        if "ecg" not in options:
            raise ValueError(f"A mapping needs the signal under 'ecg'; this one has {sorted(options)}.")
        return prepare_ecg(processor, options.pop("ecg"), **options)
    if isinstance(ecg, str | os.PathLike):
        ecg = read_record(ecg)
    if isinstance(ecg, EcgRecord):
        return dict(processor.feature_extractor(ecg, return_tensors="pt"))
    return dict(
        processor.feature_extractor(
            ecg, sampling_rate_hz=sampling_rate_hz, lead_names=lead_names, unit=unit, return_tensors="pt"
        )
    )
