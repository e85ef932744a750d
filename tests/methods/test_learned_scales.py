"""No method's learned scale gets stuck: wherever it is, a loss that wants it smaller gives it a gradient."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training.collator import EcgTextCollator

SETTINGS = {"etp": {"learnable_temperature": True}, "cmelt": {"learnable_siglip": True}}
LEARNED = {"etp": "log_logit_scale", "cmelt": "log_siglip_scale", "cgdmer": "siglip_log_scale"}


def build(method):
    settings = {f"config.{name}": value for name, value in SETTINGS.get(method, {}).items()}
    return get_recipe(method, "debug").override(settings).build()


@pytest.mark.parametrize("method", method_names())
def test_every_learned_scale_is_tested_here(method):
    scalars = {name for name, value in build(method)[0].named_parameters() if value.ndim == 0 and "scale" in name}
    assert scalars == ({LEARNED[method]} if method in LEARNED else set())


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("scale", [1.0, 100.0, 101.0, 1e4, 1e12])
def test_a_learned_scale_has_a_way_back(method, scale, synthetic_dataset):
    model, processor = build(method)
    parameter = model.get_parameter(LEARNED[method])
    with torch.no_grad():
        parameter.fill_(math.log(scale))
        # In eval() nothing is random, and every report is beside another ECG: the loss wants a smaller scale.
        batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
        rows = model.eval()(**batch, return_rows=True).rows
        generator = torch.Generator().manual_seed(0)
        rows["ecg"] = torch.randn(rows["ecg"].shape, generator=generator)
        rows["text"] = rows["ecg"].roll(1, dims=0)
    loss, _ = model.loss_from_rows(rows)
    (gradient,) = torch.autograd.grad(loss, parameter)
    assert loss.isfinite()
    assert gradient.isfinite()
    assert gradient > 0
