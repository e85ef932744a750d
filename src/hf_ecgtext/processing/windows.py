"""Which samples of a recording the model sees: windows or crops of longer ones, padding of shorter ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from hf_ecgtext.data.records import AnyEcg, EcgRecord

CROPS = ("start", "center", "random")
PADS = ("end", "center")


def crop_positions(crop: str, generator: np.random.Generator | int | None, num_records: int) -> NDArray[np.float64]:
    """Where each record's window starts, in [0, 1) of the possible starts.

    Args:
        crop (`str`): One of `CROPS`.
        generator (`np.random.Generator` or `int`, *optional*): Source or seed of `"random"`, which needs one.
        num_records (`int`): How many to draw.

    Raises:
        ValueError: If `"random"` comes without a generator.
    """
    if crop != "random":
        return np.full(num_records, 0.0 if crop == "start" else 0.5 - 1e-9)  # just below: the left of two middles
    if generator is None:
        raise ValueError('crop="random" needs generator=: a NumPy Generator or a seed, so that runs can be repeated.')
    return np.random.default_rng(generator).random(num_records)


def window_positions(
    setting: str,
    num_records: int,
    crop: str | None = None,
    generator: np.random.Generator | int | None = None,
    given: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Where each record's window starts, in [0, 1) of the possible starts.

    Args:
        setting (`str`): One of `CROPS`. As a setting, and without a generator, `"random"` means the centre: only
            training draws, and whoever evaluates or asks a trained model reads the same part every time.
        num_records (`int`): How many there are.
        crop (`str`, *optional*): In place of the setting.
        generator (`np.random.Generator` or `int`, *optional*): As in `crop_positions`.
        given (`np.ndarray` of shape `(num_records,)`, *optional*): The answer, from a caller who drew it.

    Raises:
        ValueError: If positions are given beside a crop or a generator, are not one per record, or leave [0, 1); or if
            `crop` is `"random"` and there is no generator.
    """
    if given is None:
        if crop is None:
            crop = "center" if setting == "random" and generator is None else setting
        return crop_positions(crop, generator, num_records)
    if crop is not None or generator is not None:
        raise ValueError("positions= says where windows start: leave crop= and generator= out.")
    positions = np.asarray(given, dtype=np.float64)
    if positions.shape != (num_records,) or not ((positions >= 0) & (positions < 1)).all():
        raise ValueError(
            f"positions must be one number in [0, 1) for each of the {num_records} records, got {given!r}."
        )
    return positions


def crop_start(position: float, excess: int) -> int:
    """First sample of a window, for a recording that is `excess` samples longer than it."""
    return int(position * (excess + 1))


def recorded_part(num_recorded: int, num_samples: int, pad: str) -> slice:
    """The samples of a window of `num_samples` that a recording of `num_recorded` fills; the rest is padding."""
    missing = max(0, num_samples - num_recorded)
    start = 0 if pad == "end" else missing // 2
    return slice(start, num_samples - missing + start)


def crop_or_pad(
    signals: NDArray[np.float32], num_samples: int, positions: NDArray[np.float64], pad: str
) -> tuple[NDArray[np.float32], slice]:
    """Windows of `num_samples`, and which of these samples are recorded.

    Args:
        signals (`np.ndarray` of shape `(batch, num_leads, num_recorded)`): mV.
        num_samples (`int`): Length of the windows.
        positions (`np.ndarray` of shape `(batch,)`): From `crop_positions`.
        pad (`str`): Where shorter recordings are filled with 0: one of `PADS`.

    Returns:
        `tuple` of windows of shape `(batch, num_leads, num_samples)`, the input itself where it has this length, and
        the slice of recorded samples.
    """
    excess = signals.shape[-1] - num_samples
    recorded = recorded_part(signals.shape[-1], num_samples, pad)
    if excess == 0:
        return signals, recorded
    windows = np.zeros((*signals.shape[:-1], num_samples), dtype=np.float32)
    if excess < 0:
        windows[..., recorded] = signals
        return windows, recorded
    for window, signal, position in zip(windows, signals, positions, strict=True):
        start = crop_start(position, excess)
        window[:] = signal[:, start : start + num_samples]
    return windows, recorded


def covering_windows(num_samples: int, window_samples: int) -> list[tuple[int, int]]:
    """As few windows as cover a whole recording, evenly spaced: the rule of evaluation and of the pipelines.

    Args:
        num_samples (`int`): Of the recording.
        window_samples (`int`): Of a window; at least 1.

    Returns:
        `list[tuple[int, int]]`: First sample of each window and the one behind its last. The first window starts with
        the recording and the last one ends with it; they overlap where the recording is no multiple of a window. A
        recording that is not longer than a window is one window.
    """
    if num_samples <= window_samples:
        return [(0, num_samples)]
    number = math.ceil(num_samples / window_samples)
    starts = np.linspace(0, num_samples - window_samples, number).round().astype(int).tolist()
    return [(start, start + window_samples) for start in starts]


def cut(ecg: AnyEcg, start: int, stop: int) -> AnyEcg:
    """The samples from `start` to before `stop` of a recording; everything else is kept."""
    if isinstance(ecg, EcgRecord):
        return EcgRecord(**{**vars(ecg), "signal": ecg.signal[:, start:stop]})
    return type(ecg)(**{**vars(ecg), "samples": ecg.samples[:, start:stop]})


def mean_over_windows(rows: torch.Tensor, owners: torch.Tensor, num_owners: int) -> torch.Tensor:
    """The mean of the rows of each recording.

    Args:
        rows (`torch.Tensor` of shape `(num_windows, dim)`): What the model gave for each window.
        owners (`torch.Tensor` of shape `(num_windows,)`): int64, the recording that each window is of.
        num_owners (`int`): How many recordings there are; each has a window.

    Returns:
        `torch.Tensor` of shape `(num_owners, dim)`; the rows themselves where every recording is one window.
    """
    if len(rows) == num_owners:
        return rows
    counts = torch.bincount(owners, minlength=num_owners).unsqueeze(-1)
    return torch.zeros(num_owners, rows.shape[1], device=rows.device).index_add_(0, owners, rows) / counts
