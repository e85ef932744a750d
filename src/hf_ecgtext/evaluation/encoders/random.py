"""Baselines of random weights: a model's architecture and text tower, everything else as initialised."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hf_ecgtext.data.tasks import EcgRows
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor


def random_encoders(
    model: EcgTextModel,
    processor: EcgTextProcessor,
    calibration: EcgRows,
    seeds: Iterable[int],
    num_calibration: int = 256,
) -> list[EcgTextModel]:
    """Random initialisations of a model: its text tower, everything else random.

    BatchNorm statistics are set on signals of the training split, without labels, since initial statistics would
    cripple a random encoder (docs/protocols.md, defect 15).

    Args:
        model ([`EcgTextModel`]): Its architecture and text tower are used.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Prepares the signals.
        calibration ([`EcgRows`]): Training records.
        seeds (`Iterable[int]`): One encoder per seed.
        num_calibration (`int`): Training records to use.
    """
    models = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            untrained = type(model).from_text_model(copy.deepcopy(model.config), model.text_tower.model)
        models.append(untrained.to(model.device).eval())
    subset: Any = torch.utils.data.Subset(cast(Any, calibration), range(min(num_calibration, len(calibration))))
    batches = list(signal_batches(processor, subset, 64, 0, "Calibrating", show_progress=False))
    for untrained in models:
        recalibrate_batch_norm(untrained, batches)
    return models


@torch.no_grad()
def recalibrate_batch_norm(model: EcgTextModel, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Set the running statistics of every BatchNorm to the mean over some batches of signals, in place."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
        norm.train()
    if norms:
        for batch in batches:
            if len(batch["ecg_values"]) == 1:
                continue  # one record has no variance
            model.get_ecg_features(batch["ecg_values"].to(model.device), lead_mask=batch["lead_mask"].to(model.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def signal_batches(
    processor: EcgTextProcessor,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int,
    title: str,
    show_progress: bool,
) -> Iterator[Mapping[str, Tensor]]:
    """Batches of `ecg_values` and `lead_mask`, in the order of the records."""

    def collate(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Tensor]:
        return dict(processor.feature_extractor([row["ecg"] for row in rows], return_tensors="pt"))

    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    return iter(tqdm(loader, desc=title, unit="batch", disable=None if show_progress else True, leave=False))
