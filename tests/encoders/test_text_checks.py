"""The checks of a text encoder find what they look for, change nothing, and keep out of compiled programs."""

from __future__ import annotations

import copy

import pytest
import torch
from text_models import MODELS
from torch import nn

from hf_ecgtext.encoders.text import TextTower, load_text_model, pool_tokens
from hf_ecgtext.encoders.text_checks import check_padding_side, check_text_model
from hf_ecgtext.methods import get_recipe

SOUND_FAMILIES = ["bert", "roberta", "distilbert", "t5", "xlnet", "llama", "gpt2", "causal bert"]


@pytest.mark.parametrize("family", SOUND_FAMILIES)
def test_no_check_changes_the_weights_the_mode_or_the_random_numbers(family):
    torch.manual_seed(1)
    model = MODELS[family]().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_text_model(model, "mean")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("family", SOUND_FAMILIES)
def test_the_first_token_is_refused_where_it_sees_no_other_and_only_there(family):
    torch.manual_seed(2)
    model = MODELS[family]()
    check_text_model(model, "last")
    check_text_model(model, "mean")
    if family in {"gpt2", "llama", "causal bert"}:
        with pytest.raises(ValueError, match="text_pooling='cls' reads the first token"):
            check_text_model(model, "cls")
    else:
        check_text_model(model, "cls")


def test_an_encoder_that_makes_the_same_of_every_word_is_not_called_causal():
    model = MODELS["bert"]()
    for weight in model.parameters():
        nn.init.zeros_(weight)
    check_text_model(model, "cls")


def test_weights_in_half_precision_or_without_values_are_not_tried():
    half = MODELS["fnet"]().to(torch.bfloat16)
    check_text_model(half, "mean")
    with torch.device("meta"):
        check_text_model(MODELS["fnet"](), "mean")


def test_the_last_token_is_the_last_that_is_not_padding():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool_tokens(hidden, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool_tokens(hidden, mask.bool(), "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool_tokens(hidden.bfloat16(), mask, "last").dtype == torch.bfloat16


def test_the_last_token_is_found_without_reading_the_mask():
    found = pool_tokens(torch.empty(2, 3, 4, device="meta"), torch.empty(2, 3, device="meta"), "last")
    assert (found.shape, found.device.type) == ((2, 4), "meta")


def test_a_batch_padded_on_the_left_is_refused():
    model, processor = get_recipe("etp", "debug").build()
    tokens = processor.tokenizer(["Sinus rhythm", "Normal"], padding=True, padding_side="left", return_tensors="pt")
    with pytest.raises(ValueError, match=r"begins with padding.*tokenizer\.padding_side='right'"):
        model.get_text_features(tokens["input_ids"], tokens["attention_mask"])


def test_the_padding_side_is_not_asked_for_where_a_step_would_have_to_wait():
    with torch.enable_grad():
        check_padding_side(torch.zeros(2, 3, device="meta"))

    class Exported(nn.Module):
        def forward(self, mask):
            check_padding_side(mask)
            return mask + 1

    program = torch.export.export(Exported(), (torch.ones(2, 3),))
    assert program.module()(torch.zeros(2, 3)).sum() == 6


def test_a_tower_can_be_exported_with_its_check_of_the_padding():
    model, _ = load_text_model("tiny-bert", "cls")
    tower = TextTower(model.config, "cls").eval()
    tokens = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        program = torch.export.export(tower, (tokens, mask)).module()
        torch.testing.assert_close(program(tokens, mask).pooler_output, tower(tokens, mask).pooler_output)
