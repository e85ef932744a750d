"""CPSC2018 from its own files and from PhysioNet's copy: samples against scipy, labels against the tables."""

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from datasets import load_dataset
from reading_fixtures import random_adc, write_record

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.sources.base import SkippedRecord
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.cpsc2018 import (
    CLASS_OF_SNOMED,
    CPSC2018_CLASSES,
    SNOMED_OF_CLASS,
    Cpsc2018,
    read_reference,
)
from hf_ecgtext.data.store.schema import iter_records, row_to_record
from hf_ecgtext.errors import ArchiveError, RecordError

HEAD = "Recording,First_label,Second_label,Third_label\n"


def write_native(folder: Path, name: str, signal: np.ndarray, age: float = 60.0, sex: str = "Female") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / f"{name}.mat", {"ECG": {"sex": sex, "age": age, "data": signal}}, do_compression=True)


def write_copy(folder: Path, name: str, adc: np.ndarray, codes: str, extra: tuple[str, ...] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_record(
        folder,
        name,
        adc,
        storage="16+24",
        extension=".mat",
        scale="1000/mV",
        record_line="{name} {num_leads} 500 {num_samples} 12-May-2020 12:33:59",
        comments=[f"#Dx: {codes}", *extra],
    )


def read_all(source: Cpsc2018) -> tuple[list, list[RecordError]]:
    results = list(source.read(source.index().records.to_pylist()))
    errors = [result for result in results if isinstance(result, RecordError)]
    return [result for result in results if not isinstance(result, RecordError)], errors


def prepared_and_streamed(source: Cpsc2018, out: Path) -> dict[str, EcgRecord]:
    """All records of the prepared folder as `load_dataset` streams them, by record id."""
    manifest = prepare(source, out, workers=1, progress=False)
    return {
        record.record_id: record
        for split in manifest.splits
        for record in iter_records(load_dataset(str(out), split=split, streaming=True))
    }


@pytest.fixture(scope="module")
def small_native(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real native recordings with the rows of the table that name them."""
    folder = tmp_path_factory.mktemp("native") / "TrainingSet2"
    folder.mkdir()
    original = real_data / "cpsc2018" / "TrainingSet"
    files = sorted(original.glob("*.mat"))
    for file in files:
        shutil.copyfile(file, folder / file.name)
    table = pd.read_csv(original / "REFERENCE.csv", dtype=str)
    table[table.Recording.isin([file.stem for file in files])].to_csv(folder / "REFERENCE.csv", index=False)
    return folder.parent


def test_native_recordings_equal_what_scipy_reads_prepared_and_streamed(small_native, tmp_path):
    source = Cpsc2018(LocalTree(small_native))
    rows, errors = read_all(source)
    assert errors == []
    by_id = prepared_and_streamed(source, tmp_path / "out")
    assert len(rows) == len(by_id) == 5
    for row in rows:
        struct = scipy.io.loadmat(small_native / "TrainingSet2" / f"{row['record_id']}.mat")["ECG"]
        expected = struct["data"][0, 0].astype(np.float32)
        record = by_id[row["record_id"]]
        np.testing.assert_array_equal(row_to_record(row).signal, expected)
        np.testing.assert_array_equal(record.signal, expected)
        assert row["sample_type"] == "float32"
        assert record.attributes["age"] == float(struct["age"][0, 0].item())
        assert record.attributes["sex"] == struct["sex"][0, 0].item()
        assert (record.sampling_rate_hz, record.patient_id) == (500.0, record.record_id)


def test_the_physionet_copy_equals_what_scipy_reads_prepared_and_streamed(real_data, tmp_path):
    folder = real_data / "cinc2021" / "training" / "cpsc_2018"
    source = Cpsc2018(LocalTree(folder))
    rows, errors = read_all(source)
    assert errors == []
    by_id = prepared_and_streamed(source, tmp_path / "out")
    assert len(rows) == len(by_id) == 14
    for row in rows:
        integers = scipy.io.loadmat(folder / "g1" / f"{row['record_id']}.mat")["val"]
        np.testing.assert_array_equal(row["samples"], integers)
        np.testing.assert_array_equal(by_id[row["record_id"]].signal, (integers / 1000.0).astype(np.float32))
        assert row["sample_type"] == "int16"


def test_the_labels_of_the_copy_are_those_of_the_native_table(real_data):
    table = read_reference((real_data / "cpsc2018" / "TrainingSet" / "REFERENCE.csv").read_bytes(), "REFERENCE.csv")
    rows, _ = read_all(Cpsc2018(LocalTree(real_data / "cinc2021" / "training" / "cpsc_2018")))
    assert {row["record_id"]: row["labels_cpsc2018"] for row in rows} == {
        row["record_id"]: table[row["record_id"]] for row in rows
    }


def test_a_copy_rounds_the_native_recording_to_a_microvolt_and_agrees_in_all_other_columns(small_native, tmp_path):
    # The two samples of real recordings share no record, so the copy is written here, as PhysioNet wrote its own.
    native = Cpsc2018(LocalTree(small_native))
    native_rows, _ = read_all(native)
    for row in native_rows:
        adc = np.rint(row["samples"].astype(np.float64) * 1000).astype(np.int16)
        extra = (f"#Age: {row['age']:g}", f"#Sex: {row['sex']}")
        write_copy(tmp_path / "g1", row["record_id"], adc, ",".join(reversed(row["labels"])), extra)
    copy_rows, errors = read_all(Cpsc2018(LocalTree(tmp_path)))
    assert errors == []
    for native_row, copy_row in zip(native_rows, copy_rows, strict=True):
        difference = np.abs(row_to_record(native_row).signal - row_to_record(copy_row).signal)
        assert difference.max() <= 0.0005 + 1e-6
        shared = {name for name in native.features if name not in ("samples", "sample_type", "gain_per_mv")}
        assert all(np.array_equal(native_row[name], copy_row[name]) for name in shared)


def test_the_real_table_gives_the_published_labels_and_splits(real_data):
    index = Cpsc2018(LocalTree(real_data / "cpsc2018")).index()
    records = {entry["record_id"]: entry for entry in index.records.to_pylist()}
    assert len(records) == 6877
    assert index.left_out == []
    for part, split in {"train": "train", "val": "validation", "test": "test"}.items():
        published = pd.read_csv(real_data / "merl_splits" / "icbeb" / f"icbeb_{part}.csv")
        assert {name for name, entry in records.items() if entry["split"] == split} == set(published.filename)
        for name, *values in published[["filename", *CPSC2018_CLASSES]].itertuples(index=False):
            expected = [label for label, value in zip(CPSC2018_CLASSES, values, strict=True) if value]
            assert records[name]["classes"] == expected


def test_recordings_of_the_table_that_are_not_there_are_skipped_by_name(small_native, tmp_path):
    shutil.copytree(small_native, tmp_path, dirs_exist_ok=True)
    (tmp_path / "TrainingSet2" / "A1982.mat").unlink()
    damaged = tmp_path / "TrainingSet2" / "A1983.mat"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    rows, errors = read_all(Cpsc2018(LocalTree(tmp_path)))
    assert [row["record_id"] for row in rows] == ["A1980", "A1981", "A1984"]
    assert [error.record for error in errors] == ["A1982", "A1983"]
    assert "'TrainingSet2/A1982.mat' is missing" in errors[0].problem
    assert "cannot be read" in errors[1].problem


def test_training_sets_with_a_table_each_are_joined(tmp_path):
    for number in (1, 2):
        write_native(tmp_path / f"TrainingSet{number}", f"A000{number}", np.zeros((12, 8)))
        (tmp_path / f"TrainingSet{number}" / "REFERENCE.csv").write_text(f"{HEAD}A000{number},{number},,\n")
    write_native(tmp_path / "TrainingSet2", "A0003", np.zeros((12, 8)))
    index = Cpsc2018(LocalTree(tmp_path)).index()
    assert [(entry["path"], entry["classes"]) for entry in index.records.to_pylist()] == [
        ("TrainingSet1/A0001", ["NORM"]),
        ("TrainingSet2/A0002", ["AFIB"]),
    ]
    assert index.left_out == [SkippedRecord("A0003", "REFERENCE.csv does not name it.")]
    assert any("no patient ids" in note for note in index.notes)

    (tmp_path / "TrainingSet2" / "REFERENCE.csv").write_text(f"{HEAD}A0001,2,,\n")
    with pytest.raises(ValueError, match="give 'A0001' different labels"):
        Cpsc2018(LocalTree(tmp_path)).index()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{HEAD}A0001,1,,\nA0001,1,,\n", "names the record 'A0001' twice"),
        (f"{HEAD}A0001,10,,\n", "gives the record 'A0001' the label '10'; labels are 1 to 9"),
        (f"{HEAD}A0001,5,0,\n", "the label '0'"),
        (f"{HEAD}A0001,,,\n", "gives the record 'A0001' no label"),
        (f"{HEAD}../A0001,1,,\n", r"names the record '../A0001'; CPSC2018's are A0001 to A6877"),
        ("Recording,Label\nA0001,1\n", "has the columns"),
        ("", "has the columns None"),
    ],
)
def test_a_wrong_table_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_reference(text.encode(), "REFERENCE.csv")


def test_labels_are_read_once_each_and_in_the_order_of_the_classes():
    table = read_reference(f"\ufeff{HEAD}A0001,8,1,8\r\nA0002,6,,\r\n".encode(), "REFERENCE.csv")
    assert table == {"A0001": ["NORM", "STD"], "A0002": ["PAC"]}


@pytest.mark.parametrize(("codes", "problem"), [("427393009", "'427393009'"), ("Unknown", "names no diagnosis")])
def test_a_header_without_one_of_the_nine_classes_is_skipped_by_name(tmp_path, codes, problem):
    write_copy(tmp_path, "A0001", random_adc(), "59118001")
    write_copy(tmp_path, "A0002", random_adc(), codes)
    rows, errors = read_all(Cpsc2018(LocalTree(tmp_path)))
    assert [row["labels_cpsc2018"] for row in rows] == [["CRBBB"]]
    assert [error.record for error in errors] == ["A0002"]
    assert problem in errors[0].problem


def test_the_layout_is_detected_or_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither 'REFERENCE.csv' nor a record such as 'A0001.hea'"):
        Cpsc2018(LocalTree(tmp_path)).index()
    with pytest.raises(FileNotFoundError, match=r"no 'REFERENCE.csv'.*TrainingSet3.zip.*physionet.org"):
        Cpsc2018(LocalTree(tmp_path), layout="native").index()
    with pytest.raises(FileNotFoundError, match=r"no record such as 'A0001.hea'"):
        Cpsc2018(LocalTree(tmp_path), layout="physionet").index()
    with pytest.raises(ValueError, match="layout is 'cinc'; choose one of auto, native, physionet"):
        Cpsc2018(LocalTree(tmp_path), layout="cinc")
    write_copy(tmp_path / "copy", "A0001", random_adc(), "59118001")
    (tmp_path / "REFERENCE.csv").write_text(f"{HEAD}A0002,1,,\n")
    with pytest.raises(ValueError, match=r"both REFERENCE.csv and WFDB headers"):
        Cpsc2018(LocalTree(tmp_path)).index()
    index = Cpsc2018(LocalTree(tmp_path), layout="physionet").index()
    assert index.records["record_id"].to_pylist() == ["A0001"]


def test_a_record_in_two_folders_is_refused(tmp_path):
    for folder in ("g1", "g2"):
        write_copy(tmp_path / folder, "A0001", random_adc(), "59118001")
    with pytest.raises(ValueError, match="'A0001' twice, as 'g1/A0001' and 'g2/A0001'"):
        Cpsc2018(LocalTree(tmp_path)).index()


def test_records_of_no_published_split_follow_the_option(tmp_path):
    for name in ("A0001", "A7000"):
        write_copy(tmp_path, name, random_adc(), "59118001")
    index = Cpsc2018(LocalTree(tmp_path)).index()
    assert [record.record for record in index.left_out] == ["A7000"]
    index = Cpsc2018(LocalTree(tmp_path), split_of_others="train").index()
    assert index.records["split"].to_pylist()[-1] == "train"


def test_the_source_says_the_same_after_pickling(tmp_path):
    write_copy(tmp_path, "A0001", random_adc(), "59118001")
    source = Cpsc2018(LocalTree(tmp_path), layout="physionet")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy.index().records.equals(source.index().records)
    assert copy.options == source.options == {"layout": "physionet", "split_of_others": "leave_out"}


def test_every_class_has_a_code_and_a_name():
    assert list(CLASS_OF_SNOMED.values()) == list(CPSC2018_CLASSES) == list(SNOMED_OF_CLASS)
    (task,) = Cpsc2018(LocalTree(Path(__file__).parent)).tasks()
    assert task.class_names["VPC"] == "premature ventricular contraction"


def write_download(folder: Path, names: dict[str, str], peak_mv: float = 1.5, top: str = "") -> None:
    """The files as everybody downloads them: `REFERENCE.csv` beside archives of the recordings."""
    folder.mkdir(parents=True, exist_ok=True)
    records = sorted({record for group in names.values() for record in group.split()})
    (folder / "REFERENCE.csv").write_text(HEAD + "".join(f"{record},{int(record[-1])},,\n" for record in records))
    for archive, group in names.items():
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_DEFLATED) as file:
            for record in group.split():
                write_native(folder / "made", record, native_signal(record, peak_mv))
                file.write(folder / "made" / f"{record}.mat", f"{top}{record}.mat")
    shutil.rmtree(folder / "made")


def native_signal(record: str, peak_mv: float = 1.5) -> np.ndarray:
    signal = np.random.default_rng(int(record[1:])).normal(0, 0.1, (12, 3000))
    signal[3, 100] = peak_mv
    return signal


@pytest.mark.parametrize("top", ["", "TrainingSet/"])
def test_the_download_is_read_as_it_comes_with_its_training_sets_packed(tmp_path, top):
    sets = {"TrainingSet1.zip": "A0001 A0002", "TrainingSet2.zip": "A2501 A2502", "TrainingSet3.zip": "A5001"}
    write_download(tmp_path / "download", sets, top=top)
    records = prepared_and_streamed(Cpsc2018(LocalTree(tmp_path / "download")), tmp_path / "out")
    assert sorted(records) == ["A0001", "A0002", "A2501", "A2502", "A5001"]
    for name, record in records.items():
        np.testing.assert_array_equal(record.signal, native_signal(name).astype(np.float32))
        assert record.attributes["labels_cpsc2018"] == [list(CPSC2018_CLASSES)[int(name[-1]) - 1]]
    assert (tmp_path / "out" / "skipped.csv").read_text().splitlines() == ["record,problem,fix"]


def test_training_sets_that_were_unpacked_beside_their_archives_are_read_once(tmp_path):
    write_download(tmp_path, {"TrainingSet1.zip": "A0001 A0002", "TrainingSet2.zip": "A2501"})
    with zipfile.ZipFile(tmp_path / "TrainingSet1.zip") as file:
        file.extractall(tmp_path / "TrainingSet1")
    index = Cpsc2018(LocalTree(tmp_path)).index()
    assert index.records["path"].to_pylist() == ["TrainingSet1/A0001", "TrainingSet1/A0002", "TrainingSet2.zip/A2501"]


def test_a_missing_training_set_costs_its_records_and_a_damaged_one_is_named(tmp_path):
    write_download(tmp_path, {"TrainingSet1.zip": "A0001", "TrainingSet2.zip": "A2501"})
    content = (tmp_path / "TrainingSet2.zip").read_bytes()
    (tmp_path / "TrainingSet2.zip").unlink()
    rows, errors = read_all(Cpsc2018(LocalTree(tmp_path)))
    assert [row["record_id"] for row in rows] == ["A0001"]
    assert [error.record for error in errors] == ["A2501"]
    (tmp_path / "TrainingSet2.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArchiveError, match=r"TrainingSet2.zip is damaged or incomplete.*Download it again"):
        Cpsc2018(LocalTree(tmp_path))


def test_one_training_set_alone_and_a_table_alone_say_what_else_to_download(tmp_path):
    write_download(tmp_path, {"TrainingSet1.zip": "A0001"})
    with pytest.raises(FileNotFoundError, match=r"neither 'REFERENCE.csv'.*TrainingSet1.zip, .*into one folder"):
        open_source("cpsc2018", tmp_path / "TrainingSet1.zip").index()
    (tmp_path / "TrainingSet1.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"REFERENCE.csv and not one recording.*TrainingSet1.zip"):
        Cpsc2018(LocalTree(tmp_path)).index()


@pytest.mark.parametrize(("peak_mv", "is_plausible"), [(1.5, True), (150.0, False), (3.0, True), (1500.0, False)])
def test_the_median_peak_of_native_files_is_noted_and_doubted_where_no_ecgs_have_it(tmp_path, peak_mv, is_plausible):
    write_download(tmp_path, {"TrainingSet1.zip": "A0001 A0002 A0003"}, peak_mv)
    notes = Cpsc2018(LocalTree(tmp_path)).index().notes
    assert f"The median record's largest deflection is {peak_mv:.3g} mV." in notes
    assert any(note.startswith("WARNING") for note in notes) == (not is_plausible)


@pytest.mark.parametrize("mirror", ["training/cpsc_2018/g1", "Training_WFDB", ""])
@pytest.mark.parametrize(("age", "expected"), [("-1", None), ("92", None), ("91", 91.0), ("61", 61.0), ("NaN", None)])
def test_ages_of_the_copy_that_are_none_are_unknown(tmp_path, mirror, age, expected):
    write_copy(tmp_path / mirror, "A0001", random_adc(), "59118001", (f"#Age: {age}", "#Sex: Male"))
    ((row,), errors) = read_all(Cpsc2018(LocalTree(tmp_path)))
    assert (row["age"], errors) == (expected, [])


def test_diagnoses_with_semicolons_or_decimals_are_the_same_diagnoses(tmp_path):
    for name, codes in (("A0001", "59118001;284470004"), ("A0002", "59118001.0,284470004.0")):
        write_copy(tmp_path, name, random_adc(), codes)
    rows, errors = read_all(Cpsc2018(LocalTree(tmp_path)))
    assert errors == []
    assert [row["labels_cpsc2018"] for row in rows] == [["CRBBB", "PAC"]] * 2
