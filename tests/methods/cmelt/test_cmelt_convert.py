"""The converter of published D-BETA weights: complete or not at all."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from cmelt_examples import TINY_T5, published_state_dict
from transformers import T5EncoderModel

from hf_ecgtext.encoders import ConvTransformerModel
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS
from hf_ecgtext.methods.cmelt import CmeltConfig, CmeltModel
from hf_ecgtext.methods.cmelt.configuration_cmelt import flan_t5_base_config
from hf_ecgtext.methods.cmelt.convert_cmelt_checkpoint import (
    CAVEATS,
    convert,
    feature_extractor_settings,
    text_settings,
)

pytestmark = pytest.mark.slow

ENCODER_PARTS = ("class_embedding", "ecg_encoder.", "multi_modal_ecg_proj.", "unimodal_ecg_pooler.")


@pytest.fixture(scope="module")
def published(golden) -> dict[str, torch.Tensor]:
    return published_state_dict(np.load(golden / "cmelt_dbeta.npz"))


@pytest.fixture(scope="module")
def encoder_file(published) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in published.items() if name.startswith(ENCODER_PARTS)}


@pytest.fixture(scope="module")
def ecg() -> torch.Tensor:
    return torch.randn(1, 12, 5000, generator=torch.Generator().manual_seed(0))


def test_a_fairseq_checkpoint_converts_and_sizes_are_read_off_the_shapes(published):
    table = torch.zeros(1, 512, 384)  # of sines, which we compute
    weights = {**published, "ecg_encoder.mask_emb": torch.zeros(768), "mim_head.decoder_pos_embed.pe": table}
    model = convert({"model": weights, "args": None, "epoch": 3}, text_config=TINY_T5)
    assert isinstance(model, CmeltModel)
    assert not model.training
    config = model.config
    assert (config.ecg_config.num_hidden_layers, config.num_fusion_layers, config.mem_layer) == (2, 2, 2)
    assert (config.ecg_config.position_kernel_size, config.ecg_config.position_groups) == (128, 16)
    assert (config.ecg_config.num_attention_heads, config.fusion_num_attention_heads) == (12, 12)
    assert (config.mem_decoder_num_layers, config.mem_decoder_num_attention_heads) == (4, 6)
    assert not config.ecg_config.leak_free_masking, "the weights were trained with the release's masking"
    assert config.mem_masked_leads == "reconstruct_zeros", "and so it goes on"
    assert (config.ecg_config.conv_norm, config.ecg_config.pooler_order) == ("first", "dense_tanh")
    assert config.mask_token_id == 32099, "Flan-T5's <extra_id_0>"
    assert {0, 1, 2, 32000, 32099} <= set(config.special_token_ids)


def test_new_names_of_weight_norm_convert_as_old_ones_do(encoder_file, ecg):
    stem = "ecg_encoder.conv_pos.pos_conv.0."
    new = {
        name.replace(f"{stem}weight_g", f"{stem}parametrizations.weight.original0").replace(
            f"{stem}weight_v", f"{stem}parametrizations.weight.original1"
        ): tensor
        for name, tensor in encoder_file.items()
    }
    assert new.keys() != encoder_file.keys()
    with torch.no_grad():
        assert torch.equal(convert(new)(ecg).pooler_output, convert(encoder_file)(ecg).pooler_output)


def test_a_file_of_the_encoder_alone_makes_the_encoder_of_the_full_model(published, encoder_file, ecg):
    encoder = convert(encoder_file, dropout=0.0)
    assert type(encoder) is ConvTransformerModel
    assert not encoder.training
    assert encoder.config.dropout == 0.0
    full = convert(published, text_config=TINY_T5)
    with torch.no_grad():
        assert torch.equal(encoder(ecg).pooler_output, full.get_probe_features(ecg))


def test_the_published_file_has_645_tensors_and_each_has_its_place(golden):
    """Names and shapes of the full size, from those of the parity file; no memory is used."""
    listed = json.loads(str(np.load(golden / "cmelt_dbeta.npz")["keys"]))
    shapes = {name: tuple(shape) for name, shape in listed}
    for name, shape in list(shapes.items()):
        depth = 8 if name.startswith("ecg_encoder.encoder.layers.0.") else 6
        if re.match(r"(ecg_encoder\.encoder\.layers|multi_modal_(ecg|language)_layers)\.0\.", name):
            shapes |= {name.replace("layers.0.", f"layers.{index}."): shape for index in range(depth)}
    with torch.device("meta"):
        text = T5EncoderModel(flan_t5_base_config()).state_dict()
        model = CmeltModel(CmeltConfig())
    shapes |= {f"language_encoder.{name}": tuple(tensor.shape) for name, tensor in text.items()}
    shapes["mim_head.decoder_pos_embed.pe"] = (1, 512, 384)
    assert len(shapes) == 645
    assert sum(map(math.prod, shapes.values())) == 346_258_242
    unused, shared_twice = math.prod(shapes["mim_head.decoder_pos_embed.pe"]), 32128 * 768
    assert sum(parameter.numel() for parameter in model.parameters()) == 346_258_242 - unused - shared_twice


def test_config_overrides_reach_the_config(published):
    model = convert(published, text_config=TINY_T5, attend_padding=True, siglip_reduction="mean_rows")
    assert model.text_tower.attend_padding
    assert model.config.siglip_reduction == "mean_rows"


def test_missing_and_left_over_weights_are_named(encoder_file):
    incomplete = {name: tensor for name, tensor in encoder_file.items() if name != "ecg_encoder.layer_norm.bias"}
    with pytest.raises(CheckpointError, match=r"missing: \['stem.token_norm.bias'\]"):
        convert(incomplete)
    with pytest.raises(CheckpointError, match=r"left over: \['classifier.weight'\]"):
        convert({**encoder_file, "classifier.weight": torch.zeros(2)})
    without = {name: tensor for name, tensor in encoder_file.items() if "weight_v" not in name}
    with pytest.raises(CheckpointError, match=r"lacks 'ecg_encoder.position.weight_direction'"):
        convert(without)


def test_other_files_are_refused():
    with pytest.raises(CheckpointError, match="no D-BETA checkpoint"):
        convert({"encoder.weight": torch.zeros(2)})


def test_settings_say_how_the_weights_want_their_input():
    assert feature_extractor_settings()["lead_names"] == list(MIMIC_LEADS)
    assert feature_extractor_settings(lead_order="standard")["lead_names"] == list(STANDARD_LEADS)
    assert feature_extractor_settings()["scaling"] == "none"
    assert text_settings() == {"max_length": 254, "report_cleaning": "dbeta"}
    assert "CC BY-NC 4.0" in CAVEATS
    assert "not documented" in CAVEATS
