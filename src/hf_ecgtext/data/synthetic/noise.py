"""What the skin, the muscles and the mains add to an ECG.

Noise belongs to electrodes, so it is added to the eight independent leads; the four derived limb leads then carry the
noise that Einthoven's and Goldberger's identities demand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.synthetic.rhythm import Breathing

MUSCLE_BANDWIDTH_HZ = 250.0
"""Muscle noise is taken as flat up to here; a recorder with a lower Nyquist rate keeps that share of its power."""


@dataclass(frozen=True)
class NoiseParameters:
    """How noisy a recording is.

    Args:
        wander_mv (`float`): Typical amplitude of the baseline wander.
        mains_hz (`float`): 50 or 60.
        mains_mv (`float`): Typical amplitude of the mains hum.
        muscle_mv (`float`): Root-mean-square muscle noise at full bandwidth.
    """

    wander_mv: float
    mains_hz: float
    mains_mv: float
    muscle_mv: float


def draw_noise_parameters(rng: np.random.Generator) -> NoiseParameters:
    """Mostly clean recordings: 78 % mild, 17 % moderate, 5 % poor."""
    level = rng.choice((1.0, 2.0, 3.5), p=(0.78, 0.17, 0.05))
    return NoiseParameters(
        wander_mv=level * rng.uniform(0.01, 0.045),
        mains_hz=float(rng.choice((50.0, 60.0))),
        mains_mv=level * 0.003 * rng.exponential(),
        muscle_mv=level * rng.uniform(0.004, 0.012),
    )


def electrode_noise(
    rng: np.random.Generator,
    parameters: NoiseParameters,
    breathing: Breathing,
    time_s: NDArray[np.floating],
    sampling_rate_hz: float,
    num_leads: int = 8,
) -> NDArray[np.float32]:
    """Noise of the independent leads.

    Baseline wander and mains hum are functions of time, the same at every sampling rate; hum at or above the Nyquist
    rate is left out, as an anti-aliasing filter would. Muscle noise is drawn per sample.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`: float32, mV.
    """
    slow_hz, slow_phase = rng.uniform(0.03, 0.12, 2), rng.uniform(0, 2 * np.pi, 2)
    shapes = [np.sin(2 * np.pi * hz * time_s + phase) for hz, phase in zip(slow_hz, slow_phase, strict=True)]
    shapes.append(breathing.at(time_s))
    weights = [parameters.wander_mv * rng.standard_normal((num_leads, 3))]
    hum = parameters.mains_mv * rng.standard_normal((num_leads, 2))
    if parameters.mains_hz < sampling_rate_hz / 2:
        angle = 2 * np.pi * parameters.mains_hz * time_s
        shapes += [np.sin(angle), np.cos(angle)]
        weights.append(hum)
    noise = np.hstack(weights).astype(np.float32) @ np.stack(shapes).astype(np.float32)

    kept = min(1.0, sampling_rate_hz / 2 / MUSCLE_BANDWIDTH_HZ) ** 0.5
    muscle_mv = parameters.muscle_mv * kept * rng.uniform(0.5, 1.5, (num_leads, 1))
    swell = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * time_s + rng.uniform(0, 2 * np.pi))
    muscle = rng.standard_normal((num_leads, len(time_s)), dtype=np.float32)
    muscle *= muscle_mv.astype(np.float32)
    muscle *= swell.astype(np.float32)
    noise += muscle
    return noise
