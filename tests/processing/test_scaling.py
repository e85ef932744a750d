import numpy as np
import pytest

from hf_ecgtext.processing.scaling import scale_windows

EVERYTHING = slice(0, 100)


def windows(batch=3):
    return np.random.default_rng(0).standard_normal((batch, 4, 100), dtype=np.float32) * 2 + 5


def present(batch=3):
    return np.ones((batch, 4), dtype=bool)


def test_no_scaling_changes_nothing():
    values = windows()
    scale_windows(values, present(), EVERYTHING, "none", 1e-8)
    np.testing.assert_array_equal(values, windows())


def test_min_max_equals_the_formula_per_record():
    values, original = windows(), windows().astype(np.float64)
    scale_windows(values, present(), EVERYTHING, "minmax_record", 1e-8)
    for record, scaled in zip(original, values, strict=True):
        np.testing.assert_allclose(
            scaled, (record - record.min()) / (record.max() - record.min() + 1e-8), rtol=1e-5, atol=1e-6
        )


def test_z_scores_have_mean_zero_and_deviation_one():
    by_lead, by_record = windows(), windows()
    scale_windows(by_lead, present(), EVERYTHING, "zscore_lead", 1e-8)
    scale_windows(by_record, present(), EVERYTHING, "zscore_record", 1e-8)
    np.testing.assert_allclose(by_lead.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(by_lead.std(axis=-1), 1, rtol=1e-4)
    np.testing.assert_allclose(by_record.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(by_record.std(axis=(1, 2)), 1, rtol=1e-4)


@pytest.mark.parametrize("scaling", ["minmax_record", "zscore_lead", "zscore_record"])
def test_absent_leads_stay_zero_and_count_nowhere(scaling):
    mask = present()
    mask[:, 2] = False
    values = windows()
    values[:, 2] = 0
    alone = np.delete(values, 2, axis=1)
    scale_windows(values, mask, EVERYTHING, scaling, 1e-8)
    scale_windows(alone, mask[:, :3] | True, EVERYTHING, scaling, 1e-8)
    np.testing.assert_allclose(np.delete(values, 2, axis=1), alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(values[:, 2], 0)


def test_min_max_counts_the_padding_as_0_millivolt():
    values = np.zeros((1, 4, 100), dtype=np.float32)
    values[..., :50] = np.linspace(-1, 3, 50)
    scale_windows(values, present(1), slice(0, 50), "minmax_record", 1e-8)
    np.testing.assert_allclose(values[..., 50:], 0.25, rtol=1e-6)  # (0 - -1) / (3 - -1)


@pytest.mark.parametrize("scaling", ["zscore_lead", "zscore_record"])
def test_z_scores_leave_the_padding_out(scaling):
    values, alone = np.zeros((3, 4, 100), dtype=np.float32), windows()[..., :50].copy()
    values[..., :50] = alone
    scale_windows(values, present(), slice(0, 50), scaling, 1e-8)
    scale_windows(alone, present(), slice(0, 50), scaling, 1e-8)
    np.testing.assert_array_equal(values[..., :50], alone)
    np.testing.assert_array_equal(values[..., 50:], 0)


@pytest.mark.parametrize("scaling", ["minmax_record", "zscore_lead", "zscore_record"])
def test_a_constant_record_becomes_zero_and_is_reported(scaling):
    values = windows()
    values[1] = 0.7  # no binary fraction: its computed deviation is not exactly 0
    constant = scale_windows(values, present(), EVERYTHING, scaling, 1e-8)
    np.testing.assert_array_equal(values[1], 0)
    np.testing.assert_array_equal(constant.all(axis=1), [False, True, False])
    assert np.isfinite(values).all()


def test_a_flat_lead_is_constant_only_for_the_z_score_by_lead():
    for scaling, expected in (("zscore_lead", True), ("zscore_record", False), ("minmax_record", False)):
        values = windows()
        values[0, 3] = 0.7
        constant = scale_windows(values, present(), EVERYTHING, scaling, 1e-8)
        assert constant[0, 3] == expected
        assert constant.sum() == expected
