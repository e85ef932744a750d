"""Compressed tar archives: told by their first bytes, decompressed once into the scratch folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from hf_ecgtext.data.files.scratch import scratch_file, write_whole
from hf_ecgtext.errors import ArchiveError

Compression = Literal["zip", "gzip", "bzip2", "xz"]

_KINDS: dict[bytes, Compression] = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
_UNREADABLE = {
    b"PK\x07\x08": "a zip archive in several parts",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x9d": "compressed by compress",
    b"\x04\x22\x4d\x18": "compressed by LZ4",
}
_PIECE_BYTES = 1 << 20

# xz and bzip2 shrink zeros ten-thousandfold; recordings and tables less than twentyfold.
_MAX_RATIO = 200
_SMALL_BYTES = 1 << 30


def compression_of(path: Path) -> Compression | None:
    """What an archive is, by its first bytes; `None` for one that may be an uncompressed tar.

    Raises:
        ArchiveError: If it is of a kind that cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(512)
    for signature, problem in _UNREADABLE.items():
        if start.startswith(signature):
            raise ArchiveError(f"{path} is {problem}, which cannot be read. Unpack it and name the folder.")
    for signature, kind in _KINDS.items():
        if start.startswith(signature):
            return kind
    if start[257:262] != b"ustar" and (len(start) < 512 or any(start[500:])):  # the oldest tar has zeros there
        raise ArchiveError(f"{path} is neither a folder nor a zip or tar archive. Name the original download.")
    return None


def unpack_tar(path: Path, compression: Compression, scratch: Path | None) -> Path:
    """The tar inside a compressed one, as one file of the scratch folder, which is found again next time.

    Args:
        path (`Path`): The compressed archive.
        compression (`str`): What [`compression_of`] says.
        scratch (`Path`, *optional*): Folder.

    Raises:
        ValueError: If there is no scratch folder.
        ArchiveError: If the archive is damaged, or inflates beyond reason.
        OSError: If the disk is full.
    """
    if scratch is None:
        raise ValueError(
            f"{path} is compressed as a whole: it needs a scratch folder for the .tar inside. Unpack it and name the "
            "folder, or use `hf-ecgtext prepare`, which has one."
        )
    status = path.stat()
    name = f"{path.name.split('.')[0]}.tar"
    target = scratch_file(scratch, name, str(path.absolute()), status.st_size, status.st_mtime_ns)
    return write_whole(target, lambda: _decompressed(path, compression))


def _decompressed(path: Path, compression: Compression) -> Iterator[bytes]:
    opened = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[compression]
    written = 0
    with path.open("rb") as compressed:
        file: BinaryIO
        with opened(compressed, "rb") as file:  # type: ignore[operator]
            while True:
                try:
                    piece = file.read(_PIECE_BYTES)
                except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                    raise ArchiveError(f"{path} is damaged or incomplete ({error}). Download it again.") from error
                if not piece:
                    return
                written += len(piece)
                if written > _SMALL_BYTES and written > _MAX_RATIO * compressed.tell():
                    raise ArchiveError(
                        f"{path} is refused: it inflates to more than {_MAX_RATIO} times its size. No original "
                        "download does; get it again from the publisher."
                    )
                yield piece
