"""When the heart beats: onset times and origin of every beat, for each rhythm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NORMAL, PREMATURE_ATRIAL, PREMATURE_VENTRICULAR = 0, 1, 2
"""Origins of a beat."""

MARGIN_S = 1.5
"""Beats are drawn this long before and after the recording, so that its edges cut through waves as in life."""


@dataclass(frozen=True, eq=False)
class Beats:
    """The beats of one recording.

    Args:
        onset_s (`np.ndarray` of shape `(num_beats,)`): QRS onsets in seconds after the recording's start, ascending;
            some lie outside of the recording.
        origin (`np.ndarray` of shape `(num_beats,)`): `NORMAL`, `PREMATURE_ATRIAL` or `PREMATURE_VENTRICULAR`.
        duration_s (`float`): Length of the recording.
    """

    onset_s: NDArray[np.float64]
    origin: NDArray[np.int8]
    duration_s: float

    @property
    def heart_rate_bpm(self) -> float:
        """Beats per minute: 60 over the mean distance of the beats inside the recording."""
        inside = self.onset_s[(self.onset_s >= 0) & (self.onset_s < self.duration_s)]
        return float(60 * (len(inside) - 1) / (inside[-1] - inside[0]))


@dataclass(frozen=True)
class Breathing:
    """Respiration, which moves heart rate, QRS amplitude and baseline.

    Args:
        rate_hz (`float`): Breaths per second.
        phase (`float`): Radians at the recording's start.
    """

    rate_hz: float
    phase: float

    def at(self, time_s: NDArray[np.floating]) -> NDArray[np.floating]:
        """Chest expansion between -1 and 1 at the given times."""
        return np.sin(2 * np.pi * self.rate_hz * time_s + self.phase)


def sinus_beats(rng: np.random.Generator, duration_s: float, rr_s: float, breathing: Breathing) -> Beats:
    """Nearly regular beats with respiratory (high-frequency) and 0.1 Hz (low-frequency) variability.

    Args:
        rng (`np.random.Generator`): Source of randomness.
        duration_s (`float`): Length of the recording.
        rr_s (`float`): Mean distance of two beats.
        breathing (`Breathing`): Drives the respiratory part.

    Source: the two frequency bands of short-term variability, Task Force of the ESC and NASPE, 1996. The depths are
    small enough that nobody would call the rhythm a sinus arrhythmia.
    """
    respiratory_depth = rng.uniform(0.005, 0.03)
    slow_depth, slow_phase = rng.uniform(0.003, 0.015), rng.uniform(0, 2 * np.pi)
    first = -MARGIN_S - rng.uniform(0, rr_s)
    count = _enough_beats(duration_s, 0.85 * rr_s)
    time = first + rr_s * np.arange(count)
    rr = rr_s * (
        1
        + respiratory_depth * breathing.at(time)
        + slow_depth * np.sin(2 * np.pi * 0.1 * time + slow_phase)
        + 0.004 * rng.standard_normal(count)
    )
    return _beats(first, rr, duration_s)


def fibrillation_beats(rng: np.random.Generator, duration_s: float, rr_s: float) -> Beats:
    """Irregularly irregular beats: independent gamma-distributed distances."""
    spread = rng.uniform(0.18, 0.26)  # standard deviation over mean
    first = -MARGIN_S - rng.uniform(0, rr_s)
    count = _enough_beats(duration_s, 0.6 * rr_s)
    rr = rng.gamma(1 / spread**2, rr_s * spread**2, count)
    return _beats(first, np.clip(rr, 0.32, 2.0), duration_s)


def flutter_beats(rng: np.random.Generator, duration_s: float, flutter_rate_hz: float, conduction: int | None) -> Beats:
    """Beats that follow every second to fourth flutter wave.

    Args:
        rng (`np.random.Generator`): Source of randomness.
        duration_s (`float`): Length of the recording.
        flutter_rate_hz (`float`): Flutter waves per second.
        conduction (`int`, *optional*): Flutter waves per beat; `None` varies it between 2 and 4.
    """
    count = _enough_beats(duration_s, 2 / flutter_rate_hz)
    waves = rng.choice((2, 3, 4), size=count, p=(0.4, 0.25, 0.35)) if conduction is None else np.full(count, conduction)
    first = -MARGIN_S - rng.uniform(0, 1 / flutter_rate_hz)
    return _beats(first, waves / flutter_rate_hz + 0.004 * rng.standard_normal(count), duration_s)


def add_premature_beats(rng: np.random.Generator, beats: Beats, origin: int, earliest_s: float) -> Beats:
    """Make one to three beats premature.

    A ventricular beat leaves the sinus node alone, so the next beat comes when it would have come anyway (compensatory
    pause); an atrial beat resets the node, so the rest of the rhythm moves forward.

    Args:
        rng (`np.random.Generator`): Source of randomness.
        beats (`Beats`): The rhythm underneath.
        origin (`int`): `PREMATURE_ATRIAL` or `PREMATURE_VENTRICULAR`.
        earliest_s (`float`): Shortest distance to the beat before, so that the new beat clears its T wave.
    """
    onset, kinds = beats.onset_s.copy(), beats.origin.copy()
    free = (kinds == NORMAL) & (np.roll(kinds, 1) == NORMAL) & (np.roll(kinds, -1) == NORMAL)
    # A beat is early only against its neighbours, so both must be in the recording.
    framed = (np.roll(onset, 1) > 0.2) & (np.roll(onset, -1) < beats.duration_s - 0.2) & (onset < beats.duration_s)
    candidates = np.flatnonzero(free & framed & (onset > 0.2))
    wanted = 1 + rng.binomial(2, 0.4)
    chosen: list[int] = []
    for index in rng.permutation(candidates):
        if len(chosen) < wanted and all(abs(index - other) > 2 for other in chosen):
            chosen.append(int(index))
    for index in sorted(chosen):
        rr = onset[index] - onset[index - 1]
        coupling = max(rng.uniform(0.58, 0.72) * rr, min(earliest_s, 0.8 * rr))
        advance = rr - coupling
        onset[index] -= advance
        kinds[index] = origin
        if origin == PREMATURE_ATRIAL:
            onset[index + 1 :] -= 0.9 * advance
    return Beats(onset, kinds, beats.duration_s)


def _enough_beats(duration_s: float, shortest_mean_rr_s: float) -> int:
    return math.ceil((duration_s + 3 * MARGIN_S) / shortest_mean_rr_s) + 2


def _beats(first_s: float, rr_s: NDArray[np.float64], duration_s: float) -> Beats:
    onset = first_s + np.concatenate([[0.0], np.cumsum(rr_s[:-1])])
    onset = onset[onset < duration_s + MARGIN_S]
    return Beats(onset, np.full(len(onset), NORMAL, dtype=np.int8), duration_s)
