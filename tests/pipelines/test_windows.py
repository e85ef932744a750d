"""Recordings longer than the model reads: all of them counts, by the windows of evaluation."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import pipeline

from hf_ecgtext.data import EcgRecord
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.encoders.frozen import ModelEncoder, cut_windows
from hf_ecgtext.pipelines.base import SkippedRecording

LABELS = ["atrial fibrillation", "sinus rhythm"]
RATE = 100


def seconds_of(record: EcgRecord, seconds: float) -> EcgRecord:
    return replace(record, signal=record.signal[:, : round(seconds * RATE)])


@pytest.fixture(scope="module")
def minute() -> EcgRecord:
    """60 s of several hearts, so that its windows differ."""
    records = list(SyntheticEcgGenerator(seed=5, sampling_rate_hz=float(RATE)).records(6))
    return EcgRecord(np.concatenate([one.signal for one in records], axis=1), RATE, records[0].lead_names, "minute")


def scores(answers) -> list[float]:
    found = {answer["label"]: answer["score"] for answer in answers}
    return [found[label] for label in LABELS]


def test_what_comes_after_eleven_seconds_matters(classifier, extractor, minute):
    changed = replace(minute, signal=minute.signal.copy())
    changed.signal[:, 11 * RATE :] *= -1
    for scoring in ("independent", "exclusive"):
        ask = {"candidate_labels": LABELS, "scoring": scoring}
        assert scores(classifier(minute, **ask)) != scores(classifier(changed, **ask))
        assert scores(classifier(minute, **ask, windows="first")) == scores(classifier(changed, **ask, windows="first"))
    for features in ("aligned", "probe"):
        difference = np.abs(extractor(minute, features=features) - extractor(changed, features=features)).max()
        assert difference > 1e-4


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(60, [0, 10, 20, 30, 40, 50]), (25, [0, 7.5, 15]), (10.01, [0, 0.01]), (10, [0]), (6, [0])],
)
def test_each_window_is_answered_with_its_times_evenly_over_the_recording(
    classifier, extractor, minute, seconds, starts
):
    record = seconds_of(minute, seconds)
    answered = classifier(record, candidate_labels=LABELS, windows="each")
    embedded = extractor(record, windows="each")
    for windows in (answered, embedded):
        assert [window["start_s"] for window in windows] == pytest.approx(starts)
        assert [window["end_s"] for window in windows] == pytest.approx([min(start + 10, seconds) for start in starts])
    for window, embedding in zip(answered, embedded, strict=True):
        part = replace(record, signal=record.signal[:, round(window["start_s"] * RATE) : round(window["end_s"] * RATE)])
        assert scores(window["answers"]) == pytest.approx(scores(classifier(part, candidate_labels=LABELS)), abs=1e-6)
        np.testing.assert_allclose(embedding["features"], extractor(part), atol=1e-6)


@pytest.mark.parametrize("seconds", [60, 25, 10, 6])
def test_the_average_is_that_of_evaluation(classifier, extractor, minute, seconds):
    record = seconds_of(minute, seconds)
    expected = ModelEncoder(classifier.model, classifier.processor).encode([record])
    np.testing.assert_allclose(extractor(record), expected["ecg_embeds"][0], atol=1e-6)
    np.testing.assert_allclose(extractor(record, features="probe"), expected["probe"][0], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        texts = classifier.model.get_text_features(**classifier.processor(text=LABELS))
    cosines = torch.from_numpy(expected["ecg_embeds"]) @ texts.T
    assert scores(classifier(record, candidate_labels=LABELS)) == pytest.approx(cosines[0].tolist(), abs=1e-6)
    shares = (classifier.model.logit_scale * cosines).softmax(dim=-1)[0].tolist()
    exclusive = classifier(record, candidate_labels=LABELS, scoring="exclusive")
    assert scores(exclusive) == pytest.approx(shares, abs=1e-5)


def test_the_first_window_is_the_beginning(classifier, extractor, minute):
    beginning = seconds_of(minute, 10)
    np.testing.assert_array_equal(extractor(minute, windows="first"), extractor(beginning))
    first = classifier(minute, candidate_labels=LABELS, windows="first")
    assert first == classifier(beginning, candidate_labels=LABELS)


def test_windows_can_be_chosen_when_the_pipeline_is_made(merl_folder, minute):
    each = pipeline("ecg-feature-extraction", model=str(merl_folder), windows="each", batch_size=4)
    assert len(each(minute)) == 6
    assert each(minute, windows="average").ndim == 1


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_batches_over_recordings_of_several_lengths_give_what_each_gives_alone(extractor, minute, batch_size):
    records = [seconds_of(minute, seconds) for seconds in (10, 60, 6, 25, 10)]
    sizes = []
    embed = extractor.model.get_ecg_features

    def watched(values, **rest):
        sizes.append(len(values))
        return embed(values, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor.model, "get_ecg_features", watched)
        together = extractor(records, batch_size=batch_size)
    windows = [1, 6, 1, 3, 1]
    full, rest = divmod(sum(windows), batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0), "batches are full but for the last"
    for features, record in zip(together, records, strict=True):
        np.testing.assert_allclose(features, extractor(record), atol=1e-6)


def test_a_short_recording_is_said_to_be_padded_once(merl_folder, minute, caplog):
    ask = pipeline("ecg-feature-extraction", model=str(merl_folder))
    ask(seconds_of(minute, 10))
    assert caplog.text == ""
    ask([seconds_of(minute, 6), seconds_of(minute, 5)])
    ask(seconds_of(minute, 7))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["Record 'minute' lasts 6 s, but the model reads 10 s: it is padded, as are other short recordings."]


def test_windows_without_a_sample_are_left_out_and_counted(extractor, minute, caplog):
    gap = replace(minute, signal=minute.signal.copy())
    gap.signal[:, 20 * RATE : 40 * RATE] = np.nan
    windows = extractor(gap, windows="each", batch_size=4)
    assert [window["start_s"] for window in windows] == [0, 10, 40, 50]
    rows = np.stack([window["features"] for window in windows]).mean(axis=0)
    np.testing.assert_allclose(extractor(gap), rows / np.linalg.norm(rows), atol=1e-6)
    assert "Record 'minute': 2 of 6 windows hold no valid sample and are left out." in caplog.text
    with pytest.raises(RecordError, match="all samples of all leads are NaN or infinite"):
        extractor(replace(minute, signal=np.full_like(minute.signal, np.nan)))


def test_what_is_wrong_in_every_window_is_said_once(extractor, minute, caplog):
    holed = replace(minute, signal=minute.signal.copy())
    holed.signal[6] = np.nan
    with caplog.at_level(logging.WARNING):
        extractor(holed, batch_size=2)
    assert [record.getMessage() for record in caplog.records] == [
        "Records 'minute' have no valid sample in lead V1, which counts as absent."
    ]


def test_a_fault_late_in_a_long_recording_leaves_its_place_and_those_of_others(extractor, minute):
    strict = pipeline("ecg-feature-extraction", model=extractor.model, feature_extractor=extractor.feature_extractor)
    strict.feature_extractor = type(extractor.feature_extractor).from_dict(
        extractor.feature_extractor.to_dict(), nan_policy="raise"
    )
    late = replace(minute, signal=minute.signal.copy(), record_id="late")
    late.signal[3, 45 * RATE] = np.nan
    before, failed, after = strict([minute, late, seconds_of(minute, 25)], batch_size=4, on_error="skip")
    assert isinstance(failed, SkippedRecording)
    assert failed.record == "late"
    assert "lead aVR has 1 NaN" in str(failed.error)
    np.testing.assert_allclose(before, extractor(minute), atol=1e-6)
    np.testing.assert_allclose(after, extractor(seconds_of(minute, 25)), atol=1e-6)


def test_stored_recordings_are_cut_by_the_same_rule(extractor, minute):
    from hf_ecgtext.data.store.schema import record_to_row, row_to_stored

    row = record_to_row(minute)
    stored = row_to_stored({**row, "samples": np.asarray(row["samples"])})
    parts = cut_windows(stored, 10.0, "whole")
    assert len(parts) == 6
    np.testing.assert_allclose(extractor(stored), extractor(stored.to_record()), atol=1e-6)
