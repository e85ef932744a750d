"""A download is the same set of files, whether it is a folder, an archive or an address."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from download_fixtures import TOP, files_below, tar_of, write_download, zip_of
from file_server import FileServer
from reading_fixtures import wfdb

from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.files.remote import RemoteSettings
from hf_ecgtext.data.files.tree import LocalTree, find_root
from hf_ecgtext.data.wfdb.reading import decode_digital
from hf_ecgtext.errors import RecordError

QUICK = RemoteSettings(timeout_s=2.0, attempts=2, backoff_s=0.01)
KINDS = ("folder", "zip", "stored zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "http", "http zip", "http tgz")


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> Path:
    return write_download(tmp_path_factory.mktemp("original") / "download")


@pytest.fixture(scope="module")
def places(download, tmp_path_factory):
    """Where the download lies, by kind."""
    folder = tmp_path_factory.mktemp("packed")
    archives = {
        "zip": zip_of(download, folder / "a.zip"),
        "stored zip": zip_of(download, folder / "b.zip", zipfile.ZIP_STORED),
        "tar": tar_of(download, folder / "c.tar"),
        "tar.gz": tar_of(download, folder / "d.tar.gz", "w:gz"),
        "tar.bz2": tar_of(download, folder / "e.tar.bz2", "w:bz2"),
        "tar.xz": tar_of(download, folder / "f.tar.xz", "w:xz"),
    }
    (folder / "g.tgz").write_bytes(archives["tar.gz"].read_bytes())
    with FileServer(download) as server, FileServer(folder) as packed:
        addresses = {
            "http": server.url,
            "http zip": f"{packed.url}/a.zip?download=1",
            "http tgz": f"{packed.url}/g.tgz",
        }
        yield {"folder": download, **archives, **addresses}


def open_kind(places, kind: str, scratch: Path):
    return find_root(open_tree(places[kind], scratch, remote=QUICK), ["database.csv"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tree_holds_the_files_of_the_folder(kind, places, download, tmp_path):
    tree = open_kind(places, kind, tmp_path)
    expected = {path: file.read_bytes() for path, file in files_below(download).items()}
    assert len(expected) == 17
    assert tree.list_files() == sorted(expected)
    assert {path: tree.read(path) for path in expected} == expected
    below = tree.at("records100").at("00001/")
    names = ["00003_lr.dat", "00003_lr.hea", "00004_lr.dat", "00004_lr.hea", "00005_lr.dat", "00005_lr.hea"]
    assert below.list_files() == names
    assert tree.list_files("records100/00001") == [f"records100/00001/{name}" for name in names]
    assert below.read("00004_lr.dat") == expected["records100/00001/00004_lr.dat"]
    assert tree.exists("database.csv")
    assert below.exists("00004_lr.dat")
    assert not any(map(tree.exists, ["records100", "records100/00001", "databas", "database.csv.gz", "00004_lr.dat"]))
    copy = below.local_file("00004_lr.hea", tmp_path / "copies")
    assert copy.read_bytes() == expected["records100/00001/00004_lr.hea"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_says_what_it_cannot_read_and_reads_the_rest(kind, places, tmp_path):
    tree = open_kind(places, kind, tmp_path)
    contents = tree.read_many(iter(["empty.txt", "../secret", "nothing.dat", "a note #1 (100%).txt", "/etc/passwd"]))
    assert contents["empty.txt"] == b""
    assert contents["a note #1 (100%).txt"] == b"names as people write them"
    assert isinstance(contents["nothing.dat"], FileNotFoundError)
    assert "nothing.dat" in str(contents["nothing.dat"])
    for hostile in ("../secret", "/etc/passwd"):
        assert isinstance(contents[hostile], OSError)
        assert "leave the download" in str(contents[hostile])
    with pytest.raises(FileNotFoundError, match=r"nothing\.dat"):
        tree.local_file("nothing.dat", tmp_path)
    for ask in (tree.read, tree.exists, tree.at, tree.list_files):
        with pytest.raises(RecordError, match="leave the download"):
            ask("records100/../../secret")


def read_in_worker(tree, path: str) -> tuple[int, bytes]:
    return os.getpid(), tree.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "http"])
def test_worker_processes_read_with_a_copy_of_the_tree(kind, places, download, tmp_path):
    tree = open_kind(places, kind, tmp_path)
    path = "records100/00000/00002_lr.dat"
    expected = (download / path).read_bytes()
    assert tree.read(path) == expected  # whatever this process has opened now, the copy does without
    assert pickle.loads(pickle.dumps(tree)).read(path) == expected  # noqa: S301
    if kind == "zip":  # one kind is enough for the way a worker starts, which takes seconds
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            process, content = pool.apply(read_in_worker, (tree, path))
        assert process != os.getpid()
        assert content == expected


@pytest.mark.parametrize("kind", ["zip", "tar", "http"])
def test_a_forked_process_reads_beside_its_parent(kind, places, download, tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    tree = open_kind(places, kind, tmp_path)
    path = "records100/00000/00001_lr.dat"
    assert tree.read(path) == (download / path).read_bytes()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=lambda: queue.put(tree.read(path)))
    worker.start()
    assert queue.get() == (download / path).read_bytes()
    worker.join()
    assert worker.exitcode == 0
    assert tree.read(path) == (download / path).read_bytes()


def test_members_named_as_tar_names_them_are_found(download, tmp_path):
    tree = open_tree(tar_of(download, tmp_path / "dots.tar", names=["."]))
    assert tree.list_files() == sorted(files_below(download))


def test_long_names_in_a_tar_are_found(tmp_path):
    path = "/".join(["a" * 90] * 4) + "/x.hea"
    for number, format_ in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=format_) as file:
            (tmp_path / "x.hea").write_text("content")
            file.add(tmp_path / "x.hea", path)
        assert open_tree(tmp_path / f"{number}.tar").read(path) == b"content"


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "http"])
def test_real_records_are_the_same_from_everywhere(kind, real_data, tmp_path):
    names = [f"records100/00000/{number:05d}_lr" for number in (1, 2, 3)]
    folder = tmp_path / "ptb-xl"
    for name in names:
        for suffix in (".hea", ".dat"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}{suffix}").symlink_to(real_data / "ptb-xl" / f"{name}{suffix}")
    with tarfile.open(tmp_path / "p.tar", "w", dereference=True) as file:
        file.add(folder, TOP)
    with FileServer(folder) as server:
        places = {"folder": folder, "zip": zip_of(folder, tmp_path / "p.zip"), "tar": tmp_path / "p.tar"}
        tree = open_tree({**places, "http": server.url}[kind], remote=QUICK)
        tree = find_root(tree, [f"{names[0]}.hea"])
        contents = tree.read_many(f"{name}{suffix}" for name in names for suffix in (".hea", ".dat"))
    for name in names:
        _, digital = decode_digital(contents[f"{name}.hea"], {f"{Path(name).name}.dat": contents[f"{name}.dat"]}, name)
        expected = wfdb.rdrecord(str(real_data / "ptb-xl" / name), physical=False).d_signal
        np.testing.assert_array_equal(digital.adc.T, expected)


def test_a_pipe_a_socket_and_a_folder_are_no_files_and_make_nobody_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.dat")
    (tmp_path / "folder.dat").mkdir()
    tree = LocalTree(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.dat"))
        contents = tree.read_many(["pipe.dat", "folder.dat", "socket.dat"])
    assert all(isinstance(content, OSError) for content in contents.values())
    assert "is no regular file" in str(contents["pipe.dat"])
    assert not tree.exists("pipe.dat")


def test_missing_places_are_named(tmp_path):
    for place in (tmp_path / "nowhere", f"file://{tmp_path}/nowhere"):
        with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
            open_tree(place)
    assert LocalTree(tmp_path).list_files() == open_tree(f"file://{tmp_path}").list_files() == []


def test_the_root_is_found_at_the_top_and_below(download, tmp_path):
    nested = tmp_path / "copy" / "physionet.org" / "files" / "small" / "1.0.0"
    nested.mkdir(parents=True)
    (nested / "database.csv").write_text("nested")
    assert find_root(LocalTree(download), ["database.csv"]).location == str(download)
    assert find_root(LocalTree(tmp_path / "copy"), ["other.csv", "database.csv"]).read("database.csv") == b"nested"


def test_the_root_nearest_to_the_top_counts(tmp_path):
    for folder in ("a", "a/old/b", "__MACOSX/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "database.csv").write_text(folder)
    assert find_root(LocalTree(tmp_path), ["database.csv"]).read("database.csv") == b"a"


def test_a_root_that_is_missing_or_not_the_only_one_is_an_error(places, tmp_path):
    for kind in KINDS[:5]:
        with pytest.raises(FileNotFoundError, match=r"no 'x\.csv' or 'y\.csv' in .* nor in a folder below"):
            find_root(open_tree(places[kind], tmp_path), ["x.csv", "y.csv"])
    for folder in ("one", "two"):
        (tmp_path / "twice" / folder).mkdir(parents=True)
        (tmp_path / "twice" / folder / "database.csv").write_text("")
    with pytest.raises(ValueError, match=r"holds 'database\.csv' in several folders \(one, two\)"):
        find_root(LocalTree(tmp_path / "twice"), ["database.csv"])
