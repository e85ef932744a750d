from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics.bootstrap import (
    bootstrap_intervals,
    paired_difference,
    patient_strata,
    resample_weights,
)
from hf_ecgtext.evaluation.statistics.metrics import auroc, top1_f1


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, targets and patients of 150 records from about 100 patients; the third class is rare."""
    rng = np.random.default_rng(0)
    targets = (rng.random((150, 3)) < (0.4, 0.2, 0.0)).astype(int)
    targets[:4, 2] = 1
    return rng.normal(size=(150, 3)) + targets, targets, np.r_[:4, rng.integers(4, 104, 146)]


def test_intervals_equal_a_slow_loop_that_repeats_rows(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, targets, patients, num_resamples=25, confidence=0.9, seed=3)
    references = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    assert set(result) == set(references)
    for name, reference in references.items():
        slow = np.empty((25, 3))
        for resample, counts in enumerate(resample_weights(targets, patients, num_resamples=25, seed=3)):
            rows = np.repeat(np.arange(150), counts)
            slow[resample] = [reference(targets[rows, index], scores[rows, index]) for index in range(3)]
        np.testing.assert_allclose(result[name].resamples, slow, rtol=1e-12)
        np.testing.assert_allclose(
            np.array(result[name].per_class())[:, 1:], np.quantile(slow, (0.05, 0.95), axis=0).T, rtol=1e-12
        )
        np.testing.assert_allclose(result[name].macro()[1:], np.quantile(slow.mean(axis=1), (0.05, 0.95)), rtol=1e-12)
        expected = [reference(targets[:, index], scores[:, index]) for index in range(3)]
        np.testing.assert_allclose(result[name].values, expected, rtol=1e-12)
        assert result[name].macro().value == pytest.approx(np.mean(expected))


def test_all_records_of_a_patient_are_drawn_together_and_strata_keep_their_size(sample):
    _, targets, patients = sample
    weights = resample_weights(targets, patients, num_resamples=40)
    unique, first, indices = np.unique(patients, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(weights, weights[:, first][:, indices])
    strata = patient_strata(targets.astype(bool), indices)
    for stratum in np.unique(strata):
        members = np.isin(np.arange(len(unique)), np.flatnonzero(strata == stratum))
        assert (weights[:, first][:, members].sum(axis=1) == members.sum()).all()
    assert len(np.unique(weights, axis=0)) == 40


def test_a_patient_belongs_to_the_rarest_class_of_all_their_records():
    positive = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)
    patient_of_record = np.array([0, 0, 1, 2, 3])
    # In patients: class 0 has three, classes 1 and 2 one each. Patient 2 has no label.
    assert patient_strata(positive, patient_of_record).tolist() == [1, 0, 3, 2]


def test_the_rarest_class_never_vanishes_from_a_resample(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, targets, patients, [auroc], num_resamples=300)["auroc"]
    assert result.num_undefined.tolist() == [0, 0, 0]
    weights = resample_weights(targets, patients, num_resamples=300)
    assert (weights @ targets[:, 2] == 4).all()


def test_resamples_without_a_class_are_counted_and_left_out():
    # Each of the two patients with class 2 shares the stratum of another class with a patient who lacks class 2, so
    # that class 2 vanishes from one resample in 16. Class 3 has no positive.
    targets = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = np.random.default_rng(1).normal(size=targets.shape)
    scores[:, 2] = targets[:, 2]
    result = bootstrap_intervals(scores, targets, None, [auroc], num_resamples=200)["auroc"]
    weights = resample_weights(targets, None, num_resamples=200)
    num_negatives = weights @ (1 - targets)
    num_positives = weights @ targets
    expected = ((num_positives == 0) | (num_negatives == 0)).sum(axis=0)
    np.testing.assert_array_equal(result.num_undefined, expected)
    assert 0 < result.num_undefined[2] < 200
    assert result.num_undefined[3] == 200
    assert result.per_class()[2] == (1.0, 1.0, 1.0)
    assert np.isnan(result.per_class()[3]).all()
    assert np.isfinite(result.macro()).all()
    assert result.macro().value == pytest.approx(np.nanmean(result.values))


def test_a_class_with_one_positive_patient_has_a_value_but_no_interval(sample):
    scores, targets, patients = sample
    targets[:, 2] = 0
    targets[:2, 2] = 1
    patients[:2] = 0
    result = bootstrap_intervals(scores, targets, patients, [auroc], num_resamples=20)["auroc"]
    assert result.num_positives[2] == 2
    assert result.num_positive_patients[2] == 1
    assert np.isfinite(result.per_class()[2].value)
    assert np.isnan(result.per_class()[2][1:]).all()


def test_the_seed_decides_the_resamples(sample):
    scores, targets, patients = sample
    first, again, other = (
        bootstrap_intervals(scores, targets, patients, [auroc], 20, seed=seed)["auroc"].resamples for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_clustering_widens_the_interval_when_records_of_a_patient_are_copies():
    rng = np.random.default_rng(2)
    targets = rng.integers(0, 2, (60, 1))
    scores = rng.normal(size=(60, 1)) + targets
    patients = np.arange(60)
    copied = [np.repeat(array, 5, axis=0) for array in (scores, targets)]
    clustered = bootstrap_intervals(*copied, np.repeat(patients, 5), [auroc])["auroc"].macro()
    single = bootstrap_intervals(scores, targets, patients, [auroc])["auroc"].macro()
    independent = bootstrap_intervals(*copied, None, [auroc])["auroc"].macro()
    assert clustered == pytest.approx(single, rel=1e-12)
    assert independent.high - independent.low < 0.6 * (clustered.high - clustered.low)


def test_several_score_arrays_average_the_value_and_pool_the_resamples(sample):
    scores, targets, patients = sample
    noise = scores + np.random.default_rng(4).normal(size=scores.shape)
    both = bootstrap_intervals([scores, noise], targets, patients, [auroc], 30)["auroc"]
    one, two = (bootstrap_intervals(run, targets, patients, [auroc], 30)["auroc"] for run in (scores, noise))
    np.testing.assert_allclose(both.values, (one.values + two.values) / 2)
    np.testing.assert_array_equal(both.resamples, np.concatenate([one.resamples, two.resamples]))


def test_a_paired_difference_uses_the_same_resamples(sample):
    scores, targets, patients = sample
    noise = scores + np.random.default_rng(5).normal(size=scores.shape)
    difference = paired_difference(scores, noise, targets, patients, [auroc], 50)["auroc"]
    a, b = (bootstrap_intervals(run, targets, patients, [auroc], 50)["auroc"] for run in (scores, noise))
    np.testing.assert_array_equal(difference.resamples, a.resamples - b.resamples)
    np.testing.assert_array_equal(difference.values, a.values - b.values)
    shares = (difference.resamples <= 0).mean(axis=0)
    np.testing.assert_allclose(difference.share_not_above_zero(), shares)
    macro_share = (difference.resamples.mean(axis=1) <= 0).mean()
    assert difference.macro_share_not_above_zero() == pytest.approx(macro_share)


def test_equal_scores_differ_by_exactly_zero_in_every_resample(sample):
    scores, targets, patients = sample
    difference = paired_difference(scores, 2 * scores, targets, patients, [auroc], 20)["auroc"]
    assert difference.macro() == (0.0, 0.0, 0.0)
    assert difference.macro_share_not_above_zero() == 1.0


def test_a_paired_difference_compares_every_pair_of_runs(sample):
    scores, targets, patients = sample
    runs = [scores + np.random.default_rng(seed).normal(size=scores.shape) for seed in range(3)]
    difference = paired_difference(scores, runs, targets, patients, [auroc], 10)["auroc"]
    assert difference.resamples.shape == (30, 3)
    last = paired_difference(scores, runs[2], targets, patients, [auroc], 10)["auroc"]
    np.testing.assert_array_equal(difference.resamples[20:], last.resamples)


def test_other_metrics_of_the_module_can_be_given():
    rng = np.random.default_rng(6)
    targets = np.eye(3, dtype=int)[rng.integers(0, 3, 90)]
    scores = rng.normal(size=(90, 3)) + targets
    interval = bootstrap_intervals(scores, targets, None, [top1_f1], 200)["top1_f1"].macro()
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_patient_id_is_refused_by_row(sample, missing):
    scores, targets, patients = sample
    ids = [*patients[:9].tolist(), missing, *patients[10:].tolist()]
    with pytest.raises(RecordError, match="'row 9': has no patient id"):
        bootstrap_intervals(scores, targets, ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": 95}, "confidence is 95"),
        ({"num_resamples": 0}, "at least 1"),
        ({"patient_ids": [1, 2]}, "2 patient ids for 150 records"),
        ({"scores": np.zeros(150)}, "expected"),
        ({"scores": np.zeros((0, 150, 3))}, "expected"),
    ],
)
def test_settings_out_of_range_are_refused(sample, changes, message):
    scores, targets, patients = sample
    arguments = {"scores": scores, "targets": targets, "patient_ids": patients} | changes
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(**arguments)


def test_paired_runs_are_compared_one_by_one():
    rng = np.random.default_rng(4)
    targets = (rng.random((60, 2)) < 0.4).astype(int)
    shared = 3 * rng.normal(size=(4, 1, 1)) * rng.normal(size=(4, 60, 2))  # what both runs of a draw have in common
    first, second = shared + targets + 0.1 * rng.normal(size=(4, 60, 2)), shared + 0.1 * rng.normal(size=(4, 60, 2))
    paired = paired_difference(first, second, targets, None, [auroc], 50, pair_runs=True)["auroc"]
    crossed = paired_difference(first, second, targets, None, [auroc], 50)["auroc"]
    assert paired.resamples.shape == (4 * 50, 2)
    assert crossed.resamples.shape == (16 * 50, 2)
    by_hand = [
        paired_difference(a, b, targets, None, [auroc], 50)["auroc"].resamples
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_array_equal(paired.resamples, np.concatenate(by_hand))
    np.testing.assert_array_equal(paired.values, crossed.values)
    with pytest.raises(ValueError, match="not of as many runs"):
        paired_difference(first, second[:3], targets, None, [auroc], 50, pair_runs=True)
