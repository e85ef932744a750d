"""Which row is aVR, aVL and aVF, decided from the signal; the arithmetic is in `hf_ecgtext.data.limb_lead_order`."""

from __future__ import annotations

from hf_ecgtext.data.limb_lead_order import AUGMENTED_LEADS, augmented_lead_permutations, infer_limb_lead_order

__all__ = ["AUGMENTED_LEADS", "augmented_lead_permutations", "infer_limb_lead_order"]
