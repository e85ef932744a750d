"""The baseline that needs no network: rate, intervals, axes and amplitudes, as an ECG machine prints them.

One median beat per recording is measured (`median_beat.py`). What cannot be measured is 0 after a fixed centring, that
is, it gets the value of `CENTRES`, and an indicator of its group says so; a probe standardises the features anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.evaluation.encoders.frozen import Features, FrozenEncoder
from hf_ecgtext.evaluation.encoders.median_beat import RATE_HZ, MedianBeat, import_neurokit, median_beat
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.processing.lead_mapping import arrange_leads, plan_leads
from hf_ecgtext.processing.repair import repair_invalid_samples
from hf_ecgtext.processing.resampling import resample

logger = logging.getLogger(__name__)

_VERSION = 1
"""To be raised when the same recording would give other numbers."""

_ST_DELAY = 30  # samples: J + 60 ms
_AUGMENTED = 2 / np.sqrt(3)  # an augmented lead is that much shorter than a bipolar one in Einthoven's triangle

_RHYTHM = ("heart_rate (1/min)", "rr_sd (ms)", "rmssd (ms)", "rr_irregularity (1)", "other_beats (1)")
_ATRIAL = ("p_presence (1)", "p_repeatability (1)")
_P = ("p_duration (ms)", "pr_interval (ms)", "p_axis_sin (1)", "p_axis_cos (1)")
_QRS = ("qrs_duration (ms)", "qrs_axis_sin (1)", "qrs_axis_cos (1)")
_T = ("qt_interval (ms)", "qtc_bazett (ms)", "qtc_fridericia (ms)", "t_axis_sin (1)", "t_axis_cos (1)")
_VOLTAGE = ("sokolow_lyon (mV)", "cornell (mV)")
_WAVES = ("p", "q", "r", "s", "st60", "t")
_AMPLITUDES = tuple(f"{wave}_{lead} (mV)" for lead in STANDARD_LEADS for wave in _WAVES)
_INDICATORS = tuple(
    f"missing_{group} (1)" for group in ("beats", "p", "t", "axes", "sokolow_lyon", "cornell", *STANDARD_LEADS)
)

FEATURE_NAMES: tuple[str, ...] = (
    *(*_RHYTHM, *_ATRIAL, *_P, *_QRS, *_T, *_VOLTAGE, *_AMPLITUDES),
    *_INDICATORS,
)
"""Columns of the features with their units; `(1)` has none.

Amplitudes are against the level before the QRS: q and s are not positive, r is not negative, st60 is the level 60 ms
after the J point, t the largest deflection after it. `rr_irregularity` is the mean difference of successive RR
intervals over their mean, `other_beats` the share of beats with another QRS, `p_presence` the share with a P wave,
`p_repeatability` how much the beats resemble each other before the QRS.
"""

CENTRES: dict[str, float] = {
    "heart_rate (1/min)": 70.0,
    "p_presence (1)": 1.0,
    "p_repeatability (1)": 1.0,
    "p_duration (ms)": 100.0,
    "pr_interval (ms)": 160.0,
    "qrs_duration (ms)": 95.0,
    "qt_interval (ms)": 395.0,
    "qtc_bazett (ms)": 415.0,
    "qtc_fridericia (ms)": 410.0,
    "sokolow_lyon (mV)": 2.0,
    "cornell (mV)": 1.2,
}
"""What is subtracted: about what a healthy adult has; 0 for all others."""

_PLACES = {name: place for place, name in enumerate(FEATURE_NAMES)}
_CENTRE = np.array([CENTRES.get(name, 0.0) for name in FEATURE_NAMES])


class IntervalFeatures(FrozenEncoder):
    """Hand-crafted features of recordings of any length, rate and set of leads; an encoder without text.

    Leads are matched by name and limb leads derived from I and II where those are there; rows that are none of the
    twelve leads are left out.

    Raises:
        ImportError: If NeuroKit2 is not installed.
    """

    def __init__(self) -> None:
        import_neurokit()

    def identity(self) -> dict[str, Any]:
        """Version of the features and of NeuroKit2."""
        return {"interval_features": _VERSION, "neurokit2": version("neurokit2"), "rate_hz": RATE_HZ}

    def encode(self, ecgs: Sequence[AnyEcg]) -> Features:
        """`"probe"` of shape `(num_records, len(FEATURE_NAMES))`.

        Raises:
            RecordError: If two rows of a recording are the same lead.
        """
        rows = np.stack([_features(ecg) for ecg in ecgs])
        beatless = np.flatnonzero(rows[:, _PLACES["missing_beats (1)"]] == 1).tolist()
        if beatless:
            names = ", ".join(ecgs[place].record_id for place in beatless[:5])
            logger.warning(
                "No beats were found in %d of %d recordings (%s%s); their interval features all count as missing.",
                len(beatless),
                len(ecgs),
                names,
                ", ..." if len(beatless) > 5 else "",
            )
        return {"probe": rows}


def _features(ecg: AnyEcg) -> NDArray[np.float32]:
    """The row of one recording, float32 of shape `(len(FEATURE_NAMES),)`."""
    signals = np.array(ecg.signal, dtype=np.float32)[None]
    has_signal = repair_invalid_samples(signals, "interpolate", [ecg.record_id], ecg.lead_names)
    plan = plan_leads(ecg.lead_names, STANDARD_LEADS, "ignore", ecg.record_id)
    signals, lead_mask = arrange_leads(signals, has_signal, plan, derive_limb_leads=True)
    beat = median_beat(resample(signals[0], ecg.sampling_rate_hz, RATE_HZ), lead_mask[0])
    values = {} if beat is None else _measurements(beat)
    row = np.zeros(len(FEATURE_NAMES))
    for name, value in values.items():
        row[_PLACES[name]] = value - CENTRES.get(name, 0.0)
    for group, name in _GROUPS.items():
        row[_PLACES[f"missing_{group} (1)"]] = float(name not in values)
    return row.astype(np.float32)


_GROUPS = {
    "beats": _RHYTHM[0],
    "p": _P[1],
    "t": _T[0],
    "axes": _QRS[1],
    "sokolow_lyon": _VOLTAGE[0],
    "cornell": _VOLTAGE[1],
    **{lead: f"r_{lead} (mV)" for lead in STANDARD_LEADS},
}
"""A feature of each group, without which its indicator is 1."""


def _measurements(beat: MedianBeat) -> dict[str, float]:
    """What could be measured, by name, not centred."""
    found = {**_rhythm(beat), **_intervals(beat)}
    lead = {name: row for row, name in enumerate(STANDARD_LEADS) if beat.usable[row]}
    for name, row in lead.items():
        found |= {f"{wave}_{name} (mV)": value for wave, value in _amplitudes(beat, row).items()}
    if {"I", "aVF"} <= set(lead):
        found |= _axes(beat)
    if {"V1", "V5", "V6"} <= set(lead):
        found["sokolow_lyon (mV)"] = max(found["r_V5 (mV)"], found["r_V6 (mV)"]) - _deepest(found, "V1")
    if {"aVL", "V3"} <= set(lead):
        found["cornell (mV)"] = found["r_aVL (mV)"] - _deepest(found, "V3")
    return found


def _rhythm(beat: MedianBeat) -> dict[str, float]:
    rr = np.diff(beat.peaks) / RATE_HZ * 1000
    steps = np.diff(rr)
    return {
        "heart_rate (1/min)": 60_000 / float(rr.mean()),
        "rr_sd (ms)": float(rr.std()),
        "rmssd (ms)": float(np.sqrt(np.mean(steps**2))) if len(steps) else 0.0,
        "rr_irregularity (1)": float(np.abs(steps).mean() / rr.mean()) if len(steps) else 0.0,
        "other_beats (1)": beat.other_share,
        "p_presence (1)": beat.p_share,
        "p_repeatability (1)": beat.p_repeatability,
    }


def _intervals(beat: MedianBeat) -> dict[str, float]:
    def ms(first: int, last: int) -> float:
        return 1000 * (last - first) / RATE_HZ

    found = {"qrs_duration (ms)": ms(beat.qrs_onset, beat.qrs_end)}
    if beat.p_onset is not None and beat.p_end is not None:
        found["p_duration (ms)"] = ms(beat.p_onset, beat.p_end)
        found["pr_interval (ms)"] = ms(beat.p_onset, beat.qrs_onset)
    if beat.t_end is not None:
        qt = ms(beat.qrs_onset, beat.t_end)
        rr_s = float(np.diff(beat.peaks).mean()) / RATE_HZ
        found |= {
            "qt_interval (ms)": qt,
            "qtc_bazett (ms)": qt / rr_s ** (1 / 2),
            "qtc_fridericia (ms)": qt / rr_s ** (1 / 3),
        }
    return found


def _axes(beat: MedianBeat) -> dict[str, float]:
    """Sine and cosine of the frontal axes of the waves' net areas; 0 degrees is to the left arm, 90 to the feet."""
    bounds = {"qrs": (beat.qrs_onset, beat.qrs_end)}
    if beat.p_onset is not None and beat.p_end is not None:
        bounds["p"] = (beat.p_onset, beat.p_end)
    if beat.t_end is not None:
        bounds["t"] = (min(beat.qrs_end + _ST_DELAY, beat.t_end), beat.t_end)
    found = {}
    for wave, (first, last) in bounds.items():
        x = float(beat.beat[STANDARD_LEADS.index("I"), first : last + 1].sum())
        y = float(beat.beat[STANDARD_LEADS.index("aVF"), first : last + 1].sum()) * _AUGMENTED
        length = np.hypot(x, y)
        found[f"{wave}_axis_sin (1)"] = y / length if length > 0 else 0.0
        found[f"{wave}_axis_cos (1)"] = x / length if length > 0 else 0.0
    return found


def _amplitudes(beat: MedianBeat, row: int) -> dict[str, float]:
    """Deflections of one lead in mV, by wave."""
    signal = beat.beat[row]
    qrs = signal[beat.qrs_onset : beat.qrs_end + 1]
    top = int(np.argmax(qrs))
    st = min(beat.qrs_end + _ST_DELAY, len(signal) - 1)
    found = {
        "q": min(0.0, float(qrs[: top + 1].min())),
        "r": max(0.0, float(qrs[top])),
        "s": min(0.0, float(qrs[top:].min())),
        "st60": float(signal[max(0, st - 2) : st + 3].mean()),
    }
    if beat.p_onset is not None and beat.p_end is not None:
        found["p"] = _largest(signal[beat.p_onset : beat.p_end + 1])
    if beat.t_end is not None:
        found["t"] = _largest(signal[min(st, beat.t_end) : beat.t_end + 1])
    return found


def _largest(part: NDArray[np.float32]) -> float:
    """The value that is farthest from 0."""
    return float(part[np.abs(part).argmax()])


def _deepest(found: dict[str, float], lead: str) -> float:
    return min(found[f"q_{lead} (mV)"], found[f"s_{lead} (mV)"])
