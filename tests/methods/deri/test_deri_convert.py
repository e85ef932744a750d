"""The converter of weights that DERI's released code trained: complete or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deri_published import TINY_TEXT, released_state_dict
from transformers import AutoModel, AutoProcessor

from hf_ecgtext.cli import main
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.leads import MIMIC_LEADS
from hf_ecgtext.methods.deri.configuration_deri import RELEASED
from hf_ecgtext.methods.deri.convert_deri_checkpoint import convert


@pytest.fixture(scope="module")
def weights(golden) -> dict[str, torch.Tensor]:
    return released_state_dict(np.load(golden / "deri_resnet18.npz"))


def test_a_trainer_checkpoint_converts_as_its_plain_state_dict_does(weights):
    plain = convert(weights, text_config=TINY_TEXT)
    wrapped = {"module." + name: tensor for name, tensor in weights.items()}
    from_trainer = convert(
        {"epoch": 3, "model_state_dict": wrapped, "optimizer_state_dict": {"state": {}}}, text_config=TINY_TEXT
    )
    assert not plain.training
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, from_trainer.state_dict()[name])


def test_every_weight_but_the_unused_ones_arrives(weights):
    model = convert({**weights, "lm_model.embeddings.position_ids": torch.arange(512)}, text_config=TINY_TEXT)
    unused = [name for name in weights if ".c_proj." in name or name.startswith("ecg_encoder.linear.")]
    assert len(unused) == 8
    ours = {name: value for name, value in model.state_dict().items() if not name.startswith("text_tower.")}
    theirs = {name: value for name, value in weights.items() if not name.startswith("lm_model.") and name not in unused}
    assert len(ours) == len(theirs) == 232
    assert sum(value.double().sum() for value in ours.values()) == pytest.approx(
        sum(value.double().sum() for value in theirs.values())
    )


def test_the_config_follows_the_file_and_the_released_code_unless_told_otherwise(weights):
    config = convert(weights, text_config=TINY_TEXT).config
    assert {name: getattr(config, name) for name in RELEASED} == RELEASED
    assert (config.num_decoder_layers, config.max_text_tokens, config.num_ecg_tokens) == (2, 256, 105)
    config = convert(weights, text_config=TINY_TEXT, normalize_tokens_at_inference=True).config
    assert config.normalize_tokens_at_inference
    with pytest.raises(ValueError, match="has no setting temprature"):
        convert(weights, text_config=TINY_TEXT, temprature=0.1)


def test_missing_and_left_over_weights_are_named(weights):
    incomplete = {name: tensor for name, tensor in weights.items() if name != "decode_t.sep_embedding"}
    with pytest.raises(CheckpointError, match=r"missing: \['ecg_to_text.separator'\]"):
        convert(incomplete, text_config=TINY_TEXT)
    with pytest.raises(CheckpointError, match=r"left over: \['classifier.weight'\]"):
        convert({**weights, "classifier.weight": torch.zeros(2)}, text_config=TINY_TEXT)
    reshaped = {**weights, "decode_e.head.fc2.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"text_to_ecg.head.fc2.bias: \(3,\) instead of \(256,\)"):
        convert(reshaped, text_config=TINY_TEXT)


def test_files_of_other_methods_are_refused(golden, weights):
    merl = released_state_dict(np.load(golden / "merl_resnet18.npz"))
    with pytest.raises(CheckpointError, match=r"This is no DERI checkpoint: .* --method merl"):
        convert(merl, text_config=TINY_TEXT)
    with pytest.raises(CheckpointError, match="This is no DERI checkpoint"):
        convert({"encoder.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="not tensors"):
        convert({"model": 3})
    with pytest.raises(CheckpointError, match="has no text encoder"):
        convert({name: tensor for name, tensor in weights.items() if not name.startswith("lm_model.")})


def test_the_command_writes_a_folder_that_loads(weights, tmp_path, capsys):
    text_folder, output = tmp_path / "text", tmp_path / "out"
    TINY_TEXT.save_pretrained(text_folder)
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(text_folder)
    torch.save(weights, tmp_path / "deri_ckpt.pth")
    arguments = ["--method", "deri", "--text-model", str(text_folder), "--output-dir", str(output)]
    assert main(["convert", str(tmp_path / "deri_ckpt.pth"), *arguments]) == 0
    assert "no licence" in capsys.readouterr().out
    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert tuple(processor.feature_extractor.lead_names) == MIMIC_LEADS
    assert processor.max_length == model.config.max_text_tokens == 256
    signal = np.random.default_rng(0).standard_normal((12, 5000)).astype(np.float32)
    with torch.no_grad():
        embeds = model.get_ecg_features(**processor(ecg=signal, sampling_rate_hz=500))
        # Our standard order has aVL before aVF; the released weights want them the other way round.
        swapped = torch.from_numpy(signal[[0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]])[None]
        scaled = (swapped - swapped.min()) / (swapped.max() - swapped.min())
        expected = convert(weights, text_config=TINY_TEXT).get_ecg_features(scaled)
    assert torch.allclose(embeds, expected, atol=1e-5)
