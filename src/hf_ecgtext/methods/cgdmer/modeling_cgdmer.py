"""CG-DMER: contrastive-generative, disentangled ECG representations (Niu et al., ICASSP 2026, arXiv 2602.21154).

Three quarters of every lead's patches and some tokens of the report are hidden and predicted back. What the two
encoders make of the rest is split, by two small networks each, into features that both modalities share and features
that are one's own. Five terms train it:

* `reconstruct_ecg` (eq. 2) and `reconstruct_text` (eq. 3): the hidden patches and tokens;
* `orthogonal` (eq. 5): shared and own features of one modality are orthogonal;
* `siglip` (eq. 6) and `contrastive` (eq. 7 to 9): the shared features of an ECG and its report belong together.

No code was published, so this is a reading of the paper; docs/methods/cgdmer.md lists where it could be read otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import mask_missing_leads
from hf_ecgtext.encoders.heads import projection_head
from hf_ecgtext.encoders.lead_time_transformer import to_patches
from hf_ecgtext.encoders.masking import is_hidden, kept_indices, mask_text, masking_noise
from hf_ecgtext.methods.base import EcgTextModel, TextInputs, check_no_extra_inputs
from hf_ecgtext.methods.cgdmer.configuration_cgdmer import CgdmerConfig
from hf_ecgtext.methods.cgdmer.decoders import CausalTextDecoder, EcgDecoder, MlmHead
from hf_ecgtext.objectives import (
    masked_patch_error,
    mean_of_counted,
    normalise_patches,
    orthogonality,
    report_pairs,
    sigmoid_pair_loss,
    symmetric_cross_entropy,
    token_cross_entropy,
)

_TEXT_DECODERS = {"mlm_head": MlmHead, "causal_decoder": CausalTextDecoder}


class CgdmerModel(EcgTextModel):
    """CG-DMER: two encoders, two decoders, and shared and specific heads.

    Inference sees the whole input, and reads the shared heads. A pair's logit is that of `contrastive`, which takes a
    softmax of it; where that term is off or compares the encoders' outputs, it is that of `siglip`.

    Source: the paper's section 2.
    """

    config_class = CgdmerConfig
    config: CgdmerConfig
    masks_inputs = True

    def __init__(self, config: CgdmerConfig):
        config.validate_masking()
        super().__init__(config)
        ecg_size, text_size = config.ecg_config.hidden_size, config.text_config.hidden_size
        if config.contrastive_features == "encoder" and config.contrastive_weight > 0 and ecg_size != text_size:
            raise ValueError(
                f"contrastive_features='encoder' compares the encoders' outputs, which are {ecg_size} (ecg_config) and "
                f"{text_size} (text_config) wide. Make hidden_size equal, or use contrastive_features='shared'."
            )
        self.ecg_shared = projection_head(ecg_size, config.projection_dim, "mlp")
        self.text_shared = projection_head(text_size, config.projection_dim, "mlp")
        self.ecg_specific: nn.Module | None = None
        self.text_specific: nn.Module | None = None
        self.ecg_decoder: nn.Module | None = None
        self.text_decoder: nn.Module | None = None
        if config.has_specific_heads:
            self.ecg_specific = projection_head(ecg_size, config.projection_dim, "mlp")
            self.text_specific = projection_head(text_size, config.projection_dim, "mlp")
        if config.masks_ecg:
            self.ecg_decoder = EcgDecoder(config)
        if config.masks_text:
            self.text_decoder = _TEXT_DECODERS[config.text_decoder](config, self._token_embeddings())
        if config.siglip_weight > 0 and config.siglip_form == "learnable":
            self.siglip_log_scale = nn.Parameter(torch.empty(()))
            self.siglip_bias = nn.Parameter(torch.empty(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and hasattr(self, "siglip_bias"):
            init.constant_(self.siglip_log_scale, math.log(self.config.siglip_scale))
            init.constant_(self.siglip_bias, self.config.siglip_bias)

    @property
    def scores_by_contrastive(self) -> bool:
        """Whether `contrastive` compares the shared features, so that its logits are the pairs'; else `siglip` does."""
        return self.config.contrastive_weight > 0 and self.config.contrastive_features == "shared"

    @property
    def logit_scale(self) -> float | Tensor:
        """Inverse of the contrastive term's constant temperature, or the factor of `siglip`."""
        if self.scores_by_contrastive:
            return 1.0 / self.config.temperature
        return self.siglip_log_scale.exp() if self.config.siglip_form == "learnable" else 1.0

    def score_pairs(self, ecg_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Logits of `contrastive`, or of `siglip` where `contrastive` has no part in the shared features."""
        unit_ecg, unit_text = F.normalize(ecg_embeds, dim=-1), F.normalize(text_embeds, dim=-1)
        if self.scores_by_contrastive:
            return self._contrastive_logits(unit_ecg, unit_text)
        return self._siglip_logits(ecg_embeds, text_embeds, unit_ecg, unit_text)

    def _contrastive_logits(self, unit_ecg: Tensor, unit_text: Tensor) -> Tensor:
        return unit_ecg @ unit_text.T / self.config.temperature

    def _siglip_logits(self, ecg: Tensor, text: Tensor, unit_ecg: Tensor, unit_text: Tensor) -> Tensor:
        if self.config.siglip_form == "paper":
            return ecg @ text.T
        return self.siglip_log_scale.exp() * (unit_ecg @ unit_text.T) + self.siglip_bias

    @property
    def uses_report_keys(self) -> bool:
        """Where equal reports are more than negatives."""
        return self.config.equal_reports != "negative" and self.config.siglip_weight > 0

    @property
    def can_cache_text(self) -> bool:
        """Never while tokens of the report are masked: then every step reads another text."""
        return super().can_cache_text and self.text_decoder is None

    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Shared features `(batch, projection_dim)`, not normalised."""
        return self.ecg_shared(encoder_output.pooler_output)

    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """Shared features `(batch, projection_dim)`, not normalised."""
        return self.text_shared(text_tower_embeds)

    def probe_features(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Mean over the encoder's tokens, or shared features, as `config.probe_feature` says; not normalised."""
        return (
            encoder_output.pooler_output
            if self.config.probe_feature == "tokens_mean"
            else self.embed_ecg(encoder_output)
        )

    def draw_noise(self, batch_size: int, num_text_tokens: int) -> dict[str, Tensor]:
        """Which patches are hidden, `patch_noise` `(batch, num_leads, num_patches)`, and which tokens, `text_noise`."""
        encoder = self.config.ecg_config
        shapes: dict[str, tuple[int, ...]] = {}
        if self.ecg_decoder is not None:
            shapes["patch_noise"] = (batch_size, encoder.num_leads, encoder.num_patches)
        if self.text_decoder is not None:
            shapes["text_noise"] = (batch_size, num_text_tokens, 3)
        return {name: masking_noise(shape, self.device, self.training) for name, shape in shapes.items()}

    def visible_patches(self, patch_noise: Tensor) -> Tensor:
        """Places of the patches to encode, chosen as `config.ecg_mask_scope` says.

        Args:
            patch_noise (`torch.Tensor` of shape `(batch, num_leads, num_patches)`): Uniform noise.

        Returns:
            `torch.Tensor` of shape `(batch, num_visible_tokens)`: Ascending, counted lead by lead.
        """
        _, num_leads, num_patches = patch_noise.shape
        if self.config.ecg_mask_scope == "all_tokens":
            return kept_indices(patch_noise.flatten(1), self.config.num_visible_tokens)
        if self.config.ecg_mask_scope == "same_places":
            patch_noise = patch_noise[:, :1].expand(-1, num_leads, -1)  # the first lead's, for all
        in_lead = kept_indices(patch_noise, self.config.num_visible_patches)
        first = torch.arange(num_leads, device=patch_noise.device).unsqueeze(1) * num_patches
        return (in_lead + first).flatten(1)

    def training_rows(
        self, ecg_values: Tensor, lead_mask: Tensor | None, text: TextInputs, **extra: Any
    ) -> dict[str, Tensor]:
        """Features of what masking left of both modalities, and the errors of what it hid.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled signal.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            text ([`TextInputs`]): Reports.
            extra: Noise in place of what `draw_noise` draws, under the same names, and `report_keys` where they are
                used (without them, a record's own report alone is its own); anything else is refused.

        Raises:
            ValueError: If reports are to be masked and there are no tokens, or no mask token is known.
        """
        report_keys = extra.pop("report_keys", None) if self.uses_report_keys else None
        num_text_tokens = 0 if text.input_ids is None else text.input_ids.shape[1]
        noise = self.draw_noise(len(ecg_values), num_text_tokens)
        check_no_extra_inputs({name: value for name, value in extra.items() if name not in noise})
        noise.update(extra)
        rows: dict[str, Tensor] = {} if report_keys is None else {"report_keys": report_keys}
        ecg_output, text_pooled = None, None
        if self.ecg_decoder is not None:
            ecg_output, rows["ecg_error"], rows["ecg_count"] = self._reconstruct_ecg(
                self.ecg_decoder, ecg_values, lead_mask, noise["patch_noise"]
            )
        if self.text_decoder is not None:
            text_pooled, rows["text_nll"], rows["text_count"] = self._reconstruct_text(
                self.text_decoder, text, noise["text_noise"]
            )
        if ecg_output is None or self.config.contrastive_on_full_input:
            ecg_output = self.ecg_encoder(ecg_values, lead_mask=lead_mask)
        if text_pooled is None or self.config.contrastive_on_full_input:
            text_pooled = self.encode_text(text)[0]
        rows["ecg"], rows["text"] = self.embed_ecg(ecg_output), self.embed_text(text_pooled)
        if self.ecg_specific is not None and self.text_specific is not None:
            rows["ecg_specific"] = self.ecg_specific(ecg_output.pooler_output)
            rows["text_specific"] = self.text_specific(text_pooled)
        if self.config.contrastive_weight > 0 and self.config.contrastive_features == "encoder":
            rows["ecg_pooled"], rows["text_pooled"] = ecg_output.pooler_output, text_pooled
        return rows

    def _reconstruct_ecg(
        self, decoder: nn.Module, ecg_values: Tensor, lead_mask: Tensor | None, patch_noise: Tensor
    ) -> tuple[BaseModelOutputWithPooling, Tensor, Tensor]:
        """Encode the visible patches; error of the others in leads that are there, and if there are any, `(batch,)`."""
        visible = self.visible_patches(patch_noise)
        output = self.ecg_encoder(ecg_values, lead_mask=lead_mask, visible=visible)
        key_mask = self.ecg_encoder.token_mask(lead_mask)
        predicted = decoder(output.last_hidden_state, visible, key_mask)
        target = to_patches(mask_missing_leads(ecg_values, lead_mask), self.config.ecg_config.patch_size)
        if self.config.norm_patch:
            target = normalise_patches(target)
        hidden = is_hidden(visible, target.shape[1])
        counts = hidden if key_mask is None else hidden & key_mask
        error = masked_patch_error(predicted, target, counts)
        if self.config.patch_error == "sum":
            error = error * self.config.ecg_config.patch_size
        return output, error, counts.any(dim=1).to(error.dtype)

    def _reconstruct_text(
        self, decoder: nn.Module, text: TextInputs, text_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the masked report: pooled; negative log-likelihood of the masked tokens, and their number."""
        config = self.config
        if text.input_ids is None:
            raise ValueError(
                "CG-DMER masks tokens of the report: give input_ids and attention_mask, not a text tower's outputs, or "
                "set reconstruct_text_weight=0."
            )
        if config.mask_token_id is None or config.special_token_ids is None:
            raise ValueError(
                "config.mask_token_id and config.special_token_ids are not set. Call "
                "config.adopt_tokenizer(tokenizer), which Recipe.build does, or set reconstruct_text_weight=0."
            )
        attention_mask = torch.ones_like(text.input_ids) if text.attention_mask is None else text.attention_mask
        embeddings = self._token_embeddings()
        masked = mask_text(
            text.input_ids,
            attention_mask,
            text_noise,
            probability=config.text_mask_ratio,
            mask_token_id=config.mask_token_id,
            special_token_ids=config.special_token_ids,
            vocab_size=len(embeddings),
            replacement=(1.0, 0.0),  # the paper's sentinels; BERT would leave a tenth as it is and swap a tenth
        )
        output = self.text_tower(masked.input_ids, attention_mask)
        logits, labels = decoder(output.last_hidden_state, attention_mask, masked.positions, masked.labels, embeddings)
        return output.pooler_output, *token_cross_entropy(logits, labels)

    def _token_embeddings(self) -> Tensor:
        """The text encoder's, `(vocab_size, embedding_size)`."""
        return self.get_input_embeddings().get_parameter("weight")

    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms that are switched on; each is a mean over records."""
        config = self.config
        terms: dict[str, Tensor] = {}
        unit_ecg, unit_text = F.normalize(rows["ecg"], dim=-1), F.normalize(rows["text"], dim=-1)
        if config.contrastive_weight > 0:
            first, second = unit_ecg, unit_text
            if config.contrastive_features == "encoder":
                first, second = (F.normalize(rows[name], dim=-1) for name in ("ecg_pooled", "text_pooled"))
            logits = self._contrastive_logits(first, second)
            terms["contrastive"] = symmetric_cross_entropy(logits, exclude_positive=config.exclude_positive)
        if config.siglip_weight > 0:
            logits = self._siglip_logits(rows["ecg"], rows["text"], unit_ecg, unit_text)
            is_pair, is_ignored = None, None
            if "report_keys" in rows:
                is_pair, is_ignored = report_pairs(rows["report_keys"], config.equal_reports)
            terms["siglip"] = sigmoid_pair_loss(logits, is_pair, is_ignored=is_ignored)
        if "ecg_specific" in rows:
            terms["orthogonal"] = orthogonality(rows["ecg_specific"], rows["ecg"]) + orthogonality(
                rows["text_specific"], rows["text"]
            )
        if "ecg_error" in rows:
            terms["reconstruct_ecg"] = mean_of_counted(rows["ecg_error"], rows["ecg_count"])
        if "text_nll" in rows:
            terms["reconstruct_text"] = mean_of_means(rows["text_nll"], rows["text_count"])
        return terms


def mean_of_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Each record's mean, then the mean over the records that have one.

    Args:
        sums, counts (`torch.Tensor` of shape `(batch,)`): Of each record.

    Source: the order of the two sums in the paper's eq. 3.
    """
    means = sums / counts.clamp_min(1.0)
    return means.sum() / (counts > 0).sum().clamp_min(1)
