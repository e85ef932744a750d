"""What a user sees of bad input, through the public entry points: an error or a logged policy that names the record.

The lower-level tests of each part are in its own folder; nothing here looks behind the doors.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, pipeline
from transformers.utils import logging as transformers_logging

from hf_ecgtext import CheckpointError, EcgRecord, EcgTextProcessor, RecordError
from hf_ecgtext.cli import main
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.data.wfdb.reading import read_record
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.methods.conversion import load_published
from hf_ecgtext.processing import EcgFeatureExtractor
from hf_ecgtext.training.collator import EcgTextCollator

LABELS = ["sinus rhythm", "atrial fibrillation"]


@pytest.fixture(scope="session")
def classifier(merl_folder):
    return pipeline("zero-shot-ecg-classification", model=str(merl_folder))


@pytest.fixture
def processor(merl_folder) -> EcgTextProcessor:
    return EcgTextProcessor.from_pretrained(merl_folder)


@pytest.fixture(scope="session")
def healthy() -> EcgRecord:
    """One synthetic record at the model's rate, with a report."""
    record = next(iter(SyntheticEcgGenerator(seed=0, sampling_rate_hz=100.0).records(1)))
    return replace(record, record_id="p7")


@pytest.fixture
def copied_model(merl_folder, tmp_path) -> Path:
    """A copy of the model's folder that a test may damage."""
    return Path(shutil.copytree(merl_folder, tmp_path / "model"))


@pytest.fixture
def command_line(capsys):
    """Runs `hf-ecgtext` and returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def write_record(folder: Path, signal: np.ndarray, lead_names=STANDARD_LEADS, unit="mV", rate_hz=100) -> Path:
    """A WFDB record `p7` of format 16 with 1000 ADC steps per unit."""
    adc = np.round(signal * 1000).astype("<i2")
    lines = [f"p7 {len(adc)} {rate_hz} {adc.shape[1]}"]
    for name, row in zip(lead_names, adc, strict=True):
        lines.append(f"p7.dat 16 1000(0)/{unit} 16 0 {row[0]} {int(row.sum(dtype=np.int64)) % 65536} 0 {name}")
    (folder / "p7.hea").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "p7.dat").write_bytes(adc.T.tobytes())
    return folder / "p7"


# Files of a recording. Each damage is shown to read_record, to a pipeline and to the command line.


def cut_the_signal_file(path: Path) -> None:
    signal_file = path.with_suffix(".dat")
    signal_file.write_bytes(signal_file.read_bytes()[:-100])


def remove_the_signal_file(path: Path) -> None:
    path.with_suffix(".dat").unlink()


def edit_header(path: Path, old: str, new: str) -> None:
    header = path.with_suffix(".hea")
    text = header.read_text(encoding="utf-8")
    assert old in text
    header.write_text(text.replace(old, new), encoding="utf-8")


DAMAGES = {
    "a truncated signal file": (cut_the_signal_file, r"'p7.dat' has 23900 bytes.* need 24000.*Download"),
    "a missing signal file": (remove_the_signal_file, r"'p7.dat' cannot be opened.*Put it beside the header"),
    "a header that announces more samples": (
        lambda path: edit_header(path, "p7 12 100 1000", "p7 12 100 1001"),
        r"12 leads of 1001 samples .* need 24024.*Download",
    ),
    "a header that announces fewer samples": (
        lambda path: edit_header(path, "p7 12 100 1000", "p7 12 100 999"),
        r"12 leads of 999 samples .* need 23976.*Download",
    ),
    "a header that announces fewer leads": (
        lambda path: edit_header(path, "p7 12 100", "p7 11 100"),
        r"11 leads of 1000 samples .* need 22000.*Download",
    ),
    "a header that gives a sampling rate of 0": (
        lambda path: edit_header(path, "p7 12 100 1000", "p7 12 0 1000"),
        r"a sampling rate of 0 Hz cannot be that of an ECG.*Correct the first line",
    ),
    "an unknown unit": (lambda path: edit_header(path, "/mV", "/mmHg"), r"lead I is in 'mmHg'.*known: mV.*Correct"),
    "a folder in place of a record": (lambda path: None, r"it is a folder.*Name one record in it"),
    "no record at all": (lambda path: path.with_suffix(".hea").unlink(), r"it has no header.*Check the path"),
}


@pytest.fixture(params=DAMAGES)
def damaged(request, tmp_path, healthy) -> tuple[Path, str]:
    """Path of a record that cannot be read, and what its error must say."""
    damage, message = DAMAGES[request.param]
    path = write_record(tmp_path, healthy.signal)
    damage(path)
    if request.param == "a folder in place of a record":
        path = tmp_path
    return path, rf"Record '{path}': .*{message}"


def test_reading_a_damaged_record_names_it_and_the_fix(damaged):
    path, message = damaged
    with pytest.raises(RecordError, match=message):
        read_record(path)


def test_a_pipeline_given_a_damaged_record_names_it_and_the_fix(damaged, classifier):
    path, message = damaged
    with pytest.raises(RecordError, match=message):
        classifier(str(path), candidate_labels=LABELS)


def test_the_command_line_given_a_damaged_record_prints_one_line_and_exits_with_1(damaged, command_line, merl_folder):
    path, message = damaged
    code, output, errors = command_line("classify", path, "--model", merl_folder, "--labels", *LABELS)
    assert code == 1
    assert output == ""
    assert errors.startswith(f"hf-ecgtext classify: Record '{path}': ")
    assert errors.count("\n") == 1
    with pytest.raises(RecordError, match=message) as error:
        read_record(path)
    assert str(error.value) in errors


def test_the_command_line_given_a_good_record_prints_labels_best_first(command_line, merl_folder, healthy, tmp_path):
    path = write_record(tmp_path, healthy.signal)
    code, output, _ = command_line("classify", path, "--model", merl_folder, "--labels", *LABELS, "--exclusive")
    lines = output.splitlines()
    assert code == 0
    assert lines[0] == str(path)
    scores = [float(line.split()[0]) for line in lines[1:3]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=2e-3)
    assert {line.split(maxsplit=1)[1] for line in lines[1:3]} == set(LABELS)
    assert "not a medical device" in lines[-1]


# Recordings that can be read, but hold something wrong.


def test_a_lead_that_is_all_nan_is_masked_with_a_warning_that_names_the_record(classifier, healthy, caplog):
    holed, blank = healthy.signal.copy(), healthy.signal.copy()
    row = STANDARD_LEADS.index("V3")
    holed[row], blank[row] = np.nan, 0.0
    answers = classifier(replace(healthy, signal=holed), candidate_labels=LABELS)
    assert "Records 'p7' have no valid sample in lead V3, which counts as absent" in caplog.text
    assert np.isfinite([answer["score"] for answer in answers]).all()
    batch = classifier.preprocess(replace(healthy, signal=holed))
    assert batch["lead_mask"][0].tolist() == [name != "V3" for name in STANDARD_LEADS]
    assert classifier.preprocess(replace(healthy, signal=blank))["lead_mask"].all(), "0 mV is a value, NaN is none"


def test_a_record_that_is_all_nan_is_refused(classifier, healthy):
    nothing = replace(healthy, signal=np.full_like(healthy.signal, np.nan))
    with pytest.raises(
        RecordError, match=r"Record 'p7': all samples of all leads are NaN or infinite\. Drop the record"
    ):
        classifier(nothing, candidate_labels=LABELS)


@pytest.mark.parametrize("nan_policy", ["interpolate", "zero", "raise"])
def test_no_policy_for_gaps_makes_a_record_of_nothing(nan_policy, healthy):
    extractor = EcgFeatureExtractor(sampling_rate_hz=100, nan_policy=nan_policy)
    for nothing in (np.nan, np.inf):
        record = replace(healthy, signal=np.full_like(healthy.signal, nothing))
        with pytest.raises(RecordError, match=r"'p7': all samples of all leads are NaN or infinite\. Drop the record"):
            extractor(record)


def test_the_command_line_names_a_record_whose_samples_are_all_marked_as_missing(
    command_line, merl_folder, healthy, tmp_path
):
    path = write_record(tmp_path, np.full_like(healthy.signal, -32.768))
    code, output, errors = command_line("classify", path, "--model", merl_folder, "--labels", *LABELS)
    assert (code, output) == (1, "")
    assert errors.startswith("hf-ecgtext classify: Record 'p7': all samples of all leads are NaN or infinite.")


@pytest.mark.parametrize("scaling", ["none", "minmax_record", "zscore_lead", "zscore_record"])
def test_a_constant_record_is_named_in_a_warning_or_refused_whatever_the_scaling(scaling, healthy, caplog):
    flat = replace(healthy, signal=np.full_like(healthy.signal, 0.7))
    extractor = EcgFeatureExtractor(sampling_rate_hz=100, scaling=scaling)
    values = extractor(flat)["ecg_values"]
    assert "Records 'p7' are constant in" in caplog.text
    assert (values == (np.float32(0.7) if scaling == "none" else 0)).all()
    strict = EcgFeatureExtractor(sampling_rate_hz=100, scaling=scaling, constant_policy="raise")
    with pytest.raises(RecordError, match=r"Record 'p7': .* constant.*constant_policy"):
        strict(flat)
    caplog.clear()
    strict(healthy)
    assert caplog.text == ""


def test_an_unknown_lead_name_is_refused_with_the_names_that_are_known(classifier, healthy):
    renamed = replace(healthy, lead_names=(*STANDARD_LEADS[:-1], "X9"))
    with pytest.raises(RecordError, match=r"Record 'p7': unknown lead names \['X9'\]; known are I, II, .*Correct the"):
        classifier(renamed, candidate_labels=LABELS)


def test_swapped_avl_and_avf_are_noticed_and_put_right_where_the_setting_says_so(healthy, processor, caplog):
    names = list(STANDARD_LEADS)
    names[4], names[5] = names[5], names[4]
    swapped = replace(healthy, lead_names=tuple(names))
    processor(ecg=swapped)
    assert "Records 'p7' have limb leads that contradict each other" in caplog.text
    assert "leads aVF and aVL are exchanged" in caplog.text
    assert "check_limb_leads='fix'" in caplog.text
    expected = processor(ecg=healthy)["ecg_values"]
    processor.feature_extractor.check_limb_leads = "fix"
    torch.testing.assert_close(processor(ecg=swapped)["ecg_values"], expected)
    processor.feature_extractor.check_limb_leads = "raise"
    with pytest.raises(RecordError, match=r"Record 'p7': limb leads .* leads aVF and aVL are exchanged"):
        processor(ecg=swapped)


def test_an_array_without_a_rate_is_refused_with_the_argument_to_pass(classifier, healthy):
    with pytest.raises(ValueError, match=r"sampling_rate_hz is required for arrays.*such as sampling_rate_hz=500"):
        classifier(healthy.signal, candidate_labels=LABELS)


@pytest.mark.parametrize("rate_hz", [0, -100, float("nan"), float("inf"), "100"])
def test_a_rate_that_is_no_positive_number_is_refused(classifier, healthy, rate_hz):
    with pytest.raises(RecordError, match=r"Record 'batch index 0': sampling rate .* is not a positive number. Pass"):
        classifier(healthy.signal, candidate_labels=LABELS, sampling_rate_hz=rate_hz)
    with pytest.raises(RecordError, match=r"Record 'p7': sampling rate .* is not a positive number"):
        classifier(replace(healthy, sampling_rate_hz=rate_hz), candidate_labels=LABELS)


def test_a_rate_other_than_the_models_is_resampled_and_not_misread(classifier):
    def sine(rate_hz: float) -> np.ndarray:
        """A 3 Hz sine of 10 s in all leads but V1, which is its negative."""
        wave = np.sin(2 * np.pi * 3 * np.arange(int(10 * rate_hz)) / rate_hz).astype(np.float32)
        return np.stack([-wave if name == "V1" else wave for name in STANDARD_LEADS])

    extractor = classifier.processor.feature_extractor
    assert extractor.sampling_rate_hz == 100
    same = classifier.preprocess(sine(100), sampling_rate_hz=100)["ecg_values"]
    for rate_hz in (250, 500, 257):
        other = classifier.preprocess(sine(rate_hz), sampling_rate_hz=rate_hz)["ecg_values"]
        # The ends of a filtered signal differ; 2 % of the scaled range, which is 1.
        torch.testing.assert_close(other[..., 50:-50], same[..., 50:-50], atol=0.02, rtol=0)
    misread = classifier.preprocess(sine(500), sampling_rate_hz=100)["ecg_values"]
    assert (misread - same).abs().max() > 0.5, (
        "read at a wrong rate the signal must look different, or this shows nothing"
    )


@pytest.mark.parametrize(
    ("ecg", "error", "message"),
    [
        (None, TypeError, "ecg must be an EcgRecord, a NumPy array"),
        ([], ValueError, "ecg is an empty list"),
        ({"signal": 1}, ValueError, "A mapping holds the signal under 'ecg' and may hold .*; this one has 'signal'"),
        (
            {"ecg": np.zeros((12, 1000)), "rate": 5},
            ValueError,
            "may hold lead_names, sampling_rate_hz, unit; .* 'rate'",
        ),
    ],
)
def test_what_is_no_ecg_is_refused_with_what_would_be_one(classifier, ecg, error, message):
    with pytest.raises(error, match=message):
        classifier(ecg, candidate_labels=LABELS)


def test_integers_are_refused_as_probable_adc_counts(classifier, healthy):
    counts = (healthy.signal * 1000).astype(np.int16)
    with pytest.raises(RecordError, match=r"Record 'batch index 0': dtype int16.*Divide by the gain"):
        classifier(counts, candidate_labels=LABELS, sampling_rate_hz=100)


def test_an_unknown_unit_of_an_array_is_refused(classifier, healthy):
    with pytest.raises(ValueError, match=r"is in 'mmHg', which cannot be converted to mV \(known: mV, uV, nV, V\)"):
        classifier(healthy.signal, candidate_labels=LABELS, sampling_rate_hz=100, unit="mmHg")


# Reports


@pytest.mark.parametrize("report", ["", "  \n"])
def test_an_empty_report_is_refused_by_processor_and_collator(processor, healthy, report):
    silent = replace(healthy, report=report)
    message = r"Record 'p7': the report is empty after cleaning.*Drop the record, or set empty_report"
    with pytest.raises(RecordError, match=message):
        processor(ecg=silent, text=report)
    with pytest.raises(RecordError, match=message):
        EcgTextCollator(processor)([{"ecg": healthy}, {"ecg": silent}])


def test_a_record_without_report_is_refused_by_the_collator(processor, healthy):
    with pytest.raises(RecordError, match=r"Record 'p7': it has no report to train on. Filter such records out"):
        EcgTextCollator(processor)([{"ecg": replace(healthy, report=None)}])


def test_an_empty_label_is_refused(classifier, healthy):
    with pytest.raises(ValueError, match="candidate_labels must be one or more texts that are not empty"):
        classifier(healthy, candidate_labels=["sinus rhythm", " "])


def test_a_text_longer_than_the_tower_reads_is_cut_with_a_warning_and_counted_or_refused(processor, healthy, caplog):
    long = replace(healthy, report="sinus rhythm " * 200)
    batch = EcgTextCollator(processor)([{"ecg": long}, {"ecg": replace(long, record_id="p8")}])
    assert batch["input_ids"].shape == (2, processor.max_length)
    assert f"Record 'p7': the text has 402 tokens but the text tower reads {processor.max_length}." in caplog.text
    assert "'p8'" not in caplog.text, "one warning, not one per record"
    assert processor.num_truncated_texts == 2
    processor.long_text = "raise"
    with pytest.raises(RecordError, match=r"Record 'p7': the text has 402 tokens.*Shorten it"):
        EcgTextCollator(processor)([{"ecg": long}])


# Models


class Malice:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_the_malicious_pickle_of_these_tests_does_run_code_when_it_is_opened(tmp_path):
    pickle.loads(pickle.dumps(Malice(tmp_path / "trace")))  # noqa: S301 - shows that the tests below can fail
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_published_pickle_does_not_run_and_the_file_is_refused(tmp_path, command_line, as_zip):
    trace, published = tmp_path / "trace", tmp_path / "res18_best_ckpt.pth"
    torch.save({"model_state_dict": Malice(trace)}, published, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match=r"res18_best_ckpt.pth' is not a plain file of weights .*was not opened"):
        load_published(published)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 half of a zip"])
def test_a_published_file_that_is_damaged_is_refused(tmp_path, content):
    (tmp_path / "ckpt.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ckpt.pth' is not a plain file of weights .*Download it again"):
        load_published(tmp_path / "ckpt.pth")


def put_a_pickle_in_place_of_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Malice(folder / "trace")}, folder / "pytorch_model.bin")


def remove_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.0.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_the_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def empty_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def forget_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    save_file({"trained_records": torch.zeros(1)}, folder / "training_data.safetensors")  # a ledger is none either
    torch.save({"lr": 1.0}, folder / "training_args.bin")  # the Trainer's, which is no model
    torch.save({}, folder / "optimizer.pt")


def fill_with(value: float, name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[name].view(-1)[-1] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def reshape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.0.weight"] = weights["text_projection.0.weight"][:, :-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def set_in_config(**settings: Any) -> Callable[[Path], None]:
    """Damage by settings, where `a__b` is the setting `b` inside of `a`."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for name, value in settings.items():
            *parents, leaf = name.split("__")
            inner = config
            for parent in parents:
                inner = inner[parent]
            inner[leaf] = value
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def empty_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


BROKEN_MODELS = {
    "a pickle": (put_a_pickle_in_place_of_the_weights, "only as a pickle (pytorch_model.bin), which can run code"),
    "a missing weight": (remove_a_weight, "does not fit MerlModel: missing: ['text_projection.0.weight']"),
    "cut weights": (cut_the_weights, "are damaged"),
    "empty weights": (empty_the_weights, "are damaged"),
    "no weights": (forget_the_weights, "holds settings but no weights: model.safetensors is missing"),
    "a NaN": (fill_with(float("nan"), "text_projection.0.weight"), "values of text_projection.0.weight are NaN or"),
    "an infinity": (
        fill_with(-float("inf"), "ecg_encoder.stages.0.0.bn1.running_var"),
        "1 of the 8 values of ecg_encoder.stages.0.0.bn1.running_var are NaN or infinite",
    ),
    "another shape": (reshape, "text_projection.0.weight is (32, 63) where the config asks for (32, 64)"),
    "absurd width": (set_in_config(projection_dim=10**7), "Its sizes cannot be right"),
    "absurd input": (set_in_config(ecg_config__num_leads=2 * 10**7), "Its sizes cannot be right"),
}


@pytest.fixture(params=BROKEN_MODELS)
def broken_model(request, copied_model) -> tuple[Path, str]:
    damage, message = BROKEN_MODELS[request.param]
    damage(copied_model)
    return copied_model, message


def test_auto_model_refuses_a_broken_model(broken_model):
    folder, message = broken_model
    with pytest.raises(CheckpointError) as error:
        AutoModel.from_pretrained(folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)
    assert not (folder / "trace").exists()


def test_a_pipeline_refuses_a_broken_model_and_ends_its_message_with_the_reason(broken_model):
    folder, message = broken_model
    with pytest.raises(ValueError, match="Could not load model") as error:  # transformers wraps what it caught
        pipeline("zero-shot-ecg-classification", model=str(folder))
    last_line = str(error.value).strip().splitlines()[-1]
    assert last_line.startswith("hf_ecgtext.errors.CheckpointError: ")
    assert message in last_line
    assert not (folder / "trace").exists()


def test_the_command_line_refuses_a_broken_model_in_one_line(broken_model, command_line):
    folder, message = broken_model
    code, output, errors = command_line("classify", "p7", "--model", folder, "--labels", *LABELS)
    assert (code, output) == (1, "")
    ours = [line for line in errors.splitlines() if line.startswith("hf-ecgtext classify: ")]
    assert len(ours) == 1
    assert message in ours[0]
    assert "Traceback" not in errors
    assert not (folder / "trace").exists()


def test_a_folder_that_is_no_model_is_refused_by_auto_model_and_pipeline(tmp_path):
    for load in (AutoModel.from_pretrained, lambda folder: pipeline("zero-shot-ecg-classification", model=folder)):
        with pytest.raises(ValueError, match=rf"{tmp_path}.*config.json"):
            load(str(tmp_path))


def forget_the_processor(folder: Path) -> None:
    for file in folder.glob("*processor_config.json"):
        file.unlink()


def become_a_bert(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")


def become(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty_the_folder, "The folder '{folder}' holds no model (no config.json). Name a folder that"),
        (shutil.rmtree, "There is no folder '{folder}', and no Hub repository can have this name. Check the path."),
        (forget_the_processor, "'{folder}' holds a model but no processor (no processor_config.json). Save it beside"),
        (become_a_bert, "'{folder}' holds a model of type 'bert', no ECG-text model. Name a folder that"),
        (become("config.json", b"{"), "'{folder}/config.json' cannot be read: Expecting property name"),
        (become("config.json", b""), "'{folder}/config.json' cannot be read: Expecting value"),
        (become("config.json", b"[" * 100_000), "'{folder}/config.json' cannot be read: it is nested too deeply."),
        (become("config.json", b"{}"), "The model '{folder}' cannot be loaded: Unrecognized model"),
        (become("processor_config.json", b"[]"), "processor_config.json' cannot be read: it holds a list, no JSON"),
        (become("tokenizer.json", b"\xff\xfe"), "'{folder}/tokenizer.json' cannot be read: "),
        (become("tokenizer.json", b"{}"), "The processor of '{folder}' is missing or cannot be loaded: "),
        (set_in_config(auto_map=5), "The model '{folder}' cannot be loaded: TypeError: "),
        (set_in_config(temperature=float("nan")), "MerlConfig: temperature is nan. It must be a finite number"),
        (set_in_config(text_config__vocab_size=10**12), "vocab_size is 1000000000000, which no model has"),
        (set_in_config(text_config__num_hidden_layers=10**6), "num_hidden_layers is 1000000, which no model has"),
    ],
)
@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_the_command_line_says_why_a_folder_is_no_model(command, damage, message, copied_model, command_line):
    damage(copied_model)
    rest = ["p7", "--labels", *LABELS] if command == "classify" else []
    code, output, errors = command_line(command, "--model", copied_model, *rest)
    assert (code, output) == (1, "")
    assert errors.startswith(f"hf-ecgtext {command}: ")
    assert message.format(folder=copied_model) in errors
    assert errors.count("\n") == 1


def test_the_command_line_points_from_the_folder_of_a_run_to_its_checkpoints(copied_model, command_line):
    copied_model.rename(copied_model.parent / "checkpoint-30")
    code, _, errors = command_line("classify", "p7", "--model", copied_model.parent, "--labels", *LABELS)
    assert code == 1
    assert "the folders in it that do: checkpoint-30" in errors


def test_loading_a_model_for_a_command_leaves_the_progress_bars_as_they_were(command_line, tmp_path):
    before = transformers_logging.is_progress_bar_enabled()
    command_line("classify", "p7", "--model", tmp_path, "--labels", *LABELS)
    assert transformers_logging.is_progress_bar_enabled() == before


def test_weights_that_do_not_fit_are_accepted_only_where_that_is_asked_for_and_then_said(copied_model, caplog):
    reshape(copied_model)
    remove = "text_projection.0.bias"
    weights = load_file(copied_model / "model.safetensors")
    del weights[remove]
    save_file(weights, copied_model / "model.safetensors", metadata={"format": "pt"})
    AutoModel.from_pretrained(copied_model, allow_missing_weights=True)
    assert f"missing: ['{remove}']" in caplog.text
    assert "(32, 63) where the config asks for (32, 64)" in caplog.text


def test_a_tokenizer_of_another_model_is_refused(copied_model, command_line):
    content = json.loads((copied_model / "tokenizer.json").read_text())
    content["model"]["vocab"]["arrhythmia-that-nobody-knows"] = 10**6
    (copied_model / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="gives token ids up to 1000000, but the text encoder has embeddings"):
        pipeline("zero-shot-ecg-classification", model=str(copied_model))
    code, _, errors = command_line("classify", "p7", "--model", copied_model, "--labels", *LABELS)
    assert code == 1
    assert "gives token ids up to 1000000" in errors


def test_a_pipeline_refuses_a_model_without_texts(merl_folder, processor):
    encoder = AutoModel.from_pretrained(merl_folder).ecg_encoder
    with pytest.raises(CheckpointError, match="holds a ResNet1dModel without get_text_features"):
        pipeline("zero-shot-ecg-classification", model=encoder, processor=processor)


# Settings on the command line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "nosuch"], "Method 'merl' has no recipe 'nosuch'. Its recipes: debug, "),
        (["--data", "ptb_xl"], "ptb_xl needs --data-dir: its original download, or the folder prepared from it."),
        (
            ["--data", "ptb_xl", "--data-dir", "/nonexistent"],
            "There is no folder '/nonexistent'. Name the folder of the original download.",
        ),
        (["--data-dir", "/nonexistent"], "Synthetic data is drawn from a seed and needs no --data-dir"),
        (["--data-set", "nosuch=1"], "synthetic has no option 'nosuch'; it has: num_records, seed, sampling_rate_hz, "),
        (["--data-set", "num_records=many"], "--data-set num_records=many cannot be used: "),
        (["--data-set", "num_records"], "'num_records' is not NAME=VALUE."),
        (["--set", "nosuch=1"], "Cannot override 'nosuch': write text_model, or config., ecg., text. or training."),
        (["--set", "config.temprature=1"], "MerlConfig has no setting temprature. Its settings: "),
        (
            ["--set", "config.temperature=-1"],
            "--set config.temperature=-1 cannot be used: temperature must be positive",
        ),
        (["--set", "config.temperature=hot"], "--set config.temperature=hot cannot be used: "),
        (["--set", "config.ecg_config.nosuch=1"], "ResNet1dConfig has no setting nosuch. Its settings: "),
        (["--set", "ecg.nosuch=1"], "EcgFeatureExtractor has no setting 'nosuch'. Settings: "),
        (["--set", "text.nosuch=1"], "--set: there is no setting 'text.nosuch'"),
        (["--set", "training.nosuch=1"], "--set training.nosuch: there is no such training setting"),
        (["--set", "training.max_step=1"], "there is no such training setting; did you mean 'max_steps'?"),
        (["--set", "training.max_steps=many"], "--set training.max_steps must be a number, not 'many'."),
        (["--set", "training.bf16=yes"], "--set training.bf16 must be true or false, not 'yes'."),
        (["--set", "training.seed=1"], "--set training.seed: write --seed instead."),
    ],
)
def test_a_wrong_setting_of_train_is_explained_in_one_line(options, message, command_line, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    recipe = [] if "--recipe" in options else ["--recipe", "debug"]
    code, output, errors = command_line(
        "train", "--method", "merl", *recipe, "--output-dir", tmp_path / "out", *options
    )
    assert (code, output) == (1, "")
    assert errors.startswith("hf-ecgtext train: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_the_flag_debug_shows_the_traceback_of_such_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no recipe 'nosuch'"):
        main(["--debug", "train", "--method", "merl", "--recipe", "nosuch", "--output-dir", str(tmp_path)])
