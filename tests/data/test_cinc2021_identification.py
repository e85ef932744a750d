"""Patient identification on PhysioNet/CinC 2021: who is compared with whom, and what is trained on."""

from collections import Counter, defaultdict

import pytest

from hf_ecgtext.data.sources.cinc2021.identification import ROLES, RecordingLength, identification_segments

# 400 of other sets, of 2, 3 and 1 segments, and 60 of PTB-XL, of which the first 40 are two of 20 patients each
OTHERS = [RecordingLength(f"csn:JS{n:05d}", 500.0, {0: 5000, 1: 7600, 2: 2600}[n % 3]) for n in range(400)]
PTB_XL = [RecordingLength(f"ptb_xl:{n:05d}", 500.0, 5000) for n in range(60)]
PATIENTS = {recording.origin_id: f"p{n // 2 if n < 40 else n}" for n, recording in enumerate(PTB_XL)}


def by_role(segments):
    groups = defaultdict(list)
    for segment in segments:
        groups[segment.role].append(segment)
    return groups


def test_the_test_is_two_recordings_of_each_patient_that_has_two():
    roles = by_role(identification_segments([*OTHERS, *PTB_XL], PATIENTS))
    assert len(roles["test_gallery"]) == len(roles["test_probe"]) == 20
    for gallery, probe in zip(roles["test_gallery"], roles["test_probe"], strict=True):
        assert gallery.person == probe.person
        assert gallery.origin_id != probe.origin_id
        assert PATIENTS[gallery.origin_id] == PATIENTS[probe.origin_id]
        assert all(0 <= part.first_sample <= 2500 and part.num_samples == 2500 for part in (gallery, probe))
    assert len({segment.first_sample for segment in roles["test_gallery"]}) > 10  # random crops


def test_a_third_recording_of_a_test_patient_is_neither_tested_nor_trained_on():
    patients = {**PATIENTS, "ptb_xl:00055": "p0"}
    segments = identification_segments([*OTHERS, *PTB_XL], patients)
    assert "ptb_xl:00055" not in {segment.origin_id for segment in segments}


def test_test_patients_are_in_training_only_on_request():
    everything = [*OTHERS, *PTB_XL]
    tested = {f"ptb_xl:{n:05d}" for n in range(40)}
    strict = by_role(identification_segments(everything, PATIENTS))
    assert not tested & {segment.origin_id for segment in strict["train"]}
    published = by_role(identification_segments(everything, PATIENTS, test_patients_in_training=True))
    assert tested & {segment.origin_id for segment in published["train"]}
    assert published["test_gallery"] == strict["test_gallery"]


def test_validation_pairs_are_the_first_two_segments_of_one_recording():
    roles = by_role(identification_segments(OTHERS, {}, validation_fraction=0.3))
    assert len(roles["validation_gallery"]) > 50
    for gallery, probe in zip(roles["validation_gallery"], roles["validation_probe"], strict=True):
        assert (gallery.origin_id, gallery.person) == (probe.origin_id, probe.person)
        assert (gallery.first_sample, probe.first_sample) == (0, 2500)


def test_training_has_every_full_segment_and_one_person_per_recording():
    roles = by_role(identification_segments(OTHERS, {}, validation_fraction=0, unused_fraction=0))
    assert set(roles) == {"train"}
    assert Counter(Counter(segment.origin_id for segment in roles["train"]).values()) == {2: 134, 3: 133, 1: 133}
    persons = {segment.person: segment.origin_id for segment in roles["train"]}
    assert sorted(persons) == list(range(400))
    assert len(set(persons.values())) == 400


def test_no_recording_has_two_roles_but_gallery_and_probe():
    roles_of = defaultdict(set)
    for segment in identification_segments([*OTHERS, *PTB_XL], PATIENTS):
        roles_of[segment.origin_id].add(segment.role.partition("_")[0])
    assert all(len(roles) == 1 for roles in roles_of.values())


def test_a_share_is_validated_on_and_another_left_unused():
    recordings = [RecordingLength(f"csn:JS{n:05d}", 500.0, 5000) for n in range(5000)]
    roles = by_role(identification_segments(recordings, {}))
    assert len(roles["validation_gallery"]) == pytest.approx(500, abs=4 * 21)  # 4 sd of a binomial
    assert len(roles["train"]) == pytest.approx(2 * 4000, abs=2 * 4 * 28)


def test_the_draw_of_a_recording_does_not_depend_on_the_others():
    def drawn(recordings):
        return {(segment.origin_id, segment.role) for segment in identification_segments(recordings, {})}

    assert drawn(OTHERS[:200]) == {pair for pair in drawn(OTHERS[::-1]) if pair[0] < "csn:JS00200"}
    assert drawn(OTHERS) != {
        (segment.origin_id, segment.role) for segment in identification_segments(OTHERS, {}, seed=1)
    }


def test_other_rates_and_short_recordings_are_left_out():
    recordings = [RecordingLength("ptb:S0001", 1000.0, 100_000), RecordingLength("georgia:E00001", 500.0, 2499)]
    assert identification_segments(recordings, {}, validation_fraction=0, unused_fraction=0) == []


def test_segments_come_in_the_order_of_the_roles():
    roles = [segment.role for segment in identification_segments([*OTHERS, *PTB_XL], PATIENTS)]
    assert list(dict.fromkeys(roles)) == list(ROLES)


def test_wrong_shares_and_repeated_recordings_are_refused():
    with pytest.raises(ValueError, match="more than 1 together"):
        identification_segments(OTHERS, {}, validation_fraction=0.6, unused_fraction=0.6)
    with pytest.raises(ValueError, match="'csn:JS00000' is named twice"):
        identification_segments([OTHERS[0], OTHERS[0]], {})


def test_ptb_xl_has_2111_patients_with_two_recordings(real_data):
    import pandas as pd

    database = pd.read_csv(real_data / "ptb-xl" / "ptbxl_database.csv")
    patients = {f"ptb_xl:{row.ecg_id:05d}": str(int(row.patient_id)) for row in database.itertuples()}
    segments = identification_segments([RecordingLength(name, 500.0, 5000) for name in patients], patients)
    assert Counter(segment.role for segment in segments)["test_gallery"] == 2111
