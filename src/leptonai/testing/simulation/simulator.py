"""The whole control plane in one process and in virtual time, while everything goes wrong.

A seed decides all: what users ask for, what their programs do, which calls are slow or lost, when
the control plane dies, when nodes vanish and clocks jump. The invariants are checked at every step;
after a while the world calms down, and then everything that was acknowledged must come to its end.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

from leptonai.control.plane import ControlPlane
from leptonai.core.records import (
    Endpoint,
    EndReason,
    Goal,
    Job,
    OwnerKind,
    Phase,
    RayCluster,
    Replica,
)
from leptonai.core.resources import MIB, Capacity
from leptonai.core.routing import RouteTable
from leptonai.core.scheduler.policy import DEFAULT
from leptonai.errors import LeptonError
from leptonai.ports.clock import Clock
from leptonai.ports.engine import AttemptId, Machine
from leptonai.ports.store import Query, Store
from leptonai.spec.endpoints import EndpointState
from leptonai.spec.jobs import JobState
from leptonai.spec.rayclusters import RayClusterState
from leptonai.stores.memory import MemoryStore
from leptonai.testing.simulation.cluster import SimulatedCluster
from leptonai.testing.simulation.faults import (
    CALM,
    Died,
    EngineHandle,
    Incarnation,
    Odds,
    ProberHandle,
    StoreHandle,
    Trace,
)
from leptonai.testing.simulation.invariants import CheckedStore
from leptonai.testing.simulation.users import WORKSPACE, Users
from leptonai.testing.virtual_time import ProcessClock, VirtualClock, run

STORM_S = 90.0  # how long users act and things go wrong
SETTLE_S = 1_800.0  # after which everything acknowledged must have come to its end
IDLE_S = 60.0  # watched at the end: a platform with nothing to do does next to nothing
IDLE_CALLS = 200  # in that time, at most: probes, looks at the nodes
MISFORTUNE_EVERY_S = 9.0
ACTION_EVERY_S = 3.0
CROWDED_EVERY_S = 1.0
CROWDED = 0.3  # so many worlds have more to do than fits
POLICY = replace(DEFAULT, min_run_ms=2_000)  # else nobody would be preempted in so short a time
LONG_POLL_S = 30.0  # of the gateway, for routes
ROUTE_LATENCY_S = 0.1  # at most, until it acts on a new table
LINGER_S = 30.0  # at most, that a control plane acts beside its successor
RECONNECT_S = 0.3  # at most, until it has found the new control plane

log = logging.getLogger("leptonai.control")


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    digest: str  # equal runs have equal ones
    virtual_s: float
    calls: int
    jobs: int
    deaths: int  # of control planes
    gave_way: int  # jobs, to others


class Violation(AssertionError):
    """An invariant of the platform does not hold."""


class SimulationFailed(AssertionError):
    """Carries what is needed to see it again."""

    def __init__(self, seed: int, problem: BaseException, trace: list[str]) -> None:
        self.seed, self.trace = seed, trace
        super().__init__(
            f"seed {seed}: {type(problem).__name__}: {problem}\n"
            f"  replay: python -m leptonai.testing.simulation --seed {seed} --trace"
        )


def simulate(seed: int, *, odds: Odds | None = None) -> Outcome:
    """Run one world to its end. With CALM odds no node vanishes and nobody dies either.

    Raises:
        SimulationFailed: an invariant did not hold.
    """
    world = _World(seed, odds or Odds())
    handler = _Unexpected(world)
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        return run(world.run())
    except BaseException as problem:
        raise SimulationFailed(seed, problem, world.trace.lines) from problem
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


class _Unexpected(logging.Handler):
    """A loop that meets an error it does not know goes on; the simulation does not."""

    def __init__(self, world: "_World") -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, Violation):
            self._world.report(logging.Formatter().format(record))


class _World:
    def __init__(self, seed: int, odds: Odds) -> None:
        self.seed = seed
        self.random = Random(seed)
        self._odds = odds
        self.trace = Trace()
        self.clock = VirtualClock()
        self.cluster = SimulatedCluster(
            _machines(self.random),
            clock=self.clock,
            report=self.report,
            on_stop=self._check_drained,
        )
        self._peaceful = odds == CALM
        self._crowded = self._peaceful or self.random.random() < CROWDED
        self.store = CheckedStore(MemoryStore(), self.report, prompt=self._peaceful)
        gpus = sum(capacity.gpus for capacity in self.cluster.capacity.values())
        self.users = Users(self._platform, self.random, gpus=gpus, crowded=self._crowded)
        self.routes: RouteTable | None = None  # as the gateway has it
        self._violation: str | None = None
        self._violated: asyncio.Event
        self._incarnations = 0
        self._current: tuple[Incarnation, ControlPlane, Store, Clock] | None = None
        self._up: asyncio.Event
        self._takeover: asyncio.Event  # set: another control plane is started beside this one
        self._lingering: list[asyncio.Task[None]] = []
        self._clock_set_at_s = float("-inf")
        self._lingered_at_s = float("-inf")

    def report(self, what: str) -> None:
        """An invariant does not hold: whoever broke it goes no further, and the run ends."""
        if self._violation is None:
            self.trace.note(f"VIOLATION {what}")
            self._violation = what
            self._violated.set()
        raise Violation(what)

    async def run(self) -> Outcome:
        self._violated, self._up, self._takeover = asyncio.Event(), asyncio.Event(), asyncio.Event()
        story = asyncio.create_task(self._story(), name="story")
        watch = asyncio.create_task(self._violated.wait(), name="watch")
        await asyncio.wait({story, watch}, return_when=asyncio.FIRST_COMPLETED)
        if self._violation is not None:
            raise Violation(self._violation)
        return story.result()

    async def _story(self) -> Outcome:
        platform = asyncio.create_task(self._keep_platform_up(), name="platform")
        gateway = asyncio.create_task(self._follow_routes(), name="gateway")
        misfortune = asyncio.create_task(self._misfortunes(), name="misfortune")
        loop = asyncio.get_running_loop()
        actions: set[asyncio.Task[None]] = set()
        while loop.time() < STORM_S:
            actions.add(asyncio.create_task(self.users.act()))
            every_s = CROWDED_EVERY_S if self._crowded else ACTION_EVERY_S
            await asyncio.sleep(self.random.expovariate(1 / every_s))
        await self._calm_down(misfortune)
        await asyncio.gather(*actions)
        await self.users.settle()
        problem = "nothing was looked at"
        while problem and loop.time() < STORM_S + SETTLE_S:
            await asyncio.sleep(5)
            problem = await self._unsettled()
        if problem:
            self.report(f"not settled after {SETTLE_S:g} s without faults: {problem}")
        before = self._calls
        await asyncio.sleep(IDLE_S)
        if self._calls - before > IDLE_CALLS:
            self.report(f"{self._calls - before} calls in {IDLE_S:g} s with nothing to do")
        if problem := await self._unsettled():
            self.report(f"was settled, but then: {problem}")
        for task in (platform, gateway):
            task.cancel()
        return Outcome(
            seed=self.seed,
            digest=self.trace.digest,
            virtual_s=loop.time(),
            calls=self._calls,
            jobs=len(self.users.wishes.jobs),
            deaths=self._incarnations - 1,
            gave_way=self.store.gave_way,
        )

    # --- the platform ----------------------------------------------------------------------------

    async def _keep_platform_up(self) -> None:
        """As a service manager does: when it dies, start it again after a moment."""
        while True:
            self._incarnations += 1
            life = Incarnation(self._incarnations, self.random, lambda: self._odds, self.trace)
            store, clock = StoreHandle(self.store, life), ProcessClock(self.clock)
            plane = ControlPlane(
                store,
                EngineHandle(self.cluster, life),
                clock,
                ProberHandle(self.cluster, life),
                home_workspace=WORKSPACE,
                workspace_url=lambda workspace: f"http://simulated/{workspace}",
                unseal=lambda secret: "",
                job_token=lambda job: "",
                run_token=lambda job: "",
                policy=POLICY,
            )
            self.trace.note(f"#{life.number} starts")
            try:
                await plane.start()
            except (LeptonError, Died):
                life.die()
                await self._bury(plane)
                await asyncio.sleep(self.random.uniform(0.1, 2))
                continue
            self._current = (life, plane, store, clock)
            self._up.set()
            await self._live(life, plane)
            await asyncio.sleep(self.random.uniform(0.1, 5))

    async def _live(self, life: Incarnation, plane: ControlPlane) -> None:
        run = asyncio.create_task(plane.run(), name=f"run #{life.number}")
        death = asyncio.create_task(life.dead.wait(), name=f"death #{life.number}")
        takeover = asyncio.create_task(self._takeover.wait(), name="takeover")
        await asyncio.wait({run, death, takeover}, return_when=asyncio.FIRST_COMPLETED)
        takeover.cancel()
        self._up.clear()
        if takeover.done() and not takeover.cancelled() and not life.dead.is_set():
            self._takeover.clear()
            self._lingering.append(asyncio.create_task(self._linger(life, plane, run)))
            return
        if run.done() and not life.dead.is_set():
            self.trace.note(f"#{life.number} ended: {run.exception()!r}")
        life.die()
        await self._bury(plane)
        await asyncio.gather(run, death, return_exceptions=True)

    async def _linger(
        self, life: Incarnation, plane: ControlPlane, run: asyncio.Task[None]
    ) -> None:
        """One that was taken for dead, and is not: it acts beside its successor for a while."""
        self.trace.note(f"#{life.number} lingers")
        self._lingered_at_s = float("inf")
        await asyncio.wait({run}, timeout=self.random.uniform(0, LINGER_S))
        self._lingered_at_s = asyncio.get_running_loop().time()
        life.die()
        await self._bury(plane)
        await asyncio.gather(run, return_exceptions=True)

    async def _bury(self, plane: ControlPlane) -> None:
        with suppress(Died):
            await plane.close()

    async def _platform(self) -> tuple[Store, Clock]:
        await self._up.wait()
        assert self._current is not None
        _, _, store, clock = self._current
        return store, clock

    async def _follow_routes(self) -> None:
        """The gateway: asks for the table that comes after its own, and keeps what it has."""
        while True:
            await self._up.wait()
            assert self._current is not None
            life, plane, _, _ = self._current
            after = self.routes.seq if self.routes else 0
            answer = asyncio.create_task(plane.routes.wait(after, LONG_POLL_S), name="long poll")
            death = asyncio.create_task(life.dead.wait(), name="connection")
            await asyncio.wait({answer, death}, return_when=asyncio.FIRST_COMPLETED)
            if life.dead.is_set():
                await asyncio.sleep(self.random.uniform(0, RECONNECT_S))
            elif (table := answer.result()) is not None:
                await asyncio.sleep(self.random.uniform(0, ROUTE_LATENCY_S))
                self.routes = table
            answer.cancel()
            death.cancel()

    # --- what goes wrong -------------------------------------------------------------------------

    async def _misfortunes(self) -> None:
        random = self.random
        nodes = sorted(self.cluster.capacity)
        while not self._peaceful:
            await asyncio.sleep(random.expovariate(1 / MISFORTUNE_EVERY_S))
            kind = random.choice(
                ["death", "takeover", "kill", "kill", "cut", "power", "clock", "stranger"]
            )
            node = random.choice(nodes)
            self.trace.note(f"misfortune: {kind} {node}")
            loop = asyncio.get_running_loop()
            back_s = random.choice([1.0, 10.0, 50.0, 75.0, 120.0])
            match kind:
                case "death":
                    if self._current is not None:
                        self._current[0].die()
                case "takeover":
                    if self._up.is_set():
                        self._takeover.set()
                case "kill":
                    if running := sorted(self.cluster.running()):
                        victim = random.choice(running)
                        self.cluster.crash(self.cluster.running()[victim].node, victim)
                case "cut" | "power":
                    self.cluster.vanish(node, back_s, power=kind == "power")
                case "clock":
                    self._clock_set_at_s = loop.time()
                    self.clock.set_forward(random.randint(-120_000, 60_000))
                case "stranger":
                    self.cluster.take_port(node, random.choice([20_000, 40_000]))

    async def _calm_down(self, misfortune: asyncio.Task[None]) -> None:
        """Nothing goes wrong from here on."""
        self.trace.note("calm")
        self._odds = CALM
        misfortune.cancel()
        self._takeover.clear()
        await asyncio.gather(*self._lingering)
        for node in self.cluster.capacity:
            self.cluster.bring_back(node)

    def _check_drained(self, attempt: AttemptId) -> None:
        """A server is asked to end only once no request is sent to it any more."""
        if asyncio.get_running_loop().time() - self._clock_set_at_s < 1:
            return  # what is half a second to a process whose clock has just been set forward?
        if asyncio.get_running_loop().time() - self._lingered_at_s < 1:
            return  # the gateway may still follow the one that was taken over
        replica = attempt.rpartition(".")[0]
        record = self.store.replicas.get((WORKSPACE, replica))
        if record is None or not record.ready:
            return  # it did not answer probes, so nothing is lost with it
        if self.routes is not None and self._up.is_set():
            for route in self.routes.routes:
                if any(upstream.replica == replica for upstream in route.upstreams):
                    self.report(f"{attempt} gets SIGTERM while requests are still sent to it")

    # --- how it must end -------------------------------------------------------------------------

    @property
    def _calls(self) -> int:
        return self.trace.count

    async def _unsettled(self) -> str:
        """What has not come to its end, or has come to a wrong one; "" if nothing."""
        wishes, store = self.users.wishes, self.store
        jobs = {job.id: job for job in await store.find(Job, Query(workspace=WORKSPACE))}
        endpoints = {e.id: e for e in await store.find(Endpoint, Query(workspace=WORKSPACE))}
        replicas = await store.find(Replica, Query(workspace=WORKSPACE))
        by_owner: dict[str, list[Replica]] = {}
        for replica in replicas:
            by_owner.setdefault(replica.parent, []).append(replica)
        for id in wishes.jobs:
            if id in wishes.removed:
                if id in jobs:
                    return f"{id} was removed, and is {jobs[id].state}"
                continue
            if id not in jobs:
                self.report(f"{id} was acknowledged, and is gone")
            if not jobs[id].finished:
                return f"{id} is {jobs[id].state} ({jobs[id].message or self._why(jobs[id])})"
            self._check_end(jobs[id], by_owner.get(f"job/{id}", []))
        for id, spec in wishes.endpoints.items():
            if id in wishes.removed:
                if id in endpoints:
                    return f"{id} was removed, and is {endpoints[id].state}"
                continue
            if id not in endpoints:
                self.report(f"{id} was acknowledged, and is gone")
            endpoint = endpoints[id]
            wanted = EndpointState.READY if spec.replicas else EndpointState.STOPPED
            if endpoint.state is not wanted or endpoint.spec != spec:
                return f"{id} is {endpoint.state}, not {wanted} ({endpoint.message})"
            serving = [r for r in by_owner.get(f"endpoint/{id}", []) if r.phase is Phase.RUNNING]
            if len(serving) != spec.replicas or any(r.goal is Goal.STOP for r in serving):
                return f"{id} has {len(serving)} servers, not {spec.replicas}"
        if problem := await self._unsettled_rayclusters(by_owner):
            return problem
        return self._unsettled_rest(replicas)

    async def _unsettled_rayclusters(self, by_owner: dict[str, list[Replica]]) -> str:
        wishes = self.users.wishes
        found = await self.store.find(RayCluster, Query(workspace=WORKSPACE))
        clusters = {cluster.id: cluster for cluster in found}
        for id, spec in wishes.rayclusters.items():
            if id in wishes.removed:
                if id in clusters:
                    return f"{id} was removed, and is {clusters[id].state}"
                continue
            if id not in clusters:
                self.report(f"{id} was acknowledged, and is gone")
            cluster = clusters[id]
            wanted = RayClusterState.STOPPED if spec.suspend else RayClusterState.READY
            if cluster.state is not wanted or cluster.spec != spec:
                return f"{id} is {cluster.state}, not {wanted} ({cluster.message})"
            running = [r for r in by_owner.get(f"raycluster/{id}", []) if r.phase is Phase.RUNNING]
            nodes = 0 if spec.suspend else 1 + spec.workers
            if len(running) != nodes or any(r.round != cluster.round for r in running):
                return f"{id} has {len(running)} nodes, not {nodes}, or some of an earlier round"
        return ""

    def _why(self, job: Job) -> str:
        if self._current is None:
            return "the platform is down"
        reason = self._current[1].placement.why(f"{job.workspace}/job/{job.id}/{job.round}")
        return reason.text if reason else "nobody knows why"

    def _unsettled_rest(self, replicas: list[Replica]) -> str:
        """Nothing runs, is remembered or is routed to but what should be."""
        current = {r.attempt_id for r in replicas if r.phase is not Phase.DONE}
        running = set(self.cluster.running())
        if strays := sorted(running - current):
            return f"{strays} run, and nobody wants them"
        if missing := sorted(
            r.id for r in replicas if r.phase is Phase.RUNNING and r.attempt_id not in running
        ):
            return f"{missing} are on record as running, and are not"
        for node, ended in self.cluster.remembered().items():
            if left := sorted(ended - current):
                return f"{node} was not told to forget {left}"
        if orphans := sorted(r.id for r in replicas if r.abandoned):
            return f"{orphans} were abandoned, and are still there"
        ready = {r.id for r in replicas if r.ready and r.owner_kind is OwnerKind.ENDPOINT}
        routed = {
            u.replica
            for route in (self.routes.routes if self.routes else ())
            for u in route.upstreams
        }
        if ready != routed:
            return f"requests go to {sorted(routed)}, ready are {sorted(ready)}"
        return ""

    def _check_end(self, job: Job, replicas: list[Replica]) -> None:
        """A job ended as its workers really did."""
        gang = [r for r in replicas if r.round == job.round]
        truth = [self.cluster.end_of(r.attempt_id) for r in gang]
        if job.state is JobState.COMPLETED:
            succeeded = [how for how in truth if how is not None and how.succeeded]
            least = job.spec.min_workers or job.spec.workers
            if not least <= len(succeeded) == len(gang) <= job.spec.workers:
                self.report(f"{job.id} is Completed, but its workers ended so: {truth}")
        elif job.state is JobState.STOPPED and job.spec.stopped is not True:
            self.report(f"{job.id} is Stopped, and nobody wants that")
        elif job.state is JobState.FAILED:
            ends = [r.last_end for r in gang if r.last_end is not None]
            if all(how.succeeded or how.reason is EndReason.STOPPED for how in ends):
                self.report(f"{job.id} is Failed, but its workers ended so: {ends}")


def _machines(random: Random) -> list[Machine]:
    return [
        Machine(
            id=f"node-{number}",
            group="simulated",
            capacity=Capacity(
                cpu_millis=4_000,
                memory_bytes=8_192 * MIB,
                disk_bytes=100_000 * MIB,
                gpus=(gpus := 2 if number == 0 else random.choice([0, 1, 2])),
                gpu_type="A100" if gpus else "",
            ),
            address=f"10.0.0.{number}",
        )
        for number in range(random.choice([2, 3]))
    ]
