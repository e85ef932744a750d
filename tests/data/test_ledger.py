"""What a checkpoint was trained on: hashed, saved, joined and found again."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from hf_ecgtext.data.ledger import TrainingLedger, continued_ledger, load_ledger
from hf_ecgtext.data.ptb_xl_patients import recordings_of_patients
from hf_ecgtext.errors import CheckpointError


class Columns:
    """A dataset without signals."""

    def __init__(self, record_ids, patient_ids=None, origin_ids=None):
        self.columns = {"record_id": list(record_ids), "patient_id": list(patient_ids or [None] * len(record_ids))}
        if origin_ids is not None:
            self.columns["origin_id"] = origin_ids

    def __len__(self):
        return len(self.columns["record_id"])

    def column(self, name):
        return self.columns[name]


@pytest.fixture
def ledger() -> TrainingLedger:
    splits = {
        "train": Columns(["1", "2", "3"], ["a", "a", None]),
        "validation": Columns(["4", "5"], ["b", "c"]),
        "test": None,
    }
    return TrainingLedger.of_splits("ptb_xl", "1.0.3", splits)


def contents(ledger: TrainingLedger):
    hashes = (ledger.trained_records, ledger.trained_patients, ledger.validated_records)
    return ledger.entries, ledger.unknown, *(array.tolist() for array in hashes)


def test_records_of_training_and_of_validation_are_told_apart(ledger):
    overlap = ledger.look_up("ptb_xl", Columns(["5", "2", "9", "8"], ["c", "a", "a", None]))
    assert overlap.keys == ["ptb_xl:5", "ptb_xl:2", "ptb_xl:9", "ptb_xl:8"]
    assert overlap.trained.tolist() == [False, True, False, False]
    assert overlap.patient_trained.tolist() == [False, True, True, False]
    assert overlap.validated.tolist() == [True, False, False, False]
    assert [tuple(entry) for entry in ledger.entries] == [
        ("ptb_xl", "1.0.3", "train", 3),
        ("ptb_xl", "1.0.3", "validation", 2),
    ]


def test_equal_ids_of_other_data_are_other_records(ledger):
    overlap = ledger.look_up("cpsc2018", Columns(["1", "2"], ["a", "b"]))
    assert not overlap.trained.any()
    assert not overlap.patient_trained.any()


def test_a_record_is_recognised_through_a_set_that_packs_it_again():
    repacked = Columns(["HR06009", "X1"], origin_ids=["ptb_xl:06009", None])
    ledger = TrainingLedger.of_splits("cinc2021", "1.0.3", {"train": repacked})
    assert ledger.look_up("ptb_xl", Columns(["06009", "06010"], ["p", "q"])).trained.tolist() == [True, False]
    assert ledger.look_up("cinc2021", Columns(["X1", "HR06009"])).trained.tolist() == [True, False]
    original = TrainingLedger.of_splits("ptb_xl", "1.0.3", {"train": Columns(["06009"])})
    assert original.look_up("cinc2021", repacked).trained.tolist() == [True, False]


def test_a_patient_is_recognised_where_the_set_that_packs_it_again_knows_whose_record_it_is():
    repacked = Columns(
        ["HR06009", "HR06010", "A0001"],
        ["ptb_xl:15709", "HR06010", "A0001"],
        ["ptb_xl:06009", "ptb_xl:06010", "cpsc2018:A0001"],
    )
    ledger = TrainingLedger.of_splits("cinc2021", "1.0.3", {"train": repacked})
    original = Columns(["00001", "00002", "00003"], ["15709", "HR06010", "1"])
    assert ledger.look_up("ptb_xl", original).patient_trained.tolist() == [True, False, False]
    assert ledger.look_up("cinc2021", repacked).patient_trained.all()


ONE, OTHER, THIRD = next(records for records in recordings_of_patients().values() if len(records) == 3)
SINGLE = "00001"  # its patient has no other recording


@pytest.mark.parametrize(
    ("trained_as", "asked_as"), [("cinc2021", "ptb_xl"), ("cinc2021", "cinc2021"), ("ptb_xl", "cinc2021")]
)
def test_another_recording_of_a_ptb_xl_patient_is_recognised_without_being_told_of_patients(trained_as, asked_as):
    def rows(name, records):
        if name == "ptb_xl":
            return Columns(records, [f"patient of {record}" for record in records])
        names = [f"HR{record}" for record in records]
        return Columns(names, names, [f"ptb_xl:{record}" for record in records])

    ledger = TrainingLedger.of_splits(trained_as, "1", {"train": rows(trained_as, [ONE, SINGLE])})
    overlap = ledger.look_up(asked_as, rows(asked_as, [OTHER, "00002", ONE, THIRD, SINGLE]))
    assert overlap.trained.tolist() == [False, False, True, False, True]
    expected = [True, False, True, True, False]
    if trained_as == asked_as:  # whose name for the patient is the same
        expected[-1] = True
    assert overlap.patient_trained.tolist() == expected
    assert not TrainingLedger().look_up(asked_as, rows(asked_as, [ONE])).patient_trained.any()


def test_the_names_of_ptb_xl_say_nothing_about_other_data():
    ledger = TrainingLedger.of_splits("cpsc2018", "1", {"train": Columns([ONE])})
    assert not ledger.look_up("cpsc2018", Columns([OTHER])).patient_trained.any()
    assert not ledger.look_up("ptb_xl", Columns([OTHER])).patient_trained.any()


def test_records_that_cannot_be_read_are_listed_without_reading_them(ledger):
    class Download(Columns):
        """As a download in which others take the place of bad records."""

        def index_column(self, name):
            return self.columns[name]

        def column(self, name):
            raise AssertionError("this would read all signals")

    overlap = ledger.look_up("ptb_xl", Download(["1", "9"], ["a", "b"]))
    assert overlap.trained.tolist() == [True, False]


def test_the_hash_is_the_documented_one(ledger):
    expected = [
        int.from_bytes(hashlib.blake2b(f"ptb_xl:{n}".encode(), digest_size=8).digest(), "little") for n in "123"
    ]
    assert ledger.trained_records.tolist() == sorted(expected)
    assert ledger.trained_records.dtype == np.uint64


def test_what_was_saved_is_loaded(ledger, tmp_path):
    ledger.save(tmp_path)
    assert contents(TrainingLedger.load(tmp_path)) == contents(ledger)
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    ledger.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first, "equal ledgers are equal files"
    assert set(first) == {"training_data.json", "training_data.safetensors"}
    readable = json.loads(first["training_data.json"])
    assert readable["trained_on"] == [{"dataset": "ptb_xl", "revision": "1.0.3", "split": "train", "records": 3}]
    assert readable["hashes"] == {"trained_records": 3, "trained_patients": 1, "validated_records": 2}


def test_an_empty_ledger_is_saved_and_knows_nothing(tmp_path):
    TrainingLedger().save(tmp_path)
    assert not TrainingLedger.load(tmp_path).look_up("ptb_xl", Columns(["1"], ["a"])).trained.any()


def test_joined_ledgers_know_what_either_knew(ledger):
    other = TrainingLedger.of_splits("csn", "1.0", {"train": Columns(["1"])})
    joined = other.merge(ledger)
    assert joined.look_up("csn", Columns(["1"])).trained.all()
    assert joined.look_up("ptb_xl", Columns(["1"])).trained.all()
    assert contents(joined.merge(ledger)) == contents(joined), "joining twice adds nothing"
    assert len(joined.entries) == 3


def test_a_validation_record_that_was_trained_on_later_counts_as_trained(ledger):
    joined = ledger.merge(TrainingLedger.of_splits("ptb_xl", "1.0.3", {"train": Columns(["4"])}))
    overlap = joined.look_up("ptb_xl", Columns(["4", "5"]))
    assert overlap.trained.tolist() == [True, False]
    assert overlap.validated.tolist() == [False, True]


def test_training_goes_on_with_the_ledger_of_its_starting_point(ledger, tmp_path):
    ledger.save(tmp_path)
    new = TrainingLedger.of_splits("csn", "1.0", {"train": Columns(["7"])})
    continued = continued_ledger(new, str(tmp_path))
    assert continued.look_up("ptb_xl", Columns(["1"])).trained.all()
    assert continued.look_up("csn", Columns(["7"])).trained.all()
    assert continued.unknown == ()
    assert contents(continued_ledger(new, "")) == contents(new)


def test_what_nobody_knows_is_said(ledger, tmp_path):
    assert "which has no training_data.json" in continued_ledger(ledger, str(tmp_path)).unknown[0]
    assert continued_ledger(None, "").unknown == ("data that the trainer was given without a ledger",)
    assert load_ledger(str(tmp_path)) is None
    assert load_ledger("no such/folder or repository") is None


def _cut(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _cut(folder, "training_data.json"), "is damaged"),
        (lambda folder: _cut(folder, "training_data.safetensors"), "do not belong together"),
        (lambda folder: (folder / "training_data.json").unlink(), "lacks training_data.json"),
        (lambda folder: (folder / "training_data.safetensors").unlink(), "lacks training_data.safetensors"),
        (lambda folder: (folder / "training_data.json").write_text("[]"), "is damaged"),
        (lambda folder: (folder / "training_data.json").write_text('{"schema_version": 9}'), "schema version 9"),
    ],
)
def test_a_damaged_ledger_is_an_error_and_not_an_absent_one(ledger, tmp_path, damage, message):
    ledger.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_ledger(str(tmp_path))


def test_files_of_two_trainings_do_not_pass_for_one(ledger, tmp_path):
    ledger.save(tmp_path)
    half = (tmp_path / "training_data.json").read_bytes()
    TrainingLedger.of_splits("csn", "1.0", {"train": Columns(["7"])}).save(tmp_path)
    (tmp_path / "training_data.json").write_bytes(half)
    with pytest.raises(CheckpointError, match="do not belong together"):
        TrainingLedger.load(tmp_path)
