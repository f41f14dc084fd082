"""Values for tests: each builder asks only for what matters to the test."""

from collections.abc import Iterable

from leptonai.core.resources import MILLIS, Capacity, Needs
from leptonai.core.scheduler import Assignment, Gang, NodeView, Running, Snapshot, Worker

GIB = 1 << 30
A_MOMENT_MS = 1_700_000_000_000


def needs(
    *,
    cpu: float = 0,
    memory_gib: float = 0,
    disk_gib: float = 0,
    gpus: float = 0,
    gpu_type: str = "",
) -> Needs:
    """Below one GPU is a share of one."""
    return Needs(
        cpu_millis=round(cpu * MILLIS),
        memory_bytes=round(memory_gib * GIB),
        disk_bytes=round(disk_gib * GIB),
        gpus=1 if 0 < gpus < 1 else round(gpus),
        gpu_millis=round(gpus * MILLIS) if 0 < gpus < 1 else MILLIS,
        gpu_type=gpu_type,
    )


def a_node(
    id: str = "node-1",
    *,
    cpu: float = 4,
    memory_gib: float = 16,
    disk_gib: float = 100,
    gpus: int = 0,
    gpu_type: str = "",
    group: str = "",
    switch: str = "",
    schedulable: bool = True,
    ports: range = range(20_000, 30_000),
) -> NodeView:
    return NodeView(
        id=id,
        group=group,
        switch=switch,
        capacity=Capacity(
            cpu_millis=round(cpu * MILLIS),
            memory_bytes=round(memory_gib * GIB),
            disk_bytes=round(disk_gib * GIB),
            gpus=gpus,
            gpu_type=gpu_type or ("A100" if gpus else ""),
        ),
        schedulable=schedulable,
        ports_from=ports.start,
        ports_to=ports.stop,
    )


def a_gang(
    id: str = "train",
    *,
    workers: int = 1,
    cpu: float = 1,
    memory_gib: float = 0,
    gpus: float = 0,
    gpu_type: str = "",
    sizes: Iterable[Needs] | None = None,
    ports: tuple[int, ...] = (),
    segment: int = 0,
    priority: int = 5000,
    waited_ms: int = 0,
    nodes: Iterable[str] = (),
    groups: Iterable[str] = (),
) -> Gang:
    """Of equal workers, or of workers of the given sizes; queued so long before A_MOMENT_MS."""
    equal = needs(cpu=cpu, memory_gib=memory_gib, gpus=gpus, gpu_type=gpu_type)
    of_each = [equal] * workers if sizes is None else list(sizes)
    return Gang(
        id=id,
        name=id,
        workers=tuple(
            Worker(replica=f"{id}-{index}", needs=size, ports=ports)
            for index, size in enumerate(of_each)
        ),
        segment=segment,
        priority=priority,
        queued_at_ms=A_MOMENT_MS - waited_ms,
        allowed_nodes=frozenset(nodes),
        allowed_groups=frozenset(groups),
    )


def a_holding(
    replica: str = "server-0",
    *,
    node: str = "node-1",
    cpu: float = 0,
    memory_gib: float = 0,
    gpus: float = 0,
    devices: tuple[int, ...] = (),
    ports: tuple[int, ...] = (),
    lasting: bool = False,
    priority: int = 5000,
    preemptible: bool = False,
    ran_ms: int = 0,
) -> Running:
    """A gang of one worker that holds this; its id is that of its replica."""
    worker = Worker(replica=replica, needs=needs(cpu=cpu, memory_gib=memory_gib, gpus=gpus))
    return Running(
        gang=Gang(
            id=replica,
            name=replica,
            workers=(worker,),
            priority=priority,
            preemptible=preemptible,
            queued_at_ms=A_MOMENT_MS - ran_ms,
        ),
        held=((worker, Assignment(replica, node, devices, ports)),),
        started_at_ms=A_MOMENT_MS - ran_ms,
        lasting=lasting,
    )


def a_snapshot(*parts: NodeView | Running | Gang, now_ms: int = A_MOMENT_MS) -> Snapshot:
    """The cluster of these nodes, holdings and queued gangs, in any order."""
    return Snapshot(
        now_ms=now_ms,
        nodes=tuple(part for part in parts if isinstance(part, NodeView)),
        running=tuple(part for part in parts if isinstance(part, Running)),
        queue=tuple(part for part in parts if isinstance(part, Gang)),
    )
