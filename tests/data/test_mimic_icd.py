"""MIMIC-IV-ECG-Ext-ICD's table in its published layout, joined to a tree of MIMIC-IV-ECG."""

import csv
from pathlib import Path

import pytest
from datasets import load_dataset
from make_mimic import MimicStudy, write_mimic_tree

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.mimic_icd import CODE_COLUMNS, ICD_COLUMNS
from hf_ecgtext.data.sources.mimic_iv_ecg import MIMIC_IV_ECG_FEATURES
from hf_ecgtext.data.store.schema import iter_records

HEADER = [
    "file_name",
    "study_id",
    "subject_id",
    "ecg_time",
    "ed_stay_id",
    "ed_hadm_id",
    "hosp_hadm_id",
    "ed_diag_ed",
    "ed_diag_hosp",
    "hosp_diag_hosp",
    "all_diag_hosp",
    "all_diag_all",
    "gender",
    "age",
    "anchor_year",
    "anchor_age",
    "dod",
    "ecg_no_within_stay",
    "ecg_taken_in_ed",
    "ecg_taken_in_hosp",
    "ecg_taken_in_ed_or_hosp",
    "fold",
    "strat_fold",
]


@pytest.fixture(scope="module")
def mimic(tmp_path_factory) -> tuple[Path, list[MimicStudy]]:
    folder = tmp_path_factory.mktemp("mimic")
    return folder, write_mimic_tree(folder, 40, num_samples=40, short_reports=0.0)


def codes_of(number: int) -> dict[str, list[str]]:
    return {
        "ed_diag_ed": ["R079"] if number % 2 else [],
        "ed_diag_hosp": ["I10", "Z87.891"] if number % 3 == 0 else [],
        "hosp_diag_hosp": [f"I48{number % 10}", "E119", "Z7901"],
        "all_diag_hosp": ["NoDx"] if number == 8 else [],
        "all_diag_all": ["I214"] * (number % 4),
    }


def rows_for(studies: list[MimicStudy]) -> list[dict[str, object]]:
    """As pandas writes them: lists as Python literals, empty cells for what there is not, another order of rows."""
    return [
        {
            **dict.fromkeys(HEADER, ""),
            "file_name": f"{study.path}.hea",
            "study_id": study.study_id,
            "subject_id": study.subject_id,
            **{name: str(codes) for name, codes in codes_of(number).items()},
            "gender": ("F", "M", "missing")[number % 3],
            "age": "" if number % 5 == 0 else f"{30 + number}.0",
            "ecg_taken_in_ed": number % 2 == 1,
            "ecg_taken_in_hosp": number % 2 == 0,
            "ecg_taken_in_ed_or_hosp": True,
            "strat_fold": study.subject_id % 20,
        }
        for number, study in reversed(list(enumerate(studies)))
    ]


def write_table(path: Path, rows: list[dict[str, object]], header: list[str] = HEADER) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_each_record_gets_its_own_codes_and_one_without_a_row_null_and_a_note(mimic, tmp_path):
    folder, studies = mimic
    table = write_table(tmp_path / "records_w_diag_icd10.csv", rows_for(studies)[1:])  # the last study has no row
    manifest = prepare(
        open_source("mimic_iv_ecg", folder, icd_table=table), tmp_path / "out", workers=1, progress=False
    )
    assert manifest.source_options["icd_table"] == table
    found = {
        record.record_id: record.attributes
        for split in manifest.splits
        for record in iter_records(load_dataset(str(tmp_path / "out"), split=split, streaming=True))
    }
    assert len(found) == len(studies)
    for number, study in enumerate(studies[:-1]):
        row = found[str(study.study_id)]
        assert {CODE_COLUMNS[name]: row[name] for name in CODE_COLUMNS} == codes_of(number)
        assert row["gender"] == ("F", "M", None)[number % 3]
        assert row["age"] == (None if number % 5 == 0 else 30 + number)
        flags = [row[f"ecg_taken_in_{place}"] for place in ("ed", "hosp", "ed_or_hosp")]
        assert flags == [number % 2 == 1, number % 2 == 0, True]
    last = str(studies[-1].study_id)
    assert {name: found[last][name] for name in ICD_COLUMNS} == dict.fromkeys(ICD_COLUMNS)
    notes = "\n".join(manifest.summary["notes"])
    assert f"1 of 40 records have no row in 'records_w_diag_icd10.csv', such as study {last}" in notes
    assert "may not be passed on" in notes


def test_without_a_table_columns_and_options_are_what_they_were(mimic):
    source = open_source("mimic_iv_ecg", mimic[0])
    assert "icd_table" not in source.options
    assert source.features == MIMIC_IV_ECG_FEATURES
    assert not set(ICD_COLUMNS) & set(source.index().records.column_names)


def test_codes_and_folds_come_from_one_file(mimic, tmp_path):
    folder, studies = mimic
    rows = rows_for(studies)
    for number, row in enumerate(rows):
        row["strat_fold"] = number % 20
    table = write_table(tmp_path / "icd.csv", rows)
    records = open_source("mimic_iv_ecg", folder, icd_table=table, split_table=table).index().records
    split_of = {row["study_id"]: {18: "validation", 19: "test"}.get(row["strat_fold"], "train") for row in rows}
    assert dict(zip(records["study_id"].to_pylist(), records["split"].to_pylist(), strict=True)) == split_of
    number_of = {study.study_id: number for number, study in enumerate(studies)}
    for row in records.select(["study_id", "labels_icd_hospital"]).to_pylist():
        assert row["labels_icd_hospital"] == codes_of(number_of[row["study_id"]])["hosp_diag_hosp"]


@pytest.mark.parametrize("value", ["", "I10", "['I10'", "[I10]", "['I10' 'E119']", "[print('x')]", "['']", "nan"])
def test_what_is_no_list_of_codes_is_refused_with_its_row_and_value(mimic, tmp_path, value):
    folder, studies = mimic
    rows = rows_for(studies)
    rows[6]["hosp_diag_hosp"] = value
    table = write_table(tmp_path / "icd.csv", rows)
    with pytest.raises(ValueError, match=r"in its column 'hosp_diag_hosp' of row 7 .*no list of ICD-10 codes") as error:
        open_source("mimic_iv_ecg", folder, icd_table=table).index()
    assert f"'icd.csv' has {value or None!r}".replace("None", "'None'") in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows + rows[:1], "names 1 study_ids more than once"),
        (lambda rows: [{**row, "subject_id": 1} for row in rows], "gives 40 studies to other subjects"),
        (lambda rows: [{**row, "study_id": number} for number, row in enumerate(rows)], "names none of the 40 studies"),
    ],
)
def test_a_table_of_other_studies_is_refused(mimic, tmp_path, change, message):
    folder, studies = mimic
    table = write_table(tmp_path / "icd.csv", change(rows_for(studies)))
    with pytest.raises(ValueError, match=message):
        open_source("mimic_iv_ecg", folder, icd_table=table).index()


def test_a_missing_table_and_a_missing_column_are_named(mimic, tmp_path):
    folder, studies = mimic
    with pytest.raises(FileNotFoundError, match=r"no ICD table '.*absent.csv'.*records_w_diag_icd10.csv"):
        open_source("mimic_iv_ecg", folder, icd_table=str(tmp_path / "absent.csv")).index()
    header = [name for name in HEADER if name != "all_diag_all"]
    table = write_table(tmp_path / "icd.csv", rows_for(studies), header)
    with pytest.raises(ValueError, match=r"lacks the columns \['all_diag_all'\]"):
        open_source("mimic_iv_ecg", folder, icd_table=table).index()
