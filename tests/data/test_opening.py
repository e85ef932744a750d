"""Data by name and by place, raw and prepared."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest
from make_mimic import write_mimic_tree
from prepared_folder import SIZES, write_prepared

from hf_ecgtext.data.opening import data_name, data_names, open_data
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source, source_names
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.data.store.schema import EcgDataset


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "mimic"
    write_prepared(folder, name="mimic_iv_ecg", min_words=4)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_mimic_tree(folder, 300, num_samples=50, records_per_subject=2)
    return folder


def test_every_source_is_known_by_name():
    assert set(source_names()) < set(data_names())
    assert {"mimic_iv_ecg", "ptb_xl", "synthetic"} <= set(data_names())
    assert data_name("ptb_xl") == "ptb_xl"


def test_prepared_data_opens_by_place_and_by_name(prepared):
    by_place, by_name = open_data(str(prepared)), open_data("mimic_iv_ecg", prepared)
    assert data_name(str(prepared)) == by_place.name == by_name.name == "mimic_iv_ecg"
    assert by_place.revision == by_name.revision
    assert by_place.revision == (
        "1.0, min_words 4, 0123456789abcdef, train 368 / validation 40 / test 70 records"
    )  # fmt: skip
    for split, sizes in SIZES.items():
        assert isinstance(by_name.split(split), ParquetEcgDataset)
        assert len(by_name.split(split)) == sum(sizes)
    assert by_name.tasks[0].targets(by_name.split("test")).shape[0] == sum(SIZES["test"])


def test_prepared_data_opens_through_the_arrow_cache_where_streaming_is_off(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    cached, streamed = open_data(str(prepared), streaming=False), open_data(str(prepared))
    for split in SIZES:
        assert isinstance(cached.split(split), EcgDataset)
        assert cached.split(split).column("record_id") == streamed.split(split).column("record_id")


def test_options_must_be_those_it_was_prepared_with(prepared):
    assert open_data("mimic_iv_ecg", prepared, min_words=4, drop_nan=False).name == "mimic_iv_ecg"
    with pytest.raises(ValueError, match="was prepared with min_words=4, not 1"):
        open_data("mimic_iv_ecg", prepared, min_words=1)
    with pytest.raises(ValueError, match="was prepared with drop_nan=false, not true"):  # by default
        open_data(str(prepared), drop_nan=True)
    with pytest.raises(ValueError, match="has no option 'min_word'"):
        open_data(str(prepared), min_word=4)


def test_prepared_data_of_another_name_is_refused(prepared):
    with pytest.raises(ValueError, match="was prepared from mimic_iv_ecg, not from ptb_xl"):
        open_data("ptb_xl", prepared)


def test_raw_data_opens_by_name(raw):
    data = open_data("mimic_iv_ecg", raw, validation_fraction=0.2, test_fraction=0.2)
    assert isinstance(data.train, RawEcgDataset)
    patients = [set(data.split(split).column("patient_id")) for split in ("train", "validation", "test")]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    assert "validation_fraction 0.2" in data.revision
    assert f"train {len(data.train)} / " in data.revision
    assert data.revision == open_data("mimic_iv_ecg", str(raw), validation_fraction=0.2, test_fraction=0.2).revision
    assert data.revision != open_data("mimic_iv_ecg", raw, validation_fraction=0.2, test_fraction=0.1).revision


def test_raw_and_prepared_data_have_the_same_fingerprint(raw, tmp_path):
    options = {"validation_fraction": 0.2, "test_fraction": 0.2}
    prepare(open_source("mimic_iv_ecg", raw, **options), tmp_path / "out", progress=False)
    ours, theirs = open_data("mimic_iv_ecg", tmp_path / "out"), open_data("mimic_iv_ecg", raw, **options)
    assert ours.revision == theirs.revision
    assert sorted(ours.split("train").column("record_id")) == sorted(theirs.split("train").column("record_id"))
    assert ours.split("test").column("report") == theirs.split("test").column("report")


def test_only_training_records_may_be_replaced(raw):
    data = open_data("mimic_iv_ecg", raw, bad_records="replace", validation_fraction=0.2)
    assert data.split("train").bad_records == "replace"
    assert data.split("validation").bad_records == "raise"
    with pytest.raises(ValueError, match="bad_records must be"):
        open_data("mimic_iv_ecg", raw, bad_records="drop")


def test_raw_data_goes_through_the_arrow_cache_where_it_is_asked_to(raw, tmp_path):
    options = {"validation_fraction": 0.2, "test_fraction": 0.2}
    cached = open_data("mimic_iv_ecg", raw, streaming=False, cache_dir=tmp_path, **options)
    streamed = open_data("mimic_iv_ecg", raw, **options)
    assert cached.revision == streamed.revision
    for split in ("train", "validation", "test"):
        assert isinstance(cached.split(split), EcgDataset)
        for one, other in zip(cached.split(split), streamed.split(split), strict=True):
            assert one["ecg"].record_id == other["ecg"].record_id
            assert one["ecg"].signal.tobytes() == other["ecg"].signal.tobytes()


def test_an_absent_split_is_named(tmp_path):
    write_prepared(tmp_path / "only_test", {"test": (30,), "train": ()})
    data = open_data(str(tmp_path / "only_test"))
    assert data.train is None
    assert len(data.split("test")) == 30
    with pytest.raises(ValueError, match="tiny has no train split here; it has: test"):
        data.split("train")


def test_prepared_data_opens_from_an_address(prepared):
    handler = functools.partial(QuietHandler, directory=str(prepared.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        data = open_data(f"http://127.0.0.1:{server.server_port}/{prepared.name}")
        assert data.revision == open_data(str(prepared)).revision
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("name", "data_dir", "options", "message"),
    [
        ("ptbxl", None, {}, "no data 'ptbxl'. Known data: .*ptb_xl.*; or a folder"),
        ("./owner/name", None, {}, "no data './owner/name'"),
        ("mimic_iv_ecg", None, {}, "mimic_iv_ecg needs --data-dir"),
        ("mimic_iv_ecg", "RAW", {"num_proc": 2}, "num_proc has no meaning here: no cache is made"),
        ("PREPARED", None, {"streaming": False, "num_proc": 2}, "num_proc has no meaning here: the shards are there"),
        ("synthetic", None, {"duration": 1}, "synthetic has no option 'duration'; it has: .*mean 'duration_s'"),
        ("synthetic", None, {"streaming": True}, "cannot be streamed"),
        ("PREPARED", "RAW", {}, "data_dir has no meaning"),
    ],
)
def test_what_cannot_be_opened_is_refused(name, data_dir, options, message, raw, prepared):
    places = {"RAW": str(raw), "PREPARED": str(prepared)}
    with pytest.raises(ValueError, match=message):
        open_data(places.get(name, name), places.get(data_dir), **options)


def test_a_folder_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prepared\.json"):
        open_data(str(tmp_path))


@pytest.mark.slow
def test_the_download_of_a_source_with_a_cache_streams_where_asked(real_data):
    streamed = open_data("ptb_xl", real_data / "ptb-xl", streaming=True, sampling_rate_hz=100, report="original",
                         missing="skip")  # fmt: skip
    assert isinstance(streamed.train, RawEcgDataset)
    assert streamed.split("train")[0]["ecg"].num_samples == 1000
