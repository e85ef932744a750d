"""The matrix: every entrant on every task, by every evaluation, under every protocol; done cells are not done again."""

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
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.frame import CellOutcome, EvaluatedTask, EvaluationContext
from hf_ecgtext.evaluation.protocols import STRICT, EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult, write_results
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.retrieval_ranks import RetrievalRanks
from hf_ecgtext.harness.cells import Cell, CellStore
from hf_ecgtext.harness.comparisons import comparison_cells
from hf_ecgtext.harness.entrants import Entrant, RandomEntrant, ScoringEntrant, TrainedEntrant
from hf_ecgtext.harness.plan import EVALUATIONS, Evaluation, MatrixPlan
from hf_ecgtext.harness.summary import task_results
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor

logger = logging.getLogger(__name__)

_SHIFT = "distribution_shift"
_SUPERVISED = "supervised"
_VERSION = 1
"""To be raised when the same cell would give other numbers."""


@dataclass(frozen=True)
class MatrixOutcome:
    """What a run gave.

    Args:
        results (`list[EvaluationResult]`): All lines, in the order of the plan.
        scores (`list[TaskScores]`): The answers behind them.
        failed (`dict[str, str]`): Why a cell could not be done, by its title.
    """

    results: list[EvaluationResult] = field(default_factory=list)
    scores: list[TaskScores] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_matrix(
    plan: MatrixPlan, folder: str | Path, cache: FeatureCache, *, show_progress: bool = True
) -> MatrixOutcome:
    """Do all cells that are not done yet, then compare the checkpoints, and write `results.jsonl` into the folder.

    A cell that cannot be done, such as a probe on data without a validation split, is listed and the others go on.

    Args:
        plan ([`MatrixPlan`]): What to do.
        folder (`str` or `Path`): Cells and results; a later call with the same plan does only what is missing.
        cache ([`FeatureCache`]): Features.
        show_progress (`bool`): Show a progress bar.

    Raises:
        ContaminationError: If a checkpoint has seen records of a test split, before anything is computed.
    """
    target = Path(folder)
    contamination = {
        (id(entrant), data.name): entrant.contamination(data, plan.allow_seen)
        for entrant in plan.entrants
        for data in plan.data
    }
    store = CellStore(target / "cells")
    outcome = MatrixOutcome()
    cells = list(_cells(plan, cache, contamination))
    answered: list[tuple[dict[str, Any], TaskScores | RetrievalRanks]] = []
    for cell in tqdm(cells, desc="Evaluating", unit="cell", disable=None if show_progress else True):
        done = _done(cell, store, outcome.failed)
        if done is not None:
            outcome.results.extend(done.results)
            outcome.scores.extend(done.scores)
            answers: tuple[TaskScores | RetrievalRanks, ...] = (*done.scores, *done.ranks)
            answered.extend((cell.description, answer) for answer in answers)
    comparisons = list(comparison_cells(plan, answered))
    for cell in tqdm(
        comparisons, desc="Comparing", unit="pair", disable=None if show_progress and comparisons else True
    ):
        done = _done(cell, store, outcome.failed)
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

    Records without any label of a task stay out of it, as in the published splits.

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
        num_random_encoders (`int`): Random twins, whose pooled results stand beside the model's.
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
    trained = TrainedEntrant(checkpoint, model, processor, ledger, seed=seed)
    entrants: list[Entrant] = [trained]
    if num_random_encoders:
        entrants.append(RandomEntrant(trained, range(num_random_encoders)))
    plan = MatrixPlan(
        entrants=entrants,
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


def _done(cell: Cell, store: CellStore, failed: dict[str, str]) -> CellOutcome | None:
    """The outcome of a cell, from an earlier run where it is there."""
    outcome = store.load(cell.description)
    if outcome is None:
        try:
            outcome = cell.work()
        except ContaminationError:
            raise
        except (EcgTextError, ValueError) as error:  # what a user can mend; anything else is our mistake
            logger.error("%s: %s", cell.title, error)
            failed[cell.title] = str(error)
            return None
        store.save(cell.description, outcome)
    return outcome


def _cells(plan: MatrixPlan, cache: FeatureCache, contamination: dict[tuple[int, str], str]) -> Iterator[Cell]:
    tasks = plan.subjects()
    by_name = {task.name: task for task in tasks}
    for data in plan.data:
        subjects = [task for task in tasks if task.data is data]
        for name in plan.evaluations:
            evaluation = EVALUATIONS[name]
            asked: Sequence[Any] = [data] if evaluation.subject == "data" else subjects
            for subject in asked:
                for protocol in plan.protocols:
                    for entrant in plan.entrants:
                        if isinstance(entrant, ScoringEntrant) or (evaluation.needs_text and not entrant.has_text):
                            continue
                        context = EvaluationContext(
                            cache=cache,
                            protocol=protocol,
                            seed=plan.seed,
                            num_resamples=plan.num_resamples,
                            prompt_sets=plan.prompt_sets,
                            fractions=plan.fractions,
                            contamination=_seen(entrant, plan.data if name == _SHIFT else [data], contamination),
                            other_tasks={key: task for key, task in by_name.items() if task.data is not data},
                        )
                        for part in evaluation.parts(entrant.has_text, subject, context):
                            yield _cell(plan, evaluation, part, subject, data, entrant, context)
            if name == "linear_probe":
                yield from _scoring_cells(plan, data, subjects)


def _seen(entrant: Entrant, data: Sequence[EcgData], contamination: dict[tuple[int, str], str]) -> str:
    """What an entrant has seen of the test records that an evaluation reads."""
    texts = {part.name: contamination[id(entrant), part.name] for part in data}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _cell(
    plan: MatrixPlan,
    evaluation: Evaluation,
    part: dict[str, Any],
    subject: Any,
    data: EcgData,
    entrant: Entrant,
    context: EvaluationContext,
) -> Cell:
    kind = " ".join([evaluation.name, *(str(value) for values in part.values() for value in values)])
    title = f"{kind} of {entrant.name} ({entrant.kind}) on {subject.name}, {context.protocol.name}"

    def work() -> CellOutcome:
        runs = entrant.runs(data, context.protocol, evaluation.name)
        outcome = evaluation.evaluate(runs, subject, context, **part)
        return _with_lines(plan, outcome, context.protocol)

    description = _description(plan, evaluation, subject, data, entrant, context)
    return Cell(title, {**description, **part}, work)


def _scoring_cells(plan: MatrixPlan, data: EcgData, subjects: Sequence[EvaluatedTask]) -> Iterator[Cell]:
    """Baselines that answer all tasks of some data at once; they know no published protocol."""
    strict = [protocol for protocol in plan.protocols if protocol.probe_selection == "validation"]
    for entrant in plan.entrants:
        if not isinstance(entrant, ScoringEntrant) or not strict:
            continue
        tasks = [task.name for task in subjects]
        description = {
            **_shared_description(plan, data, entrant),
            "evaluation": _SUPERVISED,
            "tasks": tasks,
            "protocol": dataclasses.asdict(strict[0]),
        }

        def work(entrant: ScoringEntrant = entrant) -> CellOutcome:
            answers: dict[str, TaskScores] = entrant.answer(data, subjects)
            return _with_lines(plan, CellOutcome(scores=tuple(answers.values())), strict[0])

        yield Cell(f"{entrant.name} on {', '.join(tasks)}", description, work)


def _with_lines(plan: MatrixPlan, outcome: CellOutcome, protocol: EvaluationProtocol) -> CellOutcome:
    lines = [
        result
        for scores in outcome.scores
        for result in task_results(scores, protocol, seed=plan.seed, num_resamples=plan.num_resamples)
    ]
    return CellOutcome(outcome.scores, (*outcome.results, *lines), outcome.ranks)


def _description(
    plan: MatrixPlan, evaluation: Evaluation, subject: Any, data: EcgData, entrant: Entrant, context: EvaluationContext
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "prompt_sets" in evaluation.options:
        options["prompt_sets"] = [_prompt_set_identity(name) for name in plan.prompt_sets]
    if "fractions" in evaluation.options:
        options["fractions"] = list(plan.fractions)
    if "other_data" in evaluation.options:
        options["other_data"] = {task.name: task.data.revision for task in context.other_tasks.values()}
    return {
        **_shared_description(plan, data, entrant),
        "evaluation": evaluation.name,
        "subject": subject.name,
        "protocol": dataclasses.asdict(context.protocol),
        "contamination": context.contamination,
        "options": options,
    }


def _shared_description(plan: MatrixPlan, data: EcgData, entrant: Entrant) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "entrant": entrant.name,
        "kind": entrant.kind,
        "identity": entrant.identity(),
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
