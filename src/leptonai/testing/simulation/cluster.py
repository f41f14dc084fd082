"""The simulated machines, checked against what really runs on them.

Whatever the control plane believes, the history of the fake engine is the truth. A promise broken
towards the machines is reported at the very instant.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

from leptonai.core.records import Termination
from leptonai.ports.clock import Clock
from leptonai.ports.engine import Attempt, AttemptId, Machine
from leptonai.testing.fake_engine import FakeEngine, Run
from leptonai.testing.simulation.script import script_of

SELF_FENCE_AFTER_S = 30.0  # a node cut off for so long ends everything it runs


class SimulatedCluster(FakeEngine):
    def __init__(
        self,
        machines: Iterable[Machine],
        *,
        clock: Clock,
        report: Callable[[str], None],
        on_stop: Callable[[AttemptId], None] = lambda attempt: None,
    ) -> None:
        """`on_stop` is told of every running attempt just before it gets its SIGTERM."""
        self.capacity = {machine.id: machine.capacity for machine in machines}
        self.address = {machine.address: machine.id for machine in machines}
        super().__init__(machines, clock=clock, script_of=script_of)
        self._report, self._on_stop = report, on_stop
        self._attempts: dict[AttemptId, Attempt] = {}  # everything that was ever to be started
        self._absent_until_s: dict[str, float] = {}

    # --- the engine, checked ---------------------------------------------------------------------

    async def start(self, attempt: Attempt, *, epoch: int) -> None:
        self._attempts[attempt.id] = attempt
        before = len(self.history)
        await super().start(attempt, epoch=epoch)
        for run in self.history[before:]:
            self._check_start(run)

    async def stop(self, node: str, attempt: AttemptId, *, grace_ms: int, epoch: int) -> None:
        if attempt in self.running():
            self._on_stop(attempt)
        await super().stop(node, attempt, grace_ms=grace_ms, epoch=epoch)

    # --- what is true ----------------------------------------------------------------------------

    def running(self) -> dict[AttemptId, Run]:
        return {run.attempt: run for run in self.history if run.ended_at_ms is None}

    def end_of(self, attempt: AttemptId) -> Termination | None:
        """How it really ended, as far as anybody can know."""
        for node in self._nodes.values():
            kept = node.kept.get(attempt)
            if kept is not None and kept.end is not None:
                return kept.end
        return None

    def answers(self, host: str, port: int) -> bool:
        node = self.address[host]
        return any(
            self.is_ready(node, id)
            for id, run in self.running().items()
            if run.node == node and port in self._attempts[id].ports
        )

    def remembered(self) -> dict[str, set[AttemptId]]:
        """By node: the ended attempts that it was not yet told to forget."""
        left: dict[str, set[AttemptId]] = {}
        for id, node in self._nodes.items():
            left[id] = {
                attempt
                for attempt, kept in node.kept.items()
                if kept.end is not None and not kept.forgotten
            }
        return left

    # --- what befalls the machines ---------------------------------------------------------------

    def vanish(self, node: str, for_s: float, *, power: bool) -> None:
        """Without power everything on it ends at once; cut off, it goes on for a while, unseen."""
        loop = asyncio.get_running_loop()
        back_at_s = loop.time() + for_s
        self._absent_until_s[node] = max(back_at_s, self._absent_until_s.get(node, 0))
        if power:
            self.kill_node(node)
        else:
            self.set_fenceable(node, False)
            self.cut_off(node)
            loop.call_later(SELF_FENCE_AFTER_S, self._fence_itself, node)
        loop.call_later(for_s, self._perhaps_back, node)

    def bring_back(self, node: str) -> None:
        self._absent_until_s.pop(node, None)
        self.revive_node(node)
        self.reconnect(node)
        self.set_fenceable(node, True)

    def _perhaps_back(self, node: str) -> None:
        until_s = self._absent_until_s.get(node)
        if until_s is not None and until_s <= asyncio.get_running_loop().time():
            self.bring_back(node)

    def _fence_itself(self, node: str) -> None:
        if self._nodes[node].cut_off:
            self.set_fenceable(node, True)
            for id, run in self.running().items():
                if run.node == node:
                    self.crash(node, id)

    # --- what must hold --------------------------------------------------------------------------

    def _check_start(self, began: Run) -> None:
        running = self.running()
        worker = self._worker(began.attempt)
        if sum(run.attempt == began.attempt for run in self.history) > 1:
            self._report(f"{began.attempt} is started twice")
        for other, run in running.items():
            if other != began.attempt and self._worker(other) == worker:
                self._report(f"{began.attempt} begins while {other} runs on {run.node}")
        here = [self._attempts[id] for id, run in running.items() if run.node == began.node]
        capacity = self.capacity[began.node]
        names = sorted(attempt.id for attempt in here)
        if sum(attempt.cpu_millis for attempt in here) > capacity.cpu_millis:
            self._report(f"{began.node} runs more than it has: {names}")
        devices = Counter(gpu for attempt in here for gpu in attempt.gpus)
        if any(many > 1 or gpu >= capacity.gpus for gpu, many in devices.items()):
            self._report(f"{began.node} runs two attempts on one GPU: {names}")

    def _worker(self, attempt: AttemptId) -> str:
        """Who it is of whom there may only be one: a worker of a job is the same in every round,
        and so is the head of a Ray cluster."""
        env = self._attempts[attempt].env
        if job := env.get("LEPTON_JOB_NAME"):
            return f"{job} {env['LEPTON_JOB_WORKER_INDEX']}"
        if env.get("LEPTON_RAYCLUSTER_GROUP") == "head":
            return f"the head of {env['LEPTON_RAYCLUSTER_NAME']}"
        return attempt.rpartition(".")[0]
