"""Intervals hold the truth and tests keep their level, on simulated test sets with rare and frequent classes.

A small version of `benchmarks/coverage.py`, which prints the table of docs/statistics.md on the real label tables.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

_REPETITIONS = 80
_LEAST, _LARGEST_LEVEL = 0.92, 0.07


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def counts(benchmark) -> dict[str, list[float]]:
    """Of 80 test sets of 160 records from patients with one to three each; classes of 2 to 60 positives."""
    rng = np.random.default_rng(11)
    frequencies = np.array([0.35, 0.15, 0.06, 0.02])
    targets = (rng.random((6000, 4)) < frequencies).astype(np.int8)
    table = benchmark.LabelTable.of(targets, [f"p{number}" for number in rng.integers(0, 4000, size=6000)])
    truths = benchmark.Truths.of(table, num_records=100_000)
    tally = benchmark.Tally()
    for seed in range(_REPETITIONS):
        benchmark.simulate(table, truths, 160, tally, seed, num_resamples=150)
        benchmark.simulate_retrieval(table, 160, tally, seed, num_resamples=150)
        benchmark.simulate_readers(tally, seed, num_resamples=150)
    return tally.counts


def allowance(share: float, number: float) -> float:
    """How far a share of so many repetitions may lie off by chance: three standard deviations, as there are many."""
    return 3 * math.sqrt(share * (1 - share) / number)


@pytest.mark.slow
def test_every_interval_that_is_given_holds_the_truth(counts):
    intervals = {name: found for name, found in counts.items() if not name.startswith(("before", "level"))}
    assert len(intervals) > 40
    for name, (number, held, _) in intervals.items():
        assert held / number >= _LEAST - allowance(_LEAST, number), name


@pytest.mark.slow
def test_every_test_keeps_its_level(counts):
    tests = {name: found for name, found in counts.items() if name.startswith("level")}
    assert {"level: auroc, difference, equal", "level: recall_at_10, report_to_ecg, difference, equal"} <= set(tests)
    for name, (number, rejected, _) in tests.items():
        assert rejected / number <= _LARGEST_LEVEL + allowance(_LARGEST_LEVEL, number), name


@pytest.mark.slow
def test_the_simulation_would_notice_intervals_that_are_too_narrow(counts):
    # Those of result lines up to schema 2, which were stratified by rare classes.
    for name in ("before: auroc, class of 2 to 2 patients", "before: average_precision, macro over 1+"):
        number, held, _ = counts[name]
        assert held / number < _LEAST - allowance(_LEAST, number), name
