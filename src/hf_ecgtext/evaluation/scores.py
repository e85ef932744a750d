"""A model's answers on one task: kept so that metrics and comparisons need no second forward pass."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.bootstrap import BootstrapDistribution, bootstrap_intervals, paired_difference
from hf_ecgtext.evaluation.metrics import FREQUENT_CLASS_MIN_POSITIVES
from hf_ecgtext.evaluation.results import NOT_CHECKED, NOT_CONTAMINATED, EvaluationResult, written_whole


@dataclass(frozen=True, eq=False)
class ZeroShotScores:
    """What a model answered on one task with one prompt set: all that metrics and comparisons need.

    Args:
        task (`str`): Name of the task.
        prompts (`str`): Name of the prompt set.
        class_names (`tuple[str, ...]`): Columns of the scores.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        patients (`np.ndarray` of shape `(num_records,)`, *optional*): Whose record each row is.
        trained (`np.ndarray` of shape `(num_records, num_classes)`): Cosines of the trained model.
        random (`np.ndarray` of shape `(num_encoders, num_records, num_classes)`): Those of its random twins.
        data (`dict[str, str]`): `name`, `revision` and `split`.
        contamination (`str`): What the trained model has seen of these records, as in [`EvaluationResult`].
    """

    task: str
    prompts: str
    class_names: tuple[str, ...]
    targets: NDArray[np.int8]
    patients: NDArray[np.object_] | None
    trained: NDArray[np.float32]
    random: NDArray[np.float32]
    data: dict[str, str]
    contamination: str = NOT_CHECKED

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores to an `.npz` file, whole or not at all."""
        patients = [] if self.patients is None else [json.dumps(patient) for patient in self.patients]
        texts = {
            "task": self.task,
            "prompts": self.prompts,
            "class_names": self.class_names,
            "data": self.data,
            "contamination": self.contamination,
        }
        with written_whole(path) as unfinished, open(unfinished, "wb") as file:
            np.savez(
                file,
                texts=np.array(json.dumps(texts)),
                patients=np.array(patients, dtype=np.str_),
                targets=self.targets,
                trained=self.trained,
                random=self.random,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ZeroShotScores:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            texts = json.loads(str(file["texts"]))
            patients = [json.loads(patient) for patient in file["patients"].tolist()]
            return cls(
                task=texts["task"],
                prompts=texts["prompts"],
                class_names=tuple(texts["class_names"]),
                targets=file["targets"],
                patients=np.array(patients, dtype=object) if patients else None,
                trained=file["trained"],
                random=file["random"],
                data=texts["data"],
                contamination=texts.get("contamination", NOT_CHECKED),  # files of before it was checked
            )

    def results(self, *, checkpoint: str, seed: int, num_resamples: int = 1000) -> list[EvaluationResult]:
        """AUROC and average precision with intervals, over all classes and over those with at least 20 positives.

        Args:
            checkpoint (`str`): Name or path, for the result lines.
            seed (`int`): Seed of the training, for the result lines, and of the bootstrap.
            num_resamples (`int`): Bootstrap resamples.
        """
        random_seeds = tuple(range(len(self.random)))
        runs: list[tuple[str, NDArray[np.float32], int | tuple[int, ...]]] = [("trained", self.trained[None], seed)]
        if random_seeds:
            runs.append(("random", self.random, random_seeds))
        results: list[EvaluationResult] = []
        for kind, scores, run_seed in runs:
            patients = None if self.patients is None else self.patients.tolist()
            distributions = bootstrap_intervals(scores, self.targets, patients, num_resamples=num_resamples, seed=seed)
            contamination = self.contamination if kind == "trained" else NOT_CONTAMINATED
            results.extend(
                self._lines(
                    distributions, encoder=kind, seed=run_seed, checkpoint=checkpoint, contamination=contamination
                )
            )
        return results

    def differences(
        self, other: ZeroShotScores, *, checkpoint: str, compared_with: str, seed: int, num_resamples: int = 1000
    ) -> list[EvaluationResult]:
        """How much better these scores are than others of the same records, on the same resamples.

        Args:
            other ([`ZeroShotScores`]): Of the same task, prompts and records.
            checkpoint, compared_with (`str`): Names of both models, for the result lines.
            seed (`int`): Of the bootstrap.
            num_resamples (`int`): Bootstrap resamples.

        Raises:
            ValueError: If the two are not about the same records and classes.
        """
        same = self.class_names == other.class_names and np.array_equal(self.targets, other.targets)
        if (self.task, self.prompts, self.data) != (other.task, other.prompts, other.data) or not same:
            raise ValueError(
                f"Scores of '{self.task}' ({self.prompts}) and '{other.task}' ({other.prompts}) are of different "
                "records or classes and cannot be paired."
            )
        patients = None if self.patients is None else self.patients.tolist()
        distributions = paired_difference(
            self.trained, other.trained, self.targets, patients, num_resamples=num_resamples, seed=seed
        )
        contamination = self.contamination
        if other.contamination != contamination:
            contamination = f"{contamination}; '{compared_with}': {other.contamination}"
        return self._lines(
            distributions,
            encoder="trained",
            seed=seed,
            checkpoint=checkpoint,
            compared_with=compared_with,
            contamination=contamination,
        )

    def _lines(self, distributions: Mapping[str, BootstrapDistribution], **provenance: Any) -> list[EvaluationResult]:
        return [
            EvaluationResult.from_bootstrap(
                distribution,
                list(self.class_names),
                min_positives=min_positives,
                metric=metric,
                task=self.task,
                protocol="strict",
                num_records=len(self.targets),
                data=self.data,
                prompts=self.prompts,
                **provenance,
            )
            for metric, distribution in distributions.items()
            for min_positives in (1, FREQUENT_CLASS_MIN_POSITIVES)
        ]
