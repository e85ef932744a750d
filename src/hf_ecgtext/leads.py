"""The twelve standard leads: names, aliases, and the identities that tie the limb leads together.

Einthoven: I + III = II. Goldberger: aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2. All six limb leads
follow from I and II.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STANDARD_LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical order of this library. MIMIC-IV-ECG stores aVF before aVL."""

MIMIC_LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
"""The order in MIMIC-IV-ECG's files, and therefore of the published MERL and DERI weights."""

LIMB_LEAD_WEIGHTS: dict[str, tuple[float, float]] = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Each limb lead as `a * I + b * II`."""

_PREFIXES = ("MDC_ECG_LEAD_", "LEAD_", "LEAD ", "ECG_", "ECG ")
_CANONICAL = {name.upper(): name for name in STANDARD_LEADS}
_CANONICAL |= {f"{prefix}{number}": name for prefix in "DL" for number, name in enumerate(("I", "II", "III"), start=1)}
_CANONICAL |= {f"D{name}": name for name in ("I", "II", "III")}
_CANONICAL |= {"VR": "aVR", "VL": "aVL", "VF": "aVF"} | {f"C{number}": f"V{number}" for number in range(1, 7)}


def canonical_lead_name(name: str) -> str | None:
    """The standard name of a lead, such as `"aVR"` for `"AVR"` or `"MDC_ECG_LEAD_AVR"`; `None` for any other lead."""
    key = name.strip().upper()
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return _CANONICAL.get(key.strip())


def limb_leads_from_i_and_ii(lead_i: NDArray, lead_ii: NDArray) -> NDArray:
    """All six limb leads, in standard order, from the two that determine them.

    Args:
        lead_i, lead_ii (`np.ndarray` of shape `(..., num_samples)`): mV.

    Returns:
        `np.ndarray` of shape `(..., 6, num_samples)`: I, II, III, aVR, aVL, aVF.
    """
    return np.stack([a * lead_i + b * lead_ii for a, b in LIMB_LEAD_WEIGHTS.values()], axis=-2)
