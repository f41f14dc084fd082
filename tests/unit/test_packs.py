"""Packs: one name, one content, however the bytes come in."""

import asyncio
import contextlib
import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leptonai.blobs import BlobStore
from leptonai.blobs.packs import MAGIC, Naming, encode_head, head_size, name_of_head
from leptonai.errors import InvalidRequest

members = st.lists(st.binary(max_size=100), max_size=20)


def a_pack(*contents, room=0):
    digests = [hashlib.sha256(content).digest() for content in contents]
    return encode_head(
        [len(content) for content in contents], digests, head_size(len(contents) + room)
    ) + b"".join(contents)


def name_of(data, piece=0):
    naming = Naming()
    for at in range(0, len(data), piece or max(1, len(data))):
        naming.update(data[at : at + (piece or len(data))])
    return f"sha256:{naming.hexdigest()}"


@given(members, st.integers(0, 5), st.integers(1, 200))
def test_a_pack_is_named_by_its_head_however_it_comes_in(contents, room, piece):
    pack = a_pack(*contents, room=room)
    head = pack[: head_size(len(contents) + room)]
    assert name_of(pack, piece) == name_of(pack) == name_of_head(head)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_other_blob_is_named_by_all_its_bytes(data, piece):
    assume(not data.startswith(MAGIC))
    assert name_of(data, piece) == f"sha256:{hashlib.sha256(data).hexdigest()}"


@given(members, st.integers(0, 5), st.data())
def test_a_pack_with_any_one_bit_changed_has_another_name_or_none(contents, room, data):
    pack = a_pack(*contents, room=room)
    bit = data.draw(st.integers(0, 8 * len(pack) - 1))
    changed = bytearray(pack)
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(InvalidRequest):
        assert name_of(changed) != name_of(pack)


@given(members, st.data())
def test_a_pack_that_is_cut_short_or_goes_on_has_no_name(contents, data):
    pack = a_pack(*contents)
    cut = data.draw(st.integers(len(MAGIC), len(pack) - 1))
    for torn in (pack[:cut], pack + b"x"):
        with pytest.raises(InvalidRequest, match="not a whole one"):
            name_of(torn)


@pytest.mark.parametrize(
    ("count", "head_bytes"), [(1 << 31, 1 << 31), (70_000, 4 << 20), (1, 16), (1, (1 << 32) - 1)]
)
def test_a_head_that_claims_too_much_is_refused_before_it_is_read(count, head_bytes):
    start = MAGIC + count.to_bytes(4, "little") + head_bytes.to_bytes(4, "little")
    with pytest.raises(InvalidRequest, match="not a whole one"):
        name_of(start)


def test_a_store_keeps_whole_packs_under_their_names_and_no_torn_ones(tmp_path):
    async def sent(data):
        yield data

    async def main():
        store, pack = BlobStore(tmp_path), a_pack(b"one", b"two")
        name, torn = name_of(pack), pack[:-1] + b"0"
        for expected in (None, name, f"sha256:{hashlib.sha256(torn).hexdigest()}"):
            with pytest.raises(InvalidRequest):
                await store.put(sent(torn), expected)
        assert not await store.exists(name)
        assert await store.put(sent(pack), name) == name
        assert b"".join([piece async for piece in store.get(name)]) == pack

    asyncio.run(main())
