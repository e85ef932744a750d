"""People, or anything else that answers yes or no, measured like a model at a threshold (CODE-test, defect 17).

Yes-or-no answers have one sensitivity and one specificity, not a curve. The area under the curve through that one point
is not comparable with that of a continuous score, so none is computed here. A model can only be set beside readers by
these metrics, at thresholds that were fixed on other records.

Source: docs/protocols.md, defect 17; Ribeiro et al. 2020, table 2 (metrics of readers on CODE-test).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.calibration_metrics import wilson_interval
from hf_ecgtext.evaluation.statistics.intervals import Interval
from hf_ecgtext.evaluation.statistics.metrics import check_scores_and_targets
from hf_ecgtext.evaluation.statistics.thresholds import ThresholdMetric, at_thresholds

READER_METRICS: tuple[ThresholdMetric, ...] = ("f1", "sensitivity", "specificity", "precision")


@dataclass(frozen=True, eq=False)
class ReaderScores:
    """How one reader agrees with the gold standard.

    Args:
        per_class (`dict[str, list[Interval]]`): By metric (`"f1"`, `"sensitivity"`, `"specificity"`, `"precision"`),
            one per class, with Wilson intervals, because resampling 16 of 16 only ever gives 16 of 16. F1 is
            2 J / (1 + J) of the proportion J = true positives / (called or truly positive), and takes J's interval.
            These intervals take records for independent, as those of CODE-test are.
        macro (`dict[str, Interval]`): Means over the classes with at least 5 positive records, by metric, with
            percentile intervals of the bootstrap, where one holds (of precision, from 20). A class without an error
            adds nothing to their width.
        num_positives (`np.ndarray` of shape `(num_classes,)`): Positive records of the gold standard.
    """

    per_class: dict[str, list[Interval]]
    macro: dict[str, Interval]
    num_positives: NDArray[np.int64]


def reader_scores(
    annotations: ArrayLike,
    gold: ArrayLike,
    patient_ids: Sequence[object] | NDArray | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ReaderScores:
    """Sensitivity, specificity, precision and F1 of yes-or-no answers, with intervals.

    Args:
        annotations (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        gold (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patient_ids (`Sequence` of length `num_records`, *optional*): Whose record each row is, for the bootstrap.
            `None` takes every record for a patient of its own, as in CODE-test.
        num_resamples (`int`): Bootstrap resamples.
        confidence (`float`): Between 0 and 1.
        seed (`int`): Seed of the resamples. The same for all readers, so that they meet the same resamples.

    Raises:
        ValueError: Shapes disagree, or a value is not 0 or 1.
    """
    answers = np.asarray(annotations)
    if not np.isin(answers, (0, 1)).all():
        raise ValueError(
            f"Annotations are 0 or 1, but these hold {answers[~np.isin(answers, (0, 1))].flat[0]}. Continuous scores "
            "need thresholds that were fixed on other records first."
        )
    checked, positive = check_scores_and_targets(answers.astype(np.float64), gold)
    decided = checked == 1
    metrics = [at_thresholds(np.full(answers.shape[-1], 0.5), name) for name in READER_METRICS]
    distributions = bootstrap_intervals(checked, positive, patient_ids, metrics, num_resamples, confidence, seed)
    # Each metric is a proportion: right answers among those that were asked.
    trials = {
        "f1": (decided & positive, decided | positive),
        "sensitivity": (decided & positive, positive),
        "specificity": (~decided & ~positive, ~positive),
        "precision": (decided & positive, decided),
    }
    per_class = {}
    for name, (right, asked) in trials.items():
        lows, highs = wilson_interval(right.sum(axis=0), asked.sum(axis=0), confidence)
        if name == "f1":  # which is 2 J / (1 + J) of the proportion J above, and rises with it
            lows, highs = 2 * lows / (1 + lows), 2 * highs / (1 + highs)
        per_class[name] = [
            Interval(float(value), *((float(low), float(high)) if np.isfinite(value) else (np.nan, np.nan)))
            for value, low, high in zip(distributions[name].values, lows, highs, strict=True)
        ]
    return ReaderScores(
        per_class=per_class,
        macro={name: distribution.macro() for name, distribution in distributions.items()},
        num_positives=positive.sum(axis=0),
    )
