"""`hf-ecgtext compare` on the debug recipes."""

from __future__ import annotations

import json
import shutil

import pytest

from hf_ecgtext.cli import main
from hf_ecgtext.evaluation.results import read_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


def compare(folder, *options: str, methods: tuple[str, ...] = ("merl", "etp")) -> int:
    return main(
        [
            "compare", "--methods", *methods, "--recipe", "debug", "--data", "synthetic",
            "--data-set", "num_records=200", "--set", "training.max_steps=3", "training.disable_tqdm=true",
            "--prompts", "plain", "--random-encoders", "1",
            "--output-dir", str(folder / "runs"), "--results", str(folder / "results.jsonl"), *options,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def compared(folder):
    assert compare(folder) == 0
    return folder


def test_every_method_has_its_results_and_its_difference_to_the_reference(compared, capsys):
    lines = read_results(compared / "results.jsonl")
    auroc = [line for line in lines if line.metric == "auroc" and line.min_positives == 1]
    merl, etp = (str(compared / "runs" / method) for method in ("merl", "etp"))
    kinds = [(line.checkpoint, line.encoder, line.compared_with) for line in auroc]
    assert kinds == [
        (merl, "trained", None),
        (etp, "trained", None),
        (merl, "random", None),
        (etp, "random", None),
        (merl, "trained", merl),  # less its random twin
        (etp, "trained", merl),
        (etp, "trained", etp),
    ]
    by_kind = dict(zip(kinds, auroc, strict=True))
    difference = by_kind[etp, "trained", None].value - by_kind[merl, "trained", None].value
    assert by_kind[etp, "trained", merl].value == pytest.approx(difference)


@pytest.mark.slow
def test_several_trainings_are_set_side_by_side_by_their_means(tmp_path, capsys):
    assert compare(tmp_path, "--trainings", "2", methods=("merl",)) == 0
    lines = read_results(tmp_path / "results.jsonl")
    (own,) = [line for line in lines if (line.metric, line.min_positives, line.encoder, line.compared_with)
              == ("auroc", 5, "trained", None)]  # fmt: skip
    assert (own.checkpoint, own.seed) == ("merl", (0, 1))
    assert own.value == pytest.approx(sum(own.run_values) / 2)
    runs = json.loads((tmp_path / "results.runs.json").read_text())
    assert runs["merl"]["seeds"] == [0, 1]
    assert len(runs["merl"]["seconds"]) == 2
    capsys.readouterr()
    # What was trained can be evaluated as one model later; the folders say with which seeds.
    pooled = "merl=" + ",".join(str(tmp_path / "runs" / f"seed{seed}" / "merl") for seed in (0, 1))
    options = [
        "--data",
        "synthetic",
        "--data-set",
        "num_records=200",
        "sampling_rate_hz=100",
        "--evaluations",
        "zero_shot",
        "--prompts",
        "plain",
    ]
    places = ["--random-encoders", "0", "--output-dir", str(tmp_path / "evaluated")]
    assert main(["evaluate", "--model", pooled, *options, *places]) == 0
    again = read_results(tmp_path / "evaluated" / "results.jsonl")
    (same,) = [line for line in again if (line.metric, line.min_positives) == ("auroc", 5)]
    assert (same.checkpoint, same.seed, same.value) == ("merl", (0, 1), pytest.approx(own.value))
    assert compare(tmp_path, "--trainings", "0", methods=("merl",)) == 1
    assert "each method is trained at least once" in capsys.readouterr().err


def test_the_cost_of_each_training_is_noted(compared):
    runs = json.loads((compared / "results.runs.json").read_text())
    for method in ("merl", "etp"):
        assert runs[method]["steps"] == 3
        assert runs[method]["batch_size"] == 16
        assert runs[method]["parameters"] >= runs[method]["trained_parameters"] > 0
        assert runs[method]["resumed"] is False


def test_a_second_call_trains_nothing_and_gives_the_same_results(compared, capsys):
    before = (compared / "results.jsonl").read_text()
    assert compare(compared, "--resume") == 0
    printed = capsys.readouterr().out
    assert printed.count("already trained") == 2
    assert "zero-shot on" not in printed
    assert "| task | method" not in printed  # plain text unless asked
    after = (compared / "results.jsonl").read_text()
    strip = [{**json.loads(line), "date": None, "command": None} for line in before.splitlines()]
    assert [{**json.loads(line), "date": None, "command": None} for line in after.splitlines()] == strip


def test_what_is_trained_is_gone_on_with_on_request_alone(compared, capsys):
    assert compare(compared) == 1
    assert "is trained already. Go on with this comparison by --resume" in capsys.readouterr().err


def test_runs_with_other_settings_are_not_mixed(compared, capsys):
    assert compare(compared, "--seed", "1") == 1
    assert "was trained with other settings (seed)" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_lost_is_done_again_and_nothing_else(compared, capsys):
    shutil.rmtree(compared / "runs" / "etp")
    assert compare(compared, "--resume", "--markdown") == 0
    printed = capsys.readouterr().out
    assert printed.count("already trained") == 1
    assert "etp, seed 0: training with recipe debug" in printed
    assert "### Zero-shot: macro AUROC over classes with 5+ positives, plain prompts, strict protocol" in printed
    assert "### Zero-shot: macro AUPRC over classes with 5+ positives, plain prompts, strict protocol" in printed
    assert "### Differences to merl: Zero-shot, AUROC over classes with 5+ positives, strict protocol" in printed
    assert "| encoder | task | settings | less merl | p | p (Holm) |" in printed
    assert "| method | parameters (M) |" in printed


def test_a_reference_that_is_not_compared_is_refused(folder, capsys):
    assert compare(folder, "--reference", "merl", methods=("etp",)) == 1
    assert "--reference merl is not among --methods etp" in capsys.readouterr().err


def test_a_model_of_unknown_origin_is_not_overwritten(folder, merl_folder, tmp_path, capsys):
    shutil.copytree(merl_folder, tmp_path / "runs" / "merl")
    assert compare(tmp_path, methods=("merl",)) == 1
    assert "holds a model that no comparison trained" in capsys.readouterr().err
