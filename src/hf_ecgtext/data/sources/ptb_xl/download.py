"""PTB-XL's original download (Wagner et al. 2020): its tables and signal files as records with labels and reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_ecgtext.data.bad_records import no_valid_sample
from hf_ecgtext.data.records import DigitalEcg, EcgRecord, has_valid_sample
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES, class_of_code
from hf_ecgtext.data.sources.ptb_xl.reports import read_12sl_reports
from hf_ecgtext.data.sources.ptb_xl.tables import (
    FILENAME_COLUMN,
    PTB_XL_FEATURES,
    check_codes,
    check_rate_and_report,
    columns_of_entry,
    read_database,
    read_statements,
)
from hf_ecgtext.data.store.schema import record_to_row, rows_to_table
from hf_ecgtext.data.wfdb.reading import read_digital
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

_ROWS_PER_TABLE = 64


def metadata_file(data_dir: str | Path, name: str) -> Path:
    """The path of one of the download's tables, which must exist."""
    path = Path(data_dir) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path}. Download PTB-XL from https://physionet.org/content/ptb-xl/ and pass the folder that holds "
            "ptbxl_database.csv."
        )
    return path


class PtbXl:
    """The original download of PTB-XL as a source of records.

    Iterating yields an `EcgRecord` for every record, in the order of `ecg_id`: lead names and signal from its files,
    patient, report, SCP codes (`labels`) and the columns of `PTB_XL_FEATURES` (`attributes`) from the tables.

    Args:
        data_dir (`str` or `Path`): The folder with `ptbxl_database.csv`.
        sampling_rate_hz (`int`): 500 (the recordings) or 100 (the authors' downsampled copy).
        report (`str`): `"12sl"` for the English machine report of PTB-XL+, `"original"` for PTB-XL's own, mostly
            German one.
        missing (`str`): What to do about records without signal files, as in a partial download. `"raise"` refuses
            to go on; `"skip"` leaves them out and logs how many.
        bad_records (`str`): What to do about records whose files cannot be used, or hold no valid sample. `"raise"`
            stops at the first; `"skip"` leaves them out and logs each. They are found out as they are read, so that
            `len()` and `record_ids()` count them.
        ptbxl_plus_dir (`str` or `Path`, *optional*): The folder of PTB-XL+; by default `ptb-xl-plus` beside
            `data_dir`. Only read for `report="12sl"`.

    Raises:
        ValueError: If an argument has none of the values above.
        FileNotFoundError: If a table is missing.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        sampling_rate_hz: int = 500,
        report: str = "12sl",
        missing: str = "raise",
        ptbxl_plus_dir: str | Path | None = None,
        bad_records: str = "raise",
    ):
        check_settings(sampling_rate_hz, report, missing, bad_records)
        self.data_dir = Path(data_dir)
        self.sampling_rate_hz = sampling_rate_hz
        self.report = report
        self.missing = missing
        self.bad_records = bad_records
        self.ptbxl_plus_dir = find_ptbxl_plus_dir(data_dir, ptbxl_plus_dir)
        self.database = read_database(data_dir)
        self.statements = read_statements(data_dir)
        check_codes(self.database, self.statements)
        self._classes = {task: class_of_code(self.statements, task) for task in PTB_XL_CLASSES}
        columns = ["patient_id", "age", "sex", "report", "scp_codes", "strat_fold", FILENAME_COLUMN[sampling_rate_hz]]
        # Plain dicts: a row of a data frame takes longer to look up than its recording takes to read.
        self._entries: dict[int, dict[str, Any]] = self.database[columns].to_dict("index")  # type: ignore[assignment]
        self._reports = (
            read_12sl_reports(self.ptbxl_plus_dir)
            if report == "12sl"
            else {ecg_id: str(entry["report"]) for ecg_id, entry in self._entries.items()}
        )

    @cached_property
    def _available_ids(self) -> list[int]:
        # Looked up once: 22 folder listings instead of 43,598 questions to the file system.
        names = self.database[FILENAME_COLUMN[self.sampling_rate_hz]]
        present = waveforms_on_disk(self.data_dir, self.sampling_rate_hz)
        is_present = names.isin(present)
        num_missing = int((~is_present).sum())
        if num_missing and self.missing == "raise":
            first = names.index[~is_present][0]
            raise RecordError(
                f"PTB-XL {first}",
                f"{self.data_dir / names[first]}.hea or .dat is missing, as are the files of {num_missing - 1:,} more "
                f"of the {len(names):,} records at {self.sampling_rate_hz} Hz.",
                "Download them, or pass missing='skip' to use only those present.",
            )
        if num_missing:
            logger.warning(
                "PTB-XL in %s: %s of %s records have no files at %d Hz and are skipped; %s remain.",
                self.data_dir,
                f"{num_missing:,}",
                f"{len(names):,}",
                self.sampling_rate_hz,
                f"{len(names) - num_missing:,}",
            )
        return [int(ecg_id) for ecg_id in names.index[is_present]]

    def record_ids(self, folds: Iterable[int] | None = None) -> list[int]:
        """The `ecg_id`s of all usable records, or of those in some folds (see `SPLIT_FOLDS`).

        Raises:
            RecordError: If signal files are missing and `missing="raise"`.
        """
        wanted = None if folds is None else set(folds)
        return [
            ecg_id for ecg_id in self._available_ids if wanted is None or self._entries[ecg_id]["strat_fold"] in wanted
        ]

    def read(self, ecg_id: int) -> tuple[EcgRecord, DigitalEcg]:
        """One record, and the integers it was made from.

        Raises:
            RecordError: If there is no such record, or its files cannot be used.
        """
        if ecg_id not in self._entries:
            raise RecordError(f"PTB-XL {ecg_id}", "It is not in ptbxl_database.csv.", "Choose one of `record_ids()`.")
        entry = self._entries[ecg_id]
        path = self.data_dir / entry[FILENAME_COLUMN[self.sampling_rate_hz]]
        header, digital = read_digital(path)
        if header.sampling_rate_hz != self.sampling_rate_hz:
            raise RecordError(
                str(path),
                f"Sampled at {header.sampling_rate_hz:g} Hz instead of {self.sampling_rate_hz} Hz.",
                "Download the record again.",
            )
        if not has_valid_sample(digital.adc):
            raise no_valid_sample(f"PTB-XL {ecg_id}")
        report = self._reports.get(ecg_id)
        if report is None:
            raise RecordError(
                f"PTB-XL {ecg_id}", f"It has no '{self.report}' report.", "Use PTB-XL and PTB-XL+ of matching versions."
            )
        patient_id, codes, attributes = columns_of_entry(entry, self._classes)
        record = EcgRecord(
            signal=digital.to_millivolts(),
            sampling_rate_hz=float(header.sampling_rate_hz),
            lead_names=tuple(header.lead_names),
            record_id=f"{ecg_id:05d}",
            patient_id=patient_id,
            report=report.strip() or None,
            labels=codes,
            attributes=attributes,
        )
        return record, digital

    def records(self, folds: Iterable[int] | None = None) -> Iterator[EcgRecord]:
        """All usable records, or those of some folds, one at a time."""
        ids = self.record_ids(folds)  # outside the generator: missing files are reported now, not at the first record
        return (record for record, _ in self._usable(ids))

    def _usable(self, ecg_ids: Sequence[int]) -> Iterator[tuple[EcgRecord, DigitalEcg]]:
        """As `read`, record by record; bad ones are left out where the policy says so."""
        for ecg_id in ecg_ids:
            try:
                found = self.read(ecg_id)
            except RecordError as error:
                if self.bad_records == "raise":
                    raise RecordError(
                        error.record, error.problem, f"{error.fix} Or leave such records out by bad_records=skip."
                    ) from error
                logger.warning("PTB-XL: a record is skipped. %s", error)
                continue
            yield found

    def tables(self, ecg_ids: Sequence[int]) -> Iterator[pa.Table]:
        """The records as Arrow tables of `PTB_XL_FEATURES`, 64 rows at a time."""
        for start in range(0, len(ecg_ids), _ROWS_PER_TABLE):
            rows = [record_to_row(*found) for found in self._usable(ecg_ids[start : start + _ROWS_PER_TABLE])]
            yield rows_to_table(rows, PTB_XL_FEATURES)

    def __iter__(self) -> Iterator[EcgRecord]:
        return self.records()

    def __len__(self) -> int:
        return len(self._available_ids)


def check_settings(sampling_rate_hz: int, report: str, missing: str, bad_records: str = "raise") -> None:
    """Raise a `ValueError` at a setting that [`PtbXl`] does not know."""
    check_rate_and_report(sampling_rate_hz, report)
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing must be 'raise' or 'skip', not '{missing}'.")
    if bad_records not in ("raise", "skip"):
        raise ValueError(
            f"bad_records must be 'raise' or 'skip' where PTB-XL is cached, not '{bad_records}'; 'replace' is for "
            "training on the download as it is (streaming=true)."
        )


def find_ptbxl_plus_dir(data_dir: str | Path, ptbxl_plus_dir: str | Path | None) -> Path:
    """The folder of PTB-XL+: the one given, or `ptb-xl-plus` beside PTB-XL."""
    return Path(data_dir).absolute().parent / "ptb-xl-plus" if ptbxl_plus_dir is None else Path(ptbxl_plus_dir)


def waveforms_on_disk(data_dir: Path, sampling_rate_hz: int) -> set[str]:
    """Names such as `records500/00000/00001_hr` of which both `.hea` and `.dat` are there."""
    root = f"records{sampling_rate_hz}"
    if not (data_dir / root).is_dir():
        return set()
    present = set()
    for group in sorted(os.listdir(data_dir / root)):
        files = set(os.listdir(data_dir / root / group)) if (data_dir / root / group).is_dir() else set()
        stems = {name.removesuffix(".hea") for name in files if name.endswith(".hea")}
        present |= {f"{root}/{group}/{stem}" for stem in stems if f"{stem}.dat" in files}
    return present
