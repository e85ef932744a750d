"""`train.py` and `evaluate` on prepared and on raw data, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepared_folder import write_prepared
from processes import launch
from transformers import AutoModel

from hf_ecgtext.cli import main
from hf_ecgtext.evaluation.results import read_results

MERL = ["--method", "merl", "--recipe", "debug", "--set", "training.disable_tqdm=true"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "tiny"
    write_prepared(folder)
    return folder


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "data"))
        from make_mimic import write_mimic_tree
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic_tree(folder, 200, num_samples=1000, records_per_subject=2)
    return folder


@pytest.mark.slow
def test_two_processes_train_on_a_prepared_folder(prepared, tmp_path):
    output = tmp_path / "out"
    settings = [
        "training.max_steps=14",
        "training.dataloader_num_workers=2",
        "training.eval_strategy=epoch",
        "--no-zero-shot",
    ]
    finished = launch(
        ["train.py", *MERL, *settings, "--data", str(prepared), "--output-dir", str(output)], tmp_path, num_processes=2
    )
    assert "368 train, 40 validation, 70 test (" in finished.stdout
    assert "Trained 14 steps on 2 process(es)." in finished.stdout
    assert AutoModel.from_pretrained(output).config.model_type == "merl"


@pytest.mark.slow
def test_two_processes_train_on_the_original_download_of_mimic_iv_ecg(mimic, tmp_path):
    output = tmp_path / "out"
    settings = ["training.max_steps=7", "training.dataloader_num_workers=2"]
    finished = launch(
        ["train.py", *MERL, *settings, "--data", "mimic_iv_ecg", "--data-dir", str(mimic), "--output-dir", str(output)],
        tmp_path,
        num_processes=2,
    )
    assert "Trained 7 steps on 2 process(es)." in finished.stdout
    assert "mimic_iv_ecg has no zero-shot task here" in finished.stdout
    assert AutoModel.from_pretrained(output).config.model_type == "merl"


def test_the_output_folder_is_named_after_the_data_and_not_its_path(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *MERL, "training.max_steps=1", "--data", str(prepared), "--no-zero-shot"]) == 0
    assert (tmp_path / "outputs" / "merl-debug-tiny" / "model.safetensors").is_file()


def test_evaluate_reads_prepared_data(prepared, merl_folder, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    options = [
        "--model",
        str(merl_folder),
        "--data",
        str(prepared),
        "--random-encoders",
        "1",
        "--results",
        str(results),
    ]
    assert main(["evaluate", *options]) == 0
    assert {result.num_records for result in read_results(results)} == {70}


def test_data_with_a_test_split_only_can_be_evaluated_but_not_trained_on(merl_folder, tmp_path, capsys):
    write_prepared(tmp_path / "data", {"test": (60,)})
    data = ["--data", str(tmp_path / "data")]
    assert main(["train", *MERL, *data, "--output-dir", str(tmp_path / "out")]) == 1
    assert "tiny has no train split here; it has: test." in capsys.readouterr().err
    evaluate = ["evaluate", "--model", str(merl_folder), *data, "--output-dir", str(tmp_path / "evaluation")]
    assert main(evaluate) == 1
    printed = capsys.readouterr().out
    assert "Not evaluated: zero_shot of " in printed
    assert "no train split here, on which random encoders are calibrated" in printed
    assert main([*evaluate, "--random-encoders", "0"]) == 0
    assert "Not evaluated" not in capsys.readouterr().out


@pytest.mark.slow
def test_validation_is_needed_only_where_it_is_asked_for(tmp_path, capsys):
    write_prepared(tmp_path / "data", {"train": (60,)})
    command = ["train", *MERL, "training.max_steps=1", "--data", str(tmp_path / "data"), "--output-dir"]
    assert main([*command, str(tmp_path / "without")]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "with"), "--set", "training.eval_strategy=epoch"]) == 1
    assert "tiny has no validation split here; it has: train." in capsys.readouterr().err


def test_options_that_contradict_how_data_was_prepared_are_refused(tmp_path, capsys):
    write_prepared(tmp_path / "data", name="mimic_iv_ecg", min_words=1)
    command = ["train", *MERL, "--data", "mimic_iv_ecg", "--data-dir", str(tmp_path / "data"), "--output-dir"]
    assert main([*command, str(tmp_path / "out"), "--data-set", "min_words=4"]) == 1
    assert "was prepared with min_words=1, not 4" in capsys.readouterr().err


def test_unknown_data_is_refused_with_what_there_is(tmp_path, capsys):
    assert main(["train", *MERL, "--data", "mimic", "--output-dir", str(tmp_path / "out")]) == 1
    assert "There is no data 'mimic'. Known data: " in capsys.readouterr().err
