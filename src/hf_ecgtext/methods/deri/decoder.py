"""DERI's parts on token sequences: attention between separators, and the decoders from one modality to the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_ecgtext.methods.deri.configuration_deri import DeriConfig

_SEPARATOR_STD = 0.02  # ours: neither paper nor dossier states it


class SeparatedAttention(nn.Module):
    """Tokens between two copies of a learned separator attend to each other once; no norm, no residual connection.

    Args:
        num_tokens (`int`): Tokens, separators not counted.
        dim (`int`): Token width.
        num_heads (`int`): Attention heads.
    """

    def __init__(self, num_tokens: int, dim: int, num_heads: int):
        super().__init__()
        self.separator = nn.Parameter(torch.empty(dim))
        self.position_embedding = nn.Parameter(torch.empty(1, num_tokens + 2, dim))
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Positions of variance `dim ** -2`, as released."""
        init.normal_(self.separator, std=_SEPARATOR_STD)
        init.normal_(self.position_embedding, std=1.0 / len(self.separator))

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, num_tokens, dim)` to the same shape; the separators are dropped again."""
        separator = self.separator.expand(tokens.shape[0], 1, -1)
        sequence = torch.cat([separator, tokens, separator], dim=1) + self.position_embedding
        attended, _ = self.attention(sequence, sequence, sequence, need_weights=False)
        return attended[:, 1:-1]


class GatedMlp(nn.Module):
    """`fc2(silu(fc1(x)) * fc3(x))`, with dropout behind `fc1` and `fc3`.

    Args:
        dim (`int`): Input and hidden width.
        out_dim (`int`): Output width.
        dropout (`float`): Rate.
    """

    def __init__(self, dim: int, out_dim: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim)
        self.fc2 = nn.Linear(dim, out_dim)
        self.fc3 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def gate(self, hidden: Tensor) -> Tensor:
        """What the last linear map reads: `(..., dim)` to the same shape."""
        return F.silu(self.dropout(self.fc1(hidden))) * self.dropout(self.fc3(hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., dim)` to `(..., out_dim)`."""
        return self.fc2(self.gate(hidden))


class DropPath(nn.Dropout):
    """Drops the whole residual branch of a record, and scales up those that stay."""

    def forward(self, branch: Tensor) -> Tensor:
        """`(batch, num_tokens, dim)` to the same shape."""
        return branch * F.dropout(branch.new_ones(branch.shape[0], 1, 1), self.p, self.training)


class DecoderAttention(nn.Module):
    """Pre-norm multi-head self-attention whose width does not depend on the tokens'."""

    def __init__(self, dim: int, num_heads: int, head_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.to_out = nn.Linear(num_heads * head_dim, dim)

    def forward(self, hidden: Tensor, attended: Tensor | None) -> Tensor:
        """`(batch, length, dim)` to the same shape; `attended` `(batch, 1, 1, length)` is `False` at padding."""
        batch, length, _ = hidden.shape
        qkv = self.to_qkv(self.norm(hidden)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, length, head_dim)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        return self.to_out(context.transpose(1, 2).reshape(batch, length, -1))


class DecoderBlock(GradientCheckpointingLayer):
    """Attention and gated MLP, each pre-norm with a residual connection that a record may skip."""

    def __init__(self, config: DeriConfig, drop_path: float):
        super().__init__()
        dim = config.projection_dim
        self.attention = DecoderAttention(dim, config.num_decoder_heads, config.decoder_head_dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = GatedMlp(dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, hidden: Tensor, attended: Tensor | None) -> Tensor:
        """`(batch, length, dim)` to the same shape."""
        hidden = hidden + self.drop_path(self.attention(hidden, attended))
        return hidden + self.drop_path(self.mlp(self.norm(hidden)))


class FeatureDecoder(nn.Module):
    """Reads the tokens of one modality and predicts one feature vector of the other.

    Args:
        config ([`DeriConfig`]): Size and dropout.
        num_tokens (`int`): Most tokens that it can read, separators not counted.
        out_dim (`int`): Width of the predicted features.
    """

    def __init__(self, config: DeriConfig, num_tokens: int, out_dim: int):
        super().__init__()
        dim, depth = config.projection_dim, config.num_decoder_layers
        self.embedding = GatedMlp(dim, dim, config.decoder_dropout)
        self.separator = nn.Parameter(torch.empty(dim))
        self.position_embedding = nn.Parameter(torch.empty(1, num_tokens + 2, dim))
        self.blocks = nn.ModuleList(
            DecoderBlock(config, config.decoder_drop_path * index / max(depth - 1, 1)) for index in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = GatedMlp(dim, out_dim, config.decoder_dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Positions of unit variance, as released."""
        init.normal_(self.separator, std=_SEPARATOR_STD)
        init.normal_(self.position_embedding, std=1.0)

    def forward(self, tokens: Tensor, is_real: Tensor | None = None) -> Tensor:
        """Decode the features of a batch.

        Args:
            tokens (`torch.Tensor` of shape `(batch, length, dim)`): At most `num_tokens`; fewer have the first
                positions.
            is_real (`torch.Tensor` of shape `(batch, length)`, *optional*): `False` at padding, which is then neither
                attended nor averaged.

        Returns:
            `torch.Tensor` of shape `(batch, out_dim)`: Mean over the tokens.
        """
        length = tokens.shape[1]
        first, middle, last = self.position_embedding.split([1, self.position_embedding.shape[1] - 2, 1], dim=1)
        separator = self.separator.expand(tokens.shape[0], 1, -1)
        hidden = torch.cat([separator + first, self.embedding(tokens) + middle[:, :length], separator + last], dim=1)
        attended = None if is_real is None else F.pad(is_real, (1, 1), value=True)[:, None, None]
        for block in self.blocks:
            hidden = block(hidden, attended)
        # The head ends in a linear map, so averaging before it saves that map for every token but one.
        gated = self.head.gate(self.norm(hidden[:, 1:-1]))  # (batch, length, dim)
        if is_real is None:
            return self.head.fc2(gated.mean(dim=1))
        weight = is_real.to(gated.dtype).unsqueeze(-1)
        return self.head.fc2((gated * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0))
