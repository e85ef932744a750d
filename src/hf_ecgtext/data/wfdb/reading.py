"""One ECG recording from disk to millivolts: WFDB (`.hea` with `.dat` or `.mat`) and CPSC2018's own `.mat`.

Nothing is repaired here. A record either is what its header says, or raises a `RecordError` that names it and says
what to do; constant leads, missing leads, NaN and amplitudes that no heart makes are for the processor. Of the last, a
warning is logged here too.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.plausibility import glance, judge_amplitude, needs_judgement
from hf_ecgtext.data.records import DigitalEcg, EcgRecord
from hf_ecgtext.data.wfdb.cpsc_mat import is_matlab_file, read_cpsc2018_mat
from hf_ecgtext.data.wfdb.header import WfdbHeader, decode_wfdb_header, read_wfdb_header
from hf_ecgtext.data.wfdb.signal import (
    SignalPieces,
    decode_format_16,
    is_format_16,
    read_format_16,
    read_other_format,
)
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

_EXTENSIONS = (".hea", ".dat", ".mat")
_LARGEST_READ_AT_ONCE = 1 << 24  # samples of all leads: 64 MB of millivolts
_PATIENT_KEYS = ("subject_id", "patient_id")
_UNKNOWN = ("", "unknown", "nan", "n/a")
_KEY_AND_VALUE = re.compile(r"<?([A-Za-z][\w ()-]{0,40})>?\s*:\s*(.*)", re.ASCII)
_BRACKETED_KEY_AND_VALUE = re.compile(r"<([A-Za-z][\w ()-]{0,40})>\s*:\s*([^<]*)", re.ASCII)


def read_record(path: str | PathLike[str], *, verify_checksum: bool = True) -> EcgRecord:
    """Read one recording in millivolts, with what its header says about it.

    Format 16 is read about thirty times as fast as by `wfdb.rdsamp`, to the same numbers
    (`benchmarks/read_records.py`). A format-16 record equals `read_digital(path)[1].to_millivolts()`.

    Args:
        path (`str` or `os.PathLike`): A WFDB record, or a `.mat` file of CPSC2018; the extension `.hea`, `.dat` or
            `.mat` may be left out.
        verify_checksum (`bool`, defaults to `True`): Refuse a WFDB record whose samples do not add up to the
            checksums of its header.

    Returns:
        `EcgRecord`: `record_id` is the file name without extension, `labels` the codes of a `Dx` comment, `patient_id`
        that of a `subject_id` or `patient_id` comment. `attributes` holds `age` (years, `float`), `sex` as the source
        spells it, `base_date` and `base_time` (ISO 8601) and every other `key: value` comment as text, under its
        lower-case key; unknown values are left out.

    Raises:
        RecordError: If the record cannot be read, or would be read wrongly.
    """
    record, header_path = _locate(path)
    header = _read_header(header_path)
    if header is None:
        matlab_path = record + ".mat"
        if not os.fspath(path).endswith((".hea", ".dat")) and is_matlab_file(matlab_path):
            return read_cpsc2018_mat(matlab_path)
        raise _no_header(record)
    _check_named_file(path, header, record)
    if is_format_16(header):
        signal = read_format_16(header, record, verify_checksum=verify_checksum).to_millivolts()
    else:
        signal = read_other_format(header, record, verify_checksum=verify_checksum)
    if needs_judgement(np.ptp(glance(signal), axis=-1)) and (doubt := judge_amplitude(signal)):
        logger.warning("Record '%s': %s. Check unit and gain in its header.", record, doubt.problem)
    _warn_of_unread(header, record)
    return _as_record(header, record, signal)


class LongRecord(NamedTuple):
    """A WFDB record too long to be read at once.

    Args:
        num_samples (`int`): Samples per lead.
        sampling_rate_hz (`float`): Samples per second.
        lead_names (`tuple[str, ...]`): As the header spells them.
        record_id (`str`): File name without extension.
        read (`Callable[[int, int], EcgRecord]`): The samples from the first number to before the second, equal to
            those of `read_record`; whoever asks for one window after the other reads each sample about once.
    """

    num_samples: int
    sampling_rate_hz: float
    lead_names: tuple[str, ...]
    record_id: str
    read: Callable[[int, int], EcgRecord]


def open_record(path: str | PathLike[str], *, verify_checksum: bool = True) -> EcgRecord | LongRecord:
    """As [`read_record`], but a record of more than 64 MB of millivolts stays on disk, to be read in pieces.

    Args:
        path (`str` or `os.PathLike`): As in `read_record`.
        verify_checksum (`bool`, defaults to `True`): As in `read_record`; a long record is read once for it, in pieces.

    Raises:
        RecordError: If the record cannot be read, or would be read wrongly.
    """
    record, header_path = _locate(path)
    header = _read_header(header_path)
    if header is None or (header.num_samples is None and not is_format_16(header)):  # wfdb needs the length for pieces
        return read_record(path, verify_checksum=verify_checksum)
    if (header.num_samples or math.inf) * len(header.leads) <= _LARGEST_READ_AT_ONCE:
        return read_record(path, verify_checksum=verify_checksum)
    _check_named_file(path, header, record)
    _warn_of_unread(header, record)
    pieces = SignalPieces(header, record, verify_checksum=verify_checksum)
    read_ahead = max(1, _LARGEST_READ_AT_ONCE // 4 // len(header.leads))
    kept_start, kept = 0, np.empty((len(header.leads), 0), dtype=np.float32)

    def read(start: int, stop: int) -> EcgRecord:
        nonlocal kept_start, kept
        if not kept_start <= start <= stop <= kept_start + kept.shape[1]:
            kept_start, kept = start, pieces.millivolts(start, min(max(stop, start + read_ahead), pieces.num_samples))
        return _as_record(header, record, kept[:, start - kept_start : stop - kept_start])

    return LongRecord(pieces.num_samples, header.sampling_rate_hz, header.lead_names, os.path.basename(record), read)


def _warn_of_unread(header: WfdbHeader, record: str) -> None:
    if header.unread:
        logger.warning("Record '%s': left unread in its header: %s.", record, "; ".join(header.unread))


def _as_record(header: WfdbHeader, record: str, signal: NDArray[np.float32]) -> EcgRecord:
    labels, patient_id, attributes = interpret_comments(header.comments)
    if header.base_date is not None:
        attributes["base_date"] = header.base_date.isoformat()
    if header.base_time is not None:
        attributes["base_time"] = header.base_time.isoformat()
    return EcgRecord(
        signal=signal,
        sampling_rate_hz=header.sampling_rate_hz,
        lead_names=header.lead_names,
        record_id=os.path.basename(record),
        patient_id=patient_id,
        labels=labels,
        comments=header.comments,
        attributes=attributes,
    )


def read_digital(path: str | PathLike[str], *, verify_checksum: bool = True) -> tuple[WfdbHeader, DigitalEcg]:
    """Read the stored integers of a WFDB format-16 record, without loss: what a converted dataset keeps.

    Args:
        path (`str` or `os.PathLike`): A WFDB record, with or without extension.
        verify_checksum (`bool`, defaults to `True`): As in `read_record`.

    Returns:
        `tuple[WfdbHeader, DigitalEcg]`: The header, and int16 samples of shape `(num_leads, num_samples)` with gain
        and baseline per lead.

    Raises:
        RecordError: If the record cannot be read, or is not stored in format 16.
    """
    record, header_path = _locate(path)
    header = _read_header(header_path)
    if header is None:
        raise _no_header(record)
    _check_named_file(path, header, record)
    _check_format_16(header, record)
    return header, read_format_16(header, record, verify_checksum=verify_checksum)


def decode_digital(
    header_content: bytes, signal_contents: Mapping[str, bytes], record: str, *, verify_checksum: bool = True
) -> tuple[WfdbHeader, DigitalEcg]:
    """As [`read_digital`], for a record that lies in an archive or behind an address.

    Args:
        header_content (`bytes`): Of the `.hea` file.
        signal_contents (`Mapping[str, bytes]`): Of the signal files, by name without folder.
        record (`str`): What errors call the record.
        verify_checksum (`bool`, defaults to `True`): As in `read_record`.

    Raises:
        RecordError: If the record cannot be decoded, or is not stored in format 16.
    """
    header = decode_wfdb_header(header_content, record)
    _check_format_16(header, record)
    return header, decode_format_16(header, signal_contents, record, verify_checksum=verify_checksum)


def _check_format_16(header: WfdbHeader, record: str) -> None:
    if not is_format_16(header):
        formats = ", ".join(sorted({str(lead.format) for lead in header.leads}))
        raise RecordError(
            record, f"it is stored in the WFDB format {formats}, not 16.", "Read it in mV with read_record."
        )


def _locate(path: str | PathLike[str]) -> tuple[str, str]:
    """The record's path without extension, and the path of its header."""
    text = os.fspath(path)
    stem, extension = os.path.splitext(text)
    record = stem if extension in _EXTENSIONS else text
    return record, record + ".hea"


def _read_header(header_path: str) -> WfdbHeader | None:
    """The header, or `None` where there is no such file."""
    if "\0" in header_path:  # no file can have this name
        return None
    try:
        return read_wfdb_header(header_path)
    except RecordError as error:  # cheaper than to look first, when thousands of records are read
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


def _check_named_file(path: str | PathLike[str], header: WfdbHeader, record: str) -> None:
    """Whoever names a signal file means this one, and no other that lies beside it under another name."""
    name = os.path.basename(os.fspath(path))
    if name.endswith((".dat", ".mat")) and name not in {lead.file_name for lead in header.leads}:
        raise RecordError(
            record,
            f"its header does not name '{name}', but {', '.join(sorted({lead.file_name for lead in header.leads}))}.",
            "Name the record without extension to read those.",
        )


def _no_header(record: str) -> RecordError:
    if os.path.isdir(record):
        return RecordError(record, "it is a folder.", "Name one record in it, without extension.")
    extension = os.path.splitext(record)[1]
    if extension and os.path.isfile(record):
        return RecordError(
            record,
            f"this library does not read '{extension}' files.",
            "It reads WFDB records (.hea with .dat or .mat) and CPSC2018's .mat files. Read others with a library of "
            "their format, and pass an array of shape (num_leads, num_samples) with sampling_rate_hz and lead_names.",
        )
    return RecordError(
        record,
        "it has no header (.hea), and is no .mat file of CPSC2018.",
        "Check the path; a WFDB record needs its .hea file beside the signal file.",
    )


def interpret_comments(comments: Sequence[str]) -> tuple[tuple[str, ...], str | None, dict[str, Any]]:
    """Labels, patient id and attributes of `key: value` comments; the first of two equal keys counts.

    PhysioNet/CinC writes `Dx: 164889003,59118001`, MIMIC-IV-ECG `<subject_id>: 10000032`, and the WFDB manual allows
    several bracketed keys in one comment (`<age>: 63 <sex>: M`).
    """
    labels: list[str] = []
    patient_id: str | None = None
    attributes: dict[str, Any] = {}
    for comment in comments:
        pairs = _BRACKETED_KEY_AND_VALUE.findall(comment)
        if not pairs and (match := _KEY_AND_VALUE.fullmatch(comment)):
            pairs = [match.groups()]
        for spelled_key, spelled_value in pairs:
            key = spelled_key.strip().lower().replace(" ", "_")
            value = spelled_value.strip()
            if key == "dx":
                codes = (code.strip() for code in value.split(","))
                labels.extend(code for code in codes if code.lower() not in _UNKNOWN and code not in labels)
            elif value.lower() in _UNKNOWN:
                continue
            elif key in _PATIENT_KEYS:
                patient_id = patient_id or value
            elif key == "age":
                age = _finite_number(value)
                if age is not None:  # not a number: "> 89" stays in the comments only, so that ages are of one type
                    attributes.setdefault(key, age)
            else:
                attributes.setdefault(key, value)
    return tuple(labels), patient_id, attributes


def _finite_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
