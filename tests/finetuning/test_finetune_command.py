"""`hf-ecgtext finetune` as a user types it."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoFeatureExtractor, AutoModel

from hf_ecgtext.cli import main
from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.evaluation.results import read_results

DATA = ["--data-set", "num_records=200", "sampling_rate_hz=100.0"]
FAST = ["--set", "training.num_train_epochs=1", "training.disable_tqdm=true", "--resamples", "20"]


@pytest.fixture(scope="module", autouse=True)
def data_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def command(model, folder, *options) -> list[str]:
    return ["finetune", "--model", str(model), "--output-dir", str(folder), *DATA, *FAST, *options]


@pytest.mark.slow
def test_it_trains_once_per_number_of_leads_and_goes_on_where_it_was(merl_folder, tmp_path, capsys):
    assert main(command(merl_folder, tmp_path, "--leads", "12")) == 0
    assert main(command(merl_folder, tmp_path, "--leads", "12")) == 1
    assert "already holds a fine-tuning" in capsys.readouterr().err
    assert main(command(merl_folder, tmp_path, "--leads", "12", "2", "--resume")) == 0
    printed = capsys.readouterr().out
    assert "synthetic with leads I, II" in printed
    assert "Fine-tuning: AUROC on synthetic by leads" in printed
    results = read_results(tmp_path / "results.jsonl")
    cells = [(result.settings["leads"], result.metric, result.min_positives) for result in results]
    assert len(cells) == len(set(cells)), "no line was written twice"
    assert {metric for _, metric, _ in cells} >= {"auroc", "average_precision"}
    assert {leads for leads, *_ in cells} == {12, 2}
    assert {(result.evaluation, result.checkpoint) for result in results} == {("finetune", str(merl_folder))}
    model = AutoModel.from_pretrained(tmp_path / "leads-2")
    assert tuple(model.config.leads) == ("I", "II")
    assert not AutoFeatureExtractor.from_pretrained(tmp_path / "leads-2").derive_limb_leads


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks by that name
def test_adapters_are_trained_on_request(merl_folder, tmp_path):
    assert main(command(merl_folder, tmp_path, "--lora", "--set", "lora.rank=2")) == 0
    result = read_results(tmp_path / "results.jsonl")[0]
    assert result.settings == {"leads": 12, "lora": True, "recipe": "default disable_tqdm=True num_train_epochs=1"}


def test_a_model_that_has_seen_test_records_is_refused_unless_allowed(merl_folder, tmp_path, capsys):
    shutil.copytree(merl_folder, tmp_path / "seen")
    data = open_data("synthetic", num_records=200, sampling_rate_hz=100.0)
    TrainingLedger.of_splits("synthetic", "x", {"train": data.test}).save(tmp_path / "seen")
    assert main(command(tmp_path / "seen", tmp_path / "a")) == 1
    assert "20 of 20 test records were seen in training" in capsys.readouterr().err
    assert main(command(tmp_path / "seen", tmp_path / "b", "--allow-seen")) == 0
    assert "were seen in training" in read_results(tmp_path / "b" / "results.jsonl")[0].contamination


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "ptbxl_super"], "no task 'ptbxl_super'; its tasks: synthetic"),
        (["--set", "training.num_epochs=1"], "did you mean 'num_train_epochs'"),
        (["--set", "training.seed=1"], "write --seed instead"),
        (["--set", "epochs=1"], "Cannot set 'epochs'"),
        (["--set", "lora.rank=2"], "no effect without --lora"),
        (["--lora", "--set", "lora.r=2"], "lora.r: there is no such setting; there are rank"),
    ],
)
def test_what_cannot_be_done_is_explained(merl_folder, tmp_path, capsys, options, message):
    assert main(command(merl_folder, tmp_path / "out", *options)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
