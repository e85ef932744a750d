"""One model, zero-shot, beside its random initialisations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.data.store.schema import EcgDataset
from hf_ecgtext.harness.matrix import evaluate_zero_shot
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.reporting.tables.all import benchmark_tables, headlines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def built():
    model, processor = get_recipe("merl", "debug").build(seed=0)
    return model.eval(), processor


def evaluated(built, data, folder, **options):
    settings = {"checkpoint": "debug", "seed": 0, "num_resamples": 20, "show_progress": False}
    return evaluate_zero_shot(*built, data, folder=folder, **(settings | options))


def test_results_hold_what_a_reader_needs(built, data, tmp_path):
    results = evaluated(built, data, tmp_path, num_random_encoders=2)
    ranking = {(line.metric, line.encoder, line.min_positives) for line in results}
    assert ranking >= {
        (metric, encoder, positives)
        for metric in ("auroc", "average_precision")
        for encoder in ("trained", "random")
        for positives in (5, 1, 20)
    }
    trained = next(
        line for line in results if (line.metric, line.encoder, line.min_positives) == ("auroc", "trained", 1)
    )
    assert trained.num_records == len(data.test)
    assert trained.data["revision"] == data.revision
    assert next(line for line in results if line.encoder == "random").seed == (0, 1)
    (table,) = benchmark_tables(headlines(results))
    assert [row[0] for row in table.rows] == ["debug", "random weights (debug)"]

    model, processor = built
    ecgs = [item["ecg"] for item in data.test.__getitems__(range(len(data.test)))]
    names = data.tasks[0].class_names
    with torch.no_grad():
        embeds = model.get_ecg_features(**processor.feature_extractor(ecgs, return_tensors="pt")).numpy()
        texts = model.get_text_features(**processor(text=list(names.values()), return_tensors="pt")).numpy()
    targets = data.tasks[0].targets(data.test)
    for column, label in enumerate(names):
        if targets[:, column].any():
            expected = roc_auc_score(targets[:, column], embeds @ texts[column])
            assert trained.per_class[label] == pytest.approx(expected, abs=1e-6)
        else:
            assert trained.per_class[label] is None


def test_evaluating_leaves_the_model_as_it_was(built, data, tmp_path):
    model, _ = built
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluated(built, data, tmp_path, num_random_encoders=1)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()


def test_data_that_cannot_answer_is_refused(built, data, tmp_path):
    unlabelled = EcgDataset(data.test.dataset.with_format(None).map(lambda row: {"labels": []}, keep_in_memory=True))
    with pytest.raises(ValueError, match="test split has a label of task 'synthetic'"):
        evaluated(built, replace(data, test=unlabelled), tmp_path, num_random_encoders=0)
    with pytest.raises(ValueError, match="no labels that a task asks for"):
        evaluated(built, replace(data, tasks=()), tmp_path)
    with pytest.raises(ValueError, match="no train split here, on which random encoders are calibrated"):
        evaluated(built, replace(data, train=None), tmp_path)
