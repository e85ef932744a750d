"""Lines of the mean over prompt sets, from scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.harness.prompt_mean import prompt_mean_results
from hf_ecgtext.harness.summary import task_results


def answers(prompts, seed, num_runs=2):
    rng = np.random.default_rng(1)
    targets = (rng.random((120, 3)) < [0.5, 0.3, 0.05]).astype(np.int8)
    noise = np.random.default_rng(seed).normal(scale=1.5, size=(num_runs, *targets.shape))
    return TaskScores(
        evaluation="zero_shot",
        task="toy",
        protocol="strict",
        checkpoint="model",
        encoder="random",
        class_names=("a", "b", "c"),
        record_ids=tuple(f"{row:03d}" for row in range(120)),
        targets=targets,
        patients=np.array([f"p{row // 2}" for row in range(120)], dtype=object),
        scores=(targets + noise).astype(np.float32),
        data={"name": "toy", "revision": "1", "split": "test"},
        score_kind="similarity",
        prompts=prompts,
    )


@pytest.fixture(scope="module")
def sets():
    names = ("plain", "members", "plain+members", "my_file")
    return [answers(name, seed) for seed, name in enumerate(names)]


def test_lines_are_means_over_the_librarys_sets_with_an_interval(sets):
    lines = prompt_mean_results(sets, STRICT, num_resamples=200)
    assert {(line.metric, line.min_positives) for line in lines} == {
        (metric, least) for metric in ("auroc", "average_precision") for least in STRICT.min_positives
    }
    single = [task_results(each, STRICT, num_resamples=200) for each in sets[:2]]
    for line in lines:
        assert (line.prompts, line.details["mean_over"]) == ("mean", ["members", "plain"])
        same = [
            next(x for x in found if (x.metric, x.min_positives) == (line.metric, line.min_positives))
            for found in single
        ]
        assert line.value == pytest.approx(np.mean([x.value for x in same]))
        assert line.num_resamples == same[0].num_resamples
        assert (line.confidence_interval is None) == (same[0].confidence_interval is None)
        if line.confidence_interval is not None:
            low, high = line.confidence_interval
            assert low < line.value < high
            assert high - low < max(x.confidence_interval[1] - x.confidence_interval[0] for x in same)
        for label, value in line.per_class.items():
            assert value == pytest.approx(np.mean([x.per_class[label] for x in same]))


def test_one_set_of_the_library_or_another_evaluation_gives_no_mean(sets):
    assert prompt_mean_results([sets[0], *sets[2:]], STRICT, num_resamples=200) == []
    assert prompt_mean_results([replace(each, evaluation="other") for each in sets], STRICT, num_resamples=200) == []
