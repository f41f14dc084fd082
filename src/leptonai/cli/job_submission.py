"""A job is created, with the directory it runs in, and followed or waited for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leptonai.cli.job_log import follow_job, going_on
from leptonai.cli.output import print_json, say

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.jobs import LeptonJob


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


def stays_here(command: Sequence[str]) -> str:
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
