"""Packed on the CPU and finished in torch, a batch equals what the extractor makes of it on the CPU alone."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ecgtext.data.records import INVALID_SAMPLE, StoredEcg
from hf_ecgtext.data.wfdb.reading import read_digital
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS, limb_leads_from_i_and_ii
from hf_ecgtext.processing import EcgFeatureExtractor
from hf_ecgtext.processing.scaling import SCALINGS

RATE_HZ = 100.0


def stored(seed=0, num_samples=200, lead_names=STANDARD_LEADS, gain=200.0, baseline=0, rate_hz=RATE_HZ, **options):
    """int16 rows whose limb leads obey the identities but for rounding."""
    chest = np.random.default_rng(seed).normal(0, 150, (8, num_samples))
    limb = limb_leads_from_i_and_ii(chest[0], chest[1])
    rows = dict(zip(STANDARD_LEADS, np.concatenate([limb, chest[2:]]), strict=True))
    samples = np.stack([rows[lead] for lead in lead_names]).round().astype(np.int16) + np.int16(baseline)
    num_leads = len(lead_names)
    options = {"record_id": f"r{seed}", "report": "Sinus rhythm.", **options}
    return StoredEcg(
        samples,
        np.full(num_leads, gain),
        np.full(num_leads, baseline, dtype=np.int32),
        rate_hz,
        tuple(lead_names),
        **options,
    )


def extractor_of(**options):
    return EcgFeatureExtractor(**{"sampling_rate_hz": RATE_HZ, "duration_s": 2.0, **options})


def assert_same(extractor, records, packed=None, positions=None):
    """The two halves give what the extractor gives: to the bit, or for z-scores but for float32 rounding."""
    expected = extractor(records, positions=positions, return_tensors="pt")
    got = extractor.unpack(extractor.pack(records, positions) if packed is None else packed)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        if name == "ecg_values" and extractor.scaling.startswith("zscore"):
            torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=2e-6)
        else:
            assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("order", [STANDARD_LEADS, MIMIC_LEADS, ("V6", "II", "I", "aVF")])
def test_a_batch_of_integers_equals_the_cpu(scaling, order):
    extractor = extractor_of(scaling=scaling, lead_names=order)
    records = [stored(seed, gain=gain, baseline=baseline) for seed, gain, baseline in [(0, 200, 0), (1, 1000.0, -7)]]
    packed = extractor.pack(records)
    assert packed["ecg_adc"].dtype == torch.int16
    assert "ecg_float_rows" not in packed
    assert_same(extractor, records, packed)


def test_millivolts_are_the_integers_minus_the_baseline_over_the_gain():
    record = stored(gain=250.0, baseline=12)
    values = extractor_of().unpack(extractor_of().pack([record]))["ecg_values"]
    expected = (record.samples.astype(np.float64) - 12) / 250.0
    np.testing.assert_array_equal(values[0].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("pad", ["end", "center"])
@pytest.mark.parametrize("crop", ["start", "center"])
def test_shorter_and_longer_records_equal_the_cpu(scaling, pad, crop):
    extractor = extractor_of(scaling=scaling, pad=pad, crop=crop, return_sample_mask=True)
    lengths = [200, 151, 97, 333, 201]
    records = [stored(seed, num_samples=length, baseline=seed * 9) for seed, length in enumerate(lengths)]
    packed = extractor.pack(records)
    assert "ecg_float_rows" not in packed
    assert_same(extractor, records, packed)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_leads_that_are_absent_are_masked_and_limb_leads_derived(scaling):
    without_limb = ("V1", "II", "I", "V5")
    records = [stored(0), stored(1, lead_names=without_limb, baseline=3), stored(2, lead_names=("V1", "II"))]
    for derive in (True, False):
        extractor = extractor_of(scaling=scaling, derive_limb_leads=derive)
        packed = extractor.pack(records)
        is_left_to_cpu = derive and scaling == "zscore_lead"  # whether III is constant shows only in millivolts
        assert ("ecg_float_rows" in packed) == is_left_to_cpu
        assert ("ecg_derived" in packed) == (derive and not is_left_to_cpu)
        assert_same(extractor, records, packed)


def test_limb_leads_of_a_model_that_does_not_read_i_and_ii_are_derived_on_the_cpu():
    extractor = extractor_of(lead_names=("aVR", "V1"))
    assert_same(extractor, [stored(0), stored(1), stored(2, lead_names=("I", "II", "V1"))])


def with_row(row, samples):
    """A record with other samples in one row."""
    return replace(stored(9), samples=np.where(np.arange(12)[:, None] == row, samples, stored(9).samples))


OTHERS = {
    "another rate": stored(9, rate_hz=250.0, num_samples=500),
    "a missing sample": replace(stored(9), samples=np.where(np.arange(200) == 5, INVALID_SAMPLE, stored(9).samples)),
    "millivolts": replace(
        stored(9), samples=stored(9).signal, gain_per_mv=np.ones(12), baseline=np.zeros(12, dtype=np.int32)
    ),
    "a gain beyond float32": stored(9, gain=204.7),
    "a baseline beyond int16": replace(stored(9), baseline=np.full(12, 40_000, dtype=np.int32)),
    "already a record": stored(9).to_record(),
    "a constant lead": replace(stored(9), samples=np.where(np.arange(12)[:, None] == 8, 40, stored(9).samples)),
    "nothing but one value": replace(stored(9), samples=np.full((12, 200), 17, dtype=np.int16)),
    "augmented leads in another order": replace(stored(9), lead_names=MIMIC_LEADS),
    "a lead upside down": with_row(2, -stored(9).samples[2]),
    "a lead of another recording": with_row(4, stored(8).samples[4]),
    "V6 against I and with aVR, as with exchanged electrodes": with_row(11, -stored(9).samples[0]),
}


@pytest.mark.parametrize("scaling", ["none", "minmax_record", "zscore_lead", "zscore_record"])
@pytest.mark.parametrize("what", OTHERS)
def test_a_record_that_needs_the_cpu_travels_as_float_and_keeps_its_place(what, scaling, caplog):
    extractor = extractor_of(scaling=scaling, return_sample_mask=True)
    records = [stored(0), OTHERS[what], stored(1), stored(2, num_samples=150)]
    with caplog.at_level(logging.WARNING):
        packed = extractor.pack(records)
    notices = [entry.getMessage() for entry in caplog.records]
    caplog.clear()
    if not (what == "a constant lead" and scaling != "zscore_lead"):
        assert packed["ecg_float_positions"].tolist() == [1]
    assert_same(extractor, records, packed)
    assert notices == [entry.getMessage() for entry in caplog.records], "every warning of the CPU, and no other"


@pytest.mark.parametrize("pad", [200, 150])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_flat_and_partly_missing_records_give_finite_numbers_on_both_ways(scaling, pad):
    whole = stored(9, num_samples=pad)
    lead = np.arange(12)[:, None]
    changed = {
        "nothing but zeros": np.zeros_like(whole.samples),
        "nothing but one value": np.full_like(whole.samples, -32767),
        "one value, and one lead missing": np.where(lead == 6, INVALID_SAMPLE, 5),
        "one value, and one sample of another": np.where((lead == 6) & (np.arange(pad) == 3), 6, 5),
        "one valid sample": np.where((lead == 6) & (np.arange(pad) == 3), 6, INVALID_SAMPLE),
        "no valid sample in one lead": np.where(lead == 6, INVALID_SAMPLE, whole.samples),
    }
    records = [
        replace(whole, samples=np.broadcast_to(samples, (12, pad)).astype(np.int16), record_id=name)
        for name, samples in changed.items()
    ]
    extractor = extractor_of(scaling=scaling)
    # Among so many whole records, the others travel as floats beside the integers.
    packed = extractor.pack([*(stored(seed) for seed in range(len(records) + 1)), *records])
    assert "ecg_adc" in packed
    for features in (extractor(records, return_tensors="pt"), extractor.unpack(packed)):
        assert features["ecg_values"].isfinite().all()
        masks = features["lead_mask"][-len(records) :]
        present = dict(zip(changed, masks.sum(dim=-1).tolist(), strict=True))
        assert present["one valid sample"] == 1
        assert present["no valid sample in one lead"] == present["one value, and one lead missing"] == 11
        assert present["nothing but zeros"] == 12


def test_a_batch_with_as_many_floats_as_integers_is_prepared_on_the_cpu():
    extractor = extractor_of()
    records = [stored(0), stored(1).to_record()]
    assert extractor.pack(records).keys() == {"ecg_values", "lead_mask"}
    assert_same(extractor, records)
    assert_same(extractor_of(bandpass_hz=(1.0, 30.0)), [stored(0), stored(1)])


@pytest.mark.parametrize(
    ("options", "record", "message"),
    [
        ({"nan_policy": "raise"}, OTHERS["a missing sample"], "NaN or infinite"),
        ({"missing_leads": "raise", "derive_limb_leads": False}, stored(9, lead_names=("I", "V1")), "missing leads"),
        ({"lead_names": ("V1",)}, stored(9, lead_names=("V2", "V3")), "missing leads V1"),
        (
            {"check_limb_leads": "raise"},
            OTHERS["augmented leads in another order"],
            "leads aV[LF] and aV[LF] are exchanged",
        ),
        ({"constant_policy": "raise"}, OTHERS["nothing but one value"], "is constant"),
        ({"constant_policy": "raise", "scaling": "zscore_lead"}, OTHERS["a constant lead"], "lead V3 is constant"),
        ({}, replace(stored(9), lead_names=("X", *STANDARD_LEADS[1:])), "unknown lead names"),
        ({}, replace(stored(9), sampling_rate_hz=float("nan")), "sampling rate nan"),
        ({}, stored(9, num_samples=5), "looks like"),
    ],
)
def test_what_the_cpu_refuses_is_refused(options, record, message):
    extractor = extractor_of(**options)
    with pytest.raises(RecordError, match=message):
        extractor.pack([stored(0), stored(1), record])


def test_a_gain_so_small_that_millivolts_may_be_infinite_is_left_to_the_cpu():
    packed = extractor_of(check_amplitude="off").pack([stored(0), stored(1), stored(2, gain=1e-31)])
    assert packed["ecg_float_positions"].tolist() == [2]


def test_windows_start_where_each_record_s_position_says():
    extractor = extractor_of(check_limb_leads="off")  # twelve equal leads contradict each other
    ramp = np.tile(np.arange(1000, dtype=np.int16), (12, 1))
    records = [replace(stored(0), samples=ramp, record_id=str(number)) for number in range(5)]
    positions = np.array([0.0, 0.25, 0.5, 0.9, 1 - 2**-53])
    packed = extractor.pack(records, positions)
    assert packed["ecg_adc"][:, 0, 0].tolist() == [0, 200, 400, 720, 800], "801 starts are possible"
    assert packed["ecg_adc"][:, 0, -1].tolist() == [199, 399, 599, 919, 999]
    assert_same(extractor, records, positions=positions)


def test_records_that_cannot_be_packed_keep_their_own_positions():
    extractor = extractor_of(scaling="minmax_record")
    gap = stored(5, num_samples=700)
    gap.samples[3, 40] = INVALID_SAMPLE
    flat = stored(6, num_samples=700)
    flat.samples[:, 100:320] = 0  # constant in the second window, not in the first
    records = [stored(0, num_samples=700), gap, stored(1, num_samples=450), flat, stored(2), stored(3), stored(4)]
    for position, others in ((0.0, [1]), (0.21, [1, 3])):
        positions = np.array([0.7, 0.3, 0.99, position, 0.5, 0.1, 0.0])
        packed = extractor.pack(records, positions)
        assert packed["ecg_float_positions"].tolist() == others
        assert_same(extractor, records, packed, positions)


def test_random_crops_without_a_draw_are_those_of_evaluation_the_centre():
    records = [stored(seed, num_samples=420) for seed in range(3)]
    packed = extractor_of(crop="random").pack(records)
    for name, tensor in extractor_of(crop="center").pack(records).items():
        assert torch.equal(packed[name], tensor), name
    assert_same(extractor_of(crop="random"), records, packed)


def test_limb_leads_are_put_right_as_on_the_cpu():
    swapped = OTHERS["augmented leads in another order"]
    upside_down = OTHERS["a lead upside down"]
    assert_same(extractor_of(check_limb_leads="fix"), [stored(0), stored(1), swapped, stored(2), upside_down])
    fixed = extractor_of(check_limb_leads="fix").unpack(extractor_of(check_limb_leads="fix").pack([stored(0)] * 2))
    assert torch.equal(fixed["ecg_values"][0], torch.from_numpy(stored(0).signal))


RECORDS = st.builds(
    stored,
    seed=st.integers(0, 99),
    num_samples=st.sampled_from([150, 199, 200, 201, 420]),
    lead_names=st.sampled_from([STANDARD_LEADS, MIMIC_LEADS, STANDARD_LEADS[:8], ("V1", "II", "I"), ("aVL", "V4")]),
    gain=st.sampled_from([200.0, 1000.0, -500.0, 204.8, 4880.0, 1 / 3]),
    baseline=st.integers(-2000, 2000),
    rate_hz=st.sampled_from([RATE_HZ, RATE_HZ, RATE_HZ, 200.0]),
)


@settings(max_examples=40, deadline=None)
@given(
    records=st.lists(RECORDS | st.sampled_from(list(OTHERS.values())), min_size=1, max_size=6),
    scaling=st.sampled_from(SCALINGS),
    order=st.sampled_from([STANDARD_LEADS, MIMIC_LEADS, ("aVF", "V1", "II", "I", "V4"), ("V1", "III", "aVL", "II")]),
    pad=st.sampled_from(["end", "center"]),
    crop=st.sampled_from(["start", "center", "random"]),
    check=st.sampled_from(["off", "warn", "fix"]),
    amplitude=st.sampled_from(["off", "warn"]),
    derive=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_mixed_batch_equals_the_cpu(records, scaling, order, pad, crop, check, amplitude, derive, seed):
    extractor = extractor_of(
        scaling=scaling,
        lead_names=order,
        pad=pad,
        crop=crop,
        check_limb_leads=check,
        check_amplitude=amplitude,
        derive_limb_leads=derive,
        return_sample_mask=True,
    )
    positions = np.random.default_rng(seed).random(len(records)) if crop == "random" else None
    assert_same(extractor, records, positions=positions)


def test_an_offset_of_many_deviations_does_not_spoil_the_z_scores():
    record = stored(0, gain=1000.0)
    far = replace(record, samples=(record.samples // 10 + 20_000).astype(np.int16))
    exact = far.signal.astype(np.float64)
    exact = (exact - exact.mean(axis=-1, keepdims=True)) / exact.std(axis=-1, keepdims=True)
    extractor = extractor_of(scaling="zscore_lead", check_limb_leads="off")
    values = extractor.unpack(extractor.pack([far]))["ecg_values"][0].numpy()
    np.testing.assert_allclose(values, exact, atol=1e-3)  # 1,300 deviations away: float32 keeps three digits less


def test_the_records_are_not_changed():
    records = [stored(0, num_samples=180), stored(1, lead_names=MIMIC_LEADS), OTHERS["a missing sample"]]
    before = [record.samples.copy() for record in records]
    for record in records:
        record.samples.flags.writeable = False
    extractor_of(scaling="zscore_record").unpack(extractor_of(scaling="zscore_record").pack(records))
    for record, samples in zip(records, before, strict=True):
        np.testing.assert_array_equal(record.samples, samples)


class Operations(TorchDispatchMode):
    """Names of the operations that run, and whether a mask is an index."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name.startswith("aten::index"):
            indices = [index for value in args if isinstance(value, list | tuple) for index in value]
            name += "_by_mask" * any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
        self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_device_is_never_waited_for(scaling):
    extractor = extractor_of(scaling=scaling)
    records = [stored(0), stored(1, num_samples=150), stored(2, lead_names=("I", "II", "V2")), OTHERS["another rate"]]
    packed = extractor.pack([*records, stored(3)])
    assert {"ecg_recorded", "ecg_float_rows"} <= packed.keys()
    with Operations() as operations:
        extractor.unpack(packed)
    waits = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::_to_cpu"}
    assert operations.names
    assert not waits & set(operations.names)
    assert not [name for name in operations.names if name.endswith("_by_mask")]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_real_recordings_equal_the_cpu(scaling, real_data):
    records = []
    for path in sorted((real_data / "ptb-xl" / "records500").rglob("*.hea"))[:24]:
        header, digital = read_digital(path)
        names, rate = header.lead_names, header.sampling_rate_hz
        records.append(StoredEcg(digital.adc, digital.gain_per_mv, digital.baseline, rate, names, path.stem))
    extractor = EcgFeatureExtractor(scaling=scaling, lead_names=MIMIC_LEADS)
    packed = extractor.pack(records)
    assert len(packed.get("ecg_float_rows", ())) < 6
    assert_same(extractor, records, packed)


def test_an_amplitude_that_no_ecg_has_is_the_cpu_s_to_judge():
    records = [stored(seed, gain=256.0) for seed in range(3)]
    for gain, words in ((0.25, "microvolts"), (2.0**18, "volts")):  # exact in float32, or the CPU has it anyway
        wrong = stored(3, gain=gain)
        with pytest.raises(RecordError, match=words):
            extractor_of().pack([*records, wrong])
        lenient = extractor_of(check_amplitude="warn")
        assert lenient.pack([*records, wrong])["ecg_float_positions"].tolist() == [3]
        assert_same(lenient, [*records, wrong])
        unchecked = extractor_of(
            check_amplitude="off", check_limb_leads="off"
        )  # the leads of noise contradict each other
        assert "ecg_float_positions" not in unchecked.pack([*records, wrong])
