from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from make_mimic import MimicStudy, write_mimic_tree, write_waveform

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import INVALID_SAMPLE
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.store.manifest import read_manifest
from hf_ecgtext.data.store.schema import decode_table


def edit(extension: str, change):
    def damage(path: Path) -> None:
        file = path.with_suffix(extension)
        file.write_bytes(change(file.read_bytes()))

    return damage


def replace(old: str, new: str, count: int = -1):
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), count)

    return edit(".hea", change)


def remove(extension: str):
    return lambda path: path.with_suffix(extension).unlink()


def replace_by_folder(path: Path) -> None:
    path.with_suffix(".dat").unlink()
    path.with_suffix(".dat").mkdir()


# Each damage, and what the list of skipped records must say of it.
FAULTS = {
    "no signal file": (remove(".dat"), "dat' is missing"),
    "no header": (remove(".hea"), "hea' is missing"),
    "a folder in place of the signal": (replace_by_folder, "dat' cannot be read"),
    "a truncated signal": (edit(".dat", lambda content: content[:-10]), "bytes; 12 leads of 30"),
    "a signal that is too long": (edit(".dat", lambda content: content + b"\0" * 24), "bytes; 12 leads of 30"),
    "an empty signal": (edit(".dat", lambda content: b""), "bytes; 12 leads of 30"),
    "a changed sample": (edit(".dat", lambda content: bytes([content[0] ^ 1]) + content[1:]), "header's checksum"),
    "an empty header": (edit(".hea", lambda content: b""), "no record line"),
    "a header of random bytes": (edit(".hea", lambda content: bytes(range(256))), "of its header"),
    "an unknown unit": (replace("/mV", "/mmHg"), "lead I is in 'mmHg'"),
    "a lead that is named twice": (replace(" V6\n", " V5\n"), "names V5 more than once"),
    "a gain that is no number": (replace(" 200.0(0)/mV", " nan/mV"), "does not follow the WFDB format"),
    "a gain that cannot be right": (replace(" 200.0(0)/mV", " 1e300/mV"), "has the gain 1e300/mV"),
    "another format": (replace(" 16 200", " 212 200"), "WFDB format 212, not 16"),
    "an unknown format": (replace(" 16 200", " 99 200"), "WFDB format 99, not 16"),
    "several segments": (replace(" 12 500", "/2 12 500", 1), "multi-segment"),
    "no leads": (replace(" 12 500", " 0 500", 1), "announces no leads"),
    "one lead less": (replace(" 12 500", " 11 500", 1), "11 leads of 30 samples in format 16"),
    "a rate of 0": (replace(" 12 500", " 12 0", 1), "sampling rate of 0 Hz cannot be"),
    "a signal file elsewhere": (replace(".dat 16", ".dat/../../x.dat 16"), "may lie outside"),
    "the header of another subject": (replace("<subject_id>: 1", "<subject_id>: 2"), "header is of subject"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> tuple[Path, list[MimicStudy]]:
    """1,000 records; every report is long enough to stay."""
    folder = tmp_path_factory.mktemp("mimic")
    return folder, write_mimic_tree(folder, 1000, num_samples=30, short_reports=0.0)


def run(folder: Path, out: Path, **options):
    source = open_source("mimic_iv_ecg", folder, min_words=0, **options)
    return prepare(source, out, workers=1, records_per_shard=256, progress=False)


def skipped(out: Path) -> list[dict[str, str]]:
    with (out / "skipped.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def samples(out: Path) -> dict[str, np.ndarray]:
    return {
        row["record_id"]: row["samples"]
        for shards in read_manifest(out).splits.values()
        for shard in shards
        for row in decode_table(pq.read_table(out / shard.file))
    }


def test_every_fault_in_one_per_cent_of_the_records_skips_exactly_those_and_says_why(tree, tmp_path):
    folder, studies = tree
    chosen = np.random.default_rng(0).permutation(len(studies))[: 10 * len(FAULTS)].reshape(len(FAULTS), 10)
    expected = {}
    for (damage, reason), numbers in zip(FAULTS.values(), chosen, strict=True):
        for number in numbers:
            damage(folder / studies[number].path)
            expected[str(studies[number].study_id)] = reason
    try:
        manifest = run(folder, tmp_path / "out")
    finally:
        for number in chosen.ravel():
            shutil.rmtree((folder / studies[number].path).parent)
            write_waveform(folder, studies[number])

    listed = skipped(tmp_path / "out")
    assert len(listed) == manifest.summary["skipped"] == 10 * len(FAULTS)
    in_tables = [str(study.study_id) for study in studies]
    assert [row["record"] for row in listed] == [name for name in in_tables if name in expected], "in the tables' order"
    for row in listed:
        assert expected[row["record"]] in row["problem"], row
        assert row["fix"]
    prepared = samples(tmp_path / "out")
    assert prepared.keys() == set(in_tables) - expected.keys()
    for study in studies:
        if str(study.study_id) in prepared:
            np.testing.assert_array_equal(prepared[str(study.study_id)], study.adc())


def test_a_record_that_is_skipped_leaves_no_gap_in_the_row_groups(tree, tmp_path):
    folder, studies = tree
    damaged = studies[::7]
    for study in damaged:
        (folder / study.path).with_suffix(".dat").rename((folder / study.path).with_suffix(".away"))
    try:
        manifest = run(folder, tmp_path / "out")
    finally:
        for study in damaged:
            (folder / study.path).with_suffix(".away").rename((folder / study.path).with_suffix(".dat"))
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        metadata = pq.ParquetFile(tmp_path / "out" / shard.file).metadata
        sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        assert sizes == [64] * (shard.records // 64) + [shard.records % 64] * (shard.records % 64 > 0)
    assert manifest.summary["skipped"] == len(damaged)


def test_a_shard_without_usable_records_is_dropped_and_the_others_are_numbered_without_it(tree, tmp_path):
    folder, studies = tree
    source = open_source("mimic_iv_ecg", folder, min_words=0, validation_fraction=0.4, test_fraction=0.0)
    split = dict(
        zip(*(source.index().records.column(name).to_pylist() for name in ("record_id", "split")), strict=True)
    )
    validation = [study for study in studies if split[str(study.study_id)] == "validation"]
    assert len(validation) > 256 + 10
    for study in validation[:256]:  # the first shard of this split, which keeps the order of the tables
        (folder / study.path).with_suffix(".dat").rename((folder / study.path).with_suffix(".away"))
    try:
        manifest = run(folder, tmp_path / "out", validation_fraction=0.4, test_fraction=0.0)
    finally:
        for study in validation[:256]:
            (folder / study.path).with_suffix(".away").rename((folder / study.path).with_suffix(".dat"))
    count = -(-len(validation) // 256) - 1
    assert [shard.file for shard in manifest.splits["validation"]] == [
        f"data/validation-{number:05d}-of-{count:05d}.parquet" for number in range(count)
    ]
    assert manifest.num_records("validation") == len(validation) - 256
    assert "test" not in manifest.splits


def test_missing_samples_are_stored_and_skipped_only_where_asked_for(tmp_path):
    studies = write_mimic_tree(tmp_path / "tree", 20, num_samples=30, short_reports=0.0)
    adc = studies[3].adc()
    adc[2, 5:9] = INVALID_SAMPLE
    write_waveform(tmp_path / "tree", studies[3], adc)
    run(tmp_path / "tree", tmp_path / "kept")
    np.testing.assert_array_equal(samples(tmp_path / "kept")[str(studies[3].study_id)], adc)
    run(tmp_path / "tree", tmp_path / "dropped", drop_nan=True)
    assert [row["record"] for row in skipped(tmp_path / "dropped")] == [str(studies[3].study_id)]


@pytest.mark.parametrize("table", ["record_list.csv", "machine_measurements.csv"])
def test_a_missing_table_is_named_and_nothing_is_left_behind(tmp_path, table):
    write_mimic_tree(tmp_path / "tree", 20, num_samples=5)
    (tmp_path / "tree" / table).unlink()
    with pytest.raises(FileNotFoundError, match=table):
        run(tmp_path / "tree", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("table", ["record_list.csv", "machine_measurements.csv"])
def test_a_record_that_a_table_names_twice_is_refused_by_its_id(tmp_path, table):
    studies = write_mimic_tree(tmp_path / "tree", 20, num_samples=5)
    lines = (tmp_path / "tree" / table).read_text().splitlines()
    row = next(line for line in lines if f",{studies[4].study_id}," in line)
    (tmp_path / "tree" / table).write_text("\n".join([*lines, row, ""]))
    with pytest.raises(ValueError, match=str(studies[4].study_id)):
        run(tmp_path / "tree", tmp_path / "out")


def test_ids_are_checked_whatever_the_source_does(tmp_path, monkeypatch):
    write_mimic_tree(tmp_path / "tree", 20, num_samples=5)
    source = open_source("mimic_iv_ecg", tmp_path / "tree", min_words=0)
    index = source.index()
    twice = index.__class__(index.records.take([0, 1, 1]))
    monkeypatch.setattr(source, "index", lambda: twice)
    name = index.records.column("record_id")[1].as_py()
    with pytest.raises(ValueError, match=f"name '{name}' more than once"):
        prepare(source, tmp_path / "out", workers=1, progress=False)
