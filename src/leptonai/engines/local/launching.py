"""What the supervisor is to start for an attempt: command, environment, directory, limits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leptonai.engines.local import mounts
from leptonai.engines.local.containers import Containers, Runtime, client_environment
from leptonai.engines.local.environment import (
    KEPT_VARIABLE,
    gpu_environment,
    tree_variable,
)
from leptonai.errors import InvalidRequest
from leptonai.ports.engine import KEPT, Attempt
from leptonai.supervisor import Folder, Launch, Limits
from leptonai.supervisor.launch import ID_VARIABLE

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True)
class Host:
    """What attempts find on this machine."""

    kept: Path  # holds the directories that attempts share
    environment: Mapping[str, str]  # our own
    base: Mapping[str, str]  # what every attempt starts from
    has_gpus: bool
    mounts_volumes: bool  # else they are links
    containers: Containers
    runtime: Runtime | None  # runs images


def launch_of(
    attempt: Attempt,
    folder: Folder,
    laid_out: Mapping[str, Path],
    found: Sequence[mounts.Found],
    host: Host,
) -> Launch:
    """Also writes what belongs into its folder. `laid_out` says where its trees are, `found` where
    its volumes are.

    Raises:
        InvalidRequest: it cannot be started so.
        OSError: its files cannot be written.
    """
    if not attempt.command:
        raise InvalidRequest("the command is empty", hint="say what to run")
    trees = {at: str(path) for at, path in laid_out.items()}
    kept = _kept_folder(attempt, host)
    places = trees if kept is None else trees | {KEPT: str(kept)}
    if attempt.start_in and attempt.start_in not in places:
        raise InvalidRequest(
            f"it should start in {attempt.start_in!r}, which is not among its files",
            hint="name one of its trees",
        )
    directory = places[attempt.start_in] if attempt.start_in else ""
    in_container = host.runtime is not None and bool(attempt.image)
    # A container has no other devices than its own, and they are counted from 0 there.
    gpus = tuple(range(len(attempt.gpus))) if in_container else attempt.gpus
    given = {
        **attempt.env,
        **{tree_variable(at): path for at, path in trees.items()},
        **gpu_environment(gpus, machine_has_gpus=host.has_gpus),
    }
    if kept is not None:
        given[KEPT_VARIABLE] = str(kept)
    if attempt.files:
        given |= mounts.write_files(folder, attempt.files)
    if host.runtime is not None and attempt.image:
        folder.prepare()
        folder.note_container(host.runtime.program)
        given = {"PYTHONUNBUFFERED": "1", **given, ID_VARIABLE: attempt.id}
        return Launch(
            id=attempt.id,
            command=host.containers.command(
                host.runtime,
                attempt,
                env=given,
                mounts=[
                    *(folder.at("work"), *trees.values()),
                    *([str(kept)] if kept else []),
                    *([folder.at(mounts.FILES)] if attempt.files else []),
                ],
                volumes=found,
                directory=directory or folder.at("work"),
            ),
            env=client_environment(host.environment, given),
            directory=directory,  # no limits: the container has them, and its client needs none
        )
    command = attempt.command
    if host.mounts_volumes and (found or attempt.hosts):
        named = [mounts.hosts(folder, attempt.hosts)] if attempt.hosts else []
        command = mounts.mounting(folder, [*found, *named], command)
    elif found:
        folder.prepare()
        there = Path(directory or folder.at("work"))
        mounts.link(there, found, again=attempt.start_in == KEPT)
    return Launch(
        id=attempt.id,
        command=command,
        env={**host.base, **given},
        directory=directory,
        limits=Limits(
            cpu_millis=attempt.cpu_millis,
            limit_cpu_millis=attempt.limit_cpu_millis,
            limit_memory_bytes=attempt.limit_memory_bytes,
        ),
    )


def check_name(name: str) -> None:
    """Raises:
    InvalidRequest: no directory is to have it.
    """
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name for a directory", hint="use letters and digits")


def _kept_folder(attempt: Attempt, host: Host) -> Path | None:
    if not attempt.keeps:
        return None
    check_name(attempt.keeps)
    folder = host.kept / attempt.keeps
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder
