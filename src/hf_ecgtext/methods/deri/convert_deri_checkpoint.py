"""Turn weights that DERI's released code trained into a [`DeriModel`].

The authors publish no weights. Their trainer writes a plain state dict (`*_ckpt.pth`), or
`{"epoch", "model_state_dict", "optimizer_state_dict"}` whose keys begin with `module.`. Such weights read leads in
MIMIC-IV-ECG's order: use `feature_extractor_settings()` for the processor that goes with them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from transformers import BertConfig, PreTrainedConfig

from hf_ecgtext.encoders.resnet1d import ResNet1dConfig
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
from hf_ecgtext.methods.deri.configuration_deri import RELEASED, DeriConfig
from hf_ecgtext.methods.deri.modeling_deri import DeriModel

TEXT_MODEL = "ncbi/MedCPT-Query-Encoder"

CAVEATS = (
    "DERI's repository has no licence: keep converted weights to yourself. They contain NCBI's MedCPT and were trained "
    "on the data you used (the released code: MIMIC-IV-ECG, ODbL). They read leads in MIMIC's order (aVF before aVL), "
    "which the saved processor takes care of. The config keeps the released code's behaviour, such as ECG tokens that "
    "are not normalised at inference."
)

_DECODERS = {"decode_e": "text_to_ecg", "decode_t": "ecg_to_text"}  # the released names say what is decoded
_HEADS = {"att_pool_head": "token_attention", "linear1": "rme_heads.0", "linear2": "rme_heads.1"}
_IN_BLOCK = {
    "attn.norm": "attention.norm",
    "attn.fn.to_qkv": "attention.to_qkv",
    "attn.fn.to_out.0": "attention.to_out",
    "ff.norm": "norm",
    "ff.fn": "mlp",
}

# Left: the released name; right: ours.
_RENAMES: Renames = (
    (r"^lm_model\.", "text_tower.model."),
    (r"^proj_t\.", "text_projection."),
    (r"^downconv\.", "down_projection."),
    (r"^ecg_encoder\.layer(\d)\.", lambda match: f"ecg_encoder.stages.{int(match[1]) - 1}."),
    (r"^(att_pool_head|linear[12])\.positional_embedding$", lambda match: f"{_HEADS[match[1]]}.position_embedding"),
    (r"^(att_pool_head|linear[12])\.sep_embedding$", lambda match: f"{_HEADS[match[1]]}.separator"),
    (r"^(att_pool_head|linear[12])\.mhsa\.", lambda match: f"{_HEADS[match[1]]}.attention."),
    (r"^(decode_[et])\.pos_embedding$", lambda match: f"{_DECODERS[match[1]]}.position_embedding"),
    (r"^(decode_[et])\.sep_embedding$", lambda match: f"{_DECODERS[match[1]]}.separator"),
    (r"^(decode_[et])\.to_patch\.", lambda match: f"{_DECODERS[match[1]]}.embedding."),
    (
        r"^(decode_[et])\.block(\d+)\.(attn\.norm|attn\.fn\.to_qkv|attn\.fn\.to_out\.0|ff\.norm|ff\.fn)\.",
        lambda match: f"{_DECODERS[match[1]]}.blocks.{match[2]}.{_IN_BLOCK[match[3]]}.",
    ),
    (r"^(decode_[et])\.(norm|head)\.", lambda match: f"{_DECODERS[match[1]]}.{match[2]}."),
)

# The ResNet's 10-class layer and the output layers of the three attentions, which the released code never calls; and
# the position ids that older versions of transformers saved.
_UNUSED = re.compile(
    r"^(ecg_encoder\.linear\.(weight|bias)|(att_pool_head|linear[12])\.c_proj\.(weight|bias)"
    r"|lm_model\.embeddings\.position_ids)$"
)


def recognises(names: Collection[str]) -> Content | None:
    """What a state dict with these names is; `None` if it is not of DERI, whose ECG encoder alone is MERL's."""
    return "model" if any(re.match(r"decode_[et]\.(to_patch|block\d+|pos_embedding)", name) for name in names) else None


def convert(
    state_dict: Mapping[str, Any], text_config: PreTrainedConfig | None = None, **config_overrides: Any
) -> DeriModel:
    """Build a [`DeriModel`] from weights of the released code; every weight must find its place.

    Args:
        state_dict (`Mapping[str, Any]`): A plain state dict, or a trainer checkpoint that holds one under
            `model_state_dict`; names may begin with `module.`.
        text_config ([`~transformers.PreTrainedConfig`], *optional*): Config of the text encoder in the file;
            BERT-base, that is MedCPT, by default.
        config_overrides: Fields of [`DeriConfig`]; those not given follow the released code
            ([`~hf_ecgtext.methods.deri.configuration_deri.RELEASED`]).

    Returns:
        [`DeriModel`] in `eval()` mode.

    Raises:
        CheckpointError: If weights are missing, left over or of another shape, each named; or if this is no DERI file.
    """
    published = plain_state_dict(state_dict, "DERI")
    if recognises(published) is None:
        raise CheckpointError(
            f"This is no DERI checkpoint: it has no decoders. Its first keys: {list(published)[:5]}. A file with "
            "'att_pool_head.cls_token' or 'proj_e.*' is MERL's: convert it with --method merl."
        )
    if not any(name.startswith("lm_model.") for name in published):
        raise CheckpointError("The checkpoint has no text encoder (no key begins with 'lm_model.'); it cannot be used.")
    overrides: dict[str, Any] = {**RELEASED, **_shapes(published), **config_overrides}
    config = DeriConfig(text_config=text_config if text_config is not None else BertConfig(), **overrides)
    return fill_model(DeriModel(config), rename(published, _RENAMES, _UNUSED), "DERI model")


def feature_extractor_settings(lead_order: LeadOrder = "mimic") -> dict[str, Any]:
    """How the released code prepares signals: 500 Hz, 10 s, MIMIC's lead order, per-record min-max."""
    return input_settings(lead_order, "minmax_record")


def text_settings() -> dict[str, Any]:
    """How the released code prepares reports."""
    return {"max_length": 256, "report_cleaning": "mimic"}


def _shapes(published: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings that the shapes of the weights tell."""
    blocks = {match[1] for name in published if (match := re.match(r"decode_e\.block(\d+)\.", name))}
    return {
        "ecg_config": ResNet1dConfig(**resnet_settings(published)),
        "num_decoder_layers": max(1, len(blocks)),
        "max_text_tokens": max(1, shape_of(published, "decode_e.pos_embedding", 3)[1] - 2),
    }
