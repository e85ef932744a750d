"""A folder with archives in it as one tree: some downloads come as several archives beside a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from hf_ecgtext.data.files.tree import FileTree, checked_path

_Result = TypeVar("_Result")


class JoinedTree(FileTree):
    """The files of a tree, and below the name of each of its archives the files in that archive.

    Args:
        base ([`FileTree`]): With the archives.
        archives (`Mapping[str, FileTree]`): Path of an archive in `base` -> its content.
    """

    def __init__(self, base: FileTree, archives: Mapping[str, FileTree]):
        super().__init__(base.location)
        self.base = base
        self.archives = dict(archives)

    def list_files(self, folder: str = "") -> list[str]:
        """See [`FileTree`]."""
        inside = [f"{name}/{path}" for name, tree in self.archives.items() for path in tree.list_files()]
        below = f"{checked_path(folder).rstrip('/')}/" if folder else ""
        of_base = [path for path in self.base.list_files() if path not in self.archives]
        return sorted(path for path in [*of_base, *inside] if path.startswith(below))

    def exists(self, path: str) -> bool:
        """See [`FileTree`]."""
        return self._in(path, lambda tree, rest: tree.exists(rest))

    def read(self, path: str) -> bytes:
        """See [`FileTree`]."""
        return self._in(path, lambda tree, rest: tree.read(rest))

    def local_file(self, path: str, scratch: Path) -> Path:
        """See [`FileTree`]."""
        return self._in(path, lambda tree, rest: tree.local_file(rest, scratch))

    def at(self, folder: str) -> FileTree:
        """See [`FileTree`]."""
        below = f"{checked_path(folder).rstrip('/')}/"
        inner = {name.removeprefix(below): tree for name, tree in self.archives.items() if name.startswith(below)}
        return JoinedTree(self.base.at(folder), inner) if inner else self._in(folder, lambda tree, rest: tree.at(rest))

    def _in(self, path: str, ask: Callable[[FileTree, str], _Result]) -> _Result:
        for name, tree in self.archives.items():
            if path.startswith(f"{name}/"):
                return ask(tree, path[len(name) + 1 :])
        return ask(self.base, path)
