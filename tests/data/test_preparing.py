from __future__ import annotations

import csv
import hashlib
import json
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash
from failing_trees import FailingTree
from filelock import FileLock
from make_mimic import write_mimic_tree

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.mimic_iv_ecg import MimicIvEcg
from hf_ecgtext.data.store.manifest import ROWS_PER_GROUP, read_manifest
from hf_ecgtext.data.store.schema import decode_table
from hf_ecgtext.errors import PreparationError

SETTINGS = {"records_per_shard": 128, "progress": False}
OPTIONS = {"validation_fraction": 0.1, "test_fraction": 0.1}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """600 short records in a layout like MIMIC-IV-ECG's, and what is in them."""
    folder = tmp_path_factory.mktemp("mimic")
    return folder, write_mimic_tree(folder, 600, num_samples=40)


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory) -> Path:
    """The tree, prepared by one process without interruption."""
    out = tmp_path_factory.mktemp("prepared") / "mimic"
    prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
    return out


def source_of(folder: Path, **options):
    return open_source("mimic_iv_ecg", folder, **{**OPTIONS, **options})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> list[dict]:
    return [
        row
        for shards in read_manifest(folder).splits.values()
        for shard in shards
        for row in decode_table(pq.read_table(folder / shard.file))
    ]


def test_every_record_is_there_once_with_its_own_samples_report_and_patient(tree, prepared):
    kept = {str(study.study_id): study for study in tree[1] if len(study.report.split()) >= 4}
    rows = {row["record_id"]: row for row in rows_of(prepared)}
    assert rows.keys() == kept.keys()
    for record_id, row in rows.items():
        np.testing.assert_array_equal(row["samples"], kept[record_id].adc())
        assert row["report"] == kept[record_id].report
        assert row["patient_id"] == str(kept[record_id].subject_id)


def test_shards_have_their_final_names_full_row_groups_and_the_checksums_of_the_manifest(prepared):
    manifest = read_manifest(prepared)
    assert set(manifest.splits) == {"train", "validation", "test"}
    assert len(manifest.splits["train"]) > 2
    for split, shards in manifest.splits.items():
        for number, shard in enumerate(shards):
            assert shard.file == f"data/{split}-{number:05d}-of-{len(shards):05d}.parquet"
            content = (prepared / shard.file).read_bytes()
            assert xxhash.xxh3_128(content).hexdigest() == shard.xxh3_128
            file = pq.ParquetFile(prepared / shard.file)
            groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            assert sum(groups) == shard.records
            assert all(size == ROWS_PER_GROUP for size in groups[:-1])
            if number < len(shards) - 1:
                assert shard.records == 128


def test_only_what_belongs_there_is_in_the_folder(prepared):
    names = {path.split("/")[0] for path in contents(prepared)}
    assert names == {"data", "README.md", "skipped.csv", "left_out.csv", "prepared.json"}


def test_train_records_are_in_the_order_of_their_hashes_and_the_others_in_the_order_of_the_tables(tree, prepared):
    manifest = read_manifest(prepared)
    order = {
        split: [name for s in shards for name in pq.read_table(prepared / s.file, columns=["record_id"])[0].to_pylist()]
        for split, shards in manifest.splits.items()
    }
    assert order["train"] == sorted(
        order["train"], key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest()
    )
    in_tables = [str(study.study_id) for study in tree[1]]
    for split in ("validation", "test"):
        assert order[split] == [name for name in in_tables if name in set(order[split])]


def test_the_summary_counts_what_is_in_the_files(tree, prepared):
    summary = read_manifest(prepared).summary
    rows = rows_of(prepared)
    counted = summary["splits"].values()
    assert sum(split["records"] for split in counted) == len(rows)
    assert sum(split["patients"] for split in counted) == len({row["patient_id"] for row in rows})
    assert summary["splits"]["train"]["length_s"] == [0.08, 0.08, 0.08]
    assert summary["splits"]["train"]["sampling_rates_hz"] == {"500": summary["splits"]["train"]["records"]}
    assert summary["splits"]["train"]["lead_sets"] == {
        "I, II, III, aVR, aVF, aVL, V1, V2, V3, V4, V5, V6": summary["splits"]["train"]["records"]
    }
    assert summary["left_out"] == len(tree[1]) - len(rows)
    assert summary["skipped"] == 0
    with (prepared / "left_out.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == summary["left_out"]


def test_the_card_has_licence_access_citation_splits_and_counts(prepared):
    card = (prepared / "README.md").read_text(encoding="utf-8")
    train = read_manifest(prepared).summary["splits"]["train"]["records"]
    for text in ("license: odbl", "path: data/train-*", "https://physionet.org/content/mimic-iv-ecg/1.0/", "@misc{"):
        assert text in card
    assert f" {train:,} |" in card.partition("## Records")[2]
    assert str(prepared) not in card


def test_plain_load_dataset_reads_the_folder(prepared, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset(str(prepared), cache_dir=str(tmp_path))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {
        split: read_manifest(prepared).num_records(split) for split in loaded
    }


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_shards_hold_the_same_rows(tree, prepared, tmp_path, compression):
    prepare(source_of(tree[0]), tmp_path / "out", workers=1, compression=compression, **SETTINGS)
    for row, expected in zip(rows_of(tmp_path / "out"), rows_of(prepared), strict=True):
        np.testing.assert_array_equal(row["samples"], expected["samples"])
        assert row["record_id"] == expected["record_id"]


def test_nothing_is_written_outside_the_folder(tree, tmp_path, monkeypatch):
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = contents(tree[0]).keys()
    prepare(source_of(tree[0]), tmp_path / "out", workers=1, **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "out"]
    assert list(elsewhere.iterdir()) == []
    assert contents(tree[0]).keys() == before


# Interruptions


def interrupted(tree, out: Path, flag: Path, number: int, failure: str, match: str, error=PreparationError, workers=1):
    """A run that ends in the middle, as its message says; returns the shards that are finished."""
    flag.touch()
    with pytest.raises(error, match=match):
        prepare(MimicIvEcg(FailingTree(tree[0], flag, number, failure), **OPTIONS), out, workers=workers, **SETTINGS)
    flag.unlink()
    assert not (out / "prepared.json").exists()
    return {path.name: path.stat().st_ino for path in (out / ".work" / "shards").glob("*.parquet")}


@pytest.mark.parametrize("number", [0, 130, 400])
def test_a_stopped_run_keeps_its_shards_and_the_next_one_ends_the_same(tree, prepared, tmp_path, number):
    out = tmp_path / "out"
    kept = interrupted(
        tree, out, tmp_path / "flag", number, "interrupt", f"{number // 128} of . shards are kept", KeyboardInterrupt
    )
    assert len(kept) == number // 128
    prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
    assert contents(out) == contents(prepared)
    inodes = {path.stat().st_ino for path in (out / "data").iterdir()}
    assert set(kept.values()) <= inodes, "finished shards are not written again"


def test_whichever_step_a_run_dies_at_the_next_one_ends_the_same(tmp_path, monkeypatch):
    write_mimic_tree(tmp_path / "tree", 90, num_samples=5)
    small = {"workers": 1, "records_per_shard": 64, "progress": False}
    prepare(source_of(tmp_path / "tree"), tmp_path / "expected", **small)

    class Killed(BaseException):
        pass

    step, last = 0, 0
    rename = Path.rename

    def rename_or_die(self, target):
        nonlocal last
        last += 1
        if last == step:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_or_die)
    while True:
        out = tmp_path / f"out-{step}"
        last, step = 0, step + 1
        try:
            prepare(source_of(tmp_path / "tree"), out, **small)
            died = False
        except Killed:
            last, died = -10_000, True
            prepare(source_of(tmp_path / "tree"), out, **small)
        assert contents(out) == contents(tmp_path / "expected"), f"step {step}"
        if not died:
            break
    assert step > 15, "index, plan, shards, notes, final names, lists, card and manifest"


def test_a_half_written_shard_never_counts(tree, prepared, tmp_path):
    out = tmp_path / "out"
    interrupted(tree, out, tmp_path / "flag", 130, "interrupt", "1 of", KeyboardInterrupt)
    shards = out / ".work" / "shards"
    (shards / "train-00001.4711.part").write_bytes(b"PAR1 half a shard")
    (shards / "train-00001.parquet").write_bytes(b"PAR1 renamed, but without its note")
    prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
    assert contents(out) == contents(prepared)


@pytest.mark.slow
def test_a_worker_that_is_killed_stops_the_run_and_two_workers_end_as_one(tree, prepared, tmp_path):
    out = tmp_path / "out"
    match = "a worker process died.*Run the same command again; . of . shards are kept"
    interrupted(tree, out, tmp_path / "flag", 100, "kill", match, workers=2)
    prepare(source_of(tree[0]), out, workers=2, **SETTINGS)
    assert contents(out) == contents(prepared)


def test_a_server_that_is_gone_stops_the_run_instead_of_skipping_everything(tree, prepared, tmp_path):
    out = tmp_path / "out"
    match = r"100 records in a row of .* cannot be read; the last: .*the server does not answer.*1 of . shards are kept"
    interrupted(tree, out, tmp_path / "flag", 140, "unreachable", match)
    prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
    assert contents(out) == contents(prepared), "records that could not be read are not skipped for good"


def test_a_download_of_tables_alone_is_refused(tmp_path):
    write_mimic_tree(tmp_path / "tree", 150, num_samples=10, waveforms=False)
    with pytest.raises(PreparationError, match=r"not one of \d+ records can be used.*is missing"):
        prepare(source_of(tmp_path / "tree"), tmp_path / "out", workers=1, **SETTINGS)
    assert not (tmp_path / "out" / "prepared.json").exists()


def test_a_file_that_may_grow_no_further_is_told_as_a_full_disk_and_the_next_run_ends_the_same(
    tree, prepared, tmp_path
):
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in (prepared / "data").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 2000, hard))
        with pytest.raises(PreparationError, match=r"disk full while writing .*free space.*\d of \d shards are kept"):
            prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(out.rglob("*.part")), "what cannot be finished does not take the space"
    prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
    assert contents(out) == contents(prepared)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_gives_a_clear_error_and_a_state_that_can_be_resumed(tree, prepared, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this container may not mount a file system")
    try:
        out = disk / "out"
        with pytest.raises(PreparationError, match=r"disk full while writing .*; [1-9] of \d shards are kept"):
            prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        prepare(source_of(tree[0]), out, workers=1, **SETTINGS)
        assert contents(out) == contents(prepared)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# What is there already


def test_a_finished_folder_is_left_as_it_is(tree, prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    manifest = prepare(source_of(tree[0]), prepared, workers=1, **SETTINGS)
    assert manifest == read_manifest(prepared)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path != prepared}.items() <= before.items()


@pytest.mark.parametrize(
    ("options", "settings", "match"),
    [
        ({}, {"compression": "zstd"}, r"compression='none' \(now 'zstd'\)"),
        ({}, {"records_per_shard": 64}, r"records_per_shard=128 \(now 64\)"),
        ({}, {"order": "source"}, r"order='mixed' \(now 'source'\)"),
        ({"min_words": 0}, {}, r"min_words=4 \(now 0\)"),
    ],
)
def test_other_settings_are_refused_by_name(tree, prepared, tmp_path, options, settings, match):
    settings = {**SETTINGS, **settings}
    with pytest.raises(PreparationError, match=rf"holds mimic_iv_ecg, prepared with {match}"):
        prepare(source_of(tree[0], **options), prepared, workers=1, **settings)
    out = tmp_path / "out"
    interrupted(tree, out, tmp_path / "flag", 10, "interrupt", "0 of", KeyboardInterrupt)
    with pytest.raises(PreparationError, match=rf"holds an unfinished preparation of mimic_iv_ecg with {match}"):
        prepare(source_of(tree[0], **options), out, workers=1, **settings)


def test_other_tables_are_refused(tree, prepared, tmp_path):
    write_mimic_tree(tmp_path / "tree", 600, num_samples=40, seed=1)
    with pytest.raises(PreparationError, match="other records"):
        prepare(source_of(tmp_path / "tree"), prepared, workers=1, **SETTINGS)


def test_the_same_download_in_another_place_continues(tree, prepared, tmp_path):
    write_mimic_tree(tmp_path / "copy", 600, num_samples=40)
    out = tmp_path / "out"
    interrupted(tree, out, tmp_path / "flag", 130, "interrupt", "1 of", KeyboardInterrupt)
    prepare(source_of(tmp_path / "copy"), out, workers=1, **SETTINGS)
    assert contents(out) == contents(prepared)


def test_a_folder_with_other_files_is_refused_and_not_touched(tree, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(PreparationError, match=r"holds other files, such as 'thesis\.tex'"):
        prepare(source_of(tree[0]), tmp_path, workers=1, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_cannot_write_one_folder(tree, tmp_path):
    (tmp_path / ".work").mkdir()
    with FileLock(tmp_path / ".work" / "lock"), pytest.raises(PreparationError, match="another process is preparing"):
        prepare(source_of(tree[0]), tmp_path, workers=1, **SETTINGS)


def test_a_shard_that_is_changed_before_the_end_is_noticed(tree, tmp_path):
    out = tmp_path / "out"
    interrupted(tree, out, tmp_path / "flag", 130, "interrupt", "1 of", KeyboardInterrupt)
    (out / ".work" / "shards" / "train-00000.parquet").write_bytes(b"")
    with pytest.raises(PreparationError, match=r"was changed or removed\. Remove"):
        prepare(source_of(tree[0]), out, workers=1, **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"records_per_shard": 0}, "records_per_shard must be positive"),
        ({"workers": 0}, "workers must be positive"),
        ({"compression": "gzip"}, "compression must be one of none, lz4, zstd, not 'gzip'"),
        ({"order": "random"}, "order must be one of mixed, source, not 'random'"),
    ],
)
def test_settings_out_of_range_are_refused(tree, tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        prepare(source_of(tree[0]), tmp_path / "out", **{**SETTINGS, "workers": 1, **settings})


def test_records_per_shard_are_rounded_up_to_whole_row_groups(tree, tmp_path):
    manifest = prepare(source_of(tree[0]), tmp_path / "out", workers=1, records_per_shard=65, progress=False)
    assert manifest.splits["train"][0].records == 128


def test_the_manifest_names_no_place_and_no_time(prepared, tree):
    text = (prepared / "prepared.json").read_text(encoding="utf-8")
    assert str(tree[0]) not in text
    assert str(prepared) not in text
    assert set(json.loads(text)) == {
        "schema_version", "name", "version", "source_options", "fingerprint", "library_version", "compression",
        "splits", "tasks", "summary",
    }  # fmt: skip
