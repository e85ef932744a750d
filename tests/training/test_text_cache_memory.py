"""A text cache that lies in host memory: the same numbers, and no step that waits for the device."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments, TextCache
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.free_memory import FreeMemory
from hf_ecgtext.training.text_cache import staging_buffer

META = torch.device("meta")  # a device of which nothing can be read: whoever tries, fails
MEASURED = "hf_ecgtext.training.trainer.least_free_memory"
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def build(method: str = "deri", **settings):
    return get_recipe(method, "debug").override({"config.freeze_text": True, **settings}).build(seed=0)


def build_cache(model, processor, reports, **options) -> TextCache:
    return TextCache.build(model, processor, reports, batch_size=7, show_progress=False, **options)


def collator_of(processor, cache: TextCache) -> EcgTextCollator:
    return EcgTextCollator(processor, cache.report_ids, cache.token_spans, ids_on_host=cache.on_host)


def cache_bytes(model, processor, reports) -> int:
    """What an exact cache of tokens takes."""
    lengths = [len(processor(text=report)["input_ids"][0]) for report in set(reports)]
    return 4 * model.config.text_config.hidden_size * (sum(lengths) + len(lengths))


def make_trainer(model, processor, dataset, folder, **arguments) -> EcgTextTrainer:
    defaults = {
        "per_device_train_batch_size": 16,
        "max_steps": 3,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "precision": "fp32",
    }
    settings = EcgTextTrainingArguments(output_dir=str(folder), **{**defaults, **arguments})
    return EcgTextTrainer(model=model, args=settings, processor=processor, train_dataset=dataset, eval_dataset=dataset)


@pytest.fixture(scope="module")
def deri():
    return build()


# The same numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("deri", {}),
        ("merl", {"dataloader_num_workers": 1}),  # ids travel from a worker
        ("deri", {"grad_cache_chunk_size": 5, "grad_cache_batch_norm_per_chunk": True}),
        ("deri", {"text_cache_dtype": "bfloat16"}),
    ],
    ids=["tokens", "pooled", "in chunks", "rounded"],
)
def test_training_from_host_memory_is_bit_equal(method, arguments, synthetic_dataset, tmp_path):
    weights, losses = [], []
    for location in ("device", "host"):
        model, processor = build(method)
        trainer = make_trainer(
            model, processor, synthetic_dataset, tmp_path / location, text_cache_location=location, **arguments
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        losses[-1].append(trainer.evaluate()["eval_loss"])
        assert trainer.text_cache.on_host is trainer.data_collator.ids_on_host is (location == "host")
        weights.append(model.state_dict())
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_from_host_memory_is_that_from_the_device(dtype, deri, synthetic_dataset):
    model, processor = deri
    rows = synthetic_dataset.__getitems__(range(16))
    batches = []
    for location in ("device", "host"):
        cache = build_cache(model, processor, synthetic_dataset.unique_reports(), location=location, dtype=dtype)
        batch = collator_of(processor, cache)(rows)
        assert isinstance(batch["report_ids"], np.ndarray) is isinstance(batch["token_rows"], np.ndarray)
        batches.append((cache, batch, cache.lookup(batch)))
    (_, on_device, expected), (host_cache, on_host, found) = batches
    assert isinstance(on_host["report_ids"], np.ndarray)
    assert isinstance(on_host["attention_mask"], torch.Tensor)
    assert on_host["report_ids"].tolist() == on_device["report_ids"].tolist()
    assert host_cache.embeds.dtype == host_cache.tokens.dtype == dtype
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found["text_tower_tokens"].dtype == torch.float32


# Nothing waits for the device


def test_a_look_up_reads_nothing_from_the_device(deri, synthetic_dataset):
    model, processor = deri
    cache = build_cache(model, processor, synthetic_dataset.unique_reports(), location="host", device=META)
    assert cache.embeds.device.type == cache.tokens.device.type == "cpu"
    batch = collator_of(processor, cache)(synthetic_dataset.__getitems__(range(8)))
    moved = {name: value.to(META) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    found = cache.lookup(moved)
    assert {value.device.type for value in found.values()} == {"meta"}
    assert found["text_tower_tokens"].shape == (*batch["token_rows"].shape, model.config.text_config.hidden_size)
    assert cache.embeds.device.type == "cpu", "it stays where there is room"


def test_a_collator_that_sends_the_ids_to_the_wrong_side_is_told(deri, synthetic_dataset):
    model, processor = deri
    rows = synthetic_dataset.__getitems__(range(4))
    for location, other in (("host", False), ("device", True)):
        cache = build_cache(model, processor, synthetic_dataset.unique_reports(), location=location)
        collator = EcgTextCollator(processor, cache.report_ids, cache.token_spans, ids_on_host=other)
        with pytest.raises(ValueError, match=f"needs a collator with ids_on_host={not other}"):
            cache.lookup(collator(rows))


def test_a_buffer_is_pinned_for_a_gpu_only():
    table = torch.zeros(4, 3, dtype=torch.bfloat16)
    for device in (torch.device("cpu"), META):
        buffer = staging_buffer(5, table, device)
        assert (buffer.shape, buffer.dtype, buffer.device.type) == ((5, 3), torch.bfloat16, "cpu")
        assert not buffer.is_pinned()


# Measured before anything is encoded


def test_a_cache_that_the_device_has_no_room_for_goes_to_the_host_and_says_so(deri, synthetic_dataset, caplog):
    model, processor = deri
    reports = synthetic_dataset.unique_reports()
    needed = cache_bytes(model, processor, reports)
    for free, on_host in ((2 * needed, False), (2 * needed - 2, True)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hf_ecgtext"):
            cache = build_cache(
                model, processor, reports, device=META, measure=lambda device, free=free: FreeMemory(free, 10**12)
            )
        assert cache.on_host is on_host
        (record,) = [line for line in caplog.records if "Text cache of" in line.message]
        assert record.levelno == (logging.WARNING if on_host else logging.INFO)
        assert ("every batch is copied from there" in record.message) is on_host
        assert (cache.embeds.nbytes + cache.tokens.nbytes) == needed
    live = build_cache(model, processor, reports)
    assert torch.equal(cache.embeds, live.embeds)
    assert torch.equal(cache.tokens, live.tokens)


def test_half_precision_comes_last_and_only_where_it_was_asked_for(deri, synthetic_dataset, tmp_path, monkeypatch):
    model, processor = deri
    needed = cache_bytes(model, processor, synthetic_dataset.unique_reports())
    monkeypatch.setattr(MEASURED, lambda device: FreeMemory(needed, needed))  # room for half of it
    encoded = []
    hook = model.text_tower.register_forward_hook(lambda *_: encoded.append(1))
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path)
    with pytest.raises(
        ValueError, match=r"more than half of host memory.*text_cache_dtype='bfloat16'.*text_cache=False"
    ):
        trainer.train()
    assert not encoded, "nothing may be encoded in vain"
    hook.remove()
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, text_cache_dtype="auto")
    trainer._fill_text_cache()
    assert trainer.text_cache.tokens.dtype == torch.bfloat16
    monkeypatch.setattr(MEASURED, lambda device: FreeMemory(2 * needed, 2 * needed))
    trainer._fill_text_cache()
    assert trainer.text_cache.tokens.dtype == torch.float32


def test_a_named_place_may_be_filled_by_a_training(deri, synthetic_dataset, tmp_path, monkeypatch):
    model, processor = deri
    needed = cache_bytes(model, processor, synthetic_dataset.unique_reports())
    monkeypatch.setattr(MEASURED, lambda device: FreeMemory(needed, needed))
    trainer = make_trainer(model, processor, synthetic_dataset, tmp_path, text_cache_location="host")
    trainer._fill_text_cache()
    assert trainer.text_cache.on_host
    assert trainer.text_cache.tokens.dtype == torch.float32


@pytest.mark.parametrize(("name", "value"), [("text_cache_location", "disk"), ("text_cache_dtype", "int8")])
def test_an_unknown_place_or_precision_is_refused(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be .*'auto'"):
        EcgTextTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: value})


def test_outputs_that_float16_cannot_hold_are_refused(synthetic_dataset):
    model, processor = build()
    with torch.no_grad():
        model.text_tower.model.encoder.layer[-1].output.LayerNorm.bias[0] = 1e5
    with pytest.raises(ValueError, match=r"values up to 1e\+05, and float16 ends at 65504.*bfloat16"):
        build_cache(model, processor, synthetic_dataset.unique_reports(), dtype=torch.float16)
    kept = build_cache(model, processor, synthetic_dataset.unique_reports(), dtype=torch.bfloat16)
    assert kept.tokens.isfinite().all()


# On a GPU: python -m pytest tests/training/test_text_cache_memory.py tests/training/test_free_memory.py -k cuda


@NEEDS_GPU
def test_from_host_memory_to_cuda_nothing_waits_and_numbers_stay(synthetic_dataset):
    model, processor = build()
    model.cuda()
    reports, rows = synthetic_dataset.unique_reports(), synthetic_dataset.__getitems__(range(16))
    found = []
    for location in ("device", "host"):
        cache = build_cache(model, processor, reports, location=location)
        batch = collator_of(processor, cache)(rows)
        batch = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        cache.lookup(batch)  # the first one may allocate
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found.append(cache.lookup(batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert cache.on_host is (location == "host")
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())
    assert staging_buffer(3, torch.zeros(2, 2), torch.device("cuda")).is_pinned()


@NEEDS_GPU
def test_training_from_host_memory_on_cuda_has_the_losses_of_training_from_the_device(synthetic_dataset, tmp_path):
    losses = []
    for location in ("device", "host"):
        model, processor = build()
        trainer = make_trainer(
            model, processor, synthetic_dataset, tmp_path / location, text_cache_location=location, use_cpu=False
        )
        trainer.train()
        assert trainer.text_cache.on_host is (location == "host")
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
