"""Beats of a recording, its median beat, and where the waves of that beat begin and end.

NeuroKit2 finds the beats, and P and T of each of them; what needs all leads at once is done here: the median beat and
the bounds of its QRS complex.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.processing.resampling import bandpass

RATE_HZ = 500.0
"""Recordings are measured at this rate, so that an interval means the same whatever the file's rate is."""

_HIGH_PASS_HZ = 0.5
_QRS_BAND_HZ = (5.0, 25.0)
_SHORTEST_S = 2.0
_SMALLEST_MV = 0.01  # standard deviation; a disconnected lead shows less
_SAME_SHAPE = 0.8  # correlation of a beat's QRS with that of the median beat
_ALIGNMENT = 15  # samples; the peak of a notched QRS jumps by up to 30 ms
_QRS_REACH = 65  # samples to either side of the peak in which the QRS lies: 130 ms
_FLAT = 0.07  # share of the largest spatial velocity below which the heart's vector stands still
_FLAT_SAMPLES = 5


@dataclass(frozen=True, eq=False)
class MedianBeat:
    """The usual beat of a recording.

    Args:
        peaks (`np.ndarray` of shape `(num_beats,)`): Sample of every beat's QRS peak in the recording.
        beat (`np.ndarray` of shape `(12, num_samples)`): mV against the level just before the QRS; rows of missing
            leads are 0.
        usable (`np.ndarray` of shape `(12,)`): bool, `False` where a lead is missing or disconnected.
        peak (`int`): Sample of the QRS peak in `beat`.
        qrs_onset, qrs_end (`int`): Samples of `beat`; the end is the J point.
        p_onset, p_end, t_end (`int`, *optional*): Samples of `beat`; `None` where fewer than half of the beats show
            them.
        p_share (`float`): Share of the beats in which a P wave was found.
        p_repeatability (`float`): Mean correlation of the single beats with the median beat before the QRS; near 0
            where the atria do as they like.
        other_share (`float`): Share of the beats whose QRS has another shape.
        lead (`int`): The lead in which P and T were looked for.
    """

    peaks: NDArray[np.int64]
    beat: NDArray[np.float32]
    usable: NDArray[np.bool_]
    peak: int
    qrs_onset: int
    qrs_end: int
    p_onset: int | None
    p_end: int | None
    t_end: int | None
    p_share: float
    p_repeatability: float
    other_share: float
    lead: int


def median_beat(signals: NDArray[np.float32], lead_mask: NDArray[np.bool_]) -> MedianBeat | None:
    """The median beat of a recording, or `None` where fewer than two beats are found.

    P and T are looked for in lead II. Where its beats resemble each other less than those of the best lead do, by 0.2
    or more in correlation, they are looked for in that one.

    Args:
        signals (`np.ndarray` of shape `(12, num_samples)`): Standard leads in mV at `RATE_HZ`, finite.
        lead_mask (`np.ndarray` of shape `(12,)`): bool, `False` where a lead is missing.

    Raises:
        ImportError: If NeuroKit2 is not installed.
    """
    if signals.shape[1] < _SHORTEST_S * RATE_HZ or not lead_mask.any():
        return None
    filtered = bandpass(signals, (_HIGH_PASS_HZ, None), 2, RATE_HZ)
    usable = lead_mask & (filtered.std(axis=1) > _SMALLEST_MV)
    filtered[~usable] = 0
    peaks = find_beats(filtered[usable])
    if len(peaks) < 2:
        return None
    usual_rr = float(np.median(np.diff(peaks)))
    before = int(min(0.42 * RATE_HZ, 0.5 * usual_rr))
    after = int(min(0.6 * RATE_HZ, 0.8 * usual_rr))
    margin = _ALIGNMENT
    whole = peaks[(peaks >= before + margin) & (peaks + after + margin < filtered.shape[1])]
    if not len(whole):
        return None
    whole = _aligned(filtered, whole, before, after)
    beats = np.stack([filtered[:, peak - before : peak + after] for peak in whole])  # (beats, 12, samples)
    near = slice(max(0, before - 40), before + 40)
    alike = _correlations(beats[:, :, near], np.median(beats[:, :, near], axis=0)) >= _SAME_SHAPE
    if 2 * alike.sum() >= len(alike):
        beats, kept = beats[alike], whole[alike]
    else:  # no shape is usual
        kept = whole
    beat = np.median(beats, axis=0)
    onset, end = qrs_bounds(beat[usable], before)
    level = beat[:, max(0, onset - 10) : onset + 1].mean(axis=1, keepdims=True)
    beat = (beat - level).astype(np.float32)
    lead = _delineation_lead(beats, usable)
    waves = _delineate(filtered[lead], peaks, kept)
    p_found = waves["ECG_P_Onsets"] < waves["ECG_P_Offsets"]  # NaN, where one is not found, is not less
    p_onset = _place(waves["ECG_P_Onsets"], kept, before, 0, onset)
    p_end = _place(waves["ECG_P_Offsets"], kept, before, 0, onset)
    if p_onset is None or p_end is None or p_onset >= p_end:
        p_onset = p_end = None
    atrial = slice(max(0, onset - 100), max(2, onset - 5))
    return MedianBeat(
        peaks=peaks,
        beat=beat,
        usable=usable,
        peak=before,
        qrs_onset=onset,
        qrs_end=end,
        p_onset=p_onset,
        p_end=p_end,
        t_end=_place(waves["ECG_T_Offsets"], kept, before, end + 1, beat.shape[1]),
        p_share=float(p_found.mean()),
        p_repeatability=float(_correlations(beats[:, :, atrial], beat[:, atrial]).mean()),
        other_share=float(1 - alike.mean()),
        lead=lead,
    )


def find_beats(filtered: NDArray[np.float32]) -> NDArray[np.int64]:
    """Samples of the QRS peaks, from the magnitude of all leads, so that no lead's polarity or noise decides.

    Args:
        filtered (`np.ndarray` of shape `(num_leads, num_samples)`): mV at `RATE_HZ`, without baseline wander.
    """
    if not len(filtered):
        return np.empty(0, np.int64)
    neurokit = import_neurokit()
    magnitude = np.sqrt(np.square(bandpass(filtered, _QRS_BAND_HZ, 2, RATE_HZ)).mean(axis=0, dtype=np.float64))
    with warnings.catch_warnings():
        # Where nothing is as steep as a QRS, it takes the mean length of none, and returns no peaks.
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="invalid value encountered in", category=RuntimeWarning)
        found = neurokit.ecg_findpeaks(magnitude, sampling_rate=int(RATE_HZ), method="neurokit")["ECG_R_Peaks"]
    return np.asarray(found, dtype=np.int64)


def qrs_bounds(beat: NDArray[np.floating], peak: int) -> tuple[int, int]:
    """First and last sample of the QRS complex: beyond them, the heart's vector stands still in all leads together.

    Args:
        beat (`np.ndarray` of shape `(num_leads, num_samples)`): mV.
        peak (`int`): A sample inside the QRS.
    """
    velocity = np.sqrt(np.square(np.gradient(beat, axis=1)).sum(axis=0))
    velocity = np.convolve(velocity, np.full(5, 0.2), mode="same")
    first, last = max(0, peak - _QRS_REACH), min(beat.shape[1] - 1, peak + _QRS_REACH)
    inside = velocity[first : last + 1]
    still = inside < inside.min() + _FLAT * (inside.max() - inside.min())
    # A notch is not the end: the vector has to stand still for some samples.
    stays_still = np.convolve(still, np.ones(_FLAT_SAMPLES), mode="valid") == _FLAT_SAMPLES
    centre = peak - first
    before = np.flatnonzero(stays_still[: max(0, centre - _FLAT_SAMPLES + 1)])
    after = np.flatnonzero(stays_still[centre:])
    onset = first + (before[-1] + _FLAT_SAMPLES if len(before) else 0)
    end = peak + after[0] if len(after) else last
    return int(onset), int(max(end, onset + 1))


def import_neurokit() -> Any:
    """NeuroKit2.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it touches deprecated modules of SciPy
            return importlib.import_module("neurokit2")
    except ImportError as error:
        raise ImportError(
            f'Interval features need NeuroKit2 ({error}). Install it with: pip install "hf-ecgtext[intervals]"; or '
            "leave this baseline out (--baselines random supervised)."
        ) from error


def _aligned(filtered: NDArray[np.float32], peaks: NDArray[np.int64], before: int, after: int) -> NDArray[np.int64]:
    """The peaks, shifted so that the beats lie over their median."""
    magnitude = np.sqrt(np.square(filtered).mean(axis=0))
    median = np.median([magnitude[peak - before : peak + after] for peak in peaks], axis=0)
    shifts = np.arange(-_ALIGNMENT, _ALIGNMENT + 1)
    best = []
    for peak in peaks:
        part = magnitude[peak - before - _ALIGNMENT : peak + after + _ALIGNMENT]
        best.append(shifts[np.argmax(np.correlate(part, median, mode="valid"))])
    return peaks + np.asarray(best)


def _correlations(beats: NDArray[np.floating], median: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each beat with the median beat, over all leads at once, without the level of each lead: `(num_beats,)`."""
    centred = (beats - beats.mean(axis=-1, keepdims=True)).reshape(len(beats), -1).astype(np.float64)
    reference = (median - median.mean(axis=-1, keepdims=True)).ravel().astype(np.float64)
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(reference)
    return np.divide(centred @ reference, norms, out=np.zeros(len(beats)), where=norms > 0)


def _delineation_lead(beats: NDArray[np.float32], usable: NDArray[np.bool_]) -> int:
    quality = np.full(len(usable), -np.inf)
    for lead in np.flatnonzero(usable):
        one = beats[:, lead : lead + 1]
        quality[lead] = _correlations(one, np.median(one, axis=0)).mean()
    best = int(np.argmax(quality))
    lead_ii = 1
    return lead_ii if quality[lead_ii] > quality[best] - 0.2 else best


def _delineate(
    lead: NDArray[np.float32], peaks: NDArray[np.int64], kept: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Waves of the beats at `kept`, in samples of the recording; NaN where a beat lacks one."""
    neurokit = import_neurokit()
    with warnings.catch_warnings():
        # SciPy mentions extrema without prominence, on plateaus; they become no wave.
        warnings.filterwarnings("ignore", message="some peaks have a prominence of 0")
        _, found = neurokit.ecg_delineate(lead, peaks, sampling_rate=int(RATE_HZ), method="prominence")
    beats = np.abs(peaks[None, :] - kept[:, None]).argmin(axis=1)
    return {name: np.asarray(values, dtype=np.float64)[beats] for name, values in found.items()}


def _place(samples: NDArray[np.float64], peaks: NDArray[np.int64], peak: int, first: int, stop: int) -> int | None:
    """The usual place of a wave's bound in the median beat, if at least half of the beats have it there."""
    places = samples - peaks + peak
    places = places[(places >= first) & (places < stop)]
    return int(np.median(places)) if 2 * len(places) >= len(peaks) else None
