"""What every method owes the rest of the library. New method folders are found, not listed."""

from __future__ import annotations

import copy
import importlib
import inspect
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

from hf_ecgtext.methods import Recipe, get_recipe, method_names, recipe_names
from hf_ecgtext.methods.base import EcgTextConfig, EcgTextModel, TextInputs
from hf_ecgtext.processing import EcgTextProcessor
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator

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


@pytest.fixture
def fixed(built, batch) -> tuple[EcgTextModel, dict[str, torch.Tensor]]:
    """A training model without any randomness left, and a batch with the noise and the negatives that it can take."""
    model = silence_dropout(built[0].train())
    torch.manual_seed(0)
    inputs = {**batch, **model.draw_noise(*batch["input_ids"].shape)}
    if model.uses_negatives:
        inputs["is_aligned"] = torch.tensor([True, True, False, True, False, True, True, False])
    return model, inputs


def silence_dropout(model: EcgTextModel) -> EcgTextModel:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def term_weights(config: EcgTextConfig) -> dict[str, float]:
    """The fields `<term>_weight` of a config, by term."""
    names = (field.name for field in fields(config))
    return {name.removesuffix("_weight"): getattr(config, name) for name in names if name.endswith("_weight")}


def test_there_are_methods():
    assert {"cgdmer", "cmelt", "deri", "etp", "merl"} <= set(METHODS)


def test_a_method_folder_is_complete(method):
    package = f"hf_ecgtext.methods.{method}"
    for part in ("configuration", "modeling", "processing"):
        assert importlib.import_module(f"{package}.{part}_{method}").__doc__
    assert {"debug", "paper"} <= set(recipe_names(method))
    for name in recipe_names(method):
        function = getattr(importlib.import_module(f"{package}.recipes"), name)
        assert isinstance(get_recipe(method, name), Recipe)
        assert "train.py --method" in inspect.getdoc(function), f"{name}: say by which command it runs"


def test_a_method_has_a_model_card_and_a_page(method, built):
    card = (REPOSITORY / "model_cards" / f"{method}.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "medical device" in card
    page = (REPOSITORY / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    title = page.splitlines()[0].removeprefix("# ").lower()
    assert title.split()[0].strip(":,").replace("-", "") == method.replace("_", "")
    overview = (REPOSITORY / "docs" / "methods" / "index.md").read_text(encoding="utf-8")
    assert f"[`{method}`]({method}.md)" in overview


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


def test_logits_are_what_pair_logits_makes_of_embeddings_that_are_not_normalised(built, batch):
    model = built[0].eval()
    with torch.no_grad():
        output = model(**batch)
        ecg = model.embed_ecg(model.ecg_encoder(batch["ecg_values"], lead_mask=batch["lead_mask"]))
        text = model.embed_text(model.encode_text(TextInputs(batch["input_ids"], batch["attention_mask"]))[0])
        torch.testing.assert_close(output.logits_per_ecg, model.pair_logits(ecg, text))
        # for other numbers of ECGs and texts, too
        fewer = model.pair_logits(ecg[:3], text)
    torch.testing.assert_close(fewer, output.logits_per_ecg[:3])


def test_the_loss_scores_pairs_by_the_logits_that_forward_returns(method, batch):
    """In training, where both come from the same rows, some term is a loss of exactly these logits."""
    # DERI's mixed ECG embedding is compared with aligned texts at inference, and by no term: tests/methods/deri.
    overrides = {"config.ecg_embedding": "aligned"} if method == "deri" else {}
    model = silence_dropout(get_recipe(method, "debug").override(overrides).build(seed=0)[0].train())
    output = model(**batch)
    logits = output.logits_per_ecg.double()
    own = logits.diagonal()
    picked = (logits.logsumexp(dim=0) - own).mean() + (logits.logsumexp(dim=1) - own).mean()
    answered = torch.nn.functional.softplus(logits * (1 - 2 * torch.eye(8))).sum()
    candidates = [picked, picked / 2, answered / 8, answered / 64]
    found = [
        name
        for name, term in output.loss_terms.items()
        if any(torch.isclose(term.double(), value, rtol=1e-5, atol=1e-6) for value in candidates)
    ]
    assert found, f"No term of {list(output.loss_terms)} is a loss of logits_per_ecg."


def test_similarities_are_float32_under_autocast_and_of_embeddings_in_half_precision(built, batch):
    model = built[0].eval()
    torch.manual_seed(0)
    ecg, text = torch.randn(2, 6, model.config.projection_dim).bfloat16()
    with torch.no_grad():
        expected = model.double().pair_logits(ecg.double(), text.double())
        model.float()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.pair_logits(ecg, text)
            assert model(**batch).logits_per_ecg.dtype == torch.float32
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("freeze_text", [True, False])
def test_a_term_of_weight_zero_adds_nothing_and_leaves_no_parameter_without_a_gradient(method, batch, freeze_text):
    recipe = get_recipe(method, "debug").override({"config.freeze_text": freeze_text})
    weights = term_weights(recipe.config)
    for off in weights if len(weights) > 1 else ():
        model, _ = recipe.override({f"config.{off}_weight": 0.0}).build()
        output = model.train()(**batch)
        rest = {name: term for name, term in output.loss_terms.items() if name != off}
        assert rest
        expected = sum(getattr(model.config, f"{name}_weight", 1.0) * term for name, term in rest.items())
        torch.testing.assert_close(output.loss.detach(), expected)
        output.loss.backward()
        without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not without, f"Without {off}, these get no gradient: {without}"


def test_every_weight_of_the_config_weights_a_term(built, batch):
    terms, weights = set(built[0](**batch).loss_terms), term_weights(built[0].config)
    assert terms & set(weights) == {name for name, weight in weights.items() if weight}


def test_rows_are_all_that_the_loss_sees(fixed):
    model, inputs = fixed
    for mode in (True, False):
        model.train(mode)
        output = model(**inputs, return_rows=True)
        assert output.loss is None
        assert all(len(row) == 8 for row in output.rows.values())
        for name in ("ecg", "text"):
            assert output.rows[name].shape == (8, model.config.projection_dim)
        loss, terms = model.loss_from_rows(output.rows)
        expected = model(**inputs)
        torch.testing.assert_close(loss, expected.loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(terms, expected.loss_terms, rtol=1e-6, atol=1e-6)


def test_the_loss_can_be_computed_from_rows_that_were_made_in_parts(fixed):
    model, inputs = fixed
    model.eval()  # BatchNorm in training would see another batch
    halves = [
        model(**{name: value[part] for name, value in inputs.items()}, return_rows=True).rows
        for part in (slice(0, 3), slice(3, 8))
    ]
    rows = {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
    torch.testing.assert_close(model.loss_from_rows(rows)[0], model(**inputs).loss, rtol=1e-5, atol=1e-5)


def test_the_order_of_the_batch_does_not_matter(fixed):
    model, inputs = fixed
    model.eval()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    before, after = model(**inputs), model(**{name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(after.loss_terms, before.loss_terms, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.ecg_embeds, before.ecg_embeds[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", ["ecg", "text"])
def test_a_row_depends_on_its_own_record_only(fixed, changed):
    model, inputs = fixed
    model.eval()
    other = dict(inputs)
    for name in ("ecg_values",) if changed == "ecg" else ("input_ids", "attention_mask"):
        other[name] = inputs[name].clone()
        other[name][3] = inputs[name][6]
    assert any(not torch.equal(inputs[name], other[name]) for name in inputs)
    rows, different = (model(**given, return_rows=True).rows for given in (inputs, other))
    rest = [record for record in range(8) if record != 3]
    for name, row in rows.items():
        torch.testing.assert_close(different[name][rest], row[rest], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(different[changed][3], rows[changed][3])


def test_unknown_inputs_are_refused(built, batch):
    with pytest.raises(TypeError, match="no_such_input"):
        built[0](**batch, no_such_input=torch.ones(8))


# What is random


def test_noise_differs_from_step_to_step_comes_back_with_the_seed_and_stays_in_evaluation(built):
    model = built[0].train()
    if model.masks_inputs:
        assert model.draw_noise(8, 20), "a method that hides parts of its input draws what it hides"
    torch.manual_seed(4)
    first, second = model.draw_noise(8, 20), model.draw_noise(8, 20)
    torch.manual_seed(4)
    again = model.draw_noise(8, 20)
    torch.manual_seed(5)
    evaluation, later = model.eval().draw_noise(8, 20), model.draw_noise(8, 20)
    assert set(first) == set(second) == set(again) == set(evaluation)
    for name, noise in first.items():
        assert len(noise) == 8
        assert len(torch.unique(noise, dim=0)) == 8, f"{name} is the same for all records"
        assert noise.min() >= 0
        assert noise.max() < 1
        assert torch.equal(again[name], noise)
        assert not torch.equal(second[name], noise)
        assert torch.equal(later[name], evaluation[name])


def test_noise_and_dropout_are_all_that_is_random(fixed):
    model, inputs = fixed
    torch.manual_seed(1)
    first = model(**inputs)
    torch.manual_seed(2)
    second = model(**inputs)
    assert torch.equal(first.loss, second.loss)
    noise = model.draw_noise(*inputs["input_ids"].shape)
    rest = {name: value for name, value in inputs.items() if name not in noise}
    torch.manual_seed(3)
    drawn = model(**rest).loss
    torch.manual_seed(3)
    given = model(**rest, **model.draw_noise(*inputs["input_ids"].shape)).loss
    torch.testing.assert_close(drawn, given, rtol=1e-6, atol=1e-6)
    if noise:
        assert not torch.equal(drawn, first.loss)


def test_every_noise_has_an_effect(fixed):
    model, inputs = fixed
    rows = model(**inputs, return_rows=True).rows
    for name, noise in model.draw_noise(*inputs["input_ids"].shape).items():
        changed = model(**{**inputs, name: noise}, return_rows=True).rows
        assert any(not torch.equal(changed[key], rows[key]) for key in rows), f"{name} changes nothing"


def test_evaluation_is_the_same_every_time_whatever_the_seed(built, batch):
    model = built[0].eval()
    losses = set()
    for seed in range(3):
        torch.manual_seed(seed)
        losses.add(model(**batch).loss.item())
    assert len(losses) == 1


def test_a_loss_under_bfloat16_autocast_is_close_to_that_in_full_precision(fixed):
    model, inputs = fixed
    for mode in (False, True):
        expected = model.train(mode)(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**inputs)
        assert output.loss.dtype == torch.float32
        torch.testing.assert_close(output.loss, expected.loss, rtol=0.03, atol=0.03)
        torch.testing.assert_close(output.loss_terms, expected.loss_terms, rtol=0.05, atol=0.05)
    output.loss.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.requires_grad)


# Inference


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


def test_what_stands_in_a_missing_lead_does_not_reach_the_loss_either(fixed):
    model, inputs = fixed
    inputs["lead_mask"][:, 3] = False
    before = model(**inputs).loss_terms
    inputs["ecg_values"][:, 3] = torch.randn(8, inputs["ecg_values"].shape[-1])
    torch.testing.assert_close(model(**inputs).loss_terms, before, rtol=1e-6, atol=1e-6)


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


@pytest.mark.slow
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
    with torch.no_grad():
        raw = model.embed_ecg(model.ecg_encoder(**processor(ecg=records)))
        logits = model.pair_logits(raw, model.embed_text(model.encode_text(TextInputs(**processor(text=labels)))[0]))
    exclusive = classifier(records, candidate_labels=labels, scoring="exclusive")
    for answers, row in zip(exclusive, logits.softmax(dim=-1).tolist(), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert [scores[label] for label in labels] == pytest.approx(row, abs=1e-4)
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
