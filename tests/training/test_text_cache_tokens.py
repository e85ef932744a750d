"""A cache of the tower's tokens gives methods that read them what the live tower gives."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from hf_ecgtext.encoders.text import pool_tokens
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.methods.base import TextInputs
from hf_ecgtext.methods.etp import EtpModel
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments, TextCache
from hf_ecgtext.training.collator import EcgTextCollator

# As in test_text_cache.py: the same float32 tower in batches of another size and padding.
RTOL, ATOL = 1e-5, 1e-6
GRADIENT_RTOL, GRADIENT_ATOL = 1e-4, 1e-5
READS_REPORTS_AS_THEY_ARE: dict[str, dict[str, Any]] = {"cmelt": {"config.mlm_weight": 0.0}}  # else the text is masked


class TokenReader(EtpModel):
    """ETP with a report's embedding made of all its tokens, each gated by the pooled output, instead of one."""

    text_cache_content = "tokens"

    def training_rows(
        self, ecg_values: Tensor, lead_mask: Tensor | None, text: TextInputs, **extra: Any
    ) -> dict[str, Tensor]:
        rows = super().training_rows(ecg_values, lead_mask, text, **extra)
        pooled, tokens = self.encode_text(text)
        gated = torch.tanh(self.text_projection(tokens * pooled.unsqueeze(1)))
        return {**rows, "text": rows["text"] + pool_tokens(gated, text.attention_mask, "mean")}


def build(method: str = "reader", **settings: Any):
    recipe = get_recipe("etp" if method == "reader" else method, "debug")
    overrides = {"config.freeze_text": True, **READS_REPORTS_AS_THEY_ARE.get(method, {}), **settings}
    model, processor = recipe.override(overrides).build(seed=0)
    if method == "reader":
        model.__class__ = TokenReader
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, processor


def readers_of_tokens() -> list[str]:
    classes = {method: MODEL_MAPPING[CONFIG_MAPPING[method]] for method in method_names()}
    return ["reader", *(method for method, kind in classes.items() if kind.text_cache_content == "tokens")]


@pytest.fixture
def reader():
    return build()


def build_cache(model, processor, reports, batch_size: int = 64) -> TextCache:
    return TextCache.build(model, processor, reports, batch_size=batch_size, show_progress=False)


def collator_of(processor, cache: TextCache) -> EcgTextCollator:
    return EcgTextCollator(processor, cache.report_ids, cache.token_spans)


def make_trainer(model, processor, dataset, folder, **arguments) -> EcgTextTrainer:
    settings = EcgTextTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=16, max_steps=3, learning_rate=0.05, optim="sgd",
        lr_scheduler_type="constant", logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True,
        precision="fp32", **arguments,
    )  # fmt: skip
    return EcgTextTrainer(model=model, args=settings, processor=processor, train_dataset=dataset, eval_dataset=dataset)


def live_tokens(model, processor, report: str) -> tuple[Tensor, Tensor]:
    tokens = processor(text=report)
    output = model.text_tower(tokens["input_ids"], tokens["attention_mask"])
    return output.pooler_output, output.last_hidden_state[0]


# Cached = live


@pytest.mark.parametrize("method", readers_of_tokens())
def test_a_cached_batch_has_the_loss_and_the_gradients_of_the_live_tower(method, synthetic_dataset):
    model, processor = build(method)
    model.train()
    rows = synthetic_dataset.__getitems__(range(16))
    cache = build_cache(model, processor, synthetic_dataset.unique_reports(), batch_size=7)
    results = []
    for collator in (EcgTextCollator(processor), collator_of(processor, cache)):
        batch = collator(rows)
        inputs = cache.lookup(batch)
        assert len(set(inputs["attention_mask"].sum(dim=1).tolist())) > 3  # ragged, or the test would show little
        torch.manual_seed(0)
        noise = model.draw_noise(16, inputs["attention_mask"].shape[1])
        model.zero_grad()
        output = model(**inputs, **noise)
        output.loss.backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
        results.append(((output.loss, output.loss_terms, output.text_embeds), gradients, set(batch)))
    (live, live_gradients, live_names), (cached, cached_gradients, cached_names) = results
    assert "input_ids" in live_names
    assert {"report_ids", "token_rows", "attention_mask"} <= cached_names
    assert "input_ids" not in cached_names
    torch.testing.assert_close(cached, live, rtol=RTOL, atol=ATOL)
    assert all(gradient.abs().max() > 0 for name, gradient in live_gradients.items() if "text_projection" in name)
    torch.testing.assert_close(cached_gradients, live_gradients, rtol=GRADIENT_RTOL, atol=GRADIENT_ATOL)


@pytest.mark.slow
def test_training_with_the_cache_ends_at_the_weights_of_training_without(synthetic_dataset, tmp_path):
    weights, histories = [], []
    for text_cache in (False, True):
        model, processor = build()
        before = copy.deepcopy(model.state_dict())
        trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, text_cache=text_cache)
        trainer.train()
        evaluation = trainer.evaluate()["eval_loss"]
        assert (trainer.text_cache is not None) is text_cache
        assert (trainer.data_collator.token_spans is not None) is text_cache
        weights.append(model.state_dict())
        histories.append([*(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), evaluation])
    assert any((weights[0][name] - before[name]).abs().max() > 1e-3 for name in before if "text_projection" in name)
    assert len(histories[0]) == 4
    assert histories[1] == pytest.approx(histories[0], rel=1e-4, abs=1e-4)  # the log rounds
    torch.testing.assert_close(weights[1], weights[0], rtol=GRADIENT_RTOL, atol=GRADIENT_ATOL)


def test_a_batch_with_one_unknown_report_uses_the_live_tower(reader, synthetic_dataset):
    model, processor = reader
    cache = build_cache(model, processor, synthetic_dataset.unique_reports())
    rows = synthetic_dataset.__getitems__(range(4))
    rows[2] = {"ecg": replace(rows[2]["ecg"], report="A report that nobody has seen")}
    inputs = cache.lookup(collator_of(processor, cache)(rows))
    assert not {"report_ids", "token_rows", "text_tower_tokens"} & set(inputs)
    assert torch.equal(model.eval()(**inputs).loss, model(**EcgTextCollator(processor)(rows)).loss)


# Each report finds its own tokens


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_each_report_finds_its_own_tokens_in_their_order(reader, synthetic_dataset, batch_size):
    model, processor = reader
    reports = synthetic_dataset.unique_reports()
    cache = build_cache(model, processor, reports, batch_size)
    records = [row["ecg"] for row in synthetic_dataset.__getitems__(range(8))]
    batch = cache.lookup(collator_of(processor, cache)([{"ecg": record} for record in records]))
    longest = 0
    for row, record in enumerate(records):
        pooled, tokens = live_tokens(model, processor, record.report)
        longest = max(longest, len(tokens))
        assert batch["attention_mask"][row].tolist() == [1] * len(tokens) + [0] * (
            batch["attention_mask"].shape[1] - len(tokens)
        )
        torch.testing.assert_close(batch["text_tower_tokens"][row, : len(tokens)], tokens, rtol=RTOL, atol=ATOL)
        torch.testing.assert_close(batch["text_tower_embeds"][row], pooled[0], rtol=RTOL, atol=ATOL)
    assert batch["attention_mask"].shape[1] == longest  # of this batch, not of the whole cache
    assert batch["text_tower_tokens"].shape == (8, longest, model.config.text_config.hidden_size)


def test_reports_longer_than_the_limit_are_cut_as_the_live_tower_has_them(synthetic_dataset):
    model, processor = build(**{"text.max_length": 7})
    rows = synthetic_dataset.__getitems__(range(16))
    cache = build_cache(model, processor, synthetic_dataset.unique_reports(), batch_size=6)
    assert (cache.token_spans[:, 1] - cache.token_spans[:, 0]).max() == 7
    live, cached = EcgTextCollator(processor)(rows), cache.lookup(collator_of(processor, cache)(rows))
    assert torch.equal(live["attention_mask"], cached["attention_mask"])
    model.eval()
    torch.testing.assert_close(model(**cached).loss, model(**live).loss, rtol=RTOL, atol=ATOL)


def test_reports_that_read_alike_after_cleaning_share_their_tokens():
    model, processor = build(**{"text.report_cleaning": "mimic"})
    reports = ["Sinus rhythm", "SINUS   RHYTHM.", "Atrial fibrillation with rapid response"]
    cache = build_cache(model, processor, reports)
    first, second, other = (cache.token_spans[cache.report_ids[report]].tolist() for report in reports)
    assert first == second
    assert first != other
    for report in reports:
        start, end = cache.token_spans[cache.report_ids[report]]
        torch.testing.assert_close(
            cache.tokens[start:end], live_tokens(model, processor, report)[1], rtol=RTOL, atol=ATOL
        )


# Memory and devices


def test_the_cache_holds_real_tokens_only_and_each_distinct_report_once(reader, synthetic_dataset):
    model, processor = reader
    reports = synthetic_dataset.column("report")
    cache = build_cache(model, processor, reports, batch_size=96)
    lengths = {report: len(live_tokens(model, processor, report)[1]) for report in set(reports)}
    assert len(set(lengths.values())) > 3
    width = model.config.text_config.hidden_size
    assert cache.tokens.shape == (sum(lengths.values()), width)
    assert cache.tokens.untyped_storage().nbytes() == 4 * sum(lengths.values()) * width
    assert not cache.tokens.requires_grad
    spans = sorted(map(tuple, cache.token_spans.tolist()))
    assert spans[0][0] == 0
    assert spans[-1][1] == len(cache.tokens)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))  # without gaps


def test_methods_that_need_no_tokens_keep_none(synthetic_dataset):
    model, processor = get_recipe("etp", "debug").override({"config.freeze_text": True}).build()
    cache = build_cache(model, processor, synthetic_dataset.unique_reports())
    assert cache.tokens is None
    assert cache.token_spans is None
    batch = collator_of(processor, cache)(synthetic_dataset.__getitems__(range(4)))
    assert not {"token_rows", "attention_mask", "input_ids"} & set(batch)
    assert "text_tower_tokens" not in cache.lookup(batch)


def test_tokens_follow_the_device_of_the_batch_once(reader, synthetic_dataset):
    model, processor = reader
    cache = build_cache(model, processor, synthetic_dataset.unique_reports())
    batch = collator_of(processor, cache)(synthetic_dataset.__getitems__(range(4)))
    found = cache.lookup({name: value.to("meta") for name, value in batch.items()})
    assert {value.device.type for value in found.values()} == {"meta"}
    assert cache.embeds.device.type == cache.tokens.device.type == "meta"  # moved once, not in every step
    moved = cache.tokens
    cache.lookup({name: value.to("meta") for name, value in batch.items()})
    assert cache.tokens is moved


def test_a_lookup_leaves_the_batch_of_the_collator_alone(reader, synthetic_dataset):
    model, processor = reader
    cache = build_cache(model, processor, synthetic_dataset.unique_reports())
    batch = collator_of(processor, cache)(synthetic_dataset.__getitems__(range(4)))
    before = set(batch)
    cache.lookup(batch)
    assert set(batch) == before
    assert (batch["token_rows"] < len(cache.tokens)).all()
    assert (batch["token_rows"] >= 0).all()


@pytest.mark.parametrize("method", readers_of_tokens())
def test_what_stands_in_the_padding_of_cached_tokens_changes_nothing(method, synthetic_dataset):
    model, processor = build(method)
    model.eval()
    cache = build_cache(model, processor, synthetic_dataset.unique_reports())
    inputs = cache.lookup(collator_of(processor, cache)(synthetic_dataset.__getitems__(range(8))))
    before = model(**inputs).loss
    inputs["text_tower_tokens"] = inputs["text_tower_tokens"].masked_fill(
        ~inputs["attention_mask"].bool()[..., None], 9.0
    )
    torch.testing.assert_close(model(**inputs).loss, before, rtol=1e-6, atol=1e-6)
