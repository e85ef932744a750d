"""What every method owes the rest of the library. New method folders are found, not listed."""

from __future__ import annotations

import copy
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

from hf_ecgtext.data.collators import EcgTextCollator
from hf_ecgtext.methods import Recipe, get_recipe, method_names, recipe_names
from hf_ecgtext.methods.base import EcgTextConfig, EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = method_names()


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


@pytest.fixture
def built(method) -> tuple[EcgTextModel, EcgTextProcessor]:
    return get_recipe(method, "debug").build(seed=0)


@pytest.fixture
def batch(built, synthetic_dataset) -> dict[str, torch.Tensor]:
    return EcgTextCollator(built[1])(synthetic_dataset.__getitems__(range(8)))


def test_there_are_methods():
    assert {"etp", "merl"} <= set(METHODS)


def test_a_method_folder_is_complete(method):
    package = f"hf_ecgtext.methods.{method}"
    for part in ("configuration", "modeling", "processing"):
        assert importlib.import_module(f"{package}.{part}_{method}").__doc__
    assert {"debug", "paper"} <= set(recipe_names(method))
    for name in recipe_names(method):
        function = getattr(importlib.import_module(f"{package}.recipes"), name)
        assert isinstance(get_recipe(method, name), Recipe)
        assert "train.py --method" in inspect.getdoc(function), f"{name}: say by which command it runs"


def test_a_method_has_a_model_card_and_a_section_in_papers(method, built):
    card = (REPOSITORY / "model_cards" / f"{method}.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "medical device" in card
    papers = (REPOSITORY / "PAPERS.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ").lower() for line in papers.splitlines() if line.startswith("## ")]
    assert any(heading.split()[0].strip(":,").replace("-", "") == method.replace("_", "") for heading in headings)


def test_the_auto_classes_know_the_method(method, built, tmp_path):
    model, processor = built
    assert isinstance(model, EcgTextModel)
    assert isinstance(model.config, EcgTextConfig)
    assert model.config.model_type == method
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(model)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)


def test_misspelt_settings_are_refused(built):
    with pytest.raises(ValueError, match="has no setting projection_dimension"):
        type(built[0].config)(projection_dimension=8)


def test_the_same_seed_gives_the_same_weights(method, built):
    again, _ = get_recipe(method, "debug").build(seed=0)
    other, _ = get_recipe(method, "debug").build(seed=1)
    ours, same, different = (model.state_dict() for model in (built[0], again, other))
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert not all(torch.equal(ours[name], different[name]) for name in ours)


def test_forward_returns_a_loss_with_named_terms_and_normalised_embeddings(built, batch):
    output = built[0](**batch)
    assert output.loss.ndim == 0
    assert output.loss.requires_grad
    assert output.loss_terms
    assert all(name.isidentifier() and not name[-1].isdigit() for name in output.loss_terms)
    assert not any(term.requires_grad for term in output.loss_terms.values())
    for embeds in (output.ecg_embeds, output.text_embeds):
        assert embeds.shape == (8, built[0].config.projection_dim)
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(8))
    assert output.logits_per_ecg.shape == (8, 8)
    torch.testing.assert_close(output.logits_per_ecg, built[0].logit_scale * output.ecg_embeds @ output.text_embeds.T)


def test_the_loss_is_the_weighted_sum_of_its_terms(built, batch):
    model = built[0].eval()
    output = model(**batch)
    weights = {name: getattr(model.config, f"{name}_weight", 1.0) for name in output.loss_terms}
    torch.testing.assert_close(output.loss, sum(weights[name] * term for name, term in output.loss_terms.items()))
    for name in output.loss_terms:
        if hasattr(model.config, f"{name}_weight"):
            setattr(model.config, f"{name}_weight", 3.0)
            heavier = model(**batch).loss
            torch.testing.assert_close(heavier - output.loss, 2.0 * output.loss_terms[name], rtol=1e-4, atol=1e-5)
            setattr(model.config, f"{name}_weight", 1.0)


def test_gradients_reach_everything_that_trains_and_nothing_that_is_frozen(method, batch):
    for freeze_text in (False, True):
        model, _ = get_recipe(method, "debug").override({"config.freeze_text": freeze_text}).build()
        model.train()
        model(**batch).loss.backward()
        without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not without
        text = {name: value for name, value in model.named_parameters() if name.startswith("text_tower.")}
        assert text
        assert all(value.requires_grad is not freeze_text for value in text.values())
        assert all((value.grad is None) is freeze_text for value in text.values())


def test_ecg_only_and_text_only_inference_need_nothing_else(built, batch):
    model = built[0].eval()
    with torch.no_grad():
        both = model(**batch)
        ecg_only = model(ecg_values=batch["ecg_values"], lead_mask=batch["lead_mask"])
        text_only = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        assert ecg_only.loss is None
        assert text_only.loss is None
        assert torch.equal(ecg_only.ecg_embeds, both.ecg_embeds)
        assert torch.equal(text_only.text_embeds, both.text_embeds)
        assert torch.equal(model.get_ecg_features(batch["ecg_values"], batch["lead_mask"]), both.ecg_embeds)
        assert torch.equal(model.get_text_features(batch["input_ids"], batch["attention_mask"]), both.text_embeds)
        assert model.get_probe_features(batch["ecg_values"]).shape[0] == 8


def test_what_stands_in_a_missing_lead_changes_nothing(built, batch):
    model = built[0].eval()
    batch["lead_mask"][:, 3] = False
    before = model.get_ecg_features(batch["ecg_values"], batch["lead_mask"])
    batch["ecg_values"][:, 3] = 7.0
    assert torch.equal(model.get_ecg_features(batch["ecg_values"], batch["lead_mask"]), before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, synthetic_dataset):
    """Train each method's debug recipe once."""
    folders: dict[str, tuple[Path, EcgTextTrainer]] = {}

    def train(method: str) -> tuple[Path, EcgTextTrainer]:
        if method not in folders:
            folder = tmp_path_factory.mktemp(method)
            recipe = get_recipe(method, "debug")
            model, processor = recipe.build()
            settings = {**recipe.training, "max_steps": 24, "logging_steps": 6, "disable_tqdm": True}
            arguments = EcgTextTrainingArguments(output_dir=str(folder), **settings)
            trainer = EcgTextTrainer(model, arguments, processor, synthetic_dataset, synthetic_dataset)
            trainer.train()
            trainer.save_model()
            folders[method] = (folder, trainer)
        return folders[method]

    return train


def test_the_debug_recipe_trains_and_its_loss_falls(method, trained):
    _, trainer = trained(method)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < 0.9 * logs[0]["loss"]


def test_training_and_evaluation_log_every_term(method, trained, batch):
    _, trainer = trained(method)
    with torch.no_grad():
        terms = trainer.model.eval()(**batch).loss_terms
    weights = {name: getattr(trainer.model.config, f"{name}_weight", 1.0) for name in terms}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    for entry in [*logs, metrics]:
        total = sum(weights[name] * entry[name] for name in terms)
        assert entry["loss"] == pytest.approx(total, rel=1e-3)


def test_the_saved_folder_equals_the_trained_model(method, trained, synthetic_dataset):
    folder, trainer = trained(method)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(4)))
    original = trainer.model.eval()
    with torch.no_grad():
        for ours, theirs in zip(
            (model(**batch).ecg_embeds, model(**batch).text_embeds),
            (original(**batch).ecg_embeds, original(**batch).text_embeds),
            strict=True,
        ):
            assert torch.equal(ours, theirs)


def test_the_pipelines_equal_direct_calls(method, trained, synthetic_dataset):
    folder, trainer = trained(method)
    model, processor = trainer.model.eval(), trainer.processing_class
    records = [row["ecg"] for row in synthetic_dataset.__getitems__(range(3))]
    labels = ["atrial fibrillation", "sinus rhythm", "left bundle branch block"]
    with torch.no_grad():
        ecg = model.get_ecg_features(**processor(ecg=records))
        text = model.get_text_features(**processor(text=labels))
    classifier = pipeline("zero-shot-ecg-classification", model=str(folder))
    for answers, row in zip(classifier(records, candidate_labels=labels), (ecg @ text.T).tolist(), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert [scores[label] for label in labels] == pytest.approx(row, abs=1e-5)
        assert answers == sorted(answers, key=lambda answer: -answer["score"])
    features = pipeline("ecg-feature-extraction", model=str(folder))(records)
    np.testing.assert_allclose(np.stack(features), ecg.numpy(), atol=1e-5)


@pytest.mark.parametrize("settings", [{"freeze_text": True}, {"freeze_text": False, "num_frozen_text_layers": 1}])
def test_what_is_frozen_is_frozen_after_loading_too(method, settings, tmp_path):
    built, _ = (
        get_recipe(method, "debug").override({f"config.{name}": value for name, value in settings.items()}).build()
    )
    built.save_pretrained(tmp_path)
    trains = {name: parameter.requires_grad for name, parameter in built.named_parameters()}
    assert not all(trains.values())
    loaded, _ = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    for model in (AutoModel.from_pretrained(tmp_path), loaded):
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trains


def test_a_model_in_half_precision_reads_what_the_processor_gives(built, batch, tmp_path):
    built[0].save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        features = model.get_ecg_features(batch["ecg_values"], batch["lead_mask"])
        expected = built[0].eval().get_ecg_features(batch["ecg_values"], batch["lead_mask"])
    torch.testing.assert_close(features.float(), expected, rtol=0, atol=0.05)
    # Its config says bfloat16 now; a new model made from it is float32 throughout.
    twin = type(model).from_text_model(copy.deepcopy(model.config), model.text_tower.model)
    assert {parameter.dtype for parameter in twin.parameters()} == {torch.float32}
