"""Turn the published D-BETA weights into a [`CmeltModel`], or into its ECG encoder alone.

Full files (`sample.pt`, 645 tensors) hold a state dict under `model`, as fairseq writes it; others hold only what reads
an ECG. Which order of leads the weights expect is not documented: `feature_extractor_settings(lead_order=...)` lets the
caller decide.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from hf_ecgtext.encoders.conv_transformer import ConvTransformerConfig, ConvTransformerModel
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.methods.cmelt.configuration_cmelt import CmeltConfig, flan_t5_base_config
from hf_ecgtext.methods.cmelt.modeling_cmelt import CmeltModel
from hf_ecgtext.methods.conversion import (
    Content,
    LeadOrder,
    Renames,
    fill_model,
    input_settings,
    plain_state_dict,
    rename,
    shape_of,
)

TEXT_MODEL = "google/flan-t5-base"

CAVEATS = (
    "The licence of D-BETA's code and weights is CC BY-NC 4.0: no commercial use, and say who made them. They were "
    "trained on MIMIC-IV-ECG (ODbL) and contain Google's Flan-T5-base (Apache-2.0). Which lead order they read is not "
    "documented: MIMIC's (aVF before aVL) is assumed; compare scores of both orders on labelled data."
)

_HEAD_DIM = 64  # heads are not in the file; the release has 12 of them in width 768 and 6 in width 384
_NUM_SAMPLES = 5000  # nor is the length, on which no weight depends

# Names that only such files have, and those of them that say that there is more than the ECG encoder.
_ENCODER_PART = re.compile(r"^(class_embedding$|multi_modal_ecg_proj\.|unimodal_ecg_pooler\.|ecg_encoder\.conv_pos\.)")
_MODEL_PART = re.compile(
    r"^(language_encoder|multi_modal_language_proj|unimodal_language_pooler|modality_type_embeddings|"
    r"multi_modal_(language|ecg)_(layers|pooler)|mlm_head|mim_head|itm_head)\."
)

# Where a part stands. Left: the published name; right: ours.
_PARTS: Renames = (
    (r"^class_embedding$", "ecg_encoder.class_token"),
    (r"^ecg_encoder\.feature_extractor\.conv_layers\.(\d)\.0\.", r"ecg_encoder.stem.convolutions.\1."),
    (r"^ecg_encoder\.feature_extractor\.conv_layers\.0\.2\.", "ecg_encoder.stem.instance_norm."),
    (r"^ecg_encoder\.layer_norm\.", "ecg_encoder.stem.token_norm."),
    (r"^ecg_encoder\.post_extract_proj\.", "ecg_encoder.stem.projection."),
    (r"^ecg_encoder\.conv_pos\.pos_conv\.0\.bias$", "ecg_encoder.position.bias"),
    # old and new names of weight norm
    (
        r"^ecg_encoder\.conv_pos\.pos_conv\.0\.(weight_g|parametrizations\.weight\.original0)$",
        "ecg_encoder.position.weight_magnitude",
    ),
    (
        r"^ecg_encoder\.conv_pos\.pos_conv\.0\.(weight_v|parametrizations\.weight\.original1)$",
        "ecg_encoder.position.weight_direction",
    ),
    (r"^ecg_encoder\.encoder\.layer_norm\.", "ecg_encoder.norm."),
    (r"^ecg_encoder\.encoder\.layers\.", "ecg_encoder.layers."),
    (r"^multi_modal_ecg_proj\.", "ecg_encoder.projection."),
    (r"^unimodal_ecg_pooler\.", "ecg_encoder.pooler."),
    (r"^language_encoder\.", "text_tower.model."),
    (r"^multi_modal_language_proj\.", "text_projection."),
    (r"^unimodal_language_pooler\.", "text_pooler."),
    (r"^modality_type_embeddings\.", "modality_embeddings."),
    (r"^multi_modal_language_layers\.", "fusion.text_layers."),
    (r"^multi_modal_ecg_layers\.", "fusion.ecg_layers."),
    (r"^multi_modal_language_pooler\.", "fused_text_pooler."),
    (r"^multi_modal_ecg_pooler\.", "fused_ecg_pooler."),
    (r"^mlm_head\.transform\.dense\.", "mlm_head.dense."),
    (r"^mlm_head\.transform\.LayerNorm\.", "mlm_head.norm."),
    (r"^mlm_head\.(bias|decoder\.weight)$", lambda match: f"mlm_head.vocabulary.{match[1].removeprefix('decoder.')}"),
    (r"^mim_head\.decoder_embed\.", "mem_head.embedding."),
    (r"^mim_head\.decoder\.resblocks\.", "mem_head.blocks."),
    (r"^mim_head\.decoder_norm\.", "mem_head.norm."),
    (r"^mim_head\.decoder_pred\.", "mem_head.prediction."),
    (r"^mim_head\.", "mem_head."),
    (r"^itm_head\.fc\.", "etm_head."),
)

_QKV = {"q": "query", "k": "key", "v": "value"}

# What a layer consists of.
_LAYERS: Renames = (
    # ECG encoder
    (r"^(ecg_encoder\.layers\.\d+)\.self_attn\.out_proj\.", r"\1.attention.output."),
    (
        r"^(ecg_encoder\.layers\.\d+)\.self_attn\.([qkv])_proj\.",
        lambda match: f"{match[1]}.attention.{_QKV[match[2]]}.",
    ),
    (r"^(ecg_encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.attention_norm."),
    (r"^(ecg_encoder\.layers\.\d+)\.fc1\.", r"\1.mlp.0."),
    (r"^(ecg_encoder\.layers\.\d+)\.fc2\.", r"\1.mlp.2."),
    (r"^(ecg_encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.output_norm."),
    # fusion
    (r"^(fusion\.\w+\.\d+)\.attention\.self\.", r"\1.self_attention."),
    (r"^(fusion\.\w+\.\d+)\.attention\.output\.dense\.", r"\1.self_attention.output."),
    (r"^(fusion\.\w+\.\d+)\.attention\.output\.LayerNorm\.", r"\1.self_attention_norm."),
    (r"^(fusion\.\w+\.\d+)\.crossattention\.self\.", r"\1.cross_attention."),
    (r"^(fusion\.\w+\.\d+)\.crossattention\.output\.dense\.", r"\1.cross_attention.output."),
    (r"^(fusion\.\w+\.\d+)\.crossattention\.output\.LayerNorm\.", r"\1.cross_attention_norm."),
    (r"^(fusion\.\w+\.\d+)\.intermediate\.dense\.", r"\1.mlp.0."),
    (r"^(fusion\.\w+\.\d+)\.output\.dense\.", r"\1.mlp.2."),
    (r"^(fusion\.\w+\.\d+)\.output\.LayerNorm\.", r"\1.output_norm."),
    # MEM decoder
    (r"^(mem_head\.blocks\.\d+)\.attn\.out_proj\.", r"\1.attention.output."),
    (r"^(mem_head\.blocks\.\d+)\.ln_1\.", r"\1.attention_norm."),
    (r"^(mem_head\.blocks\.\d+)\.ln_2\.", r"\1.mlp.0."),
    (r"^(mem_head\.blocks\.\d+)\.mlp\.c_fc\.", r"\1.mlp.1."),
    (r"^(mem_head\.blocks\.\d+)\.mlp\.c_proj\.", r"\1.mlp.3."),
)
_IN_PROJECTION = re.compile(r"^(mem_head\.blocks\.\d+\.attention)\.in_proj_(weight|bias)$")

# wav2vec's mask embedding, and the table of sines that we compute.
_UNUSED = re.compile(r"^(ecg_encoder\.mask_emb|mim_head\.decoder_pos_embed\.pe)$")

# Flan-T5's tokenizer: padding, end, unknown, and 100 sentinels, of which the first serves as mask token.
_FLAN_T5_TOKENS = {"mask_token_id": 32099, "special_token_ids": [0, 1, 2, *range(32000, 32100)]}


def recognises(names: Collection[str]) -> Content | None:
    """What a state dict with these names is; `None` if it is not of D-BETA."""
    if not any(_ENCODER_PART.match(name) for name in names):
        return None
    return "model" if any(_MODEL_PART.match(name) for name in names) else "encoder"


def convert(
    state_dict: Mapping[str, Any], text_config: PreTrainedConfig | None = None, **config_overrides: Any
) -> CmeltModel | ConvTransformerModel:
    """Build a [`CmeltModel`] from a full file, or its [`ConvTransformerModel`] from one without a text encoder.

    Every weight must find its place. Padding is not attended, which equals the release's inference: it encodes each
    text alone and unpadded. Give `attend_padding=True` to go on training as the release trains.

    Args:
        state_dict (`Mapping[str, Any]`): A plain state dict, or fairseq's, which holds one under `model`.
        text_config ([`~transformers.PreTrainedConfig`], *optional*): Config of the text encoder in the file;
            Flan-T5-base by default.
        config_overrides: Fields of [`CmeltConfig`], or of [`ConvTransformerConfig`] for a file without text encoder.

    Returns:
        [`CmeltModel`] or [`ConvTransformerModel`] in `eval()` mode.

    Raises:
        CheckpointError: If weights are missing, left over or of another shape, each named; or if this is no D-BETA
            file.
    """
    published = plain_state_dict(state_dict, "D-BETA")
    content = recognises(published)
    if content is None:
        raise CheckpointError(
            "This is no D-BETA checkpoint: it has neither 'class_embedding' nor 'multi_modal_ecg_proj'. Its first "
            f"keys: {list(published)[:5]}."
        )
    weights = _split_attention(rename(rename(published, _PARTS, _UNUSED), _LAYERS))
    if content == "encoder":
        encoder = ConvTransformerModel(ConvTransformerConfig(**{**_ecg_settings(weights), **config_overrides}))
        stripped = {name.removeprefix("ecg_encoder."): tensor for name, tensor in weights.items()}
        return fill_model(encoder, stripped, "ECG encoder of D-BETA")

    text_config = text_config if text_config is not None else flan_t5_base_config()
    settings = {"ecg_config": ConvTransformerConfig(**_ecg_settings(weights)), **_fusion_settings(weights)}
    if text_config.model_type == "t5":
        settings |= _FLAN_T5_TOKENS
    model = CmeltModel(CmeltConfig(text_config=text_config, **{**settings, **config_overrides}))
    return fill_model(model, weights, "C-MELT model")


def feature_extractor_settings(lead_order: LeadOrder = "mimic") -> dict[str, Any]:
    """How the published weights want their input: 500 Hz, 10 s, not scaled.

    Args:
        lead_order (`"mimic"` or `"standard"`): Not documented by the authors. fairseq-signals, from which their code
            derives, leaves MIMIC-IV-ECG's order as it is (aVF before aVL), hence the default; others feed the standard
            order. Labelled data can tell: the right order scores higher.

    Raises:
        ValueError: If there is no such order.
    """
    return input_settings(lead_order, "none")


def text_settings() -> dict[str, Any]:
    """How the published weights want their reports."""
    return {"max_length": 254, "report_cleaning": "dbeta"}


def _split_attention(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value apart, where the file has them in one matrix."""
    split: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if match := _IN_PROJECTION.match(name.replace(".attn.", ".attention.")):
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[f"{match[1]}.{part}.{match[2]}"] = chunk
        else:
            split[name] = tensor
    return split


def _ecg_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the encoder's size off the shapes of its weights."""
    conv_dim, num_leads, _ = shape_of(weights, "ecg_encoder.stem.convolutions.0.weight", 3)
    width, group_width, taps = shape_of(weights, "ecg_encoder.position.weight_direction", 3)
    return {
        "num_leads": num_leads,
        "num_samples": _NUM_SAMPLES,
        "conv_dim": conv_dim,
        "num_conv_layers": _count(weights, "ecg_encoder.stem.convolutions"),
        "hidden_size": width,
        "num_hidden_layers": _count(weights, "ecg_encoder.layers"),
        "num_attention_heads": _num_heads(width),
        "intermediate_size": shape_of(weights, "ecg_encoder.layers.0.mlp.0.weight", 2)[0],
        "position_kernel_size": taps,
        "position_groups": max(1, width // group_width),
        "leak_free_masking": False,
    }


def _fusion_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    intermediate_size, width = shape_of(weights, "fusion.ecg_layers.0.mlp.0.weight", 2)
    decoder_width = shape_of(weights, "mem_head.mask_token", 3)[2]
    num_layers = _count(weights, "fusion.ecg_layers")
    return {
        "projection_dim": width,
        "num_fusion_layers": num_layers,
        "fusion_num_attention_heads": _num_heads(width),
        "fusion_intermediate_size": intermediate_size,
        "mem_layer": min(3, num_layers),
        "mem_masked_leads": "reconstruct_zeros",
        "mem_decoder_hidden_size": decoder_width,
        "mem_decoder_num_layers": _count(weights, "mem_head.blocks"),
        "mem_decoder_num_attention_heads": _num_heads(decoder_width),
    }


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers there are under a prefix; of none, the first will be missed."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max(1, len({match[1] for name in weights if (match := pattern.match(name))}))


def _num_heads(width: int) -> int:
    return max(1, width // _HEAD_DIM)
