"""One-dimensional vision transformers for ECGs, in the form that MERL published."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import EcgConfig, EcgEncoder, check_ecg_shape, mask_missing_leads

_SIZES = {"tiny": (192, 3), "small": (384, 6), "middle": (512, 8), "base": (768, 12)}


@strict
class Vit1dConfig(EcgConfig):
    """Settings of [`Vit1dModel`]; the defaults are MERL's ViT-tiny.

    Args:
        num_leads (`int`): Input channels; a patch mixes all of them.
        num_samples (`int`): Input length; a multiple of `patch_size`.
        patch_size (`int`): Samples per token.
        hidden_size (`int`): Token width.
        num_hidden_layers (`int`): Pre-norm blocks.
        num_attention_heads (`int`): Heads per block.
        head_dim (`int`): Width of a head; 64 at every published size.
        intermediate_size (`int`): Width of the feed-forward layer.
    """

    model_type = "ecg_vit1d"

    num_leads: int = 12
    num_samples: int = 5000
    patch_size: int = 50
    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    head_dim: int = 64
    intermediate_size: int = 768

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> Vit1dConfig:
        """The published size: `"tiny"`, `"small"`, `"middle"` or `"base"`.

        Raises:
            ValueError: If there is no such size.
        """
        if size not in _SIZES:
            raise ValueError(f"There is no published ViT of size '{size}'; choose from {list(_SIZES)}.")
        width, heads = _SIZES[size]
        return cls(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, **kwargs)

    def validate_architecture(self) -> None:
        """Called by `@strict`."""
        sizes = ("num_leads", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim")
        for name in (*sizes, "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.num_samples < self.patch_size or self.num_samples % self.patch_size:
            raise ValueError(f"num_samples {self.num_samples} is not a multiple of patch_size {self.patch_size}.")

    @property
    def num_tokens(self) -> int:
        """Patches per recording; 100 for 5000 samples."""
        return self.num_samples // self.patch_size


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention."""

    def __init__(self, config: Vit1dConfig):
        super().__init__()
        inner = config.num_attention_heads * config.head_dim
        self.num_heads = config.num_attention_heads
        self.norm = nn.LayerNorm(config.hidden_size)
        self.to_qkv = nn.Linear(config.hidden_size, 3 * inner)
        self.to_out = nn.Linear(inner, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, tokens, hidden_size)` to the same shape."""
        batch, tokens, _ = hidden.shape
        qkv = self.to_qkv(self.norm(hidden)).view(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, tokens, head_dim)
        context = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(context.transpose(1, 2).reshape(batch, tokens, -1))


class Vit1dBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each pre-norm with a residual connection."""

    def __init__(self, config: Vit1dConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.mlp = nn.Sequential(
            nn.LayerNorm(config.hidden_size),
            nn.Linear(config.hidden_size, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, config.hidden_size),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, tokens, hidden_size)` to the same shape."""
        hidden = hidden + self.attention(hidden)
        return hidden + self.mlp(hidden)


class Vit1dModel(EcgEncoder):
    """Transformer over time patches; there is no class token: tokens are averaged, then normalised.

    Source: MERL's published architecture (docs/methods/merl.md); `tests/methods/merl` proves parity.
    """

    config_class = Vit1dConfig

    def __init__(self, config: Vit1dConfig):
        super().__init__(config)
        self.patch_embedding = nn.Conv1d(
            config.num_leads, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Parameter(torch.empty(1, config.num_tokens, config.hidden_size))
        self.layers = nn.ModuleList(Vit1dBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.position_embedding, std=1.0)  # not the usual 0.02; as released

    def forward(self, ecg_values: Tensor, lead_mask: Tensor | None = None, **_: Any) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.

        Returns:
            `last_hidden_state` `(batch, num_tokens, hidden_size)`, before the final norm; `pooler_output` is its mean
            over tokens, normalised.
        """
        check_ecg_shape(ecg_values, self.config.num_leads, self.config.num_samples)
        # The processor's float32 becomes the weights' type; under autocast the weights are float32 themselves.
        patches = mask_missing_leads(ecg_values.to(self.patch_embedding.weight.dtype), lead_mask)
        hidden = self.patch_embedding(patches).transpose(1, 2)
        hidden = hidden + self.position_embedding  # (batch, tokens, hidden_size)
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.norm(hidden.mean(dim=1)))


AutoConfig.register(Vit1dConfig.model_type, Vit1dConfig)
AutoModel.register(Vit1dConfig, Vit1dModel)
