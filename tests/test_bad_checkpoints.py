"""Files that are no published checkpoint, or no longer one: refused in one line, no code run, nothing written."""

from __future__ import annotations

import os
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from published_files import PUBLISHED_FILES, PublishedFile
from transformers import BertModel

from hf_ecgtext.cli import main
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.methods.conversion import load_published

WEIGHTS = {"conv1.weight": torch.zeros(4, 2, 3), "bn1.bias": torch.zeros(4)}


class Malice:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def refused(capsys, tmp_path):
    """Converts a file, which must fail with one line and without a trace, and returns that line."""

    def run(path: Path, *options: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["convert", str(path), "--output-dir", str(tmp_path / "out"), *options]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("hf-ecgtext convert: ")
        assert captured.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return run


@pytest.fixture(scope="module")
def encoder_file(golden, tmp_path_factory) -> Path:
    """MERL's `vit_tiny_best_encoder.pth`, all zeros."""
    path = tmp_path_factory.mktemp("published") / "vit_tiny_best_encoder.pth"
    torch.save(PUBLISHED_FILES["MERL ViT-tiny encoder"].zeros(golden), path)
    return path


# The file itself


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("hide", [lambda malice: malice, lambda malice: {"model": {**WEIGHTS, "a": malice}}])
def test_code_in_a_pickle_does_not_run(refused, tmp_path, as_zip, hide):
    trace, path = tmp_path / "trace", tmp_path / "sample.pt"
    torch.save(hide(Malice(trace)), path, _use_new_zipfile_serialization=as_zip)
    assert f"(it would run {os.name}.mkdir) and was not opened" in refused(path)


def test_the_code_of_these_tests_runs_where_a_pickle_is_trusted(tmp_path):
    torch.save(Malice(tmp_path / "trace"), tmp_path / "sample.pt")
    torch.load(tmp_path / "sample.pt", weights_only=False)
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused(refused, encoder_file, tmp_path, share):
    content = encoder_file.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
    assert "cut.pth' is not a plain file of weights (it is damaged, or something else)" in refused(tmp_path / "cut.pth")


def test_safetensors_that_were_cut_or_lie_about_their_size_are_refused(refused, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(struct.pack("<Q", 10) + b'{"a":')
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    for name in ("cut.safetensors", "huge.safetensors"):
        assert f"{name}' is no readable safetensors file" in refused(tmp_path / name)


def test_a_file_that_would_unfold_to_fill_the_memory_is_not_unpacked(refused, tmp_path):
    """12 kB that say that they are 12 MB: enough of them would be enough for any memory."""
    torch.save(WEIGHTS, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain:
        parts = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content + bytes(12_000_000) if name.endswith("/data/0") else content)
    size = (tmp_path / "bomb.pth").stat().st_size
    assert size < 50_000
    assert f"has {size} bytes but would unpack to 12" in refused(tmp_path / "bomb.pth")


def test_a_tensor_that_repeats_its_few_values_is_not_unfolded(refused, tmp_path):
    names = ("layer2.0.shortcut.0.weight", "conv1.weight")
    torch.save({name: torch.zeros(1).expand(64, 10**9, 7) for name in names}, tmp_path / "wide.pth")
    assert (tmp_path / "wide.pth").stat().st_size < 10_000
    assert "are no ordinary, dense tensors" in refused(tmp_path / "wide.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ("weights", "holds a str, not a state dict"),
        ({}, "This is no ECG-text state dict: it is empty"),
        ({"model": {}}, "This is no ECG-text state dict: it is empty"),
        ({"epoch": 3, "loss": [0.5]}, "['epoch', 'loss'] are not tensors"),
        ({0: torch.zeros(1)}, "no checkpoint of a method that can be converted"),
    ],
)
def test_what_is_no_state_dict_is_refused(refused, tmp_path, content, message):
    torch.save(content, tmp_path / "other.pth")
    assert message in refused(tmp_path / "other.pth")


def test_a_missing_file_or_a_folder_is_refused(refused, tmp_path):
    assert "nowhere.pth" in refused(tmp_path / "nowhere.pth")
    assert "nowhere.safetensors" in refused(tmp_path / "nowhere.safetensors")
    assert str(tmp_path) in refused(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch, where that byte was hit
@pytest.mark.parametrize("as_zip", [True, False])
def test_whatever_becomes_of_a_file_s_bytes_the_error_is_ours(tmp_path, as_zip):
    path = tmp_path / "weights.pth"
    torch.save({"model": WEIGHTS, "epoch": 3}, path, _use_new_zipfile_serialization=as_zip)
    original, chance, num_refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(original)
        for _ in range(chance.choice((1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            load_published(path)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 100


# The weights in it


def test_missing_left_over_and_misshapen_weights_are_named_together(refused, golden, tmp_path):
    weights = PUBLISHED_FILES["MERL ViT-tiny encoder"].zeros(golden)
    del weights["norm.weight"]
    weights |= {"head.bias": torch.zeros(3), "norm.bias": torch.zeros(5)}
    torch.save(weights, tmp_path / "changed.pth")
    message = refused(tmp_path / "changed.pth")
    for part in (
        "missing: ['norm.weight']",
        "left over: ['head.bias']",
        "of another shape: ['norm.bias: (5,) instead of (192,)']",
    ):
        assert part in message


def test_weights_that_are_not_numbers_are_named(refused, golden, tmp_path):
    weights = PUBLISHED_FILES["MERL ViT-tiny encoder"].zeros(golden)
    weights["block3.ff.fn.net.0.bias"][7] = float("nan")
    torch.save(weights, tmp_path / "diverged.pth")
    assert "hold NaN or infinity: ['layers.3.mlp.1.bias']" in refused(tmp_path / "diverged.pth")


def test_a_file_of_another_method_is_told_from_the_one_that_was_named(refused, encoder_file, tmp_path):
    others = {file.method for file in PUBLISHED_FILES.values()} - {"merl"}
    for method in others:
        assert f"This is no {method} checkpoint but one of merl. Change --method." in refused(
            encoder_file, "--method", method
        )


@pytest.mark.parametrize(
    ("title", "names"),
    [
        (
            "ECG-FM",
            ["mask_emb", "feature_extractor.conv_layers.0.0.weight", "quantizer.vars", "encoder.layer_norm.bias"],
        ),
        ("ST-MEM", ["to_patch_embedding.1.weight", "lead_embeddings.0", "block0.attn.fn.to_qkv.weight"]),
    ],
)
def test_models_that_are_known_but_not_supported_are_called_by_their_name(refused, tmp_path, title, names):
    torch.save({"model": {name: torch.zeros(1) for name in names}, "cfg": None}, tmp_path / "other.pt")
    assert f"looks like a checkpoint of {title}" in refused(tmp_path / "other.pt")


def test_the_whole_of_st_mem_is_called_by_its_name(refused, golden, tmp_path):
    whole = PublishedFile("stmem", "encoder", "stmem", encoder_prefixes=("",), keeps_prefix=True)
    torch.save(whole.zeros(golden), tmp_path / "st_mem.pth")
    assert "looks like a checkpoint of ST-MEM, which cannot be converted yet" in refused(tmp_path / "st_mem.pth")


@pytest.mark.parametrize("options", [(), ("--method", "merl")])
def test_any_other_model_is_refused_with_its_first_names(refused, tmp_path, options):
    bert = BertModel(PUBLISHED_FILES["DERI"].text_config)
    torch.save(bert.state_dict(), tmp_path / "bert.pth")
    message = refused(tmp_path / "bert.pth", *options)
    assert "This is no merl checkpoint" in message if options else "checkpoint of a method that can be" in message
    assert f"It holds {len(bert.state_dict())} tensors; the first: ['embeddings.word_embeddings.weight', " in message
