"""DERI: cross-modal ECG representation learning with Deep ECG-Report Interaction (Chen et al., IJCAI 2025).

An ECG encoder and a frozen text encoder meet in a space of 256 dimensions. One decoder predicts text features from the
ECG's tokens, another ECG features from the report's. What is decoded is added to the embedding of the modality that it
was decoded from. Five terms train the model, each an InfoNCE in both directions:

* `align`: the ECG's mean token and its report's embedding;
* `mixed`: both embeddings with the decoded features of the other modality added;
* `decode_ecg`, `decode_text`: features and what the other modality's decoder makes of them;
* `rme`, random masking enhancement: two views of an ECG, each without a tenth of its tokens.

The paper compares `rme` with two other ways to make views (`config.rme_views`, `config.rme_head`).

Since the mixed ECG embedding needs no report, it is what stands for an ECG at inference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.heads import projection_head
from hf_ecgtext.encoders.masking import gather_tokens, masking_noise
from hf_ecgtext.encoders.text import text_max_length
from hf_ecgtext.encoders.vit1d import Vit1dConfig
from hf_ecgtext.methods.base import EcgTextModel, TextInputs, check_no_extra_inputs
from hf_ecgtext.methods.deri.configuration_deri import DeriConfig
from hf_ecgtext.methods.deri.decoder import FeatureDecoder, SeparatedAttention
from hf_ecgtext.objectives import symmetric_info_nce

# The two rows that each term compares.
_TERMS = {
    "align": ("aligned_ecg", "text"),
    "mixed": ("mixed_ecg", "mixed_text"),
    "decode_ecg": ("pooled_ecg", "decoded_ecg"),
    "decode_text": ("pooled_text", "decoded_text"),
    "rme": ("first_view", "second_view"),
}


class DeriModel(EcgTextModel):
    """DERI with any ECG encoder; the paper's is MERL's ResNet18.

    Source: paper and released code; `tests/methods/deri/test_deri_parity.py` shows that they compute the same.

    Raises:
        ValueError: If the settings ask for a shared embedding without the decoder that owns it, or for more padding
            than the text encoder can read.
    """

    config_class = DeriConfig
    config: DeriConfig
    text_cache_content: ClassVar[Literal["pooled", "tokens"]] = "tokens"

    def __init__(self, config: DeriConfig):
        super().__init__(config)
        config.validate_masking()  # the input length may have changed since the config was made
        dim, text_dim = config.projection_dim, config.text_config.hidden_size
        self.down_projection = nn.Conv1d(config.ecg_config.hidden_size, dim, kernel_size=1, stride=config.token_stride)
        self.token_attention = SeparatedAttention(config.num_ecg_tokens, dim, config.num_attention_heads)
        self.text_projection = projection_head(text_dim, dim, config.projection_type)
        self.rme_heads = nn.ModuleList(_view_head(config) for _ in range(2 if config.rme_weight else 0))
        self.rme_dropout = nn.Dropout(config.rme_dropout if config.rme_views == "latent_dropout" else 0.0)
        self.text_to_ecg: FeatureDecoder | None = None
        self.ecg_to_text: FeatureDecoder | None = None
        if config.mixed_weight or config.decode_ecg_weight:
            self.text_to_ecg = FeatureDecoder(config, config.num_decoder_text_tokens, dim)
        if self.reads_text_tokens:
            _check_padding(config)
        else:
            self.text_cache_content = "pooled"  # type: ignore[misc] # a class variable, for the common case
        if config.mixed_weight or config.decode_text_weight:
            if config.use_shared_embedding and self.text_to_ecg is None:
                raise ValueError(
                    "use_shared_embedding needs the decoder that reads text, which mixed_weight=0 and "
                    "decode_ecg_weight=0 leave out; set use_shared_embedding=False."
                )
            self.ecg_to_text = FeatureDecoder(config, config.num_ecg_tokens + config.use_shared_embedding, text_dim)
        self.post_init()

    @property
    def logit_scale(self) -> float:
        """Inverse of the constant temperature, which all terms share.

        With `ecg_embedding="aligned"`, `logits_per_ecg` are those of the term `align`. With `"mixed"` they score mixed
        ECGs against aligned texts, as the release does at inference; no term compares these two.
        """
        return 1.0 / self.config.temperature

    @property
    def masks_inputs(self) -> bool:  # type: ignore[override] # here it depends on the config
        """Whether inference differs from what the loss sees; then `forward` embeds once more in `eval()`."""
        return not self.config.normalize_tokens_at_inference

    @property
    def reads_text_tokens(self) -> bool:
        """Whether a decoder reads a report's tokens, beside its pooled output."""
        return self.text_to_ecg is not None and self.config.decoder_text_input == "tokens"

    @property
    def can_cache_text(self) -> bool:
        """As in the base class; but the cache has no padding, which `mask_padding=False` reads."""
        return super().can_cache_text and (self.config.mask_padding or not self.reads_text_tokens)

    def embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Mixed or aligned embedding `(batch, projection_dim)`, as `config.ecg_embedding` says; not normalised."""
        return self._embed_ecg(encoder_output)[self.config.ecg_embedding]

    def embed_text(self, text_tower_embeds: Tensor) -> Tensor:
        """Alignment embedding `(batch, projection_dim)`, not normalised."""
        return self.text_projection(text_tower_embeds)

    def probe_features(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """What `config.probe_feature` names: an embedding, or the encoder's pooled output; not normalised."""
        if self.config.probe_feature == "backbone_pool":
            return encoder_output.pooler_output
        return self._embed_ecg(encoder_output)[self.config.probe_feature]

    def draw_noise(self, batch_size: int, num_text_tokens: int) -> dict[str, Tensor]:
        """`rme_noise` `(batch_size, 2, num_ecg_tokens)`: which tokens each masked view hides."""
        if not self._hides_tokens:
            return {}
        shape = (batch_size, 2, self.config.num_ecg_tokens)
        return {"rme_noise": masking_noise(shape, self.device, self.training)}

    def training_rows(
        self,
        ecg_values: Tensor,
        lead_mask: Tensor | None,
        text: TextInputs,
        rme_noise: Tensor | None = None,
        **extra: Any,
    ) -> dict[str, Tensor]:
        """Both sides of every term, each `(batch, dim)`; and what stands for ECG and text in the shared space.

        Args:
            ecg_values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): Scaled signal.
            lead_mask (`torch.Tensor` of shape `(batch, num_leads)`, *optional*): `False` where a lead is missing.
            text ([`TextInputs`]): Reports.
            rme_noise (`torch.Tensor` of shape `(batch, 2, num_ecg_tokens)`, *optional*): As [`draw_noise`] gives it.
            extra: Refused.

        Raises:
            ValueError: If there is noise to hide tokens with, but no view hides any.
        """
        check_no_extra_inputs(extra)
        if rme_noise is not None and not self._hides_tokens:
            raise ValueError(
                "rme_noise says which tokens the views hide, but this model's hide none (rme_weight=0 or "
                "rme_views='latent_dropout'); leave it out."
            )
        tokens = self.ecg_tokens(self.ecg_encoder(ecg_values, lead_mask=lead_mask))
        aligned_tokens = F.normalize(self.token_attention(tokens), dim=-1)
        aligned = aligned_tokens.mean(dim=1)
        pooled_text, text_tokens, is_real = self._read_text(text)
        text_embeds = self.embed_text(pooled_text)

        rows = {"ecg": aligned, "text": text_embeds}
        if self.config.align_weight:
            rows["aligned_ecg"] = aligned
        if self.ecg_to_text is not None:
            decoded_text = self._decode_text(aligned_tokens)
            mixed = aligned + self.text_projection(decoded_text)
            if self.config.ecg_embedding == "mixed":
                rows["ecg"] = mixed
            if self.config.mixed_weight:
                rows["mixed_ecg"] = mixed
            if self.config.decode_text_weight:
                rows |= {"pooled_text": pooled_text, "decoded_text": decoded_text}
        if self.text_to_ecg is not None:
            if self.reads_text_tokens:
                readable = self.text_projection(text_tokens)
            else:
                readable = F.normalize(text_embeds, dim=-1).unsqueeze(1)  # A_t as a report of one token
            decoded_ecg = self.text_to_ecg(readable, is_real)
            if self.config.mixed_weight:
                rows["mixed_text"] = F.normalize(text_embeds, dim=-1) + decoded_ecg
            if self.config.decode_ecg_weight:
                rows |= {"pooled_ecg": tokens.mean(dim=1), "decoded_ecg": decoded_ecg}
        if self.rme_heads:
            noise = self.draw_noise(len(tokens), 0).get("rme_noise") if rme_noise is None else rme_noise
            rows["first_view"], rows["second_view"] = self.augmented_views(tokens, noise)
        return rows

    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms `align`, `mixed`, `decode_ecg`, `decode_text` and `rme`, where their weights are not 0."""
        unit = {name: F.normalize(value, dim=-1) for name, value in rows.items()}
        settings = (self.config.temperature, self.config.loss_reduction)
        return {
            term: symmetric_info_nce(unit[first], unit[second], *settings)
            for term, (first, second) in _TERMS.items()
            if first in unit and second in unit
        }

    def ecg_tokens(self, encoder_output: BaseModelOutputWithPooling) -> Tensor:
        """Every `token_stride`-th token of the encoder, projected: `(batch, num_ecg_tokens, projection_dim)`."""
        tokens = encoder_output.last_hidden_state
        if isinstance(self.config.ecg_config, Vit1dConfig):
            tokens = self.ecg_encoder.norm(tokens)  # it gives tokens as its pre-norm blocks leave them
        return self.down_projection(tokens.transpose(1, 2)).transpose(1, 2)

    def augmented_views(self, tokens: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Two views of each ECG, each through a head of its own.

        Args:
            tokens (`torch.Tensor` of shape `(batch, num_ecg_tokens, projection_dim)`): From [`ecg_tokens`], before
                they attend to each other.
            noise (`torch.Tensor` of shape `(batch, 2, num_ecg_tokens)`, *optional*): Uniform; in the order of its
                values, the first view keeps the first tokens and the second view the last. `None` where no view hides
                tokens.

        Returns:
            `tuple` of two `torch.Tensor` of shape `(batch, projection_dim)`.
        """
        parts = [tokens, tokens]
        if self._hides_tokens:
            assert noise is not None
            parts = self._visible_tokens(tokens, noise)
        first, second = (
            self.rme_dropout(head(part).mean(dim=1)) for head, part in zip(self.rme_heads, parts, strict=True)
        )
        return first, second

    @property
    def _hides_tokens(self) -> bool:
        """Whether the views of an ECG hide tokens, and noise is to choose them."""
        return len(self.rme_heads) > 0 and self.config.rme_views == "masked"

    def _visible_tokens(self, tokens: Tensor, noise: Tensor) -> list[Tensor]:
        """What each of the two views sees, as in [`augmented_views`]."""
        if self.config.mask_mode == "bernoulli_zero":
            is_kept = (noise >= self.config.rme_mask_ratio).to(tokens.dtype).unsqueeze(-1)
            return [tokens * is_kept[:, 0], tokens * is_kept[:, 1]]
        keep = self.config.num_view_tokens
        order = noise.argsort(dim=-1)
        places = [order[:, 0, :keep], order[:, 1, -keep:]]
        if self.config.keep_order:
            places = [place.sort(dim=-1).values for place in places]
        return [gather_tokens(tokens, place) for place in places]

    def _embed_ecg(self, encoder_output: BaseModelOutputWithPooling) -> dict[str, Tensor]:
        """The ECG's embeddings by name; both are the aligned one where no decoder reads ECGs."""
        tokens = self.token_attention(self.ecg_tokens(encoder_output))
        if self.training or self.config.normalize_tokens_at_inference:
            tokens = F.normalize(tokens, dim=-1)
        aligned = tokens.mean(dim=1)
        if self.ecg_to_text is None:
            return {"aligned": aligned, "mixed": aligned}
        return {"aligned": aligned, "mixed": aligned + self.text_projection(self._decode_text(tokens))}

    def _decode_text(self, aligned_tokens: Tensor) -> Tensor:
        """Text features `(batch, text_hidden_size)` from ECG tokens, and from the shared embedding behind them."""
        assert self.ecg_to_text is not None
        if self.config.use_shared_embedding:
            assert self.text_to_ecg is not None
            shared = self.text_to_ecg.separator.expand(aligned_tokens.shape[0], 1, -1)
            aligned_tokens = torch.cat([aligned_tokens, shared], dim=1)
        return self.ecg_to_text(aligned_tokens)

    def _read_text(self, text: TextInputs) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The tower's pooled output, its tokens, and where they are real, if that matters to the decoder."""
        if not self.reads_text_tokens:
            return self.encode_text(text)[0], None, None
        limit = self.config.max_text_tokens
        if not self.config.mask_padding and text.input_ids is not None:
            text = _pad_text(text, limit, self.config.text_config.pad_token_id)
        pooled, tokens = self.encode_text(text)
        if tokens is None:
            raise ValueError("DERI decodes the text tower's tokens: give text_tower_tokens beside text_tower_embeds.")
        if tokens.shape[1] > limit:
            raise ValueError(
                f"A report has {tokens.shape[1]} tokens and the decoder positions for {limit}. Set the processor's "
                f"max_length to {limit} (recipe: text.max_length), or build the model with a larger max_text_tokens."
            )
        if self.config.mask_padding:
            return pooled, tokens, None if text.attention_mask is None else text.attention_mask.bool()
        if tokens.shape[1] != limit:
            raise ValueError(
                f"mask_padding=False reads the tower's output at all {limit} positions of a padded report, but "
                f"text_tower_tokens has {tokens.shape[1]}. Give input_ids, or set mask_padding=True."
            )
        return pooled, tokens, None


def _view_head(config: DeriConfig) -> nn.Module:
    """From the tokens of a view to as many, whose mean is the view; a linear map commutes with that mean."""
    if config.rme_head == "linear":
        return nn.Linear(config.projection_dim, config.projection_dim, bias=False)
    return SeparatedAttention(config.num_view_tokens, config.projection_dim, config.num_rme_heads)


def _check_padding(config: DeriConfig) -> None:
    """Refuse to pad reports to more tokens than the text encoder has positions for."""
    readable = text_max_length(config.text_config)
    if config.mask_padding:
        return
    if readable is not None and readable < config.max_text_tokens:
        raise ValueError(
            f"mask_padding=False pads reports to max_text_tokens={config.max_text_tokens}, but the text encoder reads "
            f"{readable}; set max_text_tokens={readable}."
        )
    if getattr(config.text_config, "pad_token_id", None) is None:
        raise ValueError("mask_padding=False pads reports, but text_config has no pad_token_id; set mask_padding=True.")


def _pad_text(text: TextInputs, length: int, pad_token_id: int) -> TextInputs:
    """Reports padded to `length`, as the released code always has them; the tower itself never attends to padding."""
    assert text.input_ids is not None
    mask = torch.ones_like(text.input_ids) if text.attention_mask is None else text.attention_mask
    missing = max(length - text.input_ids.shape[1], 0)
    return replace(
        text,
        input_ids=F.pad(text.input_ids, (0, missing), value=pad_token_id),
        attention_mask=F.pad(mask, (0, missing)),
    )
