"""Projection heads from a tower's width into the shared space."""

from __future__ import annotations

from typing import Literal

from torch import nn

ProjectionType = Literal["linear", "mlp"]


def projection_head(in_features: int, out_features: int, kind: ProjectionType) -> nn.Sequential:
    """A linear map, or two with a GELU between them (`"mlp"`, hidden width `out_features`)."""
    first = nn.Linear(in_features, out_features)
    if kind == "linear":
        return nn.Sequential(first)
    if kind == "mlp":
        return nn.Sequential(first, nn.GELU(), nn.Linear(out_features, out_features))
    raise ValueError(f"projection must be 'linear' or 'mlp', not '{kind}'.")
