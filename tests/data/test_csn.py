"""CSN: samples against scipy and wfdb, acronyms and both labellings against the published tables."""

import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from datasets import load_dataset
from reading_fixtures import random_adc, wfdb, write_record

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.csn.labels import (
    CSN_ACRONYMS,
    CSN_CLASSES,
    exact_classes,
    merl_classes,
    read_condition_names,
)
from hf_ecgtext.data.sources.csn.source import CONDITION_NAMES_FILE, Csn
from hf_ecgtext.data.store.schema import iter_records, rows_to_table
from hf_ecgtext.errors import RecordError

SPURIOUS_IN_TRAIN = {  # class -> published positives, positives by whole acronyms
    "VB": (665, 3),
    "AVB": (662, 123),
    "AF": (3383, 2391),
    "ST": (4553, 3720),
    "SA": (2075, 1549),
    "CR": (141, 54),
    "2AVB": (31, 18),
}
HEAD = "Acronym Name,Full Name,Snomed_CT\n"


def write_csn(folder: Path, name: str, codes: str = "426783006", **header: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    comments = ["#Age: 34", "#Sex: Male", f"#Dx: {codes}", "#Rx: Unknown"]
    write_record(
        folder, name, random_adc(), storage="16+24", extension=".mat", scale="1000/mV", comments=comments, **header
    )


def read_all(source: Csn) -> tuple[list, list[RecordError]]:
    results = list(source.read(source.index().records.to_pylist()))
    errors = [result for result in results if isinstance(result, RecordError)]
    return [result for result in results if not isinstance(result, RecordError)], errors


def published(real_data: Path, part: str) -> pd.DataFrame:
    table = pd.read_csv(real_data / "merl_splits" / "chapman" / f"chapman_{part}.csv")
    return table.set_index(table.ecg_path.str.extract(r"(JS\d{5})")[0])


@pytest.fixture(scope="module")
def real_rows(real_data: Path) -> list:
    rows, errors = read_all(Csn(LocalTree(real_data / "csn"), split_of_others="train"))
    assert errors == []
    assert len(rows) == 85
    return rows


def matrix(table: pd.DataFrame, rule) -> pd.DataFrame:
    """0/1 columns of all classes by a rule on a record's acronyms."""
    labels = [set(rule(diagnose.split(","))) for diagnose in table.diagnose]
    return pd.DataFrame({name: [int(name in present) for present in labels] for name in CSN_CLASSES}, index=table.index)


def test_real_recordings_equal_what_scipy_reads_prepared_and_streamed(real_data, real_rows, tmp_path):
    manifest = prepare(
        Csn(LocalTree(real_data / "csn"), split_of_others="train"), tmp_path / "out", workers=1, progress=False
    )
    by_id = {
        record.record_id: record
        for split in manifest.splits
        for record in iter_records(load_dataset(str(tmp_path / "out"), split=split, streaming=True))
    }
    files = {file.stem: file for file in (real_data / "csn").rglob("*.mat")}
    assert by_id.keys() == files.keys()
    for row in real_rows:
        record = by_id[row["record_id"]]
        integers = scipy.io.loadmat(files[record.record_id])["val"]
        np.testing.assert_array_equal(row["samples"], integers)
        np.testing.assert_array_equal(record.signal, (integers / 1000.0).astype(np.float32))
        assert record.patient_id == record.record_id


@pytest.mark.parametrize("name", ["01/010/JS00001", "20/206/JS20001", "01/010/JS00002"])
def test_a_real_recording_equals_what_wfdb_reads(real_data, real_rows, name):
    reference = wfdb.rdrecord(str(real_data / "csn" / "WFDBRecords" / name))
    row = next(row for row in real_rows if row["record_id"] == reference.record_name)
    signal = (row["samples"] - row["baseline"][:, None]) / row["gain_per_mv"][:, None]
    np.testing.assert_array_equal(signal.astype(np.float32), reference.p_signal.T.astype(np.float32))
    assert row["lead_names"] == reference.sig_name
    assert row["sampling_rate_hz"] == reference.fs


def test_the_acronyms_of_real_headers_are_the_published_ones(real_data, real_rows):
    table = pd.concat([published(real_data, part) for part in ("train", "val", "test")])
    known = [row for row in real_rows if row["record_id"] in table.index]
    assert len(known) == 36
    for row in known:
        expected = table.loc[row["record_id"]]
        assert ",".join(row["labels_short"]) == expected.diagnose
        assert row["labels_unknown"] == []
        assert row["labels_csn_merl"] == [name for name in CSN_CLASSES if expected[name]]


def test_codes_without_acronym_are_kept_in_the_labels(real_rows):
    unknown = Counter(code for row in real_rows for code in row["labels_unknown"])
    assert unknown["55827005"] == 12
    assert unknown.total() == 50
    for row in real_rows:
        known = [code for code in row["labels"] if code not in row["labels_unknown"]]
        assert [CSN_ACRONYMS[code] for code in known] == row["labels_short"]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_published_labels_are_the_substring_rule_for_all_38_classes(real_data, part):
    table = published(real_data, part)
    pd.testing.assert_frame_equal(matrix(table, merl_classes), table[list(CSN_CLASSES)])


def test_whole_acronyms_differ_from_the_published_labels_in_seven_classes_and_only_remove_positives(real_data):
    tables = {part: published(real_data, part) for part in ("train", "val", "test")}
    together = pd.concat(tables.values())
    exact, as_published = matrix(together, exact_classes), together[list(CSN_CLASSES)]
    assert {name for name in CSN_CLASSES if (exact[name] != as_published[name]).any()} == set(SPURIOUS_IN_TRAIN)
    assert (exact <= as_published).all(axis=None)
    train = tables["train"]
    exact = matrix(train, exact_classes)
    assert {name: (train[name].sum(), exact[name].sum()) for name in SPURIOUS_IN_TRAIN} == SPURIOUS_IN_TRAIN


def test_every_published_acronym_has_a_code(real_data):
    tables = [published(real_data, part).diagnose for part in ("train", "val", "test")]
    acronyms = {acronym for table in tables for diagnose in table for acronym in diagnose.split(",")}
    assert len(acronyms) == 50
    assert acronyms <= set(CSN_ACRONYMS.values())
    assert set(CSN_CLASSES) <= acronyms


def test_records_outside_the_published_splits_are_left_out_by_default(real_data):
    index = Csn(LocalTree(real_data / "csn")).index()
    assert index.records.num_rows == 36
    assert len(index.left_out) == 49
    expected = {
        name: split
        for split, part in (("train", "train"), ("validation", "val"), ("test", "test"))
        for name in published(real_data, part).index
    }
    for entry in index.records.to_pylist():
        assert entry["split"] == expected[entry["record_id"]]


def test_the_lists_of_the_download_give_the_same_index_as_its_folders(real_data, tmp_path):
    shutil.copytree(real_data / "csn" / "WFDBRecords" / "01", tmp_path / "WFDBRecords" / "01")
    by_folders = Csn(LocalTree(tmp_path), split_of_others="train").index().records
    assert by_folders.num_rows == 11
    folders = sorted(folder for folder in (tmp_path / "WFDBRecords" / "01").iterdir())
    (tmp_path / "RECORDS").write_text("".join(f"{folder.relative_to(tmp_path).as_posix()}/\n" for folder in folders))
    for folder in folders:
        names = sorted(file.stem for file in folder.glob("*.hea"))
        (folder / "RECORDS").write_text("\n".join(names))
    source = Csn(LocalTree(tmp_path), split_of_others="train")
    assert source.index().records.equals(by_folders)

    (folders[0] / "JS00001.mat").unlink()
    rows, errors = read_all(source)
    assert len(rows) == 10
    assert [(error.record, "JS00001.mat' is missing" in error.problem) for error in errors] == [("JS00001", True)]


def test_wrong_lists_of_the_download_are_refused(tmp_path):
    (tmp_path / "RECORDS").write_text("WFDBRecords/01/010/\n")
    with pytest.raises(FileNotFoundError, match="names the folder 'WFDBRecords/01/010/', whose own RECORDS cannot be"):
        Csn(LocalTree(tmp_path)).index()
    (tmp_path / "RECORDS").write_text("a/JS00001\na/JS00001\n")
    with pytest.raises(ValueError, match=r"name 'a/JS00001.* twice"):
        Csn(LocalTree(tmp_path)).index()
    for hostile in ("../JS00001", "/etc/JS00001", "../"):
        (tmp_path / "RECORDS").write_text(f"{hostile}\n")
        with pytest.raises(RecordError, match="would leave the download's folder"):
            Csn(LocalTree(tmp_path)).index()


def test_damaged_recordings_are_skipped_by_name(tmp_path):
    for number in range(1, 5):
        write_csn(tmp_path / "WFDBRecords" / "01", f"JS0000{number}")
    folder = tmp_path / "WFDBRecords" / "01"
    (folder / "JS00001.mat").write_bytes((folder / "JS00001.mat").read_bytes()[:-2])
    (folder / "JS00002.hea").unlink()
    samples = bytearray((folder / "JS00003.mat").read_bytes())
    samples[30] ^= 1
    (folder / "JS00003.mat").write_bytes(samples)
    rows, errors = read_all(Csn(LocalTree(tmp_path), split_of_others="train"))
    assert [row["record_id"] for row in rows] == ["JS00004"]
    assert [error.record for error in errors] == ["JS00001", "JS00002", "JS00003"]
    assert "JS00002.hea' is missing" in errors[1].problem
    assert "checksum" in errors[2].problem


def test_unknown_codes_can_be_a_reason_to_skip(tmp_path):
    write_csn(tmp_path, "JS00001", "426783006,999")
    write_csn(tmp_path, "JS00002", "426783006")
    rows, errors = read_all(Csn(LocalTree(tmp_path), split_of_others="train"))
    assert errors == []
    assert rows[0]["labels"] == ["426783006", "999"]
    assert (rows[0]["labels_short"], rows[0]["labels_unknown"]) == (["SR"], ["999"])
    rows, errors = read_all(Csn(LocalTree(tmp_path), split_of_others="train", unknown_labels="raise"))
    assert [row["record_id"] for row in rows] == ["JS00002"]
    assert [error.record for error in errors] == ["JS00001"]
    assert "['999'] have no acronym" in errors[0].problem


@pytest.mark.parametrize("above", ["", "a-large-scale-study-1.0.0"])
def test_the_downloads_own_table_of_acronyms_counts_and_differences_are_named(tmp_path, above):
    write_csn(tmp_path / above / "WFDBRecords" / "01" / "010", "JS00001", "426783006,999,164889003")
    table = tmp_path / above / CONDITION_NAMES_FILE
    assert "The download has no" in Csn(LocalTree(tmp_path)).index().notes[1]

    names = "".join(f"{acronym},some name,{code}\n" for code, acronym in CSN_ACRONYMS.items())
    table.write_text(HEAD + names)
    assert len(Csn(LocalTree(tmp_path)).index().notes) == 1

    table.write_text(HEAD + names.replace("AFIB,some name,164889003\n", "XYZ,some name,999\n"))
    source = Csn(LocalTree(tmp_path))
    note = source.index().notes[1]
    assert "999 is XYZ, not unknown" in note
    assert "164889003 (AFIB) is missing" in note
    rows, _ = read_all(source)
    assert rows[0]["labels_short"] == ["SR", "XYZ"]
    assert rows[0]["labels_unknown"] == ["164889003"]
    assert rows[0]["labels_csn_exact"] == ["SR"]


def test_the_first_acronym_of_a_code_counts():
    text = f"\ufeff{HEAD}MI,myocardial infarction,164865005\r\nMIBW,in the back wall,164865005\r\n\r\n"
    assert read_condition_names(text.encode(), "table") == {"164865005": "MI"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Name,Code\nSR,426783006\n", "has the columns"),
        ("", "has the columns"),
        (f"{HEAD}SR,Sinus Rhythm,none\n", "has the row"),
        (f"{HEAD},Sinus Rhythm,426783006\n", "has the row"),
        (f"{HEAD}SR\n", "has the row"),
    ],
)
def test_a_wrong_table_of_acronyms_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_condition_names(text.encode(), "table")


def test_a_folder_without_records_and_options_without_meaning_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no record such as 'JS00001.hea'.*ecg-arrhythmia"):
        Csn(LocalTree(tmp_path)).index()
    with pytest.raises(ValueError, match="unknown_labels is 'drop'; choose one of keep, raise"):
        Csn(LocalTree(tmp_path), unknown_labels="drop")
    for folder in ("a", "b"):
        write_csn(tmp_path / folder, "JS00001")
    with pytest.raises(ValueError, match="'JS00001' twice, as 'a/JS00001' and 'b/JS00001'"):
        Csn(LocalTree(tmp_path)).index()


def test_the_source_says_the_same_after_pickling(tmp_path):
    write_csn(tmp_path, "JS00001")
    source = Csn(LocalTree(tmp_path), split_of_others="train")
    entries = source.index().records.to_pylist()
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    (first,), (second,) = source.read(entries), copy.read(entries)
    assert rows_to_table([first], source.features).equals(rows_to_table([second], source.features))


def test_both_tasks_name_all_38_classes_in_words(tmp_path):
    tasks = Csn(LocalTree(tmp_path)).tasks()
    assert [(task.name, task.label_column, len(task.class_names)) for task in tasks] == [
        ("csn_exact", "labels_csn_exact", 38),
        ("csn_merl", "labels_csn_merl", 38),
    ]
    assert tasks[0].class_names["AF"] == "atrial flutter"
    assert len(set(tasks[0].class_names.values())) == 38


MERGED_BY_PHYSIONET = "500000/mV"  # what JS01052 has between its rate and the ADC resolution


def write_long(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    adc = random_adc(num_samples=5000, seed=int(name[2:]))
    comments = ["#Age: 61", "#Sex: Female", "#Dx: 427084000"]
    write_record(folder, name, adc, storage="16+24", extension=".mat", scale="1000/mV", comments=comments)


def merge(folder: Path, name: str, left: str) -> None:
    header = folder / f"{name}.hea"
    whole = f"5000\n{name}.mat 16+24 1000/mV"
    text = header.read_text()
    assert text.count(whole) == 1
    header.write_text(text.replace(whole, left))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("JS01052", MERGED_BY_PHYSIONET),
        ("JS23074", MERGED_BY_PHYSIONET),
        ("JS00001", "5000.mat 16+24 1000/mV"),
        ("JS00001", "50"),
        ("JS00001", "5000"),
        ("JS00001", "mV"),
    ],
)
def test_merged_header_lines_are_put_right(tmp_path, name, left, caplog):
    folder = tmp_path / "WFDBRecords" / "01" / "010"
    write_long(folder, name)
    intact, errors = read_all(Csn(LocalTree(tmp_path), split_of_others="train"))
    assert errors == []
    merge(folder, name, left)
    source = Csn(LocalTree(tmp_path), split_of_others="train")
    mended, errors = read_all(source)
    assert errors == []
    assert rows_to_table(mended, source.features).equals(rows_to_table(intact, source.features))
    said = [*source.index().notes, *caplog.messages]
    assert any(name in line and "merged" in line for line in said)


@pytest.mark.parametrize(
    ("name", "left", "change"),
    [
        ("JS01052", "500000/uV", None),  # not a part of what stood there
        ("JS01052", "50100/mV", None),
        ("JS01052", "6000/mV", None),
        ("JS01052", MERGED_BY_PHYSIONET, ("JS01052 12 500", "JS01052 12 1000")),
        ("JS01052", MERGED_BY_PHYSIONET, ("JS01052 12 500", "JS01053 12 500")),
        ("JS01052", MERGED_BY_PHYSIONET, (" 0 I\n", " 0 II\n")),
        ("JS01052", MERGED_BY_PHYSIONET, (" 0 I\n", "1 0 I\n")),  # the checksum of lead I is another one
    ],
)
def test_any_other_damage_to_a_header_is_still_a_fault(tmp_path, name, left, change):
    folder = tmp_path / "WFDBRecords"
    write_long(folder, name)
    merge(folder, name, left)
    if change is not None:
        header = folder / f"{name}.hea"
        header.write_text(header.read_text().replace(*change, 1))
    rows, errors = read_all(Csn(LocalTree(tmp_path)))
    assert rows == []
    assert [error.record for error in errors] == [name]


@pytest.mark.parametrize("codes", ["426783006;427084000", "426783006.0,427084000.0", "426783006; 427084000.0"])
def test_diagnoses_with_semicolons_or_decimals_are_the_same_diagnoses(tmp_path, codes):
    write_csn(tmp_path / "WFDBRecords", "JS00001", codes)
    ((row,), errors) = read_all(Csn(LocalTree(tmp_path), split_of_others="train"))
    assert errors == []
    assert (row["labels"], row["labels_short"]) == (["426783006", "427084000"], ["SR", "ST"])
    assert row["labels_unknown"] == []
