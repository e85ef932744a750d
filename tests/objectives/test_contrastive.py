"""Contrastive losses: values from algebra, slow re-derivations, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_ecgtext.objectives import (
    info_nce,
    nt_xent,
    sigmoid_pair_loss,
    symmetric_cross_entropy,
    symmetric_info_nce,
)

N, DIM, TAU = 6, 8, 0.3


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, N, DIM, generator=generator, dtype=torch.float64)
    return F.normalize(first, dim=-1), F.normalize(second, dim=-1)


@pytest.fixture
def orthonormal() -> torch.Tensor:
    return torch.eye(N, DIM, dtype=torch.float64)


def value(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


def test_info_nce_of_orthonormal_pairs_has_its_closed_form(orthonormal):
    expected = math.log1p((N - 1) * math.exp(-1 / TAU))
    torch.testing.assert_close(info_nce(orthonormal, orthonormal, TAU), value(expected))
    torch.testing.assert_close(symmetric_info_nce(orthonormal, orthonormal, TAU), value(expected))


def test_info_nce_of_equal_rows_is_log_of_the_number_of_keys(orthonormal):
    same = orthonormal[:1].expand(N, -1)
    torch.testing.assert_close(info_nce(same, same, TAU), value(math.log(N)))
    torch.testing.assert_close(info_nce(same[:2], same, TAU), value(math.log(N)))


def test_info_nce_equals_the_equation_written_out(pairs):
    first, second = pairs
    total = 0.0
    for i in range(N):
        scores = [math.exp(float(first[i] @ second[j]) / TAU) for j in range(N)]
        total -= math.log(scores[i] / sum(scores))
    torch.testing.assert_close(info_nce(first, second, TAU), value(total / N))


def test_symmetric_info_nce_is_the_mean_or_the_sum_of_both_directions(pairs):
    first, second = pairs
    there, back = info_nce(first, second, TAU), info_nce(second, first, TAU)
    torch.testing.assert_close(symmetric_info_nce(first, second, TAU), (there + back) / 2)
    torch.testing.assert_close(symmetric_info_nce(first, second, TAU, "sum_directions"), there + back)


def test_without_its_positive_the_denominator_has_one_key_less(orthonormal):
    same = orthonormal[:1].expand(N, -1)
    for keys, expected in ((orthonormal, math.log(N - 1) - 1 / TAU), (same, math.log(N - 1))):
        torch.testing.assert_close(info_nce(keys, keys, TAU, exclude_positive=True), value(expected))
        torch.testing.assert_close(symmetric_info_nce(keys, keys, TAU, exclude_positive=True), value(expected))
    torch.testing.assert_close(info_nce(same[:2], same, TAU, exclude_positive=True), value(math.log(N - 1)))


def test_info_nce_without_its_positive_equals_the_equation_written_out(pairs):
    first, second = pairs
    num_queries = N - 2  # the last two keys are nobody's positive
    there = back = 0.0
    for i in range(num_queries):
        scores = [math.exp(float(first[i] @ second[k]) / TAU) for k in range(N) if k != i]
        there -= math.log(math.exp(float(first[i] @ second[i]) / TAU) / sum(scores))
    found = info_nce(first[:num_queries], second, TAU, exclude_positive=True)
    torch.testing.assert_close(found, value(there / num_queries))

    there = 0.0
    for i in range(N):
        positive = math.exp(float(first[i] @ second[i]) / TAU)
        there -= math.log(positive / sum(math.exp(float(first[i] @ second[k]) / TAU) for k in range(N) if k != i))
        back -= math.log(positive / sum(math.exp(float(first[k] @ second[i]) / TAU) for k in range(N) if k != i))
    mean = symmetric_info_nce(first, second, TAU, exclude_positive=True)
    torch.testing.assert_close(mean, value((there + back) / (2 * N)))
    total = symmetric_info_nce(first, second, TAU, "sum_directions", exclude_positive=True)
    torch.testing.assert_close(total, value((there + back) / N))


def test_leaving_out_the_positive_of_a_single_pair_is_refused(pairs):
    one = pairs[0][:1]
    for loss in (info_nce, symmetric_info_nce):
        with pytest.raises(ValueError, match="exclude_positive=True needs two or more pairs"):
            loss(one, one, TAU, exclude_positive=True)
    two_keys = info_nce(one, pairs[1][:2], TAU, exclude_positive=True)
    torch.testing.assert_close(two_keys, one[0] @ (pairs[1][1] - pairs[1][0]) / TAU)


def test_nt_xent_of_equal_views_is_log_of_the_other_views(orthonormal):
    same = orthonormal[:1].expand(N, -1)
    torch.testing.assert_close(nt_xent(same, same, TAU), value(math.log(2 * N - 1)))


def test_nt_xent_of_orthonormal_samples_has_its_closed_form(orthonormal):
    expected = math.log1p((2 * N - 2) * math.exp(-1 / TAU))
    torch.testing.assert_close(nt_xent(orthonormal, orthonormal, TAU), value(expected))


def test_nt_xent_equals_the_equation_written_out(pairs):
    views = torch.cat(pairs)
    total = 0.0
    for i in range(2 * N):
        scores = {k: math.exp(float(views[i] @ views[k]) / TAU) for k in range(2 * N) if k != i}
        total -= math.log(scores[(i + N) % (2 * N)] / sum(scores.values()))
    torch.testing.assert_close(nt_xent(*pairs, TAU), value(total / (2 * N)))


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (10.0, -10.0), (2.5, 0.5)])
def test_sigmoid_loss_of_orthonormal_pairs_has_its_closed_form(orthonormal, scale, bias):
    expected = math.log1p(math.exp(-(scale + bias))) + (N - 1) * math.log1p(math.exp(bias))
    logits = scale * orthonormal @ orthonormal.T + bias
    torch.testing.assert_close(sigmoid_pair_loss(logits), value(expected))
    per_pair = sigmoid_pair_loss(logits, reduction="mean_pairs")
    torch.testing.assert_close(per_pair, value(expected / N))


def test_sigmoid_loss_equals_the_equation_written_out_with_given_pairs(pairs):
    first, second = pairs
    is_pair = torch.rand(N, N, generator=torch.Generator().manual_seed(1)) < 0.4
    total = 0.0
    for i in range(N):
        for j in range(N):
            sign = 1.0 if is_pair[i, j] else -1.0
            total -= math.log(1 / (1 + math.exp(-sign * (3.0 * float(first[i] @ second[j]) - 1.0))))
    loss = sigmoid_pair_loss(3.0 * first @ second.T - 1.0, is_pair)
    torch.testing.assert_close(loss, value(total / N))


def test_sigmoid_loss_survives_large_logits():
    huge = 100.0 * torch.eye(3)
    loss = sigmoid_pair_loss(huge @ -huge)
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, torch.tensor(1e4 + 2 * math.log(2.0)))


@pytest.mark.parametrize("reduction", ["mean_directions", "sum_directions"])
@pytest.mark.parametrize("exclude_positive", [False, True])
def test_info_nce_is_the_cross_entropy_of_its_logits(pairs, reduction, exclude_positive):
    logits = pairs[0] @ pairs[1].T / TAU
    expected = symmetric_info_nce(*pairs, TAU, reduction, exclude_positive)
    assert torch.equal(symmetric_cross_entropy(logits, reduction, exclude_positive), expected)


LOSSES = {
    "info_nce": lambda a, b: info_nce(a, b, TAU),
    "symmetric_info_nce": lambda a, b: symmetric_info_nce(a, b, TAU),
    "info_nce without positive": lambda a, b: info_nce(a, b, TAU, exclude_positive=True),
    "symmetric_info_nce without positive": lambda a, b: symmetric_info_nce(a, b, TAU, exclude_positive=True),
    "nt_xent": lambda a, b: nt_xent(a, b, TAU),
    "sigmoid_pair_loss": lambda a, b: sigmoid_pair_loss(2.0 * a @ b.T - 1.0),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_order_of_the_batch_does_not_matter(loss, pairs):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loss(*pairs), loss(pairs[0][order], pairs[1][order]))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_are_right(loss, pairs):
    inputs = tuple(part.clone().requires_grad_() for part in pairs)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_better_match_has_a_lower_loss(loss, pairs):
    first, second = pairs
    assert loss(first, first) < loss(first, second)


def test_an_unknown_reduction_is_refused(pairs):
    with pytest.raises(ValueError, match="mean_directions"):
        symmetric_info_nce(*pairs, TAU, "sum")
    with pytest.raises(ValueError, match="mean_rows"):
        sigmoid_pair_loss(pairs[0] @ pairs[1].T, reduction="sum")
