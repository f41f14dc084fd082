"""What goes on in pods: each that runs is asked, and answers when something has changed.

What it tells of itself comes into its record, what happened becomes events, and one in which nobody
has worked for as long as its user said is stopped.
"""

import asyncio
import logging
from typing import Protocol

from msgspec.structs import replace

from leptonai.control.loops.loop import RETRY_AFTER_MS, retry_ms
from leptonai.control.mirror import Key, Mirror, Watch, serves
from leptonai.core.pods import idleness, stopped_for_idleness
from leptonai.core.records import (
    Endpoint,
    Event,
    Goal,
    Phase,
    PodSeen,
    Replica,
    Severity,
    event_of,
)
from leptonai.errors import TryLater, Unavailable, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Emit, Fence, Put, Store
from leptonai.spec.pods import PodReport

MAX_TEXT_CHARS = 500  # of what a pod says of itself: its programs may have it say anything

log = logging.getLogger("leptonai.control")


class PodReader(Protocol):
    async def report(
        self, host: str, port: int, key: str, *, after: int, watch_cpu: bool
    ) -> PodReport:
        """How a pod is, as soon as it is of another version than `after`, or after a while.

        Args:
            watch_cpu: have it look at how busy its programs are.

        Raises:
            Unavailable: it does not answer.
        """
        ...


class PodsLoop:
    name = "pods"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        fence: Fence,
        clock: Clock,
        reader: PodReader,
        pod_key: "PodKey",
    ) -> None:
        self.watch: Watch = mirror.watch(Replica, Endpoint, only=serves)
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        self._reader = reader
        self._pod_key = pod_key
        self._asking: dict[tuple[Key, str], asyncio.Task[None]] = {}  # by pod and attempt
        self._reports: dict[tuple[Key, str], PodReport] = {}

    async def step(self) -> int | None:
        self.watch.take()
        running = self._running()
        for attempt in [each for each in self._asking if each not in running]:
            self._asking.pop(attempt).cancel()
            self._reports.pop(attempt, None)
        for attempt, replica in running.items():
            task = self._asking.get(attempt)
            if task is None:
                self._asking[attempt] = asyncio.create_task(self._follow(attempt, replica))
            elif task.done():
                task.result()
        looks = [await self._tend(attempt) for attempt in running]
        return min((at for at in looks if at is not None), default=None)

    def close(self) -> None:
        for task in self._asking.values():
            task.cancel()

    def _running(self) -> dict[tuple[Key, str], Replica]:
        return {
            ((r.workspace, r.owner_id), r.attempt_id): r
            for r in self._mirror.replicas.values()
            if r.program.pod and r.phase is Phase.RUNNING and r.goal is Goal.RUN and r.ready
        }

    async def _follow(self, attempt: tuple[Key, str], replica: Replica) -> None:
        failures, after = 0, 0
        while True:
            pod = self._mirror.endpoints.get(attempt[0])
            nodes = {node.id: node.address for node in self._mirror.nodes.values()}
            if pod is None or replica.node not in nodes:
                await asyncio.sleep(retry_ms(1) / 1000)
                continue
            try:
                report = await self._reader.report(
                    nodes[replica.node],
                    replica.ports[0],
                    self._pod_key(pod.workspace, pod.id),
                    after=after,
                    watch_cpu=bool(pod.spec.pod and pod.spec.pod.idle_stop_seconds),
                )
            except Unavailable as error:
                failures += 1
                log.debug("pod %s: %s", pod.name, error)
                await asyncio.sleep(retry_ms(failures) / 1000)
                continue
            failures, after = 0, report.version
            self._reports[attempt] = report
            self.watch.news.set()

    async def _tend(self, attempt: tuple[Key, str]) -> int | None:
        """Write down what a pod told, and what follows from it; say when to look again."""
        pod, report = self._mirror.endpoints.get(attempt[0]), self._reports.get(attempt)
        if pod is None or report is None or pod.wanted == 0:
            return None
        now_ms = self._clock.now_ms()
        seen, events = told(pod, attempt[1], report)
        idle = idleness(replace(pod, pod=seen), report.activity, now_ms)
        after = replace(pod, pod=replace(seen, idle_since_ms=idle.since_ms))
        if idle.stop:
            after = stopped_for_idleness(after, now_ms)
            events.append(_idle_event(after, now_ms - (idle.since_ms or now_ms)))
        if after != pod:
            emits = [Emit(replace(event, at_ms=now_ms)) for event in events]
            try:
                await self._mirror.commit(self._store, Put(after), *emits, fence=self._fence)
            except VersionConflict:
                return now_ms + RETRY_AFTER_MS  # it changed meanwhile: its news are on their way
            except TryLater:
                return now_ms + retry_ms(5)
        return None if idle.stop else idle.look_at_ms


class PodKey(Protocol):
    def __call__(self, workspace: str, pod: str, /) -> str: ...


def told(pod: Endpoint, attempt: str, report: PodReport) -> tuple[PodSeen, list[Event]]:
    """What its record says after a report, and the events that are new in it."""
    before = pod.pod
    if before.attempt != attempt:
        before = PodSeen(node=before.node, home=before.home, ports=before.ports, attempt=attempt)
    notes = [note for note in report.notes if note.number > before.told]
    seen = replace(
        before,
        ssh_host_key=_bounded(report.ssh_host_key),
        user=_bounded(report.user),
        home=_bounded(report.home),
        jupyter=_bounded(report.jupyter),
        told=max((note.number for note in notes), default=before.told),
    )
    events = [
        event_of(pod, _bounded(note.reason), _bounded(note.message), Severity(note.severity))
        for note in notes
    ]
    return seen, events


def _bounded(text: str) -> str:
    return "".join(c for c in text[:MAX_TEXT_CHARS] if c.isprintable())


def _idle_event(pod: Endpoint, idle_ms: int) -> Event:
    minutes = idle_ms // 60_000
    return event_of(
        pod,
        "IdleStopped",
        f"stopped: for {minutes} min there was no session, no connection and no work; its files "
        f"stay, and `leptonai pod start {pod.name}` starts it again",
    )
