"""How much zero-shot results depend on the wording of the prompts (PAPERS.md, "Evaluation protocols", defect 7).

The spread over prompt sets is no confidence interval: it says what the same encoder would have scored had its prompts
been written differently. Where it is wider than the distance between two encoders, their order is a matter of wording.
Every prompt set counts once, also where two give the same texts: of a task that groups no statements, `"members"` is
`"plain"`, and an ensemble lies between its parts. So compare spreads over the same list of prompt sets only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.scores import Encoder, TaskScores
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro


@dataclass(frozen=True)
class ClassSensitivity:
    """AUROC of one class over prompt sets.

    Args:
        minimum, maximum (`float`): Over the prompt sets.
        worst, best (`str`): The prompt sets that give them; of equal ones, the first that was asked for.
    """

    minimum: float
    maximum: float
    worst: str
    best: str

    @property
    def range(self) -> float:
        """Maximum minus minimum."""
        return self.maximum - self.minimum


@dataclass(frozen=True)
class PromptSensitivity:
    """Zero-shot AUROC of one row of encoders on one task, by prompt set.

    Args:
        evaluation, task, protocol, checkpoint (`str`): As in [`TaskScores`].
        encoder (`str`): Kind of encoder, as in [`TaskScores`].
        macro_auroc (`Mapping[str, float]`): Prompt set to macro AUROC, in the order in which they were given; the mean
            over runs where there are several.
        per_class (`Mapping[str, ClassSensitivity | None]`): By class label; `None` for a class without positive or
            without negative records.
        ranks (`Mapping[str, int]`): Prompt set to the rank of this row, 1 for the best, among the rows of its kind
            that answered the same question with the same prompt sets; equal values share the better rank. Empty where
            there is no other row.
        min_positives (`int`): The macro averages over classes with at least so many positive records.
    """

    evaluation: str
    task: str
    protocol: str
    checkpoint: str
    encoder: Encoder
    macro_auroc: Mapping[str, float]
    per_class: Mapping[str, ClassSensitivity | None]
    ranks: Mapping[str, int]
    min_positives: int = 1

    @property
    def minimum(self) -> float:
        """Macro AUROC with the worst prompt set."""
        return min(self.macro_auroc.values())

    @property
    def maximum(self) -> float:
        """Macro AUROC with the best prompt set. Nobody may choose it by the test set."""
        return max(self.macro_auroc.values())

    @property
    def range(self) -> float:
        """Maximum minus minimum."""
        return self.maximum - self.minimum

    @property
    def mean(self) -> float:
        """Mean over prompt sets."""
        return float(np.mean(list(self.macro_auroc.values())))

    @property
    def standard_deviation(self) -> float:
        """Over prompt sets, with `n - 1`."""
        return float(np.std(list(self.macro_auroc.values()), ddof=1))

    @property
    def rank_changes(self) -> int:
        """Best rank to worst rank: 0 if the wording does not move this row, or there is no other row."""
        return max(self.ranks.values()) - min(self.ranks.values()) if self.ranks else 0


def prompt_sensitivity(scores: Sequence[TaskScores], min_positives: int = 1) -> list[PromptSensitivity]:
    """What each encoder scores with each prompt set, and whether the wording changes the order of the encoders.

    Args:
        scores (`Sequence[TaskScores]`): Zero-shot answers of any number of encoders, tasks and protocols.
        min_positives (`int`): For the macro: leave out classes with fewer positive records.

    Returns:
        `list[PromptSensitivity]`: One per encoder and question that was asked with two or more prompt sets, in the
        order of their first appearance. One prompt set alone has no spread.

    Raises:
        ValueError: Scores have no prompts, an encoder has two answers for one prompt set, the answers of an encoder
            are about different records, or no class has enough positives.
    """
    rows: dict[tuple[str, ...], list[TaskScores]] = {}
    for answer in scores:
        if answer.prompts is None:
            raise ValueError(
                f"The {answer.evaluation} of '{answer.checkpoint}' on '{answer.task}' has no prompts. Pass zero-shot "
                "scores only."
            )
        rows.setdefault((*_question(answer), answer.encoder, answer.checkpoint), []).append(answer)
    several = {key: answers for key, answers in rows.items() if len(answers) > 1}
    values = {key: _values(answers) for key, answers in several.items()}
    macros = {key: _macros(several[key], by_set, min_positives) for key, by_set in values.items()}
    return [
        PromptSensitivity(
            evaluation=answers[0].evaluation,
            task=answers[0].task,
            protocol=answers[0].protocol,
            checkpoint=answers[0].checkpoint,
            encoder=answers[0].encoder,
            macro_auroc=macros[key],
            per_class=_per_class(answers[0].class_names, values[key]),
            # The key without the checkpoint is the question and the kind of encoder.
            ranks=_ranks(key, {other: of_other for other, of_other in macros.items() if other[:-1] == key[:-1]}),
            min_positives=min_positives,
        )
        for key, answers in several.items()
    ]


def _question(answer: TaskScores) -> tuple[str, ...]:
    texts = (answer.settings, answer.data)
    return (answer.evaluation, answer.task, answer.protocol, *(json.dumps(text, sort_keys=True) for text in texts))


def _values(answers: Sequence[TaskScores]) -> dict[str, NDArray[np.float64]]:
    """Prompt set to AUROC per class, the mean over runs."""
    first = answers[0]
    where = f"'{first.checkpoint}' on '{first.task}'"
    values: dict[str, NDArray[np.float64]] = {}
    for answer in answers:
        same = (answer.class_names, answer.record_ids) == (first.class_names, first.record_ids)
        if not same or not np.array_equal(answer.targets, first.targets):
            raise ValueError(f"{where}: the answers with '{first.prompts}' and '{answer.prompts}' differ in records.")
        if str(answer.prompts) in values:
            raise ValueError(f"{where}: there are two answers with the prompt set '{answer.prompts}'; pass one.")
        values[str(answer.prompts)] = np.mean([auroc(run, answer.targets) for run in answer.scores], axis=0)
    return values


def _macros(
    answers: Sequence[TaskScores], values: Mapping[str, NDArray[np.float64]], min_positives: int
) -> dict[str, float]:
    num_positives = answers[0].targets.sum(axis=0)
    macros = {name: float(macro(by_class, num_positives, min_positives)) for name, by_class in values.items()}
    if np.isnan(list(macros.values())).any():
        raise ValueError(
            f"'{answers[0].checkpoint}' on '{answers[0].task}': no class has {min_positives} positive records and a "
            "negative one, so there is no macro AUROC. Lower min_positives."
        )
    return macros


def _per_class(
    class_names: Sequence[str], values: Mapping[str, NDArray[np.float64]]
) -> dict[str, ClassSensitivity | None]:
    sets = list(values)
    table = np.stack([values[name] for name in sets])
    per_class: dict[str, ClassSensitivity | None] = {}
    for label, column in zip(class_names, table.T, strict=True):
        if np.isnan(column).any():  # by the targets, so of all the sets alike
            per_class[label] = None
            continue
        low, high = int(column.argmin()), int(column.argmax())
        per_class[label] = ClassSensitivity(float(column[low]), float(column[high]), sets[low], sets[high])
    return per_class


def _ranks(key: tuple[str, ...], macros: Mapping[tuple[str, ...], Mapping[str, float]]) -> dict[str, int]:
    """The rank of one row among those that have the same prompt sets."""
    mine = macros[key]
    rivals = [of_row for other, of_row in macros.items() if other != key and set(of_row) == set(mine)]
    if not rivals:
        return {}
    return {name: 1 + sum(rival[name] > value for rival in rivals) for name, value in mine.items()}
