"""The metrics for Hugging Face `evaluate` give the numbers of this library's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from table_encoder import TableEncoder, normalised, table_data

from hf_ecgtext.data.sources.cinc2021.classes import CINC2021_CLASSES
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.context import EvaluationContext
from hf_ecgtext.evaluation.downstream.retrieval import retrieval_ranks
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.evaluate_metrics import Auroc, AveragePrecision, Cinc2021Score, EcgTextRetrieval
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.statistics.cinc2021_score import cinc2021_score
from hf_ecgtext.evaluation.statistics.metrics import auroc, average_precision
from hf_ecgtext.evaluation.statistics.retrieval_ranks import METRICS

NAMES = ["AFIB", "PACE", "never"]


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < (0.4, 0.1, 0.0)).astype(int)
    return rng.normal(size=(60, 3)) + targets, targets


@pytest.mark.parametrize(("metric", "ours"), [(Auroc, auroc), (AveragePrecision, average_precision)])
def test_multi_label_metrics_equal_ours_at_once_and_batch_by_batch(metric, ours, answers, tmp_path):
    scores, targets = answers
    values, name = ours(scores, targets), ours.__name__
    at_once = metric(cache_dir=str(tmp_path)).compute(predictions=scores, references=targets, class_names=NAMES)
    np.testing.assert_array_equal(list(at_once[f"{name}_per_class"].values()), values)
    assert list(at_once[f"{name}_per_class"]) == NAMES
    assert np.isnan(at_once[f"{name}_per_class"]["never"])
    assert at_once[f"macro_{name}"] == np.nanmean(values)
    assert at_once["num_classes"] == 2

    gathered = metric(cache_dir=str(tmp_path))
    for start in range(0, 60, 16):
        gathered.add_batch(predictions=scores[start : start + 16], references=targets[start : start + 16])
    least = int(targets[:, 1].sum()) + 1
    frequent = gathered.compute(min_positives=least)
    assert frequent[f"macro_{name}"] == values[0], "the mean is over the one frequent class"
    assert frequent["num_classes"] == 1


def test_scores_that_are_no_numbers_and_names_that_do_not_fit_are_refused(answers, tmp_path):
    scores, targets = answers
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        Auroc(cache_dir=str(tmp_path)).compute(predictions=scores, references=targets, class_names=NAMES[:2])
    scores[7, 1] = np.nan
    with pytest.raises(RecordError, match="row 7"):
        Auroc(cache_dir=str(tmp_path)).compute(predictions=scores, references=targets)


def test_the_challenge_s_score_equals_ours(tmp_path):
    rng = np.random.default_rng(1)
    decisions, targets = (rng.random((2, 40, len(CINC2021_CLASSES))) < 0.2).astype(int)
    found = Cinc2021Score(cache_dir=str(tmp_path)).compute(
        predictions=decisions, references=targets, class_names=list(CINC2021_CLASSES)
    )
    assert found == {"cinc2021_score": cinc2021_score(decisions, targets, list(CINC2021_CLASSES))}


def test_retrieval_equals_that_of_the_benchmark(tmp_path):
    rng = np.random.default_rng(2)
    reports = ["sinus rhythm", "pacemaker", "sinus rhythm", "atrial fibrillation", "pacemaker", "normal ecg", "other"]
    texts = dict(zip(sorted(set(reports)), normalised(rng.normal(size=(5, 4)).astype(np.float32)), strict=True))
    ids = [f"r{place:02d}" for place in range(len(reports))]
    ecgs = dict(zip(ids, normalised(rng.normal(size=(7, 4)).astype(np.float32)), strict=True))
    rows = [
        {"record_id": name, "report": report, "patient_id": name} for name, report in zip(ids, reports, strict=True)
    ]
    runs = EncoderRuns("model", "trained", (TableEncoder(ecgs, texts),))
    context = EvaluationContext(cache=FeatureCache(tmp_path / "features", show_progress=False), protocol=STRICT)
    expected = {
        f"{ranks.direction}_{metric}": ranks.values(metric)[0]
        for ranks in retrieval_ranks(runs, table_data(test=rows), context)
        for metric in METRICS
    }
    found = EcgTextRetrieval(cache_dir=str(tmp_path)).compute(
        predictions=np.stack([3 * ecgs[name] for name in ids]),  # lengths do not matter
        references=np.stack([texts[report] for report in reports]),
        reports=reports,
    )
    assert found == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="Equal reports have different embeddings"):
        EcgTextRetrieval(cache_dir=str(tmp_path)).compute(
            predictions=np.eye(3), references=np.eye(3), reports=["same", "same", "other"]
        )
    with pytest.raises(ValueError, match="references, row 1: the embedding is zero"):
        EcgTextRetrieval(cache_dir=str(tmp_path)).compute(
            predictions=np.eye(2), references=[[1, 0], [0, 0]], reports=["a", "b"]
        )
