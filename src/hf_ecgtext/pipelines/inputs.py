"""What people hand to a pipeline: one recording, many, or a stream; each is opened, and then read window by window."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers.utils import is_torch_tensor

from hf_ecgtext.data.records import AnyEcg, EcgRecord
from hf_ecgtext.data.units import units_per_millivolt
from hf_ecgtext.data.wfdb.reading import LongRecord, open_record
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS, canonical_lead_name
from hf_ecgtext.processing.inputs import check_sampling_rate, collect_recordings
from hf_ecgtext.processing.windows import cut

EcgInput = str | os.PathLike[str] | AnyEcg | Mapping[str, Any] | Any
"""One recording: a path of a WFDB record; an `EcgRecord`; an array, data frame or series with `sampling_rate_hz`; a
`wfdb.Record`, or what `wfdb.rdsamp` returns; a mapping of one of these under `"ecg"` and of the other arguments; or a
row of a stored dataset."""

LeadNames = Sequence[str] | Mapping[str, str]
"""One name per row, or new names by those that the recording has."""

_MAPPING_KEYS = ("lead_names", "sampling_rate_hz", "unit")
_ALSO_IN_MAPPINGS = {"ecg", "sampling_rate", "index"}  # transformers' name of the rate; the items of our datasets


class UnknownLeadError(RecordError):
    """A recording has rows that are none of the twelve leads by their names.

    Args:
        record (`str`): Path or id of the recording.
        names (`Sequence[str]`): Of these rows.
    """

    def __init__(self, record: str, names: Sequence[str]):
        self.names = tuple(names)
        known = f"known are {', '.join(STANDARD_LEADS)} and their usual spellings"
        super().__init__(record, f"unknown lead names {list(names)}; {known}.", "")
        example = ", ".join(f"{name!r}: {self.likely_lead(name)!r}" for name in self.names[:1])
        self.explain(f"lead_names={{{example}}}", 'unknown_leads="ignore"')

    def explain(self, rename: str, ignore: str) -> None:
        """Say what to do in the words of the place where it is said."""
        self.fix = f"Correct the names, as by {rename}, or leave these rows out by {ignore}."
        self.args = (f"Record '{self.record}': {self.problem} {self.fix}",)

    @staticmethod
    def likely_lead(name: str) -> str:
        """The lead that Holter recorders call by a name such as `MLII`, a modified lead II."""
        return canonical_lead_name(name.strip().upper().removeprefix("ML").removeprefix("M")) or "..."

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.record, self.names)


class OpenEcg(NamedTuple):
    """One recording, of which parts can be read.

    Args:
        record_id (`str`): What messages call it.
        num_samples (`int`): Samples per lead.
        sampling_rate_hz (`float`): Samples per second.
        lead_names (`tuple[str, ...]`): One per row.
        read (`Callable[[int, int], Any]`): The samples from the first number to before the second, as the feature
            extractor takes them.
        options (`Mapping[str, Any]`): What the feature extractor must be told beside.
    """

    record_id: str
    num_samples: int
    sampling_rate_hz: float
    lead_names: tuple[str, ...]
    read: Callable[[int, int], Any]
    options: Mapping[str, Any]


def recordings_in(ecg: Any) -> tuple[Iterable[Any], Literal["one", "list", "stream"]]:
    """The recordings in what a pipeline was given, and whether they are one, a list to answer, or a stream of answers.

    Raises:
        ValueError: If there is no recording.
    """
    items: Any = None
    if isinstance(ecg, Mapping):
        if _is_batch(ecg.get("ecg")):
            items = [{**ecg, "ecg": one} for one in ecg["ecg"]]
    elif _is_batch(ecg) or _comes_from(ecg, "datasets", "Column", "IterableColumn"):
        items = list(ecg)
    elif isinstance(ecg, Iterator | Dataset) or _comes_from(ecg, "datasets", "Dataset", "IterableDataset"):
        return ecg, "stream"
    elif _comes_from(ecg, "pandas", "Series"):
        items = None if ecg.dtype.kind in "fiub" else list(ecg)
    elif isinstance(ecg, np.ndarray) and ecg.dtype.kind in "OUST":
        items = ecg.ravel().tolist() if ecg.ndim else None
        ecg = ecg.item() if ecg.ndim == 0 else ecg
    elif isinstance(ecg, list | tuple) and not _is_rdsamp(ecg):
        items = list(ecg)
    if items is None:
        return [ecg], "one"
    if not items:
        raise ValueError(f"ecg is an empty {type(ecg).__name__}: pass at least one recording.")
    return items, "list"


def same_rate(sampling_rate_hz: float | None, sampling_rate: float | None) -> float | None:
    """The rate under the name that this library uses, or under that of transformers.

    Raises:
        ValueError: If both are given and differ.
    """
    if sampling_rate_hz is not None and sampling_rate is not None and sampling_rate_hz != sampling_rate:
        raise ValueError(
            f"sampling_rate_hz={sampling_rate_hz} and sampling_rate={sampling_rate} are two rates: pass "
            "sampling_rate_hz only."
        )
    return sampling_rate if sampling_rate_hz is None else sampling_rate_hz


def open_ecg(
    ecg: EcgInput,
    name: str,
    sampling_rate_hz: float | None = None,
    lead_names: LeadNames | None = None,
    unit: str = "mV",
) -> OpenEcg:
    """Opens one recording.

    Args:
        ecg: See `EcgInput`.
        name (`str`): What messages call a recording that has no name of its own.
        sampling_rate_hz (`float`, *optional*): Of arrays and data frames; others bring their own.
        lead_names (`Sequence[str]` or `Mapping[str, str]`, *optional*): One per row, in place of those that the
            recording has; or new names for some. Arrays of twelve rows hold the standard leads by default.
        unit (`str`): Of arrays and data frames.

    Raises:
        RecordError: If the recording cannot be used.
        TypeError: If it is nothing that holds a recording.
        ValueError: If an argument is missing, impossible or contradicts the recording.
    """
    if isinstance(ecg, Mapping):
        if "samples" in ecg and "ecg" not in ecg:
            return _with_own_facts(_stored_row(ecg, name), sampling_rate_hz, lead_names, unit)
        if "ecg" not in ecg or not ecg.keys() <= {*_MAPPING_KEYS, *_ALSO_IN_MAPPINGS}:
            raise ValueError(
                f"A mapping holds the signal under 'ecg' and may hold {', '.join(_MAPPING_KEYS)}; "
                f"this one has {', '.join(map(repr, ecg))}."
            )
        own_rate = same_rate(ecg.get("sampling_rate_hz"), ecg.get("sampling_rate"))
        return open_ecg(
            ecg["ecg"],
            name,
            sampling_rate_hz if own_rate is None else own_rate,
            lead_names if ecg.get("lead_names") is None else ecg["lead_names"],
            unit if ecg.get("unit") is None else ecg["unit"],
        )
    if isinstance(ecg, str | os.PathLike):
        return _with_own_facts(open_record(ecg), sampling_rate_hz, lead_names, unit)
    if isinstance(ecg, AnyEcg):
        return _with_own_facts(ecg, sampling_rate_hz, lead_names, unit)
    if _is_rdsamp(ecg):
        signal, fields = ecg
        record = _physical(name, signal, fields["fs"], fields["sig_name"], fields.get("units"))
        return _with_own_facts(record, sampling_rate_hz, lead_names, unit)
    if _comes_from(ecg, "wfdb", "Record", "MultiRecord"):
        return _with_own_facts(_wfdb_record(ecg, name), sampling_rate_hz, lead_names, unit)
    own_names = None
    if _comes_from(ecg, "pandas", "DataFrame"):
        own_names, ecg = tuple(map(str, ecg.columns)), _numbers(ecg, name).T
    elif _comes_from(ecg, "pandas", "Series"):
        own_names, ecg = None if ecg.name is None else (str(ecg.name),), _numbers(ecg, name)
    elif isinstance(ecg, list):
        ecg = _array_of_lists(ecg, name)
    if isinstance(lead_names, Mapping):
        if own_names is None:
            raise ValueError(
                f"Record '{name}': lead_names={dict(lead_names)} gives new names, but an array has none. Pass a list "
                "of one name per row."
            )
        lead_names = _renamed(own_names, lead_names, name)
    (recording, *others) = collect_recordings(
        ecg, sampling_rate_hz, own_names if lead_names is None else lead_names, unit, None
    )
    if others:
        raise ValueError(
            f"Record '{name}': expected one recording, got {1 + len(others)} in one {type(ecg).__name__}. Pass several "
            "as a list: list(ecg)."
        )
    signal, rate, names, _ = recording
    options = {"sampling_rate_hz": rate, "lead_names": names, "unit": unit, "record_ids": [name]}
    return OpenEcg(name, signal.shape[1], rate, names, lambda start, stop: signal[:, start:stop], options)


def _with_own_facts(
    ecg: AnyEcg | LongRecord, sampling_rate_hz: float | None, lead_names: LeadNames | None, unit: str
) -> OpenEcg:
    """A recording that brings its rate, unit and names, after a look at those that were given beside."""
    check_sampling_rate(ecg.sampling_rate_hz, ecg.record_id)
    if sampling_rate_hz is not None and sampling_rate_hz != ecg.sampling_rate_hz:
        raise RecordError(
            ecg.record_id,
            f"it has {ecg.sampling_rate_hz:g} Hz by itself, but sampling_rate_hz={sampling_rate_hz!r} was given.",
            "Leave sampling_rate_hz out: it is for arrays.",
        )
    if unit != "mV":
        raise RecordError(
            ecg.record_id, f"it brings its own unit, but unit={unit!r} was given.", "Leave unit out: it is for arrays."
        )
    names = ecg.lead_names if lead_names is None else _renamed(ecg.lead_names, lead_names, ecg.record_id)

    def read(start: int, stop: int) -> AnyEcg:
        part = ecg.read(start, stop) if isinstance(ecg, LongRecord) else cut(ecg, start, stop)
        return part if lead_names is None else dataclasses.replace(part, lead_names=names)

    return OpenEcg(ecg.record_id, ecg.num_samples, ecg.sampling_rate_hz, names, read, {})


def _renamed(own_names: tuple[str, ...], lead_names: LeadNames, record_id: str) -> tuple[str, ...]:
    if isinstance(lead_names, str):
        raise TypeError(f'lead_names must be a list of names, such as ["{lead_names}"].')
    if isinstance(lead_names, Mapping):
        absent = [name for name in lead_names if name not in own_names]
        if absent:
            raise RecordError(
                record_id,
                f"it has no lead {', '.join(absent)} to be renamed.",
                f"Its leads are {', '.join(own_names)}.",
            )
        return tuple(lead_names.get(name, name) for name in own_names)
    if len(lead_names) != len(own_names):
        raise RecordError(
            record_id,
            f"it has {len(own_names)} leads ({', '.join(own_names)}), but lead_names gives {len(lead_names)}.",
            "Pass one name per lead, or new names by the old ones.",
        )
    return tuple(lead_names)


def _stored_row(row: Mapping[str, Any], name: str) -> AnyEcg:
    # Its module imports datasets and pyarrow, which whoever has such a row has imported already.
    from hf_ecgtext.data.store.schema import ECG_FEATURES, row_to_stored

    absent = [column for column in ECG_FEATURES if column not in row]
    if absent:
        raise ValueError(f"Record '{name}': this row of a dataset has no {', '.join(absent)}. Keep the stored columns.")
    return row_to_stored(row)


def _wfdb_record(record: Any, name: str) -> LongRecord:
    """A `wfdb.Record` in physical or in stored units."""
    name = record.record_name or name
    if type(record).__name__ == "MultiRecord":
        raise RecordError(name, "it has several segments.", "Join them: wfdb.rdrecord(..., m2s=True).")
    if record.p_signal is not None:
        return _physical(name, record.p_signal, record.fs, record.sig_name, record.units)
    if record.d_signal is None:
        raise RecordError(name, "it holds no signal of one rate.", "Read it by wfdb.rdrecord(..., smooth_frames=True).")

    def converted(start: int, stop: int) -> NDArray[Any]:
        part = copy.copy(record)
        part.d_signal = record.d_signal[start:stop]
        return part.dac()

    return _physical(name, record.d_signal, record.fs, record.sig_name, record.units, converted)


def _physical(
    name: str,
    signal: Any,
    sampling_rate_hz: float,
    lead_names: Sequence[str],
    units: Sequence[str] | None,
    part: Callable[[int, int], NDArray[Any]] | None = None,
) -> LongRecord:
    """A signal `(num_samples, num_leads)` in the units of its leads, of which each part becomes millivolts."""
    signal = np.asarray(signal)
    if signal.ndim != 2 or signal.shape[1] != len(lead_names):
        raise RecordError(
            name,
            f"shape {signal.shape} is not (num_samples, num_leads) for {len(lead_names)} lead names.",
            "Pass the signal and fields as wfdb.rdsamp returns them.",
        )
    units = ["mV"] * len(lead_names) if units is None else units
    per_millivolt = np.empty(len(lead_names))
    for index, (lead, unit) in enumerate(zip(lead_names, units, strict=True)):
        try:
            per_millivolt[index] = units_per_millivolt(unit)
        except ValueError as error:
            raise RecordError(
                name, f"lead {lead} {error}.", "Leave it out by channel_names=, or correct its unit."
            ) from error

    def read(start: int, stop: int) -> EcgRecord:
        values = signal[start:stop] if part is None else part(start, stop)
        millivolts = np.ascontiguousarray((values / per_millivolt).T, dtype=np.float32)
        return EcgRecord(millivolts, sampling_rate_hz, tuple(lead_names), name)

    return LongRecord(len(signal), sampling_rate_hz, tuple(lead_names), name, read)


def _numbers(table: Any, name: str) -> NDArray[Any]:
    """The values of a data frame or series; pandas' own mark of a missing value becomes NaN."""
    values = table.to_numpy()
    if values.dtype.kind in "fiu":
        return values
    try:
        return table.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise RecordError(
            name, f"its data frame or series holds something else than numbers ({error}).", "Keep the leads' columns."
        ) from error


def _array_of_lists(values: list[Any], name: str) -> NDArray[Any]:
    """A signal as nested lists of numbers, as a column of a dataset holds it."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        array = np.asarray(values, dtype=object)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise TypeError(
            f"Record '{name}': a list of numbers is no recording. Pass an array of shape (num_leads, num_samples): "
            "np.asarray(leads)."
        )
    return array


def _is_batch(value: Any) -> bool:
    return (isinstance(value, np.ndarray) or is_torch_tensor(value)) and value.ndim == 3


def _is_rdsamp(value: Any) -> bool:
    """What `wfdb.rdsamp` returns: a signal, and a dictionary about it."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[1], Mapping)
        and {"fs", "sig_name"} <= value[1].keys()
    )


def _comes_from(value: Any, package: str, *names: str) -> bool:
    """Whether a value is of a class of a package that may not be imported."""
    return any(kind.__name__ in names and kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)
