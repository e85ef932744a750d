"""Speed and memory of loading training batches, against the published way, in one run on the same records.

Each way delivers batches of `--batch-size` x 12 x 5000 float32 millivolts with their reports, in random order, on
the device that trains:

    published   one memory-mapped int16 array of all records; per record a division by 1000 to float64 and a row access
                in a pandas table of MIMIC-IV-ECG's columns; PyTorch's default collation; a cast to float32 before the
                transfer (what MERL's training loader does)
    streaming   `ParquetEcgDataset` in the order of `BlockOrder`, from Parquet of each `--compression`
    unverified  the same from uncompressed Parquet, mapped and without any check whether a shard is damaged or changed
    map-style   `EcgDataset` on a memory-mapped Arrow file, any record at any time

Ours pack int16 in the workers, with all checks of `EcgFeatureExtractor`'s defaults (names, missing samples, limb leads,
constant leads), and make float32 of it on the device. The ways take turns, epoch by epoch; each epoch is timed from the
first request to the last batch, and the first epoch of each, which starts the workers, does not count. All files are
read once before, so that they are in the page cache.

    OMP_NUM_THREADS=1 python benchmarks/loader.py                      # speed, float32 made on the CPU
    OMP_NUM_THREADS=1 python benchmarks/loader.py --device host        # what is left to the CPU where a GPU trains
    OMP_NUM_THREADS=1 python benchmarks/loader.py --memory             # 1,000 and 20,000 records, 1 and 10 epochs
    python benchmarks/loader.py --device cuda --workers 0 4 8 16       # with the transfer and the conversion on the GPU
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from datasets import Dataset as ArrowDataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from hf_ecgtext.data.prepare.card import open_writer
from hf_ecgtext.data.store.block_order import BlockOrder
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.data.store.manifest import MANIFEST_FILE, ROWS_PER_GROUP, Manifest, Shard
from hf_ecgtext.data.store.schema import ECG_FEATURES, EcgDataset, rows_to_table, samples_to_row
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.processing import EcgFeatureExtractor

NUM_SAMPLES, RATE_HZ, GAIN_PER_MV = 5000, 500.0, 1000.0
RECORDS_PER_SHARD = 4096
COMPRESSIONS = ("none", "lz4", "zstd")


def records_at(start: int, stop: int, models: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows `start` to `stop`: the model records, each turned in time, so that no two are the same."""
    rows = []
    for number in range(start, stop):
        model = models[number % len(models)]
        samples = np.roll(model.signal, 37 * (number // len(models)), axis=-1) * GAIN_PER_MV
        rows.append(
            samples_to_row(
                samples.round().astype(np.int16),
                np.full(12, GAIN_PER_MV),
                np.zeros(12, dtype=np.int32),
                record_id=f"r{number:06d}",
                patient_id=f"p{number:06d}",
                sampling_rate_hz=RATE_HZ,
                lead_names=STANDARD_LEADS,
                report=f"{model.report} Record {number}.",
                labels=[],
                attributes={},
            )
        )
    return rows


def write_records(folder: Path, num_records: int, forms: Sequence[str]) -> None:
    """The same records in each form: `"npy"`, `"arrow"`, and Parquet by name of the compression."""
    models = list(SyntheticEcgGenerator(seed=0, sampling_rate_hz=RATE_HZ).records(64))
    schema = ECG_FEATURES.arrow_schema
    folder.mkdir(parents=True, exist_ok=True)
    signals = None
    if "npy" in forms:
        signals = np.lib.format.open_memmap(
            folder / "signals.npy", mode="w+", dtype=np.int16, shape=(num_records, 12, NUM_SAMPLES)
        )
    reports: list[str] = []
    shards: dict[str, list[Shard]] = {form: [] for form in forms if form in COMPRESSIONS}
    arrow = pa.ipc.new_stream(str(folder / "records.arrow"), schema) if "arrow" in forms else None
    for first in range(0, num_records, RECORDS_PER_SHARD):
        last = min(first + RECORDS_PER_SHARD, num_records)
        names = {form: f"{form}/train-{len(shards[form]):05d}.parquet" for form in shards}
        for form in shards:
            (folder / form).mkdir(exist_ok=True)
        writers = {form: open_writer(folder / name, schema, form) for form, name in names.items()}
        for start in range(first, last, ROWS_PER_GROUP):
            rows = records_at(start, min(start + ROWS_PER_GROUP, last), models)
            table = rows_to_table(rows)
            reports.extend(row["report"] for row in rows)
            for writer in writers.values():
                writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            if arrow is not None:
                arrow.write_table(table)
            if signals is not None:
                signals[start : start + len(rows)] = np.stack([row["samples"] for row in rows])
        for form, writer in writers.items():
            writer.close()
            checksum = xxhash.xxh3_128_hexdigest((folder / names[form]).read_bytes())
            shards[form].append(Shard(names[form].split("/")[1], last - first, checksum))
    if arrow is not None:
        arrow.close()
    if signals is not None:
        signals.flush()
        table_like_mimic(reports).to_csv(folder / "train.csv", index=False)
    for form, entries in shards.items():
        manifest = Manifest("benchmark", "1", {}, "", "", form, {"train": entries}, (), {})
        (folder / form / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def table_like_mimic(reports: list[str]) -> pd.DataFrame:
    """The published table: the columns of MIMIC-IV-ECG's `machine_measurements.csv`, and the joined report."""
    numbers = np.arange(len(reports))
    columns: dict[str, Any] = dict.fromkeys(("subject_id", "study_id", "cart_id"), 10000000 + numbers)
    columns["ecg_time"] = "2180-07-23 08:44:00"
    columns["report_0"] = reports
    columns |= {f"report_{number}": [None] * len(reports) for number in range(1, 18)}
    columns |= {"bandwidth": "0.005-150 Hz", "filtering": "60 Hz notch Baseline filter"}
    intervals = ("rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis")
    columns |= dict.fromkeys(intervals, numbers % 700)
    return pd.DataFrame({**columns, "total_report": reports})


class PublishedDataset(Dataset):
    """One record at a time, in float64, with its report from a pandas table."""

    def __init__(self, folder: Path):
        self.signals = np.load(folder / "signals.npy", mmap_mode="r")
        self.table = pd.read_csv(folder / "train.csv", low_memory=False)

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float64], str]:
        return self.signals[index] / GAIN_PER_MV, self.table.iloc[index]["total_report"]


class UnverifiedDataset(ParquetEcgDataset):
    """As it was before shards were verified: mapped files, whatever is in them."""

    def _open(self, shard: int) -> tuple[pq.ParquetFile, None]:
        return pq.ParquetFile(self._path(shard), pre_buffer=False, memory_map=True), None


class Packed:
    """Collates rows of our datasets: packed integers and the reports."""

    def __init__(self) -> None:
        self.extractor = EcgFeatureExtractor()

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The packed batch."""
        records = [row["ecg"] for row in rows]
        return {**self.extractor.pack(records), "reports": [record.report for record in records]}


class Way:
    """One way of loading; `epoch` yields float32 tensors of shape `(batch, 12, 5000)` on the device."""

    def __init__(self, name: str, folder: Path, batch_size: int, num_workers: int, device: str):
        self.name, self.device = name, device
        options: dict[str, Any] = {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "pin_memory": device == "cuda",
        }
        self.order: Any
        if name == "published":
            dataset: Any = PublishedDataset(folder)
            self.order = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, drop_last=True)
            options |= {"sampler": self.order, "batch_size": batch_size, "collate_fn": default_collate}
        elif name == "map-style":
            dataset = EcgDataset(ArrowDataset.from_file(str(folder / "records.arrow")))
            self.order = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, drop_last=True)
            options |= {"sampler": self.order, "batch_size": batch_size, "collate_fn": Packed()}
        else:
            dataset = (
                UnverifiedDataset(folder / "none", "train")
                if name == "unverified"
                else ParquetEcgDataset(folder / name, "train")
            )
            self.order = BlockOrder(dataset.block_sizes, batch_size, num_workers=num_workers)
            options |= {"batch_sampler": self.order, "collate_fn": Packed()}
        if "batch_sampler" not in options:
            options["drop_last"] = True
        self.finish: Callable[[Any], Tensor] = self._cast if name == "published" else self._unpack
        self.extractor = EcgFeatureExtractor()
        self.loader = DataLoader(dataset, **options)

    def _cast(self, batch: Any) -> Tensor:
        values = batch[0].to(torch.float32)
        return values if self.device == "host" else values.to(self.device, non_blocking=True)

    def _unpack(self, batch: Any) -> Tensor:
        if self.device == "host":
            return batch["ecg_adc"]
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items() if name != "reports"}
        return self.extractor.unpack(moved)["ecg_values"]

    def epoch(self, number: int) -> Iterator[Tensor]:
        """The batches of one epoch."""
        self.order.set_epoch(number)
        for batch in self.loader:
            yield self.finish(batch)

    def epoch_s(self, number: int, clock: Callable[[], float]) -> tuple[float, int]:
        """Seconds of one epoch, and its records."""
        start, records = clock(), 0
        for values in self.epoch(number):
            records += len(values)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return clock() - start, records


def check_equal(folder: Path, names: Sequence[str], num_records: int) -> None:
    """Refuse to compare ways that deliver other numbers."""
    indices = np.random.default_rng(0).integers(num_records, size=16).tolist()
    published = PublishedDataset(folder)
    expected = default_collate([published[index] for index in indices])
    for name in names:
        dataset: Any = (
            EcgDataset(ArrowDataset.from_file(str(folder / "records.arrow")))
            if name == "map-style"
            else ParquetEcgDataset(folder / ("none" if name == "unverified" else name), "train")
        )
        packed = Packed()
        batch = packed(dataset.__getitems__(indices))
        if "ecg_float_rows" in batch or batch["reports"] != list(expected[1]):
            raise SystemExit(f"{name}: records were not packed, or have other reports.")
        if not torch.equal(packed.extractor.unpack(batch)["ecg_values"], expected[0].to(torch.float32)):
            raise SystemExit(f"{name}: other signals than the published way.")


def measure_speed(folder: Path, arguments: argparse.Namespace) -> None:
    """Print records per second of each way and the ratios."""
    ours = [*(form for form in COMPRESSIONS if form in arguments.compression), "map-style"]
    if "none" in arguments.compression:
        ours.insert(0, "unverified")
    write_records(folder, arguments.records, ["npy", "arrow", *arguments.compression])
    verified = verified_per_second(folder / arguments.compression[0])
    check_equal(folder, ours, arguments.records)
    size = {form: sum(file.stat().st_size for file in (folder / form).iterdir()) for form in arguments.compression}
    print(f"{arguments.records:,} records, batches of {arguments.batch_size} x 12 x {NUM_SAMPLES}, {arguments.device}")
    print("kB per record: ", ", ".join(f"{form} {size[form] / arguments.records / 1000:.0f}" for form in size))
    print(f"verified before they are first read: {verified:,.0f} records a second")
    for num_workers in arguments.workers:
        ways = [Way(name, folder, arguments.batch_size, num_workers, arguments.device) for name in ("published", *ours)]
        speeds: dict[str, list[float]] = {way.name: [] for way in ways}
        for number in range(arguments.rounds + 1):
            shift = number % len(ways)
            for way in ways[shift:] + ways[:shift]:
                seconds, records = way.epoch_s(number, time.process_time if arguments.cpu_time else time.perf_counter)
                if number:
                    speeds[way.name].append(records / seconds)
        best = {name: max(values) for name, values in speeds.items()}
        median = {name: statistics.median(values) for name, values in speeds.items()}
        print(f"\n{num_workers} workers, {arguments.rounds} rounds: records per second, ratio to the published way")
        print(f"{'':12}{'median':>10}{'ratio':>8}{'best':>10}{'ratio':>8}")
        for name in speeds:
            print(
                f"{name:12}{median[name]:>10,.0f}{median[name] / median['published']:>7.1f}x"
                f"{best[name]:>10,.0f}{best[name] / best['published']:>7.1f}x"
            )
        del ways


def verified_per_second(folder: Path) -> float:
    """Records whose checksums one core computes and compares; before anything else has opened them."""
    dataset = ParquetEcgDataset(folder, "train")
    start = time.process_time()
    dataset.verify()
    return len(dataset) / (time.process_time() - start)


def anonymous_bytes() -> int:
    """Memory that this process and its children hold for themselves or share among them: no page of a mapped file."""
    total = 0
    for process in [os.getpid(), *_children(os.getpid())]:
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += 1024 * int(line.split()[1])
    return total


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def probe_memory(folder: Path, name: str, epochs: int, num_workers: int, batch_size: int) -> None:
    """Print the peak of `anonymous_bytes` above what was there before the loader, looked at after every batch."""
    before = anonymous_bytes()
    way = Way(name, folder, batch_size, num_workers, "cpu")
    peak = 0
    for number in range(epochs):
        for _ in way.epoch(number):
            peak = max(peak, anonymous_bytes())
    print(peak - before)


def measure_memory(folder: Path, arguments: argparse.Namespace) -> None:
    """Print the peak of each way by number of records, epochs and workers; each in a process of its own."""
    print("Peak of anonymous and shared memory, all processes, above that before the loader, in MB")
    print(f"{'records':>8}{'epochs':>8}{'workers':>9}{'streaming':>11}{'map-style':>11}")
    for num_records in arguments.memory_records:
        part = folder / str(num_records)
        write_records(part, num_records, ["none", "arrow"])
        for num_workers in arguments.workers:
            for epochs in (1, 10):
                peaks = []
                for name in ("none", "map-style"):
                    options = ["--probe", name, str(part), str(epochs), str(num_workers), str(arguments.batch_size)]
                    output = subprocess.run(
                        [sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True
                    ).stdout
                    peaks.append(int(output) / 1e6)
                print(f"{num_records:>8,}{epochs:>8}{num_workers:>9}{peaks[0]:>11.0f}{peaks[1]:>11.0f}", flush=True)
        shutil.rmtree(part)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=4096, help="for the speed")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each way that count")
    parser.add_argument("--compression", nargs="+", choices=COMPRESSIONS, default=list(COMPRESSIONS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "host", "cuda"], help="host: up to the transfer")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU-seconds of this process, on a busy machine; --workers 0"
    )
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--memory-records", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--folder", type=Path, help="for the files (120 kB per record and form); a temporary one")
    parser.add_argument("--probe", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        name, folder, *numbers = arguments.probe
        probe_memory(Path(folder), name, *map(int, numbers))
        return
    if arguments.cpu_time and arguments.workers != [0]:
        parser.error("--cpu-time does not see the workers: --workers 0")
    print(f"torch {torch.__version__}, numpy {np.__version__}, pyarrow {pa.__version__}, Python", end=" ")
    print(f"{platform.python_version()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        (measure_memory if arguments.memory else measure_speed)(Path(folder), arguments)


if __name__ == "__main__":
    main()
