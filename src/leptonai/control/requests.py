"""What a user asked for, checked against what there is: what passes can be done."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from leptonai.control.domains import check_domain
from leptonai.control.grpc_endpoints import check_grpc
from leptonai.control.world import World
from leptonai.core import scheduler
from leptonai.core.access import Action, Principal
from leptonai.core.attachments import check_attachments
from leptonai.core.elasticity.policy import policy_of
from leptonai.core.finetuning import trained
from leptonai.core.gangs import view_of
from leptonai.core.pods import checked_pod
from leptonai.core.records import (
    DataSource,
    Model,
    Node,
    Program,
    Reservation,
    Secret,
    Volume,
)
from leptonai.core.reservations import may_use, phase_of
from leptonai.core.scheduler.values import Gang, WaitCode, Worker
from leptonai.core.shapes import gpu_type_of, requested_by
from leptonai.core.volumes import check_mounts
from leptonai.errors import Forbidden, InvalidRequest, NotFound, Unsatisfiable
from leptonai.ports.store import Query
from leptonai.security.permissions import require
from leptonai.spec.artifacts import LATEST
from leptonai.spec.codec import suggestion
from leptonai.spec.containers import (
    Affinity,
    Container,
    EnvVar,
    Mount,
    QueueConfig,
    ReservationConfig,
    StorageAttachment,
)
from leptonai.spec.endpoints import EndpointSpec, ResourceRequirement
from leptonai.spec.gateway import GatewaySettings
from leptonai.spec.jobs import JobSpec
from leptonai.spec.metadata import Metadata
from leptonai.spec.names import check_env_name, check_label, check_name
from leptonai.spec.rayclusters import RayGroup
from leptonai.spec.reservations import ReservationPhase

A = TypeVar("A", bound=JobSpec | ResourceRequirement | RayGroup)

MAX_ARGUMENTS = 4_096
MAX_COMMAND_CHARS = 512 << 10
MAX_ENVS = 1_000
MAX_ENV_CHARS = 512 << 10  # of all variables: together with the command below the kernel's bound
MAX_LABELS = 64
MAX_AFFINITY = 1_000
MAX_ALLOWLIST = 1_000
MAX_TTL_S = 10 * 366 * 86_400
MAX_PORTS = 16
MAX_RUN_S = 10 * 366 * 86_400
LATEST_TIME_S = 32_503_680_000  # the year 3000: a later time is one in milliseconds
PRIORITIES = {"low": (1000, 3000), "mid": (4000, 6000), "high": (7000, 9000)}
WORKSPACE_TOKEN = "WORKSPACE_TOKEN"  # noqa: S105 - the name of a reference, not a token


async def checked_job(world: World, principal: Principal, workspace: str, spec: JobSpec) -> JobSpec:
    """The spec, with the exact GPU type that its shape means.

    Raises:
        InvalidRequest: something in it is wrong.
        Unsatisfiable: no machine here could ever do it.
    """
    if spec.trainer is not None:
        spec = trained(spec)
    check_command(spec.container, needed="a job runs a command, and this one has none")
    if spec.completions and spec.parallelism and spec.completions != spec.parallelism:
        raise InvalidRequest(
            f"spec.parallelism: {spec.parallelism} differs from completions, {spec.completions}",
            hint="The workers of a job run all at once: give both the same number, or one.",
        )
    if spec.min_workers and spec.min_workers > spec.workers:
        raise InvalidRequest(
            f"spec.min_workers: {spec.min_workers} is more than completions, {spec.workers}",
            hint="Raise completions, or lower min_workers.",
        )
    _check_segments(spec)
    _check_seconds("spec.ttl_seconds_after_finished", spec.ttl_seconds_after_finished, MAX_TTL_S)
    if spec.time_schedule:
        _check_seconds("spec.time_schedule.start_at", spec.time_schedule.start_at, LATEST_TIME_S)
    if spec.deadline:
        _check_seconds("spec.deadline.at", spec.deadline.at, LATEST_TIME_S)
        if spec.deadline.hard and spec.estimated_seconds is None:
            raise InvalidRequest(
                "spec.deadline.hard: nobody knows how long the job runs",
                hint="Give estimated_seconds, too: how long it runs once it has started.",
            )
    _check_seconds("spec.estimated_seconds", spec.estimated_seconds, MAX_RUN_S)
    await check_surroundings(world, principal, workspace, spec)
    nodes = await world.store.find(Node, Query())
    spec = with_gpu_type(spec, nodes)
    requested = requested_by(spec)
    ports = len(spec.container.ports or ())
    if ports > MAX_PORTS:
        raise InvalidRequest(
            f"spec.container.ports: {ports} of them", hint=f"Ask for at most {MAX_PORTS} a worker."
        )
    program = Program(command=(), needs=requested.needs, ports=(scheduler.ANY_PORT,) * ports)
    workers = spec.min_workers or spec.workers
    check_feasible(program, workers, spec.affinity, nodes, segment=spec.segment)
    return spec


async def checked_endpoint(
    world: World, principal: Principal, workspace: str, name: str, spec: EndpointSpec
) -> tuple[EndpointSpec, str]:
    """The spec, with the exact GPU type that its shape means; and its model's digest, or ""."""
    if spec.photon_id is not None and spec.model is None:
        spec = replace(spec, model=spec.photon_id)
    if spec.is_pod:
        spec = checked_pod(spec)
        if spec.container.command:
            check_command(spec.container, needed="")
    elif spec.pod is not None:
        raise InvalidRequest("spec.pod: this is no pod", hint="Leave it out, or set is_pod.")
    elif spec.model is None:
        check_command(
            spec.container, needed="an endpoint serves with a command or a model, and this has none"
        )
    elif spec.container.command:
        check_command(spec.container, needed="")
    wanted = spec.resource_requirement
    if wanted.max_replicas is not None and wanted.max_replicas < spec.replicas:
        raise InvalidRequest(
            f"spec.resource_requirement.max_replicas: {wanted.max_replicas} is less than "
            f"min_replicas, {spec.replicas}",
            hint="Raise one or lower the other.",
        )
    policy_of(spec)  # refuses what cannot be read, or has two targets
    check_grpc(spec)
    _check_letting_in(spec)
    await _check_gateway(world, workspace, name, spec.gateway)
    await check_surroundings(world, principal, workspace, spec)
    readiness = spec.health.readiness if spec.health else None
    if readiness and readiness.http and not re.fullmatch(r"/[!-~]{0,1000}", readiness.http.path):
        raise InvalidRequest(
            "spec.health.readiness.http.path: is no path", hint='Start it with "/".'
        )
    nodes = await world.store.find(Node, Query())
    wanted = with_gpu_type(wanted, nodes)
    spec = replace(spec, resource_requirement=wanted)
    requested = requested_by(wanted)
    first = spec.port or scheduler.ANY_PORT
    ports = (scheduler.ANY_PORT,) * (1 + len(spec.pod_ports)) if spec.is_pod else (first,)
    program = Program(command=(), needs=requested.needs, ports=ports)
    check_feasible(program, 1, wanted.affinity, nodes)
    return spec, await _model_digest(world, workspace, spec.model)


async def check_surroundings(
    world: World, principal: Principal, workspace: str, spec: JobSpec | EndpointSpec | RayGroup
) -> None:
    """Where it waits, and what it finds where it runs: all of that is there, and may be used."""
    _check_priority(spec.queue_config)
    await _check_reservation(world, principal, workspace, spec.reservation_config)
    buckets, workdir = None, None
    if not isinstance(spec, RayGroup):
        buckets, workdir = spec.storage_attachments, spec.workdir
    await _check_storage(world, principal, workspace, spec.mounts, buckets)
    await _check_envs(world, principal, workspace, spec.envs or [])
    if workdir is not None:
        await check_tree(world, workdir, "spec.workdir")


def with_gpu_type(asked: A, nodes: Sequence[Node]) -> A:
    """With the exact type that its shape means."""
    meant = gpu_type_of(asked.resource_shape, _gpu_types(nodes))
    if meant is None or asked.accelerator_type is not None:
        return asked
    return replace(asked, accelerator_type=meant)


def name_and_labels(metadata: Metadata, word: str, default: str = "") -> tuple[str, dict[str, str]]:
    """Those that something new is to have."""
    name, labels = metadata.name or metadata.id or default, metadata.labels or {}
    check_name(name, word)
    check_labels(labels)
    return name, labels


def check_labels(labels: dict[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(
            f"metadata.labels: {len(labels)} labels", hint=f"At most {MAX_LABELS} are kept."
        )
    for key, value in labels.items():
        check_label(key, value)


async def check_tree(world: World, digest: str, field: str) -> None:
    """Refuse what is no digest, or of nothing that was uploaded."""
    try:
        known = await world.blobs.exists(digest)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {error.message[:200]}", hint=error.hint) from None
    if not known:
        raise InvalidRequest(
            f"{field}: nothing with the digest {digest} was uploaded",
            hint=f"Upload it first: PUT …/blobs/{digest}.",
        )


def check_command(container: Container, *, needed: str) -> None:
    command = container.command or []
    if not command or not command[0]:
        raise InvalidRequest(
            f"spec.container.command: {needed}",
            hint='Give the program and its arguments: ["python", "train.py"].',
        )
    if len(command) > MAX_ARGUMENTS or sum(map(len, command)) > MAX_COMMAND_CHARS:
        raise InvalidRequest(
            "spec.container.command: is too long",
            hint=f"At most {MAX_ARGUMENTS} arguments and {MAX_COMMAND_CHARS} characters: "
            "put more into a file of the working directory.",
        )


async def _check_envs(
    world: World, principal: Principal, workspace: str, envs: Sequence[EnvVar]
) -> None:
    if len(envs) > MAX_ENVS:
        raise InvalidRequest(
            f"spec.envs: {len(envs)} variables", hint=f"At most {MAX_ENVS} are taken."
        )
    if sum(len(env.name) + len(env.value or "") for env in envs) > MAX_ENV_CHARS:
        raise InvalidRequest(
            "spec.envs: the values are too large together",
            hint=f"They may have {MAX_ENV_CHARS} characters in all: put more into a file.",
        )
    referenced: dict[str, str] = {}
    seen: set[str] = set()
    for env in envs:
        check_env_name(env.name)
        if env.name in seen:
            raise InvalidRequest(
                f"spec.envs: {env.name} is given twice", hint="Leave one of them out."
            )
        seen.add(env.name)
        secret = env.value_from.secret_name_ref if env.value_from else None
        if (env.value is None) == (secret is None):
            raise InvalidRequest(
                f"spec.envs: {env.name} has neither or both of value and value_from",
                hint='Give "value", or "value_from" with a "secret_name_ref".',
            )
        if secret is not None:
            referenced[secret] = env.name
    if not referenced:
        return
    found = await world.store.find(Secret, Query(workspace=workspace))
    known = {secret.name: secret for secret in found}
    for name, variable in referenced.items():
        if name not in known:
            raise InvalidRequest(
                f"spec.envs: {variable} refers to the secret {name[:100]!r}, which does not exist",
                hint=f"Create it first: `leptonai secret create {name[:100]}`.",
            )
        require(principal, Action.USE, known[name])


def _check_priority(queue: QueueConfig | None) -> None:
    name = queue.priority_class if queue else None
    if not name:
        return
    level, _, number = name.partition("-")
    bounds = PRIORITIES.get(level)
    if (
        bounds is None
        or not re.fullmatch(r"[0-9]{4}", number)
        or not bounds[0] <= int(number) <= bounds[1]
    ):
        raise InvalidRequest(
            f"spec.queue_config.priority_class: there is no class {name[:60]!r}",
            hint="Use low-1000 to low-3000, mid-4000 to mid-6000, or high-7000 to high-9000.",
        )


async def _check_storage(
    world: World,
    principal: Principal,
    workspace: str,
    mounts: Sequence[Mount] | None,
    attachments: Sequence[StorageAttachment] | None,
) -> None:
    if mounts:
        volumes = await world.store.find(Volume, Query(workspace=workspace))
        check_mounts(principal, mounts, volumes)
    if attachments:
        sources = await world.store.find(DataSource, Query(workspace=workspace))
        check_attachments(principal, attachments, {each.name: each.spec for each in sources})


async def _check_reservation(
    world: World, principal: Principal, workspace: str, config: ReservationConfig | None
) -> None:
    """Refuse a reservation that there is not, that is over, or that is for others."""
    id = config.reservation_id if config else None
    if not id:
        return
    reservation = await world.store.get(Reservation, workspace, id)
    if reservation is None:
        raise InvalidRequest(
            f"spec.reservation_config: there is no reservation {id[:100]!r}",
            hint="`leptonai node reservations` shows them.",
        )
    if not may_use(reservation, workspace, principal.name):
        raise Forbidden(
            f"the reservation {id} is for others", hint="Ask its owner to have you added."
        )
    phase = phase_of(reservation, world.clock.now_ms(), ())
    if phase in (ReservationPhase.REJECTED, ReservationPhase.EXPIRED):
        raise InvalidRequest(
            f"spec.reservation_config: the reservation {id} is {phase.lower()}",
            hint="Leave it out, or ask for another: `leptonai node reserve`.",
        )


def _check_letting_in(spec: EndpointSpec) -> None:
    literal = [token for token in spec.api_tokens or () if token.value is not None]
    if len(spec.api_tokens or ()) > MAX_ALLOWLIST:
        raise InvalidRequest("spec.api_tokens: too many", hint=f"At most {MAX_ALLOWLIST}.")
    for token in spec.api_tokens or ():
        reference = token.value_from.token_name_ref if token.value_from else None
        if (token.value is None) == (reference is None):
            raise InvalidRequest(
                "spec.api_tokens: a token has neither or both of value and value_from",
                hint='Give "value", or "value_from" with a "token_name_ref".',
            )
        if reference is not None and reference != WORKSPACE_TOKEN:
            raise InvalidRequest(
                f"spec.api_tokens: there is no token {reference[:60]!r} to refer to",
                hint=f"Only {WORKSPACE_TOKEN} is known: the workspace's own tokens.",
            )
        if token.value is not None and not re.fullmatch(r"[!-~]{1,4096}", token.value):
            raise InvalidRequest(
                "spec.api_tokens: a token is empty, too long, or cannot stand in a header",
                hint="Use 1 to 4096 printable ASCII characters without spaces.",
            )
    if spec.allow_unauthenticated_access and literal:
        raise InvalidRequest(
            "spec.api_tokens: tokens protect nothing while allow_unauthenticated_access is true",
            hint="Leave out one of the two.",
        )
    allowlist = (spec.auth_config.ip_allowlist or ()) if spec.auth_config else ()
    if len(allowlist) > MAX_ALLOWLIST:
        raise InvalidRequest(
            "spec.auth_config.ip_allowlist: too many", hint=f"At most {MAX_ALLOWLIST}."
        )
    for address in allowlist:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            raise InvalidRequest(
                f"spec.auth_config.ip_allowlist: {address[:60]!r} is no address",
                hint="Use addresses like 10.0.0.7, or networks like 10.0.0.0/8.",
            ) from None


async def _check_gateway(
    world: World, workspace: str, name: str, settings: GatewaySettings | None
) -> None:
    if settings is None:
        return
    balance = settings.balance
    if balance is not None and balance.by == "header" and not balance.name:
        raise InvalidRequest(
            "spec.gateway.balance.name: by which header?", hint='For example "x-user".'
        )
    hedge = settings.hedge
    if hedge is not None and (hedge.percentile is None) == (hedge.after_ms is None):
        raise InvalidRequest(
            "spec.gateway.hedge: when is a request late?",
            hint='Give one of the two: "percentile", for example 95, or "after_ms".',
        )
    if hedge is not None and balance is not None and balance.by != "least-outstanding":
        raise InvalidRequest(
            f"spec.gateway.hedge: a caller that is balanced by {balance.by} keeps to its replica",
            hint='Leave out one of the two, or balance by "least-outstanding".',
        )
    if not settings.domains:
        return
    for host in settings.domains:
        await check_domain(world, "spec.gateway.domains", host, (workspace, "endpoint", name))


def _check_seconds(field: str, value: int | None, most: int) -> None:
    if value is not None and not 0 <= value <= most:
        raise InvalidRequest(
            f"{field}: {value} seconds is out of bounds", hint=f"Give 0 to {most} seconds."
        )


def _check_segments(spec: JobSpec) -> None:
    segment = spec.segment_config.count_per_segment if spec.segment_config else 1
    if segment < 1 or spec.workers % segment:
        raise InvalidRequest(
            f"spec.segment_config.count_per_segment: {segment} does not divide "
            f"{spec.workers} workers",
            hint="Every segment has the same number of workers.",
        )
    if spec.segment and spec.min_workers:
        raise InvalidRequest(
            "spec.segment_config: an elastic job has no segments",
            hint="Leave out min_workers or segment_config: it gains and loses single workers.",
        )


def check_feasible(
    program: Program,
    workers: int,
    affinity: Affinity | None,
    nodes: Sequence[Node],
    *,
    segment: int = 0,
) -> None:
    allowed_nodes = (affinity.allowed_nodes_in_node_group or []) if affinity else []
    allowed_groups = (affinity.allowed_dedicated_node_groups or []) if affinity else []
    if len(allowed_nodes) > MAX_AFFINITY or len(allowed_groups) > MAX_AFFINITY:
        raise InvalidRequest("affinity: too many", hint=f"Name at most {MAX_AFFINITY} of each.")
    _check_known("node group", allowed_groups, {node.group for node in nodes})
    _check_known("node", allowed_nodes, {node.id for node in nodes})
    gang = Gang(
        id="asked",
        name="asked",
        workers=tuple(
            Worker(replica=str(index), needs=program.needs, ports=program.ports)
            for index in range(workers)
        ),
        allowed_nodes=frozenset(allowed_nodes),
        allowed_groups=frozenset(allowed_groups),
        segment=segment,
    )
    reason = scheduler.feasible(gang, [view_of(node) for node in nodes])
    if reason is not None and reason.code is WaitCode.NO_NODE:
        raise Unsatisfiable(
            f"this could never run here: {reason.text}",
            hint="Ask for less; `leptonai node list` shows what the machines have.",
        )


def _check_known(what: str, named: Iterable[str], known: set[str]) -> None:
    for name in named:
        if known and name not in known:
            raise InvalidRequest(
                f"affinity: there is no {what} {name[:60]!r}",
                hint=suggestion(name, sorted(known)),
            )


def _gpu_types(nodes: Iterable[Node]) -> set[str]:
    return {node.capacity.gpu_type for node in nodes if node.capacity.gpu_type}


async def _model_digest(world: World, workspace: str, reference: str | None) -> str:
    """What `NAME` (its newest version), `NAME@VERSION` or `NAME@ALIAS` means now."""
    if reference is None:
        return ""
    name, _, version = reference.partition("@")
    query = Query(workspace=workspace, name=name)
    found = [model for model in await world.store.find(Model, query) if not model.deleted]
    chosen = max(found, key=lambda model: model.number, default=None)
    if version and version != LATEST:
        chosen = next(
            (each for each in found if version == str(each.number) or version in each.aliases), None
        )
    if chosen is None:
        known = ", ".join(f"{name}@{model.number}" for model in found[-10:])
        raise NotFound(
            f"spec.model: there is no model {reference[:100]!r}",
            hint=f"There are {known}." if known else "Train one, or push one, under that name.",
        )
    return chosen.spec.digest
