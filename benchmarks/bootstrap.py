"""Speed of the vectorised bootstrap against a loop over scikit-learn.

    python benchmarks/bootstrap.py

It draws scores like those of PTB-XL's 23 subclasses. The loop gets the same resamples, repeats the rows and
calls scikit-learn; it runs for a few resamples only, and its time is scaled up. Both run on one core in this process.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals, resample_weights


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

    weights = resample_weights(num_records, patients, num_loop_resamples)
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_records", type=int, default=2200)
    parser.add_argument("--num_classes", type=int, default=23)
    parser.add_argument("--num_resamples", type=int, default=1000)
    parser.add_argument("--num_loop_resamples", type=int, default=5)
    arguments = parser.parse_args()
    speed(arguments.num_records, arguments.num_classes, arguments.num_resamples, arguments.num_loop_resamples)
