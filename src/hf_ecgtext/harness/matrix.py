"""The matrix: every model on every task, by every evaluation, under every protocol; done jobs are not done again."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.errors import ContaminationError, EcgTextError
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext, EvaluationOutcome
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.protocols import STRICT, EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult, write_results
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.retrieval_ranks import RetrievalRanks
from hf_ecgtext.harness.comparisons import comparison_jobs
from hf_ecgtext.harness.jobs import Job, JobStore
from hf_ecgtext.harness.models import EvaluatedModel, RandomModel, ScoringBaseline, TrainedModel
from hf_ecgtext.harness.plan import EVALUATIONS, Evaluation, MatrixPlan
from hf_ecgtext.harness.prompt_mean import prompt_mean_results
from hf_ecgtext.harness.summary import task_results
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor

logger = logging.getLogger(__name__)

_SHIFT = "distribution_shift"
_SUPERVISED = "supervised"
_VERSION = 2
"""To be raised when the same job would give other numbers."""


@dataclass(frozen=True)
class MatrixOutcome:
    """What a run gave.

    Args:
        results (`list[EvaluationResult]`): All lines, in the order of the plan.
        scores (`list[TaskScores]`): The answers behind them.
        failed (`dict[str, str]`): Why a job could not be done, by its title.
    """

    results: list[EvaluationResult] = field(default_factory=list)
    scores: list[TaskScores] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_matrix(
    plan: MatrixPlan, folder: str | Path, cache: FeatureCache, *, show_progress: bool = True
) -> MatrixOutcome:
    """Do all jobs that are not done yet, then compare the checkpoints, and write `results.jsonl` into the folder.

    A job that cannot be done, such as a probe on data without a validation split, is listed and the others go on.

    Args:
        plan ([`MatrixPlan`]): What to do.
        folder (`str` or `Path`): Jobs and results; a later call with the same plan does only what is missing.
        cache ([`FeatureCache`]): Features.
        show_progress (`bool`): Show a progress bar.

    Raises:
        ContaminationError: If a checkpoint has seen records of a test split, before anything is computed.
    """
    target = Path(folder)
    contamination = {
        (id(model), data.name): model.contamination(data, plan.allow_seen)
        for model in plan.models
        for data in plan.data
    }
    store = JobStore(target / "cells")
    outcome = MatrixOutcome()
    jobs = list(_jobs(plan, cache, contamination))
    answered: list[tuple[dict[str, Any], TaskScores | RetrievalRanks]] = []
    for job in tqdm(jobs, desc="Evaluating", unit="job", disable=None if show_progress else True):
        done = _done(job, store, outcome.failed)
        if done is not None:
            outcome.results.extend(done.results)
            outcome.scores.extend(done.scores)
            answers: tuple[TaskScores | RetrievalRanks, ...] = (*done.scores, *done.ranks)
            answered.extend((job.description, answer) for answer in answers)
    comparisons = list(comparison_jobs(plan, answered))
    for job in tqdm(
        comparisons, desc="Comparing", unit="pair", disable=None if show_progress and comparisons else True
    ):
        done = _done(job, store, outcome.failed)
        if done is not None:
            outcome.results.extend(done.results)
    write_results(target / "results.jsonl", outcome.results)
    return outcome


def evaluate_zero_shot(
    model: EcgTextModel,
    processor: EcgTextProcessor,
    data: EcgData,
    *,
    checkpoint: str,
    seed: int,
    folder: str | Path,
    ledger: TrainingLedger | None = None,
    allow_seen: bool = False,
    prompt_sets: Sequence[str] = ("plain",),
    num_random_encoders: int = 5,
    num_resamples: int = 1000,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Answer every task of some data zero-shot by the strict protocol, and say how sure the answer is.

    Records without any label of a task stay out of it, as in the published splits, unless the data says that they are
    negatives (`EcgData.unlabelled_take_part`).

    Args:
        model ([`~hf_ecgtext.methods.base.EcgTextModel`]): The trained model.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        data ([`~hf_ecgtext.data.tasks.EcgData`]): Splits and tasks; the training split calibrates the random encoders.
        checkpoint (`str`): Name or path, for the result lines.
        seed (`int`): Seed of the training, for the result lines, and of the bootstrap.
        folder (`str` or `Path`): Where features and answers are kept; a second call does nothing twice.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): What the model was trained on, as
            [`~hf_ecgtext.data.ledger.load_ledger`] finds it; without one, the result lines say that it is unknown.
        allow_seen (`bool`): Evaluate on records that were trained on too, and note it in the result lines.
        prompt_sets (`Sequence[str]`): As for [`~hf_ecgtext.evaluation.prompts.sets.load_prompt_set`].
        num_random_encoders (`int`): Randomly initialised encoders, whose pooled results stand beside the
            model's.
        num_resamples (`int`): Bootstrap resamples.
        show_progress (`bool`): Show progress bars.

    Raises:
        ContaminationError: If records of the test split, or of their patients, were trained on.
        ValueError: If a task cannot be answered; the message says which and why.
    """
    if not data.tasks:
        raise ValueError(f"{data.name} has no labels that a task asks for. Evaluate on other data.")
    if num_random_encoders and data.train is None:
        raise ValueError(
            f"{data.name} has no train split here, on which random encoders are calibrated. Set num_random_encoders to "
            "0 (--random-encoders 0)."
        )
    was_training = model.training
    trained = TrainedModel(checkpoint, model, processor, ledger, seed=seed)
    models: list[EvaluatedModel] = [trained]
    if num_random_encoders:
        models.append(RandomModel(trained, range(num_random_encoders)))
    plan = MatrixPlan(
        models=models,
        data=[data],
        protocols=[STRICT],
        prompt_sets=prompt_sets,
        seed=seed,
        num_resamples=num_resamples,
        allow_seen=allow_seen,
    )
    cache = FeatureCache(Path(folder) / "features", show_progress=show_progress)
    outcome = run_matrix(plan, folder, cache, show_progress=show_progress)
    model.train(was_training)
    if outcome.failed:
        raise ValueError("; ".join(f"{title}: {problem}" for title, problem in outcome.failed.items()))
    return outcome.results


def _done(job: Job, store: JobStore, failed: dict[str, str]) -> EvaluationOutcome | None:
    """The outcome of a job, from an earlier run where it is there."""
    outcome = store.load(job.description)
    if outcome is None:
        try:
            outcome = job.work()
        except ContaminationError:
            raise
        except (EcgTextError, ValueError) as error:  # what a user can mend; anything else is our mistake
            logger.error("%s: %s", job.title, error)
            failed[job.title] = str(error)
            return None
        store.save(job.description, outcome)
    return outcome


def _jobs(plan: MatrixPlan, cache: FeatureCache, contamination: dict[tuple[int, str], str]) -> Iterator[Job]:
    # The order of the loops is the order of the result lines: data, evaluation, task, protocol, model. An evaluation of
    # the data as a whole, such as retrieval, has one subject there, the data itself.
    tasks = plan.subjects()
    by_name = {task.name: task for task in tasks}
    for data in plan.data:
        subjects = [task for task in tasks if task.data is data]
        for name in plan.evaluations:
            evaluation = EVALUATIONS[name]
            asked: Sequence[EvaluatedTask | EcgData] = [data] if evaluation.subject == "data" else subjects
            for subject in asked:
                for protocol in plan.protocols:
                    for model in plan.models:
                        if isinstance(model, ScoringBaseline) or (evaluation.needs_text and not model.has_text):
                            continue
                        context = EvaluationContext(
                            cache=cache,
                            protocol=protocol,
                            seed=plan.seed,
                            num_resamples=plan.num_resamples,
                            prompt_sets=plan.prompt_sets,
                            fractions=plan.fractions,
                            contamination=_seen(model, plan.data if name == _SHIFT else [data], contamination),
                            other_tasks={key: task for key, task in by_name.items() if task.data is not data},
                        )
                        for part in evaluation.parts(model.has_text, subject, context):
                            yield _job(plan, evaluation, part, subject, data, model, context)
            if name == "linear_probe":
                yield from _scoring_jobs(plan, data, subjects)


def _seen(model: EvaluatedModel, data: Sequence[EcgData], contamination: dict[tuple[int, str], str]) -> str:
    """What a model has seen of the test records that an evaluation reads."""
    texts = {part.name: contamination[id(model), part.name] for part in data}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _job(
    plan: MatrixPlan,
    evaluation: Evaluation,
    part: dict[str, Any],
    subject: EvaluatedTask | EcgData,
    data: EcgData,
    model: EvaluatedModel,
    context: EvaluationContext,
) -> Job:
    kind = " ".join([evaluation.name, *(str(value) for values in part.values() for value in values)])
    title = f"{kind} of {model.name} ({model.kind}) on {subject.name}, {context.protocol.name}"

    def work() -> EvaluationOutcome:
        runs = model.runs(data, context.protocol, evaluation.name)
        outcome = evaluation.evaluate(runs, subject, context, **part)
        return _with_lines(plan, outcome, context.protocol)

    description = _description(plan, evaluation, subject, data, model, context)
    return Job(title, {**description, **part}, work)


def _scoring_jobs(plan: MatrixPlan, data: EcgData, subjects: Sequence[EvaluatedTask]) -> Iterator[Job]:
    """Baselines that answer all tasks of some data at once; they know no published protocol."""
    strict = [protocol for protocol in plan.protocols if protocol.probe_selection == "validation"]
    for model in plan.models:
        if not isinstance(model, ScoringBaseline) or not strict:
            continue
        tasks = [task.name for task in subjects]
        description = {
            **_shared_description(plan, data, model),
            "evaluation": _SUPERVISED,
            "tasks": tasks,
            "protocol": dataclasses.asdict(strict[0]),
        }

        def work(model: ScoringBaseline = model) -> EvaluationOutcome:
            answers: dict[str, TaskScores] = model.answer(data, subjects)
            return _with_lines(plan, EvaluationOutcome(scores=tuple(answers.values())), strict[0])

        yield Job(f"{model.name} on {', '.join(tasks)}", description, work)


def _with_lines(plan: MatrixPlan, outcome: EvaluationOutcome, protocol: EvaluationProtocol) -> EvaluationOutcome:
    lines = [
        result
        for scores in outcome.scores
        for result in task_results(scores, protocol, seed=plan.seed, num_resamples=plan.num_resamples)
    ]
    lines += prompt_mean_results(outcome.scores, protocol, seed=plan.seed, num_resamples=plan.num_resamples)
    return EvaluationOutcome(outcome.scores, (*outcome.results, *lines), outcome.ranks)


def _description(
    plan: MatrixPlan,
    evaluation: Evaluation,
    subject: EvaluatedTask | EcgData,
    data: EcgData,
    model: EvaluatedModel,
    context: EvaluationContext,
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "prompt_sets" in evaluation.options:
        options["prompt_sets"] = [_prompt_set_identity(name) for name in plan.prompt_sets]
    if "fractions" in evaluation.options:
        options["fractions"] = list(plan.fractions)
    if "other_data" in evaluation.options:
        options["other_data"] = {task.name: task.data.revision for task in context.other_tasks.values()}
    return {
        **_shared_description(plan, data, model),
        "evaluation": evaluation.name,
        "subject": subject.name,
        "protocol": dataclasses.asdict(context.protocol),
        "contamination": context.contamination,
        "options": options,
    }


def _shared_description(plan: MatrixPlan, data: EcgData, model: EvaluatedModel) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "entrant": model.name,
        "kind": model.kind,
        "identity": model.identity(),
        "data": data.name,
        "revision": data.revision,
        "seed": plan.seed,
        "num_resamples": plan.num_resamples,
    }


def _prompt_set_identity(name: str) -> str:
    """A prompt file may change under its name."""
    parts = [Path(part) for part in str(name).split("+")]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in parts if path.is_file()]
    return " ".join([str(name), *digests])
