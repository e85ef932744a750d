"""ETP's settings: the paper's defaults, what is refused, what each switch changes, and recipes built offline."""

from __future__ import annotations

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F

from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES
from hf_ecgtext.encoders import ResNet1dConfig
from hf_ecgtext.evaluation.prompts.sets import load_prompt_set
from hf_ecgtext.methods import get_recipe, recipe_names
from hf_ecgtext.methods.etp import EtpConfig, EtpModel
from hf_ecgtext.training.collator import EcgTextCollator


def build(**config):
    return get_recipe("etp", "debug").override({f"config.{name}": value for name, value in config.items()}).build()


def test_the_defaults_are_the_paper_s():
    config = EtpConfig()
    assert (config.projection_dim, config.text_pooling, config.projection_type) == (512, "cls", "linear")
    assert (config.temperature, config.learnable_temperature) == (0.07, False)
    assert config.loss_reduction == "mean_directions"
    assert config.freeze_text
    assert isinstance(config.ecg_config, ResNet1dConfig)
    assert (list(config.ecg_config.depths), config.ecg_config.hidden_size) == ([2, 2, 2, 2], 512)
    assert not config.ecg_config.stem_pool


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"temperature": -0.07}, "temperature must be positive"),
        (
            {"temperature": 0.005, "learnable_temperature": True},
            r"starts at 0\.01, its lower bound, or above, not at 0",
        ),
        ({"temperature": "warm"}, "temperature"),
        ({"learnable_temperature": "yes"}, "learnable_temperature"),
        ({"loss_reduction": "mean"}, "loss_reduction"),
        ({"projection_type": "conv"}, "projection_type"),
        ({"projection_dim": 0}, "projection_dim must be positive"),
        ({"text_pooling": "first"}, "text_pooling"),
        ({"learnable_temprature": True}, "has no setting learnable_temprature"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(settings, problem):
    with pytest.raises((ValueError, StrictDataclassError), match=problem):
        EtpConfig(**settings)


def test_a_fixed_temperature_may_be_smaller_than_a_learned_one():
    assert build(temperature=0.005)[0].logit_scale == pytest.approx(200.0)
    assert EtpConfig(temperature=0.01, learnable_temperature=True).temperature == 0.01


def test_projections_are_linear_or_have_a_hidden_layer():
    linear, mlp = (build(projection_type=kind)[0] for kind in ("linear", "mlp"))
    for model, layers in ((linear, [nn.Linear]), (mlp, [nn.Linear, nn.GELU, nn.Linear])):
        for head, width in ((model.ecg_projection, 64), (model.text_projection, 64)):
            assert [type(layer) for layer in head] == layers
            assert head[0].in_features == width
            assert head[-1].out_features == 32
    assert set(linear.state_dict()) < set(mlp.state_dict())


def test_the_stem_pool_halves_the_tokens_and_nothing_else():
    plain, pooled = build()[0], build(**{"ecg_config.stem_pool": True})[0]
    ecg = torch.rand(2, 12, 1000)
    tokens = [model.eval().ecg_encoder(ecg).last_hidden_state for model in (plain, pooled)]
    assert [part.shape for part in tokens] == [(2, 63, 64), (2, 32, 64)]
    assert plain.state_dict().keys() == pooled.state_dict().keys()


@torch.no_grad()
def test_an_ecg_is_the_mean_of_its_tokens_and_a_report_its_class_token(synthetic_dataset):
    model, processor = build()
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    output = model.eval()(**batch)
    tokens = model.ecg_encoder(batch["ecg_values"], batch["lead_mask"]).last_hidden_state
    expected = model.ecg_projection(tokens.mean(dim=1))
    torch.testing.assert_close(output.ecg_embeds, F.normalize(expected, dim=-1))
    states = model.text_tower(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(output.text_embeds, F.normalize(model.text_projection(states[:, 0]), dim=-1))
    cosines = F.cosine_similarity(output.ecg_embeds.unsqueeze(1), output.text_embeds.unsqueeze(0), dim=-1)
    torch.testing.assert_close(output.logits_per_ecg, cosines / 0.07)


@pytest.mark.parametrize(
    "settings",
    [
        {"projection_type": "mlp"},
        {"learnable_temperature": True},
        {"loss_reduction": "sum_directions"},
        {"text_pooling": "pooler"},
        {"text_pooling": "mean"},
        {"freeze_text": True},
        {"ecg_config.stem_pool": True},
    ],
    ids=str,
)
def test_every_switch_trains_with_gradients_everywhere(settings, synthetic_dataset):
    model, processor = build(**settings)
    model.train()(**EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(4)))).loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert any(gradient.any() for gradient in gradients.values())


def test_a_temperature_that_is_not_learned_is_no_parameter():
    assert "log_logit_scale" not in dict(build()[0].named_parameters())
    learned, _ = build(learnable_temperature=True, temperature=0.2)
    assert learned.log_logit_scale.item() == pytest.approx(-math.log(0.2))


@pytest.mark.parametrize("name", recipe_names("etp"))
def test_every_recipe_builds_offline_with_a_small_text_tower(name):
    recipe = get_recipe("etp", name).override({"text_model": "tiny-bert"})
    model, processor = recipe.build()
    assert isinstance(model, EtpModel)
    assert model.config.temperature == 0.07
    assert model.can_cache_text is recipe.config.freeze_text
    rate, duration = recipe.ecg["sampling_rate_hz"], recipe.ecg.get("duration_s", 10.0)
    assert model.config.ecg_config.num_samples == processor.feature_extractor.num_samples == rate * duration
    assert model.config.text_config.hidden_size == 64
    assert model.config.projection_dim == {"debug": 32, "quickstart": 128}.get(name, 512)


def test_the_paper_recipes_have_the_paper_s_numbers_and_differ_in_their_data_alone():
    paper, on_ptb_xl = get_recipe("etp", "paper"), get_recipe("etp", "paper_ptb_xl")
    training = paper.training
    assert (training["learning_rate"], training["weight_decay"]) == (2e-3, 1e-5)
    assert (training["num_train_epochs"], training["per_device_train_batch_size"]) == (50, 128)
    assert paper.text_model == on_ptb_xl.text_model == "emilyalsentzer/Bio_ClinicalBERT"
    assert on_ptb_xl.training == training
    assert on_ptb_xl.config == paper.config
    assert on_ptb_xl.data_options("ptb_xl")["report"] == "original"
    assert paper.data_options("ptb_xl") == {}


@torch.no_grad()
def test_zero_shot_picks_the_class_whose_sentence_is_closest():
    model, processor = build()
    names = PTB_XL_CLASSES["super"]
    prompts = load_prompt_set(names, "etp").prompts
    assert {label: texts[0] for label, texts in prompts.items()} == {
        label: f"this ECG indicates {name}" for label, name in names.items()
    }
    texts = [text for label in names for text in prompts[label]]
    ecg = model.eval().get_ecg_features(torch.rand(4, 12, 1000))
    tokens = processor(text=texts)
    output = model(torch.rand(len(names), 12, 1000), **tokens, return_loss=False)
    sentences = model.get_text_features(**tokens)
    assert torch.equal(output.text_embeds, sentences), "as many ECGs as classes make no training batch"
    assert (ecg @ sentences.T).shape == (4, len(names))
