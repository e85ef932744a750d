"""A learned scale with an upper bound: `exp` below it, and a way back from above it."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ecgtext.objectives import bounded_scale

BOUND = math.log(100.0)


def scale_and_gradient(log_scale: float, of_scale: float) -> tuple[float, float]:
    """The scale, and the gradient of `of_scale * scale` with respect to its logarithm."""
    parameter = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    scale = bounded_scale(parameter, 100.0)
    (of_scale * scale).backward()
    return scale.item(), parameter.grad.item()


@pytest.mark.parametrize("of_scale", [-1.5, 2.0])
@pytest.mark.parametrize("log_scale", [-3.0, 0.0, math.log(1 / 0.07), BOUND - 1e-9, BOUND])
def test_up_to_the_bound_it_is_the_exponential_with_its_gradient(log_scale, of_scale):
    scale, gradient = scale_and_gradient(log_scale, of_scale)
    assert scale == pytest.approx(math.exp(log_scale), rel=1e-12)
    assert gradient == pytest.approx(of_scale * math.exp(log_scale), rel=1e-12)


@pytest.mark.parametrize("log_scale", [BOUND + 1e-9, 5.0, 80.0, 1e4])
def test_above_the_bound_only_the_gradient_that_leads_back_passes(log_scale):
    scale, gradient = scale_and_gradient(log_scale, 2.0)  # a step against it makes the scale smaller
    assert scale == pytest.approx(100.0, rel=1e-12)
    assert gradient == pytest.approx(200.0, rel=1e-12), "that of the bound"
    assert scale_and_gradient(log_scale, -2.0) == (scale, 0.0)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_optimiser_leads_it_back_from_far_above_and_momentum_does_not_carry_it_away(optimizer):
    parameter = torch.tensor(9.0, requires_grad=True)
    steps = optimizer([parameter], lr=0.05 if optimizer is not torch.optim.SGD else 1e-3)
    values = []
    for wanted in [30.0] * 300 + [500.0] * 300 + [30.0] * 300:
        steps.zero_grad()
        (bounded_scale(parameter, 100.0) - wanted).abs().backward()
        steps.step()
        values.append(parameter.item())
    assert math.exp(values[299]) == pytest.approx(30.0, rel=0.1), "back from above"
    assert max(values[300:]) < BOUND + 1.0, "more is wanted than there is: it stays near its bound"
    assert values[599] == pytest.approx(BOUND, abs=1.0)
    assert math.exp(values[899]) == pytest.approx(30.0, rel=0.1), "and back again"


def test_it_compiles_into_one_graph():
    compiled = torch.compile(lambda value: bounded_scale(value, 100.0), backend="aot_eager", fullgraph=True)
    for log_scale, gradient in ((1.0, math.e), (6.0, 100.0)):
        parameter = torch.tensor(log_scale, requires_grad=True)
        compiled(parameter).backward()
        assert parameter.grad.item() == pytest.approx(gradient, rel=1e-5)


def test_the_type_of_the_parameter_is_that_of_the_scale():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert bounded_scale(torch.tensor(6.0, dtype=dtype), 100.0).dtype == dtype
