"""What DERI's released code computes, our converted model computes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deri_published import TINY_TEXT, released_inputs, released_state_dict
from torch.nn import functional as F

from hf_ecgtext.methods.deri import DeriModel
from hf_ecgtext.methods.deri.convert_deri_checkpoint import convert

RTOL, ATOL = 1e-4, 1e-5  # the tolerance that the parity files state
ALL_TERMS = {"align", "mixed", "decode_ecg", "decode_text", "rme"}
NOT_OUTPUTS = {"keys", "salt", "batch", "mask_noise1", "mask_noise2"}


@pytest.fixture(scope="module")
def released(golden):
    reference = np.load(golden / "deri_resnet18.npz")
    # The release computes and logs decode_text but leaves it out of the sum; here a weight makes it appear.
    model = convert(released_state_dict(reference), text_config=TINY_TEXT, decode_text_weight=1.0)
    return reference, model, released_inputs(reference)


@torch.no_grad()
def our_outputs(model, inputs) -> dict[str, torch.Tensor]:
    """By the names of the parity file."""
    encoder_output = model.ecg_encoder(inputs["ecg_values"])
    tokens = model.ecg_tokens(encoder_output)
    rows = model(**inputs, return_rows=True).rows
    assert tokens.shape == (6, 105, 256)
    return {
        "ecg_sequence": tokens.transpose(1, 2)[:, :8, ::10],
        "attended_sequence": model.token_attention(tokens)[:, ::10, :8],
        "mixed_ecg_embeds_inference": model.embed_ecg(encoder_output),
        "proj_ecg": rows["aligned_ecg"],
        "mix_ecg": rows["mixed_ecg"],
        "proj_text": F.normalize(rows["text"], dim=-1),
        "mix_text": rows["mixed_text"],
        "decoded_ecg": rows["decoded_ecg"],
        "decoded_text": rows["decoded_text"],
        "mean_ecg": rows["pooled_ecg"],
        "rme_view1": rows["first_view"],
        "rme_view2": rows["second_view"],
        **model(**inputs).loss_terms,
    }


@pytest.mark.slow
def test_every_stored_array_and_all_five_losses_equal_the_released_code(released):
    reference, model, inputs = released
    ours = our_outputs(model, inputs)
    assert set(ours) == set(reference.files) - NOT_OUTPUTS
    assert set(ours) >= ALL_TERMS
    for name, value in ours.items():
        np.testing.assert_allclose(value.numpy(), reference[name], rtol=RTOL, atol=ATOL, err_msg=name)
    with torch.no_grad():
        assert float(model(**inputs).loss) == pytest.approx(sum(float(ours[name]) for name in ALL_TERMS), rel=RTOL)


@torch.no_grad()
def test_without_overrides_the_loss_is_the_sum_that_the_release_trains_on(released):
    reference, model, inputs = released
    as_released = convert(released_state_dict(reference), text_config=TINY_TEXT)
    as_released.load_state_dict(model.state_dict())  # the tiny text encoder is random
    expected = sum(float(reference[name]) for name in ("align", "mixed", "decode_ecg", "rme"))
    assert float(as_released(**inputs).loss) == pytest.approx(expected, rel=RTOL)


@torch.no_grad()
def test_inference_features_are_the_released_ones_normalised(released):
    reference, model, inputs = released
    expected = F.normalize(torch.from_numpy(reference["mixed_ecg_embeds_inference"]), dim=-1)
    torch.testing.assert_close(model.get_ecg_features(inputs["ecg_values"]), expected, rtol=RTOL, atol=ATOL)
    torch.testing.assert_close(model(**inputs).ecg_embeds, expected, rtol=RTOL, atol=ATOL)
    text = model.get_text_features(text_tower_embeds=inputs["text_tower_embeds"])
    np.testing.assert_allclose(text.numpy(), reference["proj_text"], rtol=RTOL, atol=ATOL)


@torch.no_grad()
@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ({"loss_reduction": "mean_directions"}, ALL_TERMS),
        ({"temperature": 0.7}, ALL_TERMS),
        ({"keep_order": True}, {"rme_view1", "rme_view2"}),  # the positions are too small to show in the loss
        ({"normalize_tokens_at_inference": True}, {"mixed_ecg_embeds_inference"}),
    ],
)
def test_parity_notices_each_default_that_departs_from_the_release(released, setting, changed):
    reference, model, inputs = released
    old = {name: getattr(model.config, name) for name in setting}
    for name, value in setting.items():
        setattr(model.config, name, value)
    try:
        ours = our_outputs(model, inputs)
    finally:
        for name, value in old.items():
            setattr(model.config, name, value)
    differing = {
        name for name, value in ours.items() if not np.allclose(value.numpy(), reference[name], rtol=RTOL, atol=ATOL)
    }
    assert differing == changed


def test_a_converted_model_survives_save_and_load(released, tmp_path):
    _, model, inputs = released
    model.save_pretrained(tmp_path)
    loaded = DeriModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
