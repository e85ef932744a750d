"""Malformed recordings, flipped bits, kills and full disks: what the library answers, counted.

    python benchmarks/fuzz.py                                       # all of it, about ten CPU-minutes
    python benchmarks/fuzz.py --recordings 500 --flips 0 --kills 0 --no-disk

Nothing is downloaded. Recordings are made up (WFDB with `.dat` in several formats and with `.mat`, CPSC2018's `.mat`),
and those of `../shared/data` serve beside them where that folder exists. Every case has a number; the same number is
the same case in every run, and `--first` begins at another one.

A case ends well where the library gives what the files say, or an error of its own. What must not happen is counted:

    crash     the process ends: a signal, or out of memory (4 GB)
    hang      a recording takes more than 10 s
    foreign   an exception that is no `EcgTextError` (in commands: a traceback)
    silent    other numbers or texts than were stored, without an error
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.data.store.manifest import read_manifest
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.data.wfdb.reading import read_record
from hf_ecgtext.errors import EcgTextError
from hf_ecgtext.processing import EcgFeatureExtractor

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("HF_ECGTEXT_DATA", ROOT.parent / "shared" / "data"))
MEMORY_BYTES = 4 * 2**30
SECONDS_PER_RECORDING = 10.0
BAD = ("crash", "hang", "foreign", "silent")

ODD_FIELDS = [
    *("0", "-1", "1", "2", "12", "13", "100000", "2147483648", "4294967297", "9" * 30, "1e-300", "1e308", "nan", "inf"),
    *(
        "-0",
        "0x10",
        "1e9",
        "500/250(3)",
        "r1/3",
        "../r1",
        "/etc/passwd",
        "~",
        "",
        " ",
        "\t",
        "\0",
        "\r\n",
        "#",
        "é",
        "µV",
    ),
    *("16", "16x2", "16:3", "16+24", "16+99999999", "80", "212", "310", "311", "61", "8", "24", "32", "160", "999"),
    *("0(0)/mV", "1e-9(0)/mV", "1e300/mV", "200(-2147483648)/mV", "nan/mV", "200(0)/furlong", "I", "I", "V6", "MLII"),
    *("99:99:99", "31/02/1999", "01/01/0000", "0:0:0.999999999"),
]


class Hang(BaseException):
    """A recording took too long."""


def write_originals(folder: Path) -> list[Path]:
    """One recording of each kind; the paths without extension."""
    record = next(iter(SyntheticEcgGenerator(seed=5, sampling_rate_hz=500.0).records(1)))
    adc = np.clip(np.round(record.signal[:, :1000] * 1000), -32000, 32000).astype(np.int16)
    names = list(record.lead_names)
    comments = "# Age: 50\n# Sex: Female\n# Dx: 426783006,164889003\n"
    found = []

    def header(name: str, file: str, storage: str, samples: Any) -> None:
        lines = [f"{name} {len(samples)} 500 {samples.shape[1]} 12:30:00 1/2/2003"]
        for lead, row in zip(names, samples, strict=False):
            checksum = int(row.astype(np.int64).sum()) & 0xFFFF
            lines.append(
                f"{file} {storage} 1000.0(0)/mV 16 0 {int(row[0])} {checksum - (checksum >> 15 << 16)} 0 {lead}"
            )
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n" + comments, encoding="utf-8")
        found.append(folder / name)

    (folder / "dat16.dat").write_bytes(adc.T.astype("<i2").tobytes())
    header("dat16", "dat16.dat", "16", adc)
    scipy.io.savemat(folder / "mat16.mat", {"val": adc}, format="4")
    header("mat16", "mat16.mat", "16+24", adc)
    (folder / "dat32.dat").write_bytes(adc.T.astype("<i4").tobytes())
    header("dat32", "dat32.dat", "32", adc)
    (folder / "dat80.dat").write_bytes((adc[:3] // 256 + 128).astype(np.uint8).T.tobytes())
    header("dat80", "dat80.dat", "80", adc[:3] // 256)
    ecg = {"sex": "Female", "age": 50, "data": record.signal[:, :1000].astype(np.float64)}
    for name, compressed in (("cpsc", False), ("cpsc_packed", True)):
        scipy.io.savemat(folder / f"{name}.mat", {"ECG": ecg}, do_compression=compressed)
        found.append(folder / name)
    return found


def real_records(limit: int = 12) -> list[Path]:
    """Some recordings of `REAL_DATA`, without extension."""
    headers = sorted(REAL_DATA.rglob("*.hea")) if REAL_DATA.is_dir() else []
    small = [
        path for path in headers if sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) < 500_000
    ]
    step = max(1, len(small) // limit)
    return [path.with_suffix("") for path in small[::step][:limit]]


def mutated_header(text: bytes, rng: random.Random) -> bytes:
    """A header with one to four changes."""
    content = text
    for _ in range(rng.choice((1, 1, 2, 4))):
        lines = content.decode("utf-8", "surrogateescape").split("\n")
        row = rng.randrange(len(lines))
        kind = rng.choice(
            ("field", "field", "field", "drop field", "bit", "cut", "drop line", "twice", "swap", "insert")
        )
        fields = lines[row].split(" ")
        place = rng.randrange(len(fields))
        if kind == "field":
            fields[place] = rng.choice(ODD_FIELDS)
        elif kind == "drop field":
            del fields[place]
        lines[row] = " ".join(fields)
        if kind == "drop line":
            del lines[row]
        elif kind == "twice":
            lines.insert(row, lines[row])
        elif kind == "swap":
            other = rng.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
        content = "\n".join(lines).encode("utf-8", "surrogateescape")
        if kind in ("bit", "cut", "insert"):
            content = mutated_bytes(content, rng, kinds=("bit", "cut", "insert"))
    return content


def mutated_bytes(content: bytes, rng: random.Random, kinds: tuple[str, ...] = ()) -> bytes:
    """Bytes with one change; changes of the beginning, where `.mat` files have their headers, are frequent."""
    kind = rng.choice(kinds or ("bit", "bit", "byte", "cut", "insert", "zeros", "noise", "number", "empty"))
    whole = max(1, len(content))
    place = rng.randrange(whole if rng.random() < 0.5 else min(whole, 400))
    if kind == "bit" and content:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "cut":
        return content[:place]
    if kind == "empty":
        return b""
    length = rng.choice((1, 2, 4, 8, 64))
    new = {
        "byte": bytes([rng.randrange(256)]),
        "zeros": bytes(length),
        "number": rng.choice((2**31 - 1, 2**31, 2**32 - 1, 0, 10**9)).to_bytes(4, rng.choice(("little", "big"))),
    }.get(kind, rng.randbytes(length))
    return content[:place] + new + content[place + (0 if kind == "insert" else len(new)) :]


def fuzz_recordings(
    first: int, last: int, folder: Path, report: Callable[[int], object] = lambda number: None
) -> Counter:
    """Read the malformed recordings of some numbers.

    Args:
        first, last (`int`): Numbers of the cases.
        folder (`Path`): For the files.
        report (`Callable[[int], object]`): Called with each number before its recording is read.

    Returns:
        `Counter`: How they ended; foreign exceptions also by their text.
    """
    originals = folder / "originals"
    originals.mkdir(parents=True, exist_ok=True)
    paths = [*write_originals(originals), *real_records()]
    expected = {path: read_record(path) for path in paths}
    extractor = EcgFeatureExtractor()
    ends: Counter = Counter()
    for number in range(first, last):
        report(number)
        rng = random.Random(f"recording {number}")
        path = paths[rng.randrange(6)] if len(paths) == 6 or rng.random() < 0.7 else rng.choice(paths[6:])
        end = _read_case(path, expected[path], extractor, folder, rng)
        ends[end.split(":")[0]] += 1
        if end.startswith(BAD):
            ends[f"  recording {number} ({path.name}): {end}"] += 1
    return ends


def _read_case(
    path: Path, original: EcgRecord, extractor: EcgFeatureExtractor, folder: Path, rng: random.Random
) -> str:
    header = path.with_suffix(".hea")
    files = [file for file in (path.with_suffix(".dat"), path.with_suffix(".mat")) if file.is_file()]
    place = Path(tempfile.mkdtemp(dir=folder))
    changes_header = header.is_file() and rng.random() < 0.6
    if header.is_file():
        text = header.read_bytes()
        (place / header.name).write_bytes(mutated_header(text, rng) if changes_header else text)
    for file in files:
        content = file.read_bytes()
        changed = content if changes_header and rng.random() < 0.8 else mutated_bytes(content, rng)
        (place / file.name).write_bytes(changed)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_RECORDING)
    try:
        record = read_record(place / path.name)
        if record.signal.shape[1] <= 200_000:
            extractor(record)
    except Hang:
        return "hang"
    except EcgTextError:
        return "refused"
    except MemoryError as error:
        return f"crash: {error!r}"
    except Exception as error:
        return f"foreign: {type(error).__name__}: {str(error)[:150]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        shutil.rmtree(place)
    if np.isinf(record.signal).any() or not 0 < record.sampling_rate_hz < np.inf:
        return f"silent: {record.sampling_rate_hz} Hz, finite: {bool(np.isfinite(record.signal).all())}"
    same = np.array_equal(record.signal, original.signal, equal_nan=True)
    # Only WFDB headers have checksums of the samples, of their lower 16 bits; the fields of a header have none.
    if header.is_file() and path.name != "dat32" and not changes_header and not same:
        return "silent: other samples"
    return "read, the same" if same else "read, as the files say"


def prepared_folders(folder: Path) -> dict[str, Path]:
    """A small prepared dataset of each compression."""
    from make_mimic import write_mimic_tree  # type: ignore[import-not-found]  # of tests/data

    write_mimic_tree(folder / "tree", 150, num_samples=400)
    for compression in ("none", "lz4", "zstd"):
        source = open_source("mimic_iv_ecg", folder / "tree")
        prepare(source, folder / compression, workers=1, records_per_shard=64, compression=compression, progress=False)
    return {compression: folder / compression for compression in ("none", "lz4", "zstd")}


def everything(place: str) -> list[Any]:
    """All that a prepared folder or address says of its records."""
    found = []
    for split in read_manifest(place.removeprefix("file://")).splits:
        dataset = ParquetEcgDataset(place, split)
        for row in dataset.__getitems__(range(len(dataset))):
            ecg = row["ecg"]
            text = (ecg.record_id, ecg.patient_id, ecg.report, ecg.labels, ecg.lead_names, ecg.sampling_rate_hz)
            found.append(
                (*text, repr(ecg.attributes), ecg.gain_per_mv.tobytes(), ecg.baseline.tobytes(), ecg.signal.tobytes())
            )
    return found


def fuzz_shards(first: int, last: int, folder: Path, report: Callable[[int], object] = lambda number: None) -> Counter:
    """Flip a bit, or cut a shard that is open, and read everything; each number with every compression and way."""
    ends: Counter = Counter()
    for compression, place in prepared_folders(folder).items():
        shards = sorted((place / "data").iterdir())
        expected = everything(str(place))
        for number in range(first, last):
            report(number)
            rng = random.Random(f"flip {number}")
            shard = rng.choice(shards)
            content = shard.read_bytes()
            changed = bytearray(content)
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            shard.write_bytes(changed)
            for way, address in (("folder", str(place)), ("address", f"file://{place}")):
                end = _outcome(partial(everything, address), expected)
                ends[f"{compression}, {way}: {end.split(':')[0]}"] += 1
                if end.startswith(BAD):
                    ends[f"  flip {number}, {compression}, {way}: {end}"] += 1
            shard.write_bytes(content)
            end = _cut_while_open(place, shard, rng)
            ends[f"{compression}, cut while open: {end.split(':')[0]}"] += 1
            if end.startswith(BAD):
                ends[f"  cut {number}, {compression}: {end}"] += 1
            shard.write_bytes(content)
    return ends


def _cut_while_open(place: Path, shard: Path, rng: random.Random) -> str:
    dataset = ParquetEcgDataset(place, shard.name.split("-")[0], cache_records=1)
    # The last row group stays in memory, verified: a split of one row group needs the file no more.
    before = [row["ecg"].signal for row in dataset.__getitems__(range(len(dataset)))]
    os.truncate(shard, rng.randrange(shard.stat().st_size))
    return _outcome(lambda: [row["ecg"].signal for row in dataset.__getitems__(range(len(dataset)))], before)


def _outcome(read: Callable[[], list[Any]], expected: list[Any]) -> str:
    try:
        found = read()
        same = len(found) == len(expected) and all(map(_equal, found, expected))
        return "the same" if same else "silent"
    except EcgTextError:
        return "named"
    except Exception as error:
        return f"foreign: {type(error).__name__}: {str(error)[:150]}"


def _equal(one: Any, other: Any) -> bool:
    return np.array_equal(one, other, equal_nan=True) if isinstance(one, np.ndarray) else one == other


def in_children(section: str, count: int, first: int, per_child: int) -> Counter:
    """Cases in child processes with bounded memory; one that dies is a crash, and the next goes on behind it."""
    ends: Counter = Counter()
    number, last = first, first + count
    while number < last:
        stop = min(number + per_child, last)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            notes = Path(folder) / "notes"
            command = [sys.executable, __file__, "--child", section, str(number), str(stop), folder]
            child = subprocess.run(command, capture_output=True, text=True, check=False)
            if child.returncode == 0:
                ends.update(json.loads(child.stdout.splitlines()[-1]))
                number = stop
                continue
            died_at = int(notes.read_text() or number) if notes.is_file() else number
            told = child.stderr.strip().splitlines()[-1:] or [""]
            ends["crash"] += 1
            ends[f"  {section} {died_at}: crash: exit code {child.returncode}: {told[0][:150]}"] += 1
            print(f"(cases {number} to {died_at - 1} are not counted)")
            number = died_at + 1
    return ends


def child(section: str, first: str, last: str, folder: str) -> None:
    """One child process: print the counts as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    notes = os.open(Path(folder) / "notes", os.O_WRONLY | os.O_CREAT)
    run = {"recordings": fuzz_recordings, "flips": fuzz_shards}[section]
    ends = run(int(first), int(last), Path(folder), lambda number: os.pwrite(notes, f"{number:<12}".encode(), 0))
    print(json.dumps(ends))


def fuzz_kills(kills: int) -> Counter:
    """Kill `prepare` at random moments, and compare what the runs after it write with an undisturbed run."""
    script = ROOT / "tests" / "data" / "kill_prepare.py"
    command = [sys.executable, str(script), "--kills", str(kills), "--workers", "2"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    print(run.stdout, end="")
    if run.returncode:
        return Counter({"silent": 1, f"  kills: silent: {run.stderr.strip().splitlines()[-1][:200]}": 1})
    return Counter({"killed, then byte-identical": kills})


@contextmanager
def small_disk(folder: Path, num_kilobytes: int) -> Iterator[Callable[[list[str]], subprocess.CompletedProcess[str]]]:
    """A way to run commands that find no more room than this in the folder.

    A file system of this size where root may mount one; elsewhere, no file may grow larger.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_kilobytes}k", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode == 0
    limit = num_kilobytes * 1024

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        bound = None if is_mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, preexec_fn=bound
        )

    try:
        yield run
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def fuzz_disk() -> Counter:
    """`prepare`, `evaluate` and `report` on disks that are too small for what they write."""
    from make_mimic import write_mimic_tree

    from hf_ecgtext.methods import get_recipe

    program = [sys.executable, "-m", "hf_ecgtext.cli"]
    data = ["--data", "synthetic", "--data-set", "num_records=200", "sampling_rate_hz=100.0"]
    ends: Counter = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-disk-") as name:
        folder = Path(name)
        write_mimic_tree(folder / "tree", 600, num_samples=500)
        model, processor = get_recipe("merl", "debug").build(seed=0)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        evaluate = [*program, "evaluate", "--model", str(folder / "model"), *data, "--resamples", "20"]
        lines = str(ROOT / "results" / "quickstart.jsonl.gz")
        commands = {
            "prepare": ([*program, "prepare", "mimic_iv_ecg", "--source", str(folder / "tree")], (100, 900, 2500)),
            "evaluate": ([*evaluate, "--baselines", "random", "--random-encoders", "1"], (4, 24, 60)),
            "report": ([*program, "report", lines, "--latex"], (4, 40, 150)),
        }
        for number, (title, (command, sizes)) in enumerate(commands.items()):
            for num_kilobytes in sizes:
                disk = folder / f"disk-{number}-{num_kilobytes}"
                with small_disk(disk, num_kilobytes) as run:
                    ended = run([*command, "--output-dir", str(disk / "out")])
                told = ended.stdout.strip().splitlines()
                full = [line for line in told if "There is no room" in line or "disk full" in line]
                is_named = ended.returncode == 1 and any(str(disk) in line for line in full)
                if ended.returncode < 0:
                    end = f"crash: signal {-ended.returncode}"
                elif "Traceback" in ended.stdout:
                    end = f"foreign: {told[-1][:150]}"
                elif is_named:
                    end = "named"
                else:
                    end = f"silent: exit code {ended.returncode}: {' '.join(told[-1:])[:150]}"
                ends[f"{title}: {end.split(':')[0]}"] += 1
                if end.startswith(BAD):
                    ends[f"  {title}, {num_kilobytes} kB: {end}"] += 1
    return ends


def main() -> int:
    """Print the tables.

    Returns:
        `int`: 1 if anything happened that must not.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument(
        "--flips", type=int, default=80, help="of each compression: from the folder, from an address, cuts"
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--disk", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first recording and flip")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "data"))
    if arguments.child:
        child(*arguments.child)
        return 0
    print(
        f"Python {platform.python_version()}, {platform.system()}; {len(real_records())} real recordings beside made-up"
    )
    bad = 0
    for title, count, run in (
        ("malformed recordings", arguments.recordings, lambda n: in_children("recordings", n, arguments.first, 2500)),
        ("shards", arguments.flips, lambda n: in_children("flips", n, arguments.first, n)),
        ("kills of prepare", arguments.kills, fuzz_kills),
        ("full disks", int(arguments.disk), lambda _: fuzz_disk()),
    ):
        if not count:
            continue
        ends = run(count)
        counts = {name: number for name, number in ends.items() if not name.startswith("  ")}
        worst = {name: sum(n for end, n in counts.items() if end.split(": ")[-1] == name) for name in BAD}
        print(f"\n{title}: {sum(counts.values()):,} cases; " + ", ".join(f"{name} {n}" for name, n in worst.items()))
        for name in sorted(counts):
            print(f"  {name:40}{counts[name]:>8,}")
        for name in sorted(ends.keys() - counts.keys())[:40]:
            print(name)
        sys.stdout.flush()
        bad += sum(worst.values())
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
