"""Interval features: what they measure on ECGs of known intervals, and what they do where nothing can be measured."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.interval_features import (
    CENTRES,
    FEATURE_NAMES,
    IntervalFeatures,
)
from hf_ecgtext.evaluation.encoders.median_beat import qrs_bounds
from hf_ecgtext.leads import STANDARD_LEADS

pytest.importorskip("neurokit2", reason="interval features need the extra 'intervals'")

RATE_HZ = 250.0


@pytest.fixture(scope="module")
def encoder():
    return IntervalFeatures()


@pytest.fixture(scope="module")
def drawn():
    """60 synthetic ECGs, what is true of them, and their features."""
    generator = SyntheticEcgGenerator(seed=0, sampling_rate_hz=RATE_HZ)
    records = [generator.record(index) for index in range(60)]
    return SimpleNamespace(records=records, features=IntervalFeatures().encode(records)["probe"])


def value(features, name):
    """A column by the beginning of its name, not centred."""
    (full,) = [known for known in FEATURE_NAMES if known.split(" (")[0] == name]
    return features[:, FEATURE_NAMES.index(full)].astype(np.float64) + CENTRES.get(full, 0.0)


def record(signal, rate_hz=RATE_HZ, leads=STANDARD_LEADS, record_id="one"):
    return EcgRecord(np.asarray(signal, np.float32), rate_hz, tuple(leads), record_id)


def truth(drawn, name):
    values = [ecg.attributes[name] for ecg in drawn.records]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def regular(drawn):
    """Which records have no premature beat, whose rate is a matter of definition, and no flutter waves in the QRS."""
    odd = {"premature_ventricular_complexes", "premature_atrial_complexes", "atrial_flutter"}
    return np.array([not odd & set(ecg.labels) for ecg in drawn.records])


def test_every_feature_has_a_name_a_unit_and_a_finite_value(drawn):
    assert drawn.features.shape == (60, len(FEATURE_NAMES))
    assert drawn.features.dtype == np.float32
    assert np.isfinite(drawn.features).all()
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert {name.rpartition(" ")[2] for name in FEATURE_NAMES} == {"(ms)", "(mV)", "(1)", "(1/min)"}
    assert set(CENTRES) <= set(FEATURE_NAMES)


def test_the_heart_rate_is_the_true_one(drawn):
    error = value(drawn.features, "heart_rate") - truth(drawn, "heart_rate_bpm")
    assert np.abs(error[regular(drawn)]).max() < 1.5


def test_intervals_are_the_true_ones_within_a_few_milliseconds(drawn):
    has_p = regular(drawn) & np.isfinite(truth(drawn, "pr_ms"))
    # The end of T is hard to find where T is flat or inverted.
    for name, limit, share in (("qrs_duration", 10, 0.9), ("pr_interval", 15, 0.9), ("qt_interval", 25, 0.75)):
        kept = has_p if name == "pr_interval" else regular(drawn)
        error = (value(drawn.features, name) - truth(drawn, f"{name.split('_')[0]}_ms"))[kept]
        assert np.median(np.abs(error)) < limit / 2, name
        assert np.quantile(np.abs(error), share) < limit, name


def test_the_axis_is_the_true_one(drawn):
    angle = np.degrees(np.arctan2(value(drawn.features, "qrs_axis_sin"), value(drawn.features, "qrs_axis_cos")))
    error = (angle - truth(drawn, "qrs_axis_deg") + 180) % 360 - 180
    assert np.quantile(np.abs(error[regular(drawn)]), 0.9) < 10
    np.testing.assert_allclose(
        value(drawn.features, "qrs_axis_sin") ** 2 + value(drawn.features, "qrs_axis_cos") ** 2, 1, atol=1e-5
    )


def test_corrected_qt_follows_its_formulas(drawn):
    qt, rr_s = value(drawn.features, "qt_interval"), 60 / value(drawn.features, "heart_rate")
    measured = value(drawn.features, "missing_t") == 0
    np.testing.assert_allclose(value(drawn.features, "qtc_bazett")[measured], (qt / np.sqrt(rr_s))[measured], rtol=1e-5)
    np.testing.assert_allclose(
        value(drawn.features, "qtc_fridericia")[measured], (qt / np.cbrt(rr_s))[measured], rtol=1e-5
    )


def test_fibrillation_is_irregular_and_has_no_p_that_repeats(drawn):
    fibrillates = np.array(["atrial_fibrillation" in ecg.labels for ecg in drawn.records])
    calm = regular(drawn) & ~fibrillates
    assert fibrillates.sum() >= 3
    irregularity, repeats = value(drawn.features, "rr_irregularity"), value(drawn.features, "p_repeatability")
    assert irregularity[fibrillates].min() > irregularity[calm].max()
    assert np.median(repeats[fibrillates]) < 0.8 < np.quantile(repeats[calm], 0.1)


def test_amplitudes_are_those_of_the_samples():
    ecg = SyntheticEcgGenerator(seed=0, sampling_rate_hz=500.0, noise=False).record(0)
    features = IntervalFeatures().encode([ecg])["probe"]
    for lead in ("I", "II", "V2", "V5"):
        signal = ecg.signal[STANDARD_LEADS.index(lead)]
        level = np.median(signal)
        assert value(features, f"r_{lead}")[0] == pytest.approx(signal.max() - level, abs=0.12), lead
        deepest = min(value(features, f"q_{lead}")[0], value(features, f"s_{lead}")[0])
        assert deepest == pytest.approx(min(0.0, signal.min() - level), abs=0.12), lead
    assert value(features, "cornell")[0] == pytest.approx(
        value(features, "r_aVL")[0] - min(value(features, "s_V3")[0], value(features, "q_V3")[0])
    )


def test_voltages_scale_with_the_signal_and_intervals_do_not(encoder):
    ecg = SyntheticEcgGenerator(seed=0, sampling_rate_hz=RATE_HZ, noise=False).record(6)
    once, twice = encoder.encode([ecg, record(2 * ecg.signal)])["probe"].astype(np.float64)
    for name, first, second in zip(FEATURE_NAMES, once, twice, strict=True):
        centre = CENTRES.get(name, 0.0)
        factor = 2 if name.endswith("(mV)") else 1
        assert second + centre == pytest.approx(factor * (first + centre), abs=1e-4), name


def test_qrs_bounds_are_those_of_a_triangle():
    beat = np.zeros((2, 300))
    beat[0, 120:141], beat[0, 140:161] = np.linspace(0, 1, 21), np.linspace(1, 0, 21)
    onset, end = qrs_bounds(beat, 140)
    assert onset == pytest.approx(120, abs=3)
    assert end == pytest.approx(160, abs=3)


def test_neither_order_nor_spelling_of_leads_changes_a_number(encoder, drawn):
    order = [7, 3, 0, 11, 5, 1, 9, 2, 10, 4, 8, 6]
    shuffled = [
        record(ecg.signal[order], leads=[f"MDC_ECG_LEAD_{STANDARD_LEADS[row].upper()}" for row in order])
        for ecg in drawn.records[:4]
    ]
    np.testing.assert_array_equal(encoder.encode(shuffled)["probe"], drawn.features[:4])


def test_features_do_not_depend_on_the_other_records_of_the_batch(encoder, drawn):
    np.testing.assert_array_equal(encoder.encode([drawn.records[5]])["probe"][0], drawn.features[5])


def test_the_sampling_rate_hardly_matters(encoder):
    features = [
        encoder.encode(list(SyntheticEcgGenerator(0, rate_hz, noise=False).records(10)))["probe"]
        for rate_hz in (100.0, 257.0, 500.0, 1000.0)
    ]
    for other in features[:2] + features[3:]:
        difference = np.abs(value(other, "heart_rate") - value(features[2], "heart_rate"))
        assert np.quantile(difference, 0.8) < 0.5
        assert np.median(np.abs(value(other, "qrs_duration") - value(features[2], "qrs_duration"))) <= 6


def test_limb_leads_are_derived_from_i_and_ii(encoder, drawn):
    ecg = drawn.records[6]
    kept = [row for row, lead in enumerate(STANDARD_LEADS) if lead in ("I", "II") or lead.startswith("V")]
    eight = record(ecg.signal[kept], leads=[STANDARD_LEADS[row] for row in kept])
    np.testing.assert_allclose(encoder.encode([eight])["probe"][0], drawn.features[6], atol=1e-4)


def test_what_needs_an_absent_lead_is_missing_and_marked(encoder, drawn):
    ecg = drawn.records[6]
    features = encoder.encode([record(ecg.signal[:1], leads=["DI"]), ecg])["probe"]
    one = features[:1]
    assert value(one, "heart_rate")[0] == pytest.approx(value(features[1:], "heart_rate")[0], abs=1)
    marked = {name for name in FEATURE_NAMES if name.startswith("missing_") and one[0, FEATURE_NAMES.index(name)] == 1}
    absent = {f"missing_{lead} (1)" for lead in STANDARD_LEADS[1:]}
    assert marked >= absent | {"missing_axes (1)", "missing_sokolow_lyon (1)", "missing_cornell (1)"}
    assert not marked & {"missing_beats (1)", "missing_I (1)"}
    for name in ("r_V1 (mV)", "qrs_axis_sin (1)", "sokolow_lyon (mV)"):
        assert one[0, FEATURE_NAMES.index(name)] == 0


def test_a_lead_without_a_signal_counts_as_missing(encoder, drawn):
    signal = drawn.records[6].signal.copy()
    signal[7] = 0.25
    signal[8] = np.nan
    features = encoder.encode([record(signal)])["probe"]
    assert [value(features, f"missing_{lead}")[0] for lead in ("V1", "V2", "V3", "V4")] == [0, 1, 1, 0]


@pytest.mark.parametrize("kind", ["flat", "nan", "too short", "one impulse"])
def test_without_beats_everything_is_missing_and_the_log_says_so(encoder, caplog, kind):
    signals = {
        "flat": np.zeros((12, 2500)),
        "nan": np.full((12, 2500), np.nan),
        "too short": np.zeros((12, 50)),
        "one impulse": np.tile(np.eye(1, 2500, 1200), (12, 1)),
    }
    features = encoder.encode([record(signals[kind], record_id="silent")])["probe"][0]
    expected = [float(name.startswith("missing_")) for name in FEATURE_NAMES]
    assert features.tolist() == expected
    assert "1 of 1 recordings (silent)" in caplog.text


def test_two_rows_of_one_lead_are_refused_by_name(encoder, drawn):
    with pytest.raises(RecordError, match="more than one row is lead II"):
        encoder.encode([record(drawn.records[0].signal[:2], leads=["II", "DII"])])


def test_the_baseline_goes_through_the_feature_cache(tmp_path):
    from hf_ecgtext.data.sources.synthetic import open_data

    data = open_data(num_records=20, sampling_rate_hz=100.0, cache_dir=tmp_path)
    member = IntervalFeatures()
    assert not member.has_text
    found = FeatureCache(tmp_path / "features", show_progress=False).features(member, data, "test")
    assert found.arrays["probe"].shape == (2, len(FEATURE_NAMES))
    with pytest.raises(TypeError, match="no text tower"):
        member.embed_texts(["a"])


def test_without_neurokit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "neurokit2", None)
    with pytest.raises(ImportError, match=r'pip install "hf-ecgtext\[intervals\]"'):
        IntervalFeatures()


def test_another_version_of_neurokit_is_another_encoder(encoder, monkeypatch):
    module = importlib.import_module("hf_ecgtext.evaluation.encoders.interval_features")
    before = encoder.identity()
    monkeypatch.setattr(module, "version", lambda _package: "0.3.0")
    assert encoder.identity() != before


def test_rates_of_real_recordings_agree_with_the_machine_that_read_them(real_data, encoder):
    """PTB-XL+ has GE 12SL's statements: sinus bradycardia is below 60 a minute there, tachycardia from 100 on."""
    import ast
    import csv

    from hf_ecgtext.data.wfdb.reading import read_record

    with (real_data / "ptb-xl-plus" / "labels" / "12sl_statements.csv").open() as file:
        statements = {int(row["ecg_id"]): set(ast.literal_eval(row["statements"])) for row in csv.DictReader(file)}
    chosen = {
        kind: [ecg_id for ecg_id in range(1, 400) if kind in statements.get(ecg_id, ())][:12]
        for kind in ("SBRAD", "STACH", "LBBB")
    }
    rates, durations = {}, {}
    for kind, ids in chosen.items():
        ecgs = [read_record(real_data / "ptb-xl" / "records100" / "00000" / f"{ecg_id:05d}_lr") for ecg_id in ids]
        features = encoder.encode(ecgs)["probe"]
        rates[kind], durations[kind] = value(features, "heart_rate"), value(features, "qrs_duration")
    assert len(rates["SBRAD"]) == 12
    assert np.median(rates["SBRAD"]) < 60 < 100 < np.median(rates["STACH"]) + 2
    assert np.quantile(rates["SBRAD"], 0.9) < 67
    assert np.median(durations["LBBB"]) > 120
