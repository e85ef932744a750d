"""What Einthoven's law and Goldberger's identities prove about the names and signs of the limb leads.

The rules of the decision; `M` is the misfit of the names as they stand, in mV (see `hypotheses`):

1. `M` of at most 0.01 mV: the leads agree. Rounding in storage gives under 0.001 mV in PTB-XL, CSN and PhysioNet 2021.
2. Hypotheses explain the contradiction if the best of them lowers the misfit to a quarter of `M`; those with at most
   0.01 mV or three times the best one's misfit are its rivals, and cannot be told from it.
3. Single exchanges, single inversions and usual row orders come first: one is named if it has no rival, and if the
   limb leads in no other order and with no other signs fit three times better. Where none explains, an order of the
   limb leads may in the same way, if it is also the simplest of those that the identities cannot tell apart, and if it
   is not just one lead that is odd. All else that fits is listed as undecided.
4. Where nothing explains it, the leads are said to contradict each other if `M` is over 0.02 mV and a tenth of their
   size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, STANDARD_LEADS
from hf_ecgtext.limb_lead_order import samples_read
from hf_ecgtext.processing.lead_checks.hypotheses import Hypothesis, hypotheses_for, outside_plane

_AGREEMENT_MV = 0.01
"""Ten times what rounding leaves in real recordings; a step of 0.02 mV, the coarsest in use, leaves 0.006 mV."""

_EXPLAINED = 0.25
"""A hypothesis explains a contradiction if it leaves this part of it."""

_RIVAL = 3.0
"""Hypotheses within this factor of the best one's misfit are its rivals."""

_CONTRADICTION_MV, _CONTRADICTION = 0.02, 0.1
"""What noise may do to right leads is not reported: both must be exceeded, the second relative to the leads' size."""

_ROUNDING_MV = 0.003
"""Misfits below this may be rounding: which of them is smaller says nothing."""

_FLAT_MV = 0.001
_FEWEST_SAMPLES = 20


@dataclass(frozen=True)
class Finding:
    """A contradiction between the limb leads of a recording.

    Args:
        problem (`str`): A clause for messages.
        rows (`np.ndarray` of shape `(k,)`, *optional*): Where it can be repaired: the rows that are wrong.
        sources (`np.ndarray` of shape `(k,)`, *optional*): The rows that hold what belongs there.
        signs (`np.ndarray` of shape `(k,)`, *optional*): 1, or -1 for what is upside down.
    """

    problem: str
    rows: NDArray[np.intp] | None = None
    sources: NDArray[np.intp] | None = None
    signs: NDArray[np.float32] | None = None


def limb_rows(names: Sequence[str | None]) -> list[int]:
    """The rows that are named as limb leads; empty if they are too few to contradict one another."""
    rows = [row for row, name in enumerate(names) if name in LIMB_LEAD_WEIGHTS]
    return rows if len(rows) > 2 else []


def quick_samples(num_samples: int) -> slice:
    """The samples that the quick test reads: every other one of those that decide."""
    return slice(None, None, 2 * samples_read(num_samples).step if num_samples >= 2 * _FEWEST_SAMPLES else 1)


def agree(limb_signals: NDArray[np.floating], leads: Sequence[str]) -> NDArray[np.bool_]:
    """The quick test, which right recordings pass.

    Args:
        limb_signals (`np.ndarray` of shape `(batch, k, num_samples)`): mV, all limb leads that the recordings have, at
            the samples of `quick_samples`.
        leads (`Sequence[str]`): Their standard names; three or more.

    Returns:
        `np.ndarray` of shape `(batch,)`: `False` where the leads contradict each other, or a sample is invalid.
    """
    basis = _basis_outside(tuple(leads))
    with np.errstate(invalid="ignore", over="ignore"):
        forbidden = basis @ limb_signals.astype(np.float64)  # (batch, k - 2, num_samples)
        power = np.einsum("nct,nct->n", forbidden, forbidden) / forbidden.shape[-1]
        offset = np.square(forbidden.mean(axis=-1)).sum(axis=-1)  # an offset of one lead says nothing about its name
        return power - offset <= len(basis) * _AGREEMENT_MV**2


@lru_cache(maxsize=64)
def _basis_outside(leads: tuple[str, ...]) -> NDArray[np.float64]:
    """Orthonormal combinations of the leads that the identities say are zero, of shape `(k - 2, k)`."""
    return np.ascontiguousarray(np.linalg.eigh(outside_plane(leads))[1][:, 2:].T)


def find_contradiction(signals: NDArray[np.floating], names: Sequence[str | None]) -> Finding | None:
    """What is wrong with the limb leads of one recording.

    Args:
        signals (`np.ndarray` of shape `(num_rows, num_samples)`): mV; invalid samples are left out, and leads that are
            flat or mostly invalid count as absent.
        names (`Sequence[str | None]`): Standard name claimed for each row, `None` for other rows.

    Returns:
        [`Finding`] or `None`: `None` if the leads agree, or are too few or too small to say anything.
    """
    used = signals[:, samples_read(signals.shape[-1])].astype(np.float64)
    finite = np.isfinite(used)
    limb = [row for row in limb_rows(names) if 2 * finite[row].sum() > used.shape[-1]]
    valid = finite[limb].all(axis=0)
    if valid.sum() < _FEWEST_SAMPLES:
        return None
    used = used[:, valid]
    known = [row for row, name in enumerate(names) if name in STANDARD_LEADS and np.isfinite(used[row]).all()]
    used = used[known] - used[known].mean(axis=-1, keepdims=True)
    is_alive = used.std(axis=-1) > _FLAT_MV
    rows = np.array(known, dtype=np.intp)[is_alive]
    covariance = used[is_alive] @ used[is_alive].T / used.shape[-1]
    claimed = tuple(str(names[row]) for row in rows)
    if not limb_rows(claimed):
        return None
    return _explain(covariance, claimed, rows)


def _explain(covariance: NDArray[np.float64], names: tuple[str, ...], rows: NDArray[np.intp]) -> Finding | None:
    hypotheses = hypotheses_for(names)
    claim = float(_misfit(hypotheses.claim, covariance))
    if claim <= _AGREEMENT_MV:
        return None

    limb_covariance = covariance[np.ix_(hypotheses.limb, hypotheses.limb)]
    # The limb leads in any order and with any signs: what a named fault must stand against.
    beaten_above = max(_ROUNDING_MV, _RIVAL * float(_misfit(hypotheses.all_limb_forms, limb_covariance).min()))

    misfits = _misfit(hypotheses.simple_forms, covariance)
    rivals = _rivals(misfits, claim)
    if rivals:
        candidates = [hypotheses.simple[rival] for rival in rivals]
        return _decide(candidates, rows, is_certain=len(rivals) == 1 and misfits[rivals[0]] <= beaten_above)
    odd = _rivals(_misfit(hypotheses.without_one_forms, covariance), claim) if len(hypotheses.limb) > 3 else []
    misfits = _misfit(hypotheses.order_forms, covariance)
    rivals = _rivals(misfits, claim)
    if rivals:
        candidates = [hypotheses.orders[rival] for rival in rivals]
        is_alone = len(rivals) == 1 and not odd and hypotheses.is_simplest(candidates[0])
        return _decide(candidates, rows, is_certain=is_alone and misfits[rivals[0]] <= beaten_above)

    size = np.sqrt(np.diag(covariance)[hypotheses.limb].mean())
    if claim < max(_CONTRADICTION_MV, _CONTRADICTION * size):
        return None
    if len(odd) == 1:
        lead = hypotheses.limb_leads[odd[0]]
        return Finding(f"lead {lead} does not belong to the others, which agree with each other")
    return Finding("no exchange, inversion or usual order of the leads explains it")


def _misfit(forms: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.maximum((forms * covariance).sum(axis=(-2, -1)), 0))


def _rivals(misfits: NDArray[np.float64], claim: float) -> list[int]:
    """The hypotheses that cannot be excluded, if the best of them explains the contradiction."""
    best = misfits.min()
    if best > _EXPLAINED * claim:
        return []
    return np.flatnonzero(misfits <= max(_AGREEMENT_MV, _RIVAL * best)).tolist()


def _decide(candidates: list[Hypothesis], rows: NDArray[np.intp], is_certain: bool) -> Finding:
    if is_certain:
        return _named(candidates[0], rows)
    unsure = "it cannot be told which lead is wrong"
    if len(candidates) > 3:
        return Finding(f"{unsure}, since {len(candidates)} explanations fit")
    if len(candidates) == 1:
        return Finding(f"{unsure}: {candidates[0].description}, or something that looks like it")
    return Finding(f"{unsure}: {', or '.join(candidate.description for candidate in candidates)}")


def _named(hypothesis: Hypothesis, rows: NDArray[np.intp]) -> Finding:
    if not hypothesis.is_provable:
        return Finding(hypothesis.description)
    sources, signs = np.array(hypothesis.rows), np.array(hypothesis.signs, dtype=np.float32)
    wrong = (sources != np.arange(len(sources))) | (signs < 0)
    return Finding(hypothesis.description, rows[wrong], rows[sources[wrong]], signs[wrong])
