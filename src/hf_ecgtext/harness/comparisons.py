"""Which answers are set against which: every other checkpoint against the reference, on the same question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from hf_ecgtext.evaluation.context import EvaluationOutcome
from hf_ecgtext.evaluation.downstream.retrieval import rank_difference_results
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.retrieval_ranks import RetrievalRanks
from hf_ecgtext.harness.jobs import Job
from hf_ecgtext.harness.plan import MatrixPlan
from hf_ecgtext.harness.summary import difference_results, num_permutations

_VERSION = 2
"""To be raised when the same comparison would give other numbers."""

_Answer = TaskScores | RetrievalRanks
_Answered = tuple[dict[str, Any], _Answer]


def comparison_jobs(plan: MatrixPlan, answered: Sequence[_Answered]) -> Iterator[Job]:
    """One job per checkpoint and question that the reference has answered too.

    Numbers that were chosen on the test split are not compared.

    Args:
        plan ([`MatrixPlan`]): Names the reference; the first checkpoint otherwise.
        answered: Descriptions of jobs, with the answers that they gave.
    """
    trained = [model.name for model in plan.models if model.kind == "trained"]
    reference = plan.reference or (trained[0] if trained else None)
    protocols = {protocol.name: protocol for protocol in plan.protocols}
    questions: dict[str, dict[str, _Answered]] = {}
    for description, answer in answered:
        if answer.encoder == "trained" and protocols[answer.protocol].probe_selection == "validation":
            questions.setdefault(_question(answer), {})[answer.checkpoint] = (description, answer)
    for question, answers in questions.items():
        if reference not in answers:
            continue
        reference_description, reference_answer = answers[reference]
        for checkpoint, (own_description, answer) in answers.items():
            if checkpoint != reference:
                yield Job(
                    title=f"{checkpoint} against {reference}: {question}",
                    description={
                        "difference": [own_description, reference_description],
                        "question": question,
                        "version": _VERSION,
                        "num_permutations": num_permutations(plan.num_resamples),
                    },
                    work=partial(_compare, plan, answer, reference_answer, protocols[answer.protocol]),
                )


def _question(answer: _Answer) -> str:
    if isinstance(answer, RetrievalRanks):
        parts: tuple[Any, ...] = ("retrieval", answer.task, answer.protocol, answer.direction, answer.duplicates)
    else:
        parts = (answer.evaluation, answer.task, answer.protocol, answer.prompts, answer.settings, answer.data)
    return json.dumps(parts, sort_keys=True)


def _compare(plan: MatrixPlan, answer: _Answer, reference: _Answer, protocol: EvaluationProtocol) -> EvaluationOutcome:
    if isinstance(answer, RetrievalRanks) and isinstance(reference, RetrievalRanks):
        lines = rank_difference_results(answer, reference, num_resamples=plan.num_resamples, seed=plan.seed)
    elif isinstance(answer, TaskScores) and isinstance(reference, TaskScores):
        lines = difference_results(answer, reference, protocol, seed=plan.seed, num_resamples=plan.num_resamples)
    else:
        raise TypeError(f"'{answer.checkpoint}' and '{reference.checkpoint}' have answered in different ways.")
    return EvaluationOutcome(results=tuple(lines))
