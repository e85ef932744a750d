"""Losses of what was hidden: closed forms, slow loops in float64, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.objectives import (
    masked_patch_error,
    mean_of_counted,
    normalise_patches,
    patch_error_sum,
    token_cross_entropy,
)

BATCH, PATCHES, SIZE, TOKENS, VOCAB = 4, 7, 5, 6, 11


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def patches() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    predicted, target = torch.randn(2, BATCH, PATCHES, SIZE, generator=generator(), dtype=torch.float64)
    return predicted, target, torch.rand(BATCH, PATCHES, generator=generator(1)) < 0.5


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(BATCH, TOKENS, VOCAB, generator=generator(2), dtype=torch.float64)
    labels = torch.randint(VOCAB, (BATCH, TOKENS), generator=generator(3))
    return logits, labels.masked_fill(torch.rand(BATCH, TOKENS, generator=generator(4)) < 0.4, -100)


# Patches


@settings(deadline=None)
@given(
    st.floats(-1e3, 1e3),
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)),
)
def test_a_constant_error_is_its_square_for_any_mask_that_hides_something(constant, mask):
    is_hidden = torch.tensor(mask)
    target = torch.randn(*is_hidden.shape, SIZE, generator=generator(), dtype=torch.float64)
    error = masked_patch_error(target + constant, target, is_hidden)
    expected = is_hidden.any(dim=1).double() * constant**2
    torch.testing.assert_close(error, expected, rtol=1e-9, atol=1e-9)


def test_masked_patch_error_equals_the_equation_written_out(patches):
    predicted, target, is_hidden = patches
    expected = []
    for row in range(BATCH):
        hidden = [patch for patch in range(PATCHES) if is_hidden[row, patch]]
        per_patch = [
            sum((float(predicted[row, patch, i]) - float(target[row, patch, i])) ** 2 for i in range(SIZE)) / SIZE
            for patch in hidden
        ]
        expected.append(sum(per_patch) / len(per_patch))
    found = masked_patch_error(predicted, target, is_hidden)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_visible_patches_do_not_count(patches):
    predicted, target, is_hidden = patches
    before = masked_patch_error(predicted, target, is_hidden)
    predicted[~is_hidden] += 100.0
    assert torch.equal(masked_patch_error(predicted, target, is_hidden), before)
    predicted[is_hidden] += 1.0
    assert (masked_patch_error(predicted, target, is_hidden) != before).all()


def test_a_sample_without_hidden_patches_has_no_error_and_a_finite_gradient(patches):
    predicted, target, is_hidden = patches
    is_hidden[1] = False
    predicted.requires_grad_()
    error = masked_patch_error(predicted, target, is_hidden)
    assert error[1] == 0
    error.sum().backward()
    assert torch.equal(predicted.grad[1], torch.zeros(PATCHES, SIZE, dtype=torch.float64))
    assert torch.isfinite(predicted.grad).all()


def test_the_error_of_a_sample_does_not_depend_on_its_batch_or_on_the_order_of_patches(patches):
    predicted, target, is_hidden = patches
    rows = masked_patch_error(predicted, target, is_hidden)
    order = torch.randperm(BATCH, generator=generator())
    torch.testing.assert_close(masked_patch_error(predicted[order], target[order], is_hidden[order]), rows[order])
    places = torch.randperm(PATCHES, generator=generator())
    moved = masked_patch_error(predicted[:, places], target[:, places], is_hidden[:, places])
    torch.testing.assert_close(moved, rows)


def test_masked_patch_error_has_the_right_gradient(patches):
    predicted, target, is_hidden = patches
    predicted.requires_grad_()
    target.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: masked_patch_error(a, b, is_hidden), (predicted, target))


@pytest.fixture
def counts() -> torch.Tensor:
    """Which entries of a patch count: some, none, one, all."""
    some = [[True, False, True, True, False], [False] * 5, [False, True, False, False, False], [True] * 5]
    return torch.tensor(some)


def test_entries_that_do_not_count_are_left_out_of_sum_and_number(patches, counts):
    predicted, target, is_hidden = patches
    found, summed = masked_patch_error(predicted, target, is_hidden, counts), patch_error_sum(predicted, target, counts)
    for row in range(BATCH):
        errors = {
            (patch, i): (float(predicted[row, patch, i]) - float(target[row, patch, i])) ** 2
            for patch in range(PATCHES)
            for i in range(SIZE)
            if counts[row, i]
        }
        hidden = [error for (patch, _), error in errors.items() if is_hidden[row, patch]]
        assert float(found[row]) == pytest.approx(sum(hidden) / max(len(hidden), 1), rel=1e-12)
        assert float(summed[row]) == pytest.approx(sum(errors.values()), rel=1e-12)
    torch.testing.assert_close(patch_error_sum(predicted, target), (predicted - target).square().sum(dim=(1, 2)))


def test_where_everything_counts_error_and_gradient_are_the_same_to_the_bit(patches):
    predicted, target, is_hidden = patches
    errors, gradients = [], []
    for counts in (None, torch.ones(BATCH, SIZE, dtype=torch.bool)):
        leaf = predicted.clone().requires_grad_()
        errors.append(masked_patch_error(leaf, target, is_hidden, counts))
        errors[-1].sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*errors)
    assert torch.equal(*gradients)


def test_what_does_not_count_gets_no_gradient(patches, counts):
    predicted, target, is_hidden = patches
    for error in (
        lambda x: masked_patch_error(x, target, is_hidden, counts),
        lambda x: patch_error_sum(x, target, counts),
    ):
        leaf = predicted.clone().requires_grad_()
        error(leaf).sum().backward()
        outside = ~counts[:, None].expand_as(leaf)
        assert (leaf.grad[outside] == 0).all()
        assert leaf.grad.isfinite().all()
        assert (leaf.grad != 0).any()


def test_the_mean_of_the_counted_divides_by_their_number():
    values = torch.tensor([3.0, 100.0, 5.0, 7.0])
    assert mean_of_counted(values, torch.tensor([1.0, 0.0, 1.0, 1.0])).item() == 5.0
    assert mean_of_counted(values, torch.zeros(4)).item() == 0.0
    values = torch.rand(7, generator=generator())
    assert torch.equal(mean_of_counted(values, torch.ones(7)), values.mean())


# Tokens


def test_uniform_logits_cost_the_log_of_the_vocabulary_for_each_token(tokens):
    _, labels = tokens
    for constant in (0.0, 3.0, -50.0):
        total, count = token_cross_entropy(torch.full((BATCH, TOKENS, VOCAB), constant, dtype=torch.float64), labels)
        assert torch.equal(count, (labels != -100).sum(dim=1).double())
        torch.testing.assert_close(total, count * math.log(VOCAB))


def test_one_favoured_token_has_its_closed_form():
    labels = torch.tensor([[2, 2, -100]])
    logits = torch.zeros(1, 3, VOCAB, dtype=torch.float64)
    logits[..., 2] = 1.5
    total, count = token_cross_entropy(logits, labels)
    torch.testing.assert_close(total, torch.tensor([2 * math.log1p((VOCAB - 1) * math.exp(-1.5))], dtype=torch.float64))
    assert count.tolist() == [2.0]


def test_token_cross_entropy_equals_the_equation_written_out(tokens):
    logits, labels = tokens
    total, count = token_cross_entropy(logits, labels)
    for row in range(BATCH):
        expected, number = 0.0, 0
        for token in range(TOKENS):
            label = int(labels[row, token])
            if label == -100:
                continue
            scores = [math.exp(float(value)) for value in logits[row, token]]
            expected -= math.log(scores[label] / sum(scores))
            number += 1
        assert float(total[row]) == pytest.approx(expected, rel=1e-12)
        assert float(count[row]) == number


def test_sums_and_counts_of_parts_give_the_mean_over_all_tokens(tokens):
    logits, labels = tokens
    total, count = token_cross_entropy(logits, labels)
    everything = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())  # ignores -100
    torch.testing.assert_close(total.sum() / count.sum(), everything)


def test_a_sample_without_masked_tokens_costs_and_counts_nothing(tokens):
    logits, labels = tokens
    labels[2] = -100
    logits.requires_grad_()
    total, count = token_cross_entropy(logits, labels)
    assert (total[2], count[2]) == (0, 0)
    total.sum().backward()
    assert torch.equal(logits.grad[2], torch.zeros(TOKENS, VOCAB, dtype=torch.float64))
    assert torch.isfinite(logits.grad).all()


def test_tokens_that_do_not_count_may_predict_anything(tokens):
    logits, labels = tokens
    before = token_cross_entropy(logits, labels)
    logits[labels == -100] *= -7.0
    after = token_cross_entropy(logits, labels)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_the_cost_of_a_report_does_not_depend_on_its_batch(tokens):
    logits, labels = tokens
    order = torch.randperm(BATCH, generator=generator())
    rows, moved = token_cross_entropy(logits, labels), token_cross_entropy(logits[order], labels[order])
    for before, after in zip(rows, moved, strict=True):
        torch.testing.assert_close(after, before[order])


def test_token_cross_entropy_has_the_right_gradient(tokens):
    logits, labels = tokens
    assert torch.autograd.gradcheck(lambda x: token_cross_entropy(x, labels)[0], (logits.requires_grad_(),))


# Targets


@settings(deadline=None)
@given(st.floats(0.1, 1e3), st.floats(-1e3, 1e3))
def test_normalised_patches_have_mean_zero_and_variance_one_whatever_gain_and_offset(gain, offset):
    patches = torch.randn(BATCH, PATCHES, 50, generator=generator(), dtype=torch.float64)
    normalised = normalise_patches(gain * patches + offset, eps=0.0)
    torch.testing.assert_close(normalised, normalise_patches(patches, eps=0.0), rtol=1e-6, atol=1e-6)
    zeros = torch.zeros(BATCH, PATCHES, dtype=torch.float64)
    torch.testing.assert_close(normalised.mean(dim=-1), zeros, rtol=0, atol=1e-9)
    torch.testing.assert_close(normalised.square().sum(dim=-1) / 49, zeros + 1)  # unbiased


def test_normalised_patches_equal_the_equation_written_out():
    patch = [3.0, 1.0, -2.0, 6.0]
    mean = sum(patch) / 4
    variance = sum((sample - mean) ** 2 for sample in patch) / 3
    expected = [(sample - mean) / math.sqrt(variance + 1e-6) for sample in patch]
    found = normalise_patches(torch.tensor([[patch]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[expected]], dtype=torch.float64))


def test_a_flat_patch_becomes_zero_and_not_nan():
    patches = torch.full((1, 2, SIZE), 4.0, dtype=torch.float64, requires_grad=True)
    normalised = normalise_patches(patches)
    assert torch.equal(normalised, torch.zeros_like(normalised))
    normalised.square().sum().backward()
    assert torch.isfinite(patches.grad).all()


def test_normalise_patches_has_the_right_gradient(patches):
    assert torch.autograd.gradcheck(normalise_patches, (patches[0].requires_grad_(),))
