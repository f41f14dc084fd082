"""The promise of `leptonai.ports.store` as a test suite.

Hold a store to it by telling how to open one::

    class TestMyStore(StoreContract):
        async def open(self, where: Path) -> Store:
            return await my_store_at(where)

Every test gets an empty directory of its own. Opening twice at one place must give the same
records; a store that keeps nothing beyond its own life returns the one it made before.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from leptonai.core.records import (
    AnyRecord,
    Event,
    Job,
    OwnerKind,
    Phase,
    Program,
    Record,
    Replica,
    Secret,
)
from leptonai.errors import AlreadyExists, Conflict, InvalidRequest, StaleEpoch, VersionConflict
from leptonai.ports.store import Batch, Delete, Emit, Fence, Put, Query, Store
from leptonai.spec.jobs import JobSpec, JobState

FOLLOW_WAIT_S = 30.0  # for what must come; how long it takes is not tested here


def a_job(id: str, *, workspace: str = "default", name: str = "train", **fields: Any) -> Job:
    given: dict[str, Any] = {"created_at_ms": 1_000, "spec": JobSpec(), "owner": "admin"} | fields
    return Job(workspace=workspace, id=id, name=name, **given)


def a_replica(id: str, *, owner_id: str = "j1", **fields: Any) -> Replica:
    given: dict[str, Any] = {
        "workspace": "default",
        "created_at_ms": 1_000,
        "gang": "g",
        "index": 0,
    } | fields
    return Replica(
        id=id,
        name=id,
        owner_kind=OwnerKind.JOB,
        owner_id=owner_id,
        owner_name="train",
        program=Program(command=("true",)),
        **given,
    )


def a_secret(id: str, ciphertext: bytes = b"\x00\xff") -> Secret:
    return Secret(workspace="default", id=id, name=id, created_at_ms=1_000, ciphertext=ciphertext)


def an_event(id: str, reason: str, *, at_ms: int = 1_000, **fields: Any) -> Event:
    given: dict[str, Any] = {
        "workspace": "default",
        "kind": "job",
        "name": "train",
        "message": "",
    } | fields
    return Event(id=id, reason=reason, at_ms=at_ms, **given)


def ids(records: "list[Any] | tuple[Any, ...]") -> list[str]:
    return [record.id for record in records]


async def put(store: Store, record: Any) -> Any:
    (written,) = await store.commit(Put(record))
    return written


async def follow(store: Store, after: int, until: Callable[[list[Batch]], bool]) -> list[Batch]:
    """What a follower is told, up to the batch that is enough."""
    batches: list[Batch] = []
    async with asyncio.timeout(FOLLOW_WAIT_S), aclosing(_generator(store, after)) as told:
        async for batch in told:
            batches.append(batch)
            if until(batches):
                break
    return batches


async def _generator(store: Store, after: int) -> Any:
    async for batch in store.changes(after):
        yield batch


def has_last(batches: list[Batch]) -> bool:
    return any(record.id == "last" for record in batches[-1].records)


class Mirror:
    """What a follower knows who applies every batch."""

    def __init__(self) -> None:
        self.records: dict[tuple[type[Record], str, str], Record] = {}
        self.seq = 0

    def take(self, batch: Batch) -> None:
        assert batch.seq > self.seq, "batches never go back"
        assert [record.seq for record in batch.records] == sorted(
            record.seq for record in batch.records
        )
        assert all(self.seq < record.seq <= batch.seq for record in batch.records)
        self.seq = batch.seq
        for record in batch.records:
            self.records[type(record), record.workspace, record.id] = record
        for record in batch.deleted:
            self.records.pop((type(record), record.workspace, record.id), None)


class StoreContract:
    """Every store passes every test."""

    async def open(self, where: Path) -> Store:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, where: Path) -> AsyncIterator[Store]:
        store = await self.open(where)
        try:
            yield store
        finally:
            await store.close()

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[[Callable[[Store], Awaitable[None]]], None]:
        """Runs a test with a new store."""

        def run(test: Callable[[Store], Awaitable[None]]) -> None:
            async def with_store() -> None:
                async with self.opened(tmp_path) as store:
                    await test(store)

            asyncio.run(with_store())

        return run

    # --- one record ------------------------------------------------------------------------------

    def test_what_was_committed_is_read_back_whole(self, run: Any) -> None:
        async def test(store: Store) -> None:
            job = a_job("j1", labels={"team": "vision"}, name="Übung 'a' \"b\" %_\\ 漢字 🎉")
            written = await put(store, job)
            assert written == replace(job, version=1, seq=written.seq)
            assert written.seq > 0
            assert await store.get(Job, "default", "j1") == written
            assert await store.find(Job, Query()) == [written]
            secret = await put(store, a_secret("key", bytes(range(256))))
            assert await store.get(Secret, "default", "key") == secret

        run(test)

    def test_a_record_is_found_only_in_its_own_kind_and_workspace(self, run: Any) -> None:
        async def test(store: Store) -> None:
            job = await put(store, a_job("same"))
            secret = await put(store, a_secret("same"))
            other = await put(store, a_job("same", workspace="other"))
            assert await store.get(Job, "default", "same") == job
            assert await store.get(Secret, "default", "same") == secret
            assert await store.get(Job, "other", "same") == other
            assert await store.get(Job, "third", "same") is None
            assert await store.get(Replica, "default", "same") is None
            assert await store.find(Job, Query(workspace="default")) == [job]
            assert await store.find(Replica, Query()) == []

        run(test)

    def test_versions_count_commits_and_seqs_grow(self, run: Any) -> None:
        async def test(store: Store) -> None:
            first = await put(store, a_job("j1"))
            second = await put(store, replace(first, state=JobState.RUNNING))
            third = await put(store, replace(second, state=JobState.COMPLETED))
            assert [first.version, second.version, third.version] == [1, 2, 3]
            assert first.seq < second.seq < third.seq
            assert await store.seq() == third.seq
            assert await store.get(Job, "default", "j1") == third

        run(test)

    def test_a_change_of_an_old_version_is_refused_and_changes_nothing(self, run: Any) -> None:
        async def test(store: Store) -> None:
            first = await put(store, a_job("j1"))
            second = await put(store, replace(first, message="newer"))
            for change in (
                Put(replace(first, message="older")),
                Put(replace(first, version=7)),
                Delete(first),
                Put(a_job("never", version=1)),
                Delete(a_job("never")),
            ):
                with pytest.raises(VersionConflict):
                    await store.commit(change)
            assert await store.find(Job, Query()) == [second]

        run(test)

    def test_an_id_is_taken_once_for_ever(self, run: Any) -> None:
        async def test(store: Store) -> None:
            job = await put(store, a_job("j1"))
            with pytest.raises(AlreadyExists) as caught:
                await store.commit(Put(a_job("j1", name="another")))
            assert caught.value.existing_id == "j1"
            await store.commit(Delete(job))
            with pytest.raises(AlreadyExists):
                await store.commit(Put(a_job("j1")))
            for change in (Put(job), Delete(job)):
                with pytest.raises(VersionConflict):
                    await store.commit(change)
            assert await store.find(Job, Query()) == []

        run(test)

    def test_a_deleted_record_is_in_no_answer(self, run: Any) -> None:
        async def test(store: Store) -> None:
            job = await put(store, a_job("j1", idempotency_key="k"))
            kept = await put(store, a_job("j2"))
            assert await store.commit(Delete(job)) == ()
            assert await store.get(Job, "default", "j1") is None
            assert await store.find(Job, Query()) == [kept]
            assert await store.find(Job, Query(ids=("j1",))) == []
            assert await store.find(Job, Query(unique_key="k")) == []
            assert await store.count(Job, Query()) == 1

        run(test)

    # --- unique keys -----------------------------------------------------------------------------

    def test_a_unique_key_has_one_holder(self, run: Any) -> None:
        async def test(store: Store) -> None:
            await put(store, a_job("j1", idempotency_key="k"))
            with pytest.raises(AlreadyExists) as caught:
                await store.commit(Put(a_job("j2", idempotency_key="k")))
            assert caught.value.existing_id == "j1"
            other = await put(store, a_job("j2"))
            with pytest.raises(AlreadyExists) as caught:
                await store.commit(Put(replace(other, idempotency_key="k")))
            assert caught.value.existing_id == "j1"
            # Elsewhere it is free.
            await put(store, a_job("j3", workspace="other", idempotency_key="k"))
            assert ids(await store.find(Job, Query(unique_key="k"))) == ["j1", "j3"]

        run(test)

    def test_a_unique_key_is_free_again_at_once(self, run: Any) -> None:
        async def test(store: Store) -> None:
            first = await put(store, a_job("j1", idempotency_key="k"))
            await store.commit(Delete(first))
            second = await put(store, a_job("j2", idempotency_key="k"))
            second = await put(store, replace(second, idempotency_key="changed"))
            third = await put(store, a_job("j3", idempotency_key="k"))
            # Also inside one commit: keys change hands in the order of the changes.
            await store.commit(Delete(third), Put(replace(second, idempotency_key="k")))
            with pytest.raises(AlreadyExists) as caught:
                await store.commit(Put(a_job("j4", idempotency_key="k")))
            assert caught.value.existing_id == "j2"

        run(test)

    def test_two_records_can_swap_unique_keys_in_one_commit(self, run: Any) -> None:
        async def test(store: Store) -> None:
            a = await put(store, a_job("a", idempotency_key="1"))
            b = await put(store, a_job("b", idempotency_key="2"))
            *_, b, a = await store.commit(
                Put(replace(a, idempotency_key="")),
                Put(replace(b, idempotency_key="1")),
                Put(replace(a, idempotency_key="2", version=2)),
            )
            assert (a.version, b.version) == (3, 2)
            assert await store.find(Job, Query(unique_key="1")) == [b]
            assert await store.find(Job, Query(unique_key="2")) == [a]

        run(test)

    # --- commits ---------------------------------------------------------------------------------

    def test_a_commit_is_applied_whole_or_not_at_all(self, run: Any) -> None:
        async def test(store: Store) -> None:
            old = await put(store, a_job("old"))
            before = await store.seq()
            for refused in (Put(a_job("old")), Put(replace(old, version=9)), Delete(a_job("no"))):
                with pytest.raises(Conflict):
                    await store.commit(
                        Put(a_job("new", idempotency_key="k")),
                        Emit(an_event("new", "Created")),
                        Put(replace(old, message="changed")),
                        refused,
                    )
            assert await store.find(Job, Query()) == [old]
            assert await store.events("default") == []
            # The keys of what was refused are free.
            await put(store, a_job("new", idempotency_key="k"))
            told = await follow(store, before, lambda batches: True)
            assert [ids(batch.records) for batch in told] == [["new"]]

        run(test)

    def test_a_commit_answers_its_puts_in_their_order(self, run: Any) -> None:
        async def test(store: Store) -> None:
            old = await put(store, a_job("old"))
            written = await store.commit(
                Put(a_job("b")), Emit(an_event("b", "Created")), Delete(old), Put(a_replica("a"))
            )
            assert [(type(record), record.id, record.version) for record in written] == [
                (Job, "b", 1),
                (Replica, "a", 1),
            ]
            assert old.seq < written[0].seq < written[1].seq
            assert await store.commit() == ()

        run(test)

    def test_many_commits_at_once_leave_each_other_alone(self, run: Any) -> None:
        async def test(store: Store) -> None:
            """Every third is refused; each of the others must be there, with its event."""

            async def one(i: int) -> bool:
                key = "taken" if i % 3 == 0 else f"k{i}"
                try:
                    await store.commit(
                        Put(a_job(f"j{i:03}", idempotency_key=key)),
                        Emit(an_event(f"j{i:03}", "Created")),
                    )
                except AlreadyExists as error:
                    assert error.existing_id == "j0"
                    return False
                return True

            await put(store, a_job("j0", idempotency_key="taken"))
            done = await asyncio.gather(*(one(i) for i in range(300)))
            assert done == [i % 3 != 0 for i in range(300)]
            expected = sorted(f"j{i:03}" for i in range(300) if i % 3)
            found = await store.find(Job, Query())
            assert ids(found) == ["j0", *expected]
            assert len({record.seq for record in found}) == len(found)
            assert sorted(event.id for event in await store.events("default")) == expected

        run(test)

    def test_of_many_who_change_one_version_one_succeeds(self, run: Any) -> None:
        async def test(store: Store) -> None:
            job = await put(store, a_job("j1"))
            results = await asyncio.gather(
                *(store.commit(Put(replace(job, message=f"by {i}"))) for i in range(50)),
                return_exceptions=True,
            )
            winners = [result for result in results if not isinstance(result, BaseException)]
            losers = [result for result in results if isinstance(result, VersionConflict)]
            assert (len(winners), len(losers)) == (1, 49)
            assert await store.find(Job, Query()) == list(winners[0])

        run(test)

    def test_a_value_that_cannot_be_stored_spares_its_neighbours(self, run: Any) -> None:
        async def test(store: Store) -> None:
            results = await asyncio.gather(
                store.commit(Put(a_job("before"))),
                store.commit(Put(a_job("bad", name="\ud800"))),
                store.commit(Put(a_job("after"))),
                return_exceptions=True,
            )
            assert [isinstance(result, InvalidRequest) for result in results] == [
                False,
                True,
                False,
            ]
            assert ids(await store.find(Job, Query())) == ["after", "before"]

        run(test)

    # --- queries ---------------------------------------------------------------------------------

    def test_each_condition_of_a_query_selects(self, run: Any) -> None:
        async def test(store: Store) -> None:
            await store.commit(
                Put(a_job("a", name="alpha", owner="ann", idempotency_key="ka")),
                Put(a_job("b", name="beta", owner="bob", state=JobState.RUNNING)),
                Put(
                    a_job(
                        "c",
                        name="alpha",
                        workspace="other",
                        owner="cid",
                        state=JobState.COMPLETED,
                        finished_at_ms=5_000,
                        spec=JobSpec(ttl_seconds_after_finished=1),
                    )
                ),
            )
            for query, expected in {
                Query(): ["a", "b", "c"],
                Query(workspace="default"): ["a", "b"],
                Query(ids=("c", "a", "none")): ["a", "c"],
                Query(ids=()): [],
                Query(name="alpha"): ["a", "c"],
                Query(name="alph"): [],
                Query(unique_key="ka"): ["a"],
                Query(states=("Running", "Completed")): ["b", "c"],
                Query(states=(JobState.RUNNING,)): ["b"],
                Query(states=()): [],
                Query(not_states=("Running",)): ["a", "c"],
                Query(not_states=("Running", "Completed", "Queueing")): [],
                Query(owners_begin=("ann", "cid")): ["a", "c"],
                Query(owners_begin=("AN", "%")): ["a"],
                Query(owners_begin=("nn",)): [],
                Query(owners_begin=("",)): ["a", "b", "c"],
                Query(owners_begin=()): [],
                Query(live=True): ["a", "b"],
                Query(live=False): ["c"],
                Query(due_before_ms=6_000): [],
                Query(due_before_ms=6_001): ["c"],
                Query(search="lph"): ["a", "c"],
                Query(search="b"): ["b"],
                Query(search=""): ["a", "b", "c"],
                Query(search="LPH"): [],
                Query(workspace="default", name="alpha", live=True): ["a"],
                Query(workspace="default", states=("Completed",)): [],
                Query(limit=0): [],
            }.items():
                assert ids(await store.find(Job, query)) == expected, query
                if query.limit is None:
                    assert await store.count(Job, query) == len(expected), query

        run(test)

    def test_the_children_of_a_record_are_found_by_their_parent(self, run: Any) -> None:
        async def test(store: Store) -> None:
            await store.commit(
                Put(a_replica("r1", owner_id="j1")),
                Put(a_replica("r2", owner_id="j2")),
                Put(a_replica("r3", owner_id="j1", phase=Phase.DONE)),
            )
            assert ids(await store.find(Replica, Query(parent="job/j1"))) == ["r1", "r3"]
            assert ids(await store.find(Replica, Query(parent="job/j1", live=True))) == ["r1"]

        run(test)

    @pytest.mark.parametrize("part", ["%", "_", "\\", "'", '"', "*", "?", "[a]", "ä", "🎉"])
    def test_a_search_takes_every_character_literally(self, run: Any, part: str) -> None:
        async def test(store: Store) -> None:
            await store.commit(
                Put(a_job("j1", name=f"x{part}y")), Put(a_job(f"j{part}2")), Put(a_job("j3"))
            )
            found = await store.find(Job, Query(search=part))
            assert sorted(ids(found)) == sorted(["j1", f"j{part}2"])
            assert ids(await store.find(Job, Query(search=f"x{part}"))) == ["j1"]

        run(test)

    @pytest.mark.parametrize("value", ["7", "%", "'", '"', "\\", "ä", "🎉"])
    def test_what_a_record_mentions_is_found_byte_for_byte(self, run: Any, value: str) -> None:
        async def test(store: Store) -> None:
            await store.commit(
                Put(a_job("j1", labels={"team": value})),
                Put(a_job("j2", labels={"team": f"{value}x"})),
                Put(a_job("j3", labels={"teams": value})),
            )
            pair = msgspec.json.encode({"team": value})[1:-1]
            assert ids(await store.find(Job, Query(mentions=pair))) == ["j1"]
            assert await store.count(Job, Query(mentions=b'"team":')) == 2

        run(test)

    def test_answers_are_ordered_by_time_and_then_by_id(self, run: Any) -> None:
        async def test(store: Store) -> None:
            times = {"b": 5, "B": 5, "a-": 5, "a": 5, "a1": 5, "z": 1, "é": 5, "y": 9}
            await store.commit(*(Put(a_job(each, created_at_ms=at)) for each, at in times.items()))
            expected = ["z", "B", "a", "a-", "a1", "b", "é", "y"]
            assert ids(await store.find(Job, Query())) == expected
            assert ids(await store.find(Job, Query(newest_first=True))) == expected[::-1]
            for newest_first, order in ((False, expected), (True, expected[::-1])):
                pages = [
                    await store.find(Job, Query(newest_first=newest_first, offset=offset, limit=3))
                    for offset in (0, 3, 6, 9)
                ]
                assert [ids(page) for page in pages] == [order[:3], order[3:6], order[6:], []]
            assert ids(await store.find(Job, Query(offset=6))) == expected[6:]
            assert await store.count(Job, Query(offset=6, limit=1)) == len(expected)

        run(test)

    # --- events ----------------------------------------------------------------------------------

    def test_events_are_told_in_the_order_of_their_seqs(self, run: Any) -> None:
        async def test(store: Store) -> None:
            await store.commit(
                Emit(an_event("j1", "Created", at_ms=9_000)),
                Emit(an_event("j2", "Created")),
                Emit(an_event("j1", "Started", at_ms=1_000)),  # clocks go back; seqs do not
            )
            await store.commit(Emit(an_event("j1", "Lost", kind="replica")))
            await store.commit(Emit(an_event("j1", "Created", workspace="other")))
            told = await store.events("default")
            assert [(event.id, event.reason) for event in told] == [
                ("j1", "Created"),
                ("j2", "Created"),
                ("j1", "Started"),
                ("j1", "Lost"),
            ]
            seqs = [event.seq for event in told]
            assert seqs == sorted(set(seqs))
            assert seqs[0] > 0
            assert await store.events("default", kind="job", id="j1") == [told[0], told[2]]
            assert await store.events("default", kind="job") == told[:3]
            assert await store.events("default", id="j1") == [told[0], told[2], told[3]]
            assert await store.events("default", after=seqs[1]) == told[2:]
            assert await store.events("default", after=seqs[0], limit=2) == told[1:3]
            assert await store.events("nowhere") == []

        run(test)

    def test_old_events_can_be_forgotten(self, run: Any) -> None:
        async def test(store: Store) -> None:
            await store.commit(
                *(Emit(an_event("j1", f"N{at}", at_ms=at)) for at in (1_000, 2_000, 3_000))
            )
            assert await store.prune_events(3_000) == 2
            assert await store.prune_events(3_000) == 0
            assert [event.reason for event in await store.events("default")] == ["N3000"]

        run(test)

    def test_who_may_have_missed_a_forgotten_deletion_is_told_so(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with self.opened(tmp_path) as store:
                gone, kept = await store.commit(Put(a_job("gone")), Put(a_job("kept")))
                await store.commit(Delete(gone), Emit(an_event("gone", "Deleted", at_ms=1_000)))
                await store.commit(Emit(an_event("kept", "Started", at_ms=2_000)))
                assert await store.prune_events(2_000) == 1
            async with self.opened(tmp_path) as store:
                with pytest.raises(Conflict):
                    await follow(store, kept.seq, lambda batches: True)
                for after in (0, await store.seq() - 1):
                    job = await put(store, a_job(f"after-{after}"))
                    told = await follow(store, after, lambda batches: True)
                    assert told[-1].records[-1] == job
                    assert told[-1].deleted == ()

        asyncio.run(test())

    # --- changes ---------------------------------------------------------------------------------

    def test_a_follower_is_told_the_newest_state_of_everything_once(self, run: Any) -> None:
        async def test(store: Store) -> None:
            a, b, c = await store.commit(Put(a_job("a")), Put(a_replica("b")), Put(a_secret("c")))
            a = await put(store, replace(a, message="changed"))
            await store.commit(Delete(b))
            assert await follow(store, 0, lambda batches: True) == [
                Batch(await store.seq(), records=(c, a), deleted=(b,))
            ]
            assert await follow(store, c.seq, lambda batches: True) == [
                Batch(await store.seq(), records=(a,), deleted=(b,))
            ]

        run(test)

    def test_a_follower_waits_and_wakes_on_the_next_change(self, run: Any) -> None:
        async def test(store: Store) -> None:
            first = await put(store, a_job("j1"))
            changes = _generator(store, await store.seq())
            async with asyncio.timeout(FOLLOW_WAIT_S), aclosing(changes) as told:
                following = asyncio.ensure_future(anext(told))
                await asyncio.sleep(0.01)
                assert not following.done()
                second = await put(store, replace(first, message="once"))
                batch = await following
                assert (batch.records, batch.deleted) == ((second,), ())
                following = asyncio.ensure_future(anext(told))
                await asyncio.sleep(0.01)
                await store.commit(Emit(an_event("j1", "Quiet")))  # wakes nobody
                await store.commit(Delete(second))
                batch = await following
                assert (batch.records, batch.deleted) == ((), (second,))

        run(test)

    def test_followers_of_a_storm_end_with_what_the_store_has(self, run: Any) -> None:
        async def test(store: Store) -> None:
            """Writers change, delete and conflict while followers start at various places."""
            chance = random.Random(20)

            async def write(writer: int) -> None:
                mine: list[AnyRecord] = []
                for i in range(30):
                    if mine and chance.random() < 0.3:
                        record = mine.pop(chance.randrange(len(mine)))
                        await store.commit(Delete(record))
                    elif mine and chance.random() < 0.6:
                        at = chance.randrange(len(mine))
                        mine[at] = await put(store, replace(mine[at], modified_at_ms=i))
                    else:
                        mine.append(await put(store, a_job(f"w{writer}-{i}")))

            mirrors = [Mirror() for _ in range(3)]

            async def mirror_all(mirror: Mirror) -> None:
                for batch in await follow(store, 0, has_last):
                    mirror.take(batch)

            early = asyncio.create_task(mirror_all(mirrors[0]))
            writing = asyncio.gather(*(write(writer) for writer in range(8)))
            await asyncio.sleep(0.005)
            amid = asyncio.create_task(mirror_all(mirrors[1]))
            await writing
            await put(store, a_job("last"))
            await asyncio.gather(early, amid, mirror_all(mirrors[2]))
            expected = {(Job, job.workspace, job.id): job for job in await store.find(Job, Query())}
            for mirror in mirrors:
                assert mirror.records == expected

        run(test)

    def test_a_follower_far_behind_catches_up_without_a_gap(self, run: Any) -> None:
        async def test(store: Store) -> None:
            """More changes than any page or memory of recent ones is likely to hold."""
            count, each = 30, 200
            for i in range(count):
                await store.commit(*(Put(a_secret(f"s{i}-{j}", b"")) for j in range(each)))
            mirror = Mirror()
            last = await store.seq()
            for batch in await follow(store, 0, lambda batches: batches[-1].seq >= last):
                mirror.take(batch)
            assert len(mirror.records) == count * each

        run(test)

    def test_many_changes_in_one_commit_are_all_told(self, run: Any) -> None:
        async def test(store: Store) -> None:
            after = (await put(store, a_secret("first"))).seq
            await store.commit(*(Put(a_secret(f"s{i:04}", b"")) for i in range(2_500)))
            last = await store.seq()
            told = await follow(store, after, lambda batches: batches[-1].seq >= last)
            found = [record.id for batch in told for record in batch.records]
            assert found == [f"s{i:04}" for i in range(2_500)]

        run(test)

    # --- leases ----------------------------------------------------------------------------------

    def test_a_lease_is_taken_from_its_holder(self, run: Any) -> None:
        async def test(store: Store) -> None:
            first = await store.lease("loops")
            (job,) = await store.commit(Put(a_job("j1")), fence=first)
            second = await store.lease("loops")
            assert (first, second) == (Fence("loops", 1), Fence("loops", 2))
            assert await store.lease("other") == Fence("other", 1)
            with pytest.raises(StaleEpoch):
                await store.commit(Put(a_job("j2")), Delete(job), fence=first)
            assert await store.find(Job, Query()) == [job]
            await store.commit(Delete(job), fence=second)
            with pytest.raises(StaleEpoch):
                await store.commit(Put(a_job("j3")), fence=Fence("never taken", 1))

        run(test)

    def test_a_commit_of_nothing_asks_whether_the_lease_is_still_held(self, run: Any) -> None:
        async def test(store: Store) -> None:
            first = await store.lease("loops")
            seq = await store.seq()
            assert await store.commit(fence=first) == ()
            await store.lease("loops")
            with pytest.raises(StaleEpoch):
                await store.commit(fence=first)
            assert await store.seq() == seq

        run(test)

    def test_nothing_of_an_old_epoch_follows_what_the_new_one_read(self, run: Any) -> None:
        async def test(store: Store) -> None:
            """A holder writes as fast as it can while another takes over: what the new one finds
            after taking the lease is all that the old one ever wrote."""
            old = await store.lease("loops")
            stop = False

            async def write(writer: int) -> None:
                for i in range(10_000):
                    if stop:
                        return
                    try:
                        await store.commit(Put(a_secret(f"{writer}-{i}")), fence=old)
                    except StaleEpoch:
                        return

            writing = asyncio.gather(*(write(writer) for writer in range(8)))
            await follow(store, 0, lambda batches: batches[-1].seq >= 20)
            await store.lease("loops")
            found = await store.find(Secret, Query())
            async with asyncio.timeout(FOLLOW_WAIT_S):
                await writing
            stop = True
            assert await store.find(Secret, Query()) == found

        run(test)

    # --- opening again ---------------------------------------------------------------------------

    def test_everything_is_there_after_closing_and_opening_again(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with self.opened(tmp_path) as store:
                fence = await store.lease("loops")
                job, gone = await store.commit(
                    Put(a_job("j1", idempotency_key="k")),
                    Put(a_job("gone")),
                    Emit(an_event("j1", "Created")),
                    fence=fence,
                )
                await store.commit(Delete(gone))
                events, seq = await store.events("default"), await store.seq()
            async with self.opened(tmp_path) as store:
                assert await store.find(Job, Query()) == [job]
                assert await store.events("default") == events
                assert await store.seq() == seq
                assert await follow(store, 0, lambda batches: True) == [
                    Batch(seq, records=(job,), deleted=(gone,))
                ]
                with pytest.raises(AlreadyExists):
                    await store.commit(Put(a_job("j2", idempotency_key="k")))
                assert await store.lease("loops") == Fence("loops", 2)
                written = await put(store, replace(job, message="again"))
                assert (written.version, written.seq > seq) == (2, True)

        asyncio.run(test())


class SharedStoreContract(StoreContract):
    """For stores that several processes may use at once: opened twice, as two of them would."""

    @asynccontextmanager
    async def two(self, where: Path) -> AsyncIterator[tuple[Store, Store]]:
        async with self.opened(where) as one, self.opened(where) as other:
            yield one, other

    def test_commits_through_two_stores_become_visible_in_the_order_of_seq(
        self, tmp_path: Path
    ) -> None:
        async def test() -> None:
            async with self.two(tmp_path) as stores:
                mirrors = [Mirror(), Mirror()]

                async def mirror_all(store: Store, mirror: Mirror) -> None:
                    for batch in await follow(store, 0, has_last):
                        mirror.take(batch)

                async def write(store: Store, writer: str) -> None:
                    for i in range(40):
                        record = await put(store, a_secret(f"{writer}-{i}"))
                        if i % 4 == 0:
                            await store.commit(Delete(record))

                following = [
                    asyncio.create_task(mirror_all(store, mirror))
                    for store, mirror in zip(stores, mirrors, strict=True)
                ]
                await asyncio.gather(
                    *(write(stores[n % 2], f"w{n}") for n in range(8)),
                )
                await put(stores[0], a_secret("last"))
                await asyncio.gather(*following)
                expected = await stores[1].find(Secret, Query())
                assert len(expected) == 8 * 30 + 1
                for mirror in mirrors:
                    assert sorted(mirror.records.values(), key=lambda record: record.id) == sorted(
                        expected, key=lambda record: record.id
                    )

        asyncio.run(test())

    def test_two_stores_keep_one_promise(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with self.two(tmp_path) as (one, other):
                job = await put(one, a_job("j1", idempotency_key="k"))
                assert await other.get(Job, "default", "j1") == job
                with pytest.raises(AlreadyExists):
                    await other.commit(Put(a_job("j2", idempotency_key="k")))
                newer = await put(other, replace(job, message="newer"))
                assert newer.seq > job.seq
                with pytest.raises(VersionConflict):
                    await one.commit(Delete(job))
                fence = await one.lease("loops")
                await one.commit(Put(a_job("j3")), fence=fence)
                taken = await other.lease("loops")
                with pytest.raises(StaleEpoch):
                    await one.commit(Put(a_job("j4")), fence=fence)
                await other.commit(Put(a_job("j4")), fence=taken)
                same = await asyncio.gather(
                    one.commit(Put(a_job("x1", idempotency_key="same"))),
                    other.commit(Put(a_job("x2", idempotency_key="same"))),
                    return_exceptions=True,
                )
                assert sorted(isinstance(each, AlreadyExists) for each in same) == [False, True]

        asyncio.run(test())

    def test_a_follower_wakes_on_the_commit_of_another_store(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with self.two(tmp_path) as (one, other):
                changes = _generator(one, 0)
                async with asyncio.timeout(FOLLOW_WAIT_S), aclosing(changes) as told:
                    for i in range(3):
                        following = asyncio.ensure_future(anext(told))
                        await asyncio.sleep(0.05)  # so that it waits
                        written = await put(other, a_job(f"j{i}"))
                        assert (await following).records == (written,)

        asyncio.run(test())
