"""Atrial activity that is not tied to beats: fibrillatory and flutter waves, as functions of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FibrillatoryWaves:
    """Wavelets near 400 per minute that wander in rate and size.

    Args:
        amplitude_mv (`float`): Typical amplitude in V1.
        rates_hz (`tuple[float, ...]`): Mean rate of each of three wavelets.
        phases (`tuple[float, ...]`): Their phases at the recording's start, in radians.
    """

    amplitude_mv: float
    rates_hz: tuple[float, ...]
    phases: tuple[float, ...]

    def heart_vector(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """`np.ndarray` of shape `(3, num_samples)`: x, y, z in mV."""
        # The right atrium lies under V1: mostly front and right. Smaller parts elsewhere keep the leads from agreeing.
        directions = np.array([[-0.25, 0.15, -0.85], [0.05, 0.45, -0.35], [0.10, -0.25, -0.45]]).T
        rate, phase = np.array(self.rates_hz)[:, None], np.array(self.phases)[:, None]
        slow = 2 * np.pi * (0.13 + 0.07 * np.arange(3))[:, None] * time_s + 2 * phase
        wavelets = (1 + 0.4 * np.sin(1.7 * slow)) * np.sin(2 * np.pi * rate * time_s + phase + 2.5 * np.sin(slow))
        return self.amplitude_mv * directions @ wavelets


@dataclass(frozen=True)
class FlutterWaves:
    """The saw-tooth of typical (counter-clockwise) flutter: negative in II, III and aVF, positive in V1.

    Args:
        amplitude_mv (`float`): Size in aVF.
        rate_hz (`float`): Waves per second, near 5.
        phase (`float`): Radians at the recording's start.
    """

    amplitude_mv: float
    rate_hz: float
    phase: float

    def heart_vector(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """`np.ndarray` of shape `(3, num_samples)`: x, y, z in mV."""
        angle = 2 * np.pi * self.rate_hz * time_s + self.phase
        # Four harmonics: a slow descent and a fast return, without the corner of a true saw-tooth.
        saw = sum(np.sin(k * angle) / k * (1 - 0.18 * (k - 1)) for k in range(1, 5))
        return self.amplitude_mv * np.outer([0.0, 0.5, 0.22], saw)


AtrialActivity = FibrillatoryWaves | FlutterWaves
