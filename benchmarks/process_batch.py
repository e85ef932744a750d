"""Speed of `EcgFeatureExtractor` on a uniform batch, against the per-record code that the published methods use.

The baseline does what MERL's downstream data set does for one record after reading it: float64, transpose, swap of two
leads, one min-max, conversion to float32; then the records are stacked. Both run in turn, the best of several runs
counts, and the ratio is of these bests.

    OMP_NUM_THREADS=1 python benchmarks/process_batch.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.leads import STANDARD_LEADS, limb_leads_from_i_and_ii
from hf_ecgtext.processing import EcgFeatureExtractor

SAMPLING_RATE_HZ = 500.0


def make_batch(num_records: int, num_samples: int, seed: int) -> NDArray[np.float32]:
    """Noise in mV whose limb leads obey the identities, of shape `(num_records, 12, num_samples)`."""
    independent = np.random.default_rng(seed).standard_normal((num_records, 8, num_samples), dtype=np.float32)
    independent *= np.float32(0.3)  # an amplitude that an ECG may have: others are looked at twice
    limb = limb_leads_from_i_and_ii(independent[:, 0], independent[:, 1])
    return np.concatenate([limb, independent[:, 2:]], axis=1, dtype=np.float32)


def per_record_minmax(records: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """The baseline: one record at a time, `(num_samples, 12)` in float64, as `wfdb.rdsamp` returns it."""
    prepared = []
    for record in records:
        signal = record.T
        signal = signal[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
        signal = (signal - signal.min()) / (signal.max() - signal.min() + 1e-8)
        prepared.append(signal.astype(np.float32))
    return np.stack(prepared)


def main() -> None:
    """Prints records per second and the ratio to the baseline for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-records", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    batch = make_batch(arguments.num_records, round(10 * SAMPLING_RATE_HZ), seed=0)
    per_record = [record.T.astype(np.float64) for record in batch]
    half_rate = np.ascontiguousarray(batch[:, :, ::2])
    runs: dict[str, Callable[[], object]] = {
        "baseline: per record, float64, min-max": lambda: per_record_minmax(per_record),
        "none, no limb-lead check": _run(EcgFeatureExtractor(check_limb_leads="off"), batch),
        "none": _run(EcgFeatureExtractor(), batch),
        "minmax_record": _run(EcgFeatureExtractor(scaling="minmax_record"), batch),
        "zscore_lead": _run(EcgFeatureExtractor(scaling="zscore_lead"), batch),
        "zscore_record": _run(EcgFeatureExtractor(scaling="zscore_record"), batch),
        "none, 250 Hz -> 500 Hz": _run(EcgFeatureExtractor(), half_rate, SAMPLING_RATE_HZ / 2),
        "none, 0.67-40 Hz": _run(EcgFeatureExtractor(bandpass_hz=(0.67, 40.0)), batch),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    baseline = next(iter(best.values()))
    print(f"{arguments.num_records} records of 12 x {batch.shape[-1]}, best of {arguments.repeats}")
    for name, seconds in best.items():
        print(f"{name:40s} {arguments.num_records / seconds:9.0f} records/s   {baseline / seconds:6.2f} x baseline")


def _run(
    extractor: EcgFeatureExtractor, batch: NDArray[np.float32], sampling_rate_hz: float = SAMPLING_RATE_HZ
) -> Callable[[], object]:
    return lambda: extractor(batch, sampling_rate_hz=sampling_rate_hz, lead_names=STANDARD_LEADS)


if __name__ == "__main__":
    main()
