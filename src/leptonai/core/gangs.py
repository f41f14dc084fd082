"""What the scheduler sees of records: replicas as gangs, nodes, and quotas."""

import dataclasses
from collections.abc import Sequence

from leptonai.core import records
from leptonai.core.lifecycle.job import replica_id
from leptonai.core.lifecycle.replica import asked_of
from leptonai.core.records import EndReason, Job, Node, NodeState, OwnerKind, Replica, Workload
from leptonai.core.reservations import Reserved
from leptonai.core.scheduler.values import (
    ANY_PORT,
    Assignment,
    Deadline,
    Gang,
    NodeView,
    Quota,
    Running,
    Worker,
)
from leptonai.spec.containers import QueueConfig


def gang_of(replicas: Sequence[Replica], owner: Workload | None, reserved: Reserved) -> Gang:
    """The gang that these replicas are, of an owner that is gone where it is None.

    Gangs, users and projects are named "workspace/name": those of two workspaces are strangers.
    """
    replicas = sorted(replicas, key=lambda r: r.index)
    first = replicas[0]
    job = owner if isinstance(owner, Job) else None
    asked = asked_of(first, owner)
    queue = (asked.queue_config if asked else None) or QueueConfig()
    deadline = job.spec.deadline if job else None
    estimate = job.spec.estimated_seconds if job else None
    affinity = reserved.affinity(
        asked.reservation_config if asked else None,
        first.workspace,
        first.owner,
        frozenset(first.program.allowed_nodes),
    )
    return Gang(
        id=f"{first.workspace}/{first.gang}",
        name=first.owner_name,
        workers=tuple(
            Worker(replica=f"{r.workspace}/{r.id}", needs=r.program.needs, ports=_wished_ports(r))
            for r in replicas
        ),
        min_workers=min(job.spec.min_workers or 0, len(replicas)) if job else 0,
        priority=first.priority,
        queued_at_ms=job.queued_at_ms if job else first.created_at_ms,
        user=f"{first.workspace}/{first.owner}",
        project=f"{first.workspace}/{first.project}" if first.project else "",
        allowed_nodes=affinity.allowed,
        allowed_groups=frozenset(first.program.allowed_groups),
        avoided_nodes=affinity.avoided,
        # Of those that are left of a gang no segment is asked for any more.
        segment=job.spec.segment if job and len(replicas) == first.gang_size else 0,
        preemptible=job is not None and queue.can_be_preempted is True,
        may_preempt=queue.can_preempt is not False,
        deadline=Deadline(at_ms=1000 * deadline.at, hard=deadline.hard) if deadline else None,
        remaining_ms=None if estimate is None else 1000 * estimate,
        lasting=first.owner_kind is not OwnerKind.JOB,
        attained_ms=job.attained_ms if job else 0,
    )


def running_of(replicas: Sequence[Replica], owner: Workload | None, reserved: Reserved) -> Running:
    """
    Args:
        replicas: those of the gang that hold something.
    """
    replicas = sorted(replicas, key=lambda r: r.index)
    first = replicas[0]
    job = owner if isinstance(owner, Job) else None
    gang = gang_of(replicas, owner, reserved)
    held = tuple(
        (worker, Assignment(worker.replica, replica.node, replica.gpus, replica.ports))
        for worker, replica in zip(gang.workers, replicas, strict=True)
    )
    if job is not None and job.giving_way:  # once at a time
        gang = dataclasses.replace(gang, min_workers=0, preemptible=False)
    elif len(replicas) < first.gang_size:  # some have ended: the rest is no gang to resize
        gang = dataclasses.replace(gang, min_workers=0)
    elif job is not None and gang.min_workers:
        further = tuple(  # that it could have beside those it has
            Worker(replica=f"{job.workspace}/{replica_id(job, index)}", needs=first.program.needs)
            for index in range(first.gang_size, job.spec.workers)
        )
        gang = dataclasses.replace(gang, workers=gang.workers + further)
    started = [r.started_at_ms for r in replicas if r.started_at_ms is not None]
    leaving = [r for r in replicas if r.leaving]
    return Running(
        gang=gang,
        held=held,
        rendezvous_port=first.rendezvous_port,
        started_at_ms=min(started, default=None),
        saved_at_ms=job.saved_at_ms if job else None,
        lasting=first.owner_kind is not OwnerKind.JOB,
        leaving=frozenset(f"{r.workspace}/{r.id}" for r in leaving),
        leaving_since_ms=min((r.stop_asked_at_ms or 0 for r in leaving), default=0),
    )


def quota_of(record: records.Quota) -> Quota:
    whose = f"{record.workspace}/{record.name}"
    return Quota(
        user="" if record.of_project else whose,
        project=whose if record.of_project else "",
        gpus=record.gpus,
        cpu_millis=record.cpu_millis,
        borrow=record.borrow,
    )


def view_of(node: Node) -> NodeView:
    return NodeView(
        id=node.id,
        group=node.group,
        switch=node.switch,
        capacity=node.capacity,
        labels=node.labels,
        schedulable=node.state is NodeState.READY and not node.unschedulable,
    )


def _wished_ports(replica: Replica) -> tuple[int, ...]:
    """One that could not be started may have found its port taken: any will do now."""
    end = replica.last_end
    if end is not None and end.reason is EndReason.NOT_STARTED:
        return (ANY_PORT,) * len(replica.program.ports)
    return replica.program.ports
