"""CODE-test (Ribeiro et al. 2020): 827 12-lead ECGs at 400 Hz, with the annotations of people and of a network.

Its files are aligned by nothing but the row: tracing `i` of the HDF5 file is row `i` of every table. All must therefore
have 827 rows. The numbers are millivolts, although the description says `1e-4 V`: the median record's largest
deflection is 3.51, and the R wave of lead II 1.48. Two orders of the augmented leads are documented for the same file
(aVL, aVF, aVR by its own description, aVR, aVL, aVF by the code's), so that the signal decides: leads I and II
determine the other limb leads.

Source: ECGBench (github.com/vlbthambawita/ECGBench, `code_test.yaml`) for peak and R wave of the checksummed file;
issue 3 of github.com/antonior92/automatic-ecg-diagnosis, where the author says that the network wants millivolts.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, List, Value

from hf_ecgtext.data.files.tree import FileTree
from hf_ecgtext.data.sources.base import SourceIndex
from hf_ecgtext.data.sources.code_tracings import (
    CODE_CLASSES,
    TRACINGS_DATASET,
    check_code_options,
    count_lead_orders,
    decide_lead_names,
    open_tracings,
    tracing_to_row,
)
from hf_ecgtext.data.sources.local_copies import SourceWithLocalCopies
from hf_ecgtext.data.sources.peaks import peak_notes
from hf_ecgtext.data.sources.tables import only_file_named
from hf_ecgtext.data.store.schema import ecg_features
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.errors import RecordError

CODE_TEST_CLASSES = CODE_CLASSES

OTHER_ANNOTATORS = (
    "cardiologist1",
    "cardiologist2",
    "cardiology_residents",
    "emergency_residents",
    "medical_students",
    "dnn",
)
"""Tables beside `gold_standard`; each becomes a column `labels_<annotator>`."""

TRACINGS_FILE = "ecg_tracings.hdf5"
NUM_RECORDS = 827
_BLOCK = 64

_WHERE = "Download data.zip from https://zenodo.org/records/3765780 and name it, or its folder."

_LABEL_COLUMNS = ("labels", *(f"labels_{annotator}" for annotator in OTHER_ANNOTATORS))
_ATTRIBUTES = (*_LABEL_COLUMNS[1:], "age", "sex")
_INDEX_SCHEMA = pa.schema(
    {
        "record_id": pa.string(),
        "patient_id": pa.string(),
        "split": pa.string(),
        "path": pa.string(),
        "row": pa.int32(),
        "lead_names": pa.list_(pa.string()),
        "age": pa.float64(),
        "sex": pa.string(),
        **{name: pa.list_(pa.string()) for name in _LABEL_COLUMNS},
    }
)


class CodeTest(SourceWithLocalCopies):
    """CODE-test, a test set only. Needs the package h5py: `pip install "hf-ecgtext[code-test]"`.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: `ecg_tracings.hdf5`, `attributes.csv` and
            `annotations`, in any folder.
        augmented_leads (`str`): `"auto"`: the fourth to sixth lead are what the signals say; or their names, such as
            `"aVL,aVF,aVR"`.
        units_per_mv (`float`, defaults to 1): What the stored numbers are divided by. The description's `1e-4 V` would
            be 10.

    Raises:
        ValueError: If an option has another value.
    """

    name = "code_test"
    unlabelled_take_part = True  # annotators answered yes or no to each of the six
    title = "CODE-test"
    version = "1.0.3"
    license_id = "cc-by-4.0"
    homepage = "https://zenodo.org/records/3765780"
    access = "Open to everybody, at Zenodo."
    citation = """@article{ribeiro2020automatic,
  author = {Ribeiro, Ant{\\^o}nio H. and Ribeiro, Manoel Horta and Paix{\\~a}o, Gabriela M. M. and others},
  title = {Automatic diagnosis of the 12-lead {ECG} using a deep neural network},
  journal = {Nature Communications}, volume = {11}, pages = {1760}, year = {2020},
  doi = {10.1038/s41467-020-15432-4}
}"""
    description = (
        "`record_id` is the row of the tracing, from `000` to `826`; no other id is published, and each tracing is of "
        "another patient. `labels` is the gold standard (two cardiologists, a third where they disagreed); "
        "`labels_cardiologist1`, `labels_cardiologist2`, `labels_cardiology_residents`, `labels_emergency_residents`, "
        "`labels_medical_students` and `labels_dnn` are the other annotations, all 0/1 decisions. Tracings of 7 or 10 "
        "s are padded with zeros to 4,096 samples at 400 Hz and stored so; samples from `content_start` to "
        "`content_end` (not included) are the recording. There is only a test split.\n\n"
        "**The unit is disputed.** The description says `1e-4 V`, which would make the signals ten times smaller: the "
        "median record's largest deflection would be 0.35 mV. Taken as millivolts they give 3.5 mV, rather large, and "
        "the authors ask for millivolts where they explain their network. So they are stored as millivolts "
        "(`units_per_mv=1`; the median peak of the file is noted below). A scale that depends on each recording, such "
        "as its own minimum and maximum, does not change; millivolts, plots and intervals do."
    )

    def __init__(self, files: FileTree, *, augmented_leads: str = "auto", units_per_mv: float = 1.0):
        super().__init__(files, augmented_leads=augmented_leads, units_per_mv=units_per_mv)
        check_code_options(augmented_leads, units_per_mv)
        self.augmented_leads = augmented_leads
        self.units_per_mv = units_per_mv

    @classmethod
    def warning_about(cls, options: Mapping[str, Any]) -> str | None:
        """See [`EcgSource`]."""
        if "units_per_mv" in options:
            return None
        return (
            "it was prepared by a version that took CODE-test's numbers for 0.1 mV: its signals are a tenth of what "
            "they should be. Prepare it again."
        )

    @property
    def features(self) -> Features:
        """See [`EcgSource`]."""
        return ecg_features(
            {
                **{name: List(Value("string")) for name in _LABEL_COLUMNS[1:]},
                "age": Value("float64"),
                "sex": Value("string"),
                "content_start": Value("int32"),
                "content_end": Value("int32"),
            }
        )

    def tasks(self) -> tuple[LabelTask, ...]:
        """See [`EcgSource`]."""
        return (LabelTask("code_test", "labels", dict(CODE_TEST_CLASSES)),)

    def index(self) -> SourceIndex:
        """See [`EcgSource`]."""
        paths = self.files.list_files()
        tracings = self._find(paths, TRACINGS_FILE)
        tables = {
            column: read_annotations(*self._table(paths, f"{annotator}.csv"))
            for column, annotator in zip(_LABEL_COLUMNS, ("gold_standard", *OTHER_ANNOTATORS), strict=True)
        }
        people = read_attributes(*self._table(paths, "attributes.csv"))
        with self._open(self.local_file(tracings), tracings) as opened:
            leads, notes = self._decide_leads(opened[TRACINGS_DATASET])
        entries = [
            {
                "record_id": f"{row:03d}",
                "patient_id": f"{row:03d}",
                "split": "test",
                "path": tracings,
                "row": row,
                "lead_names": leads,
                **people[row],
                **{column: table[row] for column, table in tables.items()},
            }
            for row in range(NUM_RECORDS)
        ]
        notes.insert(0, f"Tracings, annotations and attributes are aligned by row; all have {NUM_RECORDS}.")
        return SourceIndex(pa.Table.from_pylist(entries, schema=_INDEX_SCHEMA), notes=notes)

    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """See [`EcgSource`]: the one file of all records."""
        return (str(entry["path"]),)

    def read_rows(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any] | RecordError]:
        """See [`EcgSource`]; reads single rows of the one file, and never the whole."""
        if not entries:
            return
        path = str(entries[0]["path"])
        with self._open(self.local_file(path), path) as opened:
            for entry in entries:
                try:
                    yield self._row(entry, opened)
                except RecordError as error:
                    yield error

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`EcgSource`]."""
        path = str(entry["path"])
        with self._open(io.BytesIO(contents[path]), path) as opened:
            return self._row(entry, opened)

    def _open(self, file: Path | io.BytesIO, path: str) -> AbstractContextManager[Any]:
        return open_tracings(file, f"{self.files.location}/{path}", NUM_RECORDS, _WHERE)

    def _row(self, entry: Mapping[str, Any], opened: Any) -> dict[str, Any]:
        return tracing_to_row(entry, opened[TRACINGS_DATASET], self.units_per_mv, _ATTRIBUTES, _WHERE)

    def _find(self, paths: Sequence[str], file_name: str) -> str:
        return only_file_named(paths, file_name, self.files.location, _WHERE)

    def _table(self, paths: Sequence[str], file_name: str) -> tuple[bytes, str]:
        path = self._find(paths, file_name)
        return self.files.read(path), f"{self.files.location}/{path}"

    def _decide_leads(self, tracings: Any) -> tuple[tuple[str, ...], list[str]]:
        """The leads in the order of the file, and what the user should know about them and the unit."""
        votes: Counter[tuple[str, ...]] = Counter()
        peaks_mv: list[float] = []
        for start in range(0, NUM_RECORDS, _BLOCK):
            try:
                signals = tracings[start : start + _BLOCK].transpose(0, 2, 1) / self.units_per_mv
            except OSError as error:
                raise ValueError(
                    f"{TRACINGS_FILE} is damaged at row {start} or after it ({error}). {_WHERE}"
                ) from error
            of_block, peaks_of_block = count_lead_orders(signals)
            votes.update(of_block)
            peaks_mv += peaks_of_block
        leads, note = decide_lead_names(votes, self.augmented_leads, NUM_RECORDS, TRACINGS_FILE)
        return leads, [*peak_notes(peaks_mv, "Read the file with another units_per_mv."), note]


def read_annotations(content: bytes, location: str) -> list[list[str]]:
    """The classes of each row of one annotator's table.

    Args:
        content (`bytes`): Of the csv file: one 0/1 column per class; `dnn.csv` has the row number before them.
        location (`str`): What messages call the table.

    Raises:
        ValueError: If the table has other columns, other values, row numbers out of order or not 827 rows.
    """
    header, rows = _csv_rows(content, location)
    names = list(CODE_TEST_CLASSES)
    if header not in (names, ["", *names]):
        raise ValueError(f"{location} has the columns {header} instead of {names}. {_WHERE}")
    labels: list[list[str]] = []
    for number, fields in enumerate(rows):
        values = fields[len(header) - len(names) :]
        if set(values) - {"0", "1"}:
            raise ValueError(f"{location} has the values {values} in row {number}; expected 0 or 1. {_WHERE}")
        if len(header) > len(names) and fields[0] != str(number):
            raise ValueError(f"{location} says '{fields[0]}' in row {number}: its rows are out of order. {_WHERE}")
        labels.append([name for name, value in zip(names, values, strict=True) if value == "1"])
    return labels


def read_attributes(content: bytes, location: str) -> list[dict[str, Any]]:
    """`age` (years) and `sex` (`"M"` or `"F"`) of each row.

    Raises:
        ValueError: If the table has other columns, other values or not 827 rows.
    """
    header, rows = _csv_rows(content, location)
    if header != ["age", "sex"]:
        raise ValueError(f"{location} has the columns {header} instead of ['age', 'sex']. {_WHERE}")
    for number, (age, sex) in enumerate(rows):
        if not age.isdecimal() or sex not in ("M", "F"):
            raise ValueError(f"{location} has age '{age}' and sex '{sex}' in row {number}. {_WHERE}")
    return [{"age": float(age), "sex": sex} for age, sex in rows]


def _csv_rows(content: bytes, location: str) -> tuple[list[str], list[list[str]]]:
    header, *rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"))) if row] or [
        []
    ]
    if len(rows) != NUM_RECORDS:
        raise ValueError(f"{location} has {len(rows)} rows; CODE-test has {NUM_RECORDS}, one per tracing. {_WHERE}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"{location} has {len(row)} values in row {number} instead of {len(header)}. {_WHERE}")
    return header, rows


SOURCE = CodeTest
