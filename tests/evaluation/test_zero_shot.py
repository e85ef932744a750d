"""Zero-shot evaluation end to end on a small model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.data.storage import EcgDataset
from hf_ecgtext.evaluation.metrics import auroc
from hf_ecgtext.evaluation.random_encoders import random_encoders, recalibrate_batch_norm
from hf_ecgtext.evaluation.zero_shot import class_embeddings, embed_ecgs, evaluate_zero_shot
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.reporting.tables import zero_shot_table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def built():
    model, processor = get_recipe("merl", "debug").build(seed=0)
    return model.eval(), processor


def test_a_class_embedding_is_the_normalised_mean_of_its_prompts(built):
    model, processor = built
    prompts = {"a": ["atrial fibrillation"], "b": ["sinus rhythm", "normal ecg", "no abnormality"]}
    embeds = class_embeddings(model, processor, prompts)
    with torch.no_grad():
        singles = [model.get_text_features(**processor(text=text)) for group in prompts.values() for text in group]
    torch.testing.assert_close(embeds[0], singles[0][0])
    torch.testing.assert_close(embeds[1], nn.functional.normalize(torch.cat(singles[1:]).mean(0), dim=0))


def test_embeddings_do_not_depend_on_the_batch_size_and_keep_the_order(built, data):
    model, processor = built
    (whole,) = embed_ecgs([model], processor, data.test, batch_size=64, show_progress=False)
    pieces, again = embed_ecgs([model, model], processor, data.test, batch_size=3, show_progress=False)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    np.testing.assert_array_equal(pieces, again)
    with torch.no_grad():
        third = model.get_ecg_features(**processor(ecg=data.test[2]["ecg"]))
    np.testing.assert_allclose(whole[2], third[0].numpy(), atol=1e-5)


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
    (twin,) = random_encoders(model, processor, data.train, seeds=(3,))
    ecg = processor.feature_extractor([row["ecg"] for row in data.train.__getitems__(range(32))], return_tensors="pt")
    single = {name: value[:1] for name, value in ecg.items()}
    recalibrate_batch_norm(twin, [ecg, single])
    with torch.no_grad():
        first = twin.ecg_encoder.conv1(ecg["ecg_values"])
    torch.testing.assert_close(twin.ecg_encoder.bn1.running_mean, first.mean((0, 2)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twin.ecg_encoder.bn1.running_var, first.var((0, 2)), rtol=1e-4, atol=1e-5)
    assert twin.ecg_encoder.bn1.momentum == 0.1


def test_results_hold_what_a_reader_needs(built, data):
    model, processor = built
    results = evaluate_zero_shot(
        model,
        processor,
        data,
        checkpoint="debug",
        seed=0,
        num_random_encoders=2,
        num_resamples=50,
        show_progress=False,
    )
    assert {(result.metric, result.encoder, result.min_positives) for result in results} == {
        (metric, encoder, positives)
        for metric in ("auroc", "average_precision")
        for encoder in ("trained", "random")
        for positives in (1, 20)
    }
    trained = next(result for result in results if (result.metric, result.encoder) == ("auroc", "trained"))
    assert trained.num_records == len(data.test)
    assert trained.data["revision"] == data.revision
    assert "random encoder" in zero_shot_table(results)

    (embeds,) = embed_ecgs([model], processor, data.test, show_progress=False)
    names = data.tasks[0].class_names
    classes = class_embeddings(model, processor, {label: [name] for label, name in names.items()}).numpy()
    expected = auroc(embeds @ classes.T, data.tasks[0].targets(data.test))
    for label, value in zip(names, expected, strict=True):
        stored = trained.per_class[label]
        assert (stored is None and np.isnan(value)) or stored == pytest.approx(value)


def test_evaluating_leaves_the_model_as_it_was(built, data):
    model, processor = built
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate_zero_shot(
        model, processor, data, checkpoint="x", seed=0, num_random_encoders=1, num_resamples=5, show_progress=False
    )
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()


def test_a_task_without_any_label_in_the_split_is_refused(built, data):
    model, processor = built
    unlabelled = EcgDataset(data.test.dataset.with_format(None).map(lambda row: {"labels": []}, keep_in_memory=True))
    with pytest.raises(ValueError, match="test split has a label of task 'synthetic'"):
        evaluate_zero_shot(
            model, processor, replace(data, test=unlabelled), checkpoint="debug", seed=0, num_random_encoders=0,
            show_progress=False,
        )  # fmt: skip
