"""Each process of a training draws its own random numbers, and all of them share one order of the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from noise_worker import SAVED_STEP, STEPS
from processes import launch

from hf_ecgtext.methods import method_names
from hf_ecgtext.training.resumable_trainer import seed_of_process

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = 4  # 72 training records in joined batches of 16; the last 8 are dropped


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    launch([str(Path(__file__).with_name("noise_worker.py")), str(folder)], folder / "cache", num_processes=2)
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert [noted["world_size"] for noted in found] == [2, 2]
    return found


@pytest.mark.parametrize("method", method_names())
def test_no_two_processes_and_no_two_steps_hide_the_same(ranks, method):
    first, second = (rank[method]["whole"] for rank in ranks)
    assert len(first) == len(second) == STEPS
    noise = [noted for rank in (first, second) for step in rank for noted in step["noise"]]
    assert noise, "the debug recipe draws nothing at random"
    assert len(set(noise)) == len(noise)


@pytest.mark.parametrize("method", method_names())
def test_processes_read_disjoint_records_and_none_twice_in_an_epoch(ranks, method):
    steps = [step for rank in ranks for step in rank[method]["whole"][:STEPS_PER_EPOCH]]
    ids = [record for step in steps for record in step["ids"]]
    assert len(ids) == 2 * STEPS_PER_EPOCH * 8
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("method", method_names())
def test_a_resumed_training_draws_and_reads_what_the_uninterrupted_one_does(ranks, method):
    for rank in ranks:
        found = rank[method]
        assert found["resumed"] == found["whole"][SAVED_STEP:]
        assert found["weights"][0] == found["weights"][1]
    assert ranks[0][method]["weights"] == ranks[1][method]["weights"], "all processes have the same weights"


def test_seeds_of_processes_differ_and_neighbouring_seeds_do_not_meet():
    seeds = [seed_of_process(seed, process) for seed in range(20) for process in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
