from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals, resample_weights
from hf_ecgtext.evaluation.statistics.calibration_metrics import ece_equal_mass
from hf_ecgtext.evaluation.statistics.intervals import prediction_interval
from hf_ecgtext.evaluation.statistics.metrics import auroc, average_precision, top1_f1


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, targets and patients of 150 records from about 100 patients; the third class is rare."""
    rng = np.random.default_rng(0)
    targets = (rng.random((150, 3)) < (0.4, 0.2, 0.0)).astype(int)
    targets[:4, 2] = 1
    return rng.normal(size=(150, 3)) + targets, targets, np.r_[:4, rng.integers(4, 104, 146)]


def test_resamples_equal_a_slow_loop_that_repeats_rows(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, targets, patients, num_resamples=25, confidence=0.9, seed=3)
    references = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    assert set(result) == set(references)
    common = slice(0, 2)  # resamples lack the third class now and then
    for name, reference in references.items():
        slow = np.empty((25, 2))
        for resample, counts in enumerate(resample_weights(150, patients, num_resamples=25, seed=3)):
            rows = np.repeat(np.arange(150), counts)
            slow[resample] = [reference(targets[rows, index], scores[rows, index]) for index in range(2)]
        np.testing.assert_allclose(result[name].resamples[0, :, common], slow, rtol=1e-12)
        expected = [reference(targets[:, index], scores[:, index]) for index in range(3)]
        # The spread of few patients is understated by the root of (n - 1) / n.
        rarer = [min(len(set(patients[targets[:, i] == label])) for label in (0, 1)) for i in range(2)]
        scaled = expected[:2] + np.sqrt(np.array(rarer) / (np.array(rarer) - 1)) * (slow - expected[:2])
        np.testing.assert_allclose(result[name].macro_resamples(5), scaled.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(result[name].values, expected, rtol=1e-12)
        assert result[name].macro(5).value == pytest.approx(np.mean(expected[:2]))
        assert result[name].macro(1).value == pytest.approx(np.mean(expected))
    slow_means = result["auroc"].macro_resamples(5)
    np.testing.assert_allclose(result["auroc"].macro(5)[1:], np.quantile(slow_means, (0.05, 0.95)), rtol=1e-12)


def test_patients_are_drawn_with_replacement_and_with_all_their_records(sample):
    _, _, patients = sample
    weights = resample_weights(150, patients, num_resamples=400)
    unique, first, indices = np.unique(patients, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(weights, weights[:, first][:, indices])
    assert (weights[:, first].sum(axis=1) == len(unique)).all()
    # Plain draws: the number of times a patient is drawn has mean 1 and variance 1 - 1/n, the rare ones' too.
    np.testing.assert_allclose(weights[:, first].mean(axis=0), 1, atol=0.25)
    assert weights[:, first][:, :4].var() == pytest.approx(1, abs=0.15)


def test_resamples_without_a_class_are_counted_and_left_out():
    targets = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = np.random.default_rng(1).normal(size=targets.shape)
    scores[:, 2] = targets[:, 2]
    result = bootstrap_intervals(scores, targets, None, [auroc], num_resamples=200)["auroc"]
    weights = resample_weights(6, None, num_resamples=200)
    expected = ((weights @ targets == 0) | (weights @ (1 - targets) == 0)).sum(axis=0)
    np.testing.assert_array_equal(result.num_undefined, expected)
    assert 0 < result.num_undefined[2] < 200
    assert result.num_undefined[3] == 200
    assert np.isnan(result.per_class()[3]).all()
    assert result.macro(1).value == pytest.approx(np.nanmean(result.values))


def test_a_macro_mean_over_a_class_with_few_positives_has_a_value_and_no_interval(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, targets, patients, [auroc], num_resamples=40)["auroc"]
    everything, headline = result.macro(1), result.macro(5)
    assert np.isfinite(everything.value)
    assert np.isnan(everything[1:]).all()
    assert result.too_rare(1).tolist() == [False, False, True]
    assert headline.low < headline.value < headline.high
    assert result.counted(5).tolist() == [True, True, False]
    assert np.isnan(result.macro(200)).all()


def test_a_class_that_nearly_all_records_have_is_as_rare_as_one_that_few_have(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, 1 - targets, patients, [auroc], num_resamples=40)["auroc"]
    assert result.too_rare(5).tolist() == [False, False, True]
    assert np.isnan(result.macro(5)[1:]).all()


def test_average_precision_has_a_macro_interval_only_over_frequent_classes(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, targets, patients, [average_precision], num_resamples=100)["average_precision"]
    assert result.num_positives.min() == 4
    assert np.isnan(result.macro(1)[1:]).all()
    frequent = result.macro(20)
    assert frequent.low < frequent.value < frequent.high


def test_a_calibration_error_has_no_interval(sample):
    _, targets, patients = sample
    probabilities = np.random.default_rng(3).random(targets.shape)
    result = bootstrap_intervals(probabilities, targets, patients, [ece_equal_mass], num_resamples=20)["ece_equal_mass"]
    assert np.isfinite(result.macro(5).value)
    assert np.isnan(result.macro(5)[1:]).all()
    assert all(np.isnan(interval[1:]).all() for interval in result.per_class())


def test_a_mean_over_one_class_has_the_interval_of_that_class(sample):
    scores, targets, patients = sample
    result = bootstrap_intervals(scores, targets, patients, [auroc], num_resamples=20)["auroc"]
    least = int(np.sort(result.num_positives)[-1])
    assert result.counted(least).sum() == 1
    assert result.macro(least) == result.per_class()[int(result.num_positives.argmax())]


def test_a_class_with_one_positive_patient_has_a_wide_interval(sample):
    scores, targets, patients = sample
    targets[:, 2] = 0
    targets[:2, 2] = 1
    patients[:2] = 0
    result = bootstrap_intervals(scores, targets, patients, [auroc], num_resamples=20)["auroc"]
    assert result.num_positives[2] == 2
    assert result.num_positive_patients[2] == 1
    interval = result.per_class()[2]
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low > 0.4


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


def test_the_interval_of_several_runs_is_that_of_their_mean_on_the_same_resamples(sample):
    scores, targets, patients = sample
    noise = scores + np.random.default_rng(4).normal(size=scores.shape)
    both = bootstrap_intervals([scores, noise], targets, patients, [auroc], 30)["auroc"]
    one, two = (bootstrap_intervals(run, targets, patients, [auroc], 30)["auroc"] for run in (scores, noise))
    np.testing.assert_allclose(both.values, (one.values + two.values) / 2)
    np.testing.assert_array_equal(both.resamples, np.stack([one.resamples[0], two.resamples[0]]))
    means = (one.macro_resamples(5) + two.macro_resamples(5)) / 2
    np.testing.assert_allclose(both.macro(5)[1:], np.quantile(means, (0.025, 0.975)))


def test_the_prediction_interval_adds_the_variance_between_trainings(sample):
    scores, targets, patients = sample
    rng = np.random.default_rng(4)
    runs = [scores + noise * rng.normal(size=scores.shape) for noise in (0.0, 1.0, 2.0)]
    result = bootstrap_intervals(runs, targets, patients, [auroc], 200)["auroc"]
    np.testing.assert_allclose(result.unit_values(5), result.run_values[:, :2].mean(axis=1))
    low, high = result.prediction(5)
    assert low < result.macro(5).low
    assert high > result.macro(5).high
    assert bootstrap_intervals(scores, targets, patients, [auroc], 200)["auroc"].prediction(5) is None
    assert result.prediction(1) is None  # nor has the mean over all classes an interval


def test_draws_within_a_training_are_averaged_before_trainings_are_compared(sample):
    scores, targets, patients = sample
    rng = np.random.default_rng(5)
    runs = [scores + rng.normal(size=scores.shape) for _ in range(6)]
    result = bootstrap_intervals(runs, targets, patients, [auroc], 50, num_units=3)["auroc"]
    per_run = result.run_values[:, :2].mean(axis=1)
    np.testing.assert_allclose(result.unit_values(5), per_run.reshape(3, 2).mean(axis=1))
    expected = prediction_interval(result.unit_values(5), result.macro_resamples(5), 0.95)
    assert result.prediction(5) == (max(expected[0], 0), min(expected[1], 1))
    with pytest.raises(ValueError, match="6 runs do not fall into 4 trainings"):
        bootstrap_intervals(runs, targets, patients, [auroc], 50, num_units=4)


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
