"""ETP: ECG-Text Pre-training (Liu et al., ICASSP 2024, arXiv 2309.07145).

A ResNet18 and a frozen clinical language model, one projection each into a space of 512 dimensions, and a symmetric
contrastive loss between the two. No code was published, so this is a reading of the paper; docs/methods/etp.md
lists where it could be read otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.heads import projection_head
from hf_ecgtext.methods.base import EcgTextModel, TextInputs, check_no_extra_inputs
from hf_ecgtext.methods.etp.configuration_etp import LARGEST_LOGIT_SCALE, EtpConfig
from hf_ecgtext.objectives import bounded_scale, symmetric_cross_entropy


class EtpModel(EcgTextModel):
    """ETP: the mean over the ECG encoder's tokens and the text encoder's class token, each projected.

    Source: the paper's sections 2.1 and 3.2.
    """

    config_class = EtpConfig
    config: EtpConfig

    def __init__(self, config: EtpConfig):
        super().__init__(config)
        self.ecg_projection = projection_head(
            config.ecg_config.hidden_size, config.projection_dim, config.projection_type
        )
        self.text_projection = projection_head(
            config.text_config.hidden_size, config.projection_dim, config.projection_type
        )
        if config.learnable_temperature:
            self.log_logit_scale = nn.Parameter(torch.empty(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.config.learnable_temperature:
            init.constant_(self.log_logit_scale, -math.log(self.config.temperature))

    @property
    def logit_scale(self) -> float | Tensor:
        """Inverse of the temperature, fixed, or learned and at most 100."""
        if not self.config.learnable_temperature:
            return 1.0 / self.config.temperature
        return bounded_scale(self.log_logit_scale, LARGEST_LOGIT_SCALE)

    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """`(batch, projection_dim)`, not normalised."""
        return self.ecg_projection(encoder_output.pooler_output)

    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """`(batch, projection_dim)`, not normalised."""
        return self.text_projection(text_tower_embeds)

    def training_rows(
        self, ecg_values: Tensor, lead_mask: Tensor | None, text: TextInputs, **extra: Any
    ) -> dict[str, Tensor]:
        """Embeddings of both modalities, each `(batch, projection_dim)`."""
        check_no_extra_inputs(extra)
        ecg_embeds = self.embed_ecg(self.ecg_encoder(ecg_values, lead_mask=lead_mask))
        return {"ecg": ecg_embeds, "text": self.embed_text(self.encode_text(text)[0])}

    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The term `contrastive` (the paper's L_total, eq. 5)."""
        logits = self.pair_logits(rows["ecg"], rows["text"])
        return {"contrastive": symmetric_cross_entropy(logits, self.config.loss_reduction)}
