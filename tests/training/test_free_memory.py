"""How much memory may still be taken: of the machine, of a container's limit, and for each of several processes."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch
from processes import launch

from hf_ecgtext.training import free_memory as measured
from hf_ecgtext.training.free_memory import free_device_bytes, free_host_bytes, free_memory, processes_on_this_machine

WORKER = str(Path(__file__).with_name("free_memory_worker.py"))
VERSION_2 = {"limit": "memory.max", "usage": "memory.current", "cached": "inactive_file"}
VERSION_1 = {"limit": "memory.limit_in_bytes", "usage": "memory.usage_in_bytes", "cached": "total_inactive_file"}


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    """One with 10^12 bytes available, whatever runs the tests."""
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=10**12))


def make_group(folder: Path, names: dict[str, str], limit: object, usage: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names["limit"]).write_text(f"{limit}\n")
    (folder / names["usage"]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon {usage}\n{names['cached']} {cached}\nactive_file 7\n")


def test_without_control_groups_the_machine_decides(tmp_path):
    assert free_host_bytes(tmp_path, tmp_path / "none") == 10**12
    (tmp_path / "cgroup").write_text("0::/\n")
    assert free_host_bytes(tmp_path / "empty", tmp_path / "cgroup") == 10**12


@pytest.mark.parametrize(
    ("membership", "root", "names"),
    [("0::/job\n", "", VERSION_2), ("5:cpu:/else\n4:cpuset,memory:/job\n0::/\n", "memory", VERSION_1)],
    ids=["version 2", "version 1"],
)
def test_a_limit_counts_less_what_is_used_but_for_cached_files(membership, root, names, tmp_path):
    (tmp_path / "cgroup").write_text(membership)
    make_group(tmp_path / root / "job", names, limit=1000, usage=700, cached=50)
    assert free_host_bytes(tmp_path, tmp_path / "cgroup") == 350


def test_the_tightest_of_nested_limits_counts(tmp_path):
    (tmp_path / "cgroup").write_text("0::/user/job/step\n")
    make_group(tmp_path / "user", VERSION_2, limit=5000, usage=1000)
    make_group(tmp_path / "user" / "job", VERSION_2, limit=2000, usage=900)
    make_group(tmp_path / "user" / "job" / "step", VERSION_2, limit="max", usage=800)
    assert free_host_bytes(tmp_path, tmp_path / "cgroup") == 1100


def test_a_container_finds_its_own_limit_at_the_root(tmp_path):
    (tmp_path / "cgroup").write_text("0::/docker/0123456789\n")  # the path outside the container
    make_group(tmp_path, VERSION_2, limit=3000, usage=1000)
    assert free_host_bytes(tmp_path, tmp_path / "cgroup") == 2000


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_no_limit_is_none(limit, tmp_path):
    (tmp_path / "cgroup").write_text("0::/job\n4:memory:/job\n")
    make_group(tmp_path / "job", VERSION_2, limit, usage=100)
    make_group(tmp_path / "memory" / "job", VERSION_1, 2**63 - 4096, usage=100)
    assert free_host_bytes(tmp_path, tmp_path / "cgroup") == 10**12


def test_a_limit_that_is_exceeded_leaves_nothing(tmp_path):
    (tmp_path / "cgroup").write_text("0::/job\n")
    make_group(tmp_path / "job", VERSION_2, limit=100, usage=150)
    assert free_host_bytes(tmp_path, tmp_path / "cgroup") == 0


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(measured, "free_host_bytes", lambda: 800)
    for variable, processes in ((None, 1), ("4", 4)):
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        if variable is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", variable)
        assert processes_on_this_machine() == processes
        assert free_memory(torch.device("cpu")) == measured.FreeMemory(800 // processes, 800 // processes)
        assert free_memory(torch.device("meta")) == measured.FreeMemory(None, 800 // processes)


def test_this_machine_can_be_measured(monkeypatch):
    monkeypatch.undo()
    assert 0 < free_host_bytes() <= psutil.virtual_memory().total
    assert free_device_bytes(torch.device("meta")) is None


@pytest.mark.slow
def test_two_processes_decide_by_the_least_that_any_has(tmp_path):
    launch([WORKER, str(tmp_path)], tmp_path, num_processes=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1] == {"known": [300, 50], "unknown": [None, 50], "known to one": [300, 50], "machine": 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_that_torch_keeps_in_reserve_counts_as_free_on_cuda():
    device = torch.device("cuda")
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    before = free_device_bytes(device)
    del held
    assert free_device_bytes(device) - before >= 2**28
