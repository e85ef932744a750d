"""Scores are compared in float32, whatever the model's type; NaN is no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_ecgtext.errors import CheckpointError, RecordError
from hf_ecgtext.evaluation.encoders.frozen import ModelEncoder
from hf_ecgtext.methods import get_recipe

LABELS = [
    f"{adjective} {noun}"
    for adjective in ("sinus", "atrial", "ventricular", "junctional", "paced", "regular")
    for noun in ("rhythm", "tachycardia", "bradycardia", "flutter", "premature beats")
]
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def folders(merl_folder, tmp_path_factory):
    """Models whose similarity is a cosine, and one whose similarity is a dot product."""
    folder = tmp_path_factory.mktemp("cmelt")
    model, processor = get_recipe("cmelt", "debug").build(seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"merl": str(merl_folder), "cmelt": str(folder)}


@pytest.fixture(scope="module")
def records(synthetic_dataset):
    return [row["ecg"] for row in synthetic_dataset.__getitems__(range(3))]


@pytest.mark.parametrize("method", ["merl", "cmelt"])
@pytest.mark.parametrize("dtype", HALVES)
def test_labels_do_not_tie_in_half_precision(folders, records, method, dtype):
    ask = pipeline("zero-shot-ecg-classification", model=folders[method], dtype=dtype)
    assert ask.model.dtype == dtype
    for answers in ask(records, candidate_labels=LABELS):
        assert len({answer["score"] for answer in answers}) == len(LABELS), "no two labels have one score"
    for answers in ask(records, candidate_labels=LABELS, scoring="exclusive"):
        assert sum(answer["score"] for answer in answers) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_embeddings_of_a_half_precision_model_are_float32_of_unit_length(folders, records, dtype):
    model = AutoModel.from_pretrained(folders["merl"], dtype=dtype)
    processor = AutoProcessor.from_pretrained(folders["merl"])
    with torch.no_grad():
        ecg = model.get_ecg_features(**processor(ecg=records))
        text = model.get_text_features(**processor(text=LABELS))
        alone = model.ecg_encoder.get_ecg_features(**processor(ecg=records))
        output = model(**processor(ecg=records, text=LABELS[:3]), return_loss=False)
    for embeds in (ecg, text, alone, output.ecg_embeds, output.text_embeds):
        assert embeds.dtype == torch.float32
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)), rtol=0, atol=1e-6)
    assert output.logits_per_ecg.dtype == torch.float32
    features = pipeline("ecg-feature-extraction", model=model, feature_extractor=processor.feature_extractor)(records)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_evaluation_of_a_half_precision_model_compares_in_float32(folders, records):
    model = AutoModel.from_pretrained(folders["merl"], dtype=torch.bfloat16)
    encoder = ModelEncoder(model, AutoProcessor.from_pretrained(folders["merl"]))
    scores = encoder.encode(records)["ecg_embeds"] @ encoder.embed_texts(LABELS).T
    assert scores.dtype == np.float32
    assert all(len(set(row.tolist())) == len(LABELS) for row in scores)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("tower", "error", "message"),
    [
        ("text_projection", CheckpointError, "gives NaN or infinite values for the labels"),
        ("ecg_encoder", RecordError, "'{record}': the model '.*' gives NaN or infinite values for it"),
    ],
)
def test_weights_that_are_no_numbers_give_no_answer(folders, records, value, tower, error, message):
    model = AutoModel.from_pretrained(folders["merl"])
    name = next(name for name, weight in model.named_parameters() if name.startswith(tower) and weight.ndim > 1)
    with torch.no_grad():
        model.get_parameter(name).mul_(value)
    ask = pipeline(
        "zero-shot-ecg-classification", model=model, processor=AutoProcessor.from_pretrained(folders["merl"])
    )
    for scoring in ("independent", "exclusive"):
        with pytest.raises(error, match=message.format(record=records[0].record_id)):
            ask(records, candidate_labels=LABELS, scoring=scoring)


def test_a_scale_that_is_no_number_gives_no_shares(folders, records, monkeypatch):
    ask = pipeline("zero-shot-ecg-classification", model=folders["merl"])
    monkeypatch.setattr(type(ask.model), "logit_scale", property(lambda _: float("nan")))
    with pytest.raises(RecordError, match="gives NaN or infinite values for it"):
        ask(records[0], candidate_labels=LABELS, scoring="exclusive")
