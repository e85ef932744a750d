"""What a command costs before it does anything: CPU-seconds and memory of `--help`, of the import and of classify.

Classify asks a tiny model, which reads 100 Hz, about one recording of 10 s at 500 Hz.

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
import tempfile
from pathlib import Path

PROGRAMS = {
    "an empty Python": ["-c", ""],
    "hf-ecgtext --help": ["-m", "hf_ecgtext.cli", "--help"],
    "hf-ecgtext train --help": ["-m", "hf_ecgtext.cli", "train", "--help"],
    "import hf_ecgtext": ["-c", "import hf_ecgtext"],
    "hf-ecgtext classify": ["-m", "hf_ecgtext.cli", "classify", "RECORD", "--model", "MODEL", "--labels", "pacing"],
}
PREPARE = """
import sys
import tempfile
from pathlib import Path
from hf_ecgtext.methods import get_recipe
sys.path.insert(0, sys.argv[1])
from long_recordings import write_recording
folder = Path(sys.argv[2])
for part in get_recipe("merl", "debug").build(seed=0):
    part.save_pretrained(folder / "model")
write_recording(folder, 10)
"""
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
    with tempfile.TemporaryDirectory() as folder:
        cost(["-c", PREPARE, str(Path(__file__).parent), folder])
        # What the installed command imports, and what it is asked about.
        places = {"RECORD": f"{folder}/10s", "MODEL": f"{folder}/model"}
        places |= {"hf_ecgtext.cli": STARTS_AT_ONCE} if has_own_package else {}
        for title, words in PROGRAMS.items():
            found = [cost([places.get(word, word) for word in words]) for _ in range(rounds)]
            best, largest = min(seconds for seconds, _ in found), max(size for _, size in found)
            print(f"{title:24} {best:6.2f} CPU-s {largest:6.0f} MB")


if __name__ == "__main__":
    main()
