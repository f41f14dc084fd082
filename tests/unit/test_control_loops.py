"""The loops together, over a store in memory, a fake engine and virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import msgspec
import pytest

from leptonai.control.loops.retention import COLLECT_EVERY_MS, EVENTS_KEPT_MS
from leptonai.control.plane import LEASE, ControlPlane
from leptonai.control.workloads import stop_workloads
from leptonai.core.lifecycle.endpoint import new_endpoint, restarted
from leptonai.core.lifecycle.job import new_job
from leptonai.core.records import (
    ARCHIVE_KEPT_S,
    DEFAULT_TTL_S,
    MAX_TERMINATIONS,
    RESERVATION_KEPT_S,
    SERVER_KEPT_S,
    Endpoint,
    Event,
    Job,
    Phase,
    Quota,
    Replica,
    Reservation,
    Secret,
)
from leptonai.core.scheduler import WaitCode
from leptonai.errors import Conflict, Internal, StaleEpoch
from leptonai.ports.engine import Machine
from leptonai.ports.store import Delete, Put, Query
from leptonai.spec.containers import (
    Container,
    EnvVar,
    QueueConfig,
    ReservationConfig,
    SecretReference,
)
from leptonai.spec.endpoints import EndpointSpec, ResourceRequirement
from leptonai.spec.jobs import JobSpec, JobState, SegmentConfig
from leptonai.spec.reservations import ReservationSpec, TimeRule
from leptonai.stores.memory import MemoryStore
from leptonai.testing.fake_engine import FakeEngine, a_machine
from leptonai.testing.virtual_time import VirtualClock, run

MINUTE_S = 60


class World:
    """A control plane, and what it decides over."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        engine: FakeEngine | None = None,
        *,
        home: str = "",
        blobs: "Blobs | None" = None,
        mounts_volumes: bool = True,
        machines: Sequence[Machine] = (),
    ) -> None:
        self.blobs = blobs
        self.hanging: set[int] = set()  # ports where a probe gets no answer
        self.store, self.clock = store or MemoryStore(), VirtualClock()
        machines = machines or [replace(a_machine("n1", cpu_millis=4000), provider_id=home)]
        self.engine = engine or FakeEngine(machines, clock=self.clock)
        self.plane = ControlPlane(
            self.store,
            self.engine,
            self.clock,
            self,
            home_workspace="default",
            workspace_url=lambda workspace: "",
            unseal=self.unseal,
            job_token=lambda job: "",
            run_token=lambda job: "",
            blobs=blobs,
            mounts_volumes=mounts_volumes,
        )

    def unseal(self, secret: Secret) -> str:
        raise Internal(f"{secret.name} was sealed with another key")

    async def answers(self, host: str, port: int, path: str) -> bool:
        while port in self.hanging:
            await asyncio.sleep(1)
        return True

    async def submit(self, id: str, *command: str, user: str = "ada", **spec: object) -> None:
        job = new_job(
            workspace="default",
            id=id,
            name=id,
            spec=JobSpec(container=Container(command=list(command)), **spec),
            owner=user,
            labels={},
            visibility="",
            now_ms=self.clock.now_ms(),
        )
        await self.store.commit(Put(job))

    async def serve(self, name: str, *command: str) -> None:
        endpoint = new_endpoint(
            workspace="default",
            name=name,
            spec=EndpointSpec(
                container=Container(command=list(command)),
                resource_requirement=ResourceRequirement(min_replicas=1),
            ),
            owner="ada",
            labels={},
            visibility="",
            now_ms=self.clock.now_ms(),
        )
        await self.store.commit(Put(endpoint))

    async def job(self, id: str) -> Job | None:
        return await self.store.get(Job, "default", id)

    async def replicas(self) -> list[Replica]:
        return await self.store.find(Replica, Query())

    async def events(self) -> list[Event]:
        return await self.store.events("default")

    async def later(self, seconds: int) -> None:
        """Quicker than to live through them."""
        self.clock.set_forward(1000 * seconds)
        await asyncio.sleep(MINUTE_S)

    async def has_log(self, attempt: str) -> bool:
        return await self.engine.read_log("n1", attempt, offset=0, limit=1) is not None


def in_world(
    story: Callable[[World], Awaitable[None]],
    *,
    mounts_volumes: bool = True,
    machines: Sequence[Machine] = (),
) -> None:
    async def main() -> None:
        world = World(mounts_volumes=mounts_volumes, machines=machines)
        await world.plane.start()
        running = asyncio.create_task(world.plane.run())
        telling = asyncio.ensure_future(story(world))
        await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        await world.plane.close()
        telling.result()

    run(main())


def test_the_workers_of_a_segment_are_placed_behind_the_switch_that_their_machines_tell_of():
    behind = {"n1": "x", "n2": "y", "n3": "x", "n4": "y"}
    machines = [replace(a_machine(id, cpu_millis=4000), switch=on) for id, on in behind.items()]

    async def story(world: World) -> None:
        segment = SegmentConfig(count_per_segment=2)
        await world.submit("j", "print", "hello", completions=4, cpu=3, segment_config=segment)
        await asyncio.sleep(MINUTE_S)
        workers = sorted(await world.replicas(), key=lambda replica: replica.index)
        switches = [behind[worker.node] for worker in workers]
        assert switches in (["x", "x", "y", "y"], ["y", "y", "x", "x"])

    in_world(story, machines=machines)


def test_a_job_that_ended_is_archived_then_removed_with_its_replicas_and_logs():
    async def story(world: World) -> None:
        await world.submit("j", "print", "hello")
        await asyncio.sleep(MINUTE_S)
        (worker,) = await world.replicas()
        states = [(await world.job("j")).state, await world.has_log(worker.attempt_id)]
        await world.later(DEFAULT_TTL_S)
        states += [(await world.job("j")).state, await world.has_log(worker.attempt_id)]
        await world.later(ARCHIVE_KEPT_S)
        states += [await world.job("j"), await world.has_log(worker.attempt_id)]
        assert states == [JobState.COMPLETED, True, JobState.ARCHIVED, True, None, False]
        assert await world.replicas() == []

    in_world(story)


def a_reservation(node: str, from_s: int, to_s: int) -> Reservation:
    rule = TimeRule(start_timestamp=from_s, end_timestamp=to_s)
    return Reservation(
        workspace="default",
        id="r",
        name="r",
        created_at_ms=0,
        owner="bob",
        group="local",
        spec=ReservationSpec(users=["ada"], time_rule=rule),
        decided="approved",
        nodes=(node,),
    )


def test_a_reserved_node_is_kept_for_those_who_name_the_reservation():
    async def story(world: World) -> None:
        now_s = world.clock.now_ms() // 1000
        await world.store.commit(Put(a_reservation("n1", now_s, now_s + 600)))
        await world.submit("stranger", "print", "hello")
        mine = ReservationConfig(reservation_id="r")
        await world.submit("other", "print", "hello", user="eve", reservation_config=mine)
        await world.submit("mine", "print", "hello", reservation_config=mine)
        await asyncio.sleep(MINUTE_S)
        states = {id: (await world.job(id)).state for id in ("stranger", "other", "mine")}
        assert states == {
            "stranger": JobState.QUEUEING,
            "other": JobState.QUEUEING,
            "mine": JobState.COMPLETED,
        }
        await asyncio.sleep(600)  # then it is over, and nobody changed anything
        assert (await world.job("stranger")).state is JobState.COMPLETED
        assert (await world.job("other")).state is JobState.QUEUEING

    in_world(story)


def test_a_reservation_that_is_removed_or_to_come_keeps_nobody_out():
    async def story(world: World) -> None:
        now_s = world.clock.now_ms() // 1000
        (held,) = await world.store.commit(Put(a_reservation("n1", now_s + 600, now_s + 1200)))
        await world.submit("early", "print", "hello")
        mine = ReservationConfig(reservation_id="r")
        await world.submit("mine", "print", "hello", reservation_config=mine)
        await asyncio.sleep(MINUTE_S)
        assert (await world.job("early")).state is JobState.COMPLETED
        assert (await world.job("mine")).state is JobState.QUEUEING
        await asyncio.sleep(600)
        assert (await world.job("mine")).state is JobState.COMPLETED
        await world.submit("late", "print", "hello")
        await asyncio.sleep(MINUTE_S)
        assert (await world.job("late")).state is JobState.QUEUEING
        await world.store.commit(Delete(held))
        await asyncio.sleep(MINUTE_S)
        assert (await world.job("late")).state is JobState.COMPLETED

    in_world(story)


def test_a_reservation_is_forgotten_a_while_after_its_end():
    async def story(world: World) -> None:
        now_s = world.clock.now_ms() // 1000
        await world.store.commit(Put(a_reservation("n1", now_s, now_s + 600)))
        await world.later(RESERVATION_KEPT_S)
        assert await world.store.count(Reservation, Query()) == 1
        await world.later(600)
        assert await world.store.count(Reservation, Query()) == 0

    in_world(story)


def test_a_job_that_is_to_start_again_is_not_archived_meanwhile():
    job = Job(
        workspace="default",
        id="j",
        name="j",
        created_at_ms=1,
        spec=JobSpec(stopped=True),
        state=JobState.STOPPED,
        finished_at_ms=1,
    )
    started = msgspec.structs.replace(job, spec=JobSpec(stopped=False))
    assert (job.due_at_ms, started.due_at_ms) == (1 + 1000 * DEFAULT_TTL_S, None)


def test_a_server_that_was_replaced_is_removed_with_its_log_after_a_while():
    async def story(world: World) -> None:
        await world.serve("web", "serve", "1")
        await asyncio.sleep(MINUTE_S)
        (old,) = await world.replicas()
        (endpoint,) = await world.store.find(Endpoint, Query())
        await world.store.commit(Put(restarted(endpoint, world.clock.now_ms())))
        await asyncio.sleep(MINUTE_S)
        old, new = await world.replicas()
        assert (old.phase, new.phase) == (Phase.DONE, Phase.RUNNING)
        assert await world.has_log(old.attempt_id)
        await world.later(SERVER_KEPT_S)
        assert [replica.id for replica in await world.replicas()] == [new.id]
        assert not await world.has_log(old.attempt_id)

    in_world(story)


def test_of_a_server_that_crashes_for_ever_the_last_logs_are_kept():
    async def story(world: World) -> None:
        await world.serve("web", "fail", "1", "3")
        await asyncio.sleep(30 * MINUTE_S)
        (server,) = await world.replicas()
        assert server.attempt > 2 * MAX_TERMINATIONS
        kept = [n for n in range(server.attempt) if await world.has_log(f"{server.id}.{n}")]
        assert kept == [*range(server.attempt - MAX_TERMINATIONS, server.attempt)]

    in_world(story)


def test_what_happened_long_ago_is_forgotten_soon_after_a_start():
    async def main() -> None:
        world = World()
        await world.plane.start()
        await world.submit("j", "exit", "0")
        await asyncio.sleep(MINUTE_S)
        assert await world.store.events("default")
        await world.plane.close()
        world.clock.set_forward(EVENTS_KEPT_MS)
        await world.plane.start()
        await asyncio.sleep(MINUTE_S)
        assert await world.store.events("default") == []
        await world.plane.close()

    run(main())


def test_a_job_whose_secret_cannot_be_read_says_so():
    async def story(world: World) -> None:
        fields = {"workspace": "default", "id": "s", "name": "KEY", "created_at_ms": 1}
        await world.store.commit(Put(Secret(ciphertext=b"", **fields)))
        reference = SecretReference(secret_name_ref="KEY")
        await world.submit("j", "exit", "0", envs=[EnvVar(name="KEY", value_from=reference)])
        await asyncio.sleep(MINUTE_S)
        job = await world.job("j")
        assert (job.state, job.message) == (
            JobState.FAILED,
            "worker 0 could not be started: KEY was sealed with another key",
        )

    in_world(story)


def test_after_all_was_ended_jobs_stay_stopped_and_endpoints_come_back():
    async def main() -> None:
        world = World()
        await world.plane.start()
        await world.submit("polite", "sleep", "99999")
        await world.submit("stubborn", "ignore-term")
        await world.submit("over", "exit", "0")
        await world.serve("web", "serve", "1")
        await asyncio.sleep(MINUTE_S)
        await world.plane.close()
        assert await stop_workloads(world.store, world.engine) == 3
        assert all(run.ended_at_ms is not None for run in world.engine.history)
        again = World(world.store, world.engine)
        await again.plane.start()
        await asyncio.sleep(MINUTE_S)
        states = {job.id: job.state for job in await again.store.find(Job, Query())}
        assert states == {
            "polite": JobState.STOPPED,
            "stubborn": JobState.STOPPED,
            "over": JobState.COMPLETED,
        }
        (endpoint,) = await again.store.find(Endpoint, Query())
        assert endpoint.ready_replicas == 1
        await again.plane.close()

    run(main())


def test_a_server_that_keeps_its_probe_waiting_delays_no_other():
    async def story(world: World) -> None:
        async def ready() -> dict[str, bool]:
            return {replica.owner_name: replica.ready for replica in await world.replicas()}

        world.hanging = set(range(1 << 16))
        await world.serve("hanging", "serve", "0")
        await asyncio.sleep(1)
        (replica,) = await world.replicas()
        world.hanging = {*replica.ports}
        await world.serve("quick", "serve", "0")
        await asyncio.sleep(1)
        assert await ready() == {"hanging": False, "quick": True}
        world.hanging.clear()
        await asyncio.sleep(MINUTE_S)
        assert await ready() == {"hanging": True, "quick": True}

    in_world(story)


def test_a_stranger_that_answers_on_a_servers_port_does_not_make_it_ready():
    async def story(world: World) -> None:
        world.hanging = set(range(1 << 16))
        await world.serve("server", "serve", "0")
        await asyncio.sleep(1)
        (replica,) = await world.replicas()
        (port,) = replica.ports
        world.engine.take_port("n1", port)
        world.hanging.clear()
        await asyncio.sleep(MINUTE_S)
        (replica,) = await world.replicas()
        assert not replica.ready
        told = [event.message for event in await world.events() if event.reason == "PortTaken"]
        assert told == [
            f"on n1 port {port} of replica {replica.id} is answered by a process that the replica "
            "has not started: it counts as ready when it listens there itself"
        ]
        world.engine.free_port("n1", port)
        await asyncio.sleep(MINUTE_S)
        (replica,) = await world.replicas()
        assert replica.ready

    in_world(story)


class Blobs:
    """Stands for the blob store: notes what it is told to keep."""

    def __init__(self) -> None:
        self.kept: list[set[str]] = []

    async def collect(self, in_use: set[str]) -> int:
        self.kept.append(set(in_use))
        return 0


DIGEST = "sha256:" + "a" * 64


def test_blobs_are_collected_but_not_before_all_that_was_lately_uploaded_has_been_seen():
    async def main() -> None:
        world = World(blobs=Blobs())
        await world.plane.start()
        await world.submit("j", "print", "hello", workdir=DIGEST)
        await asyncio.sleep(COLLECT_EVERY_MS / 1000 - MINUTE_S)
        assert world.blobs.kept == []
        await asyncio.sleep(2 * MINUTE_S)
        assert world.blobs.kept == [{DIGEST}]
        await world.later(DEFAULT_TTL_S)
        await world.later(ARCHIVE_KEPT_S)
        assert await world.replicas() == []
        await asyncio.sleep(COLLECT_EVERY_MS / 1000)
        assert world.blobs.kept[-1] == set()
        await world.plane.close()

    run(main())


def test_who_decides_no_more_removes_no_blobs():
    async def main() -> None:
        world = World(blobs=Blobs())
        await world.plane.start()
        await world.store.lease(LEASE)
        with pytest.raises(StaleEpoch):
            await world.plane.run()
        assert world.blobs.kept == []
        await world.plane.close()

    run(main())


def test_a_store_of_another_machine_is_refused_and_its_control_plane_left_in_charge():
    async def main() -> None:
        first = World(home="a")
        await first.plane.start()
        other = World(first.store, home="b")
        with pytest.raises(Conflict, match="this database belongs to the platform in a"):
            await other.plane.start()
        await first.submit("j", "exit", "0")
        await asyncio.sleep(MINUTE_S)
        assert (await first.job("j")).state is JobState.COMPLETED
        await first.plane.close()
        again = World(first.store, home="a")
        await again.plane.start()
        await again.plane.close()

    run(main())


# --- giving way -----------------------------------------------------------------------------------

CAN_BE_PREEMPTED = QueueConfig(priority_class="low-1000", can_be_preempted=True)
URGENT = QueueConfig(priority_class="high-9000")


def test_an_urgent_job_takes_the_place_of_one_that_can_be_preempted_which_comes_back():
    async def story(world: World) -> None:
        await world.submit("victim", "sleep", "600", cpu=4, queue_config=CAN_BE_PREEMPTED)
        await asyncio.sleep(2 * MINUTE_S)
        await world.submit("urgent", "sleep", "60", cpu=4, queue_config=URGENT)
        await asyncio.sleep(MINUTE_S / 2)
        victim, urgent = await world.job("victim"), await world.job("urgent")
        assert (urgent.state, victim.state, victim.message) == (
            JobState.RUNNING,
            JobState.QUEUEING,
            "gives way to urgent (priority 9000)",
        )
        assert victim.attained_ms >= 119_000
        assert victim.queued_at_ms == victim.created_at_ms
        await asyncio.sleep(20 * MINUTE_S)
        victim = await world.job("victim")
        assert (victim.state, victim.failures, victim.round) == (JobState.COMPLETED, 0, 1)
        events = await world.store.events("default", kind="job", id="victim")
        assert [event.reason for event in events] == [
            "Queued",
            "Running",
            "Preempted",
            "Queued",
            "Running",
            "Completed",
        ]

    in_world(story)


def test_a_job_that_has_just_started_or_cannot_be_preempted_is_waited_for():
    async def story(world: World) -> None:
        firm = QueueConfig(priority_class="low-1000")
        await world.submit("firm", "sleep", "600", cpu=2, queue_config=firm)
        await world.submit("soft", "sleep", "600", cpu=2, queue_config=CAN_BE_PREEMPTED)
        await asyncio.sleep(1)
        await world.submit("urgent", "sleep", "1", cpu=2, queue_config=URGENT)
        await asyncio.sleep(MINUTE_S / 2)
        before = [(await world.job(id)).state for id in ("firm", "soft", "urgent")]
        await asyncio.sleep(MINUTE_S)
        after = [(await world.job(id)).round for id in ("firm", "soft", "urgent")]
        assert before == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUEING]
        assert after == [0, 1, 0]
        assert (await world.job("urgent")).state is JobState.COMPLETED

    in_world(story)


def test_while_a_victim_takes_its_time_the_queue_says_so_and_nobody_else_is_stopped():
    async def story(world: World) -> None:
        for id in ("a", "b"):
            await world.submit(id, "ignore-term", cpu=2, queue_config=CAN_BE_PREEMPTED)
        await asyncio.sleep(2 * MINUTE_S)
        await world.submit("urgent", "sleep", "600", cpu=2, queue_config=URGENT)
        await asyncio.sleep(5)  # of the ten seconds that it is given
        states = sorted([(await world.job(id)).state for id in ("a", "b")])
        assert states == [JobState.RUNNING, JobState.STOPPING]
        why = world.plane.placement.why("default/job/urgent/0")
        assert why is not None
        assert why.code is WaitCode.CLEARING
        await asyncio.sleep(10)
        assert (await world.job("urgent")).state is JobState.RUNNING

    in_world(story)


def test_what_is_lent_is_reclaimed_by_whom_it_is_guaranteed_to():
    async def story(world: World) -> None:
        for user in ("ada", "bob"):
            await world.store.commit(
                Put(
                    Quota(workspace="default", id=user, name=user, created_at_ms=1, cpu_millis=2000)
                )
            )
        soft = QueueConfig(can_be_preempted=True)
        for number in range(4):
            await world.submit(f"ada-{number}", "sleep", "9000", cpu=1, queue_config=soft)
        await world.submit("firm", "sleep", "9000", cpu=1)
        await asyncio.sleep(2 * MINUTE_S)
        firm = world.plane.placement.why("default/job/firm/0")
        assert firm is not None
        assert firm.code is WaitCode.QUOTA
        await world.submit("bob-0", "sleep", "9000", cpu=2, user="bob")
        await asyncio.sleep(MINUTE_S)
        running = [j.id for j in await world.store.find(Job, Query(states=(JobState.RUNNING,)))]
        assert len([id for id in running if id.startswith("ada")]) == 2
        assert "bob-0" in running

    in_world(story)


def test_an_elastic_job_starts_with_what_there_is_and_shrinks_before_others_wait():
    async def story(world: World) -> None:
        await world.submit("one", "sleep", "60", cpu=1)
        await asyncio.sleep(1)
        elastic = {"cpu": 1, "completions": 4, "min_workers": 1}
        await world.submit("elastic", "sleep", "600", **elastic)
        await asyncio.sleep(1)
        sizes = [len([r for r in await world.replicas() if r.owner_id == "elastic"])]
        await world.submit("two", "sleep", "60", cpu=2)
        await asyncio.sleep(30)
        gang = [r for r in await world.replicas() if r.owner_id == "elastic" and r.round == 1]
        sizes.append(len(gang))
        assert sizes == [3, 1]
        assert (gang[0].phase, gang[0].gang_size) == (Phase.RUNNING, 1)
        assert (await world.job("two")).state is JobState.RUNNING
        await asyncio.sleep(20 * MINUTE_S)
        job = await world.job("elastic")
        assert (job.state, job.succeeded, job.failures) == (JobState.COMPLETED, 4, 0)

    in_world(story)


def test_the_victim_is_the_one_that_has_lost_least_since_its_last_checkpoint():
    async def story(world: World) -> None:
        for id in ("saved", "unsaved"):
            await world.submit(id, "sleep", "9000", cpu=2, queue_config=CAN_BE_PREEMPTED)
        await asyncio.sleep(10 * MINUTE_S)
        job = await world.job("saved")
        saved = msgspec.structs.replace(job, saved_at_ms=world.clock.now_ms())
        await world.store.commit(Put(saved))
        await asyncio.sleep(1)
        await world.submit("urgent", "sleep", "600", cpu=2, queue_config=URGENT)
        await asyncio.sleep(MINUTE_S)
        rounds = {id: (await world.job(id)).round for id in ("saved", "unsaved")}
        assert rounds == {"saved": 1, "unsaved": 0}

    in_world(story)


def test_an_elastic_job_grows_into_room_that_stays_idle_where_that_pays():
    async def story(world: World) -> None:
        await world.submit("one", "sleep", "600", cpu=2)
        await asyncio.sleep(1)
        elastic = {"cpu": 1, "completions": 4, "min_workers": 2}
        await world.submit("elastic", "sleep", "90000", **elastic)

        async def gang() -> list[Replica]:
            job = await world.job("elastic")
            found = await world.store.find(Replica, Query(parent="job/elastic"))
            return [r for r in found if r.round == job.round and r.phase is Phase.RUNNING]

        await asyncio.sleep(5 * MINUTE_S)
        before = await gang()
        await asyncio.sleep(60 * MINUTE_S)
        after = await gang()
        assert [len(before), len(after)] == [2, 4]
        assert {r.gang_size for r in after} == {4}
        job = await world.job("elastic")
        assert (job.state, job.failures, job.round) == (JobState.RUNNING, 0, 1)
        assert [past.message for past in job.history] == ["goes on with 4 workers"]

    in_world(story)
