"""Records as the wire shows them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from msgspec.structs import replace

from leptonai.control.world import Config
from leptonai.core.lifecycle.job import status_of
from leptonai.core.lifecycle.replica import describe_end
from leptonai.core.points import RunPoints, shown
from leptonai.core.records import (
    Autoscaling,
    Dataset,
    Endpoint,
    EndReason,
    Event,
    Goal,
    Job,
    Model,
    Node,
    NodeState,
    OwnerKind,
    Phase,
    Record,
    Replica,
    Run,
    Secret,
    Termination,
    Volume,
)
from leptonai.core.resources import MIB, MILLIS
from leptonai.spec import nodes as wire_nodes
from leptonai.spec import replicas as wire_replicas
from leptonai.spec import runs as wire_runs
from leptonai.spec.artifacts import Artifact
from leptonai.spec.endpoints import (
    AutoscalerCondition,
    AutoscalerStatus,
    EndpointAddress,
    EndpointState,
    EndpointStatus,
    LeptonDeployment,
    PortStatus,
    ReadinessReason,
    TerminationReason,
)
from leptonai.spec.explanations import Explanation
from leptonai.spec.jobs import LeptonJob
from leptonai.spec.metadata import Metadata, Visibility
from leptonai.spec.pods import JUPYTER_PORT, PROXY_AT, SSH_PORT
from leptonai.spec.workspace import SecretItem

NOBODYS_EXIT_CODE = -1  # of an attempt whose end nobody saw


def metadata_of(record: Record) -> Metadata:
    return Metadata(
        id=record.id,
        name=record.name,
        created_at=record.created_at_ms,
        version=record.version,
        created_by=record.owner or None,
        owner=record.owner or None,
        last_modified_at=record.modified_at_ms or record.created_at_ms,
        labels=record.labels or None,
        visibility=Visibility(record.visibility) if record.visibility else None,
    )


W = TypeVar("W", LeptonJob, LeptonDeployment)


def dry_run_of(view: W, explanation: Explanation) -> W:
    """As it would be, but for the id, which it has not been given."""
    metadata = replace(view.metadata, id=None, version=None, created_at=None, last_modified_at=None)
    return replace(view, metadata=metadata, status=None, explanation=explanation)


def job_view(job: Job) -> LeptonJob:
    return LeptonJob(metadata=metadata_of(job), spec=job.spec, status=status_of(job))


GIB = 1 << 30
HOUR_MS = 3_600_000


def run_view(
    run: Run, points: RunPoints, job: Job | None, now_ms: int, only: frozenset[str] = frozenset()
) -> wire_runs.Run:
    """With the summary of its metrics, or of those that are named."""
    return wire_runs.Run(
        metadata=metadata_of(run),
        spec=run.spec,
        status=wire_runs.RunStatus(
            state=run.state,
            message=run.message,
            started_at=run.started_at_ms,
            ended_at=run.ended_at_ms,
            heard_at=points.heard_at_ms or None,
            job_state=job.state if job else None,
            points=points.count,
            usage=_usage(run, (run.ended_at_ms or now_ms) - run.started_at_ms),
            summary=shown(points.summary, only),
        ),
    )


def _usage(run: Run, wall_ms: int) -> wire_runs.Usage:
    needs, hours = run.needs, run.workers * wall_ms / HOUR_MS
    if needs is None:
        return wire_runs.Usage(wall_seconds=wall_ms / 1000)
    return wire_runs.Usage(
        wall_seconds=wall_ms / 1000,
        cpu_hours=hours * needs.cpu_millis / MILLIS,
        gpu_hours=hours * needs.gpus * needs.gpu_millis / MILLIS,
        memory_gib_hours=hours * needs.memory_bytes / GIB,
    )


# A state that the published client knows in `state`; `phase` keeps the truth.
_FOLDED = {
    EndpointState.STOPPING: EndpointState.NOT_READY,
    EndpointState.STOPPED: EndpointState.NOT_READY,
}


def endpoint_view(
    endpoint: Endpoint, config: Config, addresses: Mapping[str, str] = {}
) -> LeptonDeployment:
    """Args: addresses: where each node is reached."""
    state = endpoint.state
    address = f"{config.gateway_url}/e/{endpoint.workspace}/{endpoint.name}"
    return LeptonDeployment(
        metadata=replace(
            metadata_of(endpoint),
            id=endpoint.name,  # by which it is addressed
            # A changed first number tells clients that replicas are replaced.
            semantic_version=f"{endpoint.revision}.{endpoint.version}",
        ),
        spec=endpoint.spec,
        status=EndpointStatus(
            state=_FOLDED.get(state, state),
            phase=state,
            endpoint=EndpointAddress(internal_endpoint=address, external_endpoint=address),
            ready_replicas=endpoint.ready_replicas,
            autoscaler_status=None if endpoint.is_pod else _autoscaler_status(endpoint),
            message=endpoint.message or None,
            **(_pod_facts(endpoint, config, addresses) if endpoint.is_pod else {}),
        ),
    )


def _pod_facts(pod: Endpoint, config: Config, addresses: Mapping[str, str]) -> dict[str, Any]:
    """A port of the node is told where something may be behind it: no SSH server, no port."""
    seen = pod.pod
    ports = dict(seen.ports)
    proxied, proxy = pod.spec.proxied_port, f"{PROXY_AT}/{pod.workspace}/{pod.name}/"
    if not seen.ssh_host_key:
        ports.pop(SSH_PORT, None)
    if seen.jupyter != "running":
        ports.pop(JUPYTER_PORT, None)
    return {
        "container_port_status": [
            PortStatus(
                container_port=port.container_port,
                name=port.name,
                host_port=ports.get(port.container_port) if port.maps_host_port else None,
                external_endpoint=f"{config.gateway_url}/{proxy}"
                if port.container_port == proxied
                else None,
                protocol=port.protocol or "TCP",
            )
            for port in pod.spec.pod_ports
        ],
        "public_ip": addresses.get(seen.node) if seen.ports else None,
        "node": seen.node or None,
        "files": seen.home or None,
        "ssh_host_key": seen.ssh_host_key or None,
        "ssh_user": seen.user or None,
        "jupyter": seen.jupyter or None,
    }


def _autoscaler_status(endpoint: Endpoint) -> AutoscalerStatus:
    autoscaling = endpoint.autoscaling
    if autoscaling is None:
        return AutoscalerStatus(desired_replicas=endpoint.wanted)
    since_s = autoscaling.since_ms // 1000
    return AutoscalerStatus(
        desired_replicas=endpoint.wanted,
        last_transition_time=since_s,
        conditions=[
            AutoscalerCondition(
                status="False" if endpoint.asleep else "True",
                kind="Awake",
                last_transition_time=since_s,
                message=autoscaling.because,
            ),
            *_forecast_condition(autoscaling),
        ],
    )


def _forecast_condition(autoscaling: Autoscaling) -> list[AutoscalerCondition]:
    if not autoscaling.forecast:
        return []
    status = "True" if autoscaling.predictive else "False"
    return [AutoscalerCondition(status=status, kind="Predictive", message=autoscaling.forecast)]


def replica_view(replica: Replica, public_ip: str | None = None) -> wire_replicas.Replica:
    """Args: public_ip: where the ports of a pod are reached."""
    end = replica.last_end
    over = replica.phase in (Phase.ENDED, Phase.DONE)
    return wire_replicas.Replica(
        metadata=metadata_of(replica),
        id=replica.id,
        status=wire_replicas.ReplicaStatus(
            public_ip=public_ip,
            node=wire_replicas.ReplicaNode(name=replica.node, id=replica.node)
            if replica.node
            else None,
            state=replica.phase,
            ready=replica.ready,
            attempt=replica.attempt,
            exit_code=end.exit_code if end and over else None,
            reason=end.reason if end and over else None,
            started_at=(end.started_at_ms if end and over else None) or replica.started_at_ms,
            finished_at=end.finished_at_ms if end and over else None,
        ),
    )


def readiness_of(replica: Replica) -> list[ReadinessReason]:
    reason, message = _readiness(replica)
    return [
        ReadinessReason(
            reason=reason,
            message=message,
            created=_iso(replica.ready_at_ms or replica.started_at_ms or replica.created_at_ms),
        )
    ]


def _readiness(replica: Replica) -> tuple[str, str]:
    end = replica.last_end
    if replica.phase is Phase.DONE:
        return "Deleted", "it has ended"
    if replica.goal is Goal.STOP:
        return "Deleting", "it is stopping"
    if replica.ready:
        return "Ready", ""
    if end is not None and end.reason is EndReason.NOT_STARTED:
        return "ConfigError", end.message or "it could not be started"
    if end is not None:
        return "SystemError", f"an earlier attempt ended: {end.reason} {end.message}".strip()
    if replica.phase is Phase.WAITING:
        return "Queueing", "it waits for a node"
    return "InProgress", "it is starting"


def terminations_of(replica: Replica) -> list[TerminationReason]:
    return [_termination(end) for end in replica.terminations]


def _termination(end: Termination) -> TerminationReason:
    return TerminationReason(
        started_at=(end.started_at_ms or end.finished_at_ms) // 1000,
        finished_at=end.finished_at_ms // 1000,
        exit_code=NOBODYS_EXIT_CODE if end.exit_code is None else end.exit_code,
        reason=end.reason,
        message=end.message or describe_end(end),
    )


def event_view(event: Event) -> wire_replicas.LeptonEvent:
    return wire_replicas.LeptonEvent(
        type=event.severity,
        reason=event.reason,
        count=1,
        last_observed_time=_iso(event.at_ms),
        message=event.message,
        regarding=wire_replicas.Regarding(kind=event.kind, name=event.name, id=event.id),
    )


def secret_view(secret: Secret) -> SecretItem:
    return SecretItem(
        name=secret.name,
        owner=secret.owner or None,
        visibility=Visibility(secret.visibility) if secret.visibility else None,
    )


def artifact_view(record: Dataset | Model) -> Artifact:
    return Artifact(
        metadata=replace(metadata_of(record), version=record.number),
        spec=record.spec,
        aliases=record.aliases,
    )


# --- machines ------------------------------------------------------------------------------------


def group_view(
    group: str, nodes: Iterable[Node], workspaces: Iterable[str], volumes: Iterable[Volume] = ()
) -> wire_nodes.DedicatedNodeGroup:
    nodes = list(nodes)
    types = sorted({node.capacity.gpu_type for node in nodes if node.capacity.gpu_type})
    return wire_nodes.DedicatedNodeGroup(
        metadata=Metadata(
            id=group, name=group, created_at=min((node.created_at_ms for node in nodes), default=0)
        ),
        spec=wire_nodes.NodeGroupSpec(
            workspaces=list(workspaces),
            volumes=[volume_view(volume) for volume in volumes],
            enable_object_storage=True,
            gpu_product=types[0] if types else None,
            desired_nodes=len(nodes),
        ),
        status=wire_nodes.NodeGroupStatus(
            ready_nodes=sum(node.state is NodeState.READY for node in nodes),
            quota_enabled=True,  # without it, clients send no priorities
        ),
    )


def volume_view(volume: Volume) -> wire_nodes.Volume:
    return wire_nodes.Volume(
        name=volume.name,
        source=volume.source,
        size_in_gb=volume.size_in_gb,
        creation_mode=volume.creation_mode or None,
        from_path=volume.path,
        managed_by_lepton=volume.managed or None,
    )


def node_view(node: Node, held: Iterable[Replica], shown: str) -> wire_nodes.Node:
    """Args: held: what runs there. shown: only workloads of this workspace are named."""
    held = list(held)
    used = amounts_of(held)
    capacity = node.capacity
    return wire_nodes.Node(
        metadata=Metadata(
            id=node.id, name=node.name, created_at=node.created_at_ms, labels=node.labels or None
        ),
        spec=wire_nodes.NodeSpec(
            unschedulable=node.unschedulable,
            dedicated_node_group=node.group,
            machine_id=node.id,
            hostname=node.facts.get("hostname", node.name),
            local_ip=node.address,
            gpu_clique_id=node.switch or None,
            limits=node.limits,
            resource=wire_nodes.NodeResource(
                cpu=wire_nodes.CpuUse(
                    type=node.facts.get("cpu", ""),
                    allocated=used["cpu"],
                    total=capacity.cpu_millis / MILLIS,
                ),
                gpu=wire_nodes.GpuUse(
                    product=capacity.gpu_type, allocated=used["gpus"], total=float(capacity.gpus)
                )
                if capacity.gpus
                else None,
                memory=wire_nodes.MemoryUse(
                    allocated=int(used["memory"]), total=capacity.memory_bytes // MIB
                ),
                disk=wire_nodes.DiskUse(
                    total_bytes=capacity.disk_bytes, used_bytes=int(used["disk"])
                ),
                system=wire_nodes.NodeSystem(
                    os=node.facts.get("os"),
                    kernel_version=node.facts.get("kernel"),
                    cuda_version=node.facts.get("cuda"),
                    cuda_driver_version=node.facts.get("cuda_driver"),
                ),
            ),
        ),
        status=wire_nodes.NodeStatus(
            status=_node_words(node),
            workloads=[_workload(replica) for replica in held if replica.workspace == shown],
        ),
    )


def machine_view(node: Node, held: Iterable[Replica]) -> wire_nodes.Machine:
    """Args: held: what runs there."""
    shown = node_view(node, held, "")
    return wire_nodes.Machine(
        metadata=shown.metadata,
        status=wire_nodes.MachineStatus(
            machine_id=node.id,
            node_name=node.id,
            status=node.state,
            private_ip=node.address,
            hostname=shown.spec.hostname,
            resource=shown.spec.resource,
        ),
    )


def amounts_of(replicas: Iterable[Replica]) -> Mapping[str, float]:
    """Cores, MiB, bytes of disk and GPUs that they hold."""
    needs = [replica.program.needs for replica in replicas]
    return {
        "cpu": sum(each.cpu_millis for each in needs) / MILLIS,
        "memory": sum(each.memory_bytes for each in needs) // MIB,
        "disk": sum(each.disk_bytes for each in needs),
        "gpus": sum(each.gpus * each.gpu_millis for each in needs) / MILLIS,
    }


def _node_words(node: Node) -> list[str]:
    return ["Ready"] if node.state is NodeState.READY else ["NotReady"]


_WORKLOADS = {
    OwnerKind.JOB: "job",
    OwnerKind.ENDPOINT: "deployment",
    OwnerKind.RAYCLUSTER: "raycluster",
}


def _workload(replica: Replica) -> wire_nodes.NodeWorkload:
    needs = replica.program.needs
    return wire_nodes.NodeWorkload(
        type=_WORKLOADS[replica.owner_kind],
        name=replica.owner_name,
        id=replica.owner_id,
        replica_id=replica.id,
        workspace=replica.workspace,
        cpu=needs.cpu_millis / MILLIS,
        memory=needs.memory_bytes // MIB,
        gpu_count=needs.gpus * needs.gpu_millis / MILLIS,
    )


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
