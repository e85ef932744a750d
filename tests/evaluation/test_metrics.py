from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics import metrics as metrics_module
from hf_ecgtext.evaluation.statistics.metrics import (
    auroc,
    average_precision,
    macro,
    single_label_records,
    top1_accuracy,
    top1_class_accuracy,
    top1_f1,
)

REFERENCES = {auroc: roc_auc_score, average_precision: average_precision_score}


def tied_sample(seed: int, num_records: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties and four classes; the third has no positives, the fourth no negatives."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_records, 4)) < (0.5, 0.1, 0.0, 1.0)).astype(int)
    targets[0, :2], targets[1, :2] = 1, 0
    return rng.integers(0, 8, (num_records, 4)) / 8 + 0.25 * targets, targets


@pytest.mark.parametrize("metric", REFERENCES)
@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_with_ties_and_is_nan_for_absent_classes(metric, seed):
    scores, targets = tied_sample(seed)
    values = metric(scores, targets)
    expected = [REFERENCES[metric](targets[:, index], scores[:, index]) for index in range(2)]
    np.testing.assert_allclose(values[:2], expected, rtol=1e-13)
    assert np.isnan(values[2:]).all()


@pytest.mark.parametrize("metric", REFERENCES)
def test_equals_scikit_learn_without_ties_in_float32(metric):
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(500, 3)).astype(np.float32), rng.random((500, 3)) < 0.2
    expected = [REFERENCES[metric](targets[:, index], scores[:, index]) for index in range(3)]
    np.testing.assert_allclose(metric(scores, targets), expected, rtol=1e-13)


def test_auroc_of_perfect_reversed_and_constant_scores_is_1_0_and_one_half():
    targets = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    scores = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [3.0, 1.0, 2.0]])
    assert auroc(scores, targets).tolist() == [1.0, 0.0, 0.5]


def test_average_precision_of_constant_scores_is_the_prevalence():
    targets = np.array([[0], [1], [0], [0]])
    assert average_precision(np.zeros((4, 1)), targets).tolist() == [0.25]


@pytest.mark.parametrize("metric", REFERENCES)
def test_weights_equal_repeated_rows(metric):
    scores, targets = tied_sample(7)
    weights = np.random.default_rng(8).integers(0, 4, len(scores))
    rows = np.repeat(np.arange(len(scores)), weights)
    np.testing.assert_allclose(metric(scores, targets, weights), metric(scores[rows], targets[rows]), rtol=1e-13)


@pytest.mark.parametrize("metric", [*REFERENCES, top1_accuracy, top1_class_accuracy, top1_f1])
def test_many_resamples_at_once_equal_one_at_a_time_whatever_the_block_size(metric, monkeypatch):
    scores, targets = tied_sample(9)
    targets = np.eye(4, dtype=int)[targets[:, 0]]
    weights = np.random.default_rng(10).integers(0, 3, (7, len(scores)))
    expected = np.stack([metric(scores, targets, row) for row in weights])
    np.testing.assert_allclose(metric(scores, targets, weights), expected, rtol=1e-13)
    monkeypatch.setattr(metrics_module, "_BLOCK_ELEMENTS", 2 * len(scores))
    np.testing.assert_allclose(metric(scores, targets, weights), expected, rtol=1e-13)


@pytest.mark.parametrize("metric", REFERENCES)
def test_a_resample_without_positives_or_without_negatives_is_nan(metric):
    scores, targets = np.array([[1.0], [2.0], [3.0]]), np.array([[0], [1], [0]])
    values = metric(scores, targets, np.array([[1, 0, 1], [0, 2, 0], [0, 0, 0], [1, 1, 1]]))
    assert np.isnan(values[:3]).all()
    assert not np.isnan(values[3]).any()


@pytest.mark.parametrize("metric", REFERENCES)
def test_order_of_records_and_a_monotone_scale_change_nothing(metric):
    scores, targets = tied_sample(11)
    order = np.random.default_rng(12).permutation(len(scores))
    np.testing.assert_array_equal(metric(np.exp(scores[order]), targets[order]), metric(scores, targets))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused_by_row_and_class(bad):
    scores, targets = tied_sample(0)
    scores[5, 2] = bad
    with pytest.raises(RecordError, match=rf"'row 5': the score of class 2 is {bad}"):
        auroc(scores, targets)


@pytest.mark.parametrize(
    ("scores", "targets", "weights", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), None, r"\(3, 2\) and targets \(3, 1\)"),
        (np.zeros(3), np.zeros(3), None, "must be"),
        (np.zeros((0, 2)), np.zeros((0, 2)), None, "no record"),
        (np.zeros((2, 1)), np.array([[0], [2]]), None, "row 1, class 0 is 2"),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.ones(3, int), r"expected \(2,\)"),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.array([0.5, 1.0]), "use integers"),
        (np.zeros((2, 1)), np.zeros((2, 1)), np.array([-1, 1]), "not be negative"),
    ],
)
def test_inputs_of_the_wrong_shape_or_kind_are_refused(scores, targets, weights, message):
    with pytest.raises(ValueError, match=message):
        auroc(scores, targets, weights)


def test_macro_averages_the_defined_classes_and_can_leave_out_rare_ones():
    values, num_positives = np.array([0.5, np.nan, 0.9, 0.1]), np.array([50, 0, 20, 19])
    assert macro(values) == pytest.approx(0.5)
    assert macro(values, num_positives, min_positives=20) == pytest.approx(0.7)
    assert np.isnan(macro(values, num_positives, min_positives=51))
    np.testing.assert_allclose(macro(np.array([[1.0, np.nan], [0.5, 0.0]])), [1.0, 0.25])
    with pytest.raises(ValueError, match="needs num_positives"):
        macro(values, min_positives=20)


def test_arg_max_metrics_equal_scikit_learn_and_are_nan_for_absent_classes():
    rng = np.random.default_rng(13)
    labels = rng.integers(0, 3, 60)  # the fourth class is absent
    targets = np.eye(4, dtype=int)[labels]
    scores = rng.normal(size=(60, 4)) + targets
    predicted = scores.argmax(axis=1)
    assert top1_accuracy(scores, targets) == pytest.approx(accuracy_score(labels, predicted))
    np.testing.assert_allclose(top1_f1(scores, targets)[:3], f1_score(labels, predicted, average=None)[:3])
    expected = [accuracy_score(labels == index, predicted == index) for index in range(3)]
    np.testing.assert_allclose(top1_class_accuracy(scores, targets)[:3], expected)
    assert np.isnan(top1_f1(scores, targets)[3])
    assert np.isnan(top1_class_accuracy(scores, targets)[3])


def test_arg_max_metrics_refuse_records_with_two_labels_and_say_how_to_select():
    targets = np.array([[1, 0], [1, 1], [0, 0]])
    assert single_label_records(targets).tolist() == [True, False, False]
    with pytest.raises(RecordError, match=r"'row 1': has 2 positive classes.*single_label_records"):
        top1_accuracy(np.zeros((3, 2)), targets)
