"""What people do: submit, stop, start, change and remove; and again, where there is no answer.

They act as the API does: on records, through the store handle of the control plane of the moment.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from msgspec.structs import replace

from leptonai.core.lifecycle.endpoint import new_endpoint, updated
from leptonai.core.lifecycle.job import advance, new_job
from leptonai.core.lifecycle.raycluster import new_raycluster, resized
from leptonai.core.lifecycle.replica import abandon
from leptonai.core.records import Endpoint, Job, Quota, RayCluster, Record, Replica, kind_of
from leptonai.core.rollouts.asked import promoted
from leptonai.core.rollouts.progress import candidate
from leptonai.errors import AlreadyExists, TryLater, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Delete, Put, Query, Store
from leptonai.spec.containers import Container, EnvVar, QueueConfig, SecretReference
from leptonai.spec.endpoints import EndpointSpec, ResourceRequirement
from leptonai.spec.jobs import JobSpec
from leptonai.spec.rayclusters import RayClusterSpec, RayGroup, RayWorkerGroup
from leptonai.spec.rollouts import RolloutPlan, Strategy
from leptonai.testing.simulation.faults import Died
from leptonai.testing.simulation.script import Program

WORKSPACE = "default"
TRY_AGAIN_S = 0.5

T = TypeVar("T")
R = TypeVar("R", Job, Endpoint, RayCluster)


@dataclass
class Wishes:
    """What was acknowledged: a later state of the platform must agree with it."""

    jobs: dict[str, JobSpec] = field(default_factory=dict)  # by id
    scripts: dict[str, Program] = field(default_factory=dict)  # of jobs, by id
    endpoints: dict[str, EndpointSpec] = field(default_factory=dict)  # by id
    rayclusters: dict[str, RayClusterSpec] = field(default_factory=dict)  # by id
    removed: set[str] = field(default_factory=set)


class Users:
    def __init__(
        self,
        platform: Callable[[], Awaitable[tuple[Store, Clock]]],
        random: Random,
        *,
        gpus: int,
        crowded: bool = False,
    ) -> None:
        self._gpus = gpus  # of the whole cluster: nobody may ask for more
        self._cpus = (1, 2, 3) if crowded else (0.25, 0.5, 1, 1.5)  # that workers ask for
        self._platform = platform  # waits until there is one
        self._random = random
        self._count = 0
        self._newest: dict[str, int] = {}  # of what was told of each Ray cluster, its version
        self.wishes = Wishes()

    async def act(self) -> None:
        """Do one thing that a user may do."""
        wishes = self.wishes
        jobs = [id for id in wishes.jobs if id not in wishes.removed]
        endpoints = [id for id in wishes.endpoints if id not in wishes.removed]
        clusters = [id for id in wishes.rayclusters if id not in wishes.removed]
        choice = self._random.random()
        if choice < 0.04 and not clusters:
            await self._create_raycluster()
        elif choice < 0.1 and clusters:
            await self._change_raycluster(clusters[0])
        elif choice < 0.11 and clusters:
            await self.remove(RayCluster, clusters[0])
        elif choice < 0.5 or not (jobs or endpoints):
            await self._submit_job()
        elif choice < 0.6 and len(endpoints) < MAX_ENDPOINTS:
            await self._create_endpoint()
        elif choice < 0.7 and jobs:
            await self.stop_job(self._random.choice(jobs))
        elif choice < 0.75 and jobs:
            await self._start_job(self._random.choice(jobs))
        elif choice < 0.77:
            await self._set_quota()
        elif choice < 0.85 and jobs:
            await self.remove(Job, self._random.choice(jobs))
        elif choice < 0.97 and endpoints:
            await self._update_endpoint(self._random.choice(endpoints))
        elif endpoints:
            await self.remove(Endpoint, self._random.choice(endpoints))

    async def _submit_job(self) -> None:
        self._count += 1
        id = f"job-{self._count}"
        script, spec = _random_job(self._random, self._gpus, self._cpus)
        owner = self._random.choice(OWNERS)

        async def submit(store: Store, clock: Clock) -> None:
            job = new_job(
                workspace=WORKSPACE, id=id, name=id, spec=spec, owner=owner, labels={},
                visibility="", now_ms=clock.now_ms(), idempotency_key=f"key-{id}",
            )  # fmt: skip
            step = advance(job, (), clock.now_ms())
            replicas = [Put(replica) for replica in step.replicas]
            with suppress(AlreadyExists):  # an earlier try was heard, and its answer lost
                await store.commit(Put(step.owner), *replicas)

        await self._persist(submit)
        self.wishes.jobs[id] = spec
        self.wishes.scripts[id] = script

    async def stop_job(self, id: str) -> None:
        await self._change_job(id, stopped=True)

    async def _start_job(self, id: str) -> None:
        await self._change_job(id, stopped=False)

    async def _change_job(self, id: str, *, stopped: bool) -> None:
        spec = await self._change(
            Job, id, lambda job, _: replace(job, spec=replace(job.spec, stopped=stopped))
        )
        if spec is not None:
            self.wishes.jobs[id] = spec.spec

    async def _create_endpoint(self) -> None:
        self._count += 1
        name = f"web-{self._count}"
        spec = _random_endpoint(self._random)
        made: list[str] = []

        async def create(store: Store, clock: Clock) -> None:
            endpoint = new_endpoint(
                workspace=WORKSPACE, name=name, spec=spec, owner="ann", labels={}, visibility="",
                now_ms=clock.now_ms(),
            )  # fmt: skip
            try:
                await store.commit(Put(endpoint))
                made.append(endpoint.id)
            except AlreadyExists as error:
                made.append(error.existing_id)

        await self._persist(create)
        self.wishes.endpoints[made[-1]] = spec

    async def _update_endpoint(self, id: str) -> None:
        spec = _random_endpoint(self._random)
        plan = self._random.choice(_PLANS)

        def change(endpoint: Endpoint, clock: Clock) -> Endpoint:
            now_ms = clock.now_ms()
            return updated(
                endpoint, spec, token_hashes=(), model_digest="", now_ms=now_ms, plan=plan
            )

        if await self._change(Endpoint, id, change) is not None:
            self.wishes.endpoints[id] = spec

    async def _create_raycluster(self) -> None:
        self._count += 1
        name = f"rays-{self._count}"
        spec = _random_raycluster(self._random)
        made: list[str] = []

        async def create(store: Store, clock: Clock) -> None:
            cluster = new_raycluster(
                workspace=WORKSPACE, name=name, spec=spec, owner="bob", labels={}, visibility="",
                now_ms=clock.now_ms(),
            )  # fmt: skip
            try:
                await store.commit(Put(cluster))
                made.append(cluster.id)
            except AlreadyExists as error:
                made.append(error.existing_id)

        await self._persist(create)
        self.wishes.rayclusters[made[-1]] = spec

    async def _change_raycluster(self, id: str) -> None:
        """Stop it, start it, or change how many workers it has; perhaps change one's mind."""
        for _ in range(self._random.choice([1, 1, 2, 3])):
            wish = _random_raycluster(self._random)

            def change(
                cluster: RayCluster, clock: Clock, wish: RayClusterSpec = wish
            ) -> RayCluster:
                group = replace(cluster.spec.groups[0], min_replicas=wish.groups[0].min_replicas)
                spec = replace(cluster.spec, suspend=wish.suspend, worker_group_specs=[group])
                return resized(cluster, spec, clock.now_ms())

            changed = await self._change(RayCluster, id, change)
            # Answers may come in another order than the changes were made in.
            if changed is not None and changed.version > self._newest.get(id, 0):
                self._newest[id] = changed.version
                self.wishes.rayclusters[id] = changed.spec
            await asyncio.sleep(self._random.uniform(0, 5))

    async def _set_quota(self) -> None:
        owner = self._random.choice(OWNERS)
        limits = {
            "cpu_millis": self._random.choice([None, 1000, 3000]),
            "gpus": self._random.choice([None, 0, 1]),
            "borrow": self._random.random() < 0.8,
            "weight": self._random.choice([0.5, 1, 4]),
        }

        async def change(store: Store, clock: Clock) -> None:
            known = await store.get(Quota, WORKSPACE, owner)
            fresh = Quota(workspace=WORKSPACE, id=owner, name=owner, created_at_ms=clock.now_ms())
            with suppress(AlreadyExists):
                await store.commit(Put(replace(known or fresh, **limits)))

        await self._persist(change)

    async def _lift_quotas(self) -> None:
        async def lift(store: Store, clock: Clock) -> None:
            quotas = await store.find(Quota, Query(workspace=WORKSPACE))
            await store.commit(*map(Delete, quotas))

        await self._persist(lift)

    async def settle(self) -> None:
        """Let whatever would run, or wait, for ever come to an end: stop such jobs, mend the
        endpoints and decide their roll-outs, lift the quotas."""
        await self._lift_quotas()
        for id, script in list(self.wishes.scripts.items()):
            if script.runs_s is None and id not in self.wishes.removed:
                await self.stop_job(id)
        for id, spec in list(self.wishes.endpoints.items()):
            if id in self.wishes.removed:
                continue
            mended = replace(spec, container=Container(command=_SERVER.command))

            def change(endpoint: Endpoint, clock: Clock, spec: EndpointSpec = mended) -> Endpoint:
                now_ms = clock.now_ms()
                changed = updated(endpoint, spec, token_hashes=(), model_digest="", now_ms=now_ms)
                undecided = candidate(changed) is not None
                return promoted(changed, "by ann", now_ms) if undecided else changed

            if await self._change(Endpoint, id, change) is not None:
                self.wishes.endpoints[id] = mended

    async def remove(self, kind: type[R], id: str) -> None:
        async def delete(store: Store, clock: Clock) -> None:
            record = await store.get(kind, WORKSPACE, id)
            if record is None:
                return
            parent = f"{kind_of(record)}/{id}"
            replicas = await store.find(Replica, Query(workspace=WORKSPACE, parent=parent))
            abandoned = [Put(abandon(replica, clock.now_ms())) for replica in replicas]
            await store.commit(Delete(record), *abandoned)

        self.wishes.removed.add(id)
        await self._persist(delete)

    async def _change(self, kind: type[R], id: str, change: Callable[[R, Clock], R]) -> R | None:
        async def attempt(store: Store, clock: Clock) -> R | None:
            record = await store.get(kind, WORKSPACE, id)
            if record is None:
                return None
            changed = change(record, clock)
            written: tuple[Record, ...] = await store.commit(Put(changed))
            assert isinstance(written[0], kind)
            return written[0]

        return await self._persist(attempt)

    async def _persist(self, request: Callable[[Store, Clock], Awaitable[T]]) -> T:
        """As a patient client does: again, until there is an answer."""
        while True:
            try:
                return await request(*await self._platform())
            except (TryLater, VersionConflict, Died):
                await asyncio.sleep(TRY_AGAIN_S)


MAX_ENDPOINTS = 2
OWNERS = ("ann", "bob")
_SERVER = Program(runs_s=None, ready_after_s=0.2)
_PLANS = (
    None,
    None,
    None,
    RolloutPlan(strategy=Strategy.CANARY, steps=[40.0]),
    RolloutPlan(strategy=Strategy.BLUE_GREEN, keep_seconds=5),
    RolloutPlan(strategy=Strategy.SHADOW),
)


def _random_job(random: Random, gpus: int, cpus: Sequence[float]) -> tuple[Program, JobSpec]:
    program = random.choice(
        [
            Program(runs_s=random.uniform(0, 0.5)),
            Program(runs_s=random.uniform(0, 20)),
            Program(runs_s=random.uniform(0, 5), exits=(3,)),
            Program(runs_s=random.uniform(0, 5), exits=(1, 0)),
            Program(runs_s=random.uniform(0, 5), exits=(137, 139, 0)),
            Program(runs_s=random.uniform(0, 30), heeds_term_after_s=None),
            Program(runs_s=None, heeds_term_after_s=random.choice([None, 0.01, 3, 20])),
        ]
    )
    envs = []
    if random.random() < 0.03:
        envs.append(EnvVar(name="KEY", value_from=SecretReference(secret_name_ref="missing")))
    small = max(cpus) < 2
    workers = random.choice([1, 1, 1, 2, 3] if small else [1, 1, 2])
    with_gpus = workers <= gpus if small else workers == 1  # what never fits would wait for ever
    queue = QueueConfig(
        priority_class=random.choice([None, "low-1000", "high-9000"]),
        can_be_preempted=random.choice([None, True]),
        can_preempt=random.choice([None, None, False]),
    )
    return program, JobSpec(
        container=Container(command=program.command, image=random.choice([None, None, "pytorch"])),
        cpu=random.choice(cpus),
        memory=128,
        accelerator_num=random.choice([None, None, None, 1 if with_gpus else None]),
        completions=workers,
        min_workers=random.choice([None, None, 1]),
        queue_config=queue,
        max_failure_retry=random.choice([None, 1, 3]),
        max_job_failure_retry=random.choice([None, None, 1, 2]),
        envs=envs or None,
    )


def _random_endpoint(random: Random) -> EndpointSpec:
    program = random.choice(
        [
            _SERVER,
            _SERVER,
            Program(runs_s=None, ready_after_s=random.uniform(0, 5)),
            Program(runs_s=None, ready_after_s=0.1, heeds_term_after_s=None),
            Program(runs_s=random.uniform(0.1, 10), exits=(1,), ready_after_s=0.05),
            Program(runs_s=None),
        ]
    )
    return EndpointSpec(
        container=Container(command=program.command),
        resource_requirement=ResourceRequirement(
            cpu=0.1, memory=128, min_replicas=random.choice([0, 1, 1, 2, 3])
        ),
    )


def _random_raycluster(random: Random) -> RayClusterSpec:
    """Of nodes that never end by themselves: what goes wrong sees to that."""
    program = random.choice(
        [
            _SERVER,
            _SERVER,
            Program(runs_s=None, ready_after_s=random.uniform(0, 5)),
            Program(runs_s=None, ready_after_s=0.1, heeds_term_after_s=None),
        ]
    )
    container = Container(command=program.command)
    return RayClusterSpec(
        suspend=random.choice([None, None, True]),
        head_group_spec=RayGroup(cpu=0.1, memory=128, container=container),
        worker_group_specs=[
            RayWorkerGroup(
                group_name="workers",
                cpu=0.1,
                memory=128,
                container=container,
                min_replicas=random.choice([0, 1, 2]),
            )
        ],
    )
