"""Settings that contradict each other, or that no model can have, are refused with the field's name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_ecgtext.encoders import ConvTransformerConfig, LeadTimeTransformerConfig, ResNet1dConfig, Vit1dConfig
from hf_ecgtext.finetuning.classifier import EcgClassifierConfig
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainingArguments

ENCODERS = {
    config.model_type: config
    for config in (
        ConvTransformerConfig,
        EcgClassifierConfig,
        LeadTimeTransformerConfig,
        ResNet1dConfig,
        Vit1dConfig,
    )
}

# Of every method: settings of its config, and the field that the message must name.
SHARED = [
    ({"freeze_text": True, "num_frozen_text_layers": 1}, "num_frozen_text_layers"),
    ({"freeze_text": False, "num_frozen_text_layers": -1}, "num_frozen_text_layers"),
    ({"freeze_text": False, "text_dropout": True}, "text_dropout"),
    ({"projection_dim": 0}, "projection_dim"),
    ({"text_pooling": "max"}, "text_pooling"),
    ({"projection_dim": "wide"}, "projection_dim"),
    ({"projection_dim": 10**9}, "projection_dim"),
    ({"num_labels": 10**9}, "num_labels"),
    ({"num_frozen_text_layers": 10**6, "freeze_text": False}, "num_frozen_text_layers"),
    ({"ecg_config.num_samples": 10**12}, "num_samples"),
    ({"text_config.hidden_size": 10**9}, "hidden_size"),
    ({"text_config.num_hidden_layers": 10**6}, "num_hidden_layers"),
    ({"text_config.vocab_size": 10**12}, "vocab_size"),
    ({"text_config.num_labels": 10**9}, "num_labels"),
    ({"text_config.layer_norm_eps": float("nan")}, "layer_norm_eps"),
    ({"text_config": 5}, "text_config"),
    ({"custom_pipelines": "all"}, "custom_pipelines"),
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


def number_settings(config: Any) -> list[tuple[str, type]]:
    """Names and types of the numbers that a config of ours declares itself."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return [
        (name, type(value))
        for name, value in values.items()
        if name not in inherited and isinstance(value, int | float) and not isinstance(value, bool)
    ]


@pytest.mark.parametrize("name", [*method_names(), *ENCODERS])
def test_no_number_of_a_config_may_be_nan_infinite_or_absurd(name):
    config = ENCODERS[name]() if name in ENCODERS else get_recipe(name, "debug").config
    numbers = number_settings(config)
    assert numbers
    for setting, kind in numbers:
        impossible = [float("nan"), float("inf"), -float("inf")] if kind is float else [10**15, -(10**15), -1]
        for value in impossible:
            tree = config.to_dict() | {setting: value}
            tree.pop("model_type")
            with pytest.raises((StrictDataclassError, ValueError), match=setting):
                type(config)(**tree)


def test_a_list_of_a_config_may_be_neither_absurdly_long_nor_hold_absurd_numbers():
    for settings in ({"depths": [10**6] * 4}, {"depths": [1] * 10**4, "widths": [1] * 10**4}, {"widths": [10**12] * 4}):
        with pytest.raises(ValueError, match=r"depths|widths"):
            ResNet1dConfig(**settings)


def test_sizes_that_text_encoders_have_are_accepted():
    config = get_recipe("merl", "debug").config.to_dict()
    config.pop("model_type")
    large = {"model_type": "bert", "vocab_size": 262_144, "hidden_size": 8192, "num_hidden_layers": 128}
    assert type(get_recipe("merl", "debug").config)(**config | {"text_config": large}).text_config.hidden_size == 8192


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
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"negative_fraction": float("nan")}, "negative_fraction"),
        ({"weight_decay": float("inf")}, "weight_decay"),
    ],
)
def test_an_impossible_setting_of_training_names_the_field(settings, field, tmp_path):
    with pytest.raises(ValueError, match=field):
        EcgTextTrainingArguments(output_dir=str(tmp_path), **settings)
