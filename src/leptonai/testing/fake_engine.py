"""An engine in memory: several nodes, scripted programs, and every trouble a real one can have.

Deterministic: it takes its time from the event loop and its clock, and orders nothing by chance, so
that under `virtual_time` the same seed gives the same history.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from leptonai.core.records import EndReason, Termination
from leptonai.core.resources import Capacity
from leptonai.errors import Conflict, InvalidRequest, StaleEpoch, Unavailable
from leptonai.ports.clock import Clock
from leptonai.ports.engine import (
    Attempt,
    AttemptId,
    AttemptState,
    Cold,
    Ended,
    Loaded,
    LogChunk,
    LogMark,
    LogMarks,
    Machine,
    Observation,
    Running,
    Seen,
    TemplateState,
    Unreachable,
)

TERMINATED, KILLED, NOT_FOUND = 128 + 15, 128 + 9, 127
TEMPLATE_BYTES = 64 << 20  # that each takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a program does."""

    seconds: float | None = 0.0  # None runs for ever
    code: int = 0
    output: bytes = b""
    saves: bytes = b""  # is added to what its folder holds, all of which is then its output
    ignores_term: bool = False
    ends_after_term_s: float = 0.0
    ready_after_s: float | None = None  # None never gets ready
    refusal: str = ""  # why it cannot be started, if it cannot


def script_of(command: tuple[str, ...]) -> Script:
    """The script of a command::

    ("sleep", S)         exits 0 after S seconds
    ("exit", C)          exits with C at once
    ("fail", S, C)       exits with C after S seconds
    ("print", TEXT)      prints a line and exits 0
    ("save", TEXT)       adds a line to what it keeps, prints all of that and exits 0
    ("ignore-term",)     runs until it is killed
    ("serve", S)         runs for ever, and is ready after S seconds
    a pod's own          runs for ever, and is ready at once
    ("never-ready",)     runs for ever, and is not
    ("unstartable", WHY) cannot be started
    """
    match command:
        case ("sleep", seconds):
            return Script(seconds=float(seconds))
        case ("exit", code):
            return Script(code=int(code))
        case ("fail", seconds, code):
            return Script(seconds=float(seconds), code=int(code))
        case ("save", text):
            return Script(saves=text.encode() + b"\n")
        case ("print", text):
            return Script(output=text.encode() + b"\n")
        case ("ignore-term",):
            return Script(seconds=None, ignores_term=True)
        case ("serve", seconds):
            return Script(seconds=None, ready_after_s=float(seconds))
        case ("python", "-m", "leptonai.pod", _):
            return Script(seconds=None, ready_after_s=0.0)
        case ("never-ready",):
            return Script(seconds=None)
        case ("unstartable", why):
            return Script(refusal=why)
    return Script(code=NOT_FOUND, output=f"command not found: {command[0]}\n".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong with one ask."""

    ask_delay_s: float = 0.0  # before it takes effect
    answer_delay_s: float = 0.0  # after it took effect
    lost_ask: bool = False  # no effect, and no answer
    lost_answer: bool = False  # the effect, and no answer


@dataclass(slots=True)
class Run:
    """Processes of an attempt, as they truly were, whatever the caller was told."""

    attempt: AttemptId
    node: str
    started_at_ms: int
    ended_at_ms: int | None = None


@dataclass(slots=True, kw_only=True)
class _Kept:
    """What a node remembers of an attempt."""

    attempt: Attempt | None = None  # None: stopped before it started
    script: Script = field(default_factory=Script)
    run: Run | None = None
    began_s: float = 0.0  # by the event loop's time, which nobody sets
    end: Termination | None = None
    stop_asked: bool = False
    forgotten: bool = False
    log: bytes | None = None
    marks: list[LogMark] = field(default_factory=list)
    end_timer: asyncio.TimerHandle | None = None
    term_sent: bool = False
    term_timer: asyncio.TimerHandle | None = None
    kill_timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Node:
    machine: Machine
    dead: bool = False
    cut_off: bool = False
    fenceable: bool = True
    since_ms: int = 0
    ports_of_strangers: set[int] = field(default_factory=set)
    kept: dict[AttemptId, _Kept] = field(default_factory=dict)
    folders: dict[str, bytes] = field(default_factory=dict)  # what attempts share, by name
    templates: dict[str, TemplateState] = field(default_factory=dict)  # by key

    @property
    def unreachable(self) -> bool:
        return self.dead or self.cut_off


def a_machine(id: str, *, cpu_millis: int = 8_000, gpus: int = 0) -> Machine:
    capacity = Capacity(
        cpu_millis=cpu_millis,
        memory_bytes=32 << 30,
        disk_bytes=256 << 30,
        gpus=gpus,
        gpu_type="fake" if gpus else "",
    )
    return Machine(id=id, group="fake", capacity=capacity)


class FakeEngine:
    """`history` is the truth that invariants are checked against: no attempt may be in it twice,
    and two attempts of one replica may not overlap."""

    def __init__(
        self,
        machines: Iterable[Machine],
        *,
        clock: Clock,
        script_of: Callable[[Attempt], Script] = lambda attempt: script_of(attempt.command),
        trouble: Callable[[str, str, AttemptId], Trouble | None] = lambda ask, node, attempt: None,
    ) -> None:
        """`trouble` is asked before every ask, with its name ("start", "observe", …), node and
        attempt ("" where there is none)."""
        self._nodes = {machine.id: _Node(machine) for machine in machines}
        self._clock = clock
        self._script_of = script_of
        self.trouble = trouble
        self._epoch = 0
        self._dirty = set(self._nodes)
        self._changed = asyncio.Event()
        self._changed.set()
        self.history: list[Run] = []
        self.gpus_busy: dict[str, dict[int, float]] = {}  # what nodes tell of their GPUs

    # --- the port --------------------------------------------------------------------------------

    async def machines(self) -> tuple[Machine, ...]:
        return tuple(node.machine for node in self._nodes.values())

    async def start(self, attempt: Attempt, *, epoch: int) -> None:
        def effect(node: _Node) -> None:
            self._admit(epoch)
            if attempt.id not in node.kept:
                self._start(node, attempt)

        await self._ask("start", attempt.node, attempt.id, effect)

    async def warm(self, attempt: Attempt, *, epoch: int) -> None:
        def effect(place: _Node) -> None:
            self._admit(epoch)
            if attempt.warm is not None and attempt.warm.key not in place.templates:
                place.templates[attempt.warm.key] = _template_of(self._script_of(attempt))
                self._note_change(attempt.node)

        await self._ask("warm", attempt.node, attempt.id, effect)

    async def cool(self, node: str, key: str, *, epoch: int) -> None:
        def effect(place: _Node) -> None:
            self._admit(epoch)
            if place.templates.pop(key, None) is not None:
                self._note_change(node)

        await self._ask("cool", node, "", effect)

    async def stop(self, node: str, attempt: AttemptId, *, grace_ms: int, epoch: int) -> None:
        def effect(place: _Node) -> None:
            self._admit(epoch)
            self._stop(place, attempt, grace_ms / 1000)

        await self._ask("stop", node, attempt, effect)

    async def observe(self, node: str) -> Observation:
        seen: list[Observation] = []

        def effect(place: _Node) -> None:
            states: dict[AttemptId, AttemptState] = {}
            for id, kept in place.kept.items():
                if kept.end is not None and not kept.forgotten:
                    states[id] = Ended(kept.end)
                elif kept.run is not None and not kept.forgotten:
                    states[id] = Running(kept.run.started_at_ms)
            self._dirty.discard(node)
            if not self._dirty:
                self._changed.clear()
            seen.append(Seen(self._clock.now_ms(), states, dict(place.templates)))

        try:
            await self._ask("observe", node, "", effect)
        except Unavailable as error:
            self._dirty.discard(node)
            if not self._dirty:
                self._changed.clear()
            known = self._nodes.get(node)
            since = known.since_ms if known and known.unreachable else self._clock.now_ms()
            return Unreachable(since, error.message)
        return seen[0]

    async def listens(self, node: str, attempt: AttemptId, port: int) -> bool | None:
        answers: list[bool] = []

        def effect(place: _Node) -> None:
            kept = place.kept.get(attempt)
            answers.append(
                self.is_ready(node, attempt)
                and kept is not None
                and kept.attempt is not None
                and port in kept.attempt.ports
                and port not in place.ports_of_strangers
            )

        await self._ask("listens", node, attempt, effect)
        return answers[0]

    async def changed(self) -> None:
        await self._changed.wait()

    async def drop(self, node: str, keeps: str, *, epoch: int) -> None:
        def effect(place: _Node) -> None:
            self._admit(epoch)
            place.folders.pop(keeps, None)

        await self._ask("drop", node, "", effect)

    async def forget(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        def effect(place: _Node) -> None:
            self._admit(epoch)
            kept = place.kept.get(attempt)
            if kept is None:
                return
            if kept.end is None:
                raise Conflict(f"attempt {attempt} still runs", hint="stop it first")
            kept.forgotten = True
            self._note_change(node)

        await self._ask("forget", node, attempt, effect)

    async def remove(self, node: str, attempt: AttemptId, *, epoch: int) -> None:
        def effect(place: _Node) -> None:
            self._admit(epoch)
            kept = place.kept.get(attempt)
            if kept is not None and kept.forgotten:
                kept.log, kept.marks = None, []

        await self._ask("remove", node, attempt, effect)

    async def fence(self, node: str, *, epoch: int) -> bool:
        self._admit(epoch)
        place = self._nodes[node]
        if not place.fenceable:
            return False
        # From outside: also where the node cannot be reached.
        for id in list(place.kept):
            if place.kept[id].end is None:
                place.kept[id].stop_asked = True
                self._end(place, id, KILLED)
        place.templates.clear()
        return True

    async def read_log(
        self, node: str, attempt: AttemptId, *, offset: int, limit: int
    ) -> LogChunk | None:
        place = self._nodes.get(node)
        kept = place.kept.get(attempt) if place else None
        if kept is None or kept.log is None:
            return None
        return LogChunk(offset, kept.log[offset : offset + limit])

    async def gpu_use(self, node: str) -> Mapping[int, float]:
        await asyncio.sleep(0)
        return dict(self.gpus_busy.get(node, {}))

    async def log_marks(self, node: str, attempt: AttemptId) -> LogMarks:
        place = self._nodes.get(node)
        kept = place.kept.get(attempt) if place else None
        return LogMarks.of(kept.marks if kept else ())

    async def close(self) -> None:
        """Nothing of a fake is held outside it; what runs keeps running, in the same object."""

    # --- what the simulator does to it -----------------------------------------------------------

    def kill_node(self, node: str) -> None:
        """Pull its plug: what ran is gone, and nobody knows until it is fenced or comes back."""
        place = self._nodes[node]
        if not place.unreachable:
            place.since_ms = self._clock.now_ms()
        place.dead = True
        place.templates.clear()
        for id, kept in place.kept.items():
            if kept.end is None:
                self._end(place, id, None)
        self._note_change(node)

    def revive_node(self, node: str) -> None:
        """It boots again, and what had run on it is Lost."""
        self._nodes[node].dead = False
        self._note_change(node)

    def cut_off(self, node: str) -> None:
        """Nobody reaches it, and it goes on."""
        place = self._nodes[node]
        if not place.unreachable:
            place.since_ms = self._clock.now_ms()
        place.cut_off = True
        self._note_change(node)

    def reconnect(self, node: str) -> None:
        self._nodes[node].cut_off = False
        self._note_change(node)

    def set_fenceable(self, node: str, fenceable: bool) -> None:
        self._nodes[node].fenceable = fenceable

    def asked(self, node: str, attempt: AttemptId) -> Attempt | None:
        """What it was asked to run."""
        kept = self._nodes[node].kept.get(attempt)
        return kept.attempt if kept else None

    def take_port(self, node: str, port: int) -> None:
        """Something that is not ours listens there from now on."""
        self._nodes[node].ports_of_strangers.add(port)

    def free_port(self, node: str, port: int) -> None:
        self._nodes[node].ports_of_strangers.discard(port)

    def crash(self, node: str, attempt: AttemptId) -> None:
        """Its processes vanish, the one that would record it too: it is Lost."""
        place = self._nodes[node]
        if attempt in place.kept and place.kept[attempt].end is None:
            self._end(place, attempt, None)

    def is_ready(self, node: str, attempt: AttemptId) -> bool:
        """Whether a probe of it would succeed now."""
        place = self._nodes[node]
        kept = place.kept.get(attempt)
        if kept is None or kept.run is None or kept.end is not None or place.unreachable:
            return False
        after_s = kept.script.ready_after_s
        return after_s is not None and asyncio.get_running_loop().time() - kept.began_s >= after_s

    # --- inside ----------------------------------------------------------------------------------

    async def _ask(
        self, ask: str, node: str, attempt: AttemptId, effect: Callable[[_Node], None]
    ) -> None:
        trouble = self.trouble(ask, node, attempt) or Trouble()
        await asyncio.sleep(trouble.ask_delay_s)
        place = self._nodes.get(node)
        if place is None:
            if ask == "observe":
                raise Unavailable(f"this engine has no node {node!r}", hint="")
            raise InvalidRequest(f"this engine has no node {node!r}", hint="see `machines`")
        if place.unreachable or trouble.lost_ask:
            raise Unavailable(f"node {node} does not answer", hint="try again")
        effect(place)
        await asyncio.sleep(trouble.answer_delay_s)
        if trouble.lost_answer:
            raise Unavailable(f"the answer of node {node} was lost", hint="try again")

    def _admit(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise StaleEpoch(f"epoch {epoch} is over", hint="another control plane took over")
        self._epoch = epoch

    def _start(self, node: _Node, attempt: Attempt) -> None:
        script = self._script_of(attempt)
        now_ms = self._clock.now_ms()
        taken = [
            port
            for port in attempt.ports
            if port in node.ports_of_strangers or self._listens(node, port)
        ]
        kept = _Kept(attempt=attempt, script=script)
        node.kept[attempt.id] = kept
        if taken or script.refusal:
            why = script.refusal or f"port {taken[0]} is taken on {node.machine.id}"
            kept.end = _termination(
                attempt.id, EndReason.NOT_STARTED, message=why, finished_at_ms=now_ms
            )
        else:
            kept.run = Run(attempt.id, node.machine.id, now_ms)
            kept.began_s = asyncio.get_running_loop().time()
            self.history.append(kept.run)
            kept.log = script.output
            if script.saves:
                folder = attempt.keeps
                kept.log = node.folders[folder] = node.folders.get(folder, b"") + script.saves
            kept.marks = [(now_ms * 1_000_000, len(kept.log))]
            if script.seconds is not None:
                loop = asyncio.get_running_loop()
                kept.end_timer = loop.call_later(
                    script.seconds, self._end, node, attempt.id, script.code
                )
        self._note_change(node.machine.id)

    def _listens(self, node: _Node, port: int) -> bool:
        return any(
            kept.end is None and kept.attempt is not None and port in kept.attempt.ports
            for kept in node.kept.values()
        )

    def _stop(self, node: _Node, id: AttemptId, grace_s: float) -> None:
        kept = node.kept.get(id)
        if kept is None:
            end = _termination(
                id,
                EndReason.STOPPED,
                message="stopped before it started",
                finished_at_ms=self._clock.now_ms(),
            )
            node.kept[id] = _Kept(end=end)
            self._note_change(node.machine.id)
            return
        if kept.end is not None:
            return
        kept.stop_asked = True
        loop = asyncio.get_running_loop()
        if not kept.script.ignores_term and not kept.term_sent:
            kept.term_sent = True
            if kept.script.ends_after_term_s == 0:
                self._end(node, id, TERMINATED)
                return
            kept.term_timer = loop.call_later(
                kept.script.ends_after_term_s, self._end, node, id, TERMINATED
            )
        kill_at = loop.time() + grace_s
        if kept.kill_timer is None or kill_at < kept.kill_timer.when():
            if kept.kill_timer is not None:
                kept.kill_timer.cancel()
            kept.kill_timer = loop.call_at(kill_at, self._end, node, id, KILLED)

    def _end(self, node: _Node, id: AttemptId, code: int | None) -> None:
        """None leaves no status behind."""
        kept = node.kept[id]
        assert kept.end is None and kept.run is not None, id
        for timer in (kept.end_timer, kept.term_timer, kept.kill_timer):
            if timer is not None:
                timer.cancel()
        now_ms = self._clock.now_ms()
        kept.run.ended_at_ms = now_ms
        if kept.stop_asked:
            reason = EndReason.STOPPED
        elif code is None:
            reason = EndReason.LOST
        else:
            reason = EndReason.SIGNALLED if 128 < code <= 192 else EndReason.EXITED
        kept.end = _termination(
            id,
            reason,
            exit_code=code,
            started_at_ms=kept.run.started_at_ms,
            finished_at_ms=now_ms,
        )
        if kept.marks and kept.log is not None:
            kept.marks.append((now_ms * 1_000_000, len(kept.log)))
        self._note_change(node.machine.id)

    def _note_change(self, node: str) -> None:
        self._dirty.add(node)
        self._changed.set()


def _template_of(script: Script) -> TemplateState:
    """At once: only what gets ready has something to load."""
    if script.ready_after_s is None:
        return Cold("it never gets ready")
    return Loaded(TEMPLATE_BYTES)


def _termination(
    id: AttemptId,
    reason: EndReason,
    *,
    exit_code: int | None = None,
    message: str = "",
    started_at_ms: int | None = None,
    finished_at_ms: int,
) -> Termination:
    number = id.rpartition(".")[2]
    return Termination(
        reason=reason,
        attempt=int(number) if number.isdigit() else 0,
        exit_code=exit_code,
        message=message,
        started_at_ms=started_at_ms,
        finished_at_ms=finished_at_ms,
    )
