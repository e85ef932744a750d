"""Which tasks a plan asks."""

from __future__ import annotations

import pytest

from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.harness.plan import MatrixPlan

USUAL, FURTHER = LabelTask("usual", "labels", {"a": "a"}), LabelTask("further", "labels", {"a": "a"})
DATA = EcgData("small", "1", None, None, None, tasks=(USUAL,), further_tasks=(FURTHER,))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, [USUAL]), (("further",), [FURTHER]), (("further", "usual"), [USUAL, FURTHER])],
)
def test_further_tasks_are_asked_only_by_name(asked, expected):
    plan = MatrixPlan(models=[], data=[DATA], tasks=asked, protocols=[])
    assert [subject.task for subject in plan.subjects()] == expected
