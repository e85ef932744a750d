"""PTB-XL as a source of the data path: the records that `PtbXl` reads, labels of all tasks, and refusals by name."""

import csv
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset

from hf_ecgtext.data.builders import PtbXlSourceBuilder
from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.opening import open_source, source_names
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.report_cleaning import clean_12sl_report, clean_ptbxl_report
from hf_ecgtext.data.sources.ptb_xl.download import PtbXl
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES
from hf_ecgtext.data.sources.ptb_xl.source import PTB_XL_SOURCE_FEATURES, PtbXlSource
from hf_ecgtext.data.sources.ptb_xl.tables import RECORDS_OF_VERSION, version_of
from hf_ecgtext.data.store.schema import decode_table, iter_records, row_to_record, rows_to_table
from hf_ecgtext.errors import RecordError

uses_wfdb = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 on pandas 3

RECORDS_ON_DISK = {100: 1988, 500: 490}  # SOURCES.md of the real recordings
PUBLISHED = {"super": "super_class", "sub": "sub_class", "form": "form", "rhythm": "rhythm"}


@pytest.fixture(scope="module")
def index_100hz(real_data: Path):
    return PtbXlSource(LocalTree(real_data / "ptb-xl"), sampling_rate_hz=100).index()


@pytest.fixture
def cut(real_data: Path, tmp_path: Path) -> Path:
    """A PTB-XL of the first 12 records at 100 Hz, which a test may spoil."""
    folder = tmp_path / "ptb-xl"
    folder.mkdir()
    with (real_data / "ptb-xl" / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(12), strict=False)]
    write_rows(folder / "ptbxl_database.csv", rows)
    shutil.copyfile(real_data / "ptb-xl" / "scp_statements.csv", folder / "scp_statements.csv")
    for row in rows:
        (folder / row["filename_lr"]).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".hea", ".dat"):
            shutil.copyfile(
                real_data / "ptb-xl" / f"{row['filename_lr']}{suffix}", folder / f"{row['filename_lr']}{suffix}"
            )
    (tmp_path / "ptb-xl-plus").symlink_to(real_data / "ptb-xl-plus")
    return folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def change_rows(folder: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with (folder / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    write_rows(folder / "ptbxl_database.csv", change(rows))


def open_cut(folder: Path, **options: object) -> PtbXlSource:
    return PtbXlSource(LocalTree(folder), sampling_rate_hz=100, check_version=False, **options)


def test_the_source_is_found_by_its_name(real_data):
    assert "ptb_xl" in source_names()
    assert isinstance(open_source("ptb_xl", real_data / "ptb-xl"), PtbXlSource)


@uses_wfdb
@pytest.mark.parametrize("sampling_rate_hz", [100, 500])
def test_stored_samples_equal_what_wfdb_reads_in_millivolts(real_data, sampling_rate_hz):
    import wfdb

    source = PtbXlSource(LocalTree(real_data / "ptb-xl"), sampling_rate_hz=sampling_rate_hz, only_present=True)
    index = source.index()
    assert index.records.num_rows == RECORDS_ON_DISK[sampling_rate_hz]
    assert index.notes == [
        f"{21_799 - RECORDS_ON_DISK[sampling_rate_hz]:,} records have no files in 'records{sampling_rate_hz}' here and "
        "are left out (only_present)."
    ]
    entries = index.records.to_pylist()[::60]
    table = rows_to_table(list(source.read(entries)), source.features)
    for row, entry in zip(decode_table(table), entries, strict=True):
        record = row_to_record(row)
        reference = wfdb.rdrecord(str(real_data / "ptb-xl" / entry["path"]))
        np.testing.assert_array_equal(record.signal, reference.p_signal.T.astype(np.float32))
        assert record.lead_names == tuple(reference.sig_name)
        assert record.sampling_rate_hz == reference.fs == sampling_rate_hz
        assert set(reference.units) == {"mV"}
        assert entry["path"].endswith(f"{record.record_id}_{'lr' if sampling_rate_hz == 100 else 'hr'}")


@uses_wfdb
@pytest.mark.parametrize("sampling_rate_hz", [100, 500])
def test_prepared_and_streamed_records_equal_what_wfdb_reads(real_data, cut, tmp_path, sampling_rate_hz):
    import wfdb

    (cut / "records500").symlink_to(real_data / "ptb-xl" / "records500")
    options = {"sampling_rate_hz": sampling_rate_hz, "check_version": False}
    prepare(open_source("ptb_xl", cut, **options), tmp_path / "out", workers=1, progress=False)
    builder = PtbXlSourceBuilder(source=str(cut), cache_dir=str(tmp_path / "cache"), options=options)
    streams = {
        "prepared": load_dataset(str(tmp_path / "out"), streaming=True),
        "raw": builder.as_streaming_dataset(),
    }
    suffix = "lr" if sampling_rate_hz == 100 else "hr"
    for name, stream in streams.items():
        records = [record for split in stream for record in iter_records(stream[split])]
        assert sorted(record.record_id for record in records) == [f"{ecg_id:05d}" for ecg_id in range(1, 13)], name
        for record in records:
            path = cut / f"records{sampling_rate_hz}" / "00000" / f"{record.record_id}_{suffix}"
            reference = wfdb.rdrecord(str(path))
            np.testing.assert_array_equal(record.signal, reference.p_signal.T.astype(np.float32))
            assert record.lead_names == tuple(reference.sig_name)
            assert record.sampling_rate_hz == reference.fs


@pytest.mark.parametrize("report", ["12sl", "original"])
def test_every_record_equals_what_the_older_reader_gives(real_data, report):
    source = PtbXlSource(LocalTree(real_data / "ptb-xl"), sampling_rate_hz=100, report=report, only_present=True)
    older = PtbXl(real_data / "ptb-xl", sampling_rate_hz=100, report=report, missing="skip")
    entries = source.index().records.to_pylist()
    assert [int(entry["record_id"]) for entry in entries] == older.record_ids()
    clean = {"12sl": clean_12sl_report, "original": clean_ptbxl_report}[report]
    for entry, row in zip(entries[::20], source.read(entries[::20]), strict=True):
        record, digital = older.read(int(entry["record_id"]))
        assert np.array_equal(row["samples"], digital.adc)
        for name in ("record_id", "patient_id", "report", "sampling_rate_hz"):
            assert row[name] == getattr(record, name), name
        assert row["lead_names"] == list(record.lead_names)
        assert row["labels"] == list(record.labels)
        for name, value in record.attributes.items():
            assert row[name] == value, name
        assert row["report"] == row[f"report_{report}"]
        assert row["report_cleaned"] == clean(row["report"])
        assert row["report_original"] != row["report_12sl"]
        assert set(row) == set(PTB_XL_SOURCE_FEATURES)


def test_the_splits_have_the_records_of_their_folds_and_share_no_patient(index_100hz):
    records = index_100hz.records
    table = pd.DataFrame(
        {name: records[name].to_pylist() for name in ("record_id", "patient_id", "split", "strat_fold")}
    )
    assert table.split.value_counts().to_dict() == {"train": 17_418, "validation": 2_183, "test": 2_198}
    assert table.groupby("patient_id").split.nunique().max() == 1
    assert table.record_id.is_unique
    assert table.patient_id.nunique() == 18_869
    assert dict(table[["strat_fold", "split"]].drop_duplicates().to_numpy().tolist()) == {
        **dict.fromkeys(range(1, 9), "train"),
        9: "validation",
        10: "test",
    }
    assert index_100hz.left_out == []
    assert index_100hz.notes == []


@pytest.mark.parametrize("task", PTB_XL_CLASSES)
def test_labels_and_split_of_all_21799_records_equal_the_published_files(real_data, index_100hz, task):
    records = index_100hz.records
    ids = [int(record_id) for record_id in records["record_id"].to_pylist()]
    ours = dict(zip(ids, records[f"labels_{task}"].to_pylist(), strict=True))
    splits = dict(zip(ids, records["split"].to_pylist(), strict=True))
    assert len(ours) == 21_799
    published: dict[int, set[str]] = {}
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        folder = real_data / "merl_splits" / "ptbxl" / PUBLISHED[task]
        table = pd.read_csv(folder / f"ptbxl_{PUBLISHED[task]}_{name}.csv", index_col="ecg_id")
        classes = np.array(table.columns[5:])  # by name: their order differs from file to file
        assert set(classes) == set(PTB_XL_CLASSES[task])
        for ecg_id, row in zip(table.index, table[classes].to_numpy(), strict=True):
            assert ecg_id not in published
            assert splits[ecg_id] == split
            published[int(ecg_id)] = set(classes[row == 1])
    # The files leave out the records without any class of the task, and no others: none is of a withdrawn record.
    assert {ecg_id: published.get(ecg_id, set()) for ecg_id in ours} == {
        key: set(labels) for key, labels in ours.items()
    }
    assert set(published) <= set(ours)
    assert all(published.values())


def test_the_task_of_all_statements_names_every_code_of_every_record(real_data, index_100hz):
    source = PtbXlSource(LocalTree(real_data / "ptb-xl"), sampling_rate_hz=100)
    tasks = {task.name: task for task in source.tasks()}
    assert {name: len(task.class_names) for name, task in tasks.items()} == {
        "ptbxl_super": 5,
        "ptbxl_sub": 23,
        "ptbxl_form": 19,
        "ptbxl_rhythm": 12,
        "ptbxl_all": 71,
    }
    whole = tasks["ptbxl_all"]
    assert whole.label_column == "labels"
    assert whole.class_names["LVOLT"] == "low QRS voltages in the frontal and horizontal leads"
    assert len(set(whole.class_names.values())) == 71
    codes = {code for labels in index_100hz.records["labels"].to_pylist() for code in labels}
    assert codes == set(whole.class_names)
    for name, task in tasks.items():
        assert set(task.class_names) == {
            label for labels in index_100hz.records[task.label_column].to_pylist() for label in labels
        }, name


def test_the_version_is_told_by_the_number_of_records():
    for version, count in RECORDS_OF_VERSION.items():
        assert version_of(pd.DataFrame(index=range(count))) == version
    with pytest.raises(ValueError, match=r"has 21,798 records.*1\.0\.1 has 21,837.*1\.0\.3 has 21,799.*check_version"):
        version_of(pd.DataFrame(index=range(21_798)))


def test_a_table_of_no_known_version_is_refused_unless_asked_for(cut):
    with pytest.raises(ValueError, match=r"ptbxl_database\.csv has 12 records, as no known version"):
        PtbXlSource(LocalTree(cut), sampling_rate_hz=100).index()
    assert open_cut(cut).index().records.num_rows == 12


def test_an_older_version_is_used_and_said_so(cut, monkeypatch):
    monkeypatch.setitem(RECORDS_OF_VERSION, "1.0.1", 12)
    index = PtbXlSource(LocalTree(cut), sampling_rate_hz=100).index()
    assert index.notes == ["The tables are those of PTB-XL 1.0.1; the current version is 1.0.3."]


def test_an_unknown_age_is_empty_and_no_age_over_89(cut):
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[0]["age"], rows[1]["age"], rows[2]["age"] = "", "300.0", "89.0"
        return rows

    change_rows(cut, change)
    records = open_cut(cut).index().records.slice(0, 3)
    assert records["age"].to_pylist() == [None, None, 89]
    assert records["is_over_89"].to_pylist() == [False, True, False]


@pytest.mark.parametrize("table", ["ptbxl_database.csv", "scp_statements.csv"])
def test_a_missing_table_is_named_with_its_address(cut, table):
    (cut / table).unlink()
    with pytest.raises(FileNotFoundError, match=rf"'{table}'.*physionet\.org/content/ptb-xl"):
        open_cut(cut).index()


def test_a_missing_ptb_xl_plus_is_explained_or_noted(cut, tmp_path):
    (tmp_path / "ptb-xl-plus").unlink()
    with pytest.raises(FileNotFoundError, match=r"ptb-xl-plus.*report='original'"):
        open_cut(cut).index()
    index = open_cut(cut, report="original").index()
    assert index.records["report_12sl"].null_count == 12
    assert index.records["report"].to_pylist()[0] == "sinusrhythmus periphere niederspannung"
    assert "PTB-XL+ is not there" in index.notes[0]
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        open_cut(cut, report="original", ptbxl_plus=str(tmp_path / "elsewhere")).index()


def test_ptb_xl_plus_may_be_elsewhere(cut, tmp_path):
    (tmp_path / "ptb-xl-plus").rename(tmp_path / "elsewhere")
    index = open_cut(cut, ptbxl_plus=str(tmp_path / "elsewhere")).index()
    assert index.records["report"].to_pylist()[0] == "Normal sinus rhythm. Normal ECG"


def test_a_record_that_ptb_xl_plus_does_not_know_is_left_out_by_name(cut):
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[3]["ecg_id"] = "21838"
        return rows

    change_rows(cut, change)
    index = open_cut(cut).index()
    assert [skipped.record for skipped in index.left_out] == ["21838"]
    assert index.records.num_rows == 11
    kept = open_cut(cut, report="original").index().records
    assert kept["record_id"].to_pylist()[-1] == "21838"
    assert kept["report_12sl"].to_pylist()[-1] is None


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scp_codes", "{'NORM': 100.0, 'XYZ': 0.0}", r"Record 5 .*SCP codes \['XYZ'\].*scp_statements\.csv"),
        ("scp_codes", "NORM", r"Record 5 .*scp_codes 'NORM'"),
        ("scp_codes", "", r"Record 5 .*scp_codes nan"),
        ("scp_codes", "['NORM']", r"Record 5 .*instead of a mapping"),
        ("strat_fold", "11", "folds 1 to 10, not 11"),
        ("ecg_id", "4", r"names 1 records more than once, such as \[4\]"),
        ("filename_lr", "../../outside/00005_lr", "names paths outside the download"),
        ("filename_lr", "/etc/passwd", "names paths outside the download"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_by_record_and_field(cut, column, value, message):
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[4][column] = value
        return rows

    change_rows(cut, change)
    with pytest.raises(ValueError, match=message):
        open_cut(cut, report="original").index()


def test_a_table_without_a_needed_column_is_refused(cut):
    change_rows(cut, lambda rows: [{k: v for k, v in row.items() if k != "strat_fold"} for row in rows])
    with pytest.raises(ValueError, match=r"ptbxl_database\.csv lacks the columns \['strat_fold'\]"):
        open_cut(cut).index()


def test_bad_files_are_named_and_leave_the_others_alone(cut):
    (cut / "records100/00000/00002_lr.dat").unlink()
    (cut / "records100/00000/00004_lr.dat").write_bytes(b"truncated")
    header = cut / "records100/00000/00007_lr.hea"
    header.write_text(header.read_text().replace("12 100 1000", "12 125 1000", 1))
    source = open_cut(cut)
    rows = list(source.read(source.index().records.to_pylist()))
    errors = {row.record: row.problem for row in rows if isinstance(row, RecordError)}
    assert set(errors) == {"00002", "00004", "00007"}
    assert "00002_lr.dat' is missing" in errors["00002"]
    assert "125 Hz instead of 100 Hz" in errors["00007"]
    assert open_cut(cut, only_present=True).index().records.num_rows == 11


@pytest.mark.parametrize(
    ("options", "message"), [({"sampling_rate_hz": 250}, "not at 250 Hz"), ({"report": "english"}, "'english'")]
)
def test_impossible_options_are_refused(real_data, options, message):
    with pytest.raises(ValueError, match=message):
        open_source("ptb_xl", real_data / "ptb-xl", **options)


def test_the_source_can_be_pickled_after_use(cut):
    source = open_cut(cut)
    source.tasks()
    entries = source.index().records.to_pylist()
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    [row] = copy.read(entries[:1])
    assert row["record_id"] == "00001"
    assert copy.options == source.options


def test_an_archive_with_everything_in_one_folder_gives_the_same_rows(cut, tmp_path):
    expected = open_cut(cut)
    archive = shutil.make_archive(str(tmp_path / "download"), "zip", cut.parent, "ptb-xl")
    source = open_source("ptb_xl", archive, sampling_rate_hz=100, check_version=False)  # ptb-xl-plus lies beside it
    index = source.index()
    assert index.records.equals(expected.index().records)
    entries = index.records.to_pylist()
    for row, same in zip(source.read(entries), expected.read(entries), strict=True):
        assert np.array_equal(row["samples"], same["samples"])
        assert row["report"] == same["report"] == row["report_12sl"]
