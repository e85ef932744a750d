"""Zero-shot lines as the mean over prompt sets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmark_lines import line, zero_shot_lines

from hf_ecgtext.reporting.tables.prompt_mean import mean_note, mean_over_prompts


def of(prompts, value, **changes):
    return line(value, evaluation="zero_shot", prompts=prompts, **changes)


def test_the_mean_is_over_the_librarys_sets_and_has_no_interval():
    (mean,) = mean_over_prompts([of("plain", 0.6), of("members", 0.8), of("plain+members", 0.9), of("CKEPE", 0.95)])
    assert (mean.prompts, mean.value, mean.confidence_interval) == ("mean", pytest.approx(0.7), None)
    assert mean.per_class == {"NORM": pytest.approx(0.7), "CD": pytest.approx(0.7), "MI": None}
    assert mean.details["mean_over"] == ["members", "plain"]
    assert mean_note([mean]) == ["Mean over the prompt sets members, plain; none was chosen by its score."]


def test_encoders_are_averaged_over_the_sets_that_all_have_answered():
    lines = [of("plain", 0.6), of("members", 0.8), of("etp", 0.1)]
    lines += [of("plain", 0.5, checkpoint="runs/b"), of("members", 0.7, checkpoint="runs/b")]
    means = mean_over_prompts(lines)
    assert [(mean.checkpoint, round(mean.value, 6)) for mean in means] == [("runs/merl", 0.7), ("runs/b", 0.6)]
    assert {tuple(mean.details["mean_over"]) for mean in means} == {("members", "plain")}


def test_every_question_has_a_mean_of_its_own():
    lines = zero_shot_lines()
    assert len(mean_over_prompts(lines)) == len(lines) / 2


def test_one_set_has_no_mean():
    assert mean_over_prompts([of("plain", 0.6), of("CKEPE", 0.8)]) == []


def test_a_mean_that_has_an_interval_already_stands():
    made = replace(of("mean", 0.65), details={"mean_over": ["a", "b"]})
    assert mean_over_prompts([of("plain", 0.6), of("members", 0.8), made]) == [made]
