"""Where both modalities meet: pairs of layers in which each reads itself and the other."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_ecgtext.encoders.conv_transformer import Attention
from hf_ecgtext.methods.cmelt.configuration_cmelt import CmeltConfig

BERT_EPS = 1e-12  # of BERT's layer norms, which the release uses in fusion and in its token head


class CrossModalLayer(GradientCheckpointingLayer):
    """Self-attention, attention to the other modality and feed-forward, each with a residual and a norm behind it."""

    def __init__(self, config: CmeltConfig):
        super().__init__()
        width, heads, rate = config.projection_dim, config.fusion_num_attention_heads, config.fusion_dropout
        self.self_attention = Attention(width, heads, rate)
        self.self_attention_norm = nn.LayerNorm(width, eps=BERT_EPS)
        self.cross_attention = Attention(width, heads, rate)
        self.cross_attention_norm = nn.LayerNorm(width, eps=BERT_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.fusion_intermediate_size),
            nn.GELU(),
            nn.Linear(config.fusion_intermediate_size, width),
        )
        self.output_norm = nn.LayerNorm(width, eps=BERT_EPS)
        self.dropout = nn.Dropout(rate)

    def forward(self, hidden: Tensor, other: Tensor, mask: Tensor | None, other_mask: Tensor | None) -> Tensor:
        """`(batch, tokens, width)` and `(batch, other_tokens, width)` to `(batch, tokens, width)`."""
        hidden = self.self_attention_norm(hidden + self.dropout(self.self_attention(hidden, mask=mask)))
        attended = self.cross_attention(hidden, context=other, mask=other_mask)
        hidden = self.cross_attention_norm(hidden + self.dropout(attended))
        return self.output_norm(hidden + self.dropout(self.mlp(hidden)))


class CrossModalFusion(nn.Module):
    """Pairs of layers; both layers of a pair read what the pair before gave.

    Layers whose output no term of the loss reads are not built: without ETM and MLM, those behind `mem_layer`; of the
    last pair, that of the other modality.
    """

    def __init__(self, config: CmeltConfig):
        super().__init__()
        self.text_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_text_fusion_layers))
        self.ecg_layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_ecg_fusion_layers))

    def forward(self, text: Tensor, ecg: Tensor, text_mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Fuse.

        Args:
            text (`torch.Tensor` of shape `(batch, num_text_tokens, width)`): With the modality embedding.
            ecg (`torch.Tensor` of shape `(batch, num_ecg_tokens, width)`): With the modality embedding.
            text_mask (`torch.Tensor` of shape `(batch, num_text_tokens)`, *optional*): 1 for real tokens.

        Returns:
            The text tokens behind the last pair, and the ECG tokens before the first pair and behind each.
        """
        key_mask = None if text_mask is None else text_mask[:, None, None].bool()
        ecg_states = [ecg]
        for index in range(max(len(self.text_layers), len(self.ecg_layers))):
            old_text, old_ecg = text, ecg
            if index < len(self.text_layers):
                text = self.text_layers[index](old_text, old_ecg, key_mask, None)
            if index < len(self.ecg_layers):
                ecg = self.ecg_layers[index](old_ecg, old_text, None, key_mask)
                ecg_states.append(ecg)
        return text, ecg_states
