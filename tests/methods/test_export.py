"""Exported towers compute what the model computes, for batches and texts of sizes that they were not traced with."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from transformers import AutoModel, BertConfig, RobertaConfig, T5Config

from hf_ecgtext.encoders import ConvTransformerConfig, LeadTimeTransformerConfig, ResNet1dConfig, Vit1dConfig
from hf_ecgtext.encoders.text import text_max_length
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.methods.export import ecg_tower, export_ecg_tower, export_text_tower, text_tower

BATCHES = (1, 3, 7)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}

# The published input length and kinds of layers, a few of them and narrow: exporting takes as long as there are layers.
_CONV_TRANSFORMER = {
    "conv_dim": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "position_groups": 4,
}  # fmt: skip
ENCODERS = {
    "resnet18": ResNet1dConfig(depths=[2, 2, 2, 2], widths=[4, 4, 8, 8]),
    "resnet50 with stem pool": ResNet1dConfig(
        block="bottleneck", depths=[2, 1, 1, 1], widths=[2, 2, 4, 4], stem_pool=True
    ),
    "vit": Vit1dConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=3, head_dim=8, intermediate_size=32),
    "conv_transformer": ConvTransformerConfig(**_CONV_TRANSFORMER),
    "conv_transformer without pooler": ConvTransformerConfig(**_CONV_TRANSFORMER, add_pooler=False),
    "lead_time_transformer": LeadTimeTransformerConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=16
    ),
}


@pytest.fixture(params=method_names())
def method(request) -> str:
    return request.param


@pytest.fixture
def model(method):
    return get_recipe(method, "debug").build()[0].eval()


def signals(batch: int, config) -> tuple[Tensor, Tensor]:
    """ECGs, and masks in which some leads are missing, and of the first record only lead I is there."""
    generator = torch.Generator().manual_seed(batch)
    lead_mask = torch.rand(batch, config.num_leads, generator=generator) > 0.3
    lead_mask[0] = torch.arange(config.num_leads) == 0
    return torch.randn(batch, config.num_leads, config.num_samples, generator=generator), lead_mask


def reports(batch: int, num_tokens: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Texts, of which the first is half as long as the others."""
    generator = torch.Generator().manual_seed(batch * num_tokens)
    attention_mask = torch.ones(batch, num_tokens, dtype=torch.int64)
    attention_mask[0, max(1, num_tokens // 2) :] = 0
    return torch.randint(5, vocab_size, (batch, num_tokens), generator=generator) * attention_mask, attention_mask


def assert_ecgs_equal(exported, model, config, with_lead_mask: bool) -> None:
    program = exported.module()
    for batch in BATCHES:
        values, lead_mask = signals(batch, config)
        inputs = {"ecg_values": values, "lead_mask": lead_mask} if with_lead_mask else {"ecg_values": values}
        expected = model.get_ecg_features(**inputs)
        assert expected.shape[0] == batch
        torch.testing.assert_close(program(**inputs), expected, **TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("with_lead_mask", [True, False])
def test_the_ecg_tower_of_every_method_is_exported_with_any_batch(model, with_lead_mask):
    exported = export_ecg_tower(model, with_lead_mask=with_lead_mask)
    assert_ecgs_equal(exported, model, model.config.ecg_config, with_lead_mask)


@torch.no_grad()
def test_the_text_tower_of_every_method_is_exported_with_any_batch_and_length(model):
    program = export_text_tower(model).module()
    for batch in BATCHES:
        for num_tokens in (1, 2, 13, 128):
            ids, mask = reports(batch, num_tokens, model.config.text_config.vocab_size)
            found = program(input_ids=ids, attention_mask=mask)
            torch.testing.assert_close(found, model.get_text_features(ids, mask), **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_of_the_published_length_is_exported_with_any_batch(name):
    encoder = AutoModel.from_config(ENCODERS[name]).eval()
    assert ENCODERS[name].num_samples == 5000
    assert_ecgs_equal(export_ecg_tower(encoder), encoder, encoder.config, with_lead_mask=True)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("method", "encoder"), [("merl", "vit"), ("deri", "vit")])
def test_heads_on_other_encoders_are_exported_too(method, encoder):
    settings = {"config.ecg_config": ENCODERS[encoder].to_dict(), "ecg.sampling_rate_hz": 500}
    model = get_recipe(method, "debug").override(settings).build()[0].eval()
    assert_ecgs_equal(export_ecg_tower(model), model, model.config.ecg_config, True)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(
    "config",
    [
        T5Config(vocab_size=100, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
        RobertaConfig(
            vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=66,
        ),
        BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_text_encoders_of_other_kinds_are_exported_too(config, pooling):
    base = get_recipe("etp", "debug").config
    model = type(get_recipe("etp", "debug").build()[0])(
        type(base)(ecg_config=base.ecg_config, text_config=config, projection_dim=16, text_pooling=pooling)
    ).eval()
    exported = export_text_tower(model)
    for batch in BATCHES:
        for num_tokens in (1, 9, 64):
            ids, mask = reports(batch, num_tokens, 100)
            found = exported.module()(input_ids=ids, attention_mask=mask)
            torch.testing.assert_close(found, model.get_text_features(ids, mask), **TOLERANCE)


@pytest.mark.slow
@torch.no_grad()
def test_forward_without_a_loss_is_exported_for_any_number_of_ecgs_and_texts(model):
    ecg, lead_mask = signals(3, model.config.ecg_config)
    ids, mask = reports(4, 6, 50)
    ecgs, texts, tokens = Dim("ecgs", min=1), Dim("texts", min=1), Dim("tokens", min=1, max=128)
    inputs = {"ecg_values": ecg, "lead_mask": lead_mask, "input_ids": ids, "attention_mask": mask}
    shapes = {"ecg_values": {0: ecgs}, "lead_mask": {0: ecgs}}
    shapes |= {name: {0: texts, 1: tokens} for name in ("input_ids", "attention_mask")}
    program = torch.export.export(OnlyLogits(model), (), inputs, dynamic_shapes=shapes).module()
    for num_ecgs, num_texts in ((1, 5), (4, 4), (6, 1)):
        ecg, lead_mask = signals(num_ecgs, model.config.ecg_config)
        ids, mask = reports(num_texts, 11, 50)
        inputs = {"ecg_values": ecg, "lead_mask": lead_mask, "input_ids": ids, "attention_mask": mask}
        expected = model(**inputs, return_loss=False).logits_per_ecg
        assert expected.shape == (num_ecgs, num_texts)
        torch.testing.assert_close(program(**inputs), expected, rtol=1e-4, atol=1e-4)


class OnlyLogits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ecg_values, lead_mask, input_ids, attention_mask):
        return self.model(ecg_values, lead_mask, input_ids, attention_mask, return_loss=False).logits_per_ecg


@pytest.mark.slow
@torch.no_grad()
def test_a_program_can_be_saved_and_loaded():
    model = get_recipe("merl", "debug").build()[0].eval()
    file = io.BytesIO()
    torch.export.save(export_ecg_tower(model), file)
    file.seek(0)
    assert_ecgs_equal(torch.export.load(file), model, model.config.ecg_config, True)


def test_towers_share_their_weights_with_the_model_and_refuse_one_that_trains():
    model = get_recipe("merl", "debug").build()[0]
    for make in (ecg_tower, text_tower, export_ecg_tower, export_text_tower):
        with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
            make(model.train())
    model.eval()
    values, lead_mask = signals(2, model.config.ecg_config)
    ids, mask = reports(2, 5, 50)
    assert torch.equal(ecg_tower(model)(values, lead_mask), model.get_ecg_features(values, lead_mask))
    assert torch.equal(text_tower(model)(ids, mask), model.get_text_features(ids, mask))
    assert {id(value) for value in ecg_tower(model).parameters()} == {id(value) for value in model.parameters()}


def test_more_tokens_than_the_text_encoder_has_positions_for_are_refused_by_the_program_as_by_the_model():
    model = get_recipe("merl", "debug").build()[0].eval()
    limit = text_max_length(model.config.text_config)
    ids, mask = reports(2, limit + 1, 50)
    with pytest.raises((AssertionError, RuntimeError, ValueError), match=str(limit)):
        export_text_tower(model).module()(input_ids=ids, attention_mask=mask)
