"""The engine's side of every placed replica.

Observes each node, writes down what has become of its attempts, and asks for what is missing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from msgspec.structs import replace

from leptonai.control.draining import Draining
from leptonai.control.loops.loop import RETRY_AFTER_MS, retry_ms
from leptonai.control.mirror import Mirror, Watch
from leptonai.control.owners import OwnerKey, Owners, owner_of
from leptonai.control.template_memory import TemplateMemory
from leptonai.control.traffic import TrafficLog
from leptonai.control.warm_starts import WarmStarts
from leptonai.core.access import Principal, Role
from leptonai.core.attachments import (
    attached_files,
    attached_variables,
    check_attachments,
    secret_names,
)
from leptonai.core.lifecycle import node as node_lifecycle
from leptonai.core.lifecycle.environment import environment, host_names
from leptonai.core.lifecycle.ray_node import start_command, token_variables
from leptonai.core.lifecycle.raycluster import head_of
from leptonai.core.lifecycle.replica import (
    Ask,
    SeenEnded,
    SeenRunning,
    Sight,
    ask,
    done,
    ended,
    node_lost,
    observed,
    stop,
)
from leptonai.core.records import (
    MAX_TERMINATIONS,
    DataSource,
    Endpoint,
    EndReason,
    Event,
    Goal,
    Job,
    Node,
    NodeState,
    OwnerKind,
    Phase,
    Program,
    Replica,
    Secret,
    Severity,
    Termination,
    Volume,
)
from leptonai.core.volumes import may_use, meant_by, refused
from leptonai.errors import (
    Internal,
    LeptonError,
    NotFound,
    RequestError,
    StaleEpoch,
    VersionConflict,
)
from leptonai.ports.clock import Clock
from leptonai.ports.engine import (
    KEPT,
    Attempt,
    AttemptId,
    Ended,
    Engine,
    Running,
    Seen,
    Tree,
    Unreachable,
    VolumeAt,
)
from leptonai.ports.store import Delete, Emit, Fence, Put, Query, Store

STOP_GRACE_MS = 10_000  # between SIGTERM and SIGKILL
LOOK_AGAIN_MS = 1_000  # at a node that could not be reached
ASK_AGAIN_MS = 2_000  # what was asked and is still not seen: the ask, or its answer, may be lost

log = logging.getLogger("leptonai.control")


class ReplicasLoop:
    name = "replicas"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        engine: Engine,
        owners: Owners,
        traffic: TrafficLog,
        templates: TemplateMemory,
        fence: Fence,
        clock: Clock,
        *,
        workspace_url: Callable[[str], str],
        unseal: Callable[[Secret], str],
        job_token: Callable[[Job], str],
        run_token: Callable[[Job], str],
        pod_key: Callable[[Replica], str],
        ray_token: Callable[[Replica], str],
        runs_images: bool = False,
        mounts_volumes: bool = True,
    ) -> None:
        self.watch: Watch = mirror.watch(Replica, Node, Endpoint)
        self._mirror = mirror
        self._store = store
        self._engine = engine
        self._owners = owners
        self._fence = fence
        self._clock = clock
        self._workspace_url = workspace_url
        self._unseal = unseal
        self._job_token = job_token
        self._run_token = run_token
        self._pod_key = pod_key
        self._ray_token = ray_token
        self._runs_images = runs_images
        self._mounts_volumes = mounts_volumes
        self._failures: dict[str, int] = {}  # of each node, in a row
        self._known: dict[
            str, set[str]
        ] = {}  # by node: attempts that were ours and are still there
        self.looked = asyncio.Event()  # set after every look at the nodes
        self._draining = Draining(mirror, traffic)
        self._warm_starts = WarmStarts(
            mirror, store, engine, templates, fence, clock, runs_images=runs_images
        )
        traffic.wake_when_idle(self.watch.news)

    async def step(self) -> int | None:
        try:
            return await self._look()
        finally:
            self.looked.set()

    async def _look(self) -> int | None:
        self.watch.take()
        by_node: dict[str, list[Replica]] = {node.id: [] for node in self._mirror.nodes.values()}
        for replica in self._mirror.replicas.values():
            if replica.phase in (Phase.PLACED, Phase.RUNNING, Phase.ENDED) or (
                replica.abandoned and replica.phase is not Phase.WAITING
            ):
                by_node.setdefault(replica.node, []).append(replica)
        nodes = {node.id: node for node in self._mirror.nodes.values()}
        wakes = await asyncio.gather(
            *(self._tend(nodes.get(id), id, replicas) for id, replicas in by_node.items())
        )
        return min((wake for wake in wakes if wake is not None), default=None)

    async def _tend(self, node: Node | None, id: str, replicas: list[Replica]) -> int | None:
        """One node at a time, and no node's trouble is another's."""
        try:
            wake = await self._tend_node(node, id, replicas)
            self._failures.pop(id, None)
            return wake
        except StaleEpoch:
            raise
        except VersionConflict:
            return self._clock.now_ms() + RETRY_AFTER_MS  # news of what is newer is on its way
        except LeptonError as error:
            self._failures[id] = self._failures.get(id, 0) + 1
            log.warning("node %s: %s", id, error)
            return self._clock.now_ms() + retry_ms(self._failures[id])

    async def _tend_node(self, node: Node | None, id: str, replicas: list[Replica]) -> int | None:
        if id == "" or node is None:
            await self._bury(replicas, reachable=False)
            return None
        observation = await self._engine.observe(id)
        now_ms = self._clock.now_ms()
        if isinstance(observation, Unreachable):
            return await self._lose_sight(node, observation, replicas, now_ms)
        returned = node.state is not NodeState.READY
        node_after = node_lifecycle.seen(node, observation.at_ms)
        if node_after is not node:
            await self._mirror.commit(self._store, Put(node_after), fence=self._fence)
            if returned:
                return now_ms  # look at it afresh: its replicas may have been given up meanwhile
        return await self._converge(id, observation, replicas, now_ms)

    async def _converge(
        self, node: str, observation: Seen, replicas: list[Replica], now_ms: int
    ) -> int | None:
        """Write down what is new, ask for what is missing, and have the rest forgotten."""
        wakes: list[int] = []
        asks: list[Awaitable[None]] = []
        news: list[Replica] = []
        known = {replica.attempt_id for replica in replicas if replica.phase is not Phase.DONE}
        strays = {id: seen for id, seen in observation.attempts.items() if id not in known}
        known_before = self._known.get(node, set())
        owned = await self._owned([id for id in strays if id not in known_before])
        self._known[node] = known | (known_before & strays.keys())
        for replica in replicas:
            if replica.phase is Phase.DONE:
                continue
            sight = _sight(observation, replica.attempt_id)
            after = observed(replica, sight, now_ms)
            if after is not replica:
                news.append(after)
            what, again_ms = ask(after, sight, now_ms)
            draining_ms = self._draining.again_ms(after, now_ms)
            if what is Ask.STOP and draining_ms is not None:
                what, again_ms = Ask.NOTHING, draining_ms
            if again_ms is not None:
                wakes.append(again_ms)
            if what is not Ask.NOTHING:
                wakes.append(now_ms + ASK_AGAIN_MS)
            if what is Ask.START:
                asks.append(self._start(after))
            elif what is Ask.STOP:
                asks.append(
                    self._engine.stop(
                        node, replica.attempt_id, grace_ms=STOP_GRACE_MS, epoch=self._fence.epoch
                    )
                )
        for id, state in strays.items():
            if id in owned:
                wakes.append(now_ms + RETRY_AFTER_MS)
            elif isinstance(state, Ended):
                asks.append(self._forget(node, id))
            else:
                # Nobody's: its replica was given up while the node was out of sight.
                wakes.append(now_ms + ASK_AGAIN_MS)
                asks.append(
                    self._engine.stop(node, id, grace_ms=STOP_GRACE_MS, epoch=self._fence.epoch)
                )
        failed, *results = await asyncio.gather(self._write(news), *asks, return_exceptions=True)
        await self._bury([r for r in replicas if r.abandoned], reachable=True)
        await self._warm_starts.tend(node, observation, replicas, self._attempt)
        for result in (failed, *results):
            if isinstance(result, BaseException):
                raise result
        if failed:
            raise VersionConflict("some replicas changed while they were observed")
        return min(wakes, default=None)

    async def _owned(self, attempts: list[str]) -> set[str]:
        """Which of them are some replica's current attempt, though the mirror does not know it yet.

        A control plane that has been taken over may still start what its successor has just placed.
        """
        if not attempts:
            return set()
        ids = tuple(attempt.rpartition(".")[0] for attempt in attempts)
        found = await self._store.find(Replica, Query(ids=ids))
        return {replica.attempt_id for replica in found if replica.phase is not Phase.DONE}

    async def _write(self, news: list[Replica]) -> bool:
        """Write down what became of replicas, and what follows for their owners; say whether some
        changed meanwhile. Each owner on its own, so that one that changed holds up no other."""
        families: dict[OwnerKey, list[Replica]] = {}
        for replica in news:
            families.setdefault(owner_of(replica), []).append(replica)
        results = await asyncio.gather(
            *(self._owners.advance(owner, family) for owner, family in families.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, VersionConflict):
                raise result
        return any(isinstance(result, VersionConflict) for result in results)

    async def _lose_sight(
        self, node: Node, observation: Unreachable, replicas: list[Replica], now_ms: int
    ) -> int:
        """Out of sight is not dead: replicas are given up only once their node is fenced."""
        after = node_lifecycle.unreachable(node, observation.since_ms)
        if node_lifecycle.to_be_fenced(after, now_ms) and await self._engine.fence(
            node.id, epoch=self._fence.epoch
        ):
            after = node_lifecycle.fenced(after)
        if after is not node:
            event = Event(
                workspace=node.workspace,
                kind="node",
                id=node.id,
                name=node.name,
                reason=after.state,
                message=f"node {node.id}: {observation.because}",
                at_ms=now_ms,
                severity=Severity.WARNING,
            )
            await self._mirror.commit(self._store, Put(after), Emit(event), fence=self._fence)
        if after.state is NodeState.FENCED:
            lost = [(r, node_lost(r, now_ms)) for r in replicas]
            await self._write([after for before, after in lost if after is not before])
            await self._bury([r for r in replicas if r.abandoned], reachable=False)
        return now_ms + LOOK_AGAIN_MS

    async def _start(self, replica: Replica) -> None:
        try:
            attempt = await self._attempt(replica)
        except (RequestError, Internal) as error:  # a secret or volume that is not there, say
            end = Termination(
                reason=EndReason.NOT_STARTED,
                message=str(error),
                finished_at_ms=self._clock.now_ms(),
            )
            await self._write([ended(replica, end)])
            return
        if attempt is None:
            return  # the rest of its gang, or its job, is still on its way into the mirror
        ignored = not self._runs_images or _on_host(replica)
        if replica.program.image and ignored and replica.attempt == 0:
            event = replace(_image_ignored(replica), at_ms=self._clock.now_ms())
            await self._store.commit(Emit(event), fence=self._fence)
        in_container = bool(replica.program.image) and not ignored
        if attempt.volumes and not (self._mounts_volumes or in_container) and not replica.attempt:
            event = replace(_volumes_linked(replica), at_ms=self._clock.now_ms())
            await self._store.commit(Emit(event), fence=self._fence)
        await self._engine.start(attempt, epoch=self._fence.epoch)

    async def _attempt(self, replica: Replica) -> Attempt | None:
        """Everything the engine needs to run the replica's current attempt."""
        program = replica.program
        job: Job | None = None
        gang = [replica]
        if replica.owner_kind is OwnerKind.JOB:
            job = self._mirror.jobs.get((replica.workspace, replica.owner_id))
            siblings = self._mirror.replicas_of(replica.workspace, replica.parent)
            gang = sorted((r for r in siblings if r.gang == replica.gang), key=lambda r: r.index)
            if job is None or len(gang) != replica.gang_size:
                return None
        nodes = {node.id: node for node in self._mirror.nodes.values()}
        addresses = {id: node.address for id, node in nodes.items()}
        talks = job is not None and job.spec.intra_job_communication is True
        env = environment(
            replica,
            gang,
            addresses=addresses,
            gpu_type=nodes[replica.node].capacity.gpu_type,
            workspace_url=self._workspace_url(replica.workspace),
            failures=job.failures if job else 0,
        )
        if program.workspace_token and job is not None:
            env["LEPTON_WORKSPACE_TOKEN"] = self._job_token(job)
        if job is not None:
            env["LEPTON_RUN_TOKEN"] = self._run_token(job)
        env |= attached_variables(program.attachments)
        if program.pod:
            env["LEPTON_POD_KEY"] = self._pod_key(replica)
        env |= await self._user_env(replica.workspace, program)
        command = program.command
        if replica.owner_kind is OwnerKind.RAYCLUSTER:
            head = head_of(self._mirror.replicas_of(replica.workspace, replica.parent))
            if head is None or not head.ports:
                return None  # it is ending, and this worker with it
            command = start_command(
                replica,
                head,
                address=addresses[replica.node],
                head_address=addresses.get(head.node, "127.0.0.1"),
            )
            env |= token_variables(self._ray_token(replica))
        trees = []
        if program.workdir:
            trees.append(Tree(digest=program.workdir, at="workdir"))
        if program.model:
            trees.append(Tree(digest=program.model, at="model"))
        return Attempt(
            id=replica.attempt_id,
            node=replica.node,
            command=command,
            hosts=host_names(replica, gang, addresses) if talks else {},
            env=env,
            cpu_millis=program.needs.cpu_millis,
            limit_cpu_millis=program.limit_cpu_millis,
            limit_memory_bytes=program.limit_memory_bytes,
            gpus=replica.gpus,
            ports=replica.ports,
            trees=tuple(trees),
            start_in=KEPT if program.pod else "workdir" if program.workdir else "",
            keeps=_kept_by(replica),
            image=program.image if self._runs_images and not _on_host(replica) else "",
            volumes=await self._volumes(replica, nodes[replica.node].group),
            files=await self._attached_files(replica),
            warm=self._warm_starts.of(replica),
        )

    async def _volumes(self, replica: Replica, group: str) -> tuple[VolumeAt, ...]:
        """As they are now: a volume that was deleted is gone, and a rule that came later holds."""
        mounts = replica.program.mounts
        if not mounts:
            return ()
        found = await self._store.find(Volume, Query(workspace=replica.workspace))
        offered = [volume for volume in found if volume.group == group]
        owner = self._owner(replica)
        told = []
        for number, mount in enumerate(mounts):
            volume = meant_by(mount.source, offered, f"spec.mounts.{number}")
            if not may_use(owner, volume.rules, mount.path):
                raise refused(owner.name, mount.path, volume)
            told.append(
                VolumeAt(
                    name=volume.name,
                    root=volume.path,
                    path=mount.path,
                    at=mount.at,
                    read_only=mount.read_only,
                    links=not volume.rules,
                )
            )
        return tuple(told)

    def _owner(self, replica: Replica) -> Principal:
        is_admin = any(
            token.name == replica.owner and token.role == "admin"
            for token in self._mirror.tokens.values()
            if token.workspace == replica.workspace
        )
        return Principal(
            name=replica.owner,
            role=Role.ADMIN if is_admin else Role.MEMBER,
            workspace=replica.workspace,
        )

    async def _attached_files(self, replica: Replica) -> dict[str, str]:
        """What tells of its buckets, with their credentials; if its owner may still use them."""
        attachments = replica.program.attachments
        if not attachments:
            return {}
        found = await self._store.find(DataSource, Query(workspace=replica.workspace))
        sources = {source.name: source.spec for source in found}
        check_attachments(self._owner(replica), attachments, sources)
        secrets = {
            name: await self._secret(replica.workspace, name, attachment.data_source_name)
            for attachment in attachments
            for name in secret_names(sources[attachment.data_source_name])
        }
        return attached_files(attachments, sources, secrets)

    async def _user_env(self, workspace: str, program: Program) -> dict[str, str]:
        env = {}
        for variable in program.envs:
            reference = variable.value_from.secret_name_ref if variable.value_from else None
            if reference is None:
                env[variable.name] = variable.value or ""
                continue
            env[variable.name] = await self._secret(workspace, reference, variable.name)
        return env

    async def _secret(self, workspace: str, name: str, needed_as: str) -> str:
        found = await self._store.find(Secret, Query(workspace=workspace, name=name))
        if not found:
            raise NotFound(
                f"secret {name!r}, which it needs as {needed_as}, does not exist",
                hint=f"create it: leptonai secret create {name}",
            )
        return self._unseal(found[0])

    async def _is_last(self, replica: Replica) -> bool:
        """Whether what replicas of its owner share goes with it. A pod's files stay while there is
        the pod, however long it was stopped, and while another replica of it ends."""
        if not replica.program.pod:
            return True
        if replica.spares_files:
            return False
        if await self._store.get(Endpoint, replica.workspace, replica.owner_id) is not None:
            return False
        query = Query(workspace=replica.workspace, parent=replica.parent, limit=2)
        return len(await self._store.find(Replica, query)) == 1

    async def _forget(self, node: str, attempt: AttemptId) -> None:
        """Its log stays, until as many later attempts as a replica remembers have ended."""
        await self._engine.forget(node, attempt, epoch=self._fence.epoch)
        replica, _, number = attempt.rpartition(".")
        if number.isdigit() and int(number) >= MAX_TERMINATIONS:
            oldest = f"{replica}.{int(number) - MAX_TERMINATIONS}"
            await self._engine.remove(node, oldest, epoch=self._fence.epoch)

    async def _bury(self, replicas: Iterable[Replica], *, reachable: bool) -> None:
        """Remove abandoned replicas that ended, with all their attempts left on the node."""
        now_ms = self._clock.now_ms()
        for replica in replicas:
            if not replica.abandoned:
                continue
            if replica.phase is Phase.ENDED:
                await self._write([done(replica)])
            elif replica.phase is Phase.DONE:
                if reachable:
                    for number in range(replica.attempt + 1):
                        id = f"{replica.id}.{number}"
                        await self._engine.forget(replica.node, id, epoch=self._fence.epoch)
                        await self._engine.remove(replica.node, id, epoch=self._fence.epoch)
                    if (kept := _kept_by(replica)) and await self._is_last(replica):
                        await self._engine.drop(replica.node, kept, epoch=self._fence.epoch)
                await self._store.commit(Delete(replica), fence=self._fence)
                self._mirror.forget(replica)
            elif replica.goal is Goal.RUN:
                await self._write([stop(replica, now_ms)])


def _kept_by(replica: Replica) -> str:
    """The folder that all attempts of a job share on a node, whichever of its workers they are; of
    a pod, its files."""
    lasts = replica.owner_kind is OwnerKind.JOB or replica.program.pod
    return replica.owner_id if lasts else ""


def _on_host(replica: Replica) -> bool:
    """Whether it runs in no image, whatever it names. A Ray node needs the ports of its node, and
    Ray of a version that asks who connects."""
    return replica.program.pod or replica.owner_kind is OwnerKind.RAYCLUSTER


def _sight(observation: Seen, attempt: str) -> Sight:
    match observation.attempts.get(attempt):
        case Running(started_at_ms):
            return SeenRunning(started_at_ms)
        case Ended(how):
            return SeenEnded(how)
    return None


def _volumes_linked(replica: Replica) -> Event:
    places = ", ".join(f"{mount.at} is {mount.at[1:]}" for mount in replica.program.mounts)
    return Event(
        workspace=replica.workspace,
        kind=replica.owner_kind,
        id=replica.owner_id,
        name=replica.owner_name,
        reason="VolumesLinked",
        message=(
            "this machine lets its user mount nothing, so volumes are links in the working "
            f"directory, writable ones: {places}"
        ),
        severity=Severity.WARNING,
    )


def _image_ignored(replica: Replica) -> Event:
    return Event(
        workspace=replica.workspace,
        kind=replica.owner_kind,
        id=replica.owner_id,
        name=replica.owner_name,
        reason="ImageIgnored",
        message=(
            f"running on the host instead of in {replica.program.image}; "
            + (
                "pods and Ray clusters run in no image"
                if _on_host(replica)
                else "to run images: leptonai up --containers auto (see `leptonai doctor`)"
            )
        ),
    )
