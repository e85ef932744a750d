"""Which answers are set against which: each checkpoint against a reference checkpoint, and against its baselines."""

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

_VERSION = 3
"""To be raised when the same comparison would give other numbers."""

_Answer = TaskScores | RetrievalRanks
_Answered = tuple[dict[str, Any], _Answer]


def comparison_jobs(plan: MatrixPlan, answered: Sequence[_Answered]) -> Iterator[Job]:
    """One job per checkpoint, question and reference that has answered the question too.

    References are the checkpoint that the plan names, the checkpoint's random twin (the same architecture with random
    weights), measured intervals, and a network trained from scratch on all labels, which is compared with probes that
    had all labels. Numbers that were chosen on the test split are not compared.

    Args:
        plan ([`MatrixPlan`]): Names the reference; the first checkpoint otherwise.
        answered: Descriptions of jobs, with the answers that they gave.
    """
    trained = [model.name for model in plan.models if model.kind == "trained"]
    reference = plan.reference or (trained[0] if trained else None)
    protocols = {protocol.name: protocol for protocol in plan.protocols}
    questions: dict[str, dict[tuple[str, str], _Answered]] = {}
    for description, answer in answered:
        if protocols[answer.protocol].probe_selection != "test":
            questions.setdefault(_question(answer), {})[answer.encoder, answer.checkpoint] = (description, answer)
    for question, answers in questions.items():
        for (encoder, checkpoint), (own_description, answer) in answers.items():
            if encoder != "trained":
                continue
            for (other_encoder, other), (other_description, other_answer) in answers.items():
                is_reference = {
                    "trained": other == reference != checkpoint,
                    "random": other == checkpoint,
                }.get(other_encoder, True)
                if is_reference:
                    yield Job(
                        title=f"{checkpoint} against {other} ({other_encoder}): {question}",
                        description={
                            "difference": [own_description, other_description],
                            "question": question,
                            "version": _VERSION,
                            "num_permutations": num_permutations(plan.num_resamples),
                        },
                        work=partial(_compare, plan, answer, other_answer, protocols[answer.protocol]),
                    )


def _question(answer: _Answer) -> str:
    """What was asked; a network that learnt from all labels has answered what a probe of all labels answers."""
    if isinstance(answer, RetrievalRanks):
        parts: tuple[Any, ...] = ("retrieval", answer.task, answer.protocol, answer.direction, answer.duplicates)
    elif answer.evaluation == "supervised" or _is_probe_of_all(answer):
        parts = ("all labels", answer.task, answer.protocol, answer.data)
    else:
        parts = (answer.evaluation, answer.task, answer.protocol, answer.prompts, answer.settings, answer.data)
    return json.dumps(parts, sort_keys=True)


def _is_probe_of_all(answer: TaskScores) -> bool:
    settings = answer.settings
    return answer.evaluation == "linear_probe" and settings.get("fraction") == 1 and "selection" not in settings


def _compare(plan: MatrixPlan, answer: _Answer, reference: _Answer, protocol: EvaluationProtocol) -> EvaluationOutcome:
    if isinstance(answer, RetrievalRanks) and isinstance(reference, RetrievalRanks):
        permutations = num_permutations(plan.num_resamples)
        lines = rank_difference_results(answer, reference, num_permutations=permutations, seed=plan.seed)
    elif isinstance(answer, TaskScores) and isinstance(reference, TaskScores):
        lines = difference_results(answer, reference, protocol, seed=plan.seed, num_resamples=plan.num_resamples)
    else:
        raise TypeError(f"'{answer.checkpoint}' and '{reference.checkpoint}' have answered in different ways.")
    return EvaluationOutcome(results=tuple(lines))
