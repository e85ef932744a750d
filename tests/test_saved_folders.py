"""What is saved loads again: with and without the import, with and without remote code, by pipeline and Auto class.

Where nobody has imported the library, one process imports transformers, and forks for every question; so each question
finds a process that knows nothing of this library, without paying for a new one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import environment, running_fake_hub
from torch import nn
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, PreTrainedConfig, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_ecgtext.data.ledger import LEDGER_FILE, TrainingLedger, load_ledger
from hf_ecgtext.encoders.base import EcgConfig, EcgEncoder
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.finetuning.classifier import EcgForClassification
from hf_ecgtext.hub import LOADER, PIPELINES, REPOSITORY_URL, find_class
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

pytestmark = pytest.mark.slow

OLD_CHECKPOINT = Path(__file__).parent / "old_formats" / "checkpoint"
TASKS = list(PIPELINES)
SIGNAL = np.sin(np.linspace(0, 300, 12 * 5000, dtype=np.float32)).reshape(12, 5000)
LABELS = ["sinus rhythm", "atrial fibrillation"]

QUESTIONS = """
import json, os, sys
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline
from transformers import Pipeline, ProcessorMixin, Trainer  # what hf_ecgtext would import anew in every child

assert "hf_ecgtext" not in sys.modules
places = json.loads(sys.argv[1])
TRUST = {"trust_remote_code": True}

def hide():
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "hf_ecgtext":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Hidden())

def ask(question):
    load, place, options, hidden, then = question
    if hidden:
        hide()
    try:
        loaded = load(places[place], **options)
        return [type(loaded).__name__, then(loaded) if then else None]
    except Exception as error:
        return [type(error).__name__, str(error)]

def answer_of(name, question):
    reading, writing = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writing, "w") as pipe:
            json.dump(ask(question), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answers[name] = json.load(pipe)
    os.wait()

def zero_shot(place, **options):
    return pipeline("zero-shot-ecg-classification", model=place, **options)

def of_any_task(place, **options):
    return pipeline(model=place, **options)

def scores(classifier):
    import numpy as np
    signal = np.sin(np.linspace(0, 300, 12 * 5000, dtype=np.float32)).reshape(12, 5000)
    return classifier(signal, candidate_labels=places["labels"], sampling_rate_hz=500)

def saved_again(model):  # a class of the library must not become one that transformers copies
    model.save_pretrained("again")
    return sorted(os.listdir("again"))

answers = {}
LOADERS = {
    "model": AutoModel.from_pretrained,
    "processor": AutoProcessor.from_pretrained,
    "extractor": AutoFeatureExtractor.from_pretrained,
    "zero shot": zero_shot,
    "of any task": of_any_task,
}
for name, load in LOADERS.items():
    then = scores if name in ("zero shot", "of any task") else saved_again if name == "model" else None
    answer_of(f"{name}, trusted", (load, "folder", TRUST, False, then))
for name in ("model", "processor", "zero shot"):
    answer_of(f"{name}, not trusted", (LOADERS[name], "folder", {}, False, None))
    answer_of(f"{name}, not installed", (LOADERS[name], "folder", TRUST, True, None))
    answer_of(f"{name}, from the Hub", (LOADERS[name], "repository", TRUST, False, None))
answer_of("encoder's pipeline", (of_any_task, "encoder", TRUST, False, None))
print("\\n" + json.dumps(answers))  # behind transformers' question whether to trust
"""


@pytest.fixture(scope="module")
def ledger() -> TrainingLedger:
    class Rows:
        def __len__(self) -> int:
            return 3

        def column(self, name: str) -> list[str]:
            if name not in ("record_id", "patient_id"):
                raise KeyError(name)
            return [f"{name} {number}" for number in range(3)]

    return TrainingLedger.of_splits("some_data", "1.0", {"train": Rows(), "validation": Rows()})


@pytest.fixture(scope="module")
def trained_folder(merl_folder, ledger, tmp_path_factory) -> Path:
    """A model with processor and ledger, as a trainer leaves them."""
    folder = tmp_path_factory.mktemp("trained")
    AutoModel.from_pretrained(merl_folder).save_pretrained(folder)
    AutoProcessor.from_pretrained(merl_folder).save_pretrained(folder)
    ledger.save(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_folder(trained_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    AutoModel.from_pretrained(trained_folder).ecg_encoder.save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(trained_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def answers(trained_folder, encoder_folder, tmp_path_factory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("stranger")
    with running_fake_hub() as hub:
        hub.add_repository("models/me/merl", {file.name: file.read_bytes() for file in trained_folder.iterdir()})
        places = {
            "folder": str(trained_folder),
            "encoder": str(encoder_folder),
            "repository": "me/merl",
            "labels": LABELS,
        }
        own = environment(hub, home)
        finished = subprocess.run(
            [sys.executable, "-c", QUESTIONS, json.dumps(places)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=home,
            env=own,
            timeout=240,
        )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("model, trusted", "MerlModel"),
        ("processor, trusted", "MerlProcessor"),
        ("extractor, trusted", "EcgFeatureExtractor"),
        ("zero shot, trusted", "ZeroShotEcgClassificationPipeline"),
        ("of any task, trusted", "ZeroShotEcgClassificationPipeline"),
        ("model, from the Hub", "MerlModel"),
        ("processor, from the Hub", "MerlProcessor"),
        ("zero shot, from the Hub", "ZeroShotEcgClassificationPipeline"),
        ("encoder's pipeline", "EcgFeatureExtractionPipeline"),
    ],
)
def test_by_remote_code_a_folder_loads_where_nobody_imported_the_library(answers, question, name):
    assert answers[question][0] == name, answers[question]


def test_by_remote_code_a_pipeline_answers_as_with_the_import(answers, trained_folder):
    classifier = pipeline("zero-shot-ecg-classification", model=str(trained_folder))
    expected = classifier(SIGNAL, candidate_labels=LABELS, sampling_rate_hz=500)
    assert answers["zero shot, trusted"][1] == expected
    assert answers["of any task, trusted"][1] == expected


def test_what_remote_code_loaded_is_saved_without_any_source_file_of_the_library(answers):
    assert [name for name in answers["model, trusted"][1] if name.endswith(".py")] == [f"{LOADER}.py"]


@pytest.mark.parametrize("what", ["model", "processor", "zero shot"])
def test_where_the_library_is_not_installed_the_error_names_its_repository_and_no_package_of_that_name(answers, what):
    kind, message = answers[f"{what}, not installed"]
    assert kind == "ImportError"
    assert f"pip install git+{REPOSITORY_URL}" in message
    assert "pip install hf" not in message


@pytest.mark.parametrize("what", ["model", "processor", "zero shot"])
def test_without_import_and_without_trust_nothing_is_run(answers, what):
    kind, message = answers[f"{what}, not trusted"]
    assert kind == "ValueError"
    assert "trust_remote_code=True" in message


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_pipeline_loads_again_with_and_without_its_task_and_answers_the_same(
    task, trained_folder, ledger, tmp_path
):
    made = pipeline(task, model=str(trained_folder))
    made.save_pretrained(tmp_path)
    question = {"candidate_labels": LABELS} if task.startswith("zero-shot") else {}
    expected = made(SIGNAL, sampling_rate_hz=500, **question)
    for options in ({"task": task}, {}, {"trust_remote_code": True}):
        again = pipeline(model=str(tmp_path), **options)
        assert (type(again), again.task) == (type(made), task)
        assert same_weights(made.model, again.model)
        np.testing.assert_equal(again(SIGNAL, sampling_rate_hz=500, **question), expected)
    for other in TASKS:
        assert type(pipeline(other, model=str(tmp_path))).__name__ == PIPELINES[other], "the folder is complete"
    assert load_ledger(str(tmp_path)).files() == ledger.files()


def test_the_pipeline_of_an_encoder_loads_again(encoder_folder, tmp_path):
    made = pipeline(model=str(encoder_folder))
    made.save_pretrained(tmp_path)
    again = pipeline(model=str(tmp_path))
    np.testing.assert_array_equal(again(SIGNAL, sampling_rate_hz=500), made(SIGNAL, sampling_rate_hz=500))


def test_a_pipeline_with_a_changed_extractor_saves_the_change(trained_folder, tmp_path):
    extractor = AutoFeatureExtractor.from_pretrained(trained_folder, nan_policy="zero")
    pipeline(TASKS[1], model=str(trained_folder), feature_extractor=extractor).save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).feature_extractor.nan_policy == "zero"


@pytest.mark.parametrize("method", method_names())
def test_every_method_saves_what_finds_its_classes_and_loads_to_the_bit(method, tmp_path):
    model, processor = get_recipe(method, "debug").build(seed=0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    written = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("config", "processor_config")}
    auto_map = written["config"]["auto_map"] | written["processor_config"]["auto_map"]
    classes = {"AutoConfig": model.config, "AutoModel": model, "AutoProcessor": processor}
    assert auto_map == {name: f"{LOADER}.{type(example).__name__}" for name, example in classes.items()}
    for example in classes.values():
        assert find_class(type(example).__name__) is type(example)
    again = AutoModel.from_pretrained(tmp_path)
    assert same_weights(model, again)
    assert again.config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}
    assert AutoProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_the_loader_module_finds_every_class_of_ours_and_no_other():
    kinds = [kind for kind in _below(PreTrainedConfig) if kind.__module__.startswith("hf_ecgtext.")]
    assert {"EtpConfig", "Vit1dConfig", "EcgClassifierConfig"} <= {kind.__name__ for kind in kinds}
    assert all(find_class(kind.__name__) is kind for kind in kinds)
    for name in ("BertModel", "TrainingLedger", "NoSuchModel"):
        with pytest.raises(AttributeError, match=f"no class {name}"):
            find_class(name)


def _below(kind: type) -> set[type]:
    return {kind}.union(*map(_below, kind.__subclasses__()))


def test_the_tasks_in_saved_folders_are_those_that_are_registered():
    registered = {task: PIPELINE_REGISTRY.check_task(task)[1]["impl"].__name__ for task in TASKS}
    assert registered == PIPELINES


def test_a_class_of_another_program_gets_no_entry_that_this_library_could_not_serve(tmp_path):
    class TheirConfig(EcgConfig):
        model_type = "theirs"

    TheirConfig().save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert not (tmp_path / f"{LOADER}.py").exists()


def test_what_is_noted_for_loading_is_no_setting(trained_folder):
    model = AutoModel.from_pretrained(trained_folder)
    assert not {"auto_map", "custom_pipelines"} & model.config.to_dict().keys()
    assert "auto_map" not in model.config.to_json_string(use_diff=False)
    processor = AutoProcessor.from_pretrained(trained_folder)
    assert "auto_map" not in processor.to_json_string()


# Ledger and card


def test_the_ledger_goes_with_the_model_its_encoder_and_its_classifier(trained_folder, ledger, tmp_path):
    model = AutoModel.from_pretrained(trained_folder)
    alone = EcgEncoder.__subclasses__()  # an encoder may also be taken out of the folder directly
    [kind] = [kind for kind in alone if isinstance(model.ecg_encoder, kind)]
    for name, saved in {
        "model": model,
        "encoder": model.ecg_encoder,
        "classifier": EcgForClassification.from_ecg_text_model(model, ["a", "b"]),
        "taken out": kind.from_pretrained(model_encoder_folder(model, tmp_path)),
    }.items():
        saved.save_pretrained(tmp_path / name)
        assert load_ledger(str(tmp_path / name)).files() == ledger.files()
        card = (tmp_path / name / "README.md").read_text()
        assert "| some_data | 1.0 | train | 3 | trained on |" in card
        assert type(saved).__name__ in card
        assert "not a medical device" in card


def model_encoder_folder(model: Any, folder: Path) -> Path:
    model.ecg_encoder.save_pretrained(folder / "source")
    return folder / "source"


def test_the_ledger_is_kept_although_its_folder_is_gone(trained_folder, ledger, tmp_path):
    AutoModel.from_pretrained(trained_folder).save_pretrained(tmp_path / "first")
    model = AutoModel.from_pretrained(tmp_path / "first")
    for file in (tmp_path / "first").iterdir():
        file.unlink()
    model.save_pretrained(tmp_path / "second")
    assert load_ledger(str(tmp_path / "second")).files() == ledger.files()


def test_a_new_model_says_that_nobody_knows_its_training_data(merl_folder):
    assert not (merl_folder / LEDGER_FILE).exists()
    assert "Not known" in (merl_folder / "README.md").read_text()


def test_a_card_that_people_wrote_is_kept_and_our_own_is_brought_up_to_date(trained_folder, merl_folder, tmp_path):
    AutoModel.from_pretrained(merl_folder).save_pretrained(tmp_path)
    assert "Not known" in (tmp_path / "README.md").read_text()
    model = AutoModel.from_pretrained(trained_folder)
    model.save_pretrained(tmp_path)
    assert "some_data" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("# Mine\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"trained_on": 5}', "[" * 100_000])
def test_a_damaged_ledger_is_named_when_it_would_be_copied(content, trained_folder, tmp_path):
    model = AutoModel.from_pretrained(trained_folder)
    model.training_data = {LEDGER_FILE: content.encode()}
    with pytest.raises(CheckpointError, match=r"training_data.json.*is damaged"):
        model.save_pretrained(tmp_path)


def test_what_a_trainer_trained_keeps_its_ledger_wherever_it_is_saved(synthetic_dataset, tmp_path, ledger):
    recipe = get_recipe("merl", "debug").override({"ecg.sampling_rate_hz": 100})
    model, processor = recipe.build(seed=0)
    arguments = EcgTextTrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=8,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    trainer = EcgTextTrainer(
        model=model, args=arguments, train_dataset=synthetic_dataset, processor=processor, ledger=ledger
    )
    trainer.train()
    trainer.save_model()
    trainer.model.save_pretrained(tmp_path / "elsewhere")
    for place in ("run", "run/checkpoint-1", "elsewhere"):
        assert load_ledger(str(tmp_path / place)).files() == ledger.files()
        assert "some_data" in (tmp_path / place / "README.md").read_text()
    assert pipeline(model=str(tmp_path / "run")).task == "zero-shot-ecg-classification"


def test_a_folder_of_an_earlier_version_is_saved_anew_with_all_that_belongs_to_it(tmp_path):
    classifier = pipeline("zero-shot-ecg-classification", model=str(OLD_CHECKPOINT))
    classifier.save_pretrained(tmp_path)
    assert same_weights(classifier.model, AutoModel.from_pretrained(tmp_path))
    assert load_ledger(str(tmp_path)).files() == load_ledger(str(OLD_CHECKPOINT)).files()
    assert {f"{LOADER}.py", "README.md", "processor_config.json"} <= {file.name for file in tmp_path.iterdir()}
