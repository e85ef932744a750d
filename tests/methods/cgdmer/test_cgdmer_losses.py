"""CG-DMER's terms, derived again from the paper's equations, in float64 and slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.base import TextInputs
from hf_ecgtext.methods.cgdmer.modeling_cgdmer import mean_of_means
from hf_ecgtext.training.collator import EcgTextCollator

BATCH, DIM = 5, 32


def build(**overrides):
    return (
        get_recipe("cgdmer", "debug").override({f"config.{name}": value for name, value in overrides.items()}).build()
    )


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("ecg", "text", "ecg_specific", "text_specific", "ecg_pooled", "text_pooled")
    random = {name: torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64) for name in names}
    random["ecg_error"] = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    random["ecg_count"] = torch.ones(BATCH, dtype=torch.float64)
    random["text_nll"] = 9 * torch.rand(BATCH, generator=generator, dtype=torch.float64)
    random["text_count"] = torch.tensor([1.0, 4.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    return random


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return first @ second / math.sqrt((first @ first) * (second @ second))


def slow_info_nce(first: np.ndarray, second: np.ndarray, temperature: float, exclude_positive: bool) -> float:
    """Equations 7 to 9, one pair as positive per row, mean of both directions."""
    total = 0.0
    for queries, keys in ((first, second), (second, first)):
        for i in range(len(queries)):
            scores = [math.exp(cosine(queries[i], key) / temperature) for key in keys]
            rivals = [score for k, score in enumerate(scores) if not (exclude_positive and k == i)]
            total -= math.log(scores[i] / sum(rivals))
    return total / (2 * len(first))


@pytest.mark.parametrize("features", ["shared", "encoder"])
@pytest.mark.parametrize("exclude_positive", [False, True])
def test_contrastive_is_equations_7_to_9(rows, features, exclude_positive):
    model, _ = build(contrastive_features=features, exclude_positive=exclude_positive, temperature=0.2)
    names = ("ecg", "text") if features == "shared" else ("ecg_pooled", "text_pooled")
    expected = slow_info_nce(*(rows[name].numpy() for name in names), 0.2, exclude_positive)
    assert model.loss_terms(rows)["contrastive"].item() == pytest.approx(expected, rel=1e-12)


def test_siglip_in_the_papers_form_is_equation_6_without_normalisation(rows):
    model, _ = build(siglip_form="paper")
    ecg, text = rows["ecg"].numpy(), rows["text"].numpy()
    total = 0.0
    for i in range(BATCH):
        for j in range(BATCH):
            sign = 1.0 if i == j else -1.0
            total -= math.log(1.0 / (1.0 + math.exp(-sign * (ecg[i] @ text[j]))))
    assert model.loss_terms(rows)["siglip"].item() == pytest.approx(total / BATCH, rel=1e-9)
    assert not any("siglip" in name for name, _ in model.named_parameters())


def test_learnable_siglip_compares_cosines_with_scale_10_and_bias_minus_10(rows):
    model = build()[0].double()
    assert (model.siglip_log_scale.exp().item(), model.siglip_bias.item()) == (pytest.approx(10.0), -10.0)
    ecg, text = rows["ecg"].numpy(), rows["text"].numpy()
    total = 0.0
    for i in range(BATCH):
        for j in range(BATCH):
            logit = 10.0 * cosine(ecg[i], text[j]) - 10.0
            total -= math.log(1.0 / (1.0 + math.exp(-(logit if i == j else -logit))))
    assert model.loss_terms(rows)["siglip"].item() == pytest.approx(total / BATCH, rel=1e-6)
    rows["ecg"], rows["text"] = 3.0 * torch.eye(BATCH, DIM).double(), 0.1 * torch.eye(BATCH, DIM).double()
    closed_form = math.log(2.0) + (BATCH - 1) * math.log1p(math.exp(-10.0))  # orthonormal pairs, of any length
    assert model.loss_terms(rows)["siglip"].item() == pytest.approx(closed_form, rel=1e-6)


def test_scale_and_bias_of_siglip_are_trained(rows):
    model = build()[0].double()
    model.loss_terms(rows)["siglip"].backward()
    assert model.siglip_log_scale.grad.abs() > 0
    assert model.siglip_bias.grad.abs() > 0


def test_orthogonal_is_equation_5(rows):
    model, _ = build()
    own, shared = rows["ecg_specific"].numpy(), rows["ecg"].numpy()
    own_text, shared_text = rows["text_specific"].numpy(), rows["text"].numpy()
    expected = sum(cosine(own[i], shared[i]) ** 2 + cosine(own_text[i], shared_text[i]) ** 2 for i in range(BATCH))
    assert model.loss_terms(rows)["orthogonal"].item() == pytest.approx(expected / BATCH, rel=1e-12)
    parallel = {**rows, "ecg_specific": -2 * rows["ecg"], "text_specific": 3 * rows["text"]}
    assert model.loss_terms(parallel)["orthogonal"].item() == pytest.approx(2.0)
    for name in ("ecg", "text"):
        unit = rows[name] / rows[name].norm(dim=1, keepdim=True)
        other = rows[f"{name}_specific"]
        rows[f"{name}_specific"] = other - (other * unit).sum(dim=1, keepdim=True) * unit
    assert model.loss_terms(rows)["orthogonal"].item() == pytest.approx(0.0, abs=1e-12)


def test_reconstruct_text_averages_over_tokens_and_then_over_reports(rows):
    model, _ = build()
    means = [rows["text_nll"][i].item() / rows["text_count"][i].item() for i in range(BATCH)]
    assert model.loss_terms(rows)["reconstruct_text"].item() == pytest.approx(sum(means) / BATCH, rel=1e-12)


def test_a_report_without_masked_tokens_does_not_count():
    value = mean_of_means(torch.tensor([6.0, 0.0, 5.0]), torch.tensor([2.0, 0.0, 1.0]))
    assert value.item() == pytest.approx((6 / 2 + 5 / 1) / 2)
    assert mean_of_means(torch.zeros(2), torch.zeros(2)).item() == 0.0


def test_reconstruct_ecg_averages_over_records_of_which_something_was_hidden(rows):
    model = build()[0]
    errors = rows["ecg_error"].tolist()
    assert model.loss_terms(rows)["reconstruct_ecg"].item() == pytest.approx(sum(errors) / BATCH)
    rows["ecg_error"][2] = rows["ecg_count"][2] = 0.0
    assert model.loss_terms(rows)["reconstruct_ecg"].item() == pytest.approx((sum(errors) - errors[2]) / (BATCH - 1))


@pytest.mark.parametrize("patch_error", ["mean", "sum"])
@pytest.mark.parametrize("norm_patch", [True, False])
def test_the_error_of_an_ecg_is_equation_2_over_its_hidden_patches(synthetic_dataset, norm_patch, patch_error):
    model, processor = build(norm_patch=norm_patch, patch_error=patch_error)
    model.eval()
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    batch["lead_mask"][1, 4] = False
    noise = model.draw_noise(3, batch["input_ids"].shape[1])
    predictions = []
    model.ecg_decoder.register_forward_hook(lambda module, inputs, output: predictions.append(output))
    with torch.no_grad():
        text = TextInputs(batch["input_ids"], batch["attention_mask"])
        rows = model.training_rows(batch["ecg_values"], batch["lead_mask"], text, **noise)
    predicted, signal = predictions[0].double().numpy(), batch["ecg_values"].double().numpy()
    for record in range(3):
        errors = []
        for lead in range(12):
            order = np.argsort(noise["patch_noise"][record, lead].numpy())
            for place in order[5:] if batch["lead_mask"][record, lead] else []:  # 5 of 20 are visible
                target = signal[record, lead, place * 50 : (place + 1) * 50]
                if norm_patch:
                    target = (target - target.mean()) / math.sqrt(target.var(ddof=1) + 1e-6)
                squares = (predicted[record, lead * 20 + place] - target) ** 2
                errors.append(squares.mean() if patch_error == "mean" else squares.sum())
        assert len(errors) == (11 if record == 1 else 12) * 15
        assert rows["ecg_error"][record].item() == pytest.approx(np.mean(errors), rel=1e-4)
        assert rows["ecg_count"][record] == 1


def test_the_mlm_head_is_equation_3_with_the_tied_embeddings(synthetic_dataset):
    model, processor = build()
    model.eval()
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(3)))
    seen = []
    model.text_tower.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output[0])))
    with torch.no_grad():
        text = TextInputs(batch["input_ids"], batch["attention_mask"])
        rows = model.training_rows(batch["ecg_values"], batch["lead_mask"], text)
    [(masked_ids, tokens)] = seen
    weights = {name: value.double() for name, value in model.state_dict().items()}
    dense, norm = "text_decoder.vocabulary.transform.0", "text_decoder.vocabulary.transform.2"
    for record in range(3):
        nll, count = 0.0, 0
        for place in range(masked_ids.shape[1]):
            if masked_ids[record, place] != batch["input_ids"][record, place]:
                hidden = weights[f"{dense}.weight"] @ tokens[record, place].double() + weights[f"{dense}.bias"]
                hidden = 0.5 * hidden * (1.0 + torch.erf(hidden / math.sqrt(2.0)))
                hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt()
                hidden = weights[f"{norm}.weight"] * hidden + weights[f"{norm}.bias"]
                embeddings = weights["text_tower.model.embeddings.word_embeddings.weight"]
                logits = embeddings @ hidden + weights["text_decoder.vocabulary.bias"]
                nll -= (logits - logits.logsumexp(dim=0))[batch["input_ids"][record, place]].item()
                count += 1
        assert rows["text_count"][record].item() == count
        assert rows["text_nll"][record].item() == pytest.approx(nll, rel=1e-4)


def test_the_order_of_the_batch_changes_no_term(rows):
    model = build()[0].double()
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = model.loss_terms({name: value[order] for name, value in rows.items()})
    for name, term in model.loss_terms(rows).items():
        torch.testing.assert_close(shuffled[name], term)
