from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from hf_ecgtext.evaluation.encoders.feature_cache import SplitFeatures
from hf_ecgtext.reporting.figures.embeddings import embed_2d, embedding_figure, single_labels

pytest.importorskip("matplotlib", reason='figures need pip install "hf-ecgtext[plots]"')
pytest.importorskip("sklearn", reason='t-SNE needs pip install "hf-ecgtext[plots]"')

LABELS = ("AFIB", "SR", "STACH")


def two_clusters(num_records=40):
    """Features far apart for SR and AFIB; the last two records are STACH, and the very last is also SR."""
    rng = np.random.default_rng(0)
    targets = np.zeros((num_records, 3), dtype=np.int8)
    targets[: num_records // 2, 1] = 1
    targets[num_records // 2 : -2, 0] = 1
    targets[-2:, 2] = 1
    targets[-1, 1] = 1
    features = rng.normal(size=(num_records, 8)) + 30 * targets[:, [0]]
    return features.astype(np.float32), targets


def test_neighbours_stay_neighbours():
    features, _ = two_clusters()
    points = embed_2d(features, seed=0)
    assert points.shape == (40, 2)
    first, second = points[:20], points[20:38]
    spread = max(np.linalg.norm(part - part.mean(axis=0), axis=1).max() for part in (first, second))
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > spread


def test_the_same_seed_gives_the_same_points():
    features, _ = two_clusters()
    assert np.array_equal(embed_2d(features, seed=3), embed_2d(features, seed=3))


def test_only_records_with_one_label_are_kept_and_rare_labels_are_grouped():
    _, targets = two_clusters()
    single = single_labels(targets, LABELS, min_records=10)
    assert single.rows.tolist() == list(range(39))  # the last record has two labels
    assert single.names == ["SR", "AFIB", "other (1 label)"]
    assert single.num_own == 2
    assert np.bincount(single.groups).tolist() == [20, 18, 1]


def test_labels_beyond_the_colours_are_grouped_whatever_their_number():
    targets = np.repeat(np.eye(4, dtype=np.int8), [40, 30, 20, 15], axis=0)
    single = single_labels(targets, ("a", "b", "c", "other (x)"), max_groups=2)
    assert single.names == ["a", "b", "other (2 labels)"]
    assert np.bincount(single.groups).tolist() == [40, 30, 35]


def test_the_figure_shows_each_group_at_its_points():
    features, targets = two_clusters()
    (axes,) = embedding_figure(features, targets, LABELS, title="of $x_").axes
    points = embed_2d(features[:39])
    drawn = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections}
    assert set(drawn) == {"SR: 20", "AFIB: 18", "other (1 label): 1"}
    assert drawn["SR: 20"] == pytest.approx(points[:20])
    assert drawn["AFIB: 18"] == pytest.approx(points[20:38])


def test_cached_features_show_the_shared_space_where_there_is_one():
    features, targets = two_clusters()
    arrays = {"probe": np.zeros((40, 3), np.float32), "ecg_embeds": features}
    cached = SplitFeatures(tuple(f"{n:02d}" for n in range(40)), arrays)
    from_cache, from_array = (embedding_figure(values, targets, LABELS) for values in (cached, features))
    for one, other in zip(from_cache.axes[0].collections, from_array.axes[0].collections, strict=True):
        assert np.array_equal(one.get_offsets(), other.get_offsets())


def test_many_records_are_drawn_by_lot():
    features, targets = two_clusters(80)
    (axes,) = embedding_figure(features, targets, LABELS, max_records=30).axes
    assert sum(len(c.get_offsets()) for c in axes.collections) == 30


def test_umap_is_asked_for_one_seeded_process(monkeypatch):
    # A stand-in: umap-learn is an extra of its own.
    asked = {}

    class Umap:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, values):
            return values[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    features, _ = two_clusters()
    assert np.array_equal(embed_2d(features[:10], "umap", seed=5), features[:10, :2] * 2)
    assert asked == {"n_components": 2, "n_neighbors": 9, "random_state": 5, "n_jobs": 1}


@pytest.mark.parametrize(
    ("method", "module", "extra"), [("umap", "umap", "umap"), ("tsne", "sklearn.manifold", "plots")]
)
def test_a_missing_library_is_named_with_its_extra(method, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "hf-ecgtext\[{extra}\]"'):
        embed_2d(two_clusters()[0], method)


def test_bad_features_are_refused_with_the_row():
    features, targets = two_clusters()
    features[7, 2] = np.nan
    with pytest.raises(ValueError, match="Row 7"):
        embed_2d(features)
    with pytest.raises(ValueError, match="no method 'pca'"):
        embed_2d(np.nan_to_num(features), "pca")
    with pytest.raises(ValueError, match="at least three"):
        embed_2d(features[:2])
    with pytest.raises(ValueError, match=r"task\.records\(split\)\.rows"):
        embedding_figure(features[:39], targets, LABELS)


def test_too_few_single_labels_are_refused():
    features, targets = two_clusters()
    with pytest.raises(ValueError, match="Only 0 of 40 records"):
        embedding_figure(features, np.ones_like(targets), LABELS)
