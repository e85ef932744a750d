"""Retrieval: from an ECG to its report and back, among the recordings of held-out patients.

Many reports are the same text ("sinus rhythm. normal ecg."), so that the record's own row is an arbitrary one of many
right answers. Protocol `strict` recognises them: an ECG looks for its text among the distinct texts, and each distinct
text looks for any recording that has it. Reports are the same if they are after the processor's cleaning. Protocol
`published` takes every other row for wrong. Both print what chance would give, since duplicates make that large.

Intervals come from a bootstrap over those who ask, and the gallery stays whole, because a smaller or repeated one is
another task. Patients ask; but where a report asks once for all its records, it is drawn (and, in paired tests,
exchanged) as a whole, and each of its records carries its share of the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.context import EvaluationContext, EvaluationOutcome, known_patients
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, canonical_order
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import joined_contamination
from hf_ecgtext.evaluation.statistics.bootstrap import patient_indices
from hf_ecgtext.evaluation.statistics.intervals import (
    PATIENT_BOOTSTRAP,
    PATIENT_PERMUTATION,
    REPORT_BOOTSTRAP,
    REPORT_PERMUTATION,
)
from hf_ecgtext.evaluation.statistics.retrieval_ranks import (
    METRICS,
    RetrievalRanks,
    chance_values,
    commonest_values,
    rank_difference,
    rank_of_first,
    rank_of_own,
)

_SPLIT = "test"
_CONFIDENCE = 0.95


def evaluate(runs: EncoderRuns, data: EcgData, context: EvaluationContext) -> EvaluationOutcome:
    """Recall at 1, 5 and 10 and median rank, in both directions, of the test records that have a report.

    Args:
        runs ([`EncoderRuns`]): With text towers.
        data ([`~hf_ecgtext.data.tasks.EcgData`]): Its test split is asked.
        context ([`EvaluationContext`]): Cache, protocol, seed and number of resamples.

    Raises:
        TypeError: If an encoder has no text tower.
        ValueError: If there is no test split, or none of its records has a report.
        RecordError: If a report has NaN or infinite features.
    """
    both = tuple(retrieval_ranks(runs, data, context))
    lines = [
        line for ranks in both for line in rank_results(ranks, num_resamples=context.num_resamples, seed=context.seed)
    ]
    return EvaluationOutcome(results=tuple(lines), ranks=both)


def retrieval_ranks(
    runs: EncoderRuns, data: EcgData, context: EvaluationContext
) -> tuple[RetrievalRanks, RetrievalRanks]:
    """The ranks behind the lines of [`evaluate`], from ECG to report and from report to ECG."""
    if not runs.has_text:
        raise TypeError(f"'{runs.name}' ({runs.kind}) has no text tower; leave it out of retrieval.")
    order, ids = canonical_order(data, _SPLIT)
    reports = data.split(_SPLIT).column("report")
    texts = _cleaned(runs, [reports[row] for row in order.tolist()])
    rows = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
    unknown, empty = sum(text is None for text in texts), sum(text == "" for text in texts)
    if not rows.size:
        raise ValueError(
            f"No record of {data.name}'s {_SPLIT} split has a report ({unknown} have none, {empty} are empty after "
            "cleaning); retrieval needs reports. Leave it out for this data."
        )
    unique = sorted({text for text in texts if text})
    place = {text: index for index, text in enumerate(unique)}
    report_of_record = np.array([place[str(texts[row])] for row in rows.tolist()], dtype=np.int64)
    record_ids = tuple(ids[row] for row in rows.tolist())
    records_of_report = np.bincount(report_of_record)
    duplicates = context.protocol.duplicate_reports
    recognised = duplicates == "recognised"
    to_report, to_ecg = [], []
    for member in runs.members:
        ecg_embeds = np.asarray(context.cache.features(member, data, _SPLIT).arrays["ecg_embeds"][rows])
        text_embeds = np.asarray(context.cache.texts(member, unique))
        _check_finite(text_embeds, report_of_record, record_ids)
        if recognised:
            to_report.append(rank_of_own(ecg_embeds, text_embeds, report_of_record))
            to_ecg.append(rank_of_first(text_embeds, ecg_embeds, report_of_record)[report_of_record])
        else:
            to_report.append(rank_of_own(ecg_embeds, text_embeds, report_of_record, records_of_report))
            to_ecg.append(rank_of_own(text_embeds[report_of_record], ecg_embeds, np.arange(len(rows))))
    one_each = np.ones(len(rows), dtype=np.int64)
    gallery = {"ecg_to_report": len(unique) if recognised else len(rows), "report_to_ecg": len(rows)}
    chances = {
        "ecg_to_report": chance_values(gallery["ecg_to_report"], one_each),
        "report_to_ecg": chance_values(len(rows), records_of_report if recognised else one_each),
    }
    asked = {"ecg_to_report": len(rows), "report_to_ecg": len(unique) if recognised else len(rows)}
    shares = {
        "ecg_to_report": one_each.astype(np.float64),
        "report_to_ecg": 1.0 / records_of_report[report_of_record] if recognised else one_each.astype(np.float64),
    }
    patients = known_patients(data, _SPLIT, order[rows], record_ids)
    patient_of_record = patient_indices(None if patients is None else patients.tolist(), len(rows))
    asking = {
        "ecg_to_report": patient_of_record,
        "report_to_ecg": report_of_record if recognised else patient_of_record,
    }

    def in_direction(direction: str, ranks: Sequence[NDArray[np.float64]]) -> RetrievalRanks:
        return RetrievalRanks(
            direction=direction,
            duplicates=duplicates,
            record_ids=record_ids,
            patients=patients,
            asking=asking[direction],
            ranks=np.stack(ranks),
            weights=shares[direction],
            gallery=gallery[direction],
            checkpoint=runs.name,
            encoder=runs.kind,
            task=data.name,
            protocol=context.protocol.name,
            data={"name": data.name, "revision": data.revision, "split": _SPLIT},
            seed=runs.seed,
            contamination=context.contamination,
            details={
                "gallery": gallery[direction],
                "num_queries": asked[direction],
                "num_unique_reports": len(unique),
                "without_report": unknown,
                "empty_after_cleaning": empty,
            },
            chance=chances[direction],
            always_commonest=(
                commonest_values(report_of_record) if recognised and direction == "ecg_to_report" else None
            ),
        )

    return in_direction("ecg_to_report", to_report), in_direction("report_to_ecg", to_ecg)


def rank_results(ranks: RetrievalRanks, *, num_resamples: int = 1000, seed: int = 0) -> list[EvaluationResult]:
    """One line per metric; of several runs the mean with its interval, and the prediction interval of another run.

    `details` has the level of chance, and, from ECG to report, what one and the same answer to every ECG would reach.
    """
    lines = []
    for metric in METRICS:
        values = ranks.values(metric)
        interval, prediction = ranks.interval(metric, num_resamples=num_resamples, confidence=_CONFIDENCE, seed=seed)
        details = {**ranks.details, "chance": ranks.chance[metric]}
        if ranks.always_commonest is not None:
            details["always_commonest"] = ranks.always_commonest[metric]
        lines.append(
            _line(
                ranks,
                metric,
                value=interval.value,
                confidence_interval=(interval.low, interval.high),
                interval_method=PATIENT_BOOTSTRAP if _asks_by_patient(ranks) else REPORT_BOOTSTRAP,
                prediction_interval=prediction,
                details=details,
                spread=float(values.std(ddof=1)) if len(values) > 1 else None,
                run_values=tuple(values.tolist()) if len(values) > 1 else (),
                num_resamples=num_resamples,
            )
        )
    return lines


def rank_difference_results(
    ranks: RetrievalRanks, reference: RetrievalRanks, *, num_permutations: int = 1999, seed: int = 0
) -> list[EvaluationResult]:
    """One line per metric: `ranks` minus `reference`, with interval and p value. A lower median rank is a better one.

    Raises:
        ValueError: If the two have answered other questions.
    """
    lines = []
    for metric in METRICS:
        found = rank_difference(ranks, reference, metric, num_permutations=num_permutations, seed=seed)
        lines.append(
            _line(
                ranks,
                metric,
                value=found.value,
                confidence_interval=None if np.isnan(found.low) else (found.low, found.high),
                interval_method=PATIENT_PERMUTATION if _asks_by_patient(ranks) else REPORT_PERMUTATION,
                details=ranks.details,
                compared_with=reference.checkpoint,
                compared_encoder=reference.encoder,
                p_value=found.p_value,
                run_values=found.run_values if len(found.run_values) > 1 else (),
                num_resamples=num_permutations,
                contamination=joined_contamination(ranks, reference),
            )
        )
    return lines


def _asks_by_patient(ranks: RetrievalRanks) -> bool:
    return ranks.direction == "ecg_to_report" or ranks.duplicates == "wrong"


def _line(ranks: RetrievalRanks, metric: str, **fields: Any) -> EvaluationResult:
    common: dict[str, Any] = {
        "task": ranks.task,
        "protocol": ranks.protocol,
        "metric": metric,
        "num_records": len(ranks.record_ids),
        "num_positives": {},
        "per_class": {},
        "per_class_intervals": {},
        "seed": ranks.seed,
        "checkpoint": ranks.checkpoint,
        "data": ranks.data,
        "prompts": None,
        "encoder": ranks.encoder,
        "confidence": _CONFIDENCE,
        "contamination": ranks.contamination,
        "evaluation": "retrieval",
        "settings": {"direction": ranks.direction, "duplicates": ranks.duplicates},
    }
    return EvaluationResult(**{**common, **fields})


def _cleaned(runs: EncoderRuns, reports: Sequence[str | None]) -> list[str | None]:
    """The reports as the text towers read them; `""` where nothing is left of one."""
    distinct = sorted({report for report in reports if report is not None})
    first, *others = ([member.clean_report(report).strip() for report in distinct] for member in runs.members)
    for other in others:
        if other != first:
            raise ValueError(f"The encoders of '{runs.name}' clean reports in different ways; evaluate them apart.")
    texts = dict(zip(distinct, first, strict=True))
    return [None if report is None else texts[report] for report in reports]


def _check_finite(
    text_embeds: NDArray[np.float32], report_of_record: NDArray[np.int64], record_ids: Sequence[str]
) -> None:
    bad = np.flatnonzero(~np.isfinite(text_embeds).all(axis=1))
    if bad.size:
        record = record_ids[int(np.flatnonzero(report_of_record == bad[0])[0])]
        raise RecordError(record, "its report has NaN or infinite features.", "Look for NaN in the weights.")
