"""Recordings of 60 s, 30 min and 24 h through the pipeline: windows, CPU-seconds and peak memory of a process each.

    python benchmarks/long_recordings.py [--model FOLDER] [--seconds 60 1800 86400]

The recordings are synthetic, 12 leads at 500 Hz in WFDB's format 16, and are written block by block: 24 h are 1.04 GB
on disk, and would be 2.1 GB of float32 in memory. The baseline is a process that asks about 10 s; what the others need
beyond it is the price of their length.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RATE_HZ = 500
_GAIN_PER_MV = 1000
_BLOCK_S = 10

ASK = """
import sys, torch, hf_ecgtext
from transformers import pipeline
torch.set_num_threads(1)
answers = pipeline("zero-shot-ecg-classification", model=sys.argv[1])(
    sys.argv[2], candidate_labels=["atrial fibrillation", "sinus rhythm"], windows="each"
)
print("windows", len(answers), "from", answers[0]["start_s"], "to", answers[-1]["end_s"])
"""


def write_recording(folder: Path, seconds: int) -> Path:
    """A recording of any length, of which one block is in memory at a time; returns its path without extension."""
    from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

    records = list(SyntheticEcgGenerator(seed=0, sampling_rate_hz=float(RATE_HZ)).records(8))
    blocks = [np.rint(record.signal * _GAIN_PER_MV).astype(np.int16) for record in records]
    sums = np.zeros(len(blocks[0]), dtype=np.int64)
    name = f"{seconds}s"
    with (folder / f"{name}.dat").open("wb") as file:
        for index, start in enumerate(range(0, seconds, _BLOCK_S)):
            block = blocks[index % len(blocks)][:, : min(_BLOCK_S, seconds - start) * RATE_HZ]
            sums += block.sum(axis=1, dtype=np.int64)
            file.write(np.ascontiguousarray(block.T).tobytes())
    lines = [f"{name} {len(sums)} {RATE_HZ} {seconds * RATE_HZ}"]
    for lead, first, total in zip(records[0].lead_names, blocks[0][:, 0], sums, strict=True):
        lines.append(f"{name}.dat 16 {_GAIN_PER_MV}(0)/mV 16 0 {first} {total % 65536} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, ""]))
    return folder / name


def ask(model: str, recording: Path) -> tuple[str, float, float]:
    """What the process printed, its CPU-seconds and its peak memory in MB."""
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, model, str(recording)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"Asking about {recording} ended with exit code {process.returncode}.")
    return printed.strip(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print a line per recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a saved model (default: an untrained MERL of the debug recipe, at 100 Hz)")
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 1800, 86400])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            from hf_ecgtext.methods import get_recipe

            built, processor = get_recipe("merl", "debug").build(seed=0)
            built.save_pretrained(folder / "model")
            processor.save_pretrained(folder / "model")
            model = str(folder / "model")
        base_s = base_mb = 0.0
        for seconds in [_BLOCK_S, *arguments.seconds]:
            recording = write_recording(folder, seconds)
            printed, cpu_s, peak_mb = ask(model, recording)
            if seconds == _BLOCK_S:
                base_s, base_mb = cpu_s, peak_mb
            found = re.search(r"windows (\d+) from (\S+) to (\S+)", printed)
            assert found is not None, printed
            print(
                f"{seconds:6d} s: {found[1]:>5} windows from {found[2]} to {found[3]} s, {cpu_s:6.1f} CPU-s, "
                f"peak {peak_mb:5.0f} MB; {cpu_s / base_s:5.2f} and {peak_mb / base_mb:4.2f} times those of 10 s"
            )
            recording.with_suffix(".dat").unlink()


if __name__ == "__main__":
    main()
