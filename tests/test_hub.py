"""Pushing to a Hub and loading from it, against a small Hub on loopback; nothing else is ever contacted.

The library runs in processes of its own here, because huggingface_hub reads its settings when it is imported: one
process pushes, another one with an empty cache loads, and the tests look at what they report.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, environment, running_fake_hub

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]

ONLY_LOOPBACK = """
import os, sys

def only_loopback(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host != "127.0.0.1":
        print(f"The program tried to contact {host!r}.", file=sys.stderr, flush=True)
        os._exit(70)  # an exception could be swallowed on its way

sys.addaudithook(only_loopback)
"""

SAMPLE = """
import json
import torch
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

[record] = SyntheticEcgGenerator(seed=0).records(1)

def features(model, processor):
    inputs = processor(ecg=record, text=record.report)
    model.eval()
    with torch.no_grad():
        ecg_embeds = model.get_ecg_features(inputs["ecg_values"], inputs["lead_mask"])
        text_embeds = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    return ecg_embeds[0].tolist() + text_embeds[0].tolist()
"""

PUSH = """
import runpy
from datasets import load_dataset
from transformers import pipeline
from hf_ecgtext.methods import get_recipe

model, processor = get_recipe("merl", "debug").build(seed=0)
model.push_to_hub("me/merl")
processor.push_to_hub("me/merl")

model.save_pretrained("again", push_to_hub=True, repo_id="me/again")
pipe = pipeline("ecg-feature-extraction", model=model, processor=processor)
pipe.push_to_hub("me/again", tags=["small"], commit_message="A pipeline")

main = runpy.run_path(sys.argv[1])["main"]
main(["--data-set", "num_records=30", "sampling_rate_hz=100", "--output-dir=ecgs", "--push-to-hub=me/synthetic"])
stored = load_dataset("parquet", data_files="ecgs/data/test-*.parquet", split="train")

print(json.dumps({"features": features(model, processor), "rows": stored.to_list()}, default=bytes.hex))
"""

LOAD = """
import datasets
from transformers import AutoModel, AutoProcessor, pipeline
import hf_ecgtext

def error_of(load, name):
    try:
        load(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"

def zero_shot(name):
    return pipeline("zero-shot-ecg-classification", model=name)

model, processor = AutoModel.from_pretrained("me/merl"), AutoProcessor.from_pretrained("me/merl")
answers = zero_shot("me/merl")(record, candidate_labels=["asystole", record.report])
cosines = {answer["label"]: answer["score"] for answer in answers}

# The server of the exports would be datasets-server.127.0.0.1, which is no address.
datasets.config.USE_PARQUET_EXPORT = False
stream = datasets.load_dataset("me/synthetic", split="test", streaming=True)

print(json.dumps({
    "classes": [type(model).__name__, type(processor).__name__],
    "features": features(model, processor),
    "cosine": cosines[record.report],
    "rows": list(stream),
    "errors": {
        "processor of a bare model": error_of(AutoProcessor.from_pretrained, "me/without-processor"),
        "pipeline of a bare model": error_of(zero_shot, "me/without-processor"),
        "pickle": error_of(AutoModel.from_pretrained, "me/pickle"),
        "no weights": error_of(AutoModel.from_pretrained, "me/without-weights"),
        "nothing": error_of(AutoModel.from_pretrained, "me/nothing"),
    },
}, default=bytes.hex))
"""


def run(program: str, hub: FakeHub, home: Path) -> dict[str, Any]:
    """Run a program that knows only this Hub and an empty cache, and return what it reports in its last line."""
    own = environment(hub, home)
    command = [sys.executable, "-c", ONLY_LOOPBACK + SAMPLE + program]
    command.append(str(REPOSITORY / "dataset_scripts" / "synthetic.py"))
    finished = subprocess.run(command, capture_output=True, text=True, cwd=home, env=own, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running_fake_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> dict[str, Any]:
    return run(PUSH, hub, tmp_path_factory.mktemp("author"))


@pytest.fixture(scope="module")
def loaded(hub, pushed, tmp_path_factory) -> dict[str, Any]:
    files = hub.repositories["models/me/merl"].files
    only_model = {name: files[name] for name in ("config.json", "model.safetensors")}
    only_config = {"config.json": files["config.json"]}
    hub.add_repository("models/me/without-processor", only_model)
    hub.add_repository("models/me/without-weights", only_config)
    hub.add_repository("models/me/pickle", only_config | {"pytorch_model.bin": b"never opened"})
    return run(LOAD, hub, tmp_path_factory.mktemp("reader"))


def test_a_push_uploads_weights_only_as_safetensors(hub, pushed):
    repository = hub.repositories["models/me/merl"]
    names = set(repository.files)
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= names
    others = {name for name in names if not name.endswith((".json", ".md"))}
    assert others == {".gitattributes", "load_with_hf_ecgtext.py", "model.safetensors"}
    assert len(repository.commit_messages) == 3, "creation, model, processor"


def test_a_push_uploads_the_card_that_saving_writes_under_the_name_of_the_repository(hub, pushed):
    card = hub.repositories["models/me/merl"].files["README.md"].decode()
    assert "library_name: hf_ecgtext" in card
    assert 'pipeline("zero-shot-ecg-classification", model="me/merl")' in card
    assert "not a medical device" in card


def test_a_pipeline_is_pushed_whole_in_one_commit_and_adds_tags_to_the_card_there_is(hub, pushed):
    repository = hub.repositories["models/me/again"]
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(repository.files)
    assert list(json.loads(repository.files["config.json"])["custom_pipelines"]) == ["ecg-feature-extraction"]
    assert [message.partition(" ")[2] for message in repository.commit_messages[1:]] == [
        "Upload by hf_ecgtext",
        "A pipeline",
    ]
    card = repository.files["README.md"].decode()
    assert "- ecg\n" in card
    assert "- small\n" in card


def test_a_pushed_model_and_processor_load_from_an_empty_cache_and_give_the_same_features(pushed, loaded):
    assert loaded["classes"] == ["MerlModel", "MerlProcessor"]
    assert loaded["features"] == pytest.approx(pushed["features"], abs=1e-6)


def test_a_pipeline_loads_from_the_hub_and_scores_with_the_pushed_model(pushed, loaded):
    half = len(pushed["features"]) // 2
    ecg_embeds, text_embeds = pushed["features"][:half], pushed["features"][half:]
    cosine = sum(a * b for a, b in zip(ecg_embeds, text_embeds, strict=True))
    assert loaded["cosine"] == pytest.approx(cosine, abs=1e-6)


def test_a_pushed_dataset_streams_back_with_every_sample(hub, pushed, loaded):
    files = hub.repositories["datasets/me/synthetic"].files
    assert sorted(name for name in files if name.endswith(".parquet")) == [
        f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")
    ]
    assert b"license: apache-2.0" in files["README.md"]
    assert len(loaded["rows"]) == 3
    assert loaded["rows"] == pushed["rows"]


@pytest.mark.parametrize("how", ["processor", "pipeline"])
def test_a_repository_without_a_processor_says_so_and_how_to_add_it(loaded, how):
    error = loaded["errors"][f"{how} of a bare model"]
    assert error.startswith("CheckpointError: The processor of 'me/without-processor' is missing or cannot be loaded.")
    assert "processor.push_to_hub" in error


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        (
            "pickle",
            "CheckpointError: 'me/pickle' holds its weights only as a pickle (pytorch_model.bin), which can run",
        ),
        ("no weights", "OSError: me/without-weights does not appear to have a file named model.safetensors"),
        ("nothing", "OSError: me/nothing is not a local folder and is not a valid model identifier"),
    ],
)
def test_a_repository_without_usable_weights_is_an_error_that_names_it(loaded, repository, message):
    assert loaded["errors"][repository].startswith(message)


def test_the_fake_hub_knew_an_answer_to_every_request(hub, loaded):
    assert hub.unknown_requests == []
