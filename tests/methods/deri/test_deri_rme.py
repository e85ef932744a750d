"""Random masking enhancement: what two views of an ECG hide."""

from __future__ import annotations

import pytest
import torch
from deri_models import random_inputs, silence_dropout, tiny_deri

TOKENS, KEPT = 21, 18  # int(21 * 0.9)


def view_inputs(model, tokens, noise) -> list[torch.Tensor]:
    """What the two heads read."""
    seen: list[torch.Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for head in model.rme_heads]
    model.masked_views(tokens, noise)
    for hook in hooks:
        hook.remove()
    return seen


def numbered_tokens(batch: int) -> torch.Tensor:
    """Every entry of a token is its place."""
    return torch.arange(TOKENS, dtype=torch.float32)[None, :, None].expand(batch, TOKENS, 32).clone()


def places(view: torch.Tensor) -> torch.Tensor:
    assert (view == view[..., :1]).all()
    return view[..., 0].long()


def test_each_view_keeps_an_exact_count_in_order_and_drops_uniformly():
    model = tiny_deri().train()
    torch.manual_seed(0)
    noise = model.draw_noise(3000, 0)["rme_noise"]
    assert noise.shape == (3000, 2, TOKENS)
    hidden_rates = []
    for view in view_inputs(model, numbered_tokens(3000), noise):
        kept = places(view)
        assert kept.shape == (3000, KEPT)
        assert (kept.diff(dim=1) > 0).all(), "no token twice, all in order"
        hidden_rates.append(1 - torch.zeros(3000, TOKENS).scatter(1, kept, 1.0).mean(dim=0))
    torch.testing.assert_close(torch.stack(hidden_rates), torch.full((2, TOKENS), 3 / TOKENS), atol=0.025, rtol=0)


def test_the_first_view_keeps_the_smallest_noise_and_the_second_the_largest():
    model = tiny_deri(keep_order=False)
    noise = torch.rand(4, 2, TOKENS, generator=torch.Generator().manual_seed(0))
    first, second = (places(view) for view in view_inputs(model, numbered_tokens(4), noise))
    for i in range(4):
        order = sorted(range(TOKENS), key=lambda place, i=i: noise[i, 0, place])
        assert first[i].tolist() == order[:KEPT]
        order = sorted(range(TOKENS), key=lambda place, i=i: noise[i, 1, place])
        assert second[i].tolist() == order[-KEPT:]
    in_order = [places(view) for view in view_inputs(tiny_deri(), numbered_tokens(4), noise)]
    for shuffled, ordered in zip((first, second), in_order, strict=True):
        assert not torch.equal(shuffled, ordered)
        assert torch.equal(shuffled.sort(dim=1).values, ordered)


@pytest.mark.parametrize("settings", [{}, {"keep_order": False}, {"mask_mode": "bernoulli_zero"}])
def test_a_hidden_token_cannot_reach_its_view_and_a_visible_one_does(settings):
    model = tiny_deri(**settings).double().eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, TOKENS, 32, generator=generator, dtype=torch.float64)
    noise = 0.5 + 0.4 * torch.rand(1, 2, TOKENS, generator=generator, dtype=torch.float64)
    noise[0, 0, [2, 5, 11]] = 0.99  # dropped from the first view, which keeps the smallest
    noise[0, 1, [4, 7, 9]] = 0.01  # and from the second, which keeps the largest
    hidden = [{2, 5, 11}, {4, 7, 9}]
    if settings.get("mask_mode") == "bernoulli_zero":
        noise[0, 0, [2, 5, 11]] = 0.01
    before = model.masked_views(tokens, noise)
    for place in range(TOKENS):
        changed = tokens.clone()
        changed[0, place] += 1.0
        after = model.masked_views(changed, noise)
        for view in range(2):
            assert torch.equal(before[view], after[view]) is (place in hidden[view])


def test_bernoulli_zeros_each_token_independently_and_keeps_its_place():
    model = tiny_deri(mask_mode="bernoulli_zero", rme_mask_ratio=0.3).train()
    torch.manual_seed(0)
    noise = model.draw_noise(2000, 0)["rme_noise"]
    for view in view_inputs(model, numbered_tokens(2000) + 1, noise):
        assert view.shape == (2000, TOKENS, 32)
        is_zero = (view == 0).all(dim=-1)
        assert torch.equal(view[~is_zero], (numbered_tokens(2000) + 1)[~is_zero])
        count = is_zero.sum(dim=1).double()
        assert float(count.mean()) == pytest.approx(0.3 * TOKENS, abs=0.2)
        assert float(count.var()) == pytest.approx(TOKENS * 0.3 * 0.7, rel=0.15), "binomial, not an exact count"


def test_masks_differ_between_views_records_and_steps_and_come_back_with_the_seed():
    model = tiny_deri().train()
    torch.manual_seed(5)
    first, second = (model.draw_noise(4, 0)["rme_noise"] for _ in range(2))
    assert len(torch.cat([first.flatten(0, 1), second.flatten(0, 1)]).unique(dim=0)) == 16
    torch.manual_seed(5)
    assert torch.equal(model.draw_noise(4, 0)["rme_noise"], first)
    silence_dropout(model)
    inputs = random_inputs()
    del inputs["rme_noise"]
    losses = []
    for seed in (7, 8, 7):
        torch.manual_seed(seed)
        losses.append(float(model(**inputs).loss_terms["rme"]))
    assert losses[0] == losses[2] != losses[1]


def test_evaluation_always_hides_the_same_tokens():
    model, inputs = tiny_deri().eval(), random_inputs()
    del inputs["rme_noise"]
    with torch.no_grad():
        assert torch.equal(model(**inputs).loss, model(**inputs).loss)
        noise = model.draw_noise(5, 0)
        assert torch.equal(model(**inputs).loss, model(**inputs, **noise).loss)
    assert not torch.equal(noise["rme_noise"][:, 0], noise["rme_noise"][:, 1])


def test_views_read_tokens_from_before_their_attention():
    model, inputs = tiny_deri().eval(), random_inputs()
    with torch.no_grad():
        before = model(**inputs, return_rows=True).rows
        model.token_attention.separator += 1.0
        after = model(**inputs, return_rows=True).rows
    assert torch.equal(before["first_view"], after["first_view"])
    assert torch.equal(before["pooled_ecg"], after["pooled_ecg"])
    assert not torch.allclose(before["aligned_ecg"], after["aligned_ecg"])
    assert not torch.allclose(before["first_view"], before["second_view"])
