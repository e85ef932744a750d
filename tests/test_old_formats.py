"""What earlier versions wrote still works: checkpoints, prepared folders, result lines, and the documented imports."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.evaluation.results import read_results

OLD = Path(__file__).parent / "old_formats"


def test_an_old_checkpoint_gives_the_same_embeddings():
    model = AutoModel.from_pretrained(OLD / "checkpoint").eval()
    processor = AutoProcessor.from_pretrained(OLD / "checkpoint")
    expected = json.loads((OLD / "checkpoint.expected.json").read_text())
    ecg_values = torch.linspace(-1, 1, 12000).reshape(1, 12, 1000)
    with torch.no_grad():
        ecg = model.get_ecg_features(ecg_values)[0, :8]
        text = model.get_text_features(**processor(text=["atrial fibrillation"], return_tensors="pt"))[0, :8]
    torch.testing.assert_close(ecg, torch.tensor(expected["ecg"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(text, torch.tensor(expected["text"]), rtol=1e-5, atol=1e-6)


def test_an_old_checkpoint_answers_and_knows_what_it_was_trained_on():
    classifier = pipeline("zero-shot-ecg-classification", model=str(OLD / "checkpoint"))
    signal = np.sin(np.linspace(0, 60, 12 * 1000, dtype=np.float32)).reshape(12, 1000)
    answers = classifier(signal, candidate_labels=["sinus rhythm", "atrial fibrillation"], sampling_rate_hz=100.0)
    assert {answer["label"] for answer in answers} == {"sinus rhythm", "atrial fibrillation"}
    ledger = load_ledger(str(OLD / "checkpoint"))
    assert ledger is not None
    assert {entry.dataset for entry in ledger.entries} == {"synthetic"}


def test_an_old_prepared_folder_opens_with_its_old_option_names_and_the_new_ones():
    folder = str(OLD / "prepared")
    for options in ({"only_present": True}, {"missing": "skip"}, {}):
        data = open_data(folder, sampling_rate_hz=100, report="original", **options)
        assert [len(data.split(name)) for name in ("train", "validation", "test")] == [2, 1, 1]
    record = data.split("train")[0]["ecg"]
    assert record.signal.shape == (12, 1000)
    assert np.isfinite(record.signal).all()
    assert [task.name for task in data.tasks][:4] == ["ptbxl_super", "ptbxl_sub", "ptbxl_form", "ptbxl_rhythm"]
    with pytest.raises(ValueError, match="missing"):
        open_data(folder, missing="raise")


def test_old_result_lines_are_read_and_stay_as_they_are():
    lines = (OLD / "results.jsonl").read_text(encoding="utf-8").splitlines()
    read = read_results(OLD / "results.jsonl")
    assert [json.loads(result.to_json()) for result in read] == [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("hf_ecgtext", ["EcgFeatureExtractor", "EcgRecord", "EcgTextProcessor", "RecordError"]),
        ("hf_ecgtext.data", ["EcgRecord", "read_record"]),
        ("hf_ecgtext.data.opening", ["open_data"]),
        ("hf_ecgtext.data.subsets", ["published_subset", "stratified_subsets"]),
        ("hf_ecgtext.data.label_maps", ["label_map"]),
        ("hf_ecgtext.data.augmentations", ["BaselineWander", "Compose", "RandomLeadMask", "TwoViews"]),
        ("hf_ecgtext.methods", ["get_recipe", "method_names"]),
        ("hf_ecgtext.training", ["EcgTextTrainer", "EcgTextTrainingArguments"]),
        ("hf_ecgtext.leads", ["MIMIC_LEADS", "STANDARD_LEADS"]),
        ("hf_ecgtext.cli", ["main"]),
    ],
)
def test_documented_imports_work(module, names):
    found = importlib.import_module(module)
    assert all(hasattr(found, name) for name in names)
