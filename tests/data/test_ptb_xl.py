"""PTB-XL from its original files: as records, as a stream, as a cache and as a Parquet folder, always the same."""

import importlib.util
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset
from torch.utils.data import DataLoader

from hf_ecgtext.data.prepare.card import write_parquet_folder
from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.sources.ptb_xl.cached import PtbXlBuilder, load_ptb_xl
from hf_ecgtext.data.sources.ptb_xl.download import PTB_XL_FEATURES, PtbXl
from hf_ecgtext.data.sources.ptb_xl.source import PTB_XL_SOURCE_FEATURES
from hf_ecgtext.data.store.schema import EcgDataset, iter_records
from hf_ecgtext.errors import RecordError

NUM_RECORDS = 20

uses_wfdb = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 on pandas 3


def load_script(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "dataset_scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(first: EcgRecord, second: EcgRecord) -> None:
    assert first.signal.tobytes() == second.signal.tobytes()
    for name in ("sampling_rate_hz", "lead_names", "record_id", "patient_id", "report", "labels", "attributes"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.fixture(scope="module")
def small(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete PTB-XL of the first 20 records at 100 Hz, with PTB-XL+ beside it."""
    root = tmp_path_factory.mktemp("downloads")
    folder = root / "ptb-xl"
    folder.mkdir()
    database = pd.read_csv(real_data / "ptb-xl" / "ptbxl_database.csv").head(NUM_RECORDS)
    database.to_csv(folder / "ptbxl_database.csv", index=False)
    shutil.copyfile(real_data / "ptb-xl" / "scp_statements.csv", folder / "scp_statements.csv")
    for name in database.filename_lr:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".hea", ".dat"):
            shutil.copyfile(real_data / "ptb-xl" / f"{name}{suffix}", folder / f"{name}{suffix}")
    (root / "ptb-xl-plus").symlink_to(real_data / "ptb-xl-plus")
    return folder


@pytest.fixture(scope="module")
def records(small: Path) -> list[EcgRecord]:
    return list(PtbXl(small, sampling_rate_hz=100))


@pytest.fixture(scope="module")
def prepared(small: Path, tmp_path_factory: pytest.TempPathFactory):
    return load_ptb_xl(small, sampling_rate_hz=100, cache_dir=tmp_path_factory.mktemp("cache"))


@uses_wfdb
def test_records_equal_what_wfdb_reads(small, records):
    import wfdb

    for record in records[::5]:
        reference = wfdb.rdrecord(str(small / f"records100/00000/{record.record_id}_lr"))
        np.testing.assert_array_equal(record.signal, reference.p_signal.T.astype(np.float32))
        assert record.lead_names == tuple(reference.sig_name)
        assert record.sampling_rate_hz == reference.fs == 100


@uses_wfdb
@pytest.mark.parametrize(("sampling_rate_hz", "ecg_id"), [(100, 4827), (500, 10029)])
def test_a_real_record_of_each_rate_equals_what_wfdb_reads(real_data, sampling_rate_hz, ecg_id):
    import wfdb

    source = PtbXl(real_data / "ptb-xl", sampling_rate_hz=sampling_rate_hz, report="original")
    record, digital = source.read(ecg_id)
    name = source.database.loc[ecg_id, {100: "filename_lr", 500: "filename_hr"}[sampling_rate_hz]]
    reference = wfdb.rdrecord(str(real_data / "ptb-xl" / name), physical=False)
    np.testing.assert_array_equal(digital.adc, reference.d_signal.T)
    assert record.signal.shape == (12, 10 * sampling_rate_hz)


def test_the_tables_give_patient_report_codes_and_attributes(records):
    first = records[0]
    assert (first.record_id, first.patient_id) == ("00001", "15709")
    assert first.report == "Normal sinus rhythm. Normal ECG"
    assert first.labels == ("NORM", "LVOLT", "SR")
    assert first.attributes == {
        "labels_super": ["NORM"],
        "labels_sub": ["NORM"],
        "labels_form": ["LVOLT"],
        "labels_rhythm": ["SR"],
        "scp_likelihoods": [100.0, 0.0, 0.0],
        "strat_fold": 3,
        "age": 56,
        "is_over_89": False,
        "sex": "female",
    }


def test_the_original_report_can_be_asked_for_and_needs_no_ptb_xl_plus(small, tmp_path):
    source = PtbXl(small, sampling_rate_hz=100, report="original", ptbxl_plus_dir=tmp_path / "absent")
    assert source.read(1)[0].report == "sinusrhythmus periphere niederspannung"


def test_blank_reports_are_none_and_censored_ages_are_marked(real_data):
    source = PtbXl(real_data / "ptb-xl", sampling_rate_hz=100, report="original", missing="skip")
    available = source.database.loc[source.record_ids()]
    (censored, *_) = available.index[available.age == 300]
    attributes = source.read(censored)[0].attributes
    assert attributes["age"] is None
    assert attributes["is_over_89"]
    source._reports[censored] = "  "
    assert source.read(censored)[0].report is None


def test_folds_select_records(small, records):
    source = PtbXl(small, sampling_rate_hz=100)
    by_fold = {fold: [record.record_id for record in source.records([fold])] for fold in range(1, 11)}
    for record in records:
        assert record.record_id in by_fold[record.attributes["strat_fold"]]
    assert sum(map(len, by_fold.values())) == len(source) == NUM_RECORDS


def test_missing_signal_files_are_refused_before_the_first_record(real_data):
    source = PtbXl(real_data / "ptb-xl", sampling_rate_hz=500, report="original")
    with pytest.raises(RecordError, match=r"00501_hr.*21,308 more of the 21,799.*500 Hz.*missing='skip'"):
        source.records()


@pytest.mark.parametrize(("sampling_rate_hz", "present"), [(100, 1988), (500, 490)])
def test_missing_signal_files_are_skipped_on_request_and_counted(real_data, caplog, sampling_rate_hz, present):
    source = PtbXl(real_data / "ptb-xl", sampling_rate_hz=sampling_rate_hz, report="original", missing="skip")
    with caplog.at_level(logging.WARNING):
        assert len(source) == len(source.record_ids()) == present
    assert len(caplog.records) == 1
    assert f"{21_799 - present:,} of 21,799 records have no files at {sampling_rate_hz} Hz" in caplog.text
    assert f"{present:,} remain" in caplog.text


def test_a_record_with_only_its_header_counts_as_missing(small, tmp_path):
    shutil.copytree(small, tmp_path / "ptb-xl")
    (tmp_path / "ptb-xl/records100/00000/00007_lr.dat").unlink()
    source = PtbXl(tmp_path / "ptb-xl", sampling_rate_hz=100, report="original", missing="skip")
    assert source.record_ids() == [ecg_id for ecg_id in range(1, NUM_RECORDS + 1) if ecg_id != 7]


def test_a_header_of_another_rate_is_refused(small, tmp_path):
    shutil.copytree(small, tmp_path / "ptb-xl")
    header = tmp_path / "ptb-xl/records100/00000/00003_lr.hea"
    header.write_text(header.read_text().replace("12 100 1000", "12 125 1000", 1))
    with pytest.raises(RecordError, match=r"00003_lr.*125 Hz instead of 100 Hz"):
        PtbXl(tmp_path / "ptb-xl", sampling_rate_hz=100, report="original").read(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling_rate_hz": 250}, "not at 250 Hz"),
        ({"report": "english"}, "Unknown report 'english'"),
        ({"missing": "ignore"}, "not 'ignore'"),
    ],
)
def test_unknown_settings_are_refused_by_source_and_builder(small, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        PtbXl(small, **settings)
    with pytest.raises(ValueError, match=message):
        PtbXlBuilder(data_dir=str(small), cache_dir=str(tmp_path), **settings)


def test_absent_tables_are_explained(small, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ptbxl_database\.csv.*physionet"):
        PtbXl(tmp_path)
    with pytest.raises(FileNotFoundError, match="report='original'"):
        PtbXl(small, ptbxl_plus_dir=tmp_path)
    with pytest.raises(ValueError, match="needs data_dir"):
        PtbXlBuilder(cache_dir=str(tmp_path))
    with pytest.raises(RecordError, match=r"'PTB-XL 99'"):
        PtbXl(small, report="original").read(99)


def test_cached_records_equal_the_source(prepared, records):
    assert sum(split.num_rows for split in prepared.values()) == NUM_RECORDS
    by_id = {record.record_id: record for record in records}
    for name, split in prepared.items():
        assert split.features == PTB_XL_FEATURES
        for item in EcgDataset(split).__getitems__(range(len(split))):
            assert_same(item["ecg"], by_id[item["ecg"].record_id])
            fold = item["ecg"].attributes["strat_fold"]
            assert name == {9: "validation", 10: "test"}.get(fold, "train")


def test_streamed_records_equal_the_cached_ones_in_order(small, prepared):
    for name, split in prepared.items():
        stream = load_ptb_xl(small, sampling_rate_hz=100, split=name, streaming=True)
        streamed = list(iter_records(stream))
        assert len(streamed) == len(split)
        for record, item in zip(streamed, EcgDataset(split), strict=True):
            assert_same(record, item["ecg"])


def test_shards_share_out_every_record_once(small):
    stream = load_ptb_xl(small, sampling_rate_hz=100, split="train", streaming=True, records_per_shard=3)
    whole = [record.record_id for record in iter_records(stream)]
    assert stream.num_shards == -(-len(whole) // 3) > 2
    parts = [list(iter_records(stream.shard(num_shards=2, index=index))) for index in range(2)]
    assert all(parts)
    assert sorted(record.record_id for part in parts for record in part) == whole


def test_the_builder_works_in_spawned_workers(small):
    stream = load_ptb_xl(small, sampling_rate_hz=100, split="train", streaming=True, records_per_shard=4)
    loader = DataLoader(
        stream.select_columns(["record_id"]),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert [row["record_id"] for row in loader] == [record.record_id for record in iter_records(stream)]


def test_the_cache_folder_changes_with_every_setting_and_with_the_files(small, tmp_path):
    def cache_folder(data_dir: Path, **settings: object) -> str:
        return PtbXlBuilder(data_dir=str(data_dir), cache_dir=str(tmp_path / "cache"), **settings).cache_dir

    base = cache_folder(small, missing="skip", sampling_rate_hz=100)
    assert cache_folder(small, missing="skip", sampling_rate_hz=100) == base
    copy = tmp_path / "ptb-xl"
    shutil.copytree(small, copy)
    (tmp_path / "ptb-xl-plus").symlink_to(small.parent / "ptb-xl-plus")
    folders = [
        base,
        cache_folder(small, missing="raise", sampling_rate_hz=100),
        cache_folder(small, missing="skip", sampling_rate_hz=500),
        cache_folder(small, missing="skip", sampling_rate_hz=100, report="original"),
        cache_folder(small, missing="skip", sampling_rate_hz=100, records_per_shard=7),
        cache_folder(copy, missing="skip", sampling_rate_hz=100),
    ]
    (copy / "records100/00000/00020_lr.dat").unlink()
    folders.append(cache_folder(copy, missing="skip", sampling_rate_hz=100))
    table = pd.read_csv(copy / "ptbxl_database.csv")
    table.assign(age=50).to_csv(copy / "ptbxl_database.csv", index=False)
    folders.append(cache_folder(copy, missing="skip", sampling_rate_hz=100))
    assert len(set(folders)) == len(folders)


def test_a_split_without_records_is_left_out_and_named(small, tmp_path, caplog):
    shutil.copytree(small, tmp_path / "ptb-xl")
    table = pd.read_csv(small / "ptbxl_database.csv")
    table[table.strat_fold <= 8].to_csv(tmp_path / "ptb-xl/ptbxl_database.csv", index=False)
    with caplog.at_level(logging.WARNING):
        splits = load_ptb_xl(tmp_path / "ptb-xl", sampling_rate_hz=100, report="original", streaming=True)
    assert set(splits) == {"train"}
    assert "no record of the split 'validation'" in caplog.text


def test_the_script_writes_a_parquet_folder_that_load_dataset_reads_back(small, records, tmp_path, capsys):
    folder = tmp_path / "out" / "ptb-xl-parquet"
    script = load_script("ptb_xl")
    arguments = ["--source", str(small), "--output-dir", str(folder), "--workers=1"]
    arguments += ["--data-set", "sampling_rate_hz=100", "check_version=false"]
    assert script.main(arguments) == 0
    assert "train" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["ptb-xl-parquet"]  # no temporary folder is left

    by_id = {record.record_id: record for record in records}
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert sum(split.num_rows for split in loaded.values()) == NUM_RECORDS
    for name, split in loaded.items():
        assert split.features == PTB_XL_SOURCE_FEATURES
        streamed = {
            record.record_id: record for record in iter_records(load_dataset(str(folder), split=name, streaming=True))
        }
        assert len(streamed) == split.num_rows
        for item in EcgDataset(split):
            assert_same(streamed[item["ecg"].record_id], item["ecg"])
            known = by_id[item["ecg"].record_id]
            both_reports = {key: value for key, value in item["ecg"].attributes.items() if key.startswith("report_")}
            assert both_reports["report_12sl"] == known.report
            assert_same(replace(known, attributes={**known.attributes, **both_reports}), item["ecg"])

    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    assert "wagner2020ptbxl" in card


def test_a_failed_export_leaves_nothing_behind(small, tmp_path):
    shutil.copytree(small, tmp_path / "in" / "ptb-xl")
    (tmp_path / "in/ptb-xl/records100/00000/00009_lr.dat").write_bytes(b"truncated")
    output = tmp_path / "out" / "folder"
    splits = load_ptb_xl(tmp_path / "in/ptb-xl", sampling_rate_hz=100, report="original", streaming=True)
    with pytest.raises(RecordError, match="00009_lr"):
        write_parquet_folder(splits, output, card="any")
    assert list(output.parent.iterdir()) == []
