"""The baselines that stand beside every checkpoint (docs/protocols.md, defect 15)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.encoders.interval_features import IntervalFeatures
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.finetuning.supervised import supervised_scores
from hf_ecgtext.harness.models import (
    EvaluatedModel,
    FeatureBaseline,
    PooledModel,
    RandomModel,
    ScoringBaseline,
    TrainedModel,
)

BASELINES = ("random", "interval_features", "supervised")

_PROBING = {"linear_probe", "distribution_shift"}


def baseline_models(
    names: Sequence[str],
    models: Sequence[TrainedModel | PooledModel],
    evaluations: Sequence[str],
    *,
    num_random: int,
    folder: Path,
    seed: int,
) -> list[EvaluatedModel]:
    """The baselines that the evaluations can use.

    Args:
        names (`Sequence[str]`): Of [`BASELINES`].
        models (`Sequence[TrainedModel | PooledModel]`): Random initialisations share their architectures; the
            supervised network has the ECG encoder and processor of the first.
        evaluations (`Sequence[str]`): What will be done.
        num_random (`int`): Random initialisations of each model; 0 for none.
        folder (`Path`): Where supervised networks are kept.
        seed (`int`): First seed of the random initialisations, and that of the supervised network.
    """
    baselines: list[EvaluatedModel] = []
    if "random" in names and num_random:
        seeds = range(seed, seed + num_random)
        baselines += [RandomModel(first_training(model), seeds, model.name) for model in models]
    if "interval_features" in names and _PROBING & set(evaluations):
        baselines.append(FeatureBaseline("interval features", "interval_features", IntervalFeatures()))
    if "supervised" in names and "linear_probe" in evaluations:
        baselines.append(supervised_baseline(first_training(models[0]), folder, seed))
    return baselines


def first_training(model: TrainedModel | PooledModel) -> TrainedModel:
    """The checkpoint, or the first of several."""
    return model.trainings[0] if isinstance(model, PooledModel) else model


def supervised_baseline(model: TrainedModel, folder: Path, seed: int) -> ScoringBaseline:
    """The ECG encoder of a model, trained from scratch on the labels."""
    encoder_config = model.encoder.model.config.ecg_config
    extractor = model.encoder.processor.feature_extractor
    identity = {"encoder": encoder_config.to_dict(), "processor": extractor.to_dict(), "seed": seed}

    def answer(data: EcgData, tasks: Sequence[EvaluatedTask]) -> dict[str, TaskScores]:
        return supervised_scores(data, tasks, extractor, encoder_config, folder, seed)

    return ScoringBaseline(f"supervised {encoder_config.model_type}", "supervised", _plain(identity), answer)


def _plain(value: Any) -> Any:
    """The value in JSON's types."""
    return json.loads(json.dumps(value, default=str))
