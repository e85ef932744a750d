"""A damaged checkpoint is named and put aside, and the one before it serves; checkpoints say what they hold."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_ecgtext.cli import main
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.training.checkpoints import (
    CHECKSUMS_FILE,
    damage,
    last_intact_checkpoint,
    saved_steps,
    write_checksums,
)

STEPS = (3, 6, 9)


def write_checkpoint(folder: Path, step: int, best: int | None = None) -> None:
    folder.mkdir(parents=True)
    save_file({"weight": torch.full((100,), float(step))}, folder / "model.safetensors")
    torch.save({"state": torch.arange(1000)}, folder / "optimizer.pt")
    torch.save({"cpu": torch.arange(100)}, folder / "rng_state.pth")
    (folder / "config.json").write_text("{}")
    write_checksums(folder)
    state = {"global_step": step, "best_global_step": best, "best_model_checkpoint": best and f"gone/checkpoint-{best}"}
    (folder / "trainer_state.json").write_text(json.dumps(state))


@pytest.fixture
def run(tmp_path):
    for step in STEPS:
        write_checkpoint(tmp_path / f"checkpoint-{step}", step)
    return tmp_path


def flip(file: Path, place: int = -50) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def test_what_is_whole_has_no_damage(run):
    assert [damage(run / f"checkpoint-{step}") for step in STEPS] == [None, None, None]
    assert last_intact_checkpoint(run) == run / "checkpoint-9"
    assert last_intact_checkpoint(run / "nowhere") is None


@pytest.mark.parametrize(
    ("harm", "file"),
    [
        (flip, "model.safetensors"), (cut, "model.safetensors"), (Path.unlink, "model.safetensors"),
        (flip, "optimizer.pt"), (cut, "optimizer.pt"), (cut, "rng_state.pth"), (cut, CHECKSUMS_FILE),
        (lambda file: file.write_text("{"), "config.json"), (lambda file: file.write_bytes(b""), "optimizer.pt"),
    ],
)  # fmt: skip
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_serves(run, harm, file, caplog):
    target = run / "checkpoint-9" / file
    # Bytes of the data, not of the archive's directory.
    harm(target, target.stat().st_size // 2) if harm is flip else harm(target)
    with caplog.at_level(logging.WARNING):
        assert last_intact_checkpoint(run) == run / "checkpoint-6"
    assert f"'{run / 'checkpoint-9'}' is damaged: {file}" in caplog.text
    assert sorted(entry.name for entry in run.iterdir()) == ["checkpoint-3", "checkpoint-6", "damaged-checkpoint-9"]


def test_damage_of_the_weights_is_seen_without_checksums_where_the_file_is_cut(run):
    (run / "checkpoint-9" / CHECKSUMS_FILE).unlink()  # written by an earlier version
    assert damage(run / "checkpoint-9") is None
    cut(run / "checkpoint-9" / "model.safetensors")
    assert "model.safetensors cannot be read" in damage(run / "checkpoint-9")


def test_two_damaged_ones_in_a_row_are_passed_over_and_nothing_is_overwritten(run):
    (run / "damaged-checkpoint-9").mkdir()
    for step in (6, 9):
        cut(run / f"checkpoint-{step}" / "optimizer.pt")
    assert last_intact_checkpoint(run) == run / "checkpoint-3"
    assert {entry.name for entry in run.glob("damaged-*")} == {
        "damaged-checkpoint-9", "damaged-checkpoint-9-2", "damaged-checkpoint-6",
    }  # fmt: skip


def test_where_all_are_damaged_none_is_touched(run):
    for step in STEPS:
        cut(run / f"checkpoint-{step}" / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint-9: optimizer\.pt cannot be read .*checkpoint-3"):
        last_intact_checkpoint(run)
    assert not list(run.glob("damaged-*"))


def test_a_checkpoint_whose_best_one_is_damaged_or_gone_does_not_serve(tmp_path):
    write_checkpoint(tmp_path / "checkpoint-3", 3)
    write_checkpoint(tmp_path / "checkpoint-6", 6, best=6)
    write_checkpoint(tmp_path / "checkpoint-9", 9, best=6)
    assert last_intact_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    flip(tmp_path / "checkpoint-6" / "model.safetensors")
    assert last_intact_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_a_damaged_saved_run_counts_as_none(run, caplog):
    for file in (run / "checkpoint-9").iterdir():
        shutil.copy(file, run)
    assert saved_steps(run) == 9
    assert saved_steps(run / "nowhere") is None
    flip(run / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert saved_steps(run) is None
    assert "model.safetensors does not have the checksum" in caplog.text


@pytest.mark.slow
def test_training_goes_on_from_the_checkpoint_before_a_damaged_one_and_ends_the_same(tmp_path, caplog):
    common = [
        "train", "--method", "etp", "--recipe", "debug", "--no-zero-shot", "--data-set", "num_records=80",
        "--set", "training.max_steps=9", "training.save_strategy=steps", "training.save_steps=3",
        "training.per_device_train_batch_size=8", "training.disable_tqdm=true", "--output-dir", str(tmp_path),
    ]  # fmt: skip
    assert main(common) == 0
    expected = (tmp_path / "model.safetensors").read_bytes()
    assert set(json.loads((tmp_path / "checkpoint-9" / CHECKSUMS_FILE).read_text())) == {"model.safetensors"}
    assert not (tmp_path / CHECKSUMS_FILE).exists(), "what is published carries no trace of the training"
    for name in ("trainer_state.json", "model.safetensors"):
        (tmp_path / name).unlink()
    cut(tmp_path / "checkpoint-9" / "optimizer.pt")
    flip(tmp_path / "checkpoint-6" / "model.safetensors")
    assert main([*common, "--resume"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() == expected
