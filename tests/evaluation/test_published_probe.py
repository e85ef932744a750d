"""Published probes: the steps of torch, and the epochs that they report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hf_ecgtext.evaluation.statistics.metrics import auroc, macro
from hf_ecgtext.evaluation.statistics.published_probe import (
    CMELT,
    DERI,
    DERI_PAPER,
    MERL,
    RECIPES,
    SELECTIONS,
    LinearAdam,
    macro_auroc,
    train_published_probe,
    with_ones,
)


def sample(rng, num_records, dim, num_classes, signal=1.0):
    """Features, and targets that they partly explain; every class has a positive and a negative record."""
    features = rng.normal(size=(num_records, dim)).astype(np.float32)
    z = signal * features[:, :num_classes] + rng.normal(size=(num_records, num_classes))
    targets = (z > 0.5).astype(np.int8)
    targets[0], targets[1] = 0, 1
    return features, targets


def torch_schedulers(name, optimizer, steps_per_epoch, num_epochs):
    """Schedulers called after each step, and after each epoch."""
    schedulers = torch.optim.lr_scheduler
    if name == "merl":
        scheduler = schedulers.MultiStepLR(optimizer, milestones=[40], gamma=0.1)
        return [scheduler], [scheduler]
    if name == "deri":
        return [schedulers.MultiStepLR(optimizer, milestones=[50], gamma=0.1)], []
    if name == "deri_paper":
        warmup, total = 5 * steps_per_epoch, num_epochs * steps_per_epoch

        def factor(step):
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 + 0.5 * np.cos(np.pi * (step - warmup) / (total - warmup))

        return [schedulers.LambdaLR(optimizer, factor)], []
    return [], []


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_every_step_is_that_of_torch(recipe):
    features, targets = sample(np.random.default_rng(0), 43, 7, 3)
    x, y = torch.tensor(features, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
    inputs = with_ones(features.astype(np.float64))
    recipe = replace(recipe, batch_size=8, num_epochs=12)
    ours = LinearAdam(7, 3, recipe, np.random.default_rng(1), np.float64)
    layer = nn.Linear(7, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(ours.weights[:, :-1]))
        layer.bias.copy_(torch.tensor(ours.weights[:, -1]))
    kind = torch.optim.AdamW if recipe.name == "deri_paper" else torch.optim.Adam
    optimizer = kind(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    after_step, after_epoch = torch_schedulers(recipe.name, optimizer, 6, recipe.num_epochs)
    step = 0
    for _ in range(recipe.num_epochs):
        for start in range(0, 43, 8):
            batch = slice(start, start + 8)
            ours.step(inputs[batch], targets[batch].astype(np.float64), recipe.rate(step, 6))
            step += 1
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(layer(x[batch]), y[batch]).backward()
            optimizer.step()
            for scheduler in after_step:
                scheduler.step()
            theirs = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().numpy()
            np.testing.assert_allclose(ours.weights, theirs, rtol=1e-10, atol=1e-12)
        for scheduler in after_epoch:
            scheduler.step()


def test_float32_stays_close_to_float64():
    features, targets = sample(np.random.default_rng(0), 160, 20, 4)
    layers = [LinearAdam(20, 4, MERL, np.random.default_rng(1), dtype) for dtype in (np.float32, np.float64)]
    for step in range(300):
        batch = slice(step % 10 * 16, step % 10 * 16 + 16)
        for layer in layers:
            dtype = layer.weights.dtype
            layer.step(with_ones(features.astype(dtype))[batch], targets[batch].astype(dtype), 1e-3)
    assert layers[0].weights.dtype == np.float32
    np.testing.assert_allclose(layers[0].weights, layers[1].weights, atol=1e-4)


def test_the_first_weights_are_drawn_as_torch_does():
    torch.manual_seed(0)
    theirs = nn.Linear(64, 500)
    ours = LinearAdam(64, 500, MERL, np.random.default_rng(0)).weights
    for drawn in (ours[:, :-1], ours[:, -1], theirs.weight.detach().numpy(), theirs.bias.detach().numpy()):
        assert 0.98 / 8 < np.abs(drawn).max() <= 1 / 8
        np.testing.assert_allclose(drawn.std(), 1 / 8 / np.sqrt(3), rtol=0.1)


def test_recipes_have_the_published_rates():
    assert [MERL.rate(step, 1068) for step in (0, 39, 40, 100_000)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    # With one step per epoch the scheduler is called twice per step.
    assert [MERL.rate(step, 1) for step in (19, 20)] == pytest.approx([1e-3, 1e-4])
    assert [DERI.rate(step, 1) for step in (49, 50)] == pytest.approx([1e-2, 1e-3])
    assert [DERI_PAPER.rate(step, 10) for step in (0, 49, 50)] == pytest.approx([0.01 / 50, 0.01, 0.01])
    assert DERI_PAPER.rate(50 + 475, 10) == pytest.approx(0.005)
    assert 0 < DERI_PAPER.rate(999, 10) < 1e-7
    assert {CMELT.rate(step, 7) for step in (0, 50, 1399)} == {1e-3}
    assert {name: (recipe.batch_size, recipe.num_epochs) for name, recipe in RECIPES.items()} == {
        "merl": (16, 100),
        "deri": (16, 100),
        "deri_paper": (16, 100),
        "cmelt": (128, 200),
    }


def quick(recipe, num_epochs):
    return replace(recipe, num_epochs=num_epochs)


@pytest.mark.parametrize("name", RECIPES)
def test_the_published_number_is_never_below_the_one_chosen_on_validation(name):
    strictly_above = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        signal = rng.uniform(0, 1)
        train, validation, test = (sample(rng, size, 8, 3, signal) for size in (40, 30, 30))
        chosen = train_published_probe(quick(RECIPES[name], 10), *train, validation, test, seed)
        assert tuple(chosen) == SELECTIONS
        values = {selection: macro(auroc(epoch.test_scores, test[1])) for selection, epoch in chosen.items()}
        assert values["best test epoch"] >= values["best validation epoch"]
        assert values["best test epoch"] >= values["last epoch"]
        strictly_above += values["best test epoch"] > values["best validation epoch"]
    assert strictly_above > 5  # so the test can tell them apart


def test_chosen_epochs_are_the_best_of_all_epochs():
    rng = np.random.default_rng(3)
    train, validation, test = (sample(rng, size, 8, 3, 0.5) for size in (300, 60, 60))
    # The rate is constant, so that a shorter training is the beginning of a longer one.
    lasts = [train_published_probe(quick(CMELT, num), *train, validation, test, 5)["last epoch"] for num in range(1, 9)]
    chosen = train_published_probe(quick(CMELT, 8), *train, validation, test, 5)
    for selection, split, name in (
        ("best test epoch", test, "test_scores"),
        ("best validation epoch", validation, "validation_scores"),
    ):
        values = [macro(auroc(getattr(epoch, name), split[1])) for epoch in lasts]
        best = int(np.argmax(values))
        assert chosen[selection].epoch == best + 1
        np.testing.assert_array_equal(chosen[selection].test_scores, lasts[best].test_scores)
        np.testing.assert_array_equal(chosen[selection].validation_scores, lasts[best].validation_scores)
    assert chosen["last epoch"].epoch == 8


def test_the_seed_decides_everything():
    rng = np.random.default_rng(3)
    train, validation, test = (sample(rng, size, 8, 3) for size in (40, 30, 30))
    first, again, other = (
        train_published_probe(quick(MERL, 3), *train, validation, test, seed)["last epoch"].test_scores
        for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("decimals", [None, 1])
def test_the_fast_auroc_is_the_metric(decimals):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 6)).astype(np.float32)
    scores[:, 2] = 0.25
    if decimals is not None:
        scores = scores.round(decimals)
    targets = (rng.random((200, 6)) < 0.2).astype(np.int8)
    targets[:, 4] = 0
    assert macro_auroc(scores, targets) == pytest.approx(float(macro(auroc(scores, targets))), abs=1e-15)


def test_a_split_without_anything_to_choose_by_is_an_error():
    rng = np.random.default_rng(3)
    train, validation, test = (sample(rng, size, 4, 2) for size in (40, 30, 30))
    nothing = (test[0], np.zeros_like(test[1]))
    with pytest.raises(ValueError, match="in the test split"):
        train_published_probe(MERL, *train, validation, nothing, 0)
    with pytest.raises(ValueError, match="in the validation split"):
        train_published_probe(MERL, *train, nothing, test, 0)


def test_features_that_are_not_finite_are_named():
    rng = np.random.default_rng(3)
    train, validation, test = (sample(rng, size, 4, 2) for size in (40, 30, 30))
    test[0][3, 1] = np.nan
    with pytest.raises(ValueError, match="Feature 1 of row 3 of the test split is nan"):
        train_published_probe(MERL, *train, validation, test, 0)
