"""Kills `prepare` at random moments, resumes it, and compares with one uninterrupted run.

The tests do a few kills of one process. As a script it kills the command line with its workers, and prints the count:

    python tests/data/kill_prepare.py --kills 20 --workers 2
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from make_mimic import write_mimic_tree

RECORDS_PER_SHARD = 64


class Run(Protocol):
    """A process; `subprocess.Popen` and `multiprocessing.Process` both have a `pid`."""

    pid: int | None


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look every millisecond, for ten minutes: a busy machine takes one to start a process."""
    limit = time.monotonic() + 600
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"waited ten minutes for {what}")
        time.sleep(0.001)


def kill_and_resume(
    start: Callable[[Path], Run], end: Callable[[Run], int | None], folder: Path, kills: int, seed: int
) -> tuple[int, list[int]]:
    """Kill runs at random moments until that was done `kills` times, and let the last one finish.

    Args:
        start: Starts a run that writes the given folder.
        end: Waits for its end, and returns its exit code.
        folder: For the output folders.
        kills: How often.
        seed: Of the moments.

    Returns:
        How many outputs were finished and equal to the uninterrupted one, and the shards that were finished at each
        kill.

    Raises:
        AssertionError: If an output differs.
    """
    expected = folder / "uninterrupted"
    run = start(expected)
    wait_until(lambda: num_finished(expected) > 0, "the first shard")
    began = time.monotonic()
    wait_until((expected / "prepared.json").exists, "the first run to end")
    num_shards = len(list((expected / "data").iterdir()))
    seconds_per_shard = (time.monotonic() - began) / num_shards
    assert end(run) == 0

    rng = random.Random(seed)
    outputs, finished_shards = 0, []
    while True:
        out = folder / f"out-{outputs}"
        while not (out / "prepared.json").exists() or (out / ".work").exists():
            run = start(out)
            is_nearly_done = num_finished(out) == num_shards
            if len(finished_shards) < kills and not (is_nearly_done and rng.random() < 0.5):
                # Starting takes much longer than writing a shard of this size: the moment is drawn from the work.
                wanted = min(num_finished(out) + rng.randint(0, 4), num_shards)
                wait_until(partial(has_come_to, wanted, run, out), "a run to get on")
                time.sleep(rng.uniform(0, 2 * seconds_per_shard))
                shards = num_finished(out)
                if is_at_work(run, out) and (out / ".work").exists():
                    os.kill(run.pid, signal.SIGKILL)
                    finished_shards.append(shards)
                    end(run)
                    continue
            assert end(run) == 0, "a run that nobody killed failed"
        found, wanted = contents(out), contents(expected)
        different = sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
        assert not different, f"{out} differs from the uninterrupted run in {different}"
        outputs += 1
        if len(finished_shards) >= kills:
            return outputs, finished_shards


def num_finished(out: Path) -> int:
    """Finished shards of a folder in work."""
    return len(list(out.glob(".work/shards/*.json")))


def has_come_to(wanted: int, run: Run, out: Path) -> bool:
    """Whether a run is at work and so many shards are finished, or nothing is left to do."""
    return is_at_work(run, out) and (num_finished(out) >= wanted or (out / "prepared.json").exists())


def is_at_work(run: Run, out: Path) -> bool:
    """Whether a run holds the lock of a folder, or has ended."""
    try:
        entries = list(Path(f"/proc/{run.pid}/fd").iterdir())
    except OSError:
        return True
    return any(target_of(entry) == str(out / ".work" / "lock") for entry in entries)


def target_of(entry: Path) -> str:
    """What an open file of a process is; empty if it was closed since."""
    try:
        return os.readlink(entry)
    except OSError:
        return ""


def main() -> None:
    """Make a tree, kill, print the count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name)
        write_mimic_tree(folder / "tree", options.records, num_samples=2000)
        command = [sys.executable, "-m", "hf_ecgtext.cli", "prepare", "mimic_iv_ecg", "--source", str(folder / "tree")]
        command += ["--workers", str(options.workers), "--records-per-shard", str(RECORDS_PER_SHARD)]

        def start(out: Path) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [*command, "--output-dir", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

        outputs, shards = kill_and_resume(start, lambda run: run.wait(), folder, options.kills, options.seed)
    sys.stdout.write(
        f"{len(shards)} kills of `prepare` with {options.workers} workers; finished shards at each: {shards}\n"
        f"{outputs} outputs finished after them, each byte-identical to the uninterrupted one\n"
    )


if __name__ == "__main__":
    main()
