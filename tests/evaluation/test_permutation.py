from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.statistics.metrics import auroc
from hf_ecgtext.evaluation.statistics.permutation import PairedDifference, holm, paired_difference


def sample(seed: int, num_records: int = 60, num_classes: int = 3) -> tuple[np.ndarray, ...]:
    """Scores of two models on other scales, with ties; targets; patients with one to four records."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_records, num_classes)) < 0.4).astype(int)
    targets[0], targets[1] = 1, 0
    a = np.round(rng.normal(size=targets.shape) + targets, 1)
    b = np.round(100 * rng.normal(size=targets.shape) + 30 * targets, -1)
    return a, b, targets, rng.integers(0, num_records // 2, num_records)


def permutation_test(*arguments, **options) -> PairedDifference:
    """That of areas under the ROC curve."""
    return paired_difference(*arguments[:4], [auroc], *arguments[4:], **options)["auroc"]


def area_difference(a: np.ndarray, b: np.ndarray, targets: np.ndarray) -> np.ndarray:
    columns = range(targets.shape[1])
    return np.array([roc_auc_score(targets[:, i], a[:, i]) - roc_auc_score(targets[:, i], b[:, i]) for i in columns])


def slow_test(a, b, targets, patients, swaps) -> np.ndarray:
    """Differences after swapping the ranks of whole patients, one permutation after the other."""
    ranks_a, ranks_b = rankdata(a, axis=0), rankdata(b, axis=0)
    permuted = []
    for swap in swaps:
        swapped = np.array([swap[patient] for patient in patients])[:, None]
        new_a, new_b = np.where(swapped, ranks_b, ranks_a), np.where(swapped, ranks_a, ranks_b)
        permuted.append(area_difference(new_a, new_b, targets))
    return np.array(permuted)


def test_all_swaps_of_few_patients_equal_their_enumeration():
    a, b, targets, _ = sample(0, num_records=18)
    patients = np.arange(18) // 3
    test = permutation_test(a, b, targets, patients, num_permutations=64)
    swaps = [dict(enumerate(bits)) for bits in itertools.product([False, True], repeat=6)]
    slow = slow_test(a, b, targets, patients, swaps)
    assert test.is_exhaustive
    np.testing.assert_allclose(np.sort(test.permuted, axis=0), np.sort(slow, axis=0), atol=1e-13)
    observed = area_difference(a, b, targets)
    np.testing.assert_allclose(test.values, observed, atol=1e-13)
    np.testing.assert_allclose(test.p_values(), (np.abs(slow) >= np.abs(observed) - 1e-9).mean(axis=0))
    extreme = np.abs(slow.mean(axis=1)) >= abs(observed.mean()) - 1e-9
    assert test.macro_p_value() == pytest.approx(extreme.mean())
    assert test.macro().value == pytest.approx(observed.mean())


def test_random_swaps_equal_a_slow_loop_over_the_same_swaps():
    a, b, targets, patients = sample(1)
    test = permutation_test(a, b, targets, patients, num_permutations=30, seed=4)
    order = list(dict.fromkeys(patients.tolist()))
    coins = np.random.default_rng(4).integers(0, 2, size=(30, len(order)), dtype=np.int8).astype(bool)
    swaps = [dict(zip(order, row, strict=True)) for row in coins]
    slow = slow_test(a, b, targets, patients, swaps)
    assert not test.is_exhaustive
    np.testing.assert_allclose(test.permuted, slow, atol=1e-13)
    observed = area_difference(a, b, targets)
    expected = (1 + (np.abs(slow) >= np.abs(observed) - 1e-9).sum(axis=0)) / 31
    np.testing.assert_allclose(test.p_values(), expected)


def test_equal_scores_have_p_one():
    a, _, targets, patients = sample(2)
    test = permutation_test(a, a, targets, patients, num_permutations=50)
    assert test.macro().value == pytest.approx(0)
    assert test.macro_p_value() == 1
    assert (test.p_values() == 1).all()


def test_a_monotone_scale_of_either_model_changes_nothing():
    a, b, targets, patients = sample(3)
    test = permutation_test(a, b, targets, patients, 50)
    other = permutation_test(np.exp(a) * 1000 - 5, b / 1e6, targets, patients, 50)
    np.testing.assert_array_equal(test.permuted, other.permuted)


def test_the_order_of_the_models_turns_the_sign_and_keeps_p():
    a, b, targets, patients = sample(4)
    one, two = permutation_test(a, b, targets, patients, 80), permutation_test(b, a, targets, patients, 80)
    np.testing.assert_allclose(one.values, -two.values)
    np.testing.assert_allclose(one.p_values(), two.p_values())


def test_p_is_uniform_when_the_models_are_equally_good_and_small_when_they_are_not():
    rng = np.random.default_rng(5)
    p_null, p_better = [], []
    for _ in range(300):
        targets = (rng.random((80, 2)) < 0.4).astype(int)
        signal = rng.normal(size=(80, 2)) + targets  # what both models see of a record
        a, b = (signal + rng.normal(size=(80, 2)) for _ in range(2))
        p_null.append(permutation_test(a, np.exp(b), targets, None, 99, seed=7).macro_p_value())
        p_better.append(permutation_test(a + 2 * targets, b, targets, None, 99, seed=7).macro_p_value())
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(p_null) <= level) == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / 300))
    assert np.mean(np.array(p_better) <= 0.05) > 0.9


def test_records_of_one_patient_are_swapped_together_so_copies_bring_no_evidence():
    a, b, targets, _ = sample(6, num_records=40)
    copied = [np.repeat(array, 5, axis=0) for array in (a, b, targets)]
    single = permutation_test(a, b, targets, np.arange(40), 200)
    together = permutation_test(*copied, np.repeat(np.arange(40), 5), 200)
    np.testing.assert_allclose(together.permuted, single.permuted, atol=1e-12)
    apart = permutation_test(*copied, None, 200)
    assert apart.permuted.std() < 0.6 * together.permuted.std()


def test_runs_are_compared_by_their_mean_and_swapped_together():
    a, b, targets, patients = sample(7)
    rng = np.random.default_rng(8)
    runs_a, runs_b = ([scores + rng.normal(size=scores.shape) for _ in range(3)] for scores in (a, b))
    test = permutation_test(runs_a, runs_b, targets, patients, 40)
    alone = [permutation_test(one, two, targets, patients, 40) for one, two in zip(runs_a, runs_b, strict=True)]
    np.testing.assert_allclose(test.permuted, np.mean([entry.permuted for entry in alone], axis=0), atol=1e-13)
    means = [np.mean([auroc(run, targets) for run in runs], axis=0) for runs in (runs_a, runs_b)]
    np.testing.assert_allclose(test.values, means[0] - means[1], atol=1e-13)


def test_one_run_is_compared_with_each_of_several_and_other_numbers_in_turn():
    a, b, targets, patients = sample(9)
    rng = np.random.default_rng(10)
    runs_b = [b + 50 * rng.normal(size=b.shape) for _ in range(3)]
    test = permutation_test(a, runs_b, targets, patients, 40)
    same = permutation_test([a, a, a], runs_b, targets, patients, 40)
    np.testing.assert_array_equal(test.permuted, same.permuted)
    two = permutation_test([a, a + 1], runs_b, targets, patients, 40)  # a + 1 has the ranks of a
    np.testing.assert_allclose(two.permuted, same.permuted, atol=1e-13)
    np.testing.assert_allclose(
        test.values, auroc(a, targets) - np.mean([auroc(run, targets) for run in runs_b], axis=0)
    )


def test_a_class_without_positives_has_no_p_and_rare_classes_can_be_left_out():
    a, b, targets, patients = sample(11)
    targets[:, 1] = 0
    targets[:, 2] = 0
    targets[:3, 2] = 1
    test = permutation_test(a, b, targets, patients, 40)
    assert np.isnan(test.p_values()).tolist() == [False, True, False]
    assert test.macro(min_positives=1).value == pytest.approx(np.nanmean(test.values))
    assert test.macro(min_positives=20).value == test.values[0]
    assert test.macro_p_value(min_positives=20) == test.p_values()[0]
    assert np.isnan(test.macro_p_value(min_positives=1000))


@pytest.mark.parametrize("few_patients", [True, False])
def test_the_interval_leaves_out_zero_exactly_where_p_is_small(few_patients):
    significant = 0
    for seed in range(60):
        a, b, targets, patients = sample(seed, num_records=24 if few_patients else 60, num_classes=2)
        owners = np.arange(24) // 3 if few_patients else patients
        found = paired_difference(a + 0.4 * seed / 60 * targets, b, targets, owners, num_permutations=256, seed=seed)
        for difference in found.values():
            assert difference.is_exhaustive == few_patients
            pairs = [(difference.macro(1), difference.macro_p_value(1))]
            pairs += list(zip(difference.per_class(), difference.p_values(), strict=True))
            for interval, p_value in pairs:
                assert (interval.low <= 0 <= interval.high) == (p_value >= 0.05)
                significant += p_value < 0.05
    assert significant > 20


def test_average_precision_is_tested_by_the_same_swaps():
    a, b, targets, patients = sample(13)
    found = paired_difference(a, b, targets, patients, num_permutations=30, seed=4)["average_precision"]
    order = list(dict.fromkeys(patients.tolist()))
    coins = np.random.default_rng(4).integers(0, 2, size=(30, len(order)), dtype=np.int8).astype(bool)
    ranks_a, ranks_b = rankdata(a, axis=0), rankdata(b, axis=0)
    for coin, permuted in zip(coins, found.permuted, strict=True):
        swap = dict(zip(order, coin, strict=True))
        swapped = np.array([swap[patient] for patient in patients])[:, None]
        new_a, new_b = np.where(swapped, ranks_b, ranks_a), np.where(swapped, ranks_a, ranks_b)
        expected = [
            average_precision_score(targets[:, i], new_a[:, i]) - average_precision_score(targets[:, i], new_b[:, i])
            for i in range(3)
        ]
        np.testing.assert_allclose(permuted, expected, atol=1e-12)


def test_too_few_swaps_for_any_significance_give_no_interval():
    a, b, targets, _ = sample(14, num_records=12)
    test = permutation_test(a, b, targets, np.arange(12) // 3, 100)  # 16 swaps: no p below 2 / 16
    assert test.is_exhaustive
    assert test.macro_p_value(1) >= 0.05
    interval = test.macro(1)
    assert np.isnan(interval.low) or interval.low <= 0 <= interval.high


def test_settings_and_inputs_out_of_range_are_refused():
    a, b, targets, patients = sample(12)
    with pytest.raises(ValueError, match="num_permutations is 0"):
        permutation_test(a, b, targets, patients, 0)
    with pytest.raises(ValueError, match="2 patient ids for 60 records"):
        permutation_test(a, b, targets, [1, 2])
    a[7, 1] = np.nan
    with pytest.raises(RecordError, match="row 7"):
        permutation_test(a, b, targets, patients)


def test_holm_gives_the_values_of_a_worked_example():
    # 0.01 * 4 = 0.04; 0.013 * 3 = 0.039, not below 0.04; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, not below 0.06.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.04, 0.013]), [0.06, 0.04, 0.06, 0.04])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02]), [0.02])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_its_step_down_rule_rejects(seed):
    p_values = np.random.default_rng(seed).random(8) ** 3
    for alpha in (0.01, 0.05, 0.3):
        rejected = np.zeros(8, bool)
        for step, index in enumerate(np.argsort(p_values)):
            if p_values[index] > alpha / (8 - step):
                break
            rejected[index] = True
        np.testing.assert_array_equal(holm(p_values) <= alpha, rejected)


def test_holm_leaves_out_tests_that_could_not_be_made_and_refuses_what_is_no_p_value():
    np.testing.assert_array_equal(holm([0.02, np.nan, 0.01]), [0.02, np.nan, 0.02])
    with pytest.raises(ValueError, match=r"between 0 and 1; the family has \[1.5\]"):
        holm([0.5, 1.5])
