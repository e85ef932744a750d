"""Learning from few labels: the published draws exactly, and draws that keep patients together and rare labels in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.data.subsets import published_subset, stratified_folds, stratified_subsets


@pytest.mark.parametrize("num_records", [100, 4950, 7197, 16546, 16832, 17084])
@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_the_published_draw_is_scikit_learns(num_records, fraction):
    from sklearn.model_selection import train_test_split

    expected, _ = train_test_split(np.arange(num_records), train_size=fraction, random_state=42)
    np.testing.assert_array_equal(published_subset(num_records, fraction), expected)


def read_split(real_data, task):
    import pandas as pd

    table = pd.read_csv(real_data / "merl_splits" / "ptbxl" / task / f"ptbxl_{task}_train.csv")
    labels = list(table.columns[6:])
    return table, labels, table[labels].to_numpy()


def test_one_percent_of_form_are_71_records_without_four_of_the_labels(real_data):
    table, labels, targets = read_split(real_data, "form")
    assert table.ecg_id.is_monotonic_increasing
    rows = published_subset(len(table), 0.01)
    assert len(rows) == 71
    absent = {label for label, found in zip(labels, targets[rows].any(axis=0), strict=True) if not found}
    assert absent == {"HVOLT", "TAB", "PRC(S)", "STE"}


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        published_subset(100, fraction)


def test_a_fraction_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="none"):
        published_subset(50, 0.01)


@pytest.mark.parametrize("task", ["super_class", "sub_class", "form", "rhythm"])
@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_stratified_draws_of_ptb_xl_have_every_label_whole_patients_and_the_right_shares(real_data, task, fraction):
    table, labels, targets = read_split(real_data, task)
    patients = table.patient_id.astype(int).astype(str).to_numpy()
    positives = targets.sum(axis=0)
    for subset in stratified_subsets(targets, patients.tolist(), labels, fraction):
        assert subset.absent_labels == ()
        assert len(subset.indices) == int(len(table) * fraction)
        outside = np.delete(patients, subset.indices)
        assert not set(patients[subset.indices]) & set(outside)
        surplus = targets[subset.indices].sum(axis=0) - fraction * positives
        # within a tenth of the share, or three records where that is less; the most common label pays for the rarest
        allowed = np.maximum(3, 0.1 * fraction * positives)
        allowed[positives.argmax()] = fraction * positives.max() / 3
        assert (np.abs(surplus) <= allowed).all()


def test_draws_differ_repeat_and_do_not_depend_on_how_many_there_are():
    rng = np.random.default_rng(0)
    targets = (rng.random((600, 5)) < (0.5, 0.2, 0.1, 0.05, 0.01)).astype(np.int8)
    patients = [f"p{number // 2}" for number in range(600)]
    labels = list("abcde")
    first = stratified_subsets(targets, patients, labels, 0.1, draws=3)
    again = stratified_subsets(targets, patients, labels, 0.1, draws=5)
    other = stratified_subsets(targets, patients, labels, 0.1, draws=3, seed=1)
    for left, right in zip(first, again[:3], strict=True):
        np.testing.assert_array_equal(left.indices, right.indices)
    draws = {tuple(subset.indices) for subset in (*again, *other)}
    assert len(draws) == 8


def test_a_label_without_records_or_that_does_not_fit_is_named_as_absent():
    targets = np.zeros((100, 3), dtype=np.int8)
    targets[:40, 0] = 1
    targets[90:, 2] = 1  # all of one patient, who has more records than the draw may hold
    patients = [f"p{number}" for number in range(90)] + ["heavy"] * 10
    (subset,) = stratified_subsets(targets, patients, ["common", "never", "heavy"], 0.05, draws=1)
    assert subset.absent_labels == ("never", "heavy")
    assert len(subset.indices) == 5


def test_a_label_of_one_patient_is_in_every_draw():
    targets = np.zeros((500, 2), dtype=np.int8)
    targets[:, 0] = 1
    targets[137, 1] = 1
    for subset in stratified_subsets(targets, [str(number) for number in range(500)], ["all", "one"], 0.01):
        assert 137 in subset.indices
        assert len(subset.indices) == 5


def test_records_without_label_keep_their_share():
    targets = np.zeros((1000, 1), dtype=np.int8)
    targets[:300] = 1
    (subset,) = stratified_subsets(targets, [str(number) for number in range(1000)], ["x"], 0.1, draws=1)
    assert int((subset.indices < 300).sum()) == 30
    assert len(subset.indices) == 100


def test_patients_are_drawn_evenly():
    targets = np.ones((200, 1), dtype=np.int8)
    drawn = np.zeros(200)
    for subset in stratified_subsets(targets, [str(number) for number in range(200)], ["x"], 0.1, draws=400):
        drawn[subset.indices] += 1
    # binomial of 400 draws at 0.1: mean 40, sd 6
    assert drawn.mean() == 40
    assert abs(drawn - 40).max() < 5 * 6


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_records=st.integers(20, 120),
    num_labels=st.integers(1, 6),
    num_patients=st.integers(10, 120),
    fraction=st.sampled_from([0.05, 0.1, 0.3, 0.9]),
)
def test_patients_are_never_divided_and_the_size_never_exceeded(seed, num_records, num_labels, num_patients, fraction):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_records, num_labels)) < rng.random(num_labels)).astype(np.int8)
    patients = [f"p{number}" for number in rng.integers(num_patients, size=num_records)]
    labels = [f"l{number}" for number in range(num_labels)]
    (subset,) = stratified_subsets(targets, patients, labels, fraction, draws=1, seed=seed)
    inside = {patients[row] for row in subset.indices}
    assert all((patients[row] in inside) == (row in set(subset.indices.tolist())) for row in range(num_records))
    assert len(subset.indices) <= int(num_records * fraction)
    present = targets[subset.indices].any(axis=0)
    assert subset.absent_labels == tuple(label for label, found in zip(labels, present, strict=True) if not found)


@pytest.mark.parametrize(
    ("targets", "patients", "labels", "message"),
    [
        (np.zeros((3, 2)), ["a", "b"], ["x", "y"], "need"),
        (np.zeros((3, 2)), ["a", "b", "c"], ["x"], "need"),
        (np.full((3, 1), 2), ["a", "b", "c"], ["x"], "0 or 1"),
        (np.zeros((3, 1)), ["a", None, "c"], ["x"], "no patient id"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(targets, patients, labels, message):
    with pytest.raises(ValueError, match=message):
        stratified_subsets(targets, patients, labels, 0.5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), num_records=st.integers(10, 80), num_patients=st.integers(5, 80))
def test_folds_keep_patients_together_and_spread_the_rarest_label(seed, num_records, num_patients):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_records, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.int8)
    patients = [f"p{number}" for number in rng.integers(num_patients, size=num_records)]
    folds = stratified_folds(targets, patients, seed=seed)
    assert len({(patient, fold) for patient, fold in zip(patients, folds.tolist(), strict=True)}) == len(set(patients))
    assert set(folds.tolist()) <= set(range(5))
    has = {label: {patients[row] for row in np.flatnonzero(targets[:, label])} for label in range(4)}
    present = [label for label in range(4) if has[label]]
    if present:
        rarest = min(present, key=lambda label: (len(has[label]), label))
        spread = len(set(folds[targets[:, rarest] == 1].tolist()))
        assert spread == min(5, len(set(patients)), len(has[rarest]))
    np.testing.assert_array_equal(folds, stratified_folds(targets, patients, seed=seed))


def test_folds_of_patients_without_labels_are_of_equal_size():
    folds = stratified_folds(np.zeros((23, 2)), [str(row) for row in range(23)], num_folds=4)
    assert sorted(np.bincount(folds).tolist()) == [5, 6, 6, 6]


def test_one_patient_cannot_be_cross_validated():
    with pytest.raises(ValueError, match="two folds and two patients; there are 1 patients"):
        stratified_folds(np.ones((3, 1)), ["a", "a", "a"])
