"""Whether a checkpoint has seen what it is about to be evaluated on (docs/protocols.md, defect 18)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.errors import ContaminationError
from hf_ecgtext.evaluation.scores import NOT_CONTAMINATED

logger = logging.getLogger(__name__)

NO_LEDGER = "unknown: the checkpoint has no ledger"
_SHOWN = 5


def check_contamination(
    ledger: TrainingLedger | None, data: EcgData, split: str, *, checkpoint: str, allow_seen: bool = False
) -> str:
    """Refuse to evaluate a checkpoint on what it was trained on.

    Args:
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): Of the checkpoint; `None` if it has none, of
            which the log warns.
        data ([`EcgData`]): Whose split is about to be evaluated.
        split (`str`): `"test"` or `"validation"`.
        checkpoint (`str`): Name or path, for messages.
        allow_seen (`bool`): Warn instead of refusing.

    Returns:
        `str`: What the result lines record: `"none"`, `"unknown: ..."`, or how many records were seen.

    Raises:
        ContaminationError: If a record, or another record of its patient, was trained on.
    """
    if ledger is None:
        logger.warning(
            "'%s' does not say what it was trained on: nobody knows whether it has seen the %s records of %s.",
            checkpoint,
            split,
            data.name,
        )
        return NO_LEDGER
    dataset = data.split(split)
    overlap = ledger.look_up(data.name, dataset)
    of_seen_patient = overlap.patient_trained & ~overlap.trained
    seen, related, chosen = (int(flags.sum()) for flags in (overlap.trained, of_seen_patient, overlap.validated))
    total = f"of {len(dataset)} {split} records"
    found = []
    if seen:
        found.append(f"{seen} {total} were seen in training")
    if related:
        found.append(f"{related} {total} are of patients whose other records were seen in training")
    if found:
        keys = _named(overlap.keys, overlap.trained if seen else of_seen_patient)
        problem = f"'{checkpoint}' on {data.name}: {', and '.join(found)} ({keys})."
        if not allow_seen:
            raise ContaminationError(
                f"{problem} Evaluate on other records, or train without them; --allow-seen (allow_seen=True) "
                "evaluates nevertheless and says so in every result line."
            )
        logger.warning("%s The results say little about new patients.", problem)
    if chosen:
        found.append(f"{chosen} {total} were validation records of the training")
    if ledger.unknown:
        logger.warning("'%s' was also trained on unknown data: %s.", checkpoint, "; ".join(ledger.unknown))
        found.append(f"unknown: {'; '.join(ledger.unknown)}")
    elif not (seen or related):
        found.insert(0, NOT_CONTAMINATED)
    return "; ".join(found)


def _named(keys: Sequence[str], flags: Any) -> str:
    places = np.flatnonzero(flags)
    names = ", ".join(keys[place] for place in places[:_SHOWN])
    return f"{names}, ..." if len(places) > _SHOWN else names
