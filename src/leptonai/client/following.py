"""A job that a program waits for: what its first worker says, and how it ended."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from leptonai.errors import Conflict, InvalidRequest, LeptonError
from leptonai.spec.jobs import JobState, LeptonJob

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.replicas import Replica

LOOK_S = 0.1  # between two looks at a job that is not running
SHOWN_LINES = 15  # of a failed worker's log
SHOWN_WORKERS = 4
RESOURCES = ("cpu", "memory", "accelerator_num", "accelerator_type", "resource_shape")
ENDED = (JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.ARCHIVED)


class JobFailed(Conflict):
    """The job has ended otherwise than well; the message ends with its last lines."""

    code = "JobFailed"


def check_resources(resources: Mapping[str, Any]) -> None:
    """Raises:
    InvalidRequest: they are not called as a job's are.
    """
    if unknown := {*resources} - {*RESOURCES}:
        raise InvalidRequest(
            f"there is no resource {min(unknown)}", hint=f"there are {', '.join(RESOURCES)}"
        )


def follow(client: "LeptonClient", job: str, tell: Callable[[str], object]) -> None:
    """Tell what the job waits for, then the lines of its first worker, until it has ended well. To
    interrupt this stops the job.

    Raises:
        JobFailed: it has failed, or was stopped.
    """
    try:
        for line in _lines(client, job):
            tell(line)
        _check_success(client, client.jobs.wait(job))
    except KeyboardInterrupt:
        with contextlib.suppress(LeptonError):
            client.jobs.stop(job)
        tell(f"stopped {job}; it goes on with: leptonai job start {job}")
        raise


def _lines(client: "LeptonClient", job: str) -> Iterator[str]:
    """What the first worker writes, over all its tries, until the job has ended; and before it
    runs, what it waits for."""
    shown: set[str] = set()
    told = ""
    while True:
        found = client.jobs.get(job)
        first = _first_worker(client, job, shown)
        if first is not None:
            yield from client.jobs.log(job, first.id)
            shown.add(first.id)
            continue
        if found.status is None or found.status.state in ENDED:
            return
        if found.status.message and found.status.message != told and not shown:
            told = found.status.message
            yield f"{job}: {told}"
        time.sleep(LOOK_S)


def _first_worker(client: "LeptonClient", job: str, shown: set[str]) -> "Replica | None":
    for each in client.jobs.replicas(job):
        begun = each.status is not None and each.status.state not in ("Waiting", "Placed")
        if begun and each.id not in shown and each.id.startswith(f"{job}-0-"):
            return each
    return None


def _check_success(client: "LeptonClient", ended: LeptonJob) -> None:
    job, status = ended.metadata.id or "", ended.status
    if status is not None and status.state is JobState.COMPLETED:
        return
    told = [f"the job {job} is {status.state if status else 'gone'}"]
    if status and status.message:
        told[0] += f": {status.message}"
    for replica in [*client.jobs.replicas(job)][:SHOWN_WORKERS]:
        try:
            log = [*client.jobs.log(job, replica.id, follow=False)]
        except LeptonError:
            continue
        if log:
            told.append(f"--- {replica.id}")
            told += log[-SHOWN_LINES:]
    raise JobFailed("\n".join(told), hint=f"leptonai job log {job}")
