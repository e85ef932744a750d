"""Finished jobs on disk."""

from __future__ import annotations

import os

import pytest
from test_summary import scores

from hf_ecgtext.evaluation.context import EvaluationOutcome
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.results import ResultError
from hf_ecgtext.harness.jobs import JobStore
from hf_ecgtext.harness.summary import task_results


def outcome() -> EvaluationOutcome:
    return EvaluationOutcome((scores(),), tuple(task_results(scores(), STRICT, num_resamples=10)))


def test_a_saved_cell_is_found_by_its_description_alone(tmp_path):
    store = JobStore(tmp_path)
    store.save({"b": 1, "a": [1, 2]}, outcome())
    found = JobStore(tmp_path).load({"a": [1, 2], "b": 1})
    assert [line.value for line in found.results] == [line.value for line in outcome().results]
    assert (found.scores[0].scores == scores().scores).all()
    assert JobStore(tmp_path).load({"a": [1, 2], "b": 2}) is None


def test_a_cell_that_was_killed_while_it_was_written_is_not_there(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    store = JobStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            store.save({"a": 1}, outcome())
    assert store.load({"a": 1}) is None
    store.save({"a": 1}, outcome())
    assert len(store.load({"a": 1}).results) == len(outcome().results)
    assert not list(tmp_path.glob("*.unfinished"))


def test_the_first_of_two_that_finish_the_same_cell_stays(tmp_path):
    store = JobStore(tmp_path)
    store.save({"a": 1}, outcome())
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    store.save({"a": 1}, EvaluationOutcome())
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_cell_of_a_newer_version_is_refused_by_file_and_line(tmp_path):
    store = JobStore(tmp_path)
    store.save({"a": 1}, outcome())
    (path,) = tmp_path.rglob("results.jsonl")
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 4'))
    with pytest.raises(ResultError, match=r"results\.jsonl, line 1: is of schema version 4; this library reads"):
        store.load({"a": 1})
