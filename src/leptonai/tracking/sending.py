"""The thread that takes what a training records from memory to the workspace, or to its folder.

The training only appends to a bounded queue. What is taken from it is written in order: to the
workspace while that answers, else to the run's folder, from where it is sent later. Each batch has
its writer and its number, so one that was sent twice is stored once.
"""

import logging
import os
import secrets
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from leptonai.blobs.points import MAX_BATCH_KEYS, Batch, Series, encode_batch
from leptonai.errors import Internal, LeptonError, StorageFull, TryLater
from leptonai.spec.runs import Run, RunSpec, RunState
from leptonai.tracking import facts
from leptonai.tracking.folder import PointsLog, RunFolder
from leptonai.tracking.machine import Machine
from leptonai.tracking.tensorboard import EventFile

if TYPE_CHECKING:
    from leptonai.client.synchronous.runs import Runs

SEND_EVERY_S = 0.5
SAMPLE_EVERY_S = 5.0
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 30.0
BATCH_POINTS = 40_000
MAX_QUEUED = 200_000  # calls of log; then the oldest are dropped

log = logging.getLogger("leptonai.run")

Logged = tuple[int, int, dict[str, float]]  # step, milliseconds since 1970, values


@dataclass(frozen=True, slots=True)
class Resume:
    step: int


@dataclass(frozen=True, slots=True)
class Change:
    spec: RunSpec
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class End:
    state: RunState
    message: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Reached when everything before it is safe."""

    reached: threading.Event = field(default_factory=threading.Event)


Entry = Logged | Resume | Change | End | Mark


class _Columns:
    """Points of one key that wait to be sent."""

    __slots__ = ("steps", "times", "values")

    def __init__(self) -> None:
        self.steps = array("q")
        self.values = array("d")
        self.times = array("q")


class _Writer:
    """Numbers the batches of one stream."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.id = secrets.token_hex(8)
        self.sequence = 0
        self.resume: int | None = None

    def batch(self, columns: dict[str, _Columns]) -> bytes:
        self.sequence += 1
        series = tuple(
            Series(key, each.steps.tobytes(), each.values.tobytes(), each.times.tobytes())
            for key, each in columns.items()
        )
        resume, self.resume = self.resume, None
        return encode_batch(Batch(self.id, self.sequence, self.stream, series, resume))


class Sender:
    """One to a process. `queue` is filled by the training, and emptied here."""

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        connect: "Callable[[], Runs | None]",
        *,
        rank: int,
    ) -> None:
        """Where there is nothing to connect to, everything stays in the folder."""
        self.queue: deque[Entry] = deque()
        self.dropped = 0  # points
        self.run = run
        self.thread: threading.Thread | None = None
        self.folder = folder
        self.rank = rank
        self.prefix = f"rank{rank}/" if rank else ""
        self.runs = connect()
        self._connect = connect
        self._forked = False
        self._refused = False
        self._begin_process()

    @property
    def behind(self) -> bool:
        """Whether something here is still to be sent."""
        return self.runs is not None and (not self._started or bool(self._logs))

    def start(self) -> None:
        with self._starting:
            if self.thread is not None:
                return
            if self._forked:
                self.runs = self._connect()
            self.thread = threading.Thread(target=self._work, name="lepton-run", daemon=True)
            self.thread.start()

    def forked(self) -> None:
        """In a child: the thread is gone, and what was queued is the parent's to send."""
        self.queue = deque()
        self.thread = None
        self.runs = None  # the parent's connections are the parent's
        for log_file in self._logs:
            log_file.close()
        self._forked = True
        self._begin_process()

    def make_room(self) -> None:
        """Drop the oldest points."""
        try:
            oldest = self.queue.popleft()
        except IndexError:
            return
        if isinstance(oldest, tuple):
            self._drop(len(oldest[2]), "they were logged faster than they can be sent")
        else:
            self.queue.appendleft(oldest)

    def wake(self) -> None:
        self._wake.set()

    # --- in the thread ---------------------------------------------------------------------------

    def _begin_process(self) -> None:
        self._starting = threading.Lock()
        self._wake = threading.Event()
        self._events: dict[str, EventFile] = {}  # by directory below the run's
        self._columns: dict[str, _Columns] = {}
        self._count = 0
        self._writer = _Writer(self.rank)
        self._machine_writer = _Writer(-1 - self.rank)
        self._changes: Change | None = None
        self._end: End | None = None
        self._started = False  # known to the workspace
        self._logs: list[PointsLog] = []  # to be sent in this order
        self._own_log: PointsLog | None = None  # the last of them
        self._sent_bytes = 0  # of the first of them
        self._retry_at_s = 0.0
        self._retry_s = FIRST_RETRY_S
        self._ended = False

    def _work(self) -> None:
        try:
            machine = None
            if not self._forked:
                self._take_change(Change(_facts(self.run.spec), self.run.metadata.labels or {}))
                machine = Machine(os.getpid(), gpus=_local_rank() == 0)
                if self.runs is not None:
                    self._logs = self.folder.orphaned_logs()
            sample_at_s = time.monotonic() + SAMPLE_EVERY_S
            while not self._ended:
                self._wake.wait(SEND_EVERY_S)
                self._wake.clear()
                if machine is not None and time.monotonic() >= sample_at_s:
                    sample_at_s = time.monotonic() + SAMPLE_EVERY_S
                    self._measure(machine)
                self._catch_up()
                self._take_all()
        except Exception:
            log.exception("the run is recorded no longer")
            self._refused = True
            while not self._ended:  # who waits for something is not kept waiting
                self._wake.wait(SEND_EVERY_S)
                self._wake.clear()
                for _ in range(len(self.queue)):
                    self._let_go(self.queue.popleft())

    def _take_all(self) -> None:
        for _ in range(len(self.queue)):
            entry = self.queue.popleft()
            if isinstance(entry, tuple):
                self._take(entry)
                continue
            self._send_columns()
            match entry:
                case Resume(step):
                    self._writer.resume = step
                    with suppress(OSError):
                        self._event_file().resume(step)
                    self._deliver(self._writer.batch({}), 0)
                case Change():
                    self._take_change(entry)
                case End():
                    self._end = entry
                    self._finish()
                case Mark():
                    self._catch_up()
                    entry.reached.set()
        self._send_columns()

    def _let_go(self, entry: Entry) -> None:
        if isinstance(entry, Mark):
            entry.reached.set()
        elif isinstance(entry, End):
            self._ended = True

    def _take(self, logged: Logged) -> None:
        step, at_ms, values = logged
        if len(self._columns) + len(values) > MAX_BATCH_KEYS:
            self._send_columns()
        columns = self._columns
        for key, value in values.items():
            each = columns.get(key)
            if each is None:
                each = columns[key] = _Columns()
            each.steps.append(step)
            each.values.append(value)
            each.times.append(at_ms)
        self._count += len(values)
        if self._count >= BATCH_POINTS:
            self._send_columns()

    def _send_columns(self) -> None:
        if not self._columns:
            return
        columns = {self.prefix + key: each for key, each in self._columns.items()}
        count, self._count, self._columns = self._count, 0, {}
        self._write_events(columns)
        self._deliver(self._writer.batch(columns), count)

    def _measure(self, machine: Machine) -> None:
        """The steps of the machine's curves are seconds since the run began."""
        now_ms = time.time_ns() // 1_000_000
        status = self.run.status
        since_s = max(0, now_ms - (status.started_at if status else now_ms)) // 1000
        columns: dict[str, _Columns] = {}
        for key, value in machine.sample().items():
            each = columns[self.prefix + key] = _Columns()
            each.steps.append(since_s)
            each.values.append(value)
            each.times.append(now_ms)
        self._write_events(columns, "machine")
        self._deliver(self._machine_writer.batch(columns), len(columns))

    def _write_events(self, columns: dict[str, _Columns], where: str = ".") -> None:
        try:
            events = self._event_file(where)
            for key, each in columns.items():
                events.add(key, each.steps, each.values, each.times)
        except OSError as failure:
            self.say(f"TensorBoard's events cannot be written: {failure}")

    def _event_file(self, where: str = ".") -> EventFile:
        """The machine's are a run of their own to TensorBoard, for their steps are seconds."""
        if where not in self._events:
            directory = self.folder.path / where
            directory.mkdir(exist_ok=True)
            self._events[where] = EventFile(directory)
        return self._events[where]

    def _deliver(self, batch: bytes, count: int) -> None:
        """To the workspace, else to the folder."""
        if self._refused:
            return
        if self.runs is not None and not self._logs and self._introduce():
            try:
                self.runs.append(self.run.metadata.id or "", batch)
                return
            except (TryLater, Internal) as failure:
                self._wait_before_retry(failure)
            except LeptonError as refusal:
                self._drop(count, refusal.message)
                return
        try:
            if self._own_log is None:
                self._own_log = self.folder.new_log()
                self._logs.append(self._own_log)
            self._own_log.append(batch)
        except StorageFull as full:
            self._drop(count, full.message)

    def _catch_up(self) -> None:
        """Send what the folder holds, once the workspace answers again."""
        if self.runs is None or self._refused or time.monotonic() < self._retry_at_s:
            return
        if not self._introduce():
            return
        try:
            while self._logs:
                self._send_log(self._logs[0], self.runs)
                self._logs.pop(0).remove()
                self._sent_bytes = 0
                self._own_log = self._own_log if self._logs else None
                self._retry_s = FIRST_RETRY_S
        except (TryLater, Internal) as failure:
            self._wait_before_retry(failure)
            return
        self._send_changes()

    def _send_log(self, log_file: PointsLog, runs: "Runs") -> None:
        for batch, offset in log_file.batches(self._sent_bytes):
            try:
                runs.append(self.run.metadata.id or "", batch)
            except (TryLater, Internal):
                raise
            except LeptonError as refusal:
                self.say(f"points were refused: {refusal.message}")
            self._sent_bytes = offset

    def _introduce(self) -> bool:
        """Whether the workspace knows the run."""
        if self._started or self.runs is None:
            return self._started
        if time.monotonic() < self._retry_at_s:
            return False
        try:
            known = self.runs.start(replace(self.run, status=None))
        except (TryLater, Internal) as failure:
            self._wait_before_retry(failure)
            return False
        except LeptonError as refusal:
            self.say(f"the workspace refuses the run, so it stays here: {refusal.message}")
            self.runs = None
            return False
        self.run = replace(self.run, status=known.status)
        self._started = True
        return True

    def _take_change(self, change: Change) -> None:
        if self.rank != 0:
            return  # rank 0 says it for all
        self.run = merged(self.run, change)
        self._save()
        before = self._changes or Change(RunSpec(), {})
        together = merged(replace(self.run, spec=before.spec), change)
        self._changes = Change(together.spec, before.labels | change.labels)
        self._send_changes()

    def _send_changes(self) -> None:
        if self._changes is None or self.runs is None or not self._introduce():
            return
        try:
            self.runs.update(
                self.run.metadata.id or "", spec=self._changes.spec, labels=self._changes.labels
            )
        except (TryLater, Internal) as failure:
            self._wait_before_retry(failure)
            return
        except LeptonError as refusal:
            self.say(f"what was recorded of the run was refused: {refusal.message}")
        self._changes = None

    def _finish(self) -> None:
        """Nothing comes after it."""
        assert self._end is not None
        self._catch_up()
        end, self._ended = self._end, True
        status = self.run.status
        if status is not None and end.state is not RunState.RUNNING:
            now_ms = time.time_ns() // 1_000_000
            ended = replace(status, state=end.state, message=end.message, ended_at=now_ms)
            self.run = replace(self.run, status=ended)
        if self.rank == 0:
            self._save()
            if self.runs is not None and self._introduce() and end.state is not RunState.RUNNING:
                try:
                    self.runs.end(self.run.metadata.id or "", end.state, end.message)
                except LeptonError as failure:
                    self.say(f"the end of the run could not be told: {failure.message}")
        for events in self._events.values():
            events.close()
        for log_file in self._logs:
            log_file.close()
        if self.behind:
            self.say(f"some points were not sent: leptonai run upload {self.folder.path}")

    def _save(self) -> None:
        try:
            self.folder.save(self.run)
        except OSError as failure:
            self.say(f"{self.folder.run_file} cannot be written: {failure}")

    def _wait_before_retry(self, failure: LeptonError) -> None:
        if self._retry_s == FIRST_RETRY_S:
            self.say(f"the workspace does not answer; recording goes on here: {failure.message}")
        self._retry_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(LONGEST_RETRY_S, 2 * self._retry_s)

    def _drop(self, count: int, why: str) -> None:
        if not self.dropped:
            self.say(f"points are dropped: {why}")
        self.dropped += count

    def say(self, text: str) -> None:
        log.warning("run %s: %s", self.run.metadata.name, text)


def merged(run: Run, change: Change) -> Run:
    """What is given under the same name is replaced."""
    spec, new = run.spec, change.spec
    return replace(
        run,
        metadata=replace(run.metadata, labels={**(run.metadata.labels or {}), **change.labels}),
        spec=replace(
            spec,
            params=spec.params | new.params,
            datasets=spec.datasets | new.datasets,
            models=spec.models | new.models,
            environment=spec.environment | new.environment,
            artifacts=spec.artifacts | new.artifacts,
            git=new.git or spec.git,
            command=new.command or spec.command,
        ),
    )


def _facts(given: RunSpec) -> RunSpec:
    return replace(
        given,
        git=facts.shipped_git_state() or facts.git_state(facts.script_directory()),
        environment=facts.environment(),
        command=facts.command(),
    )


def _local_rank() -> int:
    text = os.environ.get("LOCAL_RANK", "0")
    return int(text) if text.isdigit() else 0
