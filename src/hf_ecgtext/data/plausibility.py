"""Whether a rate and an amplitude can be those of a surface ECG in millivolts: what gives a wrong unit away.

The thresholds of the amplitude lie between what electrocardiographs must be able to record and what a wrong unit does.
Microvolts or the counts of an analogue-to-digital converter read as millivolts are 100 to 1000 times too large, volts
are 1000 times too small. Judged is the typical range of a lead: from its 1st to its 99th percentile, which leaves out
pacemaker spikes and short artefacts, and the median of that over all leads that are not constant, which leaves out
leads whose electrode is off. An offset does not matter.

Source: IEC 60601-2-25 and ANSI/AAMI EC11:1991 ask for +-5 mV of input, so 10 mV from the lowest to the highest value,
on top of electrode offsets of up to 300 mV, and allow noise of 30 uV. Over 2,657 public recordings (PTB-XL, CSN,
PhysioNet/CinC 2021, CPSC2018; `docs/data/reading.md` has the table) the typical range is 0.21 to 4.35 mV, so that a
factor of 200 in either direction leaves no doubt.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.records import INVALID_SAMPLE, digital_to_millivolts
from hf_ecgtext.errors import RecordError

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 20.0, 20_000.0
"""Sampling rates of ECGs, in Hz.

QRS complexes have their energy between 5 and 15 Hz (Pan and Tompkins 1985), of which less than 20 Hz keeps nothing;
published recordings have 100 Hz (PTB-XL) and more. High-resolution recorders for late potentials and body-surface maps
store 1 to 16 kHz.
"""

IMPOSSIBLE_ABOVE_MV = 20.0
"""Twice the whole range of an electrocardiograph's input, as the typical range of the leads; no recording has it."""

DOUBTFUL_ABOVE_MV = 5.0
"""More than the typical range of any of 2,657 public recordings (4.35 mV)."""

DOUBTFUL_BELOW_MV = 0.03
"""The noise that IEC 60601-2-25 and EC11 allow an electrocardiograph: there need not be a heart in such a recording."""

IMPOSSIBLE_BELOW_MV = 0.01
"""Less than an electrocardiograph's own noise, if no lead spans twice that from its lowest to its highest value either.

In volts, both hold for every one of 2,657 public recordings (0.0044 and 0.0197).
"""

_GLANCE_PLACES, _GLANCE_SAMPLES = 12, 16
_JUDGED_SAMPLES = 4000


class Doubt(NamedTuple):
    """Why an amplitude is not that of an ECG in millivolts.

    Args:
        is_impossible (`bool`): Whether it cannot be one, rather than hardly.
        problem (`str`): What is wrong; a sentence without full stop that names the likely unit.
    """

    is_impossible: bool
    problem: str


def check_sampling_rate(sampling_rate_hz: float, record: str, fix: str) -> None:
    """Refuse what cannot be the sampling rate of an ECG.

    Args:
        sampling_rate_hz (`float`): A number, possibly infinite or NaN.
        record (`str`): What the error calls the record.
        fix (`str`): What to do about it.

    Raises:
        RecordError: If the rate is not plausible.
    """
    if not LOWEST_RATE_HZ <= sampling_rate_hz <= HIGHEST_RATE_HZ:
        raise RecordError(
            record,
            f"a sampling rate of {sampling_rate_hz:g} Hz cannot be that of an ECG ({LOWEST_RATE_HZ:g} to "
            f"{HIGHEST_RATE_HZ:,.0f} Hz).",
            fix,
        )


def glance(signals: NDArray[Any]) -> NDArray[Any]:
    """A few samples at each of some places of every lead: what [`needs_judgement`] is asked about.

    Neighbours share a line of the processor's cache, so that this takes a tenth of the time of samples spread evenly.

    Args:
        signals (`np.ndarray` of shape `(..., num_leads, num_samples)`): Of any type.
    """
    num_samples = signals.shape[-1]
    if num_samples < 2 * _GLANCE_PLACES * _GLANCE_SAMPLES:
        return signals
    distance = num_samples // _GLANCE_PLACES
    places = signals[..., : _GLANCE_PLACES * distance].reshape(*signals.shape[:-1], _GLANCE_PLACES, distance)  # a view
    return places[..., :_GLANCE_SAMPLES].reshape(*signals.shape[:-1], _GLANCE_PLACES * _GLANCE_SAMPLES)


def needs_judgement(ranges_mv: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Of each record, whether a glance at it leaves doubt about its amplitude.

    A factor of 200 shows in any 200 samples.

    Args:
        ranges_mv (`np.ndarray` of shape `(..., num_leads)`): Highest less lowest value of each lead in the glance, mV;
            not finite where samples are missing, which leaves doubt.
    """
    highest = ranges_mv.max(axis=-1)
    is_plain = (highest > DOUBTFUL_BELOW_MV) & (highest <= DOUBTFUL_ABOVE_MV)
    if is_plain.all():  # as nearly always
        return np.asarray(~is_plain)
    varies = ranges_mv > 0
    large = varies & ~(ranges_mv <= DOUBTFUL_ABOVE_MV)
    mostly_large = 2 * large.sum(axis=-1) > varies.sum(axis=-1)
    is_low = ~(ranges_mv > DOUBTFUL_BELOW_MV).any(axis=-1)
    unknown = ~np.isfinite(ranges_mv).all(axis=-1)
    return np.asarray(mostly_large | is_low | unknown)


def judge_amplitude(signal: NDArray[np.floating]) -> Doubt | None:
    """What speaks against one recording being in millivolts, if anything does.

    Args:
        signal (`np.ndarray` of shape `(num_leads, num_samples)`): What should be mV; NaN where samples are missing. No
            statement is made where all leads are constant.
    """
    step = max(1, signal.shape[-1] // _JUDGED_SAMPLES)
    ranges = np.array([_range_of(lead[np.isfinite(lead)]) for lead in signal[:, ::step]])
    ranges = ranges[ranges > 0]
    if not ranges.size:
        return None
    typical = float(np.median(ranges))
    described = f"its leads typically span {_number(typical)} mV"
    if typical > DOUBTFUL_ABOVE_MV:
        span = f"{described}, where those of an ECG span 0.2 to {DOUBTFUL_ABOVE_MV:g} mV"
        return Doubt(typical > IMPOSSIBLE_ABOVE_MV, f"{span}: {_likely_unit(typical)}")
    if typical < DOUBTFUL_BELOW_MV:
        largest = max(float(np.ptp(lead)) for lead in (lead[np.isfinite(lead)] for lead in signal) if lead.size)
        is_impossible = typical < IMPOSSIBLE_BELOW_MV and largest < 2 * IMPOSSIBLE_BELOW_MV  # not one QRS complex
        span = f"{described}, which is less than the noise of an electrocardiograph ({DOUBTFUL_BELOW_MV:g} mV)"
        guess = "it may be in volts (unit 'V')" if is_impossible else "it may hold no ECG, or be in another unit"
        return Doubt(is_impossible, f"{span}: {guess}")
    return None


def refuse_impossible_samples(
    samples: NDArray[Any], gain_per_mv: NDArray[np.float64], baseline: NDArray[np.int32], record: str
) -> None:
    """Refuse a stored recording whose amplitude cannot be that of an ECG.

    Args:
        samples (`np.ndarray` of shape `(num_leads, num_samples)`): int16 with a mark for missing samples, or float32
            millivolts; as in [`~hf_ecgtext.data.records.StoredEcg`].
        gain_per_mv, baseline (`np.ndarray` of shape `(num_leads,)`): As there.
        record (`str`): What the error calls the record.

    Raises:
        RecordError: If the amplitude is impossible.
    """
    some = glance(samples)
    with np.errstate(invalid="ignore", over="ignore"):
        ranges = (some.max(axis=-1).astype(np.float64) - some.min(axis=-1)) / np.abs(gain_per_mv)
    is_float = samples.dtype.kind == "f"
    if not needs_judgement(ranges) and (is_float or some.min() != INVALID_SAMPLE):
        return
    doubt = judge_amplitude(samples if is_float else digital_to_millivolts(samples, gain_per_mv, baseline))
    if doubt is not None and doubt.is_impossible:
        raise RecordError(record, f"{doubt.problem}.", "Correct the unit or the gain in its file, or leave it out.")


def _range_of(lead: NDArray[np.floating]) -> float:
    if not lead.size:
        return 0.0
    low, high = np.percentile(lead.astype(np.float64), (1, 99))
    return float(high - low)


def _likely_unit(typical: float) -> str:
    if typical <= IMPOSSIBLE_ABOVE_MV:
        return "it may be in another unit, such as 0.1 mV"
    if typical <= 1e3 * DOUBTFUL_ABOVE_MV:
        return "this looks like microvolts (unit 'uV') or the counts of a converter (divide them by its gain)"
    if typical <= 1e6 * DOUBTFUL_ABOVE_MV:
        return "this looks like the counts of a converter (divide them by its gain) or nanovolts (unit 'nV')"
    return "this looks like the counts of a converter (divide them by its gain)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < 1e9 else f"{value:.3g}"
