"""Downloads that stay where they are: the files below an address as a tree, read many at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from hf_ecgtext.data.files.remote_access import RemoteAccess, RemoteSettings, redacted
from hf_ecgtext.data.files.scratch import scratch_file
from hf_ecgtext.data.files.tree import FileTree, checked_path
from hf_ecgtext.errors import RecordError

__all__ = ["RemoteSettings", "RemoteTree", "open_remote"]

CHECKSUMS_FILE = "SHA256SUMS.txt"
RECORDS_FILE = "RECORDS"

_MAX_DEPTH = 20
"""Of folders in folders: a server that answers every address with the same list would be followed for ever."""

_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4|Z)|7z|rar)$", re.IGNORECASE)
_PHYSIONET_ARCHIVE = re.compile(r"/get-zip/")  # physionet.org/content/ptb-xl/get-zip/1.0.3/ leads to a .zip
_CHECKSUM_LINE = re.compile(r"[0-9a-fA-F]{64} [ *](.+)|[0-9a-fA-F]{64} (.+)")


def open_remote(address: str, scratch: Path | None = None, settings: RemoteSettings | None = None) -> FileTree:
    """The files below an address, or in the archive at an address.

    Archives are downloaded whole first, since thousands of small reads within one take longer than all of it. The
    download continues where it was interrupted, and a finished one is found again.

    Args:
        address (`str`): Such as `https://physionet.org/files/ptb-xl/1.0.3/`.
        scratch (`Path`, *optional*): Folder for archives.
        settings ([`RemoteSettings`], *optional*): Time limits and attempts.

    Raises:
        ImportError: If the protocol needs a package that is not installed.
        ValueError: If the protocol is unknown, or an archive needs a scratch folder.
        FileNotFoundError: If there is no such archive.
        OSError: If it cannot be read, in as many attempts as the settings allow.
        ArchiveError: If the archive is damaged, or holds what no honest download holds.
    """
    if "::" in address:
        raise ValueError(f"'{redacted(address)}' joins several addresses by '::'. Name the archive's own address.")
    access = RemoteAccess(address, settings or RemoteSettings())
    path = urlsplit(address).path
    if not _ARCHIVE.search(path) and not _PHYSIONET_ARCHIVE.search(path):
        return RemoteTree(address, access)
    if scratch is None:
        raise ValueError(
            f"{redacted(address)} is an archive, which must be downloaded first: it needs a scratch folder. "
            "Download it and name the file, or use `hf-ecgtext prepare`, which has one."
        )
    from hf_ecgtext.data.files.archives import open_archive

    target = scratch_file(scratch, path.rstrip("/").rpartition("/")[2], address)
    return open_archive(access.download(address, target, progress=True), scratch)


class RemoteTree(FileTree):
    """The files below an address.

    Args:
        address (`str`): Of the folder.
        access ([`~hf_ecgtext.data.files.remote_access.RemoteAccess`]): Reads addresses of its server.
    """

    def __init__(self, address: str, access: RemoteAccess):
        super().__init__(redacted(address))
        self._root = address
        self._access = access
        self._folder = ""
        self._listed: _Listed = _Listed()

    def list_files(self, folder: str = "") -> list[str]:
        """Paths of all files below a folder, sorted.

        From `SHA256SUMS.txt` at the root, which PhysioNet has. Else from `RECORDS` in the folder, which names records
        but not their signal files: only the headers are listed. Else from the server's own lists.

        Raises:
            FileNotFoundError: If the server says nowhere which files there are.
            OSError: If a list cannot be read.
        """
        inside = self._folder + (f"{checked_path(folder).rstrip('/')}/" if folder else "")
        everything = self._from_checksums()
        if everything is None:
            found = self._listed.below.get(inside)
            if found is None:
                found = self._listed.below[inside] = self._from_records(inside) or self._from_lists(inside)
        else:
            found = [path for path in everything if path.startswith(inside)]
        return [path[len(self._folder) :] for path in found]

    def exists(self, path: str) -> bool:
        """See [`FileTree`].

        Raises:
            OSError: If the server does not say.
        """
        [there] = self._access.find_all([self._address(self._folder + checked_path(path))]).values()
        if isinstance(there, OSError):
            raise there
        return there

    def read(self, path: str) -> bytes:
        """See [`FileTree`]."""
        [content] = self._read_all([self._folder + checked_path(path)]).values()
        if isinstance(content, OSError):
            raise content
        return content

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes | OSError]:
        """See [`FileTree`]."""
        asked: dict[str, str] = {}
        contents: dict[str, bytes | OSError] = {}
        for path in paths:
            try:
                asked[path] = self._folder + checked_path(path)
            except RecordError as error:
                contents[path] = OSError(error.problem)
        answers = self._read_all(asked.values())
        contents.update((path, answers[full]) for path, full in asked.items())
        return contents

    def local_file(self, path: str, scratch: Path) -> Path:
        """See [`FileTree`]."""
        address = self._address(self._folder + checked_path(path))
        return self._access.download(address, scratch_file(scratch, path.rpartition("/")[2], address), progress=True)

    def at(self, folder: str) -> FileTree:
        """See [`FileTree`]; whether there is such a folder shows when it is read."""
        below = RemoteTree(self._root, self._access)
        below._folder = f"{self._folder}{checked_path(folder).rstrip('/')}/"
        below._listed = self._listed
        below.location = redacted(self._address(below._folder))
        return below

    def _address(self, path: str) -> str:
        parts = urlsplit(self._root)
        if not self._access.is_http:
            return f"{self._root.rstrip('/')}/{path}"
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}", fragment=""))

    def _read_all(self, paths: Iterable[str]) -> dict[str, bytes | OSError]:
        addresses = {path: self._address(path) for path in paths}
        contents = self._access.read_all(addresses.values())
        return {path: contents[address] for path, address in addresses.items()}

    def _read_if_there(self, paths: Iterable[str], *, needed: bool = False) -> dict[str, str]:
        texts = {}
        for path, content in self._read_all(paths).items():
            if isinstance(content, bytes):
                texts[path] = content.decode("utf-8", "surrogateescape")
            elif needed or not isinstance(content, FileNotFoundError | PermissionError):  # S3 refuses what is not there
                raise content
        return texts

    def _from_checksums(self) -> list[str] | None:
        if not self._listed.asked_for_checksums:
            text = self._read_if_there([CHECKSUMS_FILE]).get(CHECKSUMS_FILE)
            if text is not None:
                matches = map(_CHECKSUM_LINE.fullmatch, text.splitlines())
                paths = {(match[1] or match[2]).removeprefix("./") for match in matches if match}
                self._listed.everything = sorted({*map(checked_path, paths), CHECKSUMS_FILE}) if paths else None
            self._listed.asked_for_checksums = True
        return self._listed.everything

    def _from_records(self, inside: str) -> list[str]:
        found: set[str] = set()
        lists = [f"{inside}{RECORDS_FILE}"]
        seen = set(lists)
        while lists:
            texts = self._read_if_there(lists)
            if found and len(texts) < len(lists):
                missing = next(path for path in lists if path not in texts)
                raise FileNotFoundError(
                    f"There is no '{missing}' in {self.location}, which a {RECORDS_FILE} file names."
                )
            found.update(texts)
            lists = []
            for path, text in texts.items():
                folder = path.removesuffix(RECORDS_FILE)
                for line in filter(None, map(str.strip, text.splitlines())):
                    entry = folder + checked_path(line)
                    if not line.endswith("/"):
                        found.add(f"{entry.removesuffix('.hea')}.hea")
                    elif (more := f"{entry}{RECORDS_FILE}") not in seen:
                        self._check_depth(more)
                        seen.add(more)
                        lists.append(more)
        return sorted(found)

    def _from_lists(self, inside: str) -> list[str]:
        if not self._access.is_http:
            found = [inside + path for path in self._access.list_below(self._address(inside))]
        else:
            found = self._from_pages(inside)
        if not found:
            raise FileNotFoundError(
                f"{redacted(self._address(inside))} lists no files: it shows no {CHECKSUMS_FILE}, no {RECORDS_FILE} "
                "and no page of its folder. Check the address, or download the files and name their folder."
            )
        return sorted(found)

    def _from_pages(self, inside: str) -> list[str]:
        found: set[str] = set()
        folders = [inside]
        while folders:
            pages = self._read_if_there(folders, needed=folders != [inside])
            entries = {entry for folder, page in pages.items() for entry in self._entries(folder, page)}
            found |= {entry for entry in entries if not entry.endswith("/")}
            # Entries lie one level below their page, so that links in a circle cannot occur.
            folders = sorted(entry for entry in entries if entry.endswith("/"))
            for folder in folders[:1]:  # all are of one depth
                self._check_depth(folder)
        return sorted(found)

    def _check_depth(self, path: str) -> None:
        if path.count("/") > _MAX_DEPTH:
            raise OSError(
                f"{self.location} lists folders in folders without end, such as '{path}'. Check the address, or "
                "download the files and name their folder."
            )

    def _entries(self, folder: str, page: str) -> set[str]:
        """Paths that the page of a folder links to, one level below it; those of folders end with `/`."""
        links = _Links()
        links.feed(page)
        address = urlsplit(self._address(folder))
        entries = set()
        for link in links.found:
            parts = urlsplit(urljoin(urlunsplit(address._replace(query="")), link))
            name = unquote(parts.path.removeprefix(address.path))
            if parts.netloc != address.netloc or not parts.path.startswith(address.path) or not name:
                continue
            if parts.query == address.query or not parts.query:  # other queries sort the page
                entries.add(folder + checked_path(name))
        return {entry for entry in entries if "/" not in entry[len(folder) :].rstrip("/")}


class _Listed:
    """What servers said about their files; shared by the trees of all folders, forgotten on the way to a worker."""

    def __init__(self) -> None:
        self.asked_for_checksums = False
        self.everything: list[str] | None = None
        self.below: dict[str, list[str]] = {}

    def __reduce__(self) -> tuple[type[_Listed], tuple[()]]:
        return _Listed, ()


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.extend(value for name, value in attrs if tag == "a" and name == "href" and value)
