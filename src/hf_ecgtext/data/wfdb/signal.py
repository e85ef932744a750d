"""WFDB signal files (`.dat`, or `.mat` with a byte offset): integers of shape `(num_leads, num_samples)`.

Format 16, the format of every public 12-lead data set, is read with numpy alone. The other uncompressed formats go
through the `wfdb` package, of which only the decoder is used: the scaling is that of our own header parser.

A file must be exactly as long as its header says, and the samples must add up to the header's checksums. Both hold
for every record of PTB-XL, Chapman-Shaoxing-Ningbo and PhysioNet/CinC 2021 that this was tried on, so that whatever
differs was cut, padded or changed after it was written.

Source: https://physionet.org/physiotools/wag/signal-5.htm for the formats and their marks of an invalid sample.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.records import INVALID_SAMPLE, DigitalEcg
from hf_ecgtext.data.wfdb.header import WfdbHeader, WfdbLead
from hf_ecgtext.errors import RecordError
from hf_ecgtext.io import READ_ONLY

_DOWNLOAD_AGAIN = "Download the record again; header and signal file must come from the same version."
_MAX_SAMPLES = 1 << 30  # of all leads: 24 hours of twelve leads at 1 kHz, and 2 GB as they are stored
_SAMPLES_PER_PIECE = 8192  # of each lead: long recordings are read in pieces that stay in the CPU's cache
_VALUES_PER_PIECE = 1 << 22  # of all leads, where only a piece of a record is in memory
_WHERE_AND_HOW_STORED = itemgetter(slice(5))  # the first five fields of a WfdbLead
_NOT_IN_FILE_NAMES = re.compile(r"[/\\:\0]")


class _SignalFormat(NamedTuple):
    """`block_samples` samples share `block_bytes` bytes; `invalid` is the mark of a missing sample."""

    block_bytes: int
    block_samples: int
    invalid: int | None


_FORMATS: dict[int, _SignalFormat] = {
    8: _SignalFormat(1, 1, None),
    16: _SignalFormat(2, 1, INVALID_SAMPLE),
    24: _SignalFormat(3, 1, -(2**23)),
    32: _SignalFormat(4, 1, -(2**31)),
    61: _SignalFormat(2, 1, -(2**15)),
    80: _SignalFormat(1, 1, -(2**7)),
    160: _SignalFormat(2, 1, -(2**15)),
    212: _SignalFormat(3, 2, -(2**11)),
    310: _SignalFormat(4, 3, -(2**9)),
    311: _SignalFormat(4, 3, -(2**9)),
}


class _SignalFile(NamedTuple):
    """One file of a record; its leads are interleaved in it and follow one another in the header."""

    name: str
    path: str
    format: int
    byte_offset: int
    num_leads: int


def is_format_16(header: WfdbHeader) -> bool:
    """Whether every lead is stored as 16-bit integers, low byte first."""
    return all(lead.format == 16 for lead in header.leads)


def read_format_16(header: WfdbHeader, record: str, *, verify_checksum: bool) -> DigitalEcg:
    """The stored integers of a format-16 record, with what turns them into millivolts.

    Args:
        header (`WfdbHeader`): Of a record for which `is_format_16` holds.
        record (`str`): Path of the record without extension.
        verify_checksum (`bool`): Compare the samples with the header's checksums.

    Raises:
        RecordError: If a file is missing, shorter or longer than the header says, or fails its checksum.
    """
    files = _signal_files(header, record)
    num_samples = _checked_num_samples(header, files, _sizes_on_disk(files, record), record)
    adc = np.empty((len(header.leads), num_samples), dtype=np.int16)
    first_lead = 0
    for file in files:
        _read_interleaved(file, adc[first_lead : first_lead + file.num_leads], record)
        first_lead += file.num_leads
    if verify_checksum:
        # int16 addition wraps around at 16 bit, which is how the checksum is defined.
        _verify_checksums(header, np.add.reduce(adc, axis=1, dtype=np.int16), record)
    return DigitalEcg(adc=adc, gain_per_mv=_gain_per_mv(header), baseline=_baseline(header))


def decode_format_16(
    header: WfdbHeader, contents: Mapping[str, bytes], record: str, *, verify_checksum: bool
) -> DigitalEcg:
    """As [`read_format_16`], from the contents of the signal files instead of the disk.

    Args:
        header (`WfdbHeader`): Of a record for which `is_format_16` holds.
        contents (`Mapping[str, bytes]`): By file name, as the header spells it.
        record (`str`): What errors call the record.
        verify_checksum (`bool`): Compare the samples with the header's checksums.

    Raises:
        RecordError: If a file is missing, shorter or longer than the header says, or fails its checksum.
    """
    files = _signal_files(header, record)
    for file in files:
        if file.name not in contents:
            raise RecordError(record, f"its signal file '{file.name}' is missing.", "Put it beside the header.")
    num_samples = _checked_num_samples(header, files, [len(contents[file.name]) for file in files], record)
    parts = [
        np.frombuffer(contents[file.name], "<i2", num_samples * file.num_leads, file.byte_offset)
        .reshape(num_samples, file.num_leads)
        .T
        for file in files
    ]
    adc = np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.int16)
    if verify_checksum:
        _verify_checksums(header, np.add.reduce(adc, axis=1, dtype=np.int16), record)
    return DigitalEcg(adc=adc, gain_per_mv=_gain_per_mv(header), baseline=_baseline(header))


def _read_interleaved(file: _SignalFile, adc: NDArray[np.int16], record: str, first_sample: int = 0) -> None:
    """Fill `adc`, of shape `(num_leads, num_samples)`, from a format-16 file, from a sample on."""
    num_leads, num_samples = adc.shape
    descriptor = os.open(file.path, READ_ONLY)
    try:
        if first_byte := file.byte_offset + first_sample * num_leads * adc.itemsize:
            os.lseek(descriptor, first_byte, os.SEEK_SET)
        for start in range(0, num_samples, _SAMPLES_PER_PIECE):
            piece = adc[:, start : start + _SAMPLES_PER_PIECE]
            content = os.read(descriptor, piece.nbytes)
            if len(content) != piece.nbytes:
                raise RecordError(record, f"'{file.name}' became shorter while it was read.", "Read it again.")
            piece[:] = np.frombuffer(content, dtype="<i2").reshape(-1, num_leads).T
    finally:
        os.close(descriptor)


def read_other_format(header: WfdbHeader, record: str, *, verify_checksum: bool) -> NDArray[np.float32]:
    """Millivolts of a record in any uncompressed WFDB format, decoded by the `wfdb` package.

    Args:
        header (`WfdbHeader`): The record's header.
        record (`str`): Path of the record without extension.
        verify_checksum (`bool`): Compare the samples with the header's checksums.

    Returns:
        `np.ndarray` of shape `(num_leads, num_samples)`: float32, NaN at invalid samples.

    Raises:
        RecordError: As `read_format_16`, and if `wfdb` cannot read the record or understands its header differently.
    """
    files = _signal_files(header, record)
    num_samples = _checked_num_samples(header, files, _sizes_on_disk(files, record), record)
    adc = _decode_with_wfdb(header, record, 0, num_samples)
    if verify_checksum:
        _verify_checksums(header, adc.sum(axis=1), record)
    return _other_millivolts(header, adc)


def _other_millivolts(header: WfdbHeader, adc: NDArray[np.int64]) -> NDArray[np.float32]:
    """Millivolts of stored integers, NaN where a format marks a sample as invalid."""
    signal = (adc - _baseline(header)[:, None]) / _gain_per_mv(header)[:, None]
    for row, samples, lead in zip(signal, adc, header.leads, strict=True):
        invalid = _FORMATS[lead.format].invalid
        if invalid is not None:
            row[samples == invalid] = np.nan
    return signal.astype(np.float32)


def _decode_with_wfdb(header: WfdbHeader, record: str, start: int, stop: int) -> NDArray[np.int64]:
    import wfdb

    fix = "Write it as format 16 with wfdb.rdrecord(...) and wfdb.wrsamp(..., fmt=['16', ...])."
    end = None if header.num_samples is None else stop  # wfdb fails at an end where the header has no length
    try:
        decoded: Any = wfdb.rdrecord(os.path.abspath(record), sampfrom=start, sampto=end, physical=False)
        samples = np.asarray(decoded.d_signal).T
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, OSError) as error:
        raise RecordError(record, f"the wfdb package cannot read it ({error}).", fix) from error
    # wfdb parses the header again, more leniently; it must have found the same samples.
    ours = [(lead.file_name, str(lead.format), lead.byte_offset) for lead in header.leads]
    theirs = [
        (name, signal_format, offset or 0)
        for name, signal_format, offset in zip(decoded.file_name, decoded.fmt, decoded.byte_offset, strict=True)
    ]
    if samples.shape != (len(header.leads), stop - start) or ours != theirs:
        raise RecordError(record, "the wfdb package understands its header differently.", fix)
    return samples.astype(np.int64)


class SignalPieces:
    """The signal files of a long record, of which one piece is in memory at a time.

    Args:
        header (`WfdbHeader`): The record's header.
        record (`str`): Path of the record without extension.
        verify_checksum (`bool`): Read the whole record once, piece by piece, and compare it with the checksums.

    Raises:
        RecordError: As `read_format_16` and `read_other_format`.
    """

    def __init__(self, header: WfdbHeader, record: str, *, verify_checksum: bool):
        self.header, self.record = header, record
        self._files = _signal_files(header, record)
        self.num_samples = _checked_num_samples(header, self._files, _sizes_on_disk(self._files, record), record)
        if verify_checksum and header.num_samples is not None:
            sums = np.zeros(len(header.leads), dtype=np.int64)
            step = max(1, _VALUES_PER_PIECE // len(header.leads))
            for start in range(0, self.num_samples, step):
                sums += self._integers(start, min(start + step, self.num_samples)).sum(axis=1, dtype=np.int64)
            _verify_checksums(header, sums, record)

    def millivolts(self, start: int, stop: int) -> NDArray[np.float32]:
        """The samples from `start` to before `stop` as the whole record has them, `(num_leads, stop - start)`."""
        adc = self._integers(start, stop)
        if is_format_16(self.header):
            return DigitalEcg(adc, _gain_per_mv(self.header), _baseline(self.header)).to_millivolts()  # type: ignore[arg-type]
        return _other_millivolts(self.header, adc)  # type: ignore[arg-type]

    def _integers(self, start: int, stop: int) -> NDArray[np.int16] | NDArray[np.int64]:
        if not is_format_16(self.header):
            return _decode_with_wfdb(self.header, self.record, start, stop)
        adc = np.empty((len(self.header.leads), stop - start), dtype=np.int16)
        first_lead = 0
        for file in self._files:
            _read_interleaved(file, adc[first_lead : first_lead + file.num_leads], self.record, start)
            first_lead += file.num_leads
        return adc


def _signal_files(header: WfdbHeader, record: str) -> list[_SignalFile]:
    """The record's files in header order, or an error where this library does not read how they are laid out."""
    folder = os.path.dirname(record)
    files: list[_SignalFile] = []
    if len({_WHERE_AND_HOW_STORED(lead) for lead in header.leads}) == 1:  # as nearly always; groupby takes longer
        first = header.leads[0]
        _check_file_name(first.file_name, first, record)
        _check_layout(first.format, first.samples_per_frame, first.skew, first, record)
        path = os.path.join(folder, first.file_name)
        return [_SignalFile(first.file_name, path, first.format, first.byte_offset, len(header.leads))]
    for (name, signal_format, frame, skew, offset), group in groupby(header.leads, key=_WHERE_AND_HOW_STORED):
        leads = list(group)
        _check_file_name(name, leads[0], record)
        _check_layout(signal_format, frame, skew, leads[0], record)
        if any(file.name == name for file in files):
            raise RecordError(
                record,
                f"its header splits the leads in '{name}' into groups of different layout, or returns to it after "
                "another file.",
                _DOWNLOAD_AGAIN,
            )
        files.append(_SignalFile(name, os.path.join(folder, name), signal_format, offset, len(leads)))
    return files


def _check_layout(signal_format: int, frame: int, skew: int, lead: WfdbLead, record: str) -> None:
    if frame != 1 or skew != 0:
        raise RecordError(
            record,
            f"lead {lead.name} has {frame} samples per frame and a skew of {skew}; this reader takes leads of one rate "
            "that start together.",
            "Resample or align it with wfdb.rdrecord(...), then save it with wfdb.wrsamp(...).",
        )
    if signal_format not in _FORMATS:
        raise RecordError(
            record,
            f"lead {lead.name} is stored in the WFDB format {signal_format}, which this reader does not know.",
            "Write it as format 16 with wfdb.rdrecord(...) and wfdb.wrsamp(..., fmt=['16', ...]).",
        )


def _check_file_name(name: str, lead: WfdbLead, record: str) -> None:
    """A header may come from anywhere: it must not make us open a file outside its own folder."""
    if name in ("~", "-"):
        raise RecordError(
            record,
            f"lead {lead.name} has no signal file ('{name}' in the header).",
            "Remove the lead from the .hea file, or leave this record out.",
        )
    if name in (".", "..") or _NOT_IN_FILE_NAMES.search(name):
        raise RecordError(
            record,
            f"its header names the signal file '{name}', which may lie outside the record's folder.",
            "Put header and signal file into one folder and name the file without a path.",
        )


def _sizes_on_disk(files: list[_SignalFile], record: str) -> list[int]:
    sizes = []
    for file in files:
        try:
            status = os.stat(file.path)
        except OSError as error:
            raise RecordError(
                record,
                f"its signal file '{file.name}' cannot be opened ({error.strerror}).",
                "Put it beside the header.",
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(record, f"its signal file '{file.name}' is not a file.", "Put the signal file there.")
        sizes.append(status.st_size)
    return sizes


def _checked_num_samples(header: WfdbHeader, files: list[_SignalFile], sizes: list[int], record: str) -> int:
    """Samples per lead, after checking that every file holds exactly as many."""
    num_samples = header.num_samples
    for file, size in zip(files, sizes, strict=True):
        layout = _FORMATS[file.format]
        num_bytes = size - file.byte_offset
        if num_samples is None:
            num_samples = num_bytes * layout.block_samples // (layout.block_bytes * file.num_leads)
        total = num_samples * file.num_leads
        if num_samples * len(header.leads) > _MAX_SAMPLES:
            raise RecordError(
                record,
                f"{len(header.leads)} leads of {num_samples:,} samples are more than {_MAX_SAMPLES:,} (24 hours of "
                "twelve leads at 1 kHz), the most that is read at once.",
                "Cut it into shorter records.",
            )
        shortest = -(-total * layout.block_bytes // layout.block_samples)
        longest = -(-total // layout.block_samples) * layout.block_bytes  # writers may fill the last block
        if num_samples <= 0:
            raise RecordError(record, f"its signal file '{file.name}' holds no samples.", _DOWNLOAD_AGAIN)
        if not shortest <= num_bytes <= longest:
            raise RecordError(
                record,
                f"its signal file '{file.name}' has {size} bytes; {file.num_leads} leads of {num_samples} "
                f"samples in format {file.format} at byte {file.byte_offset} need {file.byte_offset + shortest}.",
                _DOWNLOAD_AGAIN,
            )
    if num_samples is None:
        raise RecordError(record, "its header describes no leads.", "Leave this record out.")
    return num_samples


def _verify_checksums(header: WfdbHeader, sums: NDArray[np.integer], record: str) -> None:
    if header.num_samples is None:
        return  # the header format defines checksums only for records whose length it gives
    for lead, total in zip(header.leads, sums.tolist(), strict=True):
        if (total - lead.checksum) % 65536:
            raise RecordError(
                record,
                f"the samples of lead {lead.name} do not match the header's checksum (sum {total % 65536}, header "
                f"{lead.checksum % 65536}): signal file or header was changed after it was written.",
                f"{_DOWNLOAD_AGAIN} verify_checksum=False reads it as it is.",
            )


def _gain_per_mv(header: WfdbHeader) -> NDArray[np.float64]:
    return np.array([lead.gain_per_mv for lead in header.leads], dtype=np.float64)


def _baseline(header: WfdbHeader) -> NDArray[np.int32]:
    return np.array([lead.baseline for lead in header.leads], dtype=np.int32)
