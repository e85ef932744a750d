"""The bootstrap of a mean over prompt sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.prompt_mean import mean_over_prompt_sets


@pytest.fixture(scope="module")
def distributions():
    rng = np.random.default_rng(0)
    targets = (rng.random((150, 3)) < [0.5, 0.3, 0.03]).astype(int)
    patients = [f"p{row // 2}" for row in range(150)]
    scores = [targets + rng.normal(scale=2, size=targets.shape) for _ in range(4)]
    return [bootstrap_intervals(each, targets, patients, num_resamples=200)["auroc"] for each in scores]


def test_values_and_resamples_are_means_per_class(distributions):
    mean = mean_over_prompt_sets(distributions)
    np.testing.assert_allclose(mean.values, np.mean([each.values for each in distributions], axis=0))
    np.testing.assert_allclose(mean.macro().value, np.mean([each.macro().value for each in distributions]))
    np.testing.assert_allclose(mean.resamples[0, 7], np.mean([each.resamples[0, 7] for each in distributions], axis=0))


def test_the_interval_of_a_mean_of_unlike_sets_is_narrower_than_theirs(distributions):
    mean = mean_over_prompt_sets(distributions).macro()
    widths = [each.macro().high - each.macro().low for each in distributions]
    assert mean.high - mean.low < 0.8 * np.mean(widths)


def test_one_set_is_its_own_mean(distributions):
    assert mean_over_prompt_sets(distributions[:1]).macro() == distributions[0].macro()


def test_sets_of_other_records_or_resamples_are_refused(distributions):
    first, other = distributions[:2]
    with pytest.raises(ValueError, match="no resample has a mean"):
        mean_over_prompt_sets([first, replace(other, num_positives=other.num_positives + 1)])
    with pytest.raises(ValueError, match="no resample has a mean"):
        mean_over_prompt_sets([first, replace(other, resamples=other.resamples[:, :50])])
    with pytest.raises(ValueError, match="no prompt set"):
        mean_over_prompt_sets([])
