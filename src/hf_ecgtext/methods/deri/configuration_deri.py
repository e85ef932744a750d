"""Settings of DERI (Chen et al., IJCAI 2025)."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from hf_ecgtext.encoders.heads import ProjectionType
from hf_ecgtext.encoders.masking import num_kept
from hf_ecgtext.methods.base import EcgTextConfig

RELEASED: dict[str, Any] = {
    "loss_reduction": "sum_directions",
    "keep_order": False,
    "mask_padding": False,
    "normalize_tokens_at_inference": False,
    "decode_text_weight": 0.0,
    "gather_with_grad": False,
}
"""Where the released code differs from the defaults, save for the dropout of the frozen text encoder."""


@strict
class DeriConfig(EcgTextConfig):
    """Settings of [`DeriModel`]. Defaults: ResNet18, our reading of paper and code (docs/methods/deri.md).

    A weight of 0 switches a term off, and what only it trains is not built. A decoder is built where `mixed` or its own
    term asks for it. Without the one that reads ECGs, the mixed ECG embedding is the aligned one.

    Args:
        token_stride (`int`): Every how many ECG tokens the projection to `projection_dim` keeps one.
        num_attention_heads (`int`): Heads of the attention among the ECG tokens.
        num_rme_heads (`int`): Heads of each attention that makes a view of an ECG.
        num_decoder_layers, num_decoder_heads, decoder_head_dim (`int`): Size of both decoders.
        decoder_dropout (`float`): Inside the gated MLPs in which both decoders begin and end.
        decoder_drop_path (`float`): Rate at which a record skips the last block; it rises from 0 at the first.
        max_text_tokens (`int`): Longest report that the text-reading decoder has positions for.
        projection_type (`str`): Of the projection that pooled reports, their tokens and decoded text features share:
            `"mlp"` (released code: two linear maps with a GELU between them) or `"linear"` (the paper's word).
        decoder_text_input (`str`): What the text-reading decoder reads of a report: its projected `"tokens"` (released
            code), or its alignment embedding as one token (`"pooled"`, eq. 6 of the paper).
        use_shared_embedding (`bool`): The ECG-reading decoder also reads the other decoder's separator.
        ecg_embedding (`"mixed"` or `"aligned"`): What stands for an ECG in the shared space: the aligned embedding plus
            the text features that are decoded from it, or the aligned embedding alone.
        normalize_tokens_at_inference (`bool`): L2-normalise ECG tokens at inference as in training; the released code
            does not.
        temperature (`float`): Of all five terms; constant.
        loss_reduction (`str`): `"mean_directions"` (paper) or `"sum_directions"` (released code).
        mask_padding (`bool`): The text-reading decoder ignores padding. The released code pads every report to
            `max_text_tokens` and reads and averages all of it. Without meaning where it reads no tokens.
        rme_views (`str`): What makes two views of an ECG: each hides tokens of its own (`"masked"`), or dropout acts on
            what each view's head gives of all tokens (`"latent_dropout"`, MERL's views).
        rme_head (`str`): How the tokens of a view become one vector: `"attention"` among them, then their mean; or
            their mean, then a `"linear"` map without bias (as MERL's).
        rme_dropout (`float`): Rate of the dropout of `"latent_dropout"`; MERL's by default.
        rme_mask_ratio (`float`): Share of ECG tokens that each masked view hides. This and the next two settings belong
            to masked views.
        mask_mode (`"drop"` or `"bernoulli_zero"`): Remove an exact share of the tokens (released code), or set each to
            zero independently with that probability (paper).
        keep_order (`bool`): The remaining tokens stay in order; the released code leaves them shuffled. Their mean,
            which `rme_head="linear"` reads, does not change with it.
        align_weight, mixed_weight, decode_ecg_weight, decode_text_weight, rme_weight (`float`): Weights of the terms:
            alignment of ECG and text, alignment of their mixed embeddings, reconstruction of ECG features from text
            and of text features from ECG, and agreement of two views of an ECG.
        gather_with_grad (`bool`): Exact full-batch gradient under several processes; `False` is the released code's.
        probe_feature (`str`): What a linear probe reads: the `"mixed"` embedding (released code), the `"aligned"` one,
            or the encoder's `"backbone_pool"`.
    """

    model_type = "deri"

    # architecture
    token_stride: int = 3
    num_attention_heads: int = 4
    num_rme_heads: int = 2
    num_decoder_layers: int = 2
    num_decoder_heads: int = 8
    decoder_head_dim: int = 64
    decoder_dropout: float = 0.2
    decoder_drop_path: float = 0.1
    max_text_tokens: int = 256
    projection_type: ProjectionType = "mlp"
    decoder_text_input: Literal["tokens", "pooled"] = "tokens"
    use_shared_embedding: bool = True
    ecg_embedding: Literal["mixed", "aligned"] = "mixed"
    normalize_tokens_at_inference: bool = True
    # objective
    temperature: float = 0.07  # released code; the paper prints 0.7, with which a batch of 512 would barely train
    loss_reduction: Literal["mean_directions", "sum_directions"] = "mean_directions"
    mask_padding: bool = True
    rme_views: Literal["masked", "latent_dropout"] = "masked"
    rme_head: Literal["attention", "linear"] = "attention"
    rme_dropout: float = 0.1
    rme_mask_ratio: float = 0.1
    mask_mode: Literal["drop", "bernoulli_zero"] = "drop"
    keep_order: bool = True
    align_weight: float = 1.0
    mixed_weight: float = 1.0
    decode_ecg_weight: float = 1.0
    decode_text_weight: float = 1.0  # paper; 0 in the released code
    rme_weight: float = 1.0
    gather_with_grad: bool = True
    # evaluation
    probe_feature: Literal["mixed", "aligned", "backbone_pool"] = "mixed"

    @property
    def num_ecg_tokens(self) -> int:
        """ECG tokens behind the strided projection; 105 for MERL's ResNet18 and 5000 samples."""
        return (self.ecg_config.num_tokens - 1) // self.token_stride + 1

    @property
    def num_decoder_text_tokens(self) -> int:
        """Most tokens that the text-reading decoder has positions for."""
        return self.max_text_tokens if self.decoder_text_input == "tokens" else 1

    @property
    def num_view_tokens(self) -> int:
        """Tokens in a view; 94 of 105 where each hides some."""
        if self.rme_views == "latent_dropout" or self.mask_mode == "bernoulli_zero":
            return self.num_ecg_tokens
        return num_kept(self.num_ecg_tokens, self.rme_mask_ratio)

    def validate_architecture(self) -> None:
        """Called by `@strict`."""
        for name in ("num_attention_heads", "num_rme_heads"):
            if getattr(self, name) < 1 or self.projection_dim % getattr(self, name):
                raise ValueError(f"projection_dim {self.projection_dim} is not a multiple of {name}.")
        for name in ("token_stride", "num_decoder_layers", "num_decoder_heads", "decoder_head_dim", "max_text_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("decoder_dropout", "decoder_drop_path", "rme_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}.")

    def validate_objective(self) -> None:
        """Called by `@strict`."""
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}.")
        for name in ("align", "mixed", "decode_ecg", "decode_text", "rme"):
            if getattr(self, f"{name}_weight") < 0:
                raise ValueError(f"{name}_weight must not be negative; 0 switches the term off.")
        if not (self.align_weight or self.mixed_weight):
            raise ValueError(
                "align_weight and mixed_weight are both 0: nothing brings ECGs and texts into one space. "
                "Give one of them a positive weight."
            )

    def validate_masking(self) -> None:
        """Called by `@strict`."""
        if not 0 <= self.rme_mask_ratio < 1 or (self.rme_weight and not self.num_view_tokens):
            raise ValueError(
                f"rme_mask_ratio must lie in [0, 1) and leave at least one of {self.num_ecg_tokens} tokens, "
                f"not {self.rme_mask_ratio}."
            )
        if self.mask_mode == "bernoulli_zero" and not self.keep_order:
            raise ValueError("mask_mode='bernoulli_zero' moves no token; keep_order=False belongs to 'drop'.")
