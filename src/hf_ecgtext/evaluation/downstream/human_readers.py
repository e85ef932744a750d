"""People who read the test set of CODE-test, and its authors' network, against the gold standard.

They answered yes or no, about all 827 tracings. No encoder takes part, so that there are no result lines.
"""

from __future__ import annotations

from dataclasses import replace

from hf_ecgtext.data.sources.code_test import OTHER_ANNOTATORS, CodeTest
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.statistics.binary_readers import ReaderScores, reader_scores


def human_readers(data: EcgData, *, num_resamples: int = 1000, seed: int = 0) -> dict[str, ReaderScores]:
    """How well each annotator of CODE-test agrees with its gold standard; empty for all other data.

    Args:
        data ([`EcgData`]): Opened data. Of CODE-test, all records of the test split count, also those without any of
            the six classes, as in the published table.
        num_resamples (`int`): Bootstrap resamples.
        seed (`int`): Of the resamples; the same for all readers.

    Returns:
        `dict[str, ReaderScores]`: By annotator.
    """
    if data.name != CodeTest.name:
        return {}
    (task,) = data.tasks
    test = data.split("test")
    gold = task.targets(test)
    return {
        annotator: reader_scores(
            replace(task, label_column=f"labels_{annotator}").targets(test), gold, None, num_resamples, seed=seed
        )
        for annotator in OTHER_ANNOTATORS
    }
