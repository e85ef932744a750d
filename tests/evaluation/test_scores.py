"""Scores that are kept give the results that they would have given at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_ecgtext.evaluation.bootstrap import paired_difference
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import ZeroShotScores


@pytest.fixture
def scores() -> ZeroShotScores:
    rng = np.random.default_rng(0)
    targets = (rng.random((120, 3)) < 0.4).astype(np.int8)
    trained = (targets + rng.normal(size=targets.shape)).astype(np.float32)
    return ZeroShotScores(
        task="rhythm",
        prompts="plain",
        class_names=("AFIB", "SR", "PACE"),
        targets=targets,
        patients=np.array([f"patient {row // 2}" for row in range(120)], dtype=object),
        trained=trained,
        random=rng.normal(size=(2, *targets.shape)).astype(np.float32),
        data={"name": "ptb_xl", "revision": "1", "split": "test"},
    )


def values(results: list[EvaluationResult]) -> list:
    return [(line.metric, line.encoder, line.min_positives, line.value, line.confidence_interval) for line in results]


@pytest.mark.parametrize("patients", [True, False])
def test_saved_scores_come_back_and_give_the_same_results(scores, patients, tmp_path):
    if not patients:
        scores = replace(scores, patients=None)
    scores.save(tmp_path / "deep" / "scores.npz")
    again = ZeroShotScores.load(tmp_path / "deep" / "scores.npz")
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["scores.npz"]
    ours = scores.results(checkpoint="a", seed=3, num_resamples=50)
    assert values(again.results(checkpoint="a", seed=3, num_resamples=50)) == values(ours)
    assert {line.encoder for line in ours} == {"trained", "random"}
    assert {line.num_records for line in ours} == {120}


def test_integer_patient_numbers_stay_numbers(scores, tmp_path):
    scores = replace(scores, patients=np.array(list(range(120)), dtype=object))
    scores.save(tmp_path / "scores.npz")
    assert ZeroShotScores.load(tmp_path / "scores.npz").patients.tolist() == list(range(120))


def test_a_difference_is_the_paired_bootstrap_s(scores):
    better = replace(scores, trained=scores.trained + scores.targets)
    lines = better.differences(scores, checkpoint="better", compared_with="worse", seed=1, num_resamples=200)
    expected = paired_difference(
        better.trained, scores.trained, scores.targets, scores.patients.tolist(), num_resamples=200, seed=1
    )["auroc"].macro()
    line = next(line for line in lines if line.metric == "auroc" and line.min_positives == 1)
    assert line.compared_with == "worse"
    assert line.value == pytest.approx(expected.value)
    assert line.confidence_interval == pytest.approx((expected.low, expected.high))
    assert line.confidence_interval[0] > 0
    assert EvaluationResult.from_json(line.to_json()) == line


def test_a_model_does_not_differ_from_itself(scores):
    for line in scores.differences(scores, checkpoint="a", compared_with="a", seed=0, num_resamples=20):
        assert line.value is None or line.value == 0.0


@pytest.mark.parametrize("change", [{"prompts": "members"}, {"task": "form"}, {"class_names": ("SR", "AFIB", "PACE")}])
def test_scores_of_other_records_are_not_paired(scores, change):
    with pytest.raises(ValueError, match="cannot be paired"):
        scores.differences(replace(scores, **change), checkpoint="a", compared_with="b", seed=0)


def test_lines_from_before_there_were_comparisons_are_none(scores):
    line = scores.results(checkpoint="a", seed=0, num_resamples=10)[0]
    old = line.to_json().replace(', "compared_with": null', "")
    assert "compared_with" not in old
    assert EvaluationResult.from_json(old).compared_with is None
