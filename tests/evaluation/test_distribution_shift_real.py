"""Distribution shift and retrieval on the real samples: PTB-XL, CPSC2018 and CSN, in all six directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_ecgtext.data.label_maps import label_map
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.evaluation.context import EvaluatedTask, EvaluationContext
from hf_ecgtext.evaluation.downstream.distribution_shift import evaluate
from hf_ecgtext.evaluation.downstream.retrieval import evaluate as evaluate_retrieval
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, ModelEncoder
from hf_ecgtext.evaluation.protocols import PUBLISHED, STRICT
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.methods import get_recipe

NATIVE = ("A1980", "A1981", "A1982", "A1983", "A1984")  # the recordings of CPSC2018 that are there


def part(rows: RawEcgDataset, start: int, stop: int) -> RawEcgDataset:
    return RawEcgDataset(rows.source, rows.records.slice(start, stop - start))


@pytest.fixture(scope="module")
def samples(real_data, tmp_path_factory):
    """Data by task. The splits are the published ones as far as the samples reach."""
    ptb_xl = open_data("ptb_xl", real_data / "ptb-xl", streaming=True, sampling_rate_hz=100, report="original",
                       missing="skip")  # fmt: skip
    # The files of five recordings are there, two of them of the test list; PhysioNet's copies are of the other lists.
    native = tmp_path_factory.mktemp("cpsc2018") / "TrainingSet"
    native.mkdir()
    table = (real_data / "cpsc2018/TrainingSet/REFERENCE.csv").read_text().splitlines(keepends=True)
    (native / "REFERENCE.csv").write_text("".join([table[0], *(row for row in table if row.startswith(NATIVE))]))
    for name in NATIVE:
        (native / f"{name}.mat").symlink_to(real_data / f"cpsc2018/TrainingSet/{name}.mat")
    copies = open_data("cpsc2018", real_data / "cinc2021/training/cpsc_2018")
    # CSN's sample has nobody of the validation list: some of the recordings outside all lists stand in for it.
    csn = open_data("csn", real_data / "csn", split_of_others="train")
    return {
        "ptbxl_super": replace(
            ptb_xl, train=part(ptb_xl.train, 0, 60), validation=part(ptb_xl.validation, 0, 30),
            test=part(ptb_xl.test, 0, 40),
        ),
        "cpsc2018": replace(copies, test=open_data("cpsc2018", native.parent).test),
        "csn_exact": replace(csn, train=part(csn.train, 0, 50), validation=part(csn.train, 50, 78)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    model, processor = get_recipe("merl", "debug").build(seed=0)
    return EncoderRuns("debug", "trained", (ModelEncoder(model, processor),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("features"), batch_size=16, show_progress=False)


@pytest.fixture(scope="module")
def tasks(samples):
    return {
        name: EvaluatedTask(data, next(task for task in data.tasks if task.name == name))
        for name, data in samples.items()
    }


def context(cache, tasks, source, protocol=STRICT):
    others = {name: task for name, task in tasks.items() if name != source}
    return EvaluationContext(cache=cache, protocol=protocol, num_resamples=20, other_tasks=others)


@pytest.mark.parametrize("source", ["ptbxl_super", "cpsc2018", "csn_exact"])
def test_both_classifiers_are_scored_on_both_sides_of_real_recordings(source, runs, cache, tasks):
    outcome = evaluate(runs, tasks[source], context(cache, tasks, source))
    assert len(outcome.scores) == 2 * 2 * 2  # targets, classifiers, sides
    for scores in outcome.scores:
        target = scores.settings["target_task"]
        asked = tasks[source if scores.settings["side"] == "source" else target]
        assert scores.record_ids == asked.records("test").record_ids
        assert set(scores.class_names) == {label for label, names in label_map(source, target).items() if names}
        assert np.isfinite(scores.scores).all()
        assert np.ptp(scores.scores[0], axis=0).any()
        metrics = bootstrap_intervals(scores.scores, scores.targets, scores.patients, num_resamples=20)
        values = metrics["auroc"].values
        has_both = scores.targets.any(axis=0) & ~scores.targets.all(axis=0)
        assert (np.isfinite(values) == has_both).all()
        undefined = {label for label, both in zip(scores.class_names, has_both, strict=True) if not both}
        assert undefined == set(scores.details["no_positives"]) | set(scores.details["no_negatives"])
    sizes = {scores.settings["target_task"]: len(scores.record_ids) for scores in outcome.scores
             if scores.settings["side"] == "target"}  # fmt: skip
    assert sizes == {name: len(tasks[name].records("test")) for name in tasks if name != source}


def test_recordings_of_every_length_are_averaged_over_their_windows(runs, cache, samples, tasks):
    lengths = [row["ecg"].num_samples / row["ecg"].sampling_rate_hz
               for row in samples["cpsc2018"].train.__getitems__(range(12))]  # fmt: skip
    assert max(lengths) > 10
    features = cache.features(runs.members[0], samples["cpsc2018"], "train").arrays["ecg_embeds"]
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("source", ["ptbxl_super", "csn_exact"])
def test_the_published_directions_run_zero_shot_on_real_recordings(source, runs, cache, tasks):
    outcome = evaluate(runs, tasks[source], context(cache, tasks, source, PUBLISHED))
    assert {scores.settings["classifier"] for scores in outcome.scores} == {"zero_shot"}
    assert len(outcome.scores) == (4 if source == "ptbxl_super" else 2)


def test_the_samples_own_splits_say_what_a_probe_lacks(real_data, runs, cache, tasks):
    csn = open_data("csn", real_data / "csn")
    source = EvaluatedTask(csn, next(task for task in csn.tasks if task.name == "csn_exact"))
    with pytest.raises(
        ValueError, match="needs labelled records in the validation split of csn, which has some only in"
    ):
        evaluate(runs, source, context(cache, tasks, "csn_exact"))


def test_real_reports_are_retrieved_and_data_without_them_is_refused(runs, cache, samples, tasks):
    results = evaluate_retrieval(runs, samples["ptbxl_super"], context(cache, tasks, "ptbxl_super")).results
    assert {(line.settings["direction"], line.metric) for line in results} == {
        (direction, metric)
        for direction in ("ecg_to_report", "report_to_ecg")
        for metric in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
    }
    reports = samples["ptbxl_super"].test.column("report")
    assert {line.details["num_unique_reports"] for line in results} == {len(set(reports))}
    assert len(set(reports)) < len(reports) == results[0].num_records
    with pytest.raises(ValueError, match="No record of csn's test split has a report"):
        evaluate_retrieval(runs, samples["csn_exact"], context(cache, tasks, "csn_exact"))
