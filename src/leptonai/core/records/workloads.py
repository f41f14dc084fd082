"""What has replicas: jobs, endpoints (pods among them) and Ray clusters."""

from statistics import median

import msgspec

from leptonai.core.elasticity.measuring import NEW, State
from leptonai.core.records.record import Record
from leptonai.core.records.replicas import OwnerKind
from leptonai.core.rollouts.values import Rollout
from leptonai.spec.endpoints import EndpointSpec, EndpointState
from leptonai.spec.jobs import JobSpec, JobState, JobStatus
from leptonai.spec.rayclusters import RayClusterSpec, RayClusterState

DEFAULT_TTL_S = 3 * 86_400  # after its end a job is archived …
ARCHIVE_KEPT_S = 30 * 86_400  # … and so long after that removed, with its replicas and their logs


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


Workload = Job | Endpoint | RayCluster


def kind_of(owner: Workload) -> OwnerKind:
    match owner:
        case Job():
            return OwnerKind.JOB
        case RayCluster():
            return OwnerKind.RAYCLUSTER
    return OwnerKind.ENDPOINT
