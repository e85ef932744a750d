"""How recordings are stored: one Arrow schema for every dataset, int16 samples, and a decoder that is fast and exact.

Samples stay the integers of the source files (with per-lead gain and baseline), so that a stored dataset is half the
size of float32 and gives back exactly the source's millivolts; the few sources that are no integers (CPSC2018's own
files, CODE-test) are stored as float32 millivolts. Each record's samples are the bytes of one array, which decode at
the speed of memory, ten to thirty times as fast as nested lists of numbers. Only plain Arrow types are used:
`load_dataset` reads the files without this package. Decode with the functions here, and never with
`with_format("torch")` or `"numpy"`, which cut zero bytes off the end of binary values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from numpy.typing import NDArray

from hf_ecgtext.data.bad_records import BadRecords
from hf_ecgtext.data.records import INVALID_SAMPLE, DigitalEcg, EcgRecord, StoredEcg
from hf_ecgtext.data.store.rows import StoredRows
from hf_ecgtext.errors import RecordError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

ECG_FEATURES = Features(
    {
        "record_id": Value("string"),
        "patient_id": Value("string"),
        "sampling_rate_hz": Value("float64"),
        "lead_names": List(Value("string")),
        "num_samples": Value("int32"),
        "sample_type": Value("string"),  # "int16", or "float32": then the samples are millivolts
        "samples": Value("binary"),  # little-endian, one lead after the other: (num_leads, num_samples)
        "gain_per_mv": List(Value("float64")),
        "baseline": List(Value("int32")),
        "report": Value("string"),
        "labels": List(Value("string")),
    }
)
"""The columns every stored dataset has. Further columns of a dataset become `EcgRecord.attributes`."""

SAMPLE_DTYPES: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
"""NumPy's name of each `sample_type`."""

_SAMPLE_TYPES = {dtype: name for name, dtype in SAMPLE_DTYPES.items()}  # numpy takes microseconds to name a dtype

DEFAULT_GAIN_PER_MV = 1000.0
"""1 uV per unit, PTB-XL's own resolution: int16 then spans +-32.767 mV."""


def ecg_features(extra_columns: Mapping[str, Any]) -> Features:
    """`ECG_FEATURES` followed by the columns that only one dataset has.

    Raises:
        ValueError: If an extra column has the name of a common one.
    """
    clashes = sorted(set(extra_columns) & set(ECG_FEATURES))
    if clashes:
        raise ValueError(f"The columns {clashes} are part of every stored dataset; give the extra columns other names.")
    return Features({**ECG_FEATURES, **extra_columns})


def quantize(record: EcgRecord, gain_per_mv: float = DEFAULT_GAIN_PER_MV) -> DigitalEcg:
    """The signal as int16 with a baseline of 0, each sample rounded to the nearest `1 / gain_per_mv` millivolts.

    Raises:
        RecordError: If a sample is infinite or does not fit into 16 bits.
    """
    adc = np.rint(record.signal.astype(np.float64) * gain_per_mv)
    missing = np.isnan(adc)
    adc[missing] = 0
    largest = float(np.abs(adc).max(initial=0))
    if largest > np.iinfo(np.int16).max:  # -32768 is `INVALID_SAMPLE`, so both limits are 32767
        raise RecordError(
            record.record_id,
            f"A sample of {largest / gain_per_mv:g} mV does not fit into 16 bits at {gain_per_mv:g} units per mV.",
            "Check the unit of the signal, or pass the integers of the source file as `digital`.",
        )
    adc[missing] = INVALID_SAMPLE
    num_leads = len(record.lead_names)
    return DigitalEcg(adc.astype(np.int16), np.full(num_leads, gain_per_mv), np.zeros(num_leads, dtype=np.int32))


def record_to_row(record: EcgRecord, digital: DigitalEcg | None = None, *, as_float: bool = False) -> dict[str, Any]:
    """The record as one row of a stored dataset; its attributes become columns. Header comments are not stored.

    Args:
        record (`EcgRecord`): What to store.
        digital (`DigitalEcg`, *optional*): The integers of the source file, stored as they are. Without them the
            signal is rounded to 1 uV, which loses nothing where it was already on that grid.
        as_float (`bool`): Store float32 millivolts instead: for sources that are no integers.

    Raises:
        RecordError: If the signal does not fit into 16 bits, `digital` has another shape than the signal, or an
            attribute has the name of a common column.
    """
    num_leads = len(record.lead_names)
    if as_float:
        samples: NDArray[Any] = record.signal.astype(np.float32, copy=False)
        gain_per_mv, baseline = np.ones(num_leads), np.zeros(num_leads, dtype=np.int32)
    else:
        digital = quantize(record) if digital is None else digital
        samples, gain_per_mv, baseline = digital.adc, digital.gain_per_mv, digital.baseline
    if samples.shape != record.signal.shape:
        raise RecordError(
            record.record_id,
            f"The integers have shape {samples.shape} but the signal has shape {record.signal.shape}.",
            "Pass the integers of the same recording.",
        )
    return samples_to_row(
        samples,
        gain_per_mv,
        baseline,
        record_id=record.record_id,
        patient_id=record.patient_id,
        sampling_rate_hz=record.sampling_rate_hz,
        lead_names=record.lead_names,
        report=record.report,
        labels=record.labels,
        attributes=record.attributes,
    )


def samples_to_row(
    samples: NDArray[Any],
    gain_per_mv: NDArray[np.float64],
    baseline: NDArray[np.int32],
    *,
    record_id: str,
    patient_id: str | None,
    sampling_rate_hz: float,
    lead_names: Sequence[str],
    report: str | None,
    labels: Sequence[str],
    attributes: Mapping[str, Any],
) -> dict[str, Any]:
    """A row from stored samples, without the detour over millivolts.

    Args:
        samples (`np.ndarray` of shape `(num_leads, num_samples)`): int16, or float32 in millivolts.
        gain_per_mv, baseline (`np.ndarray` of shape `(num_leads,)`): As in [`DigitalEcg`]; 1 and 0 for float32.
        attributes (`Mapping[str, Any]`): Values of the columns that only this dataset has; the others are those of
            [`EcgRecord`].

    Raises:
        RecordError: If an attribute has the name of a common column.
    """
    if not ECG_FEATURES.keys().isdisjoint(attributes):
        clashes = sorted(set(attributes) & set(ECG_FEATURES))
        raise RecordError(record_id, f"The attributes {clashes} are names of columns.", "Rename them.")
    return {
        "record_id": record_id,
        "patient_id": patient_id,
        "sampling_rate_hz": sampling_rate_hz,
        "lead_names": list(lead_names),
        "num_samples": samples.shape[1],
        "sample_type": _SAMPLE_TYPES.get(samples.dtype) or samples.dtype.name,
        "samples": samples,
        "gain_per_mv": gain_per_mv,
        "baseline": baseline,
        "report": report,
        "labels": list(labels),
        **attributes,
    }


def rows_to_table(
    rows: Sequence[Mapping[str, Any]],
    features: Features | pa.Schema = ECG_FEATURES,
    samples: pa.BinaryArray | None = None,
) -> pa.Table:
    """Rows of `record_to_row` as an Arrow table with exactly the columns of `features`.

    Keep it to some hundred rows: Arrow counts the bytes of one table's samples in 31 bits.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): One per record.
        features (`datasets.Features` or `pa.Schema`): Of the dataset; its `arrow_schema` saves making it every time.
        samples (`pa.BinaryArray`, *optional*): Their samples, where they are one array already; those of the rows do
            not matter then.

    Raises:
        RecordError: If a row lacks a column.
    """
    schema = features if isinstance(features, pa.Schema) else features.arrow_schema
    names = set(schema.names)
    for row in rows:
        if not names <= row.keys():
            absent = [name for name in schema.names if name not in row]
            raise RecordError(str(row.get("record_id")), f"No value for the columns {absent}.", "Use None for unknown.")
    columns = [
        (_samples_column([row["samples"] for row in rows]) if samples is None else samples)
        if field.name == "samples"
        else pa.array([row[field.name] for row in rows], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _samples_column(signals: Sequence[NDArray[Any]]) -> pa.BinaryArray:
    # One buffer for all: half the copies of a Python `bytes` object per record.
    parts = [
        np.ascontiguousarray(signal, SAMPLE_DTYPES[signal.dtype.name]).reshape(-1).view(np.uint8) for signal in signals
    ]
    ends = np.cumsum([part.size for part in parts], dtype=np.int64)
    if ends.size and ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{ends[-1]:,} bytes of samples do not fit into one Arrow table; use fewer rows per table.")
    content = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    offsets = np.append(0, ends).astype(np.int32)
    return pa.BinaryArray.from_buffers(pa.binary(), len(parts), [None, pa.py_buffer(offsets), pa.py_buffer(content)])


def decode_table(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of an Arrow table: `samples`, `gain_per_mv` and `baseline` as arrays, `lead_names` as a tuple.

    Args:
        table (`pa.Table`): Of a dataset with the columns of `ECG_FEATURES`, for example
            `dataset.with_format("arrow")[indices]`.

    Returns:
        `list[dict[str, Any]]`: One dict per row. `samples` is a read-only view of shape `(num_leads, num_samples)`,
        int16 or float32, of the table's memory: nothing is copied.

    Raises:
        RecordError: If a row's samples are not as many as its columns say.
    """
    contents = [content for chunk in table.column("samples").chunks for content in _contents_of_chunk(chunk)]
    # Tables taken by index have one chunk per row; joining the small columns first is several times faster.
    others = table.drop_columns(["samples"]).combine_chunks()
    rows = others.drop_columns(list(_LIST_COLUMNS)).to_pylist()
    per_lead = [_slices(others.column(name), values_of) for name, values_of in _LIST_COLUMNS.items()]
    for row, content, *values in zip(rows, contents, *per_lead, strict=True):
        row.update(zip(_LIST_COLUMNS, values, strict=True))
        row["samples"] = _view_samples(row, content)
    return rows


_LIST_COLUMNS: dict[str, Any] = {
    "lead_names": lambda values: tuple(values.to_pylist()),
    "gain_per_mv": lambda values: values.to_numpy(zero_copy_only=False),
    "baseline": lambda values: values.to_numpy(zero_copy_only=False),
}
"""Columns with one value per lead, and how their values are had all at once: row by row takes five times as long."""


def _slices(column: pa.ChunkedArray, values_of: Any) -> Iterator[Any]:
    for chunk in column.chunks:
        values = values_of(chunk.values)  # of the whole buffer, of which the chunk may be a part
        for start, end in pairwise(chunk.offsets.to_pylist()):
            yield values[start:end]


def _contents_of_chunk(chunk: pa.BinaryArray) -> Iterator[NDArray[np.uint8]]:
    _, offsets, values = chunk.buffers()
    if not len(chunk) or values is None:
        yield from (np.empty(0, np.uint8) for _ in range(len(chunk)))
        return
    bounds = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
    content = np.frombuffer(values, np.uint8)
    content.flags.writeable = False  # a table made in memory would let its rows be written to
    yield from (content[start:end] for start, end in pairwise(bounds))


def _view_samples(row: Mapping[str, Any], content: NDArray[np.uint8]) -> NDArray[Any]:
    dtype = SAMPLE_DTYPES.get(row["sample_type"])
    num_leads = len(row["lead_names"] or ())
    if dtype is None or row["num_samples"] is None or content.size != num_leads * row["num_samples"] * dtype.itemsize:
        raise RecordError(
            str(row["record_id"]),
            f"Its samples have {content.size} bytes; {num_leads} leads of {row['num_samples']} samples of type "
            f"'{row['sample_type']}' have another number.",
            "Store it with record_to_row, and read it without with_format('numpy') or ('torch'), which cut bytes off.",
        )
    return content.view(dtype).reshape(num_leads, row["num_samples"])


def row_to_record(row: Mapping[str, Any]) -> EcgRecord:
    """The record that `record_to_row` stored; columns outside `ECG_FEATURES` are its attributes.

    Args:
        row (`Mapping[str, Any]`): A row of `decode_table` (fast), or of a `datasets.Dataset` without format.
    """
    return row_to_stored(row).to_record()


def row_to_stored(row: Mapping[str, Any]) -> StoredEcg:
    """The row itself under the names of a record, its samples not yet decoded.

    Args:
        row (`Mapping[str, Any]`): As in `row_to_record`.
    """
    return StoredEcg(
        samples=_samples_of(row),
        gain_per_mv=np.asarray(row["gain_per_mv"], dtype=np.float64),
        baseline=np.asarray(row["baseline"], dtype=np.int32),
        sampling_rate_hz=row["sampling_rate_hz"],
        lead_names=tuple(row["lead_names"]),
        record_id=row["record_id"],
        patient_id=row["patient_id"],
        report=row["report"],
        labels=tuple(row["labels"]),
        attributes={name: value for name, value in row.items() if name not in ECG_FEATURES},
    )


def row_to_millivolts(row: Mapping[str, Any]) -> NDArray[np.float32]:
    """float32 millivolts of shape `(num_leads, num_samples)`, NaN at missing samples."""
    return row_to_stored(row).signal


def _samples_of(row: Mapping[str, Any]) -> NDArray[Any]:
    samples = row["samples"]
    return _view_samples(row, np.frombuffer(samples, np.uint8)) if isinstance(samples, bytes) else samples


def iter_records(dataset: Dataset | IterableDataset) -> Iterator[EcgRecord]:
    """The records of a stored dataset in order, map-style or streamed.

    A stream is split among the workers of a `DataLoader` by `datasets` itself.
    """
    table: pa.Table
    for table in dataset.with_format("arrow"):
        for row in decode_table(table):
            yield row_to_record(row)


class EcgDataset(StoredRows):
    """A stored dataset as PyTorch's `DataLoader` wants it: items hold a `StoredEcg`, not yet decoded.

    Args:
        dataset (`datasets.Dataset`): With the columns of `ECG_FEATURES`; its format does not matter.
        bad_records (`"raise"` or `"replace"`): What to do about a record without one valid sample.

    Each item is a dict of `"ecg"` (`StoredEcg`, which reads like an `EcgRecord`) and `"index"` (`int`, the position in
    `dataset`). Worker processes receive the path of the memory-mapped file, not the data.
    """

    def __init__(self, dataset: Dataset, *, bad_records: BadRecords = "raise"):
        absent = [name for name in ECG_FEATURES if name not in dataset.column_names]
        if absent:
            raise ValueError(
                f"The dataset lacks the columns {absent}. Prepare it with a script of dataset_scripts/, or with "
                "`record_to_row` and `rows_to_table`."
            )
        self.dataset = dataset.with_format("arrow")
        self.set_bad_records(bad_records)

    def __len__(self) -> int:
        return len(self.dataset)

    def read_stored(self, positions: Sequence[int]) -> list[StoredEcg]:
        """See [`StoredRows`]; one look-up in Arrow."""
        return [row_to_stored(row) for row in decode_table(self.dataset[list(positions)])] if positions else []

    def index_column(self, name: str) -> list[Any]:
        """See [`StoredRows`]."""
        if name not in self.dataset.column_names:
            raise KeyError(f"No column '{name}'; there are {self.dataset.column_names}.")
        return self.dataset.select_columns([name])[:][name].to_pylist()

    def unique_reports(self) -> list[str]:
        """The distinct reports in order of first appearance; records without a report are left out.

        A text encoder needs to see each only once: MIMIC-IV-ECG has 800,035 records and about 180,000 reports.
        """
        return [report for report in dict.fromkeys(self.index_column("report")) if report is not None]
