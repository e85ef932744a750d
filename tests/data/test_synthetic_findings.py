"""Every finding can be measured: simple bedside rules on noise-free signals, without a look at the labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy.signal import find_peaks

from hf_ecgtext.data.synthetic import TERRITORIES, SyntheticEcgGenerator
from hf_ecgtext.leads import STANDARD_LEADS

RATE_HZ = 500
EXAMPLES = 12
GENERATOR = SyntheticEcgGenerator(seed=21, sampling_rate_hz=RATE_HZ, noise=False)
BLOCKS = ("left_bundle_branch_block", "right_bundle_branch_block")
ECTOPY = ("premature_atrial_complexes", "premature_ventricular_complexes")
NO_P_WAVES = ("atrial_fibrillation", "atrial_flutter")
SINUS = ("sinus_rhythm", "sinus_bradycardia")


@dataclass(frozen=True)
class Tracing:
    """A signal and the QRS complexes that were found in it, as sample numbers."""

    signal: np.ndarray
    onsets: np.ndarray
    offsets: np.ndarray

    def lead(self, name):
        return self.signal[STANDARD_LEADS.index(name)]

    @property
    def rr_s(self):
        return np.diff(self.onsets) / RATE_HZ

    @property
    def widths_ms(self):
        return 1000 * (self.offsets - self.onsets) / RATE_HZ

    def qrs(self, name):
        """The complexes of one lead against their own onset, one array each."""
        lead = self.lead(name)
        return [lead[a:b] - lead[a] for a, b in zip(self.onsets, self.offsets, strict=True)]

    def level(self, name, after_offset_s):
        """Typical level a given time after the QRS, against the QRS onset."""
        lead, later = self.lead(name), self.offsets + round(after_offset_s * RATE_HZ)
        inside = later < len(lead)
        return np.median(lead[later[inside]] - lead[self.onsets[inside]])


def delineate(signal) -> Tracing:
    """Find QRS complexes where the tip of the heart vector moves fast."""
    speed = np.sqrt((np.gradient(signal, 1 / RATE_HZ, axis=1)[[0, 1, 6, 7, 8, 9, 10, 11]] ** 2).sum(axis=0))
    window = round(0.1 * RATE_HZ)
    smooth = np.convolve(speed, np.ones(window) / window, mode="same")
    peaks, _ = find_peaks(smooth, height=0.25 * smooth.max(), distance=round(0.28 * RATE_HZ))
    reach = round(0.14 * RATE_HZ)
    onsets, offsets = [], []
    for peak in peaks:
        if peak < reach or peak >= len(speed) - reach:
            continue
        near = speed[peak - reach : peak + reach]
        fast = np.flatnonzero(near > 0.06 * near.max())
        groups = np.split(fast, np.flatnonzero(np.diff(fast) > 0.03 * RATE_HZ) + 1)  # P and T lie apart
        qrs = max(groups, key=lambda group: near[group].sum())
        onsets.append(peak - reach + qrs[0] - 2)
        offsets.append(peak - reach + qrs[-1] + 2)
    return Tracing(signal, np.array(onsets), np.array(offsets))


@cache
def tracings(having: tuple[str, ...], lacking: tuple[str, ...] = (), count: int = EXAMPLES) -> list[Tracing]:
    """The first records with any of the findings in `having` and none of those in `lacking`."""
    found = []
    for index in range(3000):
        labels = set(GENERATOR.draw(index).labels)
        if labels & set(having) and not labels & set(lacking):
            found.append(delineate(GENERATOR.record(index).signal))
            if len(found) == count:
                return found
    raise AssertionError(f"only {len(found)} records with {having} and without {lacking}")


@pytest.mark.parametrize(
    ("rhythm", "slowest", "fastest"),
    [("sinus_rhythm", 60, 100), ("sinus_bradycardia", 35, 60), ("sinus_tachycardia", 100, 160)],
)
def test_sinus_rhythms_have_their_rate(rhythm, slowest, fastest):
    for tracing in tracings((rhythm,)):
        assert slowest < 60 / np.median(tracing.rr_s) < fastest


def test_atrial_fibrillation_is_irregular_and_sinus_rhythm_is_not():
    for tracing in tracings(("atrial_fibrillation",)):
        assert np.std(tracing.rr_s) / np.mean(tracing.rr_s) > 0.1
    for tracing in tracings((*SINUS, "sinus_tachycardia"), ECTOPY):
        assert np.std(tracing.rr_s) / np.mean(tracing.rr_s) < 0.05


def p_wave_mv(tracing):
    """Height of the median P wave in lead II: highest minus earliest level of the 190 ms before the QRS."""
    lead, reach = tracing.lead("II"), round(0.19 * RATE_HZ)
    before = np.median([lead[onset - reach : onset] for onset in tracing.onsets if onset >= reach], axis=0)
    return before.max() - before[-1]


def test_p_waves_stand_before_the_qrs_in_sinus_rhythm_only():
    for tracing in tracings(("normal_ecg",)):
        assert p_wave_mv(tracing) > 0.05
    fibrillation = [p_wave_mv(tracing) for tracing in tracings(("atrial_fibrillation",))]
    assert np.median(fibrillation) < 0.04


def test_flutter_waves_recur_near_300_per_minute_in_avf():
    rates_hz = np.arange(4.0, 6.0, 0.02)
    rests = 0
    for tracing in tracings(("atrial_flutter",), BLOCKS):
        lead = tracing.lead("aVF").astype(float)
        rest = np.ones(len(lead), dtype=bool)  # outside of QRS and T
        for onset in tracing.onsets:
            rest[max(0, onset - 10) : onset + round(0.36 * RATE_HZ)] = False
        rest[: round(0.5 * RATE_HZ)] = rest[-round(0.5 * RATE_HZ) :] = False
        time = np.flatnonzero(rest) / RATE_HZ
        if len(time) < RATE_HZ:  # 2:1 conduction leaves no rest to look at
            continue
        waves = lead[rest] - lead[rest].mean()
        power = np.abs(np.exp(-2j * np.pi * np.outer(rates_hz, time)) @ waves) ** 2
        assert 260 < 60 * rates_hz[power.argmax()] < 320
        explained = 2 * power.max() / len(time) / (waves**2).sum()  # of the variance, by one sine
        assert explained > 0.3
        assert np.ptp(waves) > 0.06
        rests += 1
    assert rests >= 4


def test_flutter_conducted_two_to_one_beats_near_150():
    rates = [60 / np.median(tracing.rr_s) for tracing in tracings(("atrial_flutter",), count=24)]
    assert any(130 < rate < 160 for rate in rates)
    assert any(60 < rate < 82 for rate in rates)


def early_beats(tracing):
    """Beats that come early, without the first and the last."""
    rr = tracing.rr_s
    return [beat for beat in range(1, len(rr)) if rr[beat - 1] < 0.87 * np.median(rr)]


def test_ventricular_premature_beats_are_early_and_wide_with_a_pause():
    for tracing in tracings(("premature_ventricular_complexes",), (*BLOCKS, "atrial_fibrillation", ECTOPY[0])):
        early = early_beats(tracing)
        assert early
        normal = np.median(tracing.rr_s)
        for beat in early:
            assert tracing.widths_ms[beat] > 1.25 * np.median(tracing.widths_ms)
            assert tracing.rr_s[beat - 1] + tracing.rr_s[beat] == pytest.approx(2 * normal, rel=0.12)


def test_atrial_premature_beats_are_early_and_narrow_with_another_p_wave():
    for tracing in tracings(("premature_atrial_complexes",), (*BLOCKS, ECTOPY[1], "first_degree_av_block")):
        early = early_beats(tracing)
        assert early
        lead = tracing.lead("aVF")
        for beat in early:
            assert tracing.widths_ms[beat] == pytest.approx(np.median(tracing.widths_ms), abs=12)
            p_wave = slice(tracing.onsets[beat] - round(0.15 * RATE_HZ), tracing.onsets[beat])
            sinus = slice(tracing.onsets[beat - 1] - round(0.15 * RATE_HZ), tracing.onsets[beat - 1])
            if sinus.start >= 0:
                assert np.corrcoef(lead[p_wave], lead[sinus])[0, 1] < 0.8


def pr_ms(tracing):
    """From where lead II leaves the baseline for the P wave to the QRS onset, median over beats."""
    lead, intervals = tracing.lead("II"), []
    for onset in tracing.onsets:
        start = onset - round(0.36 * RATE_HZ)
        if start < 0:
            continue
        before = lead[start : onset - 10] - lead[onset - 4]
        peak = before.argmax()
        low = np.flatnonzero(before[: peak + 1] < 0.08 * before[peak])
        intervals.append(1000 * (onset - start - low[-1]) / RATE_HZ)
    return np.median(intervals)


def test_the_pr_interval_is_long_in_first_degree_block_only():
    # Slow records without left bundle branch block: P stands clear of T.
    slow = ("sinus_rhythm", *NO_P_WAVES, *ECTOPY, *BLOCKS, "sinus_tachycardia")
    long = [
        pr_ms(tracing) for tracing in tracings(("first_degree_av_block",), slow, 6) if np.median(tracing.rr_s) > 1.05
    ]
    assert len(long) >= 4
    assert min(long) > 200
    short = tracings(("sinus_bradycardia",), ("first_degree_av_block", *ECTOPY, *BLOCKS), 6)
    assert max(pr_ms(tracing) for tracing in short) < 200


def test_the_qrs_is_wide_in_bundle_branch_blocks_only():
    for block in BLOCKS:
        assert min(np.median(tracing.widths_ms) for tracing in tracings((block,), NO_P_WAVES)) > 120
    narrow = tracings(("normal_ecg", "left_ventricular_hypertrophy", "old_inferior_infarction"), NO_P_WAVES)
    assert max(np.median(tracing.widths_ms) for tracing in narrow) < 115


def test_left_bundle_branch_block_goes_away_from_v1_and_towards_v6():
    lacking = ("premature_ventricular_complexes", "sinus_tachycardia", *NO_P_WAVES)
    for tracing in tracings(("left_bundle_branch_block",), lacking):
        for v1, v6 in zip(tracing.qrs("V1"), tracing.qrs("V6"), strict=True):
            assert v1.min() < -0.8
            assert v1[: len(v1) // 2].max() < 0.2  # at most a small r
            assert v6.max() > 0.3
            assert v6[: len(v6) // 4].min() > -0.05  # no septal q
        assert tracing.level("V6", 0.12) < 0 < tracing.level("V1", 0.12)


def test_right_bundle_branch_block_ends_towards_v1_and_away_from_v6():
    for tracing in tracings(("right_bundle_branch_block",), ("premature_ventricular_complexes", *NO_P_WAVES)):
        for v1, v6, i in zip(tracing.qrs("V1"), tracing.qrs("V6"), tracing.qrs("I"), strict=True):
            late = len(v1) // 2
            assert v1[late:].max() > 0.2
            assert v1[late:].max() > v1[:late].max()
            assert v1.min() < 0  # the S between r and R'
            assert v6[late:].min() < -0.1
            assert i[late:].min() < -0.05


def axis_deg(tracing):
    one = np.mean([qrs.sum() for qrs in tracing.qrs("I")])
    foot = np.mean([qrs.sum() for qrs in tracing.qrs("aVF")])
    return np.degrees(np.arctan2(2 / np.sqrt(3) * foot, one))


@pytest.mark.parametrize(
    ("having", "lacking", "lowest", "highest"),
    [
        (("left_axis_deviation",), (), -90, -25),
        (("right_axis_deviation",), (), 90, 150),
        (("normal_ecg",), (), -30, 95),
        (("old_inferior_infarction",), (), -30, 90),
    ],
)
def test_the_frontal_axis_points_where_the_label_says(having, lacking, lowest, highest):
    for tracing in tracings(having, (*lacking, "premature_ventricular_complexes", *NO_P_WAVES)):
        assert lowest < axis_deg(tracing) < highest


def test_the_frontal_axis_is_the_drawn_one():
    measured = 0
    for index in range(200):
        drawn = GENERATOR.draw(index)
        unclear = {"premature_ventricular_complexes", *NO_P_WAVES}  # other complexes, or no quiet baseline
        if set(drawn.labels) & unclear or any("_st_" in label for label in drawn.labels):
            continue
        tracing = delineate(GENERATOR.record(index).signal)
        difference = (axis_deg(tracing) - drawn.attributes["qrs_axis_deg"] + 180) % 360 - 180
        assert abs(difference) < 15, drawn.report
        measured += 1
    assert measured > 80


def test_hypertrophy_fulfils_sokolow_lyon_and_others_do_not():
    def sokolow_mv(tracing):
        s_v1 = -np.median([qrs.min() for qrs in tracing.qrs("V1")])
        return s_v1 + max(np.median([qrs.max() for qrs in tracing.qrs(lead)]) for lead in ("V5", "V6"))

    assert min(map(sokolow_mv, tracings(("left_ventricular_hypertrophy",)))) > 3.5
    assert max(map(sokolow_mv, tracings(("normal_ecg",)))) < 3.3


def test_low_voltage_stays_under_half_a_millivolt_in_every_limb_lead():
    def limb_mv(tracing):
        return max(np.median([np.ptp(qrs) for qrs in tracing.qrs(lead)]) for lead in STANDARD_LEADS[:6])

    assert max(map(limb_mv, tracings(("low_voltage",), NO_P_WAVES))) < 0.5
    assert min(map(limb_mv, tracings(("normal_ecg",)))) > 0.65


def q_wave(tracing, lead):
    """Median length (ms) and depth (mV) of the first negative part of the QRS; zero if it starts upwards."""
    lengths, depths = [], []
    for qrs in tracing.qrs(lead):
        up = np.flatnonzero(qrs > 0.02)
        end = up[0] if len(up) else len(qrs)
        lengths.append(1000 * end / RATE_HZ)
        depths.append(max(0.0, -qrs[:end].min()) if end else 0.0)
    return np.median(lengths), np.median(depths)


@pytest.mark.parametrize(("territory", "lead"), [("inferior", "aVF"), ("anterior", "V3")])
def test_an_old_infarction_leaves_a_q_wave(territory, lead):
    for tracing in tracings((f"old_{territory}_infarction",), NO_P_WAVES):
        length_ms, depth_mv = q_wave(tracing, lead)
        assert length_ms >= 28
        assert depth_mv > 0.12
    for tracing in tracings(("normal_ecg",)):
        length_ms, depth_mv = q_wave(tracing, lead)
        assert length_ms < 28 or depth_mv < 0.1


def st_mv(tracing, territory):
    """Mean ST level at J + 60 ms in the leads of a territory."""
    return np.mean([tracing.level(lead, 0.06) for lead in TERRITORIES[territory]])


@pytest.mark.parametrize("territory", list(TERRITORIES))
def test_the_st_segment_leaves_the_baseline_in_its_territory(territory):
    for tracing in tracings((f"{territory}_st_elevation",), (*NO_P_WAVES, *BLOCKS)):
        assert st_mv(tracing, territory) > 0.1
    for tracing in tracings((f"{territory}_st_depression",), (*NO_P_WAVES, *BLOCKS)):
        assert st_mv(tracing, territory) < -0.05
    for tracing in tracings(("normal_ecg",)):
        assert -0.05 < st_mv(tracing, territory) < 0.1


def t_mv(tracing, territory):
    """Mean over a territory's leads of the largest deflection between 100 and 230 ms after the QRS."""
    steps = np.arange(0.10, 0.23, 0.01)
    levels = np.array([[tracing.level(lead, step) for step in steps] for lead in TERRITORIES[territory]])
    return np.mean([lead[np.abs(lead).argmax()] for lead in levels])


@pytest.mark.parametrize("territory", list(TERRITORIES))
def test_the_t_wave_is_negative_in_its_territory(territory):
    for tracing in tracings((f"{territory}_t_wave_inversion",), (*NO_P_WAVES, *BLOCKS)):
        assert t_mv(tracing, territory) < -0.1
    for tracing in tracings(("normal_ecg",)):
        assert t_mv(tracing, territory) > 0.05
