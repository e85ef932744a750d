"""Speed of the vectorised bootstrap against a loop over scikit-learn, and how well its intervals cover the truth.

    python benchmarks/bootstrap.py
    python benchmarks/bootstrap.py --coverage

The speed part draws scores like those of PTB-XL's 23 subclasses. The loop gets the same resamples, repeats the rows and
calls scikit-learn; it runs for a few resamples only, and its time is scaled up. Both run on one core in this process.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals, resample_weights
from hf_ecgtext.evaluation.statistics.metrics import auroc


def sample(
    rng: np.random.Generator, num_records: int, prevalences: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores from N(0, 1) for negatives and N(1, 1) for positives, and the targets."""
    targets = (rng.random((num_records, len(prevalences))) < prevalences).astype(np.int64)
    return rng.normal(size=targets.shape) + targets, targets


def speed(num_records: int, num_classes: int, num_resamples: int, num_loop_resamples: int) -> None:
    """Print seconds of both ways and their ratio."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    scores, targets = sample(rng, num_records, np.geomspace(0.4, 0.01, num_classes))
    patients = rng.integers(int(0.87 * num_records), size=num_records)  # about as many patients as PTB-XL has

    start = time.perf_counter()
    result = bootstrap_intervals(scores, targets, patients, num_resamples=num_resamples)
    vectorised_s = time.perf_counter() - start

    weights = resample_weights(targets, patients, num_loop_resamples)
    start = time.perf_counter()
    for counts in weights:
        rows = np.repeat(np.arange(num_records), counts)
        for index in range(num_classes):
            roc_auc_score(targets[rows, index], scores[rows, index])
            average_precision_score(targets[rows, index], scores[rows, index])
    loop_s = (time.perf_counter() - start) * num_resamples / num_loop_resamples

    macro = result["auroc"].macro()
    print(f"{num_resamples} resamples of {num_records} records x {num_classes} classes, AUROC and average precision")
    print(f"macro AUROC {macro.value:.4f} ({macro.low:.4f} to {macro.high:.4f})")
    print(f"hf_ecgtext    {vectorised_s:8.2f} s")
    print(f"scikit-learn  {loop_s:8.2f} s (scaled from {num_loop_resamples} resamples)")
    print(f"ratio         {loop_s / vectorised_s:8.1f}")


def coverage(num_simulations: int, num_patients: int, num_resamples: int) -> None:
    """Print how often the 95 % interval of AUROC holds the true AUROC, by number of positive patients."""
    prevalences = np.array([0.3, 0.1, 0.05, 0.02, 0.01])
    truth = 0.5 * (1 + math.erf(0.5))  # P(N(1, 1) > N(0, 1))
    rng = np.random.default_rng(1)
    held = np.zeros(len(prevalences) + 1)
    defined = np.zeros(len(prevalences) + 1)
    for simulation in range(num_simulations):
        scores, targets = sample(rng, num_patients, prevalences)
        result = bootstrap_intervals(scores, targets, None, [auroc], num_resamples, seed=simulation)["auroc"]
        for index, interval in enumerate([*result.per_class(), result.macro()]):
            defined[index] += not math.isnan(interval.low)
            held[index] += interval.low <= truth <= interval.high
    names = [f"{prevalence * num_patients:.0f} positive patients" for prevalence in prevalences] + ["macro"]
    print(f"{num_simulations} simulations of {num_patients} patients, {num_resamples} resamples, nominal 95 %")
    for name, share in zip(names, held / defined, strict=True):
        print(f"{name:24s} {100 * share:5.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true", help="measure coverage instead of speed")
    parser.add_argument("--num_records", type=int, default=2200)
    parser.add_argument("--num_classes", type=int, default=23)
    parser.add_argument("--num_resamples", type=int, default=1000)
    parser.add_argument("--num_loop_resamples", type=int, default=5)
    parser.add_argument("--num_simulations", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.coverage:
        coverage(arguments.num_simulations, num_patients=600, num_resamples=300)
    else:
        speed(arguments.num_records, arguments.num_classes, arguments.num_resamples, arguments.num_loop_resamples)
