"""Why a gang waits, in words and as data; and whether it could ever run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from leptonai.core.resources import MILLIS, Capacity, Free, Needs
from leptonai.core.scheduler.columns import Bools, Columns, Ints
from leptonai.core.scheduler.copies import WorkerSize, copies_on
from leptonai.core.scheduler.fitting import choose_nodes
from leptonai.core.scheduler.index import Affinity, Index, affinity_of
from leptonai.core.scheduler.segments import segments_by_domain
from leptonai.core.scheduler.values import (
    Gang,
    Holder,
    NodeView,
    Place,
    Quota,
    Reason,
    WaitCode,
    Worker,
)

MAX_HOLDERS = 10  # that a reason tells of
MIB, GIB = 1 << 20, 1 << 30


def feasible(gang: Gang, nodes: Iterable[NodeView]) -> Reason | None:
    """Why these nodes could never run the gang, even if they were empty; None if they could.

    Whether nodes take work at present plays no part. For workers of unequal needs the answer errs
    towards None: each must fit alone, and the sums must fit.
    """
    nodes = tuple(nodes)
    if not nodes:
        return Reason(WaitCode.NO_NODES, "there are no nodes", {"nodes": 0})
    admitted = [node for node in nodes if gang.admits(node)]
    if not admitted:
        return Reason(WaitCode.NO_NODE, f"there is no node it may use: {_affinity(gang)}", {})
    # Most nodes are like many others.
    kinds = Counter((node.capacity, node.ports_to - node.ports_from) for node in admitted)
    for worker in gang.workers:
        if not any(_copies_when_empty(kind, worker) for kind in kinds):
            return _too_large(worker.needs, admitted)
    workers = gang.least
    counts = Counter(worker.needs for worker in workers)
    if gang.apart and len(workers) > len(admitted):
        return Reason(
            WaitCode.NO_NODE,
            f"needs {len(workers)} nodes, one for each worker; it may use {len(admitted)}",
            {"workers": len(workers), "nodes": len(admitted)},
        )
    if gang.segment:
        return _too_few_segments(gang, admitted)
    if len(counts) == 1:
        room = sum(
            many * min(_copies_when_empty(kind, workers[0]), 1 if gang.apart else len(workers))
            for kind, many in kinds.items()
        )
        if room < len(workers):
            return Reason(
                WaitCode.NO_NODE,
                f"needs room for {len(workers)} workers with {describe(workers[0].needs)} each;"
                f" {_these(len(admitted))} room for {room} when empty",
                {"workers": len(workers), "room": room},
            )
        return None
    for resource in _RESOURCES:
        needed = sum(resource.needed(needs) * count for needs, count in counts.items())
        total = sum(
            many * resource.free(Free.all_of(capacity)) for (capacity, _), many in kinds.items()
        )
        if needed > total:
            return Reason(
                WaitCode.NO_NODE,
                f"needs {resource.words(needed)} in all;"
                f" {_these(len(admitted))} {resource.words(total)} when empty",
                {"resource": resource.name, "needed": needed, "largest": total},
            )
    return None


def _too_few_segments(gang: Gang, admitted: Sequence[NodeView]) -> Reason | None:
    worker, segments = gang.workers[0], len(gang.workers) // gang.segment
    copies: dict[tuple[Capacity, int], int] = {}
    behind: Counter[tuple[str, str]] = Counter()
    for node in admitted:
        kind = (node.capacity, node.ports_to - node.ports_from)
        if kind not in copies:
            copies[kind] = _copies_when_empty(kind, worker)
        behind[node.domain] += min(copies[kind], 1 if gang.apart else len(gang.workers))
    room = sum(workers // gang.segment for workers in behind.values())
    if room >= segments:
        return None
    return Reason(
        WaitCode.NO_NODE,
        f"needs {_segments_of(gang, admitted)}; {_these(len(admitted))} room for {room} when empty",
        {"segments": segments, "workers": gang.segment, "room": room},
    )


def _segments_of(gang: Gang, nodes: Sequence[NodeView]) -> str:
    """ "room for 2 segments of 4 workers with 1 CPU each, a segment behind one switch"."""
    many = len(gang.workers) // gang.segment
    where = "behind one switch" if any(node.switch for node in nodes) else "on one node"
    return (
        f"room for {many} segment{'s' if many > 1 else ''} of {gang.segment} workers"
        f" with {describe(gang.workers[0].needs)} each, a segment {where}"
    )


def _copies_when_empty(kind: tuple[Capacity, int], worker: Worker) -> int:
    capacity, ports = kind
    many = copies_on(Free.all_of(capacity), worker.needs)
    return min(many, max(0, ports - 1) // len(worker.ports)) if worker.ports else many


# Who holds how much, by resource and by what a gang may use: the same for many gangs that wait.
Held = dict[tuple[str, Affinity], tuple[Holder, ...]]


def why_it_waits(gang: Gang, index: Index, kept_for: Sequence[Gang], held: Held) -> Reason:
    """Why a gang cannot be placed on what is left now.

    Args:
        kept_for: gangs for which room is kept.
        held: what earlier calls found of the same nodes and running gangs; is added to.
    """
    views = index.nodes.machines.views
    if not any(view.schedulable for view in views):
        return no_usable_nodes(views)
    if (never := no_node(gang, views)) is not None:
        return never
    if kept_for:
        admitted = index.admitted(gang)
        without = choose_nodes(gang, index.nodes, admitted, beside_kept=False)
        by_id = {first.id: first for first in kept_for}
        for at in without or ():
            if (kept := index.nodes.kept_for(at)) is not None:
                return behind(by_id[kept])
    return no_room(gang, index, held)


def over_quota(gang: Gang, quota: Quota) -> Reason:
    whose = f"user {quota.user!r}" if quota.user else f"project {quota.project!r}"
    limits = []
    if quota.gpus is not None:
        limits.append(f"{quota.gpus:g} GPUs")
    if quota.cpu_millis is not None:
        limits.append(f"{quota.cpu_millis / MILLIS:g} CPUs")
    text = f"{whose} may hold {' and '.join(limits)}, and would hold more"
    if quota.borrow and not gang.preemptible:
        text += "; only what may be preempted can borrow idle room"
    return Reason(
        WaitCode.QUOTA,
        text,
        {"user" if quota.user else "project": quota.user or quota.project},
    )


def clearing(place: Place, index: Index) -> Reason:
    """Why a gang whose room is settled has not started: others are about to leave it."""
    names = [index.running[id].gang.name for id in place.after if id in index.running]
    where = sorted({to.node for to in place.assignments})
    return Reason(
        WaitCode.CLEARING,
        f"it starts on {_names(where)} as soon as {_names(names)} "
        f"{'has' if len(names) == 1 else 'have'} stopped there",
        {"nodes": where[:MAX_HOLDERS], "holders": names[:MAX_HOLDERS]},
    )


def no_usable_nodes(nodes: Sequence[NodeView]) -> Reason:
    if not nodes:
        return Reason(WaitCode.NO_NODES, "there are no nodes", {"nodes": 0})
    return Reason(
        WaitCode.NO_NODES,
        f"none of the {len(nodes)} nodes takes work now"
        if len(nodes) > 1
        else f"the only node, {nodes[0].id}, takes no work now",
        {"nodes": len(nodes)},
    )


def no_node(gang: Gang, nodes: Sequence[NodeView]) -> Reason | None:
    """Why no usable node could ever hold the gang; None if they could."""
    usable = [node for node in nodes if node.schedulable]
    because = feasible(gang, usable)
    if because is not None and len(usable) < len(nodes) and feasible(gang, nodes) is None:
        away = [node.id for node in nodes if not node.schedulable and gang.admits(node)]
        return Reason(
            because.code,
            f"{because.text}; it would fit if {_names(away)} took work again",
            {**because.data, "away": away[:MAX_HOLDERS]},
        )
    return because


def no_room(gang: Gang, index: Index, held: Held) -> Reason:
    """Which resource a gang is short of on the nodes it may use, and who holds it."""
    nodes, admitted = index.nodes, index.admitted(gang)
    here = np.ones(len(nodes), dtype=np.bool_) if admitted is None else admitted
    needs = max((worker.needs for worker in gang.workers), key=_dominant)
    scarce = min(
        (resource for resource in _RESOURCES if resource.needed(needs)),
        key=lambda resource: int(nodes.row(WorkerSize(resource.only(needs), 0)).copies[here].sum()),
        default=_RESOURCES[-1],
    )
    key = scarce.name, affinity_of(gang)
    if key not in held:
        held[key] = _holders(scarce, index, here)
    many = len(gang.least)
    copies = np.where(here, nodes.row(WorkerSize(needs, 0)).copies, 0)
    room = min(many, int(copies.sum()))
    if gang.segment:
        whole = int(segments_by_domain(copies, nodes, gang.segment).sum())
        text = f"needs {_segments_of(gang, nodes.machines.views)}; there is room for {whole}"
    elif many > 1:
        each = "each" if len({worker.needs for worker in gang.workers}) == 1 else "and less"
        text = (
            f"needs room for {many} workers with {describe(needs)} {each}; there is room for {room}"
        )
    else:
        most = int(scarce.left(nodes.columns())[here].max(initial=0))
        least = scarce.needed(needs)
        text = f"needs {describe(needs)} on one node; " + (
            f"the most that is free on one is {scarce.words(max(0, most))}"
            if most < least
            else "no node has all of it free at once"
        )
    return Reason(
        WaitCode.CAPACITY,
        text,
        {
            "workers": many,
            "room": room,
            "resource": scarce.name,
            "needed": scarce.needed(needs),
            "holders": len(held[key]),
        },
        held_by=held[key][:MAX_HOLDERS],
    )


def _holders(resource: "_Resource", index: Index, here: Bools) -> tuple[Holder, ...]:
    held: list[Holder] = []
    for id, running in index.running.items():
        amount = sum(resource.needed(hold.needs) for at, hold in index.holds(running) if here[at])
        if amount:
            held.append(Holder(id, amount))
    return tuple(sorted(held, key=lambda holder: (-holder.amount, holder.gang)))


def amount_words(resource: str, amount: int) -> str:
    """ "8 GPUs": so much of a resource, by its name in a reason's data."""
    return next(each for each in _RESOURCES if each.name == resource).words(amount)


def behind(first: Gang) -> Reason:
    """It would fit, in room that is kept for an overdue gang."""
    return Reason(
        WaitCode.BEHIND,
        "waits behind another that goes first and needs the same room",
        behind=first.id,
    )


def describe(needs: Needs) -> str:
    """ "1 CPU, 2 GiB, 8 H100 GPUs": what one worker needs."""
    parts = [
        resource.words(resource.needed(needs))
        for resource in _RESOURCES
        if resource.name != "gpu_millis" and resource.needed(needs)
    ]
    if needs.gpus:
        kind = f"{needs.gpu_type} GPU" if needs.gpu_type else "GPU"
        share = "" if needs.gpu_millis == MILLIS else f" × {needs.gpu_millis / MILLIS:g}"
        if needs.gpus == 1 and share:
            parts.append(f"{needs.gpu_millis / MILLIS:g} {kind}")
        else:
            parts.append(f"{needs.gpus}{share} {kind}{'s' if needs.gpus > 1 else ''}")
    return ", ".join(parts) or "nothing"


@dataclass(frozen=True, slots=True)
class _Resource:
    name: str
    title: str

    def needed(self, needs: Needs) -> int:
        if self.name == "gpu_millis":
            return needs.gpus * needs.gpu_millis
        return int(getattr(needs, self.name))

    def free(self, free: Free) -> int:
        if self.name == "gpu_millis":
            return sum(free.gpu_millis)
        return int(getattr(free, self.name))

    def left(self, columns: Columns) -> Ints:
        match self.name:
            case "gpu_millis":
                gpu_millis: Ints = columns.gpu.sum(axis=1)
                return gpu_millis
            case "cpu_millis":
                return columns.cpu
            case "memory_bytes":
                return columns.memory
            case _:
                return columns.disk

    def only(self, needs: Needs) -> Needs:
        """This part of what is needed."""
        if self.name == "gpu_millis":
            return Needs(gpus=needs.gpus, gpu_millis=needs.gpu_millis, gpu_type=needs.gpu_type)
        return Needs(**{self.name: getattr(needs, self.name)})

    def words(self, amount: int) -> str:
        match self.name:
            case "cpu_millis":
                return f"{amount / MILLIS:g} CPU{'' if amount <= MILLIS else 's'}"
            case "gpu_millis":
                return f"{amount / MILLIS:g} GPU{'' if amount <= MILLIS else 's'}"
            case "disk_bytes":
                return f"{_bytes(amount)} disk"
            case _:
                return _bytes(amount)


_RESOURCES = (
    _Resource("gpu_millis", "GPU"),
    _Resource("cpu_millis", "CPU"),
    _Resource("memory_bytes", "memory"),
    _Resource("disk_bytes", "disk"),
)


def _too_large(needs: Needs, nodes: Sequence[NodeView]) -> Reason:
    """No single node, even empty, holds a worker of this size: says how large the largest is."""
    if needs.gpu_type and needs.gpus:
        types = sorted({node.capacity.gpu_type for node in nodes if node.capacity.gpus})
        nodes = [node for node in nodes if needs.takes_gpu(node.capacity.gpu_type)]
        if not nodes:
            there_is = f"there are {', '.join(types)}" if types else "no node has GPUs"
            return Reason(
                WaitCode.NO_NODE,
                f"needs {describe(needs)}; no node has a GPU of that type: {there_is}",
                {"resource": "gpu_type", "needed": needs.gpu_type, "there_is": types},
            )
    for resource in _RESOURCES:
        needed = resource.needed(needs)
        fits = max(copies_on(Free.all_of(node.capacity), resource.only(needs)) for node in nodes)
        largest = max(resource.free(Free.all_of(node.capacity)) for node in nodes)
        if needed and not fits:
            return Reason(
                WaitCode.NO_NODE,
                f"needs {resource.words(needed)} on one node;"
                f" the largest node has {resource.words(largest)}",
                {"resource": resource.name, "needed": needed, "largest": largest},
            )
    return Reason(
        WaitCode.NO_NODE, f"needs {describe(needs)} on one node; no node has all of it", {}
    )


def _affinity(gang: Gang) -> str:
    allowed = []
    if gang.allowed_nodes:
        allowed.append(f"only {_names(sorted(gang.allowed_nodes))}")
    if gang.allowed_groups:
        allowed.append(f"only node groups {_names(sorted(gang.allowed_groups))}")
    return " and ".join(allowed)


def _these(nodes: int) -> str:
    return "the nodes it may use have" if nodes > 1 else "the one node it may use has"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _bytes(amount: int) -> str:
    return f"{amount / GIB:.4g} GiB" if amount >= GIB else f"{amount / MIB:.4g} MiB"


def _dominant(needs: Needs) -> tuple[int, int, int, int]:
    return (
        needs.gpus * needs.gpu_millis,
        needs.cpu_millis,
        needs.memory_bytes,
        needs.disk_bytes,
    )
