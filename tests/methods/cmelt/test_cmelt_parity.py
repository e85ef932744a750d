"""What the released D-BETA code computes, our converted model computes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cmelt_examples import TINY_T5, published_state_dict
from parity_files import parity_input
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_ecgtext.encoders.masking import MaskedText, kept_indices
from hf_ecgtext.methods.cmelt import modeling_cmelt
from hf_ecgtext.methods.cmelt.convert_cmelt_checkpoint import convert

pytestmark = pytest.mark.slow

RTOL, ATOL = 1e-4, 1e-5  # the tolerance that the parity file states


@pytest.fixture(scope="module")
def reference(golden):
    return np.load(golden / "cmelt_dbeta.npz")


@pytest.fixture(scope="module")
def model(reference):
    return convert(published_state_dict(reference), text_config=TINY_T5, mem_layer=1)


@pytest.fixture(scope="module")
def inputs(reference):
    batch = int(reference["batch"])
    return {
        "ecg": parity_input(reference, "ecg", (batch, 12, 5000)),
        "text_hidden": parity_input(reference, "text_hidden", (batch, 20, 768)),
        "text_mask": torch.from_numpy(reference["text_attention_mask"]),
        "noise": torch.from_numpy(reference["mask_noise"]),
        "labels": torch.from_numpy(reference["mlm_labels"]),
        "aligned": torch.from_numpy(reference["aligned"]).bool(),
    }


@torch.no_grad()
def test_every_stored_array_equals_the_released_code(reference, model, inputs):
    encoder, ecg = model.ecg_encoder, inputs["ecg"]
    visible = kept_indices(inputs["noise"], 78)
    masked = encoder(ecg, visible=visible)
    fused_text, ecg_states = model.fuse(masked.last_hidden_state, inputs["text_hidden"], inputs["text_mask"])
    fused = model.fused_features(fused_text, ecg_states[-1])
    patches = model.mem_head(ecg_states[model.config.mem_layer], visible)
    ours = {
        "conv_embeddings": encoder.embed_patches(ecg)[:, ::31, :8],
        "ecg_features": encoder(ecg).pooler_output,
        "masked_ecg_features": masked.pooler_output,
        "text_features": model.embed_text(inputs["text_hidden"][:, 0]),
        "fused_cls": fused,
        "mlm_logits": model.mlm_head(fused_text)[:, ::5, ::1000],
        "mem_logits": patches[:, ::31].unflatten(-1, (12, 16)),
        "etm_logits": model.etm_head(fused),
    }
    given = {"keys", "salt", "batch", "config", "text_attention_mask", "aligned", "mlm_labels", "mask_noise"}
    losses = {"mlm", "mem", "etm", "ets"}  # below
    assert set(ours) == set(reference.files) - given - losses - {"num_positions"}
    assert int(reference["num_positions"]) == model.config.ecg_config.num_tokens
    for name, value in ours.items():
        np.testing.assert_allclose(value.numpy(), reference[name], rtol=RTOL, atol=ATOL, err_msg=name)


@torch.no_grad()
def test_all_four_losses_equal_the_released_code(reference, model, inputs, monkeypatch):
    """Through `forward`; the text encoder's output and the masked words are the parity file's."""
    hidden, labels = inputs["text_hidden"], inputs["labels"]
    tower_output = BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden[:, 0])
    monkeypatch.setattr(model.text_tower, "forward", lambda *_: tower_output)
    positions = torch.arange(labels.shape[1]).expand_as(labels)
    monkeypatch.setattr(
        modeling_cmelt, "mask_text", lambda input_ids, *_, **__: MaskedText(input_ids, positions, labels)
    )
    output = model(
        ecg_values=inputs["ecg"],
        input_ids=torch.zeros_like(labels),
        attention_mask=inputs["text_mask"],
        is_aligned=inputs["aligned"],
        patch_noise=inputs["noise"],
    )
    assert set(output.loss_terms) == {"mlm", "mem", "etm", "ets"}
    for name, term in output.loss_terms.items():
        np.testing.assert_allclose(term.numpy(), reference[name], rtol=RTOL, atol=ATOL, err_msg=name)
    torch.testing.assert_close(output.loss, sum(output.loss_terms.values()))


def test_a_converted_model_survives_save_and_load(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        ecg = inputs["ecg"][:1]
        assert torch.equal(loaded.get_ecg_features(ecg), model.get_ecg_features(ecg))
        assert torch.equal(loaded.get_probe_features(ecg), model.get_probe_features(ecg))
