"""Splits that somebody else published, from a table of records and splits: ECG-FM's, Ext-ICD's folds, one's own.

Known tables:

* ECG-FM's `meta_split.csv`: `save_file` (`mimic_iv_ecg_40689238.mat`) and `split` (`train`, `valid`, `test`).
* MIMIC-IV-ECG-Ext-ICD's `records_w_diag_icd10.csv`: `study_id` and `strat_fold`, 0 to 19 by patient, of which 18 is for
  validation and 19 for the test.

Source: vlbthambawita/ECGBench and Jwoo5/fairseq-signals for columns and spellings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hf_ecgtext.data.sources.base import EcgSource, SkippedRecord, SourceIndex
from hf_ecgtext.data.tasks import SPLITS

KEY_COLUMNS = ("record_id", "study_id", "save_file", "ecg_id", "file_name", "filename", "path")
SPLIT_COLUMNS = ("split", "strat_fold", "fold")

_SPLIT_OF_WORD = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("training", "tr"), "train"),
    **dict.fromkeys(("valid", "val", "dev"), "validation"),
}
_FEWEST_FOLDS = 3
_WINDOW = re.compile(r"_[ws]\d+$", re.ASCII)


def read_split_table(path: str) -> tuple[list[str], list[str], str]:
    """The keys of a table, the split of each (`""`: in none), and what was read, in words.

    Args:
        path (`str`): Of a csv file with a column of `KEY_COLUMNS` and one of `SPLIT_COLUMNS`; or with two columns of
            any name, records first.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If its columns or splits are not understood.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no split table '{path}'.")
    header = _header(path)
    key = next((name for name in KEY_COLUMNS if name in header), None)
    split = next((name for name in SPLIT_COLUMNS if name in header), None)
    if len(header) == 2:
        split = split or (header[1] if key != header[1] else header[0])
        key = key or next(name for name in header if name != split)
    if key is None or split is None:
        raise ValueError(
            f"The split table '{path}' has the columns {header}; it needs one of {', '.join(KEY_COLUMNS)} and one of "
            f"{', '.join(SPLIT_COLUMNS)}, or nothing but two columns, of records and of their splits."
        )
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={key: pa.string(), split: pa.string()}, include_columns=[key, split]
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"The split table '{path}' cannot be read: {error}.") from error
    keys = [value.strip() for value in table.column(key).to_pylist()]
    values = [value.strip() for value in table.column(split).to_pylist()]
    meaning = _meaning(set(values), path, split)
    held_out = {name: value for value, name in meaning.items() if name != "train" and value}
    folds = f" ({held_out['validation']} validation, {held_out['test']} test)" if _are_folds(meaning) else ""
    return keys, [meaning[value] for value in values], f"columns {key} and {split}{folds}"


def _header(path: str) -> list[str]:
    try:
        with pyarrow.csv.open_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)) as reader:
            return list(reader.schema.names)
    except pa.ArrowInvalid as error:
        raise ValueError(f"The split table '{path}' cannot be read: {error}.") from error


def _are_folds(values: Iterable[str]) -> bool:
    return all(value.removesuffix(".0").isdecimal() for value in values if value)


def _meaning(values: set[str], path: str, column: str) -> dict[str, str]:
    """Value -> split; of numbered folds the last is the test, and the last but one validation."""
    named = {value for value in values if value}
    if named and _are_folds(named):
        if len(named) < _FEWEST_FOLDS:
            raise ValueError(f"The split table '{path}' has only the folds {sorted(named)} in its column '{column}'.")
        *_, validation, test = sorted(named, key=float)
        return {**dict.fromkeys(named, "train"), validation: "validation", test: "test", "": ""}
    unknown = sorted(value for value in named if value.lower() not in _SPLIT_OF_WORD)
    if unknown or not named:
        raise ValueError(
            f"The split table '{path}' has {unknown[:5] or 'nothing'} in its column '{column}'; expected train, "
            "validation (valid, val, dev) or test, numbered folds, or an empty cell for a record that is in none."
        )
    return {value: _SPLIT_OF_WORD[value.lower()] if value else "" for value in values}


def _spellings(key: str, name: str, width: int) -> Iterator[str]:
    """What record a key may mean: `mimic_iv_ecg_40689238.mat`, `records500/00000/00001_hr` and `1` name one each."""
    yield key
    stem = PurePosixPath(key.replace("\\", "/")).name
    for suffix in (".mat", ".hea", ".dat", ".csv", ".pkl", ".pt", ".npy", ".0"):
        stem = stem.removesuffix(suffix)
    yield stem
    yield stem.removeprefix(f"{name}_")
    yield stem.removesuffix("_hr").removesuffix("_lr")
    if stem.isdecimal():
        yield stem.zfill(width)


def with_split_table(index: SourceIndex, source: EcgSource) -> SourceIndex:
    """The index with the splits of the source's `split_table`, if it has one; what that does not name is left out.

    Args:
        index ([`~hf_ecgtext.data.sources.base.SourceIndex`]): With the source's own splits.
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): Whose index it is.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If the table is not understood, names a record with two splits, or none of the records.
    """
    path, name = source.split_table, source.name
    if path is None:
        return index
    keys, splits, columns = read_split_table(path)
    record_ids = index.records.column("record_id").to_pylist()
    # A table names recordings, of which PhysioNet/CinC 2021's windows (`I0001_w003`) are parts.
    recordings = [_WINDOW.sub("", record_id) for record_id in record_ids]
    known = {*record_ids, *recordings}
    width = max(map(len, record_ids), default=0)
    split_of: dict[str, str] = {}
    absent = 0
    for key, split in zip(keys, splits, strict=True):
        record_id = next((spelling for spelling in _spellings(key, name, width) if spelling in known), None)
        if record_id is None:
            absent += 1
        elif split_of.setdefault(record_id, split) != split:
            raise ValueError(f"The split table '{path}' has the record '{record_id}' in two splits.")
    if not split_of:
        raise ValueError(
            f"The split table '{path}' ({columns}) names none of the {len(record_ids):,} records of {name}, such as "
            f"'{record_ids[0]}'; it has keys such as '{keys[0] if keys else ''}'."
        )
    given = [split_of.get(name) or split_of.get(whole, "") for name, whole in zip(record_ids, recordings, strict=True)]
    is_kept = np.array([bool(split) for split in given])
    place = index.records.column_names.index("split")
    records = index.records.set_column(place, "split", pa.array(given, pa.string())).filter(pa.array(is_kept))
    reason = "the split table puts it in no split."
    left_out = [SkippedRecord(record_ids[row], reason) for row in np.flatnonzero(~is_kept).tolist()]
    notes = [*index.notes, f"The splits are those of '{Path(path).name}' ({columns})."]
    if absent:
        notes.append(f"The split table has {absent:,} keys that are none of the records here.")
    if shared := _patients_of_several_splits(records):
        notes.append(f"The split table has {shared:,} patients in more than one split.")
    return SourceIndex(records, [*index.left_out, *left_out], notes)


def _patients_of_several_splits(records: pa.Table) -> int:
    pairs = records.select(["patient_id", "split"]).group_by(["patient_id", "split"]).aggregate([])
    patients = pairs.column("patient_id").drop_null()
    return len(patients) - pc.count_distinct(patients).as_py() if len(patients) else 0
