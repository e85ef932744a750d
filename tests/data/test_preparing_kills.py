from __future__ import annotations

import multiprocessing
from pathlib import Path

from kill_prepare import RECORDS_PER_SHARD, kill_and_resume
from make_mimic import write_mimic_tree

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.by_name import open_source


def prepare_tree(tree: Path, out: Path) -> None:
    prepare(open_source("mimic_iv_ecg", tree), out, workers=1, records_per_shard=RECORDS_PER_SHARD, progress=False)


def test_runs_that_are_killed_at_random_moments_end_as_one_that_is_not(tmp_path):
    write_mimic_tree(tmp_path / "tree", 300, num_samples=50)
    context = multiprocessing.get_context("forkserver")  # a process takes milliseconds to start, not seconds
    context.set_forkserver_preload([prepare.__module__, "hf_ecgtext.data.sources.mimic_iv_ecg"])

    def start(out: Path):
        process = context.Process(target=prepare_tree, args=(tmp_path / "tree", out))
        process.start()
        return process

    def end(process) -> int:
        process.join()
        return process.exitcode

    outputs, shards_at_kills = kill_and_resume(start, end, tmp_path, kills=4, seed=0)
    assert outputs >= 1
    assert len(shards_at_kills) == 4
