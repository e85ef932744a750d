"""ETP's learned temperature: its gradient, its bound, and its way back from beyond it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

BOUND = math.log(100.0)
TINY_VIT = {
    "model_type": "ecg_vit1d", "patch_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "head_dim": 16, "intermediate_size": 64,
}  # fmt: skip


def build(**config):
    config = {"learnable_temperature": True, "ecg_config": TINY_VIT, **config}
    settings = {f"config.{name}": value for name, value in config.items()}
    # Of signals in [0, 1] an untrained ViT sees little beside its position embedding.
    return get_recipe("etp", "debug").override({**settings, "ecg.scaling": "zscore_lead"}).build()


def with_scale(model, log_scale: float):
    with torch.no_grad():
        model.log_logit_scale.fill_(log_scale)
    return model


def trainer_of(model, processor, dataset, folder, **settings) -> EcgTextTrainer:
    options = {
        "per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "logging_steps": 1,
        "learning_rate_multipliers": {"log_logit_scale": 100.0}, "lr_scheduler_type": "constant", "disable_tqdm": True,
        "weight_decay": 0.0, "save_strategy": "no", "use_cpu": True, **settings,
    }  # fmt: skip
    return EcgTextTrainer(model, EcgTextTrainingArguments(str(folder), **options), processor, dataset)


@pytest.fixture
def mixed_up() -> dict[str, torch.Tensor]:
    """Rows in which every report is that of another ECG: the loss wants a smaller scale."""
    ecg = torch.randn(6, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"ecg": ecg, "text": ecg.roll(1, dims=0)}


@pytest.fixture
def in_order(mixed_up) -> dict[str, torch.Tensor]:
    """Rows in which it wants a larger one."""
    noise = torch.randn(6, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"ecg": mixed_up["ecg"], "text": mixed_up["ecg"] + noise}


def gradient(model, rows) -> float:
    return torch.autograd.grad(model.loss_terms(rows)["contrastive"], model.log_logit_scale)[0].item()


def test_the_temperature_starts_where_the_setting_says_and_has_the_gradient_of_the_loss(mixed_up, in_order):
    model = build(temperature=0.2)[0].double()
    assert model.logit_scale.item() == pytest.approx(5.0, rel=1e-6)
    for rows in (mixed_up, in_order):
        found, start = gradient(model, rows), model.log_logit_scale.item()
        higher, lower = (
            with_scale(model, start + shift).loss_terms(rows)["contrastive"].item() for shift in (1e-5, -1e-5)
        )
        with_scale(model, start)
        assert found == pytest.approx((higher - lower) / 2e-5, rel=1e-5)
        assert found != 0


@pytest.mark.parametrize("log_scale", [BOUND + 0.01, 6.0, 20.0])
def test_beyond_the_bound_scores_stand_still_and_the_temperature_does_not(log_scale, mixed_up, in_order):
    model = build()[0].double()
    at_bound = with_scale(model, BOUND)
    terms = [at_bound.loss_terms(rows)["contrastive"].item() for rows in (mixed_up, in_order)]
    back, further = gradient(at_bound, mixed_up), gradient(at_bound, in_order)
    assert back > 0 > further, "at the bound itself both directions are open"
    beyond = with_scale(model, log_scale)
    assert beyond.logit_scale.item() == pytest.approx(100.0, rel=1e-9)
    assert [beyond.loss_terms(rows)["contrastive"].item() for rows in (mixed_up, in_order)] == pytest.approx(terms)
    assert gradient(beyond, mixed_up) == pytest.approx(back), "the way back is open"
    assert gradient(beyond, in_order) == 0.0


def test_the_logits_and_the_loss_have_one_scale(mixed_up):
    model = with_scale(build()[0].double(), 7.0)
    unit = {name: F.normalize(row, dim=-1) for name, row in mixed_up.items()}
    logits = model.logit_scale * unit["ecg"] @ unit["text"].T
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(model.loss_terms(mixed_up)["contrastive"], expected)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_checkpoint_beyond_the_bound_trains_back(chunk_size, synthetic_dataset, tmp_path):
    model, processor = build()
    with_scale(model, 5.0).save_pretrained(tmp_path / "old")
    loaded = AutoModel.from_pretrained(tmp_path / "old")
    assert loaded.log_logit_scale.item() == 5.0, "loading changes no weight"
    # An untrained model at this scale is sure of what is wrong: the loss wants a smaller one.
    trainer_of(loaded, processor, synthetic_dataset, tmp_path, max_steps=8, grad_cache_chunk_size=chunk_size).train()
    assert loaded.log_logit_scale.item() < BOUND
    assert loaded.log_logit_scale.grad is None or loaded.log_logit_scale.grad.isfinite()


@pytest.mark.slow
def test_a_run_across_the_bound_that_is_resumed_equals_one_that_never_stopped(synthetic_dataset, tmp_path):
    weights, scales = [], []
    for folder, stops in (("whole", (6,)), ("resumed", (3, 6))):
        for max_steps in stops:
            model, processor = build()
            trainer = trainer_of(
                with_scale(model, BOUND + 0.25), processor, synthetic_dataset, tmp_path / folder,
                max_steps=max_steps, save_strategy="steps", save_steps=3,
            )  # fmt: skip
            trainer.train(resume_from_checkpoint=max_steps != stops[0])
            scales.append(model.log_logit_scale.item())
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
    assert scales[1] != scales[0]
    assert scales[0] < BOUND < BOUND + 0.25
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name


def test_the_temperature_falls_while_training_on_pairs_that_fit(synthetic_dataset, tmp_path):
    model, processor = build(temperature=1.0)
    trainer_of(model, processor, synthetic_dataset, tmp_path, max_steps=30).train()
    assert 1.0 < model.logit_scale.item() <= 100.0
