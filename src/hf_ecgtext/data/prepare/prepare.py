"""From an original download to a prepared folder: sharded Parquet, a dataset card, and what was skipped and why.

All unfinished work lies in `<out>/.work`. A shard counts once its note is there, and the folder once `prepared.json`
is there, which is written last; a run that ends at any moment before is continued by the next one, and what comes out
does not depend on how often that happened, nor on the number of processes.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from hf_ecgtext.data.prepare.equal_recordings import (
    EQUAL_RECORDINGS_FILE,
    HEADER,
    count_equal_recordings,
    equal_recordings_note,
    find_equal_recordings,
)
from hf_ecgtext.data.prepare.plan import SPLITS, Plan, check_resumable, check_same, make_plan, sync_folder
from hf_ecgtext.data.prepare.shard_pool import write_shards
from hf_ecgtext.data.prepare.shard_writer import ShardJob, ShardNote, write_whole
from hf_ecgtext.data.prepare.summary import label_columns_of, prepared_card, summarize_split
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.store.manifest import MANIFEST_FILE, SKIPPED_FILE, Manifest, Shard, is_prepared, read_manifest
from hf_ecgtext.errors import PreparationError

LEFT_OUT_FILE = "left_out.csv"

_WORK_FOLDER = ".work"
_RECORDS_WORTH_A_PROCESS = 20_000
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(
    source: EcgSource,
    out: str | Path,
    *,
    workers: int | None = None,
    records_per_shard: int = 2048,
    compression: str = "none",
    order: str = "mixed",
    progress: bool = True,
) -> Manifest:
    """Write a source as a prepared folder, or finish what an earlier run began.

    Args:
        source ([`~hf_ecgtext.data.sources.base.EcgSource`]): The original download.
        out (`str` or `Path`): New or empty folder, or one that an earlier run with the same settings left unfinished.
            Nothing is written outside.
        workers (`int`, *optional*): Processes; by default one for every 20,000 records, and at most one per core: a
            process takes as long to start as to write that many. The result does not depend on it.
        records_per_shard (`int`, defaults to 2048): Rounded up to whole row groups. A faulty record leaves its shard
            one smaller.
        compression (`str`, defaults to `"none"`): `"none"` is read at the speed of memory; `"lz4"` and `"zstd"` take
            half the space, for the Hub.
        order (`str`, defaults to `"mixed"`): Train records by a hash of their ids, so that neighbours are of different
            patients; `"source"` leaves them in the order of the tables, as in the other splits.
        progress (`bool`, defaults to `True`): Show a bar on standard error.

    Returns:
        [`~hf_ecgtext.data.store.manifest.Manifest`]: What `prepared.json` says. A folder that was finished
        before is left as it is.

    Raises:
        PreparationError: If the folder holds something else, another process is writing it, no record can be used, or
            the work stopped because of the disk, the network or a dead worker; what is finished is kept.
        ValueError: If a setting is out of its range, or the tables are not what they must be.
        FileNotFoundError: If the download lacks a table.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be positive, not {workers}.")
    out = Path(out)
    check_output(out)
    work = out / _WORK_FOLDER
    with _only_process(out, work):
        plan = make_plan(source, records_per_shard=records_per_shard, compression=compression, order=order)
        if is_prepared(out):
            manifest = read_manifest(out)
            check_same(_settings_of(manifest), plan.settings, out)
            return manifest
        saved = Plan.saved_settings(work)
        if saved is None:
            with _explained(plan, out):
                plan.save(work)
        else:
            check_resumable(saved, plan.settings, out)
        shards = work / "shards"
        shards.mkdir(exist_ok=True)
        for unfinished in work.rglob("*.part"):
            unfinished.unlink()
        _write_missing(source, plan, out, workers, progress)
        with _explained(plan, out):
            return _finish(source, plan, out)


def check_output(out: Path) -> None:
    """Refuse a folder that holds anything but a prepared dataset or the beginning of one.

    Raises:
        PreparationError: If it is no folder, or holds other files.
    """
    if out.exists() and not out.is_dir():
        raise PreparationError(f"'{out}' is a file. Name a folder.")
    if out.is_dir() and not is_prepared(out) and not (out / _WORK_FOLDER).is_dir() and (names := sorted(out.iterdir())):
        raise PreparationError(
            f"'{out}' holds other files, such as '{names[0].name}'. Choose another folder, or remove it."
        )


def scratch_folder(out: Path) -> Path:
    """Where a source may put what it copies or unpacks; removed with all other unfinished work."""
    return out / _WORK_FOLDER / "scratch"


@contextmanager
def _only_process(out: Path, work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise PreparationError(
            f"another process is preparing '{out}'. Wait for it, or choose another --output-dir."
        ) from error
    try:
        yield
    finally:
        # Removed while it is locked: who comes next finds the finished folder.
        if is_prepared(out):
            shutil.rmtree(work)
        lock.release()


def _settings_of(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "source_options": manifest.source_options,
        "fingerprint": manifest.fingerprint,
        "compression": manifest.compression,
        "records_per_shard": manifest.summary["records_per_shard"],
        "order": manifest.summary["order"],
    }


def _write_missing(source: EcgSource, plan: Plan, out: Path, workers: int | None, progress: bool) -> None:
    shards = out / _WORK_FOLDER / "shards"
    missing = [job for job in plan.jobs if not (shards / f"{job.name}.json").is_file()]
    total = sum(job.stop - job.start for job in plan.jobs)
    to_do = sum(job.stop - job.start for job in missing)
    arguments = (source, Plan.index_file(out / _WORK_FOLDER), shards, plan.settings["compression"])
    with (
        _explained(plan, out),
        tqdm(
            total=total, initial=total - to_do, desc=source.name, unit=" records", disable=not progress, smoothing=0.05
        ) as bar,
    ):
        write_shards(arguments, missing, workers or _default_workers(to_do), bar.update)


def _default_workers(num_records: int) -> int:
    return max(1, min(os.cpu_count() or 1, num_records // _RECORDS_WORTH_A_PROCESS))


@contextmanager
def _explained(plan: Plan, out: Path) -> Iterator[None]:
    """Say what is kept, and what to do, where the work stops for a reason outside the data."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"stopped; {_kept(plan, out)}") from error
    except PreparationError as error:
        raise PreparationError(f"{str(error).rstrip('.')}. Run the same command again; {_kept(plan, out)}") from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise PreparationError(
                f"disk full while writing '{out}': free space and run the same command again; {_kept(plan, out)} "
                f"({error})"
            ) from error
        raise


def _kept(plan: Plan, out: Path) -> str:
    kept = sum((out / _WORK_FOLDER / "shards" / f"{job.name}.json").is_file() for job in plan.jobs)
    return f"{kept} of {len(plan.jobs)} shards are kept."


def _finish(source: EcgSource, plan: Plan, out: Path) -> Manifest:
    """Everything after the last shard; each step leaves alone what an earlier run of it has done."""
    shards = out / _WORK_FOLDER / "shards"
    notes = {job.name: ShardNote.read(shards / f"{job.name}.json") for job in plan.jobs}
    skipped = sorted(entry for note in notes.values() for entry in note.skipped)
    splits = {
        split: _publish([job for job in plan.jobs if job.split == split and notes[job.name].records], notes, out)
        for split in SPLITS
    }
    splits = {split: published for split, published in splits.items() if published}
    if not splits:
        _, record, problem, _ = skipped[0]
        raise PreparationError(
            f"not one of {len(skipped):,} records can be used; the first, '{record}': {problem} Correct that and "
            f"remove '{out}'"
        )
    columns = label_columns_of(source)
    written = {
        split: [notes[job.name] for job in plan.jobs if job.split == split and notes[job.name].records]
        for split in splits
    }
    equal = find_equal_recordings(
        (
            (split, out / shard.file, note.digests)
            for split, published in splits.items()
            for shard, note in zip(published, written[split], strict=True)
        ),
        columns,
    )
    about_equal = [equal_recordings_note(equal)] if equal else []
    if uncompared := sum(not note.digests for of_split in written.values() for note in of_split):
        about_equal.append(f"{uncompared:,} shards of an earlier version were not searched for equal recordings.")
    summary = {
        "splits": {
            split: summarize_split([out / shard.file for shard in of_split], columns)
            for split, of_split in splits.items()
        },
        "left_out": len(plan.index.left_out),
        "skipped": len(skipped),
        "equal_recordings": count_equal_recordings(equal),
        "notes": [*plan.index.notes, *about_equal],
        "records_per_shard": plan.settings["records_per_shard"],
        "order": plan.settings["order"],
    }
    manifest = Manifest(
        name=source.name,
        version=source.version,
        source_options=plan.settings["source_options"],
        fingerprint=plan.settings["fingerprint"],
        library_version=plan.settings["library_version"],
        compression=plan.settings["compression"],
        splits=splits,
        tasks=source.tasks(),
        summary=summary,
    )
    files = {SKIPPED_FILE: _csv(("record", "problem", "fix"), (entry[1:] for entry in skipped))}
    if plan.index.left_out:
        left_out = ((record, problem) for record, problem, _ in plan.index.left_out)
        files[LEFT_OUT_FILE] = _csv(("record", "reason"), left_out)
    if equal:
        files[EQUAL_RECORDINGS_FILE] = _csv(HEADER, (recording.csv_row() for recording in equal))
    files["README.md"] = prepared_card(source, summary)
    files[MANIFEST_FILE] = manifest.to_json()  # the last
    for name, text in files.items():
        write_whole(out / name, text, out / _WORK_FOLDER)
        sync_folder(out)
    return manifest


def _publish(jobs: Sequence[ShardJob], notes: dict[str, ShardNote], out: Path) -> list[Shard]:
    """Move the shards of one split to their final names."""
    folder = out / "data"
    folder.mkdir(exist_ok=True)
    published = []
    for number, job in enumerate(jobs):
        note = notes[job.name]
        file = folder / f"{job.split}-{number:05d}-of-{len(jobs):05d}.parquet"
        written = out / _WORK_FOLDER / "shards" / f"{job.name}.parquet"
        if written.is_file():
            written.rename(file)
        if not file.is_file() or file.stat().st_size != note.num_bytes:
            raise PreparationError(f"'{file}' was changed or removed. Remove '{out}'")
        published.append(Shard(file.relative_to(out).as_posix(), note.records, note.xxh3_128))
    sync_folder(folder)
    return published


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
