"""The findings that a synthetic ECG can have: names, wordings, and what may occur together.

The wordings are standard clinical phrases in the manner of an ECG machine; `name` is what a user would write as a
zero-shot prompt. How often each finding is drawn is decided in `patients.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Group = Literal["rhythm", "ectopy", "conduction", "axis", "voltage", "infarction", "st", "t", "summary"]
Severity = Literal["normal", "borderline", "abnormal"]


@dataclass(frozen=True)
class Condition:
    """One finding.

    Args:
        key (`str`): The label, such as `"atrial_fibrillation"`.
        name (`str`): Plain name, usable as a zero-shot prompt.
        description (`str`): What is visible in the signal.
        group (`str`): Its place in a report; the groups of `GROUP_ORDER`.
        severity (`str`): What it makes of the whole ECG: `"normal"`, `"borderline"` or `"abnormal"`.
        statements (`tuple[str, ...]`): Report statements; each one stands alone.
        additions (`tuple[str, ...]`): Wordings that may follow a rhythm and "with", as in "Sinus rhythm with PVCs".
    """

    key: str
    name: str
    description: str
    group: Group
    severity: Severity
    statements: tuple[str, ...]
    additions: tuple[str, ...] = ()


GROUP_ORDER: tuple[Group, ...] = (
    "rhythm",
    "ectopy",
    "conduction",
    "axis",
    "voltage",
    "infarction",
    "st",
    "t",
    "summary",
)
"""The order in which a machine states its findings."""

TERRITORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "anterior": ("V2", "V3", "V4"),
        "inferior": ("II", "III", "aVF"),
        "lateral": ("I", "aVL", "V5", "V6"),
    }
)
"""The leads that look at each wall of the left ventricle."""


def _rhythms() -> list[Condition]:
    return [
        Condition(
            "sinus_rhythm",
            "sinus rhythm",
            "An upright P wave in I and II before every QRS, 60 to 100 beats per minute.",
            "rhythm",
            "normal",
            ("Sinus rhythm", "Normal sinus rhythm", "Sinus rhythm, normal rate"),
        ),
        Condition(
            "sinus_bradycardia",
            "sinus bradycardia",
            "Sinus rhythm slower than 60 beats per minute.",
            "rhythm",
            "borderline",
            ("Sinus bradycardia", "Bradycardia, sinus mechanism", "Slow rate, sinus bradycardia"),
        ),
        Condition(
            "sinus_tachycardia",
            "sinus tachycardia",
            "Sinus rhythm faster than 100 beats per minute.",
            "rhythm",
            "borderline",
            ("Sinus tachycardia", "Tachycardia, sinus mechanism", "Fast rate, sinus tachycardia"),
        ),
        Condition(
            "atrial_fibrillation",
            "atrial fibrillation",
            "Irregularly irregular QRS complexes, no P waves, fibrillatory waves that are clearest in V1.",
            "rhythm",
            "abnormal",
            ("Atrial fibrillation", "Probable atrial fibrillation", "Atrial fibrillation, irregular rhythm"),
        ),
        Condition(
            "atrial_flutter",
            "atrial flutter",
            "Saw-tooth flutter waves near 300 per minute in II, III and aVF, conducted 2:1 to 4:1.",
            "rhythm",
            "abnormal",
            ("Atrial flutter", "Probable atrial flutter", "Atrial flutter, typical saw-tooth waves"),
        ),
        Condition(
            "premature_atrial_complexes",
            "premature atrial complexes",
            "Early beats with a different P wave and a narrow QRS.",
            "ectopy",
            "borderline",
            ("Premature atrial complexes", "Atrial premature complexes", "PACs", "Premature atrial contractions"),
            ("premature atrial complexes", "PACs", "atrial premature complexes"),
        ),
        Condition(
            "premature_ventricular_complexes",
            "premature ventricular complexes",
            "Early wide beats without P wave, discordant T wave, compensatory pause.",
            "ectopy",
            "abnormal",
            (
                "Premature ventricular complexes",
                "Ventricular premature complexes",
                "PVCs",
                "Premature ventricular contractions",
            ),
            ("premature ventricular complexes", "PVCs", "ventricular premature complexes"),
        ),
    ]


def _ventricles() -> list[Condition]:
    return [
        Condition(
            "first_degree_av_block",
            "first-degree AV block",
            "PR interval longer than 200 ms with every P wave conducted.",
            "conduction",
            "borderline",
            ("First-degree AV block", "1st degree A-V block", "Prolonged PR interval", "First degree AV block"),
            ("1st degree A-V block", "first-degree AV block", "prolonged PR interval"),
        ),
        Condition(
            "left_bundle_branch_block",
            "left bundle branch block",
            "QRS of 120 ms or more, broad notched R in I and V6, deep S or QS in V1, discordant T.",
            "conduction",
            "abnormal",
            ("Left bundle branch block", "LBBB", "Complete left bundle branch block"),
        ),
        Condition(
            "right_bundle_branch_block",
            "right bundle branch block",
            "QRS of 120 ms or more, rSR' in V1, wide S in I and V6.",
            "conduction",
            "abnormal",
            ("Right bundle branch block", "RBBB", "Complete right bundle branch block"),
        ),
        Condition(
            "left_axis_deviation",
            "left axis deviation",
            "Frontal QRS axis between -30 and -90 degrees.",
            "axis",
            "borderline",
            ("Left axis deviation", "Abnormal left axis deviation", "Leftward axis", "Left deviation of the QRS axis"),
        ),
        Condition(
            "right_axis_deviation",
            "right axis deviation",
            "Frontal QRS axis beyond +90 degrees.",
            "axis",
            "borderline",
            (
                "Right axis deviation",
                "Abnormal right axis deviation",
                "Rightward axis",
                "Right deviation of the QRS axis",
            ),
        ),
        Condition(
            "left_ventricular_hypertrophy",
            "left ventricular hypertrophy",
            "Sokolow-Lyon voltage (S in V1 plus R in V5 or V6) of more than 3.5 mV.",
            "voltage",
            "abnormal",
            (
                "Left ventricular hypertrophy",
                "Voltage criteria for left ventricular hypertrophy",
                "LVH",
                "Probable left ventricular hypertrophy",
                "Possible left ventricular hypertrophy",
                "LVH by voltage",
            ),
        ),
        Condition(
            "low_voltage",
            "low QRS voltage",
            "QRS of less than 0.5 mV, peak to peak, in every limb lead.",
            "voltage",
            "borderline",
            ("Low QRS voltage", "Low voltage QRS", "Low QRS voltages in limb leads", "Generalized low voltage"),
        ),
        _old_infarction("inferior", "Q waves in II, III and aVF."),
        _old_infarction("anterior", "Q waves and loss of R in V2 to V4."),
    ]


def _old_infarction(territory: str, visible: str) -> Condition:
    return Condition(
        f"old_{territory}_infarction",
        f"old {territory} myocardial infarction",
        visible,
        "infarction",
        "abnormal",
        (
            f"{territory.capitalize()} infarct, age undetermined",
            f"Old {territory} infarct",
            f"Old {territory} myocardial infarction",
            f"Possible {territory} infarct, old",
            f"Probable old {territory} infarct",
            f"Cannot rule out {territory} infarct, age undetermined",
        ),
    )


def _st_and_t(territory: str) -> list[Condition]:
    leads = f"{TERRITORIES[territory][0]} to {TERRITORIES[territory][-1]}"
    if territory != "anterior":
        leads = ", ".join(TERRITORIES[territory])
    return [
        Condition(
            f"{territory}_st_elevation",
            f"ST elevation in {territory} leads",
            f"The ST segment lies above the baseline in {leads}.",
            "st",
            "abnormal",
            (
                f"ST elevation in {territory} leads",
                f"ST elevation, consider {territory} injury",
                f"{territory.capitalize()} ST elevation",
                f"ST elevation, probable acute {territory} injury",
                f"{territory.capitalize()} ST segment elevation, possible acute infarct",
            ),
        ),
        Condition(
            f"{territory}_st_depression",
            f"ST depression in {territory} leads",
            f"The ST segment lies below the baseline in {leads}.",
            "st",
            "abnormal",
            (
                f"ST depression in {territory} leads",
                f"{territory.capitalize()} ST depression",
                f"ST depression, possible {territory} ischemia",
                f"ST depression, consider {territory} subendocardial injury",
                f"{territory.capitalize()} ST segment depression",
            ),
        ),
        Condition(
            f"{territory}_t_wave_inversion",
            f"T-wave inversion in {territory} leads",
            f"The T wave is negative in {leads}.",
            "t",
            "abnormal",
            (
                f"T-wave inversion in {territory} leads",
                f"{territory.capitalize()} T-wave inversion",
                f"Inverted T waves, consider {territory} ischemia",
                f"T wave inversion, possible {territory} ischemia",
                f"Inverted T waves in {territory} leads",
            ),
        ),
    ]


def _all_conditions() -> list[Condition]:
    normal = Condition(
        "normal_ecg",
        "normal ECG",
        "Sinus rhythm of 60 to 100 beats per minute and no other finding.",
        "summary",
        "normal",
        ("Normal ECG", "Normal ECG", "Within normal limits", "ECG within normal limits"),
    )
    repolarization = [condition for territory in TERRITORIES for condition in _st_and_t(territory)]
    return sorted(
        [*_rhythms(), *_ventricles(), *repolarization, normal], key=lambda condition: GROUP_ORDER.index(condition.group)
    )


CONDITIONS: Mapping[str, Condition] = MappingProxyType({condition.key: condition for condition in _all_conditions()})
"""All findings by key, in the order in which a report states them."""

SINUS_RHYTHMS = frozenset({"sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia"})
