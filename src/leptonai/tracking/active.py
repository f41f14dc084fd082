"""The run that a process records: what a training calls."""

import atexit
import os
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from leptonai.blobs.points import MAX_BATCH_KEYS
from leptonai.errors import Conflict, InvalidRequest, LeptonError, TryLater
from leptonai.spec.metadata import Metadata
from leptonai.spec.names import check_label
from leptonai.spec.runs import (
    MAX_KEY_CHARS,
    MAX_STEP,
    Run,
    RunSpec,
    RunState,
    RunStatus,
    Scalar,
    check_key,
    check_params,
    check_run_id,
    check_run_name,
    run_id_of_job,
)
from leptonai.tracking.folder import check_artifact_name, folder_of
from leptonai.tracking.sending import MAX_QUEUED, Change, End, Mark, Resume, Sender

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.client.synchronous.runs import Runs

FLUSH_WAIT_S = 30.0
EXIT_WAIT_S = 10.0  # that a process waits at its end for the last points to be sent
ANSWER_WAIT_S = 20.0
MAX_KEYS_KNOWN = 100_000
MAX_PARAM_CHARS_SHOWN = 1_000  # of a parameter that is no number, text or truth

Tags = Mapping[str, str] | Iterable[str]


def begin(
    name: str | None,
    *,
    params: Mapping[str, Any] | None,
    tags: Tags | None,
    project: str | None,
    id: str | None,
    directory: str | Path | None,
    client: "LeptonClient | None",
    local: bool,
) -> "ActiveRun":
    variables = os.environ
    job = variables.get("LEPTON_JOB_NAME", "")
    rank = _rank(variables)
    if id is not None:
        check_run_id(id)
    elif job:
        id = run_id_of_job(variables.get("LEPTON_WORKSPACE_ID", ""), job)
    else:
        id = secrets.token_hex(16)
    name = name or job.rpartition("-")[0] or _script_name()
    check_run_name(name)
    labels = _labels(tags, project)
    run = Run(
        metadata=Metadata(id=id, name=name, labels=labels or None),
        spec=RunSpec(job=job, params=_params(params or {})),
        status=RunStatus(state=RunState.RUNNING, started_at=time.time_ns() // 1_000_000),
    )
    folder = folder_of(id, None if directory is None else Path(directory))

    def connect() -> "Runs | None":
        return None if local else _runs(client, job)

    active = ActiveRun(Sender(run, folder, connect, rank=rank))
    if rank == 0 or job:  # elsewhere the ranks have no run in common
        active.record()
    return active


class ActiveRun:
    """A run that this process records to.

    `log` costs about a microsecond and never waits: a thread sends what it was given. So a value
    that is no number yet, such as a tensor on a GPU, is made one here, and may make the caller
    wait for the GPU.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._known: set[str] = set()
        self._next_step = 0
        self._records = False
        self._over = False
        self._pid = os.getpid()

    @property
    def id(self) -> str:
        return self._sender.run.metadata.id or ""

    @property
    def name(self) -> str:
        return self._sender.run.metadata.name or ""

    @property
    def directory(self) -> Path:
        """Where its files are on this machine."""
        return self._sender.folder.path

    @property
    def dropped(self) -> int:
        """Points that were lost because there were too many to keep."""
        return self._sender.dropped

    def log(
        self, values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any
    ) -> None:
        """Record the value of each key at a step; without one, at the step after the last.

        A key has one value at a step: the last that was logged.

        Raises:
            InvalidRequest: a key is not allowed, or a value is no number.
            Conflict: the run is over.
        """
        entry: dict[str, Any] = {**values, **more} if values else more
        if step is None:
            step = self._next_step
        elif type(step) is not int or not -MAX_STEP <= step < MAX_STEP:
            step = _step(step)
        self._next_step = step + 1
        known = self._known
        for key, value in entry.items():
            if type(value) is not float:
                entry[key] = _number(key, value)
            if key not in known:
                self._admit(key)
        if len(entry) > MAX_BATCH_KEYS:
            raise InvalidRequest(
                f"{len(entry)} keys at once", hint=f"Log at most {MAX_BATCH_KEYS} in a call."
            )
        sender = self._sender
        queue = sender.queue
        queue.append((step, time.time_ns() // 1_000_000, entry))
        if len(queue) > MAX_QUEUED:
            sender.make_room()
        if sender.thread is None:
            self._look_after_queue()

    def log_params(self, params: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """What the training was configured with. Nested ones get names with dots."""
        self._change(RunSpec(params=_params({**(params or {}), **more})))

    def log_tags(self, *words: str, **pairs: str) -> None:
        """What to find the run by."""
        self._change(RunSpec(), _labels({**dict.fromkeys(words, ""), **pairs}, None))

    def log_data(self, **datasets: Any) -> None:
        """Which data it reads, by role: `train="pets@3"`, or the `Dataset` itself."""
        self._change(RunSpec(datasets={_role(r): _reference(d) for r, d in datasets.items()}))

    def log_model(self, **models: Any) -> None:
        """Which models it starts from or makes, by role: `made="cat-dog@4"`."""
        self._change(RunSpec(models={_role(r): _reference(m) for r, m in models.items()}))

    def log_artifact(self, path: str | Path, name: str | None = None) -> None:
        """Keep a file or a directory with the run. Returns when it is kept.

        Raises:
            NotFound: there is nothing at the path.
        """
        source = Path(path)
        name = name or source.name
        check_artifact_name(name)
        sender = self._sender
        if not self._records or sender.rank != 0:
            return
        self.flush()  # the workspace has to know the run
        if sender.runs is not None:
            try:
                sender.runs.push_artifact(self.id, name, source)
                return
            except TryLater as failure:
                sender.say(f"the artifact {name} stays here for now: {failure.message}")
        sender.folder.keep_artifact(name, source)

    def resume(self, step: int) -> None:
        """The training goes on from its checkpoint of this step: what was recorded after it is
        superseded. Call it when the checkpoint has been loaded, and before anything is logged."""
        self._check_open()
        step = _step(step)
        self._next_step = step + 1
        if self._records:
            self._sender.queue.append(Resume(step))
            self._wake()

    def flush(self, timeout_s: float = FLUSH_WAIT_S) -> bool:
        """Wait until everything logged is safe: at the workspace, or else in the run's directory.

        Call it before a checkpoint is saved: then a process that is killed loses none before it.

        Returns:
            whether it is, and nothing is still to be sent.
        """
        if not self._records or self._over:
            return True
        mark = Mark()
        self._sender.queue.append(mark)
        self._wake()
        return mark.reached.wait(timeout_s) and not self._sender.behind

    def finish(self, state: str | RunState = RunState.FINISHED, message: str = "") -> None:
        """Send what is left and end the run: "finished", "failed" or "stopped"."""
        try:
            ended = RunState(str(state).capitalize())
        except ValueError:
            raise InvalidRequest(
                f"a run cannot end as {state!r}", hint="Use finished, failed or stopped."
            ) from None
        self._end(ended, message, FLUSH_WAIT_S)

    def __enter__(self) -> "ActiveRun":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        elif self._sender.run.spec.job:
            self._end(RunState.RUNNING, "", FLUSH_WAIT_S)  # the job decides whether it goes on
        else:
            stopped = issubclass(kind, KeyboardInterrupt)
            state = RunState.STOPPED if stopped else RunState.FAILED
            self.finish(state, f"{kind.__name__}: {error}"[:MAX_PARAM_CHARS_SHOWN])

    # --- what the module does --------------------------------------------------------------------

    def record(self) -> None:
        """Begin to send."""
        self._records = True
        self._sender.start()
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self._at_exit)

    @property
    def over(self) -> bool:
        return self._over

    def _forked(self) -> None:
        if not self._over:
            self._sender.forked()

    def _at_exit(self) -> None:
        """Of a process that did not say how it ended. A job's run ends with its job."""
        if self._over:
            return
        if os.getpid() != self._pid or self._sender.run.spec.job:
            self._end(RunState.RUNNING, "", EXIT_WAIT_S)
            return
        failure: BaseException | None = getattr(sys, "last_value", None)
        if failure is None:
            self._end(RunState.FINISHED, "", EXIT_WAIT_S)
        else:
            why = f"{type(failure).__name__}: {failure}"[:MAX_PARAM_CHARS_SHOWN]
            self._end(RunState.FAILED, why, EXIT_WAIT_S)

    def _end(self, state: RunState, message: str, wait_s: float) -> None:
        if self._over:
            return
        if self._records and (self._sender.thread is not None or self._sender.queue):
            self._sender.queue.append(End(state, message))
            self._wake()
            thread = self._sender.thread
            if thread is not None:
                thread.join(wait_s)
        self._over = True
        self._sender.thread = None
        atexit.unregister(self._at_exit)

    def _change(self, spec: RunSpec, labels: dict[str, str] | None = None) -> None:
        self._check_open()
        if self._records:
            self._sender.queue.append(Change(spec, labels or {}))
            self._wake()

    def _wake(self) -> None:
        if self._sender.thread is None:
            self._sender.start()
        self._sender.wake()

    def _look_after_queue(self) -> None:
        """Nobody empties the queue: because the process was forked, or the run does not record."""
        self._check_open()
        if self._records:
            self._sender.start()
        else:
            self._sender.queue.clear()

    def _admit(self, key: str) -> None:
        self._check_open()
        check_key(key)
        if len(key) > MAX_KEY_CHARS - len(self._sender.prefix):
            raise InvalidRequest(f"the key {key[:60]!a} is too long", hint="Shorten it.")
        if len(self._known) < MAX_KEYS_KNOWN:
            self._known.add(key)

    def _check_open(self) -> None:
        if self._over:
            raise Conflict(f"the run {self.name} is over", hint="start another: run.start()")


def _runs(client: "LeptonClient | None", job: str) -> "Runs | None":
    """Where runs are sent to; None where there is no workspace."""
    from leptonai.client import LeptonClient

    url: str | None
    token: str | None
    if client is not None:
        url, token = client.connection.url, client.connection.token
    else:
        url, token = None, os.environ.get("LEPTON_WORKSPACE_TOKEN")
        if job:
            token = token or os.environ.get("LEPTON_RUN_TOKEN")
    try:
        own = LeptonClient(url=url, token=token, retry_for_s=0.0, timeout_s=ANSWER_WAIT_S)
    except LeptonError:  # nothing says where a workspace is
        return None
    return own.runs


def _rank(variables: Mapping[str, str]) -> int:
    for name in ("RANK", "LEPTON_JOB_WORKER_INDEX"):
        text = variables.get(name, "")
        if text.isdigit():
            return int(text)
    return 0


def _script_name() -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).stem[:64] if file else "run"


def _labels(tags: Tags | None, project: str | None) -> dict[str, str]:
    if tags is None:
        labels: dict[str, str] = {}
    elif isinstance(tags, Mapping):
        labels = {str(key): str(value) for key, value in tags.items()}
    else:
        labels = {str(each): "" for each in tags}
    if project is not None:
        labels["project"] = project
    for key, value in labels.items():
        check_label(key, value)
    return labels


def _params(params: Mapping[str, Any]) -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    todo = [("", params)]
    while todo:
        prefix, level = todo.pop()
        for key, value in level.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                todo.append((f"{name}.", value))
            elif value is None or isinstance(value, str | bool | int):
                flat[name] = value
            elif isinstance(value, float):
                flat[name] = value if abs(value) < float("inf") else str(value)
            else:
                flat[name] = str(value)[:MAX_PARAM_CHARS_SHOWN]
    check_params(flat)
    return flat


def _reference(thing: Any) -> str:
    """NAME@VERSION of a dataset or a model, where it has such a name; else what it is called."""
    if isinstance(thing, str):
        return thing
    name, version = getattr(thing, "name", None), getattr(thing, "version", None)
    return f"{name}@{version}" if name and version else str(name or thing)[:200]


def _role(name: str) -> str:
    check_key(name)
    return name


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as wrong:
        raise InvalidRequest(
            f"the value of {key[:60]!a} is no number: {wrong}", hint="Log numbers, one a key."
        ) from None


def _step(step: Any) -> int:
    try:
        whole = int(step)
    except (TypeError, ValueError, OverflowError) as wrong:
        raise InvalidRequest(f"the step is no whole number: {wrong}", hint="Count steps.") from None
    if not -MAX_STEP < whole < MAX_STEP or whole != step:
        raise InvalidRequest(f"the step {step!r} is no whole number", hint="Count steps.")
    return whole
