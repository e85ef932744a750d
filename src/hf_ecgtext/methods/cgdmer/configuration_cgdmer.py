"""Settings of CG-DMER (Niu et al., ICASSP 2026)."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase

from hf_ecgtext.encoders.lead_time_transformer import LeadTimeTransformerConfig
from hf_ecgtext.encoders.masking import num_kept
from hf_ecgtext.methods.base import EcgTextConfig

_WEIGHTS = ("contrastive", "siglip", "orthogonal", "reconstruct_ecg", "reconstruct_text")


@strict
class CgdmerConfig(EcgTextConfig):
    """Settings of [`CgdmerModel`]. No code was published; docs/methods/cgdmer.md lists each reading.

    Args:
        ecg_config ([`LeadTimeTransformerConfig`] or `dict`): Of the ECG encoder; holds `patch_size`.
        freeze_text (`bool`): The paper trains the text encoder.
        disentangle (`bool`): Give each modality two heads, one for what both share and one for what is its own. Off:
            one head per modality and no term `orthogonal`.
        decoder_hidden_size, decoder_num_layers, decoder_num_heads (`int`): Of the ECG decoder; its feed-forward layers
            are four times as wide.
        text_decoder (`str`): `"mlm_head"` predicts all masked tokens at once, `"causal_decoder"` one after the other.
        text_decoder_num_layers, text_decoder_num_heads (`int`): Of the causal decoder; as wide as the text encoder.
        ecg_mask_ratio (`float`): Share of the patches that is hidden.
        ecg_mask_scope (`str`): Equally many of every lead, chosen lead by lead (`"per_lead"`) or at the same places in
            time in all leads (`"same_places"`); or so many of all patches of all leads (`"all_tokens"`).
        text_mask_ratio (`float`): Share of a report's tokens that is replaced by the mask token.
        norm_patch (`bool`): Predict every patch with mean 0 and variance 1 instead of as it is.
        patch_error (`str`): The squared errors of a patch's samples are averaged (`"mean"`) or summed (`"sum"`, eq. 2).
        temperature (`float`): Of the contrastive term; constant.
        exclude_positive (`bool`): Leave the positive out of the contrastive denominator, as eq. 7 prints it.
        siglip_form (`str`): `"learnable"` is `scale * cosine + bias`, both trained; `"paper"` the bare dot product.
        siglip_scale, siglip_bias (`float`): Where `scale` and `bias` start; SigLIP's 10 and -10 by default, made for
            batches of tens of thousands. A bias of `-log(batch - 1)` makes the first answers right on average.
        equal_reports (`str`): How the sigmoid loss takes an ECG with another record's report that reads like its own:
            as `"negative"` (published), `"positive"` or `"ignored"`. Half of a batch may have one and the same report.
        contrastive_features (`str`): `contrastive` compares the `"shared"` features, as `siglip` does, or the pooled
            outputs of the two encoders (`"encoder"`), which must then be equally wide.
        contrastive_on_full_input (`bool`): Embed the whole input in a second pass instead of what masking left of it.
        contrastive_weight, siglip_weight, orthogonal_weight, reconstruct_ecg_weight, reconstruct_text_weight
            (`float`): Of the terms. 0 switches a term off: what only it needs is not built, and a modality that is not
            reconstructed is not masked.
        gather_with_grad (`bool`): Exact full-batch gradient under several processes.
        probe_feature (`str`): What a linear probe reads: the mean over the encoder's tokens (`"tokens_mean"`), or
            `"shared"`.
        mask_token_id (`int`, *optional*), special_token_ids (`list[int]`, *optional*): Of the tokenizer; see
            `adopt_tokenizer`.
    """

    model_type = "cgdmer"

    # architecture
    freeze_text: bool = False
    disentangle: bool = True
    decoder_hidden_size: int = 256
    decoder_num_layers: int = 4
    decoder_num_heads: int = 8
    text_decoder: Literal["mlm_head", "causal_decoder"] = "mlm_head"
    text_decoder_num_layers: int = 2
    text_decoder_num_heads: int = 12
    # masking
    ecg_mask_ratio: float = 0.75
    ecg_mask_scope: Literal["per_lead", "same_places", "all_tokens"] = "per_lead"
    text_mask_ratio: float = 0.15
    mask_token_id: int | None = None
    special_token_ids: list[int] | tuple[int, ...] | None = None
    # objective
    norm_patch: bool = True
    patch_error: Literal["mean", "sum"] = "mean"
    temperature: float = 0.07
    exclude_positive: bool = False
    siglip_form: Literal["learnable", "paper"] = "learnable"
    siglip_scale: float = 10.0  # these two: Zhai et al. 2023, section 3.2
    siglip_bias: float = -10.0
    equal_reports: Literal["negative", "positive", "ignored"] = "negative"
    contrastive_features: Literal["shared", "encoder"] = "shared"
    contrastive_on_full_input: bool = False
    contrastive_weight: float = 1.0
    siglip_weight: float = 1.0  # lambda 3; the paper gives none of its three lambdas
    orthogonal_weight: float = 1.0  # lambda 2
    reconstruct_ecg_weight: float = 1.0  # absent from eq. 10, yet ablated in table 3
    reconstruct_text_weight: float = 1.0  # lambda 1
    gather_with_grad: bool = True
    # evaluation
    probe_feature: Literal["tokens_mean", "shared"] = "tokens_mean"

    def __post_init__(self, **kwargs: Any) -> None:
        """The ECG encoder is a lead-by-time transformer unless its settings say otherwise."""
        if self.ecg_config is None or isinstance(self.ecg_config, dict):
            self.ecg_config = {"model_type": LeadTimeTransformerConfig.model_type, **(self.ecg_config or {})}
        super().__post_init__(**kwargs)

    def adopt_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Note the mask token, and the tokens that are never masked.

        Raises:
            ValueError: If reports are to be masked and the tokenizer has no mask token.
        """
        if self.masks_text and tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask token, which reconstruct_text_weight > 0 needs. Choose a "
                "text_model that was trained with one, such as a BERT, or set reconstruct_text_weight=0."
            )
        self.mask_token_id = tokenizer.mask_token_id
        self.special_token_ids = list(tokenizer.all_special_ids)

    @property
    def masks_ecg(self) -> bool:
        """Whether training hides patches of the ECG."""
        return self.reconstruct_ecg_weight > 0

    @property
    def masks_text(self) -> bool:
        """Whether training hides tokens of the report."""
        return self.reconstruct_text_weight > 0

    @property
    def has_specific_heads(self) -> bool:
        """Whether each modality also has features of its own; only the term `orthogonal` reads them."""
        return self.disentangle and self.orthogonal_weight > 0

    @property
    def num_visible_patches(self) -> int:
        """Patches of every lead that stay visible in training, where they are equally many; 25 of 100."""
        return num_kept(self.ecg_config.num_patches, self.ecg_mask_ratio)

    @property
    def num_visible_tokens(self) -> int:
        """Patches of all leads together that stay visible in training; 300 of 1200."""
        if self.ecg_mask_scope == "all_tokens":
            return num_kept(self.ecg_config.num_tokens, self.ecg_mask_ratio)
        return int(self.ecg_config.num_leads * self.num_visible_patches)

    def validate_encoder(self) -> None:
        """Called by `@strict`."""
        if not isinstance(self.ecg_config, LeadTimeTransformerConfig):
            raise ValueError(
                f"ecg_config is a {type(self.ecg_config).__name__}; CG-DMER hides patches of single leads, which needs "
                f"a LeadTimeTransformerConfig (model_type '{LeadTimeTransformerConfig.model_type}')."
            )

    def validate_decoders(self) -> None:
        """Called by `@strict`."""
        for name in ("decoder_num_layers", "decoder_num_heads", "text_decoder_num_layers", "text_decoder_num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.decoder_hidden_size < 1 or self.decoder_hidden_size % self.decoder_num_heads:
            raise ValueError(
                f"decoder_hidden_size {self.decoder_hidden_size} is not a multiple of decoder_num_heads "
                f"{self.decoder_num_heads}."
            )

    def validate_masking(self) -> None:
        """Called by `@strict`, and by the model, whose input shape may have been set later."""
        if not 0 < self.text_mask_ratio < 1:
            raise ValueError(
                f"text_mask_ratio must lie between 0 and 1, not {self.text_mask_ratio}. "
                "To mask no text, set reconstruct_text_weight=0."
            )
        if not 0 < self.ecg_mask_ratio < 1:
            raise ValueError(
                f"ecg_mask_ratio must lie between 0 and 1, not {self.ecg_mask_ratio}. "
                "To mask no ECG, set reconstruct_ecg_weight=0."
            )
        if isinstance(self.ecg_config, LeadTimeTransformerConfig):
            visible, total, whole = self.num_visible_patches, self.ecg_config.num_patches, "a lead"
            if self.ecg_mask_scope == "all_tokens":
                visible, total, whole = self.num_visible_tokens, self.ecg_config.num_tokens, "all leads"
            if self.masks_ecg and not 0 < visible < total:
                raise ValueError(
                    f"ecg_mask_ratio {self.ecg_mask_ratio} leaves {visible} of the {total} patches of {whole} visible; "
                    "it must hide some and leave some. Change it, or ecg_config.patch_size."
                )

    def validate_objective(self) -> None:
        """Called by `@strict`."""
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}.")
        if self.siglip_scale <= 0:
            raise ValueError(f"siglip_scale must be positive, not {self.siglip_scale}.")
        for name in _WEIGHTS:
            if getattr(self, f"{name}_weight") < 0:
                raise ValueError(f"{name}_weight must not be negative, not {getattr(self, f'{name}_weight')}.")
        if not self.siglip_weight and not (self.contrastive_weight and self.contrastive_features == "shared"):
            raise ValueError(
                "Nothing would align the shared features of both modalities: set siglip_weight, or contrastive_weight "
                "with contrastive_features='shared', above 0."
            )
