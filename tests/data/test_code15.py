"""CODE-15 % and SaMi-Trop from files in their documented format: samples against h5py, exams joined by id or by row."""

import csv
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import load_dataset

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.code15 import Code15
from hf_ecgtext.data.sources.code_tracings import CODE_CLASSES
from hf_ecgtext.data.store.schema import iter_records, row_to_record, rows_to_table
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS, limb_leads_from_i_and_ii

STANDARD = ("aVR", "aVL", "aVF")
HEADER = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
PARTS = {"exams_part0.hdf5": [1101, 1205, 1009, 1300, 1400, 1500], "exams_part3.hdf5": [2002, 2001, 2007, 2100, 2200]}
NUM_EXAMS = sum(map(len, PARTS.values()))


def tracing(exam: int, order: tuple[str, ...] = STANDARD) -> np.ndarray:
    """4096 x 12 in mV, 7 s for odd exams and 10 s for even ones, zeros around it."""
    num_samples = 2800 if exam % 2 else 4000
    waves = np.cumsum(np.random.default_rng(exam).normal(0, 0.03, (8, num_samples)), axis=1)
    limb = limb_leads_from_i_and_ii(waves[0], waves[1])
    by_name = dict(zip(STANDARD_LEADS, [*limb, *waves[2:]], strict=True))
    padded = np.zeros((4096, 12), np.float32)
    start = (4096 - num_samples) // 2
    names = [*STANDARD_LEADS[:3], *order, *STANDARD_LEADS[6:]]
    padded[start : start + num_samples] = np.stack([by_name[name] for name in names], axis=1)
    return padded


def table_rows() -> list[dict[str, str]]:
    """In another order than the files; two exams of patient 7."""
    rows = []
    for part, exams in PARTS.items():
        for number, exam in enumerate(exams):
            classes = {name: str(exam % (place + 2) == 0) for place, name in enumerate(CODE_CLASSES)}
            patient = 7 if exam in (1101, 2001) else exam + 50_000
            row = {"exam_id": exam, "age": 30 + number, "is_male": exam % 2 == 0, "nn_predicted_age": 40.5, **classes}
            row |= {"patient_id": patient, "death": "" if number else "True", "timey": "" if number else 2.5}
            rows.append({**row, "normal_ecg": exam % 3 == 0, "trace_file": part})
    return [{name: str(row[name]) for name in HEADER.split(",")} for row in reversed(rows)]


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "exams.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_part(folder: Path, part: str, order: tuple[str, ...] = STANDARD) -> None:
    """As published: the exams, and after them one row of zeros with the id 0."""
    with h5py.File(folder / part, "w") as file:
        file["exam_id"] = np.array([*PARTS[part], 0], np.int64)
        tracings = file.create_dataset("tracings", (len(PARTS[part]) + 1, 4096, 12), "f4", chunks=(1, 4096, 12))
        for row, exam in enumerate(PARTS[part]):
            tracings[row] = tracing(exam, order)


def write_code15(folder: Path, order: tuple[str, ...] = STANDARD) -> Path:
    write_table(folder, table_rows())
    for part in PARTS:
        write_part(folder, part, order)
    return folder


def write_sami_trop(folder: Path, num_exams: int = 12) -> Path:
    kept = ("exam_id", "age", "is_male", "normal_ecg", "death", "timey", "nn_predicted_age")
    rows = [{name: row[name] for name in kept} for row in table_rows()[:1] for _ in range(num_exams)]
    write_table(folder, [{**row, "exam_id": str(300 - number)} for number, row in enumerate(rows)])
    with h5py.File(folder / "exams.hdf5", "w") as file:
        file["tracings"] = np.stack([tracing(300 - number) for number in range(num_exams)]).astype(np.float64)
    return folder


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> Path:
    return write_code15(tmp_path_factory.mktemp("code15") / "download")


def test_exams_are_joined_by_id_and_the_row_of_zeros_is_none(download, tmp_path):
    source = Code15(LocalTree(download))
    manifest = prepare(source, tmp_path / "out", workers=1, progress=False)
    records = {
        record.record_id: record
        for split in manifest.splits
        for record in iter_records(load_dataset(str(tmp_path / "out"), split=split, streaming=True))
    }
    rows = {row["exam_id"]: row for row in table_rows()}
    assert set(records) == set(rows)
    assert manifest.summary["skipped"] == 0
    for exam, record in records.items():
        row = rows[exam]
        np.testing.assert_array_equal(record.signal, tracing(int(exam)).T)
        assert record.patient_id == row["patient_id"]
        assert list(record.labels) == [name for name in CODE_CLASSES if row[name] == "True"]
        about = record.attributes
        assert (about["age"], about["sex"]) == (float(row["age"]), "M" if row["is_male"] == "True" else "F")
        assert (about["death"], about["followup_years"]) == ((True, 2.5) if row["death"] else (None, None))
        assert about["normal_ecg"] == (row["normal_ecg"] == "True")
        start = (4096 - (2800 if int(exam) % 2 else 4000)) // 2
        assert (about["content_start"], about["content_end"]) == (start, 4096 - start)
        assert (record.sampling_rate_hz, record.lead_names) == (400.0, STANDARD_LEADS)
    card = (tmp_path / "out" / "README.md").read_text()
    peaks = [np.abs(tracing(exam)).max() for exams in PARTS.values() for exam in exams]
    assert f"The median record's largest deflection is {np.median(peaks):.3g} mV." in card
    assert "**The unit is disputed.**" in card


def test_exams_of_one_patient_are_in_one_split(download):
    records = Code15(LocalTree(download)).index().records.to_pylist()
    assert len({row["split"] for row in records if row["patient_id"] == "7"}) == 1
    assert sum(row["patient_id"] == "7" for row in records) == 2


@pytest.mark.parametrize("order", [("aVL", "aVF", "aVR"), ("aVR", "aVF", "aVL")])
def test_the_signals_say_which_lead_is_which(tmp_path, order):
    source = Code15(LocalTree(write_code15(tmp_path, order)))
    entry = source.index().records.to_pylist()[0]
    assert entry["lead_names"] == [*STANDARD_LEADS[:3], *order, *STANDARD_LEADS[6:]]
    (row,) = source.read([entry])
    signals = dict(zip(row["lead_names"], row_to_record(row).signal, strict=True))
    np.testing.assert_allclose(signals["aVF"], signals["II"] - signals["I"] / 2, atol=1e-5)


@pytest.mark.parametrize("units_per_mv", [1, 10])
def test_the_unit_is_an_option(download, units_per_mv):
    source = Code15(LocalTree(download), units_per_mv=units_per_mv)
    entries = source.index().records.to_pylist()
    for entry, row in zip(entries, source.read(entries), strict=True):
        np.testing.assert_allclose(row["samples"], tracing(int(entry["record_id"])).T / units_per_mv, rtol=1e-6)


def test_of_a_partial_download_the_rest_is_skipped_by_name_or_left_out_on_request(tmp_path):
    write_code15(tmp_path)
    (tmp_path / "exams_part3.hdf5").unlink()
    source = Code15(LocalTree(tmp_path), augmented_leads="aVR,aVL,aVF")
    results = list(source.read(source.index().records.to_pylist()))
    errors = {result.record: result.problem for result in results if isinstance(result, RecordError)}
    assert errors == {str(exam): "its file 'exams_part3.hdf5' is missing." for exam in PARTS["exams_part3.hdf5"]}
    index = Code15(LocalTree(tmp_path), augmented_leads="aVR,aVL,aVF", missing="skip").index()
    assert len(index.records) == 6
    assert any("5 of 11 exams have no tracing here" in note for note in index.notes)


def test_archives_that_were_not_unpacked_are_named(tmp_path):
    write_table(tmp_path, table_rows())
    (tmp_path / "exams_part0.zip").write_bytes(b"PK")
    with pytest.raises(
        FileNotFoundError, match=r"no tracings. Unpack exams_part0.zip first.*zenodo.org/records/4916206"
    ):
        Code15(LocalTree(tmp_path)).index()


def test_files_that_cannot_be_right_are_refused(tmp_path):
    write_code15(tmp_path)
    with h5py.File(tmp_path / "exams_part3.hdf5", "a") as file:
        file["exam_id"][2] = 1101
    with pytest.raises(ValueError, match=r"exam 1101 is in 'exams_part0.hdf5' and again in 'exams_part3.hdf5'"):
        Code15(LocalTree(tmp_path)).index()
    with h5py.File(tmp_path / "exams_part3.hdf5", "a") as file:
        del file["exam_id"]
    with pytest.raises(ValueError, match="has no dataset 'exam_id'"):
        Code15(LocalTree(tmp_path)).index()
    (tmp_path / "exams_part3.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"exams_part3.hdf5 cannot be read as HDF5"):
        Code15(LocalTree(tmp_path)).index()
    with pytest.raises(ValueError, match="units_per_mv must be positive"):
        Code15(LocalTree(tmp_path), units_per_mv=0)


def test_an_empty_tracing_is_skipped_and_a_strange_one_noted(tmp_path):
    write_code15(tmp_path)
    with h5py.File(tmp_path / "exams_part0.hdf5", "a") as file:
        file["tracings"][1] = 0
        for row, kept in ((2, 0), (3, 1)):  # without a number, and with one sample left
            changed = file["tracings"][row]
            content = np.flatnonzero(changed.any(axis=1))
            changed[content[kept] : content[-1] + 1] = np.nan
            file["tracings"][row] = changed
        file["exam_id"][-1] = 999
        file["tracings"][-1] = tracing(999)
    source = Code15(LocalTree(tmp_path), augmented_leads="aVR,aVL,aVF")
    index = source.index()
    errors = [row for row in source.read(index.records.to_pylist()) if isinstance(row, RecordError)]
    assert {error.record: error.problem for error in errors} == {
        "1205": "its tracing holds nothing but zeros.",
        "1009": "all samples of all leads are missing.",
    }
    assert any("1 tracings are of exams that exams.csv does not name" in note for note in index.notes)


def test_one_record_from_the_content_of_the_file_equals_the_same_from_the_folder(download):
    source = pickle.loads(pickle.dumps(Code15(LocalTree(download))))  # noqa: S301
    entry = source.index().records.to_pylist()[3]
    (path,) = source.files_of(entry)
    row = source.decode(entry, {path: (download / path).read_bytes()})
    assert rows_to_table([row], source.features).equals(rows_to_table(list(source.read([entry])), source.features))


def test_sami_trops_tracings_are_aligned_by_row(tmp_path):
    write_sami_trop(tmp_path / "download")
    source = open_source("sami_trop", tmp_path / "download")
    entries = source.index().records.to_pylist()
    assert source.tasks() == ()
    for number, (entry, row) in enumerate(zip(entries, source.read(entries), strict=True)):
        assert (entry["record_id"], entry["patient_id"], entry["labels"]) == (str(300 - number),) * 2 + ([],)
        np.testing.assert_array_equal(row["samples"], tracing(300 - number).T)
    with h5py.File(tmp_path / "download" / "exams.hdf5", "a") as file:
        del file["tracings"]
        file["tracings"] = np.zeros((11, 4096, 12))
    with pytest.raises(ValueError, match=r"has 11 tracings and exams\.csv 12 rows"):
        source.index()
