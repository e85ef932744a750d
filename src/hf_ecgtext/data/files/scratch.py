"""Files in the scratch folder: written whole or not at all, once for all processes, found again after a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


def scratch_file(scratch: Path, name: str, *key: object) -> Path:
    """Where the copy of something lies in the scratch folder.

    Args:
        scratch (`Path`): Folder; made where it is missing.
        name (`str`): A readable end for the file name; other characters than `A-Za-z0-9._-` are replaced.
        key: What identifies the content; other keys give other names.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return scratch / f"{digest}-{_NOT_IN_NAMES.sub('_', name)[-100:]}"


def write_whole(target: Path, pieces: Callable[[], Iterable[bytes]]) -> Path:
    """Write a file under another name and rename it when it is whole; a file that is there already stays.

    Args:
        target (`Path`): File.
        pieces (`Callable[[], Iterable[bytes]]`): Gives the content; called only where the file is missing.

    Raises:
        OSError: If the disk is full; the unfinished file is removed.
    """
    with locked(target):
        if target.exists():
            return target
        unfinished = part_of(target)
        try:
            with named_disk_errors(target), unfinished.open("wb") as file:
                for piece in pieces():
                    file.write(piece)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def part_of(target: Path) -> Path:
    """The name of a file while it is unfinished."""
    return target.with_name(f"{target.name}.part")


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes from making the same file; the lock of a killed process is free."""
    from filelock import FileLock

    with FileLock(f"{target}.lock"):
        yield


@contextmanager
def named_disk_errors(target: Path) -> Iterator[None]:
    """Say which folder is full where a write fails for want of room."""
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise OSError(
            error.errno,
            f"Cannot write '{target.name}': {error.strerror}. Free some room, or name another folder",
            str(target.parent),
        ) from error


def is_disk_error(error: OSError) -> bool:
    """Whether an error is of this machine's disk; asking a server again does not mend it."""
    return error.errno in _DISK_ERRORS


def check_room(target: Path, needed_bytes: int) -> None:
    """Refuse a file that does not fit, before hours are spent on it.

    Raises:
        OSError: If the disk of `target` has less room.
    """
    free_bytes = shutil.disk_usage(target.parent).free
    if needed_bytes > free_bytes:
        raise OSError(
            errno.ENOSPC,
            f"it needs {needed_bytes / 1e9:.2f} GB, of which {free_bytes / 1e9:.2f} GB are free",
        )
