"""Files that are there whole or not at all, and a stable hash of JSON values."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags for `os.open`, which takes half the time of `open`; a named pipe without writer does not make us wait."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota that is used up, a file that may grow no further."""


class NoRoomError(OSError):
    """A full disk: what could not be written, and how to go on. No `EcgTextError`: nothing else can be done either."""


def hash_of_json(value: Any) -> str:
    """The SHA-256 of JSON values, whatever the order of their keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def full_disk_named(path: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """A full disk under its name, while something is written; safetensors and PyTorch wrap it in errors of their own.

    Args:
        path (`str` or `os.PathLike`): What is written, for the message.
        advice (`str`): What is kept, and how to go on.

    Raises:
        NoRoomError: If there is no room; any other error stays what it is.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        text = str(error)
        is_full = getattr(error, "errno", None) in NO_ROOM or any(f"(os error {number})" in text for number in NO_ROOM)
        # PyTorch does not say why it could not write, in two different wordings.
        if not is_full and any(words in text for words in ("PytorchStreamWriter failed", "inline_container")):
            statistics = os.statvfs(_existing(Path(path)))
            is_full = statistics.f_bavail * statistics.f_frsize < 1 << 20
        if not is_full or isinstance(error, NoRoomError):  # which was named where it happened
            raise
        raise NoRoomError(errno.ENOSPC, f"There is no room to save this. {advice}", os.fspath(path)) from error


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.absolute().parent)


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside the wanted one, which takes its place if everything goes well and vanishes otherwise.

    Args:
        path (`str` or `os.PathLike`): The wanted file; its folder is made if absent.

    Raises:
        NoRoomError: If the disk is full; the message names the file.
    """
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    with full_disk_named(target, "Make room, then run the same command again"):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
