"""What every method's `forward` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class EcgTextOutput(ModelOutput):
    """Output of a cross-modal model.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Weighted sum of `loss_terms`; absent where one modality is,
            where there are not as many texts as ECGs, or with `return_loss=False`.
        loss_terms (`dict[str, torch.Tensor]`, *optional*): The terms under their paper's names, detached, unweighted.
        logits_per_ecg (`torch.Tensor` of shape `(num_ecgs, num_texts)`, *optional*): What the loss scores every
            combination by (`pair_logits` of the model). They and both embeddings are absent where `return_loss=True`
            would have needed a second pass for them.
        ecg_embeds (`torch.Tensor` of shape `(num_ecgs, projection_dim)`, *optional*): L2-normalised.
        text_embeds (`torch.Tensor` of shape `(num_texts, projection_dim)`, *optional*): L2-normalised.
        ecg_model_output (`BaseModelOutputWithPooling`, *optional*): Tokens and pooled output of the ECG encoder, where
            no loss was computed.
        rows (`dict[str, torch.Tensor]`, *optional*): On request, what the loss would be computed from, and no loss.
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    logits_per_ecg: Tensor | None = None
    ecg_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    ecg_model_output: BaseModelOutputWithPooling | None = None
    rows: dict[str, Tensor] | None = None
