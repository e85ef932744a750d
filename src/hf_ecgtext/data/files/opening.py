"""Opens what the user named as a tree of files: a folder, an archive, or an address."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ecgtext.data.files.tree import FileTree, LocalTree

if TYPE_CHECKING:
    from hf_ecgtext.data.files.remote import RemoteSettings

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def open_tree(source: str | Path, scratch: Path | None = None, *, remote: RemoteSettings | None = None) -> FileTree:
    """The files of a download.

    Args:
        source (`str` or `Path`): A folder; a `.zip` or `.tar` archive, compressed or not; or an address
            (`http://`, `https://`, `s3://`, `hf://`) of either.
        scratch (`Path`, *optional*): Folder for what must be copied or unpacked first: compressed `.tar` archives, and
            archives behind an address.
        remote ([`~hf_ecgtext.data.files.remote.RemoteSettings`], *optional*): Time limits and attempts for addresses.

    Raises:
        FileNotFoundError: If there is no such folder, archive or address.
        ArchiveError: If the archive is damaged, encrypted, or holds what no honest download holds.
        ImportError: If an address needs a package that is not installed.
        ValueError: If the source needs a scratch folder, or is an address of an unknown kind.
    """
    text = os.fspath(source)
    address = _ADDRESS.match(text)
    if address and address[1].lower() not in {"file", "local"}:
        from hf_ecgtext.data.files.remote import open_remote

        return open_remote(text, scratch, remote)
    folder = Path(text[address.end() :] if address else text)
    if folder.is_file():
        from hf_ecgtext.data.files.archives import open_archive

        return open_archive(folder, scratch)
    return LocalTree(folder)
