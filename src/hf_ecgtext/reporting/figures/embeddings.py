"""Embeddings of recordings in two dimensions, coloured by label.

Such a picture is for finding what to look at. Distances and sizes of clusters in it say little; probes and retrieval
are what measures an encoder.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.evaluation.encoders.feature_cache import SplitFeatures
from hf_ecgtext.reporting.figures.style import COLOURS, MARKERS, below_legend, new_figure, plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["tsne", "umap"]

METHOD_TITLES = {"tsne": "t-SNE", "umap": "UMAP"}
_PERPLEXITY = 30.0  # van der Maaten and Hinton 2008: 5 to 50
_NUM_NEIGHBOURS = 15  # McInnes et al. 2018
_OTHER_COLOUR = "#bdbdbd"
_GROUP_COLOURS = (*COLOURS, "#000000", "#F0E442")
_MIN_RECORDS = 10


@dataclass(frozen=True, eq=False)
class EmbeddedTask:
    """Features of the records of a task.

    Args:
        checkpoint (`str`): Whose.
        task (`str`): Name of the task.
        data (`dict[str, str]`): `name`, `revision` and `split`.
        embeddings (`np.ndarray` of shape `(num_records, dim)`): Features.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        labels (`tuple[str, ...]`): Of the columns.
    """

    checkpoint: str
    task: str
    data: dict[str, str]
    embeddings: NDArray[np.float32]
    targets: NDArray[np.int8]
    labels: tuple[str, ...]


class SingleLabels(NamedTuple):
    """Records with exactly one label, and how a figure groups them.

    Args:
        rows (`np.ndarray` of shape `(num_single,)`): int64 places.
        groups (`np.ndarray` of shape `(num_single,)`): int64, places in `names`.
        names (`list[str]`): Frequent labels, most frequent first; then `"other"` if there are rare ones.
        num_own (`int`): How many of the names are labels.
    """

    rows: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: list[str]
    num_own: int


def embed_2d(features: NDArray[np.floating[Any]], method: Method = "tsne", seed: int = 0) -> NDArray[np.float64]:
    """Coordinates in two dimensions; the same for the same features and seed.

    Args:
        features (`np.ndarray` of shape `(num_records, dim)`): At least three records.
        method (`str`): `"tsne"` or `"umap"`.
        seed (`int`): Of whatever the method draws.

    Returns:
        `np.ndarray` of shape `(num_records, 2)`.

    Raises:
        ImportError: If the library of the method is not installed.
        ValueError: If there are too few records, a value is not finite, or there is no such method.
    """
    values = np.ascontiguousarray(features, dtype=np.float32)
    if values.ndim != 2 or len(values) < 3:
        raise ValueError(f"Features of shape {values.shape}; expected at least three records of one dimension or more.")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(
            f"Row {bad} of the features has a NaN or infinite value; leave the record out or encode it anew."
        )
    if method == "tsne":
        manifold = _import("sklearn.manifold", "t-SNE needs scikit-learn", "plots")
        perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
        reducer = manifold.TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    elif method == "umap":
        umap = _import("umap", "UMAP needs umap-learn", "umap")
        neighbours = min(_NUM_NEIGHBOURS, len(values) - 1)
        # With a seed it works in one process anyway, and warns unless that was asked for.
        reducer = umap.UMAP(n_components=2, n_neighbors=neighbours, random_state=seed, n_jobs=1)
    else:
        raise ValueError(f"There is no method '{method}'; choose one of {', '.join(METHOD_TITLES)}.")
    return np.asarray(reducer.fit_transform(values), dtype=np.float64)


def single_labels(
    targets: NDArray[np.int8], labels: Sequence[str], *, max_groups: int = 8, min_records: int = _MIN_RECORDS
) -> SingleLabels:
    """Records with exactly one label, the rarest labels together.

    Args:
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        labels (`Sequence[str]`): Of the columns.
        max_groups (`int`): Labels that get a colour of their own.
        min_records (`int`): Single-label records that a label needs for that.
    """
    rows = np.flatnonzero(targets.sum(axis=1) == 1)
    columns = targets[rows].argmax(axis=1)
    counts = np.bincount(columns, minlength=len(labels))
    by_frequency = sorted(range(len(labels)), key=lambda column: (-counts[column], labels[column]))
    own = [column for column in by_frequency if counts[column] >= min_records][:max_groups]
    place = {column: index for index, column in enumerate(own)}
    groups = np.array([place.get(column, len(own)) for column in columns.tolist()], dtype=np.int64)
    rare = [column for column in by_frequency if counts[column] and column not in place]
    names = [labels[column] for column in own]
    if rare:
        names.append(f"other ({len(rare)} label{'s' if len(rare) > 1 else ''})")
    return SingleLabels(rows, groups, names, len(own))


def embedding_figure(
    features: SplitFeatures | NDArray[np.floating[Any]],
    targets: NDArray[np.int8],
    labels: Sequence[str],
    method: Method = "tsne",
    *,
    title: str = "",
    seed: int = 0,
    max_groups: int = 8,
    max_records: int = 5000,
) -> Figure:
    """Records with exactly one label in two dimensions, coloured by it.

    Args:
        features (`SplitFeatures` or `np.ndarray` of shape `(num_records, dim)`): As cached, of which `"ecg_embeds"` is
            taken where it is there and `"probe"` otherwise; or an array.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): Of the same records. A task's records are part of
            a split: cut the array to `task.records(split).rows`.
        labels (`Sequence[str]`): Of the columns.
        method (`str`): `"tsne"` or `"umap"`.
        title (`str`): Above the points.
        seed (`int`): Of the method, and of the draw where there are more records than `max_records`.
        max_groups (`int`): Labels that get a colour of their own; the rest is grey.
        max_records (`int`): Most points.

    Returns:
        `matplotlib.figure.Figure`: Without axes' ticks, since the coordinates mean nothing.

    Raises:
        ImportError: If the library of the method is not installed.
        ValueError: If features and targets are of other numbers of records, or hardly any record has a single label.
    """
    if isinstance(features, SplitFeatures):
        arrays = features.arrays
        values: NDArray[np.floating[Any]] = arrays["ecg_embeds"] if "ecg_embeds" in arrays else arrays["probe"]
    else:
        values = features
    if len(values) != len(targets) or targets.shape[1] != len(labels):
        raise ValueError(
            f"Features of {len(values)} records, targets of shape {targets.shape} and {len(labels)} labels do not "
            "belong together. Cut the features to the records of the task: array[task.records(split).rows]."
        )
    single = single_labels(targets, labels, max_groups=max_groups)
    if len(single.rows) < _MIN_RECORDS:
        raise ValueError(
            f"Only {len(single.rows)} of {len(targets)} records have exactly one label; {_MIN_RECORDS} are needed."
        )
    rows, groups = single.rows, single.groups
    if len(rows) > max_records:
        drawn = np.sort(np.random.default_rng(seed).choice(len(rows), size=max_records, replace=False))
        rows, groups = rows[drawn], groups[drawn]
    points = embed_2d(values[rows], method, seed)

    figure = new_figure(6.4, 5.6)
    axes = figure.add_subplot()
    entries = {}
    for group in reversed(range(len(single.names))):  # rare labels below the others
        chosen = points[groups == group]
        is_own = group < single.num_own
        colour = _GROUP_COLOURS[group % len(_GROUP_COLOURS)] if is_own else _OTHER_COLOUR
        marker = MARKERS[group % len(MARKERS)] if is_own else "."
        name = f"{single.names[group]}: {len(chosen):,}"
        entries[plain_text(name)] = axes.scatter(
            chosen[:, 0], chosen[:, 1], s=11, color=colour, marker=marker, linewidths=0, alpha=0.75, label=name
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(METHOD_TITLES[method])
    axes.set_title(plain_text(title), fontsize=10, loc="left")
    below_legend(figure, dict(reversed(entries.items())), marker_scale=2.0)
    return figure


def _import(module: str, problem: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{problem}: pip install "hf-ecgtext[{extra}]"') from error
