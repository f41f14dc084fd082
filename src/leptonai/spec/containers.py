"""What a replica runs, as users write it: containers, variables, mounts, queueing."""

from typing import Annotated, Literal

from msgspec import Meta

from leptonai.spec.metadata import Wire

Port = Annotated[int, Meta(ge=1, le=65535)]
HOST_PORT_MAPPING, INGRESS_PROXY = "HostPortMapping", "IngressProxy"


class ContainerPort(Wire, frozen=True):
    container_port: Port
    name: str | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] | None = None
    expose_strategies: list[str] | None = None  # of a pod: the two above
    app_protocol: Literal["http", "grpc"] | None = None
    host_port: Port | None = None
    enable_load_balancer: bool | None = None

    @property
    def maps_host_port(self) -> bool:
        """Also where nothing is said of how it is exposed."""
        return not self.expose_strategies or HOST_PORT_MAPPING in self.expose_strategies

    @property
    def is_proxied(self) -> bool:
        return INGRESS_PROXY in (self.expose_strategies or ())


class Container(Wire, frozen=True):
    image: str | None = None
    command: list[str] | None = None
    ports: list[ContainerPort] | None = None


class SecretReference(Wire, frozen=True):
    secret_name_ref: str | None = None


class EnvVar(Wire, frozen=True):
    """A variable with a literal value, or with that of a secret."""

    name: str
    value: str | None = None
    value_from: SecretReference | None = None


class MountOptions(Wire, frozen=True):
    local_cache_size_mib: int | None = None
    read_only: bool | None = None


class Mount(Wire, frozen=True, rename={"source": "from"}):
    mount_path: str
    path: str | None = None
    source: str | None = None  # "from" on the wire: node-local, node-nfs:NAME
    mount_options: MountOptions | None = None


class StorageAttachmentMode(Wire, frozen=True):
    mode: str
    attach_with: str | None = None
    profile_name: str | None = None


class StorageAttachment(Wire, frozen=True):
    data_source_name: str
    attachments: list[StorageAttachmentMode]


class Affinity(Wire, frozen=True):
    allowed_dedicated_node_groups: list[str] | None = None
    allowed_nodes_in_node_group: list[str] | None = None
    allowed_providers: list[str] | None = None


class QueueConfig(Wire, frozen=True):
    priority_class: str | None = None  # low-1000 … high-9000
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None


class ReservationConfig(Wire, frozen=True):
    reservation_id: str | None = None
    allow_burst_to_other_reservations: bool | None = None


class UserSecurityContext(Wire, frozen=True):
    no_specific_user: bool | None = None
    privileged: bool | None = None


class LogConfig(Wire, frozen=True):
    save_termination_logs: bool | None = None
    enable_collection: bool | None = None


class MetricsConfig(Wire, frozen=True):
    disable_pulling_from_replica: bool | None = None
