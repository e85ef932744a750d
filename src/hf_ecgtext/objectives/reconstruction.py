"""Losses of what was hidden: patches of a signal, tokens of a report. Pure functions of one value per sample.

They return a row per sample instead of one scalar, so that the caller can average over the joined batch of all
processes. Sources: He et al. 2022 (MAE), Devlin et al. 2019 (BERT).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_patch_error(predicted: Tensor, target: Tensor, is_hidden: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample's hidden patches.

    Args:
        predicted, target (`torch.Tensor` of shape `(batch, num_patches, patch_size)`): Signals in patches.
        is_hidden (`torch.Tensor` of shape `(batch, num_patches)`): `True` where a patch was hidden; the others do not
            count.
        counts (`torch.Tensor` of shape `(batch, patch_size)`, *optional*): `False` for entries of the patches that do
            not count, such as those of missing leads.

    Returns:
        `torch.Tensor` of shape `(batch,)`: 0 for a sample in which nothing counts.

    Source: He et al. 2022, section 3; a mean over the samples of a patch, then over the hidden patches.
    """
    difference = predicted - target
    if counts is not None:
        difference = difference * counts.to(difference.dtype).unsqueeze(1)
    error = difference.square().mean(dim=-1)  # (batch, num_patches)
    weight = is_hidden.to(error.dtype)
    mean = (error * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)
    if counts is None:
        return mean
    # A factor of exactly 1 where everything counts.
    return mean * (counts.shape[1] / counts.to(mean.dtype).sum(dim=1).clamp_min(1.0))


def patch_error_sum(predicted: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    """Squared error of each sample, summed over all of its patches, hidden or not.

    Args:
        predicted, target, counts: As in [`masked_patch_error`].

    Returns:
        `torch.Tensor` of shape `(batch,)`.

    Source: C-MELT (arXiv 2410.02131), eq. 2.
    """
    difference = predicted - target
    if counts is not None:
        difference = difference * counts.to(difference.dtype).unsqueeze(1)
    return difference.square().sum(dim=(1, 2))


def mean_of_counted(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over the samples that count.

    Args:
        values (`torch.Tensor` of shape `(batch,)`): One per sample.
        counts (`torch.Tensor` of shape `(batch,)`): 0 where a sample does not count, else 1.

    Returns:
        `torch.Tensor` of shape `()`: 0 if no sample counts.
    """
    # The mean over all, times a factor of exactly 1 where all of them count.
    return (values * counts).mean() * (len(counts) / counts.sum().clamp_min(1.0))


def token_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the masked tokens of each sample, as a sum and a count.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_masked, vocab_size)`): Predictions.
        labels (`torch.Tensor` of shape `(batch, num_masked)`): Original tokens; -100 does not count.

    Returns:
        Sum in nats and number of tokens that count, each `torch.Tensor` of shape `(batch,)`.

    Source: Devlin et al. 2019, section 3.1.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    losses = losses.view(labels.shape)
    return losses.sum(dim=1), (labels != -100).sum(dim=1).to(losses.dtype)


def normalise_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch with mean 0 and variance 1 over its last axis (unbiased, as MAE and ST-MEM have it)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * (variance + eps).rsqrt()
