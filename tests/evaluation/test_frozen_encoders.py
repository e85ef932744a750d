"""Encoders as evaluation sees them, on a small model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.sources.synthetic import open_data
from hf_ecgtext.evaluation.encoders.frozen import (
    FrozenEncoder,
    ModelEncoder,
    adapt_batch_norm,
    canonical_order,
    cut_windows,
    random_runs,
)
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.methods import get_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data(num_records=120, sampling_rate_hz=100.0, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def encoder() -> ModelEncoder:
    return ModelEncoder(*get_recipe("merl", "debug").build(seed=0))


def record(num_samples: int, seed: int = 0) -> EcgRecord:
    signal = np.random.default_rng(seed).standard_normal((12, num_samples)).astype(np.float32)
    return EcgRecord(signal, 100.0, STANDARD_LEADS, f"r{seed}", patient_id="p")


def test_features_are_what_the_model_gives(encoder, data):
    ecgs = [item["ecg"] for item in data.split("test").__getitems__(range(5))]
    features = encoder.encode(ecgs)
    inputs = encoder.processor.feature_extractor(ecgs, return_tensors="pt")
    with torch.no_grad():
        probe = encoder.model.get_probe_features(inputs["ecg_values"], inputs["lead_mask"])
        embeds = encoder.model.get_ecg_features(inputs["ecg_values"], inputs["lead_mask"])
    np.testing.assert_array_equal(features["probe"], probe.numpy())
    np.testing.assert_allclose(features["ecg_embeds"], embeds.numpy(), rtol=1e-6)


@pytest.mark.parametrize("method", ["deri", "cgdmer", "cmelt", "etp"])
def test_every_method_has_its_own_probe_features(method, data):
    encoder = ModelEncoder(*get_recipe(method, "debug").build(seed=0))
    ecgs = [item["ecg"] for item in data.split("test").__getitems__(range(3))]
    inputs = encoder.processor.feature_extractor(ecgs, return_tensors="pt")
    with torch.no_grad():
        probe = encoder.model.get_probe_features(inputs["ecg_values"], inputs["lead_mask"])
    np.testing.assert_array_equal(encoder.encode(ecgs)["probe"], probe.numpy())


def test_a_long_recording_is_covered_by_evenly_spaced_windows():
    ecg = record(2500)
    windows = cut_windows(ecg, duration_s=10.0, long_records="whole")
    assert [window.num_samples for window in windows] == [1000, 1000, 1000]
    for window, start in zip(windows, (0, 750, 1500), strict=True):
        np.testing.assert_array_equal(window.signal, ecg.signal[:, start : start + 1000])
    assert cut_windows(record(1000), 10.0, "whole")[0].num_samples == 1000
    assert cut_windows(record(600), 10.0, "whole")[0].num_samples == 600


def test_features_of_a_long_recording_are_the_means_over_its_windows(encoder):
    long, short = record(2500), record(1000, seed=1)
    together = encoder.encode([short, long])
    windows = encoder.encode(cut_windows(long, 10.0, "whole"))
    np.testing.assert_allclose(together["probe"][1], windows["probe"].mean(axis=0), rtol=1e-4, atol=1e-6)
    expected = F.normalize(torch.from_numpy(windows["ecg_embeds"]).mean(dim=0), dim=0)
    np.testing.assert_allclose(together["ecg_embeds"][1], expected.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(together["probe"][0], encoder.encode([short])["probe"][0], rtol=1e-4, atol=1e-6)


def test_the_published_cut_is_the_first_five_seconds(encoder):
    ecg = record(2500)
    (window,) = cut_windows(ecg, 10.0, "first_5_s")
    np.testing.assert_array_equal(window.signal, ecg.signal[:, :500])
    cut_by_hand = replace(ecg, signal=ecg.signal[:, :500])
    published = encoder.with_windows("first_5_s")
    np.testing.assert_array_equal(published.encode([ecg])["probe"], encoder.encode([cut_by_hand])["probe"])
    assert published.identity() != encoder.identity()


def test_stored_recordings_are_cut_like_others(data):
    stored = data.split("test")[0]["ecg"]
    (window,) = cut_windows(stored, 10.0, "first_5_s")
    np.testing.assert_array_equal(window.signal, stored.signal[:, :500])


def test_identities_differ_with_the_weights_the_processor_and_the_precision(encoder):
    same = ModelEncoder(*get_recipe("merl", "debug").build(seed=0))
    assert same.identity() == encoder.identity()
    others = [
        ModelEncoder(*get_recipe("merl", "debug").build(seed=1)),
        ModelEncoder(same.model, same.processor, dtype="bfloat16"),
    ]
    changed = get_recipe("merl", "debug").build(seed=0)
    changed[1].feature_extractor.scaling = "zscore_lead"
    others.append(ModelEncoder(*changed))
    buffers = get_recipe("merl", "debug").build(seed=0)
    next(buffer for name, buffer in buffers[0].named_buffers() if "running_mean" in name).add_(1.0)
    others.append(ModelEncoder(*buffers))
    identities = [str(other.identity()) for other in (encoder, *others)]
    assert len(set(identities)) == len(identities)


def test_bfloat16_features_are_close_and_stored_as_float32(encoder, data):
    ecgs = [item["ecg"] for item in data.split("test").__getitems__(range(4))]
    half = ModelEncoder(encoder.model, encoder.processor, dtype="bfloat16").encode(ecgs)
    full = encoder.encode(ecgs)
    assert half["probe"].dtype == np.float32
    assert not np.array_equal(half["probe"], full["probe"])
    similarity = (half["ecg_embeds"] * full["ecg_embeds"]).sum(axis=1)
    assert (similarity > 0.99).all()


def test_texts_are_embedded_in_batches_as_at_once(encoder):
    texts = ["sinus rhythm", "atrial fibrillation with a long line of words", "normal ecg"]
    small = ModelEncoder(encoder.model, encoder.processor, text_batch_size=2)
    np.testing.assert_allclose(small.embed_texts(texts), encoder.embed_texts(texts), rtol=1e-4, atol=1e-6)


def test_an_encoder_without_text_says_so():
    class Constant(FrozenEncoder):
        def identity(self):
            return {}

        def encode(self, ecgs):
            return {"probe": np.zeros((len(ecgs), 1), np.float32)}

    assert not Constant().has_text
    with pytest.raises(TypeError, match="Constant has no text tower"):
        Constant().embed_texts(["a"])


class Reversed:
    """The rows of a split from last to first."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[len(self) - 1 - index]

    def __getitems__(self, indices):
        return self.rows.__getitems__([len(self) - 1 - index for index in indices])

    def column(self, name):
        return self.rows.column(name)[::-1]


def test_random_twins_do_not_depend_on_the_order_of_records_and_differ_by_seed(encoder, data):
    backwards = replace(data, train=Reversed(data.train))
    runs = random_runs(encoder, data, "model", (0, 1))
    again = random_runs(encoder, backwards, "model", (0, 1))
    assert runs.kind == "random"
    assert runs.seed == (0, 1)
    for one, other in zip(runs.members, again.members, strict=True):
        assert one.identity() == other.identity()
    assert runs.members[0].identity() != runs.members[1].identity()
    assert all(member.identity() != encoder.identity() for member in runs.members)


def test_adapted_statistics_are_those_of_the_training_signals(encoder, data):
    ecgs = [item["ecg"] for item in data.split("train").__getitems__(range(len(data.train)))]
    before = encoder.identity()["weights"]
    norm = next(m for m in encoder.model.modules() if isinstance(m, torch.nn.BatchNorm1d))
    seen = []
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    adapt_batch_norm(encoder, data, batch_size=len(ecgs))
    handle.remove()
    (signals,) = seen
    torch.testing.assert_close(norm.running_mean, signals.mean(dim=(0, 2)))
    assert not norm.training
    assert encoder.identity()["weights"] != before


def test_records_are_ordered_by_id_and_ids_must_be_unique(data):
    order, ids = canonical_order(data, "test")
    assert list(ids) == sorted(data.test.column("record_id"))
    assert [data.test.column("record_id")[row] for row in order] == list(ids)

    class Twice(Reversed):
        def column(self, name):
            return ["same"] * len(self)

    with pytest.raises(ValueError, match="test split of synthetic has record same more than once"):
        canonical_order(replace(data, test=Twice(data.test)), "test")
