"""Deadlines: what can be promised, and who must run now so that every promise is kept.

A promise is room in a calendar, GPUs over time, that suffices for what a gang has left. `admit`
finds such room as late as possible before the deadline, or says by when there is some; `renew`
follows what has happened since; `due` says who must run now. Until a gang is due it runs only
where it comes by its rank, so short work flows past it; from then on it goes first. So a promise
holds as long as durations are no longer than told, machines do not fail and nothing of higher
priority comes, and what runs early only gives room back.

A large gang's promise could cost many small gangs theirs. So room is left for the smaller ones that
are still to come: as much as they took of late (see `Arrivals`).

An elastic gang is promised the fewest workers that suffice, as in Gu et al., "ElasticFlow: An
Elastic Serverless Training Platform for Distributed Deep Learning", ASPLOS 2023.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import ceil, floor, log2

import numpy as np
from numpy.typing import NDArray

from leptonai.core.resources import MILLIS
from leptonai.core.scheduler.elastic import Curve
from leptonai.core.scheduler.index import Change, Index
from leptonai.core.scheduler.values import Gang, NodeView, Reason, Running, Snapshot, WaitCode

DAY_MS = 24 * 3_600_000
REMEMBERED_DAYS = 60  # of what was asked for
SIZES_PER_OCTAVE = 4  # how finely work is told apart by its size
SIZES = 64 * SIZES_PER_OCTAVE
FOREVER_MS = 1 << 60
MAX_OFFERS = 20  # gangs without a promise for which room is looked for at a time
ROUNDING_MS = 5  # set aside besides: instants are whole milliseconds
MAX_TRIES = 4  # to say by when a refused gang could be done

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# --- what is promised ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """A gang runs with so many workers from one instant up to another."""

    from_ms: int
    to_ms: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How much work with a deadline was asked for: by day and by the size of the gangs."""

    first_ms: int | None = None
    day: int = 0  # of the last row
    gpu_ms: tuple[tuple[float, ...], ...] = ()  # by day, the last ones; by size

    def and_one(self, work: "_Work", now_ms: int) -> "Arrivals":
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

    def smaller(self, work: "_Work", now_ms: int) -> float:
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


@dataclass(frozen=True, slots=True)
class Admitted:
    """The deadline can be met, and room for that is set aside."""

    promises: Promises


@dataclass(frozen=True, slots=True)
class Refused:
    """The deadline is not promised; the gang may still meet it, behind those to whom it is."""

    earliest_ms: int | None  # a deadline that could be promised now; None: no one
    because: Reason
    promises: Promises  # remembers that it was asked


# --- what is decided -----------------------------------------------------------------------------


def admit(
    snapshot: Snapshot, gang: Gang, promises: Promises, *, restart_ms: int = 0
) -> Admitted | Refused:
    """Whether the deadline of a gang that has just been submitted can be promised.

    Args:
        promises: renewed for this snapshot.
        restart_ms: what a gang loses each time it stops and starts again.
    """
    assert gang.deadline is not None, gang.id
    if gang.remaining_ms is None:
        text = "its deadline cannot be promised without an estimate of how long it runs"
        return Refused(None, Reason(WaitCode.DEADLINE, text), promises)
    calendar = _Calendar(snapshot, promises, restart_ms)
    work = _Work.of(gang)
    promises = replace(promises, arrivals=promises.arrivals.and_one(work, snapshot.now_ms))
    calendar.arrivals = promises.arrivals
    if calendar.promise(work) or calendar.promise_all_anew(work):
        return Admitted(replace(promises, slots=calendar.slots))
    earliest_ms = calendar.earliest_ms(work)
    return Refused(earliest_ms, _too_late(work, earliest_ms, snapshot.now_ms, calendar), promises)


def renew(snapshot: Snapshot, promises: Promises, *, restart_ms: int = 0) -> Promises:
    """The promises as they stand now: those kept are dropped, work that is done gives its room
    back, and the others get new room where machines have gone, or work takes longer than told.

    Room that is left goes to gangs that were refused, or whose deadline is soft, smallest first.
    Where promises are missing (a first call), all hard deadlines are promised as far as possible.
    """
    calendar = _Calendar(snapshot, promises, restart_ms)
    calendar.mend()
    calendar.offer()
    return replace(promises, slots=calendar.slots)


def due(promises: Promises, by_ms: int) -> dict[str, Slot]:
    """The gangs that must run by then, and the slot each must have, in the order they need it.

    Those whose slots have begun fit together, always. A gang that is due soon and runs had better
    go on: it would only come back.
    """
    firsts = ((id, slots[0]) for id, slots in promises.slots.items() if slots)
    soon = [(id, slot) for id, slot in firsts if slot.from_ms <= by_ms]
    return dict(sorted(soon, key=lambda item: (item[1].from_ms, item[0])))


def next_due_ms(promises: Promises, now_ms: int, has: Mapping[str, int]) -> int | None:
    """When the next gang becomes due that does not run by then, or with too few workers.

    Args:
        has: the workers of each gang that runs.
    """
    return min(
        (
            slot.from_ms
            for id, slots in promises.slots.items()
            for slot in slots
            if slot.from_ms > now_ms and slot.workers > has.get(id, 0)
        ),
        default=None,
    )


def due_from_ms(promises: Promises, gang_id: str) -> int | None:
    """From when on a gang goes before all others of its priority; None: nothing is promised."""
    slots = promises.slots.get(gang_id)
    return slots[0].from_ms if slots else None


def keep(
    index: Index, promises: Promises, now_ms: int, *, restart_ms: int = 0
) -> tuple[Promises, Change]:
    """The promises renewed, and what the index has to be told before the next decision: who is due
    from when on, and who cannot meet its deadline any more."""
    promises = renew(snapshot_of(index, now_ms), promises, restart_ms=restart_ms)
    queued, running = [], []
    for id in sorted(index.dated):
        runs = index.running.get(id)
        gang = runs.gang if runs is not None else index.waiting[id]
        assert gang.deadline is not None
        ran_ms = now_ms - (runs.started_at_ms or now_ms) if runs is not None else 0
        deadline = replace(
            gang.deadline,
            due_from_ms=due_from_ms(promises, id),
            lost=not can_be_met(gang, now_ms, ran_ms),
        )
        if deadline != gang.deadline:
            gang = replace(gang, deadline=deadline)
            if runs is not None:
                running.append(replace(runs, gang=gang))
            else:
                queued.append(gang)
    return promises, Change(queued=tuple(queued), running=tuple(running))


def snapshot_of(index: Index, now_ms: int) -> Snapshot:
    """As much of an index as deadlines are decided by."""
    dated = [index.running.get(id) or index.waiting[id] for id in sorted(index.dated)]
    staying = [r for id, r in index.running.items() if id not in index.dated]
    return Snapshot(
        now_ms=now_ms,
        nodes=index.nodes.views,
        running=(*staying, *(one for one in dated if isinstance(one, Running))),
        queue=tuple(one for one in dated if isinstance(one, Gang)),
    )


def leaves_promises(
    snapshot: Snapshot, gang: Gang, promises: Promises, *, restart_ms: int = 0
) -> bool:
    """Whether a gang that will not yield may start now: promised room stays free, all the while it
    runs; for ever, if nobody knows how long that is."""
    calendar = _Calendar(snapshot, promises, restart_ms)
    work = _Work.of(gang)
    now_ms = snapshot.now_ms
    least = work.curve.workers[0]
    ends_ms = FOREVER_MS
    if gang.remaining_ms is not None:
        ends_ms = now_ms + ceil(work.left_ms / work.curve.speeds[0])
    return calendar.room(work).least(now_ms, ends_ms) >= least * work.width


def can_be_met(gang: Gang, now_ms: int, ran_ms: int = 0) -> bool:
    """Whether a gang could meet its deadline if it ran from now on with its best number of workers.

    Where deadlines matter, those that can go before those that cannot any more. A gang without a
    deadline, or without an estimate, can.
    """
    if gang.deadline is None or gang.remaining_ms is None:
        return True
    left_ms = max(0, gang.remaining_ms - ran_ms) / Curve.of(gang).speeds[-1]
    return now_ms + left_ms <= gang.deadline.at_ms


# --- how it is found -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """What a gang has left to do, and what it needs for that."""

    gang: Gang
    curve: Curve
    left_ms: float  # at speed 1
    until_ms: int
    width: int  # of a worker: thousandths of a GPU, or of a core if it needs no GPU
    runs_with: int = 0  # workers

    @classmethod
    def of(cls, gang: Gang, running: Running | None = None, now_ms: int = 0) -> "_Work":
        curve = Curve.of(gang)
        left_ms, runs_with = float(gang.remaining_ms or 0), 0
        if running is not None and running.started_at_ms is not None:
            runs_with = len(running.held)
            left_ms -= (now_ms - running.started_at_ms) * curve.speed(runs_with)
        widths = [w.needs.gpus * w.needs.gpu_millis for w in gang.workers]
        if not any(widths):
            widths = [w.needs.cpu_millis for w in gang.workers]
        return cls(
            gang,
            curve,
            max(1.0, left_ms),  # one that has run for longer than told is about to end
            gang.deadline.at_ms if gang.deadline else FOREVER_MS,
            max(1, ceil(sum(widths) / len(widths))),
            runs_with,
        )

    @property
    def on_gpus(self) -> bool:
        return any(worker.needs.gpus for worker in self.gang.workers)

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
    def fastest_ms(self) -> float:
        return self.left_ms / self.curve.speeds[-1]

    @property
    def order(self) -> tuple[int, str]:
        return self.until_ms, self.gang.id


class _Room:
    """How much is free from each instant on, until the next."""

    def __init__(self, from_ms: int, free: int, taken: Iterable[tuple[Iterable[Slot], int]]) -> None:
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


class _Calendar:
    """Who has which room, from now on. Changes while it is worked on, and is then forgotten."""

    def __init__(self, snapshot: Snapshot, promises: Promises, restart_ms: int) -> None:
        self.now_ms = snapshot.now_ms
        self.restart_ms = restart_ms
        self.arrivals = promises.arrivals
        self._nodes = [node for node in snapshot.nodes if node.schedulable]
        running = {r.gang.id: r for r in snapshot.running}
        self._works = {
            gang.id: _Work.of(gang, running.get(gang.id), snapshot.now_ms)
            for gang in (*snapshot.queue, *(r.gang for r in snapshot.running))
            if gang.deadline is not None and gang.remaining_ms is not None
        }
        self._fixed = [
            (r, (Slot(self.now_ms, _ends_ms(r, self.now_ms), 1),), _held_width(r))
            for r in snapshot.running
            if r.lasting or not r.gang.preemptible
        ]
        self._stays = {r.gang.id for r, _, _ in self._fixed}
        self._rooms: dict[tuple[object, ...], _Room] = {}
        self._nodes_of: dict[tuple[object, ...], frozenset[str]] = {}
        self.slots: dict[str, tuple[Slot, ...]] = {}
        for id, slots in promises.slots.items():
            if id in self._works and id not in self._stays:
                self.slots[id] = self._rest(self._works[id], slots)

    # --- following what happened ------------------------------------------------------------------

    def _rest(self, work: _Work, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The last part of the slots that suffices for what is left."""
        left_ms = work.left_ms + self.restart_ms * len(slots) + ROUNDING_MS
        rest: list[Slot] = []
        for slot in reversed(slots):
            if left_ms <= 0 or slot.to_ms <= self.now_ms:
                break
            speed = work.curve.speed(slot.workers)
            from_ms = max(self.now_ms, slot.from_ms, floor(slot.to_ms - left_ms / speed))
            rest.append(replace(slot, from_ms=from_ms))
            left_ms -= (slot.to_ms - from_ms) * speed
        return tuple(reversed(rest))

    def _suffice(self, work: _Work, slots: tuple[Slot, ...]) -> bool:
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
        for work in sorted(broken, key=lambda work: work.order):
            before = self.slots.get(work.gang.id, ())
            self._book(work, before, -1)
            if not self.promise(work, beside_smaller=False) and not self.promise_all_anew(work):
                self._book(work, before, 1)  # too late, but as early as can be

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

    def promise(self, work: _Work, *, beside_smaller: bool = True) -> bool:
        """Set room aside, if there is some besides what smaller gangs will need."""
        left_free = self._for_smaller(work) if beside_smaller else 0
        slots = self._find(work, left_free)
        if slots is None:
            return False
        self._take(work, slots)
        return True

    def promise_all_anew(self, work: _Work) -> bool:
        """Room for all in the order of their deadlines, if that lets one more in."""
        if self.now_ms + work.fastest_ms > work.until_ms:
            return False
        before, rooms = self.slots, self._rooms
        left_free = self._for_smaller(work)
        self.slots, self._rooms = {}, {}
        promised = [self._works[id] for id in before if id != work.gang.id]
        # What cannot be cut up into slots is placed first, then the latest deadline: room is
        # given from the end.
        for one in sorted([*promised, work], key=self._latest_first):
            slots = self._find(one, left_free if one is work else 0)
            if slots is None:
                self.slots, self._rooms = before, rooms
                return False
            self._take(one, slots)
        return True

    def earliest_ms(self, work: _Work) -> int | None:
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

    def _latest_first(self, work: _Work) -> tuple[bool, int, str]:
        elastic = len(work.curve.workers) > 1
        return work.gang.preemptible, work.until_ms if elastic else -work.until_ms, work.gang.id

    def _for_smaller(self, work: _Work) -> int:
        return ceil(self.arrivals.smaller(work, self.now_ms) * MILLIS) if work.on_gpus else 0

    def _take(self, work: _Work, slots: tuple[Slot, ...]) -> None:
        self.slots[work.gang.id] = slots
        self._works[work.gang.id] = work
        self._book(work, slots, 1)

    def _book(self, work: _Work, slots: tuple[Slot, ...], sign: int) -> None:
        for key, room in self._rooms.items():
            if self._meet(work, self._nodes_of[key], on_gpus=bool(key[0])):
                room.take(slots, sign * work.width)

    def _find(self, work: _Work, left_free: int) -> tuple[Slot, ...] | None:
        if self.now_ms + work.fastest_ms > work.until_ms:
            return None
        at_ms, free = self.room(work).until(work.until_ms)
        free = free - left_free
        if not work.gang.preemptible:
            return _one_slot(work, at_ms, free)
        slots: tuple[Slot, ...] | None = ()
        restarts = 0
        while slots is not None:
            left_ms = work.left_ms + restarts * self.restart_ms + ROUNDING_MS
            slots = _slots(work, at_ms, free, left_ms)
            if slots is None or not self.restart_ms or len(slots) <= restarts:
                break
            restarts = len(slots)
        return slots

    def _done_ms(self, work: _Work) -> int | None:
        """When it would be done if it took all the room there is for it."""
        room = self.room(work)
        left_ms = work.left_ms + self.restart_ms + ROUNDING_MS
        at_ms, free = room.until(room.at_ms[-1] + 1)
        speeds = _by_workers(work, free - self._for_smaller(work))[1]
        done = np.concatenate([[0.0], np.cumsum(speeds * np.diff(at_ms))[:-1]])
        last = int(np.searchsorted(done, left_ms)) - 1
        left_ms -= done[last]
        if not speeds[last]:
            return None
        return int(at_ms[last]) + ceil(left_ms / speeds[last])

    # --- machines ---------------------------------------------------------------------------------

    def room(self, work: _Work) -> _Room:
        """What is free of the nodes that a gang may use.

        Whoever may use one of these nodes counts as being there: so no two promises ever rely on
        the same room.
        """
        gang = work.gang
        key = (work.on_gpus, work.width, gang.workers[0].needs.gpu_type, gang.allowed_nodes)
        key += (gang.allowed_groups, gang.avoided_nodes)
        if key in self._rooms:
            return self._rooms[key]
        usable = [node for node in self._nodes if _usable(gang, node)]
        self._nodes_of[key] = names = frozenset(node.id for node in usable)
        whole = sum(_amount(node, work) // work.width * work.width for node in usable)
        self._rooms[key] = _Room(self.now_ms, whole, self._taken(names, on_gpus=work.on_gpus))
        return self._rooms[key]

    def _taken(
        self, names: frozenset[str], *, on_gpus: bool
    ) -> Iterator[tuple[Iterable[Slot], int]]:
        for running, slots, (gpus, cores) in self._fixed:
            if any(to.node in names for _, to in running.held):
                yield slots, gpus if on_gpus else cores
        for id, slots in self.slots.items():
            if self._meet(self._works[id], names, on_gpus=on_gpus):
                yield slots, self._works[id].width

    def _meet(self, work: _Work, names: frozenset[str], *, on_gpus: bool) -> bool:
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


def _slots(work: _Work, at_ms: Ints, free: Ints, left_ms: float) -> tuple[Slot, ...] | None:
    """The fewest workers that suffice, and as late as that allows: up to some instant with one step
    less (for a gang of fixed size: not at all), from then on with these."""
    length = np.diff(at_ms).astype(np.float64)
    curve = work.curve
    low, high = 0, len(curve.workers) - 1
    if float(_by_workers(work, free, high)[1] @ length) < left_ms:
        return None
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


def _one_slot(work: _Work, at_ms: Ints, free: Ints) -> tuple[Slot, ...] | None:
    """The same for a gang that nothing may interrupt or resize."""
    for many, speed in zip(work.curve.workers, work.curve.speeds, strict=True):
        takes_ms = ceil(work.left_ms / speed) + ROUNDING_MS
        to_ms = int(at_ms[-1])
        for k in range(len(free) - 1, -1, -1):
            if free[k] < many * work.width:
                to_ms = int(at_ms[k])
            elif to_ms - int(at_ms[k]) >= takes_ms:
                return (Slot(to_ms - takes_ms, to_ms, many),)
    return None


def _by_workers(work: _Work, free: Ints, most: int | None = None) -> tuple[Ints, Floats]:
    """How many workers it can have where so much is free, and how fast it is then.

    Args:
        most: the index of the most workers it takes, in its curve; -1: none.
    """
    workers = np.array((0, *work.curve.workers), dtype=np.int64)
    speeds = np.array((0.0, *work.curve.speeds))
    fits = np.searchsorted(workers * work.width, free, side="right") - 1
    fits = np.clip(fits, 0, len(workers) - 1 if most is None else most + 1)
    return workers[fits], speeds[fits]


def _usable(gang: Gang, node: NodeView) -> bool:
    needs = gang.workers[0].needs
    return gang.admits(node) and (not needs.gpus or needs.takes_gpu(node.capacity.gpu_type))


def _amount(node: NodeView, work: _Work) -> int:
    return node.capacity.gpus * MILLIS if work.on_gpus else node.capacity.cpu_millis


def _held_width(running: Running) -> tuple[int, int]:
    """GPU and core thousandths."""
    needs = [worker.needs for worker, _ in running.held]
    return sum(n.gpus * n.gpu_millis for n in needs), sum(n.cpu_millis for n in needs)


def _ends_ms(running: Running, now_ms: int) -> int:
    gang = running.gang
    if running.lasting or gang.remaining_ms is None:
        return FOREVER_MS
    return now_ms + ceil(_Work.of(gang, running, now_ms).left_ms)


def _too_late(work: _Work, earliest_ms: int | None, now_ms: int, calendar: _Calendar) -> Reason:
    shortest_ms = ceil(work.fastest_ms)
    data: dict[str, float | int | str | list[str]] = {
        "deadline_ms": work.until_ms,
        "takes_ms": shortest_ms,
    }
    if now_ms + shortest_ms > work.until_ms:
        text = "it takes longer than until its deadline, even if it starts at once"
    else:
        others = sorted(calendar.slots, key=lambda id: calendar.slots[id][0].from_ms)
        data["promised_to"] = others[:10]
        text = (
            f"until its deadline the room is promised to {len(others)} others, or is left for"
            " smaller ones that are to come"
        )
    if earliest_ms is not None:
        data["earliest_ms"] = earliest_ms
    return Reason(WaitCode.DEADLINE, text, data)
