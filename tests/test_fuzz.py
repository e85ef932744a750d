"""A small draw of `benchmarks/fuzz.py`, whose full run is counted in docs/reliability.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# wfdb, which reads formats other than 16, sets values in place.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


@pytest.fixture(scope="module")
def fuzz():
    specification = importlib.util.spec_from_file_location("fuzz", ROOT / "benchmarks" / "fuzz.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def bad(ends) -> list[str]:
    return [name for name in ends if name.startswith("  ")]


def test_malformed_recordings_are_refused_or_read(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "REAL_DATA", tmp_path / "none")
    monkeypatch.setattr(fuzz.signal, "setitimer", lambda *_: None)  # pytest's own process is not for alarms
    ends = fuzz.fuzz_recordings(0, 80, tmp_path)
    assert not bad(ends)
    assert sum(ends.values()) == 80
    assert ends["refused"] > 40
    assert ends["read, the same"] > 0


def test_flipped_bits_and_cuts_of_shards_are_named(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tests" / "data")])
    ends = fuzz.fuzz_shards(0, 2, tmp_path)
    assert not bad(ends)
    assert sum(ends.values()) == 3 * 3 * 2
    assert ends["none, folder: named"] == ends["zstd, cut while open: named"] == 2


def test_what_must_not_happen_is_told(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "REAL_DATA", tmp_path / "none")
    monkeypatch.setattr(fuzz.signal, "setitimer", lambda *_: None)
    read = fuzz.read_record

    def read_wrongly(path):
        if path.parent.name == "originals":
            return read(path)
        raise OverflowError("no error of ours")

    monkeypatch.setattr(fuzz, "read_record", read_wrongly)
    ends = fuzz.fuzz_recordings(0, 3, tmp_path)
    assert ends["foreign"] == 3
    assert "OverflowError" in bad(ends)[0]
