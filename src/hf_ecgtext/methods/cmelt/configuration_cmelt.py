"""Settings of C-MELT (arXiv 2410.02131), whose released code is called D-BETA."""

from __future__ import annotations

import copy
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase, T5Config

from hf_ecgtext.encoders.conv_transformer import ConvTransformerConfig
from hf_ecgtext.encoders.masking import num_kept
from hf_ecgtext.encoders.text import TextPooling
from hf_ecgtext.methods.base import EcgTextConfig

T5_MASK_TOKEN = "<extra_id_0>"


@strict
class CmeltConfig(EcgTextConfig):
    """Settings of [`CmeltModel`]. Defaults: the released architecture, read as docs/methods/cmelt.md says.

    A term of weight 0 is not computed, and the modules that it alone uses are not built.

    Args:
        projection_dim (`int`): Width of the shared space and of the fusion; that of the ECG encoder's tokens.
        attend_padding (`bool`): Let padding take part in the text encoder's attention, as the released code does.
        num_fusion_layers (`int`): Pairs of fusion layers.
        fusion_num_attention_heads, fusion_intermediate_size (`int`): Of each fusion layer.
        fusion_dropout (`float`): Rate in fusion, and on the positions of the MEM decoder.
        mem_layer (`int`): MEM reads the ECG tokens before the fusion pair of this index, counted from 0.
        mlm_head (`str`): One dense layer over the vocabulary (`"dense"`, paper), or behind dense, GELU and LayerNorm
            (`"transform"`, released code).
        etm_head (`str`): Scores of "no" and "yes" (`"two_way"`, released code), or one logit (`"scalar"`, paper).
        mem_decoder_hidden_size, mem_decoder_num_layers, mem_decoder_num_attention_heads (`int`): Of the MEM decoder.
        lead_mask_probability (`float`): Random lead masking: each lead is zeroed with this probability in training.
        ecg_mask_ratio (`float`): Share of patches that the ECG encoder does not see while the loss is computed.
        text_mask_ratio (`float`): Share of a report's ordinary tokens that are masked, unless `mlm_weight` is 0.
        mask_token_id (`int`, *optional*): What stands for a masked token; from the tokenizer.
        special_token_ids (`list[int]`, *optional*): Tokens that are never masked; from the tokenizer.
        mlm_weight, mem_weight, etm_weight, ets_weight (`float`): Of masked language modelling, masked ECG modelling,
            ECG-text matching, and the sigmoid pair loss ("Siglep" in the paper).
        mlm_on_negatives (`bool`): Also predict masked words where the report belongs to another ECG.
        mlm_reduction (`str`): Mean over all masked words of the batch (`"mean_tokens"`, released code), or their sum
            divided by the number of reports (`"sum_tokens"`, paper).
        mem_reduction (`str`): Of a record, the mean squared error over hidden patches (`"mean_hidden"`, released code),
            or the squared error summed over all patches (`"sum_all"`, paper); then the mean over records.
        mem_masked_leads (`str`): Leads that are missing or were zeroed by random lead masking do not count in MEM
            (`"exclude"`), or zeros are what it asks for there (`"reconstruct_zeros"`, released code).
        norm_pix_loss (`bool`): MEM's target has mean 0 and variance 1 in each lead over the recording.
        normalize_features (`bool`): L2-normalise the features for the pair loss.
        siglip_scale, siglip_bias (`float`, *optional*): A pair's logit is `scale * dot + bias`. 1 and 0 by default; 10
            and -10, SigLIP's, where they are learned.
        learnable_siglip (`bool`): Learn both. Meant for `normalize_features=True`.
        equal_reports (`str`): How the pair loss takes an ECG with another record's report that reads like its own:
            as `"negative"` (published), `"positive"` or `"ignored"`. Half of a batch may have one and the same report.
        pairs_on_full_input (`bool`): The pair loss embeds whole recordings and reports, as inference does, in a second
            pass, instead of what masking left of them.
        siglip_reduction (`str`): `"mean_pairs"` (released code) or `"mean_rows"` (paper), which is as many times
            stronger as the batch has records.
        initializer_range (`float`): Standard deviation of initial weights in fusion, projections and heads.
    """

    model_type = "cmelt"

    # architecture
    projection_dim: int = 768
    text_pooling: TextPooling = "cls"
    freeze_text: bool = False
    attend_padding: bool = False
    num_fusion_layers: int = 6
    fusion_num_attention_heads: int = 12
    fusion_intermediate_size: int = 3072
    fusion_dropout: float = 0.1
    mem_layer: int = 3
    mlm_head: Literal["transform", "dense"] = "transform"
    etm_head: Literal["two_way", "scalar"] = "two_way"
    mem_decoder_hidden_size: int = 384
    mem_decoder_num_layers: int = 4
    mem_decoder_num_attention_heads: int = 6
    # masking
    lead_mask_probability: float = 0.5
    ecg_mask_ratio: float = 0.75
    text_mask_ratio: float = 0.25
    mask_token_id: int | None = None
    special_token_ids: list[int] | None = None
    # objective
    mlm_weight: float = 1.0
    mem_weight: float = 1.0
    etm_weight: float = 1.0
    ets_weight: float = 1.0
    mlm_on_negatives: bool = True
    mlm_reduction: Literal["mean_tokens", "sum_tokens"] = "mean_tokens"
    mem_reduction: Literal["mean_hidden", "sum_all"] = "mean_hidden"
    mem_masked_leads: Literal["exclude", "reconstruct_zeros"] = "exclude"
    norm_pix_loss: bool = True
    normalize_features: bool = False
    siglip_scale: float | None = None
    siglip_bias: float | None = None
    learnable_siglip: bool = False
    equal_reports: Literal["negative", "positive", "ignored"] = "negative"
    pairs_on_full_input: bool = False
    siglip_reduction: Literal["mean_pairs", "mean_rows"] = "mean_pairs"
    # initialisation
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """The encoders by default: D-BETA's convolutional transformer and Flan-T5-base."""
        if self.ecg_config is None:
            self.ecg_config = ConvTransformerConfig()
        if self.text_config is None:
            self.text_config = flan_t5_base_config()
        super().__post_init__(**kwargs)
        # Only the pair term trains the poolers.
        if isinstance(self.ecg_config, ConvTransformerConfig) and self.ecg_config.add_pooler != (self.ets_weight > 0):
            self.ecg_config = copy.deepcopy(self.ecg_config)  # it may be the caller's
            self.ecg_config.add_pooler = self.ets_weight > 0

    @property
    def uses_fusion(self) -> bool:
        """Whether any term reads fused tokens."""
        return max(self.mlm_weight, self.mem_weight, self.etm_weight) > 0

    @property
    def num_text_fusion_layers(self) -> int:
        """Fusion layers of the text whose output the loss depends on."""
        if self.etm_weight > 0 or self.mlm_weight > 0:
            return self.num_fusion_layers
        return max(self.mem_layer - 1, 0) if self.mem_weight > 0 else 0

    @property
    def num_ecg_fusion_layers(self) -> int:
        """Fusion layers of the ECG whose output the loss depends on."""
        if self.etm_weight > 0:
            return self.num_fusion_layers
        for_text = self.num_fusion_layers - 1 if self.mlm_weight > 0 else 0
        return max(for_text, self.mem_layer if self.mem_weight > 0 else 0)

    @property
    def initial_siglip_scale(self) -> float:
        """Factor of a pair's dot product, at the start where it is learned."""
        return self.siglip_scale if self.siglip_scale is not None else 10.0 if self.learnable_siglip else 1.0

    @property
    def initial_siglip_bias(self) -> float:
        """Bias of a pair's logit, at the start where it is learned."""
        return self.siglip_bias if self.siglip_bias is not None else -10.0 if self.learnable_siglip else 0.0

    def adopt_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Note which token masks others, and which are never masked.

        T5 has no mask token: the first of its sentinels serves.

        Raises:
            ValueError: If words are to be masked, and the tokenizer has neither a mask token nor T5's sentinels.
        """
        mask_token_id = getattr(tokenizer, "mask_token_id", None)
        if mask_token_id is None:
            mask_token_id = tokenizer.get_vocab().get(T5_MASK_TOKEN)
        if mask_token_id is None and self.mlm_weight > 0:
            raise ValueError(
                f"{type(tokenizer).__name__} has neither a mask token nor {T5_MASK_TOKEN}, which masked language "
                "modelling needs. Add one (tokenizer.add_special_tokens), or set mlm_weight=0."
            )
        self.mask_token_id = mask_token_id
        self.special_token_ids = sorted(set(tokenizer.all_special_ids))

    def validate_architecture(self) -> None:
        """Called by `@strict`."""
        if not isinstance(self.ecg_config, ConvTransformerConfig):
            raise ValueError(
                f"ecg_config must be a ConvTransformerConfig (model_type 'ecg_conv_transformer'), which can leave out "
                f"patches, not a {type(self.ecg_config).__name__}."
            )
        if self.projection_dim != self.ecg_config.hidden_size:
            raise ValueError(
                f"projection_dim {self.projection_dim} must equal ecg_config.hidden_size "
                f"{self.ecg_config.hidden_size}: fusion and shared space have the width of the ECG tokens."
            )
        for name in (
            "num_fusion_layers",
            "fusion_intermediate_size",
            "mem_decoder_num_layers",
            "mem_decoder_hidden_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if not 0 <= self.mem_layer <= self.num_fusion_layers:
            raise ValueError(f"mem_layer must lie in [0, {self.num_fusion_layers}], not {self.mem_layer}.")
        for width, heads in (
            ("projection_dim", "fusion_num_attention_heads"),
            ("mem_decoder_hidden_size", "mem_decoder_num_attention_heads"),
        ):
            if getattr(self, heads) < 1 or getattr(self, width) % getattr(self, heads):
                raise ValueError(f"{width} {getattr(self, width)} is not a multiple of {heads} {getattr(self, heads)}.")
        if self.mem_decoder_hidden_size % 2:
            raise ValueError(f"mem_decoder_hidden_size must be even, not {self.mem_decoder_hidden_size}.")

    def validate_masking(self) -> None:
        """Called by `@strict`."""
        for name in ("lead_mask_probability", "ecg_mask_ratio", "text_mask_ratio", "fusion_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}.")
        keep = num_kept(self.ecg_config.num_tokens, self.ecg_mask_ratio)
        if keep < 1:
            raise ValueError(
                f"ecg_mask_ratio {self.ecg_mask_ratio} hides all {self.ecg_config.num_tokens} patches; lower it."
            )
        if keep < 2 and self.ecg_config.conv_norm == "each":
            raise ValueError(
                f"ecg_mask_ratio {self.ecg_mask_ratio} leaves one patch, which conv_norm='each' makes 0; lower it, or "
                "set ecg_config.conv_norm='first'."
            )
        if self.mem_weight > 0 and keep == self.ecg_config.num_tokens:
            raise ValueError(
                f"ecg_mask_ratio {self.ecg_mask_ratio} hides no patch, so that masked ECG modelling has nothing to "
                "reconstruct; raise it, or set mem_weight=0."
            )
        if self.mlm_weight > 0 and self.text_mask_ratio == 0:
            raise ValueError("text_mask_ratio=0 leaves nothing to predict; set mlm_weight=0 to switch masking off.")

    def validate_objective(self) -> None:
        """Called by `@strict`."""
        weights = {name: getattr(self, f"{name}_weight") for name in ("mlm", "mem", "etm", "ets")}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name}_weight must not be negative, but is {weight}.")
        if not any(weights.values()):
            raise ValueError("mlm_weight, mem_weight, etm_weight and ets_weight are all 0; set at least one.")
        if self.num_text_fusion_layers == self.num_ecg_fusion_layers == self.ets_weight == 0:
            raise ValueError("With mem_layer=0, masked ECG modelling alone never reads the report; raise mem_layer.")
        if self.ets_weight == 0 and self.text_pooling == "pooler":
            raise ValueError("Nothing trains the text encoder's pooler with ets_weight=0; set text_pooling='cls'.")
        if self.initial_siglip_scale <= 0:
            raise ValueError(f"siglip_scale must be positive, not {self.siglip_scale}.")


def flan_t5_base_config() -> T5Config:
    """The architecture of `google/flan-t5-base`, whose encoder the paper uses."""
    return T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
