"""Patient identification on PhysioNet/CinC 2021: which parts of which recordings are compared with which.

The published task (Oh et al. 2022; C-MELT's "Id") trains on 5-s segments of 500-Hz recordings, each recording standing
for one patient. It validates on pairs of segments of one recording, gallery and probe: the first two of each recording
that a 10 % draw picks. It tests on PTB-XL's patients with at least two recordings, of which it takes a random 5-s
crop each: 2,127 patients in PTB-XL 1.0.1 (2,111 in 1.0.3).

Nobody published which recordings were drawn, so the view below has the published rules and shares, not the published
147,444 / 17,670 / 2,127 members. Those counts suggest that PTB-XL's recordings were trained on as well: the other
500-Hz sets have about 141,000 segments, by our estimate. The people of the test would then have been seen in training.
Here they are left out of it unless asked for.

Source: fairseq-signals, `preprocess_physionet2021.py`, `preprocess_ptbxl.py`, `identification_manifest.py` (rules and
shares); the conclusions from the counts are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from hf_ecgtext.data.sources.cinc2021.windows import SEGMENT_RATE_HZ, SEGMENT_S, cut

ROLES = ("train", "validation_gallery", "validation_probe", "test_gallery", "test_probe")


class RecordingLength(NamedTuple):
    """What the view needs to know of a recording.

    Args:
        origin_id (`str`): As the column of that name.
        sampling_rate_hz (`float`): Those of another rate than 500 Hz are left out, as published.
        num_samples (`int`): Per lead.
    """

    origin_id: str
    sampling_rate_hz: float
    num_samples: int


class IdentificationSegment(NamedTuple):
    """Five seconds of a recording, and whom they stand for.

    Args:
        role (`str`): One of `ROLES`.
        person (`int`): From 0 within training, validation and test each; gallery and probe of one person share it.
        origin_id (`str`): The recording.
        first_sample, num_samples (`int`): The part of it.
    """

    role: str
    person: int
    origin_id: str
    first_sample: int
    num_samples: int


def identification_segments(
    recordings: Iterable[RecordingLength],
    patient_of: Mapping[str, str],
    *,
    seed: int = 42,
    validation_fraction: float = 0.1,
    unused_fraction: float = 0.1,
    test_patients_in_training: bool = False,
) -> list[IdentificationSegment]:
    """The segments of the patient identification task, by role and person.

    Args:
        recordings (`Iterable[RecordingLength]`): All recordings, each once.
        patient_of (`Mapping[str, str]`): Origin id -> patient, for the set that is tested on (PTB-XL). Patients with
            two recordings or more are the test: the first two by name, gallery and probe.
        seed (`int`): Of all draws. A recording's draw depends on its name and the seed alone.
        validation_fraction (`float`): Share of the recordings that is asked for pairs; those with a single segment
            give none, and are not trained on either.
        unused_fraction (`float`): Share that is neither trained nor validated on: the published draw makes it a second
            set of pairs, in whose place PTB-XL is tested.
        test_patients_in_training (`bool`): Whether recordings of the test's patients may be drawn too, as the published
            counts suggest. By default none of them is.

    Returns:
        `list[IdentificationSegment]`: In the order of `ROLES`, then of persons.

    Raises:
        ValueError: If a share is negative or both exceed 1, or a recording is named twice.
    """
    if min(validation_fraction, unused_fraction) < 0 or validation_fraction + unused_fraction > 1:
        raise ValueError(
            f"validation_fraction {validation_fraction} and unused_fraction {unused_fraction} must not be negative, "
            "nor more than 1 together."
        )
    usable: dict[str, int] = {}
    for recording in recordings:
        if recording.origin_id in usable:
            raise ValueError(f"The recording '{recording.origin_id}' is named twice.")
        if recording.sampling_rate_hz == SEGMENT_RATE_HZ and recording.num_samples >= SEGMENT_S * SEGMENT_RATE_HZ:
            usable[recording.origin_id] = recording.num_samples

    test = _test_pairs(usable, patient_of, seed)
    tested = {patient_of[segment.origin_id] for segment in test}
    drawn = [
        origin_id
        for origin_id in sorted(usable)
        if test_patients_in_training or patient_of.get(origin_id) not in tested
    ]
    segments = [*_training_and_validation(drawn, usable, seed, validation_fraction, unused_fraction), *test]
    return sorted(segments, key=lambda segment: (ROLES.index(segment.role), segment.person, segment.first_sample))


def _training_and_validation(
    origin_ids: list[str], num_samples: Mapping[str, int], seed: int, validation_fraction: float, unused_fraction: float
) -> Iterator[IdentificationSegment]:
    train_person = validation_person = 0
    for origin_id in origin_ids:
        windows = cut(num_samples[origin_id], _segment_samples(), keep_remainder=False)
        position = _draw(seed, "role", origin_id)
        if position < validation_fraction:
            if len(windows) < 2:
                continue
            for role, window in zip(("validation_gallery", "validation_probe"), windows[:2], strict=True):
                yield IdentificationSegment(role, validation_person, origin_id, *window)
            validation_person += 1
        elif position >= validation_fraction + unused_fraction:
            for window in windows:
                yield IdentificationSegment("train", train_person, origin_id, *window)
            train_person += 1


def _test_pairs(
    num_samples: Mapping[str, int], patient_of: Mapping[str, str], seed: int
) -> list[IdentificationSegment]:
    recordings_of: dict[str, list[str]] = {}
    for origin_id in sorted(num_samples):
        if origin_id in patient_of:
            recordings_of.setdefault(patient_of[origin_id], []).append(origin_id)
    pairs = [origin_ids[:2] for _, origin_ids in sorted(recordings_of.items()) if len(origin_ids) > 1]
    return [
        IdentificationSegment(role, person, origin_id, _crop_start(seed, origin_id, num_samples), _segment_samples())
        for person, pair in enumerate(pairs)
        for role, origin_id in zip(("test_gallery", "test_probe"), pair, strict=True)
    ]


def _crop_start(seed: int, origin_id: str, num_samples: Mapping[str, int]) -> int:
    return int(_draw(seed, "crop", origin_id) * (num_samples[origin_id] - _segment_samples() + 1))


def _segment_samples() -> int:
    return int(SEGMENT_S * SEGMENT_RATE_HZ)


def _draw(seed: int, purpose: str, origin_id: str) -> float:
    """A number from 0 to 1 that depends on nothing but these three."""
    digest = hashlib.blake2b(f"{seed}|{purpose}|{origin_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
