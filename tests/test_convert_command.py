"""`hf-ecgtext convert` as a user types it: what it writes loads, and what it cannot write it does not begin."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_files import fill
from published_files import PUBLISHED_FILES, TINY_BERT
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline

from hf_ecgtext.cli import main
from hf_ecgtext.commands.convert import convertible_methods, get_converter
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS
from hf_ecgtext.methods.conversion import load_published
from hf_ecgtext.methods.merl.convert_merl_checkpoint import convert
from hf_ecgtext.processing import EcgFeatureExtractor


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory) -> Path:
    """A folder of files as MERL publishes them."""
    folder = tmp_path_factory.mktemp("published")
    for title, name in (
        ("MERL ResNet18", "res18_best_ckpt.pth"),
        ("MERL ResNet18 encoder", "res18_best_encoder.pth"),
        ("MERL ViT-tiny encoder", "vit_tiny_best_encoder.pth"),
    ):
        listed = PUBLISHED_FILES[title].names_and_shapes(golden)
        torch.save({key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in listed}, folder / name)
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """Config and tokenizer of the text encoder in `res18_best_ckpt.pth`, as `--text-model` takes them."""
    folder = tmp_path_factory.mktemp("text")
    TINY_BERT.save_pretrained(folder)
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def convert_command(capsys):
    """Runs `hf-ecgtext convert` and returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["convert", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def records():
    return list(SyntheticEcgGenerator(seed=0, sampling_rate_hz=500.0).records(3))


@pytest.mark.parametrize("name", ["res18_best_encoder.pth", "vit_tiny_best_encoder.pth"])
def test_an_encoder_alone_loads_by_the_auto_classes_and_answers_in_the_pipeline(
    name, files, convert_command, records, tmp_path
):
    output = tmp_path / "encoder"
    assert convert_command(files / name, "--output-dir", output)[0] == 0
    model, extractor = AutoModel.from_pretrained(output), AutoFeatureExtractor.from_pretrained(output)
    assert isinstance(extractor, EcgFeatureExtractor)
    assert extractor.lead_names == MIMIC_LEADS
    assert not list(output.glob("tokenizer*"))
    expected = convert(load_published(files / name))
    for key, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)

    with torch.no_grad():
        aligned = expected.get_ecg_features(**extractor(records, return_tensors="pt")).numpy()
        probe = expected(**extractor(records, return_tensors="pt")).pooler_output.numpy()
    embed = pipeline("ecg-feature-extraction", model=str(output))
    np.testing.assert_allclose(np.stack(embed(records)), aligned, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.stack(embed(records, batch_size=2)), aligned, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.stack(embed(records, features="probe")), probe, rtol=1e-4, atol=1e-6)
    by_parts = pipeline("ecg-feature-extraction", model=model, feature_extractor=extractor)
    np.testing.assert_allclose(by_parts(records[0]), aligned[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "title",
    [
        title
        for title, file in PUBLISHED_FILES.items()
        if file.method in convertible_methods() and title != "D-BETA"  # half a gigabyte
    ],
)
def test_every_kind_of_published_file_becomes_a_folder_that_loads(
    title, golden, text_folder, convert_command, tmp_path
):
    file, output = PUBLISHED_FILES[title], tmp_path / "out"
    weights = file.zeros(golden)
    torch.save({"model": weights, "cfg": argparse.Namespace()}, tmp_path / "published.pt")
    text = ["--text-model", text_folder] if file.content == "model" else []
    assert convert_command(tmp_path / "published.pt", *text, "--output-dir", output)[0] == 0
    model = AutoModel.from_pretrained(output)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter", category=UserWarning)
        expected = get_converter(file.method).convert(weights, text_config=file.text_config)
    assert type(model) is type(expected)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.state_dict().items()
    }
    processor = (AutoProcessor if text else AutoFeatureExtractor).from_pretrained(output)
    extractor = processor.feature_extractor if text else processor
    config = model.config.ecg_config if text else model.config
    assert (len(extractor.lead_names), extractor.num_samples) == (config.num_leads, config.num_samples)


def test_the_encoder_of_a_full_model_equals_the_encoder_alone(files, text_folder, convert_command, tmp_path):
    convert_command(files / "res18_best_encoder.pth", "--output-dir", tmp_path / "encoder")
    convert_command(files / "res18_best_ckpt.pth", "--text-model", text_folder, "--output-dir", tmp_path / "model")
    model, encoder = (AutoModel.from_pretrained(tmp_path / name) for name in ("model", "encoder"))
    assert model.config.model_type == "merl"
    ours, whole = encoder.state_dict(), model.ecg_encoder.state_dict()
    assert ours.keys() == whole.keys()
    assert all(ours[name].shape == whole[name].shape for name in ours)
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor.feature_extractor.to_dict() == AutoFeatureExtractor.from_pretrained(tmp_path / "encoder").to_dict()


def test_a_file_is_converted_alike_whether_pickle_or_safetensors_and_whether_its_method_is_named(
    files, convert_command, tmp_path
):
    save_file(load_published(files / "res18_best_encoder.pth"), tmp_path / "encoder.safetensors")
    for number, arguments in enumerate(
        ([files / "res18_best_encoder.pth", "--method", "merl"], [tmp_path / "encoder.safetensors"])
    ):
        assert convert_command(*arguments, "--output-dir", tmp_path / str(number))[0] == 0
    first, second = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("0", "1"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_done_is_told(files, text_folder, convert_command, tmp_path):
    output = tmp_path / "merl"
    code, printed, _ = convert_command(
        files / "res18_best_ckpt.pth", "--text-model", text_folder, "--output-dir", output
    )
    assert code == 0
    model = AutoModel.from_pretrained(output)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f"(merl) to a MerlModel: {millions:.2f} M parameters" in printed
    for file in output.iterdir():
        assert file.name in printed
    assert "aVR, aVF, aVL, V1" in printed
    assert re.search(r"MIT-licensed.*MIMIC", printed)
    for call in re.findall(r"(Auto\w+)\.from_pretrained\('([^']+)'\)", printed):
        assert {"AutoModel": AutoModel, "AutoProcessor": AutoProcessor}[call[0]].from_pretrained(call[1]) is not None
    assert not printed.count("\n\n")


def test_a_text_model_for_an_encoder_alone_is_said_to_be_superfluous_and_not_opened(files, convert_command, tmp_path):
    nowhere = tmp_path / "nowhere"
    code, printed, _ = convert_command(
        files / "res18_best_encoder.pth", "--text-model", nowhere, "--output-dir", tmp_path / "out"
    )
    assert code == 0
    assert f"holds the ECG encoder alone: --text-model {nowhere} is not needed" in printed
    assert "AutoFeatureExtractor.from_pretrained" in printed


def test_the_lead_order_can_be_chosen_and_reaches_the_features(files, convert_command, records, tmp_path):
    features = {}
    for order, leads in (("mimic", MIMIC_LEADS), ("standard", STANDARD_LEADS)):
        output = tmp_path / order
        code, printed, _ = convert_command(
            files / "res18_best_encoder.pth", "--lead-order", order, "--output-dir", output
        )
        assert code == 0
        assert f"Its leads: {', '.join(leads)}." in printed
        assert AutoFeatureExtractor.from_pretrained(output).lead_names == leads
        features[order] = pipeline("ecg-feature-extraction", model=str(output))(records[0])
    assert np.abs(features["mimic"] - features["standard"]).max() > 1e-4


# What is refused


@pytest.mark.slow
def test_a_folder_that_holds_something_is_never_written_to(files, convert_command, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    assert convert_command(files / "res18_best_encoder.pth", "--output-dir", output)[0] == 0, "an empty one will do"
    before = {file.name: file.stat().st_mtime_ns for file in output.iterdir()}
    code, printed, errors = convert_command(files / "vit_tiny_best_encoder.pth", "--output-dir", output)
    assert (code, printed) == (1, "")
    assert f"The folder '{output}' already holds a model (README.md, config.json" in errors
    assert {file.name: file.stat().st_mtime_ns for file in output.iterdir()} == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("", encoding="utf-8")
    assert "is not empty (todo.txt)" in convert_command("any.pth", "--output-dir", tmp_path / "notes")[2]
    assert "is a file" in convert_command("any.pth", "--output-dir", tmp_path / "notes" / "todo.txt")[2]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_conversion_that_fails_while_writing_leaves_nothing(error, files, convert_command, tmp_path, monkeypatch):
    def fail(self, folder):
        assert (Path(folder) / "model.safetensors").is_file(), "half of the work is done"
        raise error

    monkeypatch.setattr(EcgFeatureExtractor, "save_pretrained", fail)
    arguments = (files / "res18_best_encoder.pth", "--output-dir", tmp_path / "out")
    if isinstance(error, OSError):
        assert convert_command(*arguments)[0] == 1
    else:
        with pytest.raises(KeyboardInterrupt):
            convert_command(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_has_the_usual_permissions_and_new_parents(files, convert_command, tmp_path):
    output = tmp_path / "new" / "encoder"
    assert convert_command(files / "res18_best_encoder.pth", "--output-dir", output)[0] == 0
    assert [entry.name for entry in output.parent.iterdir()] == ["encoder"]
    if os.name == "posix":
        (tmp_path / "usual").mkdir()
        assert output.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_text_encoder_that_cannot_be_loaded_is_named_with_the_way_out(files, convert_command, tmp_path):
    code, _, errors = convert_command(
        files / "res18_best_ckpt.pth", "--text-model", tmp_path / "nowhere", "--output-dir", tmp_path / "out"
    )
    assert code == 1
    assert f"text encoder '{tmp_path / 'nowhere'}' cannot be loaded" in errors
    assert "Name a copy of it with --text-model" in errors
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_tokens_that_the_weights_do_not_know_is_refused(files, convert_command, tmp_path):
    TINY_BERT.save_pretrained(tmp_path / "text")
    tokenizer = tiny_bert_tokenizer()
    tokenizer.add_tokens(["pacemakerspike"])
    tokenizer.save_pretrained(tmp_path / "text")
    code, _, errors = convert_command(
        files / "res18_best_ckpt.pth", "--text-model", tmp_path / "text", "--output-dir", tmp_path / "out"
    )
    assert code == 1
    assert f"gives token ids up to {TINY_BERT.vocab_size}, but the text encoder has embeddings for 0 to" in errors
    assert not (tmp_path / "out").exists()


def test_weights_for_recordings_of_another_length_are_refused(files, convert_command, tmp_path):
    """Their rate is not in the file: 2500 samples can be 5 s at 500 Hz or 10 s at 250 Hz."""
    weights = load_published(files / "vit_tiny_best_encoder.pth")
    torch.save({**weights, "pos_embedding": weights["pos_embedding"][:, :50]}, tmp_path / "half.pth")
    code, _, errors = convert_command(tmp_path / "half.pth", "--output-dir", tmp_path / "out")
    assert code == 1
    assert "read 12 leads of 2500 samples; the published ones read 12 of 5000" in errors
    assert not (tmp_path / "out").exists()


def test_a_pipeline_says_why_an_encoder_without_feature_extractor_is_not_enough(files, convert_command, tmp_path):
    output = tmp_path / "out"
    convert_command(files / "res18_best_encoder.pth", "--output-dir", output)
    (output / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"out' comes without a feature extractor that can be loaded"):
        pipeline("ecg-feature-extraction", model=str(output))


def test_commands_that_need_texts_say_that_an_encoder_alone_is_no_ecg_text_model(
    files, convert_command, tmp_path, capsys
):
    output = tmp_path / "out"
    convert_command(files / "res18_best_encoder.pth", "--output-dir", output)
    assert main(["classify", "p7", "--model", str(output), "--labels", "pacing"]) == 1
    assert "holds a model of type 'ecg_resnet1d', no ECG-text model" in capsys.readouterr().err
