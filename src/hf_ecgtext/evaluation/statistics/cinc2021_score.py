"""The score of the PhysioNet/CinC Challenge 2021: partial credit for diagnoses that lead to similar treatment.

Every record hands out credit: each pair of a true class j and an answered class k earns `W[j, k]`, divided by the
number of classes that are true or answered. `W` is 1 on its diagonal. The sum over records is scaled so that the
correct answers score 1, and the answer "sinus rhythm" to every record scores 0; worse answers are negative.

`cinc2021_weights.csv` is `W` with the classes of `hf_ecgtext.data.sources.cinc2021.classes`. Of its 30 codes, four
pairs count as one class each: `CLBBB|LBBB`, `CRBBB|RBBB`, `PAC|SVPB` and `PVC|VPB`.

Source: `weights_abbreviations.csv` (the final one, of commit ef74b668) and the definition in
https://github.com/physionetchallenges/evaluation-2021, Copyright 2020, 2021 PhysioNet/Computing in Cardiology
Challenges, BSD 2-Clause licence; Reyna et al. 2021, "Will Two Do?". The code here is our own.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.data.sources.cinc2021.classes import CINC2021_CLASSES, diagnoses
from hf_ecgtext.evaluation.statistics.bootstrap import check_confidence, resample_weights
from hf_ecgtext.evaluation.statistics.intervals import Interval, percentile_interval
from hf_ecgtext.evaluation.statistics.metrics import check_scores_and_targets, check_weights

NORMAL_CLASS = "NSR"
"""What the classifier with score 0 answers to every record."""


@cache
def cinc2021_weights() -> NDArray[np.float64]:
    """Credit for answering the class of the column to a record of the class of the row.

    Returns:
        `np.ndarray` of shape `(26, 26)`: In the order of `CINC2021_CLASSES`; read-only.
    """
    text = (resources.files("hf_ecgtext.evaluation.statistics") / "cinc2021_weights.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    credit = {row["class"]: row for row in rows}
    weights = np.array([[float(credit[true][answer]) for answer in CINC2021_CLASSES] for true in CINC2021_CLASSES])
    weights.flags.writeable = False
    return weights


def cinc2021_score(
    decisions: ArrayLike, targets: ArrayLike, class_names: Sequence[str], weights: ArrayLike | None = None
) -> np.float64 | NDArray[np.float64]:
    """The challenge's score of yes-or-no answers.

    Args:
        decisions (`np.ndarray` of shape `(num_records, num_columns)`): 0 or 1, or bool.
        targets (`np.ndarray` of shape `(num_records, num_columns)`): 0 or 1.
        class_names (`Sequence[str]` of length `num_columns`): What the columns are, in any order: classes such as
            `"PVC|VPB"`, or diagnoses by abbreviation (`"PVC"`) or SNOMED CT code. Diagnoses that count as one class
            are joined: it is answered, or true, if one of them is. All 26 classes must be there.
        weights (`np.ndarray` of shape `(num_records,)` or `(num_resamples, num_records)`, *optional*): Integers, how
            often each record occurs.

    Returns:
        `float` or `np.ndarray` of shape `(num_resamples,)`: At most 1. NaN where the correct answers and "sinus rhythm"
        earn the same, as when all records are normal. Deviation: the challenge's code gives 0 there.

    Raises:
        ValueError: Shapes disagree, a value is not 0 or 1, a class is missing, or a name is unknown.
    """
    answered, true = _joined(decisions, targets, class_names)
    observed, correct, inactive = (_credit(answer, true) for answer in (answered, true, _inactive(true)))
    counts = np.ones(len(true)) if weights is None else check_weights(weights, len(true)).astype(np.float64)
    # Sums of rounded fractions: a difference this small is none.
    possible = counts @ (correct - inactive)
    is_defined = possible > 1e-9
    score = np.where(is_defined, counts @ (observed - inactive) / np.where(is_defined, possible, 1), np.nan)
    return score if score.ndim else np.float64(score)


def cinc2021_interval(
    decisions: ArrayLike,
    targets: ArrayLike,
    class_names: Sequence[str],
    patient_ids: Sequence[object] | NDArray | None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The score with a percentile interval from the bootstrap of `hf_ecgtext.evaluation.statistics.bootstrap`.

    Args:
        decisions (`np.ndarray` of shape `(num_records, num_columns)` or `(num_runs, num_records, num_columns)`): Of
            several runs, the value is the mean, and the interval is of that mean.
        targets, class_names: As in `cinc2021_score`.
        patient_ids (`Sequence` of length `num_records`, *optional*): Whose record each row is; `None` takes every
            record for a patient of its own.
        num_resamples (`int`): The same ones for all runs.
        confidence (`float`): Between 0 and 1.
        seed (`int`): Seed of the resamples.
    """
    check_confidence(confidence)
    array = np.asarray(decisions)
    runs = array[None] if array.ndim == 2 else array
    resampled = resample_weights(len(np.asarray(targets)), patient_ids, num_resamples, seed)
    values = [float(cinc2021_score(run, targets, class_names)) for run in runs]
    resamples = np.mean([cinc2021_score(run, targets, class_names, resampled) for run in runs], axis=0)
    return percentile_interval(float(np.mean(values)), np.atleast_1d(resamples), confidence)


def _credit(answered: NDArray[np.bool_], true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What each record earns, of shape `(num_records,)`."""
    earned = ((true @ cinc2021_weights()) * answered).sum(axis=1)
    return earned / np.maximum((true | answered).sum(axis=1), 1)


def _inactive(true: NDArray[np.bool_]) -> NDArray[np.bool_]:
    answered = np.zeros_like(true)
    answered[:, list(CINC2021_CLASSES).index(NORMAL_CLASS)] = True
    return answered


def _joined(
    decisions: ArrayLike, targets: ArrayLike, class_names: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Decisions and targets of shape `(num_records, 26)`, in the order of `CINC2021_CLASSES`."""
    _, true = check_scores_and_targets(decisions, targets)
    answers = np.asarray(decisions)
    if not np.isin(answers, (0, 1)).all():
        row, column = np.argwhere(~np.isin(answers, (0, 1)))[0]
        raise ValueError(
            f"The decision of row {row}, column {column} is {answers[row, column]}; the CinC 2021 score takes 0 or 1. "
            "Compare scores with thresholds from validation first."
        )
    if len(class_names) != true.shape[1]:
        raise ValueError(f"{len(class_names)} class names for {true.shape[1]} columns.")
    if len(set(class_names)) != len(class_names):
        raise ValueError(
            f"Class names occur twice: {sorted({n for n in class_names if list(class_names).count(n) > 1})}."
        )
    class_of_name = _class_of_name()
    if unknown := [name for name in class_names if name not in class_of_name]:
        raise ValueError(f"{unknown} are no scored classes of CinC 2021; they are {', '.join(CINC2021_CLASSES)}.")
    places = {
        label: [i for i, name in enumerate(class_names) if class_of_name[name] == label] for label in CINC2021_CLASSES
    }
    if missing := [label for label, columns in places.items() if not columns]:
        raise ValueError(
            f"Columns of the classes {', '.join(missing)} are missing; the CinC 2021 score is defined on all "
            f"{len(CINC2021_CLASSES)}. Add columns of zeros if nobody is asked about them."
        )
    answered = answers.astype(bool)
    joined = [
        np.stack([array[:, columns].any(axis=1) for columns in places.values()], axis=1) for array in (answered, true)
    ]
    return joined[0], joined[1]


@cache
def _class_of_name() -> dict[str, str]:
    """Class, SNOMED CT code or abbreviation -> class."""
    known = diagnoses()
    names = {label: label for label in CINC2021_CLASSES}
    for label, codes in CINC2021_CLASSES.items():
        names.update({name: label for code in codes for name in (code, known[code].abbreviation)})
    return names
