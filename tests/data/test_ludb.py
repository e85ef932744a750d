"""LUDB from files in their documented layout: lower-case leads, diagnoses in the comments, annotations beside them."""

from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from reading_fixtures import millivolts, random_adc, write_record

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.store.schema import iter_records
from hf_ecgtext.leads import STANDARD_LEADS, canonical_lead_name

COMMENTS = {
    "1": ["<age>: 51", "<sex>: F", "<diagnoses>:", "Rhythm: Sinus bradycardia.", "Left ventricular hypertrophy."],
    "2": ["<age>: 64", "<sex>: M", "<diagnoses>:", "Rhythm: Sinus rhythm.", "Electric axis of the heart: normal."],
    "10": ["<age>: >89", "<sex>: M", "<diagnoses>:", "Rhythm: Atrial fibrillation."],
    "34": ["<age>: 40", "<sex>: F"],
}
LABELS = {
    "1": ["Rhythm: Sinus bradycardia", "Left ventricular hypertrophy"],
    "2": ["Rhythm: Sinus rhythm", "Electric axis of the heart: normal"],
    "10": ["Rhythm: Atrial fibrillation"],
    "34": [],
}
LEADS = tuple(lead.lower() for lead in STANDARD_LEADS)


def samples(name: str) -> np.ndarray:
    return random_adc(12, 5_000, seed=int(name), limit=1_500)


@pytest.fixture
def download(tmp_path) -> Path:
    folder = tmp_path / "ludb"
    (folder / "data").mkdir(parents=True)
    for name, comments in COMMENTS.items():
        lines = [f"#{comment}" for comment in comments]
        write_record(folder / "data", name, samples(name), lead_names=LEADS, comments=lines)
        for lead in LEADS:
            (folder / "data" / f"{name}.{lead}").write_bytes(b"annotation")
    (folder / "RECORDS").write_text("".join(f"data/{name}\n" for name in COMMENTS))
    (folder / "ludb.csv").write_text("ID,Sex,Age\n1,F,51\n")
    return folder


def test_records_are_those_of_the_files_with_the_diagnoses_of_their_headers(download, tmp_path, caplog):
    source = open_source("ludb", download)
    manifest = prepare(source, tmp_path / "out", workers=1, progress=False)
    records = {
        record.record_id: record
        for split in manifest.splits
        for record in iter_records(load_dataset(str(tmp_path / "out"), split=split, streaming=True))
    }
    assert source.tasks() == ()
    assert manifest.summary["skipped"] == 0
    assert records.keys() == COMMENTS.keys()
    for name, record in records.items():
        np.testing.assert_array_equal(record.signal, millivolts(samples(name)))
        assert tuple(map(canonical_lead_name, record.lead_names)) == STANDARD_LEADS
        assert (record.patient_id, record.sampling_rate_hz) == (name, 500.0)
        assert list(record.labels) == LABELS[name]
        assert list(record.attributes["header_comments"]) == COMMENTS[name]
    assert [records[name].attributes["age"] for name in COMMENTS] == [51.0, 64.0, None, 40.0]
    assert [records[name].attributes["sex"] for name in COMMENTS] == ["F", "M", "M", "F"]
    assert [message for message in caplog.messages if "has no line '<diagnoses>:'" in message] == [
        "data/34.hea has no line '<diagnoses>:': the record has no labels."
    ]


def test_records_are_in_the_order_of_their_numbers_and_a_part_is_noted(download):
    index = open_source("ludb", download).index()
    assert index.records.column("record_id").to_pylist() == list(COMMENTS)
    assert index.notes == ["There are 4 records here; LUDB has 200."]


def test_a_table_of_splits_takes_the_place_of_the_hash(download, tmp_path):
    (tmp_path / "splits.csv").write_text("ID,fold\n1,train\n10,test\n34,val\n")
    index = open_source("ludb", download, split_table=str(tmp_path / "splits.csv")).index()
    assert index.records.select(["record_id", "split"]).to_pylist() == [
        {"record_id": "1", "split": "train"},
        {"record_id": "10", "split": "test"},
        {"record_id": "34", "split": "validation"},
    ]


def test_a_folder_without_records_is_answered_with_the_address(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no record such as '1.hea' in .*physionet.org/content/ludb/1.0.1/"):
        open_source("ludb", tmp_path).index()
