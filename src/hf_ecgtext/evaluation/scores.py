"""What an evaluation gives: the scores of a model or baseline for every record and class of a task."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.npz import load_fields, save_fields

Encoder = Literal["trained", "random", "interval_features", "supervised"]
"""Kinds of encoder: a trained checkpoint, or a baseline."""

NOT_CONTAMINATED = "none"
NOT_CHECKED = "not checked"


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskScores:
    """What one row of encoders answered on one task: all that metrics, comparisons and pages need.

    Args:
        evaluation (`str`): Such as `"linear_probe"`.
        task, protocol (`str`): Names.
        checkpoint (`str`): Name of the encoder.
        encoder (`str`): Its kind, as in [`EvaluationResult`].
        class_names (`tuple[str, ...]`): Columns, sorted.
        record_ids (`tuple[str, ...]`): Rows, ascending.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patients (`np.ndarray` of shape `(num_records,)`, *optional*): Whose record each row is.
        scores (`np.ndarray` of shape `(num_runs, num_records, num_classes)`): float32; runs are repeated draws or
            seeds, of which results are means.
        data (`dict[str, str]`): `name`, `revision` and `split`.
        validation_targets, validation_scores (`np.ndarray`, *optional*): The same of the validation split, of shapes
            `(num_validation, num_classes)` and `(num_runs, num_validation, num_classes)`: thresholds and temperatures
            come from there.
        score_kind (`str`): `"logit"` (of a probability), or `"similarity"` (a cosine; ranks only).
        prompts (`str`, *optional*): Name of the prompt set.
        settings, details, seed, contamination: As in [`EvaluationResult`].
    """

    evaluation: str
    task: str
    protocol: str
    checkpoint: str
    encoder: Encoder
    class_names: tuple[str, ...]
    record_ids: tuple[str, ...]
    targets: NDArray[np.int8]
    patients: NDArray[np.object_] | None
    scores: NDArray[np.float32]
    data: dict[str, str]
    validation_targets: NDArray[np.int8] | None = None
    validation_scores: NDArray[np.float32] | None = None
    score_kind: str = "logit"
    prompts: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seed: int | tuple[int, ...] = 0
    contamination: str = NOT_CHECKED

    def __post_init__(self) -> None:
        expected = (len(self.record_ids), len(self.class_names))
        if self.targets.shape != expected or self.scores.shape[1:] != expected or self.scores.ndim != 3:
            raise ValueError(
                f"Scores of '{self.task}': {expected[0]} records and {expected[1]} classes, but targets of shape "
                f"{self.targets.shape} and scores of shape {self.scores.shape}."
            )

    @property
    def num_units(self) -> int:
        """Into how many trainings or initialisations the runs fall; with one of them, every draw is a unit."""
        seeds = len(self.seed) if isinstance(self.seed, tuple) else 1
        return seeds if seeds > 1 else len(self.scores)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores to an `.npz` file, whole or not at all."""
        save_fields(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskScores:
        """Read what `save` wrote."""
        return cls(**load_fields(path))


class _Answers(Protocol):
    @property
    def checkpoint(self) -> str: ...
    @property
    def encoder(self) -> Encoder: ...
    @property
    def contamination(self) -> str: ...


def joined_contamination(answers: _Answers, reference: _Answers) -> str:
    """What a comparison says of the records that either of the two encoders has seen; a baseline has seen none."""
    if reference.encoder != "trained" or answers.contamination == reference.contamination:
        return answers.contamination
    return f"{answers.contamination}; '{reference.checkpoint}': {reference.contamination}"
