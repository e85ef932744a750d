"""The commands as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_ecgtext.cli import main
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.evaluation.results import read_results


@pytest.fixture(scope="module", autouse=True)
def data_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
def test_train_saves_a_model_and_its_results(tmp_path, capsys):
    folder = tmp_path / "out"
    settings = [
        "--set",
        "training.max_steps=2",
        "training.logging_steps=1",
        "training.disable_tqdm=true",
        "--data-set",
        "num_records=200",
    ]
    assert main(["train", "--method", "etp", "--recipe", "debug", "--output-dir", str(folder), *settings]) == 0
    printed = capsys.readouterr().out
    assert "Trained 2 steps on 1 process(es)." in printed
    assert "Zero-shot: macro AUROC over classes with 5+ positives, plain prompts, strict protocol" in printed
    assert "random weights (out)" in printed
    assert "Last loss and its terms: loss " in printed
    assert ", contrastive " in printed
    assert AutoModel.from_pretrained(folder).config.model_type == "etp"
    results = read_results(folder / "results.jsonl")
    assert {result.encoder for result in results} == {"trained", "random"}
    assert results[0].data["name"] == "synthetic"
    assert "200 records" in results[0].data["revision"]


@pytest.mark.slow
def test_a_model_that_trained_on_random_crops_answers_the_same_every_time_by_windows_over_all(tmp_path):
    folder = tmp_path / "out"
    settings = ["ecg.crop=random", "ecg.duration_s=4", "training.max_steps=2", "training.disable_tqdm=true"]
    options = ["--output-dir", str(folder), "--data-set", "num_records=80", "--set", *settings]
    assert main(["train", "--method", "etp", "--recipe", "debug", *options]) == 0
    assert read_results(folder / "results.jsonl"), "evaluation works too"
    record = SyntheticEcgGenerator(seed=3, sampling_rate_hz=100.0).record(0)
    features = [pipeline("ecg-feature-extraction", model=str(folder))(record) for _ in range(2)]
    np.testing.assert_array_equal(features[0], features[1])
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.feature_extractor.crop == "random"
    with torch.no_grad():
        windows = [replace(record, signal=record.signal[:, start : start + 400]) for start in (0, 300, 600)]
        rows = AutoModel.from_pretrained(folder).get_ecg_features(**processor(ecg=windows))
    expected = torch.nn.functional.normalize(rows.mean(dim=0), dim=0)
    np.testing.assert_allclose(features[0], expected.numpy(), atol=1e-6)


def test_evaluate_writes_results_and_prints_markdown(merl_folder, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(merl_folder), "--data-set", "num_records=200", "sampling_rate_hz=100.0"]
    lines = []
    for run in ("first", "second"):
        options = ["--random-encoders", "1", "--markdown", "--per-class", "--output-dir", str(tmp_path / run)]
        assert main([*arguments, *options, "--results", str(tmp_path / "deep" / f"{run}.jsonl")]) == 0
        text = (tmp_path / "deep" / f"{run}.jsonl").read_text()
        assert text == (tmp_path / run / "results.jsonl").read_text()
        lines.append([{**json.loads(line), "date": "", "command": ""} for line in text.splitlines()])
    printed = capsys.readouterr().out
    assert "| encoder |" in printed
    assert "| atrial_fibrillation |" in printed
    assert lines[0] == lines[1], "an evaluation repeats exactly"
    assert {line["encoder"] for line in lines[0]} == {"trained", "random"}


def test_classify_answers_about_a_real_record(real_data, merl_folder, capsys):
    record = str(real_data / "ptb-xl" / "records100" / "00000" / "00001_lr")
    labels = ["--labels", "atrial fibrillation", "sinus rhythm"]
    assert main(["classify", record, "--model", str(merl_folder), "--exclusive", *labels]) == 0
    printed = capsys.readouterr().out
    assert record in printed
    assert "sinus rhythm" in printed
    assert "not a medical device" in printed
