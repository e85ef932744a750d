"""Fixtures shared by every test folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported, for this process and those that tests start: as many workers as cores, each with as many
    # threads as cores, wait for each other most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def papers() -> Path:
    """The folder of the papers' text, or a skip where it is absent."""
    return _folder("HF_ECGTEXT_PAPERS", REPOSITORY.parent / "shared" / "papers", "papers")


@pytest.fixture(scope="session")
def synthetic_dataset():
    """96 synthetic records at 100 Hz, as training reads them."""
    from datasets import Dataset

    from hf_ecgtext.data.sources.synthetic import SYNTHETIC_FEATURES
    from hf_ecgtext.data.store.schema import EcgDataset, record_to_row, rows_to_table
    from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

    records = SyntheticEcgGenerator(seed=0, sampling_rate_hz=100.0).records(96)
    return EcgDataset(Dataset(rows_to_table([record_to_row(record) for record in records], SYNTHETIC_FEATURES)))


@pytest.fixture(scope="session")
def merl_folder(tmp_path_factory) -> Path:
    """A saved, untrained MERL of the debug recipe with its processor."""
    from hf_ecgtext.methods import get_recipe

    folder = tmp_path_factory.mktemp("merl")
    model, processor = get_recipe("merl", "debug").build(seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
