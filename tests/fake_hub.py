"""A small stand-in for the Hugging Face Hub: an HTTP server on loopback that keeps repositories in memory.

It answers the requests that `huggingface_hub` makes to create a repository, commit files, list them and download them,
and no others. A repository has one branch, `main`, and only its newest commit. What the requests and answers look like
is taken from the source of huggingface_hub 2.4.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_fake"
"""The only token that may create repositories and commit."""

LARGE_FILE_SUFFIXES = (".safetensors", ".parquet", ".bin")
"""Files that travel by Git LFS whatever their size, as on the Hub."""

_REPOSITORY = r"(?P<repo_id>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}"
_FILES = rf"/(?P<kind>datasets/)?{_REPOSITORY}"


@dataclass
class Repository:
    """The newest commit of a repository."""

    files: dict[str, bytes] = field(default_factory=dict)
    commit_messages: list[str] = field(default_factory=list)

    @property
    def commit_id(self) -> str:
        return hashlib.sha1("\n".join(self.commit_messages).encode()).hexdigest()

    def commit(self, message: str, files: dict[str, bytes]) -> None:
        self.files |= files
        self.commit_messages.append(f"{len(self.commit_messages)} {message}")


class HubError(Exception):
    """A refusal, with the header by which `huggingface_hub` chooses the exception that its user sees."""

    def __init__(self, status: HTTPStatus, code: str):
        super().__init__(code)
        self.status = status
        self.code = code


class FakeHub(ThreadingHTTPServer):
    """The server and its repositories; `repositories["models/me/merl"]` is a model, `datasets/...` a dataset."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.unknown_requests: list[str] = []
        self.lock = threading.Lock()

    def add_repository(self, key: str, files: dict[str, bytes]) -> None:
        """A repository that is there before any test talks to the server."""
        self.repositories[key] = Repository()
        self.repositories[key].commit("Initial commit", files)


@contextmanager
def running_fake_hub() -> Iterator[FakeHub]:
    """A Hub that answers until the `with` block ends."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join(timeout=10)


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """That of a process which knows only this Hub, and begins with an empty cache.

    Args:
        hub (`FakeHub`): A running one.
        home (`Path`): The home folder, with the cache in it.
    """
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        # transformers would ask a server of the real Hub to convert a pickle.
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "OMP_NUM_THREADS": "1",
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as clients expect
    server: FakeHub

    routes = (
        ("POST", "/api/repos/create", "create_repository"),
        ("POST", "/api/validate-yaml", "validate_card"),
        ("POST", rf"{_API}/preupload/main", "choose_upload_modes"),
        ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", "offer_large_file_uploads"),
        ("PUT", "/large-files/(?P<sha256>[0-9a-f]{64})", "receive_large_file"),
        ("POST", rf"{_API}/commit/main", "commit"),
        ("GET", rf"{_API}(/revision/(?P<revision>[^/]+))?", "describe_repository"),
        ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "list_files"),
        ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", "describe_paths"),
        ("(GET|HEAD)", rf"{_FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "send_file"),
    )

    def handle_request(self) -> None:
        self.body = self._read_body()  # read in any case: the next request of the connection follows it
        try:
            with self.server.lock:
                status, headers, content = self._answer()
        except HubError as error:
            status, headers, content = error.status, {"X-Error-Code": error.code}, _as_json({"error": error.code})
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815 - the names that http.server calls

    def _answer(self) -> Answer:
        self._check_token()
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        for method, pattern, name in self.routes:
            match = re.fullmatch(f"{method} {pattern}", f"{self.command} {url.path}")
            if match:
                arguments = {key: value and unquote(value) for key, value in match.groupdict().items()}
                return getattr(self, name)(**arguments)
        self.server.unknown_requests.append(f"{self.command} {self.path}")
        raise HubError(HTTPStatus.NOT_FOUND, "UnknownToTheFakeHub")

    def create_repository(self) -> Answer:
        request = json.loads(self.body)
        kind = f"{request.get('type', 'model')}s"
        repo_id = f"{request['organization']}/{request['name']}"
        exists = f"{kind}/{repo_id}" in self.server.repositories
        if not exists:
            self.server.add_repository(f"{kind}/{repo_id}", {".gitattributes": b""})
        url = f"{self.server.endpoint}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
        return (HTTPStatus.CONFLICT if exists else HTTPStatus.OK), {}, _as_json({"url": url})

    def validate_card(self) -> Answer:
        return _ok({"errors": [], "warnings": []})

    def choose_upload_modes(self, kind: str, repo_id: str) -> Answer:
        self._repository(kind, repo_id)
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE_FILE_SUFFIXES) else "regular" for path in paths}
        return _ok({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def offer_large_file_uploads(self, kind: str | None, repo_id: str) -> Answer:
        self._repository(kind, repo_id)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.server.endpoint}/large-files/{item['oid']}"}}
        return _ok({"transfer": "basic", "objects": objects})

    def receive_large_file(self, sha256: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubError(HTTPStatus.BAD_REQUEST, "ContentDoesNotMatchItsHash")
        self.server.large_files[sha256] = self.body
        return _ok({})

    def commit(self, kind: str, repo_id: str) -> Answer:
        repository = self._repository(kind, repo_id)
        operations = [json.loads(line) for line in self.body.splitlines()]
        files = {}
        for operation in operations[1:]:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile" and value["oid"] in self.server.large_files:
                files[value["path"]] = self.server.large_files[value["oid"]]
            else:
                raise HubError(HTTPStatus.BAD_REQUEST, f"CannotCommit {operation['key']} {value['path']}")
        repository.commit(operations[0]["value"]["summary"], files)
        url = f"{self.server.endpoint}/{repo_id}/commit/{repository.commit_id}"
        return _ok({"commitUrl": url, "commitOid": repository.commit_id})

    def describe_repository(self, kind: str, repo_id: str, revision: str | None) -> Answer:
        repository = self._repository(kind, repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        description = {"id": repo_id, "sha": repository.commit_id, "private": False, "tags": [], "siblings": siblings}
        return _ok(description)

    def list_files(self, kind: str, repo_id: str, revision: str, folder: str | None) -> Answer:
        entries = _tree(self._repository(kind, repo_id, revision).files)
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive") == ["true"]
        inside = [entry for path, entry in entries.items() if path.startswith(prefix)]
        if prefix and not inside:
            raise HubError(HTTPStatus.NOT_FOUND, "EntryNotFound")
        return _ok([entry for entry in inside if recursive or "/" not in entry["path"].removeprefix(prefix)])

    def describe_paths(self, kind: str, repo_id: str, revision: str) -> Answer:
        entries = _tree(self._repository(kind, repo_id, revision).files)
        paths = parse_qs(self.body.decode())["paths"]
        return _ok([entries[path] for path in paths if path in entries])

    def send_file(self, kind: str | None, repo_id: str, revision: str, path: str) -> Answer:
        repository = self._repository(kind, repo_id, revision)
        if path not in repository.files:
            raise HubError(HTTPStatus.NOT_FOUND, "EntryNotFound")
        content = repository.files[path]
        headers = {"X-Repo-Commit": repository.commit_id, "ETag": f'"{_content_id(path, content)}"'}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return HTTPStatus.OK, headers, content
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
        return HTTPStatus.PARTIAL_CONTENT, headers, content[start : end + 1]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a failing test shows what its own process printed."""

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _check_token(self) -> None:
        changes_a_repository = self.command == "POST" and re.search("/(create|commit|preupload|batch)", self.path)
        if changes_a_repository and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HubError(HTTPStatus.UNAUTHORIZED, "InvalidToken")

    def _repository(self, kind: str | None, repo_id: str, revision: str | None = "main") -> Repository:
        # File addresses write models without a prefix, and `datasets/` with a slash.
        repository = self.server.repositories.get(f"{(kind or 'models').rstrip('/')}/{repo_id}")
        if repository is None:
            raise HubError(HTTPStatus.NOT_FOUND, "RepoNotFound")
        if revision not in (None, "main", repository.commit_id):
            raise HubError(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        return repository


Answer = tuple[HTTPStatus, dict[str, str], bytes]


def _as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _ok(content: Any) -> Answer:
    return HTTPStatus.OK, {"Content-Type": "application/json"}, _as_json(content)


def _content_id(path: str, content: bytes) -> str:
    """The hash that the Hub gives as ETag: SHA-256 of a large file, Git's own of any other."""
    if path.endswith(LARGE_FILE_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Files and folders by path, as the Hub lists them."""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        for end in (match.start() for match in re.finditer("/", path)):
            folder = path[:end]
            entries[folder] = {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest()}
        entry = {"type": "file", "path": path, "size": len(content), "oid": _content_id(path, content)}
        if path.endswith(LARGE_FILE_SUFFIXES):
            entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 134}
        entries[path] = entry
    return entries
