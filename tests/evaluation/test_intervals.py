from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from hf_ecgtext.evaluation.statistics.calibration_metrics import wilson_interval
from hf_ecgtext.evaluation.statistics.intervals import (
    class_interval,
    logit_debiased_interval,
    mann_whitney_interval,
    method_name,
    prediction_interval,
)


def variance(truth: float, num_positives: int, num_negatives: int) -> float:
    """Hanley and McNeil's variance of an area, with the mean of both numbers for either."""
    q1, q2 = truth / (2 - truth), 2 * truth**2 / (1 + truth)
    size = (num_positives + num_negatives) / 2
    return (truth * (1 - truth) + (size - 1) * ((q1 - truth**2) + (q2 - truth**2))) / (num_positives * num_negatives)


@pytest.mark.parametrize(("area", "positives", "negatives"), [(0.8, 5, 200), (0.55, 30, 40), (0.97, 2, 60)])
def test_the_ends_of_an_area_are_the_truths_that_lie_1_96_standard_deviations_away(area, positives, negatives):
    low, high = mann_whitney_interval(area, positives, negatives, 0.95)
    for end in (low, high):
        assert abs(area - end) == pytest.approx(norm.ppf(0.975) * variance(end, positives, negatives) ** 0.5, rel=1e-6)
    assert low < area < high


def test_a_perfect_area_of_one_positive_is_no_certainty():
    low, high = mann_whitney_interval(1.0, 1, 250, 0.95)
    assert high == 1
    assert low < 0.6
    more = mann_whitney_interval(1.0, 40, 250, 0.95)
    assert more[0] > 0.95
    worst = mann_whitney_interval(0.0, 1, 250, 0.95)
    assert worst == pytest.approx((0, 1 - low), abs=1e-6)


def test_the_ends_of_an_area_mirror_where_positives_and_negatives_are_exchanged():
    low, high = mann_whitney_interval(0.83, 12, 90, 0.9)
    mirrored = mann_whitney_interval(0.17, 90, 12, 0.9)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_a_proportion_of_independent_patients_has_wilsons_interval():
    resamples = np.random.default_rng(0).binomial(40, 0.75, size=4000) / 40
    found = class_interval("sensitivity", 0.75, resamples, 40, 300, 0.95)
    low, high = wilson_interval(30, 40)
    assert found[1:] == pytest.approx((float(low), float(high)), abs=0.01)


def test_copies_of_patients_make_a_proportions_interval_wider():
    resamples = np.random.default_rng(0).binomial(10, 0.75, size=4000) / 10  # as if each answer counted four times
    clustered = class_interval("sensitivity", 0.75, resamples, 40, 300, 0.95)
    low, high = wilson_interval(7.5, 10)
    assert clustered[1:] == pytest.approx((float(low), float(high)), abs=0.02)
    perfect = class_interval("sensitivity", 1.0, np.ones(100), 16, 300, 0.95)
    assert perfect.high == 1
    assert perfect.low == pytest.approx(float(wilson_interval(16, 16)[0]))


def test_average_precision_is_moved_back_by_the_bias_of_its_resamples():
    rng = np.random.default_rng(1)
    unbiased = 1 / (1 + np.exp(-(0.2 + 0.3 * rng.normal(size=5000))))
    value = float(1 / (1 + np.exp(-0.2)))
    biased = 1 / (1 + np.exp(-(0.5 + 0.3 * rng.normal(size=5000))))
    straight, moved = (logit_debiased_interval(value, drawn, 0.95) for drawn in (unbiased, biased))
    assert straight.low < value < straight.high
    assert moved.low < straight.low
    assert moved.high < straight.high


def test_a_prediction_interval_is_the_t_interval_where_patients_add_nothing():
    values = [0.7, 0.8, 0.75, 0.77]
    low, high = prediction_interval(values, np.full(100, np.mean(values)), 0.95)
    half = t.ppf(0.975, 3) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 4)
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_a_prediction_interval_is_that_of_the_patients_where_trainings_agree():
    drawn = np.random.default_rng(2).normal(0.8, 0.02, size=4000)
    low, high = prediction_interval([0.8, 0.8, 0.8], drawn, 0.95)
    assert high - low == pytest.approx(2 * 1.96 * drawn.std(), rel=1e-3)
    assert prediction_interval([0.8], drawn, 0.95) is None
    assert prediction_interval([0.8, np.nan], drawn, 0.95) is None


def test_result_lines_name_how_an_interval_was_made():
    assert method_name("auroc", single_class=False) == "percentiles of a bootstrap of patients"
    assert method_name("auroc", single_class=True) == "Newcombe's method 5, patients"
    assert method_name("ece_equal_mass", single_class=False) == "none"
