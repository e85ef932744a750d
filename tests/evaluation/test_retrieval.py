"""Retrieval: closed forms, a slow loop, chance by simulation, and the frame around it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from table_encoder import TableEncoder, normalised, table_data

from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.context import EvaluationContext
from hf_ecgtext.evaluation.downstream.retrieval import evaluate, rank_difference_results, rank_results, retrieval_ranks
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, ModelEncoder
from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.statistics import retrieval_ranks as module
from hf_ecgtext.evaluation.statistics.bootstrap import resample_weights
from hf_ecgtext.evaluation.statistics.retrieval_ranks import (
    METRICS,
    chance_values,
    commonest_values,
    rank_difference,
    rank_metric,
    rank_of_first,
    rank_of_own,
)
from hf_ecgtext.methods import get_recipe

TO_REPORT, TO_ECG = 0, 1


def random_embeds(num: int, dim: int = 5, seed: int = 0, levels: int = 2) -> np.ndarray:
    """Few distinct rows, so that ties are common."""
    rng = np.random.default_rng(seed)
    return normalised(rng.integers(-levels, levels + 1, size=(num, dim)).astype(np.float32) + np.float32(0.25))


def context(tmp_path, protocol=STRICT, num_resamples=60, **options):
    cache = FeatureCache(tmp_path / "features", show_progress=False)
    return EvaluationContext(cache=cache, protocol=protocol, num_resamples=num_resamples, **options)


def rows_of(reports, patients=None):
    return [
        {"record_id": f"r{place:02d}", "report": report, "patient_id": patients[place] if patients else f"p{place}"}
        for place, report in enumerate(reports)
    ]


def one_hot_runs(reports, name="model", kind="trained"):
    """An encoder that puts every recording exactly on its report."""
    texts = sorted({report.lower() for report in reports if report})
    basis = dict(zip(texts, np.eye(len(texts)), strict=True))
    ecgs = {f"r{place:02d}": basis[report.lower()] if report else np.eye(len(texts))[0]
            for place, report in enumerate(reports)}  # fmt: skip
    return EncoderRuns(name, kind, (TableEncoder(ecgs, basis),))


def by_line(results):
    return {(line.settings["direction"], line.metric): line for line in results}


# --- ranks -----------------------------------------------------------------------------------------------------------


def slow_rank(scores, hits, wrong):
    """The expected place of the first hit, over all orders of what is tied with it."""
    best = max(scores[hit] for hit in hits)
    better = sum(scores[other] > best + 1e-6 for other in wrong)
    tied = [other for other in wrong if abs(scores[other] - best) <= 1e-6]
    tied_hits = [hit for hit in hits if abs(scores[hit] - best) <= 1e-6]
    if len(tied) + len(tied_hits) <= 6:
        orders = list(itertools.permutations([False] * len(tied) + [True] * len(tied_hits)))
        return better + np.mean([order.index(True) + 1 for order in orders])
    return better + 1 + len(tied) / (len(tied_hits) + 1)


def test_the_rank_of_the_own_answer_equals_a_slow_loop_over_all_orders_of_ties():
    queries, gallery = random_embeds(40, dim=3), random_embeds(17, dim=3, seed=1)
    own = np.random.default_rng(2).integers(17, size=40)
    scores = queries @ gallery.T
    expected = [
        slow_rank(scores[row], [own[row]], [other for other in range(17) if other != own[row]]) for row in range(40)
    ]
    assert len(set(expected)) > 5
    assert any(rank % 1 for rank in expected)
    np.testing.assert_allclose(rank_of_own(queries, gallery, own), expected)


def test_the_rank_among_repeated_answers_equals_that_in_the_gallery_written_out():
    queries, gallery = random_embeds(30), random_embeds(9, seed=1)
    rng = np.random.default_rng(3)
    own, counts = rng.integers(9, size=30), rng.integers(1, 5, size=9)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    written_out = rank_of_own(queries, np.repeat(gallery, counts, axis=0), first[own])
    np.testing.assert_allclose(rank_of_own(queries, gallery, own, counts), written_out)


def test_the_rank_of_the_first_hit_equals_a_slow_loop_over_all_orders_of_ties():
    queries, gallery = random_embeds(8, dim=3), random_embeds(30, dim=3, seed=1)
    query_of_answer = np.r_[np.arange(8), np.random.default_rng(4).integers(8, size=22)]
    scores = queries @ gallery.T
    expected = [
        slow_rank(scores[row], np.flatnonzero(query_of_answer == row), np.flatnonzero(query_of_answer != row))
        for row in range(8)
    ]
    np.testing.assert_allclose(rank_of_first(queries, gallery, query_of_answer), expected)


def test_blocks_of_any_size_give_the_same_ranks(monkeypatch):
    queries, gallery = random_embeds(23), random_embeds(11, seed=1)
    own, query_of_answer = np.arange(23) % 11, np.r_[np.arange(11), np.arange(12) % 11]
    counts = np.arange(1, 12)
    whole = (
        rank_of_own(queries, gallery, own),
        rank_of_own(queries, gallery, own, counts),
        rank_of_first(gallery, queries, query_of_answer),
    )
    monkeypatch.setattr(module, "_BLOCK", 40)
    pieces = (
        rank_of_own(queries, gallery, own),
        rank_of_own(queries, gallery, own, counts),
        rank_of_first(gallery, queries, query_of_answer),
    )
    for expected, found in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_encoder_that_answers_everything_alike_ranks_in_the_middle():
    same = np.ones((20, 3), dtype=np.float32) / np.float32(np.sqrt(3))
    np.testing.assert_array_equal(rank_of_own(same, same, np.arange(20)), np.full(20, 10.5))
    np.testing.assert_allclose(rank_of_first(same[:2], same, np.arange(20) // 10), np.full(2, 1 + 10 / 11))


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_weighted_metrics_equal_those_of_repeated_ranks():
    rng = np.random.default_rng(0)
    for _ in range(30):
        ranks, counts = rng.integers(1, 14, size=12).astype(float), rng.integers(0, 4, size=(3, 12))
        counts[:, 0] += 1
        for metric, places in METRICS.items():
            repeated = [np.repeat(ranks, row) for row in counts]
            expected = [np.median(row) if places is None else (row <= places).mean() for row in repeated]
            np.testing.assert_allclose(rank_metric(metric, ranks, counts.astype(float)), expected)
            many = np.broadcast_to(ranks, (3, 12))
            np.testing.assert_allclose(rank_metric(metric, many, counts.astype(float)), expected)


def test_the_median_of_reports_that_share_their_weight_is_that_of_the_reports():
    ranks = np.array([1.0, 1, 1, 2, 5, 5, 9])
    shares = np.array([1 / 3, 1 / 3, 1 / 3, 1, 1 / 2, 1 / 2, 1])
    assert rank_metric("median_rank", ranks, shares[None])[0] == np.median([1, 2, 5, 9])


@pytest.mark.parametrize(("gallery", "hits"), [(12, [1] * 12), (15, [1, 1, 2, 4, 7]), (11, [1, 10])])
def test_chance_equals_the_mean_over_many_shuffled_galleries(gallery, hits):
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((40_000, gallery)), axis=1)
    first = np.stack([(order < num).argmax(axis=1) + 1 for num in hits])  # the first `num` answers are right
    expected = chance_values(gallery, np.array(hits))
    for metric, places in METRICS.items():
        if places is not None:
            assert expected[metric] == pytest.approx((first <= places).mean(), abs=0.01)
    assert expected["median_rank"] == pytest.approx(np.median(first), abs=0.51)


def test_chance_without_duplicates_is_the_share_of_the_gallery():
    values = chance_values(40, np.ones(40, dtype=np.int64))
    assert [values[metric] for metric in METRICS] == pytest.approx([1 / 40, 5 / 40, 10 / 40, 20.5])
    assert chance_values(3, np.ones(3, dtype=np.int64))["recall_at_10"] == pytest.approx(1)


def test_the_commonest_answers_find_as_many_as_share_them():
    values = commonest_values(np.array([0, 1, 1, 1, 2, 2, 3, 4, 5, 6]))
    assert values["recall_at_1"] == pytest.approx(3 / 10)
    assert values["recall_at_5"] == pytest.approx(8 / 10)
    assert values["median_rank"] == 2.5  # of 1 1 1 2 2 3 4 5 6 7


# --- the frame -------------------------------------------------------------------------------------------------------

REPORTS = ["normal", "AF", "normal", "af", "block", "Normal", "flutter", "infarct", None, ""]


def test_a_perfect_encoder_finds_everything_where_duplicates_are_recognised(tmp_path):
    data = table_data(test=rows_of(REPORTS))
    lines = by_line(evaluate(one_hot_runs(REPORTS), data, context(tmp_path)).results)
    assert len(lines) == 8
    for (direction, metric), line in lines.items():
        assert line.value == 1
        assert line.confidence_interval == (1, 1)
        assert (line.evaluation, line.task, line.num_records) == ("retrieval", "table", 8)
        assert line.settings == {"direction": direction, "duplicates": "recognised"}
        assert line.details["num_unique_reports"] == 5
        assert (line.details["without_report"], line.details["empty_after_cleaning"]) == (1, 1)
        assert line.details["gallery"] == (5 if direction == "ecg_to_report" else 8)
        assert line.details["num_queries"] == (8 if direction == "ecg_to_report" else 5)
        if metric == "recall_at_1":
            assert line.details["chance"] == pytest.approx(
                1 / 5 if direction == "ecg_to_report" else np.mean([3 / 8, 2 / 8, 1 / 8, 1 / 8, 1 / 8])
            )
        assert EvaluationResult.from_json(line.to_json()) == line
    assert lines["ecg_to_report", "recall_at_1"].details["always_commonest"] == pytest.approx(3 / 8)


def test_duplicates_spoil_a_perfect_encoder_where_they_are_wrong(tmp_path):
    data = table_data(test=rows_of(REPORTS))
    lines = by_line(evaluate(one_hot_runs(REPORTS), data, context(tmp_path, PUBLISHED)).results)
    for direction in ("ecg_to_report", "report_to_ecg"):  # own rows rank 2, 2, 2, 1.5, 1.5, 1, 1, 1
        assert lines[direction, "recall_at_1"].value == pytest.approx(3 / 8)
        assert lines[direction, "recall_at_5"].value == 1
        assert lines[direction, "median_rank"].value == 1.5
        assert lines[direction, "recall_at_1"].details["chance"] == pytest.approx(1 / 8)
        assert lines[direction, "recall_at_1"].settings["duplicates"] == "wrong"
        assert lines[direction, "recall_at_1"].details["gallery"] == 8
        assert "always_commonest" not in lines[direction, "recall_at_1"].details


def noisy_runs(reports, seeds=(0,), name="noisy", kind="trained"):
    texts = sorted({report.lower() for report in reports if report})
    members = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        table = {text: rng.normal(size=6) for text in texts}
        ecgs = {
            f"r{place:02d}": (table[report.lower()] if report else 0) + 1.5 * rng.normal(size=6)
            for place, report in enumerate(reports)
        }
        members.append(TableEncoder(ecgs, table, name=f"{name} {seed}"))
    return EncoderRuns(name, kind, tuple(members), seed=seeds if len(seeds) > 1 else seeds[0])


MANY = [f"report {place % 13}" if place % 3 else f"rare {place}" for place in range(48)]
PATIENTS = [f"p{place // 2}" for place in range(48)]


def test_the_order_of_the_file_changes_no_number(tmp_path):
    rows = rows_of(MANY, PATIENTS)
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    runs = noisy_runs(MANY)
    for protocol in (STRICT, PUBLISHED):
        first = evaluate(runs, table_data(test=rows), context(tmp_path / "a", protocol)).results
        second = evaluate(runs, table_data(test=shuffled), context(tmp_path / "b", protocol)).results
        assert [replace(line, date="") for line in first] == [replace(line, date="") for line in second]


def test_resamples_equal_a_slow_loop_over_drawn_reports(tmp_path):
    ranks = retrieval_ranks(noisy_runs(MANY), table_data(test=rows_of(MANY, PATIENTS)), context(tmp_path))[TO_ECG]
    counts = resample_weights(48, MANY, num_resamples=20, seed=5)  # a report asks once, so it is drawn as a whole
    sharing = np.array([MANY.count(report) for report in MANY])
    for metric, places in METRICS.items():
        found = ranks.resamples(metric, 20, seed=5)[0]
        for resample in range(20):
            weights = counts[resample] / sharing
            if places is not None:
                expected = sum(weights[ranks.ranks[0] <= places]) / sum(weights)
                assert found[resample] == pytest.approx(expected)
            else:
                below = sum(weights[ranks.ranks[0] < found[resample]])
                above = sum(weights[ranks.ranks[0] > found[resample]])
                assert max(below, above) <= sum(weights) / 2 + 1e-9


def test_patients_are_drawn_where_ecgs_ask(tmp_path):
    ranks = retrieval_ranks(noisy_runs(MANY), table_data(test=rows_of(MANY, PATIENTS)), context(tmp_path))[TO_REPORT]
    counts = resample_weights(48, PATIENTS, num_resamples=20, seed=5)
    assert (counts[:, ::2] == counts[:, 1::2]).all()
    expected = counts @ (ranks.ranks[0] <= 5) / 48
    np.testing.assert_allclose(ranks.resamples("recall_at_5", 20, seed=5)[0], expected)


def test_several_encoders_give_mean_spread_and_the_interval_of_their_mean(tmp_path):
    data = table_data(test=rows_of(MANY, PATIENTS))
    together = retrieval_ranks(noisy_runs(MANY, (0, 1, 2), kind="random"), data, context(tmp_path))[TO_REPORT]
    alone = [retrieval_ranks(noisy_runs(MANY, (seed,)), data, context(tmp_path))[TO_REPORT] for seed in (0, 1, 2)]
    line = by_line(rank_results(together, num_resamples=300))["ecg_to_report", "recall_at_5"]
    values = [float(each.values("recall_at_5")[0]) for each in alone]
    assert len(set(values)) > 1
    assert line.value == pytest.approx(np.mean(values))
    assert line.spread == pytest.approx(np.std(values, ddof=1))
    assert (line.num_resamples, line.seed, line.encoder) == (300, (0, 1, 2), "random")
    means = np.mean([each.resamples("recall_at_5", 300)[0] for each in alone], axis=0)
    assert line.confidence_interval == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))
    assert line.run_values == pytest.approx(values)
    assert line.prediction_for == "initialisation"
    low, high = line.prediction_interval
    assert low < line.confidence_interval[0]
    assert high > line.confidence_interval[1]


def test_a_random_encoder_is_at_chance(tmp_path):
    data = table_data(test=rows_of(MANY, PATIENTS))
    rng = np.random.default_rng(0)
    members = tuple(
        TableEncoder({f"r{place:02d}": rng.normal(size=30) for place in range(48)},
                     {text: rng.normal(size=30) for text in MANY}, name=str(seed))
        for seed in range(60)
    )  # fmt: skip
    for ranks in retrieval_ranks(EncoderRuns("x", "random", members, seed=tuple(range(60))), data, context(tmp_path)):
        for metric in ("recall_at_1", "recall_at_5", "recall_at_10"):
            assert ranks.values(metric).mean() == pytest.approx(ranks.chance[metric], abs=0.04)
        assert ranks.values("median_rank").mean() == pytest.approx(ranks.chance["median_rank"], abs=1.5)


# --- differences -----------------------------------------------------------------------------------------------------


def pair(tmp_path, seeds=((0,), (1,))):
    data = table_data(test=rows_of(MANY, PATIENTS))
    return [retrieval_ranks(noisy_runs(MANY, seed, f"m{seed}"), data, context(tmp_path))[TO_REPORT] for seed in seeds]


def test_an_encoder_does_not_differ_from_itself(tmp_path):
    first, second = pair(tmp_path, ((0,), (0,)))
    for line in rank_difference_results(first, second, num_permutations=50):
        assert (line.value, line.p_value) == (0, 1)
        assert line.confidence_interval == pytest.approx((0, 0))


def test_a_difference_equals_a_slow_exchange_of_whole_patients(tmp_path):
    first, second = pair(tmp_path)
    for metric, places in METRICS.items():
        found = rank_difference(first, second, metric, num_permutations=199, seed=3)

        def measure(ranks, places=places):
            return np.median(ranks) if places is None else np.mean(ranks <= places)

        own, other = first.ranks[0], second.ranks[0]
        assert found.value == pytest.approx(measure(own) - measure(other))
        exchanged = np.random.default_rng(3).integers(2, size=(199, 24), dtype=np.int8).astype(bool)
        values = [
            measure(np.where(flags, other, own)) - measure(np.where(flags, own, other))
            for flags in exchanged[:, first.asking]
        ]
        extreme = (np.abs(values) >= abs(found.value) - 1e-9).sum()
        assert found.p_value == pytest.approx((1 + extreme) / 200)
        # 0.05 * 200 is 10: nine of the 199 may be as large, so the ninth largest is the last that is no surprise.
        largest = np.sort(np.abs(values))[-9]
        assert (found.low, found.high) == pytest.approx((found.value - largest, found.value + largest))


def test_a_perfect_encoder_is_significantly_better_than_a_noisy_one(tmp_path):
    data = table_data(test=rows_of(MANY, PATIENTS))
    (perfect, _), (noisy, _) = (
        retrieval_ranks(runs, data, context(tmp_path)) for runs in (one_hot_runs(MANY), noisy_runs(MANY))
    )
    found = rank_difference(perfect, noisy, "recall_at_1", num_permutations=499)
    assert found.low > 0
    assert found.p_value < 0.01
    assert rank_difference(perfect, noisy, "median_rank", num_permutations=499).high < 0


def test_a_report_that_asks_for_several_records_is_exchanged_as_a_whole(tmp_path):
    data = table_data(test=rows_of(MANY, PATIENTS))
    first, second = (retrieval_ranks(noisy_runs(MANY, (seed,)), data, context(tmp_path))[TO_ECG] for seed in (0, 1))
    assert len(set(first.asking.tolist())) == len(set(MANY)) < 48
    found = rank_difference(first, second, "recall_at_5", num_permutations=99, seed=3)
    of_report = [MANY.index(report) for report in sorted(set(MANY), key=lambda text: first.asking[MANY.index(text)])]
    hits = [(ranks.ranks[0][of_report] <= 5).astype(float) for ranks in (first, second)]
    coins = np.random.default_rng(3).integers(2, size=(99, len(of_report)), dtype=np.int8).astype(bool)
    values = [np.mean(np.where(flip, hits[1], hits[0]) - np.where(flip, hits[0], hits[1])) for flip in coins]
    extreme = (np.abs(values) >= abs(found.value) - 1e-9).sum()
    assert found.p_value == pytest.approx((1 + extreme) / 100)


def test_other_questions_are_not_paired_and_one_run_is_compared_with_the_mean_of_two(tmp_path):
    one, two = pair(tmp_path, ((0,), (1, 2)))
    found = rank_difference(one, two, "recall_at_5", num_permutations=20)
    assert found.value == pytest.approx(one.values("recall_at_5")[0] - two.values("recall_at_5").mean())
    assert len(found.run_values) == 2
    with pytest.raises(ValueError, match="their gallery differ"):
        rank_difference(one, replace(two, gallery=3), "recall_at_5")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_data_without_reports_is_refused(tmp_path):
    data = table_data(test=rows_of([None, ""]))
    with pytest.raises(ValueError, match=r"No record of table's test split has a report \(1 have none, 1 are empty"):
        evaluate(one_hot_runs(["a", "b"]), data, context(tmp_path))


def test_data_without_a_test_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no test split"):
        evaluate(one_hot_runs(["a"]), table_data(train=rows_of(["a"])), context(tmp_path))


def test_an_encoder_without_text_is_refused(tmp_path):
    runs = EncoderRuns("beats", "interval_features", (TableEncoder({"r00": [1.0]}),))
    with pytest.raises(TypeError, match=r"'beats' .* has no text tower"):
        evaluate(runs, table_data(test=rows_of(["a"])), context(tmp_path))


def test_a_report_with_nan_features_is_named(tmp_path):
    runs = EncoderRuns(
        "x", "trained", (TableEncoder({"r00": [1.0, 0], "r01": [0, 1.0]}, {"a": [1, 0], "b": [0, np.nan]}),)
    )
    with pytest.raises(RecordError, match="r01"):
        evaluate(runs, table_data(test=rows_of(["a", "b"])), context(tmp_path))


def test_a_record_without_patient_among_others_with_one_is_named(tmp_path):
    with pytest.raises(ValueError, match="'r01' of table's test split has no patient id"):
        evaluate(one_hot_runs(["a", "b"]), table_data(test=rows_of(["a", "b"], ["p", None])), context(tmp_path))


# --- a model ---------------------------------------------------------------------------------------------------------


def test_a_model_retrieves_from_the_texts_that_its_processor_cleans(tmp_path):
    data = open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=tmp_path / "data")
    model, processor = get_recipe("merl", "debug").build(seed=0)
    processor.report_cleaning = "mimic"
    encoder = ModelEncoder(model, processor)
    assert encoder.clean_report("*** Sinus RHYTHM ***") == "sinus rhythm."
    settings = context(tmp_path)
    ranks, _ = retrieval_ranks(EncoderRuns("debug", "trained", (encoder,)), data, settings)
    ids = data.test.column("record_id")
    rows = data.test.__getitems__([ids.index(record) for record in ranks.record_ids])
    ecgs = normalised(encoder.encode([row["ecg"] for row in rows])["ecg_embeds"])
    reports = [
        encoder.clean_report(dict(zip(ids, data.test.column("report"), strict=True))[r]) for r in ranks.record_ids
    ]
    unique = list(dict.fromkeys(reports))
    scores = ecgs @ encoder.embed_texts(unique).T
    own = [scores[row, unique.index(report)] for row, report in enumerate(reports)]
    expected = [1 + (row > score + 1e-6).sum() for row, score in zip(scores, own, strict=True)]
    np.testing.assert_allclose(ranks.ranks[0], expected, atol=0.51)
