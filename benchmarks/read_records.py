"""How much faster `hf_ecgtext.data.wfdb.reading.read_record` is than `wfdb.rdsamp`, in one run on the same files.

Baseline: `wfdb.rdsamp(record)` of the installed `wfdb` package, which returns float64 physical units. Ours returns
float32 mV in the layout models take, and verifies the checksums, which the baseline does not.

Every record is read once by both beforehand, so that the files are in the page cache. Then the readers take turns on
batches of records, in turned order from round to round: a data loader also reads record after record with one reader,
and in shorter turns each would mostly measure the caches that the other left behind. Per record and reader the best of
`--rounds` counts for "best of N", and all readings count for "median".

    python benchmarks/read_records.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import wfdb

from hf_ecgtext.data.wfdb.reading import read_digital, read_record

BATCH = 20


def elapsed_s(read: Callable[[str], Any], record: str) -> float:
    """Seconds one reading takes."""
    start = time.perf_counter()
    read(record)
    return time.perf_counter() - start


def measure(readers: dict[str, Callable[[str], Any]], records: list[str], rounds: int) -> dict[str, list[list[float]]]:
    """Seconds per reader, record and round; the readers take turns on batches of records."""
    times: dict[str, list[list[float]]] = {name: [[] for _ in records] for name in readers}
    names = list(readers)
    for round_index in range(rounds):
        shift = round_index % len(names)
        for first in range(0, len(records), BATCH):
            for name in names[shift:] + names[:shift]:
                for index in range(first, min(first + BATCH, len(records))):
                    times[name][index].append(elapsed_s(readers[name], records[index]))
    return times


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("HF_ECGTEXT_DATA", "../shared/data")),
        help="folder that holds ptb-xl/records500 (default: HF_ECGTEXT_DATA, else ../shared/data)",
    )
    parser.add_argument("--records", type=int, default=490, help="how many records to read")
    parser.add_argument("--rounds", type=int, default=5, help="readings per record and reader")
    arguments = parser.parse_args()
    if arguments.records < 1 or arguments.rounds < 1:
        parser.error("--records and --rounds must be positive")

    headers = sorted((arguments.data / "ptb-xl" / "records500").rglob("*.hea"))[: arguments.records]
    if not headers:
        sys.exit(f"No records under {arguments.data / 'ptb-xl' / 'records500'}; name the folder with --data.")
    records = [str(header.with_suffix("")) for header in headers]
    for record in records:
        if not np.array_equal(read_record(record).signal, wfdb.rdsamp(record)[0].T.astype(np.float32), equal_nan=True):
            sys.exit(f"{record}: the two readers disagree.")

    readers: dict[str, Callable[[str], Any]] = {
        "wfdb.rdsamp": wfdb.rdsamp,
        "read_record": read_record,
        "read_record, no checksum": lambda record: read_record(record, verify_checksum=False),
        "read_digital": read_digital,
    }
    times = measure(readers, records, arguments.rounds)

    print(f"{len(records)} PTB-XL records, 12 leads, 500 Hz, {arguments.rounds} rounds; equal signals")
    print(f"wfdb {wfdb.__version__}, numpy {np.__version__}, Python {platform.python_version()}")
    print(f"{'reader':26}{'median ms':>11}{'ratio':>8}{'best of N ms':>14}{'ratio':>8}")
    medians = {name: statistics.median(chain.from_iterable(rounds)) * 1e3 for name, rounds in times.items()}
    bests = {name: statistics.median(map(min, rounds)) * 1e3 for name, rounds in times.items()}
    for name in readers:
        median_ratio = medians["wfdb.rdsamp"] / medians[name]
        best_ratio = bests["wfdb.rdsamp"] / bests[name]
        print(f"{name:26}{medians[name]:>11.3f}{median_ratio:>7.1f}x{bests[name]:>14.3f}{best_ratio:>7.1f}x")


if __name__ == "__main__":
    main()
