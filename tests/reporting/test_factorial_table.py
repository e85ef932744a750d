"""The factorial of strict and published: changes by hand, the epochs that count, and what must not be missing."""

from __future__ import annotations

import pytest
from benchmark_lines import EPOCHS, line

from hf_ecgtext.evaluation.protocols import FACTORIAL_SWITCHES, PUBLISHED, STRICT, factorial_protocols
from hf_ecgtext.reporting.tables.factorial import factorial_table

FRACTIONS = (0.1, 1.0)


def value_of(protocol, checkpoint, task, fraction):
    """Additive in the switches as published, but for a bonus of 10 points where all are."""
    worth = sum(
        0.001 * 2**place
        for place, switch in enumerate(FACTORIAL_SWITCHES)
        if getattr(protocol, switch) == getattr(PUBLISHED, switch)
    )
    bonus = 0.1 if protocol == PUBLISHED else 0.0
    return 0.5 + worth + bonus + 0.01 * len(checkpoint) + 0.02 * (task == "ptbxl_sub") + 0.05 * fraction


def lines(protocols=None):
    found = []
    for protocol in protocols or factorial_protocols():
        is_published = protocol.probe_solver != STRICT.probe_solver
        reported = {"test": EPOCHS[0], "validation": EPOCHS[1]}[protocol.probe_selection]
        for checkpoint in ("runs/a", "runs/bb"):
            for task in ("ptbxl_super", "ptbxl_sub"):
                for fraction in FRACTIONS:
                    settings = {"fraction": fraction, "solver": protocol.probe_solver}
                    common = {"protocol": protocol.name, "checkpoint": checkpoint, "task": task}
                    value = value_of(protocol, checkpoint, task, fraction)
                    if not is_published:
                        found.append(line(value, settings=settings, evaluation="linear_probe", **common))
                        continue
                    for epoch in EPOCHS if protocol.probe_selection == "test" else EPOCHS[1:2]:
                        own = value if epoch == reported else 0.1
                        with_epoch = {**settings, "selection": epoch}
                        found.append(line(own, settings=with_epoch, evaluation="linear_probe", **common))
    return found


def test_a_switch_alone_is_the_difference_that_it_makes_in_either_protocol():
    table = factorial_table(lines())
    assert table.header[1:3] == ["among strict, 10 %", "among strict, 100 %"]
    for place, row in enumerate(table.rows[: len(FACTORIAL_SWITCHES)]):
        worth = 0.1 * 2**place
        assert row[1:3] == [f"{worth:+.2f}"] * 2
        assert row[3:] == [f"{worth + 10:+.2f}"] * 2  # setting one switch back loses the bonus too
    together = sum(0.1 * 2**place for place in range(len(FACTORIAL_SWITCHES)))
    assert table.rows[-2][1:] == [f"{together:+.2f}"] * 2 + [f"{together + 10 * len(FACTORIAL_SWITCHES):+.2f}"] * 2
    assert table.rows[-1] == ["all together", *[f"{together + 10:+.2f}"] * 2, "-", "-"]
    assert "means over 2 trained encoders and 2 tasks (ptbxl_sub, ptbxl_super)" in table.notes[0]


def test_one_task_can_be_shown_alone_and_switches_without_lines_are_left_out():
    few = factorial_protocols(["subsets", "batch_norm"])
    table = factorial_table(lines(few), tasks=["ptbxl_sub"])
    assert [row[0] for row in table.rows] == [
        "BatchNorm adapted to the training signals",
        "one published draw",
        "sum of the switches alone",
        "all together",
    ]
    assert "2 trained encoders and 1 task (ptbxl_sub)" in table.notes[0]


def test_lines_that_one_protocol_lacks_are_named():
    found = [
        each
        for each in lines()
        if (each.protocol, each.checkpoint, each.task) != ("published subsets=stratified", "runs/bb", "ptbxl_sub")
    ]
    with pytest.raises(ValueError, match=r"'published subsets=stratified' and 'strict' .* 'runs/bb' on ptbxl_sub at"):
        factorial_table(found)
    with pytest.raises(ValueError, match="lines of any encoder"):
        factorial_table([])
