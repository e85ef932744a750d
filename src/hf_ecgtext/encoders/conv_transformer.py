"""Strided convolutions and a post-norm transformer for ECGs, in the form that D-BETA (C-MELT) published."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import EcgConfig, EcgEncoder, check_ecg_shape, mask_missing_leads
from hf_ecgtext.encoders.masking import gather_tokens, scatter_tokens

PoolerOrder = Literal["dense_tanh", "tanh_dense"]


@strict
class ConvTransformerConfig(EcgConfig):
    """Settings of [`ConvTransformerModel`]; the defaults are D-BETA's.

    Args:
        num_leads (`int`): Input channels.
        num_samples (`int`): Input length; samples behind the last whole patch belong to no token.
        conv_dim (`int`): Channels of the convolutions.
        num_conv_layers (`int`): Convolutions of kernel 2 and stride 2; a patch is `2 ** num_conv_layers` samples.
        conv_norm (`str`): Normalisation over time, per channel: between the first convolution and its GELU (`"first"`,
            D-BETA), or behind each convolution and its GELU (`"each"`, C-MELT's paper).
        hidden_size (`int`): Token width.
        num_hidden_layers (`int`): Post-norm blocks.
        num_attention_heads (`int`): Heads per block.
        intermediate_size (`int`): Width of the feed-forward layer.
        position_kernel_size, position_groups (`int`): Of the convolution that encodes positions.
        dropout, attention_dropout (`float`): Rates.
        pooling (`str`): What represents the recording: the `"class_token"`, or the `"mean"` of the other tokens.
        add_pooler (`bool`): Dense and tanh behind that; without it `pooler_output` is that itself.
        pooler_order (`str`): `"dense_tanh"` (D-BETA) or `"tanh_dense"` (the order in which C-MELT's paper names them).
        leak_free_masking (`bool`): With hidden patches, compute everything from visible ones alone: they are cut out
            before the first convolution, and zeros stand in their places where positions are encoded. `False` is the
            release, where hidden patches still reach visible tokens, through the normalisation over time and through
            the convolution that encodes positions.
        initializer_range (`float`): Standard deviation of the linear layers' initial weights.
    """

    model_type = "ecg_conv_transformer"

    # architecture
    num_leads: int = 12
    num_samples: int = 5000
    conv_dim: int = 256
    num_conv_layers: int = 4
    conv_norm: Literal["first", "each"] = "first"
    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    position_kernel_size: int = 128
    position_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooling: Literal["class_token", "mean"] = "class_token"
    add_pooler: bool = True
    pooler_order: PoolerOrder = "dense_tanh"
    leak_free_masking: bool = True
    # initialisation
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """Called by `@strict`."""
        sizes = ("num_leads", "conv_dim", "num_conv_layers", "hidden_size", "num_hidden_layers", "intermediate_size")
        for name in (*sizes, "position_kernel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("num_attention_heads", "position_groups"):
            if getattr(self, name) < 1 or self.hidden_size % getattr(self, name):
                raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {name} {getattr(self, name)}.")
        if self.num_samples < self.patch_size:
            raise ValueError(
                f"num_samples {self.num_samples} is less than one patch of {self.patch_size} samples; lower "
                "num_conv_layers."
            )
        if self.conv_norm == "each" and self.num_tokens < 2:
            raise ValueError(
                f"conv_norm='each' makes the only patch of {self.num_samples} samples 0: lower num_conv_layers, or set "
                "conv_norm='first'."
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}.")

    @property
    def patch_size(self) -> int:
        """Samples per token; 16."""
        return int(2**self.num_conv_layers)

    @property
    def num_tokens(self) -> int:
        """Patches per recording, the class token not counted; 312 for 5000 samples."""
        return self.num_samples // self.patch_size


class Attention(nn.Module):
    """Multi-head attention of one sequence to itself or to another.

    Args:
        width (`int`): Of both sequences; a multiple of `num_heads`.
        num_heads (`int`): Heads.
        dropout (`float`): Rate on the attention weights.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.attention_dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            hidden (`torch.Tensor` of shape `(batch, tokens, width)`): What asks.
            context (`torch.Tensor` of shape `(batch, context_tokens, width)`, *optional*): What is read; `hidden`
                itself by default.
            mask (`torch.Tensor` of shape `(batch, 1, 1, context_tokens)`, *optional*): `True` where to read.

        Returns:
            `torch.Tensor` of shape `(batch, tokens, width)`.
        """
        context = hidden if context is None else context
        query, key, value = (
            layer(sequence).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, heads, tokens, head_dim)
            for layer, sequence in ((self.query, hidden), (self.key, context), (self.value, context))
        )
        rate = self.attention_dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.output(attended.transpose(1, 2).flatten(2))


class TanhPooler(nn.Module):
    """Dense and tanh, in either order."""

    def __init__(self, width: int, order: PoolerOrder = "dense_tanh"):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.order = order

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., width)` to the same shape."""
        if self.order == "tanh_dense":
            return self.dense(torch.tanh(hidden))
        return torch.tanh(self.dense(hidden))


class ConvStem(nn.Module):
    """Patches become tokens. Kernel equals stride, so that a token sees its own patch only.

    The exception is the normalisation behind the first convolution, or behind each, which has one mean and variance per
    recording and channel, over all samples that are given.
    """

    def __init__(self, config: ConvTransformerConfig):
        super().__init__()
        widths = [config.num_leads] + [config.conv_dim] * config.num_conv_layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, config.conv_dim, kernel_size=2, stride=2, bias=False) for width in widths[:-1]
        )
        if config.conv_norm == "first":
            self.instance_norm = nn.GroupNorm(config.conv_dim, config.conv_dim)
        else:
            self.instance_norms = nn.ModuleList(nn.GroupNorm(config.conv_dim, config.conv_dim) for _ in widths[:-1])
        self.conv_norm = config.conv_norm
        self.token_norm = nn.LayerNorm(config.conv_dim)
        self.projection = nn.Linear(config.conv_dim, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ecg_values: Tensor) -> Tensor:
        """`(batch, num_leads, num_samples)` to `(batch, num_samples // patch_size, hidden_size)`."""
        hidden = ecg_values
        for index, convolution in enumerate(self.convolutions):
            hidden = convolution(hidden)
            if self.conv_norm == "each":
                hidden = _normalise(F.gelu(hidden), cast(nn.GroupNorm, self.instance_norms[index]))
            else:
                hidden = F.gelu(_normalise(hidden, self.instance_norm) if index == 0 else hidden)
        return self.dropout(self.projection(self.token_norm(hidden.transpose(1, 2))))


def _normalise(hidden: Tensor, norm: nn.GroupNorm) -> Tensor:
    wide = torch.promote_types(hidden.dtype, torch.float32)  # variances over thousands of samples
    normalised = F.group_norm(hidden.to(wide), norm.num_groups, norm.weight.to(wide), norm.bias.to(wide), norm.eps)
    return normalised.to(hidden.dtype)


class ConvPositionEncoding(nn.Module):
    """A wide grouped convolution over the tokens, whose weight has a learned norm per tap; then a GELU."""

    def __init__(self, config: ConvTransformerConfig):
        super().__init__()
        width, self.groups, taps = config.hidden_size, config.position_groups, config.position_kernel_size
        self.weight_direction = nn.Parameter(torch.empty(width, width // self.groups, taps))
        self.weight_magnitude = nn.Parameter(torch.empty(1, 1, taps))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As wav2vec 2.0 starts: variance `4 / (taps * width)`, no bias."""
        width, _, taps = self.weight_direction.shape
        init.normal_(self.weight_direction, std=math.sqrt(4.0 / (taps * width)))
        with torch.no_grad():
            init.copy_(self.weight_magnitude, self.weight_direction.norm(dim=(0, 1), keepdim=True))
        init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, num_tokens, hidden_size)` to the same shape."""
        norm = self.weight_direction.norm(dim=(0, 1), keepdim=True)
        weight = self.weight_direction * (self.weight_magnitude / norm)
        padding = weight.shape[-1] // 2  # an even kernel yields one position too many, the last one
        encoded = F.conv1d(tokens.transpose(1, 2), weight, self.bias, padding=padding, groups=self.groups)
        return F.gelu(encoded[..., : tokens.shape[1]]).transpose(1, 2)


class ConvTransformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each with a residual connection and a norm behind it."""

    def __init__(self, config: ConvTransformerConfig):
        super().__init__()
        width = config.hidden_size
        self.attention = Attention(width, config.num_attention_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.intermediate_size), nn.GELU(), nn.Linear(config.intermediate_size, width)
        )
        self.output_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, tokens, hidden_size)` to the same shape."""
        hidden = self.attention_norm(hidden + self.dropout(self.attention(hidden)))
        return self.output_norm(hidden + self.dropout(self.mlp(hidden)))


class ConvTransformerModel(EcgEncoder):
    """Convolutional stem, convolutional positions, class token, post-norm blocks, a projection and a pooler.

    Source: D-BETA's released architecture, and by `conv_norm` and `pooler_order` what C-MELT's paper says instead
    (docs/methods/cmelt.md); `tests/methods/cmelt` proves parity with the former.
    """

    config_class = ConvTransformerConfig
    config: ConvTransformerConfig

    def __init__(self, config: ConvTransformerConfig):
        super().__init__(config)
        width = config.hidden_size
        self.stem = ConvStem(config)
        self.position = ConvPositionEncoding(config)
        self.class_token = nn.Parameter(torch.empty(width))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConvTransformerLayer(config) for _ in range(config.num_hidden_layers))
        self.projection = nn.Linear(width, width)
        self.pooler = TanhPooler(width, config.pooler_order) if config.add_pooler else None
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.uniform_(self.class_token)  # as released
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight)  # as wav2vec 2.0
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)

    def forward(
        self, ecg_values: Tensor, lead_mask: Tensor | None = None, visible: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Encode a batch, or the visible patches of it.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled by the processor.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            visible (`torch.Tensor` of shape `(batch, keep)`, *optional*): Ascending places of the patches that are
                encoded; the others are dropped.

        Returns:
            `last_hidden_state` `(batch, 1 + num_tokens, hidden_size)`, or `(batch, 1 + keep, hidden_size)`: the
            projected class token and patch tokens; `pooler_output` `(batch, hidden_size)`: what `pooling` takes of
            them, through the pooler where there is one.
        """
        check_ecg_shape(ecg_values, self.config.num_leads, self.config.num_samples)
        # The processor's float32 becomes the weights' type; under autocast the weights are float32 themselves.
        ecg_values = mask_missing_leads(ecg_values.to(self.class_token.dtype), lead_mask)
        hidden = self.embed_patches(ecg_values, visible)
        class_token = self.class_token.to(hidden.dtype).expand(hidden.shape[0], 1, -1)
        hidden = self.dropout(self.norm(torch.cat([class_token, hidden], dim=1)))
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.projection(hidden)
        whole = hidden[:, 0] if self.config.pooling == "class_token" else hidden[:, 1:].mean(dim=1)
        pooled = whole if self.pooler is None else self.pooler(whole)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    def embed_patches(self, ecg_values: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens with their positions, before the blocks: `(batch, num_tokens or keep, hidden_size)`."""
        if visible is None:
            tokens = self.stem(ecg_values)
            return tokens + self.position(tokens)
        if not self.config.leak_free_masking:
            tokens = self.stem(ecg_values)
            return gather_tokens(tokens + self.position(tokens), visible)
        tokens = self.stem(self._gather_samples(ecg_values, visible))  # (batch, keep, hidden_size)
        nothing = tokens.new_zeros(1, 1, 1)
        positions = self.position(scatter_tokens(tokens, visible, nothing, self.config.num_tokens))
        return tokens + gather_tokens(positions, visible)

    def _gather_samples(self, ecg_values: Tensor, visible: Tensor) -> Tensor:
        """The samples of visible patches, one patch after the other: `(batch, num_leads, keep * patch_size)`."""
        num_tokens, patch_size = self.config.num_tokens, self.config.patch_size
        patches = ecg_values[..., : num_tokens * patch_size].unflatten(-1, (num_tokens, patch_size))
        places = visible[:, None, :, None].expand(-1, patches.shape[1], -1, patch_size)
        return patches.gather(2, places).flatten(2)


AutoConfig.register(ConvTransformerConfig.model_type, ConvTransformerConfig)
AutoModel.register(ConvTransformerConfig, ConvTransformerModel)
