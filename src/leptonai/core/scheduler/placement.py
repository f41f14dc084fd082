"""The scheduler: every queued gang is placed, or told why it waits."""

from collections import Counter
from collections.abc import Sequence

from leptonai.core.resources import Needs
from leptonai.core.scheduler.fitting import (
    Candidates,
    Shape,
    WorkerSize,
    equal_workers,
    fit,
    shape_of,
)
from leptonai.core.scheduler.reasons import behind, no_node, no_room, no_usable_nodes
from leptonai.core.scheduler.room import Room
from leptonai.core.scheduler.values import (
    Gang,
    Place,
    Plan,
    Reason,
    Snapshot,
    Unmet,
    Wait,
    WaitCode,
)

BACKFILL_WINDOW_MS = 10 * 60 * 1000  # how long others may pass a gang for which there is no room
MAX_KEPT_SHAPES = 16  # of overdue gangs for which room is kept at the same time


def schedule(snapshot: Snapshot) -> Plan:
    """Decide every queued gang, most urgent first. Equal snapshots give equal plans.

    Larger priorities go first, then the longer queued, then the smaller id. A gang is placed whole
    or waits; those behind it may pass it into room it cannot use yet, until it has been queued
    for BACKFILL_WINDOW_MS. From then on nothing behind it gets room that it could use.

    So no gang starves: once it is overdue and the most urgent of those that wait, it starts at the
    latest when every job that ran then on the nodes it may use has ended. The bound holds as long
    as nothing more urgent arrives. What never ends by itself (`Holding.lasting`) is not waited for:
    a gang which fits only in its place keeps no room from others.
    """
    cluster = _Cluster(snapshot)
    places: list[Place] = []
    waits: list[Wait] = []
    blocked: dict[Shape, Reason] = {}  # room only shrinks: what did not fit will not fit later
    waiting: Counter[Shape] = Counter()
    examples: dict[Shape, Gang] = {}
    overdue_before = snapshot.now_ms - BACKFILL_WINDOW_MS
    for gang in sorted(snapshot.queue, key=_urgency):
        shape = shape_of(gang)
        because = blocked.get(shape)
        if because is None:
            place = cluster.place(gang)
            if place is not None:
                places.append(place)
                continue
            because = blocked[shape] = cluster.explain(gang)
            examples[shape] = gang
        if gang.queued_at_ms <= overdue_before:
            cluster.keep_room_for(gang, shape, because)
        waiting[shape] += 1
        waits.append(Wait(gang.id, because))
    return Plan(tuple(places), tuple(waits), _unmet(waiting, examples))


def _urgency(gang: Gang) -> tuple[int, int, str]:
    return -gang.priority, gang.queued_at_ms, gang.id


def _unmet(waiting: Counter[Shape], examples: dict[Shape, Gang]) -> tuple[Unmet, ...]:
    wanted: Counter[Needs] = Counter()
    for shape, gangs in waiting.items():
        for worker in examples[shape].workers:
            wanted[worker.needs] += gangs
    return tuple(Unmet(needs, count) for needs, count in wanted.items())


class _Cluster:
    """The nodes as they fill up while a plan is made."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._nodes = sorted(snapshot.nodes, key=lambda node: node.id)
        self._rooms = {node.id: Room(node) for node in self._nodes if node.schedulable}
        for holding in snapshot.holdings:
            if holding.node in self._rooms:
                self._rooms[holding.node].hold(holding)
        self._changed: list[Room] = []  # each time a room was changed
        self._candidates: dict[tuple[WorkerSize, frozenset[str], frozenset[str]], Candidates] = {}
        self._kept: dict[Shape, Gang] = {}

    def place(self, gang: Gang) -> Place | None:
        rooms = self._choose(gang)
        if rooms is None:
            return None
        now_ms = self._snapshot.now_ms
        assignments = tuple(
            room.place(worker, now_ms) for worker, room in zip(gang.workers, rooms, strict=True)
        )
        port = rooms[0].changing_port(gang.id, now_ms)
        self._changed += dict.fromkeys(rooms)
        return Place(gang.id, assignments, port)

    def explain(self, gang: Gang) -> Reason:
        """Why a gang could not be placed just now."""
        if not self._rooms:
            return no_usable_nodes(self._nodes)
        if (never := no_node(gang, self._nodes)) is not None:
            return never
        rooms = self._admitted(gang)
        if self._kept:
            without_keeping = fit(gang, [room.unkept() for room in rooms])
            for room in without_keeping or ():
                kept_for = self._rooms[room.view.id].kept_for
                if kept_for is not None:
                    return behind(kept_for[0])
        return no_room(gang, rooms, self._snapshot.holdings)

    def keep_room_for(self, gang: Gang, shape: Shape, because: Reason) -> None:
        """From now on, let nothing take room that an overdue gang could use."""
        if because.code not in (WaitCode.CAPACITY, WaitCode.BEHIND):
            return
        if shape in self._kept or len(self._kept) == MAX_KEPT_SHAPES:
            return
        self._kept[shape] = gang
        emptied = self._rooms_with_lasting_only(gang)
        if fit(gang, emptied) is None:
            return
        sizes = Counter(WorkerSize.of(worker) for worker in gang.workers)
        for room in emptied:
            amount = _at_most(sizes, room)
            if amount != Needs():
                self._rooms[room.view.id].keep(gang, amount)
                self._changed.append(self._rooms[room.view.id])

    def _choose(self, gang: Gang) -> list[Room] | None:
        size = equal_workers(gang)
        if size is None:
            return fit(gang, self._admitted(gang))
        key = (size, gang.allowed_nodes, gang.allowed_groups)
        candidates = self._candidates.get(key)
        if candidates is None:
            candidates = self._candidates[key] = Candidates(
                self._admitted(gang), size.needs, size.ports, seen=len(self._changed)
            )
        else:
            candidates.catch_up(self._changed)
        return candidates.choose(len(gang.workers))

    def _admitted(self, gang: Gang) -> list[Room]:
        if not gang.allowed_nodes and not gang.allowed_groups:
            return list(self._rooms.values())
        return [room for room in self._rooms.values() if gang.admits(room.view)]

    def _rooms_with_lasting_only(self, gang: Gang) -> Sequence[Room]:
        """The nodes as they will be when all that ends by itself has ended."""
        emptied = {room.view.id: Room(room.view) for room in self._admitted(gang)}
        for holding in self._snapshot.holdings:
            if holding.lasting and holding.node in emptied:
                emptied[holding.node].hold(holding)
        return list(emptied.values())


def _at_most(sizes: Counter[WorkerSize], room: Room) -> Needs:
    """What a gang could take of one node at most."""
    cpu_millis = memory_bytes = disk_bytes = gpus = 0
    for size, count in sizes.items():
        many = min(count, room.copies(size.needs, size.ports))
        cpu_millis += many * size.needs.cpu_millis
        memory_bytes += many * size.needs.memory_bytes
        disk_bytes += many * size.needs.disk_bytes
        gpus += many * size.needs.gpus
    return Needs(
        cpu_millis=max(0, min(cpu_millis, room.free.cpu_millis)),
        memory_bytes=max(0, min(memory_bytes, room.free.memory_bytes)),
        disk_bytes=max(0, min(disk_bytes, room.free.disk_bytes)),
        gpus=gpus,
    )
