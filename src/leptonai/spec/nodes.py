"""Machines: node groups, nodes, and the shapes that workloads may ask for."""

from msgspec import field

from leptonai.spec.metadata import Metadata, Wire


class Volume(Wire, frozen=True, omit_defaults=False, rename={"source": "from"}):
    name: str
    size_in_gb: int = 0
    source: str = "local"  # "from" on the wire: local, nfs
    creation_mode: str | None = None  # mkdir, none
    from_path: str | None = None
    default_mount_path: str | None = None
    managed_by_lepton: bool | None = None


class NodeGroupSpec(Wire, frozen=True):
    workspaces: list[str] | None = None
    volumes: list[Volume] | None = None
    enable_object_storage: bool | None = None
    node_mode: str | None = None
    gpu_product: str | None = None
    desired_nodes: int | None = None


class NodeGroupStatus(Wire, frozen=True, omit_defaults=False):
    ready_nodes: int = 0
    quota_enabled: bool = False


class DedicatedNodeGroup(Wire, frozen=True):
    metadata: Metadata
    spec: NodeGroupSpec
    status: NodeGroupStatus


class CpuUse(Wire, frozen=True, omit_defaults=False):
    type: str
    allocated: float
    total: float


class GpuUse(Wire, frozen=True, omit_defaults=False):
    product: str
    allocated: float
    total: float


class MemoryUse(Wire, frozen=True, omit_defaults=False):
    allocated: int  # MiB
    total: int  # MiB


class DiskUse(Wire, frozen=True, omit_defaults=False):
    total_bytes: int
    used_bytes: int


class NodeSystem(Wire, frozen=True):
    os: str | None = None
    kernel_version: str | None = None
    cuda_version: str | None = None
    cuda_driver_version: str | None = None


class NodeResource(Wire, frozen=True):
    cpu: CpuUse | None = None
    gpu: GpuUse | None = None
    memory: MemoryUse | None = None
    disk: DiskUse | None = None
    system: NodeSystem | None = None


class NodeSpec(Wire, frozen=True):
    unschedulable: bool
    dedicated_node_group: str | None = None
    machine_id: str | None = None
    capacity_type: str | None = None
    hostname: str | None = None
    local_ip: str | None = None
    gpu_clique_id: str | None = None  # nodes with the same are behind one switch
    resource: NodeResource | None = None
    limits: str | None = None  # a Lepton extension: cgroup-v2, cgroup-v1 or none


class NodeWorkload(Wire, frozen=True):
    type: str  # job, deployment
    name: str
    id: str
    replica_id: str
    workspace: str
    cpu: float | None = None
    memory: int | None = None  # MiB
    gpu_count: float | None = None


class NodeStatus(Wire, frozen=True, omit_defaults=False):
    status: list[str] = field(default_factory=list)  # Ready, NotReady, Unhealthy
    workloads: list[NodeWorkload] = field(default_factory=list)


class Node(Wire, frozen=True):
    metadata: Metadata
    spec: NodeSpec
    status: NodeStatus


class MachineStatus(Wire, frozen=True):
    machine_id: str
    node_name: str | None = None
    status: str | None = None
    private_ip: str | None = None
    hostname: str | None = None
    resource: NodeResource | None = None


class Machine(Wire, frozen=True):
    """What a node is made of; here every node is one machine."""

    metadata: Metadata
    status: MachineStatus


class ShapeSpec(Wire, frozen=True):
    name: str
    description: str | None = None
    listable_in: list[str] | None = None  # pod, deployment, job
    cpu: float | None = None
    memory_in_mb: int | None = None
    ephemeral_storage_in_gb: int | None = None
    accelerator_type: str | None = None
    accelerator_num: float | None = None
    accelerator_fraction: float | None = None
    accelerator_memory_in_mb: int | None = None
    node_group_id: str | None = None


class Shape(Wire, frozen=True):
    metadata: Metadata
    spec: ShapeSpec
