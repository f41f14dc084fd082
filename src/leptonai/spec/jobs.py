"""A job: a command that a gang of workers runs to its end."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field

from leptonai.spec.containers import (
    Affinity,
    Container,
    EnvVar,
    LogConfig,
    MetricsConfig,
    Mount,
    QueueConfig,
    ReservationConfig,
    StorageAttachment,
    UserSecurityContext,
)
from leptonai.spec.explanations import Explanation
from leptonai.spec.finetuning import Trainer
from leptonai.spec.metadata import Metadata, Wire

MAX_WORKERS = 10_000
Workers = Annotated[int, Meta(ge=1, le=MAX_WORKERS)]
Retries = Annotated[int, Meta(ge=0, le=1_000)]
FinalCodes = Annotated[list[Annotated[int, Meta(ge=1, le=255)]], Meta(max_length=32)]
FINAL_EXIT_CODE = 78  # of a worker that would fail again: EX_CONFIG of sysexits.h


class JobState(StrEnum):
    AWAITING = "Awaiting"  # its start time has not come
    QUEUEING = "Queueing"
    STARTING = "Starting"
    RUNNING = "Running"
    PENDING_RETRY = "PendingRetry"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    COMPLETED = "Completed"
    FAILED = "Failed"
    DELETING = "Deleting"
    ARCHIVED = "Archived"


class TimeSchedule(Wire, frozen=True):
    start_at: int | None = None  # seconds since 1970


class SegmentConfig(Wire, frozen=True):
    """Workers 0 to n-1 are behind one switch, in one NVLink domain say; so are n to 2n-1, …"""

    count_per_segment: int


class Deadline(Wire, frozen=True):
    """A Lepton extension: when the job should be done, and whether later is worthless."""

    at: int  # seconds since 1970
    hard: bool = False


class JobSpec(Wire, frozen=True):
    """What is asked. `cpu` … `accelerator_num`, `min_workers`, `deadline`, `estimated_seconds`,
    `final_exit_codes`, `workdir` and `include_workspace_token` extend the published format."""

    container: Container = field(default_factory=Container)
    resource_shape: str | None = None
    cpu: Annotated[float, Meta(gt=0)] | None = None  # cores a worker
    memory: Annotated[int, Meta(gt=0)] | None = None  # MiB a worker
    ephemeral_storage_in_gb: Annotated[int, Meta(ge=0)] | None = None
    accelerator_type: str | None = None
    accelerator_num: Annotated[float, Meta(ge=0)] | None = None
    affinity: Affinity | None = None
    shared_memory_size: Annotated[int, Meta(ge=0)] | None = None  # MiB
    completions: Workers | None = None
    parallelism: Workers | None = None
    min_workers: Workers | None = None  # elastic: any number from this to `completions` will do
    max_failure_retry: Retries | None = None  # of each worker
    max_job_failure_retry: Retries | None = None  # of the whole gang
    final_exit_codes: FinalCodes | None = None  # of a worker: another try would end the same
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    storage_attachments: list[StorageAttachment] | None = None
    image_pull_secrets: list[str] | None = None
    ttl_seconds_after_finished: Annotated[int, Meta(ge=0)] | None = None
    intra_job_communication: bool | None = None
    user_security_context: UserSecurityContext | None = None
    metrics: MetricsConfig | None = None
    log: LogConfig | None = None
    queue_config: QueueConfig | None = None
    stopped: bool | None = None
    reservation_config: ReservationConfig | None = None
    time_schedule: TimeSchedule | None = None
    segment_config: SegmentConfig | None = None
    deadline: Deadline | None = None
    estimated_seconds: Annotated[int, Meta(ge=1)] | None = None  # that it will run, once started
    workdir: str | None = None  # digest of an uploaded tree: the working directory of every worker
    trainer: Trainer | None = None  # a fine-tuning: says what the command is
    include_workspace_token: bool | None = None  # give the workers a token that ends with the job

    @property
    def workers(self) -> int:
        return self.completions or self.parallelism or 1

    @property
    def segment(self) -> int:
        """How many workers are to be within one domain; 0: they may be anywhere."""
        if self.segment_config is None or self.segment_config.count_per_segment == 1:
            return 0
        return self.segment_config.count_per_segment


class JobStatus(Wire, frozen=True, omit_defaults=False):
    job_name: str
    state: JobState
    ready: int = 0
    active: int = 0
    failed: int = 0
    succeeded: int = 0
    creation_time: int | None = None  # milliseconds since 1970
    completion_time: int | None = None  # milliseconds since 1970, rounded up
    message: str = ""  # why it is in this state, for people
    exit_code: int | None = None  # of the worker that decided the outcome
    job_history: list["JobStatus"] = field(default_factory=list)


class LeptonJob(Wire, frozen=True):
    metadata: Metadata
    spec: JobSpec = field(default_factory=JobSpec)
    status: JobStatus | None = None
    explanation: Explanation | None = None  # an extension: of a dry run


class JobList(Wire, frozen=True, omit_defaults=False):
    jobs: list[LeptonJob]
