"""Blobs that nothing refers to are removed, and none that is referred to or is about to be."""

import asyncio
import hashlib
import os
from pathlib import Path

import msgspec
import obstore
import pytest

from leptonai.blobs import BlobStore
from leptonai.blobs.columns import encode_head, padding
from leptonai.blobs.manifest import OBJECTS, objects_of
from leptonai.control.loops.retention import COLLECT_EVERY_MS, RetentionLoop
from leptonai.control.mirror import Mirror
from leptonai.core.lifecycle.endpoint import advance as advance_endpoint
from leptonai.core.lifecycle.endpoint import new_endpoint
from leptonai.core.lifecycle.job import advance as advance_job
from leptonai.core.lifecycle.job import new_job
from leptonai.core.records import Dataset, Model, Secret
from leptonai.core.references import digests_in
from leptonai.errors import InvalidRequest
from leptonai.ports.store import Put
from leptonai.spec.artifacts import ArtifactSpec
from leptonai.spec.containers import Container
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.jobs import JobSpec
from leptonai.stores.memory import MemoryStore

LONG_AGO_S = 1_600_000_000


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_of(place: Path, digest: str) -> Path:
    (found,) = place.rglob(digest.removeprefix("sha256:"))
    return found


async def put(blobs: BlobStore, data: bytes) -> str:
    async def stream():
        yield data

    return await blobs.put(stream())


async def an_old_store(place: Path, *contents: bytes) -> BlobStore:
    """As a process finds it that starts today: all of it was written long ago."""
    for data in contents:
        digest = await put(BlobStore(place), data)
        os.utime(file_of(place, digest), (LONG_AGO_S, LONG_AGO_S))
    return BlobStore(place)


# --- what goes and what stays --------------------------------------------------------------------


def test_what_is_in_use_stays_and_the_rest_goes(tmp_path):
    async def main():
        blobs = await an_old_store(tmp_path, b"a", b"b", b"c")
        assert await blobs.collect({digest_of(b"b")}) == 2
        left = [await blobs.exists(digest_of(data)) for data in (b"a", b"b", b"c")]
        assert left == [False, True, False]

    asyncio.run(main())


def test_what_was_just_written_stays_whoever_wrote_it(tmp_path):
    async def main():
        await put(BlobStore(tmp_path), b"by another process")
        assert await BlobStore(tmp_path).collect(()) == 0

    asyncio.run(main())


@pytest.mark.parametrize("way", ["put again", "said to be there", "its size told"])
def test_an_old_blob_stays_that_somebody_was_just_told_of(tmp_path, way):
    async def main():
        blobs = await an_old_store(tmp_path, b"a", b"b")
        if way == "put again":
            await put(blobs, b"a")
        elif way == "said to be there":
            assert await blobs.exists(digest_of(b"a"))
        else:
            assert await blobs.size(digest_of(b"a")) == 1
        assert await blobs.collect(()) == 1
        assert await blobs.exists(digest_of(b"a"))

    asyncio.run(main())


def test_after_a_while_it_goes_all_the_same(tmp_path):
    async def main():
        blobs = BlobStore(tmp_path, kept_unused_s=0)
        await put(blobs, b"a")
        assert await blobs.exists(digest_of(b"a"))
        assert await blobs.collect(()) == 1

    asyncio.run(main())


def test_what_is_no_blob_is_left_alone(tmp_path):
    async def main():
        blobs = await an_old_store(tmp_path, b"a")
        stranger = file_of(tmp_path, digest_of(b"a")).with_name("notes")
        stranger.write_text("mine")
        os.utime(stranger, (LONG_AGO_S, LONG_AGO_S))
        assert await blobs.collect(()) == 1
        assert stranger.exists()

    asyncio.run(main())


def test_who_asks_for_a_blob_that_is_being_removed_is_told_that_it_is_gone(tmp_path, monkeypatch):
    async def main():
        blobs = await an_old_store(tmp_path, b"a")
        begun, go_on = asyncio.Event(), asyncio.Event()
        delete = obstore.delete_async

        async def slow_delete(*arguments):
            begun.set()
            await go_on.wait()
            await delete(*arguments)

        monkeypatch.setattr(obstore, "delete_async", slow_delete)
        collection = asyncio.create_task(blobs.collect(()))
        await begun.wait()
        question = asyncio.create_task(blobs.exists(digest_of(b"a")))
        upload = asyncio.create_task(put(blobs, b"a"))
        await asyncio.sleep(0.05)
        assert not question.done()  # a yes would be a lie in a moment
        go_on.set()
        assert (await collection, await question) == (1, False)
        assert await upload == digest_of(b"a")
        assert await blobs.exists(digest_of(b"a"))

    asyncio.run(main())


def test_uploads_that_race_with_a_collection_are_all_there_afterwards(tmp_path):
    async def main():
        contents = [str(number).encode() for number in range(150)]
        blobs = await an_old_store(tmp_path, *contents)
        collections = [asyncio.create_task(blobs.collect(())) for _ in range(3)]
        uploads = []
        for data in contents[::-1]:
            uploads.append(asyncio.create_task(put(blobs, data)))
            await asyncio.sleep(0)
        await asyncio.gather(*collections, *uploads)
        assert all([await blobs.exists(digest_of(data)) for data in contents])

    asyncio.run(main())


@pytest.mark.parametrize("asked_meanwhile", [False, True])
def test_a_blob_that_is_put_again_stays_though_a_slow_collection_has_it_on_its_list(
    tmp_path, monkeypatch, asked_meanwhile
):
    async def main():
        blobs = await an_old_store(tmp_path, b"a", b"b")
        written, go_on = asyncio.Event(), asyncio.Event()
        put_async, listing = obstore.put_async, list(obstore.list(blobs._store, prefix="sha256"))

        async def slow_put(*arguments):
            await put_async(*arguments)
            written.set()
            await go_on.wait()

        async def the_old_list(*arguments, **options):
            for page in listing:
                yield page

        assert await blobs.collect(()) == 2
        monkeypatch.setattr(obstore, "put_async", slow_put)
        monkeypatch.setattr(obstore, "list", the_old_list)
        upload = asyncio.create_task(put(blobs, b"a"))
        await written.wait()
        if asked_meanwhile:
            assert await blobs.exists(digest_of(b"a"))
        assert await blobs.collect(()) == 0
        go_on.set()
        await upload
        assert await blobs.collect(()) == 0
        assert await blobs.exists(digest_of(b"a"))

    asyncio.run(main())


# --- what refers to a blob -----------------------------------------------------------------------

WORKDIR, MODEL = digest_of(b"workdir"), digest_of(b"model")
MADE = {"workspace": "w", "owner": "ada", "labels": {}, "visibility": "", "now_ms": 1}


def an_artifact(kind, **fields):
    spec = ArtifactSpec(digest=MODEL, size_bytes=1, format="f")
    return kind(workspace="w", id="m@1", name="m", created_at_ms=1, spec=spec, number=1, **fields)


def test_a_job_and_its_workers_refer_to_their_files():
    spec = JobSpec(container=Container(command=["true"]), workdir=WORKDIR)
    step = advance_job(new_job(id="j", name="j", spec=spec, **MADE), (), 1)
    assert [digests_in(each) for each in (step.owner, *step.replicas)] == [{WORKDIR}, {WORKDIR}]


def test_an_endpoint_and_its_servers_refer_to_their_files_and_their_model():
    spec = EndpointSpec(container=Container(command=["serve"]), workdir=WORKDIR, model="m")
    endpoint = new_endpoint(name="e", spec=spec, model_digest=MODEL, **MADE)
    step = advance_endpoint(endpoint, (), 1)
    assert len(step.replicas) == 1
    for record in (step.owner, *step.replicas):
        assert digests_in(record) == {WORKDIR, MODEL}


@pytest.mark.parametrize("kind", [Dataset, Model])
def test_an_artifact_refers_to_its_tree_until_it_is_deleted(kind):
    assert digests_in(an_artifact(kind)) == {MODEL}
    assert digests_in(an_artifact(kind, deleted=True)) == set()


def test_what_stands_in_any_other_field_counts_too():
    secret = Secret(
        workspace="w", id="s", name="s", created_at_ms=1, labels={"of": WORKDIR}, ciphertext=b""
    )
    assert digests_in(secret) == {WORKDIR}


# --- what a version's manifest refers to ---------------------------------------------------------


def a_manifest(*contents: bytes, rest: bytes = b"") -> bytes:
    """Of objects with these contents."""
    digests = b"".join(hashlib.sha256(data).digest() for data in contents)
    head = encode_head(
        {}, {OBJECTS: ("u1", (len(contents), 32)), "size": ("u8", (len(rest) // 8,))}
    )
    return head + digests + padding(len(digests)) + rest


@pytest.mark.parametrize("rest", [b"", bytes(3 << 20)])
def test_the_objects_of_a_manifest_are_read_from_its_beginning(tmp_path, rest):
    async def main():
        blobs = BlobStore(tmp_path)
        digest = await put(blobs, a_manifest(b"a", b"b", rest=rest))
        assert await objects_of(blobs, digest) == (digest_of(b"a"), digest_of(b"b"))
        none = await put(blobs, a_manifest())
        assert await objects_of(blobs, none) == ()

    asyncio.run(main())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no manifest",
        a_manifest(b"a")[:-40],
        a_manifest(b"a")[:30],
        encode_head({}, {"size": ("u8", (1,))}) + bytes(64),
        encode_head({}, {OBJECTS: ("u8", (1, 32))}) + bytes(256),
        b"LEPTONC1" + b"\xff" * 100,
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, content):
    async def main():
        blobs = BlobStore(tmp_path)
        digest = await put(blobs, content)
        with pytest.raises(InvalidRequest):
            await objects_of(blobs, digest)

    asyncio.run(main())


# --- both together -------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms


def test_the_retention_loop_removes_what_no_record_of_its_store_refers_to(tmp_path):
    async def main():
        store, clock, blobs = MemoryStore(), Clock(), BlobStore(tmp_path, kept_unused_s=0)
        for data in (b"workdir", b"model", b"left over"):
            await put(blobs, data)
        spec = JobSpec(container=Container(command=["true"]), workdir=WORKDIR)
        job = new_job(id="j", name="j", spec=spec, **MADE)
        (_, model) = await store.commit(Put(job), Put(an_artifact(Model)))
        loop = RetentionLoop(Mirror(), store, await store.lease("control"), clock, blobs)

        async def left() -> set[str]:
            clock.ms += COLLECT_EVERY_MS
            await loop.step()
            return {f"sha256:{path.name}" for path in tmp_path.rglob("*") if path.is_file()}

        assert await left() == {WORKDIR, MODEL}
        manifest = await put(blobs, a_manifest(b"pack"))
        pack = await put(blobs, b"pack")
        version = an_artifact(Dataset)
        spec = msgspec.structs.replace(version.spec, digest=manifest, layout="manifest")
        (version,) = await store.commit(Put(msgspec.structs.replace(version, spec=spec)))
        assert await left() == {WORKDIR, MODEL, manifest, pack}
        await store.commit(Put(msgspec.structs.replace(version, deleted=True)))
        assert await left() == {WORKDIR, MODEL}
        await store.commit(Put(msgspec.structs.replace(model, deleted=True)))
        assert await left() == {WORKDIR}

    asyncio.run(main())
