"""What the HDF5 files of CODE-test, CODE-15 % and SaMi-Trop have in common: tracings of 4,096 samples at 400 Hz.

Their descriptions say `1e-4 V`, and the numbers are millivolts (see [`~hf_ecgtext.data.sources.code_test`]). The order
of the augmented leads is not certain, so that the signals decide it.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.bad_records import no_valid_sample
from hf_ecgtext.data.records import has_valid_sample
from hf_ecgtext.data.store.schema import samples_to_row
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.limb_lead_order import AUGMENTED_LEADS, augmented_lead_permutations

CODE_CLASSES: dict[str, str] = {
    "1dAVb": "first-degree atrioventricular block",
    "RBBB": "right bundle branch block",
    "LBBB": "left bundle branch block",
    "SB": "sinus bradycardia",
    "AF": "atrial fibrillation",
    "ST": "sinus tachycardia",
}
"""Class -> its name in words, in the order of CODE-test's tables."""

TRACINGS_DATASET = "tracings"
TRACING_SHAPE = (4096, len(STANDARD_LEADS))  # (samples, leads)
SAMPLING_RATE_HZ = 400.0

AUGMENTED_ORDERS = tuple(",".join(order) for order in permutations(AUGMENTED_LEADS))
_FIRST_AUGMENTED = STANDARD_LEADS.index(AUGMENTED_LEADS[0])
_FEWEST_DECIDED = 10
_SMALLEST_SHARE = 0.95
"""Of the records that decide, how many must say the same order; a record read with the wrong one almost never does."""


@contextmanager
def open_tracings(file: Path | io.BytesIO, location: str, num_records: int | None, where: str) -> Iterator[Any]:
    """An HDF5 file of tracings, opened and checked.

    Args:
        file (`Path` or `io.BytesIO`): The HDF5 file.
        location (`str`): What messages call it.
        num_records (`int`, *optional*): How many tracings it must have.
        where (`str`): Where to get it.

    Raises:
        ImportError: If h5py is not installed.
        ValueError: If the file is damaged, or holds no dataset `tracings` of n x 4096 x 12 numbers.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('Reading the CODE data needs h5py: pip install "hf-ecgtext[code-test]".') from error
    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{location} cannot be read as HDF5 ({error}). {where}") from error
    with opened:
        dataset = opened.get(TRACINGS_DATASET)
        shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
        expected = (num_records or (shape or (0,))[0], *TRACING_SHAPE)
        if shape != expected or dtype is None or dtype.kind != "f":
            wanted = expected if num_records else "n x 4096 x 12"
            raise ValueError(
                f"{location} holds '{TRACINGS_DATASET}' of shape {shape} and type {dtype}; expected {wanted} floating "
                f"point numbers. {where}"
            )
        yield opened


def check_code_options(augmented_leads: str, units_per_mv: float) -> None:
    """Refuse options that no source of these tracings has.

    Raises:
        ValueError: If one has an impossible value.
    """
    if not 0 < units_per_mv < np.inf:
        raise ValueError(f"units_per_mv must be positive, such as 1 or 10, not {units_per_mv}.")
    if augmented_leads != "auto" and augmented_leads not in AUGMENTED_ORDERS:
        known = ", ".join(f"'{order}'" for order in ("auto", *AUGMENTED_ORDERS))
        raise ValueError(f"augmented_leads is '{augmented_leads}'; choose one of {known}.")


def count_lead_orders(signals: NDArray[np.floating]) -> tuple[Counter[tuple[str, ...]], list[float]]:
    """How many records say which order of the augmented leads, by Goldberger's identities.

    Args:
        signals (`np.ndarray` of shape `(batch, num_leads, num_samples)`): In mV.

    Returns:
        `tuple` of the counts, without the records that decide nothing, and the largest deflection in mV of each record
        that is not empty.
    """
    signals = signals[np.isfinite(signals).all(axis=(1, 2))]
    peaks_mv = [peak for peak in np.abs(signals).max(axis=(1, 2)).tolist() if peak]
    rows, orders, decided = augmented_lead_permutations(signals, STANDARD_LEADS)
    return Counter(tuple(STANDARD_LEADS[row] for row in rows[order]) for order in orders[decided]), peaks_mv


def decide_lead_names(
    votes: Counter[tuple[str, ...]], augmented_leads: str, num_asked: int, location: str
) -> tuple[tuple[str, ...], str]:
    """The names of the twelve leads in the order of the file, and a note about how that was found.

    Args:
        votes (`Counter`): From [`count_lead_orders`].
        augmented_leads (`str`): The option: `"auto"`, or the names.
        num_asked (`int`): Of how many records.
        location (`str`): What messages call the file.

    Raises:
        ValueError: If the signals shall decide and do not.
    """
    num_decided = votes.total()
    ranking = "; ".join(f"{', '.join(order)}: {count}" for order, count in votes.most_common())
    found = f"{num_decided} of {num_asked} records decide the order of the augmented leads ({ranking or 'none'})"
    if augmented_leads != "auto":
        order = tuple(augmented_leads.split(","))
        note = f"The augmented leads are {', '.join(order)} as the option says; {found}."
    elif num_decided < _FEWEST_DECIDED or votes.most_common(1)[0][1] < _SMALLEST_SHARE * num_decided:
        raise ValueError(
            f"The signals of {location} do not say which lead is which: {found}. Download the file again, or give the "
            "order as augmented_leads='aVL,aVF,aVR'."
        )
    else:
        order = votes.most_common(1)[0][0]
        note = f"The augmented leads are {', '.join(order)}: {found}."
    return (*STANDARD_LEADS[:_FIRST_AUGMENTED], *order, *STANDARD_LEADS[_FIRST_AUGMENTED + len(order) :]), note


def tracing_to_row(
    entry: Mapping[str, Any],
    tracings: Any,
    units_per_mv: float,
    attributes: Sequence[str],
    where: str,
) -> dict[str, Any]:
    """One tracing as a row of the stored form, with the extent of the recording in its padding.

    Args:
        entry (`Mapping[str, Any]`): Row of an index, with `row`, `lead_names`, `labels` and the attributes.
        tracings (`h5py.Dataset` of shape `(num_records, 4096, 12)`): Of its file.
        units_per_mv (`float`): What the numbers are divided by.
        attributes (`Sequence[str]`): Names of the source's own columns but `content_start` and `content_end`.
        where (`str`): Where to get the file.

    Raises:
        RecordError: If the tracing cannot be read, is infinite, or holds nothing.
    """
    record = str(entry["record_id"])
    try:
        units: NDArray[np.floating] = tracings[entry["row"]]  # (num_samples, num_leads)
    except OSError as error:
        raise RecordError(record, f"its row of '{entry['path']}' cannot be read ({error}).", where) from error
    if np.isinf(units).any():
        raise RecordError(record, "its tracing holds infinite values.", where)
    content = np.flatnonzero((units != 0).any(axis=1))
    if not content.size:
        raise RecordError(record, "its tracing holds nothing but zeros.", where)
    if not has_valid_sample(units[content[0] : content[-1] + 1]):  # the zeros around it are padding
        raise no_valid_sample(record)
    millivolts = (units.T.astype(np.float64) / units_per_mv).astype(np.float32)
    return samples_to_row(
        np.ascontiguousarray(millivolts),
        np.ones(len(millivolts)),
        np.zeros(len(millivolts), dtype=np.int32),
        record_id=record,
        patient_id=entry["patient_id"],
        sampling_rate_hz=SAMPLING_RATE_HZ,
        lead_names=entry["lead_names"],
        report=None,
        labels=entry["labels"],
        attributes={
            **{name: entry[name] for name in attributes},
            "content_start": int(content[0]),
            "content_end": int(content[-1]) + 1,
        },
    )
