"""ConvTransformer: D-BETA's ECG encoder as a model of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModel

from hf_ecgtext.encoders import ConvTransformerConfig, ConvTransformerModel
from hf_ecgtext.encoders.conv_transformer import Attention

SMALL = {
    "num_samples": 200,
    "conv_dim": 8,
    "num_conv_layers": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "position_kernel_size": 6,
    "position_groups": 4,
    "initializer_range": 0.2,
}
PATCH = 8  # of three convolutions


def make(**settings) -> ConvTransformerModel:
    torch.manual_seed(0)
    return ConvTransformerModel(ConvTransformerConfig(**{**SMALL, **settings})).eval()


@pytest.fixture
def encoder() -> ConvTransformerModel:
    return make()


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(3, 12, 200, generator=torch.Generator().manual_seed(1))


VISIBLE = torch.tensor([[0, 3, 4, 11, 24], [1, 2, 3, 4, 5], [7, 9, 12, 20, 23]])


def with_other_hidden_patches(ecg: torch.Tensor) -> torch.Tensor:
    patches = torch.randn(ecg.shape).mul_(50.0).unflatten(-1, (-1, PATCH))
    for record, places in enumerate(VISIBLE):
        patches[record, :, places] = ecg[record].unflatten(-1, (-1, PATCH))[:, places]
    return patches.flatten(2)


def test_outputs_have_the_documented_shapes(encoder, ecg):
    output = encoder(ecg)
    assert encoder.config.num_tokens == 25
    assert output.last_hidden_state.shape == (3, 1 + 25, 16), "the class token comes first"
    assert output.pooler_output.shape == (3, 16)
    assert encoder(ecg, visible=VISIBLE).last_hidden_state.shape == (3, 1 + 5, 16)


@pytest.mark.parametrize("num_samples", [16, 17, 160, 999, 1000, 5000])
def test_any_length_is_read_and_the_predicted_number_of_tokens_is_the_real_one(num_samples):
    model = make(num_samples=num_samples, num_conv_layers=4)
    assert model.config.num_tokens == num_samples // 16
    assert model(torch.zeros(1, 12, num_samples)).last_hidden_state.shape[1] == 1 + model.config.num_tokens


def test_the_published_size():
    with torch.device("meta"):
        model = ConvTransformerModel(ConvTransformerConfig())
    assert model.config.num_tokens == 312
    assert model.config.patch_size == 16
    assert sum(parameter.numel() for parameter in model.parameters()) == 63_203_712


def test_what_stands_in_a_missing_lead_changes_nothing(encoder, ecg):
    lead_mask = torch.ones(3, 12, dtype=torch.bool)
    lead_mask[:, 4] = False
    garbage = ecg.clone()
    garbage[:, 4] = 1e3
    assert torch.equal(encoder.get_ecg_features(garbage, lead_mask), encoder.get_ecg_features(ecg, lead_mask))
    assert not torch.allclose(encoder.get_ecg_features(ecg, lead_mask), encoder.get_ecg_features(ecg))


def test_a_common_gain_and_the_level_of_every_lead_are_normalised_away(encoder, ecg):
    """What the model card says about absolute voltages."""
    encoder, ecg = encoder.double(), ecg.double()
    changed = 3.0 * ecg + torch.arange(12.0)[:, None]
    torch.testing.assert_close(encoder(changed).pooler_output, encoder(ecg).pooler_output, rtol=1e-4, atol=1e-4)
    one_lead = ecg.clone()
    one_lead[:, 0] *= 3.0
    assert not torch.allclose(encoder(one_lead).pooler_output, encoder(ecg).pooler_output, atol=1e-2)


@pytest.mark.parametrize("conv_norm", ["first", "each"])
def test_hidden_patches_cannot_reach_visible_tokens(ecg, conv_norm):
    encoder = make(conv_norm=conv_norm)
    before = encoder(ecg, visible=VISIBLE)
    after = encoder(with_other_hidden_patches(ecg), visible=VISIBLE)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert torch.equal(before.pooler_output, after.pooler_output)


def test_the_released_masking_lets_hidden_patches_reach_visible_tokens(ecg):
    """Why `leak_free_masking` exists: the release normalises over all samples and convolves over all tokens."""
    encoder = make(leak_free_masking=False)
    before = encoder(ecg, visible=VISIBLE).last_hidden_state
    after = encoder(with_other_hidden_patches(ecg), visible=VISIBLE).last_hidden_state
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("leak_free", [True, False])
def test_with_every_patch_visible_masking_changes_nothing(ecg, leak_free):
    encoder = make(leak_free_masking=leak_free)
    everything = torch.arange(25).expand(3, -1)
    torch.testing.assert_close(
        encoder(ecg, visible=everything).last_hidden_state, encoder(ecg).last_hidden_state, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("leak_free", [True, False])
def test_a_visible_token_knows_how_far_away_others_stand(ecg, leak_free):
    """The same two patches, once side by side and once apart: positions are those of the full sequence."""
    encoder = make(leak_free_masking=leak_free)
    ecg[:, :, PATCH : 2 * PATCH] = ecg[:, :, 2 * PATCH : 3 * PATCH]
    near, apart, again = encoder.embed_patches(ecg[:1].expand(3, -1, -1), torch.tensor([[0, 1], [0, 2], [0, 1]]))
    assert torch.equal(near, again)
    assert not torch.allclose(near, apart, atol=1e-3)


def test_the_stem_is_strided_convolutions_with_a_norm_over_time_behind_the_first(encoder, ecg):
    stem, hidden = encoder.stem.double(), ecg.double()
    for index, convolution in enumerate(stem.convolutions):
        pairs = hidden.unfold(-1, 2, 2)  # (batch, channels, length, 2)
        hidden = torch.einsum("bclk,ock->bol", pairs, convolution.weight)
        if index == 0:
            centred = hidden - hidden.mean(-1, keepdim=True)
            hidden = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            hidden = hidden * stem.instance_norm.weight[:, None] + stem.instance_norm.bias[:, None]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    tokens = hidden.transpose(1, 2)
    centred = tokens - tokens.mean(-1, keepdim=True)
    tokens = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    tokens = tokens * stem.token_norm.weight + stem.token_norm.bias
    torch.testing.assert_close(stem(ecg.double()), tokens @ stem.projection.weight.T + stem.projection.bias)


def test_a_norm_behind_each_convolution_stands_behind_its_gelu(ecg):
    stem, hidden = make(conv_norm="each").stem.double(), ecg.double()
    with torch.no_grad():
        for norm in stem.instance_norms:
            norm.weight.uniform_(0.5, 2.0)
            norm.bias.normal_()
    for convolution, norm in zip(stem.convolutions, stem.instance_norms, strict=True):
        hidden = torch.einsum("bclk,ock->bol", hidden.unfold(-1, 2, 2), convolution.weight)
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        centred = hidden - hidden.mean(-1, keepdim=True)
        hidden = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        hidden = hidden * norm.weight[:, None] + norm.bias[:, None]
    expected = stem.projection(stem.token_norm(hidden.transpose(1, 2)))
    torch.testing.assert_close(stem(ecg.double()), expected)


@pytest.mark.parametrize("order", ["dense_tanh", "tanh_dense"])
def test_the_pooler_is_dense_and_tanh_in_the_order_asked_for(ecg, order):
    encoder = make(pooler_order=order).double()
    output = encoder(ecg.double())
    weight, bias, token = encoder.pooler.dense.weight, encoder.pooler.dense.bias, output.last_hidden_state[:, 0]
    expected = (token @ weight.T + bias).tanh() if order == "dense_tanh" else token.tanh() @ weight.T + bias
    torch.testing.assert_close(output.pooler_output, expected)


@pytest.mark.parametrize("taps", [5, 6])
def test_positions_are_a_weight_normed_convolution(taps):
    position = make(position_kernel_size=taps).position.double()
    with torch.no_grad():
        position.weight_magnitude.uniform_(0.5, 2.0)
        position.bias.normal_()
    plain = nn.Conv1d(16, 16, taps, padding=taps // 2, groups=4).double()
    reference = nn.utils.parametrizations.weight_norm(plain, dim=2)
    reference.load_state_dict(
        {
            "bias": position.bias,
            "parametrizations.weight.original0": position.weight_magnitude,
            "parametrizations.weight.original1": position.weight_direction,
        }
    )
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    expected = nn.functional.gelu(reference(tokens.transpose(1, 2))[..., :9]).transpose(1, 2)
    torch.testing.assert_close(position(tokens), expected)


def test_positions_start_with_the_norm_that_their_direction_has(encoder):
    position = encoder.position
    torch.testing.assert_close(position.weight_magnitude, position.weight_direction.norm(dim=(0, 1), keepdim=True))


def test_attention_is_softmax_over_what_the_mask_shows():
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    hidden, context = torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]]).bool()
    expected = torch.zeros(2, 3, 8).double()
    query, key, value = attention.query(hidden), attention.key(context), attention.value(context)
    for record in range(2):
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            scores = query[record, :, part] @ key[record, mask[record], part].T / 2.0  # the root of the head's width
            expected[record, :, part] = scores.softmax(dim=-1) @ value[record, mask[record], part]
    ours = attention(hidden, context=context, mask=mask[:, None, None])
    torch.testing.assert_close(ours, attention.output(expected))


def test_blocks_normalise_behind_each_residual(encoder):
    layer = encoder.layers[0].double()
    hidden = torch.randn(2, 5, 16).double()
    first = layer.attention_norm(hidden + layer.attention(hidden))
    torch.testing.assert_close(layer(hidden), layer.output_norm(first + layer.mlp(first)))


def test_without_a_pooler_the_pooled_output_is_the_class_token(ecg):
    output = make(add_pooler=False)(ecg)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


@pytest.mark.parametrize("settings", [{}, {"conv_norm": "each", "pooler_order": "tanh_dense"}])
def test_a_saved_encoder_loads_through_auto_model_with_equal_outputs(ecg, tmp_path, settings):
    encoder = make(**settings)
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is ConvTransformerModel
    with torch.no_grad():
        assert torch.equal(loaded(ecg).pooler_output, encoder(ecg).pooler_output)


def test_gradient_checkpointing_changes_no_gradient(ecg):
    model = make(dropout=0.0, attention_dropout=0.0).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            # renamed in transformers 5.2x; the old name warns there
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.zero_grad()
        model(ecg, visible=VISIBLE).pooler_output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("conv_norm", ["first", "each"])
def test_half_precision_normalises_in_single_precision(ecg, conv_norm):
    encoder = make(conv_norm=conv_norm)
    expected = encoder(ecg).pooler_output
    with torch.no_grad():
        pooled = encoder.to(torch.bfloat16)(ecg).pooler_output
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 18}, "hidden_size 18 is not a multiple of position_groups 4"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of num_attention_heads 3"),
        ({"num_samples": 7}, "num_samples 7 is less than one patch of 8 samples; lower num_conv_layers"),
        ({"num_conv_layers": 0}, "num_conv_layers must be positive, not 0"),
        ({"position_kernel_size": 0}, "position_kernel_size must be positive"),
        ({"num_samples": 15, "conv_norm": "each"}, "conv_norm='each' makes the only patch of 15 samples 0"),
        ({"conv_norm": "none"}, "conv_norm"),
        ({"pooler_order": "tanh"}, "pooler_order"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"patch_size": 16}, "has no setting patch_size|patch_size"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        ConvTransformerConfig(**{**SMALL, **settings})


def test_wrong_input_shapes_say_what_the_model_reads(encoder):
    with pytest.raises(ValueError, match=r"reads \(batch, 12, 200\)"):
        encoder(torch.zeros(1, 12, 199))
