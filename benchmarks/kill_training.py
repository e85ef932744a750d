"""Kills trainings at the worst moments, resumes them, and compares the weights with those of an undisturbed run.

    python benchmarks/kill_training.py                # about ten minutes on two quiet CPU cores
    python benchmarks/kill_training.py --only damaged full-disk --seed 7

Each row is a kind of accident, how often it was caused, and in how many cases the resumed run ended with the same
weights to the bit. `moments` and `saving` send SIGKILL at random moments and while a checkpoint is written; `finished`
kills behind the last step, before or while the whole run is saved; `damaged` harms a file of the newest checkpoint;
`full-disk` trains on a small tmpfs (root only) until it is full, then makes room; `rank` kills one of two processes;
`second` starts another training into the same folder. Exit code 1 if any case ended otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS, SAVE_STEPS = 48, 4
TRAIN = [
    "train.py", "--method", "etp", "--recipe", "debug", "--no-zero-shot", "--data-set", "num_records=400",
    "--set", f"training.max_steps={STEPS}", "training.save_strategy=steps", f"training.save_steps={SAVE_STEPS}",
    "training.save_total_limit=3", "training.disable_tqdm=true",
]  # fmt: skip


class Runs:
    """Starts trainings, and waits for what they leave on disk."""

    def __init__(self, work: Path, seed: int):
        self.work = work
        self.random = random.Random(seed)
        self.environment = {
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        self.expected: dict[int, str] = {}

    def start(self, folder: Path, resume: bool = False, processes: int = 1) -> subprocess.Popen[str]:
        """A training in the background."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        batch = f"training.per_device_train_batch_size={16 // processes}"
        command = [sys.executable, *(launcher if processes > 1 else []), *TRAIN, batch, "--output-dir", str(folder)]
        return subprocess.Popen(
            [*command, *(["--resume"] if resume else [])],
            cwd=REPOSITORY, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def finish(self, folder: Path, resume: bool = True, processes: int = 1) -> str:
        """Train to the end; what was printed."""
        printed, _ = (process := self.start(folder, resume, processes)).communicate(timeout=900)
        if process.returncode:
            raise RuntimeError(f"The training in '{folder}' failed:\n{printed[-3000:]}")
        return printed

    def undisturbed(self, processes: int = 1) -> str:
        """The digest of the weights that every run should end with."""
        if processes not in self.expected:
            folder = self.work / f"undisturbed-{processes}"
            self.finish(folder, resume=False, processes=processes)
            self.expected[processes] = digest(folder)
        return self.expected[processes]

    def is_right(self, folder: Path, processes: int = 1) -> bool:
        """Resume, from the beginning where there is no checkpoint yet, and compare."""
        states = [*folder.glob("checkpoint-*/trainer_state.json"), *folder.glob("trainer_state.json")]
        self.finish(folder, resume=bool(states), processes=processes)
        return digest(folder) == self.undisturbed(processes)

    def copy_of_undisturbed(self, name: str) -> Path:
        """A finished run of one process, to harm."""
        self.undisturbed()
        return Path(shutil.copytree(self.work / "undisturbed-1", self.work / name))


def digest(folder: Path) -> str:
    """Of the weights that a run ended with."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def kill(process: subprocess.Popen[str]) -> None:
    """The process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> bool:
    """Whether a file or folder appeared before the training ended."""
    while process.poll() is None:
        if path.exists():
            return True
        time.sleep(0.001)
    return False


def moments(runs: Runs) -> Iterator[tuple[str, bool]]:
    """SIGKILL at random moments behind the first checkpoint, several in a row for some runs."""
    for number in range(5):
        folder = runs.work / f"moments-{number}"
        process = runs.start(folder)
        wait_for(folder / f"checkpoint-{SAVE_STEPS}", process)
        time.sleep(runs.random.uniform(0, 3))
        kill(process)
        yield f"killed at {newest(folder)}", runs.is_right(folder)


def saving(runs: Runs) -> Iterator[tuple[str, bool]]:
    """SIGKILL while a checkpoint is being written."""
    for number in range(5):
        folder = runs.work / f"saving-{number}"
        target = folder / f"checkpoint-{SAVE_STEPS * runs.random.randint(2, STEPS // SAVE_STEPS)}"
        process = runs.start(folder)
        wait_for(target, process)
        time.sleep(runs.random.uniform(0, 0.02))
        kill(process)
        state = "complete" if (target / "trainer_state.json").is_file() else "incomplete"
        yield f"killed in {target.name} ({state})", runs.is_right(folder)


def finished(runs: Runs) -> Iterator[tuple[str, bool]]:
    """SIGKILL behind the last step: before the run is saved as a whole, and while it is."""
    for number in range(4):
        folder = runs.work / f"finished-{number}"
        process = runs.start(folder)
        first = folder / f"checkpoint-{STEPS}" / "trainer_state.json" if number < 2 else folder / "config.json"
        wait_for(first, process)
        time.sleep(runs.random.uniform(0, 0.02))
        kill(process)
        left = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file() and file.suffix != ".lock"))
        printed = runs.finish(folder, resume=True)
        trained = "Trained" in printed and not newest(folder).endswith(f"-{STEPS}")
        yield f"left: {left or 'nothing'}", digest(folder) == runs.undisturbed() and not trained


def damaged(runs: Runs) -> Iterator[tuple[str, bool]]:
    """A harmed file in the newest checkpoint of a run that was not saved as a whole."""
    files = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "trainer_state.json"]
    for name in files:
        for harm in (cut, flip):
            if harm is flip and name.endswith(".json"):
                continue  # a flipped letter of a text need not be damage
            folder = runs.copy_of_undisturbed(f"damaged-{harm.__name__}-{name}")
            for file in ("model.safetensors", "trainer_state.json"):
                (folder / file).unlink()
            harm(folder / f"checkpoint-{STEPS}" / name, runs.random)
            printed = runs.finish(folder)
            told = name in printed or name == "trainer_state.json"  # without it the checkpoint counts as unfinished
            yield f"{name} {harm.__name__}", told and digest(folder) == runs.undisturbed()


def full_disk(runs: Runs) -> Iterator[tuple[str, bool]]:
    """A disk that fills while a checkpoint is written, and has room again."""
    for number in range(3):
        with small_disk(runs.work / f"disk-{number}") as disk:
            if disk is None:
                yield "skipped: only root may mount a tmpfs", True
                return
            folder = disk / "run"
            process = runs.start(folder)
            wait_for(folder / f"checkpoint-{SAVE_STEPS}" / "trainer_state.json", process)
            filler = disk / "filler"
            with filler.open("wb") as file:
                room = shutil.disk_usage(disk).free - runs.random.randint(0, 3_000_000)
                file.write(bytes(max(room, 0)))
            printed, _ = process.communicate(timeout=900)
            filler.unlink()
            told = process.returncode == 1 and "There is no room to save" in printed and "Traceback" not in printed
            yield "exit code 1 and a message" if told else printed[-300:], told and runs.is_right(folder)


def rank(runs: Runs) -> Iterator[tuple[str, bool]]:
    """SIGKILL of the second of two processes; the launcher ends the first."""
    for number in range(3):
        folder = runs.work / f"rank-{number}"
        process = runs.start(folder, processes=2)
        wait_for(folder / f"checkpoint-{SAVE_STEPS}" / "trainer_state.json", process)
        time.sleep(runs.random.uniform(0, 2))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if process.poll() is None and children:
            os.kill(int(children[-1]), signal.SIGKILL)
        process.communicate(timeout=900)
        yield f"killed at {newest(folder)}", process.returncode != 0 and runs.is_right(folder, processes=2)


def second(runs: Runs) -> Iterator[tuple[str, bool]]:
    """Another training into the folder of a running one."""
    folder = runs.work / "second"
    process = runs.start(folder)
    wait_for(folder / f"checkpoint-{SAVE_STEPS}" / "trainer_state.json", process)
    process.send_signal(signal.SIGSTOP)
    refused, _ = (other := runs.start(folder, resume=True)).communicate(timeout=900)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=900)
    told = other.returncode == 1 and "Another training is writing into" in refused
    yield "the second was refused" if told else refused[-300:], told and digest(folder) == runs.undisturbed()


def newest(folder: Path) -> str:
    """The newest complete checkpoint."""
    steps = [int(entry.parent.name.partition("-")[2]) for entry in folder.glob("checkpoint-*/trainer_state.json")]
    return f"checkpoint-{max(steps)}" if steps else "no checkpoint"


def cut(file: Path, draw: random.Random) -> None:
    """Cut a file off somewhere."""
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def flip(file: Path, draw: random.Random) -> None:
    """Flip a bit of the data, which is the middle of the file."""
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content) // 3, len(content) // 2)] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A tmpfs of 24 MB; `None` for those who may not mount."""
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place]).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


KINDS = {
    "moments": moments, "saving": saving, "finished": finished, "damaged": damaged, "full-disk": full_disk,
    "rank": rank, "second": second,
}  # fmt: skip


def main() -> int:
    """Cause the accidents and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        runs = Runs(Path(work), arguments.seed)
        for kind in arguments.only:
            cases = []
            for title, is_right in KINDS[kind](runs):
                cases.append(is_right)
                print(f"{kind}: {title}: {'same weights' if is_right else 'WRONG'}", flush=True)
            rows.append((kind, len(cases), sum(cases)))
    print("\n| accident | cases | ended as if nothing had happened |\n|---|---:|---:|")
    for kind, number, right in rows:
        print(f"| {kind} | {number} | {right} |")
    return int(any(right < number for _, number, right in rows))


if __name__ == "__main__":
    sys.exit(main())
