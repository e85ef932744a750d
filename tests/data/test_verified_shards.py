"""Shards that are not what `prepare` wrote are named before a record of them is used, however they are read."""

from __future__ import annotations

import json
import os
import random
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from prepared_folder import write_prepared

from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.store import verification
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.data.store.manifest import Manifest, read_manifest
from hf_ecgtext.errors import ShardError

SHARD = "data/train-00000-of-00001.parquet"
FLIPS = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A prepared folder of each compression."""
    place = tmp_path_factory.mktemp("prepared")
    for compression in ("none", "lz4", "zstd"):
        write_prepared(place / compression, {"train": (70,), "test": (6,)}, compression=compression)
    return place


@pytest.fixture(params=["none", "lz4", "zstd"])
def compressed(folders, request):
    return folders / request.param


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders / "none", tmp_path / "copy")


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """An own memory of verified files, for which a file is settled at once."""
    monkeypatch.setattr(verification.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(verification, "_SETTLED_NS", 0)
    monkeypatch.setattr(verification, "_verified", set())
    read = []
    checksum = verification._checksum
    monkeypatch.setattr(verification, "_checksum", lambda path: read.append(path) or checksum(path))
    return read


def flip(file, bit: int) -> None:
    with open(file, "r+b") as opened:
        opened.seek(bit // 8)
        (byte,) = opened.read(1)
        opened.seek(bit // 8)
        opened.write(bytes([byte ^ 1 << bit % 8]))


def flips(file):
    """The same bits of a file every time; each is flipped back afterwards."""
    rng = random.Random(0)
    for _ in range(FLIPS):
        bit = rng.randrange(8 * file.stat().st_size)
        flip(file, bit)
        yield bit
        flip(file, bit)


def everything(dataset) -> list:
    names = ("record_id", "patient_id", "report", "labels", "lead_names", "sampling_rate_hz")
    return [
        [*(getattr(row["ecg"], name) for name in names), *row["ecg"].attributes.items(), row["ecg"].signal.tobytes()]
        for row in (dataset[number] for number in range(len(dataset)))
    ]


def test_every_flipped_bit_is_named_before_a_record_is_read(compressed):
    file = compressed / SHARD
    for _ in flips(file):
        dataset = ParquetEcgDataset(compressed, "train")
        with pytest.raises(
            ShardError, match=rf"'{SHARD}' in '{compressed}' is damaged .* checksum .* prepare the data"
        ):
            dataset[69]
        with pytest.raises(ShardError, match=SHARD):
            dataset.column("report")
    assert len(everything(ParquetEcgDataset(compressed, "train"))) == 70, "whole again"


def test_no_flipped_bit_changes_what_is_read_from_an_address(compressed):
    expected = everything(ParquetEcgDataset(compressed, "train"))
    named = 0
    for bit in flips(compressed / SHARD):
        try:
            # A bit of the minimum of a column, for example, decides nothing.
            assert everything(ParquetEcgDataset(f"file://{compressed}", "train")) == expected, f"bit {bit}"
        except ShardError:
            named += 1
    assert named > 0.9 * FLIPS


def in_place(file):
    flip(file, 8000)


def in_place_with_the_old_time(file):
    before = os.stat(file)
    flip(file, 8000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(file):
    os.truncate(file, 2000)


def grown(file):
    with open(file, "ab") as opened:
        opened.write(bytes(4096))


def replaced(file):
    other = file.with_name("other")
    shutil.copy(file, other)
    in_place(other)
    other.replace(file)


CHANGES = [in_place, in_place_with_the_old_time, cut, grown, replaced]


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_changes_while_it_is_open_is_named(change, copy):
    dataset = ParquetEcgDataset(copy, "train")
    dataset.read_stored([0])
    change(copy / SHARD)
    for read in (lambda: dataset[69], lambda: dataset.column("report"), dataset.unique_reports):
        with pytest.raises(ShardError, match=rf"'{SHARD}' in .* is damaged"):
            read()


@pytest.mark.parametrize("change", [in_place, cut])
def test_workers_and_the_arrow_cache_name_a_changed_shard(change, copy, tmp_path):
    dataset = ParquetEcgDataset(copy, "train")
    change(copy / SHARD)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=len)
    with pytest.raises(ShardError, match=SHARD):
        list(loader)
    with pytest.raises(ShardError, match=SHARD):
        open_data(str(copy), streaming=False, cache_dir=tmp_path / "cache")


def test_a_shard_that_is_whole_again_is_read_again(copy):
    dataset = ParquetEcgDataset(copy, "train")
    content = (copy / SHARD).read_bytes()
    expected = everything(dataset)
    for change in CHANGES:
        change(copy / SHARD)
        with pytest.raises(ShardError):
            dataset.column("report")
        (copy / SHARD).write_bytes(content)
        assert dataset.column("report")
    assert everything(ParquetEcgDataset(copy, "train")) == expected


def test_a_verified_shard_is_not_read_as_a_whole_again(copy, memory, monkeypatch):
    for _ in range(2):
        ParquetEcgDataset(copy, "train").verify()
    assert memory == [str(copy / SHARD)]
    monkeypatch.setattr(verification, "_verified", set())  # as in the next process
    ParquetEcgDataset(copy, "train").verify()
    assert len(memory) == 1
    in_place_with_the_old_time(copy / SHARD)
    with pytest.raises(ShardError, match="checksum"):
        ParquetEcgDataset(copy, "train").verify()
    assert len(memory) == 2


def test_a_shard_that_was_just_written_is_not_remembered(copy, memory, monkeypatch):
    monkeypatch.setattr(verification, "_SETTLED_NS", 10**12)
    for _ in range(2):
        ParquetEcgDataset(copy, "train").verify()
    assert len(memory) == 2


def test_shards_are_read_where_nothing_can_be_remembered(copy, memory, tmp_path):
    (tmp_path / "home").write_text("no folder")
    ParquetEcgDataset(copy, "train").verify()
    assert len(memory) == 1


def edit_manifest(folder, **changes) -> None:
    content = json.loads((folder / "prepared.json").read_text())
    content["splits"]["train"][0].update(changes)
    (folder / "prepared.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "/etc/passwd"},
        {"file": "../other/data.parquet"},
        {"file": "data/../../x.parquet"},
        {"file": "C:\\data.parquet"},
        {"file": "data\\..\\x.parquet"},
        {"file": "s3://bucket/x.parquet"},
        {"file": ""},
        {"file": 3},
        {"records": -1},
        {"records": 70.0},
        {"records": True},
        {"records": 10**15},
        {"xxh3_128": ""},
        {"xxh3_128": None},
        {"xxh3_128": "g" * 32},
        {"surplus": 1},
    ],
    ids=str,
)
def test_a_manifest_with_impossible_shards_is_refused_by_name(changes, copy):
    edit_manifest(copy, **changes)
    with pytest.raises(ValueError, match=rf"{copy}/prepared.json is damaged .* prepare the data again"):
        read_manifest(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"schema_version": 1}'])
def test_a_manifest_that_is_none_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"here/prepared.json is damaged"):
        Manifest.from_json(text, "here")


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"xxh3_128": "0" * 32}, "checksum"), ({"records": 69}, "70 records, not 69"), ({"records": 700}, "not 700")],
    ids=str,
)
def test_a_manifest_that_lies_about_a_shard_is_noticed(changes, told, copy):
    edit_manifest(copy, **changes)
    with pytest.raises(ShardError, match=told):
        ParquetEcgDataset(copy, "train")[0]


def test_links_lead_to_the_very_shard_or_nowhere(copy, tmp_path):
    """Hugging Face's cache and large second disks are full of links; the checksum decides."""
    shard = copy / SHARD
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert len(ParquetEcgDataset(copy, "train").column("report")) == 70
    shard.unlink()
    shard.symlink_to(copy / "data/test-00000-of-00001.parquet")
    with pytest.raises(ShardError, match="checksum"):
        ParquetEcgDataset(copy, "train")[0]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo, os.mkdir])
def test_a_device_pipe_or_folder_in_place_of_a_shard_is_not_read(make, copy):
    (copy / SHARD).unlink()
    make(copy / SHARD)
    with pytest.raises(ShardError, match="no file"):
        ParquetEcgDataset(copy, "train")[0]


def test_a_shard_whose_own_checksum_is_right_but_whose_rows_are_not_is_refused(copy):
    """Whoever writes `prepared.json` can write any checksum: what is decoded must still fit."""
    table = pq.read_table(copy / SHARD)
    place = table.schema.get_field_index("num_samples")
    table = table.set_column(place, table.schema.field(place), pc.add(table.column(place), pa.scalar(1, pa.int32())))
    pq.write_table(table, copy / SHARD, row_group_size=64)
    edit_manifest(copy, xxh3_128=xxhash.xxh3_128_hexdigest((copy / SHARD).read_bytes()))
    with pytest.raises(ShardError, match="have another number"):
        ParquetEcgDataset(copy, "train")[0]


def test_the_cache_of_a_folder_that_was_prepared_anew_holds_the_new_records(copy, tmp_path):
    first = open_data(str(copy), streaming=False, cache_dir=tmp_path / "cache").test.column("record_id")
    shutil.rmtree(copy)
    write_prepared(copy, {"train": (9,), "test": (5,)})
    second = open_data(str(copy), streaming=False, cache_dir=tmp_path / "cache").test.column("record_id")
    assert (len(first), len(second)) == (6, 5)
