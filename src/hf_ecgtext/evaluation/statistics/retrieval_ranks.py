"""Ranks of what belongs together, and what may be said of them: recall, median rank, chance, intervals, differences.

Two cosines that differ by less than 1e-6 are tied, since features are float32 and the order of a sum is not fixed. A
hit takes the middle of the places it shares; of several hits that share places with others, the first is expected at
`1 + num_better + num_tied_others / (num_tied_hits + 1)`. So an encoder that answers everything alike ranks every hit
in the middle of the gallery, and finds nothing among the first.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.npz import load_fields, save_fields
from hf_ecgtext.evaluation.scores import NOT_CHECKED, Encoder
from hf_ecgtext.evaluation.statistics.bootstrap import check_confidence, resample_weights
from hf_ecgtext.evaluation.statistics.intervals import Interval, percentile_interval, prediction_interval
from hf_ecgtext.evaluation.statistics.permutation import permutation_interval, permutation_p, random_swaps

METRICS: dict[str, int | None] = {"recall_at_1": 1, "recall_at_5": 5, "recall_at_10": 10, "median_rank": None}
"""Name of each metric, with the places that a hit may take; none for the median rank."""

_SAME_COSINE = 1e-6
_BLOCK = 4_000_000  # cosines, or ranks, at once
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalRanks:
    """The places at which encoders found what belongs to each record.

    Args:
        direction (`str`): `"ecg_to_report"` or `"report_to_ecg"`.
        duplicates (`str`): `"recognised"` or `"wrong"`, as in
            [`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`].
        record_ids (`tuple[str, ...]`): Ascending.
        patients (`np.ndarray` of shape `(num_records,)`, *optional*): Whose record each is.
        asking (`np.ndarray` of shape `(num_records,)`): Index of the unit that asks, from 0 without gaps: the patient,
            or the text where a report asks once for all its records. Resamples and swaps take whole units.
        ranks (`np.ndarray` of shape `(num_runs, num_records)`): float64, from 1; of a query by a report that several
            records share, the same for each of them.
        weights (`np.ndarray` of shape `(num_records,)`): Share of each record in its query, so that a report that asks
            once counts once.
        gallery (`int`): How many answers there are to choose from.
        checkpoint, encoder, task, protocol, data, seed, contamination, details: As in
            [`~hf_ecgtext.evaluation.results.EvaluationResult`].
        chance (`dict[str, float]`): What each metric is on average where the gallery is shuffled for each query.
        always_commonest (`dict[str, float]`, *optional*): What it is where every ECG gets the most frequent reports.
    """

    direction: str
    duplicates: str
    record_ids: tuple[str, ...]
    patients: NDArray[np.object_] | None
    asking: NDArray[np.int64]
    ranks: NDArray[np.float64]
    weights: NDArray[np.float64]
    gallery: int
    checkpoint: str
    encoder: Encoder
    task: str
    protocol: str
    data: dict[str, str]
    seed: int | tuple[int, ...] = 0
    contamination: str = NOT_CHECKED
    details: dict[str, Any] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    always_commonest: dict[str, float] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ranks to an `.npz` file, whole or not at all."""
        save_fields(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RetrievalRanks:
        """Read what `save` wrote."""
        return cls(**load_fields(path))

    def values(self, metric: str) -> NDArray[np.float64]:
        """A metric of each run, of shape `(num_runs,)`."""
        return np.array([float(rank_metric(metric, run, self.weights[None])[0]) for run in self.ranks])

    def resamples(self, metric: str, num_resamples: int, seed: int = 0) -> NDArray[np.float64]:
        """A metric of each run on draws of units, of shape `(num_runs, num_resamples)`; the gallery stays whole."""
        counts = resample_weights(len(self.record_ids), self.asking.tolist(), num_resamples, seed)
        size = max(1, _BLOCK // counts.shape[1])
        blocks = [counts[start : start + size] * self.weights for start in range(0, num_resamples, size)]
        return np.stack([np.concatenate([rank_metric(metric, run, block) for block in blocks]) for run in self.ranks])

    def interval(
        self, metric: str, *, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> tuple[Interval, tuple[float, float] | None]:
        """The mean over the runs with its interval, and the prediction interval of a new run (see `intervals`)."""
        values, drawn = self.values(metric), self.resamples(metric, num_resamples, seed).mean(axis=0)
        found = prediction_interval(values, drawn, confidence)
        if found is not None:
            lowest, highest = (1.0, np.inf) if METRICS[metric] is None else (0.0, 1.0)
            found = (max(found[0], lowest), min(found[1], highest))
        return percentile_interval(float(values.mean()), drawn, confidence), found


@dataclass(frozen=True)
class RankDifference:
    """A metric of one row of encoders minus that of another, on the same queries.

    Args:
        value (`float`): Of the means over runs.
        low, high (`float`): The interval that the test agrees with, as in
            [`~hf_ecgtext.evaluation.statistics.permutation.PairedDifference`].
        p_value (`float`): Two-sided, where whole units are exchanged between the two at random.
        run_values (`tuple[float, ...]`): The difference of each pair of runs; of other numbers of runs, repeated in
            turn until they match.
    """

    value: float
    low: float
    high: float
    p_value: float
    run_values: tuple[float, ...]


def rank_difference(
    ranks: RetrievalRanks,
    reference: RetrievalRanks,
    metric: str,
    *,
    num_permutations: int = 1999,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankDifference:
    """How much better (or, of the median rank, how many places lower) one row of encoders is than another.

    Raises:
        ValueError: If the two have answered other questions.
    """
    check_confidence(confidence)
    for name in ("direction", "duplicates", "task", "protocol", "data", "gallery", "record_ids"):
        if getattr(ranks, name) != getattr(reference, name):
            raise ValueError(
                f"'{ranks.checkpoint}' and '{reference.checkpoint}' cannot be paired in retrieval: their {name} differ."
            )
    num_pairs = math.lcm(len(ranks.ranks), len(reference.ranks))
    own, other = ([found.ranks[pair % len(found.ranks)] for pair in range(num_pairs)] for found in (ranks, reference))
    swaps, is_exhaustive = random_swaps(int(ranks.asking.max()) + 1, num_permutations, seed)
    size = max(1, _BLOCK // len(ranks.record_ids))
    permuted = np.concatenate(
        [
            _swapped_differences(metric, own, other, ranks.weights, swaps[start : start + size][:, ranks.asking])
            for start in range(0, len(swaps), size)
        ]
    )
    own_values, other_values = ranks.values(metric), reference.values(metric)
    repeated = [np.tile(values, num_pairs // len(values)) for values in (own_values, other_values)]
    per_pair = repeated[0] - repeated[1]
    value = per_pair.mean()
    found = permutation_interval(value, permuted, is_exhaustive, confidence)
    return RankDifference(
        value=float(value),
        low=found.low,
        high=found.high,
        p_value=float(permutation_p(value, permuted, is_exhaustive)),
        run_values=tuple(per_pair.tolist()),
    )


def _swapped_differences(
    metric: str,
    own: list[NDArray[np.float64]],
    other: list[NDArray[np.float64]],
    weights: NDArray[np.float64],
    swapped: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Mean difference over the pairs of runs after each permutation, of shape `(num_permutations,)`."""
    shared = np.broadcast_to(weights, swapped.shape)
    differences = [
        rank_metric(metric, np.where(swapped, b, a), shared) - rank_metric(metric, np.where(swapped, a, b), shared)
        for a, b in zip(own, other, strict=True)
    ]
    return np.asarray(np.mean(differences, axis=0))


def rank_metric(metric: str, ranks: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A metric of weighted ranks.

    Args:
        metric (`str`): One of [`METRICS`].
        ranks (`np.ndarray` of shape `(num_records,)` or `(num_samples, num_records)`): From 1.
        weights (`np.ndarray` of shape `(num_samples, num_records)`): Not negative, and not all 0.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: Share of the weight at the first places, or the median rank: the middle
        between the two middle ranks where no rank is in the middle.
    """
    places = METRICS[metric]
    if places is not None:
        hits = (ranks <= places).astype(np.float64)
        return (weights * hits).sum(axis=-1) / weights.sum(axis=-1)
    order = np.argsort(ranks, axis=-1, kind="stable")
    if ranks.ndim == 1:
        weights, ordered = weights[:, order], np.broadcast_to(ranks[order], weights.shape)
    else:
        weights, ordered = np.take_along_axis(weights, order, -1), np.take_along_axis(ranks, order, -1)
    cumulated = np.cumsum(weights, axis=-1)
    half = cumulated[:, -1:] / 2
    lower = (cumulated >= half * (1 - _ROUNDING)).argmax(axis=-1)[:, None]
    upper = (cumulated > half * (1 + _ROUNDING)).argmax(axis=-1)[:, None]
    middle = np.take_along_axis(ordered, lower, -1) + np.take_along_axis(ordered, upper, -1)
    return np.asarray(middle[:, 0] / 2)


def rank_of_own(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    own: NDArray[np.int64],
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """The place of each query's own answer, all others being wrong.

    Args:
        queries (`np.ndarray` of shape `(num_queries, dim)`): L2-normalised.
        gallery (`np.ndarray` of shape `(num_answers, dim)`): L2-normalised.
        own (`np.ndarray` of shape `(num_queries,)`): Row of the gallery that is right.
        counts (`np.ndarray` of shape `(num_answers,)`, *optional*): How often each answer stands in the gallery; only
            one of them is right, and its copies are tied with it.

    Returns:
        `np.ndarray` of shape `(num_queries,)`: Middle ranks from 1.
    """
    size = max(1, _BLOCK // len(gallery))
    ranks = np.empty(len(queries))
    for start in range(0, len(queries), size):
        cosines = queries[start : start + size] @ gallery.T
        right = own[start : start + size]
        score = cosines[np.arange(len(right)), right][:, None]
        is_better, is_reached = cosines > score + _SAME_COSINE, cosines >= score - _SAME_COSINE
        if counts is None:
            better, reached = is_better.sum(axis=1), is_reached.sum(axis=1)
        else:
            better, reached = is_better @ counts, is_reached @ counts
        ranks[start : start + size] = 1 + better + (reached - better - 1) / 2
    return ranks


def rank_of_first(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], query_of_answer: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The place of the first right answer to each query.

    Args:
        queries (`np.ndarray` of shape `(num_queries, dim)`): L2-normalised.
        gallery (`np.ndarray` of shape `(num_answers, dim)`): L2-normalised.
        query_of_answer (`np.ndarray` of shape `(num_answers,)`): The query that each answer is right for; every query
            has one or more.

    Returns:
        `np.ndarray` of shape `(num_queries,)`: Ranks from 1; where ties decide, the expected ones.
    """
    size = max(1, _BLOCK // len(gallery))
    ranks = np.empty(len(queries))
    for start in range(0, len(queries), size):
        cosines = queries[start : start + size] @ gallery.T
        is_hit = query_of_answer[None] == np.arange(start, start + len(cosines))[:, None]
        best = np.where(is_hit, cosines, -np.inf).max(axis=1, keepdims=True)
        better = (cosines > best + _SAME_COSINE).sum(axis=1)
        is_reached = cosines >= best - _SAME_COSINE
        hits = (is_reached & is_hit).sum(axis=1)
        others = is_reached.sum(axis=1) - better - hits
        ranks[start : start + size] = 1 + better + others / (hits + 1)
    return ranks


def chance_values(gallery: int, hits_of_query: NDArray[np.int64]) -> dict[str, float]:
    """What each metric is where every query finds the gallery in random order.

    The first of `m` hits among `n` answers stands behind place `r` with probability `C(n - m, r) / C(n, r)`.

    Args:
        gallery (`int`): Number of answers.
        hits_of_query (`np.ndarray` of shape `(num_queries,)`): How many of them are right, at least 1.

    Returns:
        `dict[str, float]`: Expected recalls, and the median of the ranks of all queries together.
    """
    found = np.zeros(gallery)  # expected share of queries with a hit among the first 1, 2, ... places
    before = np.arange(gallery)
    for num_hits, num_queries in zip(*np.unique(hits_of_query, return_counts=True), strict=True):
        missed = np.cumprod(np.maximum(gallery - num_hits - before, 0) / (gallery - before))
        found += num_queries / len(hits_of_query) * (1 - missed)
    lower = int((found >= 0.5 - _ROUNDING).argmax()) + 1
    upper = int((found > 0.5 + _ROUNDING).argmax()) + 1
    return {
        metric: (lower + upper) / 2 if places is None else float(found[min(places, gallery) - 1])
        for metric, places in METRICS.items()
    }


def commonest_values(report_of_record: NDArray[np.int64]) -> dict[str, float]:
    """What each metric is where every ECG is answered by the most frequent report, then the second, and so on."""
    counts = np.sort(np.bincount(report_of_record))[::-1].astype(np.float64)
    ranks = np.arange(1, len(counts) + 1, dtype=np.float64)
    return {metric: float(rank_metric(metric, ranks, counts[None])[0]) for metric in METRICS}
