"""Fine-tuning to tell people apart: what it trains, what it leaves alone, what it saves."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_ecgtext.cli import main
from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.sources.cinc2021.segments import identification_data
from hf_ecgtext.data.sources.synthetic import SYNTHETIC_FEATURES
from hf_ecgtext.data.store.schema import EcgDataset, record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.downstream.identification import evaluate_identification
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, hash_weights
from hf_ecgtext.evaluation.results import read_results
from hf_ecgtext.finetuning.identification import (
    CMELT,
    FewerLeads,
    finetune_identification,
    identification_baseline,
)
from hf_ecgtext.finetuning.lead_subsets import lead_subset
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.methods import get_recipe

QUICK = CMELT.override(
    {
        "scale": 16.0,
        "margin": 0.2,
        "training.num_train_epochs": 4,
        "training.per_device_train_batch_size": 16,
        "training.learning_rate": 3e-3,
        "training.disable_tqdm": True,
    }
)


def rows_of(signal_of, count, patient_of=None):
    """Recordings of 500 Hz, changed by a function of their number."""
    generator = SyntheticEcgGenerator(seed=9, sampling_rate_hz=500.0)
    rows = []
    for index in range(count):
        record = generator.record(index)
        fields = {**vars(record), "signal": signal_of(index, record.signal)}
        if patient_of is not None:
            fields["patient_id"] = patient_of(index)
        rows.append(record_to_row(type(record)(**fields)))
    return EcgDataset(Dataset(rows_to_table(rows, SYNTHETIC_FEATURES)))


@pytest.fixture(scope="module")
def data():
    everybody = rows_of(lambda _index, signal: signal, 48)
    recordings = EcgData("synthetic", "1", train=everybody, validation=None, test=None)
    return identification_data(recordings, validation_fraction=0.4, unused_fraction=0.0)


@pytest.fixture(scope="module")
def model():
    return get_recipe("merl", "debug").build(seed=0)


@pytest.fixture(scope="module")
def tuned(data, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("identification")
    return folder, finetune_identification(*model, data, folder, recipe=QUICK, seed=1)


def test_the_original_stays_as_it_is_and_the_copy_learns(model, tuned):
    original, _ = model
    _, found = tuned
    before, after = original.state_dict(), found.encoder.inner.model.state_dict()
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("ecg_encoder.") for name in changed)
    assert not any(name.startswith("text_tower.") for name in changed)
    assert hash_weights(get_recipe("merl", "debug").build(seed=0)[0]) == hash_weights(original)
    trainable = {name: parameter.requires_grad for name, parameter in original.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in found.encoder.inner.model.named_parameters()} == (
        trainable
    )


def test_the_epoch_is_the_best_on_validation(data, tuned, tmp_path):
    _, found = tuned
    assert found.details["epochs"] == 4
    assert 1 <= found.details["best_epoch"] <= 4
    assert found.details["num_training_persons"] == 1 + max(data.train.column("person"))
    runs = EncoderRuns("tuned", "trained", (found.encoder,))
    first, _ = evaluate_identification(runs, data, cache(tmp_path), split="validation", num_resamples=10)
    assert first.value == pytest.approx(found.details["validation_accuracy"])


def test_the_folder_is_a_checkpoint_with_the_ledger_of_what_was_trained_on(data, tuned, tmp_path):
    from transformers import AutoModel, AutoProcessor

    folder, found = tuned
    encoder = FewerLeads(AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder), STANDARD_LEADS)
    again, there = (cache(tmp_path).features(one, data, "test").arrays["probe"] for one in (encoder, found.encoder))
    np.testing.assert_allclose(again, there, atol=1e-6)
    ledger = TrainingLedger.load(folder)
    assert ledger.look_up(data.name, data.train).trained.all()
    assert not ledger.look_up(data.name, data.test).patient_trained.any()


@pytest.mark.slow
def test_it_learns_to_tell_training_people_apart(model, tmp_path):
    """Everybody's mark is a hum of an own frequency in lead I, in all segments."""

    def marked(index, signal):
        signal = signal.copy()
        signal[0] += 0.1 * np.sin(2 * np.pi * (2 + 0.25 * index) * np.arange(5000) / 500)
        return signal

    recordings = EcgData("marked", "1", train=rows_of(marked, 24, str), validation=None, test=None)
    easy = identification_data(recordings, validation_fraction=0.3, unused_fraction=0.0)
    recipe = QUICK.override({"training.num_train_epochs": 9, "training.save_total_limit": 20})
    found = finetune_identification(*model, easy, tmp_path / "run", recipe=recipe)
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    untrained = EncoderRuns("x", "trained", (FewerLeads(*model, STANDARD_LEADS),))
    before, _ = evaluate_identification(untrained, easy, cache(tmp_path), split="validation", num_resamples=2)
    assert found.details["validation_accuracy"] >= before.value


def test_absent_leads_do_not_matter_to_the_encoder(data, model):
    one = FewerLeads(*model, lead_subset(1))
    ecg = data.test[0]["ecg"]
    signal = ecg.signal.copy()
    signal[1:] = 3.0
    changed = type(ecg)(**{**vars(ecg), "samples": signal, "gain_per_mv": np.ones(12), "baseline": np.zeros(12, int)})
    np.testing.assert_array_equal(one.encode([ecg])["probe"], one.encode([changed])["probe"])
    assert not np.allclose(one.encode([ecg])["probe"], FewerLeads(*model, lead_subset(12)).encode([ecg])["probe"])
    assert one.identity() != FewerLeads(*model, lead_subset(2)).identity()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(data, model, tuned, tmp_path):
    recipe = QUICK.override({"training.save_total_limit": 9})
    finetune_identification(*model, data, tmp_path, recipe=recipe, seed=1)
    checkpoints = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert len(checkpoints) == 4
    for checkpoint in checkpoints[2:]:
        shutil.rmtree(checkpoint)
    with pytest.raises(FileExistsError, match="holds checkpoints already"):
        finetune_identification(*model, data, tmp_path, recipe=recipe, seed=1)
    resumed = finetune_identification(*model, data, tmp_path, recipe=recipe, seed=1, resume=True)
    _, whole = tuned
    assert resumed.details == whole.details
    assert hash_weights(resumed.encoder.inner.model) == hash_weights(whole.encoder.inner.model)


def test_it_stops_when_validation_gets_no_better(data, model, tmp_path):
    still = QUICK.override({"training.learning_rate": 0.0, "training.num_train_epochs": 9, "patience": 2})
    found = finetune_identification(*model, data, tmp_path, recipe=still)
    # Without learning, BatchNorm's statistics still move, so the best epoch may not be the first one.
    assert found.details["epochs"] == found.details["best_epoch"] + 2 or found.details["epochs"] == 9


def test_the_baseline_has_no_bias_from_the_other_leads(data, model):
    runs = identification_baseline(*model, data, 1, "x", (0, 1))
    assert (runs.kind, runs.seed, len(runs.members)) == ("random", (0, 1), 2)
    assert runs.members[0].identity() != runs.members[1].identity()
    assert all(member.leads == ("I",) for member in runs.members)


def test_the_name_of_a_changed_recipe_says_what_was_changed():
    assert CMELT.name == "cmelt"
    assert CMELT.override({"margin": 0.5, "training.num_train_epochs": 3}).name == "cmelt margin=0.5 num_train_epochs=3"
    for name in ("training.seed", "num_train_epochs"):
        with pytest.raises(ValueError, match=rf"Cannot set '{name}': write scale, margin, patience, or training\."):
            CMELT.override({name: 3})


def test_data_without_segments_are_refused(model, tmp_path):
    rows = rows_of(lambda _index, signal: signal, 4)
    plain = EcgData("plain", "1", train=rows, validation=rows, test=None)
    with pytest.raises(ValueError, match="holds no segments of people"):
        finetune_identification(*model, plain, tmp_path)


@pytest.mark.slow
def test_the_command_fine_tunes_and_prints_on_real_samples_of_physionet_2021(real_data, merl_folder, tmp_path, capsys):
    table = real_data / "ptb-xl" / "ptbxl_database.csv"
    options = ["--data", "cinc2021", "--data-dir", str(real_data / "cinc2021")]
    options += ["--data-set", f"ptb_xl_table={table}", "--output-dir", str(tmp_path / "out"), "--random-encoders", "1"]
    command = ["identify", "--model", str(merl_folder), *options]
    assert main(command) == 1
    assert "names no patient with two recordings" in capsys.readouterr().err
    results = tmp_path / "results.jsonl"
    settings = ["num_train_epochs=1", "per_device_train_batch_size=32", "disable_tqdm=true"]
    settings = [f"training.{setting}" for setting in settings]
    more = ["--split", "validation", "--leads", "2", "--finetune", "--results", str(results), "--set", *settings]
    assert main([*command, *more]) == 0
    lines = read_results(results)
    assert [(line.encoder, line.settings["training"]) for line in lines[::2]] == [
        ("trained", "none"),
        ("trained", "cmelt disable_tqdm=True num_train_epochs=1 per_device_train_batch_size=32"),
        ("random", "none"),
    ]
    assert {line.settings["leads"] for line in lines} == {2}
    assert "2 leads" in capsys.readouterr().out


def test_settings_without_fine_tuning_are_refused(merl_folder, capsys):
    assert main(["identify", "--model", str(merl_folder), "--set", "scale=3"]) == 1
    assert "add --finetune" in capsys.readouterr().err


def cache(folder):
    return FeatureCache(folder / "features", show_progress=False)


def test_a_warm_up_as_long_as_the_fine_tuning_is_refused(model, data, tmp_path):
    with pytest.raises(ValueError, match=r"warmup_steps=500 does not fit a run of \d+ steps"):
        finetune_identification(*model, data, tmp_path / "long", recipe=QUICK.override({"training.warmup_steps": 500}))
    absolute = {
        "training.lr_scheduler_type": "warmup_stable_decay",
        "training.lr_scheduler_kwargs": {"num_decay_steps": 900},
    }
    with pytest.raises(ValueError, match="num_decay_steps must be a share of the run"):
        finetune_identification(*model, data, tmp_path / "decay", recipe=QUICK.override(absolute))
