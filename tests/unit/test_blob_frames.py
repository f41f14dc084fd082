"""Encrypted blobs: what comes back is what was put, or nothing."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.blobs import BlobStore, frames
from leptonai.blobs.frames import FRAME_BYTES, HEAD_BYTES, Opening, Sealing
from leptonai.blobs.ownership import Mark, decide
from leptonai.blobs.store import blob_path
from leptonai.errors import Conflict, Internal

KEY = bytes(range(32))
SEALED_BYTES = frames.SEALED_FRAME_BYTES
sizes = st.integers(0, 2 * FRAME_BYTES + 2)


CONTENT = hashlib.shake_128(b"content").digest(41 * FRAME_BYTES)


def content(size: int) -> bytes:
    return CONTENT[:size]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sealed(data: bytes, piece: int = 100_000) -> bytes:
    sealing = Sealing(KEY)
    parts = [sealing.feed(data[at : at + piece]) for at in range(0, len(data), piece)]
    last, head = sealing.end(digest_of(data))
    return b"".join([head, *parts, last])


def opened(file: bytes, digest: str, key: bytes = KEY) -> bytes:
    size = frames.plain_size(len(file))
    opening = Opening(key, file[:HEAD_BYTES], digest, size)
    return b"".join(
        opening.open(
            frame, file[frames.sealed_place(frame) : frames.sealed_place(frame) + SEALED_BYTES]
        )
        for frame in range(frames.frame_count(size))
    )


@given(sizes, st.integers(1, 200_000))
def test_what_is_sealed_opens_and_its_size_shows(size, piece):
    data = content(size)
    file = sealed(data, piece)
    assert opened(file, digest_of(data)) == data
    assert frames.plain_size(len(file)) == size


@given(st.data())
def test_a_file_that_was_changed_anywhere_does_not_open(chosen):
    data = content(chosen.draw(sizes))
    file = bytearray(sealed(data))
    file[chosen.draw(st.integers(0, len(file) - 1))] ^= 1 << chosen.draw(st.integers(0, 7))
    with pytest.raises(Internal, match="an encrypted blob cannot be read"):
        opened(bytes(file), digest_of(data))


@given(st.data())
def test_a_file_that_was_cut_short_does_not_open(chosen):
    data = content(chosen.draw(sizes))
    file = sealed(data)
    with pytest.raises(Internal):
        opened(file[: chosen.draw(st.integers(0, len(file) - 1))], digest_of(data))


def test_frames_do_not_open_at_another_place_nor_under_another_name_or_key():
    data = content(3 * FRAME_BYTES)
    file = sealed(data)
    one, two = (HEAD_BYTES + number * SEALED_BYTES for number in (1, 2))
    swapped = file[: one - SEALED_BYTES] + file[one:two] + file[HEAD_BYTES:one] + file[two:]
    cut_at_a_frame = file[:two]
    for spoilt in (swapped, cut_at_a_frame):
        with pytest.raises(Internal):
            opened(spoilt, digest_of(data))
    with pytest.raises(Internal, match="another key"):
        opened(file, digest_of(b"another"))
    with pytest.raises(Internal, match="another key"):
        opened(file, digest_of(data), key=bytes(32))
    assert sealed(b"twice") != sealed(b"twice"), "nobody learns that two places hold the same"


async def pieces(data: bytes):
    for at in range(0, len(data), 50_000):
        yield data[at : at + 50_000]


async def whole(blobs, *asked):
    return b"".join([piece async for piece in blobs.get(*asked)])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_any_range_of_a_blob_is_read(tmp_path, key):
    data = content(40 * FRAME_BYTES + 17)  # more than one request

    async def main():
        blobs = BlobStore(tmp_path, key=key)
        digest = await blobs.put(pieces(data))
        assert digest == digest_of(data)
        assert await blobs.size(digest) == len(data)
        assert await whole(blobs, digest) == data
        edges = [0, 1, FRAME_BYTES, 32 * FRAME_BYTES, 33 * FRAME_BYTES - 1, len(data) - 1]
        for start in edges:
            for end in [*edges, len(data)]:
                assert await whole(blobs, digest, start, end) == data[start:end]
        empty = await blobs.put(pieces(b""))
        assert (await blobs.size(empty), await whole(blobs, empty)) == (0, b"")

    asyncio.run(main())


def test_no_plain_byte_lies_on_the_disk(tmp_path, monkeypatch):
    secret = b"nobody may read this " * 1_000_000
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def main():
        blobs = BlobStore(tmp_path, key=KEY)
        return await blobs.put(pieces(secret))

    digest = asyncio.run(main())
    file = tmp_path / blob_path(digest)
    assert b"nobody" not in file.read_bytes()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_blob_that_somebody_changed_on_the_disk_is_not_handed_out(tmp_path):
    async def main():
        blobs = BlobStore(tmp_path, key=KEY)
        digest = await blobs.put(pieces(content(100)))
        file = Path(tmp_path / blob_path(digest))
        spoilt = bytearray(file.read_bytes())
        spoilt[-1] ^= 1
        file.write_bytes(spoilt)
        with pytest.raises(Internal, match="changed after it was written"):
            await whole(blobs, digest)

    asyncio.run(main())


# --- whose they are ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "encrypt", "empty", "then"),
    [
        (None, False, True, Mark("me")),
        (None, True, True, Mark("me", True)),
        (None, False, False, Mark("me")),  # moved here without its mark, or of a version before
        (Mark("me"), False, False, Mark("me")),
        (Mark("me"), True, True, Mark("me", True)),
        (Mark("me", True), False, False, Mark("me", True)),  # need not be said again
        (Mark("me", True), True, False, Mark("me", True)),
        (None, True, False, "holds blobs that are not encrypted"),
        (Mark("me"), True, False, "holds blobs that are not encrypted"),
        (Mark("you"), False, True, "those of another platform"),
        (Mark("you", True), True, False, "those of another platform"),
    ],
)
def test_a_place_has_one_platform_and_is_encrypted_as_a_whole(found, encrypt, empty, then):
    def decided():
        return decide(found, platform="me", encrypt=encrypt, empty=empty, place="there")

    if isinstance(then, Mark):
        assert decided() == then
        return
    with pytest.raises(Conflict, match=then):
        decided()
