from __future__ import annotations

import numpy as np
import pytest

from hf_ecgtext.data.sources.cinc2021.classes import CINC2021_CLASSES, diagnoses
from hf_ecgtext.evaluation.statistics.bootstrap import resample_weights
from hf_ecgtext.evaluation.statistics.cinc2021_score import cinc2021_interval, cinc2021_score, cinc2021_weights

CLASSES = tuple(CINC2021_CLASSES)
NORMAL = CLASSES.index("NSR")


def random_answers(seed: int, num_records: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.random((num_records, 26)) < 0.08
    targets[0] = False  # a record without any scored diagnosis
    return targets ^ (rng.random(targets.shape) < 0.05), targets


def by_name(*records: tuple[str, ...]) -> np.ndarray:
    return np.array([[name in record for name in CLASSES] for record in records])


def slow_score(answers: np.ndarray, targets: np.ndarray) -> float:
    """The challenge's definition, pair by pair: sum of w(j, k) a(j, k) with a summed over records, then scaled."""

    def total(given: np.ndarray) -> float:
        score = 0.0
        for said, true in zip(given, targets, strict=True):
            true_names = {name for name, value in zip(CLASSES, true, strict=True) if value}
            said_names = {name for name, value in zip(CLASSES, said, strict=True) if value}
            for one in true_names:
                for other in said_names:
                    share = 1 / len(true_names | said_names)
                    score += share * cinc2021_weights()[CLASSES.index(one), CLASSES.index(other)]
        return score

    always_normal = np.array([[name == "NSR" for name in CLASSES]] * len(targets))
    return (total(answers) - total(always_normal)) / (total(targets) - total(always_normal))


@pytest.mark.parametrize("seed", range(5))
def test_the_score_equals_a_slow_reading_of_the_definition(seed):
    answers, targets = random_answers(seed)
    assert cinc2021_score(answers, targets, CLASSES) == pytest.approx(slow_score(answers, targets), rel=1e-12)


def test_correct_answers_score_one_and_always_sinus_rhythm_scores_zero():
    _, targets = random_answers(0)
    assert cinc2021_score(targets, targets, CLASSES) == pytest.approx(1.0)
    inactive = np.zeros_like(targets)
    inactive[:, NORMAL] = True
    assert cinc2021_score(inactive, targets, CLASSES) == 0.0


def test_a_score_worked_out_by_hand():
    # AF answered AFL: 0.5 / 2. Sinus bradycardia answered right, with TAb beside it: (1 + 0.3) / 2. Correct: 1 + 1.
    # Sinus rhythm: 0.25 / 2 for AF and 0.45 / 2 for sinus bradycardia.
    targets, answers = by_name(("AF",), ("SB",)), by_name(("AFL",), ("SB", "TAb"))
    inactive = (0.25 + 0.45) / 2
    expected = (0.25 + 0.65 - inactive) / (2 - inactive)
    assert cinc2021_score(answers, targets, CLASSES) == pytest.approx(expected, rel=1e-14)


def test_no_answer_at_all_is_worse_than_sinus_rhythm():
    _, targets = random_answers(1)
    assert cinc2021_score(np.zeros_like(targets), targets, CLASSES) < 0


def test_the_order_of_columns_and_records_changes_nothing():
    answers, targets = random_answers(2)
    rng = np.random.default_rng(3)
    columns, rows = rng.permutation(26), rng.permutation(len(targets))
    names = [CLASSES[column] for column in columns]
    value = cinc2021_score(answers[rows][:, columns], targets[rows][:, columns], names)
    assert value == pytest.approx(cinc2021_score(answers, targets, CLASSES), rel=1e-13)


@pytest.mark.parametrize("kind", ["code", "abbreviation"])
def test_the_two_diagnoses_of_a_class_count_as_one(kind):
    codes = [code for pair in CINC2021_CLASSES.values() for code in pair]
    names = codes if kind == "code" else [diagnoses()[code].abbreviation for code in codes]
    assert len(names) == 30
    rng = np.random.default_rng(4)
    answers, targets = (rng.random((40, 30)) < 0.1 for _ in range(2))
    places = [[codes.index(code) for code in pair] for pair in CINC2021_CLASSES.values()]
    joined = [np.stack([array[:, place].any(axis=1) for place in places], axis=1) for array in (answers, targets)]
    assert cinc2021_score(answers, targets, names) == cinc2021_score(*joined, CLASSES)
    # Right bundle branch block answered as complete right bundle branch block is right.
    one = np.array([[name in ("CRBBB", "713427006") for name in names]])
    other = np.array([[name in ("RBBB", "59118001") for name in names]])
    assert cinc2021_score(one, other, names) == 1.0


def test_weights_equal_repeated_rows():
    answers, targets = random_answers(5)
    weights = np.random.default_rng(6).integers(0, 4, (3, len(targets)))
    rows = [np.repeat(np.arange(len(targets)), row) for row in weights]
    expected = [cinc2021_score(answers[row], targets[row], CLASSES) for row in rows]
    np.testing.assert_allclose(cinc2021_score(answers, targets, CLASSES, weights), expected, rtol=1e-12)
    assert cinc2021_score(answers, targets, CLASSES, weights[0]) == pytest.approx(expected[0], rel=1e-12)


def test_records_that_are_all_normal_have_no_score():
    targets = by_name(("NSR",), ("NSR",), ("AF",))
    answers = by_name(("NSR",), ("SB",), ("AF",))
    values = cinc2021_score(answers, targets, CLASSES, np.array([[1, 1, 0], [0, 0, 1]]))
    assert np.isnan(values[0])
    assert values[1] == 1.0


def test_the_interval_is_that_of_the_mean_of_the_runs_on_the_same_resamples():
    answers, targets = random_answers(7, num_records=120)
    other, _ = random_answers(8, num_records=120)
    patients = np.arange(120) // 2
    interval = cinc2021_interval([answers, other], targets, CLASSES, patients, num_resamples=40, seed=3)
    runs = []
    for run in (answers, other):
        drawn = [np.repeat(np.arange(120), counts) for counts in resample_weights(120, patients, 40, 3)]
        runs.append([cinc2021_score(run[rows], targets[rows], CLASSES) for rows in drawn])
    expected = np.quantile(np.mean(runs, axis=0), (0.025, 0.975))
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=1e-12)
    mean = np.mean([cinc2021_score(run, targets, CLASSES) for run in (answers, other)])
    assert interval.value == pytest.approx(mean)


def test_the_table_is_the_challenges():
    # A regularity that a slip in the table would break: every weight off the diagonal but those of two pairs is one
    # half less the distance of two places on a line.
    weights = cinc2021_weights()
    place = {
        **dict.fromkeys(["AF", "AFL", "TAb", "TInv"], 0.0),
        **dict.fromkeys(["BBB", "CLBBB|LBBB"], 0.025),
        **dict.fromkeys(["Brady", "IAVB", "IRBBB", "LPR", "SA", "SB"], 0.2),
        **dict.fromkeys(["LAD", "LAnFB", "NSIVCB", "RAD"], 0.15),
        **dict.fromkeys(["PR", "PVC|VPB", "STach"], 0.125),
        **dict.fromkeys(["LQRSV", "PRWP"], 0.075),
        "CRBBB|RBBB": 0.1,
        "LQT": 0.05,
        "NSR": 0.25,
        "PAC|SVPB": 0.1625,
        "QAb": -0.1,
    }
    line = np.array([place[name] for name in CLASSES])
    expected = 0.5 - np.abs(line[:, None] - line)
    np.fill_diagonal(expected, 1.0)
    for one, other in (("BBB", "CLBBB|LBBB"), ("LQRSV", "PRWP")):
        pair = CLASSES.index(one), CLASSES.index(other)
        expected[pair] = expected[pair[::-1]] = 0.475
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    np.testing.assert_array_equal(weights, weights.T)


def test_missing_unknown_doubled_and_continuous_columns_are_refused_by_name():
    answers, targets = random_answers(9)
    keep = [index for index, name in enumerate(CLASSES) if name not in ("LQT", "PVC|VPB")]
    with pytest.raises(ValueError, match=r"Columns of the classes LQT, PVC\|VPB are missing"):
        cinc2021_score(answers[:, keep], targets[:, keep], [CLASSES[index] for index in keep])
    with pytest.raises(ValueError, match=r"\['STEMI'\] are no scored classes"):
        cinc2021_score(answers, targets, ["STEMI", *CLASSES[1:]])
    with pytest.raises(ValueError, match=r"occur twice: \['AF'\]"):
        cinc2021_score(answers, targets, ["AF", "AF", *CLASSES[2:]])
    with pytest.raises(ValueError, match="25 class names for 26 columns"):
        cinc2021_score(answers, targets, CLASSES[1:])
    with pytest.raises(ValueError, match=r"decision of row 0, column 0 is 0.3.*thresholds from validation"):
        cinc2021_score(np.full(targets.shape, 0.3), targets, CLASSES)
    with pytest.raises(ValueError, match="confidence is 2"):
        cinc2021_interval(answers, targets, CLASSES, None, confidence=2)
