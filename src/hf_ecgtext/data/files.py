"""Where original downloads lie: one view of a folder, an archive or an address, as files below one root.

A source reads files by their path in the download and never asks where they come from. Paths are relative, with `/`,
and never leave the root: a table or an archive may come from anywhere.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hf_ecgtext.errors import RecordError


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


class LocalTree(FileTree):
    """A folder of this machine."""

    def __init__(self, folder: str | Path):
        super().__init__(str(folder))
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no folder '{folder}'. Name the folder of the original download.")

    def list_files(self, folder: str = "") -> list[str]:
        """See [`FileTree`]."""
        top = self._path(folder) if folder else self.folder
        found: list[str] = []
        for parent, folders, names in os.walk(top):
            folders.sort()
            prefix = Path(parent).relative_to(self.folder).as_posix()
            found.extend(name if prefix == "." else f"{prefix}/{name}" for name in names)
        return sorted(found)

    def exists(self, path: str) -> bool:
        """See [`FileTree`]."""
        return self._path(path).is_file()

    def read(self, path: str) -> bytes:
        """See [`FileTree`]."""
        return self._path(path).read_bytes()

    def local_file(self, path: str, scratch: Path) -> Path:
        """See [`FileTree`]."""
        file = self._path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no file '{path}' in {self.location}.")
        return file

    def at(self, folder: str) -> FileTree:
        """See [`FileTree`]."""
        return LocalTree(self._path(folder))

    def _path(self, path: str) -> Path:
        return self.folder / checked_path(path)


def checked_path(path: str) -> str:
    """The path, if it stays below the root it is relative to.

    Raises:
        RecordError: If it is absolute, goes up, or holds a character that no download uses.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        raise RecordError(path, "its path would leave the download's folder.", "Correct the table that names it.")
    return path


def open_tree(source: str | Path, scratch: Path | None = None) -> FileTree:
    """The files of a download.

    Args:
        source (`str` or `Path`): A folder.
        scratch (`Path`, *optional*): Folder for what must be copied or unpacked first.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    return LocalTree(source)
