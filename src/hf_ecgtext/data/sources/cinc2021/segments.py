"""Patient identification as splits of 5-s segments, which every encoder and trainer reads as any other data.

Who is compared with whom is decided in `sources/cinc2021_identification.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from hf_ecgtext.data.ledger import patient_keys, record_keys
from hf_ecgtext.data.records import AnyEcg, EcgRecord
from hf_ecgtext.data.sources.cinc2021.identification import (
    ROLES,
    IdentificationSegment,
    RecordingLength,
    identification_segments,
)
from hf_ecgtext.data.sources.cinc2021.windows import SEGMENT_RATE_HZ
from hf_ecgtext.data.tasks import SPLITS, EcgData, EcgRows


class SegmentRows(TorchDataset):
    """Segments of recordings as rows of a split.

    Their columns are `record_id` (recording and first sample), `patient_id`, `origin_id` (the recording's key in
    ledgers), `role` and `person`, of which the last two are those of [`IdentificationSegment`].

    Args:
        segments (`Sequence[IdentificationSegment]`): One row each.
        places (`Mapping[str, tuple[EcgRows, int]]`): Key of a recording -> the split and the row that hold it.
        patients (`Mapping[str, str | None]`): Key of a recording -> patient id, as the data have it.
    """

    def __init__(
        self,
        segments: Sequence[IdentificationSegment],
        places: Mapping[str, tuple[EcgRows, int]],
        patients: Mapping[str, str | None],
    ):
        self.segments = tuple(segments)
        self._places = [places[segment.origin_id] for segment in self.segments]
        self._columns: dict[str, list[Any]] = {
            "record_id": [f"{segment.origin_id}@{segment.first_sample}" for segment in self.segments],
            "patient_id": [patients[segment.origin_id] for segment in self.segments],
            "origin_id": [segment.origin_id for segment in self.segments],
            "role": [segment.role for segment in self.segments],
            "person": [segment.person for segment in self.segments],
        }

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """All items of a batch; beside `"ecg"` and `"index"` they have `"person"`."""
        positions = list(indices)
        found: dict[int, AnyEcg] = {}
        sources = {id(self._places[position][0]): self._places[position][0] for position in positions}
        for name, rows in sources.items():
            wanted = [position for position in positions if id(self._places[position][0]) == name]
            items = rows.__getitems__([self._places[position][1] for position in wanted])
            found |= {position: item["ecg"] for position, item in zip(wanted, items, strict=True)}
        return [
            {
                "ecg": _segment(found[position], self.segments[position], self._columns["record_id"][position]),
                "index": position,
                "person": self.segments[position].person,
            }
            for position in positions
        ]

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order.

        Raises:
            KeyError: If there is no such column.
        """
        if name not in self._columns:
            raise KeyError(f"Segments have no column '{name}'; they have {', '.join(self._columns)}.")
        return list(self._columns[name])

    def unique_reports(self) -> list[str]:
        """None: a report is about a whole recording."""
        return []


def identification_data(
    data: EcgData, *, patient_of: Mapping[str, str] | None = None, seed: int = 42, **shares: Any
) -> EcgData:
    """The patient identification task on some data, all of whose splits are drawn from anew.

    Args:
        data ([`EcgData`]): Whole recordings, such as PhysioNet/CinC 2021 with `ptb_xl_table`, or PTB-XL alone. Patients
            with two recordings or more are the test.
        patient_of (`Mapping[str, str]`, *optional*): Key of a recording (`"ptb_xl:00001"`) -> patient, in place of the
            data's own.
        seed (`int`): Of all draws.
        shares: `validation_fraction`, `unused_fraction` and `test_patients_in_training` of
            [`~hf_ecgtext.data.sources.cinc2021.identification.identification_segments`].

    Returns:
        [`EcgData`]: Without tasks, and with the splits that have segments; each row of validation and test is `gallery`
        or `probe` of one person.

    Raises:
        ValueError: If the data have no recording of 500 Hz and 5 s, or as `identification_segments`.
    """
    places: dict[str, tuple[EcgRows, int]] = {}
    patients: dict[str, str | None] = {}
    own_patients: dict[str, str] = {}
    recordings: list[RecordingLength] = []
    for name in SPLITS:
        rows: EcgRows | None = getattr(data, name)
        if rows is None:
            continue
        if (policy := getattr(rows, "bad_records", "raise")) != "raise":
            raise ValueError(
                f"{data.name} was opened with bad_records={policy}: another person's record could be read in place of "
                "one that cannot be. Open it without, or prepare it, which skips such records."
            )
        columns = [rows.column(column) for column in ("patient_id", "sampling_rate_hz", "num_samples")]
        described = zip(record_keys(data.name, rows), patient_keys(data.name, rows), *columns, strict=True)
        for place, (key, patient_key, patient, rate_hz, num_samples) in enumerate(described):
            if rate_hz != SEGMENT_RATE_HZ:
                continue
            places[key] = (rows, place)
            patients[key] = patient
            recordings.append(RecordingLength(key, rate_hz, num_samples))
            if patient_key is not None:
                own_patients[key] = patient_key
    segments = identification_segments(
        recordings, own_patients if patient_of is None else patient_of, seed=seed, **shares
    )
    if not segments:
        raise ValueError(f"{data.name} has no recording of {SEGMENT_RATE_HZ:g} Hz and 5 s to identify anybody by.")
    splits: dict[str, Any] = {}
    for name in SPLITS:
        found = [segment for segment in segments if segment.role.partition("_")[0] == name]
        splits[name] = SegmentRows(found, places, patients) if found else None
    settings = "".join(f", {name} {value}" for name, value in {"seed": seed, **shares}.items())
    return EcgData(
        name=data.name,
        revision=f"{data.revision}; identification{settings}",
        **splits,
    )


def _segment(ecg: AnyEcg, segment: IdentificationSegment, record_id: str) -> AnyEcg:
    part = slice(segment.first_sample, segment.first_sample + segment.num_samples)
    if isinstance(ecg, EcgRecord):
        return EcgRecord(**{**vars(ecg), "signal": ecg.signal[:, part], "record_id": record_id})
    # A copy, so that a batch does not keep whole recordings in memory.
    samples = np.ascontiguousarray(ecg.samples[:, part])
    return type(ecg)(**{**vars(ecg), "samples": samples, "record_id": record_id})


def gallery_and_probe(data: EcgData, split: str, record_ids: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where the gallery and the probe of every person stand among some rows, persons in the same order in both.

    Args:
        data ([`EcgData`]): From [`identification_data`].
        split (`str`): `"validation"` or `"test"`.
        record_ids (`Sequence[str]`): Of the rows.

    Raises:
        ValueError: If the data have no such split, or are no identification data.
    """
    rows = data.split(split)
    if not isinstance(rows, SegmentRows) or f"{split}_gallery" not in ROLES:
        raise ValueError(f"The {split} split of {data.name} holds no pairs to compare; see `identification_data`.")
    places = {record_id: place for place, record_id in enumerate(record_ids)}
    found: dict[str, dict[int, int]] = {"gallery": {}, "probe": {}}
    for segment, record_id in zip(rows.segments, rows.column("record_id"), strict=True):
        found[segment.role.partition("_")[2]][segment.person] = places[record_id]
    persons = sorted(found["gallery"])
    return [found["gallery"][person] for person in persons], [found["probe"][person] for person in persons]
