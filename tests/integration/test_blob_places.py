"""Blobs in a bucket, in another directory, encrypted: a whole platform on them."""

import asyncio
import os
import urllib.request

import boto3
import pytest
from moto.server import ThreadedMotoServer

from leptonai import Dataset
from leptonai.blobs import BlobStore
from leptonai.data.cache import cache_of_this_machine
from leptonai.errors import Conflict, Internal, NotFound, Unavailable
from leptonai.testing.platform import RunningPlatform

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def s3_server():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bucket = boto3.resource("s3", endpoint_url=s3_server, region_name="us-east-1").Bucket("kept")
    bucket.create()
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


async def pieces(*parts):
    for part in parts:
        yield part


async def whole(blobs, *asked):
    return b"".join([piece async for piece in blobs.get(*asked)])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_bucket_keeps_blobs_as_a_directory_does(bucket, key):
    large = os.urandom(12 << 20)  # is sent in parts

    async def main():
        blobs = BlobStore("s3://kept/team", key=key, kept_unused_s=0)
        assert await blobs.is_empty()
        small = await blobs.put(pieces(b"hel", b"lo"))
        digest = await blobs.put(pieces(large))
        assert await blobs.put(pieces(b"hello"), small) == small
        assert not await blobs.is_empty()
        assert (await blobs.size(small), await blobs.size(digest)) == (5, len(large))
        assert await whole(blobs, digest) == large
        assert await whole(blobs, digest, 5 << 20, (5 << 20) + 3) == large[5 << 20 :][:3]
        empty = await blobs.put(pieces())
        assert (await blobs.size(empty), await whole(blobs, empty)) == (0, b"")
        assert await blobs.collect({digest}) == 2
        assert await blobs.exists(digest) and not await blobs.exists(small)
        with pytest.raises(NotFound):
            await whole(blobs, small)

    asyncio.run(main())


def test_what_was_put_just_now_is_not_collected(bucket):
    async def main():
        blobs = BlobStore("s3://kept", kept_unused_s=3_600)
        await blobs.put(pieces(b"just now"))
        assert await BlobStore("s3://kept", kept_unused_s=3_600).collect(()) == 0

    asyncio.run(main())


def test_two_platforms_never_share_a_bucket(bucket):
    async def main():
        blobs = BlobStore("s3://kept")
        assert await blobs.claim(platform="me", encrypt=True, alone=False) is True
        assert await blobs.claim(platform="me", encrypt=False, alone=False) is True
        with pytest.raises(Conflict, match="another platform"):
            await blobs.claim(platform="you", encrypt=False, alone=False)

    asyncio.run(main())


def test_a_bucket_that_cannot_be_reached_is_said(bucket, monkeypatch):
    with pytest.raises(Unavailable, match="the blobs cannot be reached"):
        asyncio.run(BlobStore("s3://nope").is_empty())


def test_a_bucket_that_may_not_be_read_is_said_with_what_to_do(bucket, s3_server):
    def authenticate(after):
        request = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", data=after)
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request).close()

    authenticate(b"0")
    try:
        with pytest.raises(Unavailable, match="the platform's credentials") as refused:
            asyncio.run(BlobStore("s3://kept").claim(platform="me", encrypt=False, alone=False))
    finally:
        authenticate(b"inf")
    assert "AWS_*" in refused.value.hint


def animals(root):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            (root / name / f"{number}.png").write_bytes(f"{name} {number}".encode())
    (root / "dog" / "large.png").write_bytes(b"large" * (1 << 20))
    return root


def kept_by(platform, root, tmp_path, monkeypatch):
    """Work with data and models there; returns the digest of an object."""
    monkeypatch.setenv("LEPTON_HOME", str(platform.home.path))
    platform.cli("dataset", "create", "-n", "pets", str(root))
    with platform.client() as client:
        dataset = Dataset.get("pets", client=client)
        assert bytes(dataset[0].data) == b"cat 0"
    platform.cli("model", "create", "-n", "net", str(root / "cat"))
    for kind, name, expected in (("dataset", "pets", root), ("model", "net", root / "cat")):
        copy = tmp_path / f"{kind}-copy"
        platform.cli(kind, "download", name, str(copy))
        assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*.png")} == {
            path.relative_to(expected): path.read_bytes() for path in expected.rglob("*.png")
        }
    return dataset.records.manifest.objects[0]


def test_a_platform_keeps_its_blobs_in_a_bucket(bucket, tmp_path, monkeypatch):
    root = animals(tmp_path / "animals")
    options = ("--blobs", "s3://kept/team", "--encrypt-blobs")
    with RunningPlatform(tmp_path / "home", *options) as platform:
        assert (platform.state.blobs, platform.state.blobs_encrypted) == ("s3://kept/team", True)
        digest = kept_by(platform, root, tmp_path, monkeypatch)
        (root / "main.py").write_text("print('ran from the bucket')")
        create = ("job", "create", "-n", "x", "--workdir", str(root))
        platform.cli(*create, "--", "python", "main.py")
        written = ("job", "log", "-f", "x")
        assert "ran from the bucket" in platform.cli(*written).stdout
        stored = {each.key: each.get()["Body"].read() for each in bucket.objects.all()}
        assert any(key.endswith(digest.removeprefix("sha256:")) for key in stored)
        assert not any(
            b"cat 0" in content or b"largelarge" in content for content in stored.values()
        )
        assert not any((platform.home.blobs / "sha256").glob("*/*"))
        # It is settled: nothing needs to be said again, and nothing else is taken.
        platform.cli("down")
        platform._options = ()
        platform.up()
        assert (platform.state.blobs, platform.state.blobs_encrypted) == ("s3://kept/team", True)
        refused = platform.cli("up", "-d", "--blobs", "s3://kept/other", check=False)
        assert "keeps its blobs in s3://kept/team, encrypted" in refused.stderr
        platform.cli("down")
        refused = platform.cli("up", "-d", "--blobs", str(tmp_path / "dir"), check=False)
        assert "the blobs of this platform lie in s3://kept/team" in refused.stderr
        platform.up()
        assert platform.cli("dataset", "get", "pets").returncode == 0
    with pytest.raises(AssertionError, match="those of another platform"):
        RunningPlatform(tmp_path / "second", "--blobs", "s3://kept/team").up()


def test_blobs_of_another_directory_are_read_as_they_lie(tmp_path, monkeypatch):
    place = tmp_path / "disk two"
    with RunningPlatform(tmp_path / "home", "--blobs", str(place)) as platform:
        root = animals(tmp_path / "animals")
        digest = kept_by(platform, root, tmp_path, monkeypatch)
        assert [*place.glob(f"sha256/*/{digest.removeprefix('sha256:')}")]
        assert not (platform.home.path / "cache").exists(), "nothing is copied"


def test_encrypted_blobs_of_this_machine_are_read_through_a_cache(tmp_path, monkeypatch):
    with RunningPlatform(tmp_path / "home", "--encrypt-blobs") as platform:
        root = animals(tmp_path / "animals")
        kept_by(platform, root, tmp_path, monkeypatch)
        stored = [path.read_bytes() for path in platform.home.blobs.glob("sha256/*/*")]
        assert stored and all(content.startswith(b"LEPTONE1") for content in stored)
        assert [*(platform.home.path / "cache" / "blobs").glob("sha256/*/*")]


def test_a_blob_that_was_changed_where_it_lies_is_said_to_be(tmp_path, monkeypatch):
    with RunningPlatform(tmp_path / "home", "--encrypt-blobs") as platform:
        monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "elsewhere"))
        (tmp_path / "data.bin").write_bytes(os.urandom(1 << 20))
        with platform.client() as client:
            Dataset.create("data", tmp_path / "data.bin", client=client)
            cache_of_this_machine().empty()
            largest = max(
                (path for path in platform.home.blobs.rglob("*") if path.is_file()),
                key=lambda path: path.stat().st_size,
            )
            with largest.open("r+b") as file:
                file.seek(700_000)
                file.write(b"changed")
            with pytest.raises(Internal, match="it was changed after it was written"):
                client.datasets.download("data", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


def test_plain_blobs_do_not_become_encrypted_ones(tmp_path, monkeypatch):
    with RunningPlatform(tmp_path / "home") as platform, platform.client() as client:
        client.trees.push(animals(tmp_path / "animals"))
        platform.cli("down")
        refused = platform.cli("up", "-d", "--encrypt-blobs", check=False)
        assert "holds blobs that are not encrypted" in refused.stderr
        platform.up()


def test_places_that_are_none_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="'ftp://host/x' names no bucket"):
        RunningPlatform(tmp_path / "home", "--blobs", "ftp://host/x").up()
