"""What C-MELT reconstructs from fused tokens: masked words of the report, hidden patches of the ECG."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_ecgtext.encoders.conv_transformer import Attention
from hf_ecgtext.encoders.masking import scatter_tokens
from hf_ecgtext.methods.cmelt.configuration_cmelt import CmeltConfig
from hf_ecgtext.methods.cmelt.fusion import BERT_EPS


class MaskedTextHead(nn.Module):
    """Which word stood here: one score per word of the vocabulary, with or without dense, GELU and norm before it."""

    def __init__(self, config: CmeltConfig):
        super().__init__()
        width = config.projection_dim
        self.has_transform = config.mlm_head == "transform"
        if self.has_transform:
            self.dense = nn.Linear(width, width)
            self.norm = nn.LayerNorm(width, eps=BERT_EPS)
        self.vocabulary = nn.Linear(width, config.text_config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, num_masked, width)` to `(batch, num_masked, vocab_size)`."""
        if self.has_transform:
            tokens = self.norm(F.gelu(self.dense(tokens)))
        return self.vocabulary(tokens)


class QuickGelu(nn.Module):
    """The approximation of GELU that CLIP uses."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Elementwise."""
        return hidden * torch.sigmoid(1.702 * hidden)


class DecoderBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each pre-norm with a residual connection, as in CLIP."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), QuickGelu(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, tokens, width)` to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.mlp(hidden)


class MaskedEcgHead(nn.Module):
    """A small transformer that fills in hidden patches, with a mask token in the place of each."""

    def __init__(self, config: CmeltConfig):
        super().__init__()
        width, ecg = config.mem_decoder_hidden_size, config.ecg_config
        self.num_tokens = ecg.num_tokens
        self.embedding = nn.Linear(config.projection_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_dropout = nn.Dropout(config.fusion_dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(width, config.mem_decoder_num_attention_heads) for _ in range(config.mem_decoder_num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.prediction = nn.Linear(width, ecg.num_leads * ecg.patch_size)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Predict every patch.

        Args:
            tokens (`torch.Tensor` of shape `(batch, 1 + keep, width)`): Class token and visible tokens.
            visible (`torch.Tensor` of shape `(batch, keep)`): Places of the visible patches.

        Returns:
            `torch.Tensor` of shape `(batch, num_tokens, num_leads * patch_size)`: Lead by lead.
        """
        hidden = self.embedding(tokens)
        patches = scatter_tokens(hidden[:, 1:], visible, self.mask_token, self.num_tokens)
        hidden = torch.cat([hidden[:, :1], patches], dim=1)  # (batch, 1 + num_tokens, decoder_width)
        positions = sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden.device).to(hidden.dtype)
        hidden = self.position_dropout(hidden + positions)
        for block in self.blocks:
            hidden = block(hidden)
        return self.prediction(self.norm(hidden))[:, 1:]


def sinusoidal_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sines in even and cosines in odd places, `(length, width)`.

    Source: Vaswani et al. 2017, section 3.5.
    """
    places = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = places * rates  # (length, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
