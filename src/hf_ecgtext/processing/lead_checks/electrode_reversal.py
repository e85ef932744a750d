"""A sign that the right-arm electrode was elsewhere, which no identity shows: only a suspicion, never repaired.

V6 looks at the heart from the left, as I does, and from below, as II does; aVR looks from the right shoulder. A QRS
complex that points against V6 in I or in II is rare in hearts. If it also points with V6 in aVR, or if the P wave of I
is upside down, then it is likely that the electrode of the right arm was exchanged with another. Hearts with a left
axis, a block or a pacemaker have the one without the other, as a rule.

The limits below were chosen on the recordings on which docs/data/lead-checks.md measures them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LEADS = ("I", "II", "V6")
_READ_S, _STEP_S = 10.0, 0.02
_LOWEST_RATE_HZ = 40.0
_AGAINST_V6, _WITH_V6 = -0.4, 0.2
_SMALLEST_STEP_MV = 0.001
_INVERTED_P_MV = -0.01

SUSPICION = (
    "may have been recorded with the right-arm electrode elsewhere (LA/RA or RA/LL exchanged), or V6 is not V6: the "
    "QRS complex of I or II points against that of V6, and that of aVR with it or the P wave of I is upside down. This "
    "is no proof, and nothing was changed. It was said of 1 of 1,988 recordings of PTB-XL, of 90 % of them with LA and "
    "RA exchanged, and of 79 % with RA and LL exchanged."
)
"""What is said of the records."""


def reversal_rows(names: Sequence[str | None], sampling_rate_hz: float) -> list[int]:
    """The rows that the suspicion needs; empty if one of them is missing, or too few samples show a wave."""
    is_possible = set(_LEADS) <= set(names) and sampling_rate_hz >= _LOWEST_RATE_HZ
    return [list(names).index(lead) for lead in _LEADS] if is_possible else []


def reversal_samples(num_samples: int, sampling_rate_hz: float) -> slice:
    """The samples that are read: the first ten seconds in steps of 20 ms."""
    return slice(0, min(num_samples, round(_READ_S * sampling_rate_hz)), round(_STEP_S * sampling_rate_hz))


def points_against_v6(signals: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The quick test: of each recording, whether the QRS complex of I or of II points against that of V6.

    Args:
        signals (`np.ndarray` of shape `(batch, 3, num_samples)`): mV, the rows of `reversal_rows` at the samples of
            `reversal_samples`.

    Returns:
        `np.ndarray` of shape `(batch,)`.
    """
    correlations = _correlations_with_v6(signals)
    return (correlations[:, 0] < _AGAINST_V6) | (correlations[:, 1] < _AGAINST_V6)


def suspects_reversal(signals: NDArray[np.floating]) -> bool:
    """Whether the right-arm electrode of one recording seems to have been elsewhere.

    Args:
        signals (`np.ndarray` of shape `(3, num_samples)`): As in `points_against_v6`.
    """
    if not np.isfinite(signals).all():
        return False
    lead_i, lead_ii, avr = _correlations_with_v6(signals[None])[0]
    if min(lead_i, lead_ii) < _AGAINST_V6 and avr > _WITH_V6:
        return True
    return bool(lead_i < _AGAINST_V6 and _p_wave_mv(signals) < _INVERTED_P_MV)


def suspected_reversals(signals: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Of each recording, whether `suspects_reversal` says so; the quick test spares most of them that look.

    Args:
        signals (`np.ndarray` of shape `(batch, 3, num_samples)`): As in `points_against_v6`.

    Returns:
        `np.ndarray` of shape `(batch,)`.
    """
    suspected = points_against_v6(signals)
    for record in np.flatnonzero(suspected).tolist():
        suspected[record] = suspects_reversal(signals[record])
    return suspected


def _correlations_with_v6(signals: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of I, II and aVR, of shape `(batch, 3)`; 0 where a lead has no waves.

    They are of steps in time, which weigh the QRS complex more than P, T and baseline.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        steps = signals[..., 1:] - signals[..., :-1]
        products = steps @ steps.transpose(0, 2, 1) / max(1, steps.shape[-1])  # (batch, 3, 3)
        # aVR is -(I + II) / 2, also where the recording has no such row.
        weights = np.array([[1, 0, 0], [0, 1, 0], [-0.5, -0.5, 0]], dtype=products.dtype)
        power = np.einsum("la,nab,lb->nl", weights, products, weights)
        v6 = products[:, 2, 2]
        has_waves = (np.minimum(power, v6[:, None]) > _SMALLEST_STEP_MV**2) & np.isfinite(power)
        correlations = products[:, 2] @ weights.T / np.sqrt(np.maximum(power * v6[:, None], _SMALLEST_STEP_MV**4))
    return np.where(has_waves, correlations, 0)


def _p_wave_mv(signals: NDArray[np.floating]) -> float:
    """The mean of lead I over the time of the P wave, above the line between its ends, in the median of the beats."""
    energy = np.convolve(np.square(np.diff(signals)).sum(axis=0), np.ones(3), mode="same")
    peaks: list[int] = []
    for place in np.argsort(-energy):  # 300 ms apart, the steepest first
        if energy[place] < 0.3 * np.quantile(energy, 0.98):
            break
        if all(abs(place - peak) > 15 for peak in peaks):
            peaks.append(int(place))
    beats = [signals[0, peak - 14 : peak + 1] for peak in peaks if peak >= 14]  # 280 ms before the QRS complex
    if len(beats) < 3:
        return 0.0
    beat = np.median(beats, axis=0)
    wave = slice(3, 11)  # 220 to 80 ms before it
    line = np.interp(np.arange(len(beat))[wave], [2, 11], [np.median(beat[:3]), beat[11]])
    return float((beat[wave] - line).mean())
