"""Splits by a stable hash, and parts of a training split: published draws, stratified draws and folds of patients."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PUBLISHED_SEED = 42


class Subset(NamedTuple):
    """One draw.

    Args:
        indices (`np.ndarray` of shape `(num_drawn,)`): int64 rows of the training split, ascending.
        absent_labels (`tuple[str, ...]`): Labels without a single positive record among them.
    """

    indices: NDArray[np.int64]
    absent_labels: tuple[str, ...]


def published_subset(num_records: int, fraction: float) -> NDArray[np.int64]:
    """The rows of the published low-label training sets: `train_test_split(csv, train_size=fraction, random_state=42)`.

    The draw is by record, neither by patient nor by label: 1 % of PTB-XL's form task are 71 records with 4 of the 19
    labels absent. It depends on the order of the rows, which must be that of the published split file: ascending
    `ecg_id` for the four tasks of PTB-XL; for CPSC2018 and CSN the order of MERL's lists.

    Args:
        num_records (`int`): Rows of the training split.
        fraction (`float`): 0.01 or 0.1 in the papers.

    Returns:
        `np.ndarray` of shape `(int(num_records * fraction),)`: int64 rows in the order drawn.

    Raises:
        ValueError: If the fraction is not between 0 and 1, or leaves no record.

    Source: MERL's `finetune` data loaders, as used by every paper here; scikit-learn's `ShuffleSplit`.
    """
    size = _subset_size(num_records, fraction)
    # scikit-learn's draw: MT19937, and the training rows are those after the (num_records - size) test rows.
    order = np.random.RandomState(_PUBLISHED_SEED).permutation(num_records)
    return order[num_records - size :].astype(np.int64)


def stratified_subsets(
    targets: NDArray[np.integer] | NDArray[np.bool_],
    patients: Sequence[str],
    labels: Sequence[str],
    fraction: float,
    *,
    draws: int = 5,
    seed: int = 0,
) -> list[Subset]:
    """Draws of whole patients in which every label has about its share, and the rarest at least one patient.

    Iterative stratification (Sechidis et al. 2011), by patient and for one part only: the label with the fewest
    undecided patients is dealt out first, in random order, until its share is nearest; its other patients are out. So
    rare labels are served before common ones use up the size. A label's share is `fraction` of its positive records,
    but at least one patient; what the rarest get beyond their share is taken from the most common.

    Args:
        targets (`np.ndarray` of shape `(num_records, num_labels)`): 0/1.
        patients (`Sequence[str]` of length `num_records`): All records of a patient are drawn, or none.
        labels (`Sequence[str]` of length `num_labels`): Their names.
        fraction (`float`): Of the records, between 0 and 1. No draw has more than `int(num_records * fraction)`.
        draws (`int`): How many; each is independent of how many there are.
        seed (`int`): Of all draws.

    Raises:
        ValueError: If the arguments do not fit together, a target is not 0 or 1, or a patient is unknown.
    """
    matrix = np.asarray(targets)
    if matrix.ndim != 2 or matrix.shape != (len(patients), len(labels)):
        raise ValueError(
            f"targets have shape {matrix.shape}; {len(patients)} patients and {len(labels)} labels need "
            f"({len(patients)}, {len(labels)})."
        )
    if not np.isin(matrix, (0, 1)).all():
        raise ValueError("targets must be 0 or 1.")
    if any(patient is None for patient in patients):
        raise ValueError("Some records have no patient id. Pass their record ids, if each is of another patient.")
    size = _subset_size(len(matrix), fraction)
    patient_of_record, sizes, counts = _by_patient(matrix, patients)
    subsets = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        chosen = _draw_patients(counts, sizes, size, fraction, rng)
        indices = np.flatnonzero(chosen[patient_of_record])
        found = matrix[indices].sum(axis=0)
        absent = tuple(label for label, count in zip(labels, found.tolist(), strict=True) if count == 0)
        subsets.append(Subset(indices, absent))
    return subsets


def stratified_folds(
    targets: NDArray[np.integer] | NDArray[np.bool_],
    patients: Sequence[str],
    *,
    num_folds: int = 5,
    seed: int | tuple[int, ...] = 0,
) -> NDArray[np.int64]:
    """Folds of whole patients for cross-validation, in which every label is spread as evenly as its patients allow.

    Iterative stratification (Sechidis et al. 2011), by patient: the label with the fewest waiting patients is dealt out
    first, each patient to the fold with the fewest records of that label, among those to the smallest. So the patients
    of a rare label lie in as many folds as there are patients, or folds.

    Args:
        targets (`np.ndarray` of shape `(num_records, num_labels)`): 0/1.
        patients (`Sequence[str]` of length `num_records`): All records of a patient are in one fold.
        num_folds (`int`): At least 2; fewer if there are fewer patients.
        seed (`int` or `tuple[int, ...]`): Of the order in which patients are dealt out.

    Returns:
        `np.ndarray` of shape `(num_records,)`: int64 folds, from 0.

    Raises:
        ValueError: If there are fewer than two folds or patients.
    """
    patient_of_record, sizes, counts = _by_patient(np.asarray(targets), patients)
    num_folds = min(num_folds, len(sizes))
    if num_folds < 2:
        raise ValueError(
            f"Cross-validation needs two folds and two patients; there are {len(sizes)} patients and {num_folds} folds."
        )
    rng = np.random.default_rng(seed)
    fold_of = np.full(len(sizes), -1, dtype=np.int64)
    fold_counts = np.zeros((num_folds, counts.shape[1]), dtype=np.int64)
    fold_sizes = np.zeros(num_folds, dtype=np.int64)

    def deal(dealt: NDArray[np.int64], label: int | None) -> None:
        for patient in rng.permutation(dealt).tolist():
            fold = min(
                range(num_folds), key=lambda fold: (0 if label is None else fold_counts[fold, label], fold_sizes[fold])
            )
            fold_of[patient] = fold
            fold_counts[fold] += counts[patient]
            fold_sizes[fold] += sizes[patient]

    waiting = set(np.flatnonzero(counts.any(axis=0)).tolist())
    while waiting:
        label = min(waiting, key=lambda column: (int((counts[fold_of < 0, column] > 0).sum()), column))
        waiting.remove(label)
        deal(np.flatnonzero((fold_of < 0) & (counts[:, label] > 0)), label)
    deal(np.flatnonzero(fold_of < 0), None)
    return fold_of[patient_of_record]


def _by_patient(
    matrix: NDArray[Any], patients: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """The patient of each record, the records of each patient, and of those the positive ones by label."""
    _, patient_of_record = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    sizes = np.bincount(patient_of_record)
    counts = np.zeros((len(sizes), matrix.shape[1]), dtype=np.int64)
    np.add.at(counts, patient_of_record, matrix.astype(np.int64))
    return patient_of_record, sizes, counts


def _draw_patients(
    counts: NDArray[np.int64], sizes: NDArray[np.int64], size: int, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which patients are drawn.

    Args:
        counts (`np.ndarray` of shape `(num_patients, num_labels)`): Positive records.
        sizes (`np.ndarray` of shape `(num_patients,)`): Records.
    """
    shares = fraction * counts.sum(axis=0)
    taken = np.zeros(counts.shape[1], dtype=np.int64)
    chosen = np.zeros(len(sizes), dtype=bool)
    undecided = np.ones(len(sizes), dtype=bool)
    has_label = counts > 0
    room = size
    waiting = set(np.flatnonzero(counts.any(axis=0)).tolist())
    while waiting:
        label = min(waiting, key=lambda column: (int(has_label[undecided, column].sum()), column))
        waiting.remove(label)
        candidates = rng.permutation(np.flatnonzero(undecided & has_label[:, label]))
        undecided[candidates] = False
        for patient in candidates.tolist():
            is_nearer = counts[patient, label] < 2 * (shares[label] - taken[label])
            if sizes[patient] <= room and (is_nearer or taken[label] == 0):
                chosen[patient] = True
                taken += counts[patient]
                room -= int(sizes[patient])
    # Patients without any label have their share of the room that is left; if they are too few, so have the others.
    unlabelled, rejected = np.flatnonzero(undecided), np.flatnonzero(~undecided & ~chosen)
    for patient in (*rng.permutation(unlabelled).tolist(), *rng.permutation(rejected).tolist()):
        if sizes[patient] <= room:
            chosen[patient] = True
            room -= int(sizes[patient])
    return chosen


def _subset_size(num_records: int, fraction: float) -> int:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction}.")
    size = int(num_records * fraction)
    if size == 0:
        raise ValueError(f"{fraction:g} of {num_records} records is none.")
    return size


def split_of(key: str, fractions: Mapping[str, float], salt: str) -> str:
    """The split of a patient or record.

    The key's hash is a number from 0 to 1, and the splits follow one another on that line in the order of `fractions`.
    So records that are added later move no other record, and another fraction moves only those between the bounds:
    with `{"train": ..., "validation": ..., "test": ...}`, the test split stays as it is when validation grows.

    Args:
        key (`str`): What must stay together, such as a patient's id.
        fractions (`Mapping[str, float]`): Split to its share of the keys; the shares add up to 1.
        salt (`str`): Another salt gives another draw; different datasets use different ones.

    Raises:
        ValueError: If a share is negative, or they do not add up to 1.
    """
    if any(share < 0 for share in fractions.values()) or not math.isclose(sum(fractions.values()), 1.0):
        raise ValueError(f"The fractions of the splits must add up to 1 and not be negative: {dict(fractions)}.")
    digest = hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    splits = [split for split, share in fractions.items() if share > 0]
    bound = 0.0
    for split in splits[:-1]:
        bound += fractions[split]
        if position < bound:
            return split
    return splits[-1]
