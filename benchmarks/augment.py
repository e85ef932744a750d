"""Speed of the batched augmentations, against a loop over the records of the same operations in NumPy and SciPy.

The baseline is what the published methods do in their data loaders: one record of 12 x 5000 samples at a time on the
CPU, float32, random numbers from NumPy. The batch is on the device. Both run in turn, the best of several runs counts,
and the ratio is of these bests. With `--device cuda` the baseline stays where it was, and the time of the batch
includes waiting for the GPU to finish, but no transfer.

    OMP_NUM_THREADS=1 python benchmarks/augment.py
    python benchmarks/augment.py --device cuda --num-records 512
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from hf_ecgtext.data import augmentations as aug
from hf_ecgtext.data.augmentations.vectorcardiogram import INVERSE_DOWER

RATE_HZ = 500.0
Signal = NDArray[np.float32]
PerRecord = Callable[[Signal, np.random.Generator], NDArray]


def resized_crop(signal: Signal, rng: np.random.Generator) -> NDArray:
    """A stretch of half to all of the record, linearly resized."""
    last = signal.shape[1] - 1
    scale = rng.uniform(0.5, 1.0)
    moments = rng.uniform() * (1 - scale) * last + np.arange(last + 1) * scale
    return np.stack([np.interp(moments, np.arange(last + 1), lead) for lead in signal])


def time_out(signal: Signal, rng: np.random.Generator) -> NDArray:
    """Up to half of the record set to 0."""
    changed = signal.copy()
    length = int(rng.uniform(0, 0.5) * signal.shape[1])
    start = rng.integers(0, signal.shape[1] - length + 1)
    changed[:, start : start + length] = 0
    return changed


def jitter(signal: Signal, rng: np.random.Generator) -> NDArray:
    """White noise."""
    return signal + 0.05 * signal.std() * rng.standard_normal(signal.shape, dtype=np.float32)


def scaling(signal: Signal, rng: np.random.Generator) -> NDArray:
    """One factor per lead."""
    return signal * rng.normal(1.0, 0.1, (len(signal), 1)).astype(np.float32)


def blur(signal: Signal, rng: np.random.Generator) -> NDArray:
    """A Gaussian kernel of 3 to 11 samples."""
    reach = int(rng.integers(1, 6))
    return gaussian_filter1d(signal, 0.3 * (reach - 1) + 0.8, axis=1, radius=reach)


def shift(signal: Signal, rng: np.random.Generator) -> NDArray:
    """One level per lead on a fifth of the record."""
    changed = signal.copy()
    length = signal.shape[1] // 5
    start = rng.integers(0, signal.shape[1] - length + 1)
    changed[:, start : start + length] += rng.uniform(-0.25, 0.25, (len(signal), 1)).astype(np.float32)
    return changed


def wander(signal: Signal, rng: np.random.Generator) -> NDArray:
    """Three slow sines."""
    seconds = np.arange(signal.shape[1], dtype=np.float32) / RATE_HZ
    waves = [np.sin(2 * np.pi * (rng.uniform(0.05, 0.5) * seconds + rng.uniform())) for _ in range(3)]
    return signal + rng.uniform(-0.5, 0.5, (len(signal), 1)) * np.mean(waves, axis=0)


def hum(signal: Signal, rng: np.random.Generator) -> NDArray:
    """50 or 60 Hz."""
    seconds = np.arange(signal.shape[1], dtype=np.float32) / RATE_HZ
    wave = np.sin(2 * np.pi * (rng.choice([50.0, 60.0]) * seconds + rng.uniform()))
    return signal + rng.uniform(0, 0.5, (len(signal), 1)) * wave


def muscle(signal: Signal, rng: np.random.Generator) -> NDArray:
    """White noise with a deviation per lead."""
    return signal + rng.uniform(0, 0.5, (len(signal), 1)) * rng.standard_normal(signal.shape, dtype=np.float32)


def lead_mask(signal: Signal, rng: np.random.Generator) -> NDArray:
    """Half of the leads set to 0."""
    return signal * (rng.uniform(size=(len(signal), 1)) >= 0.5)


def permutation(signal: Signal, rng: np.random.Generator) -> NDArray:
    """Up to seven segments in another order."""
    cuts = np.sort(rng.choice(signal.shape[1] - 1, rng.integers(0, 7), replace=False) + 1)
    segments = np.split(np.arange(signal.shape[1]), cuts)
    return signal[:, np.concatenate([segments[place] for place in rng.permutation(len(segments))])]


def three_kg(signal: Signal, rng: np.random.Generator) -> NDArray:
    """The vectorcardiogram turned and scaled, half of each lead hidden."""
    dower = np.array(INVERSE_DOWER)
    turn = Rotation.from_euler("zyx", rng.uniform(-45, 45, 3), degrees=True).as_matrix()
    vcg = np.diag(rng.uniform(1, 1.5, 3)) @ turn @ dower @ signal[[0, 1, *range(6, 12)]]
    i, ii, *chest = np.linalg.pinv(dower) @ vcg
    changed = np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, *chest])
    for lead in changed:
        hidden = (rng.integers(0, lead.size) + np.arange(lead.size // 2)) % lead.size
        lead[hidden] = 0
    return changed


OPERATIONS: dict[str, tuple[torch.nn.Module, PerRecord]] = {
    "random resized crop": (aug.RandomResizedCrop(), resized_crop),
    "time-out": (aug.TimeOut(), time_out),
    "jitter": (aug.Jitter(), jitter),
    "scaling": (aug.RandomScaling(), scaling),
    "Gaussian blur": (aug.GaussianBlur(), blur),
    "baseline shift": (aug.BaselineShift(), shift),
    "baseline wander": (aug.BaselineWander(RATE_HZ), wander),
    "power-line noise": (aug.PowerlineNoise(RATE_HZ), hum),
    "muscle noise": (aug.MuscleNoise(), muscle),
    "lead masking": (aug.RandomLeadMask(), lead_mask),
    "segment permutation": (aug.SegmentPermutation(), permutation),
    "3KG": (aug.three_kg(), three_kg),
}


def main() -> None:
    """Prints milliseconds per batch and the ratio for each augmentation, and for all of them in a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-records", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the batched augmentations")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    rng = np.random.default_rng(0)
    records = rng.standard_normal((arguments.num_records, 12, round(10 * RATE_HZ)), dtype=np.float32)
    batch = torch.from_numpy(records).to(device)
    generator = None if arguments.compile else torch.Generator(device).manual_seed(0)
    name_of_device = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{arguments.num_records} records of 12 x {records.shape[-1]}, best of {arguments.repeats}; {name_of_device}")
    totals = [0.0, 0.0]
    for name, (augmentation, per_record) in OPERATIONS.items():
        batched = augmentation.to(device)
        if arguments.compile:
            batched.compile()
        batched(batch, None, generator)  # compiles, and lets the allocator settle
        best = [float("inf"), float("inf")]
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            np.stack([per_record(record, rng).astype(np.float32, copy=False) for record in records])
            best[0] = min(best[0], time.perf_counter() - start)
            start = time.perf_counter()
            batched(batch, None, generator)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[1] = min(best[1], time.perf_counter() - start)
        totals = [total + seconds for total, seconds in zip(totals, best, strict=True)]
        _report(name, *best)
    _report("all of them", *totals)


def _report(name: str, loop: float, batched: float) -> None:
    print(f"{name:22s} loop {1e3 * loop:9.2f} ms   batched {1e3 * batched:9.2f} ms   ratio {loop / batched:7.2f}")


if __name__ == "__main__":
    main()
