"""SPH from files in their documented layout: tables, one HDF5 file a record, an archive that is not compressed."""

import csv
import pickle
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import load_dataset

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.sph import Sph
from hf_ecgtext.data.store.schema import iter_records, rows_to_table
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS

CODES = {
    "1": ("A", "Normal ECG"),
    "31": ("D", "Atrial premature complexes, nonconducted"),
    "60": ("F", "Ventricular premature complex(es)"),
    "147": ("L", "T-wave abnormality"),
    "310": ("Modifier", "Frequent"),
    "346": ("Modifier", "Non-specific"),
}
AHA_CODES = {
    "A00001": "60+310;147",
    "A00002": "1",
    "A00003": "1;1",
    "A00004": "31;60+310;147+346",
    "A00005": "147",
    "A00006": "60",
    "A00007": "1",
    "A00008": "1",
}
PATIENTS = {"A00001": "S00001", "A00006": "S00001", "A00008": "S00001"}
LENGTHS = {"A00004": 28_000, "A00006": 7_350}


def signal(name: str) -> np.ndarray:
    """12 x N in mV, as 16-bit floating point numbers."""
    samples = np.random.default_rng(int(name[1:])).normal(0, 0.4, (12, LENGTHS.get(name, 5_000)))
    return samples.astype(np.float16)


def rows() -> list[dict[str, object]]:
    """The table, in another order than the names."""
    return [
        {
            "ECG_ID": name, "AHA_Code": codes, "Patient_ID": PATIENTS.get(name, f"S1{name[2:]}"), "Age": 50 + number,
            "Sex": "FM"[number % 2], "N": LENGTHS.get(name, 5_000), "Date": f"2020-03-0{number + 1}",
        }
        for number, (name, codes) in reversed(list(enumerate(AHA_CODES.items())))
    ]  # fmt: skip


def write_csv(file: Path, table: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def write_recordings(folder: Path) -> None:
    (folder / "records").mkdir(parents=True)
    for name in AHA_CODES:
        with h5py.File(folder / "records" / f"{name}.h5", "w") as file:
            file["ecg"] = signal(name)


def write_sph(folder: Path) -> Path:
    write_recordings(folder)
    write_csv(folder / "metadata.csv", rows())
    codes = [{"Category": kind, "Code": code, "Description": name} for code, (kind, name) in CODES.items()]
    write_csv(folder / "code.csv", codes)
    return folder


def pack(unpacked: Path, folder: Path) -> Path:
    """The tables, and beside them `records.tar.gz`, which is no gzip."""
    folder.mkdir(parents=True)
    for name in ("metadata.csv", "code.csv"):
        (folder / name).write_bytes((unpacked / name).read_bytes())
    with tarfile.open(folder / "records.tar.gz", "w") as archive:
        archive.add(unpacked / "records", "records")
    return folder


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> Path:
    return write_sph(tmp_path_factory.mktemp("sph") / "download")


@pytest.mark.parametrize("packed", [False, True])
def test_recordings_and_statements_are_those_of_the_files(download, tmp_path, packed):
    folder = pack(download, tmp_path / "packed") if packed else download
    manifest = prepare(Sph(LocalTree(folder)), tmp_path / "out", workers=1, progress=False)
    records = {
        record.record_id: record
        for split in manifest.splits
        for record in iter_records(load_dataset(str(tmp_path / "out"), split=split, streaming=True))
    }
    assert manifest.summary["skipped"] == 0
    assert records.keys() == AHA_CODES.keys()
    for row in rows():
        record = records[row["ECG_ID"]]
        np.testing.assert_array_equal(record.signal, signal(record.record_id).astype(np.float32))
        assert (record.sampling_rate_hz, record.lead_names) == (500.0, STANDARD_LEADS)
        assert record.patient_id == row["Patient_ID"]
        about = record.attributes
        assert (about["age"], about["sex"], about["date"]) == (row["Age"], row["Sex"], row["Date"])
        assert ";".join(about["statements"]) == row["AHA_Code"]
    assert list(records["A00001"].labels) == ["60", "147"]
    assert list(records["A00003"].labels) == ["1"]  # "1;1"
    assert list(records["A00004"].labels) == ["31", "60", "147"]
    peaks = [np.abs(signal(name)).max() for name in AHA_CODES]
    assert f"largest deflection is {np.median(peaks):.3g} mV." in (tmp_path / "out" / "README.md").read_text()


def test_the_classes_are_the_statements_of_the_code_table_without_modifiers(download):
    (task,) = Sph(LocalTree(download)).tasks()
    assert task.class_names == {code: name for code, (kind, name) in CODES.items() if kind != "Modifier"}
    data = open_data("sph", download)
    for split in ("train", "validation", "test"):
        if (part := getattr(data, split)) is None:
            continue
        expected = [
            [int(code in {text.partition("+")[0] for text in AHA_CODES[name].split(";")}) for code in task.class_names]
            for name in part.column("record_id")
        ]
        assert task.targets(part).tolist() == expected


def test_recordings_of_one_patient_are_in_one_split(download):
    records = Sph(LocalTree(download)).index().records.to_pylist()
    splits = [row["split"] for row in records if row["patient_id"] == "S00001"]
    assert len(splits) == 3
    assert len(set(splits)) == 1


def test_a_table_of_splits_takes_the_place_of_the_hash(download, tmp_path):
    splits = {"A00001": "test", "A00002": "train", "A00005": "validation"}
    write_csv(tmp_path / "splits.csv", [{"ECG_ID": name, "split": split} for name, split in splits.items()])
    index = Sph(LocalTree(download), split_table=str(tmp_path / "splits.csv")).index()
    assert {row["record_id"]: row["split"] for row in index.records.to_pylist()} == splits
    assert {row.record for row in index.left_out} == AHA_CODES.keys() - splits.keys()


def test_the_archive_is_left_alone_where_it_was_unpacked_and_read_where_it_was_not_wholly(download, tmp_path):
    folder = pack(download, tmp_path / "packed")
    write_recordings(folder)
    source = Sph(LocalTree(folder))
    records = source.index().records.to_pylist()
    assert {path for row in records for path in source.files_of(row)} == {f"records/{name}.h5" for name in AHA_CODES}
    (folder / "records" / "A00005.h5").unlink()
    source = pickle.loads(pickle.dumps(Sph(LocalTree(folder))))  # noqa: S301
    records = source.index().records.to_pylist()
    paths = {row["record_id"]: source.files_of(row) for row in records}
    assert paths["A00005"] == ("records.tar.gz/records/A00005.h5",)
    assert paths["A00006"] == ("records/A00006.h5",)
    read = list(source.read(records))
    whole = Sph(LocalTree(download))
    entries = whole.index().records.to_pylist()
    assert entries == records  # and so the revision of result lines
    assert rows_to_table(read, source.features).equals(rows_to_table(list(whole.read(entries)), whole.features))


def test_of_a_partial_download_the_rest_is_skipped_by_name_or_left_out_on_request(tmp_path):
    write_sph(tmp_path)
    for name in ("A00002", "A00007"):
        (tmp_path / "records" / f"{name}.h5").unlink()
    source = Sph(LocalTree(tmp_path))
    errors = [row for row in source.read(source.index().records.to_pylist()) if isinstance(row, RecordError)]
    assert {error.record: error.problem for error in errors} == {
        name: f"its file 'records/{name}.h5' is missing." for name in ("A00002", "A00007")
    }
    index = Sph(LocalTree(tmp_path), missing="skip").index()
    assert len(index.records) == 6
    assert any("2 of 8 records have no file here" in note for note in index.notes)


def test_a_file_that_cannot_be_right_costs_its_record_alone(tmp_path):
    write_sph(tmp_path)
    records = tmp_path / "records"
    (records / "A00001.h5").write_bytes(b"no HDF5")
    for name, key, stored in (
        ("A00002", "ecg", signal("A00002")[:, :-1]),
        ("A00003", "ecg", signal("A00003").T),
        ("A00004", "tracings", signal("A00004")),
        ("A00005", "ecg", np.where(np.arange(5_000) == 7, np.inf, signal("A00005")).astype(np.float16)),
        ("A00006", "ecg", signal("A00006").astype(np.int16)),
    ):
        with h5py.File(records / f"{name}.h5", "w") as file:
            file[key] = stored
    source = Sph(LocalTree(tmp_path))
    results = list(source.read(source.index().records.to_pylist()))
    problems = {result.record: result.problem for result in results if isinstance(result, RecordError)}
    assert problems.pop("A00001").startswith("its file cannot be read as HDF5")
    assert problems == {
        "A00002": "'records/A00002.h5' holds 'ecg' of shape (12, 4999); metadata.csv says (12, 5000).",
        "A00003": "'records/A00003.h5' holds 'ecg' of shape (5000, 12); metadata.csv says (12, 5000).",
        "A00004": "its file has no dataset 'ecg' of numbers.",
        "A00005": "'records/A00005.h5' holds infinite values.",
        "A00006": "its file has no dataset 'ecg' of numbers.",
    }


def test_a_lead_that_leaves_the_range_of_an_ecg_is_kept_as_published_and_a_record_of_such_leads_is_not(tmp_path):
    write_sph(tmp_path)
    railed, large = signal("A00002"), (signal("A00003") * 100).astype(np.float16)
    railed[4, 100:900] = 1590
    for name, stored in (("A00002", railed), ("A00003", large)):
        with h5py.File(tmp_path / "records" / f"{name}.h5", "w") as file:
            file["ecg"] = stored
    source = Sph(LocalTree(tmp_path))
    entries = {row["record_id"]: row for row in source.index().records.to_pylist()}
    kept, refused = source.read([entries["A00002"], entries["A00003"]])
    np.testing.assert_array_equal(kept["samples"], railed.astype(np.float32))
    assert isinstance(refused, RecordError)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ("1;999", r"'A00001' the statements '1;999', in which '999' is no statement"),
        ("60+147", r"in which '147' is no modifier"),
        ("310", r"in which '310' is no statement"),
        ("", r"in which '' is no statement"),
    ],
)
def test_statements_that_the_code_table_does_not_name_are_refused(tmp_path, codes, message):
    write_sph(tmp_path)
    table = [row | {"AHA_Code": codes} if row["ECG_ID"] == "A00001" else row for row in rows()]
    write_csv(tmp_path / "metadata.csv", table)
    with pytest.raises(ValueError, match=message):
        Sph(LocalTree(tmp_path)).index()


def test_what_is_missing_is_named_with_where_to_get_it(download, tmp_path):
    folder = pack(download, tmp_path / "packed")
    archive = folder / "records.tar.gz"
    with tarfile.open(tmp_path / "all.tar", "w") as outer:
        outer.add(folder, "sph")
    with pytest.raises(FileNotFoundError, match=r"no recording. Unpack 'sph/records.tar.gz' first"):
        open_data("sph", tmp_path / "all.tar")
    archive.unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata.csv and no recording. Download .*5779802"):
        Sph(LocalTree(folder)).index()
    (folder / "code.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 'code.csv' in .*Download metadata.csv, code.csv and"):
        Sph(LocalTree(folder)).tasks()
