"""Spread over prompt sets, per encoder and class, and what it does to the order of encoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hf_ecgtext.evaluation.prompt_sensitivity import prompt_sensitivity
from hf_ecgtext.evaluation.scores import TaskScores

TARGETS = (np.random.default_rng(0).random((40, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(np.int8)
LABELS = ("A", "B", "C", "D")


def answer(checkpoint, prompts, seed, num_runs=1, **changes):
    scores = np.random.default_rng(seed).standard_normal((num_runs, *TARGETS.shape)).astype(np.float32)
    known = {
        "evaluation": "zero_shot",
        "task": "mine",
        "protocol": "strict",
        "checkpoint": checkpoint,
        "encoder": "trained",
        "class_names": LABELS,
        "record_ids": tuple(f"r{row:02d}" for row in range(len(TARGETS))),
        "targets": TARGETS,
        "patients": None,
        "scores": scores,
        "data": {"name": "x", "revision": "1", "split": "test"},
        "score_kind": "similarity",
        "prompts": prompts,
    }
    return TaskScores(**{**known, **changes})


def aurocs(scores):
    return np.mean([[roc_auc_score(TARGETS[:, k], run[:, k]) for k in range(3)] for run in scores.scores], axis=0)


def test_spread_and_class_ranges_equal_a_slow_loop():
    answers = [answer("x", name, seed, num_runs=2) for seed, name in enumerate(("plain", "etp", "template"))]
    (found,) = prompt_sensitivity(answers)
    by_set = np.stack([aurocs(scores) for scores in answers])
    macros = by_set.mean(axis=1)
    assert list(found.macro_auroc) == ["plain", "etp", "template"]
    np.testing.assert_allclose(list(found.macro_auroc.values()), macros)
    assert found.minimum == pytest.approx(macros.min())
    assert found.maximum == pytest.approx(macros.max())
    assert found.range == pytest.approx(np.ptp(macros))
    assert found.mean == pytest.approx(macros.mean())
    assert found.standard_deviation == pytest.approx(np.std(macros, ddof=1))
    names = list(found.macro_auroc)
    for column, label in enumerate("ABC"):
        of_class = found.per_class[label]
        assert of_class.range == pytest.approx(np.ptp(by_set[:, column]))
        assert of_class.best == names[by_set[:, column].argmax()]
        assert of_class.worst == names[by_set[:, column].argmin()]
    assert found.per_class["D"] is None
    assert found.ranks == {}
    assert found.rank_changes == 0


def test_equal_answers_have_no_spread():
    (found,) = prompt_sensitivity([answer("x", name, 3) for name in ("plain", "etp")])
    assert (found.range, found.standard_deviation) == (0, 0)
    assert all(of_class is None or of_class.range == 0 for of_class in found.per_class.values())


def test_ranks_tell_where_the_wording_changes_the_order():
    good = np.where(TARGETS, 1.0, 0.0)[None].astype(np.float32)
    noise = answer("", "", 0).scores
    answers = [
        answer("x", "plain", 0, scores=good),
        answer("x", "etp", 0, scores=-good),
        answer("y", "plain", 0, scores=noise),
        answer("y", "etp", 0, scores=noise),
        answer("z", "plain", 0, scores=noise),
        answer("z", "etp", 0, scores=noise),
    ]
    x, y, z = prompt_sensitivity(answers)
    assert x.ranks == {"plain": 1, "etp": 3}
    assert x.rank_changes == 2
    assert y.ranks == z.ranks == {"plain": 2, "etp": 1}  # equal values share the better rank
    assert y.rank_changes == 1


def test_ranks_are_among_rows_of_one_kind_question_and_list_of_prompt_sets():
    both = ("plain", "etp")
    answers = [
        *(answer("x", name, 0) for name in both),
        *(answer("x", name, 1, encoder="random") for name in both),
        *(answer("y", name, 2, task="other") for name in both),
        *(answer("z", name, 3) for name in (*both, "template")),
        *(answer("v", name, 4, protocol="published") for name in both),
        *(answer("w", name, 5, settings={"side": "target"}) for name in both),
    ]
    found = prompt_sensitivity(answers)
    assert len(found) == 6
    assert all(row.ranks == {} for row in found)


def test_rows_with_one_prompt_set_are_left_out():
    answers = [answer("x", "plain", 0), answer("y", "plain", 1), answer("y", "etp", 2)]
    assert [row.checkpoint for row in prompt_sensitivity(answers)] == ["y"]


def test_rare_classes_may_stay_out_of_the_macro():
    answers = [answer("x", name, seed) for seed, name in enumerate(("plain", "etp"))]
    frequent = TARGETS.sum(axis=0)[:3] >= 10
    assert frequent.tolist() == [True, True, False]
    (found,) = prompt_sensitivity(answers, min_positives=10)
    assert found.macro_auroc["plain"] == pytest.approx(aurocs(answers[0])[frequent].mean())
    with pytest.raises(ValueError, match="no class has 1000 positive records"):
        prompt_sensitivity(answers, min_positives=1000)


def test_answers_that_do_not_belong_together_are_refused():
    first = answer("x", "plain", 0)
    with pytest.raises(ValueError, match="two answers with the prompt set 'plain'"):
        prompt_sensitivity([first, answer("x", "plain", 1)])
    with pytest.raises(ValueError, match="'plain' and 'etp' differ in records"):
        prompt_sensitivity([first, answer("x", "etp", 1, targets=1 - TARGETS)])
    with pytest.raises(ValueError, match="linear_probe of 'x' on 'mine' has no prompts"):
        prompt_sensitivity([first, replace(first, prompts=None, evaluation="linear_probe")])
