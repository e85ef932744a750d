"""Jobs of a benchmark. On disk each appears whole or not at all, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ecgtext.evaluation.context import EvaluationOutcome
from hf_ecgtext.evaluation.results import read_results, write_results
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.retrieval_ranks import RetrievalRanks
from hf_ecgtext.io import full_disk_named, hash_of_json


@dataclass(frozen=True, eq=False)
class Job:
    """One piece of work that is done whole.

    Args:
        title (`str`): For progress and messages.
        description (`dict[str, Any]`): JSON values: all that decides its numbers.
        work (`Callable`): Does it.
    """

    title: str
    description: dict[str, Any]
    work: Callable[[], EvaluationOutcome]


class JobStore:
    """The jobs of a run, by what decides them.

    Args:
        folder (`str` or `Path`): Made if absent. Several processes may fill it at once.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def load(self, description: dict[str, Any]) -> EvaluationOutcome | None:
        """The outcome of a job, or `None` where it is not finished.

        Raises:
            ResultError: If its result lines are damaged or of another schema version.
        """
        place = self._place(description)
        if not place.is_dir():
            return None
        lines = place / "results.jsonl"
        return EvaluationOutcome(
            scores=tuple(TaskScores.load(path) for path in sorted(place.glob("scores-*.npz"))),
            results=tuple(read_results(lines)),
            ranks=tuple(RetrievalRanks.load(path) for path in sorted(place.glob("ranks-*.npz"))),
        )

    def save(self, description: dict[str, Any], outcome: EvaluationOutcome) -> None:
        """Keep the outcome of a job; one that another process has finished meanwhile stays."""
        place = self._place(description)
        unfinished = place.with_name(f"{place.name}.{os.getpid()}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            with full_disk_named(place, "What is evaluated stays. Make room, then run the same command again"):
                unfinished.mkdir(parents=True)
                for number, scores in enumerate(outcome.scores):
                    scores.save(unfinished / f"scores-{number:03d}.npz")
                for number, ranks in enumerate(outcome.ranks):
                    ranks.save(unfinished / f"ranks-{number:03d}.npz")
                write_results(unfinished / "results.jsonl", outcome.results)
                text = json.dumps(description, indent=1, ensure_ascii=False)
                (unfinished / "cell.json").write_text(text, encoding="utf-8")
            try:
                os.rename(unfinished, place)
            except OSError:
                if not place.is_dir():
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)  # what cannot be finished does not take the space

    def _place(self, description: dict[str, Any]) -> Path:
        return self.folder / hash_of_json(description)[:32]
