"""A Ray cluster: a head and groups of workers, on which people run Ray jobs."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from leptonai.spec.containers import (
    Affinity,
    Container,
    EnvVar,
    Mount,
    QueueConfig,
    ReservationConfig,
    UserSecurityContext,
)
from leptonai.spec.jobs import SegmentConfig
from leptonai.spec.metadata import Metadata, Wire

HEAD = ""  # the name of the head's group
MAX_GROUPS = 32
MAX_GROUP_WORKERS = 1_000
WorkerCount = Annotated[int, Meta(ge=0, le=MAX_GROUP_WORKERS)]


class RayClusterState(StrEnum):
    READY = "Ready"
    NOT_READY = "Not Ready"
    STARTING = "Starting"
    SCALING = "Scaling"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    DELETING = "Deleting"


class RayGroup(Wire, frozen=True):
    """What each node of a cluster's head, or of a group of its workers, is."""

    resource_shape: str | None = None
    cpu: Annotated[float, Meta(gt=0)] | None = None  # cores a node
    memory: Annotated[int, Meta(gt=0)] | None = None  # MiB a node
    ephemeral_storage_in_gb: Annotated[int, Meta(ge=0)] | None = None
    shared_memory_size: Annotated[int, Meta(ge=0)] | None = None  # MiB
    accelerator_type: str | None = None
    accelerator_num: Annotated[float, Meta(ge=0)] | None = None
    accelerator_fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    accelerator_memory: Annotated[int, Meta(ge=0)] | None = None
    accelerator_pass_all: bool | None = None
    affinity: Affinity | None = None
    host_network: bool | None = None
    enable_rdma: bool | None = None
    is_adaptive: bool | None = None
    min_replicas: WorkerCount | None = None
    max_replicas: WorkerCount | None = None
    container: Container | None = None  # its command runs to its end before Ray starts
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    queue_config: QueueConfig | None = None
    user_security_context: UserSecurityContext | None = None
    reservation_config: ReservationConfig | None = None
    segment_config: SegmentConfig | None = None


class RayWorkerGroup(RayGroup, frozen=True):
    group_name: str | None = None

    @property
    def workers(self) -> int:
        return 1 if self.min_replicas is None else self.min_replicas


class RayAutoscaler(Wire, frozen=True):
    ray_worker_idle_timeout: Annotated[int, Meta(ge=0)] | None = None  # seconds


class RayClusterSpec(Wire, frozen=True):
    image: str | None = None
    image_pull_secrets: list[str] | None = None
    ray_version: str | None = None
    suspend: bool | None = None
    head_group_spec: RayGroup | None = None
    worker_group_specs: Annotated[list[RayWorkerGroup], Meta(max_length=MAX_GROUPS)] | None = None
    autoscaler: RayAutoscaler | None = None

    @property
    def head(self) -> RayGroup:
        return self.head_group_spec or RayGroup()

    @property
    def groups(self) -> list[RayWorkerGroup]:
        return self.worker_group_specs or []

    def group(self, name: str) -> RayGroup | None:
        """The head's is called ""."""
        if name == HEAD:
            return self.head
        return next((group for group in self.groups if group.group_name == name), None)

    @property
    def workers(self) -> int:
        return sum(group.workers for group in self.groups)


class RayHead(
    Wire,
    frozen=True,
    rename={
        "pod_ip": "podIP",
        "pod_name": "podName",
        "service_ip": "serviceIP",
        "service_name": "serviceName",
    },
):
    """Where the head is: its node's address, and its replica."""

    pod_ip: str | None = None
    pod_name: str | None = None
    service_ip: str | None = None
    service_name: str | None = None


class RayCondition(
    Wire,
    frozen=True,
    omit_defaults=False,
    rename={"kind": "type", "last_transition_time": "lastTransitionTime"},
):
    kind: str  # "type" on the wire: HeadReady, WorkersReady, Autoscaling
    status: str  # True, False
    reason: str
    message: str  # for people
    last_transition_time: str  # ISO 8601


class RayClusterStatus(
    Wire,
    frozen=True,
    rename={
        "ready_workers": "readyWorkerReplicas",
        "available_workers": "availableWorkerReplicas",
        "desired_workers": "desiredWorkerReplicas",
        "min_workers": "minWorkerReplicas",
        "max_workers": "maxWorkerReplicas",
        "last_update_time": "lastUpdateTime",
        "desired_cpu": "desiredCPU",
        "desired_gpu": "desiredGPU",
        "desired_memory": "desiredMemory",
    },
):
    """`message` extends the published format."""

    state: RayClusterState
    message: str | None = None  # why it is in this state, for people
    ready_workers: int | None = None
    available_workers: int | None = None
    desired_workers: int | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    desired_cpu: str | None = None  # cores
    desired_gpu: str | None = None
    desired_memory: str | None = None  # "4096Mi"
    endpoints: dict[str, str] | None = None  # dashboard: its URL, for `ray job submit --address`
    head: RayHead | None = None
    last_update_time: str | None = None
    conditions: list[RayCondition] | None = None


class LeptonRayCluster(Wire, frozen=True):
    metadata: Metadata
    spec: RayClusterSpec = RayClusterSpec()
    status: RayClusterStatus | None = None
