"""A stored row reads like a record, and keeps its integers until someone asks for millivolts."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from datasets import Dataset, Value

from hf_ecgtext.data.records import INVALID_SAMPLE, AnyEcg, DigitalEcg, EcgRecord, StoredEcg
from hf_ecgtext.data.store.schema import (
    EcgDataset,
    ecg_features,
    record_to_row,
    row_to_record,
    row_to_stored,
    rows_to_table,
)

FEATURES = ecg_features({"age": Value("int32")})
DIGITAL = DigitalEcg(
    np.array([[0, 100, INVALID_SAMPLE], [7, -93, 32_767]], dtype=np.int16),
    np.array([200.0, 1000.0]),
    np.array([0, 7], dtype=np.int32),
)
MILLIVOLTS = np.array([[0, 0.5, np.nan], [0, -0.1, 32.76]], dtype=np.float32)


def record(record_id="r1"):
    attributes = {"age": 61}
    return EcgRecord(MILLIVOLTS, 500.0, ("I", "V1"), record_id, "p1", "Normal.", ("NORM",), attributes=attributes)


def dataset():
    integers = record_to_row(record(), DIGITAL)
    floats = record_to_row(record("r2"), as_float=True)
    return EcgDataset(Dataset(rows_to_table([integers, floats], FEATURES)))


def test_a_dataset_hands_out_the_stored_integers():
    item = dataset()[0]["ecg"]
    assert isinstance(item, StoredEcg)
    assert isinstance(item, AnyEcg)
    assert item.samples.dtype == np.int16
    np.testing.assert_array_equal(item.samples, DIGITAL.adc)
    np.testing.assert_array_equal(item.gain_per_mv, DIGITAL.gain_per_mv)
    np.testing.assert_array_equal(item.baseline, DIGITAL.baseline)


def test_floating_point_rows_stay_millivolts_and_can_be_changed_by_their_reader():
    item = dataset()[1]["ecg"]
    assert item.samples.dtype == np.float32
    np.testing.assert_array_equal(item.signal, MILLIVOLTS)
    item.signal[:] = 0
    np.testing.assert_array_equal(item.signal, MILLIVOLTS)


@pytest.mark.parametrize("index", [0, 1])
def test_a_stored_row_has_every_attribute_of_the_record(index):
    item, expected = dataset()[index]["ecg"], record(f"r{index + 1}")
    for view in (item, item.to_record()):
        for field in fields(EcgRecord):
            if field.name == "signal":
                np.testing.assert_array_equal(view.signal, MILLIVOLTS)
            else:
                assert getattr(view, field.name) == getattr(expected, field.name), field.name
        assert view.num_samples == 3
        assert view.duration_s == expected.duration_s
    assert isinstance(item.to_record(), EcgRecord)


def test_a_row_without_format_gives_the_same():
    rows = list(dataset().dataset.with_format(None))
    assert isinstance(rows[0]["samples"], bytes)
    np.testing.assert_array_equal(row_to_stored(rows[0]).samples, DIGITAL.adc)
    np.testing.assert_array_equal(row_to_record(rows[0]).signal, MILLIVOLTS)


def test_samples_are_a_view_that_cannot_be_written_to():
    item = dataset()[0]["ecg"]
    with pytest.raises(ValueError, match="read-only"):
        item.samples[0, 0] = 1


def test_pickling_sends_the_integers_and_not_the_millivolts():
    samples = np.arange(24_000, dtype=np.int16).reshape(12, 2000)
    names = tuple(map(str, range(12)))
    item = StoredEcg(samples, np.full(12, 200.0), np.zeros(12, dtype=np.int32), 500.0, names, "r1")
    item.signal  # noqa: B018  (is it kept?)
    content = pickle.dumps(item)
    assert len(content) < 1.1 * samples.nbytes
    np.testing.assert_array_equal(pickle.loads(content).samples, samples)  # noqa: S301


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": np.zeros((3, 5), dtype=np.int16)}, "'r1'.*shape .3, 5.*2 lead names"),
        ({"samples": np.zeros(5, dtype=np.int16)}, "'r1'.*shape"),
        ({"gain_per_mv": np.ones(1)}, "1 gains"),
        ({"baseline": np.zeros(3, dtype=np.int32)}, "3 baselines"),
        ({"samples": np.zeros((2, 5), dtype=np.int64)}, "int64, not int16 or float32"),
    ],
)
def test_a_row_that_does_not_fit_together_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(dataset()[0]["ecg"], **change)
