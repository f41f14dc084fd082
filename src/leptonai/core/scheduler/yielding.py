"""Who yields, so that a gang can start for which there is no room."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property

import numpy as np

from leptonai.core.resources import MILLIS
from leptonai.core.scheduler.fitting import choose_nodes, equal_size
from leptonai.core.scheduler.nodes import Hold
from leptonai.core.scheduler.policy import Yielding
from leptonai.core.scheduler.quotas import Standing, exceeded
from leptonai.core.scheduler.trial import Holds, Trial
from leptonai.core.scheduler.turns import Turn, Turns, turn_of_running
from leptonai.core.scheduler.values import Gang, Running, Worker


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
    holds: Holds
    workers: tuple[Worker, ...]


class Yielders:
    """The running gangs that have yielded in a trial, and those that still may."""

    def __init__(self, trial: Trial, turns: Turns) -> None:
        """
        Args:
            turns: those who yielded whole have another one.
        """
        self.evicted: dict[str, tuple[Running, str]] = {}  # and for whom
        self.shrunk: dict[str, tuple[Running, str]] = {}  # as it will go on, and for whom
        self._trial = trial
        self._index = trial.index
        self._policy = trial.policy
        self._turns = turns
        self._left: set[str] = set()  # gangs whose leaving replicas' room has been given to another

    def make_room(self, gang: Gang, turn: Turn) -> list[int] | None:
        """Have others yield until the gang fits; nobody, if it never does.

        Returns:
            A node for each worker, as `choose_nodes` does.
        """
        nodes, admitted = self._trial.nodes, self._index.admitted(gang)
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
            if short <= 0 and (chosen := choose_nodes(gang, nodes, admitted)) is not None:
                break
        if chosen is None:
            for part in reversed(given):
                self._take_back(part)
            return None
        needed = []
        for part in reversed(given):  # who goes first of them goes on, if it need not yield
            self._take_back(part)
            if choose_nodes(gang, nodes, admitted) is None:
                self._yield(part)
                needed.append(part)
        self._trial.still_held((part.running.gang.id, part.holds) for part in needed)
        for part in needed:
            self._note(part, gang)
        return choose_nodes(gang, nodes, admitted)

    def resume(self, running: Running) -> bool:
        """Let a gang that had to yield go on where it was, if that is free again."""
        taken: list[tuple[int, Hold]] = []
        for at, hold in self._trial.holds(running):
            if not self._trial.nodes.can_take(at, hold):
                for earlier in taken:
                    self._trial.give(*earlier)
                return False
            self._trial.take(at, hold)
            taken.append((at, hold))
        self._trial.use(running.gang, (worker for worker, _ in running.held), 1)
        del self.evicted[running.gang.id]
        return True

    # --- who may ----------------------------------------------------------------------------------

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

    def _short_of_gpus(self, gang: Gang) -> int:
        """How many thousandths of a GPU must be given up at least."""
        size = equal_size(gang)
        if size is None or not size.needs.gpus:
            return 0
        workers = len(gang.least)
        fitting = int(np.minimum(self._trial.nodes.row(size).copies, workers).sum())
        return (workers - fitting) * size.needs.gpus * size.needs.gpu_millis

    def _whole_gangs(self, gang: Gang, turn: Turn) -> Iterator[Running]:
        """First those that yield in any case, then those that hold what is lent."""
        if not gang.may_preempt or self._policy.yielding is Yielding.NEVER:
            return
        by_order = self._policy.yielding is Yielding.ORDER
        reclaims = bool(self._index.quotas) and turn[2] == Standing.WITHIN
        lent = []
        for key, running in self._yielding:
            if running.gang.id in self.evicted:
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
        ripe = [each for each in running if self._trial.ran_ms(each) >= self._policy.min_run_ms]
        if self._policy.yielding is Yielding.ORDER:
            return sorted(
                ((turn_of_running(each, self._trial), each) for each in ripe),
                key=lambda item: item[0],
                reverse=True,
            )
        return sorted(
            (
                (
                    (each.gang.priority, self._trial.lost_ms(each) * each.gang.gpus, each.gang.id),
                    each,
                )
                for each in ripe
            ),
            key=lambda item: item[0],
        )

    def _borrows(self, running: Running) -> bool:
        return any(
            exceeded(quota, self._index.used_of(quota))
            for quota in self._index.quotas_of(running.gang)
        )

    def _leaving(self) -> Iterator[_Part]:
        leaving = (self._index.running[id] for id in self._index.leaving - self._left)
        for running in sorted(leaving, key=lambda r: (r.leaving_since_ms, r.gang.id)):
            yield self._part(running, _What.LEAVING, running.leaving)

    def _surplus(self, gang: Gang) -> Iterator[_Part]:
        elastic = (self._index.running[id] for id in self._index.elastic)
        for running in sorted(elastic, key=lambda r: (r.gang.priority, r.gang.id)):
            if running.gang.priority > gang.priority or running.gang.id in self.evicted:
                continue
            if running.gang.id in self.shrunk:
                running, _ = self.shrunk[running.gang.id]
            for worker, _ in reversed(running.held[running.gang.min_workers :]):
                yield self._part(running, _What.SURPLUS, {worker.replica})

    def _whole(self, running: Running) -> _Part:
        if running.gang.id in self.shrunk:  # less what it has to give up already
            running, _ = self.shrunk[running.gang.id]
        return self._part(running, _What.WHOLE, {worker.replica for worker, _ in running.held})

    def _part(self, running: Running, what: _What, replicas: Collection[str]) -> _Part:
        holds = tuple(
            (at, hold) for at, hold in self._trial.holds(running) if hold.replica in replicas
        )
        there = {hold.replica for _, hold in holds}
        workers = tuple(worker for worker, _ in running.held if worker.replica in there)
        return _Part(running, what, holds, workers)

    # --- who does ---------------------------------------------------------------------------------

    def _yield(self, part: _Part) -> None:
        for at, hold in part.holds:
            self._trial.give(at, hold)
        self._trial.use(part.running.gang, part.workers, -1)

    def _take_back(self, part: _Part) -> None:
        for at, hold in part.holds:
            self._trial.take(at, hold)
        self._trial.use(part.running.gang, part.workers, 1)

    def _note(self, part: _Part, by: Gang) -> None:
        id = part.running.gang.id
        if part.what is _What.LEAVING:
            self._left.add(id)
            return
        if part.what is _What.WHOLE:
            self.evicted[id] = (part.running, by.id)
            self._turns.push(part.running)
            return
        if id in self.evicted:
            return
        running, _ = self.shrunk.get(id, (part.running, by.id))
        gone = {hold.replica for _, hold in part.holds}
        held = tuple(item for item in running.held if item[0].replica not in gone)
        self.shrunk[id] = (replace(running, held=held), by.id)
