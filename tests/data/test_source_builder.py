"""Any source as a `datasets` builder: streamed, cached and Parquet rows are the source's, in shards that share out."""

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from datasets import load_dataset
from make_mimic import MimicStudy, write_mimic_tree
from torch.utils.data import DataLoader

from hf_ecgtext.data import builders
from hf_ecgtext.data.builders import EcgSourceBuilder, MimicIvEcgBuilder, PtbXlBuilder
from hf_ecgtext.data.sources.by_name import source_names
from hf_ecgtext.data.sources.mimic_iv_ecg import MIMIC_IV_ECG_FEATURES
from hf_ecgtext.data.store.schema import EcgDataset, iter_records
from hf_ecgtext.errors import RecordError

SCRIPTS = Path(__file__).resolve().parents[2] / "dataset_scripts"
OPTIONS = {"validation_fraction": 0.2, "test_fraction": 0.2}

uses_wfdb = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 on pandas 3


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, MimicStudy]]:
    folder = tmp_path_factory.mktemp("downloads") / "mimic"
    studies = write_mimic_tree(folder, 150, num_samples=250, short_reports=0.0)
    return folder, {str(study.study_id): study for study in studies}


def make(folder: Path, cache_dir: Path, **settings: object) -> MimicIvEcgBuilder:
    settings = {"options": OPTIONS, "records_per_shard": 16, **settings}
    return MimicIvEcgBuilder(source=str(folder), cache_dir=str(cache_dir), **settings)


def assert_equals_study(record, study: MimicStudy) -> None:
    assert np.array_equal(record.signal, study.adc().astype(np.float32) / np.float32(200))
    assert record.report == study.report
    assert record.patient_id == str(study.subject_id)


@uses_wfdb
def test_streamed_cached_and_parquet_records_are_those_of_the_download(download, tmp_path):
    import wfdb

    folder, studies = download
    builder = make(folder, tmp_path / "cache")
    assert builder.info.features == MIMIC_IV_ECG_FEATURES
    streams = builder.as_streaming_dataset()
    builder.download_and_prepare()
    cached = builder.as_dataset()
    builder.download_and_prepare(str(tmp_path / "parquet"), file_format="parquet")
    parquet = load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache2"))
    assert set(streams) == set(cached) == set(parquet) == {"train", "validation", "test"}
    seen = []
    for split in cached:
        rows = zip(iter_records(streams[split]), EcgDataset(cached[split]), EcgDataset(parquet[split]), strict=True)
        for streamed, from_cache, from_parquet in rows:
            seen.append(streamed.record_id)
            study = studies[streamed.record_id]
            for record in (streamed, from_cache["ecg"], from_parquet["ecg"]):
                assert record.record_id == streamed.record_id
                assert_equals_study(record, study)
            if len(seen) % 15 == 0:
                reference = wfdb.rdrecord(str(folder / study.path))
                np.testing.assert_array_equal(streamed.signal, reference.p_signal.T.astype(np.float32))
    assert sorted(seen) == sorted(studies)


@pytest.mark.slow
def test_ptb_xl_streams_with_its_labels(real_data, tmp_path):
    options = {"sampling_rate_hz": 100, "missing": "skip"}
    builder = PtbXlBuilder(source=str(real_data / "ptb-xl"), cache_dir=str(tmp_path), options=options)
    stream = builder.as_streaming_dataset("test")
    assert stream.num_shards == 1
    records = list(iter_records(stream))
    assert len(records) == 255  # of fold 10, as SOURCES.md of the real recordings counts
    assert {record.attributes["strat_fold"] for record in records} == {10}
    assert all(record.report == record.attributes["report_12sl"] for record in records)


def test_shards_share_out_every_record_once(download, tmp_path):
    folder, _ = download
    stream = make(folder, tmp_path, records_per_shard=7).as_streaming_dataset("train")
    whole = [record.record_id for record in iter_records(stream)]
    assert stream.num_shards == -(-len(whole) // 7) > 4
    parts = [[record.record_id for record in iter_records(stream.shard(3, index))] for index in range(3)]
    assert all(parts)
    assert sorted(record_id for part in parts for record_id in part) == sorted(whole)
    assert len(set(whole)) == len(whole)


@pytest.mark.slow
def test_the_builder_works_in_spawned_workers(download, tmp_path):
    folder, _ = download
    stream = make(folder, tmp_path).as_streaming_dataset("test")
    loader = DataLoader(
        stream.select_columns(["record_id"]), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    assert [row["record_id"] for row in loader] == [record.record_id for record in iter_records(stream)]


def test_workers_are_sent_their_shards_and_not_the_index(download, tmp_path):
    import pickle

    builder = make(download[0], tmp_path)
    builder.as_streaming_dataset("test")
    assert "index" in vars(builder.config)
    assert "index" not in vars(pickle.loads(pickle.dumps(builder.config)))  # noqa: S301


def test_the_cache_folder_changes_with_every_setting_and_with_the_tables(download, tmp_path):
    folder, _ = download

    def cache_folder(**settings: object) -> str:
        return make(folder, tmp_path, **settings).cache_dir

    base = cache_folder()
    assert cache_folder() == base
    assert "mimic_iv_ecg" in base
    others = [
        cache_folder(options={}),
        cache_folder(options={**OPTIONS, "drop_nan": True}),
        cache_folder(records_per_shard=17),
        cache_folder(bad_records="skip"),
    ]
    write_mimic_tree(tmp_path / "other", 150, num_samples=250, seed=1, waveforms=False)
    others.append(make(tmp_path / "other", tmp_path).cache_dir)
    assert len({base, *others}) == 6


def test_a_changed_table_is_not_taken_from_the_cache(tmp_path):
    write_mimic_tree(tmp_path / "mimic", 30, num_samples=250, waveforms=False)
    first = make(tmp_path / "mimic", tmp_path).cache_dir
    table = tmp_path / "mimic" / "machine_measurements.csv"
    table.write_text(table.read_text().replace("60 Hz notch", "50 Hz notch", 1))
    assert make(tmp_path / "mimic", tmp_path).cache_dir != first


def test_a_bad_record_stops_or_is_skipped_and_logged_as_asked(tmp_path, caplog):
    studies = write_mimic_tree(tmp_path / "mimic", 20, num_samples=250, short_reports=0.0)
    (tmp_path / "mimic" / f"{studies[2].path}.dat").write_bytes(b"truncated")
    options = {"options": {"validation_fraction": 0, "test_fraction": 0}}
    with pytest.raises(RecordError, match=str(studies[2].study_id)):
        list(make(tmp_path / "mimic", tmp_path, **options).as_streaming_dataset("train"))
    with caplog.at_level(logging.WARNING):
        stream = make(tmp_path / "mimic", tmp_path, bad_records="skip", **options).as_streaming_dataset("train")
        kept = [record.record_id for record in iter_records(stream)]
    assert kept == [str(study.study_id) for study in studies if study is not studies[2]]
    assert f"mimic_iv_ecg is skipped. Record '{studies[2].study_id}'" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": ""}, "needs source"),
        ({"bad_records": "ignore"}, "not 'ignore'"),
        ({"records_per_shard": 0}, "at least 1"),
        ({"options": {"min_words": 1000}}, "holds no record"),
    ],
)
def test_settings_that_cannot_work_are_refused(download, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        MimicIvEcgBuilder(cache_dir=str(tmp_path), **{"source": str(download[0]), **settings}).as_streaming_dataset()


def test_every_source_has_a_builder():
    made = {
        value.SOURCE_NAME
        for value in vars(builders).values()
        if isinstance(value, type) and issubclass(value, EcgSourceBuilder) and value is not EcgSourceBuilder
    }
    assert set(source_names()) <= made


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_source_has_a_script_with_its_builder_that_takes_the_options_of_prepare(capsys):
    for name in source_names():
        script = load_script(name)
        assert name == script.NAME
        with pytest.raises(SystemExit) as stop:
            script.main(["--help"])
        assert stop.value.code == 0
        assert "--push-to-hub" in capsys.readouterr().out


def test_the_script_prepares_a_download_sample_by_sample_and_names_what_it_skips(tmp_path):
    studies = {str(study.study_id): study for study in write_mimic_tree(tmp_path / "mimic", 90, num_samples=250)}
    bad = list(studies)[17]
    (tmp_path / "mimic" / f"{studies[bad].path}.dat").unlink()
    out = tmp_path / "prepared"
    arguments = ["--source", str(tmp_path / "mimic"), "--output-dir", str(out), "--workers=1"]
    arguments += ["--data-set", "min_words=0", "validation_fraction=0.2", "test_fraction=0.2"]
    assert load_script("mimic_iv_ecg").main(arguments) == 0
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    records = [item["ecg"].to_record() for split in loaded.values() for item in EcgDataset(split)]
    assert sorted(record.record_id for record in records) == sorted(set(studies) - {bad})
    for record in records:
        study = studies[record.record_id]
        assert np.array_equal(record.signal, study.adc().astype(np.float32) / np.float32(200))
        assert (record.report or "") == study.report
    skipped = (out / "skipped.csv").read_text(encoding="utf-8").splitlines()
    assert len(skipped) == 2
    assert skipped[1].startswith(f"{bad},")
