"""Settings of MERL (Liu et al., ICML 2024)."""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from hf_ecgtext.methods.base import EcgTextConfig


@strict
class MerlConfig(EcgTextConfig):
    """Settings of [`MerlModel`]. Defaults: ResNet18, our reading of paper and code (docs/methods/merl.md).

    Args:
        num_attention_heads (`int`): Heads of the attention pool behind a ResNet.
        double_cls_position (`bool`): Add position 0 to the pool's class token twice, as the released code does and
            its weights expect.
        temperature (`float`): Of both contrastive terms; constant.
        uma_dropout (`float`): Dropout rate that makes two views of one ECG embedding.
        cma_weight, uma_weight (`float`): Weights of cross-modal and uni-modal alignment.
        loss_reduction (`str`): `"mean_directions"` (paper) or `"sum_directions"` (released code).
        gather_with_grad (`bool`): Exact full-batch gradient under several processes; `False` is the released code's.
        probe_feature (`str`): What a linear probe reads: `"backbone_pool"` (released code) or `"aligned"`.
    """

    model_type = "merl"

    # architecture
    num_attention_heads: int = 4
    double_cls_position: bool = True
    # objective
    temperature: float = 0.07
    uma_dropout: float = 0.1
    cma_weight: float = 1.0
    uma_weight: float = 1.0
    loss_reduction: Literal["mean_directions", "sum_directions"] = "mean_directions"
    gather_with_grad: bool = True
    # evaluation
    probe_feature: Literal["backbone_pool", "aligned"] = "backbone_pool"

    def validate_objective(self) -> None:
        """Called by `@strict`."""
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}.")
        if not 0 <= self.uma_dropout < 1:
            raise ValueError(f"uma_dropout must lie in [0, 1), not {self.uma_dropout}.")
        for name in ("cma_weight", "uma_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}.")
        if self.num_attention_heads < 1 or self.projection_dim % self.num_attention_heads:
            raise ValueError(
                f"projection_dim {self.projection_dim} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}."
            )
