"""Settings that contradict each other, or that no model can have, are refused with the field's name."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_ecgtext.encoders import ResNet1dConfig, Vit1dConfig
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainingArguments

# Of every method: settings of its config, and the field that the message must name.
SHARED = [
    ({"freeze_text": True, "num_frozen_text_layers": 1}, "num_frozen_text_layers"),
    ({"freeze_text": False, "num_frozen_text_layers": -1}, "num_frozen_text_layers"),
    ({"freeze_text": False, "text_dropout": True}, "text_dropout"),
    ({"projection_dim": 0}, "projection_dim"),
    ({"text_pooling": "max"}, "text_pooling"),
    ({"projection_dim": "wide"}, "projection_dim"),
]

OWN = {
    "etp": [
        ({"temperature": 0.0}, "temperature"),
        ({"projection_type": "cubic"}, "projection_type"),
        ({"loss_reduction": "median"}, "loss_reduction"),
    ],
    "merl": [
        ({"temperature": -0.07}, "temperature"),
        ({"uma_dropout": 1.0}, "uma_dropout"),
        ({"uma_weight": -1.0}, "uma_weight"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"loss_reduction": "median"}, "loss_reduction"),
        ({"probe_feature": "logits"}, "probe_feature"),
        ({"ecg_config.depths": [1, 1]}, "widths"),
    ],
    "deri": [
        ({"temperature": 0.0}, "temperature"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_rme_heads": 0}, "num_rme_heads"),
        ({"rme_mask_ratio": 1.0}, "rme_mask_ratio"),
        ({"rme_mask_ratio": -0.1}, "rme_mask_ratio"),
        ({"rme_mask_ratio": 0.999}, "rme_mask_ratio"),
        ({"mask_mode": "bernoulli_zero", "keep_order": False}, "keep_order"),
        ({"mask_mode": "shuffle"}, "mask_mode"),
        ({"decoder_dropout": 1.0}, "decoder_dropout"),
        ({"token_stride": 0}, "token_stride"),
        ({"decode_text_weight": -1.0}, "decode_text_weight"),
        ({"align_weight": 0.0, "mixed_weight": 0.0}, "align_weight"),
    ],
    "cmelt": [
        ({"ecg_mask_ratio": 1.0}, "ecg_mask_ratio"),
        ({"ecg_mask_ratio": 0.9999}, "ecg_mask_ratio"),
        ({"ecg_mask_ratio": 0.0}, "ecg_mask_ratio"),
        ({"text_mask_ratio": -0.1}, "text_mask_ratio"),
        ({"text_mask_ratio": 0.0}, "text_mask_ratio"),
        ({"lead_mask_probability": 1.5}, "lead_mask_probability"),
        ({"fusion_num_attention_heads": 7}, "fusion_num_attention_heads"),
        ({"mem_decoder_num_attention_heads": 7}, "mem_decoder_num_attention_heads"),
        ({"mem_layer": 99}, "mem_layer"),
        ({"projection_dim": 8}, "projection_dim"),
        ({"siglip_reduction": "sum"}, "siglip_reduction"),
        ({"mlm_weight": -1.0}, "mlm_weight"),
        ({"mlm_weight": 0.0, "mem_weight": 0.0, "etm_weight": 0.0, "ets_weight": 0.0}, "ets_weight"),
        ({"ecg_config.num_attention_heads": 7}, "num_attention_heads"),
        ({"ecg_config.position_groups": 7}, "position_groups"),
        ({"ecg_config.num_conv_layers": 20}, "num_conv_layers"),
    ],
    "cgdmer": [
        ({"ecg_mask_ratio": 1.0}, "ecg_mask_ratio"),
        ({"ecg_mask_ratio": 0.0}, "ecg_mask_ratio"),
        ({"ecg_mask_ratio": 0.9999}, "ecg_mask_ratio"),
        ({"text_mask_ratio": 1.0}, "text_mask_ratio"),
        ({"temperature": 0.0}, "temperature"),
        ({"decoder_num_heads": 7}, "decoder_num_heads"),
        ({"siglip_form": "loud"}, "siglip_form"),
        ({"text_decoder": "rnn"}, "text_decoder"),
        ({"orthogonal_weight": -1.0}, "orthogonal_weight"),
        ({"ecg_config.patch_size": 33}, "patch_size"),
        ({"ecg_config.num_attention_heads": 7}, "num_attention_heads"),
        ({"ecg_config.conv_kernel_sizes": [4, 3, 3]}, "conv_kernel_sizes"),
    ],
}


def test_every_method_is_asked_for_its_own_contradictions():
    assert set(method_names()) <= OWN.keys()


@pytest.mark.parametrize(
    ("method", "settings", "field"),
    [
        pytest.param(method, settings, field, id=f"{method}-{'-'.join(f'{k}={v}' for k, v in settings.items())}")
        for method in method_names()
        for settings, field in [*SHARED, *OWN.get(method, [])]
    ],
)
def test_a_contradiction_in_a_method_s_settings_names_the_field(method, settings, field):
    recipe = get_recipe(method, "debug")
    tree = recipe.config.to_dict()
    tree.pop("model_type")
    for name, value in settings.items():
        *parents, leaf = name.split(".")
        inner = tree
        for parent in parents:
            inner = inner[parent]
        inner[leaf] = value
    with pytest.raises((StrictDataclassError, ValueError)) as error:
        type(recipe.config)(**tree)
    assert field in str(error.value)


@pytest.mark.parametrize(
    ("config", "settings", "field"),
    [
        (Vit1dConfig, {"num_samples": 5001}, "patch_size"),
        (Vit1dConfig, {"num_samples": 0}, "patch_size"),
        (Vit1dConfig, {"patch_size": 0}, "patch_size"),
        (Vit1dConfig, {"num_attention_heads": 0}, "num_attention_heads"),
        (Vit1dConfig, {"num_hidden_layers": -1}, "num_hidden_layers"),
        (Vit1dConfig, {"hidden_size": 1.5}, "hidden_size"),
        (ResNet1dConfig, {"num_leads": 0}, "num_leads"),
        (ResNet1dConfig, {"widths": [0, 1, 1, 1]}, "widths"),
        (ResNet1dConfig, {"depths": []}, "depths"),
        (ResNet1dConfig, {"block": "dense"}, "block"),
        (ResNet1dConfig, {"num_samples": 8}, "num_samples"),
    ],
)
def test_a_contradiction_in_an_encoder_s_settings_names_the_field(config, settings, field):
    with pytest.raises(StrictDataclassError) as error:
        config(**settings)
    assert field in str(error.value)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"negative_sampling": "nearest"}, "negative_sampling"),
        ({"negative_fraction": 0.0}, "negative_fraction"),
        ({"num_negative_candidates": 0}, "num_negative_candidates"),
        ({"grad_cache_chunk_size": 64, "per_device_train_batch_size": 8}, "grad_cache_chunk_size"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_an_impossible_setting_of_training_names_the_field(settings, field, tmp_path):
    with pytest.raises(ValueError, match=field):
        EcgTextTrainingArguments(output_dir=str(tmp_path), **settings)
