"""The scheduler: every queued gang is placed, or told why it waits."""

from collections import Counter
from dataclasses import replace

from leptonai.core.resources import Needs
from leptonai.core.scheduler.fitting import choose_nodes
from leptonai.core.scheduler.growing import grow
from leptonai.core.scheduler.index import Index, Kind, Lane, LaneKey, kind_of
from leptonai.core.scheduler.ordering import rank_changes_after_ms
from leptonai.core.scheduler.policy import DEFAULT, Passing, Policy, Yielding
from leptonai.core.scheduler.quotas import Standing
from leptonai.core.scheduler.reasons import Held, behind, over_quota, why_it_waits
from leptonai.core.scheduler.reserving import Kept
from leptonai.core.scheduler.trial import Trial
from leptonai.core.scheduler.turns import Line, Turn, Turns, Unopened
from leptonai.core.scheduler.values import (
    Gang,
    Place,
    Plan,
    Preempt,
    Reason,
    Resize,
    Running,
    Snapshot,
    Unmet,
    Wait,
)
from leptonai.core.scheduler.yielding import Yielders


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


class _Walk:
    """One pass through all that waits. What it does to the index is taken back at the end."""

    def __init__(self, index: Index, now_ms: int, *, explain: bool) -> None:
        self._index = index
        self._policy = index.policy
        self._now_ms = now_ms
        self._explain = explain
        self._trial = Trial(index, now_ms)
        self._turns = Turns(self._trial)
        self._yielders = Yielders(self._trial, self._turns)
        self._kept = Kept(index, now_ms)
        self._places: dict[str, Place] = {}
        self._grown: list[Running] = []  # as they will go on
        # Room only shrinks along the walk: where one did not fit, none of its kind will.
        self._blocked: dict[tuple[Kind, Standing], Reason | None] = {}
        self._waiting: dict[LaneKey, tuple[Lane, Reason | None]] = {}
        self._passed: list[tuple[Gang, Reason | None]] = []  # waits, but others like it may go
        self._held: Held = {}

    # --- the walk ---------------------------------------------------------------------------------

    def run(self) -> None:
        for lane in self._index.lanes.values():
            self._turns.push(Line(lane, None))
            self._turns.push(Unopened(lane))
        if self._kept.plans_ahead:
            self._keep_until_due()
        taken_in_turns = self._policy.fair or bool(self._index.quotas)
        while (popped := self._turns.pop()) is not None:
            turn, source = popped
            if isinstance(source, Unopened):
                self._open(source.lane)
                continue
            gang = self._turns.first(source)
            if gang is None:
                continue
            if taken_in_turns and self._turns.turn(gang, source) != turn:
                self._turns.push(source)  # others have taken theirs meanwhile
            elif isinstance(source, Running):
                self._take_up_again(source, turn)
            elif not self._settle(gang, turn, source):
                self._waits_with_all(gang)
                break
        if self._index.growable:
            yielded = self._yielders.evicted.keys() | self._yielders.shrunk.keys()
            self._grown = grow(self._trial, yielded)

    def undo(self) -> None:
        self._trial.undo()

    def _open(self, lane: Lane) -> None:
        """Let the users of a lane take their turns; unless none of its gangs fits any more."""
        if self._hopeless(lane):
            self._waiting.setdefault(lane.key, (lane, None))
            return
        for user in lane.by_rank:
            self._turns.push(Line(lane, user))

    def _hopeless(self, lane: Lane) -> bool:
        """Nothing of it fits: then there is no need to ask in which order they come."""
        if self._explain or self._policy.passing in (Passing.NEVER, Passing.RESERVED):
            return False
        if self._policy.yielding is not Yielding.NEVER and self._index.preemptible:
            return False
        if self._index.elastic or self._index.leaving:
            return False
        admitted = self._index.admitted(lane.example)
        return choose_nodes(lane.example, self._index.nodes, admitted) is None

    def _settle(self, gang: Gang, turn: Turn, line: Line) -> bool:
        """Place a gang, or have it wait with all that are like it. False where nobody passes it."""
        lane, stands = line.lane, Standing(turn[2])
        if stands is Standing.OVER:
            _, quota = self._trial.standing_by(gang)
            assert quota is not None
            self._waiting[lane.key] = (lane, over_quota(gang, quota) if self._explain else None)
            return True
        if (lane.kind, stands) in self._blocked:
            self._waiting[lane.key] = (lane, self._blocked[lane.kind, stands])
            return True
        ends_early = self._kept.ends_before_the_head_starts(gang)
        is_head = self._kept.is_head(gang)
        if self._place(gang, turn, beside_kept=not (ends_early or is_head)):
            self._turns.settle(gang, line)
            if is_head:
                self._kept.nothing()
                self._keep_until_due()
            elif ends_early:  # what it took is free again when the head starts
                self._kept.again(self._running_on())
            return True
        because = self._why(gang) if self._explain else None
        if self._policy.passing is Passing.RESERVED:
            if not self._kept.gangs:
                self._kept.until(gang, self._running_on(), due_ms=0)
            elif not ends_early and choose_nodes(
                gang, self._index.nodes, self._index.admitted(gang), beside_kept=False
            ):
                self._passed.append((gang, because))  # another one like it may end early enough
                self._turns.settle(gang, line)
                return True
        self._blocked[lane.kind, stands] = because
        self._waiting[lane.key] = (lane, because)
        if turn[1] == 0:
            self._kept.for_overdue(gang)
        return self._policy.passing is not Passing.NEVER

    def _waits_with_all(self, first: Gang) -> None:
        """Nobody passes the first that waits."""
        because = behind(first) if self._explain else None
        for lane in self._index.lanes.values():
            self._waiting.setdefault(lane.key, (lane, because))

    # --- placing ----------------------------------------------------------------------------------

    def _place(self, gang: Gang, turn: Turn, *, beside_kept: bool = True) -> bool:
        gang = self._within_quota(gang, turn)
        admitted = self._index.admitted(gang)
        chosen = choose_nodes(gang, self._index.nodes, admitted, beside_kept=beside_kept)
        if chosen is None:
            chosen = self._yielders.make_room(gang, turn)
        if chosen is None:
            return False
        assignments, holds = self._trial.seat(gang.workers, chosen)
        port = self._trial.take_rendezvous_port(chosen[0], gang.id)
        self._trial.use(gang, gang.workers[: len(chosen)], 1)
        after = self._trial.waits_for(holds)
        self._places[gang.id] = Place(gang.id, tuple(assignments), port, after)
        return True

    def _within_quota(self, gang: Gang, turn: Turn) -> Gang:
        """With its least workers, if it is elastic and stands worse with all of them."""
        if not (self._index.quotas and gang.min_workers):
            return gang
        stands = self._trial.standing(replace(gang, min_workers=0))
        return gang if stands <= turn[2] else replace(gang, workers=gang.least)

    def _take_up_again(self, running: Running, turn: Turn) -> None:
        """Let a gang that had to yield go on where it was, if that is free again; or elsewhere."""
        stands = Standing(turn[2])
        if self._yielders.resume(running) or stands is Standing.OVER:
            return
        if (kind_of(running.gang), stands) not in self._blocked:
            self._place(running.gang, turn)

    def _keep_until_due(self) -> None:
        """Keep room for who is overdue first of those that had no turn yet."""
        firsts = [
            next((entry for entry in lane.by_urgency if entry[1] not in self._turns.settled), None)
            for lane in self._index.lanes.values()
        ]
        first = min((entry for entry in firsts if entry is not None), default=None)
        if first is not None:
            due_ms, id = first
            self._kept.until(self._index.waiting[id], self._running_on(), due_ms=due_ms)

    def _running_on(self) -> list[Running]:
        """What runs once all has happened that is decided until now."""
        running = [r for id, r in self._index.running.items() if id not in self._yielders.evicted]
        for place in self._places.values():
            gang = self._gang(place.gang)
            held = tuple(zip(gang.workers, place.assignments, strict=False))
            running.append(Running(gang=gang, held=held, started_at_ms=self._now_ms))
        return running

    # --- the answer -------------------------------------------------------------------------------

    def plan(self) -> Plan:
        yielders = self._yielders
        return Plan(
            places=tuple(self._places.values()),
            waits=self._waits() if self._explain else (),
            preempts=tuple(
                Preempt(id, by, self._trial.lost_ms(running))
                for id, (running, by) in yielders.evicted.items()
            ),
            resizes=(
                *(
                    Resize(id, tuple(to for _, to in running.held), by)
                    for id, (running, by) in yielders.shrunk.items()
                    if id not in yielders.evicted
                ),
                *(
                    Resize(running.gang.id, tuple(to for _, to in running.held))
                    for running in self._grown
                ),
            ),
            unmet=self._unmet(),
            revisit_at_ms=self._revisit_at_ms(),
        )

    def _why(self, gang: Gang) -> Reason:
        return why_it_waits(gang, self._index, self._kept.gangs, self._held)

    def _waits(self) -> tuple[Wait, ...]:
        waits: list[tuple[Turn, Wait]] = []
        for lane, because in self._waiting.values():
            assert because is not None
            for user, ranked in lane.by_rank.items():
                for by, queued_at_ms, id in ranked:
                    if id not in self._turns.settled:
                        turn = (-lane.priority, 1, 0, self._trial.share(user), by, queued_at_ms, id)
                        waits.append((turn, Wait(id, because)))
        for gang, because in self._passed:
            assert because is not None
            turn = (-gang.priority, 1, 0, 0.0, 0.0, gang.queued_at_ms, gang.id)
            waits.append((turn, Wait(gang.id, because)))
        return tuple(wait for _, wait in sorted(waits, key=lambda wait: wait[0]))

    def _unmet(self) -> tuple[Unmet, ...]:
        wanted: Counter[Needs] = Counter()
        for lane, _ in self._waiting.values():
            many = self._turns.left_of(lane)
            for worker in lane.example.workers:
                wanted[worker.needs] += many
        return tuple(Unmet(needs, count) for needs, count in wanted.items())

    def _revisit_at_ms(self) -> int | None:
        """When something that runs may first have to yield to what waits, though nothing happened:
        it has run for long enough, or others go before it by then."""
        evicted = self._yielders.evicted
        somebody_waits = self._waiting or self._passed or evicted.keys() - self._places.keys()
        if self._policy.yielding is Yielding.NEVER or not somebody_waits:
            return None
        running = self._index.running
        run_on = [running[id] for id in self._index.preemptible if id not in evicted]
        ran = [(each.gang, self._trial.ran_ms(each)) for each in run_on]
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
