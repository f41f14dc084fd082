"""What the platform remembers: the desired and the observed state of every resource.

A record is immutable; a change is a new value that is committed against the version it was read at.
The wire's view of it is made in `control/api`; what was asked stays in it word for word (`spec`).
"""

from enum import StrEnum
from statistics import median
from typing import Literal

import msgspec
from msgspec import field

from leptonai.core.elasticity.measuring import NEW, State
from leptonai.core.resources import Capacity, Needs
from leptonai.core.rollouts.values import Rollout
from leptonai.spec.artifacts import ArtifactSpec
from leptonai.spec.containers import EnvVar, StorageAttachment
from leptonai.spec.endpoints import EndpointSpec, EndpointState
from leptonai.spec.ingress import IngressSpec
from leptonai.spec.jobs import JobSpec, JobState, JobStatus
from leptonai.spec.rayclusters import RayClusterSpec, RayClusterState
from leptonai.spec.reservations import ReservationSpec
from leptonai.spec.runs import RunSpec, RunState
from leptonai.spec.storage import DataSourceSpec, StoragePermission
from leptonai.spec.templates import TemplateSpec
from leptonai.spec.workspace import Features


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every record has. `id` is unique in its workspace and kind, for ever."""

    workspace: str
    id: str
    name: str
    created_at_ms: int
    modified_at_ms: int = 0
    owner: str = ""  # the principal who made it
    labels: dict[str, str] = field(default_factory=dict)
    visibility: str = ""
    version: int = 0  # counts its commits; 0 was never committed
    seq: int = 0  # of the commit that wrote it: grows over all records of a store

    @property
    def unique_key(self) -> str | None:
        """A second key, unique in workspace and kind; None where none is needed."""
        return None

    @property
    def parent(self) -> str:
        """The id of the record it belongs to, for look-up."""
        return ""

    @property
    def state_name(self) -> str:
        """Its state as users filter by it."""
        return ""

    @property
    def live(self) -> bool:
        """Whether the control loops still have work to do with it."""
        return True

    @property
    def due_at_ms(self) -> int | None:
        """When retention should look at it, if ever."""
        return None


# --- what runs -----------------------------------------------------------------------------------


class OwnerKind(StrEnum):
    JOB = "job"
    ENDPOINT = "endpoint"
    RAYCLUSTER = "raycluster"


class Phase(StrEnum):
    WAITING = "Waiting"  # for a node
    PLACED = "Placed"  # on a node, whose engine has not yet been seen to run it
    RUNNING = "Running"
    ENDED = "Ended"  # its attempt ended; its owner has not yet decided what follows
    DONE = "Done"  # for good; it holds nothing


class Goal(StrEnum):
    RUN = "Run"
    STOP = "Stop"


class EndReason(StrEnum):
    EXITED = "Exited"  # with an exit code
    SIGNALLED = "Signalled"  # by a signal that nobody here sent
    OUT_OF_MEMORY = "OutOfMemory"  # killed at its memory limit
    STOPPED = "Stopped"  # on request, before or while it ran
    NOT_STARTED = "NotStarted"  # the engine could not start it
    LOST = "Lost"  # gone without a status: nobody knows how it ended
    NODE_LOST = "NodeLost"  # its node was lost and has been fenced


class Termination(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an attempt ended."""

    reason: EndReason
    attempt: int = 0
    exit_code: int | None = None  # 128 + n after signal n, as shells say it
    message: str = ""
    started_at_ms: int | None = None
    finished_at_ms: int = 0
    served: bool = False  # it was ready

    @property
    def succeeded(self) -> bool:
        return self.reason is EndReason.EXITED and self.exit_code == 0


class VolumeMount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    source: str = ""  # as it was asked for: which volume is meant is seen at the start
    path: str = ""  # in the volume
    at: str  # in the replica
    read_only: bool = False


class Program(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a replica runs; secrets are still references."""

    command: tuple[str, ...]
    envs: tuple[EnvVar, ...] = ()
    needs: Needs = field(default_factory=Needs)
    limit_cpu_millis: int | None = None  # None: may use what is idle
    limit_memory_bytes: int | None = None
    ports: tuple[int, ...] = ()  # that it would like to listen on; it is told which it got
    image: str = ""
    workdir: str = ""  # digest of a tree, or ""
    model: str = ""  # digest of a tree, or ""
    allowed_nodes: tuple[str, ...] = ()  # () allows all
    allowed_groups: tuple[str, ...] = ()
    workspace_token: bool = False
    mounts: tuple[VolumeMount, ...] = ()
    attachments: tuple[StorageAttachment, ...] = ()
    pod: bool = False  # it lives in a folder that lasts, and people enter it


MAX_TERMINATIONS = 10  # that a replica remembers; of as many attempts it keeps the logs
SERVER_KEPT_S = 7 * 86_400  # after its end, with its logs


class Replica(Record, tag="replica", tag_field="kind", frozen=True, kw_only=True):
    """The unit that runs: one worker of a job, one server of an endpoint, one node of a Ray
    cluster."""

    owner_kind: OwnerKind
    owner_id: str
    owner_name: str
    index: int
    # Of a job: how often its gang was formed before; of a Ray cluster: how often its head started.
    round: int = 0
    group: str = ""  # of a Ray cluster's worker: its group; "" is the head
    revision: int = 0  # of an endpoint: which of its revisions this one runs
    gang: str  # replicas of one gang start together or not at all
    gang_size: int = 1
    priority: int = 5000
    project: str = ""
    program: Program
    phase: Phase = Phase.WAITING
    goal: Goal = Goal.RUN
    attempt: int = 0
    not_before_ms: int = 0  # the attempt waits until then: back-off
    node: str = ""
    gpus: tuple[int, ...] = ()  # device indices
    ports: tuple[int, ...] = ()  # that it got, as many as the program asked for
    rendezvous_port: int = 0  # of its gang's worker 0: fresh in every attempt of the gang
    started_at_ms: int | None = None
    stop_asked_at_ms: int | None = None
    stays: bool = False  # its stop is a restart in its place, which is kept until then
    ready: bool = False
    ready_at_ms: int | None = None
    terminations: tuple[Termination, ...] = ()  # newest last
    abandoned: bool = (
        False  # its owner was removed: it is to end, and to be removed with all it left
    )
    spares_files: bool = False  # of a pod's that is abandoned: its files are left where they are

    @property
    def parent(self) -> str:
        return f"{self.owner_kind}/{self.owner_id}"

    @property
    def state_name(self) -> str:
        return self.phase

    @property
    def live(self) -> bool:
        return self.phase is not Phase.DONE or self.abandoned

    @property
    def due_at_ms(self) -> int | None:
        """When it is to be removed. Workers go with their job."""
        if self.owner_kind is OwnerKind.JOB or self.live:
            return None
        end = self.last_end
        return (end.finished_at_ms if end else self.created_at_ms) + 1000 * SERVER_KEPT_S

    @property
    def holds_capacity(self) -> bool:
        """A worker that failed keeps its place until its job has decided on a restart."""
        if self.node == "" or self.phase is Phase.DONE:
            return False
        if self.phase is Phase.ENDED and self.goal is Goal.STOP:
            return self.stays
        end = self.last_end
        succeeded = self.phase is Phase.ENDED and end is not None and end.succeeded
        return not (succeeded and self.owner_kind is OwnerKind.JOB)

    @property
    def leaving(self) -> bool:
        """Whether what it holds is about to be free."""
        return self.goal is Goal.STOP and not self.stays

    @property
    def attempt_id(self) -> str:
        return f"{self.id}.{self.attempt}"

    @property
    def last_end(self) -> Termination | None:
        return self.terminations[-1] if self.terminations else None


class Job(Record, tag="job", tag_field="kind", frozen=True, kw_only=True):
    spec: JobSpec
    state: JobState = JobState.QUEUEING
    message: str = ""
    idempotency_key: str = ""
    round: int = 0  # how often its gang was formed before: names replicas, never goes back
    failures: int = 0  # of the whole gang since it was last started by a person
    restarts: int = 0  # of single workers in this round
    not_before_ms: int = 0
    # Why its workers stop for now: it gives way to another, or goes on with other workers. When
    # they have ended it starts again by itself. "": they do not.
    giving_way: str = ""
    gave_way_to: str = ""  # "workspace/gang", until it starts again: that one is to go before it
    queued_at_ms: int = 0
    attained_ms: int = 0  # its workers ran so long since it was queued, before they last started
    saved_at_ms: int | None = None  # of the last checkpoint that it told us of
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    exit_code: int | None = None
    ready: int = 0
    active: int = 0
    failed: int = 0
    succeeded: int = 0
    history: tuple[JobStatus, ...] = ()

    @property
    def unique_key(self) -> str | None:
        return self.idempotency_key or None

    @property
    def state_name(self) -> str:
        return self.state

    @property
    def finished(self) -> bool:
        return self.state in (
            JobState.COMPLETED,
            JobState.FAILED,
            JobState.STOPPED,
            JobState.ARCHIVED,
        )

    @property
    def live(self) -> bool:
        start_again = self.state is JobState.STOPPED and self.spec.stopped is not True
        return not self.finished or start_again

    @property
    def due_at_ms(self) -> int | None:
        """When it is to be archived, and once it is, when it is to be removed."""
        if self.live or self.finished_at_ms is None:
            return None
        ttl_s = self.spec.ttl_seconds_after_finished
        due_s = DEFAULT_TTL_S if ttl_s is None else ttl_s
        if self.state is JobState.ARCHIVED:
            due_s += ARCHIVE_KEPT_S
        return self.finished_at_ms + 1000 * due_s


DEFAULT_TTL_S = 3 * 86_400  # after its end a job is archived …
ARCHIVE_KEPT_S = 30 * 86_400  # … and so long after that removed, with its replicas and their logs


class TokenHash(msgspec.Struct, frozen=True, kw_only=True):
    """A token as we keep it: recognisable to its owner, useless to a thief."""

    sha256: str
    masked: str  # HEAD***TAIL


class Autoscaling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an endpoint's autoscaler came to, kept so that the next control plane goes on there."""

    desired: int
    because: str = ""  # for people
    since_ms: int = 0  # when it came to another number
    decided_at_ms: int = 0
    state: State = NEW
    starts_ms: tuple[int, ...] = ()  # how long its last replicas took from asked for to ready
    last_start_ms: int = 0  # when the last of them was ready
    unready_since_ms: int = 0  # since when there are replicas, and none of them is ready; 0: one is
    forecast: str = ""  # whether it acts by one, and why, for people; "": none was learnt as yet
    predictive: bool = False  # it does

    @property
    def usual_start_ms(self) -> float:
        """The median; 0 where none was measured."""
        return median(self.starts_ms) if self.starts_ms else 0


class PodSeen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a pod, whichever control plane saw it."""

    node: str = ""  # where its files are; "" before it first ran
    home: str = ""  # what they are in, there
    ports: tuple[tuple[int, int], ...] = ()  # container port and port of the node, while it runs
    attempt: str = ""  # that the rest is about
    ssh_host_key: str = ""
    user: str = ""
    jupyter: str = ""
    told: int = 0  # notes of the attempt that have become events
    idle_since_ms: int | None = None


class Endpoint(Record, tag="endpoint", tag_field="kind", frozen=True, kw_only=True):
    """Users address it by name, and may give the name to another at once after a removal; `id` is
    never given twice. `spec.api_tokens` never holds a literal: those are kept as `token_hashes`."""

    spec: EndpointSpec
    state: EndpointState = EndpointState.STARTING
    message: str = ""
    token_hashes: tuple[TokenHash, ...] = ()
    model_digest: str = ""  # what spec.model meant when it was last written
    revision: int = 1  # that its spec describes; a rollback goes back to an earlier one
    newest_revision: int = 0  # that there has been, if it is not `revision`
    rollout: Rollout | None = None  # the present one, or the last
    ready_replicas: int = 0
    autoscaling: Autoscaling | None = None
    pod: PodSeen = PodSeen()  # where it is one

    @property
    def is_pod(self) -> bool:
        return bool(self.spec.is_pod)

    @property
    def wanted(self) -> int:
        """How many replicas it is to have. A stop is a stop, whatever its autoscaler thinks."""
        if self.autoscaling is None or self.spec.replicas == 0:
            return self.spec.replicas
        return self.autoscaling.desired

    @property
    def asleep(self) -> bool:
        """Whether its autoscaler chose zero: the next request wakes it."""
        return self.wanted == 0 and self.spec.replicas > 0

    @property
    def unique_key(self) -> str | None:
        return self.name

    @property
    def state_name(self) -> str:
        return self.state


class RayCluster(Record, tag="raycluster", tag_field="kind", frozen=True, kw_only=True):
    """Addressed by its name, as an endpoint is. All groups of its spec have names."""

    spec: RayClusterSpec
    state: RayClusterState = RayClusterState.STARTING
    message: str = ""
    since_ms: int = 0  # when it came into this state
    round: int = 0  # how often its head was started again: workers of an earlier one are useless
    head_ready: bool = False
    ready_workers: int = 0
    running_workers: int = 0

    @property
    def unique_key(self) -> str | None:
        return self.name

    @property
    def state_name(self) -> str:
        return self.state

    @property
    def stopped(self) -> bool:
        return self.spec.suspend is True


Workload = Job | Endpoint | RayCluster  # what has replicas


# --- where it runs -------------------------------------------------------------------------------


class NodeState(StrEnum):
    READY = "Ready"
    UNREACHABLE = "Unreachable"  # nothing is known: its replicas may well run
    FENCED = "Fenced"  # nothing of it runs any more, for certain


class Node(Record, tag="node", tag_field="kind", frozen=True, kw_only=True):
    group: str
    capacity: Capacity
    state: NodeState = NodeState.READY
    unschedulable: bool = False
    address: str = "127.0.0.1"
    provider_id: str = ""
    limits: str = "none"  # how limits are enforced: cgroup-v2, cgroup-v1, none
    switch: str = ""  # nodes behind one reach each other faster; "" is not known
    facts: dict[str, str] = field(default_factory=dict)  # os, kernel, cpu type, … for people
    seen_at_ms: int = 0
    unreachable_since_ms: int | None = None

    @property
    def state_name(self) -> str:
        return self.state


# --- what is kept --------------------------------------------------------------------------------


class Kept(Record, frozen=True, kw_only=True):
    """What the loops have nothing to do with."""

    @property
    def live(self) -> bool:
        return False


class Named(Kept, frozen=True, kw_only=True):
    """Addressed by its name. A name that was removed may be given again, an id never."""

    @property
    def unique_key(self) -> str | None:
        return self.name


class InGroup(Kept, frozen=True, kw_only=True):
    """Of a node group, and addressed by its name."""

    group: str

    @property
    def unique_key(self) -> str | None:
        return f"{self.group}/{self.name}"


class Version(Kept, frozen=True, kw_only=True):
    """Of a named artifact."""

    spec: ArtifactSpec
    number: int  # 1 is the first version
    deleted: bool = False  # kept, so that its number never means something else
    aliases: tuple[str, ...] = ()  # each names one version at a time

    @property
    def unique_key(self) -> str | None:
        return f"{self.name}@{self.number}"

    @property
    def state_name(self) -> str:
        """The format of what is there: so photons can be counted."""
        return "" if self.deleted else self.spec.format


class Secret(Named, tag="secret", tag_field="kind", frozen=True, kw_only=True):
    """What a program gets as a variable, encrypted."""

    ciphertext: bytes


class Volume(InGroup, tag="volume", tag_field="kind", frozen=True, kw_only=True):
    """A directory of the nodes of a group that what runs there may mount. Addressed by name."""

    source: Literal["local", "nfs"] = "local"
    path: str  # on the nodes
    size_in_gb: int = 0  # told, not enforced
    creation_mode: str = ""
    managed: bool = False  # by the platform: nobody removes it
    rules: tuple[StoragePermission, ...] = ()


class DataSource(InGroup, tag="datasource", tag_field="kind", frozen=True, kw_only=True):
    """A bucket that what runs on the nodes of a group may be given credentials for."""

    spec: DataSourceSpec


class Token(Record, tag="token", tag_field="kind", frozen=True, kw_only=True):
    """Lets its bearer act as `name` with `role`."""

    sha256: str
    masked: str
    role: Literal["admin", "member", "gateway"] = "member"
    expires_at_ms: int | None = None

    @property
    def unique_key(self) -> str | None:
        return self.sha256


class Quota(Record, tag="quota", tag_field="kind", frozen=True, kw_only=True):
    """What a user or a project of a workspace is guaranteed, and how much a user's turns count. Its
    name is that of the user or project."""

    of_project: bool = False  # else of a user
    gpus: float | None = None  # None: not limited
    cpu_millis: int | None = None
    borrow: bool = True  # may hold more while it is idle, with what can be preempted
    weight: float = 1.0  # of a user, where users take turns

    @property
    def unique_key(self) -> str | None:
        return f"{'project' if self.of_project else 'user'}:{self.name}"


class Dataset(Version, tag="dataset", tag_field="kind", frozen=True, kw_only=True):
    """Of data."""


class Model(Version, tag="model", tag_field="kind", frozen=True, kw_only=True):
    """Of what was trained, or of a photon."""


class Run(Record, tag="run", tag_field="kind", frozen=True, kw_only=True):
    """What a training recorded; its points are beside the records (`ports.points`)."""

    spec: RunSpec
    state: RunState = RunState.RUNNING
    message: str = ""
    started_at_ms: int
    ended_at_ms: int | None = None
    needs: Needs | None = None  # of each worker of its job
    workers: int = 1

    @property
    def parent(self) -> str:
        return f"{OwnerKind.JOB}/{self.spec.job}" if self.spec.job else ""

    @property
    def state_name(self) -> str:
        return self.state

    @property
    def live(self) -> bool:
        """Whether it ends with its job, which it does not do by itself."""
        return self.state is RunState.RUNNING and self.spec.job != ""


# --- what workloads share ------------------------------------------------------------------------


class KeySpace(Named, tag="keyspace", tag_field="kind", frozen=True, kw_only=True):
    """Holds values by key; they are beside the records (`ports.values`)."""


class MessageQueue(Named, tag="queue", tag_field="kind", frozen=True, kw_only=True):
    """Holds messages in their order; they are beside the records (`ports.messages`)."""


class StoredObject(Named, tag="object", tag_field="kind", frozen=True, kw_only=True):
    """A file under a name of the user's choice, `BUCKET/KEY`."""

    digest: str
    size_bytes: int


# --- what is chosen for a workspace --------------------------------------------------------------


class Ingress(Record, tag="ingress", tag_field="kind", frozen=True, kw_only=True):
    """A domain and the endpoints that share its requests. Addressed by name."""

    spec: IngressSpec

    @property
    def unique_key(self) -> str | None:
        return self.name


class Template(Named, tag="template", tag_field="kind", frozen=True, kw_only=True):
    """A private one: public ones come with the platform."""

    spec: TemplateSpec


class Reservation(Record, tag="reservation", tag_field="kind", frozen=True, kw_only=True):
    """Nodes of a group that are kept for some users, for some time, once an admin approved."""

    group: str
    spec: ReservationSpec
    decided: Literal["", "approved", "rejected"] = ""
    nodes: tuple[str, ...] = ()  # that were chosen at the approval

    @property
    def parent(self) -> str:
        return f"group/{self.group}"

    @property
    def due_at_ms(self) -> int | None:
        """When it is to be removed: a while after its end, if it has one."""
        rule = self.spec.time_rule
        if rule is None or rule.end_timestamp is None:
            return None
        return 1000 * (rule.end_timestamp + RESERVATION_KEPT_S)


RESERVATION_KEPT_S = 30 * 86_400  # after its end


class Settings(Record, tag="settings", tag_field="kind", frozen=True, kw_only=True):
    """Of a workspace: what an admin chose. There is at most one, with the id `SETTINGS_ID`."""

    features: Features = field(default_factory=Features)

    @property
    def live(self) -> bool:
        return False


SETTINGS_ID = "settings"

AnyRecord = (
    Replica
    | Job
    | Endpoint
    | RayCluster
    | Node
    | Secret
    | Token
    | Quota
    | Dataset
    | Model
    | Run
    | Volume
    | DataSource
    | KeySpace
    | MessageQueue
    | StoredObject
    | Ingress
    | Template
    | Reservation
    | Settings
)


class Severity(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a record, told to people."""

    workspace: str
    kind: str  # of the record
    id: str  # of the record
    name: str
    reason: str  # CamelCase, stable
    message: str
    severity: Severity = Severity.NORMAL
    at_ms: int = 0
    seq: int = 0  # given by the store; visible in this order


def kind_of(owner: Workload) -> OwnerKind:
    match owner:
        case Job():
            return OwnerKind.JOB
        case RayCluster():
            return OwnerKind.RAYCLUSTER
    return OwnerKind.ENDPOINT


def event_of(
    owner: Workload, reason: str, message: str, severity: Severity = Severity.NORMAL
) -> Event:
    """What happened to something that has replicas."""
    return Event(
        workspace=owner.workspace,
        kind=kind_of(owner),
        id=owner.id,
        name=owner.name,
        reason=reason,
        message=message,
        severity=severity,
    )
