"""Paired permutation tests between two models that answered the same records, and Holm's correction.

The null hypothesis: which of the two models gave an answer does not matter. So all answers about a patient are swapped
between the models with probability one half, and the difference of the area under the ROC curve is computed anew. Two
models score on other scales, and a swap of raw scores would compare the scales; so each model's scores of each class
are first replaced by their ranks among all records (mid-ranks for ties), which leaves every area as it was.

The test speaks of records, not of trainings: a small p says that other patients would show the same order of these
encoders, not that encoders of other seeds would.

Source: Bandos, Rockette and Gur 2005 (permutation test for paired ROC areas); Phipson and Smyth 2010 (p is never 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.statistics.bootstrap import patient_indices, score_runs
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro

# Differences that are equal by algebra may differ in the last bits, and must then count as equal.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """The difference of AUROC between two models, and what it was when patients were swapped at random.

    Args:
        values (`np.ndarray` of shape `(num_classes,)`): AUROC of A minus that of B; NaN for a class without positive
            or negative records.
        permuted (`np.ndarray` of shape `(num_permutations, num_classes)`): The same after each permutation.
        num_positives (`np.ndarray` of shape `(num_classes,)`): Positive records.
        is_exhaustive (`bool`): Whether `permuted` holds every permutation once, the identity included; then p values
            are exact shares. Otherwise they are `(1 + as extreme) / (1 + permutations)`.
    """

    values: NDArray[np.float64]
    permuted: NDArray[np.float64]
    num_positives: NDArray[np.int64]
    is_exhaustive: bool

    def p_values(self) -> NDArray[np.float64]:
        """Two-sided p of each class, of shape `(num_classes,)`; NaN where undefined. Not corrected; see `holm`."""
        return self._p(self.values, self.permuted)

    def macro(self, min_positives: int = 1) -> float:
        """Difference of the macro AUROC over classes with at least so many positive records."""
        return float(macro(self.values, self.num_positives, min_positives))

    def macro_p_value(self, min_positives: int = 1) -> float:
        """Two-sided p of that difference; NaN where no class is left."""
        permuted = np.asarray(macro(self.permuted, self.num_positives, min_positives))
        return float(self._p(np.float64(self.macro(min_positives)), permuted))

    def _p(self, values: np.float64 | NDArray[np.float64], permuted: NDArray[np.float64]) -> NDArray[np.float64]:
        num_extreme = (np.abs(permuted) >= np.abs(values) - _ROUNDING).sum(axis=0)
        p = num_extreme / len(permuted) if self.is_exhaustive else (1 + num_extreme) / (1 + len(permuted))
        return np.where(np.isnan(values), np.nan, p)


def permutation_test(
    scores_a: ArrayLike | Sequence[ArrayLike],
    scores_b: ArrayLike | Sequence[ArrayLike],
    targets: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None,
    num_permutations: int = 1000,
    seed: int = 0,
) -> PermutationTest:
    """Whether scores A and scores B rank the records equally well.

    Several runs of a model (seeds, draws) are compared by the mean of their areas. As many runs of A as of B are
    compared run by run, and a patient is swapped in all of them together. Where the numbers differ, runs are repeated
    in turn until they match (one against five: five times the one). Then a model and its repetition are no longer
    exchangeable with several models, so that the test is not exact, but only right for many records.

    Args:
        scores_a (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): One or several runs.
        scores_b (`np.ndarray` of shape `(num_records, num_classes)`, or a sequence of them): One or several runs.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): Whose record each row is; all records of a
            patient are swapped together. `None` takes every record for a patient of its own.
        num_permutations (`int`): Random swaps. With so few patients that there are no more swaps than this, every
            one is tried once instead.
        seed (`int`): Seed of the swaps.

    Raises:
        RecordError: A score is not finite, or a patient id is missing.
        ValueError: Shapes disagree, or a setting is out of range.
    """
    if num_permutations < 1:
        raise ValueError(f"num_permutations is {num_permutations}; it must be at least 1.")
    runs_a, runs_b = (_mid_ranks(score_runs(scores, targets)) for scores in (scores_a, scores_b))
    num_pairs = math.lcm(len(runs_a), len(runs_b))
    pairs = [(runs_a[pair % len(runs_a)], runs_b[pair % len(runs_b)]) for pair in range(num_pairs)]
    patient_of_record = patient_indices(patient_ids, len(runs_a[0]))
    swaps, is_exhaustive = _swaps(int(patient_of_record.max()) + 1, num_permutations, seed)
    swapped = swaps[:, patient_of_record]
    return PermutationTest(
        values=np.mean([auroc(a, targets) - auroc(b, targets) for a, b in pairs], axis=0),
        permuted=np.mean([_swapped_differences(a, b, targets, swapped) for a, b in pairs], axis=0),
        num_positives=np.asarray(targets).astype(bool).sum(axis=0),
        is_exhaustive=is_exhaustive,
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p values of a family of tests: at most a share `alpha` of families has any false claim below `alpha`.

    Args:
        p_values (`np.ndarray` of shape `(num_tests,)`): Between 0 and 1. NaN stands for a test that could not be made;
            it stays NaN and does not count.

    Returns:
        `np.ndarray` of shape `(num_tests,)`: Never below the given ones.

    Raises:
        ValueError: A value lies outside 0 to 1.

    Source: Holm 1979.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if ((given < 0) | (given > 1)).any():
        raise ValueError(f"p values lie between 0 and 1; the family has {given[(given < 0) | (given > 1)].tolist()}.")
    adjusted = np.full(given.shape, np.nan)
    order = np.argsort(given, kind="stable")[: int((~np.isnan(given)).sum())]  # NaN sorts to the end
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1)
    return adjusted


def _mid_ranks(runs: list[NDArray[np.floating]]) -> list[NDArray[np.float64]]:
    from scipy.stats import rankdata

    return [rankdata(run, method="average", axis=0) for run in runs]


def _swaps(num_patients: int, num_permutations: int, seed: int) -> tuple[NDArray[np.bool_], bool]:
    """Which patients each permutation swaps, of shape `(num_permutations, num_patients)`, and whether these are all."""
    if num_patients < 63 and 2**num_patients <= num_permutations:
        numbers = np.arange(2**num_patients)[:, None]
        return (numbers >> np.arange(num_patients) & 1).astype(bool), True
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size=(num_permutations, num_patients), dtype=np.int8).astype(bool), False


def _swapped_differences(
    ranks_a: NDArray[np.float64], ranks_b: NDArray[np.float64], targets: ArrayLike, swapped: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """AUROC of A minus AUROC of B after each permutation, of shape `(num_permutations, num_classes)`.

    What a model answers after a swap is a selection from the answers of both models; so one sort of all answers and a
    weight of 0 or 1 for each serve all permutations.
    """
    answers, truth = np.concatenate([ranks_a, ranks_b]), np.concatenate([targets, targets])
    taken_from_a = np.concatenate([~swapped, swapped], axis=1)
    return auroc(answers, truth, taken_from_a) - auroc(answers, truth, ~taken_from_a)
