"""The heart as one moving dipole: waves of a beat, and what the leads see of them.

The heart vector has the axes x (to the patient's left), y (to the feet) and z (to the back), in mV. Every wave is a
smooth bump along a fixed direction; a lead is the heart vector times the lead's row of the Dower matrix. Times are
seconds after QRS onset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.synthetic.rhythm import NORMAL, PREMATURE_ATRIAL, PREMATURE_VENTRICULAR
from hf_ecgtext.leads import limb_leads_from_i_and_ii

Vector = tuple[float, float, float]

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

DOWER_MATRIX: NDArray[np.float64] = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""`INDEPENDENT_LEADS` from x, y, z. Source: Dower, Machado and Osborne, Clin. Cardiol. 3:87, 1980."""

# What the frontal plane sees of (x, y): lead I and aVF, the latter times 2 / sqrt(3) because an augmented lead is
# that much shorter than a bipolar one in Einthoven's triangle.
_FRONTAL: NDArray[np.float64] = np.array(
    [DOWER_MATRIX[0], (DOWER_MATRIX[1] - DOWER_MATRIX[0] / 2) * 2 / np.sqrt(3)], dtype=np.float64
)

CONDUCTED = (NORMAL, PREMATURE_ATRIAL)


@dataclass(frozen=True)
class Wave:
    """A smooth bump: zero before `start_s`, full from `rise_s` to `fall_s`, zero after `end_s`.

    Args:
        start_s, rise_s, fall_s, end_s (`float`): Seconds after QRS onset, ascending.
        vector (`tuple[float, float, float]`): Heart vector at full height, x, y, z, in mV.
        origins (`tuple[int, ...]`): Which beats have this wave; see `rhythm.py`.
        turns (`bool`): Whether the wave follows the frontal axis of the heart.
    """

    start_s: float
    rise_s: float
    fall_s: float
    end_s: float
    vector: Vector
    origins: tuple[int, ...] = CONDUCTED
    turns: bool = True

    @property
    def area_s(self) -> float:
        """Integral over time of a wave of height one."""
        return (self.end_s - self.start_s + self.fall_s - self.rise_s) / 2

    def times(self, factor: float) -> Wave:
        """The same wave, higher."""
        x, y, z = self.vector
        return replace(self, vector=(factor * x, factor * y, factor * z))

    def height(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height between 0 and 1 at the given times: raised-cosine flanks around a plateau."""
        rising = (time_s - self.start_s) / (self.rise_s - self.start_s)
        falling = (self.end_s - time_s) / (self.end_s - self.fall_s)
        return 0.5 - 0.5 * np.cos(np.pi * np.clip(np.minimum(rising, falling), 0.0, 1.0))


def hump(
    start_s: float,
    peak_s: float,
    end_s: float,
    vector: Vector,
    origins: tuple[int, ...] = CONDUCTED,
    turns: bool = True,
) -> Wave:
    """A wave without plateau."""
    return Wave(start_s, peak_s, peak_s, end_s, vector, origins, turns)


@dataclass(frozen=True)
class Heart:
    """Everything that shapes the beats of one recording.

    Args:
        findings (`frozenset[str]`): Keys of `CONDITIONS`.
        pr_s (`float`, *optional*): PR interval; `None` where there are no P waves.
        qrs_s, qt_s (`float`): QRS duration and QT interval.
        axis_deg (`float`): Frontal axis of the net QRS area.
        limb_voltage_mv (`float`): Largest peak-to-peak QRS among the limb leads.
        sokolow_mv (`float`): S in V1 plus R in V5 or V6: the value in hypertrophy, otherwise an upper bound.
        p_gain, t_gain, st_gain (`float`): Relative size of the P, T and ST vectors.
        loop_variation (`tuple[Vector, ...]`): Relative size of x, y, z of the four main QRS waves.
        ectopic_focus (`int`): Index of the place where ventricular premature beats start.
    """

    findings: frozenset[str]
    pr_s: float | None
    qrs_s: float
    qt_s: float
    axis_deg: float
    limb_voltage_mv: float
    sokolow_mv: float
    p_gain: float
    t_gain: float
    st_gain: float
    loop_variation: tuple[Vector, ...]
    ectopic_focus: int


# QRS loops: (start, peak, end) as shares of the QRS duration, vector in mV, whether the wave turns with the axis.
_LoopTable = tuple[tuple[float, float, float, Vector, bool], ...]

_NORMAL_LOOP: _LoopTable = (
    (0.00, 0.22, 0.46, (-0.20, -0.12, -0.34), True),  # septum: r in V1, q in V6
    (0.14, 0.42, 0.72, (1.00, 0.78, -0.05), True),  # apex and free wall: R
    (0.36, 0.60, 0.86, (0.40, 0.25, 0.85), True),  # backward swing: S in V1 to V3
    (0.62, 0.82, 1.00, (-0.28, -0.20, 0.22), True),  # base: small final s
)
_HYPERTROPHY_LOOP: _LoopTable = (
    (0.00, 0.20, 0.40, (-0.15, -0.08, -0.30), True),
    (0.14, 0.44, 0.74, (1.45, 0.70, 0.20), True),
    (0.34, 0.60, 0.88, (0.80, 0.25, 1.00), True),
    (0.66, 0.84, 1.00, (-0.15, -0.15, 0.25), True),
)
_RIGHT_BLOCK_LOOP: _LoopTable = (
    (0.00, 0.14, 0.30, (-0.16, -0.10, -0.34), True),
    (0.09, 0.28, 0.50, (1.00, 0.78, 0.00), True),
    (0.24, 0.40, 0.58, (0.25, 0.15, 0.75), True),
    (0.42, 0.70, 1.00, (-0.62, 0.00, -0.75), False),  # late right ventricle: R' in V1, wide S in I and V6
)
_LEFT_BLOCK_LOOP: _LoopTable = (
    (0.00, 0.14, 0.30, (0.12, 0.02, -0.05), True),  # no septal q
    (0.06, 0.34, 0.64, (0.95, 0.30, 0.75), True),
    (0.32, 0.50, 0.68, (0.18, 0.08, 0.60), True),
    (0.40, 0.70, 1.00, (0.95, 0.28, 0.70), True),  # second hump: the notch
)
# After an infarction the first wave points away from the scar, whatever the axis, and the rest comes late.
_INFERIOR_SCAR_LOOP: _LoopTable = (
    (0.00, 0.28, 0.62, (-0.05, -0.50, -0.28), False),  # Q in II, III and aVF
    (0.28, 0.50, 0.76, (1.30, 0.95, -0.05), True),
    (0.40, 0.62, 0.86, (0.40, 0.25, 0.85), True),
    (0.66, 0.84, 1.00, (-0.20, -0.15, 0.22), True),
)
_ANTERIOR_SCAR_LOOP: _LoopTable = (
    (0.00, 0.28, 0.75, (-0.10, 0.20, 0.75), False),  # Q or QS in V2 to V4
    (0.20, 0.46, 0.74, (1.00, 0.78, 0.00), True),
    (0.36, 0.60, 0.86, (0.40, 0.25, 0.65), True),
    (0.62, 0.82, 1.00, (-0.20, -0.20, 0.22), True),
)
_LOOPS: dict[str, _LoopTable] = {
    "left_bundle_branch_block": _LEFT_BLOCK_LOOP,
    "right_bundle_branch_block": _RIGHT_BLOCK_LOOP,
    "left_ventricular_hypertrophy": _HYPERTROPHY_LOOP,
    "old_inferior_infarction": _INFERIOR_SCAR_LOOP,
    "old_anterior_infarction": _ANTERIOR_SCAR_LOOP,
}

_T: Vector = (0.29, 0.20, -0.12)
_INVERTED_T: dict[str, Vector] = {
    "anterior": (0.03, 0.17, 0.38),
    "inferior": (0.34, -0.30, -0.14),
    "lateral": (-0.30, 0.10, -0.16),
}
_ST_ELEVATION: dict[str, Vector] = {
    "anterior": (0.10, 0.00, -0.20),
    "inferior": (-0.02, 0.20, 0.00),
    "lateral": (0.24, -0.06, 0.06),
}
_ST_DEPRESSION: dict[str, Vector] = {
    "anterior": (-0.05, 0.00, 0.14),
    "inferior": (-0.02, -0.15, 0.00),
    "lateral": (-0.16, 0.03, -0.03),
}
_ECTOPIC_QRS: tuple[Vector, ...] = (
    (0.45, 1.30, 0.75),  # right ventricular outflow tract: like a left bundle branch block with inferior axis
    (-0.75, 1.10, -0.85),  # left ventricular outflow or anterior wall: like a right bundle branch block
    (-0.60, -1.00, -0.85),  # left posterior wall: superior axis
)


def beat_waves(heart: Heart) -> list[Wave]:
    """All waves of all kinds of beats of one heart."""
    qrs = _qrs(heart)
    relative = min(1.2, heart.limb_voltage_mv / 1.1) ** 0.8  # small QRS, small P and T
    waves = qrs + _repolarization(heart, qrs, relative)
    if heart.pr_s is not None:
        waves += _atrial_waves(heart.pr_s, heart.p_gain * relative)
    return waves + _ectopic_waves(heart, qrs)


def _qrs(heart: Heart) -> list[Wave]:
    loop = next((loop for finding, loop in _LOOPS.items() if finding in heart.findings), _NORMAL_LOOP)
    # With the axis to the left, the septum's wave is the small r that tells II, III and aVF from those of a scar.
    septum = 1.6 if "left_axis_deviation" in heart.findings and loop is _NORMAL_LOOP else 1.0
    waves = []
    for (start, peak, end, (x, y, z), turns), (vx, vy, vz) in zip(loop, heart.loop_variation, strict=True):
        frontal = septum if start == 0 else 1.0
        vector = (frontal * vx * x, frontal * vy * y, vz * z)
        qrs_s = heart.qrs_s
        waves.append(hump(start * qrs_s, peak * qrs_s, end * qrs_s, vector, turns=turns))
    return _scaled(turn_to_axis(waves, heart.axis_deg), heart)


def turn_to_axis(waves: Sequence[Wave], axis_deg: float) -> list[Wave]:
    """Turn the waves that turn, in the frontal plane as the leads see it, until the net area has the given axis.

    The axis is measured as on paper: the angle of (lead I, 2 / sqrt(3) * aVF), each integrated over the QRS. The result
    is exact unless the fixed waves outweigh the turning ones; the loops of this module are built so that they never do.

    Args:
        waves (`Sequence[Wave]`): The QRS.
        axis_deg (`float`): 0 points to the left arm, 90 to the feet.
    """
    turning = _FRONTAL @ _net_area([wave for wave in waves if wave.turns])
    fixed = _FRONTAL @ _net_area([wave for wave in waves if not wave.turns])
    axis = np.radians(axis_deg)
    # The turned part has to cancel what the fixed part contributes across the axis.
    across = fixed @ np.array([-np.sin(axis), np.cos(axis)])
    angle = axis - np.arcsin(np.clip(across / np.hypot(*turning), -0.95, 0.95)) - np.arctan2(turning[1], turning[0])
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    result = []
    for wave in waves:
        if wave.turns:
            vector = np.array(wave.vector)
            seen = _FRONTAL @ vector
            vector[:2] += np.linalg.solve(_FRONTAL[:, :2], rotation @ seen - seen)
            wave = replace(wave, vector=(float(vector[0]), float(vector[1]), float(vector[2])))
        result.append(wave)
    return result


def _scaled(qrs: Sequence[Wave], heart: Heart) -> list[Wave]:
    """Scale the QRS to its limb voltage or, in hypertrophy, to its Sokolow-Lyon voltage."""
    time = np.arange(0.0, heart.qrs_s, 0.002)
    vectors, heights = np.array([wave.vector for wave in qrs]), np.array([wave.height(time) for wave in qrs])
    leads = DOWER_MATRIX @ vectors.T @ heights
    sokolow = -leads[2].min() + leads[6:8].max()
    if "left_ventricular_hypertrophy" in heart.findings:
        return [wave.times(heart.sokolow_mv / sokolow) for wave in qrs]
    factor = heart.limb_voltage_mv / np.ptp(limb_leads_from_i_and_ii(leads[0], leads[1]), axis=-1).max()
    factor = min(factor, heart.sokolow_mv / sokolow)
    return [wave.times(factor) for wave in qrs]


def _repolarization(heart: Heart, qrs: Sequence[Wave], relative: float) -> list[Wave]:
    """ST segment and T wave of the conducted beats."""
    findings = heart.findings
    st, t = np.zeros(3), np.array(_T)
    if "left_bundle_branch_block" in findings:
        t = -3.0 * _net_area(qrs)  # mV s to mV: about a third of the QRS, the other way
        st = 0.3 * t
    elif "right_bundle_branch_block" in findings:
        t = t + np.array([0.0, 0.0, 0.34])  # secondary inversion in V1 and V2
    for territory, vector in _INVERTED_T.items():
        if f"{territory}_t_wave_inversion" in findings:
            t = np.array(vector)
    t = t * heart.t_gain * relative
    for territory in _ST_ELEVATION:
        if f"{territory}_st_elevation" in findings:
            st = np.array(_ST_ELEVATION[territory]) * heart.st_gain
            t = 0.7 * t + 1.2 * st  # T rises out of the elevated segment
        if f"{territory}_st_depression" in findings:
            st = np.array(_ST_DEPRESSION[territory]) * heart.st_gain
    j, end = heart.qrs_s, heart.qt_s
    start = j + 0.3 * (end - j)
    peak = start + 0.58 * (end - start)  # T rises more slowly than it falls
    hold = max(j + 0.065, start)  # the level at J + 60 ms, where it is usually measured, is the full one
    if "left_bundle_branch_block" not in findings:
        st = st + 0.08 * t  # a normal ST segment ascends a little towards T
    return [
        Wave(j - 0.02, j + 0.01, hold, max(peak, hold + 0.04), _as_vector(st)),
        hump(start - 0.04, peak, end, _as_vector(t)),
    ]


def _atrial_waves(pr_s: float, gain: float) -> list[Wave]:
    duration = 0.095 if pr_s < 0.2 else 0.105
    right_vector: Vector = (0.05 * gain, 0.11 * gain, -0.06 * gain)
    left_vector: Vector = (0.07 * gain, 0.06 * gain, 0.05 * gain)
    low_atrial: Vector = (0.05 * gain, -0.14 * gain, -0.04 * gain)  # from below: negative in II, III, aVF
    start, early = -pr_s, -pr_s + 0.02
    return [
        hump(start, start + 0.38 * duration, start + 0.78 * duration, right_vector, (NORMAL,)),
        hump(start + 0.25 * duration, start + 0.62 * duration, start + duration, left_vector, (NORMAL,)),
        hump(early, early + 0.04, early + 0.08, low_atrial, (PREMATURE_ATRIAL,)),
    ]


def _ectopic_waves(heart: Heart, qrs: Sequence[Wave]) -> list[Wave]:
    """A wide QRS, in proportion to the conducted one, and a T wave that points the other way."""
    size = max(np.linalg.norm(wave.vector) for wave in qrs)
    main = 0.8 * size * np.array(_ECTOPIC_QRS[heart.ectopic_focus])
    width = 0.15 + 0.02 * heart.ectopic_focus
    end = max(heart.qt_s, width + 0.24) + 0.04
    only = (PREMATURE_VENTRICULAR,)
    return [
        hump(0.0, 0.33 * width, 0.66 * width, _as_vector(main), origins=only),
        hump(0.28 * width, 0.66 * width, width, _as_vector(0.6 * main * np.array([1.0, 0.6, 1.2])), origins=only),
        hump(0.85 * width, width + 0.55 * (end - width), end, _as_vector(-0.42 * main), origins=only),
    ]


def _net_area(waves: Sequence[Wave]) -> NDArray[np.float64]:
    """Integral of the heart vector over time, `(3,)`, in mV s."""
    return sum((np.array(wave.vector) * wave.area_s for wave in waves), start=np.zeros(3))


def _as_vector(vector: NDArray[np.float64]) -> Vector:
    return float(vector[0]), float(vector[1]), float(vector[2])
