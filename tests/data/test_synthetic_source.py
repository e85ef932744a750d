"""The synthetic dataset is the generator's records, split so that nobody is on two sides."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from hf_ecgtext.data.prepare.card import push_folder_to_hub, write_parquet_folder
from hf_ecgtext.data.sources.synthetic import (
    SPLITS,
    SYNTHETIC_FEATURES,
    SyntheticBuilder,
    SyntheticConfig,
    load_synthetic,
    split_seed,
)
from hf_ecgtext.data.store.schema import EcgDataset, iter_records
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    return load_synthetic(40, seed=3, sampling_rate_hz=100, cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_dataset_holds_exactly_what_the_generator_draws(prepared):
    assert {name: split.num_rows for name, split in prepared.items()} == {"train": 32, "validation": 4, "test": 4}
    for name, split in prepared.items():
        assert split.features == SYNTHETIC_FEATURES
        generator = SyntheticEcgGenerator(seed=split_seed(3, name), sampling_rate_hz=100)
        for item, expected in zip(EcgDataset(split), generator.records(len(split)), strict=True):
            record = item["ecg"]
            np.testing.assert_array_equal(record.signal, expected.signal)
            assert (record.record_id, record.patient_id) == (expected.record_id, expected.patient_id)
            assert (record.report, record.labels) == (expected.report, expected.labels)
            assert record.attributes == expected.attributes


def test_streaming_gives_the_cached_records(prepared):
    for name, split in prepared.items():
        stream = load_synthetic(40, seed=3, sampling_rate_hz=100, split=name, streaming=True)
        signals = [record.signal.tobytes() for record in iter_records(stream)]
        assert signals == [item["ecg"].signal.tobytes() for item in EcgDataset(split)]


def test_no_patient_and_no_record_is_in_two_splits(prepared):
    for column in ("patient_id", "record_id"):
        values = [set(EcgDataset(split).column(column)) for split in prepared.values()]
        assert sum(map(len, values)) == len(set.union(*values))
    assert len(set(prepared["train"]["patient_id"])) < prepared["train"].num_rows  # some have several records


def test_no_split_of_one_seed_is_a_split_of_another():
    seeds = [split_seed(seed, split) for seed in range(20) for split in SPLITS]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        split_seed(0, "dev")


def test_every_index_is_in_one_shard_when_there_are_many():
    builder = SyntheticBuilder(num_records=1000)
    (train, *_) = builder._split_generators(None)
    indices = [index for start, end in train.gen_kwargs["shards"] for index in range(start, end)]
    assert len(train.gen_kwargs["shards"]) > 2
    assert indices == list(range(800))


def test_a_longer_dataset_begins_with_the_shorter_one():
    few, many = (load_synthetic(n, sampling_rate_hz=100, split="test", streaming=True) for n in (10, 30))
    (first,) = iter_records(few)
    same, *others = iter_records(many)
    np.testing.assert_array_equal(same.signal, first.signal)
    assert len(others) == 2


def test_the_cache_folder_changes_with_every_setting(tmp_path):
    base = {"num_records": 10, "seed": 0, "sampling_rate_hz": 100.0, "duration_s": 10.0, "noise": True}
    changes = [{}, {"num_records": 11}, {"seed": 1}, {"sampling_rate_hz": 125.0}, {"duration_s": 8.0}, {"noise": False}]
    folders = [SyntheticBuilder(cache_dir=str(tmp_path), **(base | change)).cache_dir for change in changes]
    assert len(set(folders)) == len(folders)
    assert SyntheticBuilder(cache_dir=str(tmp_path), **base).cache_dir == folders[0]


def test_too_few_records_for_three_splits_are_refused():
    with pytest.raises(ValueError, match=r"at least 10.*not 9"):
        SyntheticConfig(num_records=9).split_sizes()


def test_the_script_writes_a_folder_that_load_dataset_reads_back(tmp_path):
    path = Path(__file__).resolve().parents[2] / "dataset_scripts" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("script_synthetic", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path / "synthetic"
    script.main(["--output-dir", str(folder), "--data-set", "num_records=20", "sampling_rate_hz=100"])
    loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    expected = SyntheticEcgGenerator(seed=0, sampling_rate_hz=100).records(16)
    for item, record in zip(EcgDataset(loaded), expected, strict=True):
        np.testing.assert_array_equal(item["ecg"].signal, record.signal)
    assert "license: apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")


def test_files_are_cut_at_the_size_asked_for_and_keep_the_order(tmp_path):
    stream = load_synthetic(20, sampling_rate_hz=100, split="train", streaming=True)
    counts = write_parquet_folder({"train": stream}, tmp_path / "cut", card="{counts}", records_per_file=6)
    assert counts == {"train": 16}
    assert sorted(path.name for path in (tmp_path / "cut" / "data").iterdir()) == [
        f"train-0000{index}-of-00003.parquet" for index in range(3)
    ]
    loaded = load_dataset(str(tmp_path / "cut"), split="train", cache_dir=str(tmp_path / "cache"))
    assert EcgDataset(loaded).column("record_id") == [record.record_id for record in iter_records(stream)]


def test_a_folder_is_pushed_as_a_dataset_repository(tmp_path, monkeypatch):
    calls = []

    class RecordingApi:
        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options["repo_type"], options["private"]))
            return f"https://hub/datasets/{repo_id}"

        def upload_folder(self, *, folder_path, repo_id, repo_type):
            calls.append(("upload", repo_id, repo_type, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", RecordingApi)
    assert push_folder_to_hub(tmp_path, "me/ecg", private=True) == "https://hub/datasets/me/ecg"
    assert calls == [("create", "me/ecg", "dataset", True), ("upload", "me/ecg", "dataset", str(tmp_path))]
