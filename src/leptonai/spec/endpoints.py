"""An endpoint: replicas of a server behind the gateway. The wire calls it a deployment."""

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, field

from leptonai.spec.containers import (
    Affinity,
    Container,
    ContainerPort,
    EnvVar,
    LogConfig,
    MetricsConfig,
    Mount,
    Port,
    QueueConfig,
    ReservationConfig,
    StorageAttachment,
    UserSecurityContext,
)
from leptonai.spec.explanations import Explanation
from leptonai.spec.gateway import GatewaySettings
from leptonai.spec.metadata import Metadata, Wire
from leptonai.spec.pods import PodSettings, default_ports
from leptonai.spec.rollouts import RolloutPlan

MAX_REPLICAS = 1_000
MAX_SCHEDULES = 50
MAX_COUNTED = 50  # paths, and methods
ReplicaCount = Annotated[int, Meta(ge=0, le=MAX_REPLICAS)]


class EndpointState(StrEnum):
    READY = "Ready"
    NOT_READY = "Not Ready"
    STARTING = "Starting"
    UPDATING = "Updating"
    SCALING = "Scaling"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    DELETING = "Deleting"
    ERROR = "Error"


class ResourceRequirement(Wire, frozen=True):
    resource_shape: str | None = None
    cpu: Annotated[float, Meta(gt=0)] | None = None  # cores a replica
    memory: Annotated[int, Meta(gt=0)] | None = None  # MiB a replica
    ephemeral_storage_in_gb: Annotated[int, Meta(ge=0)] | None = None
    accelerator_type: str | None = None
    accelerator_num: Annotated[float, Meta(ge=0)] | None = None
    shared_memory_size: Annotated[int, Meta(ge=0)] | None = None  # MiB
    affinity: Affinity | None = None
    resourse_affinity: Affinity | None = None  # the old spelling
    min_replicas: ReplicaCount | None = None
    max_replicas: ReplicaCount | None = None
    host_network: bool | None = None


class ScaleDown(Wire, frozen=True):
    no_traffic_timeout: Annotated[int, Meta(ge=0)] | None = None  # seconds; 0 is off
    not_ready_timeout: Annotated[int, Meta(ge=0)] | None = None  # seconds; 0 is off


# As a request names it, without the query; one that ends with * stands for all that begin so.
CountedPath = Annotated[str, Meta(pattern=r"^/[^?#\s]*$", max_length=1_024)]
CountedMethod = Annotated[str, Meta(pattern=r"^[A-Za-z]+$", max_length=32)]


class TargetThroughput(Wire, frozen=True):
    """Requests a minute to each replica; only those to these paths, by these methods, if some are
    given."""

    qpm: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    paths: Annotated[list[CountedPath], Meta(max_length=MAX_COUNTED)] | None = None
    methods: Annotated[list[CountedMethod], Meta(max_length=MAX_COUNTED)] | None = None

    @property
    def counts_some(self) -> bool:
        return bool(self.qpm and (self.paths or self.methods))


class ScalingSchedule(Wire, frozen=True):
    """Other bounds at some times of the week."""

    times: str  # "Mon-Fri 08:00-18:00", "daily 22:00-02:00"; in UTC
    min_replicas: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)] | None = None
    max_replicas: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)] | None = None


PerMinute = Annotated[int, Meta(ge=1, le=MAX_REPLICAS)]
Cost = Annotated[float, Meta(ge=0, le=1e9)]


class AutoScaler(Wire, frozen=True):
    """By what the number of replicas is chosen: at most one target, and 0 is none. From
    `target_concurrency` on it extends the published format."""

    scale_down: ScaleDown | None = None
    target_gpu_utilization_percentage: Annotated[int, Meta(ge=0, le=100)] | None = None
    target_throughput: TargetThroughput | None = None
    target_concurrency: Annotated[float, Meta(ge=0, le=1e6)] | None = None  # requests a replica
    slo: str | None = None  # "p95<200ms"
    schedules: Annotated[list[ScalingSchedule], Meta(max_length=MAX_SCHEDULES)] | None = None
    cool_down_seconds: Annotated[float, Meta(ge=0, le=86_400)] | None = None  # before fewer
    max_up_per_minute: PerMinute | None = None  # replicas
    max_down_per_minute: PerMinute | None = None
    max_cost_per_hour: Cost | None = None
    cost_per_replica_hour: Cost | None = None


class TokenReference(Wire, frozen=True):
    token_name_ref: str


class ApiToken(Wire, frozen=True):
    """A literal token, or a reference: `WORKSPACE_TOKEN` lets the workspace's own tokens in."""

    value: str | None = None
    value_from: TokenReference | None = None


class WorkspaceTokenAuth(Wire, frozen=True):
    remove_authorization_header: bool | None = None


class AuthConfig(Wire, frozen=True):
    ip_allowlist: list[str] | None = None
    lepton_workspace_token_auth: WorkspaceTokenAuth | None = None


class TcpProbe(Wire, frozen=True):
    port: Port


class HttpProbe(Wire, frozen=True):
    """A Lepton extension: ready when GET `path` on the main port answers below 400."""

    path: str


class Readiness(Wire, frozen=True):
    require_approval: bool | None = None
    http: HttpProbe | None = None


class Liveness(Wire, frozen=True):
    initial_delay_seconds: Annotated[int, Meta(ge=0)] | None = None
    tcp: TcpProbe | None = None


class Health(Wire, frozen=True):
    readiness: Readiness | None = None
    liveness: Liveness | None = None


class RoutingPolicy(Wire, frozen=True):
    enable_header_based_replica_routing: bool | None = None


class LeastRequest(Wire, frozen=True):
    choice_count: int | None = None


class LoadBalance(Wire, frozen=True):
    least_request: LeastRequest | None = None
    maglev: dict[str, Any] | None = None


class SchedulingPolicy(Wire, frozen=True):
    replica_spread: str | None = None  # Required, Preferred


class EndpointSpec(Wire, frozen=True):
    """What is asked. `model` … `pod` extend the published format."""

    container: Container = field(default_factory=Container)
    resource_requirement: ResourceRequirement = field(default_factory=ResourceRequirement)
    auto_scaler: AutoScaler | None = None
    api_tokens: list[ApiToken] | None = None
    allow_unauthenticated_access: bool | None = None
    auth_config: AuthConfig | None = None
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    storage_attachments: list[StorageAttachment] | None = None
    image_pull_secrets: list[str] | None = None
    is_pod: bool | None = None
    health: Health | None = None
    log: LogConfig | None = None
    metrics: MetricsConfig | None = None
    routing_policy: RoutingPolicy | None = None
    load_balance_config: LoadBalance | None = None
    ingress_timeout_seconds: Annotated[int, Meta(ge=300, le=3600)] | None = None
    ingress_enabled: bool | None = None
    queue_config: QueueConfig | None = None
    reservation_config: ReservationConfig | None = None
    scheduling_policy: SchedulingPolicy | None = None
    user_security_context: UserSecurityContext | None = None
    model: str | None = None  # NAME or NAME@VERSION of a registered model, served without a command
    workdir: str | None = None  # digest of an uploaded tree: the working directory of every replica
    gateway: GatewaySettings | None = None
    pod: PodSettings | None = None  # where it is one
    photon_id: str | None = None  # what older clients call the model
    photon_namespace: str | None = None

    @property
    def port(self) -> int | None:
        """The port that its user would like the gateway to send requests to."""
        ports = self.container.ports
        return ports[0].container_port if ports else None

    @property
    def pod_ports(self) -> list[ContainerPort]:
        """Of a pod: its own, and those that every pod has."""
        own = self.container.ports or []
        named = {port.container_port for port in own}
        return [*own, *(port for port in default_ports() if port.container_port not in named)]

    @property
    def proxied_port(self) -> int | None:
        """Of a pod: the one that the gateway serves."""
        return next((each.container_port for each in self.pod_ports if each.is_proxied), None)

    @property
    def replicas(self) -> int:
        """How many, at least; 0 is a stop, whatever an autoscaler would like."""
        wanted = self.resource_requirement.min_replicas
        return 1 if wanted is None else wanted


class EndpointAddress(Wire, frozen=True, omit_defaults=False):
    internal_endpoint: str
    external_endpoint: str


class AutoscalerCondition(Wire, frozen=True, rename={"kind": "type"}):
    status: str  # True, False
    kind: str | None = None  # "type" on the wire
    last_transition_time: int | None = None  # seconds since 1970
    message: str | None = None  # why the number is what it is, for people


class AutoscalerStatus(Wire, frozen=True):
    desired_replicas: int | None = None
    last_transition_time: int | None = None  # seconds since 1970
    conditions: list[AutoscalerCondition] | None = None


class PortStatus(Wire, frozen=True):
    container_port: Port
    name: str | None = None
    host_port: Port | None = None
    external_endpoint: str | None = None  # of one that the gateway serves
    protocol: str | None = None


class EndpointStatus(Wire, frozen=True):
    """`message` … `jupyter` extend the published format."""

    state: EndpointState
    endpoint: EndpointAddress
    phase: EndpointState | None = None
    ready_replicas: int | None = None
    container_port_status: list[PortStatus] | None = None  # of a pod
    autoscaler_status: AutoscalerStatus | None = None
    public_ip: str | None = None  # of a pod that runs: where its ports are reached
    message: str | None = None  # why it is in this state, for people
    node: str | None = None  # of a pod: where its files are
    files: str | None = None  # of a pod: its home there
    ssh_host_key: str | None = None  # of a pod: public, as in known_hosts
    ssh_user: str | None = None  # of a pod
    jupyter: str | None = None  # of a pod: installing, starting, running, failed


class RequestHistory(Wire, frozen=True, omit_defaults=False):
    """An extension: how many requests came, where the endpoint is scaled by a target."""

    begins_at: int  # seconds since 1970, UTC
    step_seconds: int
    requests_per_second: list[float | None]  # in each step, the oldest first; null: not counted


class LeptonDeployment(Wire, frozen=True):
    metadata: Metadata
    spec: EndpointSpec = field(default_factory=EndpointSpec)
    status: EndpointStatus | None = None
    explanation: Explanation | None = None  # an extension: of a dry run
    rollout: RolloutPlan | None = None  # an extension: of a change, how it is rolled out


class ReadinessReason(
    Wire, frozen=True, omit_defaults=False, rename={"created": "creationTimestamp"}
):
    reason: str  # Ready, InProgress, Deleting, Deleted, NoCapacity, ConfigError, SystemError, …
    message: str
    created: str  # ISO 8601; "creationTimestamp" on the wire


class TerminationReason(Wire, frozen=True, omit_defaults=False):
    started_at: int  # seconds since 1970
    finished_at: int  # seconds since 1970
    exit_code: int
    reason: str
    message: str
