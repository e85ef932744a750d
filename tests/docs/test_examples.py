"""The files of examples/ run as their docstrings say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from parity_files import fill
from published_files import PUBLISHED_FILES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs an example in an empty folder; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def run_example(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as stop:
            if stop.code:
                pytest.fail(f"{name} ended with {stop.code}")
        return capsys.readouterr().out

    return run_example


def test_each_is_short_and_says_how_to_run_it():
    files = sorted(EXAMPLES.glob("*.py"))
    assert len(files) == 5
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 80
        assert f"python examples/{file.name}" in text


def test_zero_shot_ranks_the_labels(run, merl_folder):
    printed = run("zero_shot.py", "--model", merl_folder, "--labels", "atrial fibrillation", "sinus rhythm")
    assert "fibrillation" in printed.splitlines()[0]
    scores = [float(line.split()[0]) for line in printed.splitlines()[1:]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_training_on_one_s_own_data_saves_a_model_that_answers(run):
    printed = run("train_on_your_data.py", "--output-dir", "mine", "--steps", 3)
    assert "Saved to mine" in printed
    assert "atrial" in run("zero_shot.py", "--model", "mine")


def test_the_linear_probe_prints_an_interval_beside_random_weights(run, merl_folder):
    printed = run("linear_probe.py", "--model", merl_folder, "--records", 400)
    assert [line.split(":")[0] for line in printed.splitlines()] == ["trained", "random weights"]
    assert " to " in printed


def test_published_weights_become_a_folder_that_encodes(run, golden, tmp_path):
    listed = PUBLISHED_FILES["MERL ResNet18 encoder"].names_and_shapes(golden)
    weights = {key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in listed}
    torch.save(weights, tmp_path / "res18_best_encoder.pth")
    printed = run("convert_weights.py", "res18_best_encoder.pth", "--output-dir", "merl-res18-encoder")
    assert "a recording becomes torch.Size([1, 512])" in printed


@pytest.mark.slow
def test_the_evaluation_prints_intervals_beside_random_weights(run, merl_folder):
    printed = run("evaluate_with_intervals.py", "--model", merl_folder, "--records", 400)
    assert {line.split()[0] for line in printed.splitlines() if "auroc" in line} == {"trained", "random"}
