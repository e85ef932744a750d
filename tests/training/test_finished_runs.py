"""Resuming what is trained to its end trains nothing, wherever the run was killed behind its last step."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from hf_ecgtext.cli import main

# 64 training records: 8 steps of 8 an epoch; the run ends inside its third epoch.
COMMON = [
    "train", "--method", "etp", "--recipe", "debug", "--no-zero-shot", "--data-set", "num_records=80",
    "--set", "training.max_steps=20", "training.save_strategy=steps", "training.save_steps=5",
    "training.per_device_train_batch_size=8", "training.disable_tqdm=true",
]  # fmt: skip
BY_EPOCH = [
    "training.max_steps=-1", "training.num_train_epochs=2", "training.save_strategy=epoch",
    "training.eval_strategy=epoch", "training.load_best_model_at_end=true", "training.save_total_limit=2",
]  # fmt: skip


def train(folder: Path, *settings: str, resume: bool = False) -> str:
    """Train through the command; the digest of the weights."""
    options = ["--output-dir", str(folder), *(["--resume"] if resume else [])]
    assert main([*COMMON, *settings, *options]) == 0
    return digest(folder)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def checkpoints(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to kill."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_resuming_a_finished_run_changes_nothing(run, capsys):
    before = {file: (file.stat().st_mtime_ns, digest_of(file)) for file in run.rglob("*") if file.is_file()}
    train(run, resume=True)
    assert "Already trained: 20 steps" in capsys.readouterr().out
    after = {file: (file.stat().st_mtime_ns, digest_of(file)) for file in run.rglob("*") if file.is_file()}
    assert after == before


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("lost", [["trainer_state.json"], ["trainer_state.json", "model.safetensors", "config.json"]])
def test_a_run_killed_while_it_was_saved_as_a_whole_is_saved_without_training(run, lost, capsys):
    expected = digest(run)
    for name in lost:
        (run / name).unlink()
    assert train(run, resume=True) == expected
    assert "Trained 20 steps" in capsys.readouterr().out
    assert checkpoints(run) == ["checkpoint-10", "checkpoint-15", "checkpoint-20", "checkpoint-5"]
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 20


def test_a_run_killed_between_its_last_two_checkpoints_ends_with_the_same_weights(run):
    expected = digest(run)
    for name in ("trainer_state.json", "model.safetensors"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoint-20")
    assert train(run, resume=True) == expected


@pytest.mark.slow
def test_a_run_by_epochs_ends_with_its_best_weights_after_a_kill_behind_its_last_step(tmp_path):
    expected = train(tmp_path / "run", *BY_EPOCH)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 16
    for name in ("trainer_state.json", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    moved = tmp_path / "moved"  # the state names the best checkpoint by its old path
    (tmp_path / "run").rename(moved)
    assert train(moved, *BY_EPOCH, resume=True) == expected


@pytest.mark.slow
def test_a_missing_best_checkpoint_is_named(tmp_path, capsys):
    train(tmp_path / "run", *BY_EPOCH, "training.learning_rate=0.0")  # so that the first epoch stays the best
    for name in ("trainer_state.json", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-8")
    command = [*COMMON, *BY_EPOCH, "training.learning_rate=0.0", "--output-dir", str(tmp_path / "run"), "--resume"]
    assert main(command) == 1
    assert "checkpoint-8, the best one so far, is missing" in capsys.readouterr().err


def test_a_longer_run_goes_on_from_a_finished_one(run, capsys):
    train(run, "training.max_steps=22", resume=True)
    assert "Trained 22 steps" in capsys.readouterr().out


def test_a_longer_run_does_not_begin_anew_where_the_checkpoints_of_the_shorter_one_are_gone(run, capsys):
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    expected = digest(run)
    assert train(run, resume=True) == expected, "of the run itself nothing is missing"
    assert main([*COMMON, "training.max_steps=22", "--output-dir", str(run), "--resume"]) == 1
    assert "There is no complete checkpoint" in capsys.readouterr().err
    assert digest(run) == expected


@pytest.mark.slow
def test_a_checkpoint_at_the_end_of_an_epoch_goes_on_behind_its_evaluation(tmp_path):
    settings = ["training.max_steps=16", "training.save_steps=8", "training.eval_strategy=epoch"]
    expected = train(tmp_path / "run", *settings)
    for entry in ("trainer_state.json", "model.safetensors"):
        (tmp_path / "run" / entry).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-16")
    assert train(tmp_path / "run", *settings, resume=True) == expected
