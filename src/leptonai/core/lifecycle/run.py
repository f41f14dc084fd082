"""The life of a run that belongs to a job: it ends when the job does."""

from msgspec.structs import replace

from leptonai.core.records import Job, Run
from leptonai.spec.jobs import JobState
from leptonai.spec.runs import RunState


def follow(run: Run, job: Job | None, now_ms: int) -> Run:
    """The run as it is beside its job; None: the job was removed. A run that ended stays so."""
    if not run.live or (job is not None and job.live):
        return run
    if job is None:
        state, message = RunState.STOPPED, "its job was removed"
    elif job.state is JobState.STOPPED or job.exit_code is None:
        state, message = RunState.STOPPED, job.message
    elif job.exit_code == 0:
        state, message = RunState.FINISHED, ""
    else:
        state, message = RunState.FAILED, job.message
    ended_at_ms = (job.finished_at_ms if job else None) or now_ms
    return replace(run, state=state, message=message, ended_at_ms=ended_at_ms)
