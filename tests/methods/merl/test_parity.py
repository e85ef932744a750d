"""What the published MERL code computes, our converted model computes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity_files import parity_input
from published import TINY_TEXT, published_state_dict
from torch.nn import functional as F

from hf_ecgtext.methods.merl.convert_merl_checkpoint import convert
from hf_ecgtext.methods.merl.modeling_merl import MerlModel
from hf_ecgtext.objectives import symmetric_info_nce

RTOL, ATOL = 1e-4, 1e-5  # the tolerance that the parity files state


@pytest.fixture(params=["merl_resnet18", "merl_vit_tiny"])
def parity(request, golden):
    reference = np.load(golden / f"{request.param}.npz")
    model = convert(published_state_dict(reference), text_config=TINY_TEXT, loss_reduction="sum_directions")
    batch = int(reference["batch"])
    ecg = parity_input(reference, "ecg", (batch, 12, 5000))
    text = parity_input(reference, "text_pooled", (batch, 768))
    return reference, model, ecg, text


@torch.no_grad()
def test_every_stored_array_and_both_losses_equal_the_published_code(parity):
    reference, model, ecg, text = parity
    output = model(ecg_values=ecg, text_tower_embeds=text)
    encoder_output = model.ecg_encoder(ecg)
    tokens = encoder_output.last_hidden_state.transpose(1, 2)
    is_resnet = reference["encoder_output"].ndim == 3
    embedding, uma_input = model.ecg_head(encoder_output)
    views = [projection(uma_input) for projection in model.uma_projections]
    # The released loss normalises its inputs; the file holds the views as the projections emit them.
    ours = {
        "encoder_output": tokens[:, :8, ::40] if is_resnet else encoder_output.pooler_output,
        "ecg_embeds": embedding,
        "ecg_embeds_normalized": output.ecg_embeds,
        "text_embeds_normalized": output.text_embeds,
        "view1": views[0],
        "view2": views[1],
        "cma": output.loss_terms["cma"],
        "uma": output.loss_terms["uma"],
    }
    full_shape = tokens.shape if is_resnet else encoder_output.pooler_output.shape
    assert tuple(full_shape) == tuple(reference["encoder_output_shape"])
    assert set(ours) == set(reference.files) - {"keys", "salt", "batch", "encoder_output_shape"}
    for name, value in ours.items():
        np.testing.assert_allclose(value.numpy(), reference[name], rtol=RTOL, atol=ATOL, err_msg=name)
    torch.testing.assert_close(output.loss, output.loss_terms["cma"] + output.loss_terms["uma"])


@torch.no_grad()
def test_get_features_equal_the_published_embeddings(parity):
    reference, model, ecg, text = parity
    np.testing.assert_allclose(
        model.get_ecg_features(ecg).numpy(), reference["ecg_embeds_normalized"], rtol=RTOL, atol=ATOL
    )
    np.testing.assert_allclose(
        model.get_text_features(text_tower_embeds=text).numpy(),
        reference["text_embeds_normalized"],
        rtol=RTOL,
        atol=ATOL,
    )


@torch.no_grad()
def test_the_paper_s_reduction_is_half_of_the_released_one(parity):
    _, model, ecg, text = parity
    output = model(ecg_values=ecg, text_tower_embeds=text)
    halved = symmetric_info_nce(output.ecg_embeds, output.text_embeds, model.config.temperature)
    torch.testing.assert_close(2 * halved, output.loss_terms["cma"])


def test_a_converted_model_survives_save_and_load(parity, tmp_path):
    _, model, ecg, _ = parity
    model.save_pretrained(tmp_path)
    loaded = MerlModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.get_ecg_features(ecg[:1]), model.get_ecg_features(ecg[:1]))
        assert torch.allclose(F.normalize(loaded.get_ecg_features(ecg[:1])), loaded.get_ecg_features(ecg[:1]))
