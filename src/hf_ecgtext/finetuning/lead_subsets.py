"""Fewer leads: all others count as absent, in training and evaluation alike.

Rows are taken out of the recordings, before anything is scaled, so that nothing of a hidden lead can reach the model,
neither by its voltages in the scaling of the record nor by derivation from I and II. The processor then fills absent
leads with zeros, as published, and says so in `lead_mask`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hf_ecgtext.data.records import AnyEcg, EcgRecord
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, STANDARD_LEADS, canonical_lead_name
from hf_ecgtext.processing import EcgFeatureExtractor

LEAD_SUBSETS: dict[int, tuple[str, ...]] = {
    12: STANDARD_LEADS,
    6: ("I", "II", "III", "aVR", "aVL", "aVF"),
    3: ("I", "II", "V2"),
    2: ("I", "II"),
    1: ("I",),
}
"""Number of leads -> leads.

Source: Oh et al. 2022 and C-MELT; all but the single lead are subsets of PhysioNet/CinC 2021, too.
"""

_DERIVED = tuple(lead for lead in LIMB_LEAD_WEIGHTS if lead not in ("I", "II"))


def lead_subset(number: int) -> tuple[str, ...]:
    """The leads of a subset.

    Raises:
        ValueError: If there is no subset of this size.
    """
    if number not in LEAD_SUBSETS:
        raise ValueError(f"There is no subset of {number} leads; choose from {', '.join(map(str, LEAD_SUBSETS))}.")
    return LEAD_SUBSETS[number]


def restrict_leads(ecg: AnyEcg, leads: Sequence[str]) -> AnyEcg:
    """The recording without the rows of other leads; its samples are not copied where it has no others.

    Args:
        ecg ([`AnyEcg`]): Its lead names may have any usual spelling.
        leads (`Sequence[str]`): Standard names.

    Raises:
        RecordError: If it has none of the leads.
    """
    kept = [row for row, name in enumerate(ecg.lead_names) if canonical_lead_name(name) in leads]
    if not kept:
        raise RecordError(
            ecg.record_id,
            f"it has none of the leads {', '.join(leads)}, only {', '.join(ecg.lead_names)}.",
            "Leave the record out, or choose other leads.",
        )
    if len(kept) == len(ecg.lead_names):
        return ecg
    names = tuple(ecg.lead_names[row] for row in kept)
    if isinstance(ecg, EcgRecord):
        return EcgRecord(**{**vars(ecg), "signal": ecg.signal[kept], "lead_names": names})
    rows = {"samples": ecg.samples[kept], "gain_per_mv": ecg.gain_per_mv[kept], "baseline": ecg.baseline[kept]}
    return type(ecg)(**{**vars(ecg), **rows, "lead_names": names})


def restrict_extractor(extractor: EcgFeatureExtractor, leads: Sequence[str]) -> EcgFeatureExtractor:
    """A copy of the feature extractor that derives limb leads only if all of them are among the leads.

    Raises:
        ValueError: If the extractor refuses records with absent leads, or has none of the leads.
    """
    restricted = copy.deepcopy(extractor)
    if not set(extractor.lead_names) & set(leads):
        raise ValueError(f"The model reads {', '.join(extractor.lead_names)}, none of the leads {', '.join(leads)}.")
    if not set(extractor.lead_names) <= set(leads):
        if extractor.missing_leads == "raise":
            raise ValueError('The processor refuses absent leads; set missing_leads="mask" to train on fewer leads.')
        restricted.derive_limb_leads = extractor.derive_limb_leads and set(_DERIVED) <= set(leads)
    return restricted
