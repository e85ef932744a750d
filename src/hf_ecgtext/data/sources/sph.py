"""SPH (Liu et al. 2022): 25,770 12-lead ECGs of 10 to 56 s at 500 Hz with statements of AHA/ACC/HRS.

A record has several statements, each a code with modifiers: `60+310;147` is the statement 60 with the modifier 310, and
the statement 147. `code.csv` names both. The archive of the recordings is called `records.tar.gz` and is not
compressed.

Source: figshare 5779802; ECGBench (github.com/vlbthambawita/ECGBench, `sph.yaml` and its reader of the labels) for the
layout, the unit, the order of the leads and the statement that two records repeat.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, List, Value
from numpy.typing import NDArray

from hf_ecgtext.data.files.archives import open_archive
from hf_ecgtext.data.files.joined import JoinedTree
from hf_ecgtext.data.files.tree import FileTree, LocalTree
from hf_ecgtext.data.sources.base import EcgSource, SourceIndex
from hf_ecgtext.data.sources.options import skips_missing
from hf_ecgtext.data.sources.peaks import peak_notes
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import check_ids, files_named, only_file_named, read_csv_columns, records_by_name
from hf_ecgtext.data.store.schema import ecg_features, samples_to_row
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS

METADATA_FILE = "metadata.csv"
CODES_FILE = "code.csv"
SPLIT_FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
SAMPLING_RATE_HZ = 500.0

_ARCHIVES = ("records.tar.gz", "records.tar")
_RECORD_FILE = re.compile(r"(A\d{5})\.h5")
_ECG_DATASET = "ecg"
_MODIFIER = "Modifier"
"""The category of the codes that only qualify a statement."""
_RECORDS_ASKED = 64
"""Recordings that decide the median peak."""

_COLUMNS: dict[str, pa.DataType] = {
    "ECG_ID": pa.string(),
    "AHA_Code": pa.string(),
    "Patient_ID": pa.string(),
    "Age": pa.float64(),
    "Sex": pa.string(),
    "N": pa.int64(),
    "Date": pa.string(),
}
_WHERE = (
    "Download metadata.csv, code.csv and records.tar.gz from https://doi.org/10.6084/m9.figshare.c.5779802.v1 into one "
    "folder."
)


class Sph(EcgSource):
    """SPH. Needs the package h5py: `pip install "hf-ecgtext[code-test]"`.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: `metadata.csv`, `code.csv`, and beside them
            `records.tar.gz` or the unpacked folder `records`.
        missing (`str`, defaults to `"raise"`): `"skip"` leaves out the records whose file is not there. With `"raise"`,
            such a record is a fault.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of a hash of the patients
            (80:10:10); see [`~hf_ecgtext.data.sources.split_table.read_split_table`].

    Raises:
        ValueError: If an option has an impossible value.
        ArchiveError: If `records.tar.gz` is damaged.
    """

    name = "sph"
    title = "Shandong Provincial Hospital (SPH)"
    version = "1"
    license_id = "cc-by-4.0"
    homepage = "https://doi.org/10.6084/m9.figshare.c.5779802.v1"
    access = "Open to everybody, at figshare."
    citation = """@article{liu2022sph,
  author = {Liu, Hui and Chen, Dan and Chen, Da and Zhang, Xiyu and others},
  title = {A large-scale multi-label 12-lead electrocardiogram database with standardized diagnostic statements},
  journal = {Scientific Data}, volume = {9}, number = {272}, year = {2022}, doi = {10.1038/s41597-022-01403-5}
}"""
    description = (
        "`labels` holds the codes of the record's AHA/ACC/HRS statements, each once; 1 is a normal ECG. Their names "
        "are those of `code.csv`. `statements` has them as published, with their modifiers: `60+310` is the statement "
        "60, modified by 310. Recordings have 10 to 56 s. `date` is the day of the recording. The splits are by a hash "
        "of the patient (80:10:10); none are published."
    )

    def __init__(self, files: FileTree, *, missing: str = "raise", split_table: str | None = None):
        super().__init__(_with_archive(files), only_present=skips_missing(missing), split_table=split_table)

    @property
    def features(self) -> Features:
        """See [`EcgSource`]."""
        texts = {"sex": Value("string"), "date": Value("string")}
        return ecg_features({"statements": List(Value("string")), "age": Value("float64"), **texts})

    def tasks(self) -> tuple[LabelTask, ...]:
        """See [`EcgSource`]; the classes are the statements of `code.csv`, in its order."""
        codes = self._read_codes()
        names = {code: name for code, (category, name) in codes.items() if category != _MODIFIER}
        return (LabelTask("sph", "labels", names),)

    def index(self) -> SourceIndex:
        """See [`EcgSource`]; records are in the order of `metadata.csv`."""
        table = self._read_table(METADATA_FILE, _COLUMNS)
        check_ids(table.column("ECG_ID"), "ECG_ID", METADATA_FILE)
        names, patients = table.column("ECG_ID").to_pylist(), table.column("Patient_ID").to_pylist()
        if None in patients:
            raise ValueError(f"'{METADATA_FILE}' has no Patient_ID of '{names[patients.index(None)]}'. {_WHERE}")
        codes = self._read_codes()
        statements = [
            _statements(text or "", name, codes)
            for name, text in zip(names, table.column("AHA_Code").to_pylist(), strict=True)
        ]
        found = self._paths
        split_of_patient = {patient: split_of(patient, SPLIT_FRACTIONS, self.name) for patient in set(patients)}
        records = pa.table(
            {
                "record_id": table.column("ECG_ID"),
                "patient_id": table.column("Patient_ID"),
                "split": pa.array([split_of_patient[patient] for patient in patients], pa.string()),
                "num_samples": table.column("N"),
                # Two records have one statement twice ("1;1").
                "labels": pa.array(
                    [list(dict.fromkeys(text.split("+")[0] for text in texts)) for texts in statements],
                    pa.list_(pa.string()),
                ),
                "statements": pa.array(statements, pa.list_(pa.string())),
                "age": table.column("Age"),
                "sex": table.column("Sex"),
                "date": table.column("Date"),
            }
        )
        notes = []
        if strangers := len(found.keys() - set(names)):
            notes.append(f"{strangers:,} recordings are of records that {METADATA_FILE} does not name: left out.")
        is_there = pa.array([name in found for name in names], pa.bool_())
        there = records.filter(is_there)
        if self.options["only_present"] and len(there) < len(records):
            absent = len(records) - len(there)
            notes.append(f"{absent:,} of {len(names):,} records have no file here and are left out (missing=skip).")
            records = there
        # Evenly spaced; what cannot be read is named when all are read.
        asked = there.take(pa.array(range(0, len(there), max(1, len(there) // _RECORDS_ASKED)), pa.int64())).to_pylist()
        read = [row["samples"] for row in self.read_rows(asked) if not isinstance(row, RecordError)]
        peaks_mv = [float(np.nanmax(np.abs(samples))) for samples in read if not np.isnan(samples).all()]
        notes += peak_notes(peaks_mv, f"SPH's are mV. {_WHERE}")
        return with_split_table(SourceIndex(records.combine_chunks(), notes=notes), self)

    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """See [`EcgSource`]."""
        record = str(entry["record_id"])
        return (self._paths.get(record, f"records/{record}.h5"),)

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`EcgSource`].

        Raises:
            ImportError: If h5py is not installed.
        """
        record, (path,) = str(entry["record_id"]), self.files_of(entry)
        millivolts = _read_ecg(contents[path], record)
        expected = (len(STANDARD_LEADS), entry["num_samples"])
        if millivolts.shape != expected:
            raise RecordError(
                record,
                f"'{path}' holds '{_ECG_DATASET}' of shape {millivolts.shape}; {METADATA_FILE} says {expected}.",
                _WHERE,
            )
        if np.isinf(millivolts).any():
            raise RecordError(record, f"'{path}' holds infinite values.", _WHERE)
        return samples_to_row(
            millivolts,
            np.ones(len(millivolts)),
            np.zeros(len(millivolts), dtype=np.int32),
            record_id=record,
            patient_id=entry["patient_id"],
            sampling_rate_hz=SAMPLING_RATE_HZ,
            lead_names=STANDARD_LEADS,
            report=None,
            labels=entry["labels"],
            attributes={name: entry[name] for name in ("statements", "age", "sex", "date")},
        )

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Record -> path of its file; an unpacked one goes before the same in the archive.

        It is no column of the index: the data is the same, packed or not.
        """
        paths = self.files.list_files()
        packed = [path for path in paths if any(f"{name}/" in path for name in _ARCHIVES)]
        unpacked = sorted(set(paths) - set(packed))
        stems = records_by_name(packed, _RECORD_FILE, self.files.location)
        stems |= records_by_name(unpacked, _RECORD_FILE, self.files.location)
        if not stems:
            archive = next((found for name in _ARCHIVES for found in files_named(paths, name)), None)
            unpack = f"Unpack '{archive}' first: it lies inside an archive or behind an address. " if archive else ""
            raise FileNotFoundError(f"{self.files.location} holds {METADATA_FILE} and no recording. {unpack}{_WHERE}")
        return {name: f"{stem}.h5" for name, stem in stems.items()}

    def _read_codes(self) -> dict[str, tuple[str, str]]:
        """Code -> its category and name."""
        table = self._read_table(CODES_FILE, dict.fromkeys(("Category", "Code", "Description"), pa.string()))
        check_ids(table.column("Code"), "Code", CODES_FILE)
        for column in ("Category", "Description"):
            if table.column(column).null_count:
                code = table.filter(pc.is_null(table.column(column))).column("Code")[0]
                raise ValueError(f"'{CODES_FILE}' has no {column} of the code {code}. {_WHERE}")
        return {row["Code"]: (row["Category"], row["Description"]) for row in table.to_pylist()}

    def _read_table(self, name: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
        path = only_file_named(self.files.list_files(), name, self.files.location, _WHERE)
        return read_csv_columns(self.files, path, columns, self.homepage, self.version)


def _with_archive(files: FileTree) -> FileTree:
    """The folder with the recordings in it, if their archive was not unpacked."""
    if not isinstance(files, LocalTree):
        return files
    paths = files.list_files()
    unpacked = {path.rpartition("/")[2] for path in paths}
    archives: dict[str, FileTree] = {}
    for path in (found for name in _ARCHIVES for found in files_named(paths, name)):
        archive = open_archive(files.folder / path)
        inside = {member.rpartition("/")[2] for member in archive.list_files()}
        if not {name for name in inside if _RECORD_FILE.fullmatch(name)} <= unpacked:
            archives[path] = archive
    return JoinedTree(files, archives) if archives else files


def _statements(text: str, record: str, codes: Mapping[str, tuple[str, str]]) -> list[str]:
    """The statements of `60+310;147`, each as a code with its modifiers.

    Raises:
        ValueError: If there is none, or a code is not in `code.csv` as what it is used for.
    """
    statements = [statement.strip() for statement in text.split(";")]
    for statement in statements:
        code, *modifiers = statement.split("+")
        wrong = [code] if codes.get(code, (_MODIFIER,))[0] == _MODIFIER else []
        wrong += [modifier for modifier in modifiers if codes.get(modifier, ("",))[0] != _MODIFIER]
        if wrong:
            raise ValueError(
                f"'{METADATA_FILE}' gives '{record}' the statements '{text}', in which '{wrong[0]}' is no "
                f"{'statement' if wrong[0] == code else 'modifier'} that '{CODES_FILE}' names. {_WHERE}"
            )
    return statements


def _read_ecg(content: bytes, record: str) -> NDArray[np.float32]:
    """The recording in mV.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('Reading SPH needs h5py: pip install "hf-ecgtext[code-test]".') from error
    try:
        with h5py.File(io.BytesIO(content), "r") as opened:
            dataset = opened.get(_ECG_DATASET)
            kind = getattr(getattr(dataset, "dtype", None), "kind", None)
            if kind != "f":
                raise RecordError(record, f"its file has no dataset '{_ECG_DATASET}' of numbers.", _WHERE)
            return np.ascontiguousarray(dataset[()], dtype=np.float32)
    except OSError as error:
        raise RecordError(record, f"its file cannot be read as HDF5 ({error}).", _WHERE) from error


SOURCE = Sph
