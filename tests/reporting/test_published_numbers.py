from __future__ import annotations

import json
from importlib import resources

import pytest

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.methods import method_names
from hf_ecgtext.reporting.published_numbers import (
    MEAN_OF_SIX,
    SIX_TASKS,
    published_mean,
    published_numbers,
)

FRACTIONS = (0.01, 0.1, 1.0)
DIRECTIONS = (
    *("ptbxl_super->cpsc2018", "ptbxl_super->csn_merl", "cpsc2018->ptbxl_super"),
    *("cpsc2018->csn_merl", "csn_merl->ptbxl_super", "csn_merl->cpsc2018"),
)


def of_method(method: str, evaluation: str, task: str, **settings: object) -> list:
    """What the papers print for a method on a task under these settings."""
    return [
        number
        for number in published_numbers(evaluation)
        if (number.method, number.task) == (method, task) and settings.items() <= number.settings.items()
    ]


def row(method: str, evaluation: str, source: str, metric: str = "auroc") -> list:
    return [
        number
        for number in published_numbers(evaluation)
        if (number.method, number.metric) == (method, metric) and number.source.startswith(source)
    ]


# Printed by the papers, and not stored: METHODS.md 9.2, PROTOCOLS.md "Numbers to beat".
@pytest.mark.parametrize(
    ("method", "source", "mean"),
    [("merl", "MERL", 75.25), ("cgdmer", "CG-DMER", 76.00), ("cmelt", "CG-DMER", 75.16), ("etp", "CG-DMER", 60.54)],
)
def test_the_zero_shot_means_are_those_that_the_papers_print(method, source, mean):
    numbers = row(method, "zero_shot", source)
    assert {number.task for number in numbers} >= set(SIX_TASKS)
    assert published_mean(numbers) == pytest.approx(mean, abs=0.006)


def test_the_one_mean_that_does_not_follow_from_its_values_is_marked():
    numbers = [number for number in row("cmelt", "zero_shot", "C-MELT") if number.task in SIX_TASKS]
    assert published_mean(numbers) == pytest.approx(77.2)
    assert all("77.1" in remark for number in numbers for remark in number.remarks)


def test_a_mean_without_its_values_is_kept_as_such_and_only_there():
    only_means = {number.method for number in published_numbers("zero_shot") if number.task == MEAN_OF_SIX}
    assert only_means == {"deri", "melp", "tamer"}
    assert published_mean(row("deri", "zero_shot", "DERI")) == 78.73
    assert published_mean(row("merl", "zero_shot", "MERL")[:3]) is None


@pytest.mark.parametrize(("method", "mean"), [("merl", 79.4), ("cmelt", 77.9), ("deri", 81.8)])
def test_the_means_of_the_distribution_shift_are_those_that_the_papers_print(method, mean):
    values = [number for direction in DIRECTIONS for number in of_method(method, "distribution_shift", direction)]
    assert len(values) == 6
    assert sum(number.percent for number in values) / 6 == pytest.approx(mean, abs=0.05)


# PROTOCOLS.md, "Linear probe, best of the papers at 1 / 10 / 100 %".
@pytest.mark.parametrize(
    ("task", "best"),
    [
        ("ptbxl_super", (85.46, 89.84, 90.52)),
        ("ptbxl_sub", (77.74, 82.92, 87.67)),
        ("ptbxl_form", (70.10, 78.91, 84.37)),
        ("ptbxl_rhythm", (86.61, 92.83, 96.71)),
        ("cpsc2018", (85.46, 91.35, 94.92)),
        ("csn_merl", (80.04, 87.86, 93.55)),
    ],
)
def test_the_best_probes_of_the_papers_are_those_of_the_dossier(task, best):
    for fraction, expected in zip(FRACTIONS, best, strict=True):
        found = [
            number.percent
            for number in published_numbers("linear_probe")
            if number.task == task
            and number.metric == "auroc"
            and number.settings["fraction"] == fraction
            and "solver" not in number.settings
        ]
        assert max(found) == expected


def test_every_probe_row_has_all_tasks_and_fractions():
    for method, source in (
        *(("random_cnn", "CG-DMER"), ("etp", "CG-DMER"), ("merl", "MERL"), ("merl_vit", "MERL"), ("cmelt", "C-MELT")),
        *(("cmelt", "CG-DMER"), ("cgdmer", "CG-DMER"), ("deri", "DERI, Table 1")),
    ):
        cells = {(number.task, number.settings["fraction"]) for number in row(method, "linear_probe", source)}
        assert cells == {(task, fraction) for task in SIX_TASKS for fraction in FRACTIONS}, method


def test_a_method_that_others_re_ran_has_both_numbers_with_their_sources():
    own, other = of_method("cmelt", "linear_probe", "csn_merl", fraction=0.01)
    assert (own.percent, other.percent) == (80.04, 66.01)
    assert own.source == "C-MELT, linear-probe table"
    assert other.source == "CG-DMER, linear-probe table, re-run"
    assert own.row_title == "C-MELT, as published (C-MELT, linear-probe table)"
    assert "re-run" in own.remarks[0]


def test_numbers_differ_by_the_leads():
    assert [n.percent for n in of_method("cmelt", "finetune", "cinc2021", leads=3)] == [84.2]
    assert [n.percent for n in of_method("cmelt", "identification", "cinc2021", leads=1)] == [41.1]


def test_numbers_are_written_with_the_decimals_of_the_paper():
    (merl,) = of_method("merl", "zero_shot", "ptbxl_super")
    (vit,) = of_method("merl_vit", "zero_shot", "ptbxl_super")
    assert (merl.text, vit.text) == ("74.2", "73.43")


def test_our_methods_have_their_own_names():
    assert set(method_names()) <= {number.method for number in published_numbers()}


def test_the_gaps_between_best_and_last_epoch_in_deris_files_are_there():
    (best,) = of_method("deri", "linear_probe", "ptbxl_super", solver="deri", selection="best test epoch")
    (last,) = of_method("deri", "linear_probe", "ptbxl_super", solver="deri", selection="last epoch")
    assert best.percent - last.percent == pytest.approx(4.27)


def test_every_number_has_a_source_and_is_a_percentage():
    for number in published_numbers():
        assert number.reference
        assert 0 < number.percent < 100
        assert set(number.settings) <= {
            *("fraction", "leads", "selection", "solver", "records", "classifier", "label_map", "side")
        }


def test_no_number_stands_twice():
    cells = [
        (n.method, n.evaluation, n.task, n.metric, n.source, json.dumps(n.settings, sort_keys=True))
        for n in published_numbers()
    ]
    assert len(cells) == len(set(cells))


def test_the_file_names_no_source_that_nobody_uses():
    text = resources.files("hf_ecgtext.reporting").joinpath("published_numbers.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert {group["source"] for group in document["groups"]} == set(document["sources"])


def test_a_published_number_is_no_result():
    assert not isinstance(published_numbers()[0], EvaluationResult)
