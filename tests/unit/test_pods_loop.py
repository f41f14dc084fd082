"""The control plane and its pods, over a store in memory, a fake engine and virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace as replaced

from msgspec.structs import replace

from leptonai.control.owners import removal
from leptonai.control.plane import ControlPlane
from leptonai.core.lifecycle.endpoint import new_endpoint
from leptonai.core.pods import checked_pod
from leptonai.core.records import Endpoint, OwnerKind, Phase, Replica
from leptonai.errors import Unavailable
from leptonai.ports.store import Put, Query
from leptonai.spec.endpoints import EndpointSpec, EndpointState
from leptonai.spec.pods import PodActivity, PodNote, PodReport, PodSettings
from leptonai.stores.memory import MemoryStore
from leptonai.testing.fake_engine import FakeEngine, a_machine
from leptonai.testing.virtual_time import VirtualClock, run


class World:
    """A control plane, and a pod that tells what the test says."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), VirtualClock()
        self.engine = FakeEngine(
            [replaced(a_machine("n1", cpu_millis=4000), provider_id="")], clock=self.clock
        )
        self.report_now = PodReport(version=1, activity=PodActivity(sessions=1))
        self.quiet_from_ms = 0  # since nobody was there
        self.silent = False
        self.asked: list[tuple[str, bool]] = []
        self.plane = ControlPlane(
            self.store,
            self.engine,
            self.clock,
            self,
            home_workspace="default",
            workspace_url=lambda workspace: "",
            unseal=lambda secret: "",
            job_token=lambda job: "",
            run_token=lambda job: "",
            pod_key=lambda workspace, pod: f"key of {pod}",
            pod_reader=self,
        )

    async def answers(self, host: str, port: int, path: str) -> bool:
        return True

    async def report(
        self, host: str, port: int, key: str, *, after: int, watch_cpu: bool
    ) -> PodReport:
        if self.silent:
            raise Unavailable("no answer", hint="")
        self.asked.append((key, watch_cpu))
        for _ in range(30):
            if self.report_now.version != after:
                break
            await asyncio.sleep(1)
        quiet_s = (self.clock.now_ms() - self.quiet_from_ms) // 1000
        activity = replace(self.report_now.activity, quiet_s=quiet_s)
        return replace(self.report_now, activity=activity)

    def tell(self, **changes: object) -> None:
        self.quiet_from_ms = self.clock.now_ms()
        self.report_now = replace(self.report_now, version=self.report_now.version + 1, **changes)

    async def create(self, **settings: int) -> None:
        spec = checked_pod(EndpointSpec(is_pod=True, pod=PodSettings(**settings)))
        pod = new_endpoint(
            workspace="default",
            name="work",
            spec=spec,
            owner="ada",
            labels={},
            visibility="",
            now_ms=self.clock.now_ms(),
        )
        await self.store.commit(Put(pod))
        await asyncio.sleep(30)

    async def pod(self) -> Endpoint:
        (found,) = await self.store.find(Endpoint, Query())
        return found

    async def replicas(self) -> list[Replica]:
        return await self.store.find(Replica, Query())

    async def reasons(self) -> list[str]:
        pod = await self.pod()
        told = await self.store.events("default", kind=OwnerKind.ENDPOINT, id=pod.id)
        return [event.reason for event in told]


def in_world(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.plane.start()
        running = asyncio.create_task(world.plane.run())
        telling = asyncio.ensure_future(story(world))
        await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        await world.plane.close()
        telling.result()

    run(main())


def test_what_a_pod_tells_is_known_and_becomes_events_once() -> None:
    async def story(world: World) -> None:
        await world.create()
        assert (await world.pod()).state is EndpointState.READY
        note = PodNote(number=1, reason="JupyterRunning", message="runs")
        world.tell(ssh_host_key="ssh-ed25519 AAAA", jupyter="running", notes=[note])
        await asyncio.sleep(40)
        world.tell()
        await asyncio.sleep(40)
        seen = (await world.pod()).pod
        assert (seen.node, seen.ssh_host_key, seen.jupyter) == ("n1", "ssh-ed25519 AAAA", "running")
        assert [number for number, _ in seen.ports] == [2222, 18888, 18889]
        assert (await world.reasons()).count("JupyterRunning") == 1
        assert set(world.asked) == {(f"key of {(await world.pod()).id}", False)}

    in_world(story)


def test_a_pod_in_which_nothing_goes_on_is_stopped_and_one_that_is_used_is_not() -> None:
    async def story(world: World) -> None:
        await world.create(idle_stop_seconds=600)
        await asyncio.sleep(5_000)
        assert (await world.pod()).state is EndpointState.READY  # somebody has a session
        world.tell(activity=PodActivity())
        await asyncio.sleep(500)
        world.tell(activity=PodActivity(kernels=1))
        await asyncio.sleep(1_000)
        assert (await world.pod()).state is EndpointState.READY
        world.tell(activity=PodActivity())
        await asyncio.sleep(560)
        assert (await world.pod()).state is EndpointState.READY
        await asyncio.sleep(120)
        pod = await world.pod()
        assert (pod.state, pod.wanted) == (EndpointState.STOPPED, 0)
        assert (await world.reasons()).count("IdleStopped") == 1
        assert world.asked[0][1]  # it was asked to watch its programs

    in_world(story)


def test_a_pod_that_does_not_answer_is_not_taken_for_idle() -> None:
    async def story(world: World) -> None:
        await world.create(idle_stop_seconds=60)
        world.silent = True
        await asyncio.sleep(5_000)
        assert (await world.pod()).state is EndpointState.READY

    in_world(story)


def test_its_files_go_with_it_and_not_before() -> None:
    async def story(world: World) -> None:
        await world.create()
        pod = await world.pod()
        size = replace(pod.spec.resource_requirement, min_replicas=0)
        await world.store.commit(
            Put(replace(pod, spec=replace(pod.spec, resource_requirement=size)))
        )
        await asyncio.sleep(60)
        assert (await world.pod()).state is EndpointState.STOPPED
        world.clock.set_forward(30 * 86_400_000)  # so long that its replicas are forgotten
        await asyncio.sleep(120)
        assert await world.replicas() == []
        dropped: list[str] = []
        drop = world.engine.drop

        async def note(node: str, keeps: str, *, epoch: int) -> None:
            dropped.append(keeps)
            await drop(node, keeps, epoch=epoch)

        world.engine.drop = note  # type: ignore[method-assign]
        pod = await world.pod()
        await world.store.commit(*(await removal(world.store, pod, world.clock.now_ms())))
        await asyncio.sleep(120)
        assert await world.replicas() == []
        assert dropped == [pod.id]

    in_world(story)


def test_files_that_are_to_be_kept_are_kept() -> None:
    async def story(world: World) -> None:
        await world.create()
        dropped: list[str] = []

        async def note(node: str, keeps: str, *, epoch: int) -> None:
            dropped.append(keeps)

        world.engine.drop = note  # type: ignore[method-assign]
        pod = await world.pod()
        now_ms = world.clock.now_ms()
        await world.store.commit(*(await removal(world.store, pod, now_ms, spare_files=True)))
        await asyncio.sleep(120)
        assert all(replica.phase is Phase.DONE for replica in await world.replicas())
        assert dropped == []

    in_world(story)
