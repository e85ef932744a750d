"""The metrics against two libraries that share no code with ours, on random inputs with ties and absent classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics import functional as torchmetrics

from hf_ecgtext.evaluation.statistics.calibration_metrics import brier_score, ece_equal_width
from hf_ecgtext.evaluation.statistics.metrics import auroc, average_precision, macro, top1_accuracy, top1_f1
from hf_ecgtext.evaluation.statistics.thresholds import at_thresholds

NUM_CLASSES = 6
ABSENT, EVERYWHERE = 4, 5
PRESENT = range(4)


def random_inputs(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets of 300 records; nobody has the fifth class, everybody the sixth."""
    rng = np.random.default_rng(seed)
    prevalences = np.array([0.5, 0.2, 0.05, 0.01, 0.0, 1.0])
    targets = (rng.random((300, NUM_CLASSES)) < prevalences).astype(int)
    targets[0, :ABSENT], targets[1, :ABSENT] = 1, 0
    scores = 1 / (1 + np.exp(-rng.normal(size=targets.shape) - targets))
    if kind == "ties":
        scores = np.round(scores * 8) / 8
    if kind == "constant":
        scores[:] = 0.5
    return scores.astype(np.float32), targets


INPUTS = [(seed, kind) for kind in ("continuous", "ties", "constant") for seed in range(4)]


@pytest.mark.parametrize(("seed", "kind"), INPUTS)
def test_ranking_metrics_equal_both_libraries(seed, kind):
    scores, targets = random_inputs(seed, kind)
    tensors = torch.from_numpy(scores.astype(np.float64)), torch.from_numpy(targets)
    ours = {auroc: auroc(scores, targets), average_precision: average_precision(scores, targets)}
    theirs = {
        auroc: (sklearn_metrics.roc_auc_score, torchmetrics.classification.binary_auroc),
        average_precision: (
            sklearn_metrics.average_precision_score,
            torchmetrics.classification.binary_average_precision,
        ),
    }
    for metric, (of_sklearn, of_torchmetrics) in theirs.items():
        for index in PRESENT:
            assert ours[metric][index] == pytest.approx(of_sklearn(targets[:, index], scores[:, index]), rel=1e-12)
            value = of_torchmetrics(tensors[0][:, index], tensors[1][:, index]).item()
            assert ours[metric][index] == pytest.approx(value, rel=1e-5)  # torchmetrics sums in float32
        assert np.isnan(ours[metric][[ABSENT, EVERYWHERE]]).all()


@pytest.mark.parametrize(("seed", "kind"), INPUTS)
def test_the_macro_mean_equals_both_libraries_over_the_classes_that_have_a_value(seed, kind):
    scores, targets = random_inputs(seed, kind)
    columns = list(PRESENT)
    expected = sklearn_metrics.roc_auc_score(targets[:, columns], scores[:, columns], average="macro")
    assert macro(auroc(scores, targets)) == pytest.approx(expected, rel=1e-12)
    of_torchmetrics = torchmetrics.classification.multilabel_auroc(
        torch.from_numpy(scores[:, columns].astype(np.float64)), torch.from_numpy(targets[:, columns]), len(columns)
    )
    assert macro(auroc(scores, targets)) == pytest.approx(of_torchmetrics.item(), rel=1e-5)


@pytest.mark.parametrize(("seed", "kind"), INPUTS)
def test_metrics_at_a_threshold_equal_both_libraries(seed, kind):
    scores, targets = random_inputs(seed, kind)
    thresholds = np.array([0.3, 0.5, 0.625, 0.75, 0.5, 0.5])  # two of them are among the tied scores
    decided = scores >= thresholds
    theirs = {
        "f1": (sklearn_metrics.f1_score, torchmetrics.classification.binary_f1_score),
        "sensitivity": (sklearn_metrics.recall_score, torchmetrics.classification.binary_recall),
        "specificity": (
            lambda truth, answers, zero_division: sklearn_metrics.recall_score(truth, answers, pos_label=0),
            torchmetrics.classification.binary_specificity,
        ),
        "precision": (sklearn_metrics.precision_score, torchmetrics.classification.binary_precision),
        "accuracy": (
            lambda truth, answers, zero_division: sklearn_metrics.accuracy_score(truth, answers),
            torchmetrics.classification.binary_accuracy,
        ),
    }
    for name, (of_sklearn, of_torchmetrics) in theirs.items():
        values = at_thresholds(thresholds, name)(scores, targets)
        for index in PRESENT:
            if name == "precision" and not decided[:, index].any():
                assert np.isnan(values[index])
                continue
            expected = of_sklearn(targets[:, index], decided[:, index], zero_division=0)
            assert values[index] == pytest.approx(expected, rel=1e-12)
            answers = torch.from_numpy(decided[:, index].astype(int))
            expected = of_torchmetrics(answers, torch.from_numpy(targets[:, index])).item()
            assert values[index] == pytest.approx(expected, rel=1e-5)
        assert np.isnan(values[[ABSENT, EVERYWHERE]]).all()


@pytest.mark.parametrize("seed", range(4))
def test_arg_max_metrics_equal_both_libraries(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 200)  # the fifth class is absent
    scores = rng.random((200, 5)).astype(np.float32)
    targets = np.eye(5, dtype=int)[labels]
    predicted = scores.argmax(axis=1)
    assert top1_accuracy(scores, targets) == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    value = torchmetrics.classification.multiclass_accuracy(
        torch.from_numpy(scores), torch.from_numpy(labels), num_classes=5, average="micro"
    )
    assert top1_accuracy(scores, targets) == pytest.approx(value.item(), rel=1e-5)
    f1 = top1_f1(scores, targets)
    expected = sklearn_metrics.f1_score(labels, predicted, labels=range(5), average=None, zero_division=0)
    np.testing.assert_allclose(f1[:4], expected[:4], rtol=1e-12)
    of_torchmetrics = torchmetrics.classification.multiclass_f1_score(
        torch.from_numpy(scores), torch.from_numpy(labels), num_classes=5, average="none"
    )
    np.testing.assert_allclose(f1[:4], of_torchmetrics[:4].numpy(), rtol=1e-5)
    assert np.isnan(f1[4])


@pytest.mark.parametrize(("seed", "kind"), INPUTS)
def test_brier_score_and_calibration_error_equal_the_libraries(seed, kind):
    probabilities, targets = random_inputs(seed, kind)
    brier, errors = brier_score(probabilities, targets), ece_equal_width(probabilities, targets, num_bins=8)
    for index in range(NUM_CLASSES):
        answers, truth = probabilities[:, index].astype(np.float64), targets[:, index]
        expected = sklearn_metrics.brier_score_loss(truth, answers, labels=[0, 1], pos_label=1)
        assert brier[index] == pytest.approx(expected, rel=1e-12)
        expected = torchmetrics.classification.binary_calibration_error(
            torch.from_numpy(answers), torch.from_numpy(truth), n_bins=8, norm="l1"
        )
        assert errors[index] == pytest.approx(expected.item(), abs=1e-6)
