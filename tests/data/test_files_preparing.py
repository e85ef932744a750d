"""A whole dataset prepared from a folder, from archives and from a server is the same; faults end in a clear list."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from download_fixtures import files_below, tar_of, zip_of
from file_server import Fault, FileServer
from make_mimic import MimicStudy, write_mimic_tree

from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.files.remote import RemoteSettings
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.mimic_iv_ecg import MimicIvEcg

pytestmark = pytest.mark.slow

QUICK = RemoteSettings(timeout_s=0.3, attempts=3, backoff_s=0.01)


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> tuple[Path, list[MimicStudy]]:
    folder = tmp_path_factory.mktemp("original") / "mimic"
    return folder, write_mimic_tree(folder, 80, num_samples=500)


@pytest.fixture(scope="module")
def expected(download, tmp_path_factory) -> dict[str, bytes]:
    """What comes of the folder."""
    out = tmp_path_factory.mktemp("expected") / "out"
    prepare(open_source("mimic_iv_ecg", download[0], min_words=0), out, workers=1, progress=False)
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    return {path: file.read_bytes() for path, file in files_below(out).items() if not path.startswith(".work")}


@pytest.mark.parametrize(("kind", "workers"), [("zip", 1), ("tar.gz", 2), ("http", 1), ("http zip", 2)])
def test_a_dataset_prepared_from_anywhere_is_that_of_the_folder(kind, workers, download, expected, tmp_path):
    folder = download[0]
    zip_of(folder, tmp_path / "m.zip")
    tar_of(folder, tmp_path / "m.tar.gz", "w:gz")
    with FileServer(folder, pages=False) as server, FileServer(tmp_path) as packed:
        places = {"http": server.url, "http zip": f"{packed.url}/m.zip"}
        location = places.get(kind, tmp_path / f"m.{kind}")
        source = open_source("mimic_iv_ecg", location, scratch=tmp_path / "scratch", min_words=0)
        prepare(source, tmp_path / "out", workers=workers, progress=False)
    assert any(path.endswith(".parquet") for path in expected)
    assert written(tmp_path / "out") == expected


def test_files_a_server_cannot_give_are_skipped_by_name_and_reason(download, tmp_path):
    folder, studies = download
    with FileServer(folder) as server:
        kinds = [
            Fault("stall", 1),
            Fault("drop", 2),
            Fault(503, 1),
            Fault("stall"),
            Fault("drop"),
            Fault(503),
            Fault(404),
        ]
        for study, fault in zip(studies[10:], kinds, strict=False):
            server.faults[f"{study.path}.dat"] = fault
        source = MimicIvEcg(open_tree(server.url, remote=QUICK), min_words=0)
        manifest = prepare(source, tmp_path / "out", workers=1, progress=False)
    assert sum(manifest.num_records(split) for split in manifest.splits) == len(studies) - 4
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        reasons = {row["record"]: row["problem"] for row in csv.DictReader(file)}
    kept = [str(study.study_id) for study in studies[13:17]]
    assert sorted(reasons) == sorted(kept)
    for record, words in zip(kept, ["go on in time", "3 attempts", "answered 503", "is missing"], strict=True):
        assert words in reasons[record]
        assert f"{record}.dat" in reasons[record]
