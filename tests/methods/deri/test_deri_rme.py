"""Random masking enhancement: what two views of an ECG hide, and the two ways without it of the paper's Table 5."""

from __future__ import annotations

import pytest
import torch
from deri_models import random_inputs, silence_dropout, tiny_deri

TOKENS, KEPT = 21, 18  # int(21 * 0.9)


def view_inputs(model, tokens, noise) -> list[torch.Tensor]:
    """What the two heads read."""
    seen: list[torch.Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for head in model.rme_heads]
    model.augmented_views(tokens, noise)
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
    before = model.augmented_views(tokens, noise)
    for place in range(TOKENS):
        changed = tokens.clone()
        changed[0, place] += 1.0
        after = model.augmented_views(changed, noise)
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


# Table 5: latent dropout, and the variant with linear maps

LATENT_DROPOUT = {"rme_views": "latent_dropout", "rme_head": "linear"}


def test_dropout_views_are_a_linear_map_of_the_mean_token_with_some_entries_dropped():
    model = tiny_deri(**LATENT_DROPOUT, rme_dropout=0.25).double().train()
    tokens = torch.randn(3, TOKENS, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        undropped = [tokens.mean(dim=1) @ head.weight.T for head in model.rme_heads]
        draws = [torch.stack(model.augmented_views(tokens, None)) for _ in range(400)]
    views = torch.stack(draws)  # (400, 2, 3, 32)
    is_dropped = views == 0
    expected = torch.stack(undropped) / 0.75
    torch.testing.assert_close(views[~is_dropped], expected.expand_as(views)[~is_dropped])
    assert float(is_dropped.double().mean()) == pytest.approx(0.25, abs=0.01)
    assert float((is_dropped[:, 0] & is_dropped[:, 1]).double().mean()) == pytest.approx(0.25**2, abs=0.01), (
        "each view drops entries of its own"
    )
    assert len(is_dropped.flatten(0, 2).unique(dim=0)) > 2000, "and so does each record in each step"


def test_dropout_views_need_no_noise_and_are_the_same_in_every_evaluation():
    model, inputs = tiny_deri(**LATENT_DROPOUT), random_inputs()
    assert model.draw_noise(5, 0) == {}
    with pytest.raises(ValueError, match="rme_noise says which tokens the views hide, but this model's hide none"):
        model(**inputs)
    del inputs["rme_noise"]
    rows = {}
    for mode in ("eval", "train"):
        silent = tiny_deri(**LATENT_DROPOUT)
        silence_dropout(silent)
        model.train(mode == "train")
        with torch.no_grad():
            rows[mode] = [model(**inputs, return_rows=True).rows["first_view"] for _ in range(2)]
            undropped = silent.train(mode == "train")(**inputs, return_rows=True).rows["first_view"]
        assert torch.equal(rows[mode][0], undropped) is (mode == "eval")
    assert torch.equal(*rows["eval"])
    assert not torch.equal(*rows["train"])


def test_the_rate_of_dropout_is_merl_s_and_acts_nowhere_else():
    assert tiny_deri(**LATENT_DROPOUT).rme_dropout.p == 0.1
    assert tiny_deri().rme_dropout.p == 0.0
    assert tiny_deri(rme_dropout=0.5).rme_dropout.p == 0.0, "masked views have no dropout"


def test_rme_linear_masks_as_rme_does_and_averages_where_it_attends():
    attention, linear = tiny_deri(), tiny_deri(rme_head="linear")
    noise = torch.rand(4, 2, TOKENS, generator=torch.Generator().manual_seed(0))
    tokens = numbered_tokens(4)
    seen = view_inputs(linear, tokens, noise)
    assert all(torch.equal(*pair) for pair in zip(seen, view_inputs(attention, tokens, noise), strict=True))
    with torch.no_grad():
        views = linear.augmented_views(tokens, noise)
    for view, visible, head in zip(views, seen, linear.rme_heads, strict=True):
        torch.testing.assert_close(view, visible.mean(dim=1) @ head.weight.T)
    assert not torch.equal(linear.rme_heads[0].weight, linear.rme_heads[1].weight)
    shuffled = tiny_deri(rme_head="linear", keep_order=False)
    with torch.no_grad():
        for ours, theirs in zip(views, shuffled.augmented_views(tokens, noise), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        ({}, {"separator": (32,), "position_embedding": (1, KEPT + 2, 32)}),
        ({"rme_views": "latent_dropout"}, {"separator": (32,), "position_embedding": (1, TOKENS + 2, 32)}),
        ({"rme_head": "linear"}, {"weight": (32, 32)}),
        (LATENT_DROPOUT, {"weight": (32, 32)}),
    ],
)
def test_a_head_holds_what_its_kind_of_view_needs(settings, shapes):
    for head in tiny_deri(**settings).rme_heads:
        found = {name: tuple(value.shape) for name, value in head.named_parameters()}
        assert {name: shape for name, shape in found.items() if not name.startswith("attention.")} == shapes
        assert any(name.startswith("attention.") for name in found) is ("separator" in shapes)


@pytest.mark.parametrize("settings", [{"rme_head": "linear"}, LATENT_DROPOUT, {"rme_views": "latent_dropout"}])
def test_each_view_depends_on_its_own_record_alone_in_training(settings):
    model = tiny_deri(**settings).double().train()
    tokens = torch.randn(3, TOKENS, 32, dtype=torch.float64, requires_grad=True)
    noise = model.draw_noise(3, 0).get("rme_noise")
    for view in model.augmented_views(tokens, noise):
        (gradient,) = torch.autograd.grad(view[1].sum(), tokens, retain_graph=True)
        assert (gradient[1] != 0).any()
        assert (gradient[[0, 2]] == 0).all()
