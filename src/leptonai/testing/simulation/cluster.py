"""Simulated machines, which keep the promise of the engine port and remember what really happened.

Truth lives here: whatever the control plane believes, this is what ran. A promise that the control
plane breaks towards the machines is a `Violation` at the very instant.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from leptonai.core.records import EndReason, Termination
from leptonai.errors import StaleEpoch, Unavailable
from leptonai.ports.engine import (
    Attempt,
    AttemptId,
    AttemptState,
    Ended,
    LogChunk,
    LogMark,
    Machine,
    Observation,
    Running,
    Seen,
    Unreachable,
)
from leptonai.testing.simulation.script import Script, script_of
from leptonai.testing.virtual_time import VirtualClock

SELF_FENCE_AFTER_S = 30  # a node cut off for so long ends everything it runs


class Violation(AssertionError):
    """An invariant of the platform does not hold."""


def violated(what: str) -> None:
    raise Violation(what)


@dataclass
class _Live:
    """An attempt as its node knows it."""

    attempt: Attempt | None  # None: it was stopped before it was started
    script: Script | None
    state: AttemptState
    began_ms: int
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    forgotten: bool = False
    term_sent: bool = False


@dataclass
class SimulatedNode:
    machine: Machine
    on: bool = True  # powered
    connected: bool = True
    out_of_sight_since_ms: int | None = None
    out_of_sight_since_s: float = 0  # in steady time
    epoch: int = 0
    known: dict[AttemptId, _Live] = field(default_factory=dict)
    ports_of_strangers: set[int] = field(default_factory=set)

    @property
    def reachable(self) -> bool:
        return self.on and self.connected

    def running(self) -> list[Attempt]:
        return [
            live.attempt
            for live in self.known.values()
            if isinstance(live.state, Running) and live.attempt is not None
        ]


class SimulatedCluster:
    """Several nodes behind one engine."""

    def __init__(
        self,
        machines: list[Machine],
        clock: VirtualClock,
        *,
        on_term: Callable[[AttemptId], None] = lambda attempt: None,
        report: Callable[[str], None] = violated,
    ) -> None:
        self.nodes = {machine.id: SimulatedNode(machine) for machine in machines}
        self.started: Counter[AttemptId] = Counter()  # how often each really began
        self.ends: dict[AttemptId, Termination] = {}  # how each really ended
        self.version = 0  # counts what an observer could have noticed
        self._clock = clock
        self._on_term = on_term  # just before a SIGTERM reaches a running attempt
        self._report = report
        self._news = asyncio.Event()

    # --- the engine ------------------------------------------------------------------------------

    async def machines(self) -> tuple[Machine, ...]:
        return tuple(node.machine for node in self.nodes.values())

    async def start(self, attempt: Attempt, *, epoch: int) -> None:
        node = self._node(attempt.node, epoch)
        if attempt.id in node.known:
            return
        if self.started[attempt.id]:
            self._report(f"{attempt.id} is started again after it was removed")
        taken = {port for other in node.running() for port in other.ports}
        if clash := (taken | node.ports_of_strangers) & set(attempt.ports):
            how = Termination(
                reason=EndReason.NOT_STARTED,
                message=f"port {min(clash)} is taken",
                finished_at_ms=self._clock.now_ms(),
            )
            node.known[attempt.id] = _Live(attempt, None, Ended(how), self._clock.now_ms())
            self.ends[attempt.id] = how
            self._changed()
            return
        self._begin(node, attempt)

    async def stop(self, node: str, attempt: AttemptId, *, grace_ms: int, epoch: int) -> None:
        where = self._node(node, epoch)
        live = where.known.get(attempt)
        if live is None:
            how = Termination(reason=EndReason.STOPPED, finished_at_ms=self._clock.now_ms())
            where.known[attempt] = _Live(None, None, Ended(how), self._clock.now_ms())
            self._changed()
            return
        if live.term_sent or not isinstance(live.state, Running) or live.script is None:
            return
        live.term_sent = True
        self._on_term(attempt)
        heeds_ms = live.script.heeds_term_after_ms
        if heeds_ms is None or heeds_ms > grace_ms:
            self._later(live, grace_ms, lambda: self._end(live, EndReason.STOPPED, 137))
        else:
            self._later(live, heeds_ms, lambda: self._end(live, EndReason.STOPPED, 143))

    async def observe(self, node: str) -> Observation:
        where = self.nodes[node]
        if not where.reachable:
            return Unreachable(where.out_of_sight_since_ms or 0, "it does not answer")
        return Seen(
            self._clock.now_ms(),
            {id: live.state for id, live in where.known.items() if not live.forgotten},
        )

    async def changed(self) -> None:
        """As one observer; each handle of the simulation keeps its own `version`."""
        await self.changed_since(self.version)

    async def changed_since(self, version: int) -> int:
        while self.version == version:
            self._news.clear()
            await self._news.wait()
        return self.version

    async def forget(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        live = self._node(node, epoch).known.get(attempt)
        if live is not None and isinstance(live.state, Ended):
            live.forgotten = True

    async def remove(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        where = self._node(node, epoch)
        live = where.known.get(attempt)
        if live is not None and live.forgotten:
            del where.known[attempt]

    async def fence(self, node: str, *, epoch: int) -> bool:
        """Certain once the node is off, or has been cut off long enough to have ended all itself."""
        where = self.nodes[node]
        if where.reachable:
            where.epoch = max(where.epoch, epoch)
        elif where.on and _steady_s() - where.out_of_sight_since_s < SELF_FENCE_AFTER_S:
            return False
        self._end_all(where, EndReason.LOST)
        return True

    async def read_log(
        self, node: str, attempt: AttemptId, *, offset: int, limit: int
    ) -> LogChunk | None:
        return None

    async def log_marks(self, node: str, attempt: AttemptId) -> tuple[LogMark, ...]:
        return ()

    async def close(self) -> None:
        """What runs keeps running."""

    # --- what befalls the machines ---------------------------------------------------------------

    def power_off(self, node: str) -> None:
        """All that runs ends, and nobody records how."""
        where = self.nodes[node]
        where.on = False
        self._out_of_sight(where)
        self._end_all(where, EndReason.LOST)

    def cut_off(self, node: str) -> None:
        """What runs goes on, unseen; after SELF_FENCE_AFTER_S the node ends it all."""
        where = self.nodes[node]
        where.connected = False
        self._out_of_sight(where)
        since_s = where.out_of_sight_since_s

        def fence_itself() -> None:
            if not where.connected and where.out_of_sight_since_s == since_s:
                self._end_all(where, EndReason.LOST)

        asyncio.get_running_loop().call_later(SELF_FENCE_AFTER_S, fence_itself)

    def bring_back(self, node: str) -> None:
        where = self.nodes[node]
        where.on = where.connected = True
        where.out_of_sight_since_ms = None
        self._changed()

    def kill(self, attempt: AttemptId) -> None:
        """Somebody on the machine kills the program (SIGKILL)."""
        for node in self.nodes.values():
            live = node.known.get(attempt)
            if live is not None:
                self._end(live, EndReason.SIGNALLED, 137)

    # --- what is true ----------------------------------------------------------------------------

    def running(self) -> dict[AttemptId, str]:
        """Every attempt that runs, and where."""
        return {run.id: node.machine.id for node in self.nodes.values() for run in node.running()}

    def answers(self, host: str, port: int) -> bool:
        for node in self.nodes.values():
            if node.machine.address != host or not node.reachable:
                continue
            for live in node.known.values():
                if (
                    live.attempt is None
                    or live.script is None
                    or live.script.answers_after_ms is None
                ):
                    continue
                if not isinstance(live.state, Running) or port not in live.attempt.ports:
                    continue
                return self._clock.now_ms() - live.began_ms >= live.script.answers_after_ms
        return False

    # --- inside ----------------------------------------------------------------------------------

    def _node(self, node: str, epoch: int) -> SimulatedNode:
        where = self.nodes[node]
        if not where.reachable:
            raise Unavailable(f"node {node} does not answer")
        if epoch < where.epoch:
            raise StaleEpoch(f"epoch {epoch} is older than {where.epoch}")
        where.epoch = epoch
        return where

    def _begin(self, node: SimulatedNode, attempt: Attempt) -> None:
        replica = attempt.id.rpartition(".")[0]
        for other, where in self.running().items():
            if other.rpartition(".")[0] == replica:
                self._report(f"{attempt.id} begins while {other} runs on {where}")
        self.started[attempt.id] += 1
        script = script_of(attempt.command)
        now_ms = self._clock.now_ms()
        live = _Live(attempt, script, Running(now_ms), now_ms)
        node.known[attempt.id] = live
        self._check_capacity(node)
        if script.runs_ms is not None:
            code = script.exit_of(int(attempt.id.rpartition(".")[2]))
            reason = EndReason.EXITED if code >= 0 else EndReason.SIGNALLED
            exit_code = code if code >= 0 else 128 - code
            self._later(live, script.runs_ms, lambda: self._end(live, reason, exit_code))
        self._changed()

    def _check_capacity(self, node: SimulatedNode) -> None:
        running, capacity = node.running(), node.machine.capacity
        cpu_millis = sum(attempt.cpu_millis for attempt in running)
        devices = Counter(gpu for attempt in running for gpu in attempt.gpus)
        names = sorted(attempt.id for attempt in running)
        if cpu_millis > capacity.cpu_millis:
            self._report(f"{node.machine.id} runs more than it has: {names}")
        if any(many > 1 or gpu >= capacity.gpus for gpu, many in devices.items()):
            self._report(f"{node.machine.id} runs two attempts on one GPU: {names}")

    def _end(self, live: _Live, reason: EndReason, exit_code: int | None) -> None:
        if not isinstance(live.state, Running) or live.attempt is None:
            return
        how = Termination(
            reason=reason,
            attempt=int(live.attempt.id.rpartition(".")[2]),
            exit_code=exit_code,
            started_at_ms=live.state.started_at_ms,
            finished_at_ms=self._clock.now_ms(),
        )
        live.state = Ended(how)
        self.ends[live.attempt.id] = how
        for timer in live.timers:
            timer.cancel()
        self._changed()

    def _end_all(self, node: SimulatedNode, reason: EndReason) -> None:
        for live in node.known.values():
            self._end(live, reason, None)

    def _later(self, live: _Live, after_ms: int, do: Callable[[], None]) -> None:
        live.timers.append(asyncio.get_running_loop().call_later(after_ms / 1000, do))

    def _out_of_sight(self, node: SimulatedNode) -> None:
        if node.out_of_sight_since_ms is None:
            node.out_of_sight_since_ms = self._clock.now_ms()
            node.out_of_sight_since_s = _steady_s()
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._news.set()


def _steady_s() -> float:
    return asyncio.get_running_loop().time()
