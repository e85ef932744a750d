"""One logit: what a method's pair term is a loss of is what `forward` returns, in every form that the settings have."""

from __future__ import annotations

import math

import pytest
import torch

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training.collator import EcgTextCollator

ALIGNED = torch.tensor([True, True, False, True, False, True])
BATCH = len(ALIGNED)


def picked(logits: list[list[float]], exclude_positive: bool = False) -> float:
    """InfoNCE, summed over both directions: each row picks its column, each column its row."""
    total = 0.0
    for rows in (logits, list(zip(*logits, strict=True))):
        for i, row in enumerate(rows):
            rivals = [math.exp(score) for j, score in enumerate(row) if not (exclude_positive and i == j)]
            total -= row[i] - math.log(sum(rivals))
    return total / len(logits)


def answered(logits: list[list[float]], is_pair: torch.Tensor) -> float:
    """The sigmoid loss, summed over all combinations."""
    signs = [[1 if is_pair[i] and i == j else -1 for j in range(len(logits))] for i in range(len(logits))]
    return sum(
        math.log1p(math.exp(-sign * logit))
        for row, signs_of_row in zip(logits, signs, strict=True)
        for logit, sign in zip(row, signs_of_row, strict=True)
    )


EVERY_PAIR = torch.ones(BATCH, dtype=torch.bool)
FORMS = {
    "mean of directions": lambda logits: picked(logits) / 2,
    "sum of directions": picked,
    "decoupled": lambda logits: picked(logits, exclude_positive=True) / 2,
    "sigmoid by rows": lambda logits: answered(logits, EVERY_PAIR) / BATCH,
    "sigmoid by rows, negatives": lambda logits: answered(logits, ALIGNED) / BATCH,
    "sigmoid by pairs, negatives": lambda logits: answered(logits, ALIGNED) / BATCH**2,
}


def pair_term_of(recipe: str) -> dict:
    """What C-MELT's recipes for the paper and the release say about a pair's score."""
    config = get_recipe("cmelt", recipe).config
    names = ("siglip_reduction", "siglip_scale", "siglip_bias", "learnable_siglip", "normalize_features")
    return {name: getattr(config, name) for name in names} | {
        "ecg_config.pooler_order": config.ecg_config.pooler_order,
        "ecg_config.conv_norm": config.ecg_config.conv_norm,
    }


ROWS, PAIRS = "sigmoid by rows, negatives", "sigmoid by pairs, negatives"
CASES = [
    ("merl", {}, "cma", "mean of directions"),
    ("merl", {"loss_reduction": "sum_directions", "temperature": 0.2}, "cma", "sum of directions"),
    ("etp", {}, "contrastive", "mean of directions"),
    ("etp", {"loss_reduction": "sum_directions"}, "contrastive", "sum of directions"),
    ("etp", {"learnable_temperature": True}, "contrastive", "mean of directions"),
    ("deri", {"ecg_embedding": "aligned"}, "align", "mean of directions"),
    ("deri", {"ecg_embedding": "aligned", "loss_reduction": "sum_directions"}, "align", "sum of directions"),
    ("deri", {"ecg_embedding": "aligned", "normalize_tokens_at_inference": False}, "align", "mean of directions"),
    ("cmelt", {}, "ets", PAIRS),
    ("cmelt", pair_term_of("released"), "ets", PAIRS),
    ("cmelt", pair_term_of("paper"), "ets", ROWS),
    ("cmelt", {"normalize_features": True}, "ets", PAIRS),
    ("cmelt", {"siglip_scale": 0.5, "siglip_bias": -2.0}, "ets", PAIRS),
    ("cmelt", {"learnable_siglip": True, "normalize_features": True, "siglip_reduction": "mean_rows"}, "ets", ROWS),
    ("cmelt", {"learnable_siglip": True, "siglip_scale": 0.3}, "ets", PAIRS),
    ("cgdmer", {}, "contrastive", "mean of directions"),
    ("cgdmer", {"exclude_positive": True, "temperature": 0.2}, "contrastive", "decoupled"),
    ("cgdmer", {"siglip_form": "paper"}, "contrastive", "mean of directions"),
    ("cgdmer", {"contrastive_weight": 0.0}, "siglip", "sigmoid by rows"),
    ("cgdmer", {"contrastive_weight": 0.0, "siglip_form": "paper"}, "siglip", "sigmoid by rows"),
    ("cgdmer", {"contrastive_features": "encoder"}, "siglip", "sigmoid by rows"),
]


def built(method: str, settings: dict, dataset):
    """A training model without dropout, whose learned scale and bias are no longer what they started as."""
    overrides = {f"config.{name}": value for name, value in settings.items()}
    model, processor = get_recipe(method, "debug").override(overrides).build(seed=0)
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                parameter += 0.7 if "bias" in name else -0.4
    batch = EcgTextCollator(processor)(dataset.__getitems__(range(BATCH)))
    if model.uses_negatives:
        batch["is_aligned"] = ALIGNED
    return model, batch


@pytest.mark.parametrize(("method", "settings", "term", "form"), CASES)
def test_the_pair_term_is_a_loss_of_logits_per_ecg(method, settings, term, form, synthetic_dataset):
    model, batch = built(method, settings, synthetic_dataset)
    output = model(**batch)
    expected = FORMS[form](output.logits_per_ecg.double().tolist())
    assert output.loss_terms[term].item() == pytest.approx(expected, rel=1e-5)


def test_logits_have_the_gradient_of_their_scale_and_bias(synthetic_dataset):
    model, batch = built("cmelt", {"learnable_siglip": True, "normalize_features": True}, synthetic_dataset)
    model(**batch).logits_per_ecg.square().sum().backward()
    assert model.log_siglip_scale.grad.abs() > 0
    assert model.siglip_bias.grad.abs() > 0


def test_c_melt_s_logits_are_dot_products_of_raw_features_and_its_embeddings_are_normalised(synthetic_dataset):
    model, batch = built("cmelt", {}, synthetic_dataset)
    rows = model.eval()(**batch, return_rows=True).rows
    torch.testing.assert_close(model.pair_logits(rows["ecg"], rows["text"]), rows["ecg"] @ rows["text"].T)
    output = model(**batch)
    cosines = output.ecg_embeds @ output.text_embeds.T
    assert not torch.allclose(output.logits_per_ecg, cosines, rtol=0.05)


def test_deri_scores_mixed_ecgs_against_aligned_texts_by_the_temperature_of_all_its_terms(synthetic_dataset):
    """Its default; the terms compare mixed ECGs with mixed texts, and aligned ones with aligned ones."""
    model, batch = built("deri", {}, synthetic_dataset)
    output = model(**batch)
    rows = model(**batch, return_rows=True).rows
    mixed, aligned_text = (torch.nn.functional.normalize(rows[name], dim=-1) for name in ("mixed_ecg", "text"))
    torch.testing.assert_close(output.logits_per_ecg, mixed @ aligned_text.T / model.config.temperature)
