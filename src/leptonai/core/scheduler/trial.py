"""A decision tried out on an index: all that it takes and gives there is taken back at the end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from leptonai.core.resources import Free
from leptonai.core.scheduler.index import Index
from leptonai.core.scheduler.nodes import Hold
from leptonai.core.scheduler.quotas import Standing, standing
from leptonai.core.scheduler.values import Assignment, Gang, Quota, Running, Worker

Holds = Sequence[tuple[int, Hold]]  # by node


class Trial:
    def __init__(self, index: Index, now_ms: int) -> None:
        self.index = index
        self.policy = index.policy
        self.nodes = index.nodes
        self.now_ms = now_ms
        self._shares: dict[str, float] = {}
        # Of nodes where room is given before it is free: what is really free there, and whose end
        # the rest comes after.
        self._free_now: dict[int, Free] = {}
        self._after: dict[int, set[str]] = {}
        self._undo: list[Callable[[], None]] = []

    def undo(self) -> None:
        for take_back in reversed(self._undo):
            take_back()
        self.nodes.keep_nothing()

    # --- what changes -----------------------------------------------------------------------------

    def take(self, at: int, hold: Hold) -> None:
        self.nodes.take(at, hold)
        self._undo.append(partial(self.nodes.give, at, hold))

    def give(self, at: int, hold: Hold) -> None:
        self.nodes.give(at, hold)
        self._undo.append(partial(self.nodes.take, at, hold))

    def use(self, gang: Gang, workers: Iterable[Worker], sign: int) -> None:
        """Of its quotas, and of its user's share."""
        workers = tuple(workers)
        self._shares.pop(gang.user, None)
        for used in self.index.usages(gang):
            used.add(workers, sign)
            self._undo.append(partial(used.add, workers, -sign))

    def seat(
        self, workers: Sequence[Worker], chosen: Sequence[int]
    ) -> tuple[list[Assignment], list[tuple[int, Hold]]]:
        """Give the first of these workers what they need of the chosen nodes."""
        assignments, holds = [], []
        for worker, at in zip(workers, chosen, strict=False):
            to = self.nodes.assign(at, worker, self.now_ms)
            hold = Hold(worker.replica, worker.needs, to.gpus, to.ports, self.now_ms)
            self.take(at, hold)
            assignments.append(to)
            holds.append((at, hold))
        return assignments, holds

    def take_rendezvous_port(self, at: int, gang: str) -> int:
        port = self.nodes.rendezvous_port(at, gang, self.now_ms)
        self.nodes.take_port(at, port)
        self._undo.append(partial(self.nodes.give_port, at, port))
        return port

    def still_held(self, given: Iterable[tuple[str, Holds]]) -> None:
        """What these gangs have just given is not free yet: only who starts later may have it."""
        given = tuple(given)
        unmarked = {at for _, holds in given for at, _ in holds} - self._free_now.keys()
        for at in unmarked:
            self._free_now[at] = self.nodes.free(at, beside_kept=False)
        for gang, holds in given:
            for at, hold in holds:
                self._after.setdefault(at, set()).add(gang)
                if at in unmarked:
                    self._free_now[at] = self._free_now[at].take(hold.needs, hold.gpus)

    def waits_for(self, holds: Iterable[tuple[int, Hold]]) -> tuple[str, ...]:
        """The gangs that must leave before all this is really free; () if it is. Ask it once."""
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
                at: self._free_now[at].at_most(self.nodes.free(at, beside_kept=False))
                for at in free_now
            }
        self._free_now |= free_now
        return tuple(sorted(after))

    # --- what is asked ----------------------------------------------------------------------------

    def standing(self, gang: Gang) -> Standing:
        return self.standing_by(gang)[0] if self.index.quotas else Standing.WITHIN

    def standing_by(self, gang: Gang) -> tuple[Standing, Quota | None]:
        """And the quota by which it stands so."""
        return standing(gang, self.index.quotas_of(gang), self.index.used_of)

    def share(self, user: str) -> float:
        share = self._shares.get(user)
        if share is None:
            share = self._shares[user] = self.index.share(user)
        return share

    def holds(self, running: Running) -> Iterator[tuple[int, Hold]]:
        """Without the ports: those are free only when it has ended, and whoever starts here by
        then finds others."""
        for at, hold in self.index.holds(running):
            yield at, replace(hold, ports=()) if hold.ports else hold

    def ran_ms(self, running: Running) -> int:
        return self.now_ms - self._started_ms(running)

    def lost_ms(self, running: Running) -> int:
        """Of its work, if it yields now."""
        return max(0, self.now_ms - max(self._started_ms(running), running.saved_at_ms or 0))

    def _started_ms(self, running: Running) -> int:
        return self.now_ms if running.started_at_ms is None else running.started_at_ms
