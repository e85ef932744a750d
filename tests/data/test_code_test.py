"""CODE-test from files in its documented format: samples against h5py, tables against what was written.

The tracings cannot be had here, so that the tests write them: 827 x 4096 x 12 in chunks of one record, of which most
stay empty.
"""

import csv
import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import source_class
from hf_ecgtext.data.sources.code_test import (
    CODE_TEST_CLASSES,
    OTHER_ANNOTATORS,
    CodeTest,
    read_annotations,
    read_attributes,
)
from hf_ecgtext.data.store.schema import iter_records, row_to_record, rows_to_table
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.downstream.human_readers import human_readers
from hf_ecgtext.leads import STANDARD_LEADS, limb_leads_from_i_and_ii

NUM_RECORDS = 827
WRITTEN = 20  # tracings that are not empty
README_ORDER = ("aVL", "aVF", "aVR")


def tracing(row: int, order: tuple[str, ...] = README_ORDER) -> np.ndarray:
    """4096 x 12 in mV, 7 s for odd rows and 10 s for even ones, zeros around it."""
    num_samples = 2800 if row % 2 else 4000
    generator = np.random.default_rng(row)
    waves = np.cumsum(generator.normal(0, 0.03, (8, num_samples)), axis=1)
    limb = limb_leads_from_i_and_ii(waves[0], waves[1])
    by_name = dict(zip(STANDARD_LEADS, [*limb, *waves[2:]], strict=True))
    names = [*STANDARD_LEADS[:3], *order, *STANDARD_LEADS[6:]]
    padded = np.zeros((4096, 12), np.float32)
    start = (4096 - num_samples) // 2
    padded[start : start + num_samples] = np.stack([by_name[name] for name in names], axis=1)
    return padded


def write_tracings(path: Path, order: tuple[str, ...] = README_ORDER, dtype: str = "f4") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("tracings", (NUM_RECORDS, 4096, 12), dtype, chunks=(1, 4096, 12))
        for row in range(WRITTEN):
            dataset[row] = tracing(row, order)


def write_tables(folder: Path) -> dict[str, np.ndarray]:
    """Random annotations and attributes; returns the 0/1 matrix of each annotator."""
    generator = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    written = {}
    for annotator in ("gold_standard", *OTHER_ANNOTATORS):
        values = (generator.random((NUM_RECORDS, len(CODE_TEST_CLASSES))) < 0.2).astype(int)
        table = pd.DataFrame(values, columns=list(CODE_TEST_CLASSES))
        table.to_csv(folder / "annotations" / f"{annotator}.csv", index=annotator == "dnn")
        written[annotator] = values
    people = pd.DataFrame({"age": generator.integers(16, 100, NUM_RECORDS), "sex": ["M", "F", "F"] * 275 + ["M", "F"]})
    people.to_csv(folder / "attributes.csv", index=False)
    return written


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code") / "data"
    write_tracings(folder / "ecg_tracings.hdf5")
    write_tables(folder)
    return folder.parent


@pytest.fixture
def tables(download: Path, tmp_path: Path) -> Path:
    """The download without its tracings, to be changed."""
    shutil.copytree(download, tmp_path / "copy", ignore=shutil.ignore_patterns("*.hdf5"))
    return tmp_path / "copy" / "data"


@pytest.fixture(scope="module")
def index(download: Path):
    return CodeTest(LocalTree(download)).index()


@pytest.fixture(scope="module")
def rows(download: Path, index) -> list[dict]:
    return list(CodeTest(LocalTree(download)).read(index.records.slice(0, WRITTEN).to_pylist()))


def test_tracings_equal_what_h5py_reads_prepared_and_streamed(download, rows, tmp_path):
    manifest = prepare(CodeTest(LocalTree(download)), tmp_path / "out", workers=1, progress=False)
    assert {split: manifest.num_records(split) for split in manifest.splits} == {"test": WRITTEN}
    dataset = load_dataset(str(tmp_path / "out"), split="test", streaming=True)
    with h5py.File(download / "data" / "ecg_tracings.hdf5") as file:
        expected = file["tracings"][:WRITTEN].transpose(0, 2, 1)
    streamed = list(iter_records(dataset))
    assert len(rows) == len(streamed) == WRITTEN
    for row, record, signal in zip(rows, streamed, expected, strict=True):
        np.testing.assert_array_equal(row_to_record(row).signal, signal)
        np.testing.assert_array_equal(record.signal, signal)
        assert (record.sampling_rate_hz, record.num_samples, row["sample_type"]) == (400.0, 4096, "float32")


@pytest.mark.parametrize("units_per_mv", [1, 10, 0.5])
def test_the_median_peak_and_what_is_disputed_stand_in_the_card(download, tmp_path, units_per_mv):
    source = CodeTest(LocalTree(download), units_per_mv=units_per_mv)
    prepare(source, tmp_path / "out", workers=1, progress=False)
    card = (tmp_path / "out" / "README.md").read_text()
    median_mv = np.median([np.abs(tracing(row)).max() for row in range(WRITTEN)]) / units_per_mv
    assert f"The median record's largest deflection is {median_mv:.3g} mV." in card
    assert "**The unit is disputed.** The description says `1e-4 V`" in card
    assert ("WARNING: a median peak of" in card) == (not 0.8 <= median_mv <= 8)
    assert f"units_per_mv={units_per_mv}" in card
    (record, *_) = iter_records(load_dataset(str(tmp_path / "out"), split="test", streaming=True))
    np.testing.assert_allclose(record.signal, tracing(0).T / units_per_mv, rtol=1e-6)


def test_annotations_and_so_their_scores_do_not_depend_on_the_unit(download, index):
    assert CodeTest(LocalTree(download), units_per_mv=10).index().records.equals(index.records)


@pytest.mark.parametrize("units_per_mv", [0, -1, float("nan"), float("inf")])
def test_a_unit_that_is_no_positive_number_is_refused(download, units_per_mv):
    with pytest.raises(ValueError, match="units_per_mv must be positive"):
        CodeTest(LocalTree(download), units_per_mv=units_per_mv)


def test_a_folder_that_an_earlier_version_stored_in_another_unit_is_named_when_it_is_opened(download, tmp_path, caplog):
    prepare(CodeTest(LocalTree(download)), tmp_path / "out", workers=1, progress=False)
    open_data(str(tmp_path / "out"))
    assert not any("tenth" in message for message in caplog.messages)
    manifest = json.loads((tmp_path / "out" / "prepared.json").read_text())
    del manifest["source_options"]["units_per_mv"]  # as earlier versions wrote it
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(manifest))
    assert open_data(str(tmp_path / "out")).test is not None
    assert any("a tenth" in message and "Prepare it again" in message for message in caplog.messages)


def test_the_leads_are_named_by_the_signal(index, rows):
    for row in rows:
        signals = dict(zip(row["lead_names"], row_to_record(row).signal, strict=True))
        assert set(signals) == set(STANDARD_LEADS)
        np.testing.assert_allclose(signals["aVF"], signals["II"] - signals["I"] / 2, atol=1e-5)
        np.testing.assert_allclose(signals["aVL"], signals["I"] - signals["II"] / 2, atol=1e-5)
    assert any("The augmented leads are aVL, aVF, aVR: 20 of 827 records decide" in note for note in index.notes)


@pytest.mark.parametrize(("order", "dtype"), [(("aVR", "aVL", "aVF"), "f8"), (("aVR", "aVF", "aVL"), "f4")])
def test_other_orders_are_found_too(tables, order, dtype):
    write_tracings(tables / "ecg_tracings.hdf5", order, dtype)
    source = CodeTest(LocalTree(tables))
    entry = source.index().records.slice(3, 1).to_pylist()[0]
    assert entry["lead_names"] == [*STANDARD_LEADS[:3], *order, *STANDARD_LEADS[6:]]
    (row,) = source.read([entry])
    np.testing.assert_allclose(row["samples"], tracing(3, order).T, rtol=1e-6)


def test_a_forced_order_is_taken_and_the_notes_say_what_the_signals_say(download):
    index = CodeTest(LocalTree(download), augmented_leads="aVR,aVL,aVF").index()
    assert index.records["lead_names"][0].as_py() == list(STANDARD_LEADS)
    note = next(note for note in index.notes if "as the option says" in note)
    assert "aVL, aVF, aVR: 20" in note
    with pytest.raises(ValueError, match="augmented_leads is 'AVL'; choose one of 'auto', 'aVR,aVL,aVF'"):
        CodeTest(LocalTree(download), augmented_leads="AVL")


def test_signals_that_do_not_decide_are_refused(tables):
    with h5py.File(tables / "ecg_tracings.hdf5", "w") as file:
        dataset = file.create_dataset("tracings", (NUM_RECORDS, 4096, 12), "f4", chunks=(1, 4096, 12))
        dataset[0] = tracing(0)
    with pytest.raises(ValueError, match="do not say which lead is which: 1 of 827 records decide"):
        CodeTest(LocalTree(tables)).index()
    with h5py.File(tables / "ecg_tracings.hdf5", "a") as file:
        for row in range(12):
            file["tracings"][row] = tracing(row, ("aVR", "aVL", "aVF") if row % 2 else README_ORDER)
    with pytest.raises(ValueError, match="aVL, aVF, aVR: 6; aVR, aVL, aVF: 6"):
        CodeTest(LocalTree(tables)).index()


def test_labels_and_attributes_are_those_of_the_row(download, index):
    entries = index.records.to_pylist()
    assert len(entries) == NUM_RECORDS
    assert {entry["split"] for entry in entries} == {"test"}
    assert [entry["record_id"] for entry in entries[:2]] == ["000", "001"]
    for annotator in ("gold_standard", *OTHER_ANNOTATORS):
        column = "labels" if annotator == "gold_standard" else f"labels_{annotator}"
        with (download / "data" / "annotations" / f"{annotator}.csv").open(newline="") as file:
            for entry, written in zip(entries, csv.DictReader(file), strict=True):
                assert entry[column] == [name for name in CODE_TEST_CLASSES if written[name] == "1"]
    with (download / "data" / "attributes.csv").open(newline="") as file:
        for entry, written in zip(entries, csv.DictReader(file), strict=True):
            assert (entry["age"], entry["sex"]) == (float(written["age"]), written["sex"])


def test_the_real_tables_have_one_row_per_tracing(real_data):
    folder = real_data / "code-test"
    positives = {}
    for annotator in ("gold_standard", *OTHER_ANNOTATORS):
        labels = read_annotations((folder / "annotations" / f"{annotator}.csv").read_bytes(), annotator)
        assert len(labels) == NUM_RECORDS
        positives[annotator] = [sum(name in row for row in labels) for name in CODE_TEST_CLASSES]
    # The counts of the test set that Ribeiro et al. 2020 publish.
    assert positives["gold_standard"] == [28, 34, 30, 16, 13, 37]
    people = read_attributes((folder / "attributes.csv").read_bytes(), "attributes.csv")
    assert people[:2] == [{"age": 34.0, "sex": "M"}, {"age": 70.0, "sex": "F"}]


def test_the_padding_is_kept_and_its_extent_named(rows):
    for number, row in enumerate(rows):
        length = 2800 if number % 2 else 4000
        start = (4096 - length) // 2
        assert (row["content_start"], row["content_end"]) == (start, start + length)


def test_one_record_from_the_content_of_the_file_equals_the_same_from_the_folder(download, index, rows):
    source = CodeTest(LocalTree(download))
    entry = index.records.slice(4, 1).to_pylist()[0]
    (path,) = source.files_of(entry)
    row = source.decode(entry, {path: (download / path).read_bytes()})
    assert rows_to_table([row], source.features).equals(rows_to_table([rows[4]], source.features))


def test_empty_and_infinite_tracings_are_skipped_by_row_and_missing_samples_stay_missing(download, tmp_path):
    shutil.copytree(download, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / "data" / "ecg_tracings.hdf5", "a") as file:
        for row, value in ((1, np.inf), (2, np.nan)):
            changed = file["tracings"][row]
            changed[2000, 5] = value
            file["tracings"][row] = changed
    source = CodeTest(LocalTree(tmp_path))
    results = list(source.read(source.index().records.slice(0, WRITTEN + 1).to_pylist()))
    errors = [result for result in results if isinstance(result, RecordError)]
    assert [(error.record, error.problem) for error in errors] == [
        ("001", "its tracing holds infinite values."),
        (f"{WRITTEN:03d}", "its tracing holds nothing but zeros."),
    ]
    assert np.isnan(row_to_record(results[2]).signal).sum() == 1


def test_a_tracing_without_a_number_is_skipped_although_its_padding_is_zero(download, tmp_path):
    shutil.copytree(download, tmp_path, dirs_exist_ok=True)
    with h5py.File(tmp_path / "data" / "ecg_tracings.hdf5", "a") as file:
        for row, kept in ((3, 0), (4, 1)):
            changed = file["tracings"][row]
            content = np.flatnonzero(changed.any(axis=1))
            changed[content[kept] : content[-1] + 1] = np.nan
            file["tracings"][row] = changed
    source = CodeTest(LocalTree(tmp_path))
    found = list(source.read(source.index().records.slice(3, 2).to_pylist()))
    assert (found[0].record, found[0].problem) == ("003", "all samples of all leads are missing.")
    assert np.isfinite(row_to_record(found[1]).signal).any()


def test_missing_tracings_are_named_with_their_address(tables):
    with pytest.raises(FileNotFoundError, match=r"no 'ecg_tracings.hdf5' in .*zenodo.org/records/3765780"):
        CodeTest(LocalTree(tables)).index()


@pytest.mark.parametrize("name", ["annotations/gold_standard.csv", "annotations/cardiologist2.csv", "attributes.csv"])
def test_a_missing_table_is_named(download, tables, name):
    (tables / "ecg_tracings.hdf5").symlink_to(download / "data" / "ecg_tracings.hdf5")
    (tables / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no '{name.rpartition('/')[2]}'"):
        CodeTest(LocalTree(tables)).index()


def test_two_copies_are_refused(download, tables):
    for name in ("ecg_tracings.hdf5", "annotations/ecg_tracings.hdf5"):
        (tables / name).symlink_to(download / "data" / "ecg_tracings.hdf5")
    with pytest.raises(ValueError, match=r"holds 'ecg_tracings.hdf5' 2 times"):
        CodeTest(LocalTree(tables)).index()


def test_a_damaged_file_is_refused(download, tables):
    content = (download / "data" / "ecg_tracings.hdf5").read_bytes()
    for damaged in (content[: len(content) // 2], b"no HDF5", b""):
        (tables / "ecg_tracings.hdf5").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"ecg_tracings.hdf5 cannot be read as HDF5 .*Download data.zip"):
            CodeTest(LocalTree(tables)).index()


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("tracings", (826, 4096, 12), "f4"),
        ("tracings", (827, 12, 4096), "f4"),
        ("tracings", (827, 4096, 12), "i2"),
        ("signal", (827, 4096, 12), "f4"),
    ],
)
def test_a_file_of_another_shape_is_refused(tables, name, shape, dtype):
    with h5py.File(tables / "ecg_tracings.hdf5", "w") as file:
        file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]))
    with pytest.raises(ValueError, match=r"expected \(827, 4096, 12\) floating point numbers"):
        CodeTest(LocalTree(tables)).index()


HEAD = ",".join(CODE_TEST_CLASSES)
ROW = "0,0,0,0,0,0"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n".join([HEAD, *[ROW] * 826]), "has 826 rows; CODE-test has 827"),
        ("\n".join([HEAD, *[ROW] * 828]), "has 828 rows"),
        ("", "has 0 rows"),
        ("\n".join([HEAD.replace("SB", "SBRAD"), *[ROW] * 827]), "has the columns"),
        ("\n".join([HEAD, *[ROW] * 826, "0,0,0,0,0,2"]), "in row 826; expected 0 or 1"),
        ("\n".join([HEAD, *[ROW] * 826, "0,0,0,0,0"]), "has 5 values in row 826 instead of 6"),
        ("\n".join([f",{HEAD}", *[f"{row},{ROW}" for row in [1, 0, *range(2, 827)]]]), "'1' in row 0.*out of order"),
    ],
)
def test_a_wrong_annotation_table_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_annotations(text.encode(), "gold_standard.csv")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n".join(["age,sex", *["50,M"] * 826]), "has 826 rows"),
        ("\n".join(["sex,age", *["M,50"] * 827]), "has the columns"),
        ("\n".join(["age,sex", *["50,M"] * 826, ",M"]), "age '' and sex 'M' in row 826"),
        ("\n".join(["age,sex", *["50,M"] * 826, "50,X"]), "sex 'X' in row 826"),
    ],
)
def test_a_wrong_attribute_table_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_attributes(text.encode(), "attributes.csv")


class FarTree(LocalTree):
    """A tree that is no folder: files must be copied before HDF5 can read them."""

    copies = 0

    def local_file(self, path: str, scratch: Path) -> Path:
        target = scratch / path.rpartition("/")[2]
        if not target.exists():
            FarTree.copies += 1
            shutil.copyfile(self.folder / path, target)
        return target


def test_far_files_are_copied_once_and_the_source_can_be_pickled(download, rows):
    FarTree.copies = 0
    source = CodeTest(FarTree(download))
    entries = source.index().records.slice(0, 2).to_pylist()
    first = rows_to_table(list(source.read(entries)), source.features)
    assert FarTree.copies == 1
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert rows_to_table(list(copy.read(entries)), copy.features).equals(first)
    assert first.equals(rows_to_table(rows[:2], source.features))
    assert FarTree.copies == 2
    assert list(source.read([])) == []


def test_without_h5py_the_message_says_what_to_install(download, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"hf-ecgtext\[code-test\]"):
        CodeTest(LocalTree(download)).index()


def test_the_task_asks_for_the_gold_standard(download):
    source = CodeTest(LocalTree(download))
    (task,) = source.tasks()
    assert (task.name, task.label_column, list(task.class_names)) == ("code_test", "labels", list(CODE_TEST_CLASSES))
    assert {f"labels_{annotator}" for annotator in OTHER_ANNOTATORS} <= set(source.features)


def test_all_827_recordings_count_for_models_and_readers_alike(download):
    """Those without any of the six classes are negatives of each, of AUROC as of what people answered."""
    data = open_data("code_test", str(download))
    records = EvaluatedTask(data, data.tasks[0]).records("test")
    assert len(records) == NUM_RECORDS
    without = ~records.targets.any(axis=1)
    assert without.sum() > 100
    readers = human_readers(data, num_resamples=20)
    assert readers.keys() == set(OTHER_ANNOTATORS)
    for annotator, scores in readers.items():
        answers = replace(data.tasks[0], label_column=f"labels_{annotator}").targets(data.split("test"))
        gold = data.tasks[0].targets(data.split("test"))
        assert sorted(scores.num_positives.tolist()) == sorted(records.targets.sum(axis=0).tolist())
        specificities = [np.mean(answers[gold[:, label] == 0, label] == 0) for label in range(6)]
        found = [interval.value for interval in scores.per_class["specificity"]]
        np.testing.assert_allclose(found, specificities)  # of all recordings without the class


@pytest.mark.parametrize(
    ("name", "takes_part"), [("code_test", True), ("code15", True), ("cinc2021", True), ("ptb_xl", False)]
)
def test_a_source_says_whether_records_without_a_class_are_negatives(name, takes_part):
    assert source_class(name).unlabelled_take_part is takes_part
