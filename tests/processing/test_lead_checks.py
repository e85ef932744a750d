"""What the limb leads' identities prove, what they cannot, and that only the proven is repaired."""

from __future__ import annotations

import logging
from itertools import combinations, permutations

import numpy as np
import pytest

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.wfdb.reading import read_record
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, MIMIC_LEADS, STANDARD_LEADS, limb_leads_from_i_and_ii
from hf_ecgtext.processing import EcgFeatureExtractor
from hf_ecgtext.processing.lead_checks.hypotheses import Hypotheses, symmetries

LIMB, CHEST = STANDARD_LEADS[:6], STANDARD_LEADS[6:]
RATE_HZ = 100.0


def synthetic(seed=0, num_samples=1000):
    """Twelve leads of noise in mV, rounded to 0.005 mV as MIMIC-IV-ECG is, whose limb leads obey the identities."""
    waves = np.random.default_rng(seed).standard_normal((8, num_samples)) * [[0.3], [0.5], *[[0.4]] * 6]
    signal = np.concatenate([limb_leads_from_i_and_ii(waves[0], waves[1]), waves[2:]])
    return (np.round(signal * 200) / 200).astype(np.float32)


def held(signal, leads, names=STANDARD_LEADS):
    """What is stored where rows named `names` hold `leads`, such as "-aVR"."""
    rows = [names.index(lead.removeprefix("-")) for lead in leads]
    signs = np.array([-1 if lead.startswith("-") else 1 for lead in leads], dtype=np.float32)
    return signs[:, None] * signal[rows]


def exchanged(first, second, names=STANDARD_LEADS):
    return [{first: second, second: first}.get(lead, lead) for lead in names]


def inverted(*leads, names=STANDARD_LEADS):
    return [f"-{lead}" if lead in leads else lead for lead in names]


def checked(signal, caplog, names=STANDARD_LEADS, policy="fix", **options):
    """The signal after the check, in mV, and all that was said."""
    caplog.clear()
    extractor = EcgFeatureExtractor(
        names,
        sampling_rate_hz=RATE_HZ,
        duration_s=signal.shape[1] / RATE_HZ,
        derive_limb_leads=False,
        check_limb_leads=policy,
        **options,
    )
    with caplog.at_level(logging.WARNING, "hf_ecgtext"):
        values = extractor(EcgRecord(signal, RATE_HZ, tuple(names), "r1"))["ecg_values"][0]
    return values, caplog.text


def real_recordings(real_data, step=40):
    headers = sorted((real_data / "ptb-xl" / "records100").rglob("*.hea"))[::step]
    return [read_record(header.with_suffix("")).signal for header in headers]


@pytest.fixture(params=["synthetic", "real"])
def recordings(request):
    if request.param == "synthetic":
        return [synthetic(seed) for seed in range(3)]
    return real_recordings(request.getfixturevalue("real_data"), step=400)


SINGLE_FAULTS = [
    *((exchanged(*pair), f"leads {pair[0]} and {pair[1]} are exchanged") for pair in combinations(LIMB, 2)),
    *((inverted(lead), f"lead {lead} is upside down") for lead in LIMB),
    *(
        (exchanged(*pair), f"leads {pair[0]} and {pair[1]} are exchanged")
        for pair in [("II", "V1"), ("aVF", "V6"), ("I", "V4"), ("aVR", "V2")]
    ),
    (MIMIC_LEADS, "leads aVL and aVF are exchanged"),
    (["aVL", "I", "-aVR", "II", "aVF", "III", *CHEST], "the rows are in Cabrera's order"),
    (["aVR", "aVL", "aVF", "I", "II", "III", *CHEST], "the rows named I, II, III, aVR, aVL, aVF hold aVR, aVL, aVF, I"),
    (["I", "II", "III", "aVL", "aVF", "aVR", *CHEST], "hold I, II, III, aVL, aVF, aVR"),
]


def test_every_single_fault_is_named_and_put_right_to_the_bit(recordings, caplog):
    for signal in recordings:
        for leads, message in SINGLE_FAULTS:
            fixed, said = checked(held(signal, leads), caplog)
            assert message in said
            np.testing.assert_array_equal(fixed, signal, err_msg=message)


@pytest.mark.parametrize("policy", ["warn", "raise", "fix", "off"])
def test_right_recordings_pass_in_silence_and_unchanged(recordings, policy, caplog):
    for signal in recordings:
        values, said = checked(signal, caplog, policy=policy)
        assert not said
        np.testing.assert_array_equal(values, signal)


@pytest.mark.parametrize("leads", [exchanged("I", "aVR"), inverted("II"), exchanged("III", "V5")])
def test_a_fault_is_refused_or_only_named_where_the_setting_says_so(leads, caplog):
    wrong = held(synthetic(), leads)
    with pytest.raises(RecordError, match=r"Record 'r1': limb leads that contradict .*check_limb_leads=\"fix\""):
        checked(wrong, caplog, policy="raise")
    values, said = checked(wrong, caplog, policy="warn")
    assert "check_limb_leads='fix'" in said
    np.testing.assert_array_equal(values, wrong)


@pytest.mark.parametrize(
    "leads",
    [
        [*CHEST, *LIMB],
        ["I", "II", *CHEST, "III", "aVR", "aVL", "aVF"],
        ["I", "II", "III", *CHEST, "aVR", "aVL", "aVF"],
    ],
)
def test_an_order_that_moves_the_chest_leads_is_named_but_not_repaired(recordings, leads, caplog):
    for signal in recordings:
        wrong = held(signal, leads)
        values, said = checked(wrong, caplog)
        assert f"({', '.join(leads)})" in said
        assert "Nothing was changed" in said
        np.testing.assert_array_equal(values, wrong)


def test_names_in_another_order_than_the_rows_are_understood(caplog):
    signal = held(synthetic(), MIMIC_LEADS)
    fixed, said = checked(held(signal, exchanged("II", "aVF", MIMIC_LEADS), MIMIC_LEADS), caplog, MIMIC_LEADS)
    assert "leads II and aVF are exchanged" in said
    np.testing.assert_array_equal(fixed, signal)


# What the identities cannot see


@pytest.mark.parametrize("leads", [exchanged("V1", "V2"), exchanged("V3", "V6"), inverted("V1"), inverted("V5")])
def test_nothing_is_said_about_chest_leads(leads, caplog):
    wrong = held(synthetic(), leads)
    values, said = checked(wrong, caplog, policy="raise")
    assert not said
    np.testing.assert_array_equal(values, wrong)


@pytest.mark.parametrize(
    ("names", "leads", "possible"),
    [
        (LIMB[:3], ["II", "I", "III"], ["leads I and II are exchanged", "lead III is upside down"]),
        (LIMB[:3], ["I", "III", "II"], ["leads II and III are exchanged", "lead I is upside down"]),
        (("I", "II", "aVF"), ["I", "aVF", "II"], ["leads II and aVF are exchanged", "lead I is upside down"]),
        (
            ("I", "II", "aVL", "aVF"),
            ["I", "II", "aVF", "aVL"],
            ["leads I and II are exchanged", "leads aVL and aVF are exchanged"],
        ),
    ],
)
def test_with_few_limb_leads_all_that_fits_is_listed_and_nothing_is_changed(names, leads, possible, caplog):
    wrong = held(synthetic(), leads)
    values, said = checked(wrong, caplog, names)
    assert "it cannot be told which lead is wrong" in said
    assert all(explanation in said for explanation in possible)
    np.testing.assert_array_equal(values, wrong)
    with pytest.raises(RecordError, match="cannot be told"):
        checked(wrong, caplog, names, policy="raise")


@pytest.mark.parametrize(
    ("names", "leads"), [(LIMB[:3], ["I", "-II", "III"]), (LIMB[:5], inverted("III", names=LIMB[:5]))]
)
def test_with_few_limb_leads_what_is_unique_is_still_repaired(names, leads, caplog):
    signal = synthetic()[: len(names)]
    fixed, said = checked(held(signal, leads, names), caplog, names)
    assert "is upside down" in said
    np.testing.assert_array_equal(fixed, signal)


@pytest.mark.parametrize("names", [("I", "II"), ("I", "aVF", "V1"), CHEST])
def test_two_limb_leads_cannot_contradict_each_other(names, caplog):
    wrong = np.random.default_rng(0).standard_normal((len(names), 1000)).astype(np.float32)
    assert not checked(wrong, caplog, names, policy="raise")[1]


def test_the_identities_have_the_twelve_symmetries_of_the_electrodes():
    found = symmetries(LIMB)
    weights = np.array([LIMB_LEAD_WEIGHTS[lead] for lead in LIMB])
    left_and_right_arm = [0, 2, 1, 4, 3, 5], [-1, 1, 1, 1, 1, 1]
    assert len(found) == 12
    assert any(
        (order == left_and_right_arm[0]).all() and (signs == left_and_right_arm[1]).all() for order, signs in found
    )
    for order, signs in found:
        turned = signs[:, None] * weights[order]
        np.testing.assert_allclose(weights @ np.linalg.lstsq(weights, turned, rcond=None)[0], turned, atol=1e-12)


def num_different(*forms):
    forms = np.concatenate(forms).round(9) + 0.0  # no -0
    return len(np.unique(forms.reshape(len(forms), -1), axis=0))


def test_all_orders_and_all_single_faults_of_six_limb_leads_differ():
    hypotheses = Hypotheses(LIMB)
    claim, single = hypotheses.claim[None], hypotheses.simple_forms
    assert num_different(claim, hypotheses.order_forms) == 720
    assert num_different(claim, single) == 1 + 15 + 6
    # I and III upside down equal two exchanges each.
    assert num_different(claim, hypotheses.order_forms, single) == 720 + 6 - 2
    assert len(hypotheses.all_limb_forms) == 720 * 64 / 12


def test_of_pairs_of_faults_only_those_that_equal_a_single_fault_are_repaired_otherwise(real_data, caplog):
    """Six of the 210 pairs, such as II/III and aVR/aVL exchanged, are another single fault to the identities."""
    signal = real_recordings(real_data, step=900)[1]
    single = [leads for leads, _ in SINGLE_FAULTS[:21]]
    repaired_otherwise = 0
    for first, second in combinations(single, 2):
        wrong = held(held(signal, first), second)
        fixed, said = checked(wrong, caplog)
        assert "contradict" in said
        repaired_otherwise += not np.array_equal(fixed, wrong) and not np.array_equal(fixed, signal)
    assert repaired_otherwise == 6


# Faults that are no exchange, and samples that say nothing


def test_a_lead_that_holds_something_else_is_named(caplog):
    for lead, other in [("III", 1), ("aVL", 2)]:
        wrong = synthetic()
        wrong[LIMB.index(lead)] = 0.4 * np.random.default_rng(other).standard_normal(1000)
        values, said = checked(wrong, caplog)
        assert f"lead {lead} does not belong to the others" in said
        np.testing.assert_array_equal(values, wrong)


def test_leads_that_contradict_each_other_without_an_explanation_are_reported(caplog):
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal((12, 1000)).astype(np.float32)
        values, said = checked(noise, caplog)
        assert "no exchange, inversion or usual order of the leads explains it" in said
        np.testing.assert_array_equal(values, noise)


def test_small_noise_filters_and_offsets_are_no_fault(caplog):
    signal = synthetic()
    noisy = signal + np.random.default_rng(1).normal(0, 0.015, signal.shape).astype(np.float32)
    smoothed = np.apply_along_axis(np.convolve, 1, signal, np.ones(7) / 7, mode="same").astype(np.float32)
    shifted = signal + np.arange(12, dtype=np.float32)[:, None]
    for right in (noisy, smoothed, shifted):
        assert not checked(right, caplog, policy="raise")[1]
        assert "leads I and II are exchanged" in checked(held(right, exchanged("I", "II")), caplog)[1]


def test_leads_that_carry_next_to_nothing_decide_nothing(caplog):
    for order in permutations(LIMB[3:]):
        quiet = held(synthetic() * np.float32(0.01), [*LIMB[:3], *order, *CHEST])
        values, said = checked(quiet, caplog)
        np.testing.assert_array_equal(values, quiet)
        assert "contradict" not in said


@pytest.mark.parametrize("flat", ["III", "aVF", "I"])
def test_a_flat_limb_lead_counts_as_absent(flat, caplog):
    right = synthetic()
    right[LIMB.index(flat)] = 0
    assert not checked(right, caplog, policy="raise")[1]
    fixed, said = checked(held(right, inverted("aVR")), caplog)
    assert "lead aVR is upside down" in said
    np.testing.assert_array_equal(fixed, right)


@pytest.mark.parametrize("policy", ["interpolate", "zero"])
def test_gaps_and_their_repair_are_no_contradiction(policy, caplog):
    right = synthetic()
    right[1, 100:350] = np.nan
    right[4, 600:700] = np.inf
    right[7] = np.nan
    assert "contradict" not in checked(right, caplog, nan_policy=policy)[1]
    _, said = checked(held(right, inverted("III")), caplog, nan_policy=policy)
    assert "lead III is upside down" in said


# Electrodes exchanged on the body

LA_RA = ["-I", "III", "II", "aVL", "aVR", "aVF", *CHEST]
RA_LL = ["-III", "-II", "-I", "aVF", "aVL", "aVR", *CHEST]
LA_LL = ["II", "I", "-III", "aVR", "aVF", "aVL", *CHEST]


@pytest.mark.parametrize(("leads", "share"), [(LA_RA, 0.8), (RA_LL, 0.65)])
def test_an_exchanged_right_arm_electrode_is_suspected_in_most_real_recordings_and_never_repaired(
    real_data, leads, share, caplog
):
    recordings = real_recordings(real_data)
    suspected = 0
    for signal in recordings:
        wrong = held(signal, leads)
        values, said = checked(wrong, caplog)
        np.testing.assert_array_equal(values, wrong)
        suspected += "right-arm electrode elsewhere" in said
    assert suspected > share * len(recordings)


def test_left_arm_and_leg_exchanged_is_not_noticed(real_data, caplog):
    for signal in real_recordings(real_data, step=300):
        assert not checked(held(signal, LA_LL), caplog, policy="raise")[1]


def test_a_suspicion_refuses_no_recording(real_data, caplog):
    wrong = held(real_recordings(real_data, step=900)[0], LA_RA)
    values, said = checked(wrong, caplog, policy="raise")
    assert "This is no proof" in said
    np.testing.assert_array_equal(values, wrong)


@pytest.mark.parametrize("names", [STANDARD_LEADS[:11], ("II", "V1", "V6"), ("I", "II", "III")])
def test_without_leads_i_ii_and_v6_nothing_is_suspected(real_data, names, caplog):
    wrong = held(real_recordings(real_data, step=900)[0], LA_RA)
    rows = [STANDARD_LEADS.index(name) for name in names]
    assert not checked(wrong[rows], caplog, names, policy="raise")[1]


def test_too_few_samples_show_no_waves(caplog):
    for num_samples in (12, 13, 40):
        assert not checked(synthetic(num_samples=num_samples), caplog, policy="raise")[1]


def test_a_lead_upside_down_is_not_taken_for_an_exchanged_electrode(real_data, caplog):
    for signal in real_recordings(real_data, step=300):
        said = checked(held(signal, inverted("I")), caplog)[1]
        assert "lead I is upside down" in said
        assert "electrode" not in said
