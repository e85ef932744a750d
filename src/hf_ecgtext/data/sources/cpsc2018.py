"""CPSC2018 (Liu et al. 2018): 6,877 12-lead ECGs with nine classes, as published and as PhysioNet copied it.

The native files hold millivolts as float64 and are stored as float32; PhysioNet's copy (`cpsc_2018` of the challenges
of 2020 and 2021) rounds them to 1 uV and is stored as int16. Both give the same columns. The native files come as
`TrainingSet1.zip`, `TrainingSet2.zip` and `TrainingSet3.zip` beside `REFERENCE.csv`, and are read so.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from hf_ecgtext.data.files.archives import open_archive
from hf_ecgtext.data.files.joined import JoinedTree
from hf_ecgtext.data.files.tree import FileTree, LocalTree
from hf_ecgtext.data.sources.ages import known_age
from hf_ecgtext.data.sources.base import SkippedRecord, SourceIndex, WfdbSource
from hf_ecgtext.data.sources.merl_splits import check_split_of_others, split_by_list
from hf_ecgtext.data.sources.peaks import peak_notes
from hf_ecgtext.data.sources.snomed import tidy_codes
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import check_rows, files_named, records_by_name
from hf_ecgtext.data.store.schema import ecg_features, record_to_row
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.cpsc_mat import decode_cpsc2018_mat
from hf_ecgtext.data.wfdb.header import WfdbHeader
from hf_ecgtext.data.wfdb.reading import interpret_comments
from hf_ecgtext.errors import RecordError

CPSC2018_CLASSES: dict[str, str] = {
    "NORM": "normal ECG",
    "AFIB": "atrial fibrillation",
    "1AVB": "first-degree atrioventricular block",
    "CLBBB": "left bundle branch block",
    "CRBBB": "right bundle branch block",
    "PAC": "premature atrial contraction",
    "VPC": "premature ventricular contraction",
    "STD": "ST-segment depression",
    "STE": "ST-segment elevation",
}
"""Class -> its name in words, in the order of the numbers 1 to 9 of `REFERENCE.csv`.

Source: the challenge's page (2018.icbeb.org, which is gone) for the nine classes; the short names are those of MERL's
tables.
"""

CLASS_OF_SNOMED: dict[str, str] = {
    "426783006": "NORM",
    "164889003": "AFIB",
    "270492004": "1AVB",
    "164909002": "CLBBB",
    "59118001": "CRBBB",
    "284470004": "PAC",
    "164884008": "VPC",
    "429622005": "STD",
    "164931005": "STE",
}
"""SNOMED CT code of PhysioNet's copy -> class.

Source: the challenge's table of diagnoses, whose counts for CPSC2018 (such as 869 and 220 for the last two) are those
of `REFERENCE.csv`.
"""

SNOMED_OF_CLASS = {name: code for code, name in CLASS_OF_SNOMED.items()}

LAYOUTS = ("auto", "native", "physionet")

_RECORD_FILE = re.compile(r"(A\d{4})\.(?:mat|hea)")
_HEADER = re.compile(r"A\d{4}\.hea")
_TABLE = "REFERENCE.csv"
_TABLE_COLUMNS = ["Recording", "First_label", "Second_label", "Third_label"]
_TRAINING_SET = re.compile(r"TrainingSet\d*\.zip", re.ASCII | re.IGNORECASE)
_PHYSIONET = "https://physionet.org/content/challenge-2021/1.0.3/"
_WHERE = (
    "Download REFERENCE.csv, TrainingSet1.zip, TrainingSet2.zip and TrainingSet3.zip from "
    "http://hhbucket.oss-cn-hongkong.aliyuncs.com into one folder and name that folder; or the folder "
    f"training/cpsc_2018 of {_PHYSIONET}."
)
_RECORDS_MEASURED = 32
_AGE_OVER_89 = 92  # of PhysioNet's copy

_INDEX_SCHEMA = pa.schema(
    {
        "record_id": pa.string(),
        "patient_id": pa.string(),
        "split": pa.string(),
        "path": pa.string(),
        "layout": pa.string(),
        "classes": pa.list_(pa.string()),
    }
)


class Cpsc2018(WfdbSource):
    """CPSC2018's training set from its own files or from PhysioNet's copy.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download; training sets that are archives in a folder need
            not be unpacked.
        layout (`str`): `"native"` (`REFERENCE.csv` and MATLAB files), `"physionet"` (`A0001.hea` beside `A0001.mat`),
            or `"auto"`: whichever is there.
        split_of_others (`str`): `"leave_out"`, or `"train"` for records outside the published splits; they name all
            6,877.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of the splits above; see
            [`~hf_ecgtext.data.sources.split_table.read_split_table`].

    Raises:
        ValueError: If an option has another value.
    """

    name = "cpsc2018"
    title = "CPSC2018"
    version = "training set"
    license_id = "cc-by-4.0"
    homepage = _PHYSIONET
    access = (
        "Open to everybody, as folder training/cpsc_2018 of PhysioNet's challenge-2021 or challenge-2020. The site of "
        "the challenge is gone; its files are at http://hhbucket.oss-cn-hongkong.aliyuncs.com (TrainingSet1.zip to "
        "TrainingSet3.zip and REFERENCE.csv)."
    )
    citation = """@article{liu2018cpsc,
  author = {Liu, Feifei and Liu, Chengyu and Zhao, Lina and Zhang, Xiangyu and Wu, Xiaoling and Xu, Xiaoyan and
            Liu, Yulin and Ma, Caiyun and Wei, Shoushui and He, Zhiqiang and Li, Jianqing and Kwee, Eddie Ng Yin},
  title = {An Open Access Database for Evaluating the Algorithms of Electrocardiogram Rhythm and Morphology
           Abnormality Detection},
  journal = {Journal of Medical Imaging and Health Informatics}, volume = {8}, number = {7}, pages = {1368--1373},
  year = {2018}, doi = {10.1166/jmihi.2018.2442}
}"""
    description = (
        "The public training set of the China Physiological Signal Challenge 2018. `labels` holds the SNOMED CT codes "
        "of PhysioNet's copy, `labels_cpsc2018` the challenge's nine classes; a record has one to three. The splits "
        "are those of MERL (70:10:20 = 4,950, 551 and 1,376 records), by record name. No patient ids are published: "
        "`patient_id` repeats the record id, so that two records of one patient cannot be recognised. Records are 6 to "
        "144 s long (27 of them longer than the 60 s of the challenge's description), at 500 Hz. `age` is empty where "
        "PhysioNet's copy says -1 (unknown) or 92, which stands there for everybody over 89."
    )
    signal_suffix = ".mat"

    def __init__(
        self,
        files: FileTree,
        *,
        layout: str = "auto",
        split_of_others: str = "leave_out",
        split_table: str | None = None,
    ):
        super().__init__(
            _with_training_sets(files),
            layout=layout,
            split_of_others=check_split_of_others(split_of_others),
            split_table=split_table,
        )
        if layout not in LAYOUTS:
            raise ValueError(f"layout is '{layout}'; choose one of {', '.join(LAYOUTS)}.")
        self.layout = layout
        self.split_of_others = split_of_others

    @property
    def features(self) -> Features:
        """See [`EcgSource`]."""
        return ecg_features({"labels_cpsc2018": List(Value("string")), "age": Value("float64"), "sex": Value("string")})

    def tasks(self) -> tuple[LabelTask, ...]:
        """See [`EcgSource`]."""
        return (LabelTask("cpsc2018", "labels_cpsc2018", dict(CPSC2018_CLASSES)),)

    def index(self) -> SourceIndex:
        """See [`EcgSource`]."""
        paths = self.files.list_files()
        tables = files_named(paths, _TABLE)
        found = records_by_name(paths, _RECORD_FILE, self.files.location)
        has_headers = any(_HEADER.fullmatch(path.rpartition("/")[2]) for path in paths)
        layout = self._layout(bool(tables), has_headers)
        notes = ["CPSC2018 publishes no patient ids; patient_id is the record id."]
        if layout == "physionet":
            entries: list[dict[str, Any]] = [
                {"record_id": name, "path": path, "classes": None} for name, path in found.items()
            ]
            unlabelled: list[SkippedRecord] = []
        else:
            classes = self._read_tables(tables)
            if not found:
                raise FileNotFoundError(f"{self.files.location} holds {_TABLE} and not one recording. {_WHERE}")
            folder = tables[0].rpartition("/")[0]
            entries = [
                # A record of the table that is not there is reported when it is read.
                {"record_id": name, "path": found.get(name, f"{folder}/{name}" if folder else name), "classes": labels}
                for name, labels in classes.items()
            ]
            unlabelled = [SkippedRecord(name, f"{_TABLE} does not name it.") for name in found if name not in classes]
        kept, left_out = split_by_list(
            self.name,
            ({**entry, "layout": layout, "patient_id": entry["record_id"]} for entry in entries),
            "train" if self.split_table else self.split_of_others,  # a table may name any record
        )
        if layout == "native":
            there = [entry for entry in kept if entry["record_id"] in found]
            notes += peak_notes(self._peaks_mv(there), "Check that these are CPSC2018's own files.")
        index = SourceIndex(pa.Table.from_pylist(kept, schema=_INDEX_SCHEMA), [*unlabelled, *left_out], notes)
        return with_split_table(index, self)

    def _peaks_mv(self, entries: Sequence[Mapping[str, Any]]) -> list[float]:
        """The largest deflections of some records from all over the table, without those that cannot be read."""
        rows = self.read(entries[:: max(1, len(entries) // _RECORDS_MEASURED)])
        peaks = (float(np.nanmax(np.abs(row["samples"]))) for row in rows if not isinstance(row, RecordError))
        return [peak for peak in peaks if peak > 0]

    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """See [`EcgSource`]."""
        return (f"{entry['path']}.mat",) if entry["layout"] == "native" else super().files_of(entry)

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`EcgSource`]."""
        if entry["layout"] == "physionet":
            return super().decode(entry, contents)
        record = decode_cpsc2018_mat(contents[f"{entry['path']}.mat"], entry["record_id"])
        classes = entry["classes"]
        record = replace(
            record,
            patient_id=entry["patient_id"],
            labels=tuple(SNOMED_OF_CLASS[name] for name in classes),
            attributes=self._attributes(classes, record.attributes),
        )
        return record_to_row(record, as_float=True)

    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """See [`WfdbSource`]."""
        spelled, _, attributes = interpret_comments(header.comments)
        codes = tidy_codes(spelled)
        if attributes.get("age") == _AGE_OVER_89:
            del attributes["age"]
        unknown = [code for code in codes if code not in CLASS_OF_SNOMED]
        if unknown or not codes:
            raise RecordError(
                entry["record_id"],
                f"its header names the diagnoses {unknown}, which are none of CPSC2018's nine classes."
                if unknown
                else "its header names no diagnosis.",
                "Use the folder cpsc_2018 of PhysioNet's challenge-2020 or challenge-2021, not cpsc_2018_extra.",
            )
        classes = _in_class_order(CLASS_OF_SNOMED[code] for code in codes)
        return None, [SNOMED_OF_CLASS[name] for name in classes], self._attributes(classes, attributes)

    @staticmethod
    def _attributes(classes: Sequence[str], described: Mapping[str, Any]) -> dict[str, Any]:
        return {"labels_cpsc2018": list(classes), "age": known_age(described.get("age")), "sex": described.get("sex")}

    def _layout(self, has_table: bool, has_headers: bool) -> str:
        if self.layout == "native" and not has_table:
            raise FileNotFoundError(f"There is no '{_TABLE}' in {self.files.location}. {_WHERE}")
        if self.layout == "physionet" and not has_headers:
            raise FileNotFoundError(f"There is no record such as 'A0001.hea' in {self.files.location}. {_WHERE}")
        if self.layout != "auto":
            return self.layout
        if has_table and has_headers:
            raise ValueError(
                f"{self.files.location} holds both {_TABLE} and WFDB headers; choose layout='native' or 'physionet'."
            )
        if not has_table and not has_headers:
            raise FileNotFoundError(
                f"There is neither '{_TABLE}' nor a record such as 'A0001.hea' in {self.files.location}. {_WHERE}"
            )
        return "native" if has_table else "physionet"

    def _read_tables(self, tables: Sequence[str]) -> dict[str, list[str]]:
        """Record -> classes of all tables; each training set may come with a copy of its own."""
        joined: dict[str, list[str]] = {}
        for path in tables:
            for record, classes in read_reference(self.files.read(path), f"{self.files.location}/{path}").items():
                if joined.setdefault(record, classes) != classes:
                    raise ValueError(
                        f"The tables {', '.join(tables)} in {self.files.location} give '{record}' different labels "
                        f"({joined[record]} and {classes}). Keep the one that came with the recordings."
                    )
        return dict(sorted(joined.items()))


def _with_training_sets(files: FileTree) -> FileTree:
    """The folder with the training sets in it that were not unpacked."""
    if not isinstance(files, LocalTree):
        return files
    paths = files.list_files()
    names = {path.rpartition("/")[2] for path in paths}
    archives: dict[str, FileTree] = {}
    for path in paths:
        if _TRAINING_SET.fullmatch(path.rpartition("/")[2]) is None:
            continue
        archive = open_archive(files.folder / path)
        inside = {member.rpartition("/")[2] for member in archive.list_files()}
        if not {name for name in inside if _RECORD_FILE.fullmatch(name)} <= names:  # else it has been unpacked
            archives[path] = archive
    return JoinedTree(files, archives) if archives else files


def read_reference(content: bytes, location: str) -> dict[str, list[str]]:
    """Record -> classes, in the order of the classes and each once, from `REFERENCE.csv`.

    Args:
        content (`bytes`): Of the table: `Recording` and up to three numbers of 1 to 9.
        location (`str`): What messages call the table.

    Raises:
        ValueError: If the table has other columns, names a record twice, or has a label outside 1 to 9.
    """
    check_rows(content, location, _WHERE)
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig", errors="replace")))
    if reader.fieldnames is None or list(reader.fieldnames) != _TABLE_COLUMNS:
        raise ValueError(f"{location} has the columns {reader.fieldnames} instead of {_TABLE_COLUMNS}. {_WHERE}")
    names = list(CPSC2018_CLASSES)
    classes: dict[str, list[str]] = {}
    for row in reader:
        record = row["Recording"]
        if _RECORD_FILE.fullmatch(f"{record}.mat") is None:
            raise ValueError(f"{location} names the record '{record}'; CPSC2018's are A0001 to A6877. {_WHERE}")
        if record in classes:
            raise ValueError(f"{location} names the record '{record}' twice. Keep the right row. {_WHERE}")
        numbers = [text.strip() for column in _TABLE_COLUMNS[1:] if (text := row[column] or "").strip()]
        wrong = [text for text in numbers if text not in "123456789" or len(text) != 1]
        if wrong or not numbers:
            problem = f"the label '{wrong[0]}'" if wrong else "no label"
            raise ValueError(f"{location} gives the record '{record}' {problem}; labels are 1 to 9. {_WHERE}")
        # One record of the published table has the same label twice.
        classes[record] = _in_class_order(names[int(text) - 1] for text in numbers)
    return classes


def _in_class_order(classes: Iterable[str]) -> list[str]:
    present = set(classes)
    return [name for name in CPSC2018_CLASSES if name in present]


SOURCE = Cpsc2018
