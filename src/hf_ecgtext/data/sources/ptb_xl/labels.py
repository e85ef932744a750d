"""PTB-XL's four classification tasks, derived from its own metadata.

Every paper on PTB-XL uses the classes of Strodthoff et al. 2020 (arXiv 2004.13701): diagnostic superclasses (5) and
subclasses (23), form statements (19) and rhythm statements (12). A record has a class if any of its SCP codes belongs
to it, whatever the code's likelihood: 0 stands for "unknown", not for "absent". The labels equal the split files that
MERL published, and that later papers reuse, by class name for every record; their column order differs from file to
file, so always select classes by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PTB_XL_CLASSES: dict[str, dict[str, str]] = {
    "super": {
        "NORM": "normal ECG",
        "MI": "myocardial infarction",
        "STTC": "ST/T change",
        "CD": "conduction disturbance",
        "HYP": "hypertrophy",
    },
    "sub": {
        "NORM": "normal ECG",
        "AMI": "anterior myocardial infarction",
        "IMI": "inferior myocardial infarction",
        "LMI": "lateral myocardial infarction",
        "PMI": "posterior myocardial infarction",
        "STTC": "ST/T change",
        "NST": "non-specific ST change",
        "ISC": "non-specific ischemia",
        "ISCA": "anterior or lateral ischemia",
        "ISCI": "inferior ischemia",
        "AVB": "atrioventricular block",
        "LAFB/LPFB": "left anterior or left posterior fascicular block",
        "CLBBB": "complete left bundle branch block",
        "ILBBB": "incomplete left bundle branch block",
        "CRBBB": "complete right bundle branch block",
        "IRBBB": "incomplete right bundle branch block",
        "IVCD": "non-specific intraventricular conduction disturbance",
        "WPW": "Wolff-Parkinson-White syndrome",
        "LVH": "left ventricular hypertrophy",
        "RVH": "right ventricular hypertrophy",
        "SEHYP": "septal hypertrophy",
        "LAO/LAE": "left atrial overload or enlargement",
        "RAO/RAE": "right atrial overload or enlargement",
    },
    "form": {
        "ABQRS": "abnormal QRS",
        "DIG": "digitalis effect",
        "HVOLT": "high QRS voltage",
        "INVT": "inverted T-waves",
        "LNGQT": "long QT-interval",
        "LOWT": "low amplitude T-waves",
        "LPR": "prolonged PR interval",
        "LVOLT": "low QRS voltages in the frontal and horizontal leads",
        "NDT": "non-diagnostic T abnormalities",
        "NST": "non-specific ST changes",
        "NT": "non-specific T-wave changes",
        "PAC": "atrial premature complex",
        "PRC(S)": "premature complexes",
        "PVC": "ventricular premature complex",
        "QWAVE": "Q waves present",
        "STD": "non-specific ST depression",
        "STE": "non-specific ST elevation",
        "TAB": "T-wave abnormality",
        "VCLVH": "voltage criteria for left ventricular hypertrophy",
    },
    "rhythm": {
        "AFIB": "atrial fibrillation",
        "AFLT": "atrial flutter",
        "BIGU": "bigeminal pattern",
        "PACE": "normal functioning artificial pacemaker",
        "PSVT": "paroxysmal supraventricular tachycardia",
        "SARRH": "sinus arrhythmia",
        "SBRAD": "sinus bradycardia",
        "SR": "sinus rhythm",
        "STACH": "sinus tachycardia",
        "SVARR": "supraventricular arrhythmia",
        "SVTAC": "supraventricular tachycardia",
        "TRIGU": "trigeminal pattern",
    },
}
"""Task -> class -> its name in words, for prompts.

Source: form and rhythm names are the descriptions of `scp_statements.csv` (PTB-XL 1.0.3, CC-BY-4.0), without the
brackets that name alternatives; PTB-XL words no subclass, so those names are ours.
"""

SPLIT_FOLDS: dict[str, tuple[int, ...]] = {"train": tuple(range(1, 9)), "validation": (9,), "test": (10,)}
"""The folds of each split; all records of a patient are in one fold, and 9 and 10 were reviewed by people.

Source: Wagner et al. 2020, "PTB-XL, a large publicly available electrocardiography dataset".
"""

_METADATA_COLUMN = {"super": "diagnostic_class", "sub": "diagnostic_subclass"}


def class_names(task: str) -> dict[str, str]:
    """The classes of a task and their names in words, such as `{"NORM": "normal ECG", ...}`.

    Args:
        task (`str`): `"super"`, `"sub"`, `"form"` or `"rhythm"`.

    Raises:
        ValueError: If there is no such task.
    """
    if task not in PTB_XL_CLASSES:
        raise ValueError(f"Unknown PTB-XL task '{task}'; choose one of {list(PTB_XL_CLASSES)}.")
    return dict(PTB_XL_CLASSES[task])


def class_of_code(statements: pd.DataFrame, task: str) -> dict[str, str]:
    """SCP code -> class of the task; codes that say nothing about the task are absent.

    Args:
        statements (`pd.DataFrame`): `scp_statements.csv`, indexed by SCP code.
        task (`str`): `"super"`, `"sub"`, `"form"` or `"rhythm"`.

    Raises:
        ValueError: If there is no such task, or the table and this library disagree about its classes.
    """
    expected = class_names(task)
    if task in _METADATA_COLUMN:
        padded = statements[_METADATA_COLUMN[task]].dropna().to_dict()
    else:
        padded = {code: code for code in statements.index[statements[task] == 1]}
    # PTB-XL pads some names to keep them apart (`NST_`, `_AVB`); the papers' tables and split files do not.
    classes = {str(code): str(name).strip("_") for code, name in padded.items()}
    if set(classes.values()) != set(expected):
        raise ValueError(
            f"scp_statements.csv gives the task '{task}' the classes {sorted(set(classes.values()))} instead of "
            f"{sorted(expected)}. Use the file of PTB-XL 1.0.1 to 1.0.3."
        )
    return classes


def class_members(statements: pd.DataFrame, task: str) -> dict[str, tuple[str, ...]]:
    """The statements that each class groups, in words, for the classes that group more than one.

    `"CD"` is the union of thirteen statements such as "left anterior fascicular block"; a report names one of those,
    never "conduction disturbance".

    Args:
        statements (`pd.DataFrame`): From [`~hf_ecgtext.data.sources.ptb_xl.tables.read_statements`].
        task (`str`): `"super"`, `"sub"`, `"form"` or `"rhythm"`.
    """
    members: dict[str, list[str]] = {}
    for code, label in class_of_code(statements, task).items():
        members.setdefault(label, []).append(str(statements.loc[code, "description"]))
    return {label: tuple(names) for label, names in members.items() if len(names) > 1}


def labels_of_codes(codes: Iterable[str], classes: Mapping[str, str]) -> tuple[str, ...]:
    """The distinct classes of a record's SCP codes, in the order of the codes.

    Args:
        codes (`Iterable[str]`): SCP codes of one record.
        classes (`Mapping[str, str]`): SCP code -> class, from `class_of_code`.
    """
    return tuple(dict.fromkeys(classes[code] for code in codes if code in classes))


def split_of_fold(fold: int) -> str:
    """`"train"`, `"validation"` or `"test"` for a `strat_fold` of 1 to 10.

    Raises:
        ValueError: For any other number.
    """
    for split, folds in SPLIT_FOLDS.items():
        if fold in folds:
            return split
    raise ValueError(f"PTB-XL has the folds 1 to 10, not {fold}.")
