"""Attempts in containers: the command lines of podman and docker, which agree on all that is used.

The container's client runs under the wrapper like any command. What runs in the container may not
be a process of ours (docker's daemon starts it), so it is named after the attempt, and found,
inspected and ended by that name.
"""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leptonai.ports.engine import Attempt
from leptonai.supervisor import Ending, Folder
from leptonai.supervisor.folder import open_plain

PROGRAMS = ("podman", "docker")
ANSWER_TIMEOUT_S = 30.0
MAX_MARKER_CHARS = 4_096
MARKER = "container"  # the file in an attempt's folder that names its program


class ContainersUnavailable(Exception):
    """The container program did not do what it was asked, so nobody knows what runs."""


def find_program() -> str | None:
    """The container program of this machine, by its full path."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@dataclass(frozen=True, slots=True)
class Containers:
    """The containers of one home, by their names: two homes on one machine must not meet."""

    prefix: str

    @classmethod
    def of(cls, home: Path) -> "Containers":
        return cls(f"lepton-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}")

    def name(self, attempt: str) -> str:
        return f"{self.prefix}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', attempt)}"

    def command(
        self,
        program: str,
        attempt: Attempt,
        *,
        variables: Iterable[str],
        mounts: Iterable[str],
        directory: str,
    ) -> tuple[str, ...]:
        """Run it in the foreground; no value of a variable is in the command line, where any user
        of the machine could read it: the client passes its own on."""
        line = [program, "run", "--name", self.name(attempt.id)]
        line += ["--network", "host", "--ipc", "host", "--init"]
        if attempt.cpu_millis:
            line += ["--cpu-shares", str(max(2, attempt.cpu_millis * 1024 // 1000))]
        if attempt.limit_cpu_millis is not None:
            line += ["--cpus", f"{attempt.limit_cpu_millis / 1000:g}"]
        if attempt.limit_memory_bytes is not None:
            line += ["--memory", str(attempt.limit_memory_bytes)]
        if attempt.gpus:
            if Path(program).name == "podman":
                for gpu in attempt.gpus:
                    line += ["--device", f"nvidia.com/gpu={gpu}"]
            else:
                line += ["--gpus", f'"device={",".join(map(str, attempt.gpus))}"']
        for variable in sorted(variables):
            line += ["--env", variable]
        for mount in sorted(mounts):
            line += ["--volume", f"{mount}:{mount}"]
        line += ["--workdir", directory, "--entrypoint", attempt.command[0], attempt.image]
        return (*line, *attempt.command[1:])

    async def sweep(self, folder: Folder) -> None:
        """Make certain that its container is gone; keep its exit code if the wrapper did not.

        Raises:
            ContainersUnavailable: that is not certain.
        """
        try:
            with os.fdopen(open_plain(folder.at(MARKER)), errors="replace") as marker:
                program = marker.read(MAX_MARKER_CHARS).strip()
        except OSError:
            return
        if Path(program).name not in PROGRAMS:
            return  # not we wrote that, but the program that runs there
        name = self.name(folder.path.name)
        if not isinstance(folder.read(), Ending):  # does the container know how it ended?
            status, out = await _ask(
                program, "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name
            )
            state, _, code = out.strip().partition(" ")
            if status == 0 and state == "exited" and code.isdigit():
                with suppress(FileNotFoundError):
                    Path(folder.at("status")).rename(folder.at(f"exited.{int(code)}"))
        # With --force also one that runs is removed, and one that is not there is no error.
        status, out = await _ask(program, "rm", "--force", "--volumes", name)
        if status != 0 and "no such container" not in out.lower():
            raise ContainersUnavailable(out.strip())


async def _ask(program: str, *arguments: str) -> tuple[int, str]:
    """Its exit status and all it said."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ContainersUnavailable(f"{program} {arguments[0]} does not answer") from None
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")
