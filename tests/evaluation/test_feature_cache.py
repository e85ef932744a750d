"""The cache of features: computed once, survives a kill, shared by processes, keyed by all that decides the numbers."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.encoders import feature_cache as features_module
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import FrozenEncoder, ModelEncoder, random_runs
from hf_ecgtext.methods import get_recipe


class Means(FrozenEncoder):
    """Mean of each lead, counting how many records it was shown."""

    def __init__(self, name: str = "means", fail_at: str | None = None, nan_at: str | None = None):
        self.name, self.fail_at, self.nan_at = name, fail_at, nan_at
        self.shown: list[str] = []

    def identity(self):
        return {"name": self.name}

    def encode(self, ecgs):
        if self.fail_at in [ecg.record_id for ecg in ecgs]:
            raise KeyboardInterrupt
        self.shown += [ecg.record_id for ecg in ecgs]
        probe = np.stack([ecg.signal.mean(axis=1) for ecg in ecgs])
        for row, ecg in enumerate(ecgs):
            if ecg.record_id == self.nan_at:
                probe[row, 3] = np.nan
        return {"probe": probe}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))


def cache(folder: Path, **options) -> FeatureCache:
    return FeatureCache(folder, show_progress=False, **{"batch_size": 4, **options})


def test_features_stand_in_the_order_of_the_ids_and_are_computed_once(tmp_path, data):
    encoder = Means()
    found = cache(tmp_path).features(encoder, data, "test")
    by_id = {item["ecg"].record_id: item["ecg"] for item in data.test.__getitems__(range(len(data.test)))}
    assert found.record_ids == tuple(sorted(by_id))
    expected = np.stack([by_id[name].signal.mean(axis=1) for name in found.record_ids])
    np.testing.assert_array_equal(found.arrays["probe"], expected)
    again = cache(tmp_path).features(Means(fail_at=found.record_ids[0]), data, "test")  # would raise if it were run
    np.testing.assert_array_equal(again.arrays["probe"], expected)
    assert sorted(encoder.shown) == sorted(by_id)
    assert isinstance(again.arrays["probe"], np.memmap)


def test_a_killed_run_goes_on_where_it_was(tmp_path, data, monkeypatch):
    monkeypatch.setattr(features_module, "_SAVE_EVERY", 2)
    whole = cache(tmp_path / "whole").features(Means(), data, "train").arrays["probe"]
    ids = sorted(data.train.column("record_id"))
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path / "killed").features(Means(fail_at=ids[30]), data, "train")
    rest = Means()
    resumed = cache(tmp_path / "killed").features(rest, data, "train").arrays["probe"]
    np.testing.assert_array_equal(resumed, whole)
    # Batches of 4, saved every second one: of the 28 that were done before the failing batch, 24 were kept.
    assert rest.shown == ids[24:]
    assert not list((tmp_path / "killed").glob("*.unfinished"))


def test_a_run_killed_before_its_first_save_starts_again(tmp_path, data):
    ids = sorted(data.test.column("record_id"))
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path).features(Means(fail_at=ids[5]), data, "test")
    again = Means()
    cache(tmp_path).features(again, data, "test")
    assert again.shown == ids


def test_another_encoder_revision_split_or_record_set_has_features_of_its_own(tmp_path, data):
    shared = cache(tmp_path)
    shared.features(Means(), data, "test")
    fresh = [
        (Means("other"), data, "test"),
        (Means(), replace(data, revision="another"), "test"),
        (Means(), data, "validation"),
        (Means(), replace(data, test=data.validation), "test"),
    ]
    for encoder, changed, split in fresh:
        shared.features(encoder, changed, split)
        assert encoder.shown
    assert len(list(tmp_path.glob("*/description.json"))) == 5


def test_what_is_cached_says_what_it_is(tmp_path, data):
    cache(tmp_path).features(Means(), data, "test")
    (path,) = tmp_path.glob("*/description.json")
    description = json.loads(path.read_text())
    assert description["encoder"] == {"name": "means"}
    assert (description["data"], description["split"]) == ("synthetic", "test")
    assert description["record_ids"] == sorted(data.test.column("record_id"))


def test_nan_features_are_refused_by_the_name_of_the_record(tmp_path, data):
    name = sorted(data.test.column("record_id"))[7]
    with pytest.raises(RecordError, match=f"Record '{name}': has NaN or infinite features"):
        cache(tmp_path).features(Means(nan_at=name), data, "test")
    cache(tmp_path).features(Means(), data, "test")


def fill(folder: str, cache_dir: str) -> None:
    data = open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=cache_dir)
    for split in ("test", "validation", "train"):
        cache(Path(folder)).features(Means(), data, split)


@pytest.mark.slow
def test_processes_that_fill_one_cache_at_once_do_not_disturb_each_other(tmp_path, tmp_path_factory, data):
    alone = cache(tmp_path / "alone")
    data_cache = tmp_path_factory.mktemp("shared")
    open_data(num_records=200, sampling_rate_hz=100.0, cache_dir=data_cache)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads warns
    workers = [context.Process(target=fill, args=(str(tmp_path / "both"), str(data_cache))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    both = cache(tmp_path / "both")
    for split in ("train", "validation", "test"):
        expected = alone.features(Means(), data, split)
        encoder = Means()
        found = both.features(encoder, data, split)
        assert not encoder.shown
        np.testing.assert_array_equal(found.arrays["probe"], expected.arrays["probe"])
    assert len(list((tmp_path / "both").glob("*/description.json"))) == 3
    assert not list((tmp_path / "both").glob("*.unfinished"))


def test_texts_are_embedded_once(tmp_path):
    class Lengths(Means):
        has_text = True

        def embed_texts(self, texts):
            self.shown += list(texts)
            return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    encoder = Lengths()
    first = cache(tmp_path).texts(encoder, ["abc", "d"])
    second = cache(tmp_path).texts(encoder, ["abc", "d"])
    cache(tmp_path).texts(encoder, ["d", "abc"])
    np.testing.assert_array_equal(first, [[3, 1], [1, 1]])
    np.testing.assert_array_equal(first, second)
    assert encoder.shown == ["abc", "d", "d", "abc"]


def test_encoders_that_share_a_text_tower_run_it_once(tmp_path, data, monkeypatch):
    encoder = ModelEncoder(*get_recipe("merl", "debug").build(seed=0))
    (untrained,) = random_runs(encoder, data, "model", (3,)).members
    texts = ["sinus rhythm", "atrial fibrillation", "left bundle branch block"]
    shared = cache(tmp_path)
    expected = {id(one): one.embed_texts(texts) for one in (encoder, untrained)}
    pooled = []
    run = ModelEncoder.pool_texts
    monkeypatch.setattr(ModelEncoder, "pool_texts", lambda self, texts: pooled.append(self) or run(self, texts))
    for one in (encoder, untrained, encoder.with_windows("first_5_s")):
        np.testing.assert_allclose(shared.texts(one, texts), expected.get(id(one), expected[id(encoder)]), atol=1e-6)
    assert len(pooled) == 1
    other = ModelEncoder(*get_recipe("merl", "debug").build(seed=1))  # another text tower
    shared.texts(other, texts)
    assert len(pooled) == 2


@pytest.mark.parametrize("method", ["merl", "etp", "deri", "cmelt", "cgdmer"])
def test_kept_texts_give_the_embeddings_of_the_model(tmp_path, method):
    model, processor = get_recipe(method, "debug").build(seed=0)
    texts = ["sinus rhythm", "atrial fibrillation with many more words than the others", "normal ecg"]
    with torch.no_grad():
        expected = model.eval().get_text_features(**processor(text=texts, return_tensors="pt"))
    found = cache(tmp_path).texts(ModelEncoder(model, processor), texts)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
