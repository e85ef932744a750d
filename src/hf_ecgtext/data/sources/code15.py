"""CODE-15 % (Ribeiro et al. 2021): 345,779 12-lead ECGs of 233,770 patients at 400 Hz, with six diagnoses.

`exams.csv` names the exams in another order than the 18 HDF5 files hold them, so that both are joined by `exam_id`.
Each file ends in a row of zeros with the id 0, which is no exam. SaMi-Trop has the same files without ids; see
[`~hf_ecgtext.data.sources.sami_trop`], which shares this reader.

Source: Zenodo 4916206 and 4905618; ECGBench (github.com/vlbthambawita/ECGBench, `code15.yaml`) for counts, the row of
zeros and the unit.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Value
from numpy.typing import NDArray

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
from hf_ecgtext.data.sources.options import skips_missing
from hf_ecgtext.data.sources.peaks import peak_notes
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import check_ids, only_file_named, read_csv_columns
from hf_ecgtext.data.store.schema import ecg_features
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.errors import RecordError

EXAMS_FILE = "exams.csv"
SPLIT_FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
_NO_EXAM = 0
_RECORDS_ASKED = 256
"""Tracings that decide the order of the leads and the median peak."""

_ATTRIBUTES = ("age", "sex", "normal_ecg", "death", "followup_years", "nn_predicted_age")
_COLUMNS: dict[str, pa.DataType] = {
    "exam_id": pa.int64(),
    "age": pa.float64(),
    "is_male": pa.bool_(),
    "nn_predicted_age": pa.float64(),
    "death": pa.bool_(),
    "timey": pa.float64(),
    "normal_ecg": pa.bool_(),
}


class CodeExams(SourceWithLocalCopies):
    """What CODE-15 % and SaMi-Trop share: a table of exams, and tracings in HDF5 files.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: `exams.csv` and the unpacked HDF5 files.
        augmented_leads (`str`): `"auto"`: the fourth to sixth lead are what the signals say; or their names, such as
            `"aVR,aVL,aVF"`.
        units_per_mv (`float`, defaults to 1): What the stored numbers are divided by. The description's `1e-4 V` would
            be 10.
        missing (`str`, defaults to `"raise"`): `"skip"` leaves out the exams whose HDF5 file is not there, for a
            partial download. With `"raise"`, such an exam is a fault.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of a hash of the patients
            (80:10:10); see [`~hf_ecgtext.data.sources.split_table.read_split_table`].

    Raises:
        ValueError: If an option has an impossible value.
    """

    tracings_file: ClassVar[re.Pattern[str]]
    """Matches the names of the HDF5 files."""
    extra_columns: ClassVar[Mapping[str, pa.DataType]] = {}
    """Columns of `exams.csv` that only this dataset has."""
    where: ClassVar[str]
    """Where to get the download."""

    def __init__(
        self,
        files: FileTree,
        *,
        augmented_leads: str = "auto",
        units_per_mv: float = 1.0,
        missing: str = "raise",
        split_table: str | None = None,
    ):
        super().__init__(
            files,
            augmented_leads=augmented_leads,
            units_per_mv=units_per_mv,
            only_present=skips_missing(missing),
            split_table=split_table,
        )
        check_code_options(augmented_leads, units_per_mv)

    @property
    def features(self) -> Features:
        """See [`EcgSource`]."""
        return ecg_features(
            {
                "age": Value("float64"),
                "sex": Value("string"),
                "normal_ecg": Value("bool"),
                "death": Value("bool"),
                "followup_years": Value("float64"),
                "nn_predicted_age": Value("float64"),
                "content_start": Value("int32"),
                "content_end": Value("int32"),
            }
        )

    def exams_of_file(self, opened: Any, table: pa.Table, path: str) -> NDArray[np.int64]:
        """The exam of each row of an HDF5 file, `0` for a row that is none.

        Args:
            opened (`h5py.File`): The file.
            table (`pa.Table`): `exams.csv`.
            path (`str`): Of the file, for messages.

        Raises:
            ValueError: If the file does not say it.
        """
        ids = opened.get("exam_id")
        if ids is None or ids.shape != opened[TRACINGS_DATASET].shape[:1]:
            raise ValueError(f"'{path}' has no dataset 'exam_id' with one id per tracing. {self.where}")
        return np.asarray(ids[:], np.int64)

    def expected_file(self, table: pa.Table) -> list[str | None]:
        """The name of the HDF5 file that should hold each exam, where the table says it."""
        return [None] * len(table)

    def index(self) -> SourceIndex:
        """See [`EcgSource`]; exams are in the order of `exams.csv`."""
        paths = self.files.list_files()
        table_path = only_file_named(paths, EXAMS_FILE, self.files.location, self.where)
        table = read_csv_columns(
            self.files, table_path, {**_COLUMNS, **self.extra_columns}, self.homepage, self.version
        )
        check_ids(table.column("exam_id"), "exam_id", EXAMS_FILE)
        tracings = [path for path in paths if self.tracings_file.fullmatch(path.rpartition("/")[2])]
        if not tracings:
            packed = [path for path in paths if path.endswith(".zip")]
            unpack = f"Unpack {packed[0]} first: HDF5 cannot be read inside an archive in a folder. " if packed else ""
            raise FileNotFoundError(f"{self.files.location} holds {EXAMS_FILE} and no tracings. {unpack}{self.where}")

        place: dict[int, tuple[str, int]] = {}
        votes: Counter[tuple[str, ...]] = Counter()
        peaks_mv: list[float] = []
        for path in tracings:
            with self._open(path) as opened:
                exams = self.exams_of_file(opened, table, path)
                for row in np.flatnonzero(exams != _NO_EXAM).tolist():
                    exam = int(exams[row])
                    if place.setdefault(exam, (path, row)) != (path, row):
                        raise ValueError(
                            f"The exam {exam} is in '{place[exam][0]}' and again in '{path}'. {self.where}"
                        )
                counted, peaks = self._ask(opened[TRACINGS_DATASET], exams, -(-_RECORDS_ASKED // len(tracings)))
                votes.update(counted)
                peaks_mv += peaks
        leads, note = decide_lead_names(votes, self.options["augmented_leads"], len(peaks_mv), self.title)
        notes = [*peak_notes(peaks_mv, "Read the files with another units_per_mv."), note]
        return with_split_table(self._indexed(table, place, leads, notes), self)

    def _ask(self, tracings: Any, exams: NDArray[np.int64], count: int) -> tuple[Counter[tuple[str, ...]], list[float]]:
        """What some tracings of a file say about leads and unit."""
        rows = np.flatnonzero(exams != _NO_EXAM)
        rows = rows[:: max(1, len(rows) // count)]
        try:
            signals = tracings[rows].transpose(0, 2, 1) / self.options["units_per_mv"]  # (count, leads, samples), mV
        except OSError as error:
            raise ValueError(f"A file of {self.title} is damaged ({error}). {self.where}") from error
        return count_lead_orders(signals)

    def _indexed(
        self, table: pa.Table, place: Mapping[int, tuple[str, int]], leads: Sequence[str], notes: list[str]
    ) -> SourceIndex:
        exams = table.column("exam_id").to_pylist()
        if strangers := place.keys() - set(exams):
            notes.append(f"{len(strangers):,} tracings are of exams that {EXAMS_FILE} does not name: left out.")
        expected = self.expected_file(table)
        found = [place.get(exam, (name or "", -1)) for exam, name in zip(exams, expected, strict=True)]
        patients = [str(patient) for patient in self._patients(table)]
        split_of_patient = {patient: split_of(patient, SPLIT_FRACTIONS, self.name) for patient in set(patients)}
        labels = [
            [name for name in CODE_CLASSES if row.get(name)]
            for row in table.select([name for name in CODE_CLASSES if name in table.column_names]).to_pylist()
        ] or [[] for _ in exams]
        sex = pc.if_else(table.column("is_male"), "M", "F")
        records = pa.table(
            {
                "record_id": pa.array(map(str, exams), pa.string()),
                "patient_id": pa.array(patients, pa.string()),
                "split": pa.array((split_of_patient[patient] for patient in patients), pa.string()),
                "path": pa.array((path for path, _ in found), pa.string()),
                "row": pa.array((row for _, row in found), pa.int32()),
                "lead_names": pa.array([list(leads)] * len(exams), pa.list_(pa.string())),
                "labels": pa.array(labels, pa.list_(pa.string())),
                "age": table.column("age"),
                "sex": sex,
                "normal_ecg": table.column("normal_ecg"),
                "death": table.column("death"),
                "followup_years": table.column("timey"),
                "nn_predicted_age": table.column("nn_predicted_age"),
            }
        )
        if self.options["only_present"]:
            is_there = pc.greater_equal(records.column("row"), 0)
            absent = len(records) - pc.sum(is_there).as_py()
            records = records.filter(is_there)
            if absent:
                notes.append(
                    f"{absent:,} of {len(exams):,} exams have no tracing here and are left out (missing=skip)."
                )
        return SourceIndex(records.combine_chunks(), notes=notes)

    def _patients(self, table: pa.Table) -> list[int]:
        name = "patient_id" if "patient_id" in table.column_names else "exam_id"
        patients: list[int] = table.column(name).to_pylist()
        return patients

    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """See [`EcgSource`]: the one file with the exam's tracing and those of many others."""
        return (str(entry["path"]),)

    def read_rows(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any] | RecordError]:
        """See [`EcgSource`]; reads single rows, and each file once for all that are asked of it."""
        found: dict[int, dict[str, Any] | RecordError] = {}
        order = sorted(range(len(entries)), key=lambda number: (entries[number]["path"], entries[number]["row"]))
        for path, group in groupby(order, key=lambda number: str(entries[number]["path"])):
            numbers = list(group)
            found |= {number: self._absent(entries[number]) for number in numbers if entries[number]["row"] < 0}
            if rest := [number for number in numbers if entries[number]["row"] >= 0]:
                with self._open(path) as opened:
                    for number in rest:
                        try:
                            found[number] = self._row(entries[number], opened)
                        except RecordError as error:
                            found[number] = error
        yield from (found[number] for number in range(len(entries)))

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`EcgSource`]."""
        if entry["row"] < 0:
            raise self._absent(entry)
        path = str(entry["path"])
        with open_tracings(io.BytesIO(contents[path]), path, None, self.where) as opened:
            return self._row(entry, opened)

    def _absent(self, entry: Mapping[str, Any]) -> RecordError:
        expected = f"its file '{entry['path']}' is missing." if entry["path"] else "no file holds its tracing."
        return RecordError(str(entry["record_id"]), expected, f"Use missing=skip for a part. {self.where}")

    def _row(self, entry: Mapping[str, Any], opened: Any) -> dict[str, Any]:
        return tracing_to_row(entry, opened[TRACINGS_DATASET], self.options["units_per_mv"], _ATTRIBUTES, self.where)

    def _open(self, path: str) -> AbstractContextManager[Any]:
        local = self.local_file(path)
        return open_tracings(local, f"{self.files.location}/{path}", None, self.where)


UNIT_IS_DISPUTED = (
    "**The unit is disputed.** The description says `1e-4 V`; the numbers are stored as millivolts (`units_per_mv=1`), "
    "as in CODE-test: a tenth of them would be far too small, and they are rather large themselves. The median peak is "
    "noted below."
)


class Code15(CodeExams):
    """CODE-15 %: a seventh of the CODE study. Needs the package h5py: `pip install "hf-ecgtext[code-test]"`.

    See [`CodeExams`] for the options.
    """

    name = "code15"
    unlabelled_take_part = True  # about half of the exams have none of the six
    title = "CODE-15 %"
    version = "1.0.0"
    license_id = "cc-by-4.0"
    homepage = "https://zenodo.org/records/4916206"
    access = "Open to everybody, at Zenodo; CODE-test's patients are none of its own."
    citation = """@dataset{ribeiro2021code15,
  author = {Ribeiro, Ant{\\^o}nio H. and Paix{\\~a}o, Gabriela M. M. and Lima, Emilly M. and others},
  title = {{CODE}-15\\%: a large scale annotated dataset of 12-lead {ECGs}},
  publisher = {Zenodo}, year = {2021}, doi = {10.5281/zenodo.4916206}
}"""
    description = (
        "345,779 exams of 233,770 patients; `record_id` is the `exam_id`. `labels`: six diagnoses, none for about half "
        "of the exams; `normal_ecg` marks 134,657 that were called normal. `death`, `followup_years` (the published "
        "`timey`) and `nn_predicted_age` as published. Tracings of 7 or 10 s are padded with zeros to 4,096 "
        "samples at 400 Hz and stored so; samples from `content_start` to `content_end` (not included) are the "
        "recording. The splits are by a hash of the patient (80:10:10); none are published.\n\n" + UNIT_IS_DISPUTED
    )
    tracings_file = re.compile(r"exams_part\d+\.hdf5")
    extra_columns: ClassVar[Mapping[str, pa.DataType]] = {
        "patient_id": pa.int64(),
        "trace_file": pa.string(),
        **dict.fromkeys(CODE_CLASSES, pa.bool_()),
    }
    where = (
        "Download exams.csv and exams_part0.zip to exams_part17.zip from https://zenodo.org/records/4916206 and unpack "
        "the archives beside the table."
    )

    def tasks(self) -> tuple[LabelTask, ...]:
        """See [`EcgSource`]."""
        return (LabelTask("code15", "labels", dict(CODE_CLASSES)),)

    def expected_file(self, table: pa.Table) -> list[str | None]:
        """See [`CodeExams`]: the column `trace_file`."""
        names: list[str | None] = table.column("trace_file").to_pylist()
        return names


SOURCE = Code15
