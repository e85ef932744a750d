"""MERL: Multimodal ECG Representation Learning (Liu et al., ICML 2024, arXiv 2403.06659).

An ECG encoder and a frozen text encoder meet in a space of 256 dimensions. Two terms train it:

* CMA, cross-modal alignment: an ECG's embedding picks its report's among the batch, and the other way round;
* UMA, uni-modal alignment: two dropout views of one ECG's pooled tokens pick each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.heads import projection_head
from hf_ecgtext.encoders.resnet1d import ResNet1dConfig
from hf_ecgtext.methods.base import EcgTextModel, TextInputs, check_no_extra_inputs
from hf_ecgtext.methods.merl.configuration_merl import MerlConfig
from hf_ecgtext.objectives import symmetric_cross_entropy, symmetric_info_nce


class AttentionPool1d(nn.Module):
    """A learned class token attends once over itself and all ECG tokens; no norm, no residual connection.

    Args:
        num_tokens (`int`): ECG tokens.
        dim (`int`): Token width.
        num_heads (`int`): Attention heads.
        double_cls_position (`bool`): Position 0 is added to the class token twice.
    """

    def __init__(self, num_tokens: int, dim: int, num_heads: int, double_cls_position: bool):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.position_embedding = nn.Parameter(torch.empty(1, num_tokens + 1, dim))
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.projection = nn.Linear(dim, dim)
        self.cls_position_factor = 2.0 if double_cls_position else 1.0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As released: a class token of unit variance, positions of variance `dim ** -2`."""
        init.normal_(self.cls_token, std=1.0)
        init.normal_(self.position_embedding, std=1.0 / self.position_embedding.shape[-1])

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, num_tokens, dim)` to `(batch, dim)`."""
        cls = self.cls_token + self.cls_position_factor * self.position_embedding[:, :1]
        cls = cls.expand(tokens.shape[0], -1, -1)  # (batch, 1, dim)
        sequence = torch.cat([cls, tokens + self.position_embedding[:, 1:]], dim=1)
        pooled, _ = self.attention(cls, sequence, sequence, need_weights=False)
        return self.projection(pooled[:, 0])


class ResNetHead(nn.Module):
    """ResNet tokens become the alignment embedding by attention, and the vector that UMA perturbs by averaging."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        encoder, dim = config.ecg_config, config.projection_dim
        self.down_projection = nn.Conv1d(encoder.hidden_size, dim, kernel_size=1)
        self.attention_pool = AttentionPool1d(
            encoder.num_tokens, dim, config.num_attention_heads, config.double_cls_position
        )
        self.uma_dim = dim

    def forward(self, encoder_output: BaseModelOutputWithPooling) -> tuple[Tensor, Tensor]:
        """Embedding `(batch, projection_dim)` and UMA input `(batch, uma_dim)`."""
        tokens = self.down_projection(encoder_output.last_hidden_state.transpose(1, 2))  # (batch, dim, num_tokens)
        return self.attention_pool(tokens.transpose(1, 2)), tokens.mean(dim=-1)


class VitHead(nn.Module):
    """From a ViT's pooled output to the alignment embedding, by an MLP; UMA perturbs the pooled output itself."""

    def __init__(self, config: MerlConfig):
        super().__init__()
        self.uma_dim, dim = config.ecg_config.hidden_size, config.projection_dim
        self.projector = nn.Sequential(
            nn.Linear(self.uma_dim, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim), nn.BatchNorm1d(dim)
        )

    def forward(self, encoder_output: BaseModelOutputWithPooling) -> tuple[Tensor, Tensor]:
        """Embedding `(batch, projection_dim)` and UMA input `(batch, uma_dim)`."""
        pooled = encoder_output.pooler_output
        return self.projector(pooled), pooled


class MerlModel(EcgTextModel):
    """MERL with a ResNet or a ViT as its ECG encoder.

    Source: paper and released code (MIT); `tests/methods/merl/test_parity.py` shows that they compute the same.
    """

    config_class = MerlConfig
    config: MerlConfig

    def __init__(self, config: MerlConfig):
        super().__init__(config)
        head = ResNetHead if isinstance(config.ecg_config, ResNet1dConfig) else VitHead
        self.ecg_head = head(config)
        self.uma_projections = nn.ModuleList(
            nn.Sequential(
                nn.Linear(self.ecg_head.uma_dim, config.projection_dim, bias=False), nn.Dropout(config.uma_dropout)
            )
            for _ in range(2)
        )
        self.text_projection = projection_head(config.text_config.hidden_size, config.projection_dim, "mlp")
        self.post_init()

    @property
    def logit_scale(self) -> float:
        """Inverse of the constant temperature."""
        return 1.0 / self.config.temperature

    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Alignment embedding `(batch, projection_dim)`, not normalised."""
        return self.ecg_head(encoder_output)[0]

    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """Alignment embedding `(batch, projection_dim)`, not normalised."""
        return self.text_projection(text_tower_embeds)

    def probe_features(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """The encoder's pooled output, or the aligned embedding, as `config.probe_feature` says; not normalised."""
        return (
            encoder_output.pooler_output
            if self.config.probe_feature == "backbone_pool"
            else self.embed_ecg(encoder_output)
        )

    def training_rows(
        self, ecg_values: Tensor, lead_mask: Tensor | None, text: TextInputs, **extra: Any
    ) -> dict[str, Tensor]:
        """Embeddings of both modalities, and two dropout views of the ECG, each `(batch, projection_dim)`."""
        check_no_extra_inputs(extra)
        embedding, uma_input = self.ecg_head(self.ecg_encoder(ecg_values, lead_mask=lead_mask))
        first, second = (projection(uma_input) for projection in self.uma_projections)
        text_embeds = self.embed_text(self.encode_text(text)[0])
        return {"ecg": embedding, "text": text_embeds, "first_view": first, "second_view": second}

    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms `cma`, of the pairs' logits, and `uma`."""
        first, second = (F.normalize(rows[name], dim=-1) for name in ("first_view", "second_view"))
        reduction = self.config.loss_reduction
        return {
            "cma": symmetric_cross_entropy(self.pair_logits(rows["ecg"], rows["text"]), reduction),
            "uma": symmetric_info_nce(first, second, self.config.temperature, reduction),
        }
