"""Human readers beside the models (docs/protocols.md, defect 17)."""

from __future__ import annotations

from collections.abc import Mapping

from hf_ecgtext.evaluation.statistics.binary_readers import READER_METRICS, ReaderScores
from hf_ecgtext.reporting.tables.grid import measure_title
from hf_ecgtext.reporting.tables.render import UNDEFINED, NamedTable, percent

_TITLES = {"dnn": "network of Ribeiro et al. 2020"}


def reader_table(readers: Mapping[str, ReaderScores], num_records: int) -> NamedTable:
    """One row per reader: macro F1, sensitivity, specificity and precision with intervals. There is no AUROC.

    Args:
        readers (`Mapping[str, ReaderScores]`): By reader, as
            [`~hf_ecgtext.evaluation.downstream.human_readers.human_readers`] returns them.
        num_records (`int`): How many recordings they read.
    """
    return NamedTable(
        title="Readers of CODE-test against the gold standard",
        header=["reader", *(measure_title(name) for name in READER_METRICS)],
        rows=[
            [_TITLES.get(name, name.replace("_", " ")), *(_macro(scores, metric) for metric in READER_METRICS)]
            for name, scores in readers.items()
        ],
        notes=[
            "Macro means over the six classes in percent, with 95 % intervals of the bootstrap.",
            f"Readers answered yes or no about all {num_records:,} recordings, so that they have no AUROC; a model's "
            "is of continuous scores on the same recordings, and does not say who is better.",
        ],
    )


def _macro(scores: ReaderScores, metric: str) -> str:
    value, low, high = scores.macro[metric]
    return percent(value, (low, high)) if value == value else UNDEFINED  # NaN is not equal to itself
