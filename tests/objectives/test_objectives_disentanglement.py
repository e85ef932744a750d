"""Orthogonality: 0 and 1 where algebra says so, and blind to lengths and signs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.objectives import orthogonality

BATCH, DIM = 5, 8


@pytest.fixture
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.randn(2, BATCH, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return first, second


def value(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


def test_orthogonal_vectors_cost_nothing():
    axes = torch.eye(DIM, dtype=torch.float64)
    torch.testing.assert_close(orthogonality(3.0 * axes[:BATCH], axes[1 : BATCH + 1]), value(0.0))


@pytest.mark.parametrize("factor", [1.0, -1.0, 25.0, -0.01])
def test_parallel_and_opposite_vectors_cost_one(vectors, factor):
    torch.testing.assert_close(orthogonality(vectors[0], factor * vectors[0]), value(1.0))


@settings(deadline=None)
@given(st.floats(0, 2 * math.pi), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_loss_is_the_squared_cosine_of_the_angle(angle, first_length, second_length):
    first = first_length * torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    second = second_length * torch.tensor([[math.cos(angle), 0.0, math.sin(angle)]], dtype=torch.float64)
    torch.testing.assert_close(orthogonality(first, second), value(math.cos(angle) ** 2), rtol=1e-9, atol=1e-12)


def test_orthogonality_equals_the_equation_written_out(vectors):
    first, second = vectors
    total = 0.0
    for row in range(BATCH):
        dot = sum(float(first[row, i]) * float(second[row, i]) for i in range(DIM))
        lengths = [math.sqrt(sum(float(x) ** 2 for x in vector[row])) for vector in vectors]
        total += (dot / (lengths[0] * lengths[1])) ** 2
    torch.testing.assert_close(orthogonality(first, second), value(total / BATCH))


def test_the_order_of_the_batch_and_of_the_two_does_not_matter(vectors):
    first, second = vectors
    expected = orthogonality(first, second)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonality(first[order], second[order]), expected)
    torch.testing.assert_close(orthogonality(second, first), expected)


def test_only_vectors_of_the_same_sample_are_compared(vectors):
    first, second = vectors
    alone = torch.stack([orthogonality(first[row : row + 1], second[row : row + 1]) for row in range(BATCH)])
    torch.testing.assert_close(orthogonality(first, second), alone.mean())


def test_a_zero_vector_is_orthogonal_to_everything_and_has_a_finite_gradient(vectors):
    first = torch.zeros(BATCH, DIM, dtype=torch.float64, requires_grad=True)
    loss = orthogonality(first, vectors[1])
    assert loss == 0
    loss.backward()
    assert torch.isfinite(first.grad).all()


def test_the_gradient_is_right(vectors):
    assert torch.autograd.gradcheck(orthogonality, tuple(part.requires_grad_() for part in vectors))
