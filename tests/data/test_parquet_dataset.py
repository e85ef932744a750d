"""Prepared folders: what comes out is what was written, in whatever order and process it is asked for."""

from __future__ import annotations

import functools
import http.server
import pickle
import shutil
import threading
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from prepared_folder import SIZES, records_of, write_prepared

from hf_ecgtext.data.store.block_order import BlockOrder
from hf_ecgtext.data.store.dataset import ParquetEcgDataset, is_prepared_location, read_manifest_at
from hf_ecgtext.data.store.schema import EcgDataset

NUM_TRAIN = sum(SIZES["train"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "tiny"
    write_prepared(folder)
    return folder


@pytest.fixture(scope="module")
def train_records():
    return records_of("train", NUM_TRAIN)


@pytest.fixture(scope="module")
def map_style(folder, tmp_path_factory):
    """What Hugging Face reads from the same files, through its Arrow cache."""
    from datasets import load_dataset

    files = [str(folder / shard.file) for shard in read_manifest_at(folder).splits["train"]]
    cache = str(tmp_path_factory.mktemp("cache"))
    return EcgDataset(load_dataset("parquet", data_files=files, split="train", cache_dir=cache))


@pytest.fixture
def address(folder):
    """The folder behind a loopback server that answers ranges, as object stores do."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(RangeHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Files with HTTP ranges."""

    def do_GET(self):
        requested = self.headers.get("Range")
        path = self.translate_path(self.path)
        if requested is None:
            super().do_GET()
            return
        with open(path, "rb") as file:
            content = file.read()
        first, _, last = requested.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        self.wfile.write(content[start : end + 1])

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *args):
        pass


def assert_same(item, record):
    ecg = item["ecg"]
    assert (ecg.record_id, ecg.patient_id, ecg.report, ecg.labels) == (
        record.record_id, record.patient_id, record.report, record.labels
    )  # fmt: skip
    # The generator's signals are rounded to 1 uV when they are stored.
    np.testing.assert_array_equal(
        ecg.signal, np.round(record.signal.astype(np.float64) * 1000).astype(np.float32) / 1000
    )


def test_rows_are_the_records_that_were_written(folder, train_records):
    dataset = ParquetEcgDataset(folder, "train")
    assert len(dataset) == NUM_TRAIN
    assert dataset.block_sizes == [64, 64, 22, 64, 64, 64, 26]
    indices = [NUM_TRAIN - 1, 0, 149, 150, 64, -1, 64]
    items = dataset.__getitems__(indices)
    assert [item["index"] for item in items] == [index % NUM_TRAIN for index in indices]
    for item in items:
        assert_same(item, train_records[item["index"]])
    assert_same(dataset[3], train_records[3])
    assert dataset.__getitems__([]) == []


def test_streamed_batches_equal_map_style_batches_in_the_same_order(folder, map_style):
    streamed = ParquetEcgDataset(folder, "train", cache_records=128)
    order = BlockOrder(streamed.block_sizes, 16, seed=3, window=100)
    for rows in order:
        for ours, theirs in zip(streamed.__getitems__(rows), map_style.__getitems__(rows), strict=True):
            assert ours["index"] == theirs["index"]
            assert ours["ecg"].record_id == theirs["ecg"].record_id
            assert ours["ecg"].report == theirs["ecg"].report
            assert ours["ecg"].attributes == theirs["ecg"].attributes
            np.testing.assert_array_equal(ours["ecg"].signal, theirs["ecg"].signal)


def test_columns_come_without_signals(folder, train_records, monkeypatch):
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    dataset = ParquetEcgDataset(folder, "train")
    assert dataset.column("record_id") == [record.record_id for record in train_records]
    assert dataset.column("labels") == [list(record.labels) for record in train_records]
    assert dataset.unique_reports() == list(dict.fromkeys(record.report for record in train_records))
    with pytest.raises(KeyError, match="No column 'nothing'"):
        dataset.column("nothing")


def test_the_order_of_blocks_reads_every_row_group_once_and_keeps_few_in_memory(folder, monkeypatch):
    reads: Counter[tuple[int, int]] = Counter()
    original = pq.ParquetFile.read_row_group

    def counted(self, group, **arguments):
        assert arguments == {"use_threads": False}  # threads may hang the exit of a process
        reads[self.metadata.num_rows, group] += 1
        return original(self, group, **arguments)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    dataset = ParquetEcgDataset(folder, "train", cache_records=128 + 2 * 64)
    for rows in BlockOrder(dataset.block_sizes, 16, window=128, drop_last=False):
        dataset.__getitems__(rows)
        assert sum(map(len, dataset._blocks.values())) <= dataset.cache_records
    assert len(reads) == len(dataset.block_sizes)
    assert sum(reads.values()) <= len(dataset.block_sizes) + 1  # the block in which the epoch begins and ends


def test_open_files_are_few(folder, monkeypatch):
    monkeypatch.setattr("hf_ecgtext.data.store.dataset._OPEN_SHARDS", 2)
    dataset = ParquetEcgDataset(folder, "train", cache_records=1)
    for row in (0, 200, 300, 1, 299):
        assert dataset[row]["index"] == row
        assert len(dataset._files) <= 2
        assert len(dataset._blocks) == 1


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_every_record_once(folder, context):
    dataset = ParquetEcgDataset(folder, "train")
    dataset[0]  # an open file, which the workers must not share
    order = BlockOrder(dataset.block_sizes, 16, num_workers=2, drop_last=False)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=order, num_workers=2, collate_fn=ids_and_sums, multiprocessing_context=context
    )
    found = dict(pair for batch in loader for pair in batch)
    expected = dict(ids_and_sums(dataset.__getitems__(range(NUM_TRAIN))))
    assert found == expected
    assert len(found) == NUM_TRAIN


def ids_and_sums(items):
    return [(item["ecg"].record_id, int(item["ecg"].samples.sum())) for item in items]


def test_pickles_hold_no_records(folder):
    dataset = ParquetEcgDataset(folder, "train")
    fresh = len(pickle.dumps(dataset))
    dataset.__getitems__(range(100))
    assert len(pickle.dumps(dataset)) == fresh < 10_000
    assert pickle.loads(pickle.dumps(dataset))[5]["ecg"].record_id == dataset[5]["ecg"].record_id  # noqa: S301


def test_a_relative_folder_is_found_from_anywhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    dataset = ParquetEcgDataset(folder.name, "test")
    monkeypatch.chdir(tmp_path)
    assert dataset[0]["ecg"].record_id


def test_an_address_gives_the_same_rows_as_the_folder(folder, address):
    assert is_prepared_location(address)
    assert not is_prepared_location(f"{address}/data")
    near, far = ParquetEcgDataset(folder, "train"), ParquetEcgDataset(address, "train")
    rows = range(0, NUM_TRAIN, 37)
    for ours, theirs in zip(far.__getitems__(rows), near.__getitems__(rows), strict=True):
        assert ours["ecg"].record_id == theirs["ecg"].record_id
        np.testing.assert_array_equal(ours["ecg"].samples, theirs["ecg"].samples)
    assert far.column("report") == near.column("report")
    with pytest.raises(FileNotFoundError, match="no prepared dataset"):
        read_manifest_at(f"{address}/data")


def damage_footer(file):
    file.write_bytes(file.read_bytes()[:-100])


def damage_pages(file):
    content = bytearray(file.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    file.write_bytes(bytes(content))


def empty(file):
    file.write_bytes(b"")


def exchange(file):
    file.write_bytes(file.with_name("train-00001-of-00003.parquet").read_bytes())


@pytest.mark.parametrize("damage", [damage_footer, damage_pages, empty, exchange])
def test_a_damaged_shard_is_named(damage, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    damage(tmp_path / "copy" / "data" / "train-00000-of-00003.parquet")
    dataset = ParquetEcgDataset(tmp_path / "copy", "train")
    with pytest.raises(
        OSError, match=r"'data/train-00000-of-00003.parquet' in .* is damaged .* prepare the data again"
    ):
        dataset.__getitems__(range(150))
    with pytest.raises(OSError, match="train-00000-of-00003"):
        dataset.column("report")
    assert dataset[200]["index"] == 200, "the other shards can still be read"


def test_a_missing_shard_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"'data/train-00001-of-00003.parquet' is missing"):
        ParquetEcgDataset(tmp_path / "copy", "train")[160]


def test_what_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prepared\.json"):
        ParquetEcgDataset(tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'valid'; it has train, validation, test"):
        ParquetEcgDataset(folder, "valid")
    with pytest.raises(IndexError, match="no record 70; the split has 70"):
        ParquetEcgDataset(folder, "test")[70]


def streamed_with_hugging_face(folder):
    from datasets import load_dataset

    return load_dataset(str(folder), split="train", streaming=True)


def test_plain_hugging_face_streams_the_same_rows(folder, train_records):
    rows = list(streamed_with_hugging_face(folder))
    assert [row["record_id"] for row in rows] == [record.record_id for record in train_records]
    samples = np.frombuffer(rows[7]["samples"], rows[7]["sample_type"]).reshape(-1, rows[7]["num_samples"])
    np.testing.assert_array_equal(samples, ParquetEcgDataset(folder, "train")[7]["ecg"].samples)


def test_plain_hugging_face_gives_two_nodes_with_two_workers_every_record_once(folder):
    from datasets.distributed import split_dataset_by_node

    seen = Counter()
    for rank in range(2):
        part = split_dataset_by_node(streamed_with_hugging_face(folder), rank=rank, world_size=2)
        part = part.select_columns(["record_id"])
        loader = torch.utils.data.DataLoader(part, batch_size=None, num_workers=2)
        seen.update(row["record_id"] for row in loader)
    assert seen == Counter(ParquetEcgDataset(folder, "train").column("record_id"))
