"""ArcFace: values from trigonometry."""

import itertools
import math

import pytest
import torch

from hf_ecgtext.finetuning.arcface import arc_face


def test_without_margin_it_is_cross_entropy_of_scaled_cosines():
    cosines = torch.tensor([[0.3, -0.2, 0.9], [0.1, 0.5, -0.7]], dtype=torch.float64)
    labels = torch.tensor([2, 0])
    expected = torch.nn.functional.cross_entropy(7 * cosines, labels)
    torch.testing.assert_close(arc_face(cosines, labels, scale=7.0, margin=0.0), expected)


def test_the_margin_is_added_to_the_angle_of_the_own_class():
    own, other = math.cos(0.8), math.cos(1.9)
    cosines = torch.tensor([[own, other]], dtype=torch.float64)
    gap = 5 * (math.cos(1.9) - math.cos(0.8 + 0.4))
    assert arc_face(cosines, torch.tensor([0]), 5.0, 0.4).item() == pytest.approx(math.log1p(math.exp(gap)))


def test_perfect_features_of_orthogonal_classes_have_the_loss_of_the_margin_alone():
    loss = arc_face(torch.eye(4, dtype=torch.float64), torch.arange(4), scale=3.0, margin=0.5)
    assert loss.item() == pytest.approx(math.log1p(3 * math.exp(-3 * math.cos(0.5))), abs=2e-3)  # clamped at 1 - 1e-7


def test_more_similar_is_always_better_also_beyond_half_a_turn():
    cosines = torch.linspace(-1, 1, 401, dtype=torch.float64)
    losses = [arc_face(torch.tensor([[own.item(), 0.2]]), torch.tensor([0]), 4.0, 1.0).item() for own in cosines]
    assert all(first > second for first, second in itertools.pairwise(losses))


def test_gradients_are_those_of_finite_differences_and_finite_at_the_ends():
    torch.manual_seed(0)
    cosines = (torch.rand(5, 7, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    labels = torch.tensor([0, 3, 6, 2, 2])
    assert torch.autograd.gradcheck(lambda value: arc_face(value, labels, 6.0, 0.5), (cosines,))
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    arc_face(ends, torch.tensor([0, 0]), 192.0, 1.0).backward()
    assert torch.isfinite(ends.grad).all()


def test_the_order_of_the_batch_does_not_matter():
    cosines = torch.rand(6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(
        arc_face(cosines, labels, 10.0, 0.3), arc_face(cosines.flip(0), labels.flip(0), 10.0, 0.3)
    )


@pytest.mark.parametrize(("scale", "margin"), [(0.0, 0.2), (30.0, -0.1), (30.0, 3.2)])
def test_impossible_settings_are_refused(scale, margin):
    with pytest.raises(ValueError, match="must be positive, and margin"):
        arc_face(torch.zeros(1, 2), torch.tensor([0]), scale, margin)
