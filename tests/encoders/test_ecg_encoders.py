"""ResNet1d and Vit1d as models of their own."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_ecgtext.encoders import ResNet1dConfig, ResNet1dModel, Vit1dConfig, Vit1dModel
from hf_ecgtext.errors import CheckpointError

SMALL_RESNET = {"num_samples": 200, "widths": [4, 8, 8, 16]}
SMALL_VIT = {"num_samples": 200, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}


@pytest.fixture(params=["resnet18", "resnet50", "resnet_pool", "vit"])
def encoder(request):
    torch.manual_seed(0)
    if request.param == "vit":
        return Vit1dModel(Vit1dConfig(intermediate_size=32, **SMALL_VIT)).eval()
    depth = 50 if request.param == "resnet50" else 18
    stem_pool = request.param == "resnet_pool"
    return ResNet1dModel(ResNet1dConfig.from_depth(depth, stem_pool=stem_pool, **SMALL_RESNET)).eval()


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(3, 12, 200, generator=torch.Generator().manual_seed(1))


def test_outputs_have_the_documented_shapes(encoder, ecg):
    output = encoder(ecg)
    config = encoder.config
    assert output.last_hidden_state.shape == (3, config.num_tokens, config.hidden_size)
    assert output.pooler_output.shape == (3, config.hidden_size)


def test_features_are_normalised(encoder, ecg):
    features = encoder.get_ecg_features(ecg)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))


def test_what_stands_in_a_missing_lead_changes_nothing(encoder, ecg):
    lead_mask = torch.ones(3, 12, dtype=torch.bool)
    lead_mask[:, 4] = False
    garbage = ecg.clone()
    garbage[:, 4] = 1e3
    assert torch.equal(encoder.get_ecg_features(garbage, lead_mask), encoder.get_ecg_features(ecg, lead_mask))
    assert not torch.allclose(encoder.get_ecg_features(ecg, lead_mask), encoder.get_ecg_features(ecg))


def test_a_saved_encoder_loads_through_auto_model_with_equal_outputs(encoder, ecg, tmp_path):
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(encoder)
    assert (tmp_path / "model.safetensors").exists()
    assert loaded.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    with torch.no_grad():
        assert torch.equal(loaded(ecg).pooler_output, encoder(ecg).pooler_output)


def test_gradient_checkpointing_changes_no_gradient(ecg):
    model = Vit1dModel(Vit1dConfig(intermediate_size=32, **SMALL_VIT)).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            # renamed in transformers 5.2x; the old name warns there
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.zero_grad()
        model(ecg).pooler_output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_resnet_refuses_gradient_checkpointing_because_of_its_batch_norm():
    model = ResNet1dModel(ResNet1dConfig(**SMALL_RESNET))
    with pytest.raises(ValueError, match="does not support"):
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def test_wrong_input_shapes_say_what_the_model_reads(encoder):
    with pytest.raises(ValueError, match=r"reads \(batch, 12, 200\)"):
        encoder(torch.zeros(1, 12, 199))
    with pytest.raises(ValueError, match="processor"):
        encoder(torch.zeros(12, 200))


def test_convolutions_start_as_pytorch_starts_them_not_as_transformers_does():
    model = ResNet1dModel(ResNet1dConfig())
    # Kaiming-uniform with a = sqrt(5): standard deviation sqrt(1 / (3 * fan_in)).
    assert model.conv1.weight.std().item() == pytest.approx((1 / (3 * 12 * 7)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("depth", "num_parameters"), [(18, 3_848_832), (34, 7_223_168), (50, 15_959_168), (101, 28_266_624)]
)
def test_resnets_have_the_standard_sizes(depth, num_parameters):
    with torch.device("meta"):
        model = ResNet1dModel(ResNet1dConfig.from_depth(depth))
    assert model.config.num_tokens == 313  # MERL's figure for 5000 samples
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize(
    ("size", "width", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("middle", 512, 8), ("base", 768, 12)]
)
def test_vits_have_the_published_sizes(size, width, heads):
    config = Vit1dConfig.from_size(size)
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (width, heads, 4 * width)
    assert config.num_tokens == 100


@pytest.mark.parametrize("num_samples", [160, 200, 999, 1000, 5000])
@pytest.mark.parametrize("stem_pool", [False, True])
def test_the_predicted_number_of_tokens_is_the_real_one(num_samples, stem_pool):
    config = ResNet1dConfig(num_samples=num_samples, widths=[2, 2, 2, 2], stem_pool=stem_pool)
    output = ResNet1dModel(config)(torch.zeros(2, 12, num_samples))
    assert output.last_hidden_state.shape[1] == config.num_tokens


def test_misspelt_settings_are_refused():
    with pytest.raises(ValueError, match="has no setting stem_pooling"):
        ResNet1dConfig(stem_pooling=True)
    with pytest.raises(ValueError, match="no standard ResNet of depth 19"):
        ResNet1dConfig.from_depth(19)
    with pytest.raises(ValueError, match="no published ViT"):
        Vit1dConfig.from_size("huge")


def test_impossible_architectures_are_refused():
    with pytest.raises(Exception, match="not a multiple of patch_size"):
        Vit1dConfig(num_samples=201)
    with pytest.raises(Exception, match="one positive entry per stage"):
        ResNet1dConfig(depths=[2, 2])


def test_a_checkpoint_that_does_not_fit_is_an_error_not_random_weights(tmp_path):
    model = ResNet1dModel(ResNet1dConfig(**SMALL_RESNET))
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "conv1.weight"}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(CheckpointError, match=r"missing: \['conv1.weight'\]"):
        ResNet1dModel.from_pretrained(tmp_path)
    assert ResNet1dModel.from_pretrained(tmp_path, allow_missing_weights=True) is not None


def test_a_pickle_is_never_opened(tmp_path):
    model = ResNet1dModel(ResNet1dConfig(**SMALL_RESNET))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only as a pickle \(pytorch_model.bin\).*safetensors"):
        ResNet1dModel.from_pretrained(tmp_path)
