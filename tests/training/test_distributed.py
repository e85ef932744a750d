"""Two processes train exactly as one with the joined batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_worker import model_of
from processes import launch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.methods.distributed import SynchronisedBatchNorm1d, gather_batch, synchronise_batch_norm
from hf_ecgtext.training.collator import EcgTextCollator

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
DOUBLE_TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}
WORKER = str(Path(__file__).with_name("ddp_worker.py"))


def uses_negatives(method: str) -> bool:
    return MODEL_MAPPING[CONFIG_MAPPING[method]].uses_negatives


OF_METHODS = [
    (method, negatives)
    for method in method_names()
    for negatives in (False, True)
    if not negatives or uses_negatives(method)
]


def joined_batch(model: EcgTextModel, method: str, negatives: bool, dataset) -> dict[str, torch.Tensor]:
    """Eight records with all random choices of the forward pass, in double precision."""
    _, processor = get_recipe(method, "debug").build(seed=0)
    batch = EcgTextCollator(processor)(dataset.__getitems__(range(8)))
    torch.manual_seed(0)
    batch |= model.draw_noise(*batch["input_ids"].shape)
    if negatives:  # more of them in one half than in the other
        batch["is_aligned"] = torch.tensor([True, False, False, True, True, True, False, True])
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


@pytest.fixture(scope="module")
def of_two_processes(synthetic_dataset, tmp_path_factory) -> dict[tuple[str, bool, bool], dict[str, torch.Tensor]]:
    """By method, negatives and gather with gradient: what two processes made of the two halves of a batch.

    One start of two processes serves all: it takes longer than what they compute.
    """
    asked = [(method, negatives, True) for method, negatives in OF_METHODS] + [("merl", False, False)]
    folder = tmp_path_factory.mktemp("distributed")
    for place, (method, negatives, with_grad) in enumerate(asked):
        job = folder / f"{place:02d}"
        job.mkdir()
        save_file(joined_batch(model_of(method), method, negatives, synthetic_dataset), job / "batch.safetensors")
        config: dict[str, Any] = {} if with_grad else {"gather_with_grad": False}
        (job / "job.json").write_text(json.dumps({"method": method, "config": config}))
    launch([WORKER, str(folder)], folder, num_processes=2)
    return {key: load_file(folder / f"{place:02d}" / "results.safetensors") for place, key in enumerate(asked)}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "negatives"), OF_METHODS)
def test_gradients_of_two_processes_equal_those_of_the_joined_batch(
    method, negatives, synthetic_dataset, of_two_processes
):
    model, theirs = model_of(method), dict(of_two_processes[method, negatives, True])
    batch = joined_batch(model, method, negatives, synthetic_dataset)
    output = model(**batch)
    output.loss.backward()
    torch.testing.assert_close(theirs.pop("losses"), output.loss.detach().expand(2), **DOUBLE_TOLERANCE)
    expected = {f"term:{name}": term for name, term in output.loss_terms.items()}
    expected |= {f"buffer:{name}": value for name, value in model.named_buffers() if "running" in name}
    expected |= {
        f"gradient:{name}": parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert set(theirs) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            theirs[name], value, **DOUBLE_TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_the_released_gather_of_merl_divides_the_gradient_by_the_number_of_processes(
    synthetic_dataset, of_two_processes
):
    model, theirs = model_of("merl"), of_two_processes["merl", False, False]
    model(**joined_batch(model, "merl", False, synthetic_dataset)).loss.backward()
    # The text side has no BatchNorm, which would couple the processes: there the factor is exact.
    for name, parameter in model.text_projection.named_parameters():
        torch.testing.assert_close(2 * theirs[f"gradient:text_projection.{name}"], parameter.grad, **DOUBLE_TOLERANCE)


@pytest.mark.slow
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
