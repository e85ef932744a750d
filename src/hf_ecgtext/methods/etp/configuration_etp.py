"""Settings of ETP (Liu et al., ICASSP 2024)."""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from hf_ecgtext.encoders.heads import ProjectionType
from hf_ecgtext.encoders.text import TextPooling
from hf_ecgtext.methods.base import EcgTextConfig

LARGEST_LOGIT_SCALE = 100.0
"""CLIP's bound on the inverse of a temperature that is learned."""


@strict
class EtpConfig(EcgTextConfig):
    """Settings of [`EtpModel`]. No code was published; each reading of the paper is listed in docs/methods/etp.md.

    Args:
        projection_type (`str`): `"linear"` (§1, §3.2 of the paper) or `"mlp"` (§2.1, "non-linear projectors").
        temperature (`float`): 0.07.
        learnable_temperature (`bool`): Train the temperature (§3.2 says "initialized to 0.07", §2.1 "fixed"). It then
            stays at or above 0.01, as in CLIP.
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
        if self.learnable_temperature and self.temperature < 1.0 / LARGEST_LOGIT_SCALE:
            raise ValueError(
                f"A learnable temperature starts at {1.0 / LARGEST_LOGIT_SCALE:g}, its lower bound, or above, not at "
                f"{self.temperature}; set learnable_temperature=False for a smaller one."
            )
