"""What a training tells its run: its settings, a point for each step, and when it went back."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from leptonai.errors import LeptonError

if TYPE_CHECKING:
    from leptonai.tracking.active import ActiveRun


class Tracker(Protocol):
    """Never waits for anybody, but for `flush`."""

    def resume(self, step: int) -> None:
        """What was logged of later steps is superseded."""

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_steps(self, first: int, losses: Sequence[float], learning_rate: float) -> None:
        """Of steps that follow each other."""

    def flush(self) -> None:
        """Everything logged is safe: a checkpoint is about to say that it was."""

    def checkpointed(self) -> None:
        """One is on the disk."""

    def end(self, state: str) -> None: ...


class NoTracker:
    def resume(self, step: int) -> None: ...

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_steps(self, first: int, losses: Sequence[float], learning_rate: float) -> None: ...

    def flush(self) -> None: ...

    def checkpointed(self) -> None: ...

    def end(self, state: str) -> None: ...


class RunTracker:
    def __init__(self, run: "ActiveRun", *, ours: bool) -> None:
        """`ours` ends with the training; another's goes on."""
        self._run = run
        self._ours = ours

    def resume(self, step: int) -> None:
        self._run.resume(step)

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None:
        """An epoch's loss is not called as the curve of its steps is."""
        self._run.log(
            {"epoch_loss" if name == "loss" else name: value for name, value in metrics.items()},
            step=step,
        )

    def log_steps(self, first: int, losses: Sequence[float], learning_rate: float) -> None:
        log = self._run.log
        for at, loss in enumerate(losses):
            log(loss=loss, step=first + at)
        log(learning_rate=learning_rate, step=first + len(losses) - 1)

    def flush(self) -> None:
        self._run.flush()

    def checkpointed(self) -> None:
        """The platform is told: who has just saved loses little by giving way to others."""
        job = os.environ.get("LEPTON_JOB_NAME")
        if not job or "LEPTON_WORKSPACE_TOKEN" not in os.environ:
            return
        from leptonai.client import LeptonClient

        with contextlib.suppress(LeptonError), LeptonClient(retry_for_s=0) as client:
            client.jobs.note_checkpoint(job)

    def end(self, state: str) -> None:
        if self._ours and not self._run.over:
            self._run.finish(state)


def tracker_of(
    track: bool | None, settings: Mapping[str, Any], datasets: Mapping[str, Any]
) -> Tracker:
    """To the run that this process records; else within a job to the job's, and anywhere if asked.

    Args:
        datasets: those that have a name and a version, by role.
    """
    active = _recorded()
    job = "LEPTON_JOB_NAME" in os.environ
    if track is False or (track is None and active is None and not job):
        return NoTracker()
    ours = active is None
    if active is None:
        from leptonai import run

        active = run.start()
    active.log_params(settings)
    if datasets:
        active.log_data(**datasets)
    return RunTracker(active, ours=ours and not job)  # a job's run ends with the job


def _recorded() -> "ActiveRun | None":
    """The run that this process records. Who records has imported `leptonai.run`; to import it only
    to hear that nobody does takes as long as a first step."""
    run = sys.modules.get("leptonai.run")
    active: ActiveRun | None = None if run is None else run.current()
    return active


@contextlib.contextmanager
def ending(tracker: Tracker) -> Iterator[None]:
    """The run says how it ended, where that is this training's to say."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        tracker.end("stopped")
        raise
    except BaseException:
        tracker.end("failed")
        raise
    tracker.end("finished")
