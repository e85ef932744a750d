from __future__ import annotations

import dataclasses

import pytest

from hf_ecgtext.evaluation.protocols import (
    FACTORIAL_SWITCHES,
    PUBLISHED,
    STRICT,
    EvaluationProtocol,
    factorial_protocols,
    get_protocol,
    protocol_names,
)


def test_the_protocols_differ_in_every_switch_of_a_defect():
    switches = {field.name for field in dataclasses.fields(EvaluationProtocol)} - {"name", "min_positives", "num_draws"}
    same = {name for name in switches if getattr(STRICT, name) == getattr(PUBLISHED, name)}
    assert same == set()


def test_strict_is_the_default_and_chooses_nothing_on_the_test_split():
    assert EvaluationProtocol() == STRICT == get_protocol("strict")
    assert "test" not in dataclasses.astuple(STRICT)
    assert protocol_names() == ("strict", "published")


def test_a_changed_switch_is_in_the_name():
    protocol = get_protocol("published", probe_solver="cmelt", label_map="as_published")
    assert protocol.probe_solver == "cmelt"
    assert protocol.name == "published probe_solver=cmelt"  # label_map is as it was
    assert get_protocol("strict", min_positives=[1]).min_positives == (1,)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"probe_solvr": "merl"}, "There is no switch probe_solvr; the switches are .*probe_solver"),
        ({"probe_solver": "svm"}, "probe_solver is 'svm'; choose one of logistic_regression, merl"),
        ({"num_draws": 0}, "at least one draw"),
        (
            {"probe_selection": "draw", "probe_solver": "merl"},
            "cross-validates the strength .* but probe_solver is merl",
        ),
    ],
)
def test_an_impossible_switch_is_named(switches, message):
    with pytest.raises(ValueError, match=message):
        get_protocol("strict", **switches)


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="no protocol 'strickt'; choose one of strict, published"):
        get_protocol("strickt")


def test_the_factorial_sets_every_switch_alone_in_both_directions():
    protocols = factorial_protocols()
    assert protocols[:2] == (STRICT, PUBLISHED)
    assert len({protocol.name for protocol in protocols}) == len(protocols) == 2 + 2 * len(FACTORIAL_SWITCHES)
    for protocol in protocols[2:]:
        base, other = (STRICT, PUBLISHED) if protocol.name.startswith("strict ") else (PUBLISHED, STRICT)
        changed = {field.name for field in dataclasses.fields(protocol)} - {"name"}
        changed = {name for name in changed if getattr(protocol, name) != getattr(base, name)}
        assert len(changed) == 1
        assert all(getattr(protocol, name) == getattr(other, name) for name in changed)


def test_the_factorial_has_every_switch_that_changes_a_probe_on_one_dataset():
    elsewhere = {"thresholds", "label_map", "duplicate_reports"}  # of F1, shift and retrieval
    differing = {
        field.name
        for field in dataclasses.fields(STRICT)
        if field.name != "name" and getattr(STRICT, field.name) != getattr(PUBLISHED, field.name)
    }
    assert set(FACTORIAL_SWITCHES) == differing - elsewhere
