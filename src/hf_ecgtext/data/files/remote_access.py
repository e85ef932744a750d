"""Asking servers through fsspec: many files at once, with time limits and further attempts; downloads that continue."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from hf_ecgtext.data.files.scratch import check_room, is_disk_error, locked, named_disk_errors, part_of

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_TRANSIENT_STATUSES = (408, 425, 429)  # and all from 500
_NETWORK_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "fsspec", "httpx", "httpx2", "huggingface_hub", "requests")
_MAX_WAIT_S = 60.0
_MAX_ANSWER_BYTES = 1 << 29
"""Of one file, and twice that of all files asked for at once: no table or record of the data sets has more."""
_MAX_UNANNOUNCED_BYTES = 1 << 36
"""Of a download whose length the server does not announce; MIMIC-IV-ECG, the largest, has 36 GB."""
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class RemoteSettings:
    """How patient we are with servers.

    Args:
        timeout_s (`float`, defaults to 30.0): For a connection, and for each wait for more of an answer.
        attempts (`int`, defaults to 5): How often a file is asked for; a download counts attempts that bring nothing.
        backoff_s (`float`, defaults to 0.5): Mean wait before the second attempt; it doubles each time.
        max_concurrency (`int`, defaults to 16): Files asked for at once.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 0.5
    max_concurrency: int = 16

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.attempts < 1 or self.backoff_s < 0 or self.max_concurrency < 1:
            raise ValueError(f"Time limit, attempts and concurrency must be positive: {self}.")


class _BrokenDownloadError(OSError):
    """An answer that cannot be continued as it was announced."""


class _EndlessAnswerError(Exception):
    """More than any file of a data set has; asking again does not help."""


class RemoteAccess:
    """Files by address, on one server. Can be pickled; each process makes its own connections.

    Args:
        address (`str`): Any address on the server.
        settings ([`RemoteSettings`]): Time limits and attempts.

    Raises:
        ImportError: If the protocol needs a package that is not installed.
        ValueError: If the protocol is unknown.
    """

    def __init__(self, address: str, settings: RemoteSettings):
        self.settings = settings
        self.protocol = address.partition("://")[0].lower()
        self.is_http = self.protocol in {"http", "https"}
        self._filesystem: Any = None
        self._process = -1
        self._room = 0
        self._connect()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystem": None}

    def _connect(self) -> Any:
        if self._filesystem is None or self._process != os.getpid():
            self._filesystem, self._process = _open_filesystem(self.protocol, self.settings.timeout_s), os.getpid()
        return self._filesystem

    def read_all(self, addresses: Iterable[str]) -> dict[str, bytes | OSError]:
        """Contents by address, or the last error of each, after as many attempts as the settings allow.

        Of HTTP, at most half a GB of one file and one GB of all is held; an answer that goes on after that is an error.
        """
        self._room = 2 * _MAX_ANSWER_BYTES
        return self._ask(addresses, self._read, self._read_sync)

    def find_all(self, addresses: Iterable[str]) -> dict[str, bool | OSError]:
        """Whether there are files at these addresses, or the last error of each."""
        found = self._ask(addresses, self._head, self._info_sync)
        return {address: False if isinstance(there, FileNotFoundError) else there for address, there in found.items()}

    def list_below(self, address: str) -> list[str]:
        """Paths of the files below a folder, by the listing of the file system; not for HTTP."""
        filesystem = self._connect()
        top = filesystem._strip_protocol(address).rstrip("/")
        [found] = self._ask([address], None, lambda address: filesystem.find(top)).values()
        if isinstance(found, OSError):
            raise found
        return sorted(path[len(top) + 1 :] for path in found)

    def _ask(self, addresses: Iterable[str], one: Any, one_sync: Callable[[str], Any]) -> dict[str, Any]:
        answers: dict[str, Any] = dict.fromkeys(addresses)
        pending = list(answers)
        for attempt in range(1, self.settings.attempts + 1):
            results = self._ask_once(pending, one, one_sync)
            answers.update({address: _judged(address, answer, attempt) for address, answer in results.items()})
            pending = [address for address, answer in results.items() if _is_transient(answer)]
            if not pending:
                break
            if attempt < self.settings.attempts:
                time.sleep(max(self._wait_s(attempt, results[address]) for address in pending))
        return answers

    def _ask_once(self, addresses: list[str], one: Any, one_sync: Callable[[str], Any]) -> dict[str, Any]:
        if one is not None and self._connect().async_impl:
            answers = self._run(self._gather, addresses, one)
        else:
            with ThreadPoolExecutor(min(self.settings.max_concurrency, len(addresses) or 1)) as threads:
                answers = list(threads.map(_returning_errors(one_sync), addresses))
        return dict(zip(addresses, answers, strict=True))

    def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self._connect().loop, function, *arguments)

    async def _gather(self, addresses: list[str], one: Callable[[str], Coroutine[Any, Any, Any]]) -> list[Any]:
        turn = asyncio.Semaphore(self.settings.max_concurrency)

        async def in_turn(address: str) -> Any:
            async with turn:
                return await one(address)

        return await asyncio.gather(*map(in_turn, addresses), return_exceptions=True)

    async def _read(self, address: str) -> bytes:
        filesystem = self._connect()
        if not self.is_http:
            content: bytes = await filesystem._cat_file(address)
            return content
        session = await filesystem.set_session()
        async with session.get(filesystem.encode_url(address)) as answer:
            _raise_for_status(answer, address)
            if (answer.content_length or 0) > _MAX_ANSWER_BYTES:
                raise _EndlessAnswerError(f"it announces {answer.content_length / 1e9:.2f} GB")
            held = bytearray()
            try:
                async for piece in answer.content.iter_chunked(1 << 20):
                    held += piece
                    self._room -= len(piece)
                    if len(held) > _MAX_ANSWER_BYTES:
                        raise _EndlessAnswerError(f"the answer does not end after {len(held) / 1e9:.2f} GB")
                    if self._room < 0:
                        raise _EndlessAnswerError("it and the files asked for beside it have more than 1 GB")
            except BaseException:
                self._room += len(held)
                held.clear()  # the error is kept for a while, and this with it
                raise
            return bytes(held)

    def _read_sync(self, address: str) -> bytes:
        content: bytes = self._connect().cat_file(address)
        return content

    async def _head(self, address: str) -> bool:
        filesystem = self._connect()
        if not self.is_http:
            return (await filesystem._info(address))["type"] == "file"
        # Not fsspec's exists and info: they take a server that does not answer for one without the file.
        session = await filesystem.set_session()
        async with session.head(filesystem.encode_url(address), allow_redirects=True) as answer:
            if answer.status not in {405, 501}:
                _raise_for_status(answer, address)
                return not answer.url.path.endswith("/")  # servers lead from the name of a folder to its page
        async with session.get(filesystem.encode_url(address)) as answer:
            _raise_for_status(answer, address)
            return True

    def _info_sync(self, address: str) -> bool:
        found: bool = self._connect().info(address)["type"] == "file"
        return found

    def _wait_s(self, attempt: int, error: BaseException) -> float:
        wished = (getattr(error, "headers", None) or {}).get("Retry-After", "")
        wait_s = self.settings.backoff_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(max(wait_s, float(wished) if wished.isdecimal() else 0.0), _MAX_WAIT_S)

    def download(self, address: str, target: Path, *, progress: bool = False) -> Path:
        """Copy a file to this machine; what an earlier call has brought is kept where the server allows it.

        Args:
            address (`str`): Of the file.
            target (`Path`): Where it shall lie; a file that is there already stays.
            progress (`bool`, defaults to `False`): Show a bar, on a terminal.

        Raises:
            FileNotFoundError: If the server has no such file.
            OSError: If the disk is full, or no attempt brought more of the file.
        """
        with locked(target):
            if target.exists():
                return target
            part = _Part(target)
            failures = 0
            with _bar(target.name, progress) as show, named_disk_errors(target):
                while True:
                    before = part.size
                    error = self._continue(address, part, show)
                    if error is None:
                        break
                    if not _is_transient(error):
                        raise _judged(address, error, failures + 1) from error
                    failures = 1 if part.size > before else failures + 1
                    if failures >= self.settings.attempts:
                        raise _judged(address, error, failures) from error
                    time.sleep(self._wait_s(failures, error))
            part.finish()
        return target

    def _continue(self, address: str, part: _Part, show: Callable[[int, int | None], None]) -> BaseException | None:
        def attempt(address: str) -> None:
            if self.is_http:
                self._run(self._stream, address, part, show)
            else:
                self._copy_pieces(address, part, show)

        error: BaseException | None = _returning_errors(attempt)(address)
        return error

    async def _stream(self, address: str, part: _Part, show: Callable[[int, int | None], None]) -> None:
        filesystem = self._connect()
        session = await filesystem.set_session()
        headers = {"Range": f"bytes={part.size}-", "If-Range": part.version} if part.size and part.version else {}
        async with session.get(filesystem.encode_url(address), headers=headers) as answer:
            if answer.status == 416:
                part.restart("")
                raise _BrokenDownloadError("the server does not continue the file")
            _raise_for_status(answer, address)
            continued = answer.status == 206
            if continued and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {part.size}-"):
                part.restart("")
                raise _BrokenDownloadError("the server continues the file at another place")
            if not continued:
                etag = answer.headers.get("ETag", "")
                part.restart(etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", ""))
            total = part.size + answer.content_length if answer.content_length is not None else None
            check_room(part.target, answer.content_length or 0)
            with part.file.open("ab") as file:
                async for piece in answer.content.iter_chunked(1 << 20):
                    if total is None and part.size + len(piece) > _MAX_UNANNOUNCED_BYTES:
                        raise _EndlessAnswerError(f"the answer does not end after {part.size / 1e9:.2f} GB")
                    file.write(piece)
                    file.flush()
                    show(part.size, total)
        if total is not None and part.size != total:
            raise _BrokenDownloadError(f"{part.size} of {total} bytes came")

    def _copy_pieces(self, address: str, part: _Part, show: Callable[[int, int | None], None]) -> None:
        filesystem = self._connect()
        info = filesystem.info(address)
        total = int(info["size"])
        version = repr((total, info.get("ETag") or info.get("blob_id") or info.get("LastModified")))
        if part.version != version or part.size > total:
            part.restart(version)
        check_room(part.target, total - part.size)
        with part.file.open("ab") as file:
            while part.size < total:
                start = part.size
                file.write(filesystem.cat_file(address, start=start, end=min(start + _PIECE_BYTES, total)))
                file.flush()
                if part.size == start:
                    raise _BrokenDownloadError(f"{part.size} of {total} bytes came")
                show(part.size, total)


class _Part:
    """What has come of a file, and which version of it that is."""

    def __init__(self, target: Path):
        self.target = target
        self.file = part_of(target)
        self._note = target.with_name(f"{target.name}.version")
        self.version: str = json.loads(self._note.read_text()) if self.file.exists() and self._note.exists() else ""

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def restart(self, version: str) -> None:
        self.file.unlink(missing_ok=True)  # first: the bytes of one version must never stand beside another's name
        self.version = version
        self._note.write_text(json.dumps(version))

    def finish(self) -> None:
        os.replace(self.file, self.target)
        self._note.unlink(missing_ok=True)


def redacted(address: str) -> str:
    """The address without user name, password and query, as messages show it."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _open_filesystem(protocol: str, timeout_s: float) -> Any:
    import fsspec
    from fsspec.registry import known_implementations

    options: dict[str, Any] = {}
    if protocol in {"http", "https"}:
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        # Without compression on the way, the length that a server announces is that of the file.
        options = {"client_kwargs": {"timeout": limit, "headers": {"Accept-Encoding": "identity"}}}
    elif protocol in {"s3", "s3a"}:
        options = {"config_kwargs": {"connect_timeout": timeout_s, "read_timeout": timeout_s}}
    try:
        return fsspec.filesystem(protocol, skip_instance_cache=True, **options)
    except ImportError as error:
        package = known_implementations[protocol]["class"].partition(".")[0]
        raise ImportError(
            f"Addresses that begin with {protocol}:// need a package: `pip install {package}`."
        ) from error
    except ValueError as error:
        if protocol in known_implementations:
            raise
        raise ValueError(f"There is no way to read addresses that begin with '{protocol}://'. {error}.") from error


def _raise_for_status(answer: Any, address: str) -> None:
    if answer.status in {404, 410}:
        raise FileNotFoundError(address)
    answer.raise_for_status()


def _returning_errors(function: Callable[[str], Any]) -> Callable[[str], Any]:
    def call(address: str) -> Any:
        try:
            return function(address)
        except Exception as error:  # told apart in _judged, which raises all that no server causes
            return error

    return call


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_transient(answer: object) -> bool:
    if not isinstance(answer, BaseException) or isinstance(answer, _FINAL):
        return False
    status = _status(answer)
    if status is not None:
        return status in _TRANSIENT_STATUSES or status >= 500
    if isinstance(answer, OSError):
        return not is_disk_error(answer)
    return type(answer).__module__.partition(".")[0] in _NETWORK_PACKAGES


def _judged(address: str, answer: Any, attempts: int) -> Any:
    """The answer itself, or the error that a caller gets in its place."""
    if not isinstance(answer, BaseException):
        return answer
    shown, status = redacted(address), _status(answer)
    if isinstance(answer, FileNotFoundError) or status in {404, 410}:
        return FileNotFoundError(f"There is no file at {shown}.")
    if isinstance(answer, PermissionError) or status in {401, 403}:
        return PermissionError(f"The server refuses access to {shown}. Check whether you must sign in or ask for it.")
    if isinstance(answer, OSError) and is_disk_error(answer):
        return answer
    if isinstance(answer, _EndlessAnswerError):
        return OSError(f"{shown} is not read: {answer}, more than a data set has. Check the address.")
    if _is_transient(answer) or status is not None:
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        return OSError(f"{shown} could not be read in {times}: {_reason(answer, status)}")
    raise answer


def _reason(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"the server answered {status}"
    if isinstance(error, TimeoutError):
        return "the server did not go on in time"
    return str(error) or type(error).__name__


@contextmanager
def _bar(name: str, progress: bool) -> Iterator[Callable[[int, int | None], None]]:
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, disable=None if progress else True) as bar:

        def show(size: int, total: int | None) -> None:
            bar.total = total
            bar.update(size - bar.n)

        yield show
