"""A transformer over the lead-by-time grid of an ECG: every token is one patch of one lead.

CG-DMER's encoder. Since each lead is cut and embedded on its own, patches can be hidden lead by lead, and a hidden one
is not encoded at all.
"""

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
from hf_ecgtext.encoders.masking import gather_tokens


@strict
class LeadTimeTransformerConfig(EcgConfig):
    """Settings of [`LeadTimeTransformerModel`]; the defaults are our reading of CG-DMER (12 leads x 100 patches).

    Args:
        num_leads (`int`): Input channels.
        num_samples (`int`): Input length; a multiple of `patch_size`.
        patch_size (`int`): Samples per token.
        conv_channels (`list[int]`): Channels of the convolutions inside a patch, one entry per layer.
        conv_kernel_sizes (`list[int]`): Odd; padded, so that a convolution of stride 1 keeps the length.
        conv_strides (`list[int]`): One entry per layer.
        conv_groups (`int`): Groups of the group norm behind each convolution; divides every entry of `conv_channels`.
        hidden_size (`int`): Token width; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`): Pre-norm blocks.
        num_attention_heads (`int`): Heads per block.
        intermediate_size (`int`): Width of the feed-forward layer.
    """

    model_type = "ecg_lead_time_transformer"

    # input
    num_leads: int = 12
    num_samples: int = 5000
    patch_size: int = 50
    # tokeniser: the paper gives no sizes
    conv_channels: list[int] | tuple[int, ...] = (32, 32, 32)
    conv_kernel_sizes: list[int] | tuple[int, ...] = (15, 3, 3)
    conv_strides: list[int] | tuple[int, ...] = (5, 1, 1)
    conv_groups: int = 4
    # transformer: only the number of layers is in the paper
    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 12
    intermediate_size: int = 3072

    def validate_architecture(self) -> None:
        """Called by `@strict`."""
        for name in ("num_leads", "hidden_size", "num_hidden_layers", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.patch_size < 1 or self.num_samples < 1 or self.num_samples % self.patch_size:
            raise ValueError(f"num_samples {self.num_samples} is not a multiple of patch_size {self.patch_size}.")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )

    def validate_tokeniser(self) -> None:
        """Called by `@strict`."""
        lengths = {len(self.conv_channels), len(self.conv_kernel_sizes), len(self.conv_strides)}
        entries = [*self.conv_channels, *self.conv_kernel_sizes, *self.conv_strides]
        if len(lengths) > 1 or min(entries, default=0) < 1:
            raise ValueError(
                f"conv_channels {self.conv_channels}, conv_kernel_sizes {self.conv_kernel_sizes} and conv_strides "
                f"{self.conv_strides} must have one positive entry per layer."
            )
        if any(size % 2 == 0 for size in self.conv_kernel_sizes):
            raise ValueError(f"conv_kernel_sizes {self.conv_kernel_sizes} must be odd.")
        if self.conv_groups < 1 or any(channels % self.conv_groups for channels in self.conv_channels):
            raise ValueError(f"conv_channels {self.conv_channels} are not multiples of conv_groups {self.conv_groups}.")

    @property
    def num_patches(self) -> int:
        """Patches per lead; 100 for 5000 samples."""
        return self.num_samples // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patches of all leads; 1200 for 12 x 5000 samples."""
        return self.num_leads * self.num_patches


class PatchTokeniser(nn.Module):
    """Convolutions inside one patch of one lead, each followed by GELU and group norm, then a linear map.

    Nothing is shared between patches: they are the batch of the convolutions.
    """

    def __init__(self, config: LeadTimeTransformerConfig):
        super().__init__()
        channels = [1, *config.conv_channels]
        layers: list[nn.Module] = []
        length = config.patch_size
        for index, (size, stride) in enumerate(zip(config.conv_kernel_sizes, config.conv_strides, strict=True)):
            layers += [
                nn.Conv1d(channels[index], channels[index + 1], size, stride=stride, padding=size // 2),
                nn.GELU(),
                nn.GroupNorm(config.conv_groups, channels[index + 1]),
            ]
            length = (length - 1) // stride + 1
        self.convolutions = nn.Sequential(*layers)
        self.projection = nn.Linear(channels[-1] * length, config.hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        """`(batch, tokens, patch_size)` to `(batch, tokens, hidden_size)`."""
        batch, tokens, _ = patches.shape
        features = self.convolutions(patches.flatten(0, 1).unsqueeze(1))  # (batch * tokens, channels, length)
        return self.projection(features.flatten(1)).view(batch, tokens, -1)


class MultiHeadAttention(nn.Module):
    """Multi-head attention of queries to a context, or to themselves.

    Args:
        hidden_size (`int`): Width of queries and output.
        num_heads (`int`): Divides `hidden_size`.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_query = nn.Linear(hidden_size, hidden_size)
        self.to_key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.to_out = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, queries: Tensor, context: Tensor, key_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend.

        Args:
            queries (`torch.Tensor` of shape `(batch, tokens, hidden_size)`): Who asks.
            context (`torch.Tensor` of shape `(batch, context_tokens, hidden_size)`): Who is asked.
            key_mask (`torch.Tensor` of shape `(batch, context_tokens)`, *optional*): `False` for tokens of the context
                that nobody may attend to; not together with `is_causal`.
            is_causal (`bool`): Token `i` attends to the context's tokens 0 to `i` only.
        """
        batch, tokens, _ = queries.shape
        query = self.to_query(queries).view(batch, tokens, self.num_heads, -1).transpose(1, 2)
        key, value = (
            self.to_key_value(context).view(batch, context.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        ).unbind(0)  # (batch, heads, context_tokens, head_dim)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
        return self.to_out(attended.transpose(1, 2).reshape(batch, tokens, -1))


class TransformerBlock(GradientCheckpointingLayer):
    """Self-attention and feed-forward, each pre-norm with a residual connection.

    Args:
        hidden_size, num_heads, intermediate_size (`int`): Widths and heads.
    """

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = MultiHeadAttention(hidden_size, num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, intermediate_size),
            nn.GELU(),
            nn.Linear(intermediate_size, hidden_size),
        )

    def forward(self, hidden: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """`(batch, tokens, hidden_size)` to the same shape; `key_mask` `(batch, tokens)` as in the attention."""
        normed = self.attention_norm(hidden)
        hidden = hidden + self.attention(normed, normed, key_mask)
        return hidden + self.mlp(hidden)


class LeadTimeEmbedding(nn.Module):
    """A learned vector per place in time and one per lead; a token gets the sum of its two.

    Args:
        num_leads, num_patches, hidden_size (`int`): Shape of the grid and of a token.
    """

    def __init__(self, num_leads: int, num_patches: int, hidden_size: int):
        super().__init__()
        self.time = nn.Parameter(torch.empty(num_patches, hidden_size))
        self.lead = nn.Parameter(torch.empty(num_leads, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with a standard deviation of 0.02, as ViT and MAE have it."""
        init.normal_(self.time, std=0.02)
        init.normal_(self.lead, std=0.02)

    def forward(self) -> Tensor:
        """Of all tokens, lead by lead: `(num_leads * num_patches, hidden_size)`."""
        return (self.lead.unsqueeze(1) + self.time).flatten(0, 1)


def to_patches(ecg_values: Tensor, patch_size: int) -> Tensor:
    """Cut every lead: `(batch, num_leads, num_samples)` to `(batch, num_tokens, patch_size)`, lead by lead."""
    return ecg_values.reshape(ecg_values.shape[0], -1, patch_size)


class LeadTimeTransformerModel(EcgEncoder):
    """Transformer over all patches of all leads, or over the visible ones only.

    Source: CG-DMER (arXiv 2602.21154), section 2 and eq. 1; the sizes that it leaves open are fields of the config.
    """

    config_class = LeadTimeTransformerConfig

    def __init__(self, config: LeadTimeTransformerConfig):
        super().__init__(config)
        self.tokeniser = PatchTokeniser(config)
        self.position_embedding = LeadTimeEmbedding(config.num_leads, config.num_patches, config.hidden_size)
        self.layers = nn.ModuleList(
            TransformerBlock(config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.gradient_checkpointing = False
        self.post_init()

    def token_mask(self, lead_mask: Tensor | None) -> Tensor | None:
        """`(batch, num_leads)` to `(batch, num_tokens)`: `False` for every token of a missing lead."""
        return None if lead_mask is None else lead_mask.bool().repeat_interleave(self.config.num_patches, dim=1)

    def forward(
        self, ecg_values: Tensor, lead_mask: Tensor | None = None, visible: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPooling:
        """Encode a batch. Tokens of missing leads are neither attended to nor counted in the mean.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            visible (`torch.Tensor` of shape `(batch, keep)`, *optional*): Places of the tokens to encode, out of
                `num_tokens` that are counted lead by lead; all by default. The others are dropped before the first
                convolution.

        Returns:
            `last_hidden_state` `(batch, num_tokens or keep, hidden_size)` behind the final norm; `pooler_output`
            `(batch, hidden_size)` is its mean over the tokens of present leads.
        """
        check_ecg_shape(ecg_values, self.config.num_leads, self.config.num_samples)
        # The processor's float32 becomes the weights' type; under autocast the weights are float32 themselves.
        signal = mask_missing_leads(ecg_values.to(self.norm.weight.dtype), lead_mask)
        patches, positions, key_mask = (
            to_patches(signal, self.config.patch_size),
            self.position_embedding(),
            self.token_mask(lead_mask),
        )
        if visible is not None:
            patches, positions = gather_tokens(patches, visible), F.embedding(visible, positions)
            key_mask = None if key_mask is None else key_mask.gather(1, visible)
        hidden = self.tokeniser(patches) + positions  # (batch, tokens, hidden_size)
        for layer in self.layers:
            hidden = layer(hidden, key_mask=key_mask)
        tokens = self.norm(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=_mean(tokens, key_mask))


def _mean(tokens: Tensor, key_mask: Tensor | None) -> Tensor:
    if key_mask is None:
        return tokens.mean(dim=1)
    weights = key_mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


AutoConfig.register(LeadTimeTransformerConfig.model_type, LeadTimeTransformerConfig)
AutoModel.register(LeadTimeTransformerConfig, LeadTimeTransformerModel)
