"""What a benchmark is to do: models, data, evaluations, protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext, EvaluationOutcome
from hf_ecgtext.evaluation.downstream import distribution_shift, linear_probe, retrieval, single_label, zero_shot
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.harness.models import EvaluatedModel


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation, and what it needs.

    Args:
        name (`str`): Module of [`hf_ecgtext.evaluation`].
        evaluate (`Callable`): From encoders, subject and context to a [`EvaluationOutcome`].
        subject (`str`): What it asks about: a `"task"`, or the `"data"` as a whole.
        needs_text (`bool`): Whether only encoders with a text tower can answer.
        options (`tuple[str, ...]`): Fields of the plan that decide its numbers.
        parts (`Callable`, *optional*): From a model's `has_text`, subject and context to keyword arguments of
            `evaluate`, one job each; one job without any by default.
    """

    name: str
    evaluate: Callable[..., EvaluationOutcome]
    subject: str = "task"
    needs_text: bool = False
    options: tuple[str, ...] = ()
    parts: Callable[..., list[dict[str, Any]]] = lambda *_: [{}]


def _shift_parts(has_text: bool, task: EvaluatedTask, context: EvaluationContext) -> list[dict[str, Any]]:
    """Each classifier apart, so that one that cannot be had does not take the other with it."""
    if not distribution_shift.shift_targets(task.name, context.other_tasks):
        return []
    usable = distribution_shift.usable_classifiers(has_text, context.protocol)
    return [{"classifiers": [classifier]} for classifier in usable]


EVALUATIONS = {
    evaluation.name: evaluation
    for evaluation in (
        Evaluation("zero_shot", zero_shot.evaluate, needs_text=True, options=("prompt_sets",)),
        Evaluation("single_label", single_label.evaluate, needs_text=True, options=("prompt_sets",)),
        Evaluation("linear_probe", linear_probe.evaluate, options=("fractions",)),
        Evaluation("retrieval", retrieval.evaluate, subject="data", needs_text=True),
        Evaluation(
            "distribution_shift", distribution_shift.evaluate, options=("prompt_sets", "other_data"), parts=_shift_parts
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class MatrixPlan:
    """What is to be evaluated.

    Args:
        models (`Sequence[EvaluatedModel]`): Checkpoints and baselines.
        data (`Sequence[EcgData]`): Datasets, with other names each.
        tasks (`Sequence[str]`, *optional*): Names of tasks; the data's own, without its further ones, by default.
        evaluations (`Sequence[str]`): Names of [`EVALUATIONS`].
        protocols (`Sequence[EvaluationProtocol]`): Switches.
        prompt_sets (`Sequence[str]`): Names, files or ensembles.
        fractions (`Sequence[float]`): Of the training split, for probes.
        seed (`int`): Of draws and resamples.
        num_resamples (`int`): Bootstrap resamples.
        reference (`str`, *optional*): Name of the checkpoint that differences are taken to; the first by default.
        allow_seen (`bool`): Evaluate on records that a checkpoint was trained on, and say so in its lines.

    Raises:
        ValueError: If a name is unknown, or nothing is left to do.
    """

    models: Sequence[EvaluatedModel]
    data: Sequence[EcgData]
    tasks: Sequence[str] | None = None
    evaluations: Sequence[str] = ("zero_shot",)
    protocols: Sequence[EvaluationProtocol]
    prompt_sets: Sequence[str] = ("plain",)
    fractions: Sequence[float] = (0.01, 0.1, 1.0)
    seed: int = 0
    num_resamples: int = 1000
    reference: str | None = None
    allow_seen: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.evaluations if name not in EVALUATIONS]:
            raise ValueError(f"There is no evaluation {', '.join(unknown)}; choose among {', '.join(EVALUATIONS)}.")
        known = [task.name for data in self.data for task in (*data.tasks, *data.further_tasks)]
        if unknown := [name for name in self.tasks or () if name not in known]:
            raise ValueError(f"The data have no task {', '.join(unknown)}; they have: {', '.join(known) or 'none'}.")
        for title, names in (("data", [data.name for data in self.data]), ("protocol", self._protocol_names)):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"The {title} {', '.join(repeated)} is given twice.")
        trained = [model.name for model in self.models if model.kind == "trained"]
        if self.reference is not None and self.reference not in trained:
            raise ValueError(f"The reference '{self.reference}' is not among the models: {', '.join(trained)}.")

    @property
    def _protocol_names(self) -> list[str]:
        return [protocol.name for protocol in self.protocols]

    def subjects(self) -> list[EvaluatedTask]:
        """The tasks that are asked, each with its data."""
        return [
            EvaluatedTask(data, task)
            for data in self.data
            for task in (data.tasks if self.tasks is None else (*data.tasks, *data.further_tasks))
            if self.tasks is None or task.name in self.tasks
        ]
