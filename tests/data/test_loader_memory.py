"""Reading batches takes the same memory for few and many records, and for one epoch and several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasets import Dataset

from hf_ecgtext.data.prepare.card import open_writer
from hf_ecgtext.data.store.block_order import BlockOrder
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.data.store.manifest import MANIFEST_FILE, ROWS_PER_GROUP, Manifest, Shard
from hf_ecgtext.data.store.schema import ECG_FEATURES, EcgDataset, rows_to_table, samples_to_row
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.processing import EcgFeatureExtractor

STATUS = Path("/proc/self/status")
NUM_SAMPLES = 1000
RECORD_BYTES = 12 * NUM_SAMPLES * 2
FEW, MANY = 512, 4096  # 12 MB and 98 MB of samples
SLACK_BYTES = 30 * 2**20

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")


def rows(start: int) -> list[dict]:
    noise = np.random.default_rng(start).integers(-500, 500, (ROWS_PER_GROUP, 12, NUM_SAMPLES)).astype(np.int16)
    return [
        samples_to_row(
            samples,
            np.full(12, 1000.0),
            np.zeros(12, dtype=np.int32),
            record_id=f"r{start + number}",
            patient_id=None,
            sampling_rate_hz=100.0,
            lead_names=STANDARD_LEADS,
            report=f"Report {start + number}.",
            labels=[],
            attributes={},
        )
        for number, samples in enumerate(noise)
    ]


def streamed(folder: Path, num_records: int):
    folder.mkdir()
    with open_writer(folder / "train-00000.parquet", ECG_FEATURES.arrow_schema, "none") as writer:
        for start in range(0, num_records, ROWS_PER_GROUP):
            writer.write_table(rows_to_table(rows(start)), row_group_size=ROWS_PER_GROUP)
    checksum = xxhash.xxh3_128_hexdigest((folder / "train-00000.parquet").read_bytes())
    shards = {"train": [Shard("train-00000.parquet", num_records, checksum)]}
    manifest = Manifest("noise", "1", {}, "", "", "none", shards, (), {})
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    dataset = ParquetEcgDataset(folder, "train", cache_records=256)
    return dataset, BlockOrder(dataset.block_sizes, 64, window=128)


def mapped(folder: Path, num_records: int):
    folder.mkdir()
    with pa.ipc.new_stream(str(folder / "records.arrow"), ECG_FEATURES.arrow_schema) as writer:
        for start in range(0, num_records, ROWS_PER_GROUP):
            writer.write_table(rows_to_table(rows(start)))
    dataset = EcgDataset(Dataset.from_file(str(folder / "records.arrow")))
    return dataset, BlockOrder([num_records], 64, window=num_records)


def anonymous_bytes() -> int:
    """Memory of this process that is no mapped file."""
    fields = (line.split() for line in STATUS.read_text(encoding="utf-8").splitlines())
    return next(1024 * int(values[1]) for values in fields if values[0] == "RssAnon:")


def peak_bytes(dataset, order, epochs: int) -> int:
    """Peak of the memory above that before, looked at after every batch."""
    extractor = EcgFeatureExtractor(sampling_rate_hz=100.0, check_limb_leads="off")
    before, peak, seen = anonymous_bytes(), 0, 0
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for indices in order:
            packed = extractor.pack([row["ecg"] for row in dataset.__getitems__(indices)])
            seen += len(extractor.unpack(packed)["ecg_values"])
            peak = max(peak, anonymous_bytes() - before)
    assert seen == epochs * len(dataset)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("form", [streamed, mapped])
def test_peak_memory_depends_neither_on_the_records_nor_on_the_epochs(form, tmp_path):
    few, many = form(tmp_path / "few", FEW), form(tmp_path / "many", MANY)
    assert SLACK_BYTES < (MANY - FEW) * RECORD_BYTES / 2, "or keeping all records would go unnoticed"
    first = peak_bytes(*few, epochs=1)
    assert peak_bytes(*many, epochs=1) < first + SLACK_BYTES
    assert peak_bytes(*many, epochs=3) < first + SLACK_BYTES


def test_the_measure_sees_records_that_are_kept(tmp_path):
    dataset, order = streamed(tmp_path / "kept", MANY)
    dataset.cache_records = MANY
    assert peak_bytes(dataset, order, epochs=1) > MANY * RECORD_BYTES / 2
