"""What is stored comes back exactly, in every way a stored dataset can be read."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Value
from torch.utils.data import DataLoader

from hf_ecgtext.data.records import INVALID_SAMPLE, DigitalEcg, EcgRecord
from hf_ecgtext.data.store.schema import (
    ECG_FEATURES,
    EcgDataset,
    decode_table,
    ecg_features,
    iter_records,
    quantize,
    record_to_row,
    row_to_record,
    rows_to_table,
)
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS


def make_digital(seed: int, num_leads: int = 12, num_samples: int = 50) -> DigitalEcg:
    rng = np.random.default_rng(seed)
    adc = rng.integers(-32767, 32768, (num_leads, num_samples), dtype=np.int16)
    adc[rng.random(adc.shape) < 0.05] = INVALID_SAMPLE
    gain_per_mv = rng.choice([200.0, 1000.0, 4.88, 333.3], num_leads)
    return DigitalEcg(adc, gain_per_mv, rng.integers(-5000, 5000, num_leads, dtype=np.int32))


def make_record(seed: int, digital: DigitalEcg, **fields: object) -> EcgRecord:
    values: dict = {
        "signal": digital.to_millivolts(),
        "sampling_rate_hz": 257.0,
        "lead_names": STANDARD_LEADS[: len(digital.adc)],
        "record_id": f"r{seed}",
        "patient_id": f"p{seed // 2}",
        "report": f"Sinus rhythm {seed % 3}",
        "labels": ("SR", "NORM"),
    }
    return EcgRecord(**{**values, **fields})


def assert_same(first: EcgRecord, second: EcgRecord) -> None:
    assert first.signal.dtype == second.signal.dtype == np.float32
    np.testing.assert_array_equal(first.signal, second.signal)  # NaN equals NaN here
    for name in ("sampling_rate_hz", "lead_names", "record_id", "patient_id", "report", "labels", "attributes"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.fixture
def records() -> list[EcgRecord]:
    """Records of different lengths and lead counts, with missing samples."""
    shapes = [(12, 50), (12, 73), (1, 9), (3, 50), (12, 1), (12, 50), (2, 0), (12, 40)]
    return [make_record(seed, make_digital(seed, *shape)) for seed, shape in enumerate(shapes)]


@pytest.fixture
def dataset() -> tuple[Dataset, list[EcgRecord]]:
    shapes = [(12, 50), (12, 73), (1, 9), (3, 50), (12, 1), (12, 50), (2, 0), (12, 40)]
    digital = [make_digital(seed, *shape) for seed, shape in enumerate(shapes)]
    records = [make_record(seed, ecg) for seed, ecg in enumerate(digital)]
    rows = [record_to_row(record, ecg) for record, ecg in zip(records, digital, strict=True)]
    tables = [rows_to_table(rows[:3]), rows_to_table(rows[3:])]
    return Dataset(pa.concat_tables(tables)), records


def test_a_stored_record_comes_back_exactly_with_its_gains_baselines_and_missing_samples(dataset):
    stored, records = dataset
    rows = decode_table(stored.with_format("arrow")[:])
    assert len(rows) == len(records)
    assert any(np.isnan(record.signal).any() for record in records)
    for row, record in zip(rows, records, strict=True):
        assert row["samples"].dtype == np.int16
        assert_same(row_to_record(row), record)


def test_a_row_without_format_gives_the_same_record(dataset):
    stored, records = dataset
    for row, record in zip(stored, records, strict=True):
        assert_same(row_to_record(row), record)


@pytest.mark.parametrize("indices", [[0], [7, 0, 3, 3], [5, 7, 4], [-1, 2]])
def test_any_selection_of_rows_decodes_to_the_rows_asked_for(dataset, indices):
    stored, records = dataset
    for item, index in zip(EcgDataset(stored).__getitems__(indices), indices, strict=True):
        assert item["index"] == index % len(records)
        assert_same(item["ecg"], records[index])


def test_slices_of_an_arrow_table_decode_to_the_rows_of_the_slice(dataset):
    stored, records = dataset
    table = stored.data.table.combine_chunks()
    for start, length in [(0, 2), (3, 4), (7, 1), (5, 0)]:
        rows = decode_table(table.slice(start, length))
        assert [row["record_id"] for row in rows] == [record.record_id for record in records[start : start + length]]
        for row, record in zip(rows, records[start : start + length], strict=True):
            assert_same(row_to_record(row), record)


def test_decoding_copies_no_sample(dataset):
    stored, _ = dataset
    table = stored.data.table.combine_chunks()
    content = np.frombuffer(table.column("samples").chunk(0).buffers()[2], np.uint8)
    assert all(np.shares_memory(row["samples"], content) for row in decode_table(table) if row["samples"].size)


def test_shuffled_selected_and_formatted_datasets_still_decode(dataset):
    stored, records = dataset
    by_id = {record.record_id: record for record in records}
    for view in (stored.shuffle(seed=0), stored.select([6, 1, 4]), stored.with_format("torch")):
        read = EcgDataset(view).read_stored(range(len(view)))  # also the one that has no sample
        assert len(read) == len(view)
        for ecg in read:
            assert_same(ecg, by_id[ecg.record_id])


def test_records_survive_the_disk_and_a_stream(dataset, tmp_path):
    stored, records = dataset
    stored.save_to_disk(tmp_path / "stored")
    loaded = Dataset.load_from_disk(tmp_path / "stored")
    assert loaded.features == ECG_FEATURES
    for source in (loaded, loaded.to_iterable_dataset(num_shards=2)):
        read = list(iter_records(source))
        assert len(read) == len(records)
        for first, second in zip(read, records, strict=True):
            assert_same(first, second)


def test_a_data_loader_gets_every_record_in_order_after_pickling(dataset, tmp_path):
    # Pickling is what happens on the way to a spawned worker.
    stored, records = dataset
    stored, records = stored.select([0, 1, 2, 3, 4, 5, 7]), [*records[:6], records[7]]  # the other one has no sample
    stored.save_to_disk(tmp_path / "stored")
    items = pickle.loads(pickle.dumps(EcgDataset(Dataset.load_from_disk(tmp_path / "stored"))))  # noqa: S301
    read = [item for batch in DataLoader(items, batch_size=3, collate_fn=list) for item in batch]
    assert [item["index"] for item in read] == list(range(len(records)))
    for item, record in zip(read, records, strict=True):
        assert_same(item["ecg"], record)


def test_a_signal_on_the_microvolt_grid_needs_no_integers_to_be_stored_exactly():
    rng = np.random.default_rng(0)
    signal = (rng.integers(-32767, 32768, (12, 200)) / 1000).astype(np.float32)
    signal[3, 5:9] = np.nan
    record = EcgRecord(signal, 500.0, STANDARD_LEADS, "grid")
    (row,) = decode_table(rows_to_table([record_to_row(record)]))
    assert_same(row_to_record(row), record)


def test_quantisation_is_off_by_half_a_unit_at_most():
    signal = np.random.default_rng(0).normal(size=(12, 500)).astype(np.float32)
    error = quantize(EcgRecord(signal, 500.0, STANDARD_LEADS, "any")).to_millivolts() - signal
    assert 0.0004 < np.abs(error).max() <= 0.0005 + 1e-6


@pytest.mark.parametrize("sample", [32.768, -32.768, np.inf, -np.inf, 1e30])
def test_a_signal_that_does_not_fit_into_16_bits_is_refused_by_name(sample):
    signal = np.zeros((12, 5), dtype=np.float32)
    signal[2, 3] = sample
    with pytest.raises(RecordError, match=r"'loud'.*does not fit into 16 bits.*unit"):
        record_to_row(EcgRecord(signal, 500.0, STANDARD_LEADS, "loud"))


def test_integers_of_another_shape_are_refused(records):
    with pytest.raises(RecordError, match=r"'r0'.*\(12, 49\).*\(12, 50\)"):
        record_to_row(records[0], make_digital(0, 12, 49))


def test_attributes_become_columns_and_come_back():
    features = ecg_features({"age": Value("int32"), "sex": Value("string")})
    attributes = [{"age": 61, "sex": "female"}, {"age": None, "sex": None}]
    digital = make_digital(0)
    records = [make_record(i, digital, attributes=each, patient_id=None) for i, each in enumerate(attributes)]
    table = rows_to_table([record_to_row(record, digital) for record in records], features)
    assert table.schema.equals(features.arrow_schema)
    for row, record in zip(decode_table(table), records, strict=True):
        assert_same(row_to_record(row), record)


def test_extra_columns_and_attributes_must_not_shadow_common_columns():
    with pytest.raises(ValueError, match="'samples'"):
        ecg_features({"samples": Value("int16")})
    digital = make_digital(0)
    with pytest.raises(RecordError, match="'report'"):
        record_to_row(make_record(0, digital, attributes={"report": "other"}), digital)


def test_a_row_without_a_column_is_refused_by_name(records):
    with pytest.raises(RecordError, match=r"'r3'.*'age'"):
        rows_to_table([record_to_row(records[3], make_digital(3, 3, 50))], ecg_features({"age": Value("int32")}))


@pytest.mark.parametrize(
    "damage", [{"samples": b"\0\0\0"}, {"num_samples": 7}, {"sample_type": "int32"}, {"samples": None}]
)
def test_samples_that_do_not_fit_their_columns_are_refused_by_name(damage):
    digital = make_digital(0)
    table = rows_to_table([record_to_row(make_record(0, digital), digital)])
    row = {**table.to_pylist()[0], **damage}
    with pytest.raises(RecordError, match=r"'r0'.*samples"):
        decode_table(pa.Table.from_pylist([row], schema=ECG_FEATURES.arrow_schema))


def test_millivolts_that_are_no_integers_are_stored_as_float32_without_loss():
    signal = np.random.default_rng(0).normal(size=(12, 30)).astype(np.float32)
    signal[1, 2] = np.nan
    record = EcgRecord(signal, 500.0, STANDARD_LEADS, "float")
    table = rows_to_table([record_to_row(record, as_float=True)])
    (row,) = decode_table(table)
    assert row["sample_type"] == "float32"
    assert_same(row_to_record(row), record)
    assert_same(row_to_record(table.to_pylist()[0]), record)


def test_a_dataset_without_the_common_columns_is_refused():
    with pytest.raises(ValueError, match="gain_per_mv"):
        EcgDataset(Dataset.from_dict({"record_id": ["a"]}))


def test_columns_and_unique_reports_keep_the_order_of_the_dataset(dataset):
    stored, records = dataset
    order = [6, 1, 4, 0]
    items = EcgDataset(stored.select(order))
    assert items.column("record_id") == [records[index].record_id for index in order]
    assert items.unique_reports() == ["Sinus rhythm 0", "Sinus rhythm 1"]
    with pytest.raises(KeyError, match="'age'"):
        items.column("age")
