"""C-MELT: Contrastive enhanced Masked auto-Encoders for ECG-Language pre-Training (arXiv 2410.02131), alias D-BETA.

A convolutional transformer reads the visible patches of an ECG, a language model a report with masked words; a few
pairs of layers fuse both. Four terms train it:

* MLM, masked language modelling: which words were masked?
* MEM, masked ECG modelling: what did the hidden patches look like?
* ETM, ECG-text matching: does this report belong to this ECG?
* ETS (the paper's "Siglep"): the same question for every pair in the batch, asked of the unfused features.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.base import mask_missing_leads
from hf_ecgtext.encoders.conv_transformer import TanhPooler
from hf_ecgtext.encoders.masking import (
    MaskedText,
    gather_tokens,
    is_hidden,
    kept_indices,
    mask_text,
    masking_noise,
    num_kept,
)
from hf_ecgtext.methods.base import EcgTextModel, TextInputs, check_no_extra_inputs
from hf_ecgtext.methods.cmelt.configuration_cmelt import CmeltConfig
from hf_ecgtext.methods.cmelt.fusion import CrossModalFusion
from hf_ecgtext.methods.cmelt.heads import MaskedEcgHead, MaskedTextHead
from hf_ecgtext.objectives import (
    masked_patch_error,
    matching_loss,
    mean_of_counted,
    normalise_patches,
    patch_error_sum,
    report_pairs,
    sigmoid_pair_loss,
    token_cross_entropy,
)

_TEXT, _ECG = 0, 1  # rows of the modality embeddings


class CmeltModel(EcgTextModel):
    """C-MELT with D-BETA's convolutional transformer as its ECG encoder, and any text encoder.

    `embed_ecg` and `embed_text` give the features as released, and a pair's logit is what ETS scores it by: as
    released, the dot product of raw features. Deviation: the embeddings that `forward` and `get_*_features` return are
    L2-normalised, as every method's are.

    Source: paper and released code (CC BY-NC 4.0, read, not copied); `tests/methods/cmelt/test_cmelt_parity.py` shows
    that they compute the same.
    """

    config_class = CmeltConfig
    config: CmeltConfig
    text_cache_content: ClassVar[Literal["pooled", "tokens"]] = "tokens"
    masks_inputs: ClassVar[bool] = True
    uses_negatives: ClassVar[bool] = True

    def __init__(self, config: CmeltConfig):
        config.validate_masking()  # the input length may have changed since the config was made
        super().__init__(config)
        self.text_tower.attend_padding = config.attend_padding
        width = config.projection_dim
        self.text_projection = nn.Linear(config.text_config.hidden_size, width)
        if config.ets_weight > 0:
            self.text_pooler = TanhPooler(width, config.ecg_config.pooler_order)
            if config.learnable_siglip:
                self.log_siglip_scale = nn.Parameter(torch.empty(()))
                self.siglip_bias = nn.Parameter(torch.empty(()))
        if config.uses_fusion:
            self.modality_embeddings = nn.Embedding(2, width)
            self.fusion = CrossModalFusion(config)
        if config.mlm_weight > 0:
            self.mlm_head = MaskedTextHead(config)
        if config.mem_weight > 0:
            self.mem_head = MaskedEcgHead(config)
        if config.etm_weight > 0:
            self.fused_text_pooler = TanhPooler(width)
            self.fused_ecg_pooler = TanhPooler(width)
            self.etm_head = nn.Linear(2 * width, 2 if config.etm_head == "two_way" else 1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, MaskedEcgHead):
            init.normal_(module.mask_token, std=std)
        elif module is self and hasattr(self, "log_siglip_scale"):
            init.constant_(self.log_siglip_scale, math.log(self.config.initial_siglip_scale))
            init.constant_(self.siglip_bias, self.config.initial_siglip_bias)

    @property
    def logit_scale(self) -> float | Tensor:
        """Factor of a pair's similarity, fixed or learned."""
        if hasattr(self, "log_siglip_scale"):
            return self.log_siglip_scale.exp()
        return self.config.initial_siglip_scale

    def score_pairs(self, ecg_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Scaled dot products plus a bias, of normalised features where `config.normalize_features` says so."""
        if self.config.normalize_features:
            ecg_embeds, text_embeds = F.normalize(ecg_embeds, dim=-1), F.normalize(text_embeds, dim=-1)
        bias = self.siglip_bias if hasattr(self, "siglip_bias") else self.config.initial_siglip_bias
        return self.logit_scale * (ecg_embeds @ text_embeds.T) + bias

    @property
    def uses_report_keys(self) -> bool:
        """Where equal reports are more than negatives."""
        return self.config.equal_reports != "negative" and self.config.ets_weight > 0

    @property
    def can_cache_text(self) -> bool:
        """Never while words are masked, nor while padding changes what the text encoder gives."""
        return super().can_cache_text and self.config.mlm_weight == 0 and not self.config.attend_padding

    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """The pooled class token, `(batch, projection_dim)`, not normalised."""
        return encoder_output.pooler_output

    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """The projected and pooled output of the text tower, `(batch, projection_dim)`, not normalised."""
        projected = self.text_projection(text_tower_embeds)
        return self.text_pooler(projected) if self.config.ets_weight > 0 else projected

    def draw_noise(self, batch_size: int, num_text_tokens: int) -> dict[str, Tensor]:
        """Noise for leads (used in training only), patches and words, as far as the config hides them."""
        config, ecg = self.config, self.config.ecg_config
        shapes: dict[str, tuple[int, ...]] = {}
        if config.lead_mask_probability > 0:
            shapes["lead_noise"] = (batch_size, ecg.num_leads)
        if config.ecg_mask_ratio > 0:
            shapes["patch_noise"] = (batch_size, ecg.num_tokens)
        if config.mlm_weight > 0:
            shapes["text_noise"] = (batch_size, num_text_tokens, 3)
        return {name: masking_noise(shape, self.device, self.training) for name, shape in shapes.items()}

    def training_rows(
        self, ecg_values: Tensor, lead_mask: Tensor | None, text: TextInputs, **extra: Any
    ) -> dict[str, Tensor]:
        """Features of the masked inputs, and what the heads make of the fused tokens.

        Args:
            ecg_values, lead_mask, text: As in [`EcgTextModel`].
            extra: `is_aligned` of shape `(batch,)`, `False` where the report is another ECG's (all `True` by default),
                the noise of [`draw_noise`], and `report_keys` where they are used.
        """
        is_aligned = extra.pop("is_aligned", None)
        report_keys = extra.pop("report_keys", None) if self.uses_report_keys else None
        if is_aligned is None:
            is_aligned = torch.ones(len(ecg_values), device=ecg_values.device)
        num_text_tokens = 0 if text.input_ids is None else text.input_ids.shape[1]
        drawn = self.draw_noise(len(ecg_values), num_text_tokens)
        noise = {name: extra.pop(name, value) for name, value in drawn.items()}
        check_no_extra_inputs(extra)

        whole_text, present_leads = text, lead_mask
        masked_text = self.mask_words(text, noise["text_noise"]) if "text_noise" in noise else None
        if masked_text is not None:
            text = TextInputs(masked_text.input_ids, text.attention_mask)
        text_embeds, text_tokens = self.encode_text(text)

        if self.training and "lead_noise" in noise:
            stays = noise["lead_noise"] >= self.config.lead_mask_probability
            lead_mask = stays if lead_mask is None else stays & lead_mask.bool()
        visible = None
        if "patch_noise" in noise:
            keep = num_kept(self.config.ecg_config.num_tokens, self.config.ecg_mask_ratio)
            visible = kept_indices(noise["patch_noise"], keep)
        ecg_output = self.ecg_encoder(ecg_values, lead_mask=lead_mask, visible=visible)

        paired_ecg, paired_text = ecg_output, text_embeds
        if self.config.pairs_on_full_input and visible is not None:
            paired_ecg = self.ecg_encoder(ecg_values, lead_mask=present_leads)
        if self.config.pairs_on_full_input and masked_text is not None:
            paired_text = self.encode_text(whole_text)[0]
        rows = {
            "ecg": self.embed_ecg(paired_ecg),
            "text": self.embed_text(paired_text),
            "is_aligned": is_aligned.to(torch.float32),
        }
        if report_keys is not None:
            rows["report_keys"] = report_keys
        if not self.config.uses_fusion:
            return rows
        if text_tokens is None:
            raise ValueError("Fusion reads the text tower's tokens: give text_tower_tokens beside text_tower_embeds.")
        fused_text, ecg_states = self.fuse(ecg_output.last_hidden_state, text_tokens, text.attention_mask)
        if masked_text is not None:
            logits = self.mlm_head(gather_tokens(fused_text, masked_text.positions))
            error, count = token_cross_entropy(logits, masked_text.labels)
            counts = 1.0 if self.config.mlm_on_negatives else rows["is_aligned"]
            rows |= {"mlm_sum": error * counts, "mlm_count": count * counts}
        if self.config.mem_weight > 0 and visible is not None:
            predicted = self.mem_head(ecg_states[self.config.mem_layer], visible)
            rows |= self.mem_rows(predicted, ecg_values, lead_mask, visible)
        if self.config.etm_weight > 0:
            rows["etm_logits"] = self.etm_head(self.fused_features(fused_text, ecg_states[-1]))
        return rows

    def mask_words(self, text: TextInputs, noise: Tensor) -> MaskedText:
        """Replace `text_mask_ratio` of each report's words, as `noise` `(batch, num_tokens, 3)` says.

        Raises:
            ValueError: If there are no tokens, or no mask token is known.
        """
        if text.input_ids is None:
            raise ValueError("Masked language modelling needs input_ids, not the text tower's outputs.")
        if self.config.mask_token_id is None:
            raise ValueError("config.mask_token_id is not set: call config.adopt_tokenizer(tokenizer) first.")
        attention_mask = torch.ones_like(text.input_ids) if text.attention_mask is None else text.attention_mask
        return mask_text(
            text.input_ids,
            attention_mask,
            noise,
            probability=self.config.text_mask_ratio,
            mask_token_id=self.config.mask_token_id,
            special_token_ids=self.config.special_token_ids or (),
            vocab_size=self.config.text_config.vocab_size,
        )

    def fuse(self, ecg_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Run the fusion layers.

        Args:
            ecg_tokens (`torch.Tensor` of shape `(batch, 1 + num_ecg_tokens, projection_dim)`): Of the ECG encoder.
            text_tokens (`torch.Tensor` of shape `(batch, num_text_tokens, text_hidden_size)`): Of the text tower.
            text_mask (`torch.Tensor` of shape `(batch, num_text_tokens)`, *optional*): 1 for real tokens.

        Returns:
            As [`CrossModalFusion`].
        """
        modalities = self.modality_embeddings.weight
        return self.fusion(
            self.text_projection(text_tokens) + modalities[_TEXT], ecg_tokens + modalities[_ECG], text_mask
        )

    def fused_features(self, fused_text: Tensor, fused_ecg: Tensor) -> Tensor:
        """Both pooled first tokens, one behind the other: `(batch, 2 * projection_dim)`."""
        return torch.cat([self.fused_text_pooler(fused_text[:, 0]), self.fused_ecg_pooler(fused_ecg[:, 0])], dim=-1)

    def mem_rows(
        self, predicted: Tensor, ecg_values: Tensor, lead_mask: Tensor | None, visible: Tensor
    ) -> dict[str, Tensor]:
        """Each record's error of masked ECG modelling, and whether it counts: a record without a lead does not.

        Args:
            predicted (`torch.Tensor` of shape `(batch, num_tokens, num_leads * patch_size)`): By the MEM head.
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled signal.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing or was
                masked.
            visible (`torch.Tensor` of shape `(batch, keep)`): Places of the visible patches.

        Returns:
            `mem_error` and `mem_count`, each of shape `(batch,)`.
        """
        target = self.mem_target(ecg_values, lead_mask)
        predicted, counts = predicted.to(target.dtype), None
        if lead_mask is not None and self.config.mem_masked_leads == "exclude":
            counts = lead_mask.bool().repeat_interleave(self.config.ecg_config.patch_size, dim=1)
        if self.config.mem_reduction == "sum_all":
            error = patch_error_sum(predicted, target, counts)
        else:
            error = masked_patch_error(predicted, target, is_hidden(visible, target.shape[1]), counts)
        count = torch.ones_like(error) if counts is None else counts.any(dim=1).to(error.dtype)
        return {"mem_error": error, "mem_count": count}

    def mem_target(self, ecg_values: Tensor, lead_mask: Tensor | None) -> Tensor:
        """What MEM reconstructs, `(batch, num_tokens, num_leads * patch_size)`; masked and missing leads are 0."""
        num_tokens, patch_size = self.config.ecg_config.num_tokens, self.config.ecg_config.patch_size
        target = mask_missing_leads(ecg_values, lead_mask)[..., : num_tokens * patch_size]
        if self.config.norm_pix_loss:
            target = normalise_patches(target)
        return target.unflatten(-1, (num_tokens, patch_size)).transpose(1, 2).flatten(2)

    @property
    def contrasts_records(self) -> bool:
        """ETS compares the records of a batch; MLM, MEM and ETM read each of them alone."""
        return self.config.ets_weight > 0

    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms `mlm`, `mem`, `etm` and `ets`, as far as their weights are not 0."""
        terms: dict[str, Tensor] = {}
        if "mlm_sum" in rows:
            by_reports = self.config.mlm_reduction == "sum_tokens"
            number = len(rows["mlm_sum"]) if by_reports else rows["mlm_count"].sum().clamp_min(1.0)
            terms["mlm"] = rows["mlm_sum"].sum() / number
        if "mem_error" in rows:
            terms["mem"] = mean_of_counted(rows["mem_error"], rows["mem_count"])
        if "etm_logits" in rows:
            terms["etm"] = matching_loss(rows["etm_logits"], rows["is_aligned"])
        if self.config.ets_weight > 0:
            # A report that was replaced belongs to no ECG of the batch, not even to the one beside it.
            is_pair, is_ignored = torch.diag(rows["is_aligned"]).bool(), None
            if "report_keys" in rows:
                is_pair, is_ignored = report_pairs(rows["report_keys"], self.config.equal_reports)
            logits = self.pair_logits(rows["ecg"], rows["text"])
            terms["ets"] = sigmoid_pair_loss(logits, is_pair, self.config.siglip_reduction, is_ignored)
        return terms
