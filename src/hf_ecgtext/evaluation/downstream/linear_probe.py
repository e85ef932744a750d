"""Linear probes on cached features, from few labels and from all.

The strict probe is a converged logistic regression per class, whose L2 penalty is chosen by macro AUROC on the
whole validation split: one penalty per draw, the strongest of equally good ones. Draws are stratified by label and keep
patients together; they depend on the seed and the task, not on the encoder, so that encoders are compared on the same
records. The published probes are in `published_probe`.

A probe from 1 % of the labels that chooses on the whole validation split has seen far more labels than 1 %. With
`probe_selection="draw"` it sees no other: the strength is chosen by cross-validation within the draw, and there are no
validation scores, so that nothing else (thresholds, calibration) is taken from labels beyond the budget. Either way,
`label_budget` in the details counts the labelled records that were used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.sources.merl_splits import published_list, read_train_order
from hf_ecgtext.data.subsets import published_subset, stratified_folds, stratified_subsets
from hf_ecgtext.data.tasks import SPLITS
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext, EvaluationOutcome, scores_of_test
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.logistic_regression import fit_probe, fit_probe_within
from hf_ecgtext.evaluation.statistics.published_probe import (
    RECIPES,
    SELECTIONS,
    UPPER_BOUND,
    train_published_probe,
)

logger = logging.getLogger(__name__)

_COLUMNS_BY_POSITION = {"ptbxl_sub": {"ISC": "AVB", "AVB": "RAO/RAE", "RAO/RAE": "ISC"}}
"""Task -> class -> the class whose column of the published training table stands where this one's stands in the
published validation and test tables (defect 19)."""

_HELD_OUT = ("validation", "test")
_CHOSEN_ON = dict(zip(SELECTIONS, ("test", "validation", None), strict=True))

_SHOWN = 10
"""Absent records that are named; all are counted."""

_PENALTY_UPPER_BOUND = "The strength was chosen by AUROC on the test split itself: an upper bound, not an estimate."


@dataclass(frozen=True, eq=False)
class _Split:
    """Features and targets of one split, for one encoder."""

    features: NDArray[np.float32]
    targets: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class _Run:
    """What one probe answered: one member of the encoders, trained on one draw."""

    test: NDArray[np.float32]
    validation: NDArray[np.float32] | None
    choice: float


def evaluate(runs: EncoderRuns, task: EvaluatedTask, context: EvaluationContext) -> EvaluationOutcome:
    """Probes at every fraction of the training split that the context asks for.

    Runs of the scores are members times draws, draws fastest.

    Args:
        runs ([`EncoderRuns`]): The encoders of one model or baseline.
        task ([`EvaluatedTask`]): On data with training, validation and test split.
        context ([`EvaluationContext`]): Fractions, protocol, seed, features.

    Returns:
        [`EvaluationOutcome`]: Of the strict probe, one [`TaskScores`] per fraction, with settings `{"fraction",
        "solver"}`. Of a published one, settings have a `"selection"` too: one for the epoch that validation chooses;
        and where the protocol selects on the test split, three: best test epoch, best validation epoch, last epoch.

    Raises:
        ValueError: If a split is missing, a fraction leaves no record or is not above 0 and at most 1, or no class has
            both a positive and a negative record to choose by.
    """
    protocol = context.protocol
    splits = [split for split in SPLITS if split != "validation" or protocol.probe_selection != "draw"]
    if "validation" in splits and task.data.validation is None:
        raise ValueError(
            f"{task.data.name} has no validation split here, on which a probe of '{task.name}' chooses its penalty or "
            "epoch. Open data that has one, evaluate zero-shot, or use the switch probe_selection='draw'."
        )
    features = {split: context.probe_features(runs, task, split) for split in splits}
    members = [
        {split: _Split(np.ascontiguousarray(features[split][member]), task.records(split).targets) for split in splits}
        for member in range(len(runs.members))
    ]
    targets = training_targets(task, protocol)
    scores: list[TaskScores] = []
    for fraction in context.fractions:
        draws = training_draws(task, float(fraction), protocol, context.seed)
        if protocol.probe_solver == "logistic_regression":
            probed = _strict_runs(members, targets, draws, task, context)
        else:
            probed = _published_runs(members, targets, draws, task, context)
        for settings, details, found in probed:
            settings = {"fraction": float(fraction), "solver": protocol.probe_solver, **settings}
            details = {**_about_draws(targets, draws, task, protocol, float(fraction)), **details}
            test = np.stack([run.test for run in found])
            known = [run.validation for run in found if run.validation is not None]
            validation = np.stack(known) if known else None
            scores.append(
                scores_of_test(
                    runs, task, context, "linear_probe", test, validation, settings=settings, details=details
                )
            )
    return EvaluationOutcome(scores=tuple(scores))


def training_draws(
    task: EvaluatedTask, fraction: float, protocol: EvaluationProtocol, seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Which rows of `task.records("train")` each probe learns from.

    Of the whole split there is one draw, all of it. The published draw is made from the published table, in its order,
    and of it those records are learnt from that are here, so that a record's absence changes nothing else. Data without
    a published table are drawn from in the order of record ids.

    Args:
        task ([`EvaluatedTask`]): What is drawn from.
        fraction (`float`): Above 0, at most 1.
        protocol ([`EvaluationProtocol`]): `subsets` and `num_draws`.
        seed (`int`): Of stratified draws.

    Raises:
        ValueError: If the fraction is out of range or leaves no record, or a published draw is asked from records
            that the published table does not list.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"A fraction of the training split must be above 0 and at most 1, not {fraction:g}.")
    num_records = len(task.records("train"))
    if fraction == 1:
        return (np.arange(num_records),)
    if _has_published_draw(task, fraction, protocol):
        return (_published_draw(task, fraction).rows,)
    if int(num_records * fraction) == 0:
        raise ValueError(
            f"{fraction:g} of the {num_records} training records of '{task.name}' is none. Ask for a fraction of at "
            f"least {1 / num_records:.2g}."
        )
    if protocol.subsets == "published":
        return (published_subset(num_records, fraction),)
    return _stratified_draws(task, fraction, protocol.num_draws, seed)


@lru_cache(maxsize=32)  # every encoder asks for the same draws
def _stratified_draws(task: EvaluatedTask, fraction: float, draws: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    records = task.records("train")
    patients = list(records.record_ids) if records.patients is None else [str(patient) for patient in records.patients]
    subsets = stratified_subsets(records.targets, patients, task.labels, fraction, draws=draws, seed=seed)
    return tuple(subset.indices for subset in subsets)


def _has_published_draw(task: EvaluatedTask, fraction: float, protocol: EvaluationProtocol) -> bool:
    return protocol.subsets == "published" and fraction < 1 and published_list(task.data.name, task.name) is not None


class _PublishedDraw(NamedTuple):
    """Rows of `task.records("train")` in the order drawn, and the records of the draw that are not among them."""

    rows: NDArray[np.int64]
    absent: tuple[str, ...]


@lru_cache(maxsize=32)  # of all encoders, the first is told what is absent
def _published_draw(task: EvaluatedTask, fraction: float) -> _PublishedDraw:
    name = published_list(task.data.name, task.name)
    assert name is not None
    published = read_train_order(name)
    row_of = {record_id: row for row, record_id in enumerate(task.records("train").record_ids)}
    if unlisted := row_of.keys() - set(published):
        raise ValueError(
            f"Training record '{min(unlisted)}' of {task.data.name} is not in the published training table of "
            f"'{task.name}', so that there is no published draw. Open the data with split_of_others='leave_out' or of "
            "the version that the table is of, or use the switch subsets='stratified'."
        )
    drawn = [published[place] for place in published_subset(len(published), fraction)]
    absent = tuple(record_id for record_id in drawn if record_id not in row_of)
    if len(absent) == len(drawn):
        raise ValueError(
            f"None of the {len(drawn)} records that {fraction:g} of the published training table of '{task.name}' "
            "draws is here. Ask for a larger fraction, or use the switch subsets='stratified'."
        )
    if absent:
        logger.warning(
            "%s: %d of the %d records of the published draw of %g are not here (%s); the probe learns from the others.",
            task.name,
            len(absent),
            len(drawn),
            fraction,
            ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else ""),
        )
    return _PublishedDraw(np.array([row_of[name] for name in drawn if name in row_of], dtype=np.int64), absent)


def training_targets(task: EvaluatedTask, protocol: EvaluationProtocol) -> NDArray[np.int8]:
    """What each column of a probe learns, of shape `(num_records, num_classes)`.

    By position, three subclasses of PTB-XL learn one another's targets, as in the published probes.
    """
    targets = task.records("train").targets
    exchanged = _exchanged_columns(task, protocol)
    return targets[:, [task.labels.index(exchanged.get(label, label)) for label in task.labels]]


def _exchanged_columns(task: EvaluatedTask, protocol: EvaluationProtocol) -> dict[str, str]:
    return _COLUMNS_BY_POSITION.get(task.name, {}) if protocol.class_columns == "by_position" else {}


_Probed = tuple[dict[str, Any], dict[str, Any], list[_Run]]
"""What becomes one `TaskScores`: its settings, its details, and the runs of all members and draws."""


def _strict_runs(
    members: Sequence[dict[str, _Split]],
    targets: NDArray[np.int8],
    draws: Sequence[NDArray[np.int64]],
    task: EvaluatedTask,
    context: EvaluationContext,
) -> Iterator[_Probed]:
    protocol = context.protocol
    standardise = protocol.feature_scaling == "standardised"
    within = protocol.probe_selection == "draw"
    # Folds depend on the draw, not on the encoder.
    folds = [_folds(task, targets, rows, (context.seed, draw)) for draw, rows in enumerate(draws)] if within else []
    found, ends = [], []
    for splits in members:
        for draw, rows in enumerate(draws):
            x, y = splits["train"].features[rows], targets[rows]
            if within:
                probe = fit_probe_within(x, y, folds[draw], labels=task.labels, standardise=standardise)
            else:
                chooser = splits[protocol.probe_selection]
                probe = fit_probe(x, y, chooser.features, chooser.targets, labels=task.labels, standardise=standardise)
            validation = None if within else probe.scores(splits["validation"].features)
            found.append(_Run(probe.scores(splits["test"].features), validation, probe.l2_penalty))
            ends.append(probe.grid_end)
    details: dict[str, Any] = {
        "strengths": [run.choice for run in found],
        "at_grid_end": {end: ends.count(end) for end in ("weakest", "strongest")},
        "label_budget": _label_budget(draws, task, None if within else protocol.probe_selection),
    }
    if protocol.probe_selection == "test":
        details["upper_bound"] = _PENALTY_UPPER_BOUND
    if within:
        guided = np.array([_guides(targets[rows], of_rows) for rows, of_rows in zip(draws, folds, strict=True)])
        details["num_folds"] = [len(np.unique(of_rows)) for of_rows in folds]
        details["labels_that_guide_no_choice"] = _counts(task.labels, ~guided)
        details["draws_without_choice"] = int((~guided.any(axis=1)).sum())  # these have the strongest penalty
    yield {}, details, found


def _folds(
    task: EvaluatedTask, targets: NDArray[np.int8], rows: NDArray[np.int64], seed: tuple[int, ...]
) -> NDArray[np.int64]:
    records = task.records("train")
    patients = records.record_ids if records.patients is None else records.patients
    of_draw = [str(patients[row]) for row in rows.tolist()]
    if len(set(of_draw)) == 1:  # nobody to hold out
        return np.zeros(len(rows), dtype=np.int64)
    return stratified_folds(targets[rows], of_draw, seed=seed)


def _guides(targets: NDArray[np.int8], folds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which classes have a fold with a positive and a negative record, and both outside of it."""
    positives = np.array([targets[folds == fold].sum(axis=0) for fold in np.unique(folds)])
    negatives = np.bincount(folds)[:, None] - positives
    usable = (positives > 0) & (negatives > 0)
    usable &= (positives < positives.sum(axis=0)) & (negatives < negatives.sum(axis=0))
    return np.asarray(usable.any(axis=0))


def _published_runs(
    members: Sequence[dict[str, _Split]],
    targets: NDArray[np.int8],
    draws: Sequence[NDArray[np.int64]],
    task: EvaluatedTask,
    context: EvaluationContext,
) -> Iterator[_Probed]:
    recipe = RECIPES[context.protocol.probe_solver]
    trained = []
    for member, splits in enumerate(members):
        for draw, rows in enumerate(draws):
            x = {"train": splits["train"].features[rows], **{name: splits[name].features for name in _HELD_OUT}}
            if context.protocol.feature_scaling == "standardised":
                x = _standardised(x)
            validation, test = ((x[name], splits[name].targets) for name in _HELD_OUT)
            seed = (context.seed, member, draw)
            trained.append(train_published_probe(recipe, x["train"], targets[rows], validation, test, seed=seed))
    for selection in trained[0]:
        if context.protocol.probe_selection == "validation" and selection != "best validation epoch":
            continue
        epochs = [run[selection] for run in trained]
        details: dict[str, Any] = {
            "epochs": [epoch.epoch for epoch in epochs],
            "num_epochs": recipe.num_epochs,
            "label_budget": _label_budget(draws, task, _CHOSEN_ON[selection]),
        }
        if selection == "best test epoch":
            details["upper_bound"] = UPPER_BOUND
        found = [_Run(epoch.test_scores, epoch.validation_scores, epoch.epoch) for epoch in epochs]
        yield {"selection": selection}, details, found


def _standardised(features: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Features of all splits, by mean and standard deviation of the training records."""
    train = features["train"]
    is_constant = train.max(axis=0) == train.min(axis=0)
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale[is_constant] = 1.0
    return {split: ((values - mean) / scale).astype(np.float32) for split, values in features.items()}


def _about_draws(
    targets: NDArray[np.int8],
    draws: Sequence[NDArray[np.int64]],
    task: EvaluatedTask,
    protocol: EvaluationProtocol,
    fraction: float,
) -> dict[str, Any]:
    """Sizes, and in how many draws a label had no positive record, or no other."""
    positives = np.array([targets[rows].sum(axis=0) for rows in draws])  # (num_draws, num_classes)
    sizes = np.array([len(rows) for rows in draws])[:, None]
    about: dict[str, Any] = {
        "draws": len(draws),
        "num_train": [len(rows) for rows in draws],
        "absent_labels": _counts(task.labels, positives == 0),
    }
    if always := _counts(task.labels, positives == sizes):
        about["labels_without_negatives"] = always
    if exchanged := _exchanged_columns(task, protocol):
        about["learnt_from_column_of"] = exchanged
    if _has_published_draw(task, fraction, protocol) and (absent := _published_draw(task, fraction).absent):
        about["absent_from_draw"] = {"records": len(absent), "first": list(absent[:_SHOWN])}
    return about


def _label_budget(draws: Sequence[NDArray[np.int64]], task: EvaluatedTask, chosen_on: str | None) -> dict[str, Any]:
    """Labelled records behind the scores of each draw: those learnt from, and those of a split that was chosen on."""
    choice = {} if chosen_on is None else {chosen_on: len(task.records(chosen_on))}
    drawn = [len(rows) for rows in draws]
    return {"drawn": drawn, **choice, "total": [number + sum(choice.values()) for number in drawn]}


def _counts(labels: Sequence[str], found: NDArray[np.bool_]) -> dict[str, int]:
    return {label: int(count) for label, count in zip(labels, found.sum(axis=0), strict=True) if count}
