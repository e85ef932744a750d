"""Whether the files of a prepared folder are the ones that `prepare` wrote: asked before a record of them is used.

A shard is read once as a whole and its checksum compared with that in `prepared.json`; afterwards, the state that the
file system reports (which file, size, times of its last change) must stay what it was. What was found is remembered by
that state: in this process, and as an empty file in the user's cache for the next ones.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

import xxhash
from huggingface_hub import constants

from hf_ecgtext.errors import ShardError

logger = logging.getLogger(__name__)

_READ_AT_ONCE = 2**20
_SETTLED_NS = 2 * 10**9
"""A file that was changed a moment ago may change again within one tick of the file system's clock, which is 2 s on
FAT: its state is not remembered yet. Git calls such entries racily clean."""

_verified: set[str] = set()


class FileState(NamedTuple):
    """What tells whether a file was written to, or another one put in its place. The kernel alone sets `changed_ns`."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: str) -> FileState:
        """The state of a file, of that which a link leads to.

        Raises:
            FileNotFoundError: If there is none.
            ShardError: If it is no regular file: a pipe would make us wait, a device need not end.
        """
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ShardError(f"'{path}' is no file")
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def verified_state(path: str, xxh3_128: str) -> FileState:
    """The state of a file whose content has a checksum.

    Args:
        path (`str`): Absolute.
        xxh3_128 (`str`): 32 hexadecimal digits.

    Raises:
        FileNotFoundError: If there is no such file.
        ShardError: If the content has another checksum, or changes while it is read; without the advice.
    """
    state = FileState.of(path)
    key = hashlib.sha256(repr((path, xxh3_128, *state)).encode()).hexdigest()
    if key in _verified:
        return state
    marker = memory_folder() / key
    if not marker.exists():
        found = _checksum(path)
        if FileState.of(path) != state:
            raise ShardError("it was changed while it was read")
        if found != xxh3_128:
            raise ShardError(f"its checksum is {found}, and that in prepared.json {xxh3_128}")
        if time.time_ns() - max(state.modified_ns, state.changed_ns) < _SETTLED_NS:
            return state
        _remember(marker)
    _verified.add(key)
    return state


def memory_folder() -> Path:
    """Where it is remembered which files were verified; removing it makes every shard be verified again."""
    return Path(constants.HF_HOME) / "hf_ecgtext" / "verified"


def _remember(marker: Path) -> None:
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:  # a home that is full or read-only: the next process verifies anew, and nothing is lost
        logger.debug("'%s' cannot be written: %s", marker, error)


def _checksum(path: str) -> str:
    content = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ_AT_ONCE))
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(buffer):
            content.update(buffer[:length])
    return content.hexdigest()
