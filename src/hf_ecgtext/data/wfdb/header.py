"""WFDB header files (`.hea`): text in, typed fields out, and a clear error for everything that is not understood.

The grammar is that of the WFDB header format, written out at `_SIGNAL_LINE` and in `_parse_record_line`, plus what
PhysioNet's 2020 and 2021 challenge files add to it: dates such as `12-May-2020`, written before the time, and `.mat`
inside the record name.

Source: https://physionet.org/physiotools/wag/header-5.htm for the fields and their defaults; real headers of PTB-XL,
Chapman-Shaoxing-Ningbo and the PhysioNet/CinC challenges 2020 and 2021 for the variants.
"""

from __future__ import annotations

import datetime
import os
import re
from functools import lru_cache
from typing import NamedTuple

from hf_ecgtext.data.plausibility import check_sampling_rate
from hf_ecgtext.data.units import units_per_millivolt
from hf_ecgtext.errors import RecordError
from hf_ecgtext.io import READ_ONLY

DEFAULT_SAMPLING_RATE_HZ = 250.0
"""What WFDB assumes when a header gives no sampling rate."""

DEFAULT_GAIN = 200.0
"""What WFDB assumes, in ADC units per physical unit, when a header gives no gain or a gain of 0."""

_GAIN_PER_MV_LIMITS = (1e-6, 1e12)  # an ADC step of 1 kV or of 1 fV is a misprint, and would overflow float32
_INITIAL_VALUES = range(-(2**31), 2**31)  # samples have 32 bit at most
_MAX_HEADER_BYTES = 1 << 16  # real headers have less than 2 kB

_NUMBER = r"[-+]?(?:\d{1,15}\.?\d{0,20}|\.\d{1,20})(?:[eE][-+]?\d{1,3})?"
_INTEGER = r"[-+]?\d{1,15}"
_FREQUENCY_FIELD = re.compile(rf"({_NUMBER})(?:/{_NUMBER}(?:\({_NUMBER}\))?)?", re.ASCII)
_TIME_FIELD = re.compile(r"(?:(?:(\d{1,2}):)?(\d{1,2}):)?(\d{1,2})(?:\.(\d{1,6}))?", re.ASCII)
_DATE_FIELD = re.compile(r"(\d{1,2})([/-])(\d{1,2}|[A-Za-z]{3})\2(\d{4})", re.ASCII)
_ISO_DATE_FIELD = re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

# file  format[xFRAME][:SKEW][+OFFSET]  gain[(baseline)][/unit]  resolution  zero  initial  checksum  block  name
# Each field after the format may be left out, together with all that follow it.
_SIGNAL_LINE = re.compile(
    rf"(\S+)\s+(\d{{1,3}})(?:x(\d{{1,5}}))?(?::(\d{{1,9}}))?(?:\+(\d{{1,12}}))?"
    rf"(?:\s+({_NUMBER})(?:\(({_INTEGER})\))?(?:/(\S+))?"
    rf"(?:\s+{_INTEGER}(?:\s+({_INTEGER})(?:\s+({_INTEGER})(?:\s+({_INTEGER})(?:\s+{_INTEGER}(?:\s+(\S.*))?)?)?)?)?)?)?",
    re.ASCII,
)


# The same with single spaces, as nearly every header is written: four fields that a record's leads mostly share, and
# then the numbers that differ.
_TIDY_SIGNAL_LINE = re.compile(
    rf"^(\S+) (\S+ \S+ \S+ \S+) ({_INTEGER}) ({_INTEGER}) {_INTEGER} (\S.*)$",
    re.ASCII | re.MULTILINE,
)


class WfdbLead(NamedTuple):
    """One signal line of a header.

    Args:
        file_name (`str`): Signal file, beside the header.
        format (`int`): WFDB signal format, such as 16 or 212.
        samples_per_frame (`int`): 1 unless the lead is sampled faster than the record's rate.
        skew (`int`): Samples by which the lead lags behind the others.
        byte_offset (`int`): Where the samples start in the file; 24 in PhysioNet's `.mat` files.
        gain_per_mv (`float`): ADC units per millivolt, not zero; may be negative.
        baseline (`int`): ADC value of 0 mV.
        initial_value (`int`): First sample, in ADC units.
        checksum (`int`): Sum of all samples, of which the low 16 bits count.
        name (`str`): The lead, as the header spells it.
    """

    file_name: str
    format: int
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain_per_mv: float
    baseline: int
    initial_value: int
    checksum: int
    name: str


class WfdbHeader(NamedTuple):
    """What a header file says about a single-segment record.

    Args:
        record_name (`str`): First field of the record line.
        sampling_rate_hz (`float`): Samples per second.
        num_samples (`int`, *optional*): Samples per lead; `None` where the header leaves it to the signal file.
        base_time (`datetime.time`, *optional*): Time of day of the first sample.
        base_date (`datetime.date`, *optional*): Date of the first sample.
        unread (`tuple[str, ...]`): What the header says and no one understands, and the signal does not depend on:
            misprinted times and dates, and lines after those of the leads.
        leads (`tuple[WfdbLead, ...]`): In file order, at least one.
        comments (`tuple[str, ...]`): Comment lines without the leading `#`.
    """

    record_name: str
    sampling_rate_hz: float
    num_samples: int | None
    base_time: datetime.time | None
    base_date: datetime.date | None
    unread: tuple[str, ...]
    leads: tuple[WfdbLead, ...]
    comments: tuple[str, ...]

    @property
    def lead_names(self) -> tuple[str, ...]:
        """Name of each lead, as the header spells it."""
        return tuple([lead.name for lead in self.leads])


def read_wfdb_header(header_path: str) -> WfdbHeader:
    """Read and parse one `.hea` file: UTF-8, else Latin-1, with any line ending.

    Args:
        header_path (`str`): Path of the header, with its extension.

    Raises:
        RecordError: If the file cannot be read or says something that cannot be right.
    """
    record = header_path.removesuffix(".hea")
    try:
        descriptor = os.open(header_path, READ_ONLY)
        try:
            content = os.read(descriptor, _MAX_HEADER_BYTES + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise RecordError(
            record, f"cannot read its header ({error}).", "Check the path and its permissions."
        ) from error
    return decode_wfdb_header(content, record)


def decode_wfdb_header(content: bytes, record: str) -> WfdbHeader:
    """Parse the content of a `.hea` file: UTF-8, else Latin-1, with any line ending.

    Args:
        content (`bytes`): The whole file.
        record (`str`): What errors call the record.

    Raises:
        RecordError: If the header says something that cannot be right.
    """
    if len(content) > _MAX_HEADER_BYTES:
        raise RecordError(record, "its header is longer than 64 kB.", "Check that the .hea file is a WFDB header.")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return parse_wfdb_header(text, record)


def parse_wfdb_header(text: str, record: str) -> WfdbHeader:
    """Parse the text of a single-segment header.

    Args:
        text (`str`): The whole file.
        record (`str`): What errors call the record.

    Raises:
        RecordError: If a line does not follow the format, a unit is unknown, or the numbers cannot be right.
    """
    comments: list[str] = []
    lines: list[str] = []
    # Not str.splitlines: it also splits at characters that may stand inside a Latin-1 comment, such as \x85.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("#"):
            comments.append(stripped[1:].strip())
        elif stripped:
            lines.append(stripped)
    if not lines:
        raise RecordError(record, "its header holds no record line.", "Download the .hea file again.")

    record_line = _parse_record_line(lines[0], record)
    surplus = lines[1 + record_line.num_leads :]
    # Readers of the format stop after the leads announced, whatever follows. That is safe where the length is given:
    # the size of the signal file then tells whether the number of leads is right.
    if record_line.num_leads > len(lines) - 1 or (surplus and record_line.num_samples is None):
        raise RecordError(
            record,
            f"its header announces {record_line.num_leads} leads but describes {len(lines) - 1}.",
            "Download the .hea file again.",
        )
    lead_lines = lines[1 : 1 + record_line.num_leads]
    leads = _parse_tidy_signal_lines(lead_lines) or tuple([_parse_any_signal_line(line, record) for line in lead_lines])
    names = [lead.name for lead in leads]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RecordError(
            record, f"its header names {', '.join(twice)} more than once.", "Give each lead its own name."
        )
    return WfdbHeader(
        record_line.record_name,
        record_line.sampling_rate_hz,
        record_line.num_samples,
        record_line.base_time,
        record_line.base_date,
        (*record_line.unread, *(f"the surplus line '{line}'" for line in surplus)),
        leads,
        tuple(comments),
    )


class _RecordLine(NamedTuple):
    """The first fields of [`WfdbHeader`], and how many leads there are."""

    record_name: str
    num_leads: int
    sampling_rate_hz: float
    num_samples: int | None
    base_time: datetime.time | None
    base_date: datetime.date | None
    unread: tuple[str, ...]


def _parse_record_line(line: str, record: str) -> _RecordLine:
    """`name[/segments] leads [rate[/counter[(base)]] [samples [time and date, in either order]]]`."""

    def wrong(what: str, fix: str = "Correct the first line of the .hea file.") -> RecordError:
        return RecordError(record, f"the record line '{line}' of its header {what}.", fix)

    fields = line.split()
    record_name = fields[0]
    segments = record_name.rpartition("/")[2] if "/" in record_name else ""
    if segments.isdecimal():  # PTB-XL+ writes a folder there ("some/name"), which says nothing about the signal
        raise wrong(
            "announces a multi-segment record, which this reader does not join",
            "Read its segments one by one, or write one segment with wfdb.rdrecord(...) and wfdb.wrsamp(...).",
        )
    if len(fields) < 2 or not _is_count(fields[1]):
        raise wrong("does not give the number of leads")
    num_leads = int(fields[1])
    if num_leads == 0:
        raise wrong("announces no leads", "Leave this record out.")

    sampling_rate_hz = DEFAULT_SAMPLING_RATE_HZ
    if len(fields) > 2:
        match = _FREQUENCY_FIELD.fullmatch(fields[2])
        if match is None:
            raise wrong(f"gives '{fields[2]}' as sampling rate")
        sampling_rate_hz = float(match[1])
        check_sampling_rate(sampling_rate_hz, record, "Correct the first line of its .hea file.")
    num_samples = None
    if len(fields) > 3:
        if not _is_count(fields[3]):
            raise wrong(f"gives '{fields[3]}' as number of samples")
        num_samples = int(fields[3]) or None  # the format says that 0 means "not given"

    base_time: datetime.time | None = None
    base_date: datetime.date | None = None
    unread = []
    for field in fields[4:]:
        moment = _parse_time_or_date(field)
        if isinstance(moment, datetime.time) and base_time is None:
            base_time = moment
        elif isinstance(moment, datetime.date) and base_date is None:
            base_date = moment
        else:
            unread.append(f"'{field}', which is no time or date (HH:MM:SS DD/MM/YYYY)")
    return _RecordLine(record_name, num_leads, sampling_rate_hz, num_samples, base_time, base_date, tuple(unread))


def _parse_tidy_signal_lines(lines: list[str]) -> tuple[WfdbLead, ...] | None:
    """All signal lines at once, or `None` where one of them is not tidy or cannot be right."""
    found = _TIDY_SIGNAL_LINE.findall("\n".join(lines))
    if len(found) != len(lines):
        return None
    leads = []
    for file_name, shared_fields, initial, checksum, name in found:
        shared = _parse_shared_fields(shared_fields)
        if shared is None or int(initial) not in _INITIAL_VALUES:
            return None
        leads.append(WfdbLead(file_name, *shared, int(initial), int(checksum), name))
    return tuple(leads)


@lru_cache(maxsize=256)
def _parse_shared_fields(fields: str) -> tuple[int, int, int, int, float, int] | None:
    """The parts of `WfdbLead` that `format gain resolution zero` give, or `None` where they cannot be right."""
    match = _SIGNAL_LINE.fullmatch(f"file {fields} 0 0 0 lead")
    if match is None:
        return None
    _, signal_format, frame, skew, offset, gain, baseline, unit, zero, *_ = match.groups()
    try:
        return *_parse_storage(signal_format, frame, skew, offset), *_parse_scale(gain, baseline, unit, zero)
    except ValueError:  # the caller parses the whole line again, for a message that names the lead
        return None


def _parse_any_signal_line(line: str, record: str) -> WfdbLead:
    match = _SIGNAL_LINE.fullmatch(line)
    if match is None:
        raise RecordError(
            record,
            f"the signal line '{line}' of its header does not follow the WFDB format.",
            "Correct it to 'file format gain(baseline)/unit resolution zero initial checksum block lead'.",
        )
    file_name, signal_format, frame, skew, offset, gain, baseline, unit, zero, initial, checksum, name = match.groups()
    if name is None:
        raise RecordError(
            record,
            f"the signal line '{line}' of its header names no lead.",
            "Leads are found by name: add the name as ninth field.",
        )
    try:
        gain_per_mv, baseline_adc = _parse_scale(gain, baseline, unit, zero)
        if int(initial) not in _INITIAL_VALUES:
            raise ValueError(f"has the initial value {initial}, beyond 32 bit")
    except ValueError as error:
        raise RecordError(
            record, f"lead {name} {error}.", "Correct its line in the .hea file, or remove the lead if it is no ECG."
        ) from error
    return WfdbLead(
        file_name,
        *_parse_storage(signal_format, frame, skew, offset),
        gain_per_mv,
        baseline_adc,
        int(initial),
        int(checksum),
        name,
    )


def _parse_storage(
    signal_format: str, frame: str | None, skew: str | None, offset: str | None
) -> tuple[int, int, int, int]:
    return int(signal_format), int(frame or 1), int(skew or 0), int(offset or 0)


def _parse_scale(gain: str | None, baseline: str | None, unit: str | None, zero: str | None) -> tuple[float, int]:
    """Gain in ADC units per mV, and the ADC value of 0 mV.

    Raises:
        ValueError: If one of them cannot be right; the message continues "lead V1 ...".
    """
    unit = unit or "mV"
    gain_per_mv = (float(gain or 0) or DEFAULT_GAIN) * units_per_millivolt(unit)
    smallest, largest = _GAIN_PER_MV_LIMITS
    if not smallest <= abs(gain_per_mv) <= largest:
        raise ValueError(f"has the gain {gain}/{unit}, which cannot be right")
    # The format says that a missing baseline is the ADC zero, and a missing ADC zero is 0.
    baseline_adc = int(baseline or zero or 0)
    if not -(2**31) <= baseline_adc < 2**31:
        raise ValueError(f"has the baseline {baseline_adc}, beyond 32 bit")
    return gain_per_mv, baseline_adc


def _is_count(field: str) -> bool:
    return len(field) <= 15 and field.isascii() and field.isdigit()


def _parse_time_or_date(field: str) -> datetime.time | datetime.date | None:
    """The moment a field of the record line spells, or `None` where it spells none."""
    try:
        if match := _TIME_FIELD.fullmatch(field):
            hour, minute, second, fraction = match.groups(default="0")
            return datetime.time(int(hour), int(minute), int(second), int(fraction.ljust(6, "0")))
        if match := _DATE_FIELD.fullmatch(field):
            month = match[3].lower()
            month_number = int(month) if month.isdigit() else _MONTHS.index(month) + 1
            return datetime.date(int(match[4]), month_number, int(match[1]))
        if match := _ISO_DATE_FIELD.fullmatch(field):
            return datetime.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:  # such as month 13, hour 25 or the month "Mai"
        return None
    return None
