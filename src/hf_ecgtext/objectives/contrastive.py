"""Losses over pairs. Pure functions: tensors in, a scalar out; gathering across processes happens before.

Sources: van den Oord et al. 2018 (InfoNCE), Radford et al. 2021 (CLIP), Chen et al. 2020 (NT-Xent), Yeh et al. 2022
(decoupled contrastive loss), Zhai et al. 2023 (sigmoid loss).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(queries: Tensor, keys: Tensor, temperature: float | Tensor, exclude_positive: bool = False) -> Tensor:
    """Cross-entropy of picking `keys[i]` for `queries[i]` among all keys: one direction, mean over queries.

    Args:
        queries (`torch.Tensor` of shape `(batch, dim)`): L2-normalised.
        keys (`torch.Tensor` of shape `(num_keys, dim)`): L2-normalised; row `i < batch` is the positive of query `i`.
        temperature (`float` or `torch.Tensor`): Divides the cosine similarity; positive.
        exclude_positive (`bool`): Leave the positive out of the denominator: the decoupled contrastive loss, which is
            no cross-entropy and can be negative.

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Raises:
        ValueError: With `exclude_positive`, if there is no other key.

    Source: van den Oord et al. 2018, eq. 4, with the cosine similarity as its score; `exclude_positive` Yeh et al.
    2022, eq. 6.
    """
    return _pick_positive(queries @ keys.T / temperature, exclude_positive)


def _pick_positive(logits: Tensor, exclude_positive: bool) -> Tensor:
    """Mean over rows of `logits` `(batch, num_keys)`; the positive of row `i` is column `i`."""
    if not exclude_positive:
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    if logits.shape[1] < 2:
        raise ValueError("exclude_positive=True needs two or more pairs per batch: without others there is no loss.")
    itself = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    others = logits.masked_fill(itself, float("-inf"))
    return (others.logsumexp(dim=1) - logits.diagonal()).mean()


def symmetric_info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float | Tensor,
    reduction: Literal["mean_directions", "sum_directions"] = "mean_directions",
    exclude_positive: bool = False,
) -> Tensor:
    """InfoNCE from `first` to `second` and back.

    Args:
        first, second (`torch.Tensor` of shape `(batch, dim)`): L2-normalised; row `i` of both form a pair.
        temperature (`float` or `torch.Tensor`): Divides the cosine similarity; positive.
        reduction (`str`): `"mean_directions"` as CLIP and the papers of MERL and ETP write it, `"sum_directions"` as
            MERL's released code has it.
        exclude_positive (`bool`): As in [`info_nce`].

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Raises:
        ValueError: If there is no such reduction; with `exclude_positive`, if there is only one pair.
    """
    return symmetric_cross_entropy(first @ second.T / temperature, reduction, exclude_positive)


def symmetric_cross_entropy(
    logits: Tensor,
    reduction: Literal["mean_directions", "sum_directions"] = "mean_directions",
    exclude_positive: bool = False,
) -> Tensor:
    """InfoNCE in both directions, of logits: each row picks its column, and each column its row.

    Args:
        logits (`torch.Tensor` of shape `(batch, batch)`): Of every combination; the pairs are on the diagonal.
        reduction, exclude_positive: As in [`symmetric_info_nce`].

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Raises:
        ValueError: As [`symmetric_info_nce`].
    """
    total = _pick_positive(logits, exclude_positive) + _pick_positive(logits.T, exclude_positive)
    if reduction == "sum_directions":
        return total
    if reduction == "mean_directions":
        return total / 2
    raise ValueError(f"reduction must be 'mean_directions' or 'sum_directions', not '{reduction}'.")


def nt_xent(first: Tensor, second: Tensor, temperature: float | Tensor) -> Tensor:
    """Each of the `2 * batch` views picks its partner among all other views; mean over views.

    Args:
        first, second (`torch.Tensor` of shape `(batch, dim)`): L2-normalised; row `i` of both are views of sample `i`.
        temperature (`float` or `torch.Tensor`): Divides the cosine similarity; positive.

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Source: Chen et al. 2020 (SimCLR), eq. 1.
    """
    views = torch.cat([first, second])  # (2 * batch, dim)
    logits = views @ views.T / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(logits.masked_fill(itself, float("-inf")), partner)


def report_pairs(
    report_keys: Tensor, equal_reports: Literal["negative", "positive", "ignored"]
) -> tuple[Tensor, Tensor | None]:
    """Which ECG and which report of a batch belong together, where several records may have equal reports.

    Args:
        report_keys (`torch.Tensor` of shape `(batch, 2)`): Integers: of each record's own report, and of the report
            that stands beside it, which is another one where negatives are drawn.
        equal_reports (`str`): What an ECG and another record's report are if it reads like the ECG's own.

    Returns:
        Two bool `torch.Tensor` of shape `(batch, batch)`: `[i, j]` whether ECG `i` and report `j` are a pair, and
        whether they count as neither; `None` where all count.
    """
    reads_alike = report_keys[:, :1] == report_keys[:, 1]
    if equal_reports == "positive":
        return reads_alike, None
    itself = torch.eye(len(report_keys), dtype=torch.bool, device=report_keys.device)
    return reads_alike & itself, reads_alike & ~itself if equal_reports == "ignored" else None


def sigmoid_pair_loss(
    logits: Tensor,
    is_pair: Tensor | None = None,
    reduction: Literal["mean_rows", "mean_pairs"] = "mean_rows",
    is_ignored: Tensor | None = None,
) -> Tensor:
    """Every combination of `i` and `j` is a binary question: do they belong together?

    Args:
        logits (`torch.Tensor` of shape `(batch, num_candidates)`): Of "yes". SigLIP's are `scale * cosine + bias`, both
            learned from 10 and -10; C-MELT's are dot products.
        is_pair (`torch.Tensor` of shape `(batch, num_candidates)`, *optional*): `True` where the two belong together;
            the diagonal by default.
        reduction (`str`): `"mean_rows"` sums over candidates and averages over the batch (the papers); `"mean_pairs"`
            averages over all combinations that count (D-BETA's released code).
        is_ignored (`torch.Tensor` of shape `(batch, num_candidates)`, *optional*): `True` where no answer counts.

    Returns:
        `torch.Tensor` of shape `()`: Loss in nats.

    Raises:
        ValueError: If there is no such reduction.

    Source: Zhai et al. 2023, algorithm 1.
    """
    if is_pair is None:
        is_pair = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    losses = F.softplus(torch.where(is_pair, -logits, logits))  # -log sigmoid(y * logit) with y = +-1
    if is_ignored is not None:
        losses = losses.masked_fill(is_ignored, 0.0)
    if reduction == "mean_rows":
        return losses.sum(dim=1).mean()
    if reduction == "mean_pairs":
        return losses.mean() if is_ignored is None else losses.sum() / (~is_ignored).sum()
    raise ValueError(f"reduction must be 'mean_rows' or 'mean_pairs', not '{reduction}'.")
