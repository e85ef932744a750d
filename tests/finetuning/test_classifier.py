"""The classifier: an encoder with a multi-label head that saves and loads as any model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from hf_ecgtext.encoders import ResNet1dConfig
from hf_ecgtext.finetuning import EcgClassifierConfig, EcgForClassification
from hf_ecgtext.methods import get_recipe, method_names

TINY = ResNet1dConfig(depths=[1, 1], widths=[4, 8], num_samples=64)
LABELS = ("NORM", "MI", "CD")


@pytest.fixture
def classifier() -> EcgForClassification:
    return EcgForClassification.from_scratch(TINY, LABELS, seed=0).eval()


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(5, 12, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", method_names())
def test_it_takes_the_encoder_of_every_method_and_classifies_its_pooled_output(method):
    model, processor = get_recipe(method, "debug").build(seed=0)
    model.eval()
    classifier = EcgForClassification.from_ecg_text_model(model, LABELS, seed=1).eval()
    ecg_config = model.config.ecg_config
    values = torch.randn(3, ecg_config.num_leads, ecg_config.num_samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = model.ecg_encoder(values).pooler_output
        logits = classifier(values).logits
    torch.testing.assert_close(logits, pooled @ classifier.classifier.weight.T + classifier.classifier.bias)
    with torch.no_grad():
        for parameter in classifier.ecg_encoder.parameters():
            parameter.zero_()
        assert torch.equal(model.ecg_encoder(values).pooler_output, pooled), "the model itself is left as it is"
    assert processor.feature_extractor.num_samples == classifier.config.ecg_config.num_samples


def test_the_loss_is_the_mean_cross_entropy_of_the_known_entries(classifier, batch):
    labels = torch.tensor(np.random.default_rng(0).integers(0, 2, (5, 3)))
    known = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]]).bool()
    output = classifier(batch, labels=labels, label_mask=known)
    probabilities = torch.sigmoid(output.logits.double())
    terms = [
        -torch.log(probabilities[row, column] if labels[row, column] else 1 - probabilities[row, column])
        for row, column in known.nonzero().tolist()
    ]
    assert output.loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    everything = classifier(batch, labels=labels).loss
    assert everything.item() == pytest.approx(
        classifier(batch, labels=labels, label_mask=torch.ones(5, 3, dtype=torch.bool)).loss.item()
    )
    assert everything.item() != pytest.approx(output.loss.item())


def test_unknown_entries_teach_nothing(classifier, batch):
    known = torch.tensor([True, False, True]).expand(5, 3)
    classifier(batch, labels=torch.ones(5, 3), label_mask=known).loss.backward()
    gradient = classifier.classifier.weight.grad
    assert gradient[0].any()
    assert not gradient[1].any()
    nothing = classifier(batch, labels=torch.ones(5, 3), label_mask=torch.zeros(5, 3))
    assert nothing.loss.item() == 0


def test_saved_and_loaded_it_answers_the_same_with_its_labels_and_leads(classifier, batch, tmp_path):
    classifier.config.leads = ("I", "II")
    classifier.save_pretrained(tmp_path)
    get_recipe("merl", "debug").build()[1].feature_extractor.save_pretrained(tmp_path)
    for loaded in (EcgForClassification.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(loaded, EcgForClassification)
        assert loaded.config.labels == LABELS
        assert tuple(loaded.config.leads) == ("I", "II")
        assert torch.equal(loaded.eval()(batch).logits, classifier(batch).logits)
    assert AutoConfig.from_pretrained(tmp_path).label2id == {"NORM": 0, "MI": 1, "CD": 2}
    assert AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate_hz == 100


def test_the_seed_decides_the_weights_and_leaves_the_callers_random_state_alone(classifier):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    again, other = (EcgForClassification.from_scratch(TINY, LABELS, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(again.classifier.weight, classifier.classifier.weight)
    assert torch.equal(again.ecg_encoder.conv1.weight, classifier.ecg_encoder.conv1.weight)
    assert not torch.equal(other.ecg_encoder.conv1.weight, classifier.ecg_encoder.conv1.weight)


def test_batch_norm_keeps_its_statistics_only_where_its_weights_are_frozen(classifier, batch):
    classifier.ecg_encoder.bn1.requires_grad_(False)
    before = {name: value.clone() for name, value in classifier.named_buffers()}
    classifier.train()(batch)
    changed = {name for name, value in classifier.named_buffers() if not torch.equal(value, before[name])}
    assert not any(name.startswith("ecg_encoder.bn1") for name in changed)
    assert any(name.startswith("ecg_encoder.stages") for name in changed)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="each once"):
        EcgForClassification.from_scratch(TINY, ("A", "A"), seed=0)
    with pytest.raises(ValueError, match="each once"):
        EcgForClassification.from_scratch(TINY, (), seed=0)
    with pytest.raises(Exception, match="classifier_dropout must be at least 0 and below 1"):
        EcgClassifierConfig(classifier_dropout=1.0)
    with pytest.raises(ValueError, match="has no setting droput"):
        EcgClassifierConfig(droput=0.1)
