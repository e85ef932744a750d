"""The converter of published MERL weights: complete or not at all."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from published import TINY_TEXT, published_state_dict
from transformers import AutoModel, AutoProcessor

from hf_ecgtext.cli import main
from hf_ecgtext.encoders.resnet1d import ResNet1dConfig, ResNet1dModel
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.leads import MIMIC_LEADS
from hf_ecgtext.methods.merl.convert_merl_checkpoint import convert


@pytest.fixture(scope="module")
def published(golden) -> dict[str, torch.Tensor]:
    return published_state_dict(np.load(golden / "merl_resnet18.npz"))


def test_a_trainer_checkpoint_converts_as_its_plain_state_dict_does(published):
    plain = convert(published, text_config=TINY_TEXT)
    wrapped = {"module." + name: tensor for name, tensor in published.items()}
    checkpoint = {"epoch": 3, "model_state_dict": wrapped, "optimizer_state_dict": {"state": {}}}
    from_trainer = convert(checkpoint, text_config=TINY_TEXT)
    assert not plain.training
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, from_trainer.state_dict()[name])


def test_older_files_with_position_ids_convert_too(published):
    convert({**published, "lm_model.embeddings.position_ids": torch.arange(512)}, text_config=TINY_TEXT)


def test_config_overrides_reach_the_config(published):
    model = convert(published, text_config=TINY_TEXT, temperature=0.1, probe_feature="aligned")
    assert (model.config.temperature, model.config.probe_feature) == (0.1, "aligned")
    with pytest.raises(ValueError, match="has no setting temprature"):
        convert(published, text_config=TINY_TEXT, temprature=0.1)


def test_missing_and_left_over_weights_are_named(published):
    incomplete = {name: tensor for name, tensor in published.items() if name != "att_pool_head.cls_token"}
    with pytest.raises(CheckpointError, match=r"missing: \['ecg_head.attention_pool.cls_token'\]"):
        convert(incomplete, text_config=TINY_TEXT)
    with pytest.raises(CheckpointError, match=r"left over: \['classifier.weight'\]"):
        convert({**published, "classifier.weight": torch.zeros(2)}, text_config=TINY_TEXT)
    reshaped = {**published, "proj_t.0.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"text_projection.0.bias: \(3,\) instead of \(256,\)"):
        convert(reshaped, text_config=TINY_TEXT)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"encoder.weight": torch.zeros(2)}, "This is no MERL checkpoint"),
        ({"model": {"a": torch.zeros(2)}}, r"no MERL checkpoint.*\['a'\]"),
        ({"epoch": 3}, r"\['epoch'\] are not tensors"),
        (
            {"ecg_encoder.layer2.0.shortcut.0.weight": torch.zeros(1), "proj_t.0.bias": torch.zeros(1)},
            "no text encoder",
        ),
        ({"ecg_encoder.layer2.0.shortcut.0.weight": torch.zeros(1)}, "lacks 'ecg_encoder.conv1.weight'"),
        ({"ecg_encoder.block0.attn.fn.to_qkv.weight": torch.zeros(1)}, "lacks 'ecg_encoder.to_patch_embedding.weight'"),
    ],
)
def test_other_files_are_refused(weights, message):
    with pytest.raises(CheckpointError, match=message):
        convert(weights)


@pytest.mark.parametrize("name", ["merl_resnet18", "merl_vit_tiny"])
def test_a_file_of_the_encoder_alone_makes_the_encoder_of_the_model(golden, name):
    published = published_state_dict(np.load(golden / f"{name}.npz"))
    prefix = "ecg_encoder."
    inside = {key: tensor for key, tensor in published.items() if key.startswith(prefix)}
    alone = {key.removeprefix(prefix): tensor for key, tensor in inside.items()}
    expected = convert(published, text_config=TINY_TEXT).ecg_encoder
    for weights in (alone, inside, {f"module.{key}": tensor for key, tensor in alone.items()}):
        encoder = convert(weights)
        assert type(encoder) is type(expected)
        assert not encoder.training
        assert encoder.config.to_diff_dict() | {"dtype": "float32"} == expected.config.to_diff_dict()
        assert encoder.state_dict().keys() == expected.state_dict().keys()
        for key, tensor in expected.state_dict().items():
            assert torch.equal(encoder.state_dict()[key], tensor)


@pytest.mark.parametrize("depth", [34, 50])
def test_the_size_of_a_resnet_is_read_off_its_weights(depth):
    theirs = ResNet1dModel(ResNet1dConfig.from_depth(depth, num_leads=8))
    names = {
        name: re.sub(r"^stages\.(\d)", lambda match: f"layer{int(match[1]) + 1}", name) for name in theirs.state_dict()
    }
    published = {names[name]: tensor for name, tensor in theirs.state_dict().items()}
    config = convert(published | {"linear.weight": torch.zeros(10, 512), "linear.bias": torch.zeros(10)}).config
    assert (list(config.depths), config.block) == (list(theirs.config.depths), theirs.config.block)
    assert (config.num_leads, config.hidden_size) == (8, theirs.config.hidden_size)


def test_config_overrides_of_an_encoder_alone_are_its_own():
    published = {
        re.sub(r"^stages\.(\d)", lambda match: f"layer{int(match[1]) + 1}", name): tensor
        for name, tensor in ResNet1dModel(ResNet1dConfig(num_samples=2500)).state_dict().items()
    }
    assert convert(published, num_samples=2500).config.num_samples == 2500
    with pytest.raises(ValueError, match="ResNet1dConfig has no setting temperature"):
        convert(published, temperature=0.1)


def test_the_command_writes_a_folder_that_loads(published, tmp_path, capsys):
    text_folder, output = tmp_path / "text", tmp_path / "out"
    TINY_TEXT.save_pretrained(text_folder)
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(text_folder)
    torch.save(published, tmp_path / "res18_best_ckpt.pth")
    arguments = ["--text-model", str(text_folder), "--output-dir", str(output)]
    assert main(["convert", str(tmp_path / "res18_best_ckpt.pth"), *arguments]) == 0
    assert "MIMIC" in capsys.readouterr().out, "licence and lead order are told"
    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    extractor = processor.feature_extractor
    assert tuple(extractor.lead_names) == MIMIC_LEADS
    assert (extractor.sampling_rate_hz, extractor.num_samples, extractor.scaling) == (500, 5000, "minmax_record")
    assert processor.max_length == 256
    signal = np.random.default_rng(0).standard_normal((12, 5000)).astype(np.float32)
    with torch.no_grad():
        embeds = model.get_ecg_features(**processor(ecg=signal, sampling_rate_hz=500))
        reference = convert(published, text_config=TINY_TEXT)
        # Our standard order has aVL before aVF; the published weights want them the other way round.
        swapped = torch.from_numpy(signal[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]])[None]
        scaled = (swapped - swapped.min()) / (swapped.max() - swapped.min())
    assert torch.allclose(embeds, reference.get_ecg_features(scaled), atol=1e-5)
