"""Settings of ETP (Liu et al., ICASSP 2024)."""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from hf_ecgtext.encoders.heads import ProjectionType
from hf_ecgtext.encoders.text import TextPooling
from hf_ecgtext.methods.base import EcgTextConfig


@strict
class EtpConfig(EcgTextConfig):
    """Settings of [`EtpModel`]. No code was published; each reading of the paper is listed in PAPERS.md.

    Args:
        projection_type (`str`): `"linear"` (§1, §3.2 of the paper) or `"mlp"` (§2.1, "non-linear projectors").
        temperature (`float`): 0.07.
        learnable_temperature (`bool`): Train the temperature (§3.2 says "initialized to 0.07", §2.1 "fixed").
        loss_reduction (`str`): `"mean_directions"` (eq. 5) or `"sum_directions"`.
    """

    model_type = "etp"

    # architecture
    projection_dim: int = 512
    text_pooling: TextPooling = "cls"
    projection_type: ProjectionType = "linear"
    # objective
    temperature: float = 0.07
    learnable_temperature: bool = False
    loss_reduction: Literal["mean_directions", "sum_directions"] = "mean_directions"

    def validate_objective(self) -> None:
        """Called by `@strict`."""
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}.")
