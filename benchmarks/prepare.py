"""How much faster `hf-ecgtext prepare` is than the published way, on a tree shaped like MIMIC-IV-ECG.

Baseline: the pre-processing of MERL, which DERI and others took over, written anew from its description. Per record it
reads with `wfdb.rdsamp`, transposes, looks for NaN, scales the record to 0..1 in float64 by its minimum and maximum,
multiplies by 1000, casts to int16 and puts it into a row of one array of all records; the record's row of the table is
found by comparing all paths; both parts of a random split are saved with `np.save`. Beyond that, ours verifies the
checksums of the recordings, keeps the integers of the files without loss, and syncs and checksums what it writes.

Both work on blocks of the same records in turn, in one process of one thread, after every file was read once. "CPU" is
the processor's time, user and system, which is what a core can do when neither the disk nor other programs hold it up;
"wall" is the clock's. "Best" and "median" are over the blocks. Ours is what one shard of a block takes, from the index
to the synced file; tables, plan, start of processes, summary and card are in the whole runs below. By default, tree
and output are in memory (/dev/shm), so that the disk does not count; `--folder` puts them on a disk.

    python benchmarks/prepare.py [--records 5120] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import wfdb
from numpy.typing import NDArray

from hf_ecgtext.data.prepare.plan import Plan, make_plan
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.prepare.shard_writer import ShardJob, ShardWriter
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.store.schema import decode_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))
from make_mimic import write_mimic_tree  # type: ignore[import-not-found]

COMPRESSIONS = ("none", "lz4", "zstd")
MIMIC_RECORDS = 800_035
PUBLISHED = "published"
WITHOUT_LOOK_UP = "published, no look-up"
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


class Seconds(NamedTuple):
    """By the clock, and of the processor."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Seconds:
        """To subtract from each other."""
        return cls(time.perf_counter(), time.process_time())

    def plus(self, other: Seconds) -> Seconds:
        """Both together."""
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def minus(self, other: Seconds) -> Seconds:
        """What passed between two moments, or the rest."""
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def prepare_as_published(tree: Path, paths: list[str], table: pd.DataFrame, signals: NDArray[np.int16]) -> Seconds:
    """Fill `signals`, `(len(paths), 12, 5000)`; returns the seconds that finding the table's rows took."""
    looking_up = Seconds(0.0, 0.0)
    for number, path in enumerate(paths):
        signal = wfdb.rdsamp(str(tree / path))[0].T
        if np.isnan(signal).any():
            raise ValueError(f"{path}: no sample is missing in this tree.")
        lowest, highest = signal.min(), signal.max()
        signals[number] = ((signal - lowest) / (highest - lowest) * 1000).astype(np.int16)
        start = Seconds.now()
        row = table[table["path"] == path]
        looking_up = looking_up.minus(start.minus(Seconds.now()))
        if len(row) != 1:
            raise ValueError(f"{path}: {len(row)} rows.")
    return looking_up


def save_as_published(signals: NDArray[np.int16], folder: Path) -> None:
    """Split the records at random, 98 to 2, and save both parts: what training reads."""
    order = np.random.default_rng(42).permutation(len(signals))
    held_out = len(signals) // 50
    for name, rows in (("train", order[held_out:]), ("val", order[:held_out])):
        np.save(folder / f"mimic_ecg_{name}.npy", signals[rows])


def elapsed(work: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Seconds that some work takes, and what it returns."""
    start = Seconds.now()
    result = work()
    return Seconds.now().minus(start), result


def check(shard: Path, tree: Path, paths: dict[str, str]) -> None:
    """The shard's millivolts are those of `wfdb`, for its first row group."""
    for row in decode_table(pq.ParquetFile(shard).read_row_group(0)):
        expected = wfdb.rdsamp(str(tree / paths[row["record_id"]]))[0].T
        if not np.array_equal(row["samples"] / row["gain_per_mv"][:, None], expected):
            sys.exit(f"{row['record_id']}: the shard differs from wfdb.rdsamp.")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=5120, help="of the tree (default: %(default)s)")
    parser.add_argument("--block", type=int, default=512, help="records of a turn (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=MEMORY, help="for tree and output (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="for whole runs (default: 1 2)")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=arguments.folder) as scratch:
        measure(Path(scratch), arguments.records, arguments.block, arguments.workers)


def measure(folder: Path, num_records: int, block: int, workers: list[int]) -> None:
    """Make the tree, take turns, print."""
    tree, out = folder / "tree", folder / "out"
    write_mimic_tree(tree, num_records)
    for file in tree.rglob("*.*"):
        if file.is_file():
            file.read_bytes()
    source = open_source("mimic_iv_ecg", tree, min_words=0)
    planning, plan = elapsed(lambda: make_plan(source, records_per_shard=block, compression="none", order="source"))
    out.mkdir()
    plan.save(out)
    records = plan.index.records.take(plan.rows)
    table = pd.read_csv(tree / "record_list.csv")
    signals = np.zeros((block, 12, 5000), dtype=np.int16)
    writers = {name: ShardWriter(source, Plan.index_file(out), out, name) for name in COMPRESSIONS}

    times: dict[str, list[Seconds]] = {name: [] for name in (PUBLISHED, WITHOUT_LOOK_UP, *COMPRESSIONS)}
    sizes: dict[str, float] = {}
    blocks = [range(start, start + block) for start in range(0, num_records - block + 1, block)]
    for turn, rows in enumerate(blocks):
        job = ShardJob(f"train-{turn:05d}", "train", rows.start, rows.stop)
        paths = records.column("path").slice(rows.start, block).to_pylist()
        names = [PUBLISHED, *COMPRESSIONS]
        for name in names[turn % 4 :] + names[: turn % 4]:
            if name == PUBLISHED:
                seconds, looking_up = elapsed(partial(prepare_as_published, tree, paths, table, signals))
                saving, _ = elapsed(partial(save_as_published, signals, folder))
                times[PUBLISHED].append(seconds.plus(saving))
                times[WITHOUT_LOOK_UP].append(seconds.plus(saving).minus(looking_up))
                continue
            seconds, note = elapsed(partial(writers[name].write, job, lambda count: None))
            times[name].append(seconds)
            sizes[name] = note.num_bytes / note.records / 1e6
            shard = out / f"{job.name}.parquet"
            if turn == 0:
                check(shard, tree, dict(zip(records.column("record_id").to_pylist()[:block], paths, strict=True)))
            shard.unlink()
    shutil.rmtree(out)
    report(per_record(times, block), sizes, len(blocks), block)

    print("\nWhole runs, with tables, plan, start of the processes, summary and card:")
    for count in workers:
        seconds, _ = elapsed(partial(prepare, source, out, workers=count, progress=False))
        shutil.rmtree(out)
        print(f"  {count} worker(s): {seconds.wall:6.2f} s, {num_records / seconds.wall:8,.0f} records/s")
    print(f"  of which tables and plan: {planning.wall:.2f} s")
    project(per_record(times, block), sizes)


def per_record(times: dict[str, list[Seconds]], block: int) -> dict[str, dict[str, float]]:
    """Milliseconds per record: median and best, of the processor and by the clock."""
    return {
        name: {
            f"{clock} {kind}": choose(getattr(seconds, clock) for seconds in of_blocks) / block * 1e3
            for clock in ("cpu", "wall")
            for kind, choose in (("median", statistics.median), ("best", min))
        }
        for name, of_blocks in times.items()
    }


def report(milliseconds: dict[str, dict[str, float]], sizes: dict[str, float], num_blocks: int, block: int) -> None:
    """The tables of times and ratios."""
    print(
        f"{num_blocks} blocks of {block} records, 12 x 5000, format 16; samples equal wfdb's; one process, one thread"
    )
    print(
        f"wfdb {wfdb.__version__}, pyarrow {pa.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
    kinds = list(milliseconds[PUBLISHED])
    print(f"\n{'ms per record':24}{''.join(f'{kind:>13}' for kind in kinds)}{'records/s/core':>17}{'MB/record':>11}")
    for name, of_kind in milliseconds.items():
        values = "".join(f"{of_kind[kind]:13.3f}" for kind in kinds)
        print(f"{name:24}{values}{1e3 / of_kind['cpu median']:17,.0f}{sizes.get(name, 0.12):11.3f}")
    for base in (PUBLISHED, WITHOUT_LOOK_UP):
        print(f"\n{'ratio to ' + base:32}{''.join(f'{kind:>13}' for kind in kinds)}")
        for name in COMPRESSIONS:
            ratios = "".join(f"{milliseconds[base][kind] / milliseconds[name][kind]:12.1f}x" for kind in kinds)
            print(f"{name:32}{ratios}")


def project(milliseconds: dict[str, dict[str, float]], sizes: dict[str, float]) -> None:
    """What the numbers mean for the whole of MIMIC-IV-ECG."""
    print(
        f"\nProjection to {MIMIC_RECORDS:,} records from the median of CPU: each costs the same there, files are in the"
    )
    print("page cache, workers do not slow one another down, and the disk is as fast as the last column says.")
    print(
        f"{'':24}{'1 worker':>12}{'8 workers':>12}{'16 workers':>12}{'GB written':>12}{'the disk alone at 2 GB/s':>26}"
    )
    for name in (WITHOUT_LOOK_UP, *COMPRESSIONS):
        minutes = MIMIC_RECORDS * milliseconds[name]["cpu median"] / 60e3
        written_gb = MIMIC_RECORDS * sizes.get(name, 0.12) / 1e3
        times = "".join(f"{minutes / count:8.1f} min" for count in (1, 8, 16))
        print(f"{name:24}{times}{written_gb:12.0f}{(MIMIC_RECORDS * 0.12 / 1e3 + written_gb) / 2 / 60:22.1f} min")
    look_up = milliseconds[PUBLISHED]["cpu median"] - milliseconds[WITHOUT_LOOK_UP]["cpu median"]
    print(f"The published look-up compares all paths for each record: {look_up:.2f} ms here; it grows with the number.")


if __name__ == "__main__":
    main()
