"""Recordings that a dataset holds twice are found by `prepare`, whatever they are called and however they are split."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from make_mimic import write_mimic_tree
from reading_fixtures import random_adc, write_record

from hf_ecgtext.data.prepare.equal_recordings import EQUAL_RECORDINGS_FILE, recording_digest
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.merl_splits import read_split_list


def write(folder: Path, name: str, seed: int, dx: str, scale: str = "1000/mV", change: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    adc = random_adc(num_samples=500, seed=seed)
    adc[7, 123] += change
    comments = ["#Age: 34", "#Sex: Male", f"#Dx: {dx}"]
    write_record(folder, name, adc, storage="16+24", extension=".mat", scale=scale, comments=comments)


def groups_of(out: Path) -> list[tuple[str, ...]]:
    with (out / EQUAL_RECORDINGS_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = sorted({row["group"] for row in rows}, key=int)
    return [tuple(row["record_id"] for row in rows if row["group"] == number) for number in numbers]


def counts_of(out: Path) -> dict[str, int]:
    return json.loads((out / "prepared.json").read_text())["summary"]["equal_recordings"]


def written_csn(folder: Path) -> None:
    """Two equal Chapman records of one diagnosis, three equal ones across both parts of two, and near misses."""
    write(folder, "JS00010", 1, "426783006")
    write(folder, "JS00011", 1, "426783006")
    write(folder, "JS00020", 2, "426783006")
    write(folder, "JS20020", 2, "427084000")
    write(folder, "JS20021", 2, "426783006")
    write(folder, "JS00030", 3, "426783006")
    write(folder, "JS00031", 3, "426783006", change=1)
    write(folder, "JS00032", 3, "426783006", scale="500/mV")


@pytest.mark.parametrize(
    ("source", "subfolder", "workers"), [("csn", "WFDBRecords", 1), ("csn", "WFDBRecords", 2), ("cinc2021", "", 1)]
)
def test_equal_recordings_are_named_with_what_their_copies_disagree_about(tmp_path, source, subfolder, workers):
    written_csn(tmp_path / "download" / subfolder)
    options = {"split_of_others": "train"} if source == "csn" else {}
    out = tmp_path / "out"
    source = open_source(source, tmp_path / "download", **options)
    prepare(source, out, workers=workers, records_per_shard=64, progress=False)
    assert {frozenset(group) for group in groups_of(out)} == {
        frozenset({"JS00010", "JS00011"}),
        frozenset({"JS00020", "JS20020", "JS20021"}),
    }
    counts = counts_of(out)
    assert (counts["groups"], counts["records"], counts["different_labels"]) == (2, 5, 1)
    assert (counts["different_patients"], counts["different_reports"]) == (2, 0)
    card = (out / "README.md").read_text()
    assert (
        "5 records hold the same samples as another one (equal_recordings.csv), in 2 groups: 1 with different" in card
    )
    assert "JS00010 = JS00011" in card or "JS00011 = JS00010" in card


def test_copies_in_different_splits_are_counted_and_say_where_they_are(tmp_path):
    published = read_split_list("csn")
    train, test = (next(name for name, split in published.items() if split == wanted) for wanted in ("train", "test"))
    for name in (train, test):
        write(tmp_path / "download", name, 5, "426783006")
    prepare(open_source("csn", tmp_path / "download"), tmp_path / "out", workers=1, progress=False)
    assert counts_of(tmp_path / "out")["different_splits"] == 1
    with (tmp_path / "out" / EQUAL_RECORDINGS_FILE).open(newline="") as file:
        assert {row["record_id"]: row["split"] for row in csv.DictReader(file)} == {train: "train", test: "test"}


def test_different_reports_of_equal_recordings_are_counted_and_nothing_is_said_where_all_differ(tmp_path):
    studies = write_mimic_tree(tmp_path / "mimic", 30, num_samples=40, short_reports=0.0)
    options = {"validation_fraction": 0.1, "test_fraction": 0.1}
    prepare(open_source("mimic_iv_ecg", tmp_path / "mimic", **options), tmp_path / "before", workers=1, progress=False)
    assert counts_of(tmp_path / "before")["groups"] == 0
    assert not (tmp_path / "before" / EQUAL_RECORDINGS_FILE).exists()
    assert "same samples" not in (tmp_path / "before" / "README.md").read_text()

    one = studies[0]
    other = next(study for study in studies if study.report != one.report and study.subject_id != one.subject_id)
    paths = {path.stem: path for path in (tmp_path / "mimic" / "files").rglob("*.dat")}
    source, target = paths[str(one.study_id)], paths[str(other.study_id)]
    target.write_bytes(source.read_bytes())
    lines = source.with_suffix(".hea").read_text().replace(str(one.study_id), str(other.study_id))
    target.with_suffix(".hea").write_text(lines.replace(str(one.subject_id), str(other.subject_id)))
    prepare(open_source("mimic_iv_ecg", tmp_path / "mimic", **options), tmp_path / "after", workers=1, progress=False)
    counts = counts_of(tmp_path / "after")
    assert (counts["records"], counts["different_reports"], counts["different_labels"]) == (2, 1, 0)


def test_the_digest_is_of_samples_gains_leads_and_rate():
    row = {"lead_names": ["I", "II"], "sampling_rate_hz": 500.0, "sample_type": "int16"}
    row |= {"gain_per_mv": np.array([1000.0, 1000.0]), "baseline": np.array([0, 0])}
    samples = np.arange(20, dtype=np.int16)
    digest = recording_digest(row, samples)
    assert digest == recording_digest({**row, "record_id": "another", "lead_names": ("I", "II")}, samples.copy())
    for other in (
        {"lead_names": ["II", "I"]},
        {"sampling_rate_hz": 250.0},
        {"gain_per_mv": [1000.0, 500.0]},
        {"baseline": [0, 1]},
    ):
        assert recording_digest({**row, **other}, samples) != digest
    assert recording_digest(row, samples[::-1].copy()) != digest
