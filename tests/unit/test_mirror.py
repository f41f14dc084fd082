"""The mirror shows what the store holds, whatever becomes of the connection between them."""

import asyncio

import pytest
from msgspec.structs import replace

from leptonai.control.mirror import Mirror
from leptonai.core.records import Job
from leptonai.errors import Conflict, Unavailable
from leptonai.ports.store import Delete, Fence, Put
from leptonai.spec.jobs import JobSpec
from leptonai.stores.memory import MemoryStore
from leptonai.testing.virtual_time import run


def a_job(id: str) -> Job:
    return Job(workspace="default", id=id, name=id, created_at_ms=1, spec=JobSpec())


async def written(store: MemoryStore, job: Job) -> Job:
    (job,) = await store.commit(Put(job))
    return job


class LosesSight(MemoryStore):
    """Its next followers are told an error instead of news."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def changes(self, after):
        if self.errors:
            raise self.errors.pop(0)
        async for batch in super().changes(after):
            yield batch


def test_one_that_fell_too_far_behind_reads_everything_again():
    async def main():
        store, mirror = LosesSight(Conflict("forgotten")), Mirror()
        removed = await written(store, a_job("removed"))
        await mirror.load(store)
        await store.commit(Delete(removed))
        kept = await written(store, a_job("kept"))
        following = asyncio.create_task(mirror.follow(store))
        await asyncio.sleep(1)
        assert list(mirror.jobs.values()) == [kept]
        changed = await written(store, replace(kept, message="changed"))
        await asyncio.sleep(1)
        assert list(mirror.jobs.values()) == [changed]
        following.cancel()

    run(main())


def test_one_that_lost_its_store_goes_on_where_it_was():
    async def main():
        store, mirror = LosesSight(Unavailable("restarting")), Mirror()
        await mirror.load(store)
        job = await written(store, a_job("job"))
        with pytest.raises(Unavailable):
            await mirror.follow(store)
        following = asyncio.create_task(mirror.follow(store))
        await asyncio.sleep(1)
        assert list(mirror.jobs.values()) == [job]
        following.cancel()

    run(main())


def test_an_answer_that_comes_after_the_news_of_a_removal_brings_nothing_back():
    async def main():
        store, mirror = MemoryStore(), Mirror()
        await mirror.load(store)
        following = asyncio.create_task(mirror.follow(store))
        fence = Fence("control", (await store.lease("control")).epoch)
        (job,) = await mirror.commit(store, Put(a_job("job")), fence=fence)
        assert list(mirror.jobs.values()) == [job]
        await store.commit(Delete(job))
        await asyncio.sleep(1)
        mirror.notice([job])
        assert mirror.jobs == {}
        following.cancel()

    run(main())
