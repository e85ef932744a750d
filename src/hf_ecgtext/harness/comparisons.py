"""Which answers are set against which: every other checkpoint against the reference, on the same question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from hf_ecgtext.evaluation.frame import CellOutcome, TaskScores
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.harness.cells import Cell
from hf_ecgtext.harness.plan import MatrixPlan
from hf_ecgtext.harness.summary import difference_results

_Answer = tuple[dict[str, Any], TaskScores]


def comparison_cells(plan: MatrixPlan, answered: Sequence[_Answer]) -> Iterator[Cell]:
    """One cell per checkpoint and question that the reference has answered too.

    Numbers that were chosen on the test split are not compared.

    Args:
        plan ([`MatrixPlan`]): Names the reference; the first checkpoint otherwise.
        answered: Descriptions of cells with the scores that they gave.
    """
    trained = [entrant.name for entrant in plan.entrants if entrant.kind == "trained"]
    reference = plan.reference or (trained[0] if trained else None)
    protocols = {protocol.name: protocol for protocol in plan.protocols}
    questions: dict[str, dict[str, _Answer]] = {}
    for description, scores in answered:
        if scores.encoder == "trained" and protocols[scores.protocol].probe_selection == "validation":
            questions.setdefault(_question(scores), {})[scores.checkpoint] = (description, scores)
    for question, answers in questions.items():
        if reference not in answers:
            continue
        reference_description, reference_scores = answers[reference]
        for checkpoint, (own_description, scores) in answers.items():
            if checkpoint != reference:
                yield Cell(
                    title=f"{checkpoint} against {reference} on {scores.task}, {scores.evaluation}",
                    description={"difference": [own_description, reference_description], "question": question},
                    work=partial(_compare, plan, scores, reference_scores, protocols[scores.protocol]),
                )


def _question(scores: TaskScores) -> str:
    parts = (scores.evaluation, scores.task, scores.protocol, scores.prompts, scores.settings, scores.data)
    return json.dumps(parts, sort_keys=True)


def _compare(plan: MatrixPlan, scores: TaskScores, reference: TaskScores, protocol: EvaluationProtocol) -> CellOutcome:
    lines = difference_results(scores, reference, protocol, seed=plan.seed, num_resamples=plan.num_resamples)
    return CellOutcome(results=tuple(lines))
