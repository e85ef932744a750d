import json
import logging

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS, limb_leads_from_i_and_ii
from hf_ecgtext.processing import EcgFeatureExtractor


def twelve_leads(num_samples=5000, seed=0):
    independent = np.random.default_rng(seed).standard_normal((8, num_samples))
    limb = limb_leads_from_i_and_ii(independent[0], independent[1])
    return np.concatenate([limb, independent[2:]]).astype(np.float32)


def ramp(num_samples):
    """Millivolts that tell which sample they are."""
    return np.tile(np.arange(num_samples, dtype=np.float32) / 1024, (12, 1))


def record(signal, lead_names=STANDARD_LEADS, rate_hz=500.0, record_id="r1"):
    return EcgRecord(np.asarray(signal, dtype=np.float32), rate_hz, tuple(lead_names), record_id)


SHORT = EcgFeatureExtractor(duration_s=2.0)  # 1000 samples


# Shapes and types


def test_a_record_at_the_models_rate_passes_unchanged():
    signal = twelve_leads()
    features = EcgFeatureExtractor()(record(signal))
    assert features["ecg_values"].dtype == np.float32
    np.testing.assert_array_equal(features["ecg_values"], signal[None])
    np.testing.assert_array_equal(features["lead_mask"], np.ones((1, 12), dtype=bool))
    assert set(features) == {"ecg_values", "lead_mask"}


def test_every_form_of_the_same_recording_gives_the_same_features():
    signal = twelve_leads(1000)
    expected = SHORT(record(signal))["ecg_values"]
    forms = [signal, signal[None], [signal], torch.from_numpy(signal), [torch.from_numpy(signal)], signal.astype(float)]
    for form in forms:
        np.testing.assert_array_equal(SHORT(form, sampling_rate_hz=500)["ecg_values"], expected)


def test_a_bfloat16_tensor_is_read():
    tensor = torch.from_numpy(twelve_leads(1000)).to(torch.bfloat16)
    values = SHORT(tensor, sampling_rate_hz=500)["ecg_values"]
    np.testing.assert_array_equal(values[0], tensor.float().numpy())


def test_torch_tensors_are_returned_when_asked_for():
    features = SHORT(record(twelve_leads(1000)), return_tensors="pt")
    assert features["ecg_values"].dtype == torch.float32
    assert features["lead_mask"].dtype == torch.bool


def test_the_input_is_never_changed():
    extractor = EcgFeatureExtractor(duration_s=2.0, scaling="minmax_record", check_limb_leads="fix")
    signal = twelve_leads(1000)[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    signal[0, 5] = np.nan
    before = signal.copy()
    extractor(signal, sampling_rate_hz=500)
    np.testing.assert_array_equal(signal, before)


def test_a_mixed_batch_equals_its_records_one_by_one():
    extractor = EcgFeatureExtractor(duration_s=2.0, scaling="zscore_lead", return_sample_mask=True, pad="center")
    records = [
        record(twelve_leads(1000, 1)),
        record(twelve_leads(514, 2), rate_hz=257),
        record(twelve_leads(700, 3)),
        record(twelve_leads(1500, 4)),
        record(twelve_leads(1000, 5)[:3], ("I", "II", "III")),
        record(twelve_leads(1000, 6)),
    ]
    together = extractor(records)
    for index, single in enumerate(records):
        for name, values in extractor(single).items():
            np.testing.assert_array_equal(together[name][index], values[0], err_msg=f"{name} of record {index}")


def test_a_batch_of_more_than_one_block_keeps_its_order():
    batch = np.stack([twelve_leads(1000, seed) for seed in range(200)])  # 2.4 million samples: three blocks
    np.testing.assert_array_equal(SHORT(batch, sampling_rate_hz=500)["ecg_values"], batch)


# Arguments


def test_arrays_need_a_sampling_rate():
    with pytest.raises(ValueError, match="sampling_rate_hz is required"):
        SHORT(twelve_leads())


def test_a_record_refuses_arguments_that_it_carries_itself():
    with pytest.raises(ValueError, match="brings its own rate"):
        SHORT(record(twelve_leads()), sampling_rate_hz=500)


@pytest.mark.parametrize("shape", [(5000, 12), (2, 5000, 12)])
def test_a_transposed_signal_is_recognised(shape):
    for names in (None, STANDARD_LEADS):
        with pytest.raises(RecordError, match="num_samples, num_leads"):
            SHORT(np.zeros(shape, dtype=np.float32), sampling_rate_hz=500, lead_names=names)


@pytest.mark.parametrize(
    ("ecg", "arguments", "error", "message"),
    [
        (np.zeros((12, 1000), np.float32), {"unit": "cm"}, ValueError, "unit"),
        (np.zeros((12, 1000), np.int16), {}, RecordError, "ADC counts"),
        (np.zeros((12, 1000), np.complex64), {}, RecordError, "complex64"),
        (np.zeros((12, 1000), np.float32), {"sampling_rate_hz": 0}, RecordError, "sampling rate"),
        (np.zeros((12, 1000), np.float32), {"sampling_rate_hz": float("nan")}, RecordError, "sampling rate"),
        (np.zeros((12, 0), np.float32), {}, RecordError, "one sample"),
        (np.zeros((3, 1000), np.float32), {}, RecordError, "lead_names is missing"),
        (np.zeros(1000, np.float32), {}, RecordError, "lead_names is missing"),
        (np.zeros((2, 1000), np.float32), {"lead_names": ["I"]}, RecordError, "2 rows but 1 lead names"),
        (np.zeros((2, 1000), np.float32), {"lead_names": ["I", "DI"]}, RecordError, "more than one row is lead I"),
        (np.zeros((1, 1000), np.float32), {"lead_names": "I"}, TypeError, "list of names"),
        (np.zeros((1, 1, 1, 1), np.float32), {}, ValueError, "shape"),
        ([], {}, ValueError, "empty"),
        ([[0.0, 1.0]], {}, TypeError, "list"),
        ("record", {}, TypeError, "str"),
    ],
)
def test_unusable_input_is_refused_with_a_reason(ecg, arguments, error, message):
    with pytest.raises(error, match=message):
        SHORT(ecg, **{"sampling_rate_hz": 500, **arguments})


def test_errors_name_the_record():
    batch = [twelve_leads(1000), np.zeros((12, 0), dtype=np.float32)]
    with pytest.raises(RecordError, match="Record 'batch index 1'"):
        SHORT(batch, sampling_rate_hz=500)
    with pytest.raises(RecordError, match="Record 'second'"):
        SHORT(batch, sampling_rate_hz=500, record_ids=["first", "second"])


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1), ("uV", 1000), ("V", 0.001)])
def test_units_become_millivolts(unit, factor):
    signal = twelve_leads(1000).astype(np.float64)
    values = SHORT(signal * factor, sampling_rate_hz=500, unit=unit)["ecg_values"]
    np.testing.assert_allclose(values[0], signal, rtol=1e-5)


def test_whole_microvolts_are_a_physical_unit():
    values = SHORT(np.full((12, 1000), 1500, dtype=np.int16), sampling_rate_hz=500, unit="uV")["ecg_values"]
    np.testing.assert_allclose(values, 1.5, rtol=1e-6)


# Leads


def test_leads_are_placed_by_name_whatever_their_order_and_spelling():
    signal = twelve_leads(1000)
    mimic = signal[[STANDARD_LEADS.index(lead) for lead in MIMIC_LEADS]]
    names = [f"MDC_ECG_LEAD_{lead.upper()}" for lead in MIMIC_LEADS]
    np.testing.assert_array_equal(SHORT(record(mimic, names))["ecg_values"][0], signal)
    for_merl = EcgFeatureExtractor(duration_s=2.0, lead_names=MIMIC_LEADS)
    np.testing.assert_array_equal(for_merl(record(signal))["ecg_values"][0], mimic)


def test_twelve_unnamed_rows_are_standard_leads_also_for_a_model_in_mimic_order():
    signal = twelve_leads(1000)
    for_merl = EcgFeatureExtractor(duration_s=2.0, lead_names=MIMIC_LEADS)
    np.testing.assert_array_equal(for_merl(signal, sampling_rate_hz=500)["ecg_values"][0, 4], signal[5])


def test_limb_leads_are_derived_and_chest_leads_masked():
    signal = twelve_leads(1000)
    features = SHORT(record(signal[[0, 1]], ("I", "II")))
    np.testing.assert_allclose(features["ecg_values"][0, :6], signal[:6], atol=1e-6)
    np.testing.assert_array_equal(features["ecg_values"][0, 6:], 0)
    np.testing.assert_array_equal(features["lead_mask"][0], [True] * 6 + [False] * 6)


def test_nothing_is_derived_when_switched_off():
    features = EcgFeatureExtractor(duration_s=2.0, derive_limb_leads=False)(
        record(twelve_leads(1000)[[0, 1]], ("I", "II"))
    )
    np.testing.assert_array_equal(features["lead_mask"][0], [True] * 2 + [False] * 10)


def test_a_single_lead_comes_as_one_dimension_with_its_name():
    features = SHORT(twelve_leads(1000)[0], sampling_rate_hz=500, lead_names=["I"])
    assert features["lead_mask"].sum() == 1


def test_missing_leads_can_be_refused():
    extractor = EcgFeatureExtractor(duration_s=2.0, missing_leads="raise")
    with pytest.raises(RecordError, match="Record 'r1': missing leads V1, V2, V3, V4, V5, V6"):
        extractor(record(twelve_leads(1000)[:6], STANDARD_LEADS[:6]))


def test_unknown_leads_are_refused_or_left_out():
    signal, names = np.concatenate([twelve_leads(1000), np.ones((1, 1000))]), (*STANDARD_LEADS, "vx")
    with pytest.raises(RecordError, match=r"Record 'r1': unknown lead names \['vx'\]"):
        SHORT(record(signal, names))
    ignoring = EcgFeatureExtractor(duration_s=2.0, unknown_leads="ignore")
    np.testing.assert_array_equal(ignoring(record(signal, names))["ecg_values"][0], signal[:12].astype(np.float32))


def test_a_record_with_none_of_the_leads_is_refused():
    with pytest.raises(RecordError, match="Drop the record"):
        EcgFeatureExtractor(unknown_leads="ignore")(record(np.ones((1, 1000)), ("vx",)))


@pytest.fixture
def swapped():
    return record(twelve_leads(1000)[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]], record_id="swapped")


def test_swapped_augmented_leads_are_warned_about_by_name(swapped, caplog):
    with caplog.at_level(logging.WARNING, "hf_ecgtext"):
        features = SHORT([record(twelve_leads(1000)), swapped])
    assert "'swapped'" in caplog.text
    assert "'r1'" not in caplog.text
    assert "leads aVL and aVF are exchanged" in caplog.text
    assert "check_limb_leads='fix'" in caplog.text
    np.testing.assert_array_equal(features["ecg_values"][1], swapped.signal)


def test_swapped_augmented_leads_can_be_refused(swapped):
    with pytest.raises(RecordError, match=r"Record 'swapped'.*Goldberger"):
        EcgFeatureExtractor(duration_s=2.0, check_limb_leads="raise")([record(twelve_leads(1000)), swapped])


@pytest.mark.parametrize("order", [[3, 5, 4], [4, 5, 3], [5, 3, 4], [4, 3, 5], [5, 4, 3]])
def test_swapped_augmented_leads_can_be_put_right(order):
    signal = twelve_leads(1000)
    stored = signal[[0, 1, 2, *order, 6, 7, 8, 9, 10, 11]]
    fixed = EcgFeatureExtractor(duration_s=2.0, check_limb_leads="fix")([record(stored), record(signal)])
    np.testing.assert_array_equal(fixed["ecg_values"], np.stack([signal, signal]))


def test_the_limb_lead_check_can_be_switched_off(swapped, caplog):
    EcgFeatureExtractor(duration_s=2.0, check_limb_leads="off")(swapped)
    assert not caplog.records


# Invalid samples


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gaps_are_bridged_by_straight_lines(bad):
    signal = ramp(1000)
    damaged = signal.copy()
    damaged[3, 100:200] = bad
    np.testing.assert_allclose(SHORT(record(damaged))["ecg_values"][0], signal, rtol=1e-5)


def test_gaps_at_the_ends_take_the_nearest_sample():
    signal = ramp(1000)
    signal[0, :10], signal[0, -10:] = np.nan, np.nan
    values = SHORT(record(signal))["ecg_values"][0, 0]
    np.testing.assert_array_equal(values[:10], signal[1, 10])
    np.testing.assert_array_equal(values[-10:], signal[1, 989])


def test_gaps_can_become_zero_or_refuse_the_record():
    signal = twelve_leads(1000)
    signal[2, 7] = np.nan
    assert EcgFeatureExtractor(duration_s=2.0, nan_policy="zero")(record(signal))["ecg_values"][0, 2, 7] == 0
    with pytest.raises(RecordError, match="Record 'r1': lead III has 1 NaN"):
        EcgFeatureExtractor(duration_s=2.0, nan_policy="raise")(record(signal))


def test_a_lead_without_valid_samples_is_absent_or_derived(caplog):
    signal = twelve_leads(1000)
    expected_iii = signal[2].copy()
    signal[[2, 7]] = np.nan
    features = SHORT(record(signal))
    np.testing.assert_array_equal(np.flatnonzero(~features["lead_mask"][0]), [7])
    np.testing.assert_array_equal(features["ecg_values"][0, 7], 0)
    np.testing.assert_allclose(features["ecg_values"][0, 2], expected_iii, atol=1e-6)
    assert "no valid sample in lead V2" in caplog.text
    assert "'r1'" in caplog.text


def test_a_value_beyond_float32_counts_as_invalid():
    signal = np.zeros((12, 1000))
    signal[0, 5] = 1e300
    np.testing.assert_array_equal(SHORT(signal, sampling_rate_hz=500)["ecg_values"], 0)


# Length and rate


def test_a_longer_record_is_cropped_where_the_setting_says():
    signal = ramp(1500)
    for crop, first in (("start", 0), ("center", 250)):
        values = EcgFeatureExtractor(duration_s=2.0, crop=crop)(record(signal))["ecg_values"]
        np.testing.assert_array_equal(values[0], signal[:, first : first + 1000])
        np.testing.assert_array_equal(SHORT(record(signal), crop=crop)["ecg_values"], values)


def test_a_random_crop_repeats_with_its_seed_and_does_not_depend_on_the_batch():
    signal = ramp(1500)
    records = [record(signal), record(signal[:, :1200]), record(signal), record(signal[:, :1200])]
    first = SHORT(records, crop="random", generator=7)["ecg_values"]
    np.testing.assert_array_equal(SHORT(records, crop="random", generator=7)["ecg_values"], first)
    generator = np.random.default_rng(7)
    one_by_one = [SHORT(single, crop="random", generator=generator)["ecg_values"][0] for single in records]
    np.testing.assert_array_equal(first, one_by_one)
    assert len(set(first[:, 0, 0])) > 1


def test_random_crops_reach_every_start():
    signal = ramp(1003)
    starts = SHORT([record(signal)] * 100, crop="random", generator=0)["ecg_values"][:, 0, 0]
    assert set(starts) == set(signal[0, :4])


def test_as_a_setting_random_is_for_training_and_the_centre_for_all_others():
    extractor = EcgFeatureExtractor(duration_s=2.0, crop="random")
    records = [record(twelve_leads(num_samples)) for num_samples in (1500, 1001, 700)]
    centre = SHORT(records, crop="center")["ecg_values"]
    np.testing.assert_array_equal(extractor(records)["ecg_values"], centre)
    drawn = extractor(records, generator=7)["ecg_values"]
    np.testing.assert_array_equal(drawn, SHORT(records, crop="random", generator=7)["ecg_values"])
    assert not np.array_equal(drawn, centre)
    np.testing.assert_array_equal(extractor(records, crop="start")["ecg_values"], SHORT(records)["ecg_values"])


def test_positions_say_where_windows_start():
    ramp = np.tile(np.arange(1500, dtype=np.float32) * 1e-3, (12, 1))
    given = np.array([0.0, 0.5, 0.999999])
    values = SHORT([record(ramp)] * 3, positions=given)["ecg_values"]
    np.testing.assert_allclose(values[:, 0, 0] * 1e3, [0, 250, 500], atol=1e-3)


@pytest.mark.parametrize("positions", [[0.5], [[0.5, 0.5]], [0.5, 1.0], [-0.1, 0.5], [0.5, float("nan")]])
def test_positions_that_are_none_are_refused(positions):
    with pytest.raises(ValueError, match=r"one number in \[0, 1\) for each of the 2 records"):
        SHORT([record(twelve_leads())] * 2, positions=positions)


@pytest.mark.parametrize("other", [{"crop": "center"}, {"generator": 3}])
def test_positions_beside_another_answer_are_refused(other):
    with pytest.raises(ValueError, match="leave crop= and generator= out"):
        SHORT(record(twelve_leads()), positions=np.array([0.5]), **other)


def test_a_random_crop_without_a_seed_is_refused():
    with pytest.raises(ValueError, match="generator"):
        SHORT(record(twelve_leads()), crop="random")


def test_a_shorter_record_is_padded_and_masked():
    for pad, first in (("end", 0), ("center", 150)):
        extractor = EcgFeatureExtractor(duration_s=2.0, pad=pad, return_sample_mask=True)
        features = extractor(record(np.ones((12, 700))))
        recorded = np.zeros(1000, dtype=bool)
        recorded[first : first + 700] = True
        np.testing.assert_array_equal(features["sample_mask"][0], recorded)
        np.testing.assert_array_equal(features["ecg_values"][0, 0], recorded.astype(np.float32))


def test_records_are_resampled_to_the_models_rate():
    time = np.arange(2500) / 250
    sine = np.tile(np.sin(2 * np.pi * 5 * time), (12, 1))
    values = EcgFeatureExtractor(check_limb_leads="off")(record(sine, rate_hz=250))["ecg_values"]
    expected = np.sin(2 * np.pi * 5 * np.arange(5000) / 500)
    np.testing.assert_allclose(values[0, 0, 50:-50], expected[50:-50], atol=0.01)


def test_the_band_pass_removes_wander_before_cropping():
    signal = twelve_leads(5000) * 0 + 3
    values = EcgFeatureExtractor(duration_s=2.0, bandpass_hz=(0.67, 40.0))(record(signal))["ecg_values"]
    assert np.abs(values).max() < 0.01


def test_a_record_too_short_for_the_filter_is_refused():
    with pytest.raises(RecordError, match=r"Record 'r1': 20 samples.*too few"):
        EcgFeatureExtractor(bandpass_hz=(0.67, 40.0))(record(twelve_leads(20)))


# Scaling


def test_a_constant_record_is_zero_with_a_warning_or_refused(caplog):
    flat = record(np.full((12, 1000), 0.7), record_id="flat")
    extractor = EcgFeatureExtractor(duration_s=2.0, scaling="minmax_record")
    np.testing.assert_array_equal(extractor(flat)["ecg_values"], 0)
    assert "'flat'" in caplog.text
    strict = EcgFeatureExtractor(duration_s=2.0, scaling="minmax_record", constant_policy="raise")
    with pytest.raises(RecordError, match="Record 'flat': the whole record is constant"):
        strict(flat)


def test_min_max_is_taken_after_padding_as_merl_does():
    signal = np.tile(np.linspace(1, 3, 500, dtype=np.float32), (12, 1))
    values = EcgFeatureExtractor(duration_s=2.0, scaling="minmax_record")(record(signal))["ecg_values"]
    np.testing.assert_allclose(values[0, :, 0], 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(values[0, :, 500:], 0)


# Settings


def test_settings_survive_saving_and_loading(tmp_path):
    extractor = EcgFeatureExtractor(
        lead_names=MIMIC_LEADS, sampling_rate_hz=250, duration_s=9, scaling="zscore_record", bandpass_hz=(0.67, None)
    )
    extractor.save_pretrained(tmp_path)
    for loaded in (EcgFeatureExtractor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)):
        assert type(loaded) is EcgFeatureExtractor
        assert loaded.to_dict() == extractor.to_dict()
    assert loaded.lead_names == MIMIC_LEADS
    assert loaded.bandpass_hz == (0.67, None)
    assert loaded.num_samples == 2250


def test_a_setting_can_be_overridden_while_loading(tmp_path):
    EcgFeatureExtractor().save_pretrained(tmp_path)
    assert EcgFeatureExtractor.from_pretrained(tmp_path, scaling="zscore_lead").scaling == "zscore_lead"
    with pytest.raises(TypeError, match="did you mean 'scaling'"):
        EcgFeatureExtractor.from_pretrained(tmp_path, scalling="zscore_lead")


def test_a_misspelt_setting_is_refused_in_code_and_in_a_file(tmp_path):
    with pytest.raises(TypeError, match="no setting 'sampling_rate'; did you mean 'sampling_rate_hz'"):
        EcgFeatureExtractor(sampling_rate=500)
    EcgFeatureExtractor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lead_order": "mimic"}))
    with pytest.raises(TypeError, match="no setting 'lead_order'"):
        EcgFeatureExtractor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lead_names", "I"),
        ("lead_names", []),
        ("lead_names", ["I", "vx"]),
        ("lead_names", ["I", "DI"]),
        ("sampling_rate_hz", 0),
        ("sampling_rate_hz", "500"),
        ("sampling_rate_hz", True),
        ("duration_s", float("inf")),
        ("duration_s", float("nan")),
        ("duration_s", 1e9),
        ("duration_s", 0.0001),
        ("sampling_rate_hz", float("nan")),
        ("sampling_rate_hz", 1e308),
        ("crop", "end"),
        ("pad", "start"),
        ("return_sample_mask", 1),
        ("nan_policy", "drop"),
        ("missing_leads", "zero"),
        ("derive_limb_leads", "yes"),
        ("unknown_leads", "mask"),
        ("check_limb_leads", True),
        ("check_amplitude", "fix"),
        ("bandpass_hz", (40.0, 0.67)),
        ("bandpass_hz", (0.67, 250.0)),
        ("bandpass_hz", (300.0, None)),
        ("bandpass_hz", (None, None)),
        ("bandpass_hz", 40.0),
        ("bandpass_order", 2.0),
        ("bandpass_order", 0),
        ("bandpass_order", 10**6),
        ("bandpass_hz", (float("nan"), 40.0)),
        ("scaling", "minmax"),
        ("eps", -1.0),
        ("eps", float("nan")),
        ("constant_policy", "nan"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(setting, value):
    with pytest.raises((TypeError, ValueError), match=setting):
        EcgFeatureExtractor(**{setting: value})


# Plausibility


def ecg_like(num_samples=1000, seed=0):
    return twelve_leads(num_samples, seed) * np.float32(0.5)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("uV", 1e3),
        ("\N{MICRO SIGN}V", 1e3),
        ("\N{GREEK SMALL LETTER MU}V", 1e3),
        ("microvolts", 1e3),
        ("nV", 1e6),
        ("V", 1e-3),
    ],
)
def test_a_unit_in_any_usual_spelling_gives_the_millivolts(unit, factor):
    signal = ecg_like()
    values = SHORT(signal.astype(np.float64) * factor, sampling_rate_hz=500, unit=unit)["ecg_values"]
    np.testing.assert_allclose(values[0], signal, rtol=1e-5)


@pytest.mark.parametrize("unit", ["uV", "\N{MICRO SIGN}V", "Microvolt", "nV"])
def test_whole_numbers_of_a_small_unit_are_taken(unit):
    counts = np.rint(ecg_like() * (1e6 if unit == "nV" else 1e3)).astype(np.int32)
    values = SHORT(counts, sampling_rate_hz=500, unit=unit)["ecg_values"]
    np.testing.assert_allclose(values[0], ecg_like(), atol=1e-3)


@pytest.mark.parametrize(
    ("factor", "unit", "words"),
    [
        (1e3, "mV", "microvolts"),
        (200, "mV", "counts of a converter"),
        (1e-3, "mV", "volts"),
        (1, "uV", "read as uV.*volts"),
    ],
)
def test_arrays_in_another_unit_than_said_are_refused_with_the_likely_one(factor, unit, words):
    arrays = [ecg_like(seed=1) * (1 if unit == "mV" else 1000), ecg_like() * np.float32(factor)]
    with pytest.raises(RecordError, match=rf"Record 'b': .*{words}.*Pass the right unit.*check_amplitude='warn'"):
        SHORT(arrays, sampling_rate_hz=500, unit=unit, record_ids=["a", "b"])
    with pytest.raises(RecordError, match="Record 'batch index 1'"):
        SHORT(np.stack(arrays), sampling_rate_hz=500, unit=unit)


def test_an_amplitude_that_is_meant_passes_with_a_warning_or_without_one(caplog):
    signal = ecg_like() * 1000
    values = EcgFeatureExtractor(duration_s=2.0, check_amplitude="off")(record(signal))["ecg_values"]
    np.testing.assert_array_equal(values[0], signal)
    assert not caplog.records
    warned = EcgFeatureExtractor(duration_s=2.0, check_amplitude="warn")(record(signal))["ecg_values"]
    np.testing.assert_array_equal(warned, values)
    assert "Records 'r1' may be in another unit: its leads typically span" in caplog.text


def test_a_doubtful_amplitude_is_a_warning_and_changes_nothing(caplog):
    signal = ecg_like() * 5
    np.testing.assert_array_equal(SHORT(record(signal))["ecg_values"][0], signal)
    assert "such as 0.1 mV. Check the unit." in caplog.text


def test_rows_that_the_model_does_not_read_do_not_count():
    frank = np.concatenate([ecg_like(), ecg_like()[:3] * 1000, ecg_like()[:3] * 1000])
    names = (*STANDARD_LEADS, "vx", "vy", "vz", "pressure", "airway", "other")
    extractor = EcgFeatureExtractor(duration_s=2.0, unknown_leads="ignore")
    np.testing.assert_array_equal(extractor(record(frank, names))["ecg_values"][0], ecg_like())


@pytest.mark.parametrize("rate", [1e-300, 0.5, 5, 20_001, 1e9, 1e308, np.float32(1e12)])
def test_a_rate_that_no_ecg_has_is_refused_before_any_resampling(rate):
    for ecg, arguments in ((ecg_like(), {"sampling_rate_hz": rate}), (record(ecg_like(), rate_hz=rate), {})):
        with pytest.raises(RecordError, match=r"cannot be that of an ECG \(20 to 20,000 Hz\).*Pass the rate"):
            SHORT(ecg, **arguments)
