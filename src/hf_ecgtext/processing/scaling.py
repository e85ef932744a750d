"""Amplitude scaling of a batch of windows, in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SCALINGS = ("none", "minmax_record", "zscore_lead", "zscore_record")


def scale_windows(
    windows: NDArray[np.float32], lead_mask: NDArray[np.bool_], recorded: slice, scaling: str, eps: float
) -> NDArray[np.bool_]:
    """Scales windows in place; leads that are not there stay exactly 0 and count nowhere.

    Args:
        windows (`np.ndarray` of shape `(batch, num_leads, num_samples)`): mV, after cropping and padding.
        lead_mask (`np.ndarray` of shape `(batch, num_leads)`): bool, `False` where a lead is absent.
        recorded (`slice`): The samples that are not padding.
        scaling (`str`): One of `SCALINGS`. `"minmax_record"` maps the whole window, padding included, to [0, 1] by one
            minimum and maximum per record; the z-scores read the recorded samples and leave the padding at 0.
        eps (`float`): Added to the divisor, mV.

    Returns:
        `np.ndarray` of shape `(batch, num_leads)`: bool, `True` where there was nothing to scale by: the record (or,
        for `"zscore_lead"`, the lead) is constant. Such leads became 0, except under `"none"`.

    Source: MERL pads before its min-max over 12 x 5000, so that the padding has the value of 0 mV; its downstream code
    adds 1e-8 to the divisor.
    """
    if scaling == "none":
        return _constant_records(windows[..., recorded], lead_mask)[:, None] & lead_mask
    values = windows if scaling == "minmax_record" else windows[..., recorded]
    lowest, highest = values.min(axis=-1), values.max(axis=-1)  # (batch, num_leads)
    if scaling == "zscore_lead":
        constant = highest == lowest
        values -= values.mean(axis=-1, keepdims=True)
        values /= values.std(axis=-1, keepdims=True) + eps
    else:
        lowest = np.where(lead_mask, lowest, np.inf).min(axis=-1)  # (batch,)
        highest = np.where(lead_mask, highest, -np.inf).max(axis=-1)
        constant = np.broadcast_to((highest == lowest)[:, None], lead_mask.shape)
        if scaling == "minmax_record":
            offset, divisor = lowest, highest - lowest
        else:
            offset, divisor = _record_mean_and_std(values, lead_mask)
        values -= offset[:, None, None]
        values /= (divisor + eps)[:, None, None].astype(np.float32)
    unscaled = constant | ~lead_mask
    if unscaled.any():
        windows[unscaled] = 0
    return constant & lead_mask


def _constant_records(values: NDArray[np.float32], lead_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all present leads of a record hold one and the same value; shape `(batch,)`."""
    constant = np.ones(len(values), dtype=bool)
    # A glance at a few samples clears nearly every record; only the others are read as a whole.
    for step in (max(1, values.shape[-1] // 8), 1):
        for record in np.flatnonzero(constant):
            present = values[record, lead_mask[record], ::step]
            constant[record] = present.min() == present.max()
    return constant


def _record_mean_and_std(
    values: NDArray[np.float32], lead_mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation over the present leads and all samples, each of shape `(batch,)`."""
    num_present = lead_mask.sum(axis=-1).astype(np.float32)
    mean = np.where(lead_mask, values.mean(axis=-1), 0).sum(axis=-1) / num_present
    squares = np.square(values - mean[:, None, None]).mean(axis=-1)
    variance = np.where(lead_mask, squares, 0).sum(axis=-1) / num_present
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
