"""Matching loss: closed forms, its twin with one logit, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hf_ecgtext.objectives import matching_loss

BATCH = 6


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def is_match() -> torch.Tensor:
    return torch.tensor([True, False, False, True, True, False])


def value(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.floats(-100, 100))
def test_equal_logits_cost_log_two_whatever_the_answers_are(answers, constant):
    logits = torch.full((len(answers), 2), constant, dtype=torch.float64)
    torch.testing.assert_close(matching_loss(logits, torch.tensor(answers)), value(math.log(2)))


@pytest.mark.parametrize("margin", [-5.0, -1.0, 0.3, 4.0])
def test_a_margin_between_both_logits_has_its_closed_form(margin):
    logits = torch.tensor([[0.7, 0.7 + margin]], dtype=torch.float64)
    torch.testing.assert_close(matching_loss(logits, torch.tensor([True])), value(math.log1p(math.exp(-margin))))
    torch.testing.assert_close(matching_loss(logits, torch.tensor([False])), value(math.log1p(math.exp(margin))))


def test_matching_loss_equals_the_equation_written_out(logits, is_match):
    total = 0.0
    for row in range(BATCH):
        no, yes = (math.exp(float(score)) for score in logits[row])
        total -= math.log((yes if is_match[row] else no) / (no + yes))
    torch.testing.assert_close(matching_loss(logits, is_match), value(total / BATCH))


def test_it_is_the_binary_cross_entropy_of_the_difference_of_both_logits(logits, is_match):
    single = F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], is_match.double())
    torch.testing.assert_close(matching_loss(logits, is_match), single)


def test_one_logit_is_asked_by_binary_cross_entropy_written_out(logits, is_match):
    total = 0.0
    for row in range(BATCH):
        yes = 1 / (1 + math.exp(-float(logits[row, 0])))
        total -= math.log(yes if is_match[row] else 1 - yes)
    torch.testing.assert_close(matching_loss(logits[:, :1], is_match), value(total / BATCH))
    differences = (logits[:, 1] - logits[:, 0]).unsqueeze(1)
    torch.testing.assert_close(matching_loss(differences, is_match), matching_loss(logits, is_match))


def test_answers_may_be_booleans_integers_or_floats(logits, is_match):
    losses = {float(matching_loss(logits, is_match.to(dtype))) for dtype in (torch.bool, torch.long, torch.float32)}
    assert len(losses) == 1


def test_the_order_of_the_batch_does_not_matter(logits, is_match):
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(matching_loss(logits[order], is_match[order]), matching_loss(logits, is_match))


def test_exchanging_both_logits_and_all_answers_changes_nothing(logits, is_match):
    torch.testing.assert_close(matching_loss(logits.flip(1), ~is_match), matching_loss(logits, is_match))


def test_it_survives_large_logits():
    loss = matching_loss(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([True, True]))
    torch.testing.assert_close(loss, torch.tensor(5e3))


def test_the_gradient_is_right(logits, is_match):
    assert torch.autograd.gradcheck(lambda x: matching_loss(x, is_match), (logits.requires_grad_(),))
