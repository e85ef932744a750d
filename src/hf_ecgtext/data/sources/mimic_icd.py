"""Diagnoses for MIMIC-IV-ECG: the table of MIMIC-IV-ECG-Ext-ICD 1.0.1 (Strodthoff et al. 2024), joined by `study_id`.

It holds no signals: one row per study, with lists of ICD-10-CM codes written as Python writes lists. `[]` says that the
patient's stay had no diagnosis, or that there was no stay; a study without a row has null.

Source: https://physionet.org/content/mimic-iv-ecg-ext-icd-labels/1.0.1/; ECGBench (github.com/vlbthambawita/ECGBench)
for columns and spellings.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import List, Value

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.sources.tables import check_ids, read_csv_columns, rows_of

CODE_COLUMNS = {
    "labels_icd_ed": "ed_diag_ed",
    "labels_icd_ed_hospital": "ed_diag_hosp",
    "labels_icd_hospital": "hosp_diag_hosp",
    "labels_icd_all_hospital": "all_diag_hosp",
    "labels_icd_all": "all_diag_all",
}
"""Our columns of codes, and the published ones."""

_FLAGS = ("ecg_taken_in_ed", "ecg_taken_in_hosp", "ecg_taken_in_ed_or_hosp")
ICD_COLUMNS = {
    **{name: List(Value("string")) for name in CODE_COLUMNS},
    "age": Value("float64"),
    "gender": Value("string"),
    **{name: Value("bool") for name in _FLAGS},
}
"""What the table adds to the stored form."""

_HOMEPAGE = "https://physionet.org/content/mimic-iv-ecg-ext-icd-labels/1.0.1/"
_READ: dict[str, pa.DataType] = {
    "study_id": pa.int64(),
    "subject_id": pa.int64(),
    **dict.fromkeys(CODE_COLUMNS.values(), pa.string()),
    "age": pa.float64(),
    "gender": pa.string(),
    **dict.fromkeys(_FLAGS, pa.bool_()),
}
# Wide on purpose: ICD-9 codes were translated, and tables for that have words such as NoDx among the codes.
_CODES = r"^\[('[0-9A-Za-z.]+'(, '[0-9A-Za-z.]+')*)?\]$"


def with_icd_codes(records: pa.Table, path: str, notes: list[str]) -> pa.Table:
    """The index of MIMIC-IV-ECG with the columns of `ICD_COLUMNS`.

    Args:
        records (`pa.Table`): With the columns `study_id` and `patient_id`.
        path (`str`): Of `records_w_diag_icd10.csv`.
        notes (`list[str]`): Takes what is absent, and under which terms the codes are.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If the table lacks a column, names a study twice or another patient's, or holds something that is no
            list of codes.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no ICD table '{path}'. Its file is records_w_diag_icd10.csv of {_HOMEPAGE}.")
    table = read_csv_columns(LocalTree(file.parent), file.name, _READ, _HOMEPAGE, "1.0.1")
    check_ids(table.column("study_id"), "study_id", file.name)
    lists = {name: _codes(table.column(published), published, file.name) for name, published in CODE_COLUMNS.items()}
    rows = rows_of(table.column("study_id"), records.column("study_id"))
    if not (rows >= 0).any():
        raise ValueError(f"The ICD table '{path}' names none of the {len(records):,} studies here.")
    found = pa.array(rows, mask=rows < 0)
    subjects = table.column("subject_id").cast(pa.string()).take(found)
    differs = pc.fill_null(pc.not_equal(subjects, records.column("patient_id")), False)
    if wrong := records.column("study_id").filter(differs).to_pylist():
        raise ValueError(
            f"The ICD table '{path}' gives {len(wrong):,} studies to other subjects than record_list.csv, such as "
            f"study {wrong[0]}. Download both tables again."
        )
    gender = table.column("gender")
    gender = pc.if_else(pc.equal(gender, "missing"), pa.scalar(None, pa.string()), gender)
    columns = {**lists, "age": table.column("age"), "gender": gender, **{name: table.column(name) for name in _FLAGS}}
    for name, column in columns.items():
        records = records.append_column(name, column.take(found))
    notes.append(
        f"The ICD codes are those of '{file.name}' (MIMIC-IV-ECG-Ext-ICD), which PhysioNet gives to credentialed users "
        "only: unlike the recordings, this folder may not be passed on to others."
    )
    if absent := int((rows < 0).sum()):
        without = records.column("study_id").filter(pa.array(rows < 0))[0].as_py()
        notes.append(
            f"{absent:,} of {len(records):,} records have no row in '{file.name}', such as study {without}: their "
            "columns of codes are null."
        )
    return records


def _codes(texts: pa.ChunkedArray, column: str, table: str) -> pa.ChunkedArray:
    """Lists of codes from their text, column-wise: 800,035 rows never become Python objects."""
    is_list = pc.fill_null(pc.match_substring_regex(texts, _CODES), False)
    row = pc.index(is_list, False).as_py()
    if row >= 0:
        raise ValueError(
            f"'{table}' has {str(texts[row].as_py())[:60]!r} in its column '{column}' of row {row + 1} (the header is "
            "not counted), which is no list of ICD-10 codes such as ['I10', 'E119'], or []. Download it again."
        )
    bare = pc.replace_substring_regex(texts, r"[\[\]' ]", "")
    # Splitting an empty text would give one empty code.
    split = pc.split_pattern(pc.if_else(pc.equal(bare, ""), pa.scalar(None, pa.string()), bare), ",")
    return pc.coalesce(split, pa.scalar([], split.type))
