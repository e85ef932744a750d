"""Archives that are damaged, or made to do harm, are refused by name; nothing outside the scratch folder is written."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from download_fixtures import TOP, tar_of, write_download, zip_of

from hf_ecgtext.data.files import archives, unpacking
from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.errors import ArchiveError

HOSTILE_NAMES = ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil", "c:evil", "..", "a/.."]
LINKS_AND_DEVICES = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "sparse file": tarfile.GNUTYPE_SPARSE,
}


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> Path:
    return write_download(tmp_path_factory.mktemp("original") / "download")


def make_tar(path: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, method)
    return path


def patched(path: Path, old: bytes, new: bytes, *, count: int = -1) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, count))
    return path


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(kind, name, tmp_path):
    members = (("good.hea", b"x"), (name, b"harm"))
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / f"archive.{kind}"
    if kind == "zip":
        make_zip(path, *members)
    else:
        make_tar(path, *members, mode="w:gz" if kind == "tar.gz" else "w")
    with pytest.raises(ArchiveError, match=r"is refused: its member .* leads out of the folder.*No original download"):
        open_tree(path, inside / "scratch")
    written = {file.relative_to(tmp_path).parts[:2] for file in tmp_path.rglob("*") if file.is_file()}
    assert written <= {("inside", path.name), ("inside", "scratch")}
    assert not [file for file in tmp_path.rglob("*") if "evil" in file.name]


@pytest.mark.parametrize("kind", LINKS_AND_DEVICES)
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    info = tarfile.TarInfo("a/strange.hea")
    info.type, info.linkname = LINKS_AND_DEVICES[kind], "/etc/passwd"
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        file.addfile(info)
    with pytest.raises(ArchiveError, match=r"'a/strange\.hea' is a link, a device or another special file"):
        open_tree(tmp_path / "t.tar")


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("a/strange.hea")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"'a/strange\.hea' is a link or a device"):
        open_tree(tmp_path / "z.zip")


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    for second in ("a/x.hea", "./a//x.hea"):
        make_tar(tmp_path / "t.tar", ("a/x.hea", b"1"), (second, b"2"))
        with pytest.raises(ArchiveError, match=r"'a/x\.hea' occurs twice"):
            open_tree(tmp_path / "t.tar")
    make_zip(tmp_path / "z.zip", ("a/x.hea", b"1"), ("a/y.hea", b"2"))
    with pytest.raises(ArchiveError, match=r"'a/x\.hea' occurs twice"):
        open_tree(patched(tmp_path / "z.zip", b"a/y.hea", b"a/x.hea"))


def test_a_member_that_inflates_beyond_what_it_claims_is_an_error_of_that_file(tmp_path):
    path = make_zip(tmp_path / "z.zip", ("bomb.dat", bytes(10_000_000)), ("good.dat", b"good"))
    tree = open_tree(patched(path, struct.pack("<L", 10_000_000), struct.pack("<L", 120_000)))
    contents = tree.read_many(["bomb.dat", "good.dat"])
    assert contents["good.dat"] == b"good"
    assert "'bomb.dat' in" in str(contents["bomb.dat"])
    assert "more than the 120000 bytes it claims" in str(contents["bomb.dat"])
    with pytest.raises(OSError, match="more than the 120000 bytes"):
        tree.local_file("bomb.dat", tmp_path / "scratch")
    assert [file for file in (tmp_path / "scratch").iterdir() if file.suffix != ".lock"] == []


def test_a_member_that_claims_too_much_is_refused(tmp_path):
    path = make_zip(tmp_path / "z.zip", ("bomb.dat", bytes(1000)))
    with pytest.raises(ArchiveError, match=r"'bomb\.dat' claims 4000000000 bytes"):
        open_tree(patched(path, struct.pack("<L", 1000), struct.pack("<L", 4_000_000_000)))
    path = make_zip(tmp_path / "s.zip", ("bomb.dat", bytes(1000)), method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as file:
        central = file.start_dir
    content = bytearray(path.read_bytes())
    content[central + 24 : central + 28] = struct.pack("<L", 9999)  # the uncompressed size in the central directory
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"'bomb\.dat' claims 9999 bytes"):
        open_tree(path)


def test_members_that_share_bytes_are_refused(tmp_path):
    path = make_zip(tmp_path / "z.zip", ("one.dat", bytes(1000)), ("two.dat", bytes(1000)))
    with zipfile.ZipFile(path) as file:
        second = file.getinfo("two.dat").header_offset
    content = bytearray(path.read_bytes())
    place = content.rindex(b"two.dat") - 4  # the offset stands before the name
    assert content[place : place + 4] == struct.pack("<L", second)
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"overlaps|damaged"):  # newer Pythons see it themselves
        archives.ZipTree(path)


def test_a_compressed_tar_that_inflates_beyond_reason_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "_SMALL_BYTES", 1 << 20)
    path = make_tar(tmp_path / "t.tar.xz", ("bomb.dat", bytes(20_000_000)), mode="w:xz")
    with pytest.raises(ArchiveError, match="inflates to more than 200 times its size"):
        open_tree(path, tmp_path / "scratch")
    assert [file for file in (tmp_path / "scratch").iterdir() if file.suffix != ".lock"] == []


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_damaged_member_is_an_error_of_that_file(method, tmp_path, download):
    path = zip_of(download, tmp_path / "z.zip", method)
    name = f"{TOP}/records100/00000/00001_lr.dat"
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(name)
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(name) + 300] ^= 0xFF
    path.write_bytes(content)
    tree = open_tree(path)
    contents = tree.read_many(tree.list_files())
    [(wrong, error)] = [(path, content) for path, content in contents.items() if isinstance(content, OSError)]
    assert wrong == name
    assert "is damaged" in str(error)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_cut_anywhere_is_refused(kind, tmp_path, download):
    path = tmp_path / f"whole.{kind}"
    if kind == "zip":
        zip_of(download, path)
    else:
        tar_of(download, path, "w" if kind == "tar" else f"w:{kind[4:]}")
    content = path.read_bytes()
    assert open_tree(path, tmp_path / "scratch").list_files()
    if kind == "tar":
        with tarfile.open(path) as file:
            end = max(file.getmembers(), key=lambda member: member.offset).offset_data
        cuts = [end + 700, 512, 1024, end - 512, end - 100, end + 10]
        content = content[: end + 1024]
    else:
        cuts = [len(content) * part // 8 for part in (1, 4, 7)] + [len(content) - 1]
    for cut in cuts:
        part = tmp_path / f"cut-{cut}.{kind}"
        part.write_bytes(content[:cut])
        with pytest.raises(ArchiveError, match=r"cut-.* is (damaged or incomplete|neither)"):
            open_tree(part, tmp_path / "scratch")


def test_a_tar_whose_second_header_is_noise_is_refused_and_not_taken_for_a_short_one(tmp_path):
    path = make_tar(tmp_path / "t.tar", ("a.hea", b"1"), ("b.hea", b"2"), ("c.hea", b"3"))
    content = bytearray(path.read_bytes())
    content[1024:1300] = bytes([7]) * 276
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="damaged or incomplete"):
        open_tree(path)


def test_an_encrypted_zip_is_refused(tmp_path):
    path = make_zip(tmp_path / "z.zip", ("a.hea", b"content"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"is encrypted \('a\.hea'\)\. Unpack it"):
        open_tree(path)


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")])
def test_a_zip_of_another_compression_is_refused_with_its_name(method, name, tmp_path):
    path = make_zip(tmp_path / "z.zip", ("a.hea", bytes(100)), method=method)
    with pytest.raises(ArchiveError, match=rf"compressed by {name} .*only deflate"):
        open_tree(path)
    path = make_zip(tmp_path / "y.zip", ("a.hea", bytes(100)))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 9
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="compressed by Deflate64"):
        open_tree(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by Zstandard"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7-Zip archive"),
        (b"Rar!\x1a\x07\x00" + bytes(600), "a RAR archive"),
        (b"id,name\n1,2\n" * 200, "neither a folder nor a zip or tar archive"),
        (b"", "neither a folder nor a zip or tar archive"),
        (gzip.compress(b"id,name\n1,2\n" * 200, mtime=0), "damaged or incomplete"),
        (bz2.compress(b"id,name\n1,2\n" * 200), "damaged or incomplete"),
        (lzma.compress(b"id,name\n1,2\n" * 200), "damaged or incomplete"),
        (b"\x1f\x8b" + bytes(600), "damaged or incomplete"),
    ],
)
def test_files_of_other_kinds_are_refused_with_what_they_are(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArchiveError, match=message):
        open_tree(tmp_path / "file", tmp_path / "scratch")


def test_a_compressed_tar_without_scratch_folder_says_so(tmp_path, download):
    with pytest.raises(ValueError, match="needs a scratch folder"):
        open_tree(tar_of(download, tmp_path / "t.tgz", "w:gz"))


def test_a_compressed_tar_is_unpacked_once_and_again_when_it_changes(tmp_path, download, monkeypatch):
    path, scratch = tar_of(download, tmp_path / "t.tar.gz", "w:gz"), tmp_path / "scratch"
    expected = open_tree(path, scratch).list_files()
    [unpacked] = scratch.glob("*.tar")
    (scratch / f"{unpacked.name}.part").write_bytes(b"of a process that was killed")
    with monkeypatch.context() as patch:
        patch.setattr(unpacking, "_decompressed", None)
        assert open_tree(path, scratch).list_files() == expected
    make_tar(path, ("other.hea", b"new"), mode="w:gz")
    assert open_tree(path, scratch).list_files() == ["other.hea"]
    assert len(list(scratch.glob("*.tar"))) == 2
    unpacked.unlink()  # as if the kill had come before the rename
    tar_of(download, path, "w:gz")
    assert open_tree(path, scratch).list_files() == expected


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path, download, monkeypatch):
    path, scratch = tar_of(download, tmp_path / "t.tar.gz", "w:gz"), tmp_path / "scratch"

    def two_pieces_and_no_more(*_):
        yield bytes(1000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(unpacking, "_decompressed", two_pieces_and_no_more)
        with pytest.raises(OSError, match=r"Free some room.*scratch") as caught:
            open_tree(path, scratch)
    assert caught.value.errno == errno.ENOSPC
    assert [file for file in scratch.iterdir() if file.suffix != ".lock"] == []
    assert open_tree(path, scratch).list_files()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full_is_named(tmp_path, download):
    path, scratch = tar_of(download, tmp_path / "t.tar.gz", "w:gz"), tmp_path / "scratch"
    open_tree(path, scratch)
    [unpacked] = scratch.glob("*.tar")
    unpacked.unlink()
    unpacked.with_name(f"{unpacked.name}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="Free some room"):
        open_tree(path, scratch)


def test_an_archive_replaced_while_in_use_is_noticed(tmp_path):
    path = make_tar(tmp_path / "t.tar", ("a.hea", b"1"))
    tree = open_tree(path)
    make_tar(path, ("a.hea", b"2"), ("b.hea", bytes(20_000)))
    with pytest.raises(OSError, match="was replaced while it was in use"):
        tree.read("a.hea")


def test_the_index_of_an_archive_survives_pickling_with_and_without_members():
    for members in ({}, {"b/y": (1, 2), "a": (3, 1 << 40)}):
        index = pickle.loads(pickle.dumps(archives.MemberIndex(members)))  # noqa: S301
        assert index.below("") == sorted(members)
        assert {name: index.find(name) for name in members} == members
        assert index.find("b") is None


def test_large_members_come_in_pieces_and_whole(tmp_path):
    content = bytes(range(256)) * 20_000  # 5 MB, which deflates 250-fold
    tree = open_tree(make_zip(tmp_path / "z.zip", ("large.csv", content)))
    assert zlib.crc32(tree.read("large.csv")) == zlib.crc32(content)
    tree = open_tree(make_tar(tmp_path / "t.tar", ("large.csv", content)))
    assert tree.local_file("large.csv", tmp_path / "scratch").read_bytes() == content
