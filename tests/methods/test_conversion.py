"""What all converters share, and the contract that the converter of every method keeps."""

from __future__ import annotations

import argparse
import re
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from published_files import PUBLISHED_FILES, PublishedFile
from safetensors.torch import save_file
from torch import nn
from transformers import BertModel

from hf_ecgtext.commands.convert import convertible_methods, get_converter
from hf_ecgtext.encoders.base import EcgEncoder
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.methods.conversion import fill_model, load_published, plain_state_dict, rename, shape_of
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def assert_same(ours: dict, expected: dict) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor)


# Files


def test_safetensors_are_read_as_pickles_are(tmp_path):
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        assert_same(load_published(tmp_path / name), WEIGHTS)


@pytest.mark.parametrize("as_zip", [True, False])
def test_the_settings_of_a_trainer_beside_the_weights_are_left_out(tmp_path, as_zip):
    """As fairseq saves: its arguments, its scores, and the weights under `model`."""
    checkpoint = {
        "args": argparse.Namespace(arch="dbeta", nested=argparse.Namespace(lr=[1e-4])),
        "cfg": {"common": {"seed": 1}, "model": argparse.Namespace(layers=8)},
        "model": WEIGHTS,
        "optimizer_history": [{"num_updates": 3, "best": np.float64(0.5)}],
        "extra_state": defaultdict(dict, epoch=3),
    }
    torch.save(checkpoint, tmp_path / "sample.pt", _use_new_zipfile_serialization=as_zip)
    content = load_published(tmp_path / "sample.pt")
    assert_same(plain_state_dict(content, "D-BETA"), WEIGHTS)
    assert content["cfg"]["common"] == {"seed": 1}
    assert not isinstance(content["args"], argparse.Namespace)
    assert vars(content["args"]) == {}, "a stand-in that keeps nothing"


def test_omegaconf_s_containers_are_left_out_without_omegaconf(tmp_path, monkeypatch):
    modules = {name: types.ModuleType(name) for name in ("omegaconf", "omegaconf.dictconfig", "omegaconf.nodes")}
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        for module, name in (("omegaconf.dictconfig", "DictConfig"), ("omegaconf.nodes", "AnyNode")):
            setattr(modules[module], name, type(name, (), {"__module__": module}))
        config, node = modules["omegaconf.dictconfig"].DictConfig(), modules["omegaconf.nodes"].AnyNode()
        config.content, config.cache, config.kind = {"lr": node}, defaultdict(dict), dict
        torch.save({"cfg": config, "model": WEIGHTS}, tmp_path / "checkpoint.pt")
    assert_same(plain_state_dict(load_published(tmp_path / "checkpoint.pt"), "ECG-FM"), WEIGHTS)


def test_what_is_left_out_of_published_files_is_not_let_into_other_files(tmp_path):
    torch.save({"args": argparse.Namespace()}, tmp_path / "args.pt")
    before = set(torch.serialization.get_safe_globals())  # torch keeps them in no order
    load_published(tmp_path / "args.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match=r"argparse.Namespace was not an allowed global"):
        torch.load(tmp_path / "args.pt", weights_only=True)


@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", "model", None])
def test_a_state_dict_is_found_in_what_training_tools_put_around_it(wrapper):
    weights = {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}
    content = weights if wrapper is None else {"epoch": 3, wrapper: weights, "optimizer": {"state": {}}}
    assert_same(plain_state_dict(content, "MERL"), WEIGHTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it is empty"),
        ({"epoch": 3, **WEIGHTS}, r"\['epoch'\] are not tensors"),
        ({"w": torch.zeros(1).expand(10**6, 10**6)}, r"\['w'\] are no ordinary"),  # 4 bytes that say they are 4 TB
        ({"w": torch.zeros(2, device="meta")}, r"\['w'\] are no ordinary"),
        ({"w": torch.eye(2).to_sparse()}, r"\['w'\] are no ordinary"),
    ],
)
def test_what_is_no_plain_state_dict_is_refused(content, message):
    with pytest.raises(CheckpointError, match=f"This is no MERL state dict: {message}"):
        plain_state_dict(content, "MERL")


# Weights


def test_the_first_pattern_that_matches_renames_and_unused_weights_go():
    weights = {"lm.x": torch.zeros(1), "block3.y": torch.zeros(1), "other": torch.zeros(1), "gone.z": torch.zeros(1)}
    renames = ((r"^lm\.", "text."), (r"^block(\d)\.", lambda match: f"layers.{int(match[1]) - 1}."), (r"^text\.", "t."))
    assert list(rename(weights, renames, re.compile("^gone"))) == ["text.x", "layers.2.y", "other"]


def test_two_published_names_of_one_weight_are_refused():
    weights = {"old.x": torch.zeros(1), "new.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"holds 'new.x' twice"):
        rename(weights, ((r"^old\.", "new."),))


def test_every_kind_of_misfit_is_named_at_once_and_nothing_is_loaded():
    model = nn.ModuleDict({name: nn.Linear(3, 2) for name in ("a", "b", "c")})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: torch.zeros_like(tensor) for name, tensor in before.items() if name != "a.weight"}
    weights |= {"b.bias": torch.zeros(5), "d.bias": torch.zeros(2)}
    expected = (
        r"complete X; missing: \['a.weight'\]; left over: \['d.bias'\]; "
        r"of another shape: \['b.bias: \(5,\) instead of \(2,\)'\]\.$"
    )
    with pytest.raises(CheckpointError, match=expected):
        fill_model(model, weights, "X")
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(value):
    model = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"hold NaN or infinity: \['bias'\]"):
        fill_model(model, {**model.state_dict(), "bias": torch.tensor([0.0, value])}, "X")


def test_sizes_are_read_off_weights_that_have_them():
    assert shape_of(WEIGHTS, "a.weight", 2) == (2, 3)
    with pytest.raises(CheckpointError, match=r"lacks 'b.weight'"):
        shape_of(WEIGHTS, "b.weight", 2)
    with pytest.raises(CheckpointError, match=r"'a.weight' has shape \(2, 3\); expected 3 axes"):
        shape_of(WEIGHTS, "a.weight", 3)


# The contract of every converter


@pytest.fixture(params=convertible_methods())
def method(request) -> str:
    return request.param


@pytest.fixture(params=[name for name, file in PUBLISHED_FILES.items() if file.method in convertible_methods()])
def published(request) -> PublishedFile:
    return PUBLISHED_FILES[request.param]


def converted(file: PublishedFile, weights: dict, **options):
    """Convert on the meta device: names and shapes are checked as ever, and nothing is computed."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter", category=UserWarning)
        return get_converter(file.method).convert(weights, text_config=file.text_config, **options)


def test_there_is_a_published_file_to_test_every_converter_with(method):
    assert method in {file.method for file in PUBLISHED_FILES.values()}


def test_settings_make_a_processor_and_the_lead_order_can_be_chosen(method):
    converter = get_converter(method)
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = 512
    orders = {"mimic": MIMIC_LEADS, "standard": STANDARD_LEADS}
    for order, leads in orders.items():
        extractor = EcgFeatureExtractor(**converter.feature_extractor_settings(lead_order=order))
        assert extractor.lead_names == leads
        EcgTextProcessor(feature_extractor=extractor, tokenizer=tokenizer, **converter.text_settings())
    default = EcgFeatureExtractor(**converter.feature_extractor_settings())
    assert default.lead_names in orders.values()
    with pytest.raises(ValueError, match=r"lead_order must be one of mimic, standard, not 'alphabetical'"):
        converter.feature_extractor_settings(lead_order="alphabetical")


def test_the_caveats_tell_licence_and_lead_order(method):
    converter = get_converter(method)
    assert re.search(r"licen[cs]e|CC BY", converter.CAVEATS)
    assert re.search(r"aVF|lead order|leads in", converter.CAVEATS)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", converter.TEXT_MODEL), "a name on the Hub"


def test_a_published_file_is_recognised_by_its_own_converter_alone(published, golden):
    names = published.zeros(golden).keys()
    found = {method: get_converter(method).recognises(names) for method in convertible_methods()}
    assert found == dict.fromkeys(found, None) | {published.method: published.content}


def test_no_converter_takes_other_models_for_its_own(method, golden):
    st_mem = PublishedFile("stmem", "encoder", "stmem", encoder_prefixes=("encoder.",))
    with torch.device("meta"):
        bert = BertModel(PUBLISHED_FILES["DERI"].text_config)
    others = [st_mem.zeros(golden), bert.state_dict(), WEIGHTS, {"conv1.weight": 0, "layer1.0.conv1.weight": 0}]
    assert [get_converter(method).recognises(other.keys()) for other in others] == [None] * 4


def test_a_published_file_makes_what_it_holds(published, golden):
    model = converted(published, published.zeros(golden))
    assert isinstance(model, EcgTextModel if published.content == "model" else EcgEncoder)
    assert not model.training


def one_of_each_kind(names: Iterable[str]) -> list[str]:
    """Layers differ by their numbers, and most parts stand there twice."""
    alike = r"\d+|weight|bias|ecg|language|(?<=decode_).|[qkv](?=_proj)|query|key|value|mean|var"
    return list({re.sub(alike, "*", name): name for name in reversed(list(names))}.values())


def unused(published: PublishedFile, names: Iterable[str]) -> set[str]:
    return {name for name in names if re.search(published.unused, name)}


def problem_with(published: PublishedFile, weights: dict) -> str:
    """What the converter says of these weights; empty if it takes them."""
    try:
        converted(published, weights)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_a_missing_weight_is_named(published, golden):
    weights = published.zeros(golden)
    without = {name: {other: weights[other] for other in weights if other != name} for name in weights}
    problems = {name: problem_with(published, without[name]) for name in one_of_each_kind(weights)}
    assert {name for name, problem in problems.items() if not problem} == unused(published, problems)
    vague = {name: problem for name, problem in problems.items() if problem and not re.search(r"'[\w.]+'", problem)}
    assert not vague


@pytest.mark.slow
def test_a_weight_of_another_shape_is_named(published, golden):
    weights = published.zeros(golden)
    ours = converted(published, weights).state_dict()
    reshaped = {name: {**weights, name: torch.zeros(3, *weights[name].shape)} for name in one_of_each_kind(weights)}
    problems = {name: problem_with(published, changed) for name, changed in reshaped.items()}
    assert {name for name, problem in problems.items() if not problem} == unused(published, problems)
    named = {name: any(known in problem for known in (name, *ours)) for name, problem in problems.items() if problem}
    assert all(named.values()), problems


def test_a_weight_too_much_is_named(published, golden):
    with pytest.raises(CheckpointError, match=r"left over: \['surplus.weight'\]"):
        converted(published, {**published.zeros(golden), "surplus.weight": torch.zeros(2)})


def test_a_misspelt_config_override_is_refused(published, golden):
    with pytest.raises(ValueError, match="has no setting temprature"):
        converted(published, published.zeros(golden), temprature=0.1)
