"""Every store decides alike, whatever is asked of it in whatever order."""

import asyncio
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.core.records import Job
from leptonai.errors import LeptonError
from leptonai.ports.store import Batch, Change, Delete, Emit, Fence, Put, Query, Store
from leptonai.spec.jobs import JobState
from leptonai.stores import open_store
from leptonai.testing.store_contract import a_job, an_event

IDS, KEYS, STATES = ("a", "b", "c%"), ("", "k", "l"), (JobState.QUEUEING, JobState.COMPLETED)

jobs = st.builds(
    a_job,
    st.sampled_from(IDS),
    workspace=st.sampled_from(("default", "other")),
    name=st.sampled_from(("train", "Train", "t_ain")),
    idempotency_key=st.sampled_from(KEYS),
    state=st.sampled_from(STATES),
    created_at_ms=st.integers(0, 3),
    version=st.integers(0, 3),
)
changes = st.one_of(
    st.builds(Put, jobs),
    st.builds(Put, jobs.map(lambda job: replace(job, version=0))),
    st.builds(Delete, jobs),
    st.builds(Emit, st.builds(an_event, st.sampled_from(IDS), st.just("Changed"))),
)
fences = st.one_of(st.none(), st.builds(Fence, st.just("loops"), st.integers(0, 2)))
commits = st.tuples(st.lists(changes, min_size=0, max_size=4), fences)
queries = st.builds(
    Query,
    workspace=st.sampled_from((None, "default")),
    ids=st.sampled_from((None, ("a", "c%"))),
    states=st.sampled_from((None, ("Queueing",))),
    not_states=st.sampled_from(((), ("Completed",))),
    search=st.sampled_from((None, "t_", "%", "ra")),
    live=st.sampled_from((None, True, False)),
    newest_first=st.booleans(),
    offset=st.integers(0, 2),
    limit=st.sampled_from((None, 0, 1, 5)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(commits, max_size=12), st.lists(queries, max_size=4), st.integers(0, 12))
def test_memory_and_sqlite_give_equal_answers(
    asked: list[tuple[list[Change], Fence | None]], queries: list[Query], after: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        urls = ("memory:", f"sqlite:///{directory}/lepton.db")
        in_memory, in_sqlite = (asyncio.run(history(url, asked, queries, after)) for url in urls)
    assert in_memory == in_sqlite


async def history(
    url: str, asked: list[tuple[list[Change], Fence | None]], queries: list[Query], after: int
) -> list[Any]:
    """Everything that the store says."""
    store = await open_store(url)
    try:
        await store.lease("loops")
        said: list[Any] = [await outcome(store, *commit) for commit in asked]
        said.append([await store.find(Job, query) for query in queries])
        said.append([await store.count(Job, query) for query in queries])
        said.append(await store.events("default", after=after))
        said.append(await store.seq())
        said.append(await told_after(store, after))
        return said
    finally:
        await store.close()


async def outcome(store: Store, changes: list[Change], fence: Fence | None) -> Any:
    try:
        return await store.commit(*changes, fence=fence)
    except LeptonError as error:
        return type(error), error.wire(), getattr(error, "existing_id", "")


async def told_after(store: Store, after: int) -> Batch:
    """The first batch for a follower who begins there."""
    following = asyncio.ensure_future(anext(store.changes(min(after, await store.seq()))))
    # A last change makes certain that there is something to be told.
    await store.commit(Put(a_job("last", workspace="elsewhere")))
    batch = await following
    return Batch(
        0,
        tuple(record for record in batch.records if record.id != "last"),
        batch.deleted,
    )
