"""The scheduler: every queued gang is placed, or told why it waits."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property, partial
from heapq import heappop, heappush

import numpy as np

from leptonai.core.resources import MILLIS, Free, Needs
from leptonai.core.scheduler.elastic import PAYS_BACK, Claim, Curve, allot
from leptonai.core.scheduler.fitting import choose_nodes, equal_size
from leptonai.core.scheduler.index import Index, Kind, Lane, LaneKey, kind_of
from leptonai.core.scheduler.nodes import Hold
from leptonai.core.scheduler.ordering import rank, rank_changes_after_ms, urgent_at_ms
from leptonai.core.scheduler.policy import DEFAULT, Passing, Policy, Yielding
from leptonai.core.scheduler.quotas import Standing, exceeded, standing
from leptonai.core.scheduler.reasons import Held, behind, over_quota, why_it_waits
from leptonai.core.scheduler.reserving import keep_room, keep_until
from leptonai.core.scheduler.values import (
    Assignment,
    Gang,
    Place,
    Plan,
    Preempt,
    Quota,
    Reason,
    Resize,
    Running,
    Snapshot,
    Unmet,
    Wait,
    Worker,
)

MAX_KEPT = 16  # overdue gangs for which room is kept at the same time


def schedule(snapshot: Snapshot, policy: Policy = DEFAULT) -> Plan:
    """Decide every queued gang, most urgent first. Equal snapshots give equal plans.

    Larger priorities go first; among equals those that have waited for longer than the policy
    allows, in the order they came; then what is within its quota before what borrows; then, where
    users take turns, the user who holds the least; then the policy's order; then the longer queued
    and the smaller id. A gang is placed whole or waits. It takes room that is free, else room that
    others are about to leave, else the room of elastic gangs above their least, else that of
    preemptible gangs that yield to it: and nobody yields unless the gang starts by that. A place
    that is not free yet says whose end it comes `after`; until then nobody else is given it.

    No gang starves: once it is overdue, those behind it get no room on the nodes that are kept
    for it, which are those that went longest without a new start. So if it is the most urgent
    of those that wait, it starts at the latest when every job that ran on them by then has ended.
    The bound holds as long as nothing more urgent arrives. What never ends by itself
    (`Running.lasting`) is not waited for.
    """
    return decide(Index.of(snapshot, policy), snapshot.now_ms, explain=True)


def decide(index: Index, now_ms: int, *, explain: bool = False) -> Plan:
    """What `schedule` decides of what an index holds; the index stays as it is.

    Cost: by what changed since the last decision, by what is placed, and by how many different
    kinds of gangs wait; not by how many wait nor by how many nodes there are.

    Args:
        explain: also say of each gang why it waits. Costs by how many wait.
    """
    walk = _Walk(index, now_ms, explain=explain)
    try:
        walk.run()
        return walk.plan()
    finally:
        walk.undo()


# Who goes first: priority; urgent or not; standing to quotas; share; rank, or since when it is
# urgent; queued at; id.
Turn = tuple[int, int, int, float, float, int, str]


class _From(Enum):
    URGENT = auto()  # the gangs of a lane that are urgent
    LANE = auto()  # the other ones: nobody has looked at them yet
    USER = auto()  # those of one user
    YIELDED = auto()  # a gang that had to yield


@dataclass(slots=True)
class _Source:
    """Where the next gang comes from."""

    of: _From
    lane: Lane | None = None
    user: str = ""
    seen: int = 0  # how many of them had their turn
    yielded: Running | None = None


class _What(Enum):
    LEAVING = auto()
    SURPLUS = auto()
    WHOLE = auto()


@dataclass(frozen=True, slots=True)
class _Part:
    """What a running gang may give up: what is about to end in any case, one worker above its
    least, or all it holds."""

    running: Running
    what: _What
    holds: tuple[tuple[int, Hold], ...]
    workers: tuple[Worker, ...]


class _Walk:
    """One pass through all that waits. What it does to the index is taken back at the end."""

    def __init__(self, index: Index, now_ms: int, *, explain: bool) -> None:
        self._index = index
        self._policy = index.policy
        self._nodes = index.nodes
        self._now_ms = now_ms
        self._explain = explain
        self._heap: list[tuple[Turn, int, _Source]] = []
        self._pushed = 0
        self._settled: set[str] = set()  # gangs of the queue that had their turn
        self._settled_of: Counter[LaneKey] = Counter()
        self._shares: dict[str, float] = {}
        self._places: dict[str, Place] = {}
        self._evicted: dict[str, tuple[Running, str]] = {}  # and for whom
        self._shrunk: dict[str, tuple[Running, str]] = {}  # as it will go on, and for whom
        self._left: set[str] = set()  # gangs whose leaving replicas' room has been given to another
        # Of nodes where room is given before it is free: what is really free there, and whose end
        # the rest comes after.
        self._free_now: dict[int, Free] = {}
        self._after: dict[int, set[str]] = {}
        # Room only shrinks along the walk: where one did not fit, none of its kind will.
        self._blocked: dict[tuple[Kind, Standing], Reason | None] = {}
        self._waiting: dict[LaneKey, tuple[Lane, Reason | None]] = {}
        self._passed: list[tuple[Gang, Reason | None]] = []  # waits, but others like it may go
        self._grown: dict[str, Running] = {}  # as it will go on
        self._kept_for: list[Gang] = []
        self._held: Held = {}
        self._head_starts_ms: int | None = None  # where passing is RESERVED
        self._head_due_ms = 0
        self._undo: list[Callable[[], None]] = []

    # --- the walk ---------------------------------------------------------------------------------

    def run(self) -> None:
        for lane in self._index.lanes.values():
            self._push(_Source(_From.URGENT, lane))
            self._push(_Source(_From.LANE, lane))
        if self._plans_ahead:
            self._keep_until_due()
        taken_in_turns = self._policy.fair or bool(self._index.quotas)
        while self._heap:
            turn, _, source = heappop(self._heap)
            if source.of is _From.LANE:
                self._open(source)
                continue
            gang = self._first(source)
            if gang is None:
                continue
            if taken_in_turns and self._turn(gang, source) != turn:
                self._push(source)  # others have taken theirs meanwhile
            elif source.yielded is not None:
                self._take_up_again(source.yielded, turn)
            elif not self._settle(gang, turn, source):
                self._waits_with_all(gang)
                break
        if self._index.growable:
            self._grow()

    def _open(self, source: _Source) -> None:
        """Let the users of a lane take their turns; unless none of its gangs fits any more."""
        lane = source.lane
        assert lane is not None
        if self._hopeless(lane):
            self._waiting.setdefault(lane.key, (lane, None))
            return
        for user in lane.by_rank:
            self._push(_Source(_From.USER, lane, user))

    def _hopeless(self, lane: Lane) -> bool:
        """Nothing of it fits: then there is no need to ask in which order they come."""
        if self._explain or self._policy.passing in (Passing.NEVER, Passing.RESERVED):
            return False
        if self._policy.yielding is not Yielding.NEVER and self._index.preemptible:
            return False
        if self._index.elastic or self._index.leaving:
            return False
        admitted = self._index.admitted(lane.example)
        return choose_nodes(lane.example, self._nodes, admitted) is None

    def undo(self) -> None:
        for take_back in reversed(self._undo):
            take_back()
        self._nodes.keep_nothing()

    def _push(self, source: _Source) -> None:
        if source.of is _From.LANE:  # before all its gangs that are not urgent
            assert source.lane is not None
            turn: Turn = (-source.lane.priority, 1, -1, 0.0, 0.0, 0, "")
        elif (gang := self._first(source)) is not None:
            turn = self._turn(gang, source)
        else:
            return
        self._pushed += 1
        heappush(self._heap, (turn, self._pushed, source))

    def _first(self, source: _Source) -> Gang | None:
        """The first of a source that has not had its turn."""
        if source.yielded is not None:
            return source.yielded.gang
        lane, settled = source.lane, self._settled
        assert lane is not None
        urgent = source.of is _From.URGENT
        line = lane.by_urgency if urgent else lane.by_rank[source.user]
        while source.seen < len(line):
            entry = line[source.seen]
            if urgent and entry[0] > self._now_ms:
                return None
            if entry[-1] not in settled:
                return self._index.waiting[str(entry[-1])]
            source.seen += 1
        return None

    def _turn(self, gang: Gang, source: _Source) -> Turn:
        if source.yielded is not None:
            return self._turn_of_running(source.yielded)
        stands = self._standing(gang)
        lane = source.lane
        assert lane is not None
        if source.of is _From.URGENT:
            urgent_at, id = lane.by_urgency[source.seen]
            return (-gang.priority, 0, stands, 0.0, urgent_at, gang.queued_at_ms, id)
        by, queued_at_ms, id = lane.by_rank[source.user][source.seen]
        share = self._share(source.user) if self._policy.fair else 0.0
        return (-gang.priority, 1, stands, share, by, queued_at_ms, id)

    def _turn_of_running(self, running: Running) -> Turn:
        """Were it to ask for its room anew."""
        gang, ran_ms = running.gang, self._ran_ms(running)
        stands = self._standing(gang)
        urgent_at = urgent_at_ms(gang, ran_ms, self._policy)
        if urgent_at <= self._now_ms:
            return (-gang.priority, 0, stands, 0.0, urgent_at, gang.queued_at_ms, gang.id)
        by = rank(gang, ran_ms, self._policy, self._index.gpus)
        share = self._share(gang.user) if self._policy.fair else 0.0
        return (-gang.priority, 1, stands, share, by, gang.queued_at_ms, gang.id)

    def _standing(self, gang: Gang) -> Standing:
        return self._standing_by(gang)[0] if self._index.quotas else Standing.WITHIN

    def _standing_by(self, gang: Gang) -> tuple[Standing, Quota | None]:
        return standing(gang, self._index.quotas_of(gang), self._index.used_of)

    def _share(self, user: str) -> float:
        share = self._shares.get(user)
        if share is None:
            share = self._shares[user] = self._index.share(user)
        return share

    def _settle(self, gang: Gang, turn: Turn, source: _Source) -> bool:
        """Place a gang, or have it wait with all that are like it. False where nobody passes it."""
        lane = source.lane
        assert lane is not None
        stands = Standing(turn[2])
        if stands is Standing.OVER:
            _, quota = self._standing_by(gang)
            assert quota is not None
            self._waiting[lane.key] = (lane, over_quota(gang, quota) if self._explain else None)
            return True
        if (lane.kind, stands) in self._blocked:
            self._waiting[lane.key] = (lane, self._blocked[lane.kind, stands])
            return True
        ends_early = self._ends_before_the_head_starts(gang)
        is_head = self._plans_ahead and self._kept_for[:1] == [gang]
        if self._place(gang, turn, beside_kept=not (ends_early or is_head)):
            self._next_after(gang, source)
            if is_head:
                self._nodes.keep_nothing()
                self._kept_for.clear()
                self._keep_until_due()
            elif ends_early:  # what it took is free again when the head starts
                self._nodes.keep_nothing()
                self._keep_until(self._kept_for.pop(), self._head_due_ms)
            return True
        because = self._why(gang) if self._explain else None
        if self._policy.passing is Passing.RESERVED:
            if not self._kept_for:
                self._keep_until(gang, due_ms=0)
            elif not ends_early and choose_nodes(
                gang, self._nodes, self._index.admitted(gang), beside_kept=False
            ):
                self._passed.append((gang, because))  # another one like it may end early enough
                self._next_after(gang, source)
                return True
        self._blocked[lane.kind, stands] = because
        self._waiting[lane.key] = (lane, because)
        may_keep = self._policy.passing in (Passing.WINDOW, Passing.RESERVED)
        if may_keep and turn[1] == 0 and self._head_starts_ms is None:
            self._keep_for(gang)
        return self._policy.passing is not Passing.NEVER

    def _next_after(self, gang: Gang, source: _Source) -> None:
        self._settled.add(gang.id)
        assert source.lane is not None
        self._settled_of[source.lane.key] += 1
        self._push(source)

    def _waits_with_all(self, first: Gang) -> None:
        """Nobody passes the first that waits."""
        because = behind(first) if self._explain else None
        for lane in self._index.lanes.values():
            self._waiting.setdefault(lane.key, (lane, because))

    # --- placing ----------------------------------------------------------------------------------

    def _place(self, gang: Gang, turn: Turn, *, beside_kept: bool = True) -> bool:
        gang = self._within_quota(gang, turn)
        admitted = self._index.admitted(gang)
        chosen = choose_nodes(gang, self._nodes, admitted, beside_kept=beside_kept)
        if chosen is None:
            chosen = self._make_room(gang, turn)
        if chosen is None:
            return False
        self._assign(gang, chosen)
        return True

    def _within_quota(self, gang: Gang, turn: Turn) -> Gang:
        """With its least workers, if it is elastic and stands worse with all of them."""
        if not (self._index.quotas and gang.min_workers):
            return gang
        all_of_them = replace(gang, min_workers=0)
        stands, _ = self._standing_by(all_of_them)
        return gang if stands <= turn[2] else replace(gang, workers=gang.least)

    def _assign(self, gang: Gang, chosen: list[int]) -> None:
        assignments, holds = self._seat(gang.workers, chosen)
        port = self._nodes.rendezvous_port(chosen[0], gang.id, self._now_ms)
        self._nodes.take_port(chosen[0], port)
        self._undo.append(partial(self._nodes.give_port, chosen[0], port))
        self._use(gang, gang.workers[: len(chosen)], 1)
        after = self._waits_for(holds)
        self._places[gang.id] = Place(gang.id, tuple(assignments), port, after)

    def _seat(
        self, workers: Sequence[Worker], chosen: list[int]
    ) -> tuple[list[Assignment], list[tuple[int, Hold]]]:
        """Give the first of these workers what they need of the chosen nodes."""
        assignments, holds = [], []
        for worker, at in zip(workers, chosen, strict=False):
            to = self._nodes.assign(at, worker, self._now_ms)
            hold = Hold(worker.replica, worker.needs, to.gpus, to.ports, self._now_ms)
            self._take(at, hold)
            assignments.append(to)
            holds.append((at, hold))
        return assignments, holds

    def _waits_for(self, holds: Iterable[tuple[int, Hold]]) -> tuple[str, ...]:
        """The gangs that must leave before all this is really free; () if it is."""
        after: set[str] = set()
        free_now: dict[int, Free] = {}
        for at, hold in holds:
            if at in self._free_now:
                left = free_now.get(at, self._free_now[at]).take(hold.needs, hold.gpus)
                free_now[at] = left
                if min(left.cpu_millis, left.memory_bytes, left.disk_bytes, *left.gpu_millis) < 0:
                    after |= self._after[at]
        if after:  # what it does not get from those who leave is not for anybody else either
            free_now = {
                at: self._free_now[at].at_most(self._nodes.free(at, beside_kept=False))
                for at in free_now
            }
        self._free_now |= free_now
        return tuple(sorted(after))

    def _take(self, at: int, hold: Hold) -> None:
        self._nodes.take(at, hold)
        self._undo.append(partial(self._nodes.give, at, hold))

    def _give(self, at: int, hold: Hold) -> None:
        self._nodes.give(at, hold)
        self._undo.append(partial(self._nodes.take, at, hold))

    def _use(self, gang: Gang, workers: Iterable[Worker], sign: int) -> None:
        workers = tuple(workers)
        self._shares.pop(gang.user, None)
        for used in self._index.usages(gang):
            used.add(workers, sign)
            self._undo.append(partial(used.add, workers, -sign))

    # --- yielding ---------------------------------------------------------------------------------

    def _make_room(self, gang: Gang, turn: Turn) -> list[int] | None:
        """Have others yield until the gang fits; nobody, if it never does."""
        admitted = self._index.admitted(gang)
        given: list[_Part] = []
        chosen = None
        short = self._short_of_gpus(gang)
        if short > self._could_yield(gang, turn):
            return None
        for part in self._parts(gang, turn):
            if part.running.gang.id in self._index.elastic and part.what is _What.WHOLE:
                for surplus in [g for g in given if g.running.gang.id == part.running.gang.id]:
                    self._take_back(surplus)
                    given.remove(surplus)
            self._yield(part)
            given.append(part)
            short -= sum(w.needs.gpus * w.needs.gpu_millis for w in part.workers)
            if short <= 0 and (chosen := choose_nodes(gang, self._nodes, admitted)) is not None:
                break
        if chosen is None:
            for part in reversed(given):
                self._take_back(part)
            return None
        needed = []
        for part in reversed(given):  # who goes first of them goes on, if it need not yield
            self._take_back(part)
            without = choose_nodes(gang, self._nodes, admitted)
            if without is None:
                self._yield(part)
                needed.append(part)
            else:
                chosen = without
        self._mark_not_free(needed)
        for part in needed:
            self._note(part, gang)
        return choose_nodes(gang, self._nodes, admitted)

    def _mark_not_free(self, parts: Iterable[_Part]) -> None:
        """What has just been given up is still held: only who starts later may have it."""
        unmarked = {at for part in parts for at, _ in part.holds} - self._free_now.keys()
        for at in unmarked:
            self._free_now[at] = self._nodes.free(at, beside_kept=False)
        for part in parts:
            for at, hold in part.holds:
                self._after.setdefault(at, set()).add(part.running.gang.id)
                if at in unmarked:
                    self._free_now[at] = self._free_now[at].take(hold.needs, hold.gpus)

    def _parts(self, gang: Gang, turn: Turn) -> Iterator[_Part]:
        """What may yield to a gang, in this order: what is about to end in any case, workers that
        elastic gangs can do without, gangs of lower priority or, where time is shared, that go
        after it, what is lent."""
        yield from self._leaving()
        yield from self._surplus(gang)
        for running in self._whole_gangs(gang, turn):
            yield self._whole(running)

    def _could_yield(self, gang: Gang, turn: Turn) -> float:
        """How many thousandths of GPUs, at most. Most often that is not nearly enough, and then
        nothing need be tried."""
        if self._index.elastic or self._index.leaving:
            return math.inf
        return sum(running.gang.gpus for running in self._whole_gangs(gang, turn)) * MILLIS

    def _whole_gangs(self, gang: Gang, turn: Turn) -> Iterator[Running]:
        """First those that yield in any case, then those that hold what is lent."""
        if not gang.may_preempt or self._policy.yielding is Yielding.NEVER:
            return
        by_order = self._policy.yielding is Yielding.ORDER
        reclaims = bool(self._index.quotas) and turn[2] == Standing.WITHIN
        lent = []
        for key, running in self._yielding:
            if running.gang.id in self._evicted:
                continue
            if key[:-1] > turn[:-1] if by_order else running.gang.priority < gang.priority:
                yield running
            elif not reclaims:
                return
            elif running.gang.priority <= gang.priority:
                lent.append(running)
        for running in lent:
            if self._borrows(running):
                yield running

    @cached_property
    def _yielding(self) -> list[tuple[tuple[float | str, ...], Running]]:
        """What is preemptible and has run for long enough, in the order in which it yields."""
        running = [self._index.running[id] for id in self._index.preemptible]
        ripe = [each for each in running if self._ran_ms(each) >= self._policy.min_run_ms]
        if self._policy.yielding is Yielding.ORDER:
            return sorted(
                ((self._turn_of_running(each), each) for each in ripe),
                key=lambda item: item[0],
                reverse=True,
            )
        return sorted(
            (
                ((each.gang.priority, self._lost_ms(each) * each.gang.gpus, each.gang.id), each)
                for each in ripe
            ),
            key=lambda item: item[0],
        )

    def _leaving(self) -> Iterator[_Part]:
        leaving = (self._index.running[id] for id in self._index.leaving - self._left)
        for running in sorted(leaving, key=lambda r: (r.leaving_since_ms, r.gang.id)):
            yield self._part(running, _What.LEAVING, running.leaving)

    def _surplus(self, gang: Gang) -> Iterator[_Part]:
        elastic = (self._index.running[id] for id in self._index.elastic)
        for running in sorted(elastic, key=lambda r: (r.gang.priority, r.gang.id)):
            if running.gang.priority > gang.priority or running.gang.id in self._evicted:
                continue
            if running.gang.id in self._shrunk:
                running, _ = self._shrunk[running.gang.id]
            for worker, _ in reversed(running.held[running.gang.min_workers :]):
                yield self._part(running, _What.SURPLUS, {worker.replica})

    def _whole(self, running: Running) -> _Part:
        if running.gang.id in self._shrunk:  # less what it has to give up already
            running, _ = self._shrunk[running.gang.id]
        return self._part(running, _What.WHOLE, {worker.replica for worker, _ in running.held})

    def _part(self, running: Running, what: _What, replicas: Collection[str]) -> _Part:
        holds = tuple((at, hold) for at, hold in self._holds(running) if hold.replica in replicas)
        there = {hold.replica for _, hold in holds}
        workers = tuple(worker for worker, _ in running.held if worker.replica in there)
        return _Part(running, what, holds, workers)

    def _holds(self, running: Running) -> Iterator[tuple[int, Hold]]:
        """Without the ports: those are free only when it has ended, and whoever starts here by
        then finds others."""
        for at, hold in self._index.holds(running):
            yield at, replace(hold, ports=()) if hold.ports else hold

    def _yield(self, part: _Part) -> None:
        for at, hold in part.holds:
            self._give(at, hold)
        self._use(part.running.gang, part.workers, -1)

    def _take_back(self, part: _Part) -> None:
        for at, hold in part.holds:
            self._take(at, hold)
        self._use(part.running.gang, part.workers, 1)

    def _note(self, part: _Part, by: Gang) -> None:
        """Somebody yields, and may have another turn."""
        id = part.running.gang.id
        if part.what is _What.LEAVING:
            self._left.add(id)
            return
        if part.what is _What.WHOLE:
            self._evicted[id] = (part.running, by.id)
            self._push(_Source(_From.YIELDED, yielded=part.running))
            return
        if id in self._evicted:
            return
        running, _ = self._shrunk.get(id, (part.running, by.id))
        gone = {hold.replica for _, hold in part.holds}
        held = tuple(item for item in running.held if item[0].replica not in gone)
        self._shrunk[id] = (replace(running, held=held), by.id)

    def _take_up_again(self, running: Running, turn: Turn) -> None:
        """Let a gang that had to yield go on where it was, if that is free again; or elsewhere."""
        gang = running.gang
        taken: list[tuple[int, Hold]] = []
        for at, hold in self._holds(running):
            if not self._nodes.can_take(at, hold):
                break
            self._take(at, hold)
            taken.append((at, hold))
        else:
            self._use(gang, (worker for worker, _ in running.held), 1)
            del self._evicted[gang.id]
            return
        for at, hold in taken:
            self._give(at, hold)
        stands = Standing(turn[2])
        if (kind_of(gang), stands) not in self._blocked and stands is not Standing.OVER:
            self._place(gang, turn)

    def _ran_ms(self, running: Running) -> int:
        return self._now_ms - self._started_ms(running)

    def _lost_ms(self, running: Running) -> int:
        """Of its work, if it yields now."""
        return max(0, self._now_ms - max(self._started_ms(running), running.saved_at_ms or 0))

    def _started_ms(self, running: Running) -> int:
        return self._now_ms if running.started_at_ms is None else running.started_at_ms

    def _borrows(self, running: Running) -> bool:
        return any(
            exceeded(quota, self._index.used_of(quota))
            for quota in self._index.quotas_of(running.gang)
        )

    def _short_of_gpus(self, gang: Gang) -> int:
        """How many thousandths of a GPU must be given up at least."""
        size = equal_size(gang)
        if size is None or not size.needs.gpus:
            return 0
        workers = len(gang.least)
        fitting = int(np.minimum(self._nodes.row(size).copies, workers).sum())
        return (workers - fitting) * size.needs.gpus * size.needs.gpu_millis

    # --- growing ----------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Let elastic gangs have what is left, where it saves them more than the restart costs.

        Nobody else is worse off by that: what they have above their least is the first to yield.
        """
        growing = [
            self._index.running[id]
            for id in sorted(self._index.growable)
            if id not in self._evicted and id not in self._shrunk
        ]
        ripe = [r for r in growing if self._ran_ms(r) >= self._policy.min_run_ms]
        claims = [self._claim(running) for running in ripe]
        free = max((self._room_for(running.gang) for running in ripe), default=0.0)
        free += sum(claim.has * claim.size for claim in claims)
        having = allot(claims, free, restart_ms=self._policy.restart_ms)
        most_first = sorted(ripe, key=lambda r: (-having[r.gang.id], r.gang.id))
        for running in most_first:
            self._add_workers(running, having[running.gang.id] - len(running.held))

    def _claim(self, running: Running) -> Claim:
        gang, ran_ms = running.gang, self._ran_ms(running)
        has, curve = len(running.held), Curve.of(gang)
        left_ms = float(gang.attained_ms + ran_ms)  # not known: as long again as until now
        if gang.remaining_ms is not None:
            left_ms = gang.remaining_ms - ran_ms * curve.speed(has)
        return Claim(
            id=gang.id,
            curve=curve,
            size=gang.gpus / len(gang.workers),
            left_ms=max(1.0, left_ms),
            has=has,
            promised=has,
            turn=-gang.priority,
        )

    def _room_for(self, gang: Gang) -> float:
        """In GPUs, of workers like its own."""
        size = equal_size(gang)
        if size is None:
            return 0.0
        return float(self._nodes.row(size).copies.sum()) * gang.gpus / len(gang.workers)

    def _add_workers(self, running: Running, many: int) -> None:
        gang = running.gang
        held = {worker.replica for worker, _ in running.held}
        more = tuple(worker for worker in gang.workers if worker.replica not in held)[:many]
        if not more or gang.apart:
            return
        adding = replace(gang, workers=more, min_workers=1)
        if self._standing(replace(adding, min_workers=0)) is not Standing.WITHIN:
            return
        chosen = choose_nodes(adding, self._nodes, self._index.admitted(gang))
        if chosen is None or not self._pays(running, len(chosen)):
            return
        assignments, holds = self._seat(more, chosen)
        if self._waits_for(holds):  # it can restart with them at once, or stays as it is
            for at, hold in holds:
                self._give(at, hold)
            return
        self._use(gang, more[: len(chosen)], 1)
        added = zip(more, assignments, strict=False)
        self._grown[gang.id] = replace(running, held=(*running.held, *added))

    def _pays(self, running: Running, more: int) -> bool:
        claim = self._claim(running)
        saved_ms = claim.left_ms * (
            1 / claim.curve.speed(claim.has) - 1 / claim.curve.speed(claim.has + more)
        )
        return saved_ms > PAYS_BACK * self._policy.restart_ms

    # --- room that is kept ------------------------------------------------------------------------

    def _keep_for(self, gang: Gang) -> None:
        if len(self._kept_for) < MAX_KEPT and keep_room(
            gang, self._nodes, self._index.admitted(gang)
        ):
            self._kept_for.append(gang)

    @property
    def _plans_ahead(self) -> bool:
        """Whether room is kept for who is due before that is late."""
        policy = self._policy
        return policy.passing is Passing.RESERVED and policy.overdue_after_ms is not None

    def _keep_until_due(self) -> None:
        """Keep room for who is overdue first of those that had no turn yet."""
        firsts = [
            next((entry for entry in lane.by_urgency if entry[1] not in self._settled), None)
            for lane in self._index.lanes.values()
        ]
        first = min((entry for entry in firsts if entry is not None), default=None)
        if first is not None:
            due_ms, id = first
            self._keep_until(self._index.waiting[id], due_ms)

    def _keep_until(self, gang: Gang, due_ms: int) -> None:
        self._kept_for.append(gang)
        self._head_due_ms = due_ms
        running = [r for id, r in self._index.running.items() if id not in self._evicted]
        running += map(self._as_running, self._places.values())
        self._head_starts_ms = keep_until(
            gang, self._nodes, self._index.admitted(gang), running, self._now_ms, due_ms=due_ms
        )

    def _as_running(self, place: Place) -> Running:
        gang = self._gang(place.gang)
        held = tuple(zip(gang.workers, place.assignments, strict=False))
        return Running(gang=gang, held=held, started_at_ms=self._now_ms)

    def _ends_before_the_head_starts(self, gang: Gang) -> bool:
        return (
            self._head_starts_ms is not None
            and gang.remaining_ms is not None
            and self._now_ms + gang.remaining_ms <= self._head_starts_ms
        )

    # --- the answer -------------------------------------------------------------------------------

    def plan(self) -> Plan:
        waits = self._waits() if self._explain else ()
        return Plan(
            places=tuple(self._places.values()),
            waits=waits,
            preempts=tuple(
                Preempt(id, by, self._lost_ms(running))
                for id, (running, by) in self._evicted.items()
            ),
            resizes=(
                *(
                    Resize(id, tuple(to for _, to in running.held), by)
                    for id, (running, by) in self._shrunk.items()
                    if id not in self._evicted
                ),
                *(
                    Resize(id, tuple(to for _, to in running.held))
                    for id, running in self._grown.items()
                ),
            ),
            unmet=self._unmet(),
            revisit_at_ms=self._revisit_at_ms(),
        )

    def _why(self, gang: Gang) -> Reason:
        return why_it_waits(gang, self._index, self._kept_for, self._held)

    def _waits(self) -> tuple[Wait, ...]:
        waits: list[tuple[Turn, Wait]] = []
        for lane, because in self._waiting.values():
            assert because is not None
            for user, ranked in lane.by_rank.items():
                for by, queued_at_ms, id in ranked:
                    if id not in self._settled:
                        turn = (-lane.priority, 1, 0, self._share(user), by, queued_at_ms, id)
                        waits.append((turn, Wait(id, because)))
        for gang, because in self._passed:
            assert because is not None
            turn = (-gang.priority, 1, 0, 0.0, 0.0, gang.queued_at_ms, gang.id)
            waits.append((turn, Wait(gang.id, because)))
        return tuple(wait for _, wait in sorted(waits, key=lambda wait: wait[0]))

    def _unmet(self) -> tuple[Unmet, ...]:
        wanted: Counter[Needs] = Counter()
        for lane, _ in self._waiting.values():
            many = len(lane.by_urgency) - self._settled_of[lane.key]
            for worker in lane.example.workers:
                wanted[worker.needs] += many
        return tuple(Unmet(needs, count) for needs, count in wanted.items())

    def _revisit_at_ms(self) -> int | None:
        """When something that runs may first have to yield to what waits, though nothing happened:
        it has run for long enough, or others go before it by then."""
        somebody_waits = self._waiting or self._passed or self._evicted.keys() - self._places.keys()
        if self._policy.yielding is Yielding.NEVER or not somebody_waits:
            return None
        running = self._index.running
        run_on = [running[id] for id in self._index.preemptible if id not in self._evicted]
        ran = [(each.gang, self._ran_ms(each)) for each in run_on]
        ran += [(gang, 0) for gang in map(self._gang, self._places) if gang.preemptible]
        times = []
        for gang, ran_ms in ran:
            if ran_ms < self._policy.min_run_ms:
                times.append(self._policy.min_run_ms - ran_ms)
            if self._policy.yielding is Yielding.ORDER:
                after_ms = rank_changes_after_ms(gang, ran_ms, self._policy)
                if after_ms is not None:
                    times.append(after_ms)
        return self._now_ms + min(times) if times else None

    def _gang(self, id: str) -> Gang:
        return self._index.waiting.get(id) or self._index.running[id].gang
