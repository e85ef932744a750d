"""A file server on this machine that fails as real ones do: on chosen paths, a chosen number of times."""

from __future__ import annotations

import html
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a path (`None`: with all).

    `kind` is a status such as 503, or `"stall"` (half of the body, then silence), `"drop"` (half, then a reset),
    `"short"` (half, then an orderly end), `"refuse"` (a reset before the answer), `"endless"`.
    """

    kind: int | str
    times: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


class FileServer:
    """Serves a folder on 127.0.0.1 in a thread, as a context manager.

    Args:
        folder: What lies at the root.
        ranges: Whether parts of a file can be asked for.
        pages: Whether folders have a page that links to their entries.
        validators: Whether answers have an `ETag`.
    """

    def __init__(self, folder: Path, *, ranges: bool = True, pages: bool = True, validators: bool = True):
        self.folder, self.ranges, self.pages, self.validators = Path(folder), ranges, pages, validators
        self.faults: dict[str, Fault] = {}
        self.everywhere: dict[str, bytes] = {}  # by file name: what there is in every folder; "" is a folder's page
        self.most_sent: Counter[str] = Counter()  # bytes of endless answers, by path
        self.requests: Counter[str] = Counter()  # of GET, by path without the leading slash
        self.range_starts: list[tuple[str, int]] = []  # of GET with a Range
        self.delay_s = 0.0  # before each answer
        self.busy = self.most_busy = 0
        self.released = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.released.set()  # lets go of requests that stall
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault_of(self, path: str) -> Fault | None:
        """The fault of this request, which it uses up."""
        with self.lock:
            fault = self.faults.get(path)
            if fault is not None and fault.times is not None:
                if fault.times == 0:
                    return None
                fault.times -= 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:  # clients give up: that is what is tested
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FileServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        owner, path = self.owner, self._path()
        with owner.lock:
            owner.requests[path] += 1
            owner.busy += 1
            owner.most_busy = max(owner.most_busy, owner.busy)
        owner.released.wait(owner.delay_s)
        with owner.lock:
            owner.busy -= 1  # before the answer, after which the client may ask for the next file
        self._answer(with_body=True)

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, with_body: bool) -> None:
        owner, path = self.owner, self._path()
        fault = owner.fault_of(path)
        if fault is not None and isinstance(fault.kind, int):
            return self._send(fault.kind, b"no", dict(fault.headers), with_body)
        if fault is not None and fault.kind == "refuse":
            return self._reset()
        if fault is not None and fault.kind == "endless":
            return self._send_without_end(path, dict(fault.headers))
        if (name := path.rpartition("/")[2]) in owner.everywhere:
            return self._send(200, owner.everywhere[name], {"Content-Type": "text/html"}, with_body)
        file = owner.folder / path
        if file.is_dir() and owner.pages:
            if not self.path.endswith("/"):
                return self._send(301, b"", {"Location": f"{self.path}/"}, with_body)
            return self._send(200, self._page(file), {"Content-Type": "text/html; charset=utf-8"}, with_body)
        if not file.is_file() or self.path.endswith("/"):
            return self._send(404, b"nothing here", {}, with_body)
        return self._send_file(path, file.read_bytes(), fault, with_body)

    def _send_without_end(self, path: str, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(200)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = 0
        try:
            while not self.owner.released.is_set():
                sent += self.connection.send(bytes(1 << 16))
        except OSError:
            self.owner.most_sent[path] = max(self.owner.most_sent[path], sent)

    def _page(self, folder: Path) -> bytes:
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in sorted(folder.iterdir())]
        links = ["?C=M;O=D", "../", "/elsewhere/x.hea", "https://example.org/", *map(quote, names)]
        rows = "".join(f'<a href="{html.escape(link)}">{html.escape(link)}</a>\n' for link in links)
        return f"<html><body><pre>{rows}</pre></body></html>".encode()

    def _send_file(self, path: str, content: bytes, fault: Fault | None, with_body: bool) -> None:
        owner = self.owner
        headers = {"ETag": f'"{hash(content)}"'} if owner.validators else {}
        asked, status = self.headers.get("Range", ""), 200
        if with_body and asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            with owner.lock:
                owner.range_starts.append((path, start))
            if owner.ranges and self.headers.get("If-Range", headers.get("ETag")) == headers.get("ETag"):
                if start >= len(content):
                    return self._send(416, b"", {}, with_body)
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content, status = content[start:], 206
        self._send(status, content, headers, with_body, half=fault is not None)
        if fault is None or not with_body:
            return None
        if fault.kind == "stall":
            owner.released.wait(30)
        if fault.kind == "drop":
            return self._reset()
        self.close_connection = True
        return None

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], with_body: bool, *, half: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if half else content)
            self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
