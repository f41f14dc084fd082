"""The calendar of what is promised: which gang has which room, over time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import ceil, floor, log2

import numpy as np

from leptonai.core.resources import MILLIS
from leptonai.core.scheduler.columns import Floats, Ints
from leptonai.core.scheduler.elastic import Curve
from leptonai.core.scheduler.values import Gang, NodeView, Running, Snapshot, Worker

DAY_MS = 24 * 3_600_000
REMEMBERED_DAYS = 60  # of what was asked for
SIZES_PER_OCTAVE = 4  # how finely work is told apart by its size
SIZES = 64 * SIZES_PER_OCTAVE
FOREVER_MS = 1 << 60
MAX_OFFERS = 20  # gangs without a promise for which room is looked for at a time
ROUNDING_MS = 5  # set aside besides for an elastic gang: instants are whole milliseconds
MAX_ANEW = 4  # times that all promises are made anew, to mend some
MAX_TRIES = 4  # to say by when a refused gang could be done


# --- what is promised ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """A gang runs with so many workers from one instant up to another."""

    from_ms: int
    to_ms: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How much work with a deadline was asked for: by day and by the size of the gangs. Also what
    was refused: that runs, too."""

    first_ms: int | None = None
    day: int = 0  # of the last row
    gpu_ms: tuple[tuple[float, ...], ...] = ()  # by day, the last ones; by size

    def and_one(self, work: "Work", now_ms: int) -> "Arrivals":
        day = now_ms // DAY_MS
        first_ms = now_ms if self.first_ms is None else min(self.first_ms, now_ms)
        rows = list(self.gpu_ms) if self.first_ms is not None else [(0.0,) * SIZES]
        last = self.day if self.first_ms is not None else day
        for _ in range(min(max(0, day - last), REMEMBERED_DAYS)):
            rows.append((0.0,) * SIZES)
        today, size = list(rows[-1]), _size_class(work.size)
        today[size] += work.gpu_ms
        return Arrivals(
            first_ms=max(first_ms, (day - REMEMBERED_DAYS) * DAY_MS),
            day=max(day, last),
            gpu_ms=(*rows[-REMEMBERED_DAYS:-1], tuple(today)),
        )

    def smaller(self, work: "Work", now_ms: int) -> float:
        """GPUs that smaller gangs will take at any time before this one's deadline, if they come as
        they did so far; or as in a time as long as until the deadline, if that was more. At least a
        day is looked at: less would say little."""
        if self.first_ms is None:
            return 0.0
        by_day = np.array(self.gpu_ms)[:, : _size_class(work.size)].sum(axis=1)
        ahead_ms = max(DAY_MS, work.until_ms - now_ms)
        since = (now_ms - ahead_ms) / DAY_MS - (self.day - len(by_day) + 1)
        whole = max(0, floor(since))
        lately = by_day[whole:].sum()
        if since > 0 and whole < len(by_day):
            lately -= by_day[whole] * (since - whole)  # of that day, evenly
        ever = by_day.sum() / max(DAY_MS, now_ms - self.first_ms)
        return float(max(ever, lately / ahead_ms))


def _size_class(size: float) -> int:
    return min(SIZES - 1, max(0, int(log2(max(1.0, size)) * SIZES_PER_OCTAVE)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What is promised, as a value: what one call returns is passed to the next."""

    slots: Mapping[str, tuple[Slot, ...]] = field(default_factory=dict)  # by gang; in time's order
    arrivals: Arrivals = field(default_factory=Arrivals)


# --- how it is found -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What a gang has left to do, and what it needs for that."""

    gang: Gang
    curve: Curve
    left_ms: float  # at speed 1
    until_ms: int
    width: int  # of a worker: thousandths of a GPU, or of a core if it needs no GPU
    on_gpus: bool

    @classmethod
    def of(cls, gang: Gang, running: Running | None = None, now_ms: int = 0) -> "Work":
        curve = Curve.of(gang)
        left_ms = float(gang.remaining_ms or 0)
        if running is not None and running.started_at_ms is not None:
            left_ms -= (now_ms - running.started_at_ms) * curve.speed(len(running.held))
        gpus, cores = _width(gang.workers)
        return cls(
            gang,
            curve,
            max(1.0, left_ms),  # one that has run for longer than told is about to end
            gang.deadline.at_ms if gang.deadline else FOREVER_MS,
            gpus or max(1, cores),
            on_gpus=gpus > 0,
        )

    @property
    def gpu_ms(self) -> float:
        """With as many workers as use the machines best."""
        best = min(n / s for n, s in zip(self.curve.workers, self.curve.speeds, strict=True))
        return self.left_ms * best * self.width / MILLIS

    @property
    def size(self) -> float:
        """GPU time for each unit of value: where room is short, smaller is better."""
        value = self.gang.deadline.value if self.gang.deadline else 1.0
        return self.gpu_ms / max(value, 1e-9)

    @property
    def spare_ms(self) -> float:
        return ROUNDING_MS if len(self.curve.workers) > 1 else 0

    @property
    def fastest_ms(self) -> float:
        return self.left_ms / self.curve.speeds[-1]


class Room:
    """How much is free from each instant on, until the next."""

    def __init__(
        self, from_ms: int, free: int, taken: Iterable[tuple[Iterable[Slot], int]]
    ) -> None:
        change = {from_ms: free}
        for slots, width in taken:
            for slot in slots:
                if slot.to_ms > from_ms:
                    begins, amount = max(slot.from_ms, from_ms), slot.workers * width
                    change[begins] = change.get(begins, 0) - amount
                    change[slot.to_ms] = change.get(slot.to_ms, 0) + amount
        self.at_ms = sorted(change)
        self.free = list(accumulate(change[at] for at in self.at_ms))

    def take(self, slots: Iterable[Slot], width: int) -> None:
        """A negative width gives back."""
        for slot in slots:
            a, b = self._cut(max(slot.from_ms, self.at_ms[0])), self._cut(slot.to_ms)
            for k in range(a, b):
                self.free[k] -= slot.workers * width

    def least(self, from_ms: int, to_ms: int) -> int:
        a, b = bisect_right(self.at_ms, from_ms) - 1, bisect_left(self.at_ms, to_ms)
        return min(self.free[a:b])

    def until(self, end_ms: int) -> tuple[Ints, Ints]:
        """The instants up to an end, which is the last; and what is free between them."""
        many = bisect_left(self.at_ms, end_ms)
        at_ms = np.array([*self.at_ms[:many], end_ms], dtype=np.int64)
        return at_ms, np.array(self.free[:many], dtype=np.int64)

    def _cut(self, at_ms: int) -> int:
        k = bisect_left(self.at_ms, at_ms)
        if k == len(self.at_ms) or self.at_ms[k] != at_ms:
            self.at_ms.insert(k, at_ms)
            self.free.insert(k, self.free[k - 1])
        return k


class Calendar:
    """Who has which room, from now on. Changes while it is worked on, and is then forgotten."""

    def __init__(self, snapshot: Snapshot, promises: Promises, restart_ms: int) -> None:
        self.now_ms = snapshot.now_ms
        self.restart_ms = restart_ms
        self.arrivals = promises.arrivals
        self._nodes = [node for node in snapshot.nodes if node.schedulable]
        running = {r.gang.id: r for r in snapshot.running}
        self._works = {
            gang.id: Work.of(gang, running.get(gang.id), snapshot.now_ms)
            for gang in (*snapshot.queue, *(r.gang for r in snapshot.running))
            if gang.deadline is not None and gang.remaining_ms is not None
        }
        self._fixed = [
            (r, (Slot(self.now_ms, _ends_ms(r, self.now_ms), 1),), _held_width(r))
            for r in snapshot.running
            if r.lasting or not r.gang.preemptible
        ]
        self._stays = {r.gang.id for r, _, _ in self._fixed}
        self._rooms: dict[tuple[object, ...], Room] = {}
        self._nodes_of: dict[tuple[object, ...], frozenset[str]] = {}
        self.slots: dict[str, tuple[Slot, ...]] = {}
        for id, slots in promises.slots.items():
            if id in self._works and id not in self._stays:
                self.slots[id] = self._rest(self._works[id], slots)

    # --- following what happened ------------------------------------------------------------------

    def _rest(self, work: Work, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The last part of the slots that suffices for what is left."""
        left_ms = work.left_ms + work.spare_ms + self.restart_ms * len(slots)
        rest: list[Slot] = []
        for slot in reversed(slots):
            if left_ms <= 0 or slot.to_ms <= self.now_ms:
                break
            speed = work.curve.speed(slot.workers)
            from_ms = max(self.now_ms, slot.from_ms, floor(slot.to_ms - left_ms / speed))
            rest.append(Slot(from_ms, slot.to_ms, slot.workers))
            left_ms -= (slot.to_ms - from_ms) * speed
        return tuple(reversed(rest))

    def _suffice(self, work: Work, slots: tuple[Slot, ...]) -> bool:
        done = sum((slot.to_ms - slot.from_ms) * work.curve.speed(slot.workers) for slot in slots)
        return done >= work.left_ms

    def mend(self) -> None:
        """New room for every promise that lacks some."""
        broken = [
            self._works[id]
            for id, slots in self.slots.items()
            if not self._suffice(self._works[id], slots)
        ]
        for id, work in self._works.items():
            assert work.gang.deadline is not None
            if work.gang.deadline.hard and id not in self.slots and id not in self._stays:
                broken.append(work)
        if not broken and not self._overbooked():
            return
        if self._overbooked():  # machines have gone: whom the rest serves is found anew
            broken = [self._works[id] for id in {*self.slots, *(w.gang.id for w in broken)}]
            self.slots, self._rooms = {}, {}
        anew = MAX_ANEW
        for work in sorted(broken, key=_hardest_first):
            before = self.slots.pop(work.gang.id, ())
            self._book(work, before, -1)
            if self.promise(work, beside_smaller=False):
                continue
            if anew and self.promise_all_anew(work, beside_smaller=False):
                continue
            anew = max(0, anew - 1)
            if before:  # too little, but as much as there is
                self._take(work, before)

    def offer(self) -> None:
        """Room that is left, to gangs to whom nothing is promised."""
        without = [
            work
            for id, work in self._works.items()
            if id not in self.slots
            and id not in self._stays
            and self.now_ms + work.fastest_ms <= work.until_ms
        ]
        for work in sorted(without, key=lambda work: (work.size, work.gang.id))[:MAX_OFFERS]:
            self.promise(work)

    # --- finding room -----------------------------------------------------------------------------

    def promise(self, work: Work, *, beside_smaller: bool = True) -> bool:
        """Set room aside, if there is some besides what smaller gangs will need."""
        left_free = self._for_smaller(work) if beside_smaller else 0
        slots = self._find(work, left_free)
        if slots is None:
            return False
        self._take(work, slots)
        return True

    def promise_all_anew(self, work: Work, *, beside_smaller: bool = True) -> bool:
        """Room for all in the order of their deadlines, if that lets one more in."""
        if self.now_ms + work.fastest_ms > work.until_ms:
            return False
        before, rooms = self.slots, self._rooms
        left_free = self._for_smaller(work) if beside_smaller else 0
        self.slots, self._rooms = {}, {}
        promised = [self._works[id] for id in before if id != work.gang.id]
        for one in sorted([*promised, work], key=_hardest_first):
            slots = self._find(one, left_free if one is work else 0)
            if slots is None:
                self.slots, self._rooms = before, rooms
                return False
            self._take(one, slots)
        return True

    def earliest_ms(self, work: Work) -> int | None:
        """The first deadline that could be promised."""
        for _ in range(MAX_TRIES):
            done_ms = self._done_ms(work)
            if done_ms is None:
                return None
            later = replace(work, until_ms=max(done_ms, work.until_ms + 1))
            if self._find(later, self._for_smaller(later)) is not None:
                return later.until_ms
            work = later
        return None

    def _for_smaller(self, work: Work) -> int:
        return ceil(self.arrivals.smaller(work, self.now_ms) * MILLIS) if work.on_gpus else 0

    def _take(self, work: Work, slots: tuple[Slot, ...]) -> None:
        self.slots[work.gang.id] = slots
        self._works[work.gang.id] = work
        self._book(work, slots, 1)

    def _book(self, work: Work, slots: tuple[Slot, ...], sign: int) -> None:
        for key, room in self._rooms.items():
            if self._meet(work, self._nodes_of[key], on_gpus=bool(key[0])):
                room.take(slots, sign * work.width)

    def _find(self, work: Work, left_free: int) -> tuple[Slot, ...] | None:
        if self.now_ms + work.fastest_ms > work.until_ms:
            return None
        at_ms, free = self.room(work).until(work.until_ms)
        free = free - left_free
        if not work.gang.preemptible:
            return _one_slot(work, at_ms, free)
        slots: tuple[Slot, ...] | None = ()
        restarts = 0
        while slots is not None:
            left_ms = work.left_ms + restarts * self.restart_ms
            slots = _slots(work, at_ms, free, left_ms)
            if slots is None or not self.restart_ms or len(slots) <= restarts:
                break
            restarts = len(slots)
        return slots

    def _done_ms(self, work: Work) -> int | None:
        """When it would be done if it took all the room there is for it."""
        room = self.room(work)
        left_ms = work.left_ms + self.restart_ms
        at_ms, free = room.until(room.at_ms[-1] + 1)
        speeds = _by_workers(work, free - self._for_smaller(work))[1]
        done = np.concatenate([[0.0], np.cumsum(speeds * np.diff(at_ms))[:-1]])
        last = int(np.searchsorted(done, left_ms)) - 1
        left_ms -= float(done[last])
        if not speeds[last]:
            return None
        return int(at_ms[last]) + ceil(left_ms / float(speeds[last]))

    # --- machines ---------------------------------------------------------------------------------

    def room(self, work: Work) -> Room:
        """What is free of the nodes that a gang may use.

        Whoever may use one of these nodes counts as being there: so no two promises ever rely on
        the same room.
        """
        gang = work.gang
        affinity = (gang.allowed_nodes, gang.allowed_groups, gang.avoided_nodes)
        key = (work.on_gpus, work.width, gang.workers[0].needs.gpu_type, affinity)
        if key in self._rooms:
            return self._rooms[key]
        usable = [node for node in self._nodes if _usable(gang, node)]
        self._nodes_of[key] = names = frozenset(node.id for node in usable)
        whole = sum(_amount(node, work) // work.width * work.width for node in usable)
        self._rooms[key] = Room(self.now_ms, whole, self._taken(names, on_gpus=work.on_gpus))
        return self._rooms[key]

    def _taken(
        self, names: frozenset[str], *, on_gpus: bool
    ) -> Iterator[tuple[Iterable[Slot], int]]:
        for running, stay, (gpus, cores) in self._fixed:
            if any(to.node in names for _, to in running.held):
                yield stay, gpus if on_gpus else cores
        for id, slots in self.slots.items():
            if self._meet(self._works[id], names, on_gpus=on_gpus):
                yield slots, self._works[id].width

    def _meet(self, work: Work, names: frozenset[str], *, on_gpus: bool) -> bool:
        if work.on_gpus is not on_gpus:
            return False
        gang = work.gang
        if not (gang.allowed_nodes or gang.allowed_groups or gang.workers[0].needs.gpu_type):
            return True
        return any(node.id in names and _usable(gang, node) for node in self._nodes)

    def _overbooked(self) -> bool:
        for id in self.slots:
            self.room(self._works[id])
        return any(min(room.free) < 0 for room in self._rooms.values())


def _hardest_first(work: Work) -> tuple[bool, bool, int, str]:
    """What cannot be cut up into slots; then gangs of fixed size, the latest deadline first, as
    they get room from their ends back; then elastic ones, which reach back until now, the earliest
    deadline first."""
    elastic = len(work.curve.workers) > 1
    until_ms = work.until_ms if elastic else -work.until_ms
    return work.gang.preemptible, elastic, until_ms, work.gang.id


def _slots(work: Work, at_ms: Ints, free: Ints, left_ms: float) -> tuple[Slot, ...] | None:
    """The fewest workers that suffice, and as late as that allows: up to some instant with one step
    less (for a gang of fixed size: not at all), from then on with these."""
    length = np.diff(at_ms).astype(np.float64)
    curve = work.curve
    low, high = 0, len(curve.workers) - 1
    most = float(_by_workers(work, free, high)[1] @ length)
    if most < left_ms:
        return None
    if most < left_ms + work.spare_ms:
        left_ms = min(left_ms, most * (1 - 1e-12))  # sums differ by their order
    else:
        left_ms += work.spare_ms
    while low < high:
        middle = (low + high) // 2
        if float(_by_workers(work, free, middle)[1] @ length) >= left_ms:
            high = middle
        else:
            low = middle + 1
    more, fast = _by_workers(work, free, high)
    fewer, slow = _by_workers(work, free, high - 1)
    from_here = np.cumsum((fast * length)[::-1])[::-1]  # if it has more from this segment on …
    up_to_here = np.concatenate([[0.0], np.cumsum(slow * length)])  # … and fewer before it
    k = int(np.flatnonzero(up_to_here[:-1] + from_here >= left_ms)[-1])
    change_ms = int(at_ms[k + 1])
    if (gained := fast[k] - slow[k]) > 0:
        over = up_to_here[k] + from_here[k] - left_ms
        change_ms = min(change_ms, int(at_ms[k]) + floor(over / gained))
    slots: list[Slot] = []
    edges = [*at_ms[: k + 1].tolist(), change_ms, *at_ms[k + 1 :].tolist()]
    counts = [*fewer[: k + 1].tolist(), *more[k:].tolist()]
    for from_ms, to_ms, many in zip(edges[:-1], edges[1:], counts, strict=True):
        if not many or from_ms == to_ms:
            continue
        if slots and slots[-1].to_ms == from_ms and slots[-1].workers == many:
            from_ms = slots.pop().from_ms
        slots.append(Slot(from_ms, to_ms, many))
    return tuple(slots)


def _one_slot(work: Work, at_ms: Ints, free: Ints) -> tuple[Slot, ...] | None:
    """The same for a gang that nothing may interrupt or resize."""
    for many, speed in zip(work.curve.workers, work.curve.speeds, strict=True):
        takes_ms = ceil(work.left_ms / speed)
        to_ms = int(at_ms[-1])
        for k in range(len(free) - 1, -1, -1):
            if free[k] < many * work.width:
                to_ms = int(at_ms[k])
            elif to_ms - int(at_ms[k]) >= takes_ms:
                return (Slot(to_ms - takes_ms, to_ms, many),)
    return None


def _by_workers(work: Work, free: Ints, most: int | None = None) -> tuple[Ints, Floats]:
    """How many workers it can have where so much is free, and how fast it is then.

    Args:
        most: the index of the most workers it takes, in its curve; -1: none.
    """
    workers = np.array((0, *work.curve.workers), dtype=np.int64)
    speeds = np.array((0.0, *work.curve.speeds))
    fits = np.searchsorted(workers * work.width, free, side="right") - 1
    fits = np.clip(fits, 0, len(workers) - 1 if most is None else most + 1)
    return workers[fits], speeds[fits]


def _width(workers: Sequence[Worker]) -> tuple[int, int]:
    """Of one of them, on average and rounded up: GPU and core thousandths."""
    gpus = cores = 0
    for worker in workers:
        gpus += worker.needs.gpus * worker.needs.gpu_millis
        cores += worker.needs.cpu_millis
    return -(-gpus // len(workers)), -(-cores // len(workers))


def _usable(gang: Gang, node: NodeView) -> bool:
    needs = gang.workers[0].needs
    return gang.admits(node) and (not needs.gpus or needs.takes_gpu(node.capacity.gpu_type))


def _amount(node: NodeView, work: Work) -> int:
    return node.capacity.gpus * MILLIS if work.on_gpus else node.capacity.cpu_millis


def _held_width(running: Running) -> tuple[int, int]:
    """GPU and core thousandths."""
    needs = [worker.needs for worker, _ in running.held]
    return sum(n.gpus * n.gpu_millis for n in needs), sum(n.cpu_millis for n in needs)


def _ends_ms(running: Running, now_ms: int) -> int:
    gang = running.gang
    if running.lasting or gang.remaining_ms is None:
        return FOREVER_MS
    return now_ms + ceil(Work.of(gang, running, now_ms).left_ms)
