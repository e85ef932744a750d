"""What a pipeline accepts as an ECG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.wfdb.reading import read_record
from hf_ecgtext.processing import EcgFeatureExtractor

EcgInput = str | os.PathLike[str] | AnyEcg | Mapping[str, Any] | Any
"""A path of a WFDB record, a record, an array with `sampling_rate_hz`, or a mapping with both."""

_MAPPING_KEYS = {"ecg", "sampling_rate_hz", "lead_names", "unit"}


def prepare_ecg(
    feature_extractor: EcgFeatureExtractor,
    ecg: EcgInput,
    sampling_rate_hz: float | None = None,
    lead_names: Sequence[str] | None = None,
    unit: str = "mV",
) -> dict[str, Any]:
    """Model input for one ECG.

    Args:
        feature_extractor ([`~hf_ecgtext.processing.EcgFeatureExtractor`]): The checkpoint's.
        ecg (`str`, `os.PathLike`, `EcgRecord`, `np.ndarray` or `Mapping`): A path of a WFDB record; a record; an array
            `(num_leads, num_samples)`; or a mapping of the array under `"ecg"` and of the other arguments.
        sampling_rate_hz (`float`, *optional*): Of an array.
        lead_names (`Sequence[str]`, *optional*): Of an array; the twelve standard leads by default.
        unit (`str`): Of an array.

    Raises:
        RecordError: If the recording cannot be used.
        ValueError: If an argument is missing or impossible, a mapping has other keys, or there are several recordings.

    Returns:
        `dict` with `ecg_values` `(1, num_leads, num_samples)` and `lead_mask` `(1, num_leads)`.
    """
    if isinstance(ecg, Mapping):
        options = dict(ecg)
        if "ecg" not in options or not options.keys() <= _MAPPING_KEYS:
            raise ValueError(
                f"A mapping holds the signal under 'ecg' and may hold {', '.join(sorted(_MAPPING_KEYS - {'ecg'}))}; "
                f"this one has {', '.join(map(repr, options))}."
            )
        return prepare_ecg(feature_extractor, options.pop("ecg"), **options)
    if isinstance(ecg, str | os.PathLike):
        ecg = read_record(ecg)
    if isinstance(ecg, AnyEcg):
        return dict(feature_extractor(ecg, return_tensors="pt"))
    batch = dict(
        feature_extractor(ecg, sampling_rate_hz=sampling_rate_hz, lead_names=lead_names, unit=unit, return_tensors="pt")
    )
    if len(batch["ecg_values"]) != 1:
        raise ValueError(
            f"Expected one recording, got {len(batch['ecg_values'])} in one {type(ecg).__name__}. Pass several as a "
            "list: list(ecg)."
        )
    return batch
