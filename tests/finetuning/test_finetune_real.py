"""Fine-tuning on fewer leads, on the real recordings of three datasets: few, so that the point is that the path is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from finetuning_data import debug_model, short_recipe

from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.store.schema import row_to_stored
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.finetuning.cinc2021 import cinc2021_results
from hf_ecgtext.finetuning.finetune import finetune
from hf_ecgtext.finetuning.lead_subsets import LEAD_SUBSETS
from hf_ecgtext.finetuning.prediction import predict_logits

SOURCES = {
    "csn": ("csn", "csn_exact", {"split_of_others": "train"}),
    "cpsc2018": ("cpsc2018", "cpsc2018", {"split_of_others": "train"}),
    "cinc2021": ("cinc2021", "cinc2021", {}),
}


@pytest.fixture(scope="module", params=SOURCES)
def task(request, real_data) -> EvaluatedTask:
    """A task on all records of a sample, split anew: the samples are too small for the real splits."""
    folder, name, options = SOURCES[request.param]
    data = open_data(request.param, real_data / folder, **options)
    (task,) = (task for task in data.tasks if task.name == name)
    present = {path.stem for path in (real_data / folder).rglob("*.mat")}
    rows = []
    for split in (data.train, data.validation, data.test):
        if split is None:
            continue
        # CPSC2018's list names all recordings, of which five are there.
        places = [place for place, record in enumerate(split.index_column("record_id")) if record in present]
        rows += list(split.source.read(split.records.take(places).to_pylist()))
    rows = sorted((row for row in rows if row[task.label_column]), key=lambda row: row["record_id"])
    third = len(rows) // 3
    parts = (rows, rows, rows) if third < 4 else (rows[2 * third :], rows[:third], rows[third : 2 * third])
    splits = {name: Loaded(part) for name, part in zip(("train", "validation", "test"), parts, strict=True)}
    return EvaluatedTask(dataclasses.replace(data, tasks=(task,), **splits), task)


class Loaded:
    """Rows in memory."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"ecg": row_to_stored(self.rows[index]), "index": index}

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def column(self, name):
        return [row[name] for row in self.rows]


@pytest.mark.parametrize("leads", LEAD_SUBSETS)
def test_fewer_and_fewer_leads_of_real_recordings_are_learnt_and_scored(task, tmp_path, leads):
    model, processor = debug_model()
    done = finetune(
        model, processor, task, tmp_path / "out", checkpoint="x", leads=leads, recipe=short_recipe(1), allow_seen=True,
        show_progress=False,
    )  # fmt: skip
    scores = done.scores[task.name]
    assert scores.record_ids == task.records("test").record_ids
    assert scores.settings["leads"] == leads
    assert np.isfinite(scores.scores).all()
    if task.name == "cinc2021":
        strict, published = cinc2021_results(scores, num_resamples=20)
        assert strict.value is not None
        assert strict.value <= 1
        assert published.details["thresholds"] == [0.5]
    if task.name == "cpsc2018":
        longest = max(task.data.test.__getitems__(range(len(task.data.test))), key=lambda row: row["ecg"].duration_s)
        assert longest["ecg"].duration_s > 10
        preparation = done.preparation
        assert len(preparation.windows(longest["ecg"])) > 1
        (row,) = np.flatnonzero(np.array(scores.record_ids) == longest["ecg"].record_id)
        np.testing.assert_allclose(
            scores.scores[0, row], predict_logits(done.model, preparation, [longest])[0], atol=1e-5
        )
