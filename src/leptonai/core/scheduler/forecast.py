"""When a waiting gang starts: the scheduler's own walk, run ahead of time on a copy.

What runs ends when its estimate says so, else when others like it ended before; then the walk
decides who takes the room; and so on, until it is the gang's turn. Three such runs give the
interval: one in which everything ends early, one as expected, one in which everything ends late.
Nobody knows what will be asked for meanwhile, so the answer holds as long as nothing arrives that
goes first.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from heapq import heapify, heappop, heappush

import numpy as np

from leptonai.core.scheduler.index import Change, Index, advance
from leptonai.core.scheduler.ordering import urgent_at_ms
from leptonai.core.scheduler.placement import decide
from leptonai.core.scheduler.policy import DEFAULT, Policy
from leptonai.core.scheduler.values import Gang, Plan, Running, Snapshot

MIN_ALIKE = 5  # that ran for longer, before anything is concluded from them
OFF_BY = 2.0  # an estimate may be off by this factor, where nothing is known of estimates
MAX_DECISIONS = 96  # of one run
MIN_DECISIONS = 8
MAX_TURNS = 1_000  # of one run, over all its decisions: each kind of gang that waits has one
COARSER = 2  # times fewer decisions has a run for an end of the interval
MAX_PLACED = 100  # gangs that one run lets start; where more go before, nothing is run ahead
MAX_AHEAD_MS = 10 * 366 * 86_400_000  # what starts later is not expected to start
MAX_AFTER = 100  # gangs that go after the one in question and are looked at


class Case(IntEnum):
    """Of how things might go: positions in (low, middle, high)."""

    EARLY = 0
    EXPECTED = 1
    LATE = 2


# --- how long things run -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is remembered of a gang that ran to its end."""

    user: str
    gpus: float
    ran_ms: int
    estimated_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How long gangs ran, as far as that is known.

    Lengths are sorted. A size is the number of GPUs in powers of two.
    """

    by_user_and_size: Mapping[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    by_size: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    # True length by estimate: one in ten is below the first, half below the second, and one in
    # ten above the third.
    accuracy: tuple[float, float, float] = (1 / OFF_BY, 1.0, OFF_BY)

    @classmethod
    def of(cls, ended: Iterable[Ended]) -> "History":
        by_user_and_size: dict[tuple[str, int], list[int]] = {}
        by_size: dict[int, list[int]] = {}
        ratios: list[float] = []
        for each in ended:
            size = _size(each.gpus)
            by_user_and_size.setdefault((each.user, size), []).append(each.ran_ms)
            by_size.setdefault(size, []).append(each.ran_ms)
            if each.estimated_ms:
                ratios.append(each.ran_ms / each.estimated_ms)
        history = cls(
            by_user_and_size={key: tuple(sorted(ran)) for key, ran in by_user_and_size.items()},
            by_size={key: tuple(sorted(ran)) for key, ran in by_size.items()},
        )
        if len(ratios) < MIN_ALIKE:
            return history
        return replace(history, accuracy=_spread(sorted(ratios)))

    def still_runs_ms(self, gang: Gang, ran_ms: int) -> tuple[float, float, float] | None:
        """How much longer it runs, after it has run for so long since its start: low, middle and
        high; None where nothing is known of it."""
        if gang.remaining_ms is not None:
            low, middle, high = (gang.remaining_ms * share - ran_ms for share in self.accuracy)
            # What runs for longer than it was said to goes on for half as long again, by rule of
            # thumb: the same that the order of shortest first takes.
            middle = middle if middle > 0 else ran_ms / 2
            return max(0.0, low), middle, max(high if high > 0 else float(ran_ms), middle)
        size = _size(gang.gpus)
        for alike in (
            self.by_user_and_size.get((gang.user, size), ()),
            self.by_size.get(size, ()),
        ):
            longer = alike[bisect_right(alike, ran_ms) :]
            if len(longer) >= MIN_ALIKE:
                low, middle, high = _spread(longer)
                return low - ran_ms, middle - ran_ms, high - ran_ms
        return None


def _size(gpus: float) -> int:
    return int(gpus).bit_length()


def _spread(ascending: Sequence[float]) -> tuple[float, float, float]:
    many = len(ascending)
    low, middle, high = (ascending[min(many - 1, many * tenths // 10)] for tenths in (1, 5, 9))
    return low, middle, high


# --- the answer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When a gang is expected to start. None is what is not known."""

    expected_at_ms: int | None = None
    earliest_at_ms: int | None = None
    latest_at_ms: int | None = None
    unknown: tuple[str, ...] = ()  # gangs it waits for of which no length is known
    by_estimate: int = 0  # ends that it waits for, by an estimate of the gang itself …
    by_history: int = 0  # … and by how long others like it ran
    by_pace: bool = False  # roughly: by how much work there is before it


def forecast(
    snapshot: Snapshot,
    gang: str,
    policy: Policy = DEFAULT,
    history: History | None = None,
    *,
    waits: Sequence[str] = (),
) -> Start:
    """When a gang of the queue starts, if nothing arrives that goes before it.

    Where all lengths are exact and few things end before, so is the answer. The further ahead it
    lies, the coarser are the steps, and the interval grows by that. Cost: at most three runs of
    MAX_DECISIONS decisions (fewer, the more kinds of gangs wait) that place up to MAX_PLACED gangs.
    Where more go before it, the work that they are tells when it may be its turn.

    Args:
        waits: the queue as a plan tells it; by default the forecast finds its order itself.
    """
    history = history or History()
    if not waits:
        plan = decide(Index.of(snapshot, policy), snapshot.now_ms, explain=True)
        waits = [*(place.gang for place in plan.places), *(wait.gang for wait in plan.waits)]
    queue = _in_turn(snapshot, policy, waits)
    at = next(at for at, each in enumerate(queue) if each.id == gang)
    if at > MAX_PLACED:
        return _by_pace(snapshot, queue[:at], history)
    near = replace(snapshot, queue=queue[: at + 1 + MAX_AFTER])
    expected = _Ahead(near, gang, policy, history, Case.EXPECTED)
    at_ms = expected.run()
    if at_ms is None and expected.cut_short:
        return _by_pace(snapshot, queue[:at], history, after_ms=expected.now_ms)
    if at_ms is None:
        return Start(unknown=tuple(sorted(expected.unknown)))
    early_ms: int | None = at_ms
    late_ms: int | None = at_ms
    if expected.inexact:
        early_ms = _Ahead(near, gang, policy, history, Case.EARLY).run()
        late_ms = _Ahead(near, gang, policy, history, Case.LATE).run()
    # What ends earlier may let others pass: an early run can be the one that starts it last.
    known = [at for at in (early_ms, at_ms, late_ms) if at is not None]
    return Start(
        expected_at_ms=at_ms,
        earliest_at_ms=min(known),
        latest_at_ms=max(known) if late_ms is not None else None,
        unknown=tuple(sorted(expected.unknown)),
        by_estimate=expected.by_estimate,
        by_history=expected.by_history,
    )


def _in_turn(snapshot: Snapshot, policy: Policy, waits: Sequence[str]) -> tuple[Gang, ...]:
    """The queue, who goes first first."""
    turn = {id: at for at, id in enumerate(waits)}

    def goes_first(each: Gang) -> tuple[int, bool, int]:
        urgent_at = urgent_at_ms(each, 0, policy)
        waited = urgent_at <= snapshot.now_ms
        return -each.priority, not waited, urgent_at if waited else turn[each.id]

    return tuple(sorted(snapshot.queue, key=goes_first))


def _by_pace(
    snapshot: Snapshot, before: Sequence[Gang], history: History, *, after_ms: int = 0
) -> Start:
    """When all that goes before has started, were work fluid: it starts evenly over the time until
    then, and takes, with what runs now, all the GPUs that are held now. Rough, but cheap."""
    unknown: list[str] = []
    known = {True: 0, False: 0}  # by an estimate, or by history

    def lasts_ms(gang: Gang, ran_ms: int, lasting: bool) -> float:
        lengths = None if lasting else history.still_runs_ms(gang, ran_ms)
        if lengths is not None:
            known[gang.remaining_ms is not None] += 1
            return lengths[Case.EXPECTED]
        if not lasting:
            unknown.append(gang.id)
        return math.inf

    now_ms = snapshot.now_ms
    held = np.array([running.gang.gpus for running in snapshot.running])
    left_ms = np.array(
        [
            lasts_ms(r.gang, 0 if r.started_at_ms is None else now_ms - r.started_at_ms, r.lasting)
            for r in snapshot.running
        ]
    )
    wide = np.array([gang.gpus for gang in before])
    length_ms = np.array([lasts_ms(gang, 0, gang.lasting) for gang in before])

    def is_room_after(time_ms: float) -> bool:
        running = (held * np.minimum(left_ms, time_ms)).sum()
        # Of a length l that starts anywhere in t: l - l²/2t, or t/2 if it outlasts t.
        ended = np.minimum(length_ms, time_ms)
        started = (wide * (ended - ended * ended / (2 * time_ms))).sum()
        return bool(running + started < held.sum() * time_ms)

    if not is_room_after(MAX_AHEAD_MS):
        return Start(earliest_at_ms=after_ms or None, unknown=tuple(sorted(unknown)))
    early, late = 0.0, float(MAX_AHEAD_MS)
    while late - early > max(1_000.0, late / 100):
        middle = (early + late) / 2
        early, late = (early, middle) if is_room_after(middle) else (middle, late)
    return Start(
        expected_at_ms=max(after_ms, now_ms + round(late)),
        by_pace=True,
        by_estimate=known[True],
        by_history=known[False],
    )


# --- one run -------------------------------------------------------------------------------------


class _Ahead:
    """The cluster from now on, as it goes in one case."""

    def __init__(
        self, snapshot: Snapshot, gang: str, policy: Policy, history: History, case: Case
    ) -> None:
        self._gang = gang
        self._history = history
        self._case = case
        self._index = Index.of(snapshot, policy)
        self._from_ms = self.now_ms = snapshot.now_ms
        self._ends: list[tuple[int, str, int]] = []  # (when, who, by which of its starts)
        self._starts: dict[str, int] = {}  # how often each has started, here
        self._estimated: dict[str, bool] = {}  # of known length: by an estimate of its own
        self.inexact = False  # something in it could have come out otherwise
        self.cut_short = False
        self.unknown: set[str] = set()
        self.by_estimate = 0
        self.by_history = 0
        self._placed = 0
        for running in snapshot.running:
            self._begin(running)
        heapify(self._ends)
        turns = max(1, len(self._index.lanes))
        decisions = min(MAX_DECISIONS, MAX_TURNS // turns)
        if case is not Case.EXPECTED:
            decisions //= COARSER
        self._decisions = max(MIN_DECISIONS, decisions)

    def run(self) -> int | None:
        """When the gang starts; None if that is not known.

        After half of its decisions it lets more end between two of them, and ever more, so that the
        last ones get through all that runs.
        """
        half = self._decisions // 2
        growth = max(1.0, len(self._index.running)) ** (1 / half)
        at_once = 1.0
        for decision in range(self._decisions):
            plan = decide(self._index, self.now_ms)
            if any(place.gang == self._gang for place in plan.places):
                return self.now_ms
            change = self._carry_out(plan)
            if self._placed >= MAX_PLACED:
                break
            if decision >= half:
                at_once *= growth
            gone = self._end(round(at_once), plan.revisit_at_ms)
            if gone is None:
                return None
            self._index = advance(
                self._index,
                replace(
                    change,
                    running=tuple(r for r in change.running if r.gang.id not in gone),
                    gone=gone,
                ),
            )
        self.cut_short = True
        return None

    def _end(self, many: int, revisit_at_ms: int | None) -> tuple[str, ...] | None:
        """Go on to the next end, or to the last of so many ends: who has ended. None: nobody will.

        Args:
            revisit_at_ms: go on no further than that, if nothing ends before.
        """
        at_ms = self._next_end_ms()
        if revisit_at_ms is not None and (at_ms is None or revisit_at_ms < at_ms):
            self.now_ms = revisit_at_ms
            return ()
        if at_ms is None:
            return None
        first_ms = last_ms = at_ms
        gone: list[str] = []
        while at_ms is not None and (len(gone) < many or at_ms == last_ms):
            last_ms = at_ms
            _, id, _ = heappop(self._ends)
            gone.append(id)
            self.by_estimate += self._estimated.get(id) is True
            self.by_history += self._estimated.get(id) is False
            at_ms = self._next_end_ms()
        # Rounded to the side of the case.
        self.now_ms = max(self.now_ms, first_ms if self._case is Case.EARLY else last_ms)
        self.inexact |= last_ms > first_ms
        return tuple(gone)

    def _begin(self, running: Running) -> None:
        """Note when it ends."""
        id = running.gang.id
        number = self._starts[id] = self._starts.get(id, 0) + 1
        if running.lasting:
            return
        started_ms = self._from_ms if running.started_at_ms is None else running.started_at_ms
        ran_ms = max(0, self.now_ms - started_ms)
        lengths = self._history.still_runs_ms(running.gang, ran_ms)
        if lengths is None:
            self.unknown.add(id)
            self.inexact = True
            if self._case is Case.EARLY:
                heappush(self._ends, (self.now_ms, id, number))
            return
        self.inexact |= lengths[0] != lengths[2]
        self._estimated[id] = running.gang.remaining_ms is not None
        heappush(self._ends, (self.now_ms + round(lengths[self._case]), id, number))

    def _next_end_ms(self) -> int | None:
        while self._ends and self._starts.get(self._ends[0][1]) != self._ends[0][2]:
            heappop(self._ends)  # it yielded meanwhile
        return self._ends[0][0] if self._ends else None

    def _carry_out(self, plan: Plan) -> Change:
        """What the plan changes, for the index."""
        running: list[Running] = []
        queued: dict[str, Gang] = {}
        for preempt in plan.preempts:
            queued[preempt.gang] = self._preempted(preempt.gang, preempt.lost_ms)
        for place in plan.places:
            gang = queued.pop(place.gang, None) or self._index.waiting[place.gang]
            held = tuple(zip(gang.workers, place.assignments, strict=False))
            placed = Running(
                gang=gang,
                held=held,
                rendezvous_port=place.rendezvous_port,
                started_at_ms=self.now_ms,
                lasting=gang.lasting,
            )
            self._begin(placed)
            self._placed += 1
            running.append(placed)
        for resize in plan.resizes:
            known = self._index.running[resize.gang]
            workers = {worker.replica: worker for worker in known.gang.workers}
            held = tuple((workers[to.replica], to) for to in resize.assignments)
            running.append(replace(known, held=held))
        return Change(queued=tuple(queued.values()), running=tuple(running))

    def _preempted(self, id: str, lost_ms: int) -> Gang:
        """Queued again, with what is left of its work."""
        running = self._index.running[id]
        gang = running.gang
        started_ms = self.now_ms if running.started_at_ms is None else running.started_at_ms
        ran_ms = max(0, self.now_ms - started_ms)
        self._starts[id] += 1  # its end does not come
        self.unknown.discard(id)
        left_ms = gang.remaining_ms
        if left_ms is not None:
            left_ms = max(0, left_ms - max(0, ran_ms - lost_ms))
        return replace(gang, attained_ms=gang.attained_ms + ran_ms, remaining_ms=left_ms)
