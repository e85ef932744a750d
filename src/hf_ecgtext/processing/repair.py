"""Samples that are not numbers: found and repaired lead by lead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.errors import RecordError


def interpolate_invalid(lead: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """One lead with straight lines over its gaps; a gap at an end takes the nearest valid sample.

    Args:
        lead (`np.ndarray` of shape `(num_samples,)`): mV.
        valid (`np.ndarray` of shape `(num_samples,)`): bool, with at least one `True`.
    """
    time = np.arange(lead.size)
    return np.interp(time, time[valid], lead[valid]).astype(lead.dtype)


def repair_invalid_samples(
    signals: NDArray[np.float32], nan_policy: str, record_ids: Sequence[str], lead_names: Sequence[str]
) -> NDArray[np.bool_]:
    """Replaces NaN and infinite samples, in place.

    Args:
        signals (`np.ndarray` of shape `(batch, num_leads, num_samples)`): mV; a lead with no valid sample becomes 0.
        nan_policy (`str`): `"interpolate"`, `"zero"` or `"raise"`.
        record_ids (`Sequence[str]`): One per record, for messages.
        lead_names (`Sequence[str]`): One per lead, for messages.

    Returns:
        `np.ndarray` of shape `(batch, num_leads)`: bool, `False` where a lead holds no valid sample.

    Raises:
        RecordError: If a sample is invalid and the policy is `"raise"`.
    """
    has_signal = np.ones(signals.shape[:2], dtype=bool)
    # One cheap pass: the sum is finite if all samples are, and an overflow only costs the exact check below.
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = ~np.isfinite(signals.sum(axis=-1))
    for record, lead in np.argwhere(suspect):
        values = signals[record, lead]
        valid = np.isfinite(values)
        if valid.all():
            continue
        if nan_policy == "raise":
            if not np.isfinite(signals[record]).any():  # no policy can mend that
                raise RecordError(
                    record_ids[record], "all samples of all leads are NaN or infinite.", "Drop the record."
                )
            raise RecordError(
                record_ids[record],
                f"lead {lead_names[lead]} has {np.count_nonzero(~valid)} NaN or infinite samples.",
                'Drop the record, or set nan_policy="interpolate".',
            )
        if not valid.any():
            values[:] = 0
            has_signal[record, lead] = False
        elif nan_policy == "interpolate":
            values[:] = interpolate_invalid(values, valid)
        else:
            values[~valid] = 0
    return has_signal
