"""Files below one root: what a source needs to know of the folder, archive or address that holds a download.

A source reads files by their path in the download and never asks where they come from. Paths are relative, with `/`,
and never leave the root: a table or an archive may come from anywhere.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from hf_ecgtext.errors import RecordError
from hf_ecgtext.io import READ_ONLY

MAX_READ_BYTES = 1 << 31
"""Of one file read into memory: 24 hours of twelve leads at 1 kHz have 2.07 GB, the largest table 0.4 GB."""

_MAX_ROOT_DEPTH = 5  # `wget -r` nests physionet.org/files/ptb-xl/1.0.3/


def too_long(name: str, limit: int = MAX_READ_BYTES) -> OSError:
    """The error for a file that is not read into memory."""
    return OSError(f"'{name}' has more than {limit / 1e9:.2f} GB, the most that is read of one file")


class FileTree(ABC):
    """Files below one root. Trees can be pickled; worker processes open their own.

    Args:
        location (`str`): What messages call the tree: the folder, archive or address.
    """

    def __init__(self, location: str):
        self.location = location

    @abstractmethod
    def list_files(self, folder: str = "") -> list[str]:
        """Paths of all files below a folder of the tree, relative to the root, sorted."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            FileNotFoundError: If there is no such file.
            OSError: If it cannot be read, after as many attempts as the tree makes.
        """

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes | OSError]:
        """The contents of several files, or the error of each that cannot be read; trees far away ask all at once."""
        contents: dict[str, bytes | OSError] = {}
        for path in paths:
            try:
                contents[path] = self.read(path)
            except OSError as error:
                contents[path] = error
            except RecordError as error:  # one hostile path in a table costs one record, not all that are read with it
                contents[path] = OSError(error.problem)
        return contents

    @abstractmethod
    def local_file(self, path: str, scratch: Path) -> Path:
        """A file of this machine with the content of `path`, for readers that need one (such as HDF5).

        Args:
            path (`str`): Path in the tree.
            scratch (`Path`): Folder for a copy where the tree is no folder.

        Raises:
            FileNotFoundError: If there is no such file.
        """

    @abstractmethod
    def at(self, folder: str) -> FileTree:
        """The part of the tree below a folder, as a tree of its own."""

    def folders(self, depth: int) -> list[str]:
        """Paths of the folders `depth` levels below the root that lead to files, sorted."""
        parents = (path.split("/")[:-1] for path in self.list_files())
        return sorted({"/".join(parts[:depth]) for parts in parents if len(parts) >= depth})


class LocalTree(FileTree):
    """A folder of this machine."""

    def __init__(self, folder: str | Path):
        super().__init__(str(folder))
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no folder '{folder}'. Name the folder of the original download.")
        self._top = f"{self.folder}{os.sep}"

    def list_files(self, folder: str = "") -> list[str]:
        """See [`FileTree`]."""
        top = self._path(folder) if folder else self.folder
        found: list[str] = []
        for parent, folders, names in os.walk(top, followlinks=True):
            # A link to a folder it lies in would be followed for ever; another is part of the download, as in `read`.
            folders[:] = [name for name in folders if not _leads_back(parent, name)]
            prefix = Path(parent).relative_to(self.folder).as_posix()
            found.extend(name if prefix == "." else f"{prefix}/{name}" for name in names)
        return sorted(found)

    def exists(self, path: str) -> bool:
        """See [`FileTree`]."""
        return self._path(path).is_file()

    def read(self, path: str) -> bytes:
        """See [`FileTree`]."""
        # os.open and os.read take half the time of Path.read_bytes, and recordings are two small files each.
        file = f"{self._top}{checked_path(path)}"
        descriptor = os.open(file, READ_ONLY)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"'{file}' is no regular file")
            if status.st_size > MAX_READ_BYTES:
                raise too_long(file)
            content = os.read(descriptor, status.st_size)
            if len(content) == status.st_size:
                return content
            pieces = [content]  # Linux gives at most 2 GiB at once
            while piece := os.read(descriptor, 1 << 30):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            os.close(descriptor)

    def local_file(self, path: str, scratch: Path) -> Path:
        """See [`FileTree`]."""
        file = self._path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no file '{path}' in {self.location}.")
        return file

    def at(self, folder: str) -> FileTree:
        """See [`FileTree`]."""
        return LocalTree(self._path(folder))

    def folders(self, depth: int) -> list[str]:
        """See [`FileTree`]; folders without files count too, so that no folder is read deeper than asked."""
        found = [""]
        for _ in range(depth):
            found = [
                f"{parent}/{entry.name}" if parent else entry.name
                for parent in found
                for entry in os.scandir(self.folder / parent)
                if entry.is_dir()
            ]
        return sorted(found)

    def _path(self, path: str) -> Path:
        return self.folder / checked_path(path)


def _leads_back(parent: str, name: str) -> bool:
    """Whether a folder is a link to one of those that were passed on the way to it, or to one above them."""
    link = Path(parent, name)
    if not link.is_symlink():
        return False
    target = link.resolve()
    passed = (folder.resolve() for folder in link.parents)  # a link on the way may have led elsewhere
    return any(target == folder or target in folder.parents for folder in passed)


def checked_path(path: str) -> str:
    """The path, if it stays below the root it is relative to.

    Raises:
        RecordError: If it is absolute, goes up, or holds a character that no download uses.
    """
    # Substrings first: paths are checked once per file read.
    if "\\" in path or "\0" in path or ".." in path or ":" in path or path.startswith("/") or path in {"", "."}:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
            raise RecordError(path, "its path would leave the download's folder.", "Correct the table that names it.")
    return path


def find_root(tree: FileTree, markers: Sequence[str]) -> FileTree:
    """The folder of a tree that holds the original download: the tree itself, or the one folder below that does.

    Archives of PhysioNet have everything in one folder, and copies made by `wget -r` in one named after the server.

    Args:
        tree ([`FileTree`]): Where to look.
        markers (`Sequence[str]`): Files by which the folder is known, such as `"ptbxl_database.csv"`; one is enough.

    Raises:
        FileNotFoundError: If no folder holds one of them.
        ValueError: If several folders of the same depth do.
    """
    names = " or ".join(f"'{marker}'" for marker in markers)
    if any(tree.exists(marker) for marker in markers):
        return tree
    for depth in range(1, _MAX_ROOT_DEPTH + 1):
        folders = [folder for folder in tree.folders(depth) if "__MACOSX" not in folder.split("/")]
        found = [folder for folder in folders if any(tree.exists(f"{folder}/{marker}") for marker in markers)]
        if len(found) > 1:
            raise ValueError(
                f"{tree.location} holds {names} in several folders ({', '.join(found[:3])}). Name one of them."
            )
        if found:
            return tree.at(found[0])
    raise FileNotFoundError(
        f"There is no {names} in {tree.location}, nor in a folder below it. Name the folder, archive or address of the "
        "original download."
    )
