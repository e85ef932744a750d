from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from hf_ecgtext.commands.evaluate import reader_tables
from hf_ecgtext.data.sources.code_test import CODE_TEST_CLASSES, OTHER_ANNOTATORS, read_annotations
from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.statistics.binary_readers import READER_METRICS, reader_scores
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.calibration_metrics import wilson_interval
from hf_ecgtext.evaluation.statistics.thresholds import at_thresholds

CLASSES = ("1dAVb", "RBBB", "LBBB", "SB", "AF", "ST")

# Ribeiro et al. 2020 (Nature Communications 11:1760): the network, residents of cardiology and of emergency medicine,
# and students; `outputs/tables/scores.csv` of github.com/antonior92/automatic-ecg-diagnosis, which holds their table 2.
PUBLISHED = {
    "dnn": {
        "precision": (0.867, 0.895, 1.000, 0.833, 1.000, 0.947),
        "sensitivity": (0.929, 1.000, 1.000, 0.938, 0.769, 0.973),
        "specificity": (0.995, 0.995, 1.000, 0.996, 1.000, 0.997),
        "f1": (0.897, 0.944, 1.000, 0.882, 0.870, 0.960),
    },
    "cardiology_residents": {
        "precision": (0.905, 0.868, 1.000, 0.833, 0.769, 0.968),
        "sensitivity": (0.679, 0.971, 0.900, 0.938, 0.769, 0.811),
        "specificity": (0.997, 0.994, 1.000, 0.996, 0.996, 0.999),
        "f1": (0.776, 0.917, 0.947, 0.882, 0.769, 0.882),
    },
    "emergency_residents": {
        "precision": (0.639, 0.963, 0.963, 0.824, 0.800, 0.946),
        "sensitivity": (0.821, 0.765, 0.867, 0.875, 0.615, 0.946),
        "specificity": (0.984, 0.999, 0.999, 0.996, 0.998, 0.997),
        "f1": (0.719, 0.852, 0.912, 0.848, 0.696, 0.946),
    },
    "medical_students": {
        "precision": (0.605, 0.914, 0.931, 0.750, 0.571, 0.912),
        "sensitivity": (0.929, 0.941, 0.900, 0.750, 0.923, 0.838),
        "specificity": (0.979, 0.996, 0.997, 0.995, 0.989, 0.996),
        "f1": (0.732, 0.928, 0.915, 0.750, 0.706, 0.873),
    },
}


def annotations_of(folder, annotator: str) -> np.ndarray:
    path = folder / "code-test" / "annotations" / f"{annotator}.csv"
    labels = read_annotations(path.read_bytes(), path.name)
    return np.array([[name in of_record for name in CLASSES] for of_record in labels]).astype(int)


@pytest.mark.parametrize("annotator", PUBLISHED)
def test_metrics_on_code_test_are_the_published_ones(real_data, annotator):
    scores = reader_scores(
        annotations_of(real_data, annotator), annotations_of(real_data, "gold_standard"), num_resamples=20
    )
    for name, expected in PUBLISHED[annotator].items():
        values = [interval.value for interval in scores.per_class[name]]
        np.testing.assert_allclose(values, expected, rtol=0, atol=0.00051, err_msg=name)
    assert scores.num_positives.tolist() == [28, 34, 30, 16, 13, 37]


@pytest.mark.parametrize("annotator", ["cardiologist1", "cardiologist2", "medical_students"])
def test_metrics_on_code_test_equal_scikit_learn(real_data, annotator):
    answers, gold = annotations_of(real_data, annotator), annotations_of(real_data, "gold_standard")
    scores = reader_scores(answers, gold, num_resamples=50)
    references = {
        "f1": f1_score,
        "sensitivity": recall_score,
        "specificity": lambda truth, answer: recall_score(truth, answer, pos_label=0),
        "precision": precision_score,
    }
    for name, reference in references.items():
        expected = [reference(gold[:, index], answers[:, index]) for index in range(6)]
        np.testing.assert_allclose([interval.value for interval in scores.per_class[name]], expected, rtol=1e-12)
        assert scores.macro[name].value == pytest.approx(np.mean(expected))
        assert all(low <= value <= high for value, low, high in scores.per_class[name])


def noisy_readers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = (rng.random((200, 2)) < (0.2, 0.4)).astype(int)
    return np.where(rng.random(gold.shape) < 0.1, 1 - gold, gold), gold


def test_a_reader_without_an_error_still_has_an_interval():
    _, gold = noisy_readers()
    scores = reader_scores(gold, gold, num_resamples=50)
    for name in READER_METRICS:
        for value, low, high in scores.per_class[name]:
            assert value == high == 1
            assert 0.8 < low < 1


def test_the_interval_of_f1_is_that_of_the_bootstrap_where_errors_are_many():
    answers, gold = noisy_readers()
    interval = reader_scores(answers, gold, num_resamples=50).per_class["f1"][1]
    resampled = bootstrap_intervals(answers.astype(float), gold, None, [at_thresholds([0.5, 0.5], "f1")], 2000)
    expected = resampled["f1"].per_class()[1]
    assert interval.value == pytest.approx(expected.value)
    assert interval.low == pytest.approx(expected.low, abs=0.02)
    assert interval.high == pytest.approx(expected.high, abs=0.02)


class AnnotatedRows:
    """A test split that knows nothing but its labels."""

    def __init__(self, columns: dict[str, list[list[str]]]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def column(self, name: str) -> list[list[str]]:
        return self.columns[name]


def code_test(folder, name: str = "code_test") -> EcgData:
    tables = {annotator: annotations_of(folder, annotator) for annotator in ("gold_standard", *OTHER_ANNOTATORS)}
    columns = {
        "labels" if annotator == "gold_standard" else f"labels_{annotator}": [
            [label for label, present in zip(CLASSES, row, strict=True) if present] for row in table
        ]
        for annotator, table in tables.items()
    }
    task = LabelTask("code_test", "labels", CODE_TEST_CLASSES)
    return EcgData(name, "1.0.0", None, None, AnnotatedRows(columns), (task,))


def test_evaluate_sets_the_readers_of_code_test_beside_the_models(real_data):
    (table,) = reader_tables([code_test(real_data), code_test(real_data, "other")], num_resamples=20, seed=0)
    assert [row[0] for row in table.rows] == [
        *("cardiologist1", "cardiologist2", "cardiology residents", "emergency residents", "medical students"),
        "network of Ribeiro et al. 2020",
    ]
    assert table.header == ["reader", "F1", "sensitivity", "specificity", "precision"]
    by_reader = {row[0]: [float(text.split(" ")[0]) for text in row[1:]] for row in table.rows}
    names = ("f1", "sensitivity", "specificity", "precision")
    for annotator, title in (("dnn", "network of Ribeiro et al. 2020"), ("medical_students", "medical students")):
        expected = [100 * np.mean(PUBLISHED[annotator][name]) for name in names]
        np.testing.assert_allclose(by_reader[title], expected, atol=0.11)  # printed with one decimal, of three
    assert "all 827 recordings" in table.render()


def test_continuous_scores_are_refused_as_annotations():
    answers, gold = noisy_readers()
    with pytest.raises(ValueError, match=r"these hold 0.7. Continuous scores need thresholds"):
        reader_scores(np.where(answers, 0.7, 0), gold)


def test_wilson_intervals_solve_their_quadratic_equation():
    # The ends are the proportions p at which |observed - p| is z standard errors of p itself.
    successes, trials = np.array([0, 1, 13, 30]), np.array([5, 30, 30, 30])
    low, high = wilson_interval(successes, trials)
    observed = successes / trials
    assert low[0] == 0
    assert high[-1] == 1
    for end in (low, high):
        errors = 1.959963984540054 * np.sqrt(end * (1 - end) / trials)
        np.testing.assert_allclose(np.abs(observed - end), errors, atol=1e-12)
    assert np.isnan(wilson_interval(0, 0)).all()
    with pytest.raises(ValueError, match="confidence is 95"):
        wilson_interval(1, 2, 95)
