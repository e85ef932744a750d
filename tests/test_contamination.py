"""A checkpoint is not evaluated on what it was trained on, unless one insists; then it is recorded."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from fake_hub import TOKEN, running_fake_hub
from transformers import AutoModel, AutoProcessor

from hf_ecgtext.cli import main
from hf_ecgtext.data.ledger import TrainingLedger, load_ledger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.errors import ContaminationError
from hf_ecgtext.evaluation.contamination import check_contamination
from hf_ecgtext.evaluation.results import EvaluationResult, read_results
from hf_ecgtext.harness.matrix import evaluate_zero_shot
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

DATA = ["--data-set", "num_records=200", "sampling_rate_hz=100.0"]


@pytest.fixture(scope="module", autouse=True)
def data_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data():
    return open_data("synthetic", num_records=200, sampling_rate_hz=100.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that `hf-ecgtext train` wrote, with one checkpoint in it."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    settings = ["--set", "training.max_steps=2", "training.save_strategy=steps", "training.save_steps=1"]
    options = ["--method", "merl", "--recipe", "debug", "--no-zero-shot", "--output-dir", str(folder)]
    assert main(["train", *options, *settings, "training.disable_tqdm=true", *DATA]) == 0
    return folder


@pytest.fixture
def evaluate(tmp_path):
    def run(folder, *options: str) -> int:
        results = ["--results", str(tmp_path / "results.jsonl"), "--random-encoders", "1"]
        return main(["evaluate", "--model", str(folder), *DATA, *results, *options])

    return run


def contaminate(folder, copy, data, records) -> None:
    """A copy of a checkpoint whose training data held some of the test records, as its ledger says."""
    shutil.copytree(folder, copy)
    leaked = TrainingLedger.of_splits(data.name, "leaked", {"train": Part(data, records)})
    TrainingLedger.load(folder).merge(leaked).save(copy)


class Part:
    """Some test records, as columns; with `patients_only`, other records of their patients."""

    def __init__(self, data, records, patients_only=False):
        self.data, self.records, self.patients_only = data, records, patients_only

    def __len__(self):
        return len(self.records)

    def column(self, name):
        if name == "record_id" and self.patients_only:
            return [f"other-{record}" for record in self.records]
        values = self.data.test.column(name)
        return [values[record] for record in self.records]


def test_every_checkpoint_says_what_it_was_trained_on(trained, data):
    for folder in (trained, trained / "checkpoint-1", trained / "checkpoint-2"):
        ledger = TrainingLedger.load(folder)
        assert [(entry.split, entry.records) for entry in ledger.entries] == [("train", 160), ("validation", 20)]
        assert ledger.look_up("synthetic", data.train).trained.all()
        assert ledger.look_up("synthetic", data.validation).validated.all()
        overlap = ledger.look_up("synthetic", data.test)
        assert not (overlap.trained | overlap.patient_trained | overlap.validated).any()
        assert ledger.unknown == ()


def test_a_clean_checkpoint_is_evaluated_and_recorded_as_clean(trained, evaluate, tmp_path):
    assert evaluate(trained) == 0
    assert {line.contamination for line in read_results(tmp_path / "results.jsonl")} == {"none"}


def test_a_checkpoint_that_saw_test_records_is_refused_by_name(trained, data, evaluate, tmp_path, capsys):
    contaminate(trained, tmp_path / "leaky", data, [3, 5])
    assert evaluate(tmp_path / "leaky") == 1
    message = capsys.readouterr().err
    assert "2 of 20 test records were seen in training" in message
    ids = data.test.column("record_id")
    assert f"(synthetic:{ids[3]}, synthetic:{ids[5]})" in message
    assert "--allow-seen" in message
    assert not (tmp_path / "results.jsonl").exists()


def test_an_override_is_loud_and_recorded(trained, data, evaluate, tmp_path, caplog):
    contaminate(trained, tmp_path / "leaky", data, [3, 5])
    assert evaluate(tmp_path / "leaky", "--allow-seen") == 0
    loud = [record for record in caplog.records if "were seen in training" in record.getMessage()]
    assert [record.levelno for record in loud] == [logging.WARNING]
    lines = read_results(tmp_path / "results.jsonl")
    recorded = {(line.encoder, line.contamination) for line in lines}
    patients = data.test.column("patient_id")
    others = sum(patients.count(patient) for patient in {patients[3], patients[5]}) - 2
    noted = f"; {others} of 20 test records are of patients whose other records were seen in training" if others else ""
    assert recorded == {("trained", f"2 of 20 test records were seen in training{noted}"), ("random", "none")}


def test_other_records_of_a_test_patient_are_refused_too(data):
    ledger = TrainingLedger.of_splits(data.name, "leaked", {"train": Part(data, [0, 1, 2], patients_only=True)})
    with pytest.raises(ContaminationError, match="3 of 20 test records are of patients whose other records were seen"):
        check_contamination(ledger, data, "test", checkpoint="leaky")
    noted = check_contamination(ledger, data, "test", checkpoint="leaky", allow_seen=True)
    assert noted == "3 of 20 test records are of patients whose other records were seen in training"


def test_records_that_chose_the_checkpoint_are_reported_apart(data):
    ledger = TrainingLedger.of_splits(data.name, "1", {"validation": Part(data, [0, 1])})
    noted = check_contamination(ledger, data, "test", checkpoint="x")
    assert noted == "none; 2 of 20 test records were validation records of the training"


def test_a_ptb_xl_record_that_was_trained_on_through_cinc2021_is_recognised(data):
    class Repacked(Part):
        def column(self, name):
            if name == "origin_id":
                return [f"synthetic:{record}" for record in super().column("record_id")]
            return [f"HR{place}" for place in self.records] if name == "record_id" else [None] * len(self)

    ledger = TrainingLedger.of_splits("cinc2021", "1.0.3", {"train": Repacked(data, [7])})
    with pytest.raises(ContaminationError, match=f"synthetic:{data.test.column('record_id')[7]}"):
        check_contamination(ledger, data, "test", checkpoint="x")


def test_a_checkpoint_without_a_ledger_is_evaluated_with_one_warning(merl_folder, evaluate, tmp_path, caplog):
    assert load_ledger(str(merl_folder)) is None
    assert evaluate(merl_folder) == 0
    assert len([line for line in caplog.messages if "does not say what it was trained on" in line]) == 1
    lines = read_results(tmp_path / "results.jsonl")
    assert {line.contamination for line in lines if line.encoder == "trained"} == {
        "unknown: the checkpoint has no ledger"
    }


def test_a_damaged_ledger_is_no_way_around_the_check(trained, evaluate, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "damaged")
    (tmp_path / "damaged" / "training_data.safetensors").write_bytes(b"")
    assert evaluate(tmp_path / "damaged") == 1
    assert "do not belong together, or one is damaged" in capsys.readouterr().err


def test_continued_training_keeps_the_ledger_of_its_start(trained, synthetic_dataset, tmp_path):
    model, processor = AutoModel.from_pretrained(trained), AutoProcessor.from_pretrained(trained)
    arguments = EcgTextTrainingArguments(str(tmp_path), max_steps=1, disable_tqdm=True, save_strategy="no")
    ledger = TrainingLedger.of_splits("more", "1", {"train": synthetic_dataset})
    trainer = EcgTextTrainer(model, arguments, processor, synthetic_dataset, ledger=ledger)
    trainer.save_model()
    trained_on = [entry.dataset for entry in TrainingLedger.load(tmp_path).entries if entry.split == "train"]
    assert trained_on == ["synthetic", "more"]
    EcgTextTrainer(model, arguments, processor, synthetic_dataset).save_model()
    unnamed = TrainingLedger.load(tmp_path)
    assert unnamed.unknown == ("data that the trainer was given without a ledger",)
    assert len(unnamed.trained_records) == 160


def test_unknown_parts_of_a_training_are_recorded(data):
    noted = check_contamination(TrainingLedger(unknown=("a gift",)), data, "test", checkpoint="x")
    assert noted == "unknown: a gift"


def test_training_on_test_records_is_refused_before_it_starts(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "hf_ecgtext.training.run.open_data", lambda *_, **__: dataclasses.replace(data, test=data.train)
    )
    options = ["--method", "merl", "--recipe", "debug", "--output-dir", str(tmp_path / "out"), *DATA]
    assert main(["train", *options, "--set", "training.disable_tqdm=true"]) == 1
    assert "160 of 160 test records were seen in training" in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.slow
def test_scores_that_were_kept_are_checked_again(tmp_path, data, capsys):
    options = [
        "compare", "--methods", "merl", "--recipe", "debug", "--data", "synthetic", *DATA,
        "--set", "training.max_steps=1", "training.disable_tqdm=true", "--prompts", "plain", "--random-encoders", "0",
        "--output-dir", str(tmp_path), "--results", str(tmp_path / "results.jsonl"),
    ]  # fmt: skip
    assert main(options) == 0
    assert {line.contamination for line in read_results(tmp_path / "results.jsonl")} == {"none"}
    ledger = TrainingLedger.load(tmp_path / "merl")
    ledger.merge(TrainingLedger.of_splits(data.name, "leaked", {"train": Part(data, [0])})).save(tmp_path / "merl")
    assert main([*options, "--resume"]) == 1
    assert "1 of 20 test records were seen in training" in capsys.readouterr().err
    assert main([*options, "--resume", "--allow-seen"]) == 0
    lines = read_results(tmp_path / "results.jsonl")
    assert {line.contamination for line in lines} == {"1 of 20 test records were seen in training"}


def test_a_checkpoint_without_a_ledger_is_evaluated_and_says_so(trained, data, tmp_path):
    model, processor = AutoModel.from_pretrained(trained).eval(), AutoProcessor.from_pretrained(trained)
    lines = evaluate_zero_shot(
        model, processor, data, checkpoint="x", seed=0, folder=tmp_path, num_resamples=10, num_random_encoders=0,
        show_progress=False,
    )  # fmt: skip
    assert {line.contamination for line in lines} == {"unknown: the checkpoint has no ledger"}


def test_result_lines_of_before_are_read_as_not_checked():
    line = json.loads(
        EvaluationResult(
            task="t", protocol="strict", metric="auroc", value=None, confidence_interval=None, num_records=0,
            num_positives={}, per_class={}, per_class_intervals={}, seed=0, checkpoint="x",
            data={"name": "n", "revision": "r", "split": "test"}, prompts=None, encoder="trained", contamination="none",
        ).to_json()
    )  # fmt: skip
    assert EvaluationResult.from_json(json.dumps(line)).contamination == "none"
    del line["contamination"], line["schema_version"]
    assert EvaluationResult.from_json(json.dumps(line)).contamination == "not checked"


FROM_THE_HUB = """
import dataclasses
import json
from pathlib import Path
from huggingface_hub import HfApi
from hf_ecgtext.data.ledger import TrainingLedger, continued_ledger, load_ledger
from hf_ecgtext.errors import CheckpointError

class Columns:
    def column(self, name):
        return {"record_id": ["1", "2"], "patient_id": [None, "a"]}[name]
    def __len__(self):
        return 2

Path("model").mkdir()
TrainingLedger.of_splits("ptb_xl", "1.0.3", {"train": Columns()}).save("model")
api = HfApi()
for repository, files in (("me/whole", "*"), ("me/half", "*.json"), ("me/bare", "nothing")):
    api.create_repo(repository)
    if files != "nothing":
        api.upload_folder(repo_id=repository, folder_path="model", allow_patterns=files)
try:
    half = load_ledger("me/half")
except CheckpointError as error:
    half = str(error)
print(json.dumps({
    "whole": load_ledger("me/whole").look_up("ptb_xl", Columns()).trained.tolist(),
    "continued": [entry.dataset for entry in continued_ledger(None, "me/whole").entries],
    "half": half,
    "bare": load_ledger("me/bare"),
    "absent": load_ledger("me/absent"),
}))
"""


@pytest.mark.slow
def test_the_ledger_of_a_hub_repository_is_read(tmp_path):
    with running_fake_hub() as hub:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        finished = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["whole"] == [True, True]
    assert found["continued"] == ["ptb_xl"]
    assert "'me/half' lacks training_data.safetensors" in found["half"]
    assert found["bare"] is None
    assert found["absent"] is None


class Index:
    """The index of an original download, as the ledger sees a split of it."""

    def __init__(self, name, location, **options):
        self.records = open_source(name, location, **options).index().records

    def __len__(self):
        return self.records.num_rows

    def column(self, name):
        return self.records.column(name).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "repacked_as", "dropped"), [("ptb_xl", "ptb-xl", "HR*.hea", "HR"), ("csn", "csn", "JS*.hea", "")]
)
def test_real_recordings_are_recognised_through_cinc2021(real_data, name, folder, repacked_as, dropped):
    repacked = Index("cinc2021", real_data / "cinc2021")
    ledger = TrainingLedger.of_splits("cinc2021", "1.0.3", {"train": repacked})
    original = Index(name, real_data / folder)
    overlap = ledger.look_up(name, original)
    headers = (real_data / "cinc2021").rglob(repacked_as)
    seen = {header.stem.removeprefix(dropped) for header in headers} & set(original.column("record_id"))
    assert {
        key.partition(":")[2] for key, trained in zip(overlap.keys, overlap.trained, strict=True) if trained
    } == seen
    assert seen, "the samples of both share records"
