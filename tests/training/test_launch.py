"""Launches in which processes would not know of each other are refused, and so is a second training into one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import REPOSITORY, environment

from hf_ecgtext.training.launch import check_launch
from hf_ecgtext.training.output_lock import LOCK_FILE, found_by_main_process, locked_output

TRAIN = ["train.py", "--method", "etp", "--recipe", "debug", "--no-zero-shot", "--data-set", "num_records=80"]


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_SIZE": "3", "WORLD_SIZE": "1"},
        {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "True"},
    ],
)
def test_a_lonely_process_of_several_is_refused_with_the_command_to_use(variables):
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU=true torchrun --nproc_per_node"):
        check_launch(1, variables)


@pytest.mark.parametrize(
    ("world_size", "variables"),
    [
        (1, {}), (2, {"WORLD_SIZE": "2"}), (1, {"WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}),
        (1, {"MASTER_ADDR": "node1"}), (1, {"ACCELERATE_MIXED_PRECISION": "no"}), (1, {"WORLD_SIZE": ""}),
        (1, {"WORLD_SIZE": "1", "ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}),
    ],
)  # fmt: skip
def test_launches_in_which_all_is_well_pass(world_size, variables):
    check_launch(world_size, variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "told"),
    [
        (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], "2 processes were launched"),
        (
            ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"],
            "asked for several processes and started one",
        ),
    ],
)
def test_real_launchers_that_leave_processes_alone_are_refused_before_anything_is_written(launcher, told, tmp_path):
    variables = environment(tmp_path / "cache")
    del variables["ACCELERATE_USE_CPU"]
    output = tmp_path / "out"
    finished = subprocess.run(
        [sys.executable, *launcher, *TRAIN, "--output-dir", str(output)],
        cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode != 0
    assert told in finished.stderr
    assert not list(output.glob("**/*.safetensors"))


@pytest.mark.slow
def test_a_second_training_into_one_folder_is_refused_and_a_kill_releases_it(tmp_path):
    program = (
        "import sys, time\n"
        "from hf_ecgtext.training.output_lock import locked_output\n"
        "with locked_output(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileExistsError, match="Another training is writing into"), locked_output(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    deadline = time.monotonic() + 30
    while True:
        try:
            with locked_output(tmp_path), locked_output(tmp_path):  # once more by who has it
                break
        except FileExistsError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_lock_is_free_behind_the_block_even_after_an_error(tmp_path):
    def fail():
        with locked_output(tmp_path / "new"):
            assert (tmp_path / "new" / LOCK_FILE).is_file()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    with locked_output(tmp_path / "new"):
        pass


def test_one_process_finds_for_itself():
    assert found_by_main_process(lambda: 7) == 7
