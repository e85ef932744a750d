"""The pipelines accept whatever holds an ECG, and equal direct calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_ecgtext.data import EcgRecord, read_record
from hf_ecgtext.methods import get_recipe

LABELS = ["atrial fibrillation", "sinus rhythm", "left bundle branch block"]


@pytest.fixture(scope="module")
def record(synthetic_dataset) -> EcgRecord:
    return synthetic_dataset[0]["ecg"]


def by_label(answers) -> dict[str, float]:
    return {answer["label"]: answer["score"] for answer in answers}


def test_a_real_wfdb_path_equals_direct_calls(real_data, merl_folder, classifier, extractor):
    path = real_data / "ptb-xl" / "records500" / "00000" / "00001_hr"
    model, processor = AutoModel.from_pretrained(merl_folder), AutoProcessor.from_pretrained(merl_folder)
    record = read_record(path)
    assert record.sampling_rate_hz == 500
    with torch.no_grad():
        ecg = model.get_ecg_features(**processor(ecg=record))
        text = model.get_text_features(**processor(text=LABELS))
    expected = (ecg @ text.T)[0].tolist()
    for source in (path, str(path), f"{path}.hea", record):
        scores = by_label(classifier(source, candidate_labels=LABELS))
        assert [scores[label] for label in LABELS] == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(extractor(source), ecg[0].numpy(), atol=1e-6)


def test_records_arrays_and_mappings_of_one_signal_score_alike(classifier, record):
    expected = by_label(classifier(record, candidate_labels=LABELS))
    array = {"sampling_rate_hz": record.sampling_rate_hz, "lead_names": record.lead_names}
    microvolts = record.signal * 1000
    for scores in (
        classifier(record.signal, candidate_labels=LABELS, **array),
        classifier(record.signal, candidate_labels=LABELS, sampling_rate_hz=100),  # the twelve standard leads
        classifier({"ecg": record.signal, **array}, candidate_labels=LABELS),
        classifier(microvolts, candidate_labels=LABELS, unit="uV", **array),
    ):
        assert by_label(scores) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batched_results_equal_single_ones(classifier, synthetic_dataset, batch_size):
    records = [row["ecg"] for row in synthetic_dataset.__getitems__(range(5))]
    batched = classifier(records, candidate_labels=LABELS, batch_size=batch_size)
    for answers, record in zip(batched, records, strict=True):
        assert by_label(answers) == pytest.approx(by_label(classifier(record, candidate_labels=LABELS)), abs=1e-5)


def test_exclusive_scores_are_the_softmax_of_the_logits(classifier, record):
    cosines = by_label(classifier(record, candidate_labels=LABELS))
    exclusive = by_label(classifier(record, candidate_labels=LABELS, scoring="exclusive"))
    logits = classifier.model.logit_scale * torch.tensor([cosines[label] for label in LABELS])
    assert [exclusive[label] for label in LABELS] == pytest.approx(logits.softmax(0).tolist(), abs=1e-4)
    assert sum(exclusive.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {},  # the release's: dot products of raw features
        {"learnable_siglip": True, "normalize_features": True},  # SigLIP's: scaled cosines and a bias
        {"siglip_scale": 2.0, "siglip_bias": -3.0},
    ],
)
def test_exclusive_scores_of_c_melt_are_the_softmax_of_what_its_loss_scores_pairs_by(settings, record):
    overrides = {f"config.{name}": value for name, value in settings.items()}
    model, processor = get_recipe("cmelt", "debug").override(overrides).build(seed=0)
    ask = pipeline("zero-shot-ecg-classification", model=model, processor=processor)
    exclusive, cosines = (
        by_label(ask(record, candidate_labels=LABELS, scoring=kind)) for kind in ("exclusive", "independent")
    )
    with torch.no_grad():
        ecg = model.ecg_encoder(**processor(ecg=record)).pooler_output
        tokens = model.text_tower(**processor(text=LABELS)).pooler_output
        text = model.text_pooler(model.text_projection(tokens))
    if settings.get("normalize_features"):
        ecg, text = ecg / ecg.norm(dim=-1, keepdim=True), text / text.norm(dim=-1, keepdim=True)
    scale = 10.0 if settings.get("learnable_siglip") else settings.get("siglip_scale", 1.0)
    expected = (scale * ecg @ text.T)[0].softmax(0).tolist()  # a bias is the same for all
    assert [exclusive[label] for label in LABELS] == pytest.approx(expected, rel=1e-4)
    angles = torch.nn.functional.cosine_similarity(ecg, text).tolist()
    assert [cosines[label] for label in LABELS] == pytest.approx(angles, abs=1e-5), "these stay cosines"


def test_independent_scores_do_not_depend_on_the_other_labels(classifier, record):
    alone = classifier(record, candidate_labels=LABELS[:1])[0]["score"]
    assert by_label(classifier(record, candidate_labels=LABELS))[LABELS[0]] == pytest.approx(alone, abs=1e-6)


def test_labels_may_be_one_comma_separated_text_and_wrapped_by_a_template(classifier, record):
    listed = classifier(record, candidate_labels=["ECG showing pacing", "ECG showing noise"])
    joined = classifier(record, candidate_labels="pacing, noise", template="ECG showing {}")
    assert [answer["score"] for answer in joined] == pytest.approx([answer["score"] for answer in listed])
    assert {answer["label"] for answer in joined} == {"pacing", "noise"}
    assert len(classifier(record, candidate_labels=LABELS, top_k=2)) == 2


def test_label_texts_are_encoded_once_per_call(classifier, synthetic_dataset, monkeypatch):
    calls = []
    encode = classifier.model.encode_text

    def counted(*args, **kwargs):
        calls.append(1)
        return encode(*args, **kwargs)

    monkeypatch.setattr(classifier.model, "encode_text", counted)
    for scoring in ("independent", "exclusive"):
        calls.clear()
        records = [row["ecg"] for row in synthetic_dataset.__getitems__(range(4))]
        classifier(records, candidate_labels=LABELS, scoring=scoring)
        assert len(calls) == 1


def test_probe_features_are_the_encoder_s(extractor, record):
    probe = extractor(record, features="probe")
    assert probe.shape == (extractor.model.config.ecg_config.hidden_size,)
    assert extractor(record).shape == (extractor.model.config.projection_dim,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidate_labels": []}, "one or more texts"),
        ({"candidate_labels": ["a", " "]}, "not empty"),
        ({"candidate_labels": LABELS, "template": "no place"}, "has no {}"),
        ({"candidate_labels": LABELS, "scoring": "softmax"}, "'independent' or 'exclusive'"),
        ({"candidate_labels": LABELS, "sample_rate": 100}, "takes no argument sample_rate"),
        ({"candidate_labels": LABELS, "sampling_rate": 100, "sampling_rate_hz": 500}, "are two rates"),
        ({"candidate_labels": LABELS, "template": "{}", "hypothesis_template": "{}"}, "two names of one argument"),
        ({"candidate_labels": LABELS, "windows": "middle"}, "windows must be one of"),
        ({"candidate_labels": LABELS, "on_error": "ignore"}, "on_error must be one of"),
        ({"candidate_labels": LABELS, "batch_size": 0}, "batch_size must be a positive integer"),
        *(({"candidate_labels": LABELS, "top_k": k}, "top_k must be a positive integer") for k in (-1, 0, 1.5, True)),
    ],
)
def test_wrong_arguments_are_explained(classifier, record, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        classifier(record, **arguments)


def test_an_array_without_its_rate_is_refused(classifier, record):
    with pytest.raises(ValueError, match="sampling_rate_hz"):
        classifier(record.signal, candidate_labels=LABELS)


def test_a_missing_path_names_the_record(classifier, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        classifier(Path(tmp_path / "nowhere"), candidate_labels=LABELS)


def test_a_batch_of_recordings_is_answered_one_by_one(classifier, extractor, record):
    signals = np.stack([record.signal, record.signal * 0.5])
    single = [by_label(classifier(signal, candidate_labels=LABELS, sampling_rate_hz=100)) for signal in signals]
    for several in (signals, torch.from_numpy(signals), tuple(signals), {"ecg": signals, "sampling_rate_hz": 100}):
        options = {} if isinstance(several, dict) else {"sampling_rate_hz": 100}
        answers = classifier(several, candidate_labels=LABELS, **options)
        assert [by_label(answer) for answer in answers] == [pytest.approx(scores, abs=1e-6) for scores in single]
        assert len(extractor(several, **options)) == 2


def test_a_batch_inside_a_list_is_refused_and_not_answered_in_part(classifier, extractor, record):
    nested = [record, np.stack([record.signal, record.signal])]
    with pytest.raises(ValueError, match=r"'recording 1': expected one recording, got 2"):
        classifier(nested, candidate_labels=LABELS, sampling_rate_hz=100)
    with pytest.raises(ValueError, match=r"'recording 0': expected one recording, got 2"):
        extractor(nested[1:], sampling_rate_hz=100)


def test_a_model_that_still_trains_is_put_into_eval_mode(merl_folder, record):
    model, processor = AutoModel.from_pretrained(merl_folder).train(), AutoProcessor.from_pretrained(merl_folder)
    before = model.ecg_encoder.bn1.running_mean.clone()
    pipeline("ecg-feature-extraction", model=model, processor=processor)(record)
    assert torch.equal(model.ecg_encoder.bn1.running_mean, before)
