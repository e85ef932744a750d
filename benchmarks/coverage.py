"""How often every interval of the library holds the truth, and how often every test finds a difference that is none.

    python benchmarks/coverage.py --splits ../shared/data/merl_splits --output coverage.jsonl   # an hour
    python benchmarks/coverage.py --output coverage.jsonl --markdown      # the table alone

Test sets are drawn by patient from the real label tables of the six tasks, at the sizes of the published test splits
and at those of the 1,988 records of PTB-XL that this project has. Scores are binormal: a positive of class c scores
N(d_c, 1) and a negative N(0, 1), with d_c such that the true areas lie between 0.66 and 0.92; half of the noise is
shared by all records of a patient, and 0.49 of it by both encoders of a pair. The truth of an area is known; that of
other metrics is the metric of half a million records. "Before" is the stratified, pooled bootstrap of result lines up
to schema 2, with percentiles, which this file keeps for the comparison.

Nominal: 95 % of intervals hold the truth, and 5 % of tests find what is not there. What is simulated stays in the
output file, and a second call goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm
from tqdm import tqdm

from hf_ecgtext.evaluation.statistics.binary_readers import reader_scores
from hf_ecgtext.evaluation.statistics.bootstrap import BootstrapDistribution, bootstrap_intervals
from hf_ecgtext.evaluation.statistics.calibration_metrics import brier_score
from hf_ecgtext.evaluation.statistics.cinc2021_score import CINC2021_CLASSES, cinc2021_interval, cinc2021_score
from hf_ecgtext.evaluation.statistics.intervals import Interval
from hf_ecgtext.evaluation.statistics.metrics import Metric, auroc, average_precision, macro
from hf_ecgtext.evaluation.statistics.permutation import paired_difference
from hf_ecgtext.evaluation.statistics.retrieval_ranks import (
    RetrievalRanks,
    rank_difference,
    rank_of_first,
    rank_of_own,
)
from hf_ecgtext.evaluation.statistics.thresholds import ThresholdMetric, at_thresholds

SETTINGS = {  # name: folder of the split tables, first label column, whether patients are known, records of a test set
    "super 252": ("ptbxl/super_class", "HYP", 252),
    "sub 252": ("ptbxl/sub_class", "AMI", 252),
    "form 76": ("ptbxl/form", "PAC", 76),
    "rhythm 242": ("ptbxl/rhythm", "SVARR", 242),
    "super 2158": ("ptbxl/super_class", "HYP", 2158),
    "sub 2158": ("ptbxl/sub_class", "AMI", 2158),
    "form 880": ("ptbxl/form", "PAC", 880),
    "rhythm 2098": ("ptbxl/rhythm", "SVARR", 2098),
    "cpsc2018 1376": ("icbeb", "AFIB", 1376),
    "csn 4620": ("chapman", "AQW", 4620),
}
_READERS = {"1dAVb": 28, "RBBB": 34, "LBBB": 30, "SB": 16, "AF": 13, "ST": 36}  # CODE-test, of 827
Summary = dict[str, dict[str, list[Any]]]
_PATIENT_BINS = (1, 2, 5, 12, 29, 10**9)
_SHARED_BY_PAIR, _SHARED_BY_PATIENT = 0.7, 0.5
_RUN_SPREAD = 0.1
"""Standard deviation, over trainings, of all d_c together: about two points of AUROC."""


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The labels of all recordings of a task, from which test sets are drawn by patient."""

    targets: NDArray[np.int8]
    rows_of_patient: list[NDArray[np.int64]]

    @classmethod
    def read(cls, folder: Path, first_label: str) -> LabelTable:
        """All split tables of a folder together."""
        rows: list[dict[str, str]] = []
        for path in sorted(folder.glob("*.csv")):
            with path.open(encoding="utf-8") as file:
                rows += csv.DictReader(file)
        columns = list(rows[0])
        labels = columns[columns.index(first_label) :]
        targets = np.array([[float(row[label] or 0) > 0 for label in labels] for row in rows], dtype=np.int8)
        return cls.of(targets, [row.get("patient_id") or str(place) for place, row in enumerate(rows)])

    @classmethod
    def of(cls, targets: NDArray[np.int8], patients: list[str]) -> LabelTable:
        """From labels and whose record each is."""
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, patient in enumerate(patients):
            rows_of[patient].append(row)
        return cls(targets, [np.array(rows) for rows in rows_of.values()])

    def draw(self, rng: np.random.Generator, num_records: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Targets of at least so many records, of whole patients, and whose each is."""
        rows: list[NDArray[np.int64]] = []
        total = 0
        while total < num_records:
            rows.append(self.rows_of_patient[int(rng.integers(len(self.rows_of_patient)))])
            total += len(rows[-1])
        patients = np.repeat(np.arange(len(rows)), [len(found) for found in rows])
        return self.targets[np.concatenate(rows)], patients


def scores_of(
    rng: np.random.Generator, targets: NDArray[np.int8], patients: NDArray[np.int64], distances: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Scores of one encoder after another, whose noise has a part in common; each with marginal variance 1."""
    num_patients = int(patients.max()) + 1

    def noise() -> NDArray[np.float64]:
        of_patient = rng.normal(size=(num_patients, targets.shape[1]))[patients]
        of_record = rng.normal(size=targets.shape)
        return _SHARED_BY_PATIENT**0.5 * of_patient + (1 - _SHARED_BY_PATIENT) ** 0.5 * of_record

    common = noise()
    while True:
        yield distances * targets + _SHARED_BY_PAIR * common + (1 - _SHARED_BY_PAIR**2) ** 0.5 * noise()


class Tally:
    """How often something held, by name; with the mean width where it is an interval."""

    def __init__(self) -> None:
        self.counts: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])

    def interval(self, name: str, low: float, high: float, truth: float) -> None:
        """Count an interval; one that the library does not give (NaN) is not counted."""
        if not np.isnan(low):
            self._add(name, low - 1e-12 <= truth <= high + 1e-12, high - low)

    def test(self, name: str, p_value: float) -> None:
        """Count a test."""
        if not np.isnan(p_value):
            self._add(name, p_value < 0.05, 0.0)

    def _add(self, name: str, held: bool, width: float) -> None:
        entry = self.counts[name]
        entry[0] += 1
        entry[1] += bool(held)
        entry[2] += width


@dataclass(frozen=True)
class Truths:
    """What metrics are on all patients, by name and class."""

    distances: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    prevalences: NDArray[np.float64]
    of_metric: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, table: LabelTable, num_records: int = 500_000) -> Truths:
        """Of half a million records drawn like a test set."""
        num_classes = table.targets.shape[1]
        rng = np.random.default_rng(5)
        areas = rng.uniform(0.66, 0.92, num_classes)
        distances = np.sqrt(2) * norm.ppf(areas)
        targets, patients = table.draw(rng, num_records)
        prevalences = targets.mean(axis=0)
        # Where positives and negatives are about equally likely to be called: a threshold that people would use.
        thresholds = norm.ppf(1 - np.clip(1.5 * prevalences, 0, 0.5)) + distances * np.clip(prevalences, 0, 0.5)
        scores = next(scores_of(rng, targets, patients, distances))
        of_metric: dict[str, NDArray[np.float64]] = {
            "auroc": np.asarray(areas),
            "average_precision": average_precision(scores, targets),
            **{metric.__name__: metric(scores, targets) for metric in decisions_at(thresholds)},
        }
        of_metric["brier_score"] = brier_score(probabilities(scores, distances, prevalences), targets)
        return cls(distances, thresholds, prevalences, of_metric)


def decisions_at(thresholds: NDArray[np.float64]) -> list[Metric]:
    """What is reported of decisions at thresholds."""
    names: tuple[ThresholdMetric, ...] = ("f1", "sensitivity", "specificity", "accuracy")
    return [at_thresholds(thresholds, name) for name in names]


def probabilities(
    scores: NDArray[np.float64], distances: NDArray[np.float64], prevalences: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Calibrated: by Bayes' rule of the two normal densities."""
    inside = np.clip(prevalences, 1e-9, 1 - 1e-9)
    return expit(distances * scores - distances**2 / 2 + np.log(inside / (1 - inside)))


def stratified_before(
    rng: np.random.Generator, targets: NDArray[np.int8], patients: NDArray[np.int64], num_resamples: int
) -> NDArray[np.int32]:
    """Weights of the bootstrap of schema 2: patients drawn within strata of their rarest class."""
    num_patients = int(patients.max()) + 1
    has_class = np.zeros((num_patients, targets.shape[1]), dtype=bool)
    np.logical_or.at(has_class, patients, targets.astype(bool))
    rarest = np.argsort(has_class.sum(axis=0), kind="stable")
    strata = np.where(has_class.any(axis=1), rarest[has_class[:, rarest].argmax(axis=1)], targets.shape[1])
    counts = np.zeros((num_resamples, num_patients), dtype=np.int32)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = rng.integers(len(members), size=(num_resamples, len(members)))
        for place in range(len(members)):
            counts[:, members[place]] = (drawn == place).sum(axis=1)
    return counts[:, patients]


def simulate(
    table: LabelTable, truths: Truths, num_records: int, tally: Tally, seed: int, num_resamples: int = 300
) -> None:
    """One test set: all intervals and tests of classification on it."""
    rng = np.random.default_rng(seed)
    targets, patients = table.draw(rng, num_records)
    encoders = scores_of(rng, targets, patients, truths.distances)
    scores, equal = next(encoders), next(encoders)
    calibrated = probabilities(scores, truths.distances, truths.prevalences)
    asked: list[tuple[NDArray[np.float64], list[Any]]] = [
        (scores, [auroc, average_precision]),
        (scores, decisions_at(truths.thresholds)),
        (calibrated, [brier_score]),
    ]
    found: dict[str, BootstrapDistribution] = {}
    for values, metrics in asked:
        found |= bootstrap_intervals(values, targets, patients, metrics, num_resamples, seed=seed)
    for name, distribution in found.items():
        _count_macro(tally, name, distribution, truths.of_metric[name])
        for index, interval in enumerate(distribution.per_class()):
            number = int(min(distribution.num_positive_patients[index], distribution.num_negative_patients[index]))
            tally.interval(f"{name}, class{_bin(number)}", interval.low, interval.high, truths.of_metric[name][index])
    _count_before(tally, rng, scores, targets, patients, found["auroc"], truths, num_resamples)
    _count_pairs(tally, (scores, equal), targets, patients, truths, rng, seed, num_resamples)
    _count_trainings(tally, rng, targets, patients, truths, seed, num_resamples)


def _bin(number: int) -> str:
    low = 1
    for high in _PATIENT_BINS:
        if number <= high:
            return f" of {low} to {high} patients" if high < 10**9 else f" of {low} patients and more"
        low = high + 1
    raise AssertionError(number)


def _count_macro(tally: Tally, name: str, distribution: BootstrapDistribution, truth: NDArray[np.float64]) -> None:
    for least in (5, 20):
        counted = distribution.counted(least)
        if counted.any():
            interval = distribution.macro(least)
            tally.interval(f"{name}, macro over {least}+", interval.low, interval.high, float(truth[counted].mean()))


def _count_before(
    tally: Tally,
    rng: np.random.Generator,
    scores: NDArray[np.float64],
    targets: NDArray[np.int8],
    patients: NDArray[np.int64],
    now: BootstrapDistribution,
    truths: Truths,
    num_resamples: int,
) -> None:
    weights = stratified_before(rng, targets, patients, num_resamples)
    for metric in (auroc, average_precision):
        name, truth = metric.__name__, truths.of_metric[metric.__name__]
        resamples = metric(scores, targets, weights)
        for least in (1, 5, 20):
            counted = now.counted(least)
            if counted.any():
                means = np.asarray(macro(resamples, now.num_positives, least))
                low, high = np.nanquantile(means, (0.025, 0.975))
                tally.interval(f"before: {name}, macro over {least}+", low, high, float(truth[counted].mean()))
        for index in np.flatnonzero(now.counted(1) & (now.num_positive_patients > 1)):
            number = int(min(now.num_positive_patients[index], now.num_negative_patients[index]))
            low, high = np.nanquantile(resamples[:, index], (0.025, 0.975))
            tally.interval(f"before: {name}, class{_bin(number)}", low, high, truth[index])


def _count_pairs(
    tally: Tally,
    pair: tuple[NDArray[np.float64], NDArray[np.float64]],
    targets: NDArray[np.int8],
    patients: NDArray[np.int64],
    truths: Truths,
    rng: np.random.Generator,
    seed: int,
    num_permutations: int,
) -> None:
    """Equal encoders, one that is better, and one against three."""
    better = truths.distances + 0.25
    gap = norm.cdf(better / np.sqrt(2)) - truths.of_metric["auroc"]
    improved = pair[1] + 0.25 * targets
    three = [next(scores_of(rng, targets, patients, truths.distances)) for _ in range(3)]
    compared: dict[str, tuple[Any, Any, NDArray[np.float64]]] = {
        "equal": (pair[0], pair[1], np.zeros_like(gap)),
        "4 to 7 points apart": (improved, pair[0], gap),
        "one against three": (pair[0], three, np.zeros_like(gap)),
    }
    for title, (a, b, truth) in compared.items():
        metrics: list[Metric] = [auroc, average_precision] if title == "equal" else [auroc]
        for name, found in paired_difference(a, b, targets, patients, metrics, num_permutations - 1, seed=seed).items():
            counted = ~np.isnan(found.values) & (found.num_positives >= 5)
            if counted.any():
                interval = found.macro(5)
                expected = float(truth[counted].mean())
                tally.interval(f"{name}, difference, {title}", interval.low, interval.high, expected)
                if not truth.any():
                    tally.test(f"level: {name}, difference, {title}", found.macro_p_value(5))


def _count_trainings(
    tally: Tally,
    rng: np.random.Generator,
    targets: NDArray[np.int8],
    patients: NDArray[np.int64],
    truths: Truths,
    seed: int,
    num_resamples: int,
) -> None:
    """Three trainings: the interval of their mean, and where a fourth lies."""
    shifts = _RUN_SPREAD * rng.normal(size=4)
    encoders = scores_of(rng, targets, patients, np.zeros_like(truths.distances))
    distances = [truths.distances + shift for shift in shifts]
    runs = [next(encoders) + own * targets for own in distances[:3]]
    found = bootstrap_intervals(runs, targets, patients, [auroc], num_resamples, seed=seed)["auroc"]
    counted, areas = found.counted(5), [norm.cdf(own / np.sqrt(2)) for own in distances]
    if counted.any():
        means = [float(area[counted].mean()) for area in areas]
        interval, prediction = found.macro(5), found.prediction(5)
        tally.interval("auroc, mean of three trainings", interval.low, interval.high, float(np.mean(means[:3])))
        if prediction is not None:
            tally.interval("auroc, prediction of a fourth training", *prediction, means[3])
        pooled = np.concatenate([np.asarray(macro(run, found.num_positives, 5)) for run in found.resamples])
        low, high = np.nanquantile(pooled, (0.025, 0.975))
        tally.interval("before: auroc, pooled trainings, for a fourth", low, high, means[3])


def simulate_retrieval(table: LabelTable, num_records: int, tally: Tally, seed: int, num_resamples: int) -> None:
    """Reports are the combinations of labels, so that many records share the common ones.

    The truth of an ECG's search is that of 20,000 new patients who ask the same gallery of reports; that of a report's
    search is the mean over other test sets.
    """
    rng = np.random.default_rng(seed)
    world = _ReportWorld.of(table)
    targets, patients = table.draw(rng, num_records)
    first, second = world.ranks(rng, targets, patients), world.ranks(rng, targets, patients)
    asking, gallery = world.new_patients(rng, targets, 20_000), np.unique(targets, axis=0)
    new = world.ranks(rng, asking, np.arange(len(asking)), gallery)["ecg_to_report"]
    for direction in first:
        for metric in ("recall_at_1", "recall_at_10"):
            pair = (first[direction], second[direction])
            difference = rank_difference(*pair, metric, num_permutations=num_resamples - 1, seed=seed)
            tally.interval(f"{metric}, {direction}, difference, equal", difference.low, difference.high, 0.0)
            tally.test(f"level: {metric}, {direction}, difference, equal", difference.p_value)
            interval, _ = first[direction].interval(metric, num_resamples=num_resamples, seed=seed)
            is_ecg = direction == "ecg_to_report"
            truth = float(new.values(metric)[0]) if is_ecg else world.expected(table, num_records, metric)
            tally.interval(f"{metric}, {direction}", interval.low, interval.high, truth)


class _ReportWorld:
    """Reports as directions in space, and recordings as noisy copies of them."""

    def __init__(self, num_labels: int, dim: int = 24):
        self.meaning = np.random.default_rng(7).normal(size=(num_labels + 1, dim))
        self._expected: dict[tuple[int, str], float] = {}

    @classmethod
    @cache
    def of(cls, table: LabelTable) -> _ReportWorld:
        """That of a task."""
        return cls(table.targets.shape[1])

    def embed(self, targets: NDArray[np.int8]) -> NDArray[np.float64]:
        """Directions of reports, of shape `(num_reports, dim)`."""
        centres = np.concatenate([targets, np.ones((len(targets), 1))], axis=1) @ self.meaning
        return centres / np.linalg.norm(centres, axis=1, keepdims=True)

    def new_patients(self, rng: np.random.Generator, targets: NDArray[np.int8], number: int) -> NDArray[np.int8]:
        """Targets of recordings of new patients, with reports as frequent as here."""
        return targets[rng.integers(len(targets), size=number)]

    def ranks(
        self,
        rng: np.random.Generator,
        targets: NDArray[np.int8],
        patients: NDArray[np.int64],
        gallery: NDArray[np.int8] | None = None,
    ) -> dict[str, RetrievalRanks]:
        """Ranks of one encoder, by direction; both directions only where the gallery is the records' own."""
        reports, report_of_record = np.unique(targets, axis=0, return_inverse=True)
        if gallery is not None:
            place = {tuple(row): number for number, row in enumerate(gallery.tolist())}
            report_of_record = np.array([place[tuple(row)] for row in targets.tolist()])
            reports = gallery
        texts = self.embed(reports).astype(np.float32)
        of_patient = rng.normal(size=(int(patients.max()) + 1, texts.shape[1]))[patients]
        noise = 0.25 * (0.7 * of_patient + 0.7 * rng.normal(size=of_patient.shape))
        noisy = texts[report_of_record] + noise
        ecgs = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
        found = {"ecg_to_report": (rank_of_own(ecgs, texts, report_of_record), patients, np.ones(len(targets)))}
        if gallery is None:
            ranks = rank_of_first(texts, ecgs, report_of_record)[report_of_record]
            shares = 1.0 / np.bincount(report_of_record)[report_of_record]
            found["report_to_ecg"] = (ranks, report_of_record, shares)
        return {
            direction: RetrievalRanks(
                direction=direction,
                duplicates="recognised",
                record_ids=tuple(map(str, range(len(targets)))),
                patients=None,
                asking=asking,
                ranks=ranks[None],
                weights=weights,
                gallery=len(texts) if direction == "ecg_to_report" else len(targets),
                checkpoint="simulated",
                encoder="trained",
                task="simulated",
                protocol="strict",
                data={"name": "simulated", "revision": "1", "split": "test"},
            )
            for direction, (ranks, asking, weights) in found.items()
        }

    def expected(self, table: LabelTable, num_records: int, metric: str, num_sets: int = 300) -> float:
        """Recall of a report's search, over other test sets of this size."""
        if (num_records, metric) not in self._expected:
            rng = np.random.default_rng(10**6)
            sets = (table.draw(rng, num_records) for _ in range(num_sets))
            values = [self.ranks(rng, *drawn)["report_to_ecg"].values(metric)[0] for drawn in sets]
            self._expected[num_records, metric] = float(np.mean(values))
        return self._expected[num_records, metric]


def simulate_readers(tally: Tally, seed: int, num_resamples: int) -> None:
    """A reader of CODE-test: 827 recordings, six classes, sensitivity 0.85 to 1, specificity 0.99."""
    rng = np.random.default_rng(seed)
    prevalences = np.array(list(_READERS.values())) / 827
    sensitivity, specificity = np.array([0.93, 1.0, 0.97, 0.88, 0.85, 0.97]), 0.99
    gold = (rng.random((827, len(prevalences))) < prevalences).astype(np.int8)
    right = rng.random(gold.shape) < np.where(gold, sensitivity, specificity)
    found = reader_scores(np.where(right, gold, 1 - gold), gold, None, num_resamples, seed=seed)
    called = sensitivity * prevalences + (1 - specificity) * (1 - prevalences)
    truth = {
        "sensitivity": sensitivity,
        "specificity": np.full(len(prevalences), specificity),
        "f1": 2 * sensitivity * prevalences / (called + prevalences),
        "precision": sensitivity * prevalences / called,
    }
    for name, expected in truth.items():
        for interval, value in zip(found.per_class[name], expected, strict=True):
            tally.interval(f"reader: {name}, class", interval.low, interval.high, float(value))
        _tally(tally, f"reader: {name}, macro", found.macro[name], float(expected.mean()))


def simulate_cinc2021(table: LabelTable, tally: Tally, seed: int, num_records: int, num_resamples: int) -> None:
    """The challenge's score of decisions with the subclasses' labels standing for the challenge's classes."""
    rng = np.random.default_rng(seed)
    names = list(CINC2021_CLASSES)
    targets, patients = table.draw(rng, num_records)
    padded = np.zeros((len(targets), len(names)), dtype=np.int8)
    padded[:, : targets.shape[1]] = targets
    interval = cinc2021_interval(_called(rng, padded, patients), padded, names, patients, num_resamples, seed=seed)
    _tally(tally, "cinc2021_score", interval, _cinc2021_truth(table))


@cache
def _cinc2021_truth(table: LabelTable) -> float:
    rng = np.random.default_rng(9)
    targets, patients = table.draw(rng, 200_000)
    padded = np.zeros((len(targets), len(CINC2021_CLASSES)), dtype=np.int8)
    padded[:, : targets.shape[1]] = targets
    return float(cinc2021_score(_called(rng, padded, patients), padded, list(CINC2021_CLASSES)))


def _called(rng: np.random.Generator, targets: NDArray[np.int8], patients: NDArray[np.int64]) -> NDArray[np.int8]:
    scores = next(scores_of(rng, targets, patients, np.full(targets.shape[1], 2.0)))
    return (scores > 1.6).astype(np.int8)


def _tally(tally: Tally, name: str, interval: Interval, truth: float) -> None:
    tally.interval(name, interval.low, interval.high, truth)


def run(splits: Path, output: Path, names: list[str], repetitions: dict[str, int], num_resamples: int) -> None:
    """Simulate what `output` does not hold yet; a line per setting and ten repetitions."""
    done = _read(output)
    for name in names:
        folder, first, size = SETTINGS[name]
        missing = [block for block in range(-(-repetitions[name] // 10)) if (name, block) not in done]
        if not missing:
            continue
        table = LabelTable.read(splits / folder, first)
        truths = Truths.of(table)
        for block in tqdm(missing, desc=name, unit="block"):
            tally = Tally()
            for repetition in range(10):
                seed = 10 * block + repetition
                simulate(table, truths, size, tally, seed, num_resamples)
                if folder.startswith("ptbxl/sub"):
                    simulate_retrieval(table, size, tally, seed, num_resamples)
                    simulate_cinc2021(table, tally, seed, size, num_resamples)
                    simulate_readers(tally, seed, num_resamples)
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"setting": name, "block": block, "counts": tally.counts}) + "\n")


def _read(output: Path) -> dict[tuple[str, int], dict[str, list[float]]]:
    lines = output.read_text(encoding="utf-8").splitlines() if output.is_file() else []
    return {(line["setting"], line["block"]): line["counts"] for line in map(json.loads, lines)}


def summary_of(output: Path) -> Summary:
    """By setting and name: how many intervals or tests, how many held or rejected, and the mean width."""
    sums: dict[str, dict[str, NDArray[np.float64]]] = defaultdict(lambda: defaultdict(lambda: np.zeros(3)))
    for (setting, _), counts in _read(output).items():
        for name, found in counts.items():
            sums[setting][name] += np.array(found)
    return {
        setting: {
            name: [int(number), int(held), round(width / number, 4)] for name, (number, held, width) in found.items()
        }
        for setting, found in sums.items()
    }


def table_of(summary: Summary) -> str:
    """Markdown: a row per interval or test, a column per setting, percent of test sets."""
    columns = [name for name in SETTINGS if name in summary]
    names = sorted({name for found in summary.values() for name in found}, key=_place)
    text = [f"| | {' | '.join(columns)} | all |", "|---|" + "---:|" * (len(columns) + 1)]
    for name in names:
        entries = [summary[column].get(name, [0, 0, 0.0]) for column in columns]
        together = [sum(entry[place] for entry in entries) for place in (0, 1)]
        cells = [f"{100 * held / number:.0f}" if number >= 20 else "-" for number, held, *_ in [*entries, together]]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def _place(name: str) -> tuple[bool, bool, str]:
    """Intervals first, then tests, then what was before."""
    return name.startswith("before"), name.startswith("level"), name


def main() -> int:
    """Simulate, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=Path, default=Path("../shared/data/merl_splits"))
    parser.add_argument("--output", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--repetitions", type=int, default=300, help="of sizes below 1,000; a third of it above")
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--summary", type=Path, help="also write all counts to this .json file, for the documentation")
    parser.add_argument("--markdown", action="store_true", help="simulate nothing: print what is done")
    arguments = parser.parse_args()
    if not arguments.markdown:
        repetitions = {
            name: arguments.repetitions if SETTINGS[name][2] < 1000 else arguments.repetitions // 3 for name in SETTINGS
        }
        run(arguments.splits, arguments.output, arguments.settings, repetitions, arguments.resamples)
    summary = summary_of(arguments.output)
    if arguments.summary:
        arguments.summary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(table_of(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
