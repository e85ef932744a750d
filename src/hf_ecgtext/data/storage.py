"""How recordings are stored: one Arrow schema for every dataset, int16 samples, and a decoder that is fast and exact.

Samples stay the integers of the source files (with per-lead gain and baseline), so that a stored dataset is half the
size of float32 and gives back exactly the source's millivolts. Only plain Arrow types are used: `load_dataset` reads
the files without this package. Decode with the functions here and never with `with_format("torch")` or `"numpy"`,
which turn int16 into int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from hf_ecgtext.data.records import INVALID_SAMPLE, DigitalEcg, EcgRecord, digital_to_millivolts
from hf_ecgtext.errors import RecordError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

ECG_FEATURES = Features(
    {
        "record_id": Value("string"),
        "patient_id": Value("string"),
        "sampling_rate_hz": Value("float64"),
        "lead_names": List(Value("string")),
        "adc": List(List(Value("int16"))),  # (num_leads, num_samples); any length, unlike Array2D
        "gain_per_mv": List(Value("float64")),
        "baseline": List(Value("int32")),
        "report": Value("string"),
        "labels": List(Value("string")),
    }
)
"""The columns every stored dataset has. Further columns of a dataset become `EcgRecord.attributes`."""

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


def record_to_row(record: EcgRecord, digital: DigitalEcg | None = None) -> dict[str, Any]:
    """The record as one row of a stored dataset; its attributes become columns. Header comments are not stored.

    Args:
        record (`EcgRecord`): What to store.
        digital (`DigitalEcg`, *optional*): The integers of the source file, stored as they are. Without them the
            signal is rounded to 1 uV, which loses nothing where it was already on that grid.

    Raises:
        RecordError: If the signal does not fit into 16 bits, `digital` has another shape than the signal, or an
            attribute has the name of a common column.
    """
    if digital is None:
        digital = quantize(record)
    if digital.adc.shape != record.signal.shape:
        raise RecordError(
            record.record_id,
            f"The integers have shape {digital.adc.shape} but the signal has shape {record.signal.shape}.",
            "Pass the integers of the same recording.",
        )
    clashes = sorted(set(record.attributes) & set(ECG_FEATURES))
    if clashes:
        raise RecordError(record.record_id, f"The attributes {clashes} are names of columns.", "Rename them.")
    return {
        "record_id": record.record_id,
        "patient_id": record.patient_id,
        "sampling_rate_hz": record.sampling_rate_hz,
        "lead_names": list(record.lead_names),
        "adc": digital.adc,
        "gain_per_mv": digital.gain_per_mv,
        "baseline": digital.baseline,
        "report": record.report,
        "labels": list(record.labels),
        **record.attributes,
    }


def rows_to_table(rows: Sequence[Mapping[str, Any]], features: Features = ECG_FEATURES) -> pa.Table:
    """Rows of `record_to_row` as an Arrow table with exactly the columns of `features`.

    Keep it to some hundred rows: Arrow counts the samples of one table in 32 bits.

    Raises:
        RecordError: If a row lacks a column.
    """
    schema = features.arrow_schema
    for row in rows:
        absent = [name for name in schema.names if name not in row]
        if absent:
            raise RecordError(str(row.get("record_id")), f"No value for the columns {absent}.", "Use None for unknown.")
    columns = [
        _adc_column([row["adc"] for row in rows])
        if field.name == "adc"
        else pa.array([row[field.name] for row in rows], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _adc_column(signals: Sequence[NDArray[np.int16]]) -> pa.ListArray:
    # From offsets and one flat buffer: building the nested lists value by value is a hundred times slower.
    num_leads = [len(signal) for signal in signals]
    num_samples = np.repeat([signal.shape[1] for signal in signals], num_leads)
    lead_ends = np.cumsum(num_samples, dtype=np.int64)
    if lead_ends.size and lead_ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{lead_ends[-1]:,} samples do not fit into one Arrow table; use fewer rows per table.")
    samples = np.concatenate([np.ravel(signal) for signal in signals]) if signals else np.empty(0, np.int16)
    leads = pa.ListArray.from_arrays(np.append(0, lead_ends).astype(np.int32), samples)
    return pa.ListArray.from_arrays(np.append(0, np.cumsum(num_leads)).astype(np.int32), leads)


def decode_table(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of an Arrow table, with `adc`, `gain_per_mv` and `baseline` as arrays.

    Args:
        table (`pa.Table`): Of a dataset with the columns of `ECG_FEATURES`, for example
            `dataset.with_format("arrow")[indices]`.

    Returns:
        `list[dict[str, Any]]`: One dict per row. `adc` is a read-only int16 view of shape `(num_leads, num_samples)`
        of the table's memory: nothing is copied.

    Raises:
        RecordError: If the leads of a row differ in length.
    """
    signals = [signal for chunk in table.column("adc").chunks for signal in _signals_of_chunk(chunk)]
    # Tables taken by index have one chunk per row; joining the small columns first is several times faster.
    others = table.drop_columns(["adc"]).combine_chunks().to_pylist()
    rows = []
    for other, signal in zip(others, signals, strict=True):
        if signal is None:
            raise RecordError(
                other["record_id"], "Its leads differ in length or are missing.", "Store one array per record."
            )
        other["adc"] = signal
        other["gain_per_mv"] = np.asarray(other["gain_per_mv"], dtype=np.float64)
        other["baseline"] = np.asarray(other["baseline"], dtype=np.int32)
        rows.append(other)
    return rows


def _signals_of_chunk(chunk: pa.ListArray) -> Iterator[NDArray[np.int16] | None]:
    # `offsets` belongs to the slice, `values` to the whole buffer: together they are right for any slice.
    lead_bounds = chunk.values.offsets.to_numpy()
    samples = chunk.values.values.to_numpy()
    row_bounds = chunk.offsets.to_numpy().tolist()
    for first_lead, end_lead in pairwise(row_bounds):
        bounds = lead_bounds[first_lead : end_lead + 1]
        lengths = np.diff(bounds)
        if not lengths.size or np.any(lengths != lengths[0]):
            yield None
            continue
        yield samples[bounds[0] : bounds[-1]].reshape(lengths.size, lengths[0])


def row_to_record(row: Mapping[str, Any]) -> EcgRecord:
    """The record that `record_to_row` stored; columns outside `ECG_FEATURES` are its attributes.

    Args:
        row (`Mapping[str, Any]`): A row of `decode_table` (fast), or of a `datasets.Dataset` without format.
    """
    signal = digital_to_millivolts(
        np.asarray(row["adc"], dtype=np.int16),
        np.asarray(row["gain_per_mv"], dtype=np.float64),
        np.asarray(row["baseline"], dtype=np.int32),
    )
    return EcgRecord(
        signal=signal,
        sampling_rate_hz=row["sampling_rate_hz"],
        lead_names=tuple(row["lead_names"]),
        record_id=row["record_id"],
        patient_id=row["patient_id"],
        report=row["report"],
        labels=tuple(row["labels"]),
        attributes={name: value for name, value in row.items() if name not in ECG_FEATURES},
    )


def iter_records(dataset: Dataset | IterableDataset) -> Iterator[EcgRecord]:
    """The records of a stored dataset in order, map-style or streamed.

    A stream is split among the workers of a `DataLoader` by `datasets` itself.
    """
    table: pa.Table
    for table in dataset.with_format("arrow"):
        for row in decode_table(table):
            yield row_to_record(row)


class EcgDataset(TorchDataset):
    """A stored dataset as PyTorch's `DataLoader` wants it: items hold an `EcgRecord` in millivolts.

    Args:
        dataset (`datasets.Dataset`): With the columns of `ECG_FEATURES`; its format does not matter.

    Each item is a dict of `"ecg"` (`EcgRecord`) and `"index"` (`int`, the position in `dataset`). Worker processes
    receive the path of the memory-mapped file, not the data.
    """

    def __init__(self, dataset: Dataset):
        absent = [name for name in ECG_FEATURES if name not in dataset.column_names]
        if absent:
            raise ValueError(
                f"The dataset lacks the columns {absent}. Prepare it with a script of dataset_scripts/, or with "
                "`record_to_row` and `rows_to_table`."
            )
        self.dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """All items of a batch with one look-up in Arrow; `DataLoader` calls this instead of `__getitem__`."""
        positions = [int(index) for index in indices]
        if not positions:
            return []
        rows = decode_table(self.dataset[positions])
        size = len(self)
        return [
            {"ecg": row_to_record(row), "index": position % size} for position, row in zip(positions, rows, strict=True)
        ]

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order, without reading the signals.

        Raises:
            KeyError: If there is no such column.
        """
        if name not in self.dataset.column_names:
            raise KeyError(f"No column '{name}'; there are {self.dataset.column_names}.")
        return self.dataset.select_columns([name])[:][name].to_pylist()

    def unique_reports(self) -> list[str]:
        """The distinct reports in order of first appearance; records without a report are left out.

        A text encoder needs to see each only once: MIMIC-IV-ECG has 800,035 records and about 180,000 reports.
        """
        return [report for report in dict.fromkeys(self.column("report")) if report is not None]
