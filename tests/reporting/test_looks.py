"""How often a test split was read, counted from result lines."""

from __future__ import annotations

from dataclasses import replace

from benchmark_lines import TITLES, all_lines, line, zero_shot_lines

from hf_ecgtext.reporting.tables.documents import readme_benchmark_table
from hf_ecgtext.reporting.tables.looks import looks_at_test, looks_note
from hf_ecgtext.reporting.tables.prompt_mean import mean_over_prompts


def test_one_evaluation_counts_once_whatever_the_encoder_and_the_metric():
    (looks,) = looks_at_test(zero_shot_lines())
    assert (looks.settings, looks.encoders) == (4, 4)  # two tasks with two prompt sets each
    assert looks.kinds == {"task": 2, "kind": 1, "protocol": 1, "prompt set": 2, "fraction": 0}
    assert looks.text == "ptb_xl by 4 evaluations (2 tasks, 1 kind, 1 protocol, 2 prompt sets) of 4 encoders"


def test_differences_means_and_other_splits_read_nothing_new():
    lines = zero_shot_lines()
    more = [
        line(0.1, evaluation="zero_shot", prompts="other", compared_with="runs/deri_v2"),
        line(evaluation="zero_shot", prompts="other", data={**lines[0].data, "split": "validation"}),
        *mean_over_prompts(lines),
    ]
    assert looks_at_test([*lines, *more]) == looks_at_test(lines)


def test_only_what_was_seen_before_a_line_counts():
    lines = [
        replace(each, date=f"2026-01-0{day}T00:00:00+00:00", prompts=f"set{day}")
        for day, each in enumerate(zero_shot_lines()[:5], start=1)
    ]
    other = replace(lines[0], data={**lines[0].data, "revision": "2"})
    (looks,) = looks_at_test([*lines, other], before=lines[3])
    assert looks.settings == looks.kinds["prompt set"] == 3
    assert looks_at_test(lines, before=lines[0]) == ()


def test_tables_say_how_often_their_test_split_was_read_by_this_run_and_others():
    text = readme_benchmark_table(all_lines(), titles=TITLES, prompts="plain")
    (looks,) = (each for each in looks_at_test(all_lines()) if each.data == "ptb_xl")
    assert f"Test split read, as far as these lines tell: {looks.text}" in text
    other = line(evaluation="zero_shot", prompts="a set of another run")
    (more,) = (each for each in looks_at_test([*all_lines(), other]) if each.data == "ptb_xl")
    assert more.settings == looks.settings + 1
    assert more.text in readme_benchmark_table(all_lines(), titles=TITLES, prompts="plain", history=[other])


def test_a_table_of_other_data_says_nothing_of_this():
    assert looks_note([line(data={"name": "csn", "revision": "1", "split": "test"})], looks_at_test([line()])) == []
