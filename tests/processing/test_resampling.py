import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.processing.resampling import (
    bandpass,
    num_samples_after_resampling,
    resample,
    resampling_ratio,
    shortest_filterable_signal,
)


def sine(frequency_hz, rate_hz, duration_s=10.0):
    time = np.arange(round(rate_hz * duration_s)) / rate_hz
    return np.sin(2 * np.pi * frequency_hz * time).astype(np.float32)[None]


def test_a_sine_below_the_new_nyquist_frequency_survives_without_delay():
    resampled = resample(sine(5, 500), 500, 100)
    np.testing.assert_allclose(resampled[:, 20:-20], sine(5, 100)[:, 20:-20], atol=0.01)


def test_a_sine_above_the_new_nyquist_frequency_vanishes():
    resampled = resample(sine(90, 500), 500, 100)
    assert np.abs(resampled[:, 20:-20]).max() < 0.01


@pytest.mark.parametrize("rate_hz", [100, 250, 257, 360, 400, 1000, 249.9])
def test_ten_seconds_at_any_rate_become_ten_seconds_at_500_hz(rate_hz):
    resampled = resample(sine(5, rate_hz), rate_hz, 500)
    assert abs(resampled.shape[-1] - 5000) <= 1
    inner = slice(50, 4900)
    np.testing.assert_allclose(resampled[:, inner], sine(5, 500)[:, inner], atol=0.01)
    assert resampled.dtype == np.float32


def test_the_ratio_is_exact():
    assert (resampling_ratio(257, 500).numerator, resampling_ratio(257, 500).denominator) == (500, 257)


def test_equal_rates_return_the_signal_itself():
    signal = sine(5, 500)
    assert resample(signal, 500, 500.0) is signal


@pytest.mark.parametrize(("from_hz", "to_hz"), [(500, 100), (100, 500), (257, 500)])
def test_an_offset_makes_no_ramp_at_the_ends(from_hz, to_hz):
    offset = np.full((1, 2 * from_hz), 3.0, dtype=np.float32)
    np.testing.assert_allclose(resample(offset, from_hz, to_hz), 3.0, rtol=1e-6)
    # A drift at a constant rate is a straight line too.
    drift = offset + np.arange(2 * from_hz, dtype=np.float32) / from_hz
    expected = 3 + np.arange(2 * to_hz) / to_hz
    np.testing.assert_allclose(resample(drift, from_hz, to_hz), expected[None], rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3000), st.sampled_from([100, 128, 250, 257, 360, 500, 1000]), st.sampled_from([100, 250, 400, 500])
)
def test_the_announced_length_is_the_length(num_samples, from_hz, to_hz):
    signal = np.zeros((1, num_samples), dtype=np.float32)
    assert resample(signal, from_hz, to_hz).shape[-1] == num_samples_after_resampling(num_samples, from_hz, to_hz)


def test_the_band_pass_keeps_its_band_and_removes_the_rest():
    inner = slice(5000, -5000)
    kept = bandpass(sine(10, 500, duration_s=40), (0.67, 40.0), 4, 500)
    np.testing.assert_allclose(kept[:, inner], sine(10, 500, duration_s=40)[:, inner], atol=0.01)
    for removed_hz in (0.1, 120):
        removed = bandpass(sine(removed_hz, 500, duration_s=40), (0.67, 40.0), 4, 500)
        assert np.abs(removed[:, inner]).max() < 0.01


def test_one_edge_alone_filters_one_side():
    offset = np.full((1, 5000), 2.0, dtype=np.float32)
    assert np.abs(bandpass(offset, (0.5, None), 2, 500)).max() < 0.01
    np.testing.assert_allclose(bandpass(offset, (None, 40.0), 2, 500), 2.0, rtol=1e-4)


@pytest.mark.parametrize("band_hz", [(0.67, 40.0), (None, 40.0), (0.5, None)])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_shortest_filterable_signal_is_filtered_and_one_sample_less_is_not(band_hz, order):
    shortest = shortest_filterable_signal(band_hz, order, 500)
    assert bandpass(np.ones((1, shortest), dtype=np.float32), band_hz, order, 500).shape == (1, shortest)
    with pytest.raises(ValueError, match="padlen"):
        bandpass(np.ones((1, shortest - 1), dtype=np.float32), band_hz, order, 500)
