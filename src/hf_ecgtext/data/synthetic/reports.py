"""Reports in the manner of an ECG machine: short statements, joined by ". ", rhythm first, verdict last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ecgtext.data.synthetic.conditions import CONDITIONS, SINUS_RHYTHMS

NEUTRAL_STATEMENTS = (
    "No previous tracing available for comparison",
    "Unconfirmed analysis",
    "Interpretation made without knowing the patient",
    "Clinical correlation is suggested",
)
"""They carry no finding."""


def write_report(
    rng: np.random.Generator, labels: Sequence[str], heart_rate_bpm: float, flutter_conduction: int | None
) -> str:
    """State every label once, in varying words, and nothing else.

    Args:
        rng (`np.random.Generator`): Chooses the wording.
        labels (`Sequence[str]`): Keys of `CONDITIONS`, in its order.
        heart_rate_bpm (`float`): Decides between rapid and slow ventricular response.
        flutter_conduction (`int`, *optional*): Flutter waves per beat; `None` if they vary.
    """
    found = [CONDITIONS[label] for label in labels if label != "normal_ecg"]
    rhythm, others = found[0], found[1:]
    opening = str(rng.choice(rhythm.statements))
    extra = _ventricular_response(rng, rhythm.key, heart_rate_bpm, flutter_conduction)
    addable = [condition for condition in others if condition.additions]
    if extra:
        opening = f"{rhythm.statements[0]} {extra}"
    elif addable and rhythm.key in SINUS_RHYTHMS | {"atrial_fibrillation"} and rng.random() < 0.5:
        added = addable[int(rng.integers(len(addable)))]
        opening = f"{rhythm.statements[0]} with {rng.choice(added.additions)}"
        others.remove(added)
    statements = [opening, *(str(rng.choice(condition.statements)) for condition in others)]
    if rng.random() < 0.12:
        statements.append(str(rng.choice(NEUTRAL_STATEMENTS)))
    if "normal_ecg" in labels:
        statements.append(str(rng.choice(CONDITIONS["normal_ecg"].statements)))
    elif rng.random() < 0.85:
        abnormal = any(condition.severity == "abnormal" for condition in found)
        statements.append("Abnormal ECG" if abnormal else "Borderline ECG")
    return ". ".join(statements)


def _ventricular_response(
    rng: np.random.Generator, rhythm: str, heart_rate_bpm: float, flutter_conduction: int | None
) -> str:
    if rng.random() < 0.4:
        return ""
    if rhythm == "atrial_fibrillation" and heart_rate_bpm > 100:
        return "with rapid ventricular response"
    if rhythm == "atrial_fibrillation" and heart_rate_bpm < 60:
        return "with slow ventricular response"
    if rhythm == "atrial_flutter":
        return f"with {flutter_conduction}:1 conduction" if flutter_conduction else "with variable conduction"
    return ""
