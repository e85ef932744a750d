"""The pipelines take what people have at hand, and say about the rest what is wrong and where it is mended."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tqdm.auto import tqdm
from transformers import pipeline

from hf_ecgtext.data import EcgRecord
from hf_ecgtext.data.store.schema import EcgDataset
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.pipelines import base
from hf_ecgtext.pipelines.base import SkippedRecording

LABELS = ["atrial fibrillation", "sinus rhythm"]


@pytest.fixture(scope="module")
def record(synthetic_dataset) -> EcgRecord:
    return synthetic_dataset[0]["ecg"].to_record()


@pytest.fixture(scope="module")
def path(record, tmp_path_factory) -> str:
    """The record as a WFDB file whose leads have names of a Holter recorder."""
    folder = tmp_path_factory.mktemp("files")
    adc = np.rint(record.signal[[1, 10]] * 1000).astype("<i2")
    lines = ["holter 2 100 1000"]
    for lead, row in zip(("MLII", "V5"), adc, strict=True):
        lines.append(f"holter.dat 16 1000(0)/mV 16 0 {row[0]} {row.sum(dtype=int) % 65536} 0 {lead}")
    (folder / "holter.dat").write_bytes(adc.T.tobytes())
    (folder / "holter.hea").write_text("\n".join([*lines, ""]))
    return str(folder / "holter")


def rdsamp(record, factor=1.0, unit="mV"):
    """What wfdb.rdsamp returns."""
    fields = {"fs": 100, "sig_name": list(record.lead_names), "units": [unit] * 12, "sig_len": 1000, "comments": []}
    return record.signal.T.astype(np.float64) * factor, fields


def wfdb_record(record, physical: bool):
    with warnings.catch_warnings():  # wfdb 4.3.1 passes an argument that pandas 3.1 deprecates, while it is imported
        warnings.filterwarnings("ignore", message="The inplace keyword", category=DeprecationWarning)
        import wfdb

    adc = np.rint(record.signal.T * 1000).astype(np.int64)
    return wfdb.Record(
        record_name="r", n_sig=12, fs=100, sig_len=1000, sig_name=list(record.lead_names), units=["mV"] * 12,
        p_signal=adc / 1000 if physical else None, d_signal=None if physical else adc,
        fmt=["16"] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12,
    )  # fmt: skip


def frame(record, dtype="float64") -> pd.DataFrame:
    return pd.DataFrame(record.signal.T, columns=list(record.lead_names)).astype(dtype)


FORMS = {
    "rdsamp": rdsamp,
    "rdsamp in microvolts": lambda record: rdsamp(record, 1000, "uV"),
    "wfdb.Record": lambda record: wfdb_record(record, physical=True),
    "wfdb.Record of integers": lambda record: wfdb_record(record, physical=False),
    "row": lambda record: {"ecg": record, "index": 3},
    "mapping of a frame": lambda record: {"ecg": frame(record), "sampling_rate": 100},
    "mapping of rdsamp": lambda record: {"ecg": rdsamp(record)},
}
ARRAYS = {
    "frame": frame,
    "frame with missing-value type": lambda record: frame(record, "Float64"),
    "frame in another order": lambda record: frame(record)[list(reversed(record.lead_names))],
    "nested lists": lambda record: [record.signal.tolist()],
    "array without mask": lambda record: np.ma.masked_invalid(record.signal),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_brings_its_own_rate_gives_what_the_record_gives(extractor, record, form):
    np.testing.assert_allclose(extractor(FORMS[form](record)), extractor(record), atol=1e-5)
    (in_a_list,) = extractor([FORMS[form](record)])
    np.testing.assert_allclose(in_a_list, extractor(record), atol=1e-5)


@pytest.mark.parametrize("form", ARRAYS)
def test_what_needs_a_rate_gives_what_the_record_gives(extractor, record, form):
    given = ARRAYS[form](record)
    for rate in ({"sampling_rate_hz": 100}, {"sampling_rate": 100}):
        features = extractor(given, **rate)
        features = features[0] if isinstance(given, list) else features
        np.testing.assert_allclose(features, extractor(record), atol=1e-5)


def test_a_series_is_the_lead_of_its_name(extractor, record):
    series = frame(record)["II"]
    alone = replace(record, signal=record.signal[1:2], lead_names=("II",))
    np.testing.assert_allclose(extractor(series, sampling_rate_hz=100), extractor(alone), atol=1e-6)
    renamed = extractor(series.rename("MLII"), sampling_rate_hz=100, lead_names={"MLII": "II"})
    np.testing.assert_allclose(renamed, extractor(alone), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_masked_samples_are_missing_samples(extractor, record, dtype):
    holed = np.ma.array(np.rint(record.signal * 1000).astype(dtype))
    holed[2, 100:140] = 30_000  # what stands below a mask must not matter
    holed.mask = np.zeros(holed.shape, bool)
    holed.mask[2, 100:140] = True
    missing = holed.astype(np.float32).filled(np.nan)
    options = {"sampling_rate_hz": 100, "unit": "uV"}
    np.testing.assert_array_equal(extractor(holed, **options), extractor(missing, **options))
    filled = extractor(holed.data, **options)
    assert np.abs(extractor(holed, **options) - filled).max() > 1e-4
    from hf_ecgtext.processing import EcgFeatureExtractor

    processor = EcgFeatureExtractor(sampling_rate_hz=100)
    values = [processor(array, **options)["ecg_values"] for array in (holed, missing)]
    np.testing.assert_array_equal(*values)


def test_paths_come_in_lists_arrays_series_and_columns(extractor, path):
    names = {"lead_names": {"MLII": "II"}}
    expected = extractor(path, **names)
    column = datasets.Dataset.from_dict({"path": [path, path]})["path"]
    for paths in ([path, path], (path, path), np.array([path, path]), pd.Series([path, path]), column):
        features = extractor(paths, **names)
        assert len(features) == 2
        np.testing.assert_allclose(features[1], expected, atol=1e-6)
    np.testing.assert_array_equal(extractor(np.array(path), **names), expected)


def test_datasets_and_iterators_are_answered_as_a_stream(extractor, synthetic_dataset):
    stored = synthetic_dataset.dataset.with_format(None).select(range(3))
    expected = [extractor(synthetic_dataset[row]["ecg"]) for row in range(3)]
    streams = (stored, EcgDataset(stored), iter([stored[0], stored[1], stored[2]]), stored.to_iterable_dataset())
    for stream in streams:
        answers = extractor(stream)
        assert not isinstance(answers, list)
        np.testing.assert_allclose(list(answers), expected, atol=1e-6)
    np.testing.assert_allclose(extractor([stored[0], stored[2]]), expected[::2], atol=1e-6)
    with pytest.raises(ValueError, match=r"'recording 0': this row of a dataset has no gain_per_mv"):
        extractor([{name: value for name, value in stored[0].items() if name != "gain_per_mv"}])


def test_a_column_of_signals_is_a_list_of_recordings(extractor, record):
    column = datasets.Dataset.from_dict({"ecg": [record.signal.tolist()] * 2})["ecg"]
    np.testing.assert_allclose(extractor(column, sampling_rate_hz=100), [extractor(record)] * 2, atol=1e-5)


def test_a_process_beside_prepares_the_same(extractor, record, path):
    given = [record, path, record]
    beside = extractor(given, num_workers=1, on_error="skip", batch_size=2)
    assert isinstance(beside[1], SkippedRecording)
    assert "lead_names={'MLII': 'II'}" in str(beside[1].error), "errors cross the border of the process"
    np.testing.assert_allclose(beside[::2], [extractor(record)] * 2, atol=1e-6)


def test_a_template_may_have_the_name_that_transformers_uses(classifier, record):
    ours = classifier(record, candidate_labels=LABELS, template="ECG showing {}")
    assert classifier(record, candidate_labels=LABELS, hypothesis_template="ECG showing {}") == ours
    assert classifier(record, candidate_labels=LABELS) != ours


# Leads that are none of the twelve


def test_the_advice_about_unknown_leads_works_where_it_is_given(extractor, path, record):
    with pytest.raises(
        RecordError, match=r"unknown lead names \['MLII'\].*lead_names=\{'MLII': 'II'\}.*unknown_leads="
    ):
        extractor(path)
    named = extractor(path, lead_names={"MLII": "II"})
    np.testing.assert_array_equal(named, extractor(path, lead_names=["II", "V5"]))
    ignored = extractor(path, unknown_leads="ignore")
    only_v5 = replace(record, signal=record.signal[10:11], lead_names=("V5",))
    np.testing.assert_allclose(ignored, extractor(only_v5), atol=1e-4)
    assert np.abs(named - ignored).max() > 1e-4
    assert extractor.feature_extractor.unknown_leads == "raise", "the setting of the checkpoint stays"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"MLI": "I"}, "it has no lead MLI to be renamed. Its leads are MLII, V5."),
        (["II"], "it has 2 leads (MLII, V5), but lead_names gives 1."),
        (["II", "Resp"], "unknown lead names ['Resp']"),
    ],
)
def test_new_names_that_fit_no_lead_are_refused(extractor, path, names, message):
    with pytest.raises(RecordError) as error:
        extractor(path, lead_names=names)
    assert message in str(error.value)


def test_a_time_column_of_a_frame_is_named(extractor, record):
    table = frame(record).assign(time=np.arange(1000) / 100)
    with pytest.raises(RecordError, match=r"unknown lead names \['time'\]"):
        extractor(table, sampling_rate_hz=100)
    features = extractor(table, sampling_rate_hz=100, unknown_leads="ignore")
    np.testing.assert_allclose(features, extractor(record), atol=1e-5)


# What contradicts itself or is nothing


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("path", {"sampling_rate_hz": 500}, "it has 100 Hz by itself, but sampling_rate_hz=500 was given"),
        ("path", {"unit": "uV"}, "it brings its own unit, but unit='uV' was given"),
        ("signal", {"sampling_rate_hz": 100, "lead_names": {"I": "II"}}, "gives new names, but an array has none"),
        ("text", {"sampling_rate_hz": 100}, "holds something else than numbers"),
        ("numbers", {"sampling_rate_hz": 100}, "'recording 0': a list of numbers is no recording"),
        ("samples first", {"sampling_rate_hz": 100}, "looks like (num_samples, num_leads)"),
        ("pressure", {}, "lead V6 is in 'mmHg', which cannot be converted to mV"),
        ("multi", {}, "it has several segments"),
        ("set", {"sampling_rate_hz": 100}, "ecg must be an EcgRecord, a NumPy array"),
    ],
)
def test_what_contradicts_itself_is_refused(extractor, record, path, given, options, message):
    pressure = rdsamp(record)
    pressure[1]["units"][-1] = "mmHg"
    multi = type("MultiRecord", (SimpleNamespace,), {"__module__": "wfdb.io.record"})(record_name="m")
    things = {
        "path": path,
        "signal": record.signal,
        "text": frame(record).astype(str).assign(I="high"),
        "numbers": [[0.0, 1.0], [2.0, 3.0]],
        "samples first": record.signal.T,
        "pressure": pressure,
        "multi": multi,
        "set": {1.0, 2.0},
    }
    with pytest.raises((ValueError, TypeError)) as error:
        extractor(things[given], **options)
    assert message in str(error.value)


# Recordings that cannot be used, among others


def test_errors_stand_in_the_place_of_their_recordings(classifier, extractor, record, path):
    broken = replace(record, signal=np.full_like(record.signal, np.nan), record_id="flat")
    given = ["/nowhere/r1", record, broken, record, path, 3.0, record.signal]
    for batch_size in (None, 1, 3):
        answers = classifier(given, candidate_labels=LABELS, on_error="skip", batch_size=batch_size)
        failed = [place for place, answer in enumerate(answers) if isinstance(answer, SkippedRecording)]
        assert failed == [0, 2, 4, 5, 6]
        assert [answers[place].record for place in failed] == [
            "/nowhere/r1",
            "flat",
            path,
            "recording 5",
            "recording 6",
        ]
        assert "has no header" in str(answers[0].error)
        assert "sampling_rate_hz is required for arrays" in str(answers[6].error)
        expected = pytest.approx([answer["score"] for answer in classifier(record, candidate_labels=LABELS)], abs=1e-6)
        assert [answer["score"] for answer in answers[3]] == expected
    assert isinstance(extractor("/nowhere/r1", on_error="skip"), SkippedRecording)
    with pytest.raises(RecordError, match="nowhere"):
        classifier(given, candidate_labels=LABELS)


def test_a_fault_of_the_program_is_not_taken_for_one_of_a_recording(extractor, record, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a fault of the model")

    monkeypatch.setattr(extractor.model, "get_ecg_features", broken)
    with pytest.raises(ValueError, match="a fault of the model"):
        extractor([record], on_error="skip")


def test_only_long_lists_and_recordings_have_a_bar_and_only_in_a_terminal(extractor, record, monkeypatch):
    made = []

    class Watched(tqdm):
        def __init__(self, *args, **kwargs):
            made.append(kwargs)
            super().__init__(*args, **kwargs)
            made[-1]["seen"] = self

    monkeypatch.setattr(base, "tqdm", Watched)
    monkeypatch.setattr(base, "_LENGTH_OF_A_BAR", 4)
    hour = replace(record, signal=np.tile(record.signal, (1, 4)))
    extractor(record)
    extractor([record] * 3)
    assert all(options["disable"] is True for options in made)
    made.clear()
    extractor([record] * 4)
    extractor(hour)
    assert [options["disable"] for options in made] == [None, None], "None: unless it is a terminal"
    assert [(options["desc"], options["total"]) for options in made] == [("Recordings", 4), ("Windows", 4)]
    made.clear()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    extractor([record, hour, record, hour])
    assert made[0]["seen"].n == 4


@pytest.mark.parametrize("rows", [np.nan, np.inf])
def test_a_model_that_gives_no_number_gives_no_answer(merl_folder, record, rows):
    ask = pipeline("ecg-feature-extraction", model=str(merl_folder))
    other = replace(record, record_id="other", signal=record.signal[:, ::-1].copy())
    embed = ask.model.get_ecg_features

    def overflowing(values, **rest):
        features = embed(values, **rest)
        return torch.where(features.new_tensor(range(len(values)))[:, None] == 1, rows, features)

    ask.model.get_ecg_features = overflowing
    good, failed = ask([record, other], batch_size=2, on_error="skip")
    assert np.isfinite(good).all()
    assert failed.record == "other"
    with pytest.raises(RecordError, match=r"'other': the model '.*' gives NaN or infinite values for it"):
        ask([record, other], batch_size=2)


def test_twelve_rows_without_names_are_still_the_standard_leads(extractor, record):
    assert record.lead_names == STANDARD_LEADS
    np.testing.assert_allclose(extractor(record.signal, sampling_rate_hz=100), extractor(record), atol=1e-6)
