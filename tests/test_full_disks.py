"""Files that may grow no further: whatever a command writes, the message says which file it was and what to do."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_ecgtext.evaluation.encoders.feature_cache import _mapped_file
from hf_ecgtext.io import NoRoomError, full_disk_named, written_whole


@contextmanager
def room_for(num_bytes: int):
    """No file of this process may grow larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_does_not_fit_is_named_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "folder" / "page.html"
    with (
        room_for(1000),
        pytest.raises(NoRoomError, match=rf"no room to save this.*'{target}'"),
        written_whole(target) as file,
    ):
        file.write_text("x" * 5000)
    assert not list(target.parent.iterdir())


def test_an_array_that_is_mapped_gets_all_its_room_first(tmp_path):
    with room_for(100_000), pytest.raises(OSError):
        _mapped_file(tmp_path / "features.npy", (1000, 64))
    array = _mapped_file(tmp_path / "features.npy", (1000, 64))
    file = tmp_path / "features.npy"
    assert file.stat().st_blocks * 512 >= file.stat().st_size >= 256_000
    array[-1] = 7.0
    array.flush()
    assert np.load(file)[-1].tolist() == [7.0] * 64


def test_an_array_gets_its_room_where_the_system_cannot_give_it_at_once(tmp_path, monkeypatch):
    expected = np.array(_mapped_file(tmp_path / "one.npy", (5, 3)))
    monkeypatch.delattr("os.posix_fallocate")
    assert (_mapped_file(tmp_path / "other.npy", (5, 3)) == expected).all()
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()


def test_safetensors_and_answers_are_named(tmp_path):
    values = np.random.default_rng(0).normal(size=50_000)
    file = tmp_path / "model.safetensors"
    message = r"Delete something.*model\.safetensors"
    with room_for(10_000), pytest.raises(NoRoomError, match=message), full_disk_named(file, "Delete something"):
        save_file({"weight": values}, file)
    ranks = np.arange(50_000, dtype=np.float64)
    with (
        room_for(10_000),
        pytest.raises(NoRoomError, match=r"ranks\.npz"),
        written_whole(tmp_path / "ranks.npz") as unfinished,
        unfinished.open("wb") as opened,
    ):
        np.savez_compressed(opened, values=values, ranks=ranks)
    assert not (tmp_path / "ranks.npz").exists()


def test_other_errors_keep_their_own_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing here"), full_disk_named(tmp_path, "advice"):
        raise FileNotFoundError("nothing here")
    with pytest.raises(RuntimeError, match="shapes"), full_disk_named(tmp_path, "advice"):
        raise RuntimeError("shapes")
