"""A run that is killed and resumed ends with the weights of one that never stopped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import REPOSITORY, environment, launch, try_to_launch
from safetensors.torch import load_file

from hf_ecgtext.cli import main
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training.checkpoints import check_same_model, last_complete_checkpoint

# 80 records leave 64 to train on: 8 steps an epoch, so that a checkpoint every 3 steps falls into its middle.
COMMON = [
    "train.py", "--method", "merl", "--recipe", "debug", "--no-zero-shot", "--data-set", "num_records=80",
    "--set", "training.max_steps=60", "training.save_steps=3", "training.save_strategy=steps",
    "training.per_device_train_batch_size=8", "training.disable_tqdm=true", "--output-dir",
]  # fmt: skip


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_equals_never_killed(tmp_path):
    cache = tmp_path / "cache"
    launch([*COMMON, str(tmp_path / "whole")], cache)

    interrupted = tmp_path / "interrupted"
    process = subprocess.Popen(
        [sys.executable, *COMMON, str(interrupted)],
        cwd=REPOSITORY,
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while last_complete_checkpoint(interrupted) is None:
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (interrupted / "model.safetensors").exists(), "it was killed before its end"
    state = json.loads((last_complete_checkpoint(interrupted) / "trainer_state.json").read_text())
    assert state["global_step"] % 8 != 0, "the checkpoint lies in the middle of an epoch"

    launch([*COMMON, str(interrupted), "--resume"], cache)
    whole, resumed = load_file(tmp_path / "whole" / "model.safetensors"), load_file(interrupted / "model.safetensors")
    assert set(whole) == set(resumed)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    for step, state in ((2, '{"global_step": 2}'), (10, '{"global_step": 10}'), (12, '{"global_st'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-x").mkdir()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_resuming_nothing_and_overwriting_something_are_refused(tmp_path, capsys):
    output = ["--output-dir", str(tmp_path)]
    assert main(["train", "--recipe", "debug", "--resume", *output]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main(["train", "--recipe", "debug", *output]) == 1
    assert "already holds a trained model" in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["nothing", "=3"])
def test_a_setting_without_a_value_is_refused(pair, tmp_path, capsys):
    assert main(["train", "--recipe", "debug", "--output-dir", str(tmp_path / "new"), "--set", pair]) == 1
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_checkpoints_of_another_run_are_neither_mixed_with_new_ones_nor_resumed_with_other_settings(tmp_path, capsys):
    model, processor = get_recipe("merl", "debug").build()
    checkpoint = tmp_path / "checkpoint-7"
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    (checkpoint / "trainer_state.json").write_text("{}")
    common = ["train", "--recipe", "debug", "--output-dir", str(tmp_path)]
    assert main(common) == 1
    assert "already holds checkpoints of another run" in capsys.readouterr().err
    assert main([*common, "--resume", "--set", "config.temperature=0.5", "ecg.scaling=none"]) == 1
    assert "trained with other settings: scaling, temperature." in capsys.readouterr().err
    assert main([*common, "--resume", "--method", "etp"]) == 1
    assert "trained with other settings" in capsys.readouterr().err
    check_same_model(str(checkpoint), model.config, processor.feature_extractor)


@pytest.mark.slow
def test_map_style_data_goes_on_in_mid_epoch_on_as_many_processes_and_in_the_same_batches_only(
    tmp_path, monkeypatch, capsys
):
    """Streamed data: `test_streaming.py`."""
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache))
    common = [*COMMON[1:-1], "training.max_steps=6", "training.use_cpu=true", "--output-dir", str(folder)]
    assert main(["train", *common]) == 0  # checkpoints at steps 3 and 6 of 8
    for name in ("trainer_state.json", "model.safetensors", "config.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-6")
    resumed = [*common, "--resume"]
    capsys.readouterr()
    for changed, told in (
        ({"per_device_train_batch_size": 16}, "steps_per_epoch=4 (was 8)"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 (was 1)"),
        ({"data_seed": 4}, "seed=4 (was 0)"),
    ):
        settings = [f"training.{name}={value}" for name, value in changed.items()]
        assert main(["train", *resumed[:-3], *settings, *resumed[-3:]]) == 1
        assert told in capsys.readouterr().err
    # Two processes with the same joined batch: as many steps, but other records in each.
    halved = [*resumed[:-3], "training.per_device_train_batch_size=4", *resumed[-3:]]
    finished = try_to_launch(["train.py", *halved], cache, num_processes=2)
    assert finished.returncode != 0
    assert "middle of an epoch of another order of the records: batch_size=4 (was 8), world_size=2 (was 1)" in (
        finished.stderr
    )
    assert main(["train", *resumed]) == 0
    assert "Trained 6 steps" in capsys.readouterr().out
