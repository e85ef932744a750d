"""Training as a function, and the recipe that it saves beside every checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from transformers import AutoModel

from hf_ecgtext.cli import main
from hf_ecgtext.methods import get_recipe, method_names, recipe_names
from hf_ecgtext.training.recorded_recipe import RECIPE_FILE
from hf_ecgtext.training.run import train

SETTINGS = {
    "training.max_steps": 4,
    "training.save_strategy": "steps",
    "training.save_steps": 2,
    "training.disable_tqdm": True,
    "training.learning_rate": 1e-3,
    "config.temperature": 0.1,
    "ecg.duration_s": 5.0,
}
DATA = {"num_records": 80}


@pytest.fixture(scope="module", autouse=True)
def data_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    seen = []
    outcome = train(
        "etp",
        "debug",
        output_dir=tmp_path_factory.mktemp("run") / "out",
        settings=SETTINGS,
        data_settings=DATA,
        seed=7,
        before_training=lambda trainer, data: seen.append((trainer.state.global_step, data.name)),
    )
    assert seen == [(0, "synthetic")]
    return outcome


def test_the_outcome_holds_what_was_trained_and_where_it_is(trained):
    assert (trained.steps, trained.was_finished) == (4, False)
    assert set(trained.loss_terms) == {"loss", "contrastive"} or trained.loss_terms == {}
    assert trained.data_options == {"num_records": 80, "sampling_rate_hz": 100.0}, "those of the recipe among them"
    assert AutoModel.from_pretrained(trained.output_dir).config.temperature == 0.1
    assert trained.trainer.model.config.model_type == "etp"


def test_every_checkpoint_holds_the_recipe_and_the_versions(trained):
    files = sorted(trained.output_dir.glob(f"**/{RECIPE_FILE}"))
    assert [file.parent.name for file in files] == ["checkpoint-2", "checkpoint-4", "out"]
    assert len({file.read_text() for file in files}) == 1
    recorded = yaml.safe_load(files[0].read_text())
    assert (recorded["method"], recorded["recipe"], recorded["data"]) == ("etp", "debug", "synthetic")
    assert (recorded["seed"], recorded["data-set"]) == (7, trained.data_options)
    assert recorded["set"]["config.temperature"] == 0.1
    assert recorded["set"]["training.per_device_train_batch_size"] == 16, "also what nobody changed"
    assert set(recorded["versions"]) >= {"hf-ecgtext", "torch", "transformers", "python", "data"}


@pytest.mark.slow
def test_the_recorded_recipe_trains_the_same_weights_to_the_bit(trained, tmp_path):
    file = trained.output_dir / RECIPE_FILE
    again = tmp_path / "again"
    assert main(["train", "--config", str(file), "--output-dir", str(again), "--no-zero-shot"]) == 0
    assert weights(again) == weights(trained.output_dir)
    assert (again / RECIPE_FILE).read_text() == file.read_text()
    other = tmp_path / "other"
    changed = ["--config", str(file), "--output-dir", str(other), "--no-zero-shot", "--set", "config.temperature=0.2"]
    assert main(["train", *changed]) == 0
    assert weights(other) != weights(trained.output_dir), "the command line wins"
    assert AutoModel.from_pretrained(other).config.ecg_config.num_samples == 500


def test_the_settings_of_every_recipe_give_the_recipe_again():
    for method in method_names():
        for name in recipe_names(method):
            recipe = get_recipe(method, name).override({"training.learning_rate": 0.5, "text_model": "other"})
            read = yaml.safe_load(yaml.safe_dump(recipe.settings()))
            again = get_recipe(method, name).override(read)
            assert again.config.to_dict() == recipe.config.to_dict()
            for group in ("text_model", "ecg", "text", "training"):
                assert getattr(again, group) == getattr(recipe, group), (method, name, group)


def test_several_settings_of_a_config_are_checked_together():
    first, second = "config.freeze_text", "config.num_frozen_text_layers"
    for settings in ({first: False, second: 2}, {second: 2, first: False}):
        assert get_recipe("merl", "debug").override(settings).config.num_frozen_text_layers == 2


def test_a_finished_run_is_only_loaded(trained):
    before = weights(trained.output_dir)
    again = train(
        "etp", "debug", output_dir=trained.output_dir, settings=SETTINGS, data_settings=DATA, seed=7, resume=True
    )
    assert again.was_finished
    assert weights(trained.output_dir) == before


def test_what_stops_before_the_training_stops_it(tmp_path):
    def refuse(trainer, data):
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        train("etp", "debug", output_dir=tmp_path, settings=SETTINGS, data_settings=DATA, before_training=refuse)
    assert not (tmp_path / "config.json").exists()
