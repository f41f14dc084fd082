"""The calendar of what is promised: room is found in it, taken and mended."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import ceil, floor

import numpy as np

from leptonai.core.resources import MILLIS
from leptonai.core.scheduler.promises import FOREVER_MS, Promises, Slot, Work
from leptonai.core.scheduler.slots import Room, by_workers, one_slot_for, slots_for
from leptonai.core.scheduler.values import Gang, NodeView, Running, Snapshot

MAX_OFFERS = 20  # gangs without a promise for which room is looked for at a time
MAX_ANEW = 4  # times that all promises are made anew, to mend some
MAX_TRIES = 4  # to say by when a refused gang could be done


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
            return one_slot_for(work, at_ms, free)
        slots: tuple[Slot, ...] | None = ()
        restarts = 0
        while slots is not None:
            left_ms = work.left_ms + restarts * self.restart_ms
            slots = slots_for(work, at_ms, free, left_ms)
            if slots is None or not self.restart_ms or len(slots) <= restarts:
                break
            restarts = len(slots)
        return slots

    def _done_ms(self, work: Work) -> int | None:
        """When it would be done if it took all the room there is for it."""
        room = self.room(work)
        left_ms = work.left_ms + self.restart_ms
        at_ms, free = room.until(room.at_ms[-1] + 1)
        speeds = by_workers(work, free - self._for_smaller(work))[1]
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
