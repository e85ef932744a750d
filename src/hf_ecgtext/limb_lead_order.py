"""Which row is aVR, aVL and aVF: decided from the signal by Goldberger's identities.

Files disagree about the order of the augmented leads (MIMIC-IV-ECG stores aVF before aVL; for CODE-test two orders are
documented). Leads I and II determine all three, so that a wrong order shows in the samples themselves. I and II are
taken as right where III, if there is one, is their difference; other faults are the business of
`hf_ecgtext.processing.lead_checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, canonical_lead_name

AUGMENTED_LEADS = ("aVR", "aVL", "aVF")

_SAMPLES_READ = 500
"""The identities hold sample by sample, so an even subset of this many decides as well as all."""

_SMALLEST_DIFFERENCE_MV = 0.02
"""Two orders must predict leads this far apart (root mean square), or the record decides nothing. Storage rounds to at
most 0.005 mV in the data sets named in `hf_ecgtext.leads`."""

_LARGEST_MISFIT = 0.25
"""The best order's misfit, relative to its distance to the next order. A right record would need noise three times the
size of the leads' difference, shaped like another lead, to be judged wrong; rounding gives 0.03 or less."""


def samples_read(num_samples: int) -> slice:
    """The samples of a recording that decide; of these alone, the same decide again."""
    return slice(None, None, max(1, num_samples // _SAMPLES_READ))


def augmented_lead_permutations(
    signals: NDArray[np.float32], lead_names: Sequence[str | None]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Finds, for each record, the order of the augmented leads that agrees with leads I and II.

    Args:
        signals (`np.ndarray` of shape `(batch, num_leads, num_samples)`): Finite, mV.
        lead_names (`Sequence[str | None]`): Standard name claimed for each row.

    Returns:
        `tuple` of `rows` of shape `(k,)`, the rows claimed to be augmented leads; `order` of shape `(batch, k)`:
        `rows[j]` really holds the lead claimed for `rows[order[i, j]]`; and `decided` of shape `(batch,)`, `False`
        where the identities cannot tell (noise, flat leads, I so like II that two orders predict the same, or I, II and
        III that contradict each other).
    """
    names = list(lead_names)
    claimed = [name for name in names if name in AUGMENTED_LEADS]
    rows = np.array([names.index(name) for name in claimed], dtype=np.intp)
    if len(claimed) < 2 or "I" not in names or "II" not in names:
        identity = np.tile(np.arange(len(claimed)), (len(signals), 1))
        return rows, identity, np.zeros(len(signals), dtype=bool)

    limb_rows = [names.index("I"), names.index("II"), *rows]
    used = signals[:, limb_rows, samples_read(signals.shape[-1])].astype(np.float64)
    used -= used.mean(axis=-1, keepdims=True)  # an offset of one lead says nothing about its name
    covariance = used @ used.transpose(0, 2, 1) / used.shape[-1]  # (batch, 2 + k, 2 + k)

    weights = np.array([LIMB_LEAD_WEIGHTS[name] for name in claimed])  # (k, 2)
    limb = covariance[:, :2, :2]
    power = np.einsum("ka,nab,lb->nkl", weights, limb, weights)  # (batch, k, k): products of the predicted leads
    predicted_power = np.einsum("nkk->nk", power)
    row_power = np.einsum("nkk->nk", covariance[:, 2:, 2:])
    match = np.einsum("njb,kb->njk", covariance[:, 2:, :2], weights)
    row_misfit = row_power[:, :, None] + predicted_power[:, None, :] - 2 * match  # mV^2, row j read as lead k
    lead_distance = predicted_power[:, :, None] + predicted_power[:, None, :] - 2 * power  # mV^2, lead k from lead l

    orders = np.array(list(permutations(range(len(claimed)))))  # (num_orders, k), the claimed order first
    positions = np.arange(len(claimed))
    misfit = row_misfit[:, positions, orders].mean(axis=-1)  # (batch, num_orders)
    best = misfit.argmin(axis=-1)
    distance = lead_distance[:, orders[:, None, :], orders[None, :, :]].mean(axis=-1)  # (batch, num_orders, num_orders)
    distance[:, range(len(orders)), range(len(orders))] = np.inf
    nearest = np.sqrt(np.maximum(distance[np.arange(len(best)), best].min(axis=-1), 0))
    best_misfit = np.sqrt(np.maximum(misfit[np.arange(len(best)), best], 0))
    decided = (nearest >= _SMALLEST_DIFFERENCE_MV) & (best_misfit <= _LARGEST_MISFIT * nearest)
    if "III" in names:  # with I and II exchanged, say, the augmented leads seem to be in another order
        einthoven = signals[:, [names.index(lead) for lead in ("I", "II", "III")], samples_read(signals.shape[-1])]
        rest = np.array([1.0, -1.0, 1.0]) @ einthoven.astype(np.float64)  # (batch, num_samples): I - II + III
        decided &= rest.std(axis=-1) <= _LARGEST_MISFIT * nearest
    return rows, orders[best], decided


def infer_limb_lead_order(signal: NDArray[np.floating], lead_names: Sequence[str]) -> tuple[str, ...] | None:
    """The lead names that the signal itself supports, by Goldberger's identities.

    Args:
        signal (`np.ndarray` of shape `(num_leads, num_samples)`): Finite, mV.
        lead_names (`Sequence[str]`): Name claimed for each row; needs I, II and at least two of aVR, aVL and aVF.

    Returns:
        `tuple[str, ...]` or `None`: `lead_names` with aVR, aVL and aVF where the signal says they are (equal to
        `lead_names` if they are right), or `None` where the identities cannot tell.
    """
    rows, order, decided = augmented_lead_permutations(
        np.asarray(signal, dtype=np.float32)[None], [canonical_lead_name(name) for name in lead_names]
    )
    if not decided[0]:
        return None
    inferred = list(lead_names)
    for row, claimed_at in zip(rows, rows[order[0]], strict=True):
        inferred[row] = lead_names[claimed_at]
    return tuple(inferred)
