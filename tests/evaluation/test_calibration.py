from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.calibration import calibrate, fit_platt, fit_temperature
from hf_ecgtext.evaluation.statistics.calibration_metrics import (
    METRICS,
    brier_score,
    ece_equal_mass,
    ece_equal_width,
    negative_log_likelihood,
    reliability_curve,
    wilson_interval,
)


def logistic_sample(seed: int, num_records: int = 4000, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and targets that were drawn with their probabilities."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(num_records, num_classes)) - np.arange(num_classes)
    return logits, (rng.random(logits.shape) < expit(logits)).astype(np.int8)


def task_scores(kind: str, factor: float = 1.0) -> TaskScores:
    """Two runs whose scores are the true logits times a factor, and the same plus noise."""
    rng = np.random.default_rng(0)
    validation, validation_targets = logistic_sample(1)
    logits, targets = logistic_sample(2, num_records=1000)

    def runs_of(values: np.ndarray) -> np.ndarray:
        return np.stack([factor * values, factor * (values + rng.normal(size=values.shape))]).astype(np.float32)

    return TaskScores(
        evaluation="linear_probe",
        task="super",
        protocol="strict",
        checkpoint="merl",
        encoder="trained",
        class_names=("A", "B", "C"),
        record_ids=tuple(f"{row:04d}" for row in range(1000)),
        targets=targets,
        patients=None,
        scores=runs_of(logits),
        data={"name": "x", "revision": "1", "split": "test"},
        validation_targets=validation_targets,
        validation_scores=runs_of(validation),
        score_kind=kind,
    )


def test_brier_score_and_log_likelihood_of_known_answers():
    probabilities, targets = np.array([[1.0, 0.5], [0.0, 0.5]]), np.array([[1, 1], [0, 0]])
    np.testing.assert_allclose(brier_score(probabilities, targets), [0, 0.25])
    np.testing.assert_allclose(negative_log_likelihood(probabilities, targets), [0, np.log(2)])
    np.testing.assert_allclose(brier_score(probabilities, 1 - targets), [1, 0.25])
    np.testing.assert_allclose(negative_log_likelihood(probabilities, 1 - targets)[0], 53 * np.log(2))


@pytest.mark.parametrize("metric", METRICS)
def test_weights_equal_repeated_rows_where_the_bins_stay(metric):
    rng = np.random.default_rng(3)
    probabilities = rng.integers(0, 6, (80, 2)) / 5  # six values in 15 bins of their own
    targets = (rng.random((80, 2)) < probabilities).astype(int)
    weights = rng.integers(1, 4, (3, 80))
    rows = [np.repeat(np.arange(80), row) for row in weights]
    expected = np.stack([metric(probabilities[row], targets[row]) for row in rows])
    np.testing.assert_allclose(metric(probabilities, targets, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(metric(probabilities, targets, weights[0]), expected[0], rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_records_changes_nothing(metric):
    rng = np.random.default_rng(4)
    probabilities = np.round(rng.random((97, 2)), 1)
    targets = (rng.random((97, 2)) < 0.5).astype(int)
    order = rng.permutation(97)
    np.testing.assert_allclose(metric(probabilities[order], targets[order]), metric(probabilities, targets), rtol=1e-12)


def test_the_calibration_error_of_one_constant_answer_is_its_distance_from_the_prevalence():
    targets = np.array([[1], [0], [0], [0]])
    for metric in (ece_equal_width, ece_equal_mass):
        np.testing.assert_allclose(metric(np.full((4, 1), 0.6), targets), [0.35])


def test_equal_mass_bins_hold_equally_many_and_equal_a_sort_and_split():
    rng = np.random.default_rng(5)
    probabilities = rng.random(120) ** 4
    targets = (rng.random(120) < 0.3).astype(int)
    parts = np.split(np.argsort(probabilities), 10)
    expected = np.mean([abs(targets[part].mean() - probabilities[part].mean()) for part in parts])
    value = ece_equal_mass(probabilities[:, None], targets[:, None], num_bins=10)
    np.testing.assert_allclose(value, [expected], rtol=1e-12)
    curve = reliability_curve(probabilities, targets, num_bins=10)
    assert curve.counts.tolist() == [12] * 10
    np.testing.assert_allclose(curve.mean_predicted, [probabilities[part].mean() for part in parts])
    np.testing.assert_allclose(curve.observed, [targets[part].mean() for part in parts])
    np.testing.assert_allclose([curve.low, curve.high], wilson_interval(12 * curve.observed, curve.counts))


def test_empty_bins_are_left_out_of_the_curve_and_its_gaps_are_the_calibration_error():
    probabilities, targets = np.array([0.05, 0.07, 0.95]), np.array([0, 1, 1])
    curve = reliability_curve(probabilities, targets, num_bins=10, binning="equal_width")
    np.testing.assert_allclose(curve.mean_predicted, [0.06, 0.95])
    assert curve.counts.tolist() == [2, 1]
    expected = (np.abs(curve.observed - curve.mean_predicted) * curve.counts).sum() / 3
    value = ece_equal_width(probabilities[:, None], targets[:, None], num_bins=10)
    np.testing.assert_allclose(value, [expected])


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large_one():
    logits, targets = logistic_sample(6, num_records=20000)
    for metric in (ece_equal_width, ece_equal_mass):
        assert (metric(expit(logits), targets) < 0.02).all()
        assert (metric(expit(4 * logits), targets) > 0.04).all()


def test_the_temperature_is_the_inverse_slope_of_a_logistic_regression_without_intercept():
    logits, targets = logistic_sample(7)
    calibrator = fit_temperature(3 * logits, targets)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
    model.fit(3 * logits.reshape(-1, 1), targets.ravel())
    assert calibrator.temperature == pytest.approx(1 / model.coef_[0, 0], rel=1e-6)
    assert calibrator.temperature == pytest.approx(3, rel=0.1)
    assert not calibrator.is_at_limit


def test_at_the_temperature_the_slope_of_the_likelihood_is_zero():
    logits, targets = logistic_sample(8, num_records=300)
    scale = fit_temperature(logits, targets).scale
    assert abs(((expit(scale * logits) - targets) * logits).mean()) < 1e-12


def test_logits_without_an_error_or_without_sense_end_at_a_limit_that_is_named():
    logits, targets = np.array([[2.0], [1.0], [-1.0]]), np.array([[1], [1], [0]])
    perfect, senseless = fit_temperature(logits, targets), fit_temperature(-logits, targets)
    assert (perfect.temperature, perfect.is_at_limit) == (pytest.approx(0.01), True)
    assert (senseless.temperature, senseless.is_at_limit) == (pytest.approx(100), True)


def test_similarities_get_the_scale_and_biases_of_a_general_optimiser():
    logits, targets = logistic_sample(9, num_records=400)
    similarities = 0.2 + 0.01 * logits  # as narrow as cosines are
    calibrator = fit_platt(similarities, targets)
    positives = targets.sum(axis=0)
    smoothed = np.where(targets == 1, (positives + 1) / (positives + 2), 1 / (400 - positives + 2))

    def loss(parameters):
        z = parameters[0] * 100 * (similarities - 0.2) + parameters[1:]
        return (np.logaddexp(0, z) - smoothed * z).mean()

    found = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(calibrator.scale, 100 * found[0], rtol=1e-4)
    np.testing.assert_allclose(calibrator.biases, found[1:] - 100 * found[0] * 0.2, rtol=1e-4)
    assert calibrator.scale == pytest.approx(100, rel=0.2)


def test_biases_of_similarities_do_not_depend_on_their_level_or_unit():
    logits, targets = logistic_sample(10, num_records=400)
    one, other = fit_platt(logits, targets), fit_platt(1e-3 * logits + np.array([5.0, 0.1, -3.0]), targets)
    np.testing.assert_allclose(
        one.probabilities(logits),
        other.probabilities(1e-3 * logits + np.array([5.0, 0.1, -3.0])),
        rtol=1e-6,
    )


def test_a_class_that_validation_lacks_is_rare_and_not_impossible():
    logits, targets = logistic_sample(11, num_records=200)
    targets[:, 1] = 0
    probabilities = fit_platt(logits, targets).probabilities(logits)
    assert probabilities[:, 1].mean() == pytest.approx(1 / 202, rel=1e-6)
    assert (probabilities[:, 1] > 0).all()


def test_similarities_that_rank_the_wrong_way_or_are_constant_give_the_base_rate():
    logits, targets = logistic_sample(12, num_records=200)
    positives = targets.sum(axis=0)
    smoothed = (positives * (positives + 1) / (positives + 2) + (200 - positives) / (200 - positives + 2)) / 200
    for similarities in (-logits, np.full_like(logits, 0.3)):
        calibrator = fit_platt(similarities, targets)
        assert calibrator.scale == 0
        assert calibrator.temperature == float("inf")
        np.testing.assert_allclose(calibrator.probabilities(similarities), np.broadcast_to(smoothed, (200, 3)))


def test_separable_similarities_still_have_a_finite_scale():
    similarities, targets = np.array([[0.3], [0.29], [0.1], [0.12]]), np.array([[1], [1], [0], [0]])
    calibrator = fit_platt(similarities, targets)
    assert np.isfinite(calibrator.scale)
    probabilities = calibrator.probabilities(similarities)[:, 0]
    assert probabilities[:2].mean() == pytest.approx(3 / 4, abs=0.01)
    assert logit(probabilities).max() < 5


def test_calibration_of_logits_helps_on_test_records_and_keeps_every_ranking():
    given = task_scores("logit", factor=3.0)
    calibration = calibrate(given)
    assert calibration.before.shape == calibration.after.shape == (2, 1000, 3)
    values = calibration.per_class()
    for metric in METRICS:
        before, after = (values[f"{metric.__name__}_{when}"] for when in ("before", "after"))
        assert (after < before).all()
        expected = [metric(expit(run.astype(np.float64)), given.targets) for run in given.scores]
        np.testing.assert_allclose(before, np.mean(expected, axis=0))
    assert calibration.calibrators[0].temperature == pytest.approx(3, rel=0.1)
    order = np.argsort(given.scores[1], axis=0)
    assert (np.diff(np.take_along_axis(calibration.after[1], order, axis=0), axis=0) >= 0).all()


def test_pooled_values_are_those_of_all_answers_in_one_column():
    given = task_scores("logit")
    calibration = calibrate(given)
    pooled = calibration.pooled()
    answers = calibration.after.reshape(2, -1)
    expected = np.mean([log_loss(given.targets.ravel(), run) for run in answers])
    assert pooled["pooled_negative_log_likelihood_after"] == pytest.approx(expected)
    assert set(pooled) == {f"pooled_{metric.__name__}_{when}" for metric in METRICS for when in ("before", "after")}
    curves = calibration.reliability(run=1)
    assert curves["after"].counts.sum() == 3000
    assert set(json.loads(json.dumps(calibration.details()))) == {"calibration_scales", "runs_at_temperature_limit"}


def test_similarities_have_no_probabilities_before_calibration():
    given = task_scores("similarity", factor=0.01)
    calibration = calibrate(given)
    assert calibration.before is None
    assert set(calibration.reliability()) == {"after"}
    values = calibration.per_class()
    assert set(values) == {f"{metric.__name__}_after" for metric in METRICS}
    assert (values["ece_equal_mass_after"] < 0.06).all()
    assert calibration.calibrators[0].scale == pytest.approx(100, rel=0.1)


def test_the_bootstrap_can_call_the_metrics():
    given = task_scores("logit")
    calibration = calibrate(given)
    result = bootstrap_intervals(calibration.after, given.targets, None, METRICS, num_resamples=20)
    for metric in METRICS:
        np.testing.assert_allclose(
            result[metric.__name__].values, calibration.per_class()[f"{metric.__name__}_after"], rtol=1e-12
        )
    brier = result["brier_score"].macro()
    assert brier.low < brier.value < brier.high


def test_bad_input_is_refused_with_the_fix():
    with pytest.raises(RecordError, match=r"row 1.*the probability of class 0 is 1.5.*apply a sigmoid"):
        brier_score([[0.5], [1.5]], [[0], [1]])
    with pytest.raises(ValueError, match="num_bins is 0"):
        ece_equal_width([[0.5]], [[1]], num_bins=0)
    given = task_scores("logit")
    with pytest.raises(ValueError, match=r"Calibrations of 'super' come from validation"):
        calibrate(dataclasses.replace(given, validation_scores=None))
    with pytest.raises(ValueError, match=r"kind 'rank' can not be calibrated; known are logit, similarity"):
        calibrate(dataclasses.replace(given, score_kind="rank"))
