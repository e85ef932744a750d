"""Patient identification: segments as data, and the accuracy of finding people again."""

import dataclasses

import numpy as np
import pytest
from datasets import Dataset

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.sources.cinc2021.identification import RecordingLength, identification_segments
from hf_ecgtext.data.sources.cinc2021.segments import gallery_and_probe, identification_data
from hf_ecgtext.data.sources.synthetic import SYNTHETIC_FEATURES
from hf_ecgtext.data.store.schema import EcgDataset, record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.errors import ContaminationError, RecordError
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.downstream.identification import evaluate_identification, rank_credit
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, FrozenEncoder, ModelEncoder
from hf_ecgtext.methods import get_recipe


class Described(FrozenEncoder):
    """Features made of the record ids, to know what must come out."""

    def __init__(self, name, describe):
        self.name = name
        self.describe = describe

    def identity(self):
        return {"name": self.name}

    def encode(self, ecgs):
        return {"probe": np.stack([self.describe(ecg) for ecg in ecgs]).astype(np.float32)}


def dataset(indices):
    generator = SyntheticEcgGenerator(seed=5, sampling_rate_hz=500.0)
    rows = [record_to_row(generator.record(index)) for index in indices]
    return EcgDataset(Dataset(rows_to_table(rows, SYNTHETIC_FEATURES)))


@pytest.fixture(scope="module")
def recordings():
    """48 recordings of 24 people: 8 people have one, 8 two, 8 three."""
    return EcgData("synthetic", "1", train=dataset(range(36)), validation=dataset(range(36, 48)), test=None)


@pytest.fixture(scope="module")
def data(recordings):
    return identification_data(recordings, unused_fraction=0.0, validation_fraction=0.5)


def unit(number, dim=64):
    return np.eye(dim)[number]


def test_rank_credit_equals_counting_by_hand():
    rng = np.random.default_rng(0)
    gallery, probe = (rng.standard_normal((40, 3)) for _ in range(2))
    gallery, probe = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (gallery, probe))
    found = rank_credit(gallery, probe, (1, 5))
    for person in range(40):
        order = sorted(range(40), key=lambda other, person=person: -float(probe[person] @ gallery[other]))
        assert found[0, person] == (order.index(person) < 1)
        assert found[1, person] == (order.index(person) < 5)


def test_ties_count_what_a_random_order_would_give():
    gallery = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    probe = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(rank_credit(gallery, probe, (1, 2)), [[1 / 3, 1 / 3, 0, 1], [2 / 3, 2 / 3, 1 / 3, 1]])


def test_many_people_are_compared_in_parts_with_the_same_outcome():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((1100, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert rank_credit(rows, rows, (1,)).all()
    assert rank_credit(rows, np.roll(rows, 1, axis=0), (1,)).sum() == 0


def test_segments_are_the_parts_of_the_recordings_that_they_name(recordings, data):
    whole = {ecg.record_id: ecg for rows in (recordings.train, recordings.validation) for ecg in map(_ecg, rows)}
    for split in ("train", "validation", "test"):
        rows = data.split(split)
        for item, segment, name in zip(
            rows.__getitems__(range(len(rows))), rows.segments, rows.column("record_id"), strict=True
        ):
            original = whole[segment.origin_id.partition(":")[2]]
            first = segment.first_sample
            np.testing.assert_array_equal(item["ecg"].signal, original.signal[:, first : first + 2500])
            assert item["ecg"].record_id == name == f"{segment.origin_id}@{first}"
            assert item["ecg"].patient_id == original.patient_id
            assert item["person"] == segment.person


def _ecg(item):
    return item["ecg"]


def test_people_with_two_recordings_are_the_test_and_nobody_is_in_two_splits(data):
    people = [set(data.split(split).column("patient_id")) for split in ("train", "validation", "test")]
    assert len(people[2]) == 16
    assert not people[0] & people[2]
    assert not people[1] & people[2]
    gallery, probe = gallery_and_probe(data, "test", data.test.column("record_id"))
    patients = data.test.column("patient_id")
    assert [patients[place] for place in gallery] == [patients[place] for place in probe]
    assert len(gallery) == 16


def test_the_same_people_are_found_whatever_the_order_of_the_files(recordings, data):
    mixed = dataclasses.replace(recordings, train=dataset([*range(47, 23, -1)]), validation=dataset(range(24)))
    again = identification_data(mixed, unused_fraction=0.0, validation_fraction=0.5)
    for split in ("train", "validation", "test"):
        for column in ("record_id", "patient_id", "role", "person"):
            assert again.split(split).column(column) == data.split(split).column(column)


def test_recordings_of_other_rates_are_left_out(recordings):
    slow = SyntheticEcgGenerator(seed=5, sampling_rate_hz=100.0)
    rows = EcgDataset(Dataset(rows_to_table([record_to_row(slow.record(0))], SYNTHETIC_FEATURES)))
    with pytest.raises(ValueError, match="no recording of 500 Hz and 5 s"):
        identification_data(EcgData("slow", "1", train=rows, validation=None, test=None))


def test_features_that_know_the_person_find_everybody(data, tmp_path):
    persons = dict(zip(data.test.column("record_id"), data.test.column("person"), strict=True))
    runs = EncoderRuns("all-knowing", "trained", (Described("all", lambda ecg: unit(persons[ecg.record_id])),))
    first, fifth = evaluate_identification(runs, data, cache(tmp_path), settings={"leads": 12})
    assert (first.metric, fifth.metric) == ("accuracy", "top_5_accuracy")
    assert (first.value, first.confidence_interval, first.num_records) == (1.0, (1.0, 1.0), 32)
    assert first.details == {"num_persons": 16, "chance": 1 / 16}
    assert (first.evaluation, first.settings) == ("identification", {"feature": "probe", "leads": 12})


def test_features_that_are_all_the_same_give_chance_level(data, tmp_path):
    runs = EncoderRuns("constant", "trained", (Described("constant", lambda _ecg: np.ones(3)),))
    first, fifth = evaluate_identification(runs, data, cache(tmp_path))
    assert (first.value, fifth.value) == (pytest.approx(1 / 16), pytest.approx(5 / 16))


def test_several_encoders_are_averaged(data, tmp_path):
    persons = dict(zip(data.test.column("record_id"), data.test.column("person"), strict=True))
    members = (
        Described("all", lambda ecg: unit(persons[ecg.record_id])),
        Described("constant", lambda _ecg: np.ones(3)),
    )
    runs = EncoderRuns("two", "random", members, seed=(0, 1))
    first, _ = evaluate_identification(runs, data, cache(tmp_path), num_resamples=50)
    assert first.value == pytest.approx((1 + 1 / 16) / 2)
    assert first.spread == pytest.approx(np.std([1, 1 / 16], ddof=1))
    assert first.num_resamples == 50
    assert first.run_values == pytest.approx((1, 1 / 16))
    assert first.confidence_interval == pytest.approx((first.value, first.value))  # no person differs from another
    assert first.prediction_interval == (0.0, 1.0)


def test_the_interval_is_that_of_a_slow_bootstrap_over_people(data, tmp_path):
    rng = np.random.default_rng(3)
    noise = {name: rng.standard_normal(64) for name in data.test.column("record_id")}
    persons = dict(zip(data.test.column("record_id"), data.test.column("person"), strict=True))
    some = Described("some", lambda ecg: unit(persons[ecg.record_id]) + 0.2 * noise[ecg.record_id])
    first, _ = evaluate_identification(EncoderRuns("some", "trained", (some,)), data, cache(tmp_path), seed=7)
    assert 0.3 < first.value < 1
    found = 16 * [0.0]
    for place in range(round(16 * first.value)):
        found[place] = 1.0
    draws = np.random.default_rng(8)
    slow = [np.mean(draws.choice(found, 16)) for _ in range(4000)]
    np.testing.assert_allclose(first.confidence_interval, np.quantile(slow, (0.025, 0.975)), atol=0.07)


def test_features_without_direction_are_refused_by_name(data, tmp_path):
    target = data.test.column("record_id")[3]
    encoder = Described("zero", lambda ecg: np.zeros(3) if ecg.record_id == target else np.ones(3))
    with pytest.raises(RecordError, match=target):
        evaluate_identification(EncoderRuns("zero", "trained", (encoder,)), data, cache(tmp_path))


def test_data_that_hold_no_pairs_are_refused(recordings, data, tmp_path):
    encoder = EncoderRuns("x", "trained", (Described("x", lambda _ecg: np.ones(3)),))
    with pytest.raises(ValueError, match="holds no pairs to compare"):
        evaluate_identification(encoder, recordings, cache(tmp_path), split="validation")
    with pytest.raises(ValueError, match="holds no pairs to compare"):
        evaluate_identification(encoder, data, cache(tmp_path), split="train")
    with pytest.raises(ValueError, match="has no features 'ecg_embeds'; it has probe"):
        evaluate_identification(encoder, data, cache(tmp_path), feature="ecg_embeds")


def test_a_model_that_was_trained_on_the_recordings_is_refused(recordings, data):
    ledger = TrainingLedger.of_splits("synthetic", "1", {"train": recordings.train})
    with pytest.raises(ContaminationError, match="were seen in training"):
        check_contamination(ledger, data, "test", checkpoint="x")
    own = TrainingLedger.of_splits(data.name, data.revision, {"train": data.train, "validation": data.validation})
    assert check_contamination(own, data, "test", checkpoint="x") == "none"


@pytest.mark.slow
def test_the_real_recordings_of_ptb_xl_are_identified(real_data, tmp_path):
    from hf_ecgtext.data.opening import open_data

    options = {"sampling_rate_hz": 500, "missing": "skip", "cache_dir": str(tmp_path / "arrow")}
    data = identification_data(open_data("ptb_xl", real_data / "ptb-xl", **options))
    model, processor = get_recipe("merl", "debug").build(seed=0)
    runs = EncoderRuns("random weights", "random", (ModelEncoder(model, processor),))
    first, _ = evaluate_identification(runs, data, cache(tmp_path), num_resamples=20)
    assert first.details["num_persons"] == 20
    assert first.value >= 0


def test_the_real_samples_of_physionet_2021_become_segments(real_data, tmp_path):
    """No patient of the sample has two recordings, so there is no test split; that of validation is real."""
    from hf_ecgtext.data.opening import open_data

    table = str(real_data / "ptb-xl" / "ptbxl_database.csv")
    recordings = open_data("cinc2021", real_data / "cinc2021", ptb_xl_table=table)
    data = identification_data(recordings, validation_fraction=0.3)
    assert data.test is None
    keys = [key for rows in (recordings.train, recordings.validation, recordings.test) for key in _lengths(rows)]
    expected = identification_segments([RecordingLength(*key) for key in keys], {}, validation_fraction=0.3)
    assert [*data.train.segments, *data.validation.segments] == expected
    model, processor = get_recipe("merl", "debug").build(seed=0)
    runs = EncoderRuns("random weights", "random", (ModelEncoder(model, processor),))
    first, _ = evaluate_identification(runs, data, cache(tmp_path), split="validation", num_resamples=20)
    assert first.data["name"] == "cinc2021"
    assert first.details["num_persons"] == len(data.validation) // 2 > 10


def _lengths(rows):
    return zip(*(rows.column(name) for name in ("origin_id", "sampling_rate_hz", "num_samples")), strict=True)


def cache(folder):
    return FeatureCache(folder / "features", show_progress=False)
