"""How much a command costs before it does anything: CPU-seconds and memory of `hf-ecgtext --help` and of the import.

    python benchmarks/startup.py [--rounds 3]

Each line is the least CPU time of some rounds and the peak memory, beside those of an empty Python. CPU time, and not
time on the clock, which depends on what else the machine does. To measure another version of the library, run the
script with its `src` in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = {
    "an empty Python": ["-c", ""],
    "hf-ecgtext --help": ["-m", "hf_ecgtext.cli", "--help"],
    "hf-ecgtext train --help": ["-m", "hf_ecgtext.cli", "train", "--help"],
    "import hf_ecgtext": ["-c", "import hf_ecgtext"],
}
STARTS_AT_ONCE = "hf_ecgtext_cli"


def cost(words: list[str]) -> tuple[float, float]:
    """CPU-seconds and peak memory in MB of a Python with these arguments."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(words)} ended with exit code {process.returncode}.")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print a line per program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    library = importlib.util.find_spec("hf_ecgtext")  # which finds it and does not import it
    if library is None or library.origin is None:
        raise SystemExit("The package hf_ecgtext is not installed.")
    has_own_package = Path(library.origin).parents[1].joinpath(STARTS_AT_ONCE).is_dir()
    for title, words in PROGRAMS.items():
        # What the installed command imports.
        words = [STARTS_AT_ONCE if has_own_package and word == "hf_ecgtext.cli" else word for word in words]
        found = [cost(words) for _ in range(rounds)]
        print(f"{title:24} {min(seconds for seconds, _ in found):6.2f} CPU-s {max(size for _, size in found):6.0f} MB")


if __name__ == "__main__":
    main()
