"""Batches that nothing can be learned from: one pair alone, equal reports, and losses that say so afterwards.

A contrastive loss asks which of a batch's reports belongs to which of its ECGs. Of a single pair, or of equal reports,
there is no answer to be learned: the loss is 0, or what guessing gives, and a training would end as if all were well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import REPORT_CLEANERS
from hf_ecgtext.training.arguments import EcgTextTrainingArguments

logger = logging.getLogger(__name__)

NO_ENLARGEMENT = (
    "gradient_accumulation_steps does not enlarge a contrastive batch: each is compared with itself alone. Where "
    "memory is short, grad_cache_chunk_size computes a large batch in small chunks."
)

_WATCHED_BATCHES = 10
_MANY_EQUAL = 0.5
_NEAR_GUESSING = 1e-4  # relative; the logits of a batch then differ by a hundredth
_EVERY_SAMPLE = 97  # few samples tell whether two ECGs are the same


def _contrasts_records(model: Any) -> bool:
    """Whether the loss compares records with each other; that of a classifier, which knows no such thing, does not."""
    return bool(getattr(model, "contrasts_records", False))


def check_pairs(
    model: EcgTextModel, args: EcgTextTrainingArguments, dataset: Any, batch_size: int, title: str = "training"
) -> None:
    """Refuse batches of a single pair, where the method compares pairs.

    Args:
        model ([`EcgTextModel`]): Its `contrasts_records` says whether it compares them.
        args ([`EcgTextTrainingArguments`]): How batches are made.
        dataset: Of a stream, the last batch cannot be known.
        batch_size (`int`): Records of one process.
        title (`str`): `"training"` or `"validation"`, for the message.

    Raises:
        ValueError: If every batch, or the last one, holds one pair.
    """
    if dataset is None or not _contrasts_records(model) or args.world_size > 1:
        return  # each of several processes brings a pair at least
    name, setting = type(model).__name__, f"per_device_{'train' if title == 'training' else 'eval'}_batch_size"
    if batch_size == 1:
        raise ValueError(
            f"{setting}=1 makes {title} batches of one pair: {name} compares the pairs of a batch with each other, and "
            f"one alone has nothing to be compared with, whatever the weights. Set {setting} to 2 or more, and to as "
            f"many as you can. {NO_ENLARGEMENT}"
        )
    if not args.dataloader_drop_last and hasattr(dataset, "__len__") and len(dataset) % batch_size == 1:
        raise ValueError(
            f"The {title} split has {len(dataset)} records, of which dataloader_drop_last=False and "
            f"{setting}={batch_size} make a last batch of one pair: {name} compares the pairs of a batch with each "
            f"other. Choose another {setting}, or leave dataloader_drop_last=True."
        )


def check_reports(model: EcgTextModel, dataset: Any, processor: Any) -> None:
    """Refuse training data whose reports are all the same, where the method compares pairs.

    Args:
        model ([`EcgTextModel`]): Its `contrasts_records` says whether it compares them.
        dataset: Looked at if it has `unique_reports()` and knows them without reading its records.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its cleaning decides which reports are the same.

    Raises:
        ValueError: If there is only one distinct report.
    """
    if not (
        _contrasts_records(model) and hasattr(dataset, "unique_reports") and getattr(dataset, "lists_reports", True)
    ):
        return
    cleaning = getattr(processor, "report_cleaning", "none")
    clean = REPORT_CLEANERS[cleaning]
    first: str | None = None
    for report in dataset.unique_reports():
        text = clean(report)
        if first is None:
            first = text
        elif text != first:
            return
    if first is not None:
        raise ValueError(
            f"All {len(dataset):,} training records have the same report after cleaning by '{cleaning}': "
            f"'{first[:60]}'. {type(model).__name__} learns which report belongs to which record, and there is nothing "
            "to tell apart. Check the column 'report' of the data, and the processor's report_cleaning."
        )


class DegenerateBatchWatch:
    """Looks at the first batches and at every logged loss of a training, and warns once of each thing that is wrong.

    Nothing here waits for the device but at a log, where the trainer does so anyway.

    Args:
        model ([`EcgTextModel`]): If it compares no pairs, nothing is watched.
    """

    def __init__(self, model: EcgTextModel):
        self._is_contrastive = _contrasts_records(model)
        self._model_name = type(model).__name__
        self.restart()

    def restart(self) -> None:
        """Begin anew, with a training."""
        self._seen = 0
        self._equal: dict[str, Tensor] = {}  # summed shares of neighbours that are equal
        self._is_told: set[str] = set()
        self._at_guessing: set[str] = set()  # terms that were so in the last window

    def see(self, inputs: Mapping[str, Any]) -> None:
        """Count equal neighbours in one of the first training batches; they are shuffled, so that any two would do.

        Args:
            inputs (`Mapping[str, Any]`): Of the model: `ecg_values`, and `report_ids` or `input_ids`.
        """
        if not self._is_contrastive or self._seen >= _WATCHED_BATCHES:
            return
        signals, reports = inputs.get("ecg_values"), inputs.get("report_ids", inputs.get("input_ids"))
        if signals is None or reports is None or len(reports) < 2:
            return
        self._seen += 1
        # Ids of a text cache in host memory are NumPy's.
        for kind, rows in (("ECG", signals[..., ::_EVERY_SAMPLE]), ("report", torch.as_tensor(reports))):
            share = (rows == rows.roll(1, dims=0)).reshape(len(rows), -1).all(dim=1).float().mean()
            self._equal[kind] = self._equal[kind] + share if kind in self._equal else share

    def tell_of_batches(self, is_over: bool = False) -> None:
        """Say once what the first batches were like.

        Args:
            is_over (`bool`): Whether the training has ended, perhaps before as many batches as are watched.
        """
        if not self._equal or not (is_over or self._seen == _WATCHED_BATCHES):
            return
        shares = {kind: value.item() / self._seen for kind, value in self._equal.items()}
        self._equal = {}
        for kind, share in shares.items():
            if share == 1:
                logger.warning(
                    "All %ss of the first %d batches are equal: %s learns which report belongs to which ECG, and there "
                    "is nothing to tell apart. Check the data and what the processor makes of them.",
                    kind, self._seen, self._model_name,
                )  # fmt: skip
            elif share > _MANY_EQUAL:
                logger.warning(
                    "Two records of a batch have the same %s in %.0f %% of the cases (first %d batches), so that most "
                    "pairs that the loss calls wrong are right. Check the data, and how reports are cleaned.",
                    kind, 100 * share, self._seen,
                )  # fmt: skip
            elif kind == "report" and share > 0:
                logger.info("Two records of a batch have the same report in %.1f %% of the cases.", 100 * share)

    def look_at(self, terms: Mapping[str, float], num_pairs: int, step: int) -> None:
        """Warn of loss terms that are what no learning gives, over a whole logging window.

        Args:
            terms (`Mapping[str, float]`): Means over the window.
            num_pairs (`int`): Of the joined batch.
            step (`int`): At the end of the window.
        """
        if not self._is_contrastive or not terms:
            return
        if all(value == 0 for value in terms.values()):
            self._tell_once(
                "zero",
                f"The loss is exactly 0 since the last log (step {step}): no gradient comes from it. Its batches of "
                f"{num_pairs} pairs are told apart without an error, or there is nothing in them to compare. Use "
                f"larger batches. {NO_ENLARGEMENT}",
            )
        at_guessing = {name for name, value in terms.items() if is_guessing(value, num_pairs)}
        for name in sorted(at_guessing & self._at_guessing):  # in two windows, so that none is caught passing by
            self._tell_once(
                name,
                f"The term '{name}' stands at {terms[name]:.4f} (step {step}), what guessing among {num_pairs} pairs "
                "gives: the embeddings of a batch hardly differ. The training has not begun to learn, or has "
                "collapsed: check learning rate and warm-up, and that records and reports differ.",
            )
        self._at_guessing = at_guessing

    def _tell_once(self, what: str, message: str) -> None:
        if what not in self._is_told:
            self._is_told.add(what)
            logger.warning(message)


def is_guessing(value: float, num_pairs: int) -> bool:
    """Whether an InfoNCE term is that of equal embeddings.

    It is `ln(num_pairs)`, twice that where the two directions are summed, and `ln(num_pairs - 1)` where the positive
    is left out of the denominator.
    """
    if num_pairs < 3:  # ln 2 is what any yes-or-no question begins with
        return False
    guesses = (math.log(num_pairs), 2 * math.log(num_pairs), math.log(num_pairs - 1))
    return any(math.isclose(value, guess, rel_tol=_NEAR_GUESSING) for guess in guesses)
