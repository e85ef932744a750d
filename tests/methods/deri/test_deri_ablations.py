"""Every component can be switched off or exchanged, and what is left trains completely."""

from __future__ import annotations

import pytest
import torch
from deri_models import random_inputs, silence_dropout, tiny_deri
from huggingface_hub.errors import StrictDataclassError

from hf_ecgtext.methods import get_recipe, recipe_names
from hf_ecgtext.methods.deri import DeriConfig, DeriModel
from hf_ecgtext.training.collator import EcgTextCollator

ALL = {"align", "mixed", "decode_ecg", "decode_text", "rme"}
VIT = {
    "model_type": "ecg_vit1d", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
    "intermediate_size": 16,
}  # fmt: skip
BOTTLENECK = {"model_type": "ecg_resnet1d", "block": "bottleneck", "depths": [1, 1], "widths": [8, 8]}
NO_DECODERS = {"mixed_weight": 0.0, "decode_ecg_weight": 0.0, "decode_text_weight": 0.0}

# Settings, the terms that remain, and modules that are not built.
ABLATIONS = {
    "full": ({}, ALL, set()),
    "without L_mixed": ({"mixed_weight": 0.0}, ALL - {"mixed"}, set()),
    "without L_D^e": ({"decode_ecg_weight": 0.0}, ALL - {"decode_ecg"}, set()),
    "without L_D^t": ({"decode_text_weight": 0.0}, ALL - {"decode_text"}, set()),
    "without RME": ({"rme_weight": 0.0}, ALL - {"rme"}, {"rme_heads"}),
    "without L_align": ({"align_weight": 0.0}, ALL - {"align"}, set()),
    "without reconstruction": ({"decode_ecg_weight": 0.0, "decode_text_weight": 0.0}, {"align", "mixed", "rme"}, set()),
    "without decoders": (NO_DECODERS, {"align", "rme"}, {"ecg_to_text", "text_to_ecg"}),
    "alignment only": (NO_DECODERS | {"rme_weight": 0.0}, {"align"}, {"ecg_to_text", "text_to_ecg", "rme_heads"}),
    "no mixing": ({"mixed_weight": 0.0, "ecg_embedding": "aligned"}, ALL - {"mixed"}, set()),
    "only decode_ecg beside": (
        {"mixed_weight": 0.0, "decode_text_weight": 0.0}, {"align", "decode_ecg", "rme"}, {"ecg_to_text"},
    ),
    "only decode_text beside": (
        {"mixed_weight": 0.0, "decode_ecg_weight": 0.0, "use_shared_embedding": False},
        {"align", "decode_text", "rme"},
        {"text_to_ecg"},
    ),
    "no shared embedding": ({"use_shared_embedding": False}, ALL, set()),
    "aligned at inference": ({"ecg_embedding": "aligned"}, ALL, set()),
    "mask ratio 0.5": ({"rme_mask_ratio": 0.5}, ALL, set()),
    "no masking": ({"rme_mask_ratio": 0.0}, ALL, set()),
    "bernoulli": ({"mask_mode": "bernoulli_zero"}, ALL, set()),
    "shuffled": ({"keep_order": False}, ALL, set()),
    "RME-Linear": ({"rme_head": "linear"}, ALL, set()),
    "RME-Linear, shuffled": ({"rme_head": "linear", "keep_order": False}, ALL, set()),
    "RME-Linear, bernoulli": ({"rme_head": "linear", "mask_mode": "bernoulli_zero"}, ALL, set()),
    "latent dropout": ({"rme_views": "latent_dropout", "rme_head": "linear"}, ALL, set()),
    "latent dropout behind attention": ({"rme_views": "latent_dropout"}, ALL, set()),
    "pooled report decoded": ({"decoder_text_input": "pooled"}, ALL, set()),
    "linear projection": ({"projection_type": "linear"}, ALL, set()),
    "padding read": ({"mask_padding": False}, ALL, set()),
    "tokens not normalised": ({"normalize_tokens_at_inference": False}, ALL, set()),
    "one decoder layer": ({"num_decoder_layers": 1}, ALL, set()),
    "four decoder layers": ({"num_decoder_layers": 4}, ALL, set()),
    "stride 1": ({"token_stride": 1}, ALL, set()),
    "ViT": ({"ecg_config": VIT}, ALL, set()),
    "bottleneck ResNet": ({"ecg_config": BOTTLENECK}, ALL, set()),
    "text encoder trained": ({"freeze_text": False}, ALL, set()),
    "text encoder partly trained": ({"freeze_text": False, "num_frozen_text_layers": 1}, ALL, set()),
    "sum of directions": ({"loss_reduction": "sum_directions"}, ALL, set()),
    "temperature 0.7": ({"temperature": 0.7}, ALL, set()),
}  # fmt: skip


@pytest.fixture(scope="module")
def batch(synthetic_dataset):
    _, processor = get_recipe("deri", "debug").build()
    return EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(6)))


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_all_that_it_builds(name, batch):
    settings, terms, absent = ABLATIONS[name]
    model = tiny_deri(**settings).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    output = model(**batch)
    assert set(output.loss_terms) == terms
    output.loss.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not without
    optimizer.step()
    built = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert {"ecg_to_text", "text_to_ecg", "rme_heads"} - built == absent
    with torch.no_grad():
        model.eval()
        assert torch.isfinite(model(**batch).loss)
        assert torch.equal(model(**batch).ecg_embeds, model.get_ecg_features(batch["ecg_values"], batch["lead_mask"]))


def test_a_switched_off_term_is_the_full_loss_without_it(batch):
    full = tiny_deri().eval()
    with torch.no_grad():
        terms = full(**batch).loss_terms
        for name in ("align", "mixed", "decode_ecg", "decode_text", "rme"):
            ablated = tiny_deri(**{f"{name}_weight": 0.0}).eval()
            ablated.load_state_dict(full.state_dict(), strict=name != "rme")
            torch.testing.assert_close(ablated(**batch).loss, sum(terms.values()) - terms[name])


@pytest.mark.parametrize(
    "name",
    ["RME-Linear", "latent dropout", "latent dropout behind attention", "pooled report decoded", "linear projection"],
)
def test_an_ablation_survives_save_and_load(name, batch, tmp_path):
    model = tiny_deri(**ABLATIONS[name][0]).eval()
    model.save_pretrained(tmp_path)
    loaded = DeriModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).loss, model(**batch).loss)
        assert torch.equal(loaded.get_ecg_features(batch["ecg_values"]), model.get_ecg_features(batch["ecg_values"]))


def test_one_training_serves_the_mixed_and_the_aligned_embedding(batch):
    trained = []
    for settings in ({}, {"ecg_embedding": "aligned", "probe_feature": "aligned"}):
        model = tiny_deri(**settings).train()
        torch.manual_seed(0)
        model(**batch).loss.backward()
        trained.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    assert all(torch.equal(gradient, trained[1][name]) for name, gradient in trained[0].items())


def test_without_decoders_both_embeddings_are_the_aligned_one(batch):
    with torch.no_grad():
        plain = tiny_deri(**NO_DECODERS).eval()
        aligned = tiny_deri(**NO_DECODERS, ecg_embedding="aligned").eval()
        ecg = batch["ecg_values"]
        assert torch.equal(plain.get_ecg_features(ecg), aligned.get_ecg_features(ecg))
        assert torch.equal(plain.get_probe_features(ecg), aligned.get_probe_features(ecg))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"align_weight": 0.0, "mixed_weight": 0.0}, "nothing brings ECGs and texts into one space"),
        ({"rme_weight": -1.0}, "rme_weight must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"rme_mask_ratio": 1.0}, "rme_mask_ratio must lie"),
        ({"rme_mask_ratio": 0.999}, "leave at least one of 105 tokens"),
        ({"mask_mode": "bernoulli_zero", "keep_order": False}, "keep_order=False belongs to 'drop'"),
        ({"num_rme_heads": 3}, "projection_dim 256 is not a multiple of num_rme_heads"),
        ({"token_stride": 0}, "token_stride must be positive"),
        ({"decoder_dropout": 1.0}, "decoder_dropout must lie"),
        ({"rme_dropout": 1.0}, "rme_dropout must lie"),
        ({"rme_views": "dropout"}, "rme_views"),
        ({"rme_head": "mean"}, "rme_head"),
        ({"decoder_text_input": "cls"}, "decoder_text_input"),
        ({"projection_type": "gated"}, "projection_type"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        DeriConfig(**settings)


def test_a_shared_embedding_needs_the_decoder_that_owns_it():
    with pytest.raises(ValueError, match="set use_shared_embedding=False"):
        tiny_deri(mixed_weight=0.0, decode_ecg_weight=0.0)


def test_an_input_too_short_for_its_mask_is_refused_when_the_model_is_built():
    recipe = get_recipe("deri", "debug").override({"ecg.duration_s": 0.4, "config.token_stride": 3})
    with pytest.raises(ValueError, match="leave at least one of 1 tokens"):
        recipe.build()


def test_checkpointing_changes_memory_and_no_gradient():
    results = []
    for checkpointing in (False, True):
        model = tiny_deri(ecg_config=VIT).train()
        silence_dropout(model)
        if checkpointing:
            # renamed in transformers 5.2x; the old name warns there
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
            assert all(block.gradient_checkpointing for block in model.ecg_to_text.blocks)
        inputs = random_inputs()
        inputs["rme_noise"] = inputs["rme_noise"][..., : model.config.num_ecg_tokens]
        model(**inputs).loss.backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient)


@pytest.mark.slow
def test_the_training_path_is_one_graph_without_breaks():
    model, inputs = tiny_deri().train(), random_inputs()
    compiled = torch.compile(lambda **kwargs: model(**kwargs, return_rows=True).rows, backend="eager", fullgraph=True)
    rows = compiled(**inputs)
    assert rows["ecg"].shape == (5, 32)


# Recipes


@pytest.mark.parametrize("name", recipe_names("deri"))
def test_reports_fit_the_decoder_in_every_recipe(name):
    recipe = get_recipe("deri", name)
    limit = recipe.text.get("max_length", 128)  # the debug text encoder reads 128 tokens
    assert limit <= recipe.config.max_text_tokens


def test_the_released_recipe_has_the_release_s_settings_and_the_paper_recipe_ours():
    released, paper = get_recipe("deri", "released").config, get_recipe("deri", "paper").config
    changed = {name for name in type(paper).__annotations__ if getattr(released, name) != getattr(paper, name)}
    assert changed == {
        "loss_reduction", "keep_order", "mask_padding", "normalize_tokens_at_inference", "decode_text_weight",
        "gather_with_grad",
    }  # fmt: skip
    assert (released.text_dropout, paper.text_dropout) == (True, False)
    assert (released.decode_text_weight, paper.decode_text_weight) == (0.0, 1.0)
    assert (released.temperature, paper.temperature) == (0.07, 0.07)


def test_the_released_settings_train_on_a_small_model(batch):
    recipe = get_recipe("deri", "released")
    names = ("loss_reduction", "keep_order", "mask_padding", "normalize_tokens_at_inference", "decode_text_weight")
    model = tiny_deri(**{name: getattr(recipe.config, name) for name in names}, text_dropout=True).train()
    assert not model.can_cache_text
    output = model(**batch)
    assert set(output.loss_terms) == ALL - {"decode_text"}
    output.loss.backward()
    assert model.ecg_to_text is not None
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
