"""Servers that stall, hang up, cut answers short or have nothing: further attempts, and then a clear list."""

from __future__ import annotations

import errno
import hashlib
import re
import sys
from collections import namedtuple
from pathlib import Path

import fsspec
import pytest
from download_fixtures import files_below, tar_of, write_download, zip_of
from file_server import Fault, FileServer

from hf_ecgtext.data.files import remote, remote_access, scratch
from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.files.remote import RemoteSettings
from hf_ecgtext.data.files.tree import find_root
from hf_ecgtext.errors import ArchiveError, RecordError

QUICK = RemoteSettings(timeout_s=0.3, attempts=3, backoff_s=0.01)
GOOD, BAD = "records100/00000/00000_lr.dat", "records100/00000/00001_lr.dat"
TEMPORARY = ["stall", "drop", "short", "refuse", 500, 502, 503, 504, 429, 408]


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> Path:
    return write_download(tmp_path_factory.mktemp("original") / "download")


@pytest.fixture
def server(download):
    with FileServer(download) as running:
        yield running


@pytest.fixture
def tree(server):
    return open_tree(server.url, remote=QUICK)


@pytest.mark.parametrize("kind", TEMPORARY)
def test_a_fault_that_passes_costs_another_attempt_and_nothing_else(kind, server, tree, download):
    server.faults[BAD] = Fault(kind, times=2)
    contents = tree.read_many([GOOD, BAD])
    assert contents == {path: (download / path).read_bytes() for path in (GOOD, BAD)}
    assert server.requests[BAD] == 3
    assert server.requests[GOOD] == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("stall", "did not go on in time"),
        ("drop", "not completed|reset"),
        ("short", "not completed"),
        ("refuse", "reset|disconnected"),
        (503, "the server answered 503"),
        (429, "the server answered 429"),
    ],
)
def test_a_fault_that_stays_is_named_with_address_attempts_and_reason(kind, reason, server, tree, download):
    server.faults[BAD] = Fault(kind)
    contents = tree.read_many([GOOD, BAD])
    assert contents[GOOD] == (download / GOOD).read_bytes()
    assert type(contents[BAD]) is OSError
    with pytest.raises(OSError, match=rf"{server.url}/{BAD} could not be read in 3 attempts: .*({reason})"):
        raise contents[BAD]
    # aiohttp asks once more by itself where a kept connection turns out to be closed.
    assert server.requests[BAD] == 3 or (kind == "refuse" and 3 <= server.requests[BAD] <= 6)
    assert server.requests[GOOD] == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, FileNotFoundError), (410, FileNotFoundError), (403, PermissionError), (401, PermissionError)],
)
def test_what_is_not_there_or_not_allowed_is_asked_for_once(status, error, server, tree):
    server.faults[BAD] = Fault(status)
    contents = tree.read_many([GOOD, BAD])
    assert isinstance(contents[GOOD], bytes)
    assert type(contents[BAD]) is error
    assert f"{server.url}/{BAD}" in str(contents[BAD])
    assert server.requests[BAD] == 1


def test_another_refusal_is_asked_for_once(server, tree):
    server.faults[BAD] = Fault(400)
    with pytest.raises(OSError, match="in 1 attempt: the server answered 400"):
        tree.read(BAD)
    assert server.requests[BAD] == 1


def test_faults_of_many_files_give_a_clear_list(server, tree, download):
    paths = sorted(path for path in files_below(download) if path.startswith("records100"))
    faults = dict(
        zip(paths, [Fault("stall", 1), Fault("drop", 2), Fault(404), Fault(503), Fault(503, 1)], strict=False)
    )
    server.faults.update(faults)
    contents = tree.read_many(paths)
    failed = {path: str(content) for path, content in contents.items() if isinstance(content, OSError)}
    assert sorted(failed) == paths[2:4]
    assert all(f"{server.url}/{path}" in message for path, message in failed.items())
    assert all(contents[path] == (download / path).read_bytes() for path in paths if path not in failed)


def test_the_server_says_how_long_to_wait(server, tree, monkeypatch):
    waits = []
    monkeypatch.setattr(remote_access.time, "sleep", waits.append)
    server.faults[BAD] = Fault(429, 2, headers=(("Retry-After", "7"),))
    tree.read(BAD)
    assert waits == [7.0, 7.0]


def test_waits_double_and_differ_from_try_to_try(server, monkeypatch):
    waits = []
    monkeypatch.setattr(remote_access.time, "sleep", waits.append)
    server.faults[BAD] = Fault(503)
    patient = open_tree(server.url, remote=RemoteSettings(timeout_s=2, attempts=9, backoff_s=1.0))
    with pytest.raises(OSError, match="in 9 attempts"):
        patient.read(BAD)
    assert len(waits) == 8
    assert all(min(60.0, 0.5 * 2**k) <= wait <= min(60.0, 1.5 * 2**k) for k, wait in enumerate(waits))
    assert len({wait / 2**k for k, wait in enumerate(waits[:5])}) == 5


def test_no_more_files_are_asked_for_at_once_than_allowed(server, download):
    paths = list(files_below(download))
    server.delay_s = 0.05
    for limit in (3, 8):
        server.most_busy = 0
        tree = open_tree(server.url, remote=RemoteSettings(timeout_s=2, attempts=1, max_concurrency=limit))
        assert len(tree.read_many(paths)) == len(paths)
        assert 2 <= server.most_busy <= limit


def test_a_server_that_is_not_there_is_named(tmp_path):
    with FileServer(tmp_path) as server:
        address = server.url
    tree = open_tree(address, remote=QUICK)
    with pytest.raises(OSError, match=rf"{address}/x could not be read in 3 attempts: "):
        tree.read("x")
    with pytest.raises(OSError, match="could not be read in 3 attempts"):
        tree.exists("x")  # not: there is no such file
    with pytest.raises(OSError, match="could not be read in 3 attempts"):
        tree.list_files()


def test_a_password_in_the_address_stays_out_of_messages(server):
    tree = open_tree(server.url.replace("127", "me:secret@127"), remote=QUICK)
    assert tree.read(GOOD)
    with pytest.raises(FileNotFoundError) as caught:
        tree.read("nothing")
    assert "secret" not in f"{caught.value}{tree.location}{tree.at('records100').location}"


def test_a_query_stays_with_every_address(server, download):
    tree = open_tree(f"{server.url}/?token=1", remote=QUICK)
    assert tree.list_files() == sorted(files_below(download))
    assert tree.read(GOOD) == (download / GOOD).read_bytes()


def test_existence_is_asked_again_and_servers_without_head_are_understood(server, tree):
    server.faults[GOOD] = Fault(503, 2)
    assert tree.exists(GOOD)
    server.faults[GOOD] = Fault(405, 1)
    assert tree.exists(GOOD)
    server.faults[GOOD] = Fault(403)
    with pytest.raises(PermissionError, match="refuses access"):
        tree.exists(GOOD)


def test_files_are_listed_by_checksums_else_by_records_else_by_pages(server, download):
    everything = sorted(files_below(download))
    tree = open_tree(server.url, remote=QUICK)
    assert tree.list_files() == tree.list_files() == everything
    assert server.requests == {"SHA256SUMS.txt": 1}

    server.faults["SHA256SUMS.txt"] = Fault(404)
    headers = [path for path in everything if path.endswith(".hea")]
    assert open_tree(server.url, remote=QUICK).list_files() == sorted([*headers, "RECORDS"])

    server.faults["RECORDS"] = Fault(403)
    tree = open_tree(server.url, remote=QUICK)
    assert tree.list_files() == everything
    assert tree.list_files("records100/00001") == [path for path in everything if "00001/" in path]
    assert tree.at("records100").list_files() == [path[11:] for path in everything if path.startswith("records100")]


def test_lists_of_records_that_name_folders_are_followed(tmp_path):
    for folder in ("training/g1", "training/g2"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "RECORDS").write_text("A1\nA2.hea\n\n")
    (tmp_path / "RECORDS").write_text("training/g1/\ntraining/g2/\ntraining/g1/\n")
    with FileServer(tmp_path, pages=False) as server:
        found = open_tree(server.url, remote=QUICK).list_files()
        names = ("A1.hea", "A2.hea", "RECORDS")
        assert found == sorted(["RECORDS", *(f"training/{group}/{name}" for group in ("g1", "g2") for name in names)])
        server.faults["training/g2/RECORDS"] = Fault(404)
        with pytest.raises(FileNotFoundError, match="training/g2/RECORDS"):
            open_tree(server.url, remote=QUICK).list_files()


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "a/../../b/"])
def test_hostile_lists_are_refused(line, tmp_path):
    for content, name in ((line, "RECORDS"), (f"{hashlib.sha256().hexdigest()} {line}", "SHA256SUMS.txt")):
        (tmp_path / name).write_text(content)
        with FileServer(tmp_path) as server, pytest.raises(RecordError, match="leave the download"):
            open_tree(server.url, remote=QUICK).list_files()


def test_a_server_that_lists_nothing_says_so(download):
    with FileServer(download / "records100", pages=False) as server:
        with pytest.raises(FileNotFoundError, match=r"lists no files: .*SHA256SUMS\.txt"):
            open_tree(server.url, remote=QUICK).list_files()
        with pytest.raises(FileNotFoundError, match="lists no files"):
            find_root(open_tree(server.url, remote=QUICK), ["database.csv"])


def test_a_list_that_cannot_be_read_is_an_error_and_no_short_list(server):
    server.faults.update({"SHA256SUMS.txt": Fault(503)})
    with pytest.raises(OSError, match=r"SHA256SUMS\.txt could not be read in 3 attempts"):
        open_tree(server.url, remote=QUICK).list_files()
    server.faults.update({"SHA256SUMS.txt": Fault(404), "RECORDS": Fault(404), "records100/00001/": Fault(403)})
    with pytest.raises(PermissionError, match="records100/00001/"):
        open_tree(server.url, remote=QUICK).list_files()


@pytest.fixture
def packed(download, tmp_path):
    """A server of the download as archives, each of more than 20 kB."""
    folder = tmp_path / "served"
    folder.mkdir()
    zip_of(download, folder / "a.zip")
    tar_of(download, folder / "t.tar.gz", "w:gz")
    return folder


@pytest.mark.parametrize("kind", ["drop", "short", "stall"])
def test_an_archive_is_downloaded_once_and_continued_where_it_broke(kind, packed, download, tmp_path):
    size = (packed / "a.zip").stat().st_size
    with FileServer(packed) as server:
        server.faults["a.zip"] = Fault(kind, times=2)
        tree = find_root(open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=QUICK), ["database.csv"])
        assert tree.list_files() == sorted(files_below(download))
        starts = [start for _, start in server.range_starts]
        assert len(starts) == 2
        assert 0 < starts[0] < starts[1] < size
        open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=QUICK)
        assert server.requests["a.zip"] == 3
    [copy] = (tmp_path / "scratch").glob("*.zip")
    assert copy.read_bytes() == (packed / "a.zip").read_bytes()


def test_a_download_goes_on_after_the_process_was_killed(packed, tmp_path):
    with FileServer(packed) as server:
        server.faults["a.zip"] = Fault("short", times=1)
        once = RemoteSettings(timeout_s=0.3, attempts=1, backoff_s=0.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remote_access, "_is_transient", lambda error: False)  # stops it at the first fault
            patch.setattr(remote_access, "_judged", lambda address, error, attempts: OSError("killed"))
            with pytest.raises(OSError, match="killed"):
                open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=once)
        [part] = (tmp_path / "scratch").glob("*.part")
        assert part.stat().st_size > 0
        tree = open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=once)
        assert [start for _, start in server.range_starts] == [server.folder.joinpath("a.zip").stat().st_size // 2]
    assert all(isinstance(content, bytes) for content in tree.read_many(tree.list_files()).values())


def test_a_download_starts_again_when_the_file_on_the_server_changed(packed, tmp_path):
    with FileServer(packed) as server:
        server.faults["a.zip"] = Fault("short", times=1)
        half_way = RemoteSettings(timeout_s=0.3, attempts=2, backoff_s=0.0)
        original, changed = (packed / "a.zip").read_bytes(), False

        def change(_: float) -> None:
            nonlocal changed
            changed = True
            (packed / "other.hea").write_text("new")
            zip_of(packed, packed / "a.zip")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remote_access.time, "sleep", change)
            open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=half_way)
    assert changed
    [copy] = (tmp_path / "scratch").glob("*.zip")
    assert copy.read_bytes() == (packed / "a.zip").read_bytes() != original


@pytest.mark.parametrize("options", [{"ranges": False}, {"validators": False}])
def test_a_server_without_ranges_or_versions_sends_it_all_again(options, packed, tmp_path):
    with FileServer(packed, **options) as server:
        server.faults["a.zip"] = Fault("short", times=1)
        open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=QUICK)
        assert server.requests["a.zip"] == 2
        server.faults["t.tar.gz"] = Fault("short")
        with pytest.raises(OSError, match=r"t\.tar\.gz could not be read in 3 attempts"):
            open_tree(f"{server.url}/t.tar.gz", tmp_path / "scratch", remote=QUICK)
    [copy] = (tmp_path / "scratch").glob("*.zip")
    assert copy.read_bytes() == (packed / "a.zip").read_bytes()


def test_archives_that_cannot_be_had_are_named(packed, tmp_path):
    (packed / "b.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with FileServer(packed) as server:
        with pytest.raises(FileNotFoundError, match=r"There is no file at http.*/nothing\.zip"):
            open_tree(f"{server.url}/nothing.zip", tmp_path / "scratch", remote=QUICK)
        with pytest.raises(ArchiveError, match="damaged or incomplete"):
            open_tree(f"{server.url}/b.zip", tmp_path / "scratch", remote=QUICK)
        with pytest.raises(ValueError, match="it needs a scratch folder"):
            open_tree(f"{server.url}/a.zip", remote=QUICK)


def test_the_address_of_a_physionet_archive_is_known_as_one(packed, tmp_path):
    (packed / "content/x/get-zip/1.0").mkdir(parents=True)
    (packed / "a.zip").rename(packed / "content/x/get-zip/1.0/z")
    with FileServer(packed) as server:
        tree = open_tree(f"{server.url}/content/x/get-zip/1.0/z", tmp_path / "scratch", remote=QUICK)
    assert len(tree.list_files()) == 17


def test_a_download_that_does_not_fit_is_refused_before_it_starts(packed, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: usage(1000))
    with FileServer(packed) as server:
        with pytest.raises(OSError, match=r"needs 0\.00 GB.*Free some room") as caught:
            open_tree(f"{server.url}/a.zip", tmp_path / "scratch", remote=QUICK)
        assert server.requests["a.zip"] == 1
    assert caught.value.errno == errno.ENOSPC


def test_a_local_copy_of_one_file_continues_and_is_made_once(server, tree, download, tmp_path):
    server.faults[BAD] = Fault("drop", times=2)
    copies = {tree.local_file(BAD, tmp_path / "s"), tree.at("records100").local_file(BAD[11:], tmp_path / "s")}
    assert [copy.read_bytes() for copy in copies] == [(download / BAD).read_bytes()]
    assert server.requests[BAD] == 3


def test_other_protocols_are_read_in_threads(download, tmp_path):
    memory = fsspec.filesystem("memory")
    for path, file in files_below(download).items():
        memory.pipe_file(f"/small/{path}", file.read_bytes())
    memory.pipe_file("/small/archives/a.zip", zip_of(download, tmp_path / "a.zip").read_bytes())
    memory.pipe_file("/bare/a/x.hea", b"x")
    try:
        tree = open_tree("memory://small", remote=QUICK)
        assert tree.list_files() == sorted(files_below(download))
        contents = tree.read_many([GOOD, "nothing"])
        assert contents[GOOD] == tree.read(GOOD) == (download / GOOD).read_bytes()
        assert isinstance(contents["nothing"], FileNotFoundError)
        assert tree.exists(GOOD)
        assert not tree.exists("records100")
        assert not tree.exists("nothing")
        assert tree.local_file(GOOD, tmp_path).read_bytes() == (download / GOOD).read_bytes()
        assert open_tree("memory://bare", remote=QUICK).list_files() == ["a/x.hea"]
        packed = open_tree("memory://small/archives/a.zip", tmp_path, remote=QUICK)
        assert find_root(packed, ["database.csv"]).list_files() == sorted(files_below(download))
    finally:
        memory.rm("/small", recursive=True)
        memory.rm("/bare", recursive=True)


def test_a_programming_error_is_no_fault_of_the_server(tree, monkeypatch):
    async def broken(*_):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(type(tree._access._connect()), "set_session", broken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        tree.read(GOOD)


def test_protocols_without_their_package_say_what_to_install(monkeypatch):
    registry = {"s3": {"class": "no_such_package.S3FileSystem", "err": "Install it"}}
    registry_module = sys.modules["fsspec.registry"]  # fsspec.registry is a dict of that module
    monkeypatch.setattr(registry_module, "known_implementations", registry)
    monkeypatch.setattr(registry_module, "_registry", {})
    with pytest.raises(ImportError, match=r"begin with s3:// need a package: `pip install no_such_package`"):
        open_tree("s3://bucket/folder")
    with pytest.raises(ValueError, match="no way to read addresses that begin with 'gopher://'"):
        open_tree("gopher://server/folder")
    with pytest.raises(ValueError, match="joins several addresses"):
        open_tree("zip://::https://server/a.zip")


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"timeout_s": 0}, {"attempts": 0}, {"max_concurrency": 0}, {"backoff_s": -1}):
        with pytest.raises(ValueError, match="must be positive"):
            remote.RemoteSettings(**wrong)


def test_names_in_pages_and_lists_are_read_as_they_are_written(tmp_path):
    names = ["a b.txt", "50%.txt", "x#1.txt", "q?.txt", "\N{LATIN SMALL LETTER E WITH ACUTE}.txt", "plain/in side.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with FileServer(tmp_path) as server:
        tree = open_tree(server.url, remote=QUICK)
        assert tree.list_files() == sorted(names)
        assert {name: tree.read(name).decode() for name in names} == {name: name for name in names}


# Answers and lists without end


def test_an_answer_without_end_is_read_up_to_a_stated_size_and_asked_for_once(server, tree, monkeypatch):
    monkeypatch.setattr(remote_access, "_MAX_ANSWER_BYTES", 3 << 20)
    server.faults[BAD] = Fault("endless")
    contents = tree.read_many([GOOD, BAD])
    assert contents[GOOD] == (server.folder / GOOD).read_bytes()
    assert re.search(
        rf"{BAD} is not read: the answer does not end after 0.00 GB.*Check the address", str(contents[BAD])
    )
    assert server.requests[BAD] == 1
    assert server.most_sent[BAD] < 64 << 20, "what the sockets between us hold comes on top"


def test_an_announced_length_beyond_reason_is_not_read_at_all(server, tree):
    server.faults[BAD] = Fault("endless", headers=(("Content-Length", "99000000000"),))
    with pytest.raises(OSError, match=r"is not read: it announces 99\.00 GB"):
        tree.read(BAD)
    assert server.requests[BAD] == 1


def test_many_answers_without_end_share_one_limit(server, tree, download, monkeypatch):
    monkeypatch.setattr(remote_access, "_MAX_ANSWER_BYTES", 3 << 20)
    names = [path for path in files_below(download) if path.endswith(".dat")]
    assert len(names) == 6
    server.faults = {name: Fault("endless") for name in names}
    contents = tree.read_many(names)
    assert all("is not read" in str(content) for content in contents.values())
    assert any("the files asked for beside it" in str(content) for content in contents.values())
    server.faults = {}
    assert tree.read(GOOD) == (download / GOOD).read_bytes(), "the limit is that of one call"


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_download_without_end_stops_at_a_stated_size(name, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_access, "_MAX_UNANNOUNCED_BYTES", 2 << 20)
    with FileServer(packed) as server:
        server.faults[name] = Fault("endless")
        with pytest.raises(OSError, match=rf"{name} is not read: the answer does not end"):
            open_tree(f"{server.url}/{name}", tmp_path / "scratch", remote=QUICK)
        assert server.requests[name] == 1


@pytest.mark.parametrize("list_file", ["RECORDS", ""])
def test_folders_in_folders_without_end_are_not_followed(list_file, tmp_path):
    with FileServer(tmp_path) as server:
        server.everywhere = {list_file: b'<a href="again/">again/</a>' if not list_file else b"again/\n"}
        with pytest.raises(
            OSError, match=r"lists folders in folders without end, such as 'again/again/.*Check the addr"
        ):
            open_tree(server.url, remote=QUICK).list_files()
        assert sum(server.requests.values()) < 60


@pytest.mark.parametrize("suffix", ["", "/"])
@pytest.mark.parametrize("lists", [("SHA256SUMS.txt", "RECORDS"), ("RECORDS",), ()])
def test_a_download_at_the_root_of_a_server_is_found_and_read(suffix, lists, download, tmp_path):
    for path, file in files_below(download).items():
        if path in lists or path not in {"SHA256SUMS.txt", "RECORDS"}:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(file.read_bytes())
    with FileServer(tmp_path) as server:
        tree = find_root(open_tree(f"{server.url}{suffix}", remote=QUICK), ["database.csv"])
        assert tree.location == f"{server.url}{suffix}"
        assert {path for path in tree.list_files("records100") if path.endswith(".hea")} == {
            path for path in files_below(tmp_path) if path.endswith(".hea")
        }
        assert tree.at("records100/00000").read("00000_lr.dat") == (download / GOOD).read_bytes()
