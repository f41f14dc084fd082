"""The control plane: its loops over one store, one engine and one clock.

It holds nothing that the store does not: kill it at any instant, make another from the same store,
and that one goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from leptonai.blobs import BlobStore
from leptonai.control.attempts import Attempts
from leptonai.control.gpus import measured_by
from leptonai.control.loops.forecasts import Apart, ForecastsLoop, here
from leptonai.control.loops.loop import Loop, run_loop
from leptonai.control.loops.owners import OwnersLoop
from leptonai.control.loops.placement import PlacementLoop
from leptonai.control.loops.pods import PodKey, PodReader, PodsLoop
from leptonai.control.loops.readiness import Prober, ReadinessLoop
from leptonai.control.loops.replicas import ReplicasLoop
from leptonai.control.loops.retention import RetentionLoop
from leptonai.control.loops.routes import RoutesLoop
from leptonai.control.loops.runs import RunsLoop
from leptonai.control.loops.scaling import ScalingLoop
from leptonai.control.mirror import Mirror
from leptonai.control.owners import Owners
from leptonai.control.template_memory import TemplateMemory
from leptonai.control.traffic import TrafficLog
from leptonai.control.warm_starts import WarmStarts
from leptonai.core.records import Job, Node, NodeState, Secret
from leptonai.core.scheduler.policy import DEFAULT, Policy
from leptonai.errors import Conflict, StaleEpoch, TryLater
from leptonai.ports.clock import Clock
from leptonai.ports.engine import Engine, Machine
from leptonai.ports.store import Fence, Put, Query, Store

if TYPE_CHECKING:
    from leptonai.control.advice import Advice

LEASE = "control"
FOLLOW_AGAIN_S = 1.0  # after the store did not answer

log = logging.getLogger("leptonai.control")


async def _at_once() -> None:
    return None


def _no_key(workspace: str, id: str) -> str:
    return ""


class ControlPlane:
    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        prober: Prober,
        *,
        home_workspace: str,
        workspace_url: Callable[[str], str],
        unseal: Callable[[Secret], str],
        job_token: Callable[[Job], str],
        run_token: Callable[[Job], str],
        pod_key: PodKey = _no_key,
        ray_token: PodKey = _no_key,
        pod_reader: PodReader | None = None,
        runs_images: bool = False,
        mounts_volumes: bool = True,
        blobs: BlobStore | None = None,
        policy: Policy = DEFAULT,
        before_placing: Callable[[], Awaitable[None]] = _at_once,
        apart: Apart = here,
    ) -> None:
        """
        Args:
            pod_key: what the pod of a workspace and an id believes us by.
            ray_token: what the nodes of a Ray cluster know each other by.
            pod_reader: where given, pods are asked how they are.
            blobs: where given, those that nothing refers to are removed.
            before_placing: what the first placement waits for.
            apart: does what takes the processor for a while, as learning forecasts does.
        """
        self.mirror = Mirror()
        self._store = store
        self._engine = engine
        self._clock = clock
        self._prober = prober
        self._home_workspace = home_workspace  # that nodes are recorded in
        self._workspace_url = workspace_url
        self._unseal = unseal
        self._job_token = job_token
        self._run_token = run_token
        self._pod_key = pod_key
        self._ray_token = ray_token
        self._pod_reader = pod_reader
        self._runs_images = runs_images
        self._mounts_volumes = mounts_volumes
        self._blobs = blobs
        self._policy = policy
        self._before_placing = before_placing
        self._apart = apart
        self.traffic = TrafficLog(clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._pods: PodsLoop | None = None
        self._advice: Advice | None = None

    async def start(self) -> None:
        """Take the lease, learn what there is, and set the loops going.

        Raises:
            Conflict: the store is another machine's, whose control plane is left alone.
        """
        await check_whose_store(self._store, self._engine)
        self.fence = await self._store.lease(LEASE)
        await self.mirror.load(self._store)
        await self._register(self.fence)
        mirror, store, clock, fence = self.mirror, self._store, self._clock, self.fence
        owners = Owners(mirror, store, fence, clock, self.traffic)
        templates = TemplateMemory(mirror, self._engine, fence)
        self.placement = PlacementLoop(mirror, store, owners, fence, clock, templates, self._policy)
        self.routes = RoutesLoop(mirror, clock, lambda pod: self._pod_key(pod.workspace, pod.id))
        attempts = Attempts(
            mirror,
            store,
            workspace_url=self._workspace_url,
            unseal=self._unseal,
            job_token=self._job_token,
            run_token=self._run_token,
            pod_key=lambda replica: self._pod_key(replica.workspace, replica.owner_id),
            ray_token=lambda replica: self._ray_token(replica.workspace, replica.owner_id),
            runs_images=self._runs_images,
            mounts_volumes=self._mounts_volumes,
        )
        warm_starts = WarmStarts(
            mirror,
            store,
            self._engine,
            templates,
            attempts.of,
            fence,
            clock,
            runs_images=self._runs_images,
        )
        replicas = ReplicasLoop(
            mirror,
            store,
            self._engine,
            owners,
            self.traffic,
            self.routes,
            fence,
            clock,
            attempts,
            warm_starts,
        )
        forecasts = ForecastsLoop(
            mirror,
            store.counts,
            self.traffic,
            clock,
            apart=self._apart,
            changed=lambda key: scaling.look_again(key),
        )
        scaling = ScalingLoop(
            mirror,
            owners,
            self.traffic,
            clock,
            forecast_of=forecasts.of,
            gpu_use_of=measured_by(self._engine),
        )
        loops: list[Loop] = [
            OwnersLoop(mirror, owners, clock),
            replicas,
            ReadinessLoop(mirror, store, self._engine, fence, clock, self._prober),
            scaling,
            forecasts,
            self.routes,
            RunsLoop(mirror, store, fence, clock),
            RetentionLoop(mirror, store, fence, clock, self._blobs),
        ]
        if self._pod_reader is not None:
            self._pods = PodsLoop(mirror, store, fence, clock, self._pod_reader, self._pod_key)
            loops.append(self._pods)
        self._tasks = [
            asyncio.create_task(self._follow(), name="follow"),
            asyncio.create_task(self._relay(replicas), name="engine"),
            asyncio.create_task(self._place(), name=self.placement.name),
            *(asyncio.create_task(run_loop(loop, clock), name=loop.name) for loop in loops),
        ]

    def adviser(self) -> "Advice":
        """What the scheduler says; it brings numpy, and is loaded when it is first asked for."""
        if self._advice is None:
            from leptonai.control.advice import Advice

            self._advice = Advice(self.mirror, self.placement, self._store, self._clock)
        return self._advice

    async def run(self) -> None:
        """Until cancelled, or until another control plane has taken over (StaleEpoch)."""
        finished, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            error = task.exception()
            if isinstance(error, StaleEpoch):
                log.warning("another control plane has taken over: %s", error)
            if error is not None:
                raise error

    async def close(self) -> None:
        """Stop deciding. Everything that runs keeps running."""
        if self._pods is not None:
            self._pods.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _place(self) -> None:
        await self._before_placing()
        await run_loop(self.placement, self._clock)

    async def _follow(self) -> None:
        """Keep the mirror up to date; a database that was away for a while ends nothing."""
        while True:
            try:
                await self.mirror.follow(self._store)
            except TryLater as error:
                log.warning("follow: %s", error)
                await asyncio.sleep(FOLLOW_AGAIN_S)

    async def _relay(self, replicas: ReplicasLoop) -> None:
        """Have the engine's news looked at, and only then wait for more."""
        while True:
            await self._engine.changed()
            replicas.looked.clear()
            replicas.watch.news.set()
            await replicas.looked.wait()

    async def _register(self, fence: Fence) -> None:
        """Record the machines that the engine has, as they are now."""
        known = {node.id: node for node in self.mirror.nodes.values()}
        for machine in await self._engine.machines():
            before = known.get(machine.id)
            after = _node_of(machine, before, self._home_workspace, self._clock.now_ms())
            if after != before:
                await self.mirror.commit(self._store, Put(after), fence=fence)


async def check_whose_store(store: Store, engine: Engine) -> None:
    """What runs on a node is known to its own engine alone: to another one it would seem gone,
    and be started a second time.

    Raises:
        Conflict: the store has a node of another engine that is called like one of this engine.
    """
    machines = await engine.machines()
    ids = tuple(machine.id for machine in machines)
    nodes = {node.id: node for node in await store.find(Node, Query(ids=ids))}
    for machine in machines:
        node = nodes.get(machine.id)
        if node is not None and node.provider_id not in ("", machine.provider_id):
            where = node.facts.get("home") or node.provider_id
            raise Conflict(
                f"this database belongs to the platform in {where} "
                f"on {node.facts.get('hostname') or node.address}",
                hint="start that one, or give this one a database of its own: --database URL",
            )


def _node_of(machine: Machine, before: Node | None, workspace: str, now_ms: int) -> Node:
    if before is None:
        before = Node(
            workspace=workspace,
            id=machine.id,
            name=machine.id,
            created_at_ms=now_ms,
            group=machine.group,
            capacity=machine.capacity,
            state=NodeState.READY,
            seen_at_ms=now_ms,
        )
    return replace(
        before,
        group=machine.group,
        capacity=machine.capacity,
        address=machine.address,
        provider_id=machine.provider_id,
        limits=machine.limits,
        switch=machine.switch,
        facts=dict(machine.facts),
    )
