"""The workspace, and its secrets."""

from msgspec import field

from leptonai.spec.metadata import Visibility, Wire
from leptonai.spec.nodes import ShapeSpec


class Workloads(Wire, frozen=True, omit_defaults=False):
    num_deployments: int = 0
    num_jobs: int = 0
    num_pods: int = 0
    num_secrets: int = 0
    num_image_pull_secrets: int = 0
    num_photons: int = 0


class QuotaAmount(Wire, frozen=True, omit_defaults=False):
    cpu: float = 0.0
    memory: int = 0  # MiB
    accelerator_num: float = 0.0


class ResourceQuota(Wire, frozen=True, omit_defaults=False):
    limit: QuotaAmount
    used: QuotaAmount


class ServiceAmount(Wire, frozen=True, omit_defaults=False):
    kv_store_num: int
    queue_num: int


class ServiceQuota(Wire, frozen=True, omit_defaults=False):
    """Older clients insist on it. The limits are no limits."""

    used: ServiceAmount
    limit: ServiceAmount = ServiceAmount(kv_store_num=1_000_000, queue_num=1_000_000)


class Features(Wire, frozen=True, omit_defaults=False):
    enable_new_deployment_api: bool = False
    enable_secure_endpoint_defaults: bool = False


class WorkspaceInfo(Wire, frozen=True, omit_defaults=False):
    build_time: str
    git_commit: str
    workspace_name: str
    workspace_tier: str
    workspace_state: str
    workspace_disk_usage_bytes: int
    workloads: Workloads
    resource_quota: ResourceQuota
    service_quota: ServiceQuota
    supported_shapes: dict[str, ShapeSpec] = field(default_factory=dict)
    features: Features = field(default_factory=Features)


class SecretItem(Wire, frozen=True):
    """A secret as it is created (`value`) and listed (never `value`)."""

    name: str
    value: str | None = None
    visibility: Visibility | None = None
    owner: str | None = None
    tags: list[str] | None = None
