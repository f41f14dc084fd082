"""What runs: replicas, their programs, and how their attempts ended."""

from enum import StrEnum

import msgspec
from msgspec import field

from leptonai.core.records.record import Record
from leptonai.core.resources import Needs
from leptonai.spec.containers import EnvVar, StorageAttachment

MAX_TERMINATIONS = 10  # that a replica remembers; of as many attempts it keeps the logs
SERVER_KEPT_S = 7 * 86_400  # after its end, with its logs


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
