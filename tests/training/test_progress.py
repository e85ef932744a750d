"""What a training prints: one line per log, a bar in a terminal alone, and the next command."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from hf_ecgtext.training.progress import log_line
from hf_ecgtext_cli.main import build_parser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "train.py", "--method", "etp", "--recipe", "debug", "--data-set", "num_records=200",
           "--prompts", "plain", "--set", "training.max_steps=4", "training.logging_steps=2",
           "training.eval_strategy=epoch", "training.save_strategy=steps", "training.save_steps=2"]  # fmt: skip


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {"loss": 3.278, "cma": 2.1, "uma": 1.178, "grad_norm": 7.61, "learning_rate": 2.6e-3, "epoch": 0.25},
            "step  5/30  epoch 0.25  loss 3.278 (cma 2.1, uma 1.178)  learning rate 0.0026  gradient norm 7.61",
        ),
        (
            {"eval_loss": 2.5, "eval_cma": 2.5, "eval_runtime": 1.0, "eval_steps_per_second": 3.0, "epoch": 1.0},
            "step  5/30  epoch 1.00  validation loss 2.5 (cma 2.5)",
        ),
        ({"eval_score": 0.91, "epoch": 2.0}, "step  5/30  epoch 2.00  validation score 0.91"),
        (
            {"train_runtime": 11.8, "train_samples_per_second": 40.6, "train_steps_per_second": 2.5, "train_loss": 2.9},
            "11.8 s, 40.6 records and 2.5 steps a second; mean loss 2.9",
        ),
    ],
)
def test_a_log_is_one_tidy_line(logs, line):
    assert log_line(logs, 5, 30) == line


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**os.environ, "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


def test_in_a_file_there_are_lines_alone_and_the_last_is_the_next_command(tmp_path, environment):
    command = [*COMMAND, "--output-dir", str(tmp_path / "a folder")]
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=300)  # fmt: skip
    assert finished.returncode == 0, finished.stdout
    printed = finished.stdout
    assert not [sign for sign in ("\r", "\x1b", "it/s", "Writing model shards", "{'loss'") if sign in printed]
    lines = printed.splitlines()
    assert lines[0] == "Training EtpModel on synthetic"
    titles = [line.split()[0] for line in lines[1:6]]
    assert titles == ["parameters", "records", "length", "device", "output"]
    assert "4 steps of 16 records" in lines[3]
    assert [line[:8] for line in lines if line.startswith("step ")] == ["step 2/4", "step 4/4", "step 4/4"]
    words = [shlex.split(line) for line in lines[lines.index("Next:") + 1 :]]
    assert [line[:2] for line in words] == [["hf-ecgtext", "evaluate"], ["hf-ecgtext", "classify"]]
    for line in words:
        arguments = build_parser().parse_args(line[1:])
        assert str(tmp_path / "a folder") in arguments.model
    assert build_parser().parse_args(words[0][1:]).data_set == ["num_records=200", "sampling_rate_hz=100.0"]


def test_in_a_terminal_there_is_one_bar_for_the_steps(tmp_path, environment):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # a new one has no columns
    command = [*COMMAND, "--output-dir", str(tmp_path / "out"), "--no-zero-shot"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    printed = io.BytesIO()
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the terminal is closed when its last program ends
            break
        printed.write(part)
    os.close(leader)
    assert process.wait(timeout=300) == 0
    text = printed.getvalue().decode()
    assert "Training:" in text
    assert "4/4" in text
    assert "Writing model shards" not in text
    assert "\x1b[A" not in text, "no bar is drawn below another"
