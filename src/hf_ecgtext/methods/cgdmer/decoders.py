"""What CG-DMER reconstructs with: a decoder of ECG patches, and two ways to predict masked tokens of a report."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_ecgtext.encoders.lead_time_transformer import LeadTimeEmbedding, MultiHeadAttention, TransformerBlock
from hf_ecgtext.encoders.masking import gather_tokens, scatter_tokens
from hf_ecgtext.methods.cgdmer.configuration_cgdmer import CgdmerConfig


class EcgDecoder(nn.Module):
    """Predicts every patch from the encoded visible ones; hidden ones enter as one shared vector and their place."""

    def __init__(self, config: CgdmerConfig):
        super().__init__()
        encoder, width = config.ecg_config, config.decoder_hidden_size
        self.num_tokens = encoder.num_tokens
        self.projection = nn.Linear(encoder.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = LeadTimeEmbedding(encoder.num_leads, encoder.num_patches, width)
        self.layers = nn.ModuleList(
            TransformerBlock(width, config.decoder_num_heads, 4 * width) for _ in range(config.decoder_num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_patch = nn.Linear(width, encoder.patch_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The mask token starts as MAE starts it."""
        init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor, key_mask: Tensor | None) -> Tensor:
        """Predict.

        Args:
            tokens (`torch.Tensor` of shape `(batch, keep, hidden_size)`): Encoded visible patches.
            visible (`torch.Tensor` of shape `(batch, keep)`): Their places.
            key_mask (`torch.Tensor` of shape `(batch, num_tokens)`, *optional*): `False` for tokens of missing leads.

        Returns:
            `torch.Tensor` of shape `(batch, num_tokens, patch_size)`.
        """
        hidden = scatter_tokens(self.projection(tokens), visible, self.mask_token, self.num_tokens)
        hidden = hidden + self.position_embedding()
        for layer in self.layers:
            hidden = layer(hidden, key_mask=key_mask)
        return self.to_patch(self.norm(hidden))


class TiedVocabulary(nn.Module):
    """BERT's output layer: linear, GELU, LayerNorm, then the transposed token embeddings and a bias of its own.

    The embeddings are an argument: they stay the text encoder's, and are saved once.

    Args:
        hidden_size, embedding_size, vocab_size (`int`): Widths of a token's output and of its embedding.
    """

    def __init__(self, hidden_size: int, embedding_size: int, vocab_size: int):
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(hidden_size, embedding_size), nn.GELU(), nn.LayerNorm(embedding_size))
        self.bias = nn.Parameter(torch.empty(vocab_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No token is preferred at the start."""
        init.zeros_(self.bias)

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """`(batch, tokens, hidden_size)` and `(vocab_size, embedding_size)` to `(batch, tokens, vocab_size)`."""
        return F.linear(self.transform(hidden), embeddings, self.bias)


class MlmHead(nn.Module):
    """Predicts each masked token from the text encoder's output at its place, independently of the others."""

    def __init__(self, config: CgdmerConfig, embeddings: Tensor):
        super().__init__()
        self.vocabulary = TiedVocabulary(config.text_config.hidden_size, embeddings.shape[1], embeddings.shape[0])

    def forward(
        self, tokens: Tensor, attention_mask: Tensor, positions: Tensor, labels: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of the masked tokens.

        Args:
            tokens (`torch.Tensor` of shape `(batch, num_tokens, hidden_size)`): The text encoder's last layer.
            attention_mask (`torch.Tensor` of shape `(batch, num_tokens)`): Not needed here.
            positions, labels (`torch.Tensor` of shape `(batch, num_masked)`): As in [`MaskedText`].
            embeddings (`torch.Tensor` of shape `(vocab_size, embedding_size)`): The text encoder's token embeddings.

        Returns:
            Logits `(batch, num_masked, vocab_size)`, and the labels in their order.
        """
        return self.vocabulary(gather_tokens(tokens, positions), embeddings), labels


class CausalTextBlock(GradientCheckpointingLayer):
    """Causal self-attention, attention to the report, and feed-forward, each pre-norm with a residual connection."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.self_norm = nn.LayerNorm(hidden_size)
        self.self_attention = MultiHeadAttention(hidden_size, num_heads)
        self.cross_norm = nn.LayerNorm(hidden_size)
        self.cross_attention = MultiHeadAttention(hidden_size, num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )

    def forward(self, hidden: Tensor, report: Tensor, key_mask: Tensor) -> Tensor:
        """`hidden` `(batch, num_masked, hidden_size)` reads `report` `(batch, num_tokens, hidden_size)`."""
        normed = self.self_norm(hidden)
        hidden = hidden + self.self_attention(normed, normed, is_causal=True)
        hidden = hidden + self.cross_attention(self.cross_norm(hidden), report, key_mask)
        return hidden + self.mlp(hidden)


class CausalTextDecoder(nn.Module):
    """Predicts the masked tokens from left to right, each given the report and the masked tokens before it.

    Step `i` sees the token that was masked before it, and the text encoder's output at the place to be filled, which
    tells the places apart as T5's sentinels do.
    """

    def __init__(self, config: CgdmerConfig, embeddings: Tensor):
        super().__init__()
        width, num_heads = config.text_config.hidden_size, config.text_decoder_num_heads
        if width % num_heads:
            raise ValueError(
                f"text_decoder_num_heads {num_heads} does not divide the text encoder's hidden_size {width}."
            )
        vocab_size, embedding_size = embeddings.shape
        self.start = nn.Parameter(torch.empty(1, 1, embedding_size))
        self.token_projection = nn.Linear(embedding_size, width)
        self.place_projection = nn.Linear(width, width)
        self.layers = nn.ModuleList(CausalTextBlock(width, num_heads) for _ in range(config.text_decoder_num_layers))
        self.norm = nn.LayerNorm(width)
        self.vocabulary = TiedVocabulary(width, embedding_size, vocab_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start vector is of the size of BERT's token embeddings."""
        init.normal_(self.start, std=0.02)

    def forward(
        self, tokens: Tensor, attention_mask: Tensor, positions: Tensor, labels: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in [`MlmHead`]; the labels come back from left to right, those that do not count last."""
        counts = labels != -100
        order = torch.where(counts, positions, tokens.shape[1]).argsort(dim=1, stable=True)
        positions, labels = positions.gather(1, order), labels.gather(1, order)
        previous = F.embedding(labels[:, :-1].clamp_min(0), embeddings)  # those that do not count come last: harmless
        previous = torch.cat([self.start.to(previous.dtype).expand(len(tokens), -1, -1), previous], dim=1)
        hidden = self.token_projection(previous) + self.place_projection(gather_tokens(tokens, positions))
        for layer in self.layers:
            hidden = layer(hidden, tokens, key_mask=attention_mask.bool())
        return self.vocabulary(self.norm(hidden), embeddings), labels
