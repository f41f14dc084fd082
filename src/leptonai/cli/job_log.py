"""What a job wrote: of which of its replicas, and as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from leptonai import errors
from leptonai.cli.output import say

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.jobs import LeptonJob
    from leptonai.spec.replicas import Replica

LOOK_S = 0.2  # between two looks at a job that is not running yet
MAX_NAMED = 10  # replicas that a hint names


def follow_job(
    client: LeptonClient,
    job_id: str,
    *,
    workers: Sequence[int],
    replica: str | None,
    tail: int | None = None,
    grep: str | None = None,
) -> None:
    """Print lines as they come until the job has ended, over all its tries."""
    from leptonai.cli.following import follow_all
    from leptonai.client.synchronous.jobs import FINISHED

    shown: set[str] = set()
    told = ""
    while True:
        found = client.jobs.get(job_id)
        chosen = [
            (index, each)
            for index, each in chosen_of(
                replicas_of(client, job_id, replica), job_id, workers, replica
            )
            if each.id not in shown
        ]
        if chosen:
            several = found.spec.workers > 1 and len(workers) != 1 and replica is None
            follow_all(
                {
                    (f"[{index}] " if several else ""): client.jobs.log(job_id, each.id, tail=tail)
                    for index, each in chosen
                },
                grep,
            )
            shown |= {each.id for _, each in chosen}
            continue
        if replica is not None or (found.status and found.status.state in FINISHED):
            return
        waiting = waiting_because(client, found)
        if waiting != told and not shown:
            say(waiting)
            told = waiting
        time.sleep(LOOK_S)


@contextmanager
def going_on(job_id: str) -> Iterator[None]:
    """Who interrupts a command that waits may believe that this ends the job."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\n{job_id} goes on: `leptonai job log -f {job_id}`, or `leptonai job stop {job_id}`")
        raise


def check_workers(found: LeptonJob, workers: Sequence[int]) -> None:
    """Raises:
    NotFound: it has no worker of that number.
    """
    for each in workers:
        if each >= found.spec.workers:
            raise errors.NotFound(
                f"job {found.metadata.id} has no worker {each}",
                hint=f"its workers are 0 to {found.spec.workers - 1}"
                if found.spec.workers > 1
                else "its only worker is 0",
            )


def say_if_failed(found: LeptonJob) -> None:
    """A log that ends does not say why."""
    if found.status and found.status.state == "Failed":
        say(f"{found.metadata.id} is Failed: {found.status.message}")


def waiting_because(client: LeptonClient, found: LeptonJob) -> str:
    job_id = found.metadata.id or ""
    told = client.jobs.why(job_id)
    return f"{job_id} is {told.state}" + (f": {told.because}" if told.because else "")


def replicas_of(client: LeptonClient, job_id: str, named: str | None) -> Sequence[Replica]:
    """Those to choose from: of the present round, and of all if one is named.

    Raises:
        NotFound: there never was one of that name.
    """
    if named is None:
        return client.jobs.replicas(job_id)
    found = client.jobs.replicas(job_id, all_rounds=True)
    if not any(each.id == named for each in found):
        known = ", ".join(each.id for each in found[-MAX_NAMED:])
        raise errors.NotFound(
            f"job {job_id} has no replica {named!r}",
            hint=f"it has {known}" if known else "it has none yet",
        )
    return found


def chosen_of(
    replicas: Sequence[Replica],
    job_id: str,
    workers: Sequence[int],
    replica: str | None,
    *,
    waiting: bool = False,
) -> list[tuple[int, Replica]]:
    """Each worker with its newest replica that runs or has ended, unless one is named.

    Args:
        waiting: or waits to start: again, maybe, and then it has a log.
    """
    newest: dict[int, Replica] = {}
    for each in sorted(replicas, key=lambda each: each.metadata.created_at or 0):
        index = _worker_index(job_id, each.id)
        if replica is not None:
            if each.id == replica:
                return [(index, each)]
        elif (not workers or index in workers) and (waiting or _has_log(each)):
            newest[index] = each
    return sorted(newest.items())


def _worker_index(job_id: str, replica_id: str) -> int:
    """A replica is called JOB-INDEX-XXXXX."""
    match = re.match(r"-([0-9]+)-", replica_id.removeprefix(job_id))
    return int(match[1]) if match else 0


def _has_log(replica: Replica) -> bool:
    return replica.status is None or replica.status.state not in ("Waiting", "Placed")
