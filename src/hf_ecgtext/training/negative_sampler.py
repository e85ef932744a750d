"""Wrong reports for a matching loss: some records of a batch get a report of another one, and the batch says which.

C-MELT calls this N3S, nearest-neighbour negative sampling. What its released code draws is not what the name says: the
index is queried with the *negated* embedding of a record's own report, so that the candidates are the most dissimilar
reports ("top 64 largest cosine distance"). That is `kind="far"` here, the default reading. Two properties follow:

* such negatives are easy: the task is to tell reports apart that have nothing in common. `kind="hard"` takes the
  nearest reports with another wording instead, `kind="random"` any other report;
* few reports are far from everything. The candidates of most reports are the same outliers (hubs), which the model
  sees as negatives over and over: of 1,700 distinct reports of our synthetic data, embedded by MiniLM, 4 % fill half of
  all places and 45 % are never drawn; with "hard" it takes 30 % to fill half, and all are drawn.

The released code embeds and searches once per negative while it collates, and afterwards overwrites the drawn texts by
the records' own while `is_aligned` stays 0. Here the candidates of all reports are found once before the training, and
the drawn text is what gets tokenised.

Source: C-MELT (arXiv 2410.02131), and its release D-BETA (`n3s.py:77-94`, `ecg_text_dataset.py:123-148`).
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_ecgtext.errors import RecordError

NegativeKind = Literal["far", "hard", "random"]
NEGATIVE_KINDS: tuple[str, ...] = get_args(NegativeKind)

_QUERIES_PER_SEARCH = 1024


def import_faiss() -> Any:
    """The module `faiss`.

    Raises:
        ImportError: If it is not installed; the message says how to.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'Negatives of kind "far" and "hard" are found by faiss, which is not installed: '
            'pip install "hf-ecgtext[negatives]", or use negative_sampling="random".'
        ) from error
    return faiss


def distinct_reports(reports: Iterable[str], clean: Callable[[str], str]) -> list[str]:
    """One raw wording, the first, of each text that is left after cleaning.

    Args:
        reports (`Iterable[str]`): Raw reports; repeats are welcome.
        clean (`Callable[[str], str]`): A report cleaner.
    """
    wordings: dict[str, str] = {}
    for report in reports:
        wordings.setdefault(clean(report), report)
    return list(wordings.values())


def find_candidates(
    embeddings: NDArray[np.floating],
    kind: Literal["far", "hard"],
    num_candidates: int = 64,
    num_drawable: int | None = None,
    show_progress: bool = True,
) -> NDArray[np.int32]:
    """The most dissimilar (`"far"`) or most similar (`"hard"`) other rows of every row, by an exact faiss search.

    180,000 rows with 64 candidates each take 46 MB.

    Args:
        embeddings (`np.ndarray` of shape `(num_reports, dim)`): Of any length; the cosine counts.
        kind (`"far"` or `"hard"`): Which end of the ranking to take.
        num_candidates (`int`): Candidates per row; fewer where there are not as many other rows.
        num_drawable (`int`, *optional*): Only the first so many rows may be candidates; all by default.
        show_progress (`bool`): Show a progress bar.

    Returns:
        `np.ndarray` of shape `(num_reports, num_candidates)`: Row numbers, never the row's own; of equally similar
        rows any may be left out.

    Raises:
        ImportError: If faiss is not installed.
        ValueError: If an embedding is zero or not finite, or there are fewer than two drawable rows.

    Source: D-BETA `n3s.py:77-94`, which ranks by Euclidean distance: for unit vectors the same order.
    """
    faiss = import_faiss()
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unusable = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if unusable.size:
        raise ValueError(f"The embeddings of the reports {unusable[:5].tolist()} are zero or not finite.")
    unit = np.ascontiguousarray(embeddings / norms, dtype=np.float32)
    drawable = unit[:num_drawable]
    _check_drawable(len(drawable))
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(drawable)
    width = min(num_candidates, len(drawable) - 1)
    candidates = np.empty((len(unit), width), dtype=np.int32)
    starts = range(0, len(unit), _QUERIES_PER_SEARCH)
    for start in tqdm(starts, desc="Finding negative reports", unit="batch", disable=None if show_progress else True):
        queries = unit[start : start + _QUERIES_PER_SEARCH]
        _, found = index.search(-queries if kind == "far" else queries, width + 1)
        # One more than needed, so that one can go: the row itself, or the last where it was not found.
        goes = found == np.arange(start, start + len(queries))[:, None]
        goes[~goes.any(axis=1), -1] = True
        candidates[start : start + len(queries)] = found[~goes].reshape(len(queries), width)
    return candidates


class NegativeSampler:
    """Replaces a share of a batch's reports by other ones.

    It holds no random state: what is drawn for a batch follows from the seed and the batch's record ids, in their
    order. So nothing depends on the worker, the process, the epoch or on where a run was resumed. A validation batch
    has the same negatives in every epoch; training batches get new ones because shuffling makes new batches.

    Args:
        reports (`Sequence[str]`): Raw reports, none of which read alike after cleaning; see [`distinct_reports`].
        candidates (`np.ndarray` of shape `(num_reports, num_candidates)`, *optional*): Numbers of the reports that may
            replace each; without it any other drawable one may.
        num_drawable (`int`, *optional*): Only the first so many reports may replace others; all by default. A trainer
            puts its training reports first, so that those of the validation data never enter a training batch.
        fraction (`float`): Share of the batch that gets another report, in (0, 1].
        seed (`int`): Of all draws.
        clean (`Callable[[str], str]`): Cleaner under which two reports count as the same. Loader processes receive it
            with the rest, so it must be a function of a module.

    Raises:
        ValueError: If `fraction` is out of range, there are fewer than two drawable reports, or two read alike.
    """

    def __init__(
        self,
        reports: Sequence[str],
        candidates: NDArray[np.int32] | None = None,
        *,
        num_drawable: int | None = None,
        fraction: float = 0.5,
        seed: int = 0,
        clean: Callable[[str], str] = str,
    ):
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, not {fraction}.")
        self.reports = list(reports)
        self.num_drawable = len(self.reports[:num_drawable])
        _check_drawable(self.num_drawable)
        self._row_of_wording = {report: row for row, report in enumerate(self.reports)}
        self._row_of_text = {clean(report): row for row, report in enumerate(self.reports)}
        if len(self._row_of_text) < len(self.reports):
            raise ValueError("Some reports read alike after cleaning; pass them through distinct_reports first.")
        self.candidates, self.fraction, self.seed, self.clean = candidates, fraction, seed, clean

    @classmethod
    def from_embeddings(
        cls,
        reports: Sequence[str],
        embeddings: NDArray[np.floating] | None = None,
        *,
        kind: NegativeKind = "far",
        num_candidates: int = 64,
        num_drawable: int | None = None,
        show_progress: bool = True,
        **settings: Any,
    ) -> NegativeSampler:
        """Find the candidates of every report, once.

        Args:
            reports (`Sequence[str]`): As above.
            embeddings (`np.ndarray` of shape `(num_reports, dim)`, *optional*): Of the reports; `kind="random"` needs
                none.
            kind (`"far"`, `"hard"` or `"random"`): The most dissimilar reports, the most similar ones that do not read
                alike, or any other.
            num_candidates (`int`): Candidates per report; all others where there are fewer.
            num_drawable (`int`, *optional*): As above.
            show_progress (`bool`): Show a progress bar.
            settings: `fraction`, `seed` and `clean` of the sampler.

        Raises:
            ImportError: If faiss is needed and not installed.
            ValueError: If `kind` is unknown, or `embeddings` is missing or has another length than `reports`.
        """
        if kind not in NEGATIVE_KINDS:
            raise ValueError(f"kind must be one of {', '.join(NEGATIVE_KINDS)}, not '{kind}'.")
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be positive, not {num_candidates}.")
        if kind == "random":
            return cls(reports, num_drawable=num_drawable, **settings)
        if embeddings is None or len(embeddings) != len(reports):
            given = "no" if embeddings is None else len(embeddings)
            raise ValueError(
                f'kind="{kind}" needs one embedding per report: {len(reports)} reports, {given} embeddings.'
            )
        candidates = find_candidates(embeddings, kind, num_candidates, num_drawable, show_progress)
        return cls(reports, candidates, num_drawable=num_drawable, **settings)

    def draw(self, reports: Sequence[str], record_ids: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
        """The reports of a batch with some replaced by other ones, which never read like the record's own.

        `int(fraction * batch + u)` of them, with `u` uniform in [0, 1), are replaced: as released.

        Args:
            reports (`Sequence[str]`): The records' own reports, raw.
            record_ids (`Sequence[str]`): Their record ids.

        Returns:
            The reports, and `is_aligned` of shape `(batch,)`: `False` where a report was replaced.

        Raises:
            RecordError: If the sampler does not know a report.
        """
        own = [self._row_of(report, record_id) for report, record_id in zip(reports, record_ids, strict=True)]
        key = json.dumps([self.seed, *record_ids]).encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "big"))
        num_replaced = min(int(self.fraction * len(own) + rng.random()), len(own))
        drawn = list(reports)
        is_aligned = np.ones(len(own), dtype=np.bool_)
        for position in rng.choice(len(own), size=num_replaced, replace=False):
            drawn[position] = self.reports[self._other_row(own[position], rng)]
            is_aligned[position] = False
        return drawn, is_aligned

    def _row_of(self, report: str, record_id: str) -> int:
        row = self._row_of_wording.get(report)  # most are found here, and cleaning would double the cost
        if row is None:
            row = self._row_of_text.get(self.clean(report))
        if row is None:
            raise RecordError(
                record_id,
                f"its report ({textwrap.shorten(report, 60)!r}) is not among those that negatives were found for.",
                "Give its dataset to the trainer as train_dataset or eval_dataset.",
            )
        return row

    def _other_row(self, own: int, rng: np.random.Generator) -> int:
        if self.candidates is not None:
            return int(self.candidates[own, rng.integers(self.candidates.shape[1])])
        if own >= self.num_drawable:
            return int(rng.integers(self.num_drawable))
        other = int(rng.integers(self.num_drawable - 1))
        return other + (other >= own)


def _check_drawable(num_drawable: int) -> None:
    if num_drawable < 2:
        raise ValueError(
            f"Negatives need at least two reports that read differently after cleaning; there are {num_drawable}. "
            "Train with negative_sampling=None, or use other data."
        )
