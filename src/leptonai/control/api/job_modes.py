"""Which jobs a request means: those that are alive, archived ones, or both."""

from leptonai.control.actions.jobs import find_job
from leptonai.control.api.routing import Call, Parameter
from leptonai.core.records import Job
from leptonai.errors import NotFound
from leptonai.spec.jobs import JobState

ALIVE, ARCHIVE, BOTH = "alive_only", "archive_only", "alive_and_archive"
MODES = (ALIVE, ARCHIVE, BOTH)
MODE = Parameter("job_query_mode", about=f"One of {', '.join(MODES)}.")


def mode_of(call: Call, default: str) -> str:
    return call.one_of("job_query_mode", MODES, default)


async def job_in_mode(call: Call, id: str, default: str) -> Job:
    """Raises:
    NotFound: there is none, or not among those that are meant.
    """
    job = await find_job(call.world, call.principal, call.workspace, id)
    mode = mode_of(call, default)
    archived = job.state is JobState.ARCHIVED
    if (archived and mode == ALIVE) or (not archived and mode == ARCHIVE):
        raise NotFound(
            f"the job {job.id} is {'archived' if archived else 'not archived'}",
            hint=f"Ask with job_query_mode={BOTH}.",
        )
    return job
