"""The text cache changes the cost of training and nothing else."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_ecgtext.errors import RecordError
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments, TextCache
from hf_ecgtext.training.collator import EcgTextCollator

FROZEN = {"config.freeze_text": True, "config.uma_dropout": 0.0}  # nothing random is left in a step
# Both sides run the same float32 tower, but in batches of another size and padding: its outputs differ by rounding,
# which a temperature of 0.07 and the BatchNorms magnify in gradients.
RTOL, ATOL = 1e-5, 1e-6
GRADIENT_RTOL, GRADIENT_ATOL = 1e-4, 1e-5


def build(**settings):
    return get_recipe("merl", "debug").override({**FROZEN, **settings}).build(seed=0)


def looked_up(cache: TextCache, report_ids: torch.Tensor) -> torch.Tensor:
    return cache.lookup({"report_ids": report_ids})["text_tower_embeds"]


@pytest.fixture
def frozen():
    """A MERL with a frozen text tower, and its processor."""
    return build()


def make_trainer(model, processor, dataset, folder, **arguments) -> EcgTextTrainer:
    defaults = {
        "per_device_train_batch_size": 16,
        "max_steps": 3,
        "learning_rate": 0.05,
        # AdamW would turn the rounding error of a gradient that is zero in theory (an attention's key bias) into a
        # step of full size; SGD keeps it as small as it is.
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "precision": "fp32",
    }
    settings = EcgTextTrainingArguments(output_dir=str(folder), **{**defaults, **arguments})
    return EcgTextTrainer(model=model, args=settings, processor=processor, train_dataset=dataset, eval_dataset=dataset)


class RowCounter:
    """Counts the reports that a text tower encodes."""

    def __init__(self, model):
        self.num_rows = 0
        model.text_tower.register_forward_hook(self)

    def __call__(self, module, inputs, output):
        self.num_rows += len(output.pooler_output)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# Cached = live


def test_a_cached_batch_has_the_loss_and_the_gradients_of_the_live_tower(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    rows = synthetic_dataset.__getitems__(range(16))
    results = []
    for cached in (False, True):
        trainer = make_trainer(copy.deepcopy(model), processor, synthetic_dataset, tmp_path)
        if cached:
            trainer._fill_text_cache()
        inputs = trainer.processing_class.feature_extractor.unpack(trainer.data_collator(rows))
        assert ("report_ids" in inputs, "input_ids" in inputs) == (cached, not cached)
        loss, outputs = trainer.compute_loss(trainer.model.train(), inputs, return_outputs=True)
        loss.backward()
        results.append(((loss, outputs["loss_terms"], outputs["text_embeds"]), gradients(trainer.model)))
    (live, live_gradients), (cached, cached_gradients) = results
    torch.testing.assert_close(cached, live, rtol=RTOL, atol=ATOL)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(live_gradients) == trained
    assert all(live_gradients[name].abs().max() > 100 * GRADIENT_ATOL for name in trained if name.endswith(".weight"))
    torch.testing.assert_close(cached_gradients, live_gradients, rtol=GRADIENT_RTOL, atol=GRADIENT_ATOL)


@pytest.mark.slow
def test_training_with_the_cache_ends_at_the_weights_of_training_without(synthetic_dataset, tmp_path):
    weights, histories = [], []
    for text_cache in (False, True):
        model, processor = build()
        before = copy.deepcopy(model.state_dict())
        trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, text_cache=text_cache)
        trainer.train()
        assert (trainer.text_cache is not None) is text_cache
        weights.append(model.state_dict())
        histories.append([[entry["loss"], entry["cma"], entry["uma"]] for entry in trainer.state.log_history[:-1]])
    live, cached = weights
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all((live[name] - before[name]).abs().max() > 10 * GRADIENT_ATOL for name in trained if "weight" in name)
    assert len(histories[0]) == 3
    torch.testing.assert_close(histories[1], histories[0], rtol=1e-4, atol=1e-4)  # the log rounds
    torch.testing.assert_close(cached, live, rtol=GRADIENT_RTOL, atol=GRADIENT_ATOL)


def test_evaluation_with_the_cache_has_the_loss_of_evaluation_without(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path)
    live = trainer.evaluate()
    trainer._fill_text_cache()
    counter = RowCounter(model)
    cached = trainer.evaluate()
    assert counter.num_rows == 0
    for name in ("eval_loss", "eval_cma", "eval_uma"):
        assert cached[name] == pytest.approx(live[name], rel=1e-5)


# Each report once


def test_training_encodes_each_distinct_report_once(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    counter = RowCounter(model)
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, text_cache_batch_size=8, max_steps=6)
    trainer.train()
    reports = synthetic_dataset.column("report")
    assert counter.num_rows == len(set(reports)) == len(trainer.text_cache)
    assert len(set(reports)) < len(reports)  # some repeat, or the test would show nothing


def test_each_report_finds_its_own_row(frozen, synthetic_dataset):
    model, processor = frozen
    cache = TextCache.build(model, processor, synthetic_dataset.unique_reports(), batch_size=5, show_progress=False)
    for report in synthetic_dataset.unique_reports()[:10]:
        tokens = processor(text=report)
        expected = model.text_tower(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        found = looked_up(cache, torch.tensor([cache.report_ids[report]]))
        torch.testing.assert_close(found, expected, rtol=RTOL, atol=ATOL)


def test_reports_that_read_alike_after_cleaning_share_a_row():
    model, processor = build(**{"text.report_cleaning": "mimic"})
    counter = RowCounter(model)
    reports = ["Sinus rhythm", "SINUS   RHYTHM.", "*** sinus rhythm ***", "Atrial fibrillation"]
    cache = TextCache.build(model, processor, [*reports, reports[0], None], show_progress=False)
    assert counter.num_rows == len(cache) == 2
    assert set(cache.report_ids) == set(reports)
    assert len({cache.report_ids[report] for report in reports[:3]}) == 1
    assert cache.report_ids["Atrial fibrillation"] != cache.report_ids["Sinus rhythm"]


def test_without_cleaning_they_do_not(frozen):
    model, processor = frozen
    cache = TextCache.build(model, processor, ["Sinus rhythm", "Sinus rhythm."], show_progress=False)
    assert len(cache) == 2


# Where the cache must not be used


def test_a_batch_with_one_unknown_report_uses_the_live_tower(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path)
    trainer._fill_text_cache()
    rows = synthetic_dataset.__getitems__(range(16))
    rows[5] = {"ecg": replace(rows[5]["ecg"], report="A report that nobody has seen")}
    inputs = trainer.processing_class.feature_extractor.unpack(trainer.data_collator(rows))
    assert "report_ids" not in inputs
    assert len(inputs["input_ids"]) == 16
    counter = RowCounter(model)
    loss = trainer.compute_loss(model, inputs)
    assert counter.num_rows == 16
    assert torch.equal(loss, model(**EcgTextCollator(processor)(rows)).loss)


@pytest.mark.parametrize(
    "settings",
    [
        {"config.freeze_text": False},
        {"config.freeze_text": False, "config.num_frozen_text_layers": 2},
        {"config.text_dropout": True},
    ],
    ids=["trained", "half frozen", "dropout"],
)
def test_a_tower_that_trains_or_drops_out_is_not_cached(settings, synthetic_dataset, tmp_path):
    model, processor = build(**settings)
    with pytest.raises(ValueError, match="trains or uses dropout"):
        TextCache.build(model, processor, ["Sinus rhythm"], show_progress=False)
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, max_steps=1)
    counter = RowCounter(model)
    trainer.train()
    assert trainer.text_cache is None
    assert counter.num_rows == 16


def test_text_cache_false_runs_the_tower_in_every_step(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, text_cache=False)
    counter = RowCounter(model)
    trainer.train()
    assert trainer.text_cache is None
    assert trainer.data_collator.report_ids is None
    assert counter.num_rows == 3 * 16


def test_a_dataset_that_cannot_list_its_reports_trains_live(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, max_steps=1)
    trainer.train_dataset = synthetic_dataset.__getitems__(range(32))  # a plain list of rows
    trainer.train()
    assert trainer.text_cache is None


# Details


def test_filling_the_cache_leaves_mode_and_weights_of_the_model_alone(frozen):
    model, processor = frozen
    before = copy.deepcopy(model.state_dict())
    for mode in (True, False):
        model.train(mode)
        modes = [module.training for module in model.modules()]
        TextCache.build(model, processor, ["Sinus rhythm"], show_progress=False)
        assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_lookup_follows_the_device_of_the_ids(frozen):
    model, processor = frozen
    cache = TextCache.build(model, processor, ["Sinus rhythm", "Atrial fibrillation"], show_progress=False)
    assert looked_up(cache, torch.tensor([1, 0, 1])).shape == (3, model.config.text_config.hidden_size)
    assert not looked_up(cache, torch.tensor([0])).requires_grad
    assert looked_up(cache, torch.tensor([0, 1], device="meta")).device.type == "meta"
    assert cache.embeds.device.type == "meta"  # moved once, not in every step


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_the_progress_bar_obeys_disable_tqdm_and_needs_a_terminal(
    frozen, synthetic_dataset, tmp_path, capsys, monkeypatch, disable_tqdm, is_terminal
):
    model, processor = frozen
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, disable_tqdm=disable_tqdm)
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    trainer._fill_text_cache()
    assert ("Encoding distinct reports" in capsys.readouterr().err) is (is_terminal and not disable_tqdm)


def test_data_without_any_report_are_refused(frozen):
    with pytest.raises(ValueError, match="no report to encode"):
        TextCache.build(*frozen, [None, None], show_progress=False)


def test_a_report_that_is_empty_after_cleaning_is_shown():
    model, processor = build(**{"text.report_cleaning": "mimic"})
    with pytest.raises(RecordError, match=r"Record '\*\*\* \*\*\*'.*empty after cleaning"):
        TextCache.build(model, processor, ["Sinus rhythm", "*** ***"], show_progress=False)


# Memory


def test_a_cache_in_half_precision_rounds_and_nothing_else(frozen, synthetic_dataset):
    model, processor = frozen
    reports = synthetic_dataset.unique_reports()
    exact = TextCache.build(model, processor, reports, show_progress=False)
    rounded = TextCache.build(model, processor, reports, show_progress=False, dtype=torch.bfloat16)
    assert rounded.embeds.dtype == torch.bfloat16
    assert rounded.report_ids == exact.report_ids
    ids = torch.arange(len(exact))
    assert looked_up(rounded, ids).dtype == torch.float32
    assert torch.equal(looked_up(rounded, ids), looked_up(exact, ids).bfloat16().float())


def test_an_unknown_precision_of_the_cache_is_refused(tmp_path):
    with pytest.raises(ValueError, match="text_cache_dtype must be"):
        EcgTextTrainingArguments(output_dir=str(tmp_path), text_cache_dtype="int8")


def test_a_loss_that_is_not_a_number_is_logged_as_such(frozen, synthetic_dataset, tmp_path):
    model, processor = frozen
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.text_projection[0].weight.fill_(float("nan"))
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, max_steps=1)
    trainer.train()
    assert np.isnan(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
