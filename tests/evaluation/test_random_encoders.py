"""Random initialisations of a model."""

from __future__ import annotations

import pytest
import torch

from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.evaluation.encoders.random import random_encoders, recalibrate_batch_norm
from hf_ecgtext.methods import get_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def built():
    model, processor = get_recipe("merl", "debug").build(seed=0)
    return model.eval(), processor


def test_random_encoders_share_the_text_tower_and_nothing_else(built, data):
    model, processor = built
    first, second = random_encoders(model, processor, data.train, seeds=(0, 1))
    (again,) = random_encoders(model, processor, data.train, seeds=(0,))
    ours = model.state_dict()
    for name, tensor in first.state_dict().items():
        if name.startswith("text_tower."):
            assert torch.equal(tensor, ours[name])
        elif name.endswith("conv1.weight"):
            assert not torch.equal(tensor, second.state_dict()[name])
        assert torch.equal(tensor, again.state_dict()[name])
    assert not any(module.training for module in first.modules())


def test_recalibrated_statistics_are_those_of_the_data(built, data):
    model, processor = built
    (untrained,) = random_encoders(model, processor, data.train, seeds=(3,))
    ecg = processor.feature_extractor([row["ecg"] for row in data.train.__getitems__(range(32))], return_tensors="pt")
    single = {name: value[:1] for name, value in ecg.items()}
    recalibrate_batch_norm(untrained, [ecg, single])
    with torch.no_grad():
        first = untrained.ecg_encoder.conv1(ecg["ecg_values"])
    torch.testing.assert_close(untrained.ecg_encoder.bn1.running_mean, first.mean((0, 2)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(untrained.ecg_encoder.bn1.running_var, first.var((0, 2)), rtol=1e-4, atol=1e-5)
    assert untrained.ecg_encoder.bn1.momentum == 0.1
