from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.thresholds import (
    TaskThresholds,
    at_thresholds,
    max_f1_thresholds,
    task_thresholds,
    youden_thresholds,
)

NAMES = ("f1", "sensitivity", "specificity", "precision", "accuracy")


def tied_sample(seed: int, num_records: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties and three classes of other frequencies."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_records, 3)) < (0.5, 0.2, 0.05)).astype(int)
    targets[0], targets[1] = 1, 0
    return (rng.integers(0, 9, targets.shape) / 8 + 0.3 * targets).astype(np.float32), targets


def task_scores(scores: np.ndarray, targets: np.ndarray, **changes) -> TaskScores:
    """Two runs, the second with other scores; validation is the same records in reverse."""
    runs = np.stack([scores, 0.5 * scores**2 - 1]).astype(np.float32)
    fields = {
        "evaluation": "linear_probe",
        "task": "rhythm",
        "protocol": "strict",
        "checkpoint": "merl",
        "encoder": "trained",
        "class_names": tuple("abcdef"[: targets.shape[1]]),
        "record_ids": tuple(f"{row:04d}" for row in range(len(targets))),
        "targets": targets.astype(np.int8),
        "patients": None,
        "scores": runs,
        "data": {"name": "x", "revision": "1", "split": "test"},
        "validation_targets": targets[::-1].astype(np.int8),
        "validation_scores": runs[:, ::-1] - 1,
    }
    return TaskScores(**(fields | changes))


@pytest.mark.parametrize("seed", range(5))
def test_the_f1_threshold_is_the_best_point_of_scikit_learns_precision_recall_curve(seed):
    scores, targets = tied_sample(seed)
    thresholds = max_f1_thresholds(scores, targets)
    values = at_thresholds(thresholds, "f1")(scores, targets)
    for index in range(3):
        precision, recall, limits = oracle.precision_recall_curve(targets[:, index], scores[:, index])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        assert values[index] == pytest.approx(f1.max(), rel=1e-12)
        assert f1[np.flatnonzero(limits == np.float32(thresholds[index]))[0]] == pytest.approx(f1.max(), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_equal_a_search_over_all_scores_one_by_one(seed):
    scores, targets = tied_sample(seed)
    for index in range(3):
        truth = targets[:, index]
        candidates = sorted(set(scores[:, index].tolist()))  # ascending: the first of equals is the lowest
        f1 = [oracle.f1_score(truth, scores[:, index] >= limit) for limit in candidates]
        youden = [oracle.balanced_accuracy_score(truth, scores[:, index] >= limit) for limit in candidates]
        assert max_f1_thresholds(scores, targets)[index] == candidates[int(np.argmax(np.round(f1, 12)))]
        assert youden_thresholds(scores, targets)[index] == candidates[int(np.argmax(np.round(youden, 12)))]


def test_of_equally_good_thresholds_the_lowest_is_taken():
    # At 3: one of one is right, F1 = 2/3. At 1: two of four, F1 = 4/6.
    scores, targets = np.array([[3.0], [2.0], [1.5], [1.0], [0.0]]), np.array([[1], [0], [0], [1], [0]])
    assert at_thresholds([3.0], "f1")(scores, targets) == at_thresholds([1.0], "f1")(scores, targets)
    assert max_f1_thresholds(scores, targets).tolist() == [1.0]


def test_a_class_without_positives_has_no_threshold_and_no_value():
    scores, targets = tied_sample(0)
    targets[:, 1] = 0
    thresholds = max_f1_thresholds(scores, targets)
    assert np.isnan(thresholds).tolist() == [False, True, False]
    targets[:, 2] = 1
    assert np.isnan(youden_thresholds(scores, targets)).tolist() == [False, True, True]
    test_scores, test_targets = tied_sample(1)
    for name in NAMES:
        assert np.isnan(at_thresholds(thresholds, name)(test_scores, test_targets)).tolist() == [False, True, False]


@pytest.mark.parametrize("name", NAMES)
def test_metrics_equal_scikit_learn(name):
    scores, targets = tied_sample(2)
    thresholds = max_f1_thresholds(*tied_sample(3))
    decided = scores >= thresholds
    references = {
        "f1": oracle.f1_score,
        "sensitivity": oracle.recall_score,
        "specificity": lambda truth, answer: oracle.recall_score(truth, answer, pos_label=0),
        "precision": oracle.precision_score,
        "accuracy": oracle.accuracy_score,
    }
    metric = at_thresholds(thresholds, name)
    assert metric.__name__ == name
    expected = [references[name](targets[:, index], decided[:, index]) for index in range(3)]
    np.testing.assert_allclose(metric(scores, targets), expected, rtol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_weights_equal_repeated_rows_alone_and_together(name):
    scores, targets = tied_sample(4)
    metric = at_thresholds([0.9, 0.8, 0.7], name)
    weights = np.random.default_rng(5).integers(0, 4, (3, len(scores)))
    rows = [np.repeat(np.arange(len(scores)), row) for row in weights]
    expected = np.stack([metric(scores[row], targets[row]) for row in rows])
    np.testing.assert_allclose(metric(scores, targets, weights), expected, rtol=1e-13)
    np.testing.assert_allclose(metric(scores, targets, weights[0]), expected[0], rtol=1e-13)


def test_a_class_without_positives_or_without_negatives_has_no_value():
    scores, targets = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[0, 1], [0, 1]])
    for name in NAMES:
        assert np.isnan(at_thresholds([0.5, 0.5], name)(scores, targets)).all()


def test_precision_is_undefined_where_nothing_is_called_positive_and_f1_is_zero():
    scores, targets = np.zeros((3, 1)), np.array([[1], [0], [0]])
    assert np.isnan(at_thresholds([0.5], "precision")(scores, targets)).all()
    assert at_thresholds([0.5], "f1")(scores, targets).tolist() == [0.0]


def test_the_strict_inequality_loses_the_record_at_the_threshold():
    scores, targets = np.array([[0.9], [0.7], [0.2], [0.1]]), np.array([[1], [1], [0], [0]])
    thresholds = max_f1_thresholds(scores, targets)
    assert thresholds.tolist() == [0.7]
    assert at_thresholds(thresholds, "accuracy")(scores, targets).tolist() == [1.0]
    assert at_thresholds(thresholds, "accuracy", strict_inequality=True)(scores, targets).tolist() == [0.75]


def test_every_run_has_its_own_threshold_from_validation_and_margins_share_one_metric():
    scores, targets = tied_sample(6)
    given = task_scores(scores, targets)
    thresholds = task_thresholds(given, "validation")
    assert thresholds.values.shape == (2, 3)
    assert thresholds.classes_without == ()
    intervals = bootstrap_intervals(
        thresholds.margins(given.scores), targets, None, thresholds.metrics(["f1", "accuracy"]), num_resamples=20
    )
    for name, reference in (("f1", oracle.f1_score), ("accuracy", oracle.accuracy_score)):
        expected = [
            [reference(targets[:, index], run[:, index] >= limits[index]) for index in range(3)]
            for run, limits in zip(given.scores, thresholds.values, strict=True)
        ]
        np.testing.assert_allclose(intervals[name].values, np.mean(expected, axis=0), rtol=1e-12)
        assert intervals[name].resamples.shape == (2, 20, 3)


def test_a_margin_keeps_every_decision_exactly():
    rng = np.random.default_rng(7)
    scores = np.concatenate([rng.normal(size=(2, 50, 3)), 1e-30 * rng.normal(size=(2, 50, 3))], axis=1)
    scores = scores.astype(np.float32)
    for row in range(100):
        limits = scores[:, row].astype(np.float64)
        margins = TaskThresholds(limits, "validation", ()).margins(scores)
        np.testing.assert_array_equal(margins >= 0, scores >= limits[:, None])
        np.testing.assert_array_equal(margins > 0, scores > limits[:, None])


def test_thresholds_from_the_test_split_are_never_below_those_from_validation_there():
    scores, targets = tied_sample(8)
    given = task_scores(scores, targets, validation_scores=np.stack([tied_sample(9)[0]] * 2))
    best, honest = (task_thresholds(given, split) for split in ("test", "validation"))
    (f1,) = best.metrics(["f1"])
    for run in range(2):
        assert (f1(best.margins(given.scores)[run], targets) >= f1(honest.margins(given.scores)[run], targets)).all()
    assert best.details(given.class_names)["thresholds_from"] == "test"


def test_the_accuracy_of_thresholds_from_the_test_split_is_the_published_one():
    scores, targets = np.array([[0.9], [0.7], [0.2], [0.1]]), np.array([[1], [1], [0], [0]])
    given = task_scores(scores, targets)
    thresholds = task_thresholds(given, "test")
    f1, accuracy = thresholds.metrics(["f1", "accuracy"])
    for margins in thresholds.margins(given.scores):
        assert (f1(margins, targets)[0], accuracy(margins, targets)[0]) == (1.0, 0.75)


def test_a_class_that_validation_lacks_is_named_and_has_no_value():
    scores, targets = tied_sample(10)
    validation = targets.copy()
    validation[:, 1] = 0
    given = task_scores(scores, targets, validation_targets=validation)
    thresholds = task_thresholds(given, "validation")
    details = thresholds.details(given.class_names)
    assert details["classes_without_threshold"] == ["b"]
    assert set(details["thresholds"]) == {"a", "c"}
    values = thresholds.metrics(["f1"])[0](thresholds.margins(given.scores)[0], targets)
    assert np.isnan(values).tolist() == [False, True, False]


def test_missing_validation_scores_wrong_shapes_and_unknown_metrics_are_refused():
    scores, targets = tied_sample(11)
    with pytest.raises(ValueError, match=r"Thresholds of 'rhythm' come from validation, but the scores of 'merl'"):
        task_thresholds(task_scores(scores, targets, validation_scores=None), "validation")
    with pytest.raises(ValueError, match=r"\(2,\) thresholds for 3 classes"):
        at_thresholds([0.1, 0.2], "f1")(scores, targets)
    with pytest.raises(ValueError, match=r"no threshold metric 'auc'; choose one of f1"):
        at_thresholds([0.1], "auc")
    scores[3, 1] = np.nan
    with pytest.raises(RecordError, match="row 3"):
        max_f1_thresholds(scores, targets)
