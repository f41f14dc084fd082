import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leptonai.blobs import BlobStore
from leptonai.blobs.tree import pack, unpack
from leptonai.errors import InvalidRequest, NotFound, TooLarge
from leptonai.home import Home

HELLO = f"sha256:{hashlib.sha256(b'hello').hexdigest()}"


@pytest.fixture(autouse=True)
def packed_here(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("packed")))


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def whole(blobs: BlobStore, digest: str) -> bytes:
    return b"".join([piece async for piece in blobs.get(digest)])


def test_a_blob_comes_back_by_its_digest(tmp_path):
    async def main():
        blobs = BlobStore(tmp_path / "blobs")
        assert await blobs.exists(HELLO) is False
        assert await blobs.put(pieces(b"hel", b"lo")) == HELLO
        assert await blobs.put(pieces(b"hello"), HELLO) == HELLO
        assert await blobs.exists(HELLO) is True
        assert await blobs.size(HELLO) == 5
        assert await whole(blobs, HELLO) == b"hello"
        empty = await blobs.put(pieces())
        assert (await blobs.size(empty), await whole(blobs, empty)) == (0, b"")

    asyncio.run(main())


def test_bytes_with_another_digest_are_refused_and_not_kept(tmp_path):
    async def main():
        blobs = BlobStore(tmp_path)
        with pytest.raises(InvalidRequest, match="not sha256:"):
            await blobs.put(pieces(b"hullo"), HELLO)
        assert await blobs.exists(HELLO) is False
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    asyncio.run(main())


def test_a_blob_larger_than_the_bound_is_refused(tmp_path):
    with pytest.raises(TooLarge):
        asyncio.run(BlobStore(tmp_path, max_bytes=4).put(pieces(b"hello")))


def test_a_blob_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        asyncio.run(whole(BlobStore(tmp_path), HELLO))
    with pytest.raises(NotFound):
        asyncio.run(BlobStore(tmp_path).size(HELLO))


@pytest.mark.parametrize("digest", ["", "sha256:abc", "../../etc/passwd", HELLO.upper()])
def test_what_is_no_digest_never_becomes_a_path(tmp_path, digest):
    with pytest.raises(InvalidRequest):
        asyncio.run(BlobStore(tmp_path).exists(digest))


# --- trees ---------------------------------------------------------------------------------------


def lay_out(directory: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    directory.mkdir(exist_ok=True)
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def packed_names(directory: Path) -> list[str]:
    packed = pack(directory)
    with tarfile.open(packed.path) as archive:
        found = archive.getnames()
    packed.path.unlink()
    return found


def test_a_tree_comes_back_with_its_executables_links_and_empty_directories(tmp_path):
    source = lay_out(tmp_path / "source", {"train.py": "print()", "bin/run": "#!", "a/b/ü": "x"})
    (source / "bin/run").chmod(0o700)
    (source / "empty").mkdir()
    (source / "bin/link").symlink_to("../train.py")
    packed = pack(source)
    (tmp_path / "copy").mkdir()
    unpack(packed.path, tmp_path / "copy")
    assert names(tmp_path / "copy") == names(source)
    assert (tmp_path / "copy/bin/link").read_text() == "print()"
    assert (tmp_path / "copy/bin/link").is_symlink()
    assert os.access(tmp_path / "copy/bin/run", os.X_OK)
    assert not (tmp_path / "copy/train.py").stat().st_mode & 0o111
    assert packed.size == packed.path.stat().st_size
    assert packed.digest == "sha256:" + hashlib.sha256(packed.path.read_bytes()).hexdigest()
    assert pack(tmp_path / "copy").digest == packed.digest


def test_equal_directories_have_equal_digests_whenever_they_were_written(tmp_path):
    files = {"a": "1", "b/c": "2"}
    one, two = (
        lay_out(tmp_path / "one", files),
        lay_out(tmp_path / "two", dict(reversed(files.items()))),
    )
    os.utime(two / "a", (1, 1))
    (two / "a").chmod(0o600)
    assert pack(one).digest == pack(two).digest
    (two / "a").write_text("3")
    assert pack(one).digest != pack(two).digest


def test_what_gitignore_names_at_any_level_is_left_out(tmp_path):
    source = lay_out(
        tmp_path / "source",
        {
            ".gitignore": "*.log\n/data\n__pycache__/\n",
            ".git/config": "",
            "a.log": "",
            "data/x": "",
            "sub/.gitignore": "!keep.log\nsecret\n",
            "sub/data/x": "",
            "sub/keep.log": "",
            "sub/other.log": "",
            "sub/secret": "",
            "sub/__pycache__/x.pyc": "",
            "secret": "",
        },
    )
    assert packed_names(source) == [
        ".gitignore",
        "secret",
        "sub",
        "sub/.gitignore",
        "sub/data",
        "sub/data/x",
        "sub/keep.log",
    ]


def test_a_platforms_home_goes_with_nobodys_code(tmp_path):
    source = lay_out(tmp_path / "source", {"main.py": "", "keys/one": ""})
    home = Home(source / "lepton")
    home.make()
    home.key_file.parent.mkdir()
    for secret in (home.key_file, home.token_file):
        secret.write_text("secret")
    assert packed_names(source) == ["keys", "keys/one", "main.py"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_link_that_leads_out_is_refused_by_name(tmp_path, target):
    source = lay_out(tmp_path / "source", {"sub/x": ""})
    (source / "evil").symlink_to(target)
    with pytest.raises(InvalidRequest, match="evil"):
        pack(source)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(lay_out(tmp_path / "source", {}) / "pipe")
    with pytest.raises(InvalidRequest, match="pipe"):
        pack(tmp_path / "source")


def a_tar(*members: tarfile.TarInfo) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    out.seek(0)
    return out


def a_member(name: str, type: bytes = tarfile.REGTYPE, link: str = "", size: int = 0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = type, link, size
    return member


@pytest.mark.parametrize(
    "members",
    [
        [a_member("/evil")],
        [a_member("../evil")],
        [a_member("a/../../evil")],
        [a_member("evil", tarfile.SYMTYPE, "/etc")],
        [a_member("evil", tarfile.SYMTYPE, "../x")],
        [a_member("evil", tarfile.LNKTYPE, "/etc/passwd")],
        [a_member("evil", tarfile.CHRTYPE)],
        [a_member("evil", tarfile.FIFOTYPE)],
        [a_member("evil", size=1), a_member("evil", size=1)],
        [a_member("evil"), a_member("evil/evil")],
        # through a link that climbs, which is harmless by itself
        [
            a_member("a/b/up", tarfile.SYMTYPE, "../.."),
            a_member("evil", tarfile.SYMTYPE, "a/b/up/../x"),
        ],
        [
            a_member("a/b/c", tarfile.SYMTYPE, "../.."),
            a_member("a/b/c/evil", tarfile.SYMTYPE, "../../../x"),
        ],
    ],
)
def test_no_member_gets_outside(tmp_path, members):
    (tmp_path / "inside").mkdir()
    with pytest.raises(InvalidRequest, match="evil"):
        unpack(a_tar(*members), tmp_path / "inside")
    assert names(tmp_path)[0] == "inside"
    assert all(name.startswith("inside") for name in names(tmp_path))


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "inside").mkdir()
    tar = a_tar(
        a_member("real", tarfile.DIRTYPE),
        a_member("link", tarfile.SYMTYPE, "real"),
        a_member("link/file", size=1),
    )
    with pytest.raises(InvalidRequest, match="twice"):
        unpack(tar, tmp_path / "inside")
    assert names(tmp_path / "inside/real") == []


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("leptonai.blobs.tree.MAX_TREE_BYTES", 1_000)
    with pytest.raises(TooLarge):
        unpack(a_tar(a_member("a", size=600), a_member("b", size=600)), tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"no tar at all", b"\x1f\x8b" + b"0" * 600, a_tar(a_member("x", size=5000)).getvalue()[:2000]],
)
def test_what_is_no_tar_is_refused(tmp_path, content):
    with pytest.raises(InvalidRequest, match="tar"):
        unpack(io.BytesIO(content), tmp_path)
