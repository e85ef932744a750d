"""PTB-XL's original download, in a folder, an archive or at an address, as a source of the data path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Features, Value

from hf_ecgtext.data.files.archives import ArchiveTree
from hf_ecgtext.data.files.tree import FileTree, find_root
from hf_ecgtext.data.report_cleaning import clean_12sl_report, clean_ptbxl_report
from hf_ecgtext.data.sources.base import SkippedRecord, SourceIndex, WfdbSource
from hf_ecgtext.data.sources.options import skips_missing
from hf_ecgtext.data.sources.ptb_xl.labels import (
    PTB_XL_CLASSES,
    class_members,
    class_names,
    class_of_code,
    split_of_fold,
)
from hf_ecgtext.data.sources.ptb_xl.reports import read_12sl_reports
from hf_ecgtext.data.sources.ptb_xl.tables import (
    CITATION,
    DATABASE_FILE,
    FILENAME_COLUMN,
    HOMEPAGE,
    PTB_XL_FEATURES,
    REPORTS,
    STATEMENTS_FILE,
    check_codes,
    columns_of_entry,
    read_database,
    read_statements,
    version_of,
)
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import check_paths, keep_present
from hf_ecgtext.data.store.schema import ECG_FEATURES
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.header import WfdbHeader
from hf_ecgtext.errors import RecordError

if TYPE_CHECKING:
    import pandas as pd

PTB_XL_SOURCE_FEATURES = Features(
    {
        **PTB_XL_FEATURES,
        "report_original": Value("string"),
        "report_12sl": Value("string"),
        "report_cleaned": Value("string"),
    }
)
"""The columns of [`~hf_ecgtext.data.sources.ptb_xl.tables.PTB_XL_FEATURES`], and both reports."""

_OWN_COLUMNS = tuple(name for name in PTB_XL_SOURCE_FEATURES if name not in ECG_FEATURES)


class PtbXlSource(WfdbSource):
    """PTB-XL 1.0.1 to 1.0.3.

    Train, validation and test are the folds 1-8, 9 and 10; no patient is in two of them.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: the tables, `records100` and `records500`;
            they may lie in a folder below, as in PhysioNet's archives.
        sampling_rate_hz (`int`, defaults to 500): 500 (the recordings) or 100 (the authors' downsampled copy).
        report (`str`, defaults to `"12sl"`): What the column `report` holds: `"12sl"`, the English machine report of
            PTB-XL+, or `"original"`, PTB-XL's own, mostly German.
        ptbxl_plus (`str`, *optional*): Where PTB-XL+ is (folder, archive or address); by default `ptb-xl-plus` beside
            the download.
        missing (`str`, defaults to `"raise"`): `"skip"` leaves out the records whose files are not there, for a partial
            download. With `"raise"`, such a record is a fault.
        check_version (`bool`, defaults to `True`): Refuse a table with a number of records that no known version has.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of the splits above; see
            [`~hf_ecgtext.data.sources.split_table.read_split_table`].

    Raises:
        ValueError: If an option has none of the values above.
    """

    name = "ptb_xl"
    title = "PTB-XL"
    version = "1.0.3"
    license_id = "cc-by-4.0"
    homepage = HOMEPAGE
    access = "Open access for everyone at https://physionet.org/content/ptb-xl/, under CC-BY-4.0."
    citation = CITATION
    description = """Clinical 12-lead ECGs of 10 s, stored as the integers of the original files.

* `labels`: SCP codes; `scp_likelihoods`: their likelihoods in per cent (0: unknown). `labels_super`, `labels_sub`,
  `labels_form` and `labels_rhythm`: the classes of the four usual tasks; the task `ptbxl_all` asks for all 71 codes.
* `report_original`: PTB-XL's own, mostly German report; `report_12sl`: the English statement list of the GE Marquette
  12SL programme, written out from PTB-XL+ (https://physionet.org/content/ptb-xl-plus/, CC-BY-4.0). `report` is the one
  that was asked for, `report_cleaned` the same in lower case and without ornaments.
* `age` is empty for people older than 89 (`is_over_89`).

Train, validation and test are folds 1-8, 9 and 10 (`strat_fold`); no patient is in two of them."""
    signal_suffix = ".dat"
    further_tasks = ("ptbxl_all",)
    is_cached = True

    def __init__(
        self,
        files: FileTree,
        *,
        sampling_rate_hz: int = 500,
        report: str = "12sl",
        ptbxl_plus: str | None = None,
        missing: str = "raise",
        check_version: bool = True,
        split_table: str | None = None,
    ):
        _check_rate_and_report(sampling_rate_hz, report)
        self._given_location = files.location
        super().__init__(
            find_root(files, (DATABASE_FILE, STATEMENTS_FILE)),
            sampling_rate_hz=sampling_rate_hz,
            report=report,
            ptbxl_plus=ptbxl_plus,
            only_present=skips_missing(missing),
            check_version=check_version,
            split_table=split_table,
        )

    @classmethod
    def revision(cls, version: str, options: Mapping[str, Any], fingerprint: str, counts: Mapping[str, int]) -> str:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`].

        Complete tables say no more than their version, so that results stay comparable with those of the first
        version of this reader; tables that were cut are told apart by their fingerprint.
        """
        is_usual = options["check_version"] and "split_table" not in options
        cut = "" if is_usual else f", tables {fingerprint[:16]}"
        return (
            f"{version}, {options['sampling_rate_hz']} Hz, {options['report']} reports{cut}, "
            f"{sum(counts.values())} records"
        )

    @property
    def features(self) -> Features:
        """See [`PTB_XL_SOURCE_FEATURES`]."""
        return PTB_XL_SOURCE_FEATURES

    @cached_property
    def _statements(self) -> pd.DataFrame:
        return read_statements(self.files)

    def tasks(self) -> tuple[LabelTask, ...]:
        """The four usual tasks, and `ptbxl_all`: every statement of `scp_statements.csv`, named as there."""
        usual = tuple(
            LabelTask(f"ptbxl_{task}", f"labels_{task}", class_names(task), class_members(self._statements, task))
            for task in PTB_XL_CLASSES
        )
        names = {str(code): str(text) for code, text in self._statements["description"].items()}
        return (*usual, LabelTask("ptbxl_all", "labels", names))

    def index(self) -> SourceIndex:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]; records are in the order of `ecg_id`."""
        database = read_database(self.files).sort_index()
        check_codes(database, self._statements)
        notes: list[str] = []
        if self.options["check_version"] and (version := version_of(database)) != self.version:
            notes.append(f"The tables are those of PTB-XL {version}; the current version is {self.version}.")
        reports_12sl = self._reports_12sl(notes)
        classes = {task: class_of_code(self._statements, task) for task in PTB_XL_CLASSES}
        clean = clean_12sl_report if self.options["report"] == "12sl" else clean_ptbxl_report

        rows: list[dict[str, Any]] = []
        left_out: list[SkippedRecord] = []
        entries: list[dict[str, Any]] = database.reset_index().to_dict("records")  # type: ignore[assignment]
        for entry in entries:
            ecg_id = int(entry["ecg_id"])
            record_id = f"{ecg_id:05d}"
            texts = {"original": _text(entry["report"]), "12sl": _text(reports_12sl.get(ecg_id))}
            if self.options["report"] == "12sl" and ecg_id not in reports_12sl:
                left_out.append(SkippedRecord(record_id, "PTB-XL+ has no 12SL statements of it."))
                continue
            report = texts[self.options["report"]]
            patient_id, codes, own = columns_of_entry(entry, classes)
            rows.append(
                {
                    "record_id": record_id,
                    "patient_id": patient_id,
                    "split": split_of_fold(entry["strat_fold"]),
                    "path": entry[FILENAME_COLUMN[self.options["sampling_rate_hz"]]],
                    "report": report,
                    "labels": list(codes),
                    **own,
                    "report_original": texts["original"],
                    "report_12sl": texts["12sl"],
                    "report_cleaned": (clean(report) or None) if report else None,
                }
            )
        table = self._as_table(rows)
        check_paths(table.column("path"), DATABASE_FILE)
        if self.options["only_present"]:
            table = keep_present(table, self.files, f"records{self.options['sampling_rate_hz']}", ".dat", notes)
        return with_split_table(SourceIndex(table, left_out, notes), self)

    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """See [`~hf_ecgtext.data.sources.base.WfdbSource`]."""
        expected = self.options["sampling_rate_hz"]
        if header.sampling_rate_hz != expected:
            raise RecordError(
                entry["record_id"],
                f"it is sampled at {header.sampling_rate_hz:g} Hz instead of {expected} Hz.",
                "Download the record again.",
            )
        return entry["report"], entry["labels"], {name: entry[name] for name in _OWN_COLUMNS}

    def _reports_12sl(self, notes: list[str]) -> dict[int, str]:
        location = self.options["ptbxl_plus"]
        try:
            return read_12sl_reports(self._beside() if location is None else location)
        except FileNotFoundError as error:
            if self.options["report"] == "12sl" or location is not None:
                raise
            notes.append(f"PTB-XL+ is not there, so report_12sl is empty: {error}")
            return {}

    def _beside(self) -> str:
        """Where `ptb-xl-plus` lies beside the download."""
        # The root of an archive is inside it, and what lies beside the archive is meant.
        location = self._given_location if isinstance(self.files, ArchiveTree) else self.files.location
        if "://" in location:
            server, _, path = location.rstrip("/").partition("://")[2].partition("/")
            # Nothing lies beside the root of a server, so that PTB-XL+ can only lie below it.
            above = "/".join([server, *path.split("/")[:-1]])
            return f"{location.partition('://')[0]}://{above}/ptb-xl-plus"
        return str(Path(location).absolute().parent / "ptb-xl-plus")

    def _as_table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        schema = PTB_XL_SOURCE_FEATURES.arrow_schema
        fields = [pa.field(name, pa.string()) for name in ("record_id", "patient_id", "split", "path", "report")]
        fields += [pa.field(name, schema.field(name).type) for name in ("labels", *_OWN_COLUMNS)]
        return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def _check_rate_and_report(sampling_rate_hz: int, report: str) -> None:
    if sampling_rate_hz not in FILENAME_COLUMN:
        raise ValueError(f"PTB-XL comes at {sorted(FILENAME_COLUMN)} Hz, not at {sampling_rate_hz} Hz; resample later.")
    if report not in REPORTS:
        raise ValueError(f"Unknown report '{report}'; choose one of {list(REPORTS)}.")


def _text(report: Any) -> str | None:
    return (report.strip() or None) if isinstance(report, str) else None


SOURCE = PtbXlSource
