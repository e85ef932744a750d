"""MIMIC-IV-ECG (Gow et al. 2023): 800,035 ECGs of 10 s from 161,352 patients, with the reports of the carts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Value
from numpy.typing import NDArray

from hf_ecgtext.data.files.tree import FileTree, find_root
from hf_ecgtext.data.records import INVALID_SAMPLE
from hf_ecgtext.data.report_cleaning import clean_mimic_report
from hf_ecgtext.data.sources.base import SkippedRecord, SourceIndex, WfdbSource
from hf_ecgtext.data.sources.mimic_icd import ICD_COLUMNS, with_icd_codes
from hf_ecgtext.data.sources.options import skips_missing
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import check_ids, check_paths, keep_present, read_csv_columns, rows_of
from hf_ecgtext.data.store.schema import ecg_features
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.header import WfdbHeader
from hf_ecgtext.data.wfdb.reading import interpret_comments
from hf_ecgtext.errors import RecordError

RECORDS_FILE = "record_list.csv"
MEASUREMENTS_FILE = "machine_measurements.csv"
NOTES_FILE = "waveform_note_links.csv"

TIMES_MS = ("rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end")
AXES_DEG = ("p_axis", "qrs_axis", "t_axis")

MIMIC_IV_ECG_FEATURES = ecg_features(
    {
        "report_cleaned": Value("string"),
        "study_id": Value("int64"),
        "ecg_time": Value("string"),
        "note_id": Value("string"),
        "bandwidth": Value("string"),
        "filtering": Value("string"),
        **{name: Value("int32") for name in (*TIMES_MS, *AXES_DEG)},
    }
)
"""`report` holds the statements as they are; the times are in ms from the record's start (`rr_interval`: between two
R waves), the axes in degrees."""

_WITH_ICD = Features({**MIMIC_IV_ECG_FEATURES, **ICD_COLUMNS})
_NUM_COMMON = len(ecg_features({}))
_REPORTS = tuple(f"report_{number}" for number in range(18))
_RECORD_COLUMNS = {"subject_id": pa.int64(), "study_id": pa.int64(), "ecg_time": pa.string(), "path": pa.string()}
_MEASUREMENT_COLUMNS = {
    "subject_id": pa.int64(),
    "study_id": pa.int64(),
    **dict.fromkeys((*_REPORTS, "bandwidth", "filtering"), pa.string()),
    **dict.fromkeys((*TIMES_MS, *AXES_DEG), pa.int64()),
}
_NOTE_COLUMNS = {"study_id": pa.int64(), "note_id": pa.string()}
_DEMO_RECORDS = 659
_LIMIT_MS = 10_000
_LIMIT_DEG = 360


class MimicIvEcg(WfdbSource):
    """The original download of MIMIC-IV-ECG 1.0.

    `record_list.csv` and `machine_measurements.csv` are joined by `study_id`, never by row. Train, validation and test
    are drawn by a hash of the subject: no subject is in two of them.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: the tables, and the folder `files`; they may lie
            in a folder below, as in PhysioNet's archives.
        min_words (`int`, defaults to 4): Leave out records whose report has fewer words, counted as MERL counts them:
            of the joined statements without the ornaments at both ends. 4 is the rule of MERL and DERI, of whom MERL
            states 771,693 records; 1 leaves out the one empty report only; 0 keeps all.
        drop_nan (`bool`, defaults to `False`): Skip the 10,554 records with missing samples instead of storing them;
            the processor repairs them. With `min_words=1`, C-MELT's description, 789,480 records remain by public
            counts, not the 779,891 that its paper states; nobody has said which others it leaves out.
        validation_fraction, test_fraction (`float`, defaults to 0.01): Shares of the subjects. The references hold out
            2 % of the records for validation, patients shared with training, and have no test split.
        split_seed (`int`, defaults to 0): Another seed draws other subjects.
        missing (`str`, defaults to `"raise"`): `"skip"` leaves out the records whose files are not there, for a partial
            download; the folder `files` is listed once for that. With `"raise"`, such a record is a fault.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of the draw: ECG-FM's
            `meta_split.csv`, Ext-ICD's `records_w_diag_icd10.csv`, or one's own; see
            [`~hf_ecgtext.data.sources.split_table.read_split_table`].
        icd_table (`str`, *optional*): Path of `records_w_diag_icd10.csv` of MIMIC-IV-ECG-Ext-ICD, for columns of ICD-10
            codes, age and gender; see [`~hf_ecgtext.data.sources.mimic_icd.with_icd_codes`].

    The open demo (mimic-iv-ecg-demo 0.1, 659 records) comes without reports and is read without.

    Source: https://physionet.org/content/mimic-iv-ecg/1.0/; the rules are those of MERL's pre-processing notebook and
    of C-MELT's appendix; ECGBench (github.com/vlbthambawita/ECGBench) for the counts of missing samples and reports.
    """

    name = "mimic_iv_ecg"
    title = "MIMIC-IV-ECG"
    version = "1.0"
    license_id = "odbl"
    homepage = "https://physionet.org/content/mimic-iv-ecg/1.0/"
    access = "Open access for everyone at https://physionet.org/content/mimic-iv-ecg/1.0/, under the ODbL 1.0."
    citation = """@misc{gow2023mimicivecg,
  author = {Gow, Brian and Pollard, Tom and Nathanson, Larry A. and Johnson, Alistair and Moody, Benjamin and
            Fernandes, Chrystinne and Greenbaum, Nathaniel and Waks, Jonathan W. and Eslami, Parastou and
            Carbonati, Tanner and Chaudhari, Ashish and Herbst, Elizabeth and Moukheiber, Dana and Berkowitz, Seth and
            Mark, Roger and Horng, Steven},
  title = {{MIMIC-IV-ECG}: Diagnostic Electrocardiogram Matched Subset (version 1.0)},
  publisher = {PhysioNet}, year = {2023}, doi = {10.13026/4nqg-sb35}
}"""
    description = """Diagnostic 12-lead ECGs of 10 s at 500 Hz, stored as the integers of the original files, in their
own order of leads: aVF before aVL. Read leads by name.

* `report`: the statements that the cart printed, joined by ". ", as they are; no cardiologist confirmed them.
  `report_cleaned`: the same as MERL and DERI read it, in lower case and without ornaments.
* `study_id`, `ecg_time`, `note_id` (the cardiologist's note in MIMIC-IV-Note, where there is one) and `patient_id`
  (the `subject_id`) join MIMIC-IV's other modules. Dates are shifted per patient.
* `bandwidth`, `filtering`; `rr_interval`, `p_onset`, `p_end`, `qrs_onset`, `qrs_end`, `t_end` in ms, `p_axis`,
  `qrs_axis`, `t_axis` in degrees, as the cart measured them; null where the table holds a value that no record of 10 s
  can have (outside 0 to 10,000 ms and -360 to 360 degrees).

Train, validation and test are drawn by a hash of the subject: no subject is in two of them."""
    signal_suffix = ".dat"

    def __init__(
        self,
        files: FileTree,
        *,
        min_words: int = 4,
        drop_nan: bool = False,
        validation_fraction: float = 0.01,
        test_fraction: float = 0.01,
        split_seed: int = 0,
        missing: str = "raise",
        split_table: str | None = None,
        icd_table: str | None = None,
    ):
        if min_words < 0:
            raise ValueError(f"min_words must be 0 or more, not {min_words}.")
        if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
            raise ValueError(
                "validation_fraction and test_fraction must be 0 or more and add up to less than 1, not "
                f"{validation_fraction} and {test_fraction}."
            )
        super().__init__(
            find_root(files, (RECORDS_FILE, MEASUREMENTS_FILE)),
            min_words=min_words,
            drop_nan=drop_nan,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            only_present=skips_missing(missing),
            split_table=split_table,
            # Without one, folders and revisions stay what they were before there was this option.
            **({} if icd_table is None else {"icd_table": icd_table}),
        )

    @property
    def features(self) -> Features:
        """See [`MIMIC_IV_ECG_FEATURES`]; with an ICD table also [`~hf_ecgtext.data.sources.mimic_icd.ICD_COLUMNS`]."""
        return _WITH_ICD if "icd_table" in self.options else MIMIC_IV_ECG_FEATURES

    def tasks(self) -> tuple[LabelTask, ...]:
        """None: MIMIC-IV-ECG has reports, but no labels; the ICD codes are columns only."""
        return ()

    def index(self) -> SourceIndex:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]; records are in the order of `record_list.csv`."""
        records = self._table(RECORDS_FILE, _RECORD_COLUMNS)
        check_paths(records.column("path"), RECORDS_FILE)
        left_out: list[SkippedRecord] = []
        notes: list[str] = []
        machine = self._measurements(records, notes)
        min_words = self.options["min_words"] if machine is not None else 0
        if machine is None:
            machine = _no_measurements(records)

        rows = rows_of(machine.column("study_id"), records.column("study_id"))
        left_out += _without_partner(records.filter(rows < 0), MEASUREMENTS_FILE)
        without_path = rows_of(records.column("study_id"), machine.column("study_id")) < 0
        left_out += _without_partner(machine.filter(without_path), RECORDS_FILE)
        records, machine = records.filter(rows >= 0), machine.take(rows[rows >= 0])
        _check_same_subject(records, machine)

        reports, cleaned, num_words = _join_reports(machine)
        # Each column to its place: from here on row i of every column is the same study.
        table = pa.table(
            {
                "record_id": records.column("study_id").cast(pa.string()),
                "patient_id": records.column("subject_id").cast(pa.string()),
                "split": self._splits(records.column("subject_id")),
                "path": records.column("path"),
                "report": reports,
                "report_cleaned": cleaned,
                "study_id": records.column("study_id"),
                "ecg_time": records.column("ecg_time"),
                "note_id": self._note_ids(records.column("study_id"), notes),
                "bandwidth": machine.column("bandwidth"),
                "filtering": machine.column("filtering"),
                **{name: _possible(machine.column(name), 0, _LIMIT_MS) for name in TIMES_MS},
                **{name: _possible(machine.column(name), -_LIMIT_DEG, _LIMIT_DEG) for name in AXES_DEG},
            }
        )
        is_long = num_words >= min_words
        left_out += [
            SkippedRecord(study, f"its report has {words} words, fewer than min_words={min_words}.")
            for study, words in zip(
                table.column("record_id").filter(~is_long).to_pylist(), num_words[~is_long].tolist(), strict=True
            )
        ]
        table = table.filter(is_long)
        if icd_table := self.options.get("icd_table"):
            table = with_icd_codes(table, icd_table, notes)
        if self.options["only_present"]:
            table = keep_present(table, self.files, "files", self.signal_suffix, notes)
        return with_split_table(SourceIndex(table.combine_chunks(), left_out, notes), self)

    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """See [`~hf_ecgtext.data.sources.base.WfdbSource`]."""
        _, subject, _ = interpret_comments(header.comments)
        if subject is not None and subject != entry["patient_id"]:
            raise RecordError(
                entry["record_id"],
                f"its header is of subject {subject}, but {RECORDS_FILE} says {entry['patient_id']}.",
                "Download the record and the tables again, of the same version.",
            )
        return entry["report"], (), {name: entry[name] for name in tuple(self.features)[_NUM_COMMON:]}

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]."""
        row = super().decode(entry, contents)
        num_missing = int((row["samples"] == INVALID_SAMPLE).sum()) if self.options["drop_nan"] else 0
        if 0 < num_missing < row["samples"].size:  # nobody wants those of which all are missing
            raise RecordError(
                entry["record_id"],
                f"{num_missing:,} of its samples are missing (NaN).",
                "Set drop_nan=false to keep such records; the processor repairs them.",
            )
        return row

    def _measurements(self, records: pa.Table, notes: list[str]) -> pa.Table | None:
        """The table of reports and measurements, or `None` where the download rightly has none."""
        is_small = len(records) < _DEMO_RECORDS and not self.files.exists(NOTES_FILE)  # a part of the demo
        if self.files.exists(MEASUREMENTS_FILE) or not (len(records) == _DEMO_RECORDS or is_small):
            return self._table(MEASUREMENTS_FILE, _MEASUREMENT_COLUMNS)
        notes.append(
            f"There is no {MEASUREMENTS_FILE}, as in the open demo, which is read without reports and measurements: it "
            "can be encoded and split, but nothing can be trained on its texts."
        )
        return None

    def _table(self, name: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
        table = read_csv_columns(self.files, name, columns, self.homepage, self.version)
        check_ids(table.column("study_id"), "study_id", name)
        return table

    def _splits(self, subjects: pa.ChunkedArray) -> pa.Array:
        held_out = self.options["validation_fraction"], self.options["test_fraction"]
        fractions = {"train": 1 - sum(held_out), "validation": held_out[0], "test": held_out[1]}
        salt = f"{self.name}-{self.options['split_seed']}"
        encoded = subjects.combine_chunks().dictionary_encode()
        splits = [split_of(str(subject), fractions, salt) for subject in encoded.dictionary.to_pylist()]
        return pa.array(splits, pa.string()).take(encoded.indices)

    def _note_ids(self, studies: pa.ChunkedArray, notes: list[str]) -> pa.Array:
        if not self.files.exists(NOTES_FILE):
            notes.append(f"There is no {NOTES_FILE}: the column note_id is empty.")
            return pa.nulls(len(studies), pa.string())
        links = read_csv_columns(self.files, NOTES_FILE, _NOTE_COLUMNS, self.homepage, self.version)
        repeated = len(links) - pc.count_distinct(links.column("study_id")).as_py()
        if repeated:
            notes.append(f"{NOTES_FILE} links {repeated:,} further notes to studies that have one: the first counts.")
        rows = rows_of(links.column("study_id"), studies)
        return links.column("note_id").combine_chunks().take(pa.array(rows, mask=rows < 0))


SOURCE = MimicIvEcg


def _no_measurements(records: pa.Table) -> pa.Table:
    """The table of reports and measurements, of which nothing is known."""
    known = ("subject_id", "study_id")
    return pa.table(
        {
            name: records.column(name) if name in known else pa.chunked_array([pa.nulls(len(records), kind)])
            for name, kind in _MEASUREMENT_COLUMNS.items()
        }
    )


def _without_partner(rows: pa.Table, other_table: str) -> list[SkippedRecord]:
    return [
        SkippedRecord(str(study), f"{other_table} has no row of this study_id.")
        for study in rows.column("study_id").to_pylist()
    ]


def _check_same_subject(records: pa.Table, machine: pa.Table) -> None:
    differs = pc.not_equal(records.column("subject_id"), machine.column("subject_id"))
    wrong = records.column("study_id").filter(pc.fill_null(differs, True))
    if len(wrong):
        raise ValueError(
            f"{RECORDS_FILE} and {MEASUREMENTS_FILE} give {len(wrong):,} studies to different subjects, such as study "
            f"{wrong[0].as_py()}. Download both tables again, of the same version."
        )


def _join_reports(machine: pa.Table) -> tuple[pa.Array, pa.Array, NDArray[np.int64]]:
    """The reports as they are, the cleaned ones, and the words of each as MERL counts them."""
    columns = [machine.column(name) for name in _REPORTS]
    # Arrow's join (26.0) drops the rows whose cells are all null instead of making them empty: those get a cell.
    is_empty = pc.equal(pc.coalesce(*columns, pa.scalar("")), "")
    filler = pc.if_else(is_empty, pa.scalar(""), pa.scalar(None, pa.string()))
    joined = pc.binary_join_element_wise(filler, *columns, ". ", null_handling="skip")
    # MIMIC-IV-ECG repeats its reports more than four times on average: each is cleaned once.
    encoded = joined.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    cleaned = [clean_mimic_report(text) for text in texts]
    # MERL strips these characters at both ends and counts what is left, ornaments inside the text among the words.
    num_words = np.array([len(text.strip(" *").strip("=-").split()) for text in texts], dtype=np.int64)
    return (
        pa.array([text or None for text in texts], pa.string()).take(encoded.indices),
        pa.array([text or None for text in cleaned], pa.string()).take(encoded.indices),
        num_words[encoded.indices.to_numpy()],
    )


def _possible(values: pa.ChunkedArray, smallest: int, largest: int) -> pa.ChunkedArray:
    # The download's data dictionary names no code for "not measured"; no real measurement is outside these limits.
    possible = pc.and_(pc.greater_equal(values, smallest), pc.less_equal(values, largest))
    return pc.if_else(possible, values, pa.scalar(None, values.type)).cast(pa.int32())
