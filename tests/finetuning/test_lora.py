"""Low-rank adapters: they and the head learn, nothing else moves, and merging changes no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finetuning_data import debug_model, short_recipe, small_task
from torch import nn

from hf_ecgtext.evaluation.statistics.metrics import auroc, macro
from hf_ecgtext.finetuning import EcgForClassification
from hf_ecgtext.finetuning.finetune import finetune
from hf_ecgtext.finetuning.lora import LoraSettings, adapted_modules, add_adapters, merge_adapters
from hf_ecgtext.methods import method_names

# peft asks transformers by that name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def build(method):
    model, _ = debug_model(method)
    config = model.config.ecg_config
    values = torch.randn(4, config.num_leads, config.num_samples, generator=torch.Generator().manual_seed(0))
    return EcgForClassification.from_ecg_text_model(model, ("A", "B"), seed=0), values


@pytest.mark.parametrize("method", method_names())
def test_merged_adapters_answer_as_unmerged_and_only_they_and_the_head_train(method):
    classifier, values = build(method)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    adapted = add_adapters(classifier, LoraSettings(rank=2))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "classifier.modules_to_save" in name for name in trained)
    assert {name.rpartition(".")[2] for name in trained} == {"weight", "bias"}

    adapted.train()
    optimizer = torch.optim.SGD([parameter for parameter in adapted.parameters() if parameter.requires_grad], lr=1.0)
    for _ in range(3):
        adapted(ecg_values=values, labels=torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval()
    with torch.no_grad():
        unmerged = adapted(ecg_values=values).logits
        merged = merge_adapters(adapted)
        assert isinstance(merged, EcgForClassification)
        torch.testing.assert_close(merged.eval()(values).logits, unmerged, rtol=1e-4, atol=1e-5)
    after = merged.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    allowed = {f"{name}.weight" for name in adapted_modules(merged)} | {"classifier.weight", "classifier.bias"}
    assert {"classifier.weight", "classifier.bias"} < changed <= allowed


def test_transformers_adapt_their_linear_layers_and_resnets_their_convolutions():
    for method, kind in (("merl", nn.Conv1d), ("cmelt", nn.Linear), ("cgdmer", nn.Linear)):
        classifier, _ = build(method)
        modules = dict(classifier.named_modules())
        names = adapted_modules(classifier)
        assert all(isinstance(modules[name], kind) for name in names)
        assert len(names) == sum(isinstance(module, kind) for module in classifier.ecg_encoder.modules())


def test_named_targets_are_the_only_ones_and_unknown_ones_are_refused():
    classifier, _ = build("merl")
    adapted = add_adapters(classifier, LoraSettings(rank=2, target_modules=("conv2",)))
    names = {name for name, _ in adapted.named_parameters() if "lora_" in name}
    assert names
    assert all(".conv2." in name for name in names)
    with pytest.raises(ValueError, match="conv9"):
        add_adapters(build("merl")[0], LoraSettings(target_modules=("conv9",)))


def test_fine_tuning_with_adapters_gives_a_plain_model_of_its_best_epoch(synthetic_dataset, tmp_path):
    model, processor = debug_model()
    done = finetune(
        model, processor, small_task(synthetic_dataset), tmp_path / "out", checkpoint="x", recipe=short_recipe(),
        lora=LoraSettings(rank=2), show_progress=False,
    )  # fmt: skip
    scores = done.scores["parity"]
    assert scores.settings == {"leads": 12, "lora": True, "recipe": "short"}
    value = float(macro(auroc(scores.validation_scores[0], scores.validation_targets)))
    assert value == pytest.approx(scores.details["validation_score"], abs=1e-6)
    assert set(done.model.state_dict()) == set(EcgForClassification(done.model.config).state_dict())
    base = model.ecg_encoder.state_dict()
    for name, tensor in done.model.ecg_encoder.state_dict().items():
        if "bn" in name or (".1." in name and tensor.ndim < 3):
            assert torch.equal(tensor, base[name]), f"{name}: BatchNorm is frozen"
    assert np.isfinite(scores.scores).all()
