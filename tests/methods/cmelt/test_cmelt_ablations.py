"""Every component of C-MELT can be switched off or replaced, and what is left trains completely."""

from __future__ import annotations

import pytest
import torch
from cmelt_examples import ALIGNED, build, make_batch

OFF = {name: {f"{name}_weight": 0.0} for name in ("mlm", "mem", "etm", "ets")}

ABLATIONS = {
    **{f"without {name}": settings for name, settings in OFF.items()},
    "ets alone": OFF["mlm"] | OFF["mem"] | OFF["etm"],
    "etm alone": OFF["mlm"] | OFF["mem"] | OFF["ets"],
    "mlm alone": OFF["mem"] | OFF["etm"] | OFF["ets"],
    "mem alone": OFF["mlm"] | OFF["etm"] | OFF["ets"],
    "mem alone, behind the last pair": OFF["mlm"] | OFF["etm"] | OFF["ets"] | {"mem_layer": 2},
    "mem and ets, before fusion": OFF["mlm"] | OFF["etm"] | {"mem_layer": 0},
    "mlm and mem": OFF["etm"] | OFF["ets"],
    "mlm and mem, behind the last pair": OFF["etm"] | OFF["ets"] | {"mem_layer": 2},
    "mlm alone, one pair": OFF["mem"] | OFF["etm"] | OFF["ets"] | {"num_fusion_layers": 1},
    "one pair": {"num_fusion_layers": 1},
    "four pairs": {"num_fusion_layers": 4, "mem_layer": 3},
    "mem before fusion": {"mem_layer": 0},
    "half of the patches": {"ecg_mask_ratio": 0.5},
    "masked patches without mem": OFF["mem"],
    "whole ecg": OFF["mem"] | {"ecg_mask_ratio": 0.0},
    "fewer words": {"text_mask_ratio": 0.15},
    "no lead masking": {"lead_mask_probability": 0.0},
    "paper's pair term": {"siglip_reduction": "mean_rows"},
    "siglip's pair term": {"learnable_siglip": True, "normalize_features": True},
    "no mlm on negatives": {"mlm_on_negatives": False},
    "raw target": {"norm_pix_loss": False},
    "sum over the masked words": {"mlm_reduction": "sum_tokens"},
    "sum over the whole recording": {"mem_reduction": "sum_all", "norm_pix_loss": False},
    "zeros are reconstructed": {"mem_masked_leads": "reconstruct_zeros"},
    "mlm by one dense layer": {"mlm_head": "dense"},
    "matching by one logit": {"etm_head": "scalar"},
    "norm behind each convolution": {"ecg_config.conv_norm": "each"},
    "tanh before dense": {"ecg_config.pooler_order": "tanh_dense"},
    "attended padding": {"attend_padding": True},
    "released masking": {"ecg_config.leak_free_masking": False},
    "mean over the text": {"text_pooling": "mean"},
    "bert's pooler": {"text_pooling": "pooler"},
    "frozen text": {"freeze_text": True},
    "frozen text, ets alone": OFF["mlm"] | OFF["mem"] | OFF["etm"] | {"freeze_text": True},
    "cached text": OFF["mlm"] | {"freeze_text": True},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_builds_and_every_parameter_gets_a_gradient(name):
    settings = ABLATIONS[name]
    model, processor = build(**settings)
    output = model.train()(**make_batch(processor), is_aligned=ALIGNED)
    weights = {term: getattr(model.config, f"{term}_weight") for term in ("mlm", "mem", "etm", "ets")}
    assert set(output.loss_terms) == {term for term, weight in weights.items() if weight > 0}
    output.loss.backward()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert not [name for name, value in trained.items() if value.grad is None]
    assert all(value.grad.isfinite().all() for value in trained.values())
    assert output.ecg_embeds.shape == output.text_embeds.shape == (4, 32)


def test_what_no_term_needs_is_not_built():
    model, _ = build(**ABLATIONS["ets alone"])
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"ecg_encoder", "text_tower", "text_projection", "text_pooler"}
    model, _ = build(**ABLATIONS["mem alone"])
    assert len(model.fusion.ecg_layers) == 1
    assert len(model.fusion.text_layers) == 0
    assert model.ecg_encoder.pooler is None


@pytest.mark.parametrize("name", ["without ets", "siglip's pair term", "mem alone", "without mem"])
def test_an_ablation_survives_save_and_load(name, tmp_path):
    model, processor = build(**ABLATIONS[name])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    batch = make_batch(processor)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).loss, model(**batch).loss)
