"""A sign that the right-arm electrode was elsewhere, which no identity shows: only a suspicion, never repaired.

V6 looks at the heart from the left, as I does, and from below, as II does; aVR looks from the right shoulder. A QRS complex
that points against V6 in I or in II, and with it in aVR, is rare in hearts and usual where the electrode of the right arm
was exchanged with another. Small steps in time weigh the QRS complex more than P, T and baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEADS = ("I", "II", "V6")
_READ_S, _STEP_S = 10.0, 0.02
_AGAINST_V6, _WITH_V6 = -0.4, 0.2
_SMALLEST_STEP_MV = 0.001

SUSPICION = (
    "may have been recorded with the right-arm electrode elsewhere (LA/RA or RA/LL exchanged), or V6 is not V6: the QRS "
    "complex of aVR points as that of V6, against I or II. This is no proof, and nothing was changed. It was said of 0 of "
    "1,988 recordings of PTB-XL, of 75 % of them with LA and RA exchanged, and of 78 % with RA and LL exchanged."
)
"""What is said of the records."""


def reversal_rows(names: Sequence[str | None]) -> list[int]:
    """The rows that the suspicion needs; empty if one of them is missing."""
    return [list(names).index(lead) for lead in _LEADS] if set(_LEADS) <= set(names) else []


def reversal_samples(num_samples: int, sampling_rate_hz: float) -> slice:
    """The samples that are read: the first ten seconds in steps of 20 ms."""
    step = max(1, round(_STEP_S * sampling_rate_hz))
    return slice(0, min(num_samples, max(1, round(_READ_S * sampling_rate_hz))), step)


def suspects_reversal(signals: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Of each recording, whether the right-arm electrode seems to have been elsewhere.

    Args:
        signals (`np.ndarray` of shape `(batch, 3, num_samples)`): mV, the rows of `reversal_rows` at the samples of
            `reversal_samples`.

    Returns:
        `np.ndarray` of shape `(batch,)`.
    """
    if signals.shape[-1] < 2:
        return np.zeros(len(signals), dtype=bool)
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.diff(signals.astype(np.float64))
        products = steps @ steps.transpose(0, 2, 1) / steps.shape[-1]  # (batch, 3, 3)
        power_i, power_ii, power_v6 = (products[:, lead, lead] for lead in range(3))
        # aVR is -(I + II) / 2, also where the recording has no such row.
        power_avr = (power_i + power_ii + 2 * products[:, 0, 1]) / 4
        with_v6 = -(products[:, 0, 2] + products[:, 1, 2]) / 2
        smallest = _SMALLEST_STEP_MV**2
        against = products[:, 0, 2] < _AGAINST_V6 * np.sqrt(power_i * power_v6)
        against &= power_i > smallest
        against_ii = products[:, 1, 2] < _AGAINST_V6 * np.sqrt(power_ii * power_v6)
        against |= against_ii & (power_ii > smallest)
        return against & (with_v6 > _WITH_V6 * np.sqrt(power_avr * power_v6)) & (power_v6 > smallest)
