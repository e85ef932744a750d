"""Downloads as they come: zip and tar archives as trees, their members read in place and never unpacked by name.

An archive may come from anywhere, so it is judged as a whole when it is opened: names that leave the folder, links,
devices, names that occur twice and sizes that cannot be are refused, since no honest download has them.

fsspec's archives would not do: they judge nothing, and keep an object for each member in each worker process. For
200,000 members that is 416 MB and 2.9 CPU-seconds a worker, against 20 MB sent once and 0.03 s here.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_ecgtext.data.files.scratch import scratch_file, write_whole
from hf_ecgtext.data.files.tree import MAX_READ_BYTES, FileTree, checked_path, too_long
from hf_ecgtext.data.files.unpacking import compression_of, unpack_tar
from hf_ecgtext.errors import ArchiveError, RecordError

_PIECE_BYTES = 1 << 20
_TAR_BLOCK = 512
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, ..., lengths of its name and extra field
_METHOD_NAMES = {1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}

# Deflate cannot shrink to less than 1/1032, and real recordings, tables and even HDF5 files do not come near 1/200.
_MAX_RATIO = 200
_SMALL_BYTES = 64 << 20


def open_archive(path: Path, scratch: Path | None = None) -> FileTree:
    """The files in an archive; what kind it is, its first bytes tell.

    Args:
        path (`Path`): A `.zip` or `.tar` file, or a `.tar` compressed by gzip, bzip2 or xz.
        scratch (`Path`, *optional*): Folder for the `.tar` inside a compressed one, which is kept there.

    Raises:
        ArchiveError: If it is no such archive, is damaged, encrypted, or holds what no honest download holds.
        ValueError: If it must be unpacked and there is no scratch folder.
        OSError: If it cannot be read, or its content not be written to scratch.
    """
    compression = compression_of(path)
    if compression == "zip":
        return ZipTree(path)
    return TarTree(path if compression is None else unpack_tar(path, compression, scratch), str(path))


class MemberIndex:
    """Names of an archive's members with a few numbers for each; small to pickle, whatever the count.

    Args:
        members (`Mapping[str, tuple[int, ...]]`): Numbers by name.
    """

    def __init__(self, members: Mapping[str, tuple[int, ...]]):
        self.names = sorted(members)
        self.numbers = np.array([members[name] for name in self.names], dtype=np.int64)
        self._rows: dict[str, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"names": "\0".join(self.names), "numbers": self.numbers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.names = state["names"].split("\0") if state["names"] else []
        self.numbers = state["numbers"]
        self._rows = None

    def below(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted."""
        return self.names[bisect_left(self.names, prefix) : bisect_left(self.names, f"{prefix}\U0010ffff")]

    def find(self, name: str) -> tuple[int, ...] | None:
        """The numbers of a member, if there is one."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.names)}
        row = self._rows.get(name)
        return None if row is None else tuple(self.numbers[row].tolist())


class ArchiveTree(FileTree):
    """The members of one uncompressed archive file, or those below one of its folders.

    Args:
        archive (`Path`): File.
        location (`str`): What messages call it.
    """

    def __init__(self, archive: Path, location: str):
        super().__init__(location)
        self.archive = archive.absolute()
        self.folder = ""
        status = self.archive.stat()
        self._version = (status.st_size, status.st_mtime_ns)
        self._index = self._read_index()
        self._handle: _Handle | None = None

    @abstractmethod
    def _read_index(self) -> MemberIndex:
        """Judge the archive and find its members."""

    @abstractmethod
    def _pieces(self, numbers: tuple[int, ...]) -> Iterator[bytes]:
        """The content of a member, which adds up to its size or raises `OSError`."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def list_files(self, folder: str = "") -> list[str]:
        """See [`FileTree`]."""
        prefix = self.folder + (f"{checked_path(folder).rstrip('/')}/" if folder else "")
        return [name[len(self.folder) :] for name in self._index.below(prefix)]

    def exists(self, path: str) -> bool:
        """See [`FileTree`]."""
        return self._index.find(self.folder + checked_path(path)) is not None

    def read(self, path: str) -> bytes:
        """See [`FileTree`]."""
        pieces, total = [], 0
        for piece in self._checked_pieces(path):
            total += len(piece)
            if total > MAX_READ_BYTES:
                raise too_long(path)
            pieces.append(piece)
        return b"".join(pieces)

    def local_file(self, path: str, scratch: Path) -> Path:
        """See [`FileTree`]."""
        self._find(path)
        target = scratch_file(scratch, path.rpartition("/")[2], str(self.archive), *self._version, self.folder + path)
        return write_whole(target, lambda: self._checked_pieces(path))

    def at(self, folder: str) -> FileTree:
        """See [`FileTree`]."""
        below: ArchiveTree = object.__new__(type(self))
        below.__dict__.update(self.__dict__)
        below.folder = f"{self.folder}{checked_path(folder).rstrip('/')}/"
        below.location = f"{self.location}/{folder}"
        if not self._index.below(below.folder):
            raise FileNotFoundError(f"There is no folder '{folder}' in {self.location}.")
        return below

    def _find(self, path: str) -> tuple[int, ...]:
        numbers = self._index.find(self.folder + checked_path(path))
        if numbers is None:
            raise FileNotFoundError(f"There is no file '{path}' in {self.location}.")
        return numbers

    def _checked_pieces(self, path: str) -> Iterator[bytes]:
        numbers = self._find(path)
        try:
            yield from self._pieces(numbers)
        except _DamagedMemberError as error:
            raise OSError(f"'{path}' in {self.location} is damaged: {error}") from error

    def _read_at(self, start: int, size: int) -> bytes:
        if self._handle is None:
            self._handle = _Handle(self.archive, self._version)
        # pread has no position that processes after a fork, or threads, would move for each other.
        content = os.pread(self._handle.descriptor, size, start)
        if len(content) != size:
            raise _DamagedMemberError("the archive ends inside it")
        return content

    def _stored_pieces(self, start: int, size: int) -> Iterator[bytes]:
        for position in range(start, start + size, _PIECE_BYTES):
            yield self._read_at(position, min(_PIECE_BYTES, start + size - position))


class _DamagedMemberError(Exception):
    pass


class _Handle:
    """An open file of this process, closed with the tree."""

    def __init__(self, path: Path, version: tuple[int, int]):
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != version:
            raise OSError(f"'{path}' was replaced while it was in use. Start again.")

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class ZipTree(ArchiveTree):
    """A `.zip` file of this machine; see [`open_archive`].

    Args:
        archive (`Path`): File.
    """

    def __init__(self, archive: Path):
        super().__init__(archive, str(archive))

    def _read_index(self) -> MemberIndex:
        try:
            with zipfile.ZipFile(self.archive) as file:
                infos = file.infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError) as error:
            raise _damaged(self.location, error) from error
        members: dict[str, tuple[int, ...]] = {}
        for info in infos:
            name = _member_name(self.location, info.orig_filename)
            mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3: Unix
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise _hostile(self.location, name, "is a link or a device")
            if name.endswith("/"):
                continue
            if info.flag_bits & 0x1:
                raise ArchiveError(f"{self.location} is encrypted ('{name}'). Unpack it with its password first.")
            if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                method = _METHOD_NAMES.get(info.compress_type, f"method {info.compress_type}")
                raise ArchiveError(
                    f"{self.location} is compressed by {method} ('{name}'); only deflate can be read. Unpack it and "
                    "name the folder."
                )
            if name in members:
                raise _hostile(self.location, name, "occurs twice")
            stored = info.compress_type == zipfile.ZIP_STORED
            if info.file_size != info.compress_size if stored else _is_bomb(info.compress_size, info.file_size):
                raise _hostile(
                    self.location, name, f"claims {info.file_size} bytes, but takes {info.compress_size} in the archive"
                )
            members[name] = (info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)
        self._check_overlap(members)
        return MemberIndex(members)

    def _check_overlap(self, members: Mapping[str, tuple[int, ...]]) -> None:
        # Bombs of the overlapping kind make thousands of members out of the same bytes.
        end, before = 0, ""
        for name, (start, size, *_) in sorted(members.items(), key=lambda member: member[1][0]):
            if start < end:
                raise _hostile(self.location, name, f"overlaps '{before}'")
            end, before = start + _LOCAL_HEADER.size + size, name
        if end > self._version[0]:
            raise _damaged(self.location, f"it ends inside '{before}'")

    def _pieces(self, numbers: tuple[int, ...]) -> Iterator[bytes]:
        offset, stored_size, size, checksum, method = numbers
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(self._read_at(offset, _LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise _DamagedMemberError("it has no header")
        start = offset + _LOCAL_HEADER.size + name_length + extra_length
        pieces = self._stored_pieces(start, stored_size)
        found_size = found_checksum = 0
        for piece in pieces if method == zipfile.ZIP_STORED else _inflated(pieces):
            found_size += len(piece)
            if found_size > size:
                raise _DamagedMemberError(f"it holds more than the {size} bytes it claims")
            found_checksum = zlib.crc32(piece, found_checksum)
            yield piece
        if found_size != size or found_checksum != checksum:
            raise _DamagedMemberError("its checksum is wrong")


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            while piece and not inflater.eof:
                yield inflater.decompress(piece, _PIECE_BYTES)
                piece = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as error:
        raise _DamagedMemberError(str(error)) from error
    if not inflater.eof:
        raise _DamagedMemberError("its compressed data are incomplete")


class TarTree(ArchiveTree):
    """An uncompressed `.tar` file of this machine, indexed in one pass; see [`open_archive`].

    Args:
        archive (`Path`): File.
        location (`str`): What messages call it: the archive it was unpacked from.
    """

    def _read_index(self) -> MemberIndex:
        members: dict[str, tuple[int, ...]] = {}
        end = 0
        try:
            with tarfile.open(self.archive, "r:", encoding="utf-8") as file:
                for info in file:
                    file.members = []  # type: ignore[attr-defined] # tarfile keeps them all otherwise
                    name = _member_name(self.location, info.name)
                    if not (info.isreg() or info.isdir()) or info.issparse():
                        raise _hostile(self.location, name, "is a link, a device or another special file")
                    if info.isdir():
                        end = info.offset_data
                        continue
                    if name in members:
                        raise _hostile(self.location, name, "occurs twice")
                    end = info.offset_data + -(-info.size // _TAR_BLOCK) * _TAR_BLOCK
                    if info.size < 0 or end > self._version[0]:
                        raise _damaged(self.location, f"it ends inside '{name}'")
                    members[name] = (info.offset_data, info.size)
        except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, ArchiveError):
                raise
            raise _damaged(self.location, error) from error
        with self.archive.open("rb") as raw:  # tarfile takes a cut between members, or noise there, for the end
            raw.seek(end)
            if raw.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
                raise _damaged(self.location, "its end is missing")
        return MemberIndex(members)

    def _pieces(self, numbers: tuple[int, ...]) -> Iterator[bytes]:
        return self._stored_pieces(*numbers)


def _is_bomb(stored_size: int, size: int) -> bool:
    return size > _SMALL_BYTES and size > _MAX_RATIO * stored_size


def _member_name(location: str, name: str) -> str:
    """The name without `./`; a folder's keeps its `/`."""
    tidy = "/".join(part for part in name.split("/") if part not in {"", "."})
    try:
        checked_path(name if name not in {".", "./"} else "folder")
    except RecordError as error:
        raise _hostile(location, name, "leads out of the folder it would be unpacked to") from error
    return f"{tidy}/" if name.endswith("/") else tidy


def _hostile(location: str, name: str, problem: str) -> ArchiveError:
    return ArchiveError(
        f"{location} is refused: its member {name!r} {problem}. No original download has such members; get it again "
        "from the publisher."
    )


def _damaged(location: str, reason: object) -> ArchiveError:
    return ArchiveError(f"{location} is damaged or incomplete ({reason}). Download it again.")
