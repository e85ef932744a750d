"""Two processes train exactly as one with the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import launch
from safetensors.torch import load_file, save_file

from hf_ecgtext.data.collators import EcgTextCollator
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.methods.distributed import SynchronisedBatchNorm1d, gather_batch, synchronise_batch_norm

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
WORKER = str(Path(__file__).with_name("ddp_worker.py"))


@pytest.mark.parametrize("method", method_names())
def test_gradients_of_two_processes_equal_those_of_the_joined_batch(method, synthetic_dataset, tmp_path):
    overrides = {"config.freeze_text": True} | ({"config.uma_dropout": 0.0} if method == "merl" else {})
    model, processor = get_recipe(method, "debug").override(overrides).build(seed=0)
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
    save_file(batch, tmp_path / "batch.safetensors")
    launch([WORKER, str(tmp_path), method, "exact"], tmp_path, num_processes=2)

    theirs = load_file(tmp_path / "gradients.safetensors")
    assert theirs.pop("world_size") == 2
    loss = model.train()(**batch).loss
    loss.backward()
    torch.testing.assert_close(theirs.pop("loss"), loss.detach(), **TOLERANCE)
    for name, buffer in model.named_buffers():
        if "running" in name:
            torch.testing.assert_close(theirs.pop(f"buffer:{name}"), buffer, **TOLERANCE)
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_the_released_gather_of_merl_divides_the_gradient_by_the_number_of_processes(synthetic_dataset, tmp_path):
    overrides = {"config.freeze_text": True, "config.uma_dropout": 0.0}
    model, processor = get_recipe("merl", "debug").override(overrides).build(seed=0)
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
    save_file(batch, tmp_path / "batch.safetensors")
    launch([WORKER, str(tmp_path), "merl", "released"], tmp_path, num_processes=2)

    theirs = load_file(tmp_path / "gradients.safetensors")
    model.train()(**batch).loss.backward()
    # The text side has no BatchNorm, which would couple the processes: there the factor is exact.
    for name, parameter in model.text_projection.named_parameters():
        torch.testing.assert_close(2 * theirs[f"text_projection.{name}"], parameter.grad, **TOLERANCE)


def test_train_py_under_two_processes_ends_with_the_weights_of_one(tmp_path):
    common = [
        "train.py", "--method", "merl", "--recipe", "debug", "--no-zero-shot", "--data-set", "num_records=80",
        "--set", "config.freeze_text=true", "config.uma_dropout=0.0", "training.max_steps=5", "training.optim=sgd",
        "training.learning_rate=0.05", "training.disable_tqdm=true",
    ]  # fmt: skip
    weights = []
    for num_processes in (1, 2):
        output_dir = tmp_path / str(num_processes)
        settings = [f"training.per_device_train_batch_size={16 // num_processes}", "--output-dir", str(output_dir)]
        finished = launch([*common, *settings], tmp_path / "cache", num_processes)
        assert f"Trained 5 steps on {num_processes} process(es)." in finished.stdout
        weights.append(load_file(output_dir / "model.safetensors"))
    start, _ = get_recipe("merl", "debug").override({"config.freeze_text": True}).build(seed=0)
    moved = False
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
        moved |= not torch.allclose(tensor.float(), start.state_dict()[name].float(), atol=1e-3)
    assert moved


def test_one_process_gathers_nothing():
    embeds = torch.randn(3, 4), torch.randn(3, 2)
    assert gather_batch(*embeds) == embeds


def test_synchronised_batch_norm_in_eval_mode_is_batch_norm():
    norm = torch.nn.BatchNorm1d(4)
    norm(torch.randn(16, 4, 5))
    twin = SynchronisedBatchNorm1d(4)
    twin.load_state_dict(norm.state_dict())
    hidden = torch.randn(2, 4, 5)
    assert torch.equal(twin.eval()(hidden), norm.eval()(hidden))


def test_synchronised_batch_norm_counts_in_full_precision(monkeypatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda value: None)  # one process
    hidden = torch.randn(16, 4, 313, generator=torch.Generator().manual_seed(0)) + 3  # bfloat16 cannot hold 16 * 313
    norm, twin = torch.nn.BatchNorm1d(4), SynchronisedBatchNorm1d(4)
    expected, output = norm(hidden.bfloat16()), twin(hidden.bfloat16())
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected.float(), rtol=0.01, atol=0.02)
    torch.testing.assert_close(twin.running_mean, norm.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twin.running_var, norm.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("device", "kind"), [("cpu", SynchronisedBatchNorm1d), ("cuda", torch.nn.SyncBatchNorm)])
def test_batch_norm_is_synchronised_by_what_the_device_of_the_training_can_run(device, kind):
    model, _ = get_recipe("merl", "debug").build()
    synchronise_batch_norm(model, torch.device(device))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert {type(norm) for norm in norms} == {kind}
