"""PTB-XL from its files: as they are, through a cache, prepared, from archives and servers, always the same."""

import csv
import hashlib
import importlib.util
import json
import logging
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset
from file_server import FileServer

from hf_ecgtext.data.builders import PtbXlBuilder
from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.prepare.card import write_parquet_folder
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import StoredEcg
from hf_ecgtext.data.report_cleaning import clean_12sl_report, clean_ptbxl_report
from hf_ecgtext.data.sources.by_name import open_source, source_names
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES
from hf_ecgtext.data.sources.ptb_xl.source import PTB_XL_SOURCE_FEATURES, PtbXlSource
from hf_ecgtext.data.sources.ptb_xl.tables import PTB_XL_FEATURES, RECORDS_OF_VERSION, version_of
from hf_ecgtext.data.store.manifest import read_manifest
from hf_ecgtext.data.store.schema import (
    ECG_FEATURES,
    EcgDataset,
    decode_table,
    iter_records,
    row_to_record,
    rows_to_table,
)
from hf_ecgtext.data.tasks import SPLITS, EcgData
from hf_ecgtext.errors import RecordError

uses_wfdb = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 on pandas 3

RECORDS_ON_DISK = {100: 1988, 500: 490}  # SOURCES.md of the real recordings
PUBLISHED = {"super": "super_class", "sub": "sub_class", "form": "form", "rhythm": "rhythm"}
PUBLISHED_SIZES = {  # train, validation, test; rows of MERL's published split files
    "super": (17_084, 2_146, 2_158),
    "sub": (17_084, 2_146, 2_158),
    "form": (7_197, 901, 880),
    "rhythm": (16_832, 2_100, 2_098),
}
USUAL_TASKS = ["ptbxl_super", "ptbxl_sub", "ptbxl_form", "ptbxl_rhythm"]
CUT = {"sampling_rate_hz": 100, "check_version": False}


@pytest.fixture(scope="module")
def index_100hz(real_data: Path):
    return PtbXlSource(LocalTree(real_data / "ptb-xl"), sampling_rate_hz=100).index()


@pytest.fixture
def cut(real_data: Path, tmp_path: Path) -> Path:
    """A PTB-XL of the first 12 records at 100 Hz, which a test may spoil, with PTB-XL+ beside it."""
    return write_cut(real_data, tmp_path / "ptb-xl", 12)


@pytest.fixture(scope="module")
def small(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PTB-XL of the first 20 records at 100 Hz, some of each split, with PTB-XL+ beside it."""
    return write_cut(real_data, tmp_path_factory.mktemp("downloads") / "ptb-xl", 20)


def write_cut(real_data: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    with (real_data / "ptb-xl" / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    write_rows(folder / "ptbxl_database.csv", rows)
    shutil.copyfile(real_data / "ptb-xl" / "scp_statements.csv", folder / "scp_statements.csv")
    for row in rows:
        (folder / row["filename_lr"]).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".hea", ".dat"):
            shutil.copyfile(
                real_data / "ptb-xl" / f"{row['filename_lr']}{suffix}", folder / f"{row['filename_lr']}{suffix}"
            )
    (folder.parent / "ptb-xl-plus").symlink_to(real_data / "ptb-xl-plus")
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


@pytest.mark.slow
@uses_wfdb
@pytest.mark.parametrize("sampling_rate_hz", [100, 500])
def test_stored_samples_equal_what_wfdb_reads_in_millivolts(real_data, sampling_rate_hz):
    import wfdb

    source = PtbXlSource(LocalTree(real_data / "ptb-xl"), sampling_rate_hz=sampling_rate_hz, missing="skip")
    index = source.index()
    present = RECORDS_ON_DISK[sampling_rate_hz]
    assert index.records.num_rows == present
    assert index.notes == [
        f"{21_799 - present:,} of 21,799 records have no files in 'records{sampling_rate_hz}' here and are left out "
        f"(missing=skip); {present:,} remain."
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


@pytest.mark.slow
@uses_wfdb
@pytest.mark.parametrize("sampling_rate_hz", [100, 500])
def test_prepared_and_streamed_records_equal_what_wfdb_reads(real_data, cut, tmp_path, sampling_rate_hz):
    import wfdb

    (cut / "records500").symlink_to(real_data / "ptb-xl" / "records500")
    options = {"sampling_rate_hz": sampling_rate_hz, "check_version": False}
    prepare(open_source("ptb_xl", cut, **options), tmp_path / "out", workers=1, progress=False)
    builder = PtbXlBuilder(source=str(cut), cache_dir=str(tmp_path / "cache"), options=options)
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
def test_a_row_has_both_reports_and_the_one_asked_for_raw_and_cleaned(cut, report):
    source = open_cut(cut, report=report)
    clean = {"12sl": clean_12sl_report, "original": clean_ptbxl_report}[report]
    for row in source.read(source.index().records.to_pylist()):
        assert row["report"] == row[f"report_{report}"]
        assert row["report_cleaned"] == clean(row["report"])
        assert row["report_original"] != row["report_12sl"]
        assert set(row) == set(PTB_XL_SOURCE_FEATURES)


def test_the_tables_give_patient_report_codes_and_attributes(cut):
    [row] = open_cut(cut).read(open_cut(cut).index().records.slice(0, 1).to_pylist())
    first = row_to_record(row)
    assert (first.record_id, first.patient_id) == ("00001", "15709")
    assert first.report == "Normal sinus rhythm. Normal ECG"
    assert first.labels == ("NORM", "LVOLT", "SR")
    assert {name: value for name, value in first.attributes.items() if not name.startswith("report_")} == {
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


def test_a_blank_report_is_none(cut):
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[0]["report"] = "  "
        return rows

    change_rows(cut, change)
    records = open_cut(cut, report="original").index().records
    assert records["report"].to_pylist()[0] is None
    assert records["report_cleaned"].to_pylist()[0] is None


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
    for place, (split, name) in enumerate({"train": "train", "validation": "val", "test": "test"}.items()):
        folder = real_data / "merl_splits" / "ptbxl" / PUBLISHED[task]
        table = pd.read_csv(folder / f"ptbxl_{PUBLISHED[task]}_{name}.csv", index_col="ecg_id")
        assert len(table) == PUBLISHED_SIZES[task][place]
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
    assert open_cut(cut, missing="skip").index().records.num_rows == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate_hz": 250}, "not at 250 Hz"),
        ({"report": "english"}, "Unknown report 'english'"),
        ({"missing": "ignore"}, "missing must be 'raise' or 'skip', not 'ignore'"),
        ({"only_present": "yes"}, "only_present must be true or false, not 'yes'; write missing=skip"),
        ({"only_present": True, "missing": "skip"}, "'only_present' is an older name of 'missing'. Give one"),
        (
            {"sampling_rate": 100},
            r"ptb_xl has no option 'sampling_rate'; it has: sampling_rate_hz, report, ptbxl_plus, missing, "
            r"check_version, split_table. Did you mean 'sampling_rate_hz'\?",
        ),
    ],
)
def test_impossible_and_unknown_options_are_refused_on_every_way(real_data, tmp_path, options, message):
    place = real_data / "ptb-xl"
    with pytest.raises(ValueError, match=message):
        open_source("ptb_xl", place, **options)
    with pytest.raises(ValueError, match=message):
        open_data("ptb_xl", place, **options)
    with pytest.raises(ValueError, match=message):
        open_data("ptb_xl", place, streaming=True, **options)
    with pytest.raises(ValueError, match=message):
        PtbXlBuilder(source=str(place), cache_dir=str(tmp_path), options=options)


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


def test_a_record_with_only_its_header_counts_as_missing_and_a_linked_folder_as_there(cut, tmp_path):
    (cut / "records100/00000/00007_lr.dat").unlink()
    (cut / "records100/00000").rename(tmp_path / "elsewhere")
    (cut / "records100/00000").symlink_to(tmp_path / "elsewhere")
    for link in (cut / "records100/back", tmp_path / "elsewhere/back"):  # are not followed for ever
        link.symlink_to(cut)
    assert len(LocalTree(cut).list_files()) == 2 + 2 * 12 - 1
    index = open_cut(cut, missing="skip").index()
    assert [int(name) for name in index.records["record_id"].to_pylist()] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


# Through the cache


def items(data: EcgData, split: str) -> list[StoredEcg]:
    rows = data.split(split)
    return [item["ecg"] for item in rows.__getitems__(range(len(rows)))]


def assert_same(first: StoredEcg, second: StoredEcg) -> None:
    assert first.signal.tobytes() == second.signal.tobytes()
    for name in ("sampling_rate_hz", "lead_names", "record_id", "patient_id", "report", "labels", "attributes"):
        assert getattr(first, name) == getattr(second, name), name


def test_a_download_is_cached_unless_it_is_asked_to_be_read_as_it_is(small, tmp_path):
    cached = open_data("ptb_xl", small, cache_dir=tmp_path / "cache", **CUT)
    read = open_data("ptb_xl", small, streaming=True, **CUT)
    assert [task.name for task in cached.tasks] == USUAL_TASKS
    assert [task.name for task in cached.further_tasks] == ["ptbxl_all"]
    assert sum(len(cached.split(split)) for split in SPLITS) == 20
    for split in SPLITS:
        assert isinstance(cached.split(split), EcgDataset)
        assert isinstance(read.split(split), RawEcgDataset)
        for one, other in zip(items(cached, split), items(read, split), strict=True):
            assert_same(one, other)
            assert split == {9: "validation", 10: "test"}.get(one.attributes["strat_fold"], "train")
    with pytest.raises(ValueError, match="cache_dir has no meaning here: no cache is made"):
        open_data("ptb_xl", small, streaming=True, cache_dir=tmp_path, **CUT)


def test_revision_and_tasks_are_the_same_on_every_way(small, tmp_path):
    prepare(open_source("ptb_xl", small, **CUT), tmp_path / "prepared", workers=1, progress=False)
    opened = [
        open_data("ptb_xl", small, cache_dir=tmp_path / "cache", **CUT),
        open_data("ptb_xl", small, streaming=True, **CUT),
        open_data(str(tmp_path / "prepared")),
        open_data("ptb_xl", tmp_path / "prepared", streaming=False, cache_dir=tmp_path / "cache2", **CUT),
    ]
    for data in opened:
        assert data.revision == opened[0].revision
        assert data.tasks == opened[0].tasks
        assert data.further_tasks == opened[0].further_tasks
    cut_tables = read_manifest(tmp_path / "prepared").fingerprint[:16]
    assert opened[0].revision == f"1.0.3, 100 Hz, 12sl reports, tables {cut_tables}, 20 records"


@pytest.mark.slow
def test_records_signals_reports_and_revision_are_those_of_the_recorded_results(real_data, tmp_path):
    """The digest is that of the first reader of this library, with which `results/ptb_xl_100hz.jsonl.gz` was made."""
    data = open_data("ptb_xl", real_data / "ptb-xl", sampling_rate_hz=100, missing="skip", cache_dir=tmp_path)
    assert data.revision == "1.0.3, 100 Hz, 12sl reports, 1988 records"
    assert [len(data.split(split)) for split in SPLITS] == [1491, 242, 255]
    columns = [name for name in PTB_XL_FEATURES if name not in ECG_FEATURES]
    content = hashlib.sha256()
    for index, ecg in enumerate(items(data, "test")):
        for array in (ecg.samples, ecg.signal, ecg.gain_per_mv, ecg.baseline):
            content.update(array.tobytes())
        text = (index, ecg.record_id, ecg.patient_id, ecg.report, ecg.labels, ecg.lead_names, ecg.sampling_rate_hz)
        content.update(repr((*text, [(name, ecg.attributes[name]) for name in columns])).encode())
    assert content.hexdigest() == "ce67bd36e57885fed9ef57fa6fbc2c647075b22b70e9b4429f5595bfc7c85ef4"
    # Training reads a dataset without blocks in the trainer's own order, and one with blocks in another.
    assert not hasattr(data.train, "block_sizes")


@pytest.mark.slow
def test_missing_files_are_refused_before_the_first_record(real_data, tmp_path):
    with pytest.raises(
        RecordError, match=r"records500/00000/00501_hr\..*21,308 more of the 21,799 records.*missing=skip"
    ):
        open_data("ptb_xl", real_data / "ptb-xl", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))


def test_what_a_partial_download_lacks_is_said_in_the_log(cut, tmp_path, caplog):
    (cut / "records100/00000/00007_lr.dat").unlink()
    with caplog.at_level(logging.WARNING):
        data = open_data("ptb_xl", cut, missing="skip", cache_dir=tmp_path / "cache", **CUT)
    assert sum(len(items(data, split)) for split in SPLITS if getattr(data, split)) == 11
    assert "PTB-XL: 1 of 12 records have no files in 'records100' here" in caplog.text


def test_a_split_without_records_is_named_where_it_is_asked_for(cut, tmp_path):
    change_rows(cut, lambda rows: [row for row in rows if int(row["strat_fold"]) <= 8])
    data = open_data("ptb_xl", cut, cache_dir=tmp_path / "cache", **CUT)
    with pytest.raises(ValueError, match="ptb_xl has no validation split here; it has: train"):
        data.split("validation")


@pytest.mark.slow
def test_the_cache_folder_changes_with_every_option_and_with_the_files(small, tmp_path):
    def cache_folder(source: Path, records_per_shard: int = 256, **options: object) -> str:
        settings = {"options": {**CUT, **options}, "records_per_shard": records_per_shard}
        return PtbXlBuilder(source=str(source), cache_dir=str(tmp_path / "cache"), **settings).cache_dir

    base = cache_folder(small, missing="skip")
    assert cache_folder(small, missing="skip") == cache_folder(small, only_present=True) == base
    copy = tmp_path / "ptb-xl"
    shutil.copytree(small, copy)
    (tmp_path / "ptb-xl-plus").symlink_to(small.parent / "ptb-xl-plus")
    folders = [
        base,
        cache_folder(small, missing="raise"),
        cache_folder(small, missing="skip", sampling_rate_hz=500, check_version=False, report="original"),
        cache_folder(small, missing="skip", report="original"),
        cache_folder(small, missing="skip", records_per_shard=7),
        cache_folder(copy, missing="skip"),
    ]
    (copy / "records100/00000/00020_lr.dat").unlink()
    folders.append(cache_folder(copy, missing="skip"))
    change_rows(copy, lambda rows: [{**row, "age": "50.0"} for row in rows])
    folders.append(cache_folder(copy, missing="skip"))
    assert len(set(folders)) == len(folders)


# Archives and servers


@pytest.mark.parametrize("kind", ["zip", "tar", "http"])
def test_archives_and_addresses_open_in_the_default_way(small, tmp_path, kind):
    options = {"cache_dir": tmp_path / "cache", "ptbxl_plus": str(small.parent / "ptb-xl-plus"), **CUT}
    expected = open_data("ptb_xl", small, **options)
    with tarfile.open(tmp_path / "p.tar", "w") as file:
        file.add(small, "ptb-xl")
    with FileServer(small) as server:
        places = {
            "zip": lambda: shutil.make_archive(str(tmp_path / "p"), "zip", small.parent, "ptb-xl"),
            "tar": lambda: str(tmp_path / "p.tar"),
            "http": lambda: server.url,
        }
        data = open_data("ptb_xl", places[kind](), **options)
    assert data.revision == expected.revision
    for split in SPLITS:
        for one, other in zip(items(data, split), items(expected, split), strict=True):
            assert_same(one, other)


@pytest.mark.slow
def test_ptb_xl_at_the_root_of_a_server_has_ptb_xl_plus_below_it(small, tmp_path):
    root = tmp_path / "server"
    shutil.copytree(small, root)
    with FileServer(root) as server:
        for address in (server.url, f"{server.url}/"):
            with pytest.raises(FileNotFoundError, match=rf"{server.url}/ptb-xl-plus.*ptbxl_plus=\.\.\."):
                open_data("ptb_xl", address, cache_dir=tmp_path / "cache", **CUT)
        shutil.copytree(small.parent / "ptb-xl-plus" / "labels", root / "ptb-xl-plus" / "labels")
        index = open_source("ptb_xl", server.url, **CUT).index()
    assert index.records["report"].to_pylist()[0] == "Normal sinus rhythm. Normal ECG"


def test_ptb_xl_in_a_folder_of_a_server_has_ptb_xl_plus_beside_it(small):
    with FileServer(small.parent) as server:
        index = open_source("ptb_xl", f"{server.url}/ptb-xl/", **CUT).index()
    assert index.records["report"].to_pylist()[0] == "Normal sinus rhythm. Normal ECG"


# Prepared folders


@pytest.mark.slow
def test_a_folder_prepared_by_an_earlier_version_opens_under_the_present_names(cut, tmp_path):
    """Its options are recorded as `only_present`, and so they stay: the fingerprint of the data depends on them."""
    (cut / "records100/00000/00007_lr.dat").unlink()
    out = tmp_path / "out"
    prepare(open_source("ptb_xl", cut, missing="skip", **CUT), out, workers=1, progress=False)
    assert json.loads((out / "prepared.json").read_text())["source_options"] == {
        "sampling_rate_hz": 100,
        "report": "12sl",
        "ptbxl_plus": None,
        "only_present": True,
        "check_version": False,
    }
    for options in ({"missing": "skip"}, {"only_present": True}, {"sampling_rate_hz": 100}):
        assert open_data("ptb_xl", out, **options).revision.endswith("11 records")
    with pytest.raises(ValueError, match='was prepared with missing="skip", not "raise"'):
        open_data(str(out), missing="raise")
    with pytest.raises(ValueError, match=r"no option 'only_there'; it has: sampling_rate_hz, .*missing"):
        open_data(str(out), only_there=True)
    again = prepare(open_source("ptb_xl", cut, only_present=True, **CUT), out, workers=1, progress=False)
    assert again == read_manifest(out)
    assert "missing=skip" in (out / "README.md").read_text()


def load_script(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "dataset_scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_writes_a_parquet_folder_that_load_dataset_reads_back(small, tmp_path, capsys):
    folder = tmp_path / "out" / "ptb-xl-parquet"
    arguments = ["--source", str(small), "--output-dir", str(folder), "--workers=1"]
    arguments += ["--data-set", "sampling_rate_hz=100", "check_version=false"]
    assert load_script("ptb_xl").main(arguments) == 0
    assert "train" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["ptb-xl-parquet"]  # no temporary folder is left

    download = open_data("ptb_xl", small, streaming=True, **CUT)
    by_id = {ecg.record_id: ecg for split in SPLITS for ecg in items(download, split)}
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert sum(split.num_rows for split in loaded.values()) == 20
    for name, split in loaded.items():
        assert split.features == PTB_XL_SOURCE_FEATURES
        streamed = list(iter_records(load_dataset(str(folder), split=name, streaming=True)))
        for record, item in zip(streamed, EcgDataset(split), strict=True):
            assert_same(record, item["ecg"])
            assert_same(item["ecg"], by_id[record.record_id])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    assert "wagner2020ptbxl" in card


def test_a_failed_export_leaves_nothing_behind(cut, tmp_path):
    (cut / "records100/00000/00009_lr.dat").write_bytes(b"truncated")
    output = tmp_path / "out" / "folder"
    splits = PtbXlBuilder(source=str(cut), cache_dir=str(tmp_path / "cache"), options=CUT).as_streaming_dataset()
    with pytest.raises(RecordError, match="00009"):
        write_parquet_folder(splits, output, card="any")
    assert list(output.parent.iterdir()) == []
