"""A small download laid out like PhysioNet's, and the same as archives."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from reading_fixtures import random_adc, write_record

TOP = "a-small-dataset-1.0.0"
NUM_RECORDS = 6


def write_download(folder: Path) -> Path:
    """Six WFDB records in two folders, a table, RECORDS and SHA256SUMS.txt."""
    names = []
    for number in range(NUM_RECORDS):
        inside = folder / "records100" / f"{number // 3:05d}"
        inside.mkdir(parents=True, exist_ok=True)
        write_record(inside, f"{number:05d}_lr", random_adc(seed=number))
        names.append(f"records100/{number // 3:05d}/{number:05d}_lr")
    (folder / "database.csv").write_text("id,name with space\n1,a\n")
    (folder / "a note #1 (100%).txt").write_text("names as people write them")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "RECORDS").write_text("\n".join(names) + "\n")
    sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()} {path}" for path, file in files_below(folder).items())
    (folder / "SHA256SUMS.txt").write_text("\n".join(sums) + "\n")
    return folder


def files_below(folder: Path) -> dict[str, Path]:
    """Files by path, found without the library."""
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


def zip_of(folder: Path, archive: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """As PhysioNet makes them: everything below one folder, which has an entry of its own."""
    with zipfile.ZipFile(archive, "w", method) as file:
        file.mkdir(TOP)
        for path, source in files_below(folder).items():
            file.write(source, f"{TOP}/{path}")
    return archive


def tar_of(folder: Path, archive: Path, mode: str = "w", names: Iterable[str] = (TOP,)) -> Path:
    with tarfile.open(archive, mode) as file:
        for name in names:
            file.add(folder, name)
    return archive
