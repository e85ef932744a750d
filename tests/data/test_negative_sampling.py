"""Negatives are the reports that were asked for, in the share that was asked for, and always of another wording."""

from __future__ import annotations

import pickle
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from hf_ecgtext.data.report_cleaning import clean_mimic_report
from hf_ecgtext.errors import RecordError
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.negative_sampler import NegativeSampler, distinct_reports, find_candidates

REPORTS = [f"Report number {number}" for number in range(200)]


def random_embeddings(num_reports: int = 200, dim: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    # A common part makes them as similar as reports are; lengths of their own must not matter.
    return (rng.standard_normal((num_reports, dim)) + 1.0) * rng.uniform(0.1, 10, (num_reports, 1))


def cosines(embeddings: np.ndarray) -> np.ndarray:
    """In float64, with NaN for a report and itself."""
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, np.nan)
    return similarities


def brute_force(embeddings: np.ndarray, kind: str, num_candidates: int) -> list[set[int]]:
    """By sorting all similarities; NaN, the report itself, is sorted last."""
    ranking = np.argsort(cosines(embeddings) * (1 if kind == "far" else -1), axis=1)
    return [set(row[:num_candidates].tolist()) for row in ranking]


def sampler(kind: str = "far", **settings) -> NegativeSampler:
    embeddings = None if kind == "random" else random_embeddings()
    return NegativeSampler.from_embeddings(REPORTS, embeddings, kind=kind, show_progress=False, **settings)


def record_ids(batch: int, size: int) -> list[str]:
    return [f"record-{batch}-{position}" for position in range(size)]


# Candidates


@pytest.mark.parametrize("kind", ["far", "hard"])
def test_candidates_are_those_of_a_brute_force_search(kind):
    embeddings = random_embeddings()
    found = find_candidates(embeddings, kind, 16, show_progress=False)
    assert (found.shape, found.dtype) == ((200, 16), np.int32)
    assert [set(row) for row in found.tolist()] == brute_force(embeddings, kind, 16)


def test_far_are_the_most_dissimilar_and_hard_the_most_similar():
    embeddings = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.1]])
    assert find_candidates(embeddings, "far", 1, show_progress=False)[0].tolist() == [3]
    assert find_candidates(embeddings, "hard", 1, show_progress=False)[0].tolist() == [1]


@pytest.mark.parametrize("kind", ["far", "hard"])
def test_equally_similar_reports_are_taken_in_any_choice_but_never_the_report_itself(kind):
    embeddings = np.repeat(random_embeddings(10), 8, axis=0)  # each vector eight times: ties at every place
    found = find_candidates(embeddings, kind, 12, show_progress=False)
    similarities = cosines(embeddings)
    expected = np.sort(similarities * (1 if kind == "far" else -1), axis=1)[:, :12]
    taken = np.take_along_axis(similarities, found, axis=1) * (1 if kind == "far" else -1)
    np.testing.assert_allclose(np.sort(taken, axis=1), expected, atol=1e-6)  # NaN, the report itself, would differ
    assert all(len(set(row)) == 12 for row in found.tolist())


def test_more_queries_than_one_search_takes_keep_their_own_rows(monkeypatch):
    embeddings = random_embeddings()
    expected = find_candidates(embeddings, "hard", 5, show_progress=False)
    monkeypatch.setattr("hf_ecgtext.training.negative_sampler._QUERIES_PER_SEARCH", 7)
    np.testing.assert_array_equal(find_candidates(embeddings, "hard", 5, show_progress=False), expected)


def test_where_there_are_fewer_reports_than_candidates_all_others_are_taken():
    found = find_candidates(random_embeddings(4), "far", 64, show_progress=False)
    assert [sorted(row) for row in found.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("kind", ["far", "hard"])
def test_reports_that_may_not_be_drawn_have_candidates_and_are_none(kind):
    embeddings = random_embeddings(60)
    found = find_candidates(embeddings, kind, 8, num_drawable=40, show_progress=False)
    ranking = cosines(embeddings)[:, :40] * (1 if kind == "far" else -1)
    assert [set(row) for row in found.tolist()] == [set(row[:8].tolist()) for row in np.argsort(ranking, axis=1)]


# Draws


@pytest.mark.parametrize("kind", ["far", "hard"])
def test_every_drawn_report_is_a_candidate_and_every_candidate_is_drawn(kind):
    embeddings = random_embeddings()
    candidates = brute_force(embeddings, kind, 4)
    negatives = sampler(kind, num_candidates=4, fraction=1.0)
    drawn: list[set[int]] = [set() for _ in REPORTS]
    for batch in range(60):
        for row, report in enumerate(negatives.draw(REPORTS, record_ids(batch, 200))[0]):
            drawn[row].add(REPORTS.index(report))
    assert drawn == candidates  # 60 draws of 4: one is left out with probability 200 * 4 * 0.75 ** 60 = 3e-5


def test_random_draws_are_uniform_over_all_other_drawable_reports():
    negatives = NegativeSampler.from_embeddings(REPORTS[:6], kind="random", num_drawable=4, fraction=1.0)
    for own, others in ((1, {0, 2, 3}), (5, {0, 1, 2, 3})):  # report 5 is of the validation data
        counts = Counter(negatives.draw([REPORTS[own]], [f"r{number}"])[0][0] for number in range(3000))
        assert set(counts) == {REPORTS[other] for other in others}
        for count in counts.values():
            assert count == pytest.approx(3000 / len(others), rel=0.15)  # five standard deviations


@pytest.mark.parametrize("kind", ["far", "hard", "random"])
def test_a_replaced_report_never_is_the_own_one_and_an_aligned_one_always_is(kind):
    negatives = sampler(kind)
    for batch in range(20):
        drawn, is_aligned = negatives.draw(REPORTS, record_ids(batch, 200))
        assert [ours == theirs for ours, theirs in zip(REPORTS, drawn, strict=True)] == is_aligned.tolist()


def test_half_of_a_batch_is_replaced_and_an_odd_record_every_other_time():
    negatives = sampler("random")
    even = {int((~negatives.draw(REPORTS[:64], record_ids(batch, 64))[1]).sum()) for batch in range(50)}
    assert even == {32}
    odd = Counter(int((~negatives.draw(REPORTS[:5], record_ids(batch, 5))[1]).sum()) for batch in range(2000))
    assert set(odd) == {2, 3}
    assert odd[3] == pytest.approx(1000, rel=0.12)


@pytest.mark.parametrize(("fraction", "replaced"), [(0.25, 4), (1.0, 16)])
def test_the_fraction_decides_how_many_are_replaced(fraction, replaced):
    negatives = sampler("random", fraction=fraction)
    for batch in range(20):
        assert (~negatives.draw(REPORTS[:16], record_ids(batch, 16))[1]).sum() == replaced


def test_every_place_of_a_batch_is_replaced_equally_often():
    negatives = sampler("random")
    share = np.mean([negatives.draw(REPORTS[:8], record_ids(batch, 8))[1] for batch in range(2000)], axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.06)


def test_a_draw_depends_on_seed_and_record_ids_and_on_nothing_else():
    negatives = sampler()
    expected, aligned = negatives.draw(REPORTS[:32], record_ids(0, 32))
    negatives.draw(REPORTS, record_ids(1, 200))  # no state is left behind
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    for same in (negatives, sampler(), pickle.loads(pickle.dumps(negatives))):  # noqa: S301
        again, aligned_again = same.draw(REPORTS[:32], record_ids(0, 32))
        assert again == expected
        np.testing.assert_array_equal(aligned_again, aligned)
    assert negatives.draw(REPORTS[:32], record_ids(1, 32))[0] != expected
    assert sampler(seed=1).draw(REPORTS[:32], record_ids(0, 32))[0] != expected


def test_ids_that_only_join_to_the_same_text_are_different_batches():
    negatives = sampler()
    first = negatives.draw(REPORTS[:40], [*(f"a{number}" for number in range(38)), "1", "23"])
    second = negatives.draw(REPORTS[:40], [*(f"a{number}" for number in range(38)), "12", "3"])
    assert first[0] != second[0]


# Reports that read alike


WORDINGS = ["Sinus rhythm", "SINUS   RHYTHM.", "*** sinus rhythm ***", "Atrial fibrillation", "Normal ECG"]


@pytest.mark.parametrize("kind", ["far", "hard", "random"])
def test_a_report_that_reads_alike_after_cleaning_is_never_a_negative(kind):
    distinct = distinct_reports(WORDINGS, clean_mimic_report)
    assert distinct == ["Sinus rhythm", "Atrial fibrillation", "Normal ECG"]
    negatives = NegativeSampler.from_embeddings(
        distinct, np.eye(3) + 0.1, kind=kind, fraction=1.0, clean=clean_mimic_report, show_progress=False
    )
    for batch in range(50):
        drawn, is_aligned = negatives.draw(WORDINGS, record_ids(batch, 5))
        assert not is_aligned.any()
        for own, other in zip(WORDINGS, drawn, strict=True):
            assert clean_mimic_report(own) != clean_mimic_report(other)


def test_without_cleaning_other_wordings_are_other_reports():
    assert distinct_reports(WORDINGS, str) == WORDINGS


def test_reports_that_read_alike_must_be_sorted_out_before():
    with pytest.raises(ValueError, match="read alike after cleaning; pass them through distinct_reports"):
        NegativeSampler(WORDINGS, clean=clean_mimic_report)


# The collator


@pytest.fixture(scope="module")
def processor():
    return get_recipe("merl", "debug").build()[1]


def collator(processor, dataset, kind="random", **settings) -> EcgTextCollator:
    negatives = NegativeSampler.from_embeddings(dataset.unique_reports(), kind=kind, **settings)
    return EcgTextCollator(processor, negatives=negatives)


def test_negatives_reach_the_tokens(processor, synthetic_dataset):
    rows = synthetic_dataset.__getitems__(range(16))
    collate = collator(processor, synthetic_dataset)
    batch = collate(rows)
    drawn, is_aligned = collate.negatives.draw(
        [row["ecg"].report for row in rows], [row["ecg"].record_id for row in rows]
    )
    assert batch["is_aligned"].dtype == torch.bool
    assert batch["is_aligned"].tolist() == is_aligned.tolist()
    assert batch["is_aligned"].sum() == 8
    expected = processor(text=drawn)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    own = EcgTextCollator(processor)(rows)
    assert torch.equal(batch["ecg_values"], own["ecg_values"])
    for position, aligned in enumerate(is_aligned):
        ours, theirs = (
            side["input_ids"][position][side["attention_mask"][position].bool()].tolist() for side in (batch, own)
        )
        assert (ours == theirs) is bool(aligned)


def test_negatives_reach_the_rows_of_a_text_cache(processor, synthetic_dataset):
    rows = synthetic_dataset.__getitems__(range(16))
    collate = collator(processor, synthetic_dataset)
    collate.report_ids = {report: row for row, report in enumerate(synthetic_dataset.unique_reports())}
    batch = collate(rows)
    assert "input_ids" not in batch
    drawn, _ = collate.negatives.draw([row["ecg"].report for row in rows], [row["ecg"].record_id for row in rows])
    assert batch["report_ids"].tolist() == [collate.report_ids[report] for report in drawn]
    own = [collate.report_ids[row["ecg"].report] for row in rows]
    changed = [ours != theirs for ours, theirs in zip(batch["report_ids"].tolist(), own, strict=True)]
    assert changed == (~batch["is_aligned"]).tolist()


def test_without_a_sampler_a_batch_says_nothing_of_alignment(processor, synthetic_dataset):
    assert "is_aligned" not in EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(2)))


# Errors


def test_a_report_that_the_sampler_does_not_know_names_the_record():
    with pytest.raises(RecordError, match=r"Record 'b': its report \('Something new'\).*eval_dataset"):
        sampler("random").draw([REPORTS[0], "Something new"], ["a", "b"])


@pytest.mark.parametrize("kind", ["far", "hard", "random"])
def test_one_distinct_report_is_too_few(kind):
    with pytest.raises(ValueError, match="at least two reports that read differently after cleaning; there are 1"):
        NegativeSampler.from_embeddings(REPORTS[:1], random_embeddings(1), kind=kind)
    with pytest.raises(ValueError, match="there are 1"):
        NegativeSampler.from_embeddings(REPORTS[:3], random_embeddings(3), kind=kind, num_drawable=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "near"}, "kind must be one of far, hard, random, not 'near'"),
        ({"num_candidates": 0}, "num_candidates must be positive, not 0"),
        ({"fraction": 0.0}, "fraction must be above 0"),
        ({"fraction": 1.5}, "fraction must be above 0 and at most 1, not 1.5"),
        ({"embeddings": None}, 'kind="far" needs one embedding per report: 200 reports, no embeddings'),
        ({"embeddings": random_embeddings(3)}, "200 reports, 3 embeddings"),
        ({"embeddings": np.zeros((200, 4))}, r"embeddings of the reports \[0, 1, 2, 3, 4\] are zero or not finite"),
        ({"embeddings": np.full((200, 4), np.nan)}, "zero or not finite"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NegativeSampler.from_embeddings(REPORTS, **{"embeddings": random_embeddings(), **settings})


def test_without_faiss_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "hf-ecgtext\[negatives\]"'):
        sampler("far")
    assert sampler("random").draw(REPORTS[:4], list("abcd"))


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("show_progress", [True, False])
def test_the_progress_bar_obeys_show_progress_and_needs_a_terminal(show_progress, is_terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    find_candidates(random_embeddings(), "far", 4, show_progress=show_progress)
    assert ("Finding negative reports" in capsys.readouterr().err) is (show_progress and is_terminal)
