"""Splits of others: the published layouts of split tables, on trees of their datasets."""

import csv
from pathlib import Path

import pytest
from make_mimic import MimicStudy, write_mimic_tree
from reading_fixtures import random_adc, write_record

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source, option_defaults
from hf_ecgtext.data.sources.split_table import read_split_table


@pytest.fixture(scope="module")
def mimic(tmp_path_factory) -> tuple[Path, list[MimicStudy]]:
    folder = tmp_path_factory.mktemp("mimic")
    return folder, write_mimic_tree(folder, 60, num_samples=40, short_reports=0.0)


def write_table(path: Path, header: str, rows: list[tuple]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return str(path)


def splits_of(source) -> dict[str, str]:
    records = source.index().records
    return dict(zip(records["record_id"].to_pylist(), records["split"].to_pylist(), strict=True))


WORDS = ("train", "valid", "test")
SPLITS = ("train", "validation", "test")


def test_ecg_fms_table_names_files_and_its_splits_are_taken(mimic, tmp_path):
    folder, studies = mimic
    rows = [(n, f"mimic_iv_ecg_{study.study_id}.mat", WORDS[n % 3], False) for n, study in enumerate(studies)]
    table = write_table(tmp_path / "meta_split.csv", "idx,save_file,split,nan_any", rows)
    source = open_source("mimic_iv_ecg", folder, split_table=table)
    assert splits_of(source) == {str(study.study_id): SPLITS[n % 3] for n, study in enumerate(studies)}
    notes = source.index().notes
    assert any("'meta_split.csv' (columns save_file and split)" in note for note in notes)
    assert any("patients in more than one split" in note for note in notes)


def test_ext_icds_twenty_folds_are_split_as_published_although_its_lists_have_commas(mimic, tmp_path):
    folder, studies = mimic
    subjects = sorted({study.subject_id for study in studies})
    fold = {subject: number % 20 for number, subject in enumerate(subjects)}
    rows = [
        (
            f"files/p1/{study.study_id}.hea",
            study.study_id,
            study.subject_id,
            "['I10', 'E119']",
            3,
            fold[study.subject_id],
        )
        for study in reversed(studies)
    ]
    rows += [("files/p1/1.hea", 1, 1, "[]", 1, 18), ("files/p1/2.hea", 2, 1, "[]", 1, 19)]
    header = "file_name,study_id,subject_id,all_diag_all,fold,strat_fold"
    table = write_table(tmp_path / "records_w_diag_icd10.csv", header, rows)
    source = open_source("mimic_iv_ecg", folder, split_table=table)
    expected = {18: "validation", 19: "test"}
    assert splits_of(source) == {
        str(study.study_id): expected.get(fold[study.subject_id], "train") for study in studies
    }
    notes = source.index().notes
    assert any("study_id and strat_fold (18 validation, 19 test)" in note for note in notes)
    assert any("2 keys that are none of the records" in note for note in notes)
    assert not any("more than one split" in note for note in notes)


@pytest.mark.parametrize("header", ["study,part", "part,study_id", "key,split", "split,key"])
def test_any_two_columns_will_do_and_records_in_no_split_are_left_out_by_name(mimic, tmp_path, header):
    folder, studies = mimic
    values = ["train", "val", "test", ""]
    rows = [(study.study_id, values[n % 4]) for n, study in enumerate(studies[:-2])]
    if header in ("part,study_id", "split,key"):
        rows = [(split, study) for study, split in rows]
    source = open_source("mimic_iv_ecg", folder, split_table=write_table(tmp_path / "own.csv", header, rows))
    names = ["train", "validation", "test"]
    assert splits_of(source) == {str(study.study_id): names[n % 4] for n, study in enumerate(studies[:-2]) if n % 4 < 3}
    gone = {str(study.study_id) for n, study in enumerate(studies) if n % 4 == 3 or n >= len(studies) - 2}
    assert {skipped.record for skipped in source.index().left_out} == gone


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("csn", ["JS00001", "WFDBRecords/01/010/JS00002.mat", "JS40000"]),
        ("cinc2021", ["JS00001", "JS00002.hea", "cinc2021_JS40000.mat"]),
    ],
)
def test_other_sources_take_a_table_too_also_for_records_outside_the_published_splits(tmp_path, name, keys):
    folder = tmp_path / "download" / "WFDBRecords"
    folder.mkdir(parents=True)
    for record in ("JS00001", "JS00002", "JS40000"):
        adc = random_adc(seed=int(record[2:]))
        header = {"storage": "16+24", "extension": ".mat", "scale": "1000/mV", "comments": ["#Dx: 426783006"]}
        write_record(folder, record, adc, **header)
    table = write_table(tmp_path / "own.csv", "filename,split", list(zip(keys, ("test", "val", "train"), strict=True)))
    source = open_source(name, tmp_path / "download", split_table=table)
    manifest = prepare(source, tmp_path / "out", workers=1, progress=False)
    assert splits_of(source) == {"JS00001": "test", "JS00002": "validation", "JS40000": "train"}
    assert {split: manifest.num_records(split) for split in manifest.splits} == dict.fromkeys(SPLITS, 1)
    assert manifest.source_options["split_table"] == table
    assert option_defaults(name)["split_table"] is None


def test_the_windows_of_a_recording_follow_it(tmp_path):
    header = {"storage": "16+24", "extension": ".mat", "scale": "1000/mV", "comments": ["#Dx: 426783006"]}
    for name in ("I0001", "I0002", "I0003"):
        write_record(tmp_path, name, random_adc(num_samples=1200, seed=int(name[1:])), **header)
    table = write_table(tmp_path / "own.csv", "record,split", [("I0001", "test"), ("I0002.mat", "train")])
    found = splits_of(open_source("cinc2021", tmp_path, max_duration_s=1.0, split_table=table))
    assert found == {
        f"{name}_w{number:03d}": split for name, split in (("I0001", "test"), ("I0002", "train")) for number in range(3)
    }


def test_without_a_table_nothing_is_recorded(mimic):
    assert "split_table" not in open_source("mimic_iv_ecg", mimic[0]).options


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("a,b,c", [(1, 2, 3)], r"has the columns \['a', 'b', 'c'\]; it needs one of record_id, study_id"),
        ("study_id,split", [(1, "practice")], r"has \['practice'\] in its column 'split'; expected train, validation"),
        ("study_id,split", [(1, "train")], "names none of the 60 records of mimic_iv_ecg"),
        ("study_id,fold", [(1, 1), (2, 2)], "has only the folds"),
        ("study_id,split", [], "in its column 'split'; expected"),
    ],
)
def test_a_table_that_is_not_understood_is_refused(mimic, tmp_path, header, rows, message):
    table = write_table(tmp_path / "own.csv", header, rows)
    with pytest.raises(ValueError, match=message):
        open_source("mimic_iv_ecg", mimic[0], split_table=table).index()


def test_a_record_in_two_splits_and_a_missing_table_are_refused(mimic, tmp_path):
    study = mimic[1][0].study_id
    rows = [(study, "train"), (f"mimic_iv_ecg_{study}.mat", "test")]
    table = write_table(tmp_path / "own.csv", "record,split", rows)
    with pytest.raises(ValueError, match=f"has the record '{study}' in two splits"):
        open_source("mimic_iv_ecg", mimic[0], split_table=table).index()
    with pytest.raises(FileNotFoundError, match="no split table"):
        read_split_table(str(tmp_path / "absent.csv"))
