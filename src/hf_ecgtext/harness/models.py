"""What a benchmark evaluates: checkpoints, and the baselines that stand beside them."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.evaluation.encoders.frozen import (
    EncoderRuns,
    FrozenEncoder,
    ModelEncoder,
    adapt_batch_norm,
    random_runs,
)
from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.scores import NOT_CONTAMINATED, Encoder, TaskScores
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor

Answer = Callable[[EcgData, Sequence[EvaluatedTask]], dict[str, TaskScores]]
"""From data and its tasks to the scores of each task, by its name."""


class EvaluatedModel(ABC):
    """A checkpoint or a baseline: what a row of the tables is about.

    Args:
        name (`str`): Checkpoint or baseline.
        kind (`str`): As in [`~hf_ecgtext.evaluation.results.EvaluationResult`].
    """

    name: str
    kind: Encoder
    has_text = False

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values that decide the features, apart from data and protocol."""

    @abstractmethod
    def runs(self, data: EcgData, protocol: EvaluationProtocol, evaluation: str) -> EncoderRuns:
        """The encoders for some data, under a protocol."""

    def contamination(self, data: EcgData, allow_seen: bool) -> str:
        """What the model has seen of the test records.

        Raises:
            ContaminationError: If it has, and that is not allowed.
        """
        return NOT_CONTAMINATED


class TrainedModel(EvaluatedModel):
    """A checkpoint.

    Args:
        name (`str`): Folder or repository.
        model ([`~hf_ecgtext.methods.base.EcgTextModel`]): Loaded.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its own.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): What it was trained on.
        dtype (`str`): `"float32"` or `"bfloat16"`.
        seed (`int`): Of its training, for the result lines.
    """

    kind: Encoder = "trained"
    has_text = True

    def __init__(
        self,
        name: str,
        model: EcgTextModel,
        processor: EcgTextProcessor,
        ledger: TrainingLedger | None,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        seed: int = 0,
    ):
        self.name = name
        self.encoder = ModelEncoder(model, processor, dtype=dtype)
        self.ledger = ledger
        self.seed = seed
        self._adapted: dict[tuple[str, ...], ModelEncoder] = {}

    def identity(self) -> dict[str, Any]:
        """That of the encoder."""
        return self.encoder.identity()

    def encoder_for(self, protocol: EvaluationProtocol) -> ModelEncoder:
        """The encoder with the windows that the protocol wants."""
        if protocol.long_records == self.encoder.long_records:
            return self.encoder
        return self.encoder.with_windows(protocol.long_records)

    def runs(self, data: EcgData, protocol: EvaluationProtocol, evaluation: str) -> EncoderRuns:
        """The checkpoint; for a probe as published, with BatchNorm statistics of the training signals."""
        encoder = self.encoder_for(protocol)
        if evaluation == "linear_probe" and protocol.batch_norm == "adapted" and encoder.has_batch_norm:
            key = (data.name, data.revision, encoder.long_records)
            if key not in self._adapted:
                self._adapted[key] = _with_batch_norm_of(encoder, data)
            encoder = self._adapted[key]
        return EncoderRuns(self.name, self.kind, (encoder,), self.seed, self.ledger)

    def contamination(self, data: EcgData, allow_seen: bool) -> str:
        """By the checkpoint's ledger."""
        return check_contamination(self.ledger, data, "test", checkpoint=self.name, allow_seen=allow_seen)


class PooledModel(EvaluatedModel):
    """Several trainings of one model, which differ in their seeds: results are means over them.

    Args:
        name (`str`): For the result lines.
        trainings (`Sequence[TrainedModel]`): Two or more, each with a seed of its own.

    Raises:
        ValueError: If there are fewer, two have the same seed, or their architectures differ.
    """

    kind: Encoder = "trained"
    has_text = True

    def __init__(self, name: str, trainings: Sequence[TrainedModel]):
        seeds = [training.seed for training in trainings]
        if len(trainings) < 2 or len(set(seeds)) < len(seeds):
            raise ValueError(
                f"'{name}' pools {len(trainings)} trainings with the seeds {', '.join(map(str, seeds))}; give two or "
                "more, each with a seed of its own."
            )
        configs = [training.encoder.model.config.ecg_config.to_dict() for training in trainings]
        if any(config != configs[0] for config in configs):
            raise ValueError(f"The trainings of '{name}' have different ECG encoders; evaluate them one by one.")
        self.name = name
        self.trainings = tuple(trainings)

    def identity(self) -> dict[str, Any]:
        """Those of the trainings."""
        return {"trainings": [training.identity() for training in self.trainings]}

    def runs(self, data: EcgData, protocol: EvaluationProtocol, evaluation: str) -> EncoderRuns:
        """One member per training."""
        found = [training.runs(data, protocol, evaluation) for training in self.trainings]
        return EncoderRuns(
            self.name,
            self.kind,
            tuple(member for runs in found for member in runs.members),
            tuple(training.seed for training in self.trainings),
        )

    def contamination(self, data: EcgData, allow_seen: bool) -> str:
        """By the ledgers of all trainings."""
        texts = {training.name: training.contamination(data, allow_seen) for training in self.trainings}
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _with_batch_norm_of(encoder: ModelEncoder, data: EcgData) -> ModelEncoder:
    tower = encoder.model.text_tower
    copied = copy.deepcopy(encoder.model, {id(tower): tower})  # the text tower is shared
    adapted = ModelEncoder(copied, encoder.processor, dtype=encoder.dtype, long_records=encoder.long_records)
    adapt_batch_norm(adapted, data)
    return adapted


class RandomModel(EvaluatedModel):
    """A checkpoint's architecture with random initialisations, one per seed; results are means over them.

    Args:
        architecture_of ([`TrainedModel`]): Whose architecture, text tower and processor are used.
        seeds (`Sequence[int]`): One encoder each.
        name (`str`, *optional*): The model whose twin this is; that of the checkpoint by default.
    """

    kind: Encoder = "random"
    has_text = True

    def __init__(self, architecture_of: TrainedModel, seeds: Sequence[int], name: str | None = None):
        self.name = architecture_of.name if name is None else name
        self.architecture_of = architecture_of
        self.seeds = tuple(seeds)
        self._runs: dict[tuple[str, ...], EncoderRuns] = {}

    def identity(self) -> dict[str, Any]:
        """That of the checkpoint, and the seeds."""
        return {**self.architecture_of.identity(), "random_seeds": self.seeds}

    def runs(self, data: EcgData, protocol: EvaluationProtocol, evaluation: str) -> EncoderRuns:
        """Random encoders calibrated on the data's training signals, under every protocol."""
        key = (data.name, data.revision)
        if key not in self._runs:
            self._runs[key] = random_runs(self.architecture_of.encoder, data, self.name, self.seeds)
        runs = self._runs[key]
        members = [member for member in runs.members if isinstance(member, ModelEncoder)]
        cut = tuple(member.with_windows(protocol.long_records) for member in members)
        return dataclasses.replace(runs, members=cut)


class FeatureBaseline(EvaluatedModel):
    """A baseline without weights, such as interval features.

    Args:
        name (`str`): For the result lines.
        kind (`str`): As in [`EvaluatedModel`].
        encoder ([`~hf_ecgtext.evaluation.encoders.frozen.FrozenEncoder`]): Gives the features.
    """

    def __init__(self, name: str, kind: Encoder, encoder: FrozenEncoder):
        self.name = name
        self.kind = kind
        self.encoder = encoder

    def identity(self) -> dict[str, Any]:
        """That of the encoder."""
        return self.encoder.identity()

    def runs(self, data: EcgData, protocol: EvaluationProtocol, evaluation: str) -> EncoderRuns:
        """The encoder itself."""
        return EncoderRuns(self.name, self.kind, (self.encoder,), 0)


class ScoringBaseline(EvaluatedModel):
    """A baseline that answers tasks itself instead of giving features, such as a network trained from scratch.

    Args:
        name, kind (`str`): As in [`EvaluatedModel`].
        identity (`dict[str, Any]`): What decides its answers.
        answer ([`Answer`]): Answers all tasks of some data.
    """

    def __init__(self, name: str, kind: Encoder, identity: dict[str, Any], answer: Answer):
        self.name = name
        self.kind = kind
        self._identity = identity
        self.answer = answer

    def identity(self) -> dict[str, Any]:
        """As given."""
        return self._identity

    def runs(self, data: EcgData, protocol: EvaluationProtocol, evaluation: str) -> EncoderRuns:
        """It has no features."""
        raise TypeError(f"'{self.name}' answers tasks itself; it has no features to probe.")
