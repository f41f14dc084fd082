"""Record what a training does: parameters, metrics by step, the machine, files.

    import leptonai

    with leptonai.run.start("cats", params={"lr": 0.1}) as run:
        for step, loss in enumerate(train()):
            run.log(loss=loss, step=step)

Inside a job there is one run, the job's own, over all its attempts: it is found by itself. Where no
workspace is known, everything is recorded in `./runs`; `leptonai run upload` sends it later.
TensorBoard reads the same directory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.errors import Conflict
from leptonai.tracking.active import FLUSH_WAIT_S, ActiveRun, Tags, begin

if TYPE_CHECKING:
    from leptonai.client import LeptonClient

__all__ = [
    "ActiveRun",
    "current",
    "finish",
    "flush",
    "log",
    "log_artifact",
    "log_data",
    "log_model",
    "log_params",
    "log_tags",
    "resume",
    "start",
]

_current: ActiveRun | None = None


def start(
    name: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Tags | None = None,
    project: str | None = None,
    id: str | None = None,
    directory: str | Path | None = None,
    client: "LeptonClient | None" = None,
    local: bool = False,
) -> ActiveRun:
    """Begin to record, without waiting for anybody.

    Args:
        name: by default the job's, or the script's.
        tags: labels to find it by: pairs, or words.
        project: the label `project`.
        id: go on with this run; by default the job's, or a new one.
        directory: for local files, instead of `$LEPTON_RUN_DIR` or `./runs`.
        client: of the workspace; by default what `LeptonClient()` finds.
        local: record in the directory alone.

    Raises:
        Conflict: this process records a run already.
        InvalidRequest: a name, a tag or a parameter is not allowed.
    """
    global _current
    if current() is not None:
        raise Conflict(
            "this process records a run already", hint="use run.current(), or run.finish() first"
        )
    _current = begin(
        name,
        params=params,
        tags=tags,
        project=project,
        id=id,
        directory=directory,
        client=client,
        local=local,
    )
    return _current


def current() -> ActiveRun | None:
    """The run that this process records, if it does."""
    return _current if _current is not None and not _current.over else None


def log(
    values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any
) -> None:
    """As `ActiveRun.log`, to the current run; begins one if there is none."""
    active = _current
    if active is None or active.over:
        active = start()
    active.log(values, step=step, **more)


def log_params(params: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    _running().log_params(params, **more)


def log_tags(*words: str, **pairs: str) -> None:
    _running().log_tags(*words, **pairs)


def log_data(**datasets: Any) -> None:
    _running().log_data(**datasets)


def log_model(**models: Any) -> None:
    _running().log_model(**models)


def log_artifact(path: str | Path, name: str | None = None) -> None:
    _running().log_artifact(path, name)


def resume(step: int) -> None:
    """As `ActiveRun.resume`: what was recorded after this step is superseded."""
    _running().resume(step)


def flush(timeout_s: float = FLUSH_WAIT_S) -> bool:
    """As `ActiveRun.flush`; True where nothing is recorded."""
    active = current()
    return active is None or active.flush(timeout_s)


def finish(state: str = "finished", message: str = "") -> None:
    active = current()
    if active is not None:
        active.finish(state, message)


def _running() -> ActiveRun:
    return current() or start()
