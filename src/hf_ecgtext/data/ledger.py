"""The contamination ledger: which recordings a checkpoint was trained on, kept beside its weights.

A record is known by its canonical key: the dataset's `origin_id` where it has one (PhysioNet/CinC 2021 re-packs other
sets: `"ptb_xl:06009"`), else `"<dataset name>:<record_id>"`. The ledger keeps a 64-bit hash of each key, sorted:
800,035 records take 6.4 MB, and two different keys among a million collide with a probability of 3e-8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hf_ecgtext.data.ptb_xl_patients import same_patient
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.hub import LEDGER_FILES
from hf_ecgtext.io import written_whole

LEDGER_FILE, HASHES_FILE = LEDGER_FILES
TRAINING_SPLIT = "train"
_SCHEMA_VERSION = 1
_HASHES = ("trained_records", "trained_patients", "validated_records")
_MEND = "Copy both files from the original checkpoint again, or delete both: it then counts as trained on unknown data."


class LedgerEntry(NamedTuple):
    """One split that a training used.

    Args:
        dataset (`str`): Name of the data, such as `"ptb_xl"`.
        revision (`str`): Its version or fingerprint.
        split (`str`): `"train"` was trained on; any other split only chose among checkpoints.
        records (`int`): How many records the split has, all of which are listed, whether or not the training got so
            far as to see each.
    """

    dataset: str
    revision: str
    split: str
    records: int


class Overlap(NamedTuple):
    """What a ledger knows about the records of some data.

    Args:
        keys (`list[str]`): Canonical key of every record, in order.
        trained (`np.ndarray` of shape `(num_records,)`): bool; the record was trained on.
        patient_trained (`np.ndarray` of shape `(num_records,)`): bool; some record of its patient was. Recordings of
            one patient of PTB-XL are known by their names too, whatever set they came with.
        validated (`np.ndarray` of shape `(num_records,)`): bool; the record was no training record, but among those
            that choose a checkpoint.
    """

    keys: list[str]
    trained: NDArray[np.bool_]
    patient_trained: NDArray[np.bool_]
    validated: NDArray[np.bool_]


def _no_hashes() -> NDArray[np.uint64]:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class TrainingLedger:
    """What a checkpoint was trained on.

    Args:
        entries (`tuple[LedgerEntry, ...]`): Datasets, revisions and splits.
        unknown (`tuple[str, ...]`): What else it was trained on without anyone knowing the records, in words.
        trained_records, trained_patients, validated_records (`np.ndarray` of shape `(n,)`): uint64, ascending: hashes
            of the keys of records, of `"<dataset name>:<patient_id>"`, and of the keys of records of other splits.
    """

    entries: tuple[LedgerEntry, ...] = ()
    unknown: tuple[str, ...] = ()
    trained_records: NDArray[np.uint64] = field(default_factory=_no_hashes)
    trained_patients: NDArray[np.uint64] = field(default_factory=_no_hashes)
    validated_records: NDArray[np.uint64] = field(default_factory=_no_hashes)

    @classmethod
    def of_splits(cls, name: str, revision: str, splits: Mapping[str, Any]) -> TrainingLedger:
        """The ledger of a training on some splits; no signal is read.

        Args:
            name, revision (`str`): Of the data, as in [`~hf_ecgtext.data.tasks.EcgData`].
            splits (`Mapping[str, Any]`): Datasets with a method `column(name)` by split, such as
                [`~hf_ecgtext.data.store.schema.EcgDataset`]; splits that are `None` are left out.
        """
        ledger = cls()
        for split, dataset in splits.items():
            if dataset is None:
                continue
            hashes = _hash_keys(record_keys(name, dataset))
            entry = (LedgerEntry(name, revision, split, len(dataset)),)
            if split == TRAINING_SPLIT:
                patients = _hash_keys({key for key in patient_keys(name, dataset) if key is not None})
                ledger = ledger.merge(cls(entry, trained_records=hashes, trained_patients=patients))
            else:
                ledger = ledger.merge(cls(entry, validated_records=hashes))
        return ledger

    def merge(self, other: TrainingLedger) -> TrainingLedger:
        """The ledger of a training that went on with what another had trained."""
        return TrainingLedger(
            tuple(dict.fromkeys((*self.entries, *other.entries))),
            tuple(dict.fromkeys((*self.unknown, *other.unknown))),
            *(np.union1d(getattr(self, name), getattr(other, name)) for name in _HASHES),
        )

    def look_up(self, name: str, dataset: Any) -> Overlap:
        """Which records of a dataset this ledger lists.

        Args:
            name (`str`): Of the data.
            dataset: As in `of_splits`.
        """
        keys = record_keys(name, dataset)
        hashes = _hash_each(keys)
        trained = _is_in(hashes, self.trained_records)
        patients = patient_keys(name, dataset)
        has_patient = np.array([key is not None for key in patients], dtype=bool)
        patient_trained = _is_in(_hash_each([key or "" for key in patients]), self.trained_patients) & has_patient
        patient_trained |= self._other_recordings_trained(keys)
        return Overlap(keys, trained, patient_trained, _is_in(hashes, self.validated_records) & ~trained)

    def _other_recordings_trained(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether a recording of the same patient was trained on, by the recordings' names.

        Of a set that was packed again, neither the ledger nor the data need know the patients.
        """
        found = np.zeros(len(keys), dtype=bool)
        relatives = {row: others for row, key in enumerate(keys) if (others := same_patient(key))}
        if relatives:
            rows = np.repeat(list(relatives), [len(others) for others in relatives.values()])
            trained = _is_in(_hash_each(key for others in relatives.values() for key in others), self.trained_records)
            found[rows[trained]] = True
        return found

    def files(self) -> dict[str, bytes]:
        """`training_data.json`, for people, and `training_data.safetensors`, the hashes it vouches for, by name."""
        content = save({name: getattr(self, name) for name in _HASHES})
        description = {
            "schema_version": _SCHEMA_VERSION,
            "trained_on": [entry._asdict() for entry in self.entries if entry.split == TRAINING_SPLIT],
            "validated_on": [entry._asdict() for entry in self.entries if entry.split != TRAINING_SPLIT],
            "unknown": list(self.unknown),
            "hashes": {name: len(getattr(self, name)) for name in _HASHES},
            "hash_function": "BLAKE2b, 8 bytes, little-endian, of the UTF-8 key",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
        return {HASHES_FILE: content, LEDGER_FILE: text.encode()}  # last what vouches for the other

    def save(self, folder: str | Path) -> None:
        """Write the [`files`]."""
        for name, written in self.files().items():
            with written_whole(Path(folder) / name) as unfinished:
                unfinished.write_bytes(written)

    @classmethod
    def load(cls, folder: str | Path) -> TrainingLedger:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If the folder holds neither file.
            CheckpointError: If one is missing, damaged, or of another training than the other.
        """
        files = [Path(folder) / name for name in (LEDGER_FILE, HASHES_FILE)]
        if not any(file.is_file() for file in files):
            raise FileNotFoundError(f"'{folder}' holds no {LEDGER_FILE}: what was trained there is not known.")
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"'{folder}' lacks {file.name}, a half of its training ledger. {_MEND}")
        return _read(files[0].read_bytes(), files[1].read_bytes(), str(folder))


def load_ledger(name_or_path: str) -> TrainingLedger | None:
    """The ledger of a checkpoint, or `None` where it has none and its training data are unknown.

    Args:
        name_or_path (`str`): Folder or Hub repository of a checkpoint.

    Raises:
        CheckpointError: If there is one but it is damaged.
    """
    if Path(name_or_path).is_dir():
        try:
            return TrainingLedger.load(name_or_path)
        except FileNotFoundError:
            return None
    try:
        description = Path(hf_hub_download(name_or_path, LEDGER_FILE)).read_bytes()
    except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None
    try:
        content = Path(hf_hub_download(name_or_path, HASHES_FILE)).read_bytes()
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"'{name_or_path}' lacks {HASHES_FILE}, a half of its training ledger. Upload it again."
        ) from error
    return _read(description, content, name_or_path)


def continued_ledger(ledger: TrainingLedger | None, starting_point: str) -> TrainingLedger:
    """The ledger of a training that may have started from a checkpoint.

    Args:
        ledger ([`TrainingLedger`], *optional*): Of the data that are trained on now; `None` if nobody named them.
        starting_point (`str`): Folder or Hub repository that the model was loaded from; empty for a new model.
    """
    if ledger is None:
        ledger = TrainingLedger(unknown=("data that the trainer was given without a ledger",))
    if not starting_point:
        return ledger
    earlier = load_ledger(starting_point)
    if earlier is None:
        earlier = TrainingLedger(unknown=(f"what '{starting_point}' was trained on, which has no {LEDGER_FILE}",))
    return earlier.merge(ledger)


def record_keys(name: str, dataset: Any) -> list[str]:
    """The canonical key of every record of a dataset."""
    own = [f"{name}:{record_id}" for record_id in _column(dataset, "record_id")]
    origins = _origins(dataset)
    if origins is None:
        return own
    return [key if origin is None else origin for key, origin in zip(own, origins, strict=True)]


def patient_keys(name: str, dataset: Any) -> list[str | None]:
    """The key of every record's patient, `None` where nobody knows whose record it is.

    A patient of a re-packed record that is named as its `origin_id` is, such as `"ptb_xl:15709"`, is the patient of
    the original dataset.
    """
    patients = _column(dataset, "patient_id")
    own = [None if patient is None else f"{name}:{patient}" for patient in patients]
    origins = _origins(dataset)
    if origins is None:
        return own
    return [
        patient if patient and origin and patient.startswith(f"{origin.partition(':')[0]}:") else key
        for key, patient, origin in zip(own, patients, origins, strict=True)
    ]


def _origins(dataset: Any) -> list[str | None] | None:
    try:
        return _column(dataset, "origin_id")
    except KeyError:  # this dataset re-packs no other
        return None


def _column(dataset: Any, name: str) -> list[Any]:
    # A download that is read as it is would read all signals to find out which records take the place of bad ones;
    # all of them are in its index.
    values: list[Any] = getattr(dataset, "index_column", dataset.column)(name)
    return values


def _hash_each(keys: Iterable[str]) -> NDArray[np.uint64]:
    blake2b = hashlib.blake2b
    content = b"".join([blake2b(key.encode(), digest_size=8).digest() for key in keys])
    return np.frombuffer(content, "<u8").astype(np.uint64, copy=False)


def _hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    return np.unique(_hash_each(keys))


def _is_in(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(hashes), dtype=bool)
    places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
    return known[places] == hashes


def _read(description: bytes, content: bytes, location: str) -> TrainingLedger:
    try:
        fields = json.loads(description)
        version = fields["schema_version"]
        if version != _SCHEMA_VERSION:
            raise CheckpointError(
                f"The training ledger of '{location}' has schema version {version}; this version of hf_ecgtext reads "
                f"{_SCHEMA_VERSION}. Install the version that wrote it, or a newer one."
            )
        if hashlib.sha256(content).hexdigest() != fields["sha256"]:
            raise CheckpointError(
                f"{LEDGER_FILE} and {HASHES_FILE} of '{location}' do not belong together, or one is damaged. {_MEND}"
            )
        hashes = load(content)
        entries = tuple(LedgerEntry(**entry) for entry in [*fields["trained_on"], *fields["validated_on"]])
        return TrainingLedger(entries, tuple(fields["unknown"]), *(hashes[name] for name in _HASHES))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"The training ledger of '{location}' is damaged ({error!r}). {_MEND}") from error
