"""`torch.compile` and gradient checkpointing change speed and memory, and nothing else."""

from __future__ import annotations

import pytest
import torch
from accelerate.utils import is_compiled_module
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
TINY_VIT = {
    "model_type": "ecg_vit1d", "patch_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "head_dim": 16, "intermediate_size": 64,
}  # fmt: skip


@pytest.fixture(params=method_names())
def method(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def forget_compiled_programs():
    yield
    torch._dynamo.reset()


def build(method, overrides=None):
    model, processor = get_recipe(method, "debug").override(overrides or {}).build()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train(), processor


def build_checkpointable(method):
    """The debug recipe, with a ViT where its own ECG encoder cannot be checkpointed."""
    model, processor = build(method)
    return (
        (model, processor) if model.supports_gradient_checkpointing else build(method, {"config.ecg_config": TINY_VIT})
    )


def enable_checkpointing(model):
    """By the name that transformers 5.2x gave it, or by the older one."""
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def batch_for(model, processor, dataset):
    """Records with all random choices of the forward pass, and with negatives where the method takes them."""
    batch = EcgTextCollator(processor)(dataset.__getitems__(range(8)))
    batch |= model.draw_noise(8, batch["input_ids"].shape[1])
    if model.uses_negatives:
        batch["is_aligned"] = torch.arange(8) % 3 != 1
    return batch


def loss_and_gradients(model, batch):
    """Of a model or a compiled one, from which the gradients are taken off again."""
    loss = model(**batch).loss
    loss.backward()
    gradients = {
        name.removeprefix("_orig_mod."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return loss.detach(), gradients


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], **TOLERANCE)
    assert set(found[1]) == set(expected[1])
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_a_compiled_model_is_one_graph_and_computes_the_same(method, synthetic_dataset):
    model, processor = build(method)
    batch = batch_for(model, processor, synthetic_dataset)
    expected = loss_and_gradients(model, batch)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # fails where the graph breaks
    assert_same(loss_and_gradients(compiled, batch), expected)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_the_trainer_compiles(chunk_size, synthetic_dataset, tmp_path):
    overrides = {
        "config.ecg_config": TINY_VIT,
        "config.learnable_temperature": True,
        "config.freeze_text": True,  # cached: there is less to compile
        "ecg.scaling": "zscore_lead",
    }
    weights = []
    for compiled in (False, True):
        model, processor = build("etp", overrides)
        options = {"torch_compile": True, "torch_compile_backend": "aot_eager"} if compiled else {}
        arguments = EcgTextTrainingArguments(
            str(tmp_path), per_device_train_batch_size=8, grad_cache_chunk_size=chunk_size, max_steps=3, optim="sgd",
            learning_rate=0.05, logging_steps=1, disable_tqdm=True, save_strategy="no", **options,
        )  # fmt: skip
        trainer = EcgTextTrainer(model, arguments, processor, synthetic_dataset)
        trainer.train()
        assert all("contrastive" in entry for entry in trainer.state.log_history if "loss" in entry)
        assert is_compiled_module(trainer.model_wrapped) is compiled
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
    assert abs(model.log_logit_scale.exp() - 1.0 / model.config.temperature) > 1e-3, "it has trained"
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_gradient_checkpointing_leaves_the_gradients_as_they_are(method, synthetic_dataset):
    model, processor = build_checkpointable(method)
    batch = batch_for(model, processor, synthetic_dataset)
    expected = loss_and_gradients(model, batch)
    calls = {}
    for name, layer in model.named_modules():
        if isinstance(layer, GradientCheckpointingLayer):
            calls[name] = 0
            inner = next(module for module in layer.modules() if isinstance(module, torch.nn.Linear))

            def count(*_, name=name):
                calls[name] += 1

            inner.register_forward_hook(count)
    enable_checkpointing(model)
    assert_same(loss_and_gradients(model, batch), expected)
    assert any(name.startswith("ecg_encoder") for name in calls)
    assert set(calls.values()) == {2}, "every layer is computed again on the way back"


def test_gradient_checkpointing_is_refused_where_an_encoder_cannot_do_it():
    model, _ = build("etp")
    assert not model.supports_gradient_checkpointing
    with pytest.raises(ValueError, match=r"EtpModel does not support (activation|gradient) checkpointing"):
        enable_checkpointing(model)
