"""Metrics of this library as those of Hugging Face `evaluate`: `compute(predictions=..., references=...)`, offline.

They add nothing to the functions that they call, so that the numbers are the same; `evaluate` gathers batches, also of
several processes. They have no intervals: those are in `hf_ecgtext.evaluation.statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.statistics.cinc2021_score import cinc2021_score
from hf_ecgtext.evaluation.statistics.metrics import Metric as ClassMetric
from hf_ecgtext.evaluation.statistics.metrics import auroc, average_precision, macro
from hf_ecgtext.evaluation.statistics.retrieval_ranks import METRICS, rank_metric, rank_of_first, rank_of_own


def _described(description: str, inputs: str, predictions: str, references: str, **others: Any) -> evaluate.MetricInfo:
    """What `evaluate` wants to know: texts, and the types of one prediction's and one reference's numbers."""
    features = {
        "predictions": datasets.List(datasets.Value(predictions)),
        "references": datasets.List(datasets.Value(references)),
        **others,
    }
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description=inputs, features=datasets.Features(features)
    )


class _MultiLabelMetric(evaluate.Metric):
    """A metric of every class, and their macro mean."""

    _metric: ClassMetric
    _named: str

    def _info(self) -> evaluate.MetricInfo:
        return _described(
            f"{self._named} of every class of multi-label answers, and the mean over classes.",
            "predictions: a score per class, any monotone scale; references: 0 or 1 per class; class_names, optional: "
            "names of the columns; min_positives, default 1: the mean leaves out classes with fewer positive records.",
            "float64",
            "int8",
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[int]],
        class_names: Sequence[str] | None = None,
        min_positives: int = 1,
    ) -> dict[str, Any]:
        """The mean, the value of each class, and how many classes are in the mean.

        Raises:
            RecordError: A score is NaN or infinite.
            ValueError: Shapes disagree, or a reference is not 0 or 1.
        """
        scores, targets = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        values = type(self)._metric(scores, targets)
        names = [str(index) for index in range(len(values))] if class_names is None else list(class_names)
        if len(names) != len(values):
            raise ValueError(f"{len(names)} class names for {len(values)} classes.")
        num_positives = targets.sum(axis=0)
        name = type(self)._metric.__name__
        return {
            f"macro_{name}": float(macro(values, num_positives, min_positives)),
            "num_classes": int((~np.isnan(values) & (num_positives >= min_positives)).sum()),
            f"{name}_per_class": dict(zip(names, values.tolist(), strict=True)),
        }


class Auroc(_MultiLabelMetric):
    """Area under the ROC curve; see [`~hf_ecgtext.evaluation.statistics.metrics.auroc`].

    `compute` returns `macro_auroc`, `auroc_per_class` (NaN for a class without positive or negative records) and
    `num_classes`, how many are in the mean.
    """

    _metric = staticmethod(auroc)
    _named = "Area under the ROC curve"


class AveragePrecision(_MultiLabelMetric):
    """Average precision; see [`~hf_ecgtext.evaluation.statistics.metrics.average_precision`].

    `compute` returns `macro_average_precision`, `average_precision_per_class` and `num_classes`.
    """

    _metric = staticmethod(average_precision)
    _named = "Average precision"


class Cinc2021Score(evaluate.Metric):
    """The score of PhysioNet/CinC 2021; see [`~hf_ecgtext.evaluation.statistics.cinc2021_score.cinc2021_score`].

    `compute(predictions=..., references=..., class_names=...)` returns `cinc2021_score`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _described(
            "The score of the PhysioNet/Computing in Cardiology Challenge 2021.",
            "predictions, references: 0 or 1 per class; class_names: what the columns are.",
            "int8",
            "int8",
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]], class_names: Sequence[str]
    ) -> dict[str, float]:
        return {"cinc2021_score": float(cinc2021_score(np.asarray(predictions), np.asarray(references), class_names))}


class EcgTextRetrieval(evaluate.Metric):
    """Retrieval between ECGs and their reports, equal reports recognised as one, as under the strict protocol.

    `compute(predictions=..., references=..., reports=...)` takes the embedding of each ECG, that of its report, and the
    report itself, and returns recall at 1, 5 and 10 and the median rank in both directions, such as
    `ecg_to_report_recall_at_10`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _described(
            "Recall at 1, 5, 10 and median rank between ECGs and reports.",
            "predictions: ECG embeddings; references: embeddings of their reports; reports: texts.",
            "float32",
            "float32",
            reports=datasets.Value("string"),
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[float]], reports: Sequence[str]
    ) -> dict[str, float]:
        """Both directions.

        Raises:
            ValueError: An embedding is NaN, infinite or zero, or equal reports have different embeddings.
        """
        ecg_embeds, text_embeds = _unit_length(predictions, "predictions"), _unit_length(references, "references")
        _, first, report_of_record = np.unique(np.asarray(reports), return_index=True, return_inverse=True)
        text_embeds_of_unique = text_embeds[first]
        if not np.allclose(text_embeds, text_embeds_of_unique[report_of_record], atol=1e-4):
            raise ValueError("Equal reports have different embeddings: encode them in evaluation mode.")
        one_each = np.ones((1, len(reports)))
        directions = {
            "ecg_to_report": rank_of_own(ecg_embeds, text_embeds_of_unique, report_of_record),
            "report_to_ecg": rank_of_first(text_embeds_of_unique, ecg_embeds, report_of_record),
        }
        return {
            f"{direction}_{metric}": float(rank_metric(metric, ranks, one_each[:, : len(ranks)])[0])
            for direction, ranks in directions.items()
            for metric in METRICS
        }


def _unit_length(embeddings: Sequence[Sequence[float]], name: str) -> NDArray[np.float32]:
    rows = np.asarray(embeddings, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        row = int(np.argwhere(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))[0, 0])
        raise ValueError(f"{name}, row {row}: the embedding is zero, NaN or infinite.")
    return rows / lengths
