"""`leptonai job log`: what a job wrote, of which of its replicas, and as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from leptonai import errors
from leptonai.cli.groups import Command
from leptonai.cli.log_lines import Wanted, line_options, print_lines
from leptonai.cli.output import print_json, say
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.jobs import LeptonJob
    from leptonai.spec.replicas import Replica

LOOK_S = 0.2  # between two looks at a job that is not running yet
MAX_NAMED = 10  # replicas that a hint names


@click.command(
    "log",
    cls=Command,
    example="""\
leptonai job log hello
leptonai job log -f ddp
leptonai job log ddp --worker 0 --tail 100
leptonai job log ddp --since 10m --grep loss -t""",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends.")
@click.option(
    "-w", "--worker", "workers", type=click.IntRange(min=0), multiple=True, help="Only this one."
)
@click.option("--replica", metavar="ID", help="Only this one, also of an earlier try.")
@line_options
@output_option
@click.argument("name")
def log(
    follow: bool,
    workers: tuple[int, ...],
    replica: str | None,
    output: str,
    name: str,
    wanted: Wanted,
) -> None:
    """Print what a job wrote, so far or to its end.

    Lines of several workers begin with the worker's number.
    """
    from leptonai.client.synchronous.jobs import FINISHED

    if follow and output == "json":
        raise click.UsageError("a log that goes on is no JSON: leave out -f or -o json")
    if follow:
        wanted.check_following()
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = client.jobs.find(name)
        job_id = found.metadata.id or ""
        _check_workers(found, workers)
        if follow:
            follow_job(
                client,
                job_id,
                workers=workers,
                replica=replica,
                tail=wanted.tail,
                grep=wanted.grep,
            )
            _say_if_failed(client.jobs.get(job_id))
            return
        known = _replicas_of(client, job_id, replica)
        chosen = _chosen_of(known, job_id, workers, replica) or _chosen_of(
            known, job_id, workers, replica, waiting=True
        )
        if not wanted.everything:
            between_ns = wanted.between_ns()
            logs = {
                str(index): client.jobs.history(
                    job_id, *between_ns, replica_id=each.id, q=wanted.grep, last=wanted.tail
                )
                for index, each in chosen
            }
            print_lines(wanted, logs, output=output)
            return
        if output == "json":
            print_json(
                [
                    {"worker": index, "replica": each.id, "line": line}
                    for index, each in chosen
                    for line in client.jobs.log(job_id, each.id, follow=False)
                ]
            )
            return
        told = False
        for index, each in chosen:
            prefix = f"[{index}] " if len(chosen) > 1 else ""
            for line in client.jobs.log(job_id, each.id, follow=False):
                told = True
                click.echo(prefix + line)
        if told:
            _say_if_failed(found)
        else:
            ended = found.status is not None and found.status.state in FINISHED
            words = "nothing was written" if ended else "no log yet"
            say(f"{words}: {_waiting_because(client, found)}")


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
            for index, each in _chosen_of(
                _replicas_of(client, job_id, replica), job_id, workers, replica
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
        waiting = _waiting_because(client, found)
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


def _check_workers(found: LeptonJob, workers: Sequence[int]) -> None:
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


def _say_if_failed(found: LeptonJob) -> None:
    """A log that ends does not say why."""
    if found.status and found.status.state == "Failed":
        say(f"{found.metadata.id} is Failed: {found.status.message}")


def _waiting_because(client: LeptonClient, found: LeptonJob) -> str:
    job_id = found.metadata.id or ""
    told = client.jobs.why(job_id)
    return f"{job_id} is {told.state}" + (f": {told.because}" if told.because else "")


def _replicas_of(client: LeptonClient, job_id: str, named: str | None) -> Sequence[Replica]:
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


def _chosen_of(
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
