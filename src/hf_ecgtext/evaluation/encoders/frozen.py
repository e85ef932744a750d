"""Encoders as evaluation sees them: records in, feature arrays out, and an identity that says when those may differ."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.utils.data import Subset

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.report_cleaning import REPORT_CLEANERS
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.encoders.random import random_encoders, recalibrate_batch_norm
from hf_ecgtext.evaluation.scores import Encoder
from hf_ecgtext.methods.base import EcgTextModel, TextInputs
from hf_ecgtext.processing import EcgTextProcessor
from hf_ecgtext.processing.windows import covering_windows, cut, mean_over_windows

Features = dict[str, NDArray[np.float32]]
"""Arrays of shape `(num_records, dim)`: `"probe"`, and of encoders with a text tower `"ecg_embeds"`, L2-normalised."""

_NUM_CALIBRATION = 256
_PUBLISHED_CUT_S = 5.0  # MERL, DERI and C-MELT
_CUT_AS_PUBLISHED = {"cpsc2018"}


class FrozenEncoder(ABC):
    """Anything that turns recordings into features that do not change while they are evaluated."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values that differ whenever the features may: weights, processor, precision, windows."""

    @abstractmethod
    def encode(self, ecgs: Sequence[AnyEcg]) -> Features:
        """Features of some recordings, one row each."""

    def for_data(self, name: str) -> FrozenEncoder:
        """The encoder as it treats the recordings of some data."""
        return self

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """L2-normalised embeddings of shape `(num_texts, projection_dim)` in the space of `"ecg_embeds"`.

        Raises:
            TypeError: If the encoder has no text tower.
        """
        raise TypeError(f"{type(self).__name__} has no text tower; it cannot answer zero-shot.")

    def tower_identity(self) -> dict[str, Any]:
        """JSON values that differ whenever what `pool_texts` gives may."""
        return self.identity()

    def pool_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The part of `embed_texts` that encoders with the same text tower share, `(num_texts, text_hidden_size)`."""
        return self.embed_texts(texts)

    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rest of `embed_texts`, from what `pool_texts` gave."""
        return pooled

    def clean_report(self, report: str) -> str:
        """What the text tower reads of a report; two reports with the same outcome are duplicates.

        Raises:
            TypeError: If the encoder has no text tower.
        """
        raise TypeError(f"{type(self).__name__} has no text tower; it reads no reports.")

    @property
    def has_text(self) -> bool:
        """Whether zero-shot questions and retrieval make sense."""
        return False


class ModelEncoder(FrozenEncoder):
    """A model in `eval()` mode.

    Args:
        model ([`EcgTextModel`]): Trained or random.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        dtype (`str`): `"float32"`, or `"bfloat16"` by autocast. Features are stored as float32 in both cases.
        long_records (`str`): As in [`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`].
        text_batch_size (`int`): Texts per forward pass.
    """

    def __init__(
        self,
        model: EcgTextModel,
        processor: EcgTextProcessor,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        long_records: str = "whole",
        text_batch_size: int = 256,
    ):
        self.model = model.eval()
        self.processor = processor
        self.dtype = dtype
        self.long_records = long_records
        self.text_batch_size = text_batch_size
        self._identity: dict[str, Any] | None = None
        self._tower_identity: dict[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        """SHA-256 of the weights, config and processor, and how records are cut."""
        if self._identity is None:
            self._identity = {
                "weights": hash_weights(self.model),
                "config": _digest(self.model.config.to_json_string(use_diff=False)),
                "processor": _digest(
                    json.dumps(self.processor.feature_extractor.to_dict(), sort_keys=True, default=str)
                ),
                "text_processor": _digest(
                    f"{self.processor.to_json_string()} {sorted(self.processor.tokenizer.get_vocab().items())}"
                ),
                "dtype": self.dtype,
                "long_records": self.long_records,
            }
        return self._identity

    @torch.no_grad()
    def encode(self, ecgs: Sequence[AnyEcg]) -> Features:
        """Probe features and embeddings; those of a longer recording are the means over its windows."""
        windows, owners = [], []
        for place, ecg in enumerate(ecgs):
            parts = cut_windows(ecg, self.processor.feature_extractor.duration_s, self.long_records)
            windows += parts
            owners += [place] * len(parts)
        inputs = self.processor.feature_extractor(windows, return_tensors="pt")
        values, lead_mask = (inputs[name].to(self.model.device) for name in ("ecg_values", "lead_mask"))
        with self._autocast():
            output = self.model.ecg_encoder(values, lead_mask=lead_mask)
            probe = self.model.probe_features(output).float()
            embeds = F.normalize(self.model.embed_ecg(output).float(), dim=-1)
        index = torch.tensor(owners, device=probe.device)
        return {
            "probe": mean_over_windows(probe, index, len(ecgs)).cpu().numpy(),
            "ecg_embeds": F.normalize(mean_over_windows(embeds, index, len(ecgs)), dim=-1).cpu().numpy(),
        }

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See the base class."""
        return self.embed_pooled(self.pool_texts(texts))

    def tower_identity(self) -> dict[str, Any]:
        """Weights and pooling of the text tower, and the text side of the processor."""
        if self._tower_identity is None:
            self._tower_identity = {
                "weights": hash_weights(self.model.text_tower),
                "config": _digest(self.model.text_tower.model.config.to_json_string(use_diff=False)),
                "pooling": self.model.config.text_pooling,
                "text_processor": self.identity()["text_processor"],
                "dtype": self.dtype,
                "batch_size": self.text_batch_size,  # decides the last bits
            }
        return self._tower_identity

    @torch.no_grad()
    def pool_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Pooled outputs of the text tower."""
        parts = []
        for start in range(0, len(texts), self.text_batch_size):
            tokens = self.processor(text=list(texts[start : start + self.text_batch_size]), return_tensors="pt")
            inputs = TextInputs(**tokens.to(self.model.device))
            with self._autocast():
                parts.append(self.model.encode_text(inputs)[0].float().cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """The method's own head on pooled outputs, normalised."""
        rows = torch.from_numpy(np.array(pooled)).to(self.model.device, self.model.dtype)
        with self._autocast():
            embeds = self.model.embed_text(rows)
        return F.normalize(embeds.float(), dim=-1).cpu().numpy()

    def clean_report(self, report: str) -> str:
        """See the base class; the processor's cleaning."""
        return REPORT_CLEANERS[self.processor.report_cleaning](report)

    @property
    def has_text(self) -> bool:
        """Every ECG-text model answers zero-shot."""
        return True

    @property
    def has_batch_norm(self) -> bool:
        """Whether the model has statistics that may adapt to signals."""
        return any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in self.model.modules())

    def with_windows(self, long_records: str) -> ModelEncoder:
        """The same weights on other parts of longer recordings."""
        encoder = ModelEncoder(
            self.model,
            self.processor,
            dtype=self.dtype,
            long_records=long_records,
            text_batch_size=self.text_batch_size,
        )
        encoder._identity = {**self.identity(), "long_records": long_records}  # weights are hashed once
        encoder._tower_identity = self._tower_identity
        return encoder

    def for_data(self, name: str) -> ModelEncoder:
        """Only recordings of CPSC2018 are cut to 5 s, as published."""
        if self.long_records == "first_5_s" and name not in _CUT_AS_PUBLISHED:
            return self.with_windows("whole")
        return self

    def _autocast(self) -> Any:
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True, eq=False)
class EncoderRuns:
    """One row of a results table: an encoder, or several of a kind whose results are pooled.

    Args:
        name (`str`): Checkpoint or baseline, for the result lines. Of random encoders, the checkpoint whose
            architecture they share.
        kind (`str`): `"trained"`, `"random"`, `"interval_features"` or `"supervised"`.
        members (`tuple[FrozenEncoder, ...]`): One, or one per seed.
        seed (`int` or `tuple[int, ...]`): Of the training, or of the random encoders.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): What a trained encoder has seen.
    """

    name: str
    kind: Encoder
    members: tuple[FrozenEncoder, ...]
    seed: int | tuple[int, ...] = 0
    ledger: TrainingLedger | None = None

    @property
    def has_text(self) -> bool:
        """Whether zero-shot questions and retrieval make sense."""
        return all(member.has_text for member in self.members)


def random_runs(trained: ModelEncoder, data: EcgData, name: str, seeds: Sequence[int]) -> EncoderRuns:
    """Random initialisations of a model, with BatchNorm statistics of the data's training signals (defect 15).

    Args:
        trained ([`ModelEncoder`]): Its architecture, text tower and processor are used.
        data ([`~hf_ecgtext.data.tasks.EcgData`]): Whose training split calibrates.
        name (`str`): Checkpoint of `trained`.
        seeds (`Sequence[int]`): One encoder each.

    Raises:
        ValueError: If the data has no training split.
    """
    if data.train is None:
        raise ValueError(
            f"{data.name} has no train split here, on which random encoders are calibrated. Leave them out: "
            "--random-encoders 0."
        )
    order, _ = canonical_order(data, "train")
    drawn = np.random.default_rng(0).permutation(order)[:_NUM_CALIBRATION]
    signals: Any = Subset(data.split("train"), drawn.tolist())  # type: ignore[arg-type]
    untrained = random_encoders(trained.model, trained.processor, signals, seeds, num_calibration=len(drawn))
    members = tuple(
        ModelEncoder(model, trained.processor, dtype=trained.dtype, long_records=trained.long_records)
        for model in untrained
    )
    return EncoderRuns(name=name, kind="random", members=members, seed=tuple(seeds))


def adapt_batch_norm(encoder: ModelEncoder, data: EcgData, batch_size: int = 64) -> None:
    """Set BatchNorm statistics to those of all training signals of some data, in place (defect 3).

    Where a published probe runs the encoder in `train()` mode, its statistics drift from those of the pre-training to
    those of the target; this is where they arrive.
    """
    rows = data.split("train")
    order, _ = canonical_order(data, "train")
    long_records = encoder.for_data(data.name).long_records
    duration_s = encoder.processor.feature_extractor.duration_s

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(order), batch_size):
            items = rows.__getitems__(order[start : start + batch_size].tolist())
            windows = [window for item in items for window in cut_windows(item["ecg"], duration_s, long_records)]
            yield dict(encoder.processor.feature_extractor(windows, return_tensors="pt"))

    recalibrate_batch_norm(encoder.model, batches())
    encoder._identity = None


def cut_windows(ecg: AnyEcg, duration_s: float, long_records: str) -> list[AnyEcg]:
    """The parts of a recording that are encoded one by one.

    Args:
        ecg ([`AnyEcg`]): A recording of any length.
        duration_s (`float`): What the encoder reads at once.
        long_records (`str`): `"whole"`: as few windows as cover the recording, evenly spaced; one if it is not longer.
            `"first_5_s"`: the first 5 s only.
    """
    if long_records == "first_5_s":
        return [cut(ecg, 0, min(ecg.num_samples, round(_PUBLISHED_CUT_S * ecg.sampling_rate_hz)))]
    windows = covering_windows(ecg.num_samples, round(duration_s * ecg.sampling_rate_hz))
    return [ecg] if len(windows) == 1 else [cut(ecg, start, stop) for start, stop in windows]


def canonical_order(data: EcgData, split: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The rows of a split by ascending record id, and those ids: an order that files cannot change.

    Raises:
        ValueError: If the data has no such split, it is empty, or a record id occurs twice.
    """
    ids = [str(record_id) for record_id in data.split(split).column("record_id")]
    if not ids:
        raise ValueError(f"The {split} split of {data.name} is empty.")
    order = np.asarray(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    sorted_ids = tuple(ids[row] for row in order)
    repeated = [first for first, second in pairwise(sorted_ids) if first == second]
    if repeated:
        raise ValueError(f"The {split} split of {data.name} has record {repeated[0]} more than once.")
    return order, sorted_ids


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
