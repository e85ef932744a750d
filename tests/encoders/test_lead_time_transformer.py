"""The lead-by-time transformer: patches of one lead each, and only those that may be seen."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_ecgtext.encoders import LeadTimeTransformerConfig, LeadTimeTransformerModel
from hf_ecgtext.encoders.lead_time_transformer import PatchTokeniser, to_patches

SMALL = {
    "num_leads": 4,
    "num_samples": 100,
    "patch_size": 20,
    "conv_channels": [4, 8],
    "conv_kernel_sizes": [5, 3],
    "conv_strides": [2, 1],
    "conv_groups": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture
def encoder() -> LeadTimeTransformerModel:
    torch.manual_seed(0)
    return LeadTimeTransformerModel(LeadTimeTransformerConfig(**SMALL)).eval()


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(3, 4, 100, generator=torch.Generator().manual_seed(1))


def test_the_defaults_are_the_papers_grid_of_1200_tokens():
    config = LeadTimeTransformerConfig()
    assert (config.num_leads, config.num_patches, config.patch_size) == (12, 100, 50)
    assert (config.num_tokens, config.num_hidden_layers) == (1200, 8)
    with torch.device("meta"):
        model = LeadTimeTransformerModel(config)
    width, inner = 768, 3072
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * 2 * width
    convolutions = (15 * 32 + 32) + 2 * (3 * 32 * 32 + 32) + 3 * 2 * 32
    tokeniser = convolutions + 10 * 32 * width + width  # 50 samples at stride 5 leave 10 places
    positions = (100 + 12) * width
    expected = 8 * block + tokeniser + positions + 2 * width
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_outputs_have_the_documented_shapes_and_the_pooled_one_is_the_mean_of_the_tokens(encoder, ecg):
    output = encoder(ecg)
    assert output.last_hidden_state.shape == (3, 20, 16)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(dim=1))
    torch.testing.assert_close(encoder.get_ecg_features(ecg).norm(dim=-1), torch.ones(3))


def test_tokens_are_counted_lead_by_lead(ecg):
    patches = to_patches(ecg, 20)
    for lead in range(4):
        for place in range(5):
            assert torch.equal(patches[:, lead * 5 + place], ecg[:, lead, place * 20 : (place + 1) * 20])


def test_a_patch_is_tokenised_without_its_neighbours(ecg):
    torch.manual_seed(0)
    tokeniser = PatchTokeniser(LeadTimeTransformerConfig(**SMALL))
    patches = to_patches(ecg, 20)
    changed = patches.clone()
    changed[1, 7] += 1.0
    moved = (tokeniser(changed) - tokeniser(patches)).abs().amax(dim=-1) > 0
    assert moved.nonzero().tolist() == [[1, 7]]


def test_patches_that_are_not_visible_cannot_reach_the_encoder(encoder, ecg):
    visible = torch.tensor([[0, 3, 6, 19], [1, 2, 8, 12], [0, 5, 10, 15]])
    expected = encoder(ecg, visible=visible)
    hidden = torch.ones(3, 20, dtype=torch.bool).scatter(1, visible, False)
    garbage = torch.where(hidden.unsqueeze(-1), torch.tensor(1e3), to_patches(ecg, 20)).view_as(ecg)
    output = encoder(garbage, visible=visible)
    assert output.last_hidden_state.shape == (3, 4, 16)
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(output.pooler_output, expected.pooler_output)
    assert not torch.allclose(encoder(garbage).pooler_output, encoder(ecg).pooler_output)


def test_a_visible_token_keeps_its_place(encoder, ecg):
    everything = torch.arange(20).expand(3, -1)
    torch.testing.assert_close(encoder(ecg, visible=everything).last_hidden_state, encoder(ecg).last_hidden_state)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = encoder(ecg, visible=order.expand(3, -1))
    torch.testing.assert_close(shuffled.last_hidden_state, encoder(ecg).last_hidden_state[:, order])
    # The same samples at another place are another token.
    repeated = ecg[:, :1, :20].repeat(1, 4, 5)
    tokens = encoder(repeated).last_hidden_state[0]
    assert torch.cdist(tokens, tokens).fill_diagonal_(1.0).min() > 1e-3


def test_leads_are_told_apart_by_their_embedding_alone(encoder, ecg):
    order = [2, 0, 3, 1]
    assert not torch.allclose(encoder(ecg[:, order]).pooler_output, encoder(ecg).pooler_output, atol=1e-4)
    with torch.no_grad():
        encoder.position_embedding.lead.zero_()
    torch.testing.assert_close(encoder(ecg[:, order]).pooler_output, encoder(ecg).pooler_output)


def test_a_missing_lead_counts_as_if_its_tokens_were_not_there(encoder, ecg):
    lead_mask = torch.tensor([[True, True, False, True]]).expand(3, -1)
    present = torch.tensor([*range(10), *range(15, 20)]).expand(3, -1)
    output, expected = encoder(ecg, lead_mask), encoder(ecg, visible=present)
    torch.testing.assert_close(output.last_hidden_state[:, present[0]], expected.last_hidden_state)
    torch.testing.assert_close(output.pooler_output, expected.pooler_output)
    assert not torch.allclose(output.pooler_output, encoder(ecg).pooler_output, atol=1e-4)
    # The same among visible tokens, of which 11 and 14 are in the missing lead.
    some, present = torch.tensor([[0, 6, 11, 14, 19]]).expand(3, -1), torch.tensor([[0, 6, 19]]).expand(3, -1)
    output, expected = encoder(ecg, lead_mask, some), encoder(ecg, visible=present)
    torch.testing.assert_close(output.last_hidden_state[:, [0, 1, 4]], expected.last_hidden_state)
    torch.testing.assert_close(output.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("visible", [None, [[0, 6, 12, 19]]])
@pytest.mark.parametrize("garbage", [1e3, float("nan")])
def test_what_stands_in_a_missing_lead_changes_nothing(encoder, ecg, garbage, visible):
    visible = None if visible is None else torch.tensor(visible).expand(3, -1)
    lead_mask = torch.ones(3, 4, dtype=torch.bool)
    lead_mask[:, 2] = False
    expected = encoder(ecg, lead_mask, visible)
    ecg[:, 2] = garbage
    output = encoder(ecg, lead_mask, visible)
    assert torch.equal(output.pooler_output, expected.pooler_output)
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)


def test_a_mask_of_present_leads_changes_nothing_and_one_without_leads_gives_finite_numbers(encoder, ecg):
    every = torch.ones(3, 4, dtype=torch.long)
    torch.testing.assert_close(encoder(ecg, every).pooler_output, encoder(ecg).pooler_output)
    assert encoder(ecg, torch.zeros(3, 4, dtype=torch.bool)).pooler_output.isfinite().all()


@pytest.mark.parametrize(("patch_size", "strides"), [(20, [1, 1]), (25, [5, 1]), (10, [3, 2]), (50, [7, 3])])
def test_any_patch_and_stride_fit_the_linear_map(ecg, patch_size, strides):
    config = LeadTimeTransformerConfig(**{**SMALL, "patch_size": patch_size, "conv_strides": strides})
    assert LeadTimeTransformerModel(config)(ecg).last_hidden_state.shape == (3, config.num_tokens, 16)


def test_a_saved_encoder_loads_through_auto_model_with_equal_outputs(encoder, ecg, tmp_path):
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is LeadTimeTransformerModel
    assert loaded.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert torch.equal(loaded(ecg).pooler_output, encoder(ecg).pooler_output)


def test_gradient_checkpointing_changes_no_gradient(encoder, ecg):
    encoder.train()
    visible = torch.tensor([[0, 6, 12, 19]]).expand(3, -1)
    lead_mask = torch.tensor([[True, True, False, True]]).expand(3, -1)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            # renamed in transformers 5.2x; the old name warns there
            getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
        encoder.zero_grad()
        encoder(ecg, lead_mask, visible).pooler_output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_wrong_input_shapes_say_what_the_model_reads(encoder):
    with pytest.raises(ValueError, match=r"reads \(batch, 4, 100\)"):
        encoder(torch.zeros(1, 4, 99))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 30}, "num_samples 100 is not a multiple of patch_size 30"),
        ({"patch_size": 0}, "not a multiple of patch_size 0"),
        ({"hidden_size": 15}, "hidden_size 15 is not a multiple of num_attention_heads 2"),
        ({"conv_channels": [4]}, "must have one positive entry per layer"),
        ({"conv_strides": [0, 1]}, "must have one positive entry per layer"),
        ({"conv_kernel_sizes": [4, 3]}, r"conv_kernel_sizes \[4, 3\] must be odd"),
        ({"conv_groups": 3}, r"conv_channels \[4, 8\] are not multiples of conv_groups 3"),
    ],
)
def test_impossible_architectures_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        LeadTimeTransformerConfig(**{**SMALL, **settings})
