"""Result lines from scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score, roc_auc_score

from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.harness.summary import difference_results, task_results


def scores(runs: int = 3, strength: float = 1.0, **changes) -> TaskScores:
    rng = np.random.default_rng(0)
    targets = (rng.random((80, 3)) < (0.4, 0.5, 0.1)).astype(np.int8)
    noise = rng.standard_normal((runs, 80, 3)).astype(np.float32)
    fields = {
        "evaluation": "linear_probe",
        "task": "rhythm",
        "protocol": "strict",
        "checkpoint": "model",
        "encoder": "trained",
        "class_names": ("a", "b", "c"),
        "record_ids": tuple(f"r{number:02d}" for number in range(80)),
        "targets": targets,
        "patients": np.array([f"p{number // 2}" for number in range(80)], dtype=object),
        "scores": strength * targets + noise,
        "data": {"name": "toy", "revision": "1", "split": "test"},
        "settings": {"fraction": 0.1},
        "details": {"draws": runs},
    }
    return TaskScores(**(fields | changes))


def named(results, metric, min_positives=1):
    (found,) = [line for line in results if (line.metric, line.min_positives) == (metric, min_positives)]
    return found


def test_a_value_is_the_mean_over_runs_and_the_spread_their_standard_deviation():
    answers = scores()
    line = named(task_results(answers, STRICT, num_resamples=30), "auroc", 5)
    per_run = [roc_auc_score(answers.targets, run, average="macro") for run in answers.scores]
    assert line.value == pytest.approx(np.mean(per_run))
    assert line.spread == pytest.approx(np.std(per_run, ddof=1))
    assert line.settings == {"fraction": 0.1}
    assert line.run_values == pytest.approx(per_run)
    assert line.num_resamples == 30
    assert line.prediction_for == "draw"
    low, high = line.prediction_interval
    assert low < line.confidence_interval[0]
    assert high > line.confidence_interval[1]


def test_one_run_has_no_spread_and_all_resamples():
    answers = scores(runs=1)
    line = named(task_results(answers, STRICT, num_resamples=200, seed=3), "auroc", 5)
    expected = bootstrap_intervals(
        answers.scores, answers.targets, answers.patients.tolist(), num_resamples=200, seed=3
    )
    assert line.spread is None
    assert line.confidence_interval == pytest.approx(expected["auroc"].macro()[1:])


def test_macro_means_over_frequent_classes_leave_the_rare_ones_out():
    answers = scores(runs=1)
    rare = answers.targets.sum(axis=0) < 20
    assert rare.tolist() == [False, False, True]
    lines = task_results(answers, STRICT, num_resamples=100)
    every, frequent = named(lines, "auroc"), named(lines, "auroc", 20)
    assert every.value == pytest.approx(np.mean(list(every.per_class.values())))
    assert frequent.value == pytest.approx(np.mean([every.per_class["a"], every.per_class["b"]]))


def test_a_difference_is_paired_and_names_both():
    better, worse = scores(strength=2.0), scores(strength=0.5, checkpoint="other", contamination="unknown")
    line = named(difference_results(better, worse, STRICT, num_resamples=100), "auroc")
    values = [np.mean([roc_auc_score(own.targets, run) for run in own.scores]) for own in (better, worse)]
    assert line.value == pytest.approx(values[0] - values[1])
    assert line.confidence_interval[0] > 0
    assert (line.checkpoint, line.compared_with) == ("model", "other")
    assert line.contamination == "not checked; 'other': unknown"


def test_equal_scores_differ_by_nothing():
    line = named(difference_results(scores(1), scores(1, checkpoint="other"), STRICT, num_resamples=50), "auroc")
    assert (line.value, line.p_value, line.compared_encoder) == (0, 1, "trained")
    assert line.confidence_interval == pytest.approx((0, 0))


def test_a_large_difference_is_no_accident():
    better, worse = scores(1, strength=2.0), scores(1, strength=0.0, checkpoint="other")
    lines = difference_results(better, worse, STRICT, num_resamples=100)
    for line in lines:
        assert line.interval_method == "permutation of patients"
    assert named(lines, "auroc").p_value == pytest.approx(0.005)  # the smallest of 199 permutations
    assert named(lines, "average_precision").p_value < 0.05


def test_draws_of_several_trainings_are_averaged_before_the_trainings_are_compared():
    answers = scores(runs=6, seed=(0, 1, 2))  # two draws of each training
    line = named(task_results(answers, STRICT, num_resamples=30), "auroc", 5)
    per_run = np.array([roc_auc_score(answers.targets, run, average="macro") for run in answers.scores])
    assert line.run_values == pytest.approx(per_run.reshape(3, 2).mean(axis=1))
    assert line.prediction_for == "training"


def test_a_network_that_learnt_from_all_labels_is_compared_with_a_probe_of_all_labels():
    probe = scores(1, strength=2.0, settings={"fraction": 1.0, "solver": "logistic_regression"})
    network = scores(1, strength=1.0, encoder="supervised", evaluation="supervised", checkpoint="network", settings={})
    line = named(difference_results(probe, network, STRICT, num_resamples=50), "auroc", 5)
    assert (line.compared_with, line.compared_encoder, line.evaluation) == ("network", "supervised", "linear_probe")
    assert line.value > 0


def with_validation(**changes) -> TaskScores:
    own = scores(2, **changes)
    return replace(own, validation_targets=own.targets, validation_scores=own.scores * 4)


def test_decisions_are_made_at_thresholds_of_the_validation_split():
    answers = with_validation(strength=2.0)
    line = named(task_results(answers, STRICT, num_resamples=20), "f1", 5)
    limits = np.array([line.details["thresholds"][name] for name in answers.class_names]).T
    expected = [
        f1_score(answers.targets, run >= limit, average="macro")
        for run, limit in zip(answers.scores, limits, strict=True)
    ]
    assert line.value == pytest.approx(np.mean(expected))
    assert line.details["thresholds_from"] == "validation"
    published = named(task_results(scores(1), PUBLISHED, num_resamples=20), "f1", 5)
    assert published.details["thresholds_from"] == "test"
    assert published.value >= named(task_results(with_validation(), STRICT, num_resamples=20), "f1", 5).value


def test_calibrated_probabilities_are_scored_beside_those_before():
    answers = with_validation(strength=2.0)
    line = named(task_results(answers, STRICT, num_resamples=20), "brier_score", 5)
    before = np.mean([(expit(run) - answers.targets) ** 2 for run in answers.scores])
    assert line.details["pooled_brier_score_before"] == pytest.approx(before)
    scale = np.array(line.details["calibration_scales"])[:, None, None]
    assert line.value == pytest.approx(np.mean((expit(scale * answers.scores) - answers.targets) ** 2))


def test_without_validation_there_are_neither_decisions_nor_probabilities():
    assert {line.metric for line in task_results(scores(), STRICT, num_resamples=10)} == {"auroc", "average_precision"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"fraction": 1.0}}, "their settings differ"),
        ({"prompts": "plain"}, "their prompts differ"),
        ({"record_ids": tuple(f"x{number:02d}" for number in range(80))}, "their record_ids differ"),
        ({"targets": 1 - scores().targets}, "The targets of .* differ"),
    ],
)
def test_answers_to_other_questions_are_not_compared(changes, message):
    with pytest.raises(ValueError, match=message):
        difference_results(scores(), replace(scores(checkpoint="other"), **changes), STRICT, num_resamples=10)
