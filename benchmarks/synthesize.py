"""Records per second of the synthetic ECG generator on one core, against step-by-step integration.

The baseline is the usual way to make a synthetic ECG: McSharry et al., IEEE Trans. Biomed. Eng. 50:289, 2003. A point
runs around a circle, once per beat, and pulls the heart vector towards or away from five waves; the equations are
integrated sample by sample (here: Euler steps at the sampling rate, all three heart-vector axes at once, then the same
projection onto twelve leads). Fourth-order Runge-Kutta, as in the original, would cost four times as much.

    OMP_NUM_THREADS=1 python benchmarks/synthesize.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.data.synthetic.heart import DOWER_MATRIX
from hf_ecgtext.leads import limb_leads_from_i_and_ii

# Angle on the circle (radians), width, and x, y, z strength of P, Q, R, S and T.
WAVES = (
    (-1.2, 0.25, (0.7, 1.0, 0.1)),
    (-0.26, 0.1, (-3.0, -2.0, -5.0)),
    (0.0, 0.1, (20.0, 16.0, 5.0)),
    (0.26, 0.1, (-4.0, -3.0, 6.0)),
    (1.6, 0.4, (0.5, 0.4, -0.2)),
)


def integrate_step_by_step(sampling_rate_hz: float, duration_s: float, heart_rate_bpm: float) -> NDArray[np.float64]:
    """Twelve leads of a regular rhythm, without noise, `(12, num_samples)`."""
    step_s = 1 / sampling_rate_hz
    turn = 2 * math.pi * heart_rate_bpm / 60
    num_samples = round(duration_s * sampling_rate_hz)
    vector = np.zeros((3, num_samples))
    x = y = z = 0.0
    angle = -math.pi
    for sample in range(num_samples):
        dx, dy, dz = -x, -y, -z
        for center, width, (a, b, c) in WAVES:
            distance = math.remainder(angle - center, 2 * math.pi)
            pull = -turn * distance * math.exp(-0.5 * (distance / width) ** 2)
            dx, dy, dz = dx + a * pull, dy + b * pull, dz + c * pull
        x, y, z = x + step_s * dx, y + step_s * dy, z + step_s * dz
        vector[:, sample] = x, y, z
        angle = math.remainder(angle + turn * step_s, 2 * math.pi)
    leads = DOWER_MATRIX @ vector
    return np.vstack([limb_leads_from_i_and_ii(leads[0], leads[1]), leads[2:]])


def records_per_second(make: Callable[[int], object], num_records: int, repeats: int) -> float:
    """Median over `repeats` passes of `num_records` records each."""
    rates = []
    for repeat in range(repeats):
        start = time.perf_counter()
        for index in range(repeat * num_records, (repeat + 1) * num_records):
            make(index)
        rates.append(num_records / (time.perf_counter() - start))
    return statistics.median(rates)


def main() -> None:
    """Print one line per sampling rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-records", type=int, default=200, help="records per pass")
    parser.add_argument("--repeats", type=int, default=5, help="passes; the median is printed")
    arguments = parser.parse_args()
    print("10 s, 12 leads, one core, records/s (median)")
    for sampling_rate_hz in (500.0, 100.0):
        generator = SyntheticEcgGenerator(sampling_rate_hz=sampling_rate_hz)
        generator.record(0)  # imports and caches
        ours = records_per_second(generator.record, arguments.num_records, arguments.repeats)
        clean = SyntheticEcgGenerator(sampling_rate_hz=sampling_rate_hz, noise=False)
        without_noise = records_per_second(clean.record, arguments.num_records, arguments.repeats)

        def baseline(index: int, rate_hz: float = sampling_rate_hz) -> object:
            return integrate_step_by_step(rate_hz, 10.0, 60.0 + index % 40)

        naive = records_per_second(baseline, max(1, arguments.num_records // 20), arguments.repeats)
        print(
            f"{sampling_rate_hz:5.0f} Hz: ours {ours:7.1f} (without noise {without_noise:7.1f}), "
            f"step-by-step integration {naive:6.1f}, ratio {ours / naive:5.1f}x"
        )
    draws = records_per_second(SyntheticEcgGenerator().draw, 5 * arguments.num_records, arguments.repeats)
    print(f"labels and report only: {draws:.0f}")


if __name__ == "__main__":
    main()
