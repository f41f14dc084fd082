"""Which nodes a gang goes to: all its workers or none."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leptonai.core.resources import Free, Needs
from leptonai.core.scheduler.room import Room, copies
from leptonai.core.scheduler.values import Gang, Worker

SEARCH_STEPS = 5_000  # for a gang of unequal workers, before it is said not to fit


@dataclass(frozen=True, slots=True)
class WorkerSize:
    """What placing a worker depends on."""

    needs: Needs
    ports: int

    @classmethod
    def of(cls, worker: Worker) -> "WorkerSize":
        return cls(worker.needs, len(worker.ports))


# What placing a gang depends on: two gangs of one shape fit at the same places or both nowhere.
Shape = tuple[object, ...]


def shape_of(gang: Gang) -> Shape:
    workers = gang.workers
    if len(workers) == 1:  # what a queue of ten thousand mostly holds
        worker = workers[0]
        return (worker.needs, len(worker.ports), gang.allowed_nodes, gang.allowed_groups)
    sizes = tuple((worker.needs, len(worker.ports)) for worker in workers)
    return (sizes, gang.allowed_nodes, gang.allowed_groups)


def equal_workers(gang: Gang) -> WorkerSize | None:
    """The size that all its workers have, if it is one."""
    first = WorkerSize.of(gang.workers[0])
    return first if all(WorkerSize.of(worker) == first for worker in gang.workers[1:]) else None


def fit(gang: Gang, rooms: Sequence[Room]) -> list[Room] | None:
    """A node for each worker, or None if the gang does not fit on these nodes.

    None is certain for equal workers. For unequal ones it may also mean that none was found within
    SEARCH_STEPS.
    """
    size = equal_workers(gang)
    if size is not None:
        return Candidates(rooms, size.needs, size.ports).choose(len(gang.workers))
    return _fit_unequal(gang.workers, rooms)


class Candidates:
    """The nodes where workers of one shape fit now, best fit first.

    Best is where the fewest free GPUs, then the fewest further such workers would be left over: so
    large holes stay large, and work without GPUs keeps away from them. Ties go to the smaller id.
    """

    def __init__(self, rooms: Sequence[Room], needs: Needs, ports: int, seen: int = 0) -> None:
        self._rooms = {room.view.id: room for room in rooms}
        self._needs, self._ports = needs, ports
        self._entries: dict[str, tuple[int, int, str]] = {}  # (free GPU millis, copies, node)
        self._seen = seen  # how much of the log of changed rooms is accounted for
        for room in rooms:
            if (entry := self._entry(room)) is not None:
                self._entries[room.view.id] = entry
        self._order = sorted(self._entries.values())

    def catch_up(self, changed: Sequence[Room]) -> None:
        """Account for the rooms that changed since."""
        for room in changed[self._seen :]:
            if room.view.id not in self._rooms:
                continue
            old, new = self._entries.pop(room.view.id, None), self._entry(room)
            if old is not None:
                del self._order[bisect_left(self._order, old)]
            if new is not None:
                self._entries[room.view.id] = new
                insort(self._order, new)
        self._seen = len(changed)

    @property
    def total(self) -> int:
        return sum(many for _, many, _ in self._order)

    def choose(self, workers: int) -> list[Room] | None:
        """A node for each of so many equal workers: the best one that holds them all, else as few
        as possible; None exactly if they do not fit."""
        one = next((node for _, many, node in self._order if many >= workers), None)
        if one is not None:
            return [self._rooms[one]] * workers
        if self.total < workers:
            return None
        chosen: list[Room] = []
        roomiest_first = sorted(self._order, key=lambda entry: (-entry[1], entry[0], entry[2]))
        for at, (_, many, node) in enumerate(roomiest_first):
            left = workers - len(chosen)
            if many >= left:  # the last node: the best fit among those not yet used
                _, _, node = min(entry for entry in roomiest_first[at:] if entry[1] >= left)
                return chosen + [self._rooms[node]] * left
            chosen += [self._rooms[node]] * many
        return None  # not reached: the total suffices

    def _entry(self, room: Room) -> tuple[int, int, str] | None:
        many = room.copies(self._needs, self._ports)
        return (sum(room.free.gpu_millis), many, room.view.id) if many else None


def _fit_unequal(workers: Sequence[Worker], rooms: Sequence[Room]) -> list[Room] | None:
    """On one node if possible; else the largest worker first, on a node that the gang already uses,
    else on the roomiest one; with a bounded search through the other choices."""
    alone = Counter(WorkerSize.of(worker) for worker in workers)
    usable = [room for room in rooms if any(room.copies(size.needs, size.ports) for size in alone)]
    order = sorted(range(len(workers)), key=lambda at: (_size(workers[at].needs, usable), at))
    order.reverse()
    largest_first = [workers[at] for at in order]
    for room in sorted(usable, key=_fullest_first):
        if _search(largest_first, [room], steps=len(workers) + 1):
            return [room] * len(workers)
    if (found := _search(largest_first, usable, steps=SEARCH_STEPS)) is None:
        return None
    by_worker = dict(zip(order, found, strict=True))
    return [by_worker[at] for at in range(len(workers))]


def _fullest_first(room: Room) -> tuple[int, int, int, str]:
    free = room.open
    return sum(free.gpu_millis), free.cpu_millis, free.memory_bytes, room.view.id


def _size(needs: Needs, rooms: Sequence[Room]) -> float:
    """The largest share of what is free that it takes of any resource."""

    def share(amount: int, free: int) -> float:
        return amount / free if amount and free else float(bool(amount))

    return max(
        share(needs.cpu_millis, sum(max(0, room.open.cpu_millis) for room in rooms)),
        share(needs.memory_bytes, sum(max(0, room.open.memory_bytes) for room in rooms)),
        share(needs.disk_bytes, sum(max(0, room.open.disk_bytes) for room in rooms)),
        share(needs.gpus * needs.gpu_millis, sum(sum(room.open.gpu_millis) for room in rooms)),
    )


class _Trial:
    """What would be left of the rooms after some workers of a gang took theirs."""

    def __init__(self, rooms: Sequence[Room]) -> None:
        self.rooms = {room.view.id: room for room in rooms}
        self.left: dict[str, tuple[Free, int]] = {  # and the ports that are left
            room.view.id: (room.open, room.free_ports - 1) for room in rooms
        }

    def nodes_for(self, worker: Worker, used: set[str]) -> Iterator[str]:
        """Those where it fits; of nodes that are alike now, one is as good as the others."""
        alike: set[tuple[Free, int, bool]] = set()
        ranked: list[tuple[bool, int, str]] = []
        for node, (free, ports) in self.left.items():
            kind = (free, ports, node in used)
            if kind in alike or len(worker.ports) > ports:
                continue
            alike.add(kind)
            if many := copies(free, worker.needs):
                ranked.append((node not in used, -many, node))
        return iter([node for _, _, node in sorted(ranked)])

    def take(self, node: str, worker: Worker) -> None:
        free, ports = self.left[node]
        gpus = free.choose_gpus(worker.needs)
        assert gpus is not None
        self.left[node] = (free.take(worker.needs, gpus), ports - len(worker.ports))


def _search(workers: Sequence[Worker], rooms: Sequence[Room], *, steps: int) -> list[Room] | None:
    """Depth first; its first descent is the greedy answer."""
    trial = _Trial(rooms)
    taken: list[tuple[str, tuple[Free, int]]] = []  # by worker: its node, and that node before
    choices = [trial.nodes_for(workers[0], set())]  # by worker: the nodes not yet tried
    while choices:
        node = next(choices[-1], None)
        if node is None:
            choices.pop()
            if taken:
                node, before = taken.pop()
                trial.left[node] = before
            continue
        if steps == 0:
            return None
        steps -= 1
        taken.append((node, trial.left[node]))
        trial.take(node, workers[len(taken) - 1])
        if len(taken) == len(workers):
            return [trial.rooms[node] for node, _ in taken]
        choices.append(trial.nodes_for(workers[len(taken)], {node for node, _ in taken}))
    return None
