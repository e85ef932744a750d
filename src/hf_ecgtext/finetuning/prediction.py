"""Logits of a classifier for whole recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hf_ecgtext.errors import RecordError
from hf_ecgtext.finetuning.labelled_records import Preparation


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    preparation: Preparation,
    rows: Dataset[Any],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    title: str = "Predicting",
    show_progress: bool = False,
) -> NDArray[np.float32]:
    """Logits of all classes; those of a recording longer than the model's input are the means over its windows.

    Args:
        model ([`EcgForClassification`]): Also with adapters. It computes in `eval()` and is left as it was.
        preparation ([`Preparation`]): From recordings to input.
        rows ([`EcgRows`]): Recordings.
        batch_size (`int`): Recordings per step.
        num_workers (`int`): Processes that read records.
        title (`str`): Of the progress bar.
        show_progress (`bool`): Show it.

    Returns:
        `np.ndarray` of shape `(num_records, num_classes)`: In the order of the rows.

    Raises:
        RecordError: If a logit is NaN or infinite.
    """

    def collate(items: Sequence[Mapping[str, Any]]) -> tuple[list[str], torch.Tensor, dict[str, Any]]:
        windows = [preparation.windows(item["ecg"]) for item in items]
        owners = [place for place, parts in enumerate(windows) for _ in parts]
        inputs = preparation.extractor([part for parts in windows for part in parts], return_tensors="pt")
        return [item["ecg"].record_id for item in items], torch.tensor(owners), dict(inputs)

    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    loader = DataLoader(rows, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    parts = []
    try:
        for record_ids, owners, inputs in tqdm(
            loader, desc=title, unit="batch", disable=None if show_progress else True, leave=False
        ):
            signals = {name: inputs[name].to(device) for name in ("ecg_values", "lead_mask")}
            by_window = model(**signals).logits.float().cpu()
            sums = torch.zeros(len(record_ids), by_window.shape[1]).index_add_(0, owners, by_window)
            logits = (sums / torch.bincount(owners, minlength=len(record_ids)).unsqueeze(1)).numpy()
            bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
            if bad.size:
                raise RecordError(
                    ", ".join(record_ids[place] for place in bad[:5].tolist()),
                    "the model gives it NaN or infinite logits.",
                    "Lower the learning rate, or look at the recording with nan_policy='raise' of the processor.",
                )
            parts.append(logits)
    finally:
        model.train(was_training)
    return np.concatenate(parts)
