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
import math
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from numpy.typing import NDArray

from hf_ecgtext.data.bad_records import no_valid_sample
from hf_ecgtext.data.files.tree import FileTree
from hf_ecgtext.data.records import has_valid_sample
from hf_ecgtext.data.sources.base import EcgSource, SourceIndex
from hf_ecgtext.data.sources.peaks import peak_notes
from hf_ecgtext.data.sources.tables import only_file_named
from hf_ecgtext.data.store.schema import ecg_features, samples_to_row
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.limb_lead_order import AUGMENTED_LEADS, augmented_lead_permutations

CODE_TEST_CLASSES: dict[str, str] = {
    "1dAVb": "first-degree atrioventricular block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "AF": "atrial fibrillation",
    "ST": "sinus tachycardia",
}
"""Class -> its name in words, in the order of the tables."""

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
TRACINGS_DATASET = "tracings"
NUM_RECORDS = 827
TRACINGS_SHAPE = (NUM_RECORDS, 4096, len(STANDARD_LEADS))  # (records, samples, leads)
SAMPLING_RATE_HZ = 400.0

AUGMENTED_ORDERS = tuple(",".join(order) for order in permutations(AUGMENTED_LEADS))
_FIRST_AUGMENTED = STANDARD_LEADS.index(AUGMENTED_LEADS[0])
_FEWEST_DECIDED = 10
_SMALLEST_SHARE = 0.95
"""Of the records that decide, how many must say the same order; a record read with the wrong one almost never does."""

_WHERE = "Download data.zip from https://zenodo.org/records/3765780 and name it, or its folder."

_LABEL_COLUMNS = ("labels", *(f"labels_{annotator}" for annotator in OTHER_ANNOTATORS))
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


class CodeTest(EcgSource):
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
        if not 0 < units_per_mv < math.inf:
            raise ValueError(f"units_per_mv must be positive, such as 1 or 10, not {units_per_mv}.")
        if augmented_leads != "auto" and augmented_leads not in AUGMENTED_ORDERS:
            known = ", ".join(f"'{order}'" for order in ("auto", *AUGMENTED_ORDERS))
            raise ValueError(f"augmented_leads is '{augmented_leads}'; choose one of {known}.")
        self.augmented_leads = augmented_leads
        self.units_per_mv = units_per_mv
        self._scratch: Path | None = None

    @classmethod
    def warning_about(cls, options: Mapping[str, Any]) -> str | None:
        """See [`EcgSource`]."""
        if "units_per_mv" in options:
            return None
        return (
            "it was prepared by a version that took CODE-test's numbers for 0.1 mV: its signals are a tenth of what "
            "they should be. Prepare it again."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scratch": None}  # every process copies the file for itself where it must

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
        with open_tracings(self._local(tracings), f"{self.files.location}/{tracings}") as dataset:
            order, notes = self._decide_leads(dataset)
        leads = (*STANDARD_LEADS[:_FIRST_AUGMENTED], *order, *STANDARD_LEADS[_FIRST_AUGMENTED + len(order) :])
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
        with open_tracings(self._local(path), f"{self.files.location}/{path}") as dataset:
            for entry in entries:
                try:
                    yield _row(entry, dataset, self.units_per_mv)
                except RecordError as error:
                    yield error

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`EcgSource`]."""
        path = str(entry["path"])
        with open_tracings(io.BytesIO(contents[path]), f"{self.files.location}/{path}") as dataset:
            return _row(entry, dataset, self.units_per_mv)

    def _local(self, path: str) -> Path:
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="hf_ecgtext_code_test_"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self.files.local_file(path, self._scratch)

    def _find(self, paths: Sequence[str], file_name: str) -> str:
        return only_file_named(paths, file_name, self.files.location, _WHERE)

    def _table(self, paths: Sequence[str], file_name: str) -> tuple[bytes, str]:
        path = self._find(paths, file_name)
        return self.files.read(path), f"{self.files.location}/{path}"

    def _decide_leads(self, dataset: Any) -> tuple[tuple[str, ...], list[str]]:
        """The augmented leads in the order of the file, and what the user should know about it."""
        votes, peaks_mv = count_lead_orders(dataset, self.units_per_mv)
        num_decided = votes.total()
        ranking = "; ".join(f"{', '.join(order)}: {count}" for order, count in votes.most_common())
        found = f"{num_decided} of {NUM_RECORDS} records decide the order of the augmented leads ({ranking or 'none'})"
        notes = peak_notes(peaks_mv, "Read the file with another units_per_mv.")
        if self.augmented_leads != "auto":
            order = tuple(self.augmented_leads.split(","))
            return order, [*notes, f"The augmented leads are {', '.join(order)} as the option says; {found}."]
        if num_decided < _FEWEST_DECIDED or votes.most_common(1)[0][1] < _SMALLEST_SHARE * num_decided:
            raise ValueError(
                f"The signals of {TRACINGS_FILE} do not say which lead is which: {found}. Download the file again, or "
                f"give the order as augmented_leads='aVL,aVF,aVR'."
            )
        order = votes.most_common(1)[0][0]
        return order, [*notes, f"The augmented leads are {', '.join(order)}: {found}."]


@contextmanager
def open_tracings(file: Path | io.BytesIO, location: str) -> Iterator[Any]:
    """The dataset of the tracings, opened and checked.

    Args:
        file (`Path` or `io.BytesIO`): The HDF5 file.
        location (`str`): What messages call it.

    Raises:
        ImportError: If h5py is not installed.
        ValueError: If the file is damaged, or holds no dataset `tracings` of 827 x 4096 x 12 numbers.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('Reading CODE-test needs h5py: pip install "hf-ecgtext[code-test]".') from error
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{location} cannot be read as HDF5 ({error}). {_WHERE}") from error
    with opened:
        dataset = opened.get(TRACINGS_DATASET)
        shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
        if shape != TRACINGS_SHAPE or dtype is None or dtype.kind != "f":
            raise ValueError(
                f"{location} holds '{TRACINGS_DATASET}' of shape {shape} and type {dtype}; expected "
                f"{TRACINGS_SHAPE} floating point numbers. {_WHERE}"
            )
        yield dataset


def count_lead_orders(dataset: Any, units_per_mv: float) -> tuple[Counter[tuple[str, ...]], list[float]]:
    """How many records say which order of the augmented leads, by Goldberger's identities.

    Args:
        dataset (`h5py.Dataset` of shape `(827, 4096, 12)`): As stored.
        units_per_mv (`float`): What the stored numbers are divided by.

    Returns:
        `tuple` of the counts, without the records that decide nothing, and the largest deflection of each record that
        is not empty, in mV.

    Raises:
        ValueError: If the file is damaged.
    """
    votes: Counter[tuple[str, ...]] = Counter()
    peaks_mv: list[float] = []
    block = 64
    for start in range(0, NUM_RECORDS, block):
        try:
            signals = (
                dataset[start : start + block].transpose(0, 2, 1) / units_per_mv
            )  # (block, num_leads, num_samples)
        except OSError as error:
            raise ValueError(f"{TRACINGS_FILE} is damaged at row {start} or after it ({error}). {_WHERE}") from error
        signals = signals[np.isfinite(signals).all(axis=(1, 2))]
        peaks_mv.extend(peak for peak in np.abs(signals).max(axis=(1, 2)).tolist() if peak)
        rows, orders, decided = augmented_lead_permutations(signals, STANDARD_LEADS)
        votes.update(tuple(STANDARD_LEADS[row] for row in rows[order]) for order in orders[decided])
    return votes, peaks_mv


def _row(entry: Mapping[str, Any], dataset: Any, units_per_mv: float) -> dict[str, Any]:
    record = str(entry["record_id"])
    try:
        units: NDArray[np.floating] = dataset[entry["row"]]  # (num_samples, num_leads)
    except OSError as error:
        raise RecordError(record, f"its row of {TRACINGS_FILE} cannot be read ({error}).", _WHERE) from error
    if np.isinf(units).any():
        raise RecordError(record, "its tracing holds infinite values.", _WHERE)
    content = np.flatnonzero((units != 0).any(axis=1))
    if not content.size:
        raise RecordError(record, "its tracing holds nothing but zeros.", _WHERE)
    if not has_valid_sample(units[content[0] : content[-1] + 1]):  # the zeros around it are padding
        raise no_valid_sample(record)
    millivolts = (units.T.astype(np.float64) / units_per_mv).astype(np.float32)
    return samples_to_row(
        np.ascontiguousarray(millivolts),
        np.ones(len(millivolts)),
        np.zeros(len(millivolts), dtype=np.int32),
        record_id=record,
        patient_id=entry["patient_id"],
        sampling_rate_hz=SAMPLING_RATE_HZ,
        lead_names=entry["lead_names"],
        report=None,
        labels=entry["labels"],
        attributes={
            **{name: entry[name] for name in (*_LABEL_COLUMNS[1:], "age", "sex")},
            "content_start": int(content[0]),
            "content_end": int(content[-1]) + 1,
        },
    )


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
