"""A batch in chunks trains exactly as the whole batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gradient_cache_worker import build, complete, gradients_of, has_batch_norm, train, trainer_of
from processes import launch
from safetensors.torch import load_file, save_file

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments, TextCache
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.gradient_cache import backward_in_chunks, check_no_batch_norm, split_batch

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
WORKER = str(Path(__file__).with_name("gradient_cache_worker.py"))


@pytest.fixture(params=method_names())
def method(request) -> str:
    if has_batch_norm(build(request.param)[0]):
        pytest.skip(f"{request.param} has BatchNorm beside its ECG encoder; gradient caching refuses it (tested below)")
    return request.param


def assert_equal_gradients(found, expected, **tolerance):
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, **(tolerance or TOLERANCE), msg=lambda text, name=name: f"{name}: {text}"
        )


def batch_for(model, processor, dataset, size=8):
    return complete(model, EcgTextCollator(processor)(dataset.__getitems__(range(size))))


def whole_batch(model, batch):
    """Loss, terms and gradients of the whole batch; the model's gradients are taken off again."""
    output = model(**batch)
    output.loss.backward()
    gradients = gradients_of(model)
    model.zero_grad()
    return output.loss.detach(), output.loss_terms, gradients


@pytest.mark.parametrize("chunk_size", [4, 3, 1])
def test_gradients_in_chunks_equal_those_of_the_whole_batch(method, chunk_size, synthetic_dataset):
    model, processor = build(method)
    batch = batch_for(model, processor, synthetic_dataset)
    loss, terms, expected = whole_batch(model, batch)
    found_loss, found_terms = backward_in_chunks(model, model, batch, chunk_size)
    torch.testing.assert_close(found_loss, loss, **TOLERANCE)
    torch.testing.assert_close(found_terms, terms, **TOLERANCE)
    assert not found_loss.requires_grad
    assert_equal_gradients(gradients_of(model), expected)


def test_chunks_are_looked_up_in_the_text_cache_one_at_a_time(method, synthetic_dataset):
    model, processor = build(method, {"config.freeze_text": True})
    if not model.can_cache_text:
        pytest.skip(f"{method} changes the reports that its text tower reads, so that there is nothing to cache")
    cache = TextCache.build(model, processor, synthetic_dataset.unique_reports(), show_progress=False)
    collator = EcgTextCollator(processor, cache.report_ids, cache.token_spans)
    batch = complete(model, collator(synthetic_dataset.__getitems__(range(8))))
    assert "report_ids" in batch
    _, _, expected = whole_batch(model, cache.lookup(batch))
    sizes = []

    def look_up(chunk):
        sizes.append(len(chunk["report_ids"]))
        return cache.lookup(chunk)

    backward_in_chunks(model, model, batch, 3, prepare=look_up)
    assert sizes == [3, 3, 2] * 2
    assert_equal_gradients(gradients_of(model), expected)


def test_both_passes_draw_the_same_dropout_and_masks(synthetic_dataset):
    model, processor = build("etp")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    batch = batch_for(model, processor, synthetic_dataset)
    torch.manual_seed(3)
    parts = [model(**chunk, return_rows=True).rows for chunk in split_batch(batch, 3)]
    model.loss_from_rows({name: torch.cat([part[name] for part in parts]) for name in parts[0]})[0].backward()
    state, expected = torch.get_rng_state(), gradients_of(model)

    def found(seed):
        model.zero_grad()
        torch.manual_seed(seed)
        backward_in_chunks(model, model, batch, 3)
        return gradients_of(model)

    assert_equal_gradients(found(3), expected)
    assert torch.equal(torch.get_rng_state(), state), "as if every chunk had been computed once"
    other, weight = found(4), "ecg_projection.0.weight"
    assert not torch.allclose(other[weight], expected[weight], rtol=1e-2), "dropout is active"


def test_a_learnable_temperature_gets_its_gradient(synthetic_dataset):
    model, processor = build("etp")
    batch = batch_for(model, processor, synthetic_dataset)
    _, _, expected = whole_batch(model, batch)
    backward_in_chunks(model, model, batch, 3)
    assert abs(model.log_logit_scale.grad) > 1e-2
    torch.testing.assert_close(model.log_logit_scale.grad, expected["log_logit_scale"], **TOLERANCE)


def test_a_gradient_scaler_scales_every_gradient(synthetic_dataset):
    model, processor = build("etp")
    batch = batch_for(model, processor, synthetic_dataset)
    _, _, expected = whole_batch(model, batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward_in_chunks(model, model, batch, 3, backward=lambda loss: scaler.scale(loss).backward())
    assert_equal_gradients({name: value / 1024.0 for name, value in gradients_of(model).items()}, expected)


def test_an_autocast_around_both_passes_loses_no_gradient(synthetic_dataset):
    model, processor = build("etp")
    batch = batch_for(model, processor, synthetic_dataset)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, expected = whole_batch(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backward_in_chunks(model, model, batch, 3)
    assert_equal_gradients(gradients_of(model), expected, rtol=0.05, atol=2e-3)


def test_batch_norm_is_refused_unless_statistics_per_chunk_are_accepted(synthetic_dataset, tmp_path):
    model, processor = get_recipe("merl", "debug").build()
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
    with pytest.raises(ValueError, match=r"BatchNorm \(ecg_encoder.bn1, .* more\).*grad_cache_batch_norm_per_chunk"):
        backward_in_chunks(model, model, batch, 4)
    with pytest.raises(ValueError, match=r"without BatchNorm, such as Vit1dConfig"):
        trainer_of(
            synthetic_dataset, tmp_path, {"config.ecg_config": {"widths": [8, 8], "depths": [1, 1]}},
            grad_cache_chunk_size=4,
        )  # fmt: skip
    check_no_batch_norm(build("etp")[0])


def test_batch_norm_counts_every_chunk_once(synthetic_dataset):
    (model, processor), (twin, _) = (get_recipe("merl", "debug").build() for _ in range(2))
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
    backward_in_chunks(model.train(), model, batch, 4, batch_norm_per_chunk=True)
    with torch.no_grad():
        for chunk in split_batch(batch, 4):
            twin.train()(**chunk)
    expected = dict(twin.named_buffers())
    assert expected["ecg_encoder.bn1.num_batches_tracked"] == 2
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_tensors_are_cut_along_the_batch_and_all_else_stays_whole():
    batch = {
        "ecg_values": torch.arange(10.0).view(5, 2, 1),
        "flags": torch.arange(5),
        "scalar": torch.tensor(2),
        "n": 7,
    }
    chunks = split_batch(batch, 2)
    assert [chunk["flags"].tolist() for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.cat([chunk["ecg_values"] for chunk in chunks]), batch["ecg_values"])
    assert all((chunk["scalar"], chunk["n"]) == (2, 7) for chunk in chunks)
    with pytest.raises(ValueError, match=r"cannot cut 'prompts' of shape \(3, 2\).*5 records"):
        split_batch({**batch, "prompts": torch.zeros(3, 2)}, 2)


def test_wrong_settings_are_explained(tmp_path):
    for size in (0, 8, 9):
        with pytest.raises(ValueError, match=rf"smaller than per_device_train_batch_size \(8\), not {size}"):
            EcgTextTrainingArguments(str(tmp_path), per_device_train_batch_size=8, grad_cache_chunk_size=size)
    for optimizer in ("lomo", "galore_adamw_layerwise"):
        with pytest.raises(ValueError, match=rf"optim='{optimizer}' updates weights during the backward pass"):
            EcgTextTrainingArguments(str(tmp_path), optim=optimizer, grad_cache_chunk_size=2)


def test_sharded_training_is_refused(tmp_path, synthetic_dataset, monkeypatch):
    create = EcgTextTrainer.create_accelerator_and_postprocess

    def create_sharded(trainer):
        create(trainer)
        trainer.is_fsdp_enabled = True

    monkeypatch.setattr(EcgTextTrainer, "create_accelerator_and_postprocess", create_sharded)
    with pytest.raises(ValueError, match="not with DeepSpeed or FSDP"):
        trainer_of(synthetic_dataset, tmp_path, grad_cache_chunk_size=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        ({}, {}),
        ({"config.freeze_text": True}, {}),
        ({}, {"gradient_accumulation_steps": 2}),
        ({}, {"bf16": True}),
    ],
    ids=["live text", "cached text", "accumulation", "bf16"],
)
def test_training_with_and_without_chunks_ends_with_the_same_weights(overrides, settings, synthetic_dataset, tmp_path):
    trainers = [
        trainer_of(synthetic_dataset, tmp_path, overrides, grad_cache_chunk_size=size, **settings) for size in (None, 3)
    ]
    start = {name: value.clone() for name, value in trainers[0].model.state_dict().items()}
    for trainer in trainers:
        trainer.train()
    plain, chunked = (trainer.model.state_dict() for trainer in trainers)
    moved = torch.cat([(plain[name] - start[name]).float().flatten() for name in start])
    apart = torch.cat([(chunked[name] - plain[name]).float().flatten() for name in start])
    assert moved.norm() > 1e-2
    assert apart.norm() < (0.03 if "bf16" in settings else 1e-4) * moved.norm()
    assert (trainers[1].text_cache is not None) is ("config.freeze_text" in overrides)
    logs = [[entry for entry in trainer.state.log_history if "contrastive" in entry] for trainer in trainers]
    assert len(logs[0]) == 3
    for expected, found in zip(*logs, strict=True):
        for name in ("loss", "contrastive", "grad_norm"):
            assert found[name] == pytest.approx(expected[name], rel=0.02 if "bf16" in settings else 1e-4), name


def test_every_method_trains_in_chunks_and_logs_its_terms(method, synthetic_dataset, tmp_path):
    model, processor = build(method)
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    arguments = EcgTextTrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, grad_cache_chunk_size=3, max_steps=2, logging_steps=1,
        learning_rate=1e-2, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = EcgTextTrainer(model, arguments, processor, synthetic_dataset)
    trainer.train()
    assert not [name for name, value in model.named_parameters() if name in before and torch.equal(value, before[name])]
    terms = model(**batch_for(model, processor, synthetic_dataset)).loss_terms
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        total = sum(getattr(model.config, f"{name}_weight", 1.0) * entry[name] for name in terms)
        assert entry["loss"] == pytest.approx(total, rel=1e-3)


@pytest.mark.slow
def test_two_processes_in_chunks_equal_one_with_the_joined_whole_batch(synthetic_dataset, tmp_path):
    expected = {}
    methods = [method for method in method_names() if not has_batch_norm(build(method)[0])]
    assert "etp" in methods
    for method in methods:
        model, processor = build(method)
        batch = batch_for(model, processor, synthetic_dataset)
        save_file(batch, tmp_path / f"{method}.safetensors")
        loss, _, gradients = whole_batch(model, batch)
        expected |= {f"{method}:loss": loss} | {f"{method}:{name}": value for name, value in gradients.items()}
    records = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(48)))
    save_file(records, tmp_path / "train.safetensors")
    launch([WORKER, str(tmp_path), json.dumps(methods)], tmp_path, num_processes=2)

    weights = train(tmp_path / "plain", records, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    expected |= {f"weights:{name}": value for name, value in weights.items()}
    found = load_file(tmp_path / "found.safetensors")
    assert found.pop("world_size") == 2
    assert_equal_gradients(found, expected)
