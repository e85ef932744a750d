"""Logistic regressions of all classes at once: scikit-learn's solutions, closed forms, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from hf_ecgtext.evaluation.statistics.logistic_regression import (
    L2_PENALTIES,
    NotConvergedError,
    fit_logistic_regressions,
    fit_probe,
    fit_probe_within,
)
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro


def problem(num_records, dim, num_classes, seed=0):
    """Correlated features of many scales, and classes from frequent to rare that they partly explain."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_records, dim)) * np.geomspace(3, 0.1, dim) @ rng.normal(size=(dim, dim)) + 5
    z = (features - features.mean(0)) @ rng.normal(size=(dim, num_classes))
    z = z / z.std(0) + rng.logistic(size=z.shape) / 2
    counts = np.geomspace(0.4 * num_records, 2, num_classes).astype(int)
    ranks = (-z).argsort(axis=0).argsort(axis=0)
    return features.astype(np.float32), (ranks < counts).astype(np.int8)


def standardised(features):
    features = features.astype(np.float64)
    return (features - features.mean(0)) / features.std(0)


@pytest.mark.parametrize(("num_records", "dim"), [(300, 20), (40, 60)])
def test_solutions_are_scikit_learns(num_records, dim):
    from sklearn.linear_model import LogisticRegression

    features, targets = problem(num_records, dim, 4)
    l2_penalties = (0.1, 10.0, 1000.0)
    ours = fit_logistic_regressions(features, targets, l2_penalties, tolerance=1e-10)
    for place, l2_penalty in enumerate(l2_penalties):
        for column in range(4):
            theirs = LogisticRegression(C=1 / l2_penalty, tol=1e-12, max_iter=20000)
            theirs.fit(standardised(features), targets[:, column])
            # The gradient of lbfgs stays above its rounding error; with weaker penalties its solution is less exact.
            np.testing.assert_allclose(ours.weights[place, column], theirs.coef_[0], atol=2e-5, rtol=1e-5)
            np.testing.assert_allclose(ours.intercepts[place, column], theirs.intercept_[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("num_records", "dim"), [(200, 15), (25, 40)])
def test_the_gradient_of_every_class_and_penalty_is_zero(num_records, dim):
    features, targets = problem(num_records, dim, 6)
    x = standardised(features)
    fit = fit_logistic_regressions(features, targets)
    reference = np.linalg.norm(x.T @ (targets - targets.mean(0)), axis=0)
    for place, l2_penalty in enumerate(L2_PENALTIES):
        excess = expit(x @ fit.weights[place].T + fit.intercepts[place]) - targets
        gradient = x.T @ excess + l2_penalty * fit.weights[place].T
        assert (np.linalg.norm(gradient, axis=0) < 1e-7 * reference).all()
        assert (np.abs(excess.sum(0)) < 1e-7 * reference).all()  # of the intercept, which has no penalty


@pytest.mark.parametrize("l2_penalty", [1e-6, 0.1, 10.0, 1e4])
def test_a_feature_that_is_the_answer_has_the_weight_of_the_closed_form(l2_penalty):
    # n records with x = y = -1 or 1: l2_penalty * w = n * sigmoid(-w), and no intercept.
    num_records = 12
    features = np.repeat([[-1.0], [1.0]], num_records // 2, axis=0)
    fit = fit_logistic_regressions(features, features > 0, [l2_penalty], tolerance=1e-13)
    expected = brentq(lambda w: l2_penalty * w - num_records * expit(-w), 0, 50, xtol=1e-14)
    np.testing.assert_allclose(fit.weights[0, 0, 0], expected, rtol=1e-8)
    np.testing.assert_allclose(fit.intercepts, 0, atol=1e-8)


def test_under_a_very_strong_penalty_weights_are_the_difference_from_the_base_rate():
    features, targets = problem(100, 10, 3)
    l2_penalty = 1e9
    fit = fit_logistic_regressions(features, targets, [l2_penalty])
    expected = standardised(features).T @ (targets - targets.mean(0)) / l2_penalty
    np.testing.assert_allclose(fit.weights[0], expected.T, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(expit(fit.intercepts[0]), targets.mean(0), rtol=1e-6)


def test_a_single_positive_that_can_be_separated_converges():
    from sklearn.linear_model import LogisticRegression

    features = np.random.default_rng(0).normal(size=(400, 50))
    targets = np.zeros((400, 1), dtype=int)
    targets[7] = 1
    fit = fit_logistic_regressions(features, targets, (1e-3, 1.0), tolerance=1e-10)
    theirs = LogisticRegression(C=1e3, tol=1e-10, max_iter=5000, solver="newton-cholesky")
    theirs.fit(standardised(features), targets[:, 0])
    np.testing.assert_allclose(fit.weights[0, 0], theirs.coef_[0], rtol=1e-4, atol=1e-6)
    assert auroc(fit.scores(features)[0], targets)[0] == 1.0


def test_the_order_of_classes_records_and_features_does_not_matter():
    features, targets = problem(150, 12, 5)
    rng = np.random.default_rng(1)
    records, classes, columns = rng.permutation(150), rng.permutation(5), rng.permutation(12)
    plain = fit_logistic_regressions(features, targets)
    moved = fit_logistic_regressions(features[records][:, columns], targets[records][:, classes])
    expected = plain.scores(features)
    found = moved.scores(features[:, columns])[:, :, np.argsort(classes)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_other_classes_and_penalties_do_not_change_a_solution():
    features, targets = problem(150, 12, 5)
    alone = fit_logistic_regressions(features, targets[:, [2]], [10.0])
    together = fit_logistic_regressions(features, targets)
    np.testing.assert_allclose(together.weights[L2_PENALTIES.index(10.0), 2], alone.weights[0, 0], atol=1e-6)


def test_unit_and_offset_of_a_feature_do_not_matter():
    features, targets = problem(120, 8, 3)
    features = features.astype(np.float64)
    changed = features * np.geomspace(1e-3, 1e3, 8) + np.arange(8)
    plain, other = (fit_logistic_regressions(each, targets).scores(each) for each in (features, changed))
    np.testing.assert_allclose(other, plain, rtol=1e-5, atol=1e-6)


def test_a_class_without_positives_or_without_negatives_scores_its_share_and_leaves_the_others_alone():
    features, targets = problem(60, 6, 4)
    without = targets.copy()
    without[:, 1], without[:, 3] = 0, 1
    fit, complete = fit_logistic_regressions(features, without), fit_logistic_regressions(features, targets)
    assert fit.undefined.tolist() == [False, True, False, True]
    for column, share in ((1, 0.5 / 61), (3, 60.5 / 61)):  # of 60 records and half a one of each kind
        np.testing.assert_allclose(fit.scores(features)[:, :, column], np.log(share / (1 - share)))
    np.testing.assert_allclose(fit.weights[:, [0, 2]], complete.weights[:, [0, 2]], atol=1e-6)
    assert (auroc(fit.scores(features)[0], targets)[[1, 3]] == 0.5).all()
    nothing = fit_logistic_regressions(features, np.zeros((60, 2))).scores(features)
    np.testing.assert_allclose(nothing, np.log(0.5 / 60.5))


def test_a_constant_feature_has_no_effect():
    features, targets = problem(50, 5, 2)
    # The mean of many 0.1 is not 0.1, so that the standard deviation is not 0 but 1e-17.
    constant = np.concatenate([features.astype(np.float64), np.full((50, 1), 0.1)], axis=1)
    fit = fit_logistic_regressions(constant, targets)
    assert (np.abs(fit.weights[:, :, -1]) < 1e-8).all()
    np.testing.assert_allclose(fit.weights[:, :, :-1], fit_logistic_regressions(features, targets).weights, atol=1e-6)


def test_without_any_information_the_answer_is_the_base_rate():
    targets = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])
    fit = fit_logistic_regressions(np.full((4, 3), 0.7), targets)
    np.testing.assert_allclose(expit(fit.scores(np.ones((2, 3)))), np.tile([0.75, 0.25], (len(L2_PENALTIES), 2, 1)))


@pytest.mark.parametrize(
    ("features", "targets", "l2_penalties", "message"),
    [
        ([[1.0], [np.nan]], [[0], [1]], [1.0], "Feature 0 of row 1 is nan"),
        ([[1.0], [2.0]], [[0], [2]], [1.0], "Target of row 1, class 0 is 2"),
        ([[1.0], [2.0]], [[0]], [1.0], "same records"),
        ([[1.0], [2.0]], [[0], [1]], [0.0], "positive"),
        ([[1.0], [2.0]], [[0], [1]], [], "positive"),
    ],
)
def test_bad_input_is_named(features, targets, l2_penalties, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic_regressions(features, targets, l2_penalties)


def test_a_class_that_has_not_converged_is_named():
    features, targets = problem(100, 10, 2)
    with pytest.raises(NotConvergedError, match=r"class MI with L2 penalty 0\.1 has not converged after 1 Newton"):
        fit_logistic_regressions(features, targets, [0.1], labels=["MI", "CD"], max_iterations=1)


def test_the_penalty_is_the_best_on_other_records():
    features, targets = problem(400, 30, 5)
    learn, choose = slice(0, 60), slice(60, None)
    probe = fit_probe(features[learn], targets[learn], features[choose], targets[choose])
    path = fit_logistic_regressions(features[learn], targets[learn])
    values = [macro(auroc(scores, targets[choose])) for scores in path.scores(features[choose])]
    assert len({round(value, 6) for value in values}) > 3
    assert probe.l2_penalty == L2_PENALTIES[int(np.argmax(values))]
    assert probe.selection_auroc == pytest.approx(max(values), abs=1e-12)
    expected = path.scores(features)[int(np.argmax(values))]
    np.testing.assert_allclose(probe.scores(features), expected, rtol=1e-5, atol=1e-6)
    assert probe.scores(features).dtype == np.float32


def test_of_equally_good_penalties_the_strongest_is_taken():
    # One feature ranks the records in the same way whatever its weight.
    features, targets = problem(50, 1, 1)
    assert fit_probe(features, targets, features, targets).l2_penalty == max(L2_PENALTIES)
    assert fit_probe(features, targets, features, targets, l2_penalties=(3.0, 7.0, 5.0)).l2_penalty == 7.0


def test_nothing_to_choose_by_is_an_error():
    features, targets = problem(50, 3, 2)
    with pytest.raises(ValueError, match="larger validation split"):
        fit_probe(features, targets, features[:5], np.ones((5, 2)))


def test_the_choice_within_the_draw_equals_cross_validation_by_hand():
    features, targets = problem(90, 6, 3, seed=5)
    folds = np.arange(90) % 4
    penalties = (0.01, 1.0, 10.0, 100.0)
    wins, pairs = np.zeros((4, 3)), np.zeros(3)
    for fold in range(4):
        out = folds == fold
        scores = fit_logistic_regressions(features[~out], targets[~out], penalties).scores(features[out])
        for label in range(3):
            is_positive = targets[out][:, label] == 1
            ahead = scores[:, is_positive, label][:, :, None] - scores[:, ~is_positive, label][:, None, :]
            wins[:, label] += (ahead > 0).sum(axis=(1, 2))
            pairs[label] += is_positive.sum() * (~is_positive).sum()
    values = (wins / pairs).mean(axis=1)
    probe = fit_probe_within(features, targets, folds, l2_penalties=penalties)
    assert probe.l2_penalty == penalties[int(np.argmax(values))]
    assert probe.selection_auroc == pytest.approx(values.max())
    whole = fit_logistic_regressions(features, targets, [probe.l2_penalty])
    np.testing.assert_allclose(probe.weights, whole.weights[0], atol=1e-6)


def test_where_no_class_can_guide_the_choice_the_strongest_penalty_is_taken():
    features = np.random.default_rng(0).normal(size=(10, 3))
    targets = np.eye(10, 2, dtype=int)  # one positive each: in no fold are there positives both in and out
    probe = fit_probe_within(features, targets, np.arange(10) % 5)
    assert (probe.l2_penalty, probe.grid_end) == (max(L2_PENALTIES), "strongest")
    assert np.isnan(probe.selection_auroc)


def test_a_penalty_at_an_end_of_the_grid_says_so():
    features, targets = problem(60, 4, 2, seed=1)
    ends = {
        penalties: fit_probe(features, targets, features, targets, l2_penalties=penalties).grid_end
        for penalties in ((1e5, 1e6), (1e-3,))
    }
    assert ends == {(1e5, 1e6): "strongest", (1e-3,): None}
