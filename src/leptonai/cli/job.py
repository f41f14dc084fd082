"""`leptonai job`: commands that run to their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Group
from leptonai.cli.job_log import log
from leptonai.cli.job_submission import stays_here, submit
from leptonai.cli.job_views import facts_of, row_of
from leptonai.cli.mounts import storage_options
from leptonai.cli.output import print_facts, print_json, print_table, say
from leptonai.cli.session import (
    FOLLOW_PATIENCE_S,
    Parsed,
    connect,
    environment_options,
    file_option,
    gang_options,
    given,
    labels,
    output_option,
    resource_options,
    waiting_options,
)
from leptonai.cli.telling import tells
from leptonai.cli.views import (
    print_dry_run,
    print_replicas,
)
from leptonai.spec.quantities import duration_s, moment_s

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.client.synchronous.jobs import Jobs
    from leptonai.spec.containers import EnvVar

job = Group(
    name="job",
    help="Run commands to their end, on one or many workers.",
    example="""\
leptonai job create -n hello -- echo hi
leptonai job list
leptonai job log -f hello
leptonai job why hello""",
)
job.add_command(log)


@job.does(
    "create",
    context_settings={"allow_interspersed_args": False},
    example="""\
leptonai job create -n hello -- echo hi
leptonai job create -n train --gpu 1 --memory 16GiB --workdir . -- python train.py
leptonai job create -n train --gpu 8 --estimate 2h --dry-run -- python train.py
leptonai job create -n ddp --num-workers 2 --cpu 1 --memory 2GiB --priority high -- \\
    torchrun train.py
leptonai job create -n again -f spec.json         # {"container": {"command": ["echo", "hi"]}}""",
)
@click.option("-n", "--name", help="Lower-case letters, digits and dashes; the id is made of it.")
@resource_options
@environment_options
@storage_options
@gang_options
@click.option(
    "--segment-count",
    type=click.IntRange(min=1),
    help="Segments of workers, each behind one switch, say in one NVLink domain.",
)
@click.option("--max-failure-retry", type=click.IntRange(min=0), help="Of each worker.")
@click.option("--max-job-failure-retry", type=click.IntRange(min=0), help="Of all the workers.")
@click.option(
    "--final-exit-code",
    "final_exit_codes",
    type=click.IntRange(1, 255),
    multiple=True,
    help="A worker that exits so is not tried again.",
)
@click.option(
    "--ttl", type=Parsed("duration", duration_s), help="Archive it so long after its end: 3d."
)
@click.option("--start-at", metavar="TIME", help="Not before: +90m, or 2030-01-31T08:00.")
@click.option(
    "--estimate", type=Parsed("duration", duration_s), help="It runs so long: 30m, 2h. Helps all."
)
@click.option("--deadline", metavar="TIME", help="Should be done by then; the queue minds it.")
@click.option(
    "--hard-deadline",
    metavar="TIME",
    help="Refuse it unless it can be done by then. Needs --estimate.",
)
@click.option(
    "--include-workspace-token",
    is_flag=True,
    default=None,
    help="Give it a token for this workspace that ends with it.",
)
@file_option("Read the job from a JSON file; flags override it.")
@click.option("--dry-run", is_flag=True, help="Only say where and when it would start.")
@waiting_options
@output_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
def create(
    name: str | None,
    num_workers: int | None,
    min_workers: int | None,
    segment_count: int | None,
    resources: Mapping[str, Any],
    container_image: str | None,
    envs: list[EnvVar],
    workdir: Path | None,
    storage: Mapping[str, Any],
    priority: str | None,
    preemptible: bool | None,
    project: str | None,
    max_failure_retry: int | None,
    max_job_failure_retry: int | None,
    final_exit_codes: tuple[int, ...],
    ttl: int | None,
    start_at: str | None,
    estimate: int | None,
    deadline: str | None,
    hard_deadline: str | None,
    label_texts: tuple[str, ...],
    include_workspace_token: bool | None,
    file: Path | None,
    dry_run: bool,
    follow: bool,
    wait: bool,
    output: str,
    command: tuple[str, ...],
) -> None:
    """Submit a job and print its id.

    What follows the two dashes is the command, exactly as typed: no shell comes between.
    """
    from leptonai.cli.requested import job_of, read, segments
    from leptonai.spec.jobs import Deadline, LeptonJob, TimeSchedule

    if follow and output == "json":
        raise click.UsageError("--follow prints a log, which is no JSON: use --wait")
    if dry_run and (follow or wait):
        raise click.UsageError("--dry-run creates nothing to --follow or to --wait for")
    if deadline and hard_deadline:
        raise click.UsageError("--deadline and --hard-deadline exclude each other")
    now_s = time.time()
    due = hard_deadline or deadline
    asked = job_of(
        read(LeptonJob, file),
        name=name,
        labels=labels((*label_texts, *([f"project={project}"] if project else []))),
        command=command,
        image=container_image,
        workers=num_workers,
        priority=priority,
        preemptible=preemptible,
        envs=envs,
        overrides=given(
            **resources,
            **storage,
            min_workers=min_workers,
            segment_config=segments(segment_count, num_workers),
            max_failure_retry=max_failure_retry,
            max_job_failure_retry=max_job_failure_retry,
            final_exit_codes=[*final_exit_codes] or None,
            ttl_seconds_after_finished=ttl,
            time_schedule=TimeSchedule(start_at=moment_s(start_at, now_s)) if start_at else None,
            estimated_seconds=estimate,
            deadline=Deadline(at=moment_s(due, now_s), hard=hard_deadline is not None)
            if due
            else None,
            include_workspace_token=include_workspace_token,
        ),
    )
    if workdir is None and (stays := stays_here(command)):
        say(f"note: {stays} stays here; --workdir . ships this directory")
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        if dry_run:
            print_dry_run(client.jobs.dry_run(asked), output)
            return
        submit(client, asked, workdir, follow=follow, wait=wait, output=output)


@job.does(
    "list",
    example="""\
leptonai job list
leptonai job list --state running --label team=vision
leptonai job list --all -o json""",
)
@click.option("-a", "--all", "archived", is_flag=True, help="Also those archived long ago.")
@click.option("--state", "states", multiple=True, help="Only in this state, or its beginning.")
@click.option("-q", "--search", help="Only with this in the name or the id.")
@click.option(
    "--label",
    "selector",
    metavar="SELECTOR",
    help="Only with these labels: a=b,c!=d,!e,f in (g, h).",
)
@click.option("--user", "users", multiple=True, help="Only of this user, or its beginning.")
@click.option("--limit", type=click.IntRange(min=1), help="At most as many.")
@output_option
def list_(
    archived: bool,
    states: tuple[str, ...],
    search: str | None,
    selector: str | None,
    users: tuple[str, ...],
    limit: int | None,
    output: str,
) -> None:
    """List jobs."""
    with connect() as client:
        jobs = client.jobs.list(
            mode="alive_and_archive" if archived else "alive_only",
            q=search,
            status=states,
            created_by=users,
            labels=selector,
            limit=limit,
        )
    if output == "json":
        print_json(jobs)
    elif jobs:
        headers = ("ID", "STATE", "WORKERS", "AGE", "RAN", "MESSAGE")
        print_table(headers, [row_of(each) for each in jobs])
    elif archived or states or search or selector or users:
        say("no jobs match")
    else:
        say("no jobs yet; create one: leptonai job create -n hello -- echo hi")


@job.does("get", example="leptonai job get hello\nleptonai job get hello -o json")
@output_option
@click.argument("name")
def get(output: str, name: str) -> None:
    """Show a job, by its name (the newest of it) or its id."""
    with connect() as client:
        found = client.jobs.find(name)
        if output == "json":
            print_json(found)
            return
        replicas = client.jobs.replicas(found.metadata.id or "")
    print_facts(facts_of(found))
    if replicas:
        click.echo()
        print_replicas(replicas)


def _id_of(client: LeptonClient, name: str) -> str:
    return client.jobs.find(name).metadata.id or ""


tells(
    job,
    "a job",
    "hello",
    events=lambda client, name: client.jobs.events(_id_of(client, name)),
    why=lambda client, name: client.jobs.why(_id_of(client, name)),
)


@job.does("stop", example="leptonai job stop hello\nleptonai job stop hello-x7f2 ddp")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def stop(output: str, names: tuple[str, ...]) -> None:
    """Stop jobs; they can be started again."""
    ended = ("Stopped", "Stopping", "Failed", "Completed", "Archived", "Deleting")
    _act(names, output, lambda jobs, job_id: jobs.stop(job_id), "stopping", useless_in=ended)


@job.does("start", example="leptonai job start hello")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def start(output: str, names: tuple[str, ...]) -> None:
    """Start stopped jobs again, from their beginning."""
    going = ("Starting", "Running", "Queueing", "Awaiting", "PendingRetry")
    _act(names, output, lambda jobs, job_id: jobs.start(job_id), "starting", useless_in=going)


@job.does("remove", example="leptonai job remove hello")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(output: str, names: tuple[str, ...]) -> None:
    """Stop jobs if they run, and forget them and their logs."""
    _act(names, output, lambda jobs, job_id: jobs.remove(job_id), "removed", useless_in=())


def _act(
    names: Sequence[str],
    output: str,
    act: Callable[[Jobs, str], None],
    done: str,
    *,
    useless_in: Sequence[str],
) -> None:
    acted = []
    with connect() as client:
        for name in names:
            found = client.jobs.find(name)
            job_id = found.metadata.id or ""
            state = str(found.status.state) if found.status else ""
            idle = state in useless_in
            if not idle:
                act(client.jobs, job_id)
            acted.append({"id": job_id, "state": state, "action": "none" if idle else done})
            if output == "table":
                click.echo(f"{job_id} is {state}: nothing to do" if idle else f"{done} {job_id}")
    if output == "json":
        print_json(acted)
