"""ETP's one term: in closed form, and against the paper's equations 3 to 5 written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training.collator import EcgTextCollator

N, TAU = 5, 0.07
FACTOR = {"mean_directions": 1.0, "sum_directions": 2.0}


def build(**config):
    settings = {f"config.{name}": value for name, value in config.items()}
    return get_recipe("etp", "debug").override(settings).build()[0].double()


def paper_loss(ecg: np.ndarray, text: np.ndarray, temperature: float) -> tuple[float, float]:
    """Both directions of eq. 3 and 4, one query after the other."""
    ecg, text = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (ecg, text))
    directions = []
    for queries, keys in ((ecg, text), (text, ecg)):
        total = 0.0
        for i, query in enumerate(queries):
            scores = [math.exp(float(query @ key) / temperature) for key in keys]
            total -= math.log(scores[i] / sum(scores))
        directions.append(total / len(queries))
    return directions[0], directions[1]


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ecg, text = torch.randn(2, N, 32, generator=generator, dtype=torch.float64)
    return {"ecg": ecg, "text": text}


@pytest.mark.parametrize("reduction", FACTOR)
@pytest.mark.parametrize("learnable", [False, True])
def test_pairs_that_are_orthogonal_to_all_others_have_the_closed_form(reduction, learnable):
    model = build(loss_reduction=reduction, learnable_temperature=learnable)
    unit = 3.0 * torch.eye(N, 32, dtype=torch.float64)
    expected = FACTOR[reduction] * math.log1p((N - 1) * math.exp(-1 / TAU))
    assert model.loss_terms({"ecg": unit, "text": 0.5 * unit})["contrastive"].item() == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("reduction", FACTOR)
@pytest.mark.parametrize("learnable", [False, True])
def test_records_that_are_all_equal_cost_the_logarithm_of_their_number(reduction, learnable):
    model = build(loss_reduction=reduction, learnable_temperature=learnable)
    same = torch.ones(N, 32, dtype=torch.float64)
    expected = FACTOR[reduction] * math.log(N)
    assert model.loss_terms({"ecg": same, "text": same})["contrastive"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_term_is_the_mean_of_the_paper_s_two_equations_or_their_sum(rows, temperature):
    there, back = paper_loss(rows["ecg"].numpy(), rows["text"].numpy(), temperature)
    assert there != pytest.approx(back, rel=1e-3), "the directions differ"
    for reduction, expected in (("mean_directions", (there + back) / 2), ("sum_directions", there + back)):
        terms = build(temperature=temperature, loss_reduction=reduction).loss_terms(rows)
        assert list(terms) == ["contrastive"]
        assert terms["contrastive"].item() == pytest.approx(expected, rel=1e-12)


def test_the_model_s_loss_is_that_of_its_own_embeddings(synthetic_dataset):
    recipe = get_recipe("etp", "debug")
    model, processor = recipe.build()
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(N)))
    batch["ecg_values"] = batch["ecg_values"].double()
    with torch.no_grad():
        output = model.double().eval()(**batch)
    expected = np.mean(paper_loss(output.ecg_embeds.numpy(), output.text_embeds.numpy(), TAU))
    assert output.loss.item() == pytest.approx(expected, rel=1e-9)
    assert set(output.loss_terms) == {"contrastive"}


def test_the_length_of_an_embedding_does_not_matter(rows):
    model = build()
    scaled = {"ecg": 7.0 * rows["ecg"], "text": 0.1 * rows["text"]}
    torch.testing.assert_close(model.loss_terms(scaled), model.loss_terms(rows), rtol=1e-12, atol=0)
