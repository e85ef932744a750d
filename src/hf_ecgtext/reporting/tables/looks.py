"""How often the test split has been read: every look is a chance to choose, so tables say how many there were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hf_ecgtext.evaluation.prompts.sets import PROMPT_MEAN
from hf_ecgtext.evaluation.results import EvaluationResult


@dataclass(frozen=True)
class TestLooks:
    """What was asked of one test split.

    Args:
        data, revision (`str`): Of the test split.
        settings (`int`): Distinct evaluations, whatever the encoder: of a task, by a protocol, with a prompt set, and
            with settings such as the fraction or the chosen epoch.
        kinds (`dict[str, int]`): How many tasks, evaluations, protocols, prompt sets and fractions those are of.
        encoders (`int`): Checkpoints and baselines.
    """

    __test__ = False  # no test of pytest's, whatever its name begins with

    data: str
    revision: str
    settings: int
    kinds: dict[str, int]
    encoders: int

    @property
    def text(self) -> str:
        """Such as `ptb_xl: 96 evaluations (4 tasks, 2 protocols, 6 prompt sets) of 11 encoders`."""
        counts = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in self.kinds.items() if count)
        encoders = f"{self.encoders} encoder{'s' if self.encoders > 1 else ''}"
        return f"{self.data} by {self.settings:,} evaluation{'s' if self.settings > 1 else ''} ({counts}) of {encoders}"


def looks_at_test(
    results: Sequence[EvaluationResult], *, before: EvaluationResult | None = None
) -> tuple[TestLooks, ...]:
    """How many distinct evaluations of each test split some result lines hold.

    Lines are the only record: what was evaluated and thrown away is not counted, so that the number is a lower bound.
    Means over prompt sets and differences are made of other lines and read nothing.

    Args:
        results (`Sequence[EvaluationResult]`): All lines that are kept, of all runs.
        before ([`EvaluationResult`], *optional*): Count only earlier lines of its data and revision: what had been seen
            when it was made.

    Returns:
        `tuple[TestLooks, ...]`: One per data and revision, in order of appearance.
    """
    found: dict[tuple[str, str], list[EvaluationResult]] = {}
    for line in results:
        if line.data["split"] != "test" or line.compared_with is not None or line.prompts == PROMPT_MEAN:
            continue
        place = (line.data["name"], line.data["revision"])
        if before is None or (place == (before.data["name"], before.data["revision"]) and line.date < before.date):
            found.setdefault(place, []).append(line)
    return tuple(_looks(place, lines) for place, lines in found.items())


def looks_note(results: Sequence[EvaluationResult], looks: Sequence[TestLooks]) -> list[str]:
    """What a table's notes say about the test splits of its results."""
    shown = {(line.data["name"], line.data["revision"]) for line in results}
    texts = [each.text for each in looks if (each.data, each.revision) in shown]
    return [f"Test split read, as far as these lines tell: {'; '.join(texts)}."] if texts else []


def _looks(place: tuple[str, str], lines: Sequence[EvaluationResult]) -> TestLooks:
    settings = {
        (
            line.task,
            line.evaluation,
            line.protocol,
            line.prompts,
            json.dumps(line.settings, sort_keys=True, default=str),
        )
        for line in lines
    }
    fractions = {line.settings["fraction"] for line in lines if "fraction" in line.settings}
    kinds = {
        "task": len({line.task for line in lines}),
        "kind": len({line.evaluation for line in lines}),
        "protocol": len({line.protocol for line in lines}),
        "prompt set": len({line.prompts for line in lines if line.prompts is not None}),
        "fraction": len(fractions),
    }
    encoders = {(line.checkpoint, line.encoder) for line in lines}
    return TestLooks(*place, settings=len(settings), kinds=kinds, encoders=len(encoders))
