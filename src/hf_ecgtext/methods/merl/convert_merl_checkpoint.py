"""Turn the published MERL weights into a [`MerlModel`].

The published files are pickles of a state dict (`res18_best_ckpt.pth`, `vit_tiny_best_ckpt.pth`), or trainer
checkpoints `{"epoch", "model_state_dict", "optimizer_state_dict"}` whose keys begin with `module.`. They read leads in
MIMIC-IV-ECG's order: use `feature_extractor_settings()` for the processor that goes with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import BertConfig, PreTrainedConfig

from hf_ecgtext.encoders.resnet1d import ResNet1dConfig
from hf_ecgtext.encoders.vit1d import Vit1dConfig
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.leads import MIMIC_LEADS
from hf_ecgtext.methods.conversion import Renames, fill_model, plain_state_dict, rename
from hf_ecgtext.methods.merl.configuration_merl import MerlConfig
from hf_ecgtext.methods.merl.modeling_merl import MerlModel

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


def convert(
    state_dict: Mapping[str, Any], text_config: PreTrainedConfig | None = None, **config_overrides: Any
) -> MerlModel:
    """Build a [`MerlModel`] from published weights; every weight must find its place.

    Args:
        state_dict (`Mapping[str, Any]`): A plain state dict, or a trainer checkpoint that holds one under
            `model_state_dict`; names may begin with `module.`.
        text_config ([`~transformers.PreTrainedConfig`], *optional*): Config of the text encoder in the file;
            BERT-base, that is MedCPT, by default.
        config_overrides: Fields of [`MerlConfig`], such as `loss_reduction="sum_directions"`.

    Returns:
        [`MerlModel`] in `eval()` mode.

    Raises:
        CheckpointError: If weights are missing, left over or of another shape, each named; or if this is no MERL file.
    """
    published = plain_state_dict(state_dict, "MERL", wrappers=("model_state_dict",))
    if not any(name.startswith("ecg_encoder.") for name in published):
        raise CheckpointError(
            f"This is no MERL checkpoint: no key begins with 'ecg_encoder.'. Its first keys: {list(published)[:5]}."
        )
    if not any(name.startswith("lm_model.") for name in published):
        raise CheckpointError(
            "The checkpoint has no text encoder (no key begins with 'lm_model.'). If it is one of MERL's "
            "'*_best_encoder.pth' files, it holds the ECG encoder only; convert the matching '*_best_ckpt.pth'."
        )
    overrides: dict[str, Any] = {"ecg_config": _ecg_config(published), **config_overrides}
    config = MerlConfig(text_config=text_config if text_config is not None else BertConfig(), **overrides)
    model = MerlModel(config)

    return fill_model(model, rename(published, _RENAMES, _UNUSED), "MERL model")


def feature_extractor_settings() -> dict[str, Any]:
    """How the published weights want their input: 500 Hz, 10 s, MIMIC's lead order, per-record min-max."""
    return {
        "lead_names": list(MIMIC_LEADS),
        "sampling_rate_hz": 500,
        "duration_s": 10.0,
        "scaling": "minmax_record",
    }


def text_settings() -> dict[str, Any]:
    """How the published weights want their reports."""
    return {"max_length": 256, "report_cleaning": "mimic"}


def _ecg_config(published: Mapping[str, Tensor]) -> ResNet1dConfig | Vit1dConfig:
    """Read the encoder's size off the shapes of its weights."""
    if "ecg_encoder.to_patch_embedding.weight" in published:
        width, num_leads, patch_size = published["ecg_encoder.to_patch_embedding.weight"].shape
        num_tokens = published["ecg_encoder.pos_embedding"].shape[1]
        blocks = {match[1] for name in published if (match := re.match(r"ecg_encoder\.block(\d+)\.", name))}
        return Vit1dConfig(
            num_leads=num_leads,
            num_samples=num_tokens * patch_size,
            patch_size=patch_size,
            hidden_size=width,
            num_hidden_layers=len(blocks),
            num_attention_heads=published["ecg_encoder.block0.attn.fn.to_qkv.weight"].shape[0] // (3 * 64),
            intermediate_size=published["ecg_encoder.block0.ff.fn.net.0.weight"].shape[0],
        )
    if "ecg_encoder.conv1.weight" in published:
        depths = [
            len({match[1] for name in published if (match := re.match(rf"ecg_encoder\.layer{stage}\.(\d+)\.", name))})
            for stage in range(1, 5)
        ]
        bottleneck = "ecg_encoder.layer1.0.conv3.weight" in published
        return ResNet1dConfig(
            num_leads=published["ecg_encoder.conv1.weight"].shape[1],
            block="bottleneck" if bottleneck else "basic",
            depths=depths,
        )
    raise CheckpointError(
        "This is no MERL checkpoint: it has neither 'ecg_encoder.conv1.weight' (ResNet) nor "
        f"'ecg_encoder.to_patch_embedding.weight' (ViT). Its first keys: {list(published)[:5]}."
    )
