"""Ray clusters as the wire shows them."""

from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec.structs import replace

from leptonai.control.api.views import metadata_of
from leptonai.control.world import Config
from leptonai.core.records import RayCluster, Replica
from leptonai.core.resources import MIB, MILLIS
from leptonai.core.shapes import requested_by
from leptonai.spec.rayclusters import (
    LeptonRayCluster,
    RayClusterState,
    RayClusterStatus,
    RayCondition,
    RayHead,
)


def raycluster_view(
    cluster: RayCluster, config: Config, *, head: Replica | None, address: str, waits: str
) -> LeptonRayCluster:
    """
    Args:
        address: of the head's node.
        waits: why one of its nodes waits, in a few words.
    """
    groups = cluster.spec.groups
    needs = [(requested_by(cluster.spec.head).needs, 1)]
    needs += [(requested_by(group).needs, group.workers) for group in groups]
    message = "; ".join(each for each in (cluster.message, waits) if each)
    base = f"{config.url}/api/v2/workspaces/{cluster.workspace}/rayclusters/{cluster.name}"
    return LeptonRayCluster(
        metadata=replace(metadata_of(cluster), id=cluster.name),  # by which it is addressed
        spec=cluster.spec,
        status=RayClusterStatus(
            state=cluster.state,
            message=message or None,
            ready_workers=cluster.ready_workers,
            available_workers=cluster.running_workers,
            desired_workers=0 if cluster.stopped else cluster.spec.workers,
            min_workers=cluster.spec.workers,
            max_workers=sum(
                group.workers if group.max_replicas is None else group.max_replicas
                for group in groups
            ),
            desired_cpu=f"{sum(each.cpu_millis * many for each, many in needs) / MILLIS:g}",
            desired_gpu=str(sum(each.gpus * many for each, many in needs)),
            desired_memory=f"{sum(each.memory_bytes * many for each, many in needs) // MIB}Mi",
            endpoints={"dashboard": f"{base}/dashboard"},
            head=RayHead(
                pod_ip=address or None,
                pod_name=head.id,
                service_ip=address or None,
                service_name=head.name,
            )
            if head
            else None,
            last_update_time=_iso(cluster.modified_at_ms),
            conditions=[*_conditions(cluster, message)],
        ),
    )


def _conditions(cluster: RayCluster, message: str) -> Iterator[RayCondition]:
    since = _iso(cluster.since_ms)
    reason = cluster.state.value.replace(" ", "")
    wanted = cluster.spec.workers
    head_words = "its dashboard answers" if cluster.head_ready else message or "it is not ready"
    yield RayCondition(
        kind="HeadReady",
        status=str(cluster.head_ready),
        reason="Ready" if cluster.head_ready else reason,
        message=head_words,
        last_transition_time=since,
    )
    ready = cluster.state is RayClusterState.READY
    words = f"{cluster.ready_workers} of {wanted} workers are ready"
    yield RayCondition(
        kind="WorkersReady",
        status=str(ready),
        reason="Ready" if ready else reason,
        message=message if cluster.head_ready and message else words,
        last_transition_time=since,
    )
    if cluster.spec.autoscaler is not None:
        yield RayCondition(
            kind="Autoscaling",
            status="False",
            reason="NotSupported",
            message="nothing scales the workers here: each group has its min_replicas; "
            "`leptonai raycluster resize` changes them",
            last_transition_time=since,
        )


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
