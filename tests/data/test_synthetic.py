"""What a user of the synthetic data set relies on: shapes, identities, determinism, prevalences, reports."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from hf_ecgtext.data.synthetic import CONDITIONS, PREVALENCE, SyntheticEcgGenerator
from hf_ecgtext.data.synthetic.heart import DOWER_MATRIX
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, STANDARD_LEADS

# Written apart from the generator's wordings: how a reader recognises each finding in a report.
MENTIONS = {
    "sinus_rhythm": r"\bsinus rhythm\b",
    "sinus_bradycardia": r"\bbradycardia\b",
    "sinus_tachycardia": r"\btachycardia\b",
    "atrial_fibrillation": r"\batrial fibrillation\b",
    "atrial_flutter": r"\batrial flutter\b",
    "premature_atrial_complexes": r"\bPACs\b|\bpremature atrial|\batrial premature",
    "premature_ventricular_complexes": r"\bPVCs\b|\bpremature ventricular|\bventricular premature",
    "first_degree_av_block": r"\b(1st|first).degree a-?v block|\bprolonged PR\b",
    "left_bundle_branch_block": r"\bLBBB\b|\bleft bundle",
    "right_bundle_branch_block": r"\bRBBB\b|\bright bundle",
    "left_axis_deviation": r"\bleft axis|\bleftward axis|\bleft deviation",
    "right_axis_deviation": r"\bright axis|\brightward axis|\bright deviation",
    "left_ventricular_hypertrophy": r"\bLVH\b|\bleft ventricular hypertrophy",
    "low_voltage": r"\blow (QRS )?voltage",
    "old_inferior_infarction": r"\binferior (myocardial )?infarct",
    "old_anterior_infarction": r"\banterior (myocardial )?infarct",
    "normal_ecg": r"(?<!ab)normal ECG|\bwithin normal limits\b",
}
for _territory in ("anterior", "inferior", "lateral"):
    for _change in ("ST (segment )?elevation", "ST (segment )?depression", "(T.wave inversion|inverted T waves)"):
        _key = "st_elevation" if "elev" in _change else "st_depression" if "depr" in _change else "t_wave_inversion"
        # Within one statement, territory and change may come in either order.
        MENTIONS[f"{_territory}_{_key}"] = rf"{_territory}[^.]*{_change}|{_change}[^.]*{_territory}"


@pytest.fixture(scope="module")
def draws():
    generator = SyntheticEcgGenerator(seed=11)
    return [generator.draw(index) for index in range(2000)]


@pytest.mark.parametrize(("sampling_rate_hz", "num_samples"), [(500, 5000), (100, 1000), (257.5, 2575)])
def test_a_record_is_twelve_finite_leads_in_standard_order(sampling_rate_hz, num_samples):
    for record in SyntheticEcgGenerator(seed=1, sampling_rate_hz=sampling_rate_hz).records(10):
        assert record.signal.shape == (12, num_samples)
        assert record.signal.dtype == np.float32
        assert record.lead_names == STANDARD_LEADS
        assert np.isfinite(record.signal).all()


def test_amplitudes_are_those_of_a_human():
    generator = SyntheticEcgGenerator(seed=2)
    peaks = [np.abs(generator.record(index).signal).max() for index in range(100)]
    assert max(peaks) < 6
    assert min(peaks) > 0.2
    assert 0.8 < np.median(peaks) < 3


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("sampling_rate_hz", [100, 500])
def test_einthoven_and_goldberger_hold_exactly_in_microvolts(noise, sampling_rate_hz):
    generator = SyntheticEcgGenerator(seed=3, sampling_rate_hz=sampling_rate_hz, noise=noise)
    for record in generator.records(20):
        microvolts = np.rint(record.signal.astype(np.float64) * 1000)
        np.testing.assert_allclose(record.signal, microvolts / 1000, rtol=0, atol=1e-6)
        assert np.abs(microvolts).max() < 30_000
        for lead, (a, b) in LIMB_LEAD_WEIGHTS.items():
            row = microvolts[STANDARD_LEADS.index(lead)]
            np.testing.assert_array_equal(row, a * microvolts[0] + b * microvolts[1])


def test_a_record_does_not_depend_on_what_was_drawn_before():
    generator = SyntheticEcgGenerator(seed=4)
    in_order = list(generator.records(12))[7]
    generator.record(100)
    for alone in (generator.record(7), SyntheticEcgGenerator(seed=4).record(7), next(generator.records(1, start=7))):
        np.testing.assert_array_equal(alone.signal, in_order.signal)
        assert (alone.record_id, alone.patient_id) == (in_order.record_id, in_order.patient_id)
        assert (alone.report, alone.labels, alone.attributes) == (in_order.report, in_order.labels, in_order.attributes)


@pytest.mark.slow
def test_another_process_makes_the_same_record():
    code = (
        "import hashlib; from hf_ecgtext.data.synthetic import SyntheticEcgGenerator as G; r = G(seed=5).record(9); "
        "print(r.report, hashlib.sha256(r.signal.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    record = SyntheticEcgGenerator(seed=5).record(9)
    assert printed.strip() == f"{record.report} {hashlib.sha256(record.signal.tobytes()).hexdigest()}"


def test_another_seed_or_index_makes_another_record():
    record = SyntheticEcgGenerator(seed=0).record(3)
    for other in (SyntheticEcgGenerator(seed=1).record(3), SyntheticEcgGenerator(seed=0).record(4)):
        assert other.record_id != record.record_id
        assert np.abs(other.signal - record.signal).max() > 0.1


def test_another_sampling_rate_shows_the_same_heart_at_other_times():
    for index in range(20):
        fine = SyntheticEcgGenerator(seed=6, noise=False).record(index)
        coarse = SyntheticEcgGenerator(seed=6, noise=False, sampling_rate_hz=100).record(index)
        np.testing.assert_allclose(coarse.signal, fine.signal[:, ::5], atol=0.0041)  # rounding of I and II
        assert (coarse.report, coarse.labels, coarse.attributes) == (fine.report, fine.labels, fine.attributes)


def test_noise_hides_no_heart():
    for index in range(20):
        noisy = SyntheticEcgGenerator(seed=7).record(index).signal
        clean = SyntheticEcgGenerator(seed=7, noise=False).record(index).signal
        difference = np.std(noisy - clean)
        assert 0.002 < difference < 0.25


def test_a_patient_has_one_to_three_consecutive_records(draws):
    runs = [(patient, len(list(run))) for patient, run in groupby(draw.patient_id for draw in draws)]
    assert len({patient for patient, _ in runs}) == len(runs)
    assert {length for _, length in runs} == {1, 2, 3}
    by_patient = {draw.patient_id: (draw.age, draw.sex) for draw in draws}
    assert all(by_patient[draw.patient_id] == (draw.age, draw.sex) for draw in draws)


def test_prevalences_are_as_documented(draws):
    counts = Counter(label for draw in draws for label in draw.labels)
    assert set(counts) == set(PREVALENCE) == set(CONDITIONS)
    for key, expected in PREVALENCE.items():
        share = counts[key] / len(draws)
        assert share >= 0.03, key
        assert share == pytest.approx(expected, abs=0.03), key
    assert 0.2 <= counts["normal_ecg"] / len(draws) <= 0.27


def test_findings_that_exclude_each_other_never_meet(draws):
    rhythms = {key for key, condition in CONDITIONS.items() if condition.group == "rhythm"}
    alone = {"left_bundle_branch_block", "low_voltage"}
    for draw in draws:
        found = set(draw.labels)
        assert len(found & rhythms) == 1
        assert not {"atrial_fibrillation", "first_degree_av_block"} <= found
        assert not {"atrial_flutter", "first_degree_av_block"} <= found
        assert len({key for key in found if "_st_" in key}) <= 1
        if found & alone:
            assert not any(CONDITIONS[key].group in ("st", "t", "infarction") for key in found)
        if "normal_ecg" in found:
            assert found == {"sinus_rhythm", "normal_ecg"}


def test_a_report_mentions_its_labels_and_nothing_else(draws):
    assert set(MENTIONS) == set(CONDITIONS)
    for draw in draws:
        mentioned = {key for key, pattern in MENTIONS.items() if re.search(pattern, draw.report, re.IGNORECASE)}
        assert mentioned == set(draw.labels), draw.report


def test_the_zero_shot_prompt_of_a_condition_mentions_it_alone():
    for condition in CONDITIONS.values():
        mentioned = {key for key, pattern in MENTIONS.items() if re.search(pattern, condition.name, re.IGNORECASE)}
        assert mentioned == {condition.key}


def test_a_report_ends_with_a_fitting_verdict(draws):
    for draw in draws:
        severities = {CONDITIONS[label].severity for label in draw.labels}
        closing = draw.report.split(". ")[-1]
        if closing == "Abnormal ECG":
            assert "abnormal" in severities
        elif closing == "Borderline ECG":
            assert "borderline" in severities
            assert "abnormal" not in severities
        elif "normal_ecg" in draw.labels:
            assert re.fullmatch(MENTIONS["normal_ecg"] + "|ECG within normal limits", closing, re.IGNORECASE)


def test_the_ventricular_response_and_the_conduction_ratio_are_true(draws):
    for draw in draws:
        rate = draw.beats.heart_rate_bpm
        if "rapid ventricular" in draw.report:
            assert rate > 100
        if "slow ventricular" in draw.report:
            assert rate < 60
        ratio = re.search(r"with (\d):1 conduction", draw.report)
        if ratio:
            assert rate * int(ratio[1]) == pytest.approx(60 * draw.atria.rate_hz, rel=0.02)


def test_reports_vary_in_wording(draws):
    normal = {draw.report for draw in draws if "normal_ecg" in draw.labels}
    assert len(normal) > 8
    assert len({draw.report for draw in draws}) > 900


def test_the_dower_matrix_inverts_the_published_inverse():
    # Edenbrandt and Pahlm 1988; rows x, y, z, columns I, II, V1 to V6.
    inverse = np.array(
        [
            [0.156, -0.009, -0.172, -0.073, 0.122, 0.231, 0.239, 0.193],
            [-0.227, 0.886, 0.057, -0.019, -0.106, -0.022, 0.040, 0.048],
            [0.021, 0.102, -0.228, -0.310, -0.245, -0.063, 0.054, 0.108],
        ]
    )
    np.testing.assert_allclose(inverse @ DOWER_MATRIX, np.eye(3), atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": -1}, "seed"), ({"sampling_rate_hz": 20}, "sampling_rate_hz"), ({"duration_s": 2}, "duration_s")],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticEcgGenerator(**arguments)


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="index"):
        SyntheticEcgGenerator().record(-1)
