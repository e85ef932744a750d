"""From the leads a recording has to the leads a model reads: by name, never by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, STANDARD_LEADS, canonical_lead_name


@dataclass(frozen=True, eq=False)
class LeadPlan:
    """Which row of a recording feeds which input of the model.

    Args:
        source (`tuple[str | None, ...]`): Standard name of each row, `None` for a row that is none of the twelve leads.
        target (`tuple[str, ...]`): Standard names in the order of the model's input.
    """

    source: tuple[str | None, ...]
    target: tuple[str, ...]

    def row_of(self, lead: str) -> int | None:
        """Row that holds a lead, or `None`."""
        return self.source.index(lead) if lead in self.source else None


def plan_leads(lead_names: Sequence[str], target: tuple[str, ...], unknown_leads: str, record_id: str) -> LeadPlan:
    """Reads the lead names of a recording.

    Args:
        lead_names (`Sequence[str]`): As the source spells them.
        target (`tuple[str, ...]`): Standard names in the order of the model's input.
        unknown_leads (`str`): `"raise"` or `"ignore"` rows that are not one of the twelve leads.
        record_id (`str`): For messages.

    Raises:
        RecordError: If a name is unknown (and not to be ignored) or stands for a lead that another row holds too.
    """
    source = tuple(canonical_lead_name(name) for name in lead_names)
    unknown = [name for name, lead in zip(lead_names, source, strict=True) if lead is None]
    if unknown and unknown_leads == "raise":
        raise RecordError(
            record_id,
            f"unknown lead names {unknown}; known are {', '.join(STANDARD_LEADS)} and their usual spellings.",
            'Correct the names, or set unknown_leads="ignore" to leave these rows out.',
        )
    known = [lead for lead in source if lead is not None]
    duplicates = sorted({lead for lead in known if known.count(lead) > 1})
    if duplicates:
        raise RecordError(
            record_id,
            f"more than one row is lead {', '.join(duplicates)} (lead names {list(lead_names)}).",
            "Keep one row per lead.",
        )
    return LeadPlan(source, target)


def arrange_leads(
    signals: NDArray[np.float32], has_signal: NDArray[np.bool_], plan: LeadPlan, derive_limb_leads: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Puts leads into the model's order; absent ones are derived from I and II where possible, or zero.

    Args:
        signals (`np.ndarray` of shape `(batch, num_source_leads, num_samples)`): mV.
        has_signal (`np.ndarray` of shape `(batch, num_source_leads)`): bool, `False` where a row holds nothing.
        plan (`LeadPlan`): From `plan_leads`.
        derive_limb_leads (`bool`): Whether III, aVR, aVL and aVF may come from I and II.

    Returns:
        `tuple` of the signals of shape `(batch, num_leads, num_samples)`, which are the input itself where nothing
        moves, and `lead_mask` of shape `(batch, num_leads)`, `False` where a lead is absent.
    """
    if plan.source == plan.target and has_signal.all():
        return signals, has_signal
    arranged = np.zeros((len(signals), len(plan.target), signals.shape[-1]), dtype=np.float32)
    lead_mask = np.zeros(arranged.shape[:2], dtype=bool)
    row_i, row_ii = plan.row_of("I"), plan.row_of("II")
    for position, lead in enumerate(plan.target):
        row = plan.row_of(lead)
        if row is not None:
            arranged[:, position] = signals[:, row]
            lead_mask[:, position] = has_signal[:, row]
        if derive_limb_leads and lead in LIMB_LEAD_WEIGHTS and row_i is not None and row_ii is not None:
            derivable = ~lead_mask[:, position] & has_signal[:, row_i] & has_signal[:, row_ii]
            if derivable.any():
                a, b = LIMB_LEAD_WEIGHTS[lead]
                arranged[derivable, position] = a * signals[derivable, row_i] + b * signals[derivable, row_ii]
                lead_mask[derivable, position] = True
    return arranged, lead_mask
