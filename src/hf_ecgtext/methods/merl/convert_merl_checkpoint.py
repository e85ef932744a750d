"""Turn the published MERL weights into a [`MerlModel`], or into its ECG encoder alone.

The published files are pickles of a state dict (`res18_best_ckpt.pth`, `vit_tiny_best_ckpt.pth`), trainer checkpoints
`{"epoch", "model_state_dict", "optimizer_state_dict"}` whose keys begin with `module.`, or the ECG encoder's state dict
(`res18_best_encoder.pth`, `vit_tiny_best_encoder.pth`). They read leads in MIMIC-IV-ECG's order: use
`feature_extractor_settings()` for the processor that goes with them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from transformers import BertConfig, PreTrainedConfig

from hf_ecgtext.encoders.resnet1d import ResNet1dConfig, ResNet1dModel
from hf_ecgtext.encoders.vit1d import Vit1dConfig, Vit1dModel
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.methods.conversion import (
    Content,
    LeadOrder,
    Renames,
    fill_model,
    input_settings,
    plain_state_dict,
    rename,
    resnet_settings,
    shape_of,
)
from hf_ecgtext.methods.merl.configuration_merl import MerlConfig
from hf_ecgtext.methods.merl.modeling_merl import MerlModel

TEXT_MODEL = "ncbi/MedCPT-Query-Encoder"

CAVEATS = (
    "MERL's repository is MIT-licensed; the weights were trained on MIMIC-IV-ECG (ODbL) and contain NCBI's MedCPT. "
    "They read leads in MIMIC's order (aVF before aVL), which the saved processor takes care of."
)

# Left: the published name; right: ours.
_RENAMES: Renames = (
    (r"^lm_model\.", "text_tower.model."),
    (r"^proj_t\.", "text_projection."),
    (r"^linear([12])\.weight$", lambda match: f"uma_projections.{int(match[1]) - 1}.0.weight"),
    # ResNet
    (r"^downconv\.", "ecg_head.down_projection."),
    (r"^att_pool_head\.positional_embedding$", "ecg_head.attention_pool.position_embedding"),
    (r"^att_pool_head\.cls_token$", "ecg_head.attention_pool.cls_token"),
    (r"^att_pool_head\.mhsa\.", "ecg_head.attention_pool.attention."),
    (r"^att_pool_head\.c_proj\.", "ecg_head.attention_pool.projection."),
    (r"^ecg_encoder\.layer(\d)\.", lambda match: f"ecg_encoder.stages.{int(match[1]) - 1}."),
    # ViT
    (r"^proj_e\.", "ecg_head.projector."),
    (r"^ecg_encoder\.pos_embedding$", "ecg_encoder.position_embedding"),
    (r"^ecg_encoder\.to_patch_embedding\.", "ecg_encoder.patch_embedding."),
    (r"^ecg_encoder\.block(\d+)\.attn\.norm\.", r"ecg_encoder.layers.\1.attention.norm."),
    (r"^ecg_encoder\.block(\d+)\.attn\.fn\.to_qkv\.", r"ecg_encoder.layers.\1.attention.to_qkv."),
    (r"^ecg_encoder\.block(\d+)\.attn\.fn\.to_out\.0\.", r"ecg_encoder.layers.\1.attention.to_out."),
    (r"^ecg_encoder\.block(\d+)\.ff\.norm\.", r"ecg_encoder.layers.\1.mlp.0."),
    (r"^ecg_encoder\.block(\d+)\.ff\.fn\.net\.0\.", r"ecg_encoder.layers.\1.mlp.1."),
    (r"^ecg_encoder\.block(\d+)\.ff\.fn\.net\.3\.", r"ecg_encoder.layers.\1.mlp.3."),
)

# The ResNet's unused 10-class layer, and the position ids that older versions of transformers saved.
_UNUSED = re.compile(r"^(ecg_encoder\.linear\.(weight|bias)|lm_model\.embeddings\.position_ids)$")

# The two encoders, with or without a model around them, and what only files of other methods with such encoders hold.
_ECG_ENCODER = re.compile(r"^(ecg_encoder\.)?(layer\d\.\d+\.shortcut|block\d+\.attn\.fn\.to_qkv)\.")
_FOREIGN = re.compile(r"^(decode_[et]|linear[12]\.mhsa|lead_embeddings)\.|sep_embedding$")


def recognises(names: Collection[str]) -> Content | None:
    """What a state dict with these names is; `None` if it is not of MERL."""
    if any(_FOREIGN.search(name) for name in names):
        return None
    if not any(_ECG_ENCODER.match(name) for name in names):
        return None
    inside = {name.startswith("ecg_encoder.") for name in names}
    return "encoder" if len(inside) == 1 else "model"


def convert(
    state_dict: Mapping[str, Any], text_config: PreTrainedConfig | None = None, **config_overrides: Any
) -> MerlModel | ResNet1dModel | Vit1dModel:
    """Build a [`MerlModel`], or the ECG encoder where a file holds no more; every weight must find its place.

    Args:
        state_dict (`Mapping[str, Any]`): A plain state dict, or a trainer checkpoint that holds one under
            `model_state_dict`; names may begin with `module.`.
        text_config ([`~transformers.PreTrainedConfig`], *optional*): Config of the text encoder in the file;
            BERT-base, that is MedCPT, by default.
        config_overrides: Fields of [`MerlConfig`], such as `loss_reduction="sum_directions"`; of the encoder's config
            where the file holds the encoder alone.

    Returns:
        The model in `eval()` mode.

    Raises:
        CheckpointError: If weights are missing, left over or of another shape, each named; or if this is no MERL file.
    """
    published = plain_state_dict(state_dict, "MERL")
    content = recognises(published)
    if content is None:
        raise CheckpointError(
            "This is no MERL checkpoint: it has none of the layers of MERL's ECG encoders, or parts that MERL has not. "
            f"Its first keys: {list(published)[:5]}."
        )
    if content == "encoder":
        return _convert_encoder(published, config_overrides)
    if not any(name.startswith("lm_model.") for name in published):
        raise CheckpointError(
            "The checkpoint has heads but no text encoder (no key begins with 'lm_model.'). Convert MERL's "
            "'*_best_ckpt.pth', or its '*_best_encoder.pth' for the ECG encoder alone."
        )
    overrides: dict[str, Any] = {"ecg_config": _ecg_config(published), **config_overrides}
    config = MerlConfig(text_config=text_config if text_config is not None else BertConfig(), **overrides)
    return fill_model(MerlModel(config), rename(published, _RENAMES, _UNUSED), "MERL model")


def feature_extractor_settings(lead_order: LeadOrder = "mimic") -> dict[str, Any]:
    """How the published weights want their input: 500 Hz, 10 s, MIMIC's lead order, per-record min-max."""
    return input_settings(lead_order, "minmax_record")


def text_settings() -> dict[str, Any]:
    """How the published weights want their reports."""
    return {"max_length": 256, "report_cleaning": "mimic"}


def _convert_encoder(published: Mapping[str, Tensor], config_overrides: dict[str, Any]) -> ResNet1dModel | Vit1dModel:
    prefix = "ecg_encoder."
    inside = {prefix + name.removeprefix(prefix): tensor for name, tensor in published.items()}
    config = _ecg_config(inside, **config_overrides)
    model = ResNet1dModel(config) if isinstance(config, ResNet1dConfig) else Vit1dModel(config)
    renamed = {name.removeprefix(prefix): tensor for name, tensor in rename(inside, _RENAMES, _UNUSED).items()}
    return fill_model(model, renamed, "ECG encoder of MERL")


def _ecg_config(published: Mapping[str, Tensor], **overrides: Any) -> ResNet1dConfig | Vit1dConfig:
    """Read the encoder's size off the shapes of its weights."""
    vit_blocks = {match[1] for name in published if (match := re.match(r"ecg_encoder\.block(\d+)\.", name))}
    if vit_blocks:
        width, num_leads, patch_size = shape_of(published, "ecg_encoder.to_patch_embedding.weight", 3)
        num_tokens = shape_of(published, "ecg_encoder.pos_embedding", 3)[1]
        qkv_width = shape_of(published, "ecg_encoder.block0.attn.fn.to_qkv.weight", 2)[0]
        vit = {
            "num_leads": num_leads,
            "num_samples": num_tokens * patch_size,
            "patch_size": patch_size,
            "hidden_size": width,
            "num_hidden_layers": len(vit_blocks),
            "num_attention_heads": -(-qkv_width // (3 * 64)),
            "intermediate_size": shape_of(published, "ecg_encoder.block0.ff.fn.net.0.weight", 2)[0],
        }
        return Vit1dConfig(**{**vit, **overrides})
    return ResNet1dConfig(**{**resnet_settings(published), **overrides})
