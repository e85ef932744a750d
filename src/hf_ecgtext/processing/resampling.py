"""Changes of sampling rate and band, along the last axis, without delay."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# scipy.signal takes 0.5 CPU-seconds to import; only what needs it does, since many recordings have the right rate.

_RATE_RESOLUTION = 1000
"""Rates are read as fractions with a denominator up to this, so that 249.9 Hz means 2499 / 10."""


def resampling_ratio(from_hz: float, to_hz: float) -> Fraction:
    """`to_hz / from_hz` as an exact fraction, 500/257 for 257 Hz -> 500 Hz."""
    return Fraction(to_hz).limit_denominator(_RATE_RESOLUTION) / Fraction(from_hz).limit_denominator(_RATE_RESOLUTION)


def num_samples_after_resampling(num_samples: int, from_hz: float, to_hz: float) -> int:
    """Number of samples that `resample` returns: `num_samples * to_hz / from_hz`, rounded up."""
    ratio = resampling_ratio(from_hz, to_hz)
    return -(-num_samples * ratio.numerator // ratio.denominator)


def resample(signals: NDArray[np.float32], from_hz: float, to_hz: float) -> NDArray[np.float32]:
    """Anti-aliased change of the sampling rate; sample 0 stays at time 0 and equal rates return the input itself.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Finite.
        from_hz (`float`): Rate of `signals`.
        to_hz (`float`): Rate wanted.

    Returns:
        `np.ndarray` of shape `(..., ceil(num_samples * to_hz / from_hz))`: Same dtype.
    """
    ratio = resampling_ratio(from_hz, to_hz)
    if ratio == 1:
        return signals
    from scipy import signal as scipy_signal

    # The line from the first to the last sample is taken out and put back exactly: the filter, which sees zeros beyond
    # the ends, makes no ramp there and no ripple from an offset. (SciPy's padtype="line" leaves a ripple of 0.07 %.)
    first, last = signals[..., :1], signals[..., -1:]
    slope = (last - first) / max(signals.shape[-1] - 1, 1)  # mV per sample of the input
    time = np.arange(signals.shape[-1], dtype=np.float32)
    resampled = scipy_signal.resample_poly(
        signals - (first + slope * time), ratio.numerator, ratio.denominator, axis=-1, padtype="constant"
    )
    new_time = np.arange(resampled.shape[-1], dtype=np.float32) * np.float32(1 / ratio)
    resampled += first + slope * new_time
    return resampled


@lru_cache(maxsize=16)
def _butterworth(low_hz: float | None, high_hz: float | None, order: int, sampling_rate_hz: float) -> NDArray:
    from scipy import signal as scipy_signal

    kind = "lowpass" if low_hz is None else "highpass" if high_hz is None else "bandpass"
    edges = (low_hz, high_hz) if kind == "bandpass" else low_hz or high_hz
    return scipy_signal.butter(order, edges, btype=kind, fs=sampling_rate_hz, output="sos")


def bandpass(
    signals: NDArray[np.float32], band_hz: tuple[float | None, float | None], order: int, sampling_rate_hz: float
) -> NDArray[np.float32]:
    """Zero-phase Butterworth filter, run forwards and backwards.

    Args:
        signals (`np.ndarray` of shape `(..., num_samples)`): Finite.
        band_hz (`tuple` of two `float`, either `None`): Lower and upper edge, where the gain is 1/2 after both passes;
            `None` leaves that side open.
        order (`int`): Order of one pass.
        sampling_rate_hz (`float`): Rate of `signals`; above twice the upper edge.

    Raises:
        ValueError: If the signal is too short for the filter's start-up.
    """
    from scipy import signal as scipy_signal

    sections = _butterworth(*band_hz, order, sampling_rate_hz)
    return scipy_signal.sosfiltfilt(sections, signals, axis=-1).astype(np.float32)


def shortest_filterable_signal(band_hz: tuple[float | None, float | None], order: int, sampling_rate_hz: float) -> int:
    """Fewest samples that `bandpass` accepts: one more than the padding of `scipy.signal.sosfiltfilt`."""
    sections = _butterworth(*band_hz, order, sampling_rate_hz)
    num_taps = 2 * len(sections) + 1 - min((sections[:, 2] == 0).sum(), (sections[:, 5] == 0).sum())
    return 3 * int(num_taps) + 1
