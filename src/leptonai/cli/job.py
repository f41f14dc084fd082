"""`leptonai job`: commands that run to their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Group
from leptonai.cli.job_log import (
    check_workers,
    chosen_of,
    follow_job,
    going_on,
    replicas_of,
    say_if_failed,
    waiting_because,
)
from leptonai.cli.log_lines import Wanted, line_options, print_lines
from leptonai.cli.mounts import storage_options
from leptonai.cli.output import age, print_facts, print_json, print_table, say, span
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
    resources_text,
)
from leptonai.spec.quantities import duration_s, moment_s

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.client.synchronous.jobs import Jobs
    from leptonai.spec.containers import EnvVar
    from leptonai.spec.jobs import LeptonJob

job = Group(
    name="job",
    help="Run commands to their end, on one or many workers.",
    example="""\
leptonai job create -n hello -- echo hi
leptonai job list
leptonai job log -f hello
leptonai job why hello""",
)


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
    if workdir is None and (stays := _stays_here(command)):
        say(f"note: {stays} stays here; --workdir . ships this directory")
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        if dry_run:
            print_dry_run(client.jobs.dry_run(asked), output)
            return
        submit(client, asked, workdir, follow=follow, wait=wait, output=output)


def submit(
    client: LeptonClient,
    asked: LeptonJob,
    directory: Path | None,
    *,
    follow: bool,
    wait: bool,
    output: str,
) -> None:
    """Create a job that runs in a copy of the directory, and do what was asked to be done then."""
    if directory is not None:
        asked = _with_workdir(asked, client.trees.push(directory), directory)
    made = client.jobs.create(asked)
    job_id = made.metadata.id or ""
    if follow:
        say(f"created {job_id}")
        with going_on(job_id):
            follow_job(client, job_id, workers=(), replica=None)
        raise click.exceptions.Exit(_report_end(client.jobs.wait(job_id)))
    if wait:
        say(f"created {job_id}; waiting for its end")
        with going_on(job_id):
            made = client.jobs.wait(job_id)
    if output == "json":
        print_json(made)
    else:
        click.echo(job_id)
        if not wait:
            say(f"next: leptonai job log -f {job_id}")
    if wait:
        raise click.exceptions.Exit(_report_end(made))


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
        print_table(headers, [_row(each) for each in jobs])
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
    print_facts(_facts(found))
    if replicas:
        click.echo()
        print_replicas(replicas)


@job.does(
    "log",
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
        check_workers(found, workers)
        if follow:
            follow_job(
                client,
                job_id,
                workers=workers,
                replica=replica,
                tail=wanted.tail,
                grep=wanted.grep,
            )
            say_if_failed(client.jobs.get(job_id))
            return
        known = replicas_of(client, job_id, replica)
        chosen = chosen_of(known, job_id, workers, replica) or chosen_of(
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
            say_if_failed(found)
        else:
            ended = found.status is not None and found.status.state in FINISHED
            words = "nothing was written" if ended else "no log yet"
            say(f"{words}: {waiting_because(client, found)}")


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


# --- views -----------------------------------------------------------------------------------


def _row(each: LeptonJob) -> tuple[str, ...]:
    status = each.status
    if status is None:
        return (each.metadata.id or "", "", "", age(each.metadata.created_at), "", "")
    busy = status.ready if status.active else status.succeeded
    return (
        each.metadata.id or "",
        status.state,
        f"{busy}/{each.spec.workers}",
        age(each.metadata.created_at),
        _ran(each),
        status.message,
    )


def _ran(each: LeptonJob) -> str:
    status = each.status
    if status is None or status.completion_time is None or each.metadata.created_at is None:
        return ""
    return span((status.completion_time - each.metadata.created_at) / 1_000)


def _facts(each: LeptonJob) -> list[tuple[str, str]]:
    import shlex

    spec, status = each.spec, each.status
    return [
        ("id", each.metadata.id or ""),
        ("name", each.metadata.name or ""),
        ("state", str(status.state) if status else ""),
        ("message", status.message if status else ""),
        ("exit code", str(status.exit_code) if status and status.exit_code is not None else ""),
        ("command", shlex.join(spec.container.command or [])),
        ("workers", str(spec.workers)),
        ("each", resources_text(spec)),
        ("priority", (spec.queue_config and spec.queue_config.priority_class) or ""),
        ("labels", ", ".join(f"{k}={v}" for k, v in (each.metadata.labels or {}).items())),
        ("owner", each.metadata.owner or ""),
        ("created", f"{age(each.metadata.created_at)} ago" if each.metadata.created_at else ""),
        ("from creation to end", _ran(each)),
    ]


def _report_end(ended: LeptonJob) -> int:
    """The exit code for a person who waited for it."""
    status = ended.status
    if status is not None and status.state == "Completed":
        return 0
    state = str(status.state) if status else "gone"
    because = f": {status.message}" if status and status.message else ""
    say(f"error: {ended.metadata.id} is {state}{because}")
    say(f"hint: see `leptonai job why {ended.metadata.id}` and `leptonai job events` of it")
    return 1


def _stays_here(command: Sequence[str]) -> str:
    """A file of this directory that the command names, as in `python train.py`; "" if none."""
    for word in command:
        path = Path(word)
        with suppress(OSError):  # too long for a name
            if path.suffix and not path.is_absolute() and path.is_file():
                return word
    return ""


def _with_workdir(asked: LeptonJob, digest: str, directory: Path) -> LeptonJob:
    """What is shipped is no git tree any more: its run is told here which commit it was."""
    import msgspec

    from leptonai.spec.containers import EnvVar
    from leptonai.tracking.facts import GIT_VARIABLE, git_state

    spec = msgspec.structs.replace(asked.spec, workdir=digest)
    git, envs = git_state(directory), list(spec.envs or [])
    if git is not None and not any(env.name == GIT_VARIABLE for env in envs):
        told = EnvVar(name=GIT_VARIABLE, value=msgspec.json.encode(git).decode())
        spec = msgspec.structs.replace(spec, envs=[*envs, told])
    return msgspec.structs.replace(asked, spec=spec)
