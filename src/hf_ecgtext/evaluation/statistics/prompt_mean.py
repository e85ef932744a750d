"""The mean over prompt sets: what an encoder answers, whatever the words.

Of several prompt sets the best one is known only after the test, so that headlines are of a set that was fixed
beforehand or of the mean over all (docs/protocols.md, defect 7). It is the mean of the values, not the value of
averaged scores, which would be another classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_ecgtext.evaluation.statistics.bootstrap import BootstrapDistribution


def mean_over_prompt_sets(distributions: Sequence[BootstrapDistribution]) -> BootstrapDistribution:
    """The distribution of the mean over prompt sets: per class on the test set, and per class in each resample.

    Resample by resample, because every set answers the same patients: the interval of the mean is narrower than the
    mean of the intervals, by as much as the sets err apart.

    Args:
        distributions (`Sequence[BootstrapDistribution]`): Of one metric, encoder, task and seed; one per prompt set.

    Raises:
        ValueError: If there is none, or they are not of the same records and resamples.
    """
    if not distributions:
        raise ValueError("There is no prompt set to take the mean over.")
    first = distributions[0]
    for other in distributions[1:]:
        if (
            other.resamples.shape != first.resamples.shape
            or other.confidence != first.confidence
            or not np.array_equal(other.num_positives, first.num_positives)
        ):
            raise ValueError(
                "The distributions are not of the same records and resamples, so that no resample has a mean."
            )
    return replace(
        first,
        run_values=np.mean([each.run_values for each in distributions], axis=0),
        resamples=np.mean([each.resamples for each in distributions], axis=0),
    )
