"""Fixtures shared by every test folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found at {folder}; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings, or a skip where it is absent."""
    return _folder("HF_ECGTEXT_DATA", REPOSITORY.parent / "shared" / "data", "real recordings")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of parity files, or a skip where it is absent."""
    return _folder("HF_ECGTEXT_GOLDEN", REPOSITORY.parent / "shared" / "golden", "parity files")
