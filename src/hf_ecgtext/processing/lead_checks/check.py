"""The check of a batch: quick for right recordings, and thorough, with messages and repairs, for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.errors import RecordError
from hf_ecgtext.processing.lead_checks.electrode_reversal import (
    SUSPICION,
    reversal_rows,
    reversal_samples,
    suspected_reversals,
)
from hf_ecgtext.processing.lead_checks.limb_leads import agree, find_contradiction, limb_rows, quick_samples

_LAW = "limb leads that contradict each other by Einthoven's and Goldberger's identities"


def check_leads(
    signals: NDArray[np.float32],
    names: Sequence[str | None],
    sampling_rate_hz: float,
    record_ids: Sequence[str],
    policy: str,
    notices: dict[str, list[str]],
) -> None:
    """Warns of wrong leads, refuses them, or puts them right in place.

    Args:
        signals (`np.ndarray` of shape `(batch, num_rows, num_samples)`): mV; samples may be invalid.
        names (`Sequence[str | None]`): Standard name claimed for each row.
        sampling_rate_hz (`float`): Of the signals.
        record_ids (`Sequence[str]`): One per record, for messages.
        policy (`str`): `"warn"`, `"raise"` or `"fix"`.
        notices (`dict[str, list[str]]`): Gets the records under each message.

    Raises:
        RecordError: If limb leads contradict each other and the policy is `"raise"`.
    """
    if limb := limb_rows(names):
        leads = [str(names[row]) for row in limb]
        for record in np.flatnonzero(~agree(signals[:, limb, quick_samples(signals.shape[-1])], leads)).tolist():
            _treat(signals[record], names, record_ids[record], policy, notices)
    if rows := reversal_rows(names, sampling_rate_hz):
        few = signals[:, rows, reversal_samples(signals.shape[-1], sampling_rate_hz)]
        for record in np.flatnonzero(suspected_reversals(few)).tolist():
            # Of leads that contradict each other, as a lead upside down does, a reversal cannot be told.
            if find_contradiction(signals[record], names) is None:
                notices[SUSPICION].append(record_ids[record])


def _treat(
    signal: NDArray[np.float32], names: Sequence[str | None], record_id: str, policy: str, notices: dict[str, list[str]]
) -> None:
    finding = find_contradiction(signal, names)
    if finding is None:
        return
    if policy == "raise":
        fix = "Correct the lead names or the signal"
        if finding.rows is not None:
            fix += ', or let check_limb_leads="fix" put it right'
        raise RecordError(record_id, f"{_LAW}: {finding.problem}.", f"{fix}.")
    if finding.rows is None or finding.sources is None or finding.signs is None:
        notices[f"have {_LAW}: {finding.problem}. Nothing was changed."].append(record_id)
    elif policy == "fix":
        signal[finding.rows] = finding.signs[:, None] * signal[finding.sources]
        notices[f"were put right; they had {_LAW}: {finding.problem}."].append(record_id)
    else:
        notices[f"have {_LAW}: {finding.problem}. Correct it, or let check_limb_leads='fix' do it."].append(record_id)


@dataclass(frozen=True)
class QuickTest:
    """A test of few samples that right recordings pass; where all pass, `check_leads` has nothing to say or to do.

    Args:
        rows (`list[int]`): Rows that are read.
        samples (`slice`): Samples that are read.
        passes (`Callable`): From their mV, of shape `(batch, num_rows, num_samples)`, to bool of shape `(batch,)`.
    """

    rows: list[int]
    samples: slice
    passes: Callable[[NDArray[np.floating]], NDArray[np.bool_]]


def quick_tests(names: Sequence[str | None], num_samples: int, sampling_rate_hz: float) -> list[QuickTest]:
    """The tests for recordings with these rows, length and rate; none where nothing can be checked."""
    tests = []
    if limb := limb_rows(names):
        leads = [str(names[row]) for row in limb]
        tests.append(QuickTest(limb, quick_samples(num_samples), lambda signals: agree(signals, leads)))
    if rows := reversal_rows(names, sampling_rate_hz):
        few = reversal_samples(num_samples, sampling_rate_hz)
        tests.append(QuickTest(rows, few, lambda signals: ~suspected_reversals(signals)))
    return tests
