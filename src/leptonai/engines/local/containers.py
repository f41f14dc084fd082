"""Attempts in containers: the command lines of podman and docker, which agree on almost all of it.

The container's client runs under the wrapper like any command. What runs in the container may not
be a process of ours (docker's daemon starts it), so it is named after the attempt, and found,
inspected and ended by that name.

A container is told to be as little of a prison as it can: the attempt is to see the network, the
shared memory and the user that it would have on the host, and only the files of its image.
"""

import asyncio
import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from leptonai.engines.local.mounts import Found
from leptonai.ports.engine import Attempt
from leptonai.supervisor import Claimed, Ending, Folder, Outcome

RUNTIMES = ("crun", "runc")  # what podman starts containers with
ANSWER_TIMEOUT_S = 30.0
MAX_ASKS = 4  # of one engine at once
WORDS_BYTES = 500  # kept of what a container program says
NEVER = "0001-"  # the year in which a container started that did not

# Variables that the client reads for itself. It gets its own; the container's are told by value.
CLIENT_READS = frozenset(
    {
        *("CONTAINERS_CONF", "CONTAINER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST"),
        *("HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "TMPDIR"),
        *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
    }
)
USUAL = (
    *("--network", "host", "--init"),
    # The directories that it gets are ours and not labelled for containers.
    *("--security-opt", "label=disable"),
)
# Its output goes to the attempt's log, which is bounded; a second copy of it would not be. Best is
# to hand it the file itself (since podman 4): a client may miss the first lines of what it copies.
LOG_DRIVERS = ("passthrough", "none")


class ContainersUnavailable(Exception):
    """The container program did not do what it was asked, so nobody knows what runs."""


# --- which program -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container program that works on this machine."""

    program: str  # its full path
    options: tuple[str, ...] = ()  # of `run`, that this machine needs

    @property
    def is_podman(self) -> bool:
        return Path(self.program).name == "podman"


@dataclass(frozen=True, slots=True)
class NoRuntime:
    because: str
    hint: str


async def find_runtime() -> Runtime | NoRuntime:
    """The first container program that was seen to work here, podman before docker."""
    missing = NoRuntime("neither podman nor docker is installed", hint="install podman")
    for name, probe in (("podman", _probe_podman), ("docker", _probe_docker)):
        if program := shutil.which(name):
            try:
                found = await probe(program)
            except ContainersUnavailable as error:
                found = NoRuntime(str(error), hint=f"see what `{program} info` says")
            if isinstance(found, Runtime):
                return found
            missing = found
    return missing


async def _probe_podman(program: str) -> Runtime | NoRuntime:
    """Start a container without an image. Nothing less tells: podman answers readily on machines
    where no container starts. Takes about 0.3 s."""
    # Another runtime may do where podman's own does not: crun refuses machines that have some
    # controllers in version 1 of cgroups and others in version 2, runc does not.
    others = [("--runtime", runtime) for runtime in RUNTIMES if shutil.which(runtime)]
    refusals = []
    for driver, runtime in itertools.product(LOG_DRIVERS, [(), *others]):
        options = (*runtime, "--log-driver", driver, *_podman_options())
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
            status, out = await _ask(
                *(program, "run", "--rm", "--detach", *options, *USUAL),
                *("--rootfs", root, "/nothing"),
            )
        if status == 0:  # its init was started, and found nothing to run
            return Runtime(program, options)
        refusals.append(out)
    return NoRuntime(
        f"{program} cannot start containers: {_last_line(refusals[0])}",
        hint=f"see what `{program} run` says",
    )


def _podman_options() -> tuple[str, ...]:
    # As podman means it, so that files which it writes into our directories are ours: without
    # privileges its root is this user. And never more than this process may have, which podman asks
    # for where it believes itself root, and a root without CAP_SYS_RESOURCE is refused.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    most = int(Path("/proc/sys/kernel/pid_max").read_text())  # podman lowers its own limit to this
    processes = most if processes == resource.RLIM_INFINITY else min(processes, most)
    # Its whole IPC where podman can give it: without privileges it wants to mount /dev/mqueue too,
    # which not every machine has. Shared memory is what workers need of it.
    shares = ("--ipc", "host")
    if not Path("/dev/mqueue").exists():
        shares = ("--volume", "/dev/shm:/dev/shm")  # noqa: S108 - the whole of it, on purpose
    limits = (f"nofile={files}:{files}", f"nproc={processes}:{processes}")
    return (*shares, "--user", "0:0", "--ulimit", limits[0], "--ulimit", limits[1])


async def _probe_docker(program: str) -> Runtime | NoRuntime:
    """Ask for its daemon: many a machine has a client alone."""
    status, out = await _ask(program, "info", "--format", "{{json .SecurityOptions}}")
    if status != 0:
        return NoRuntime(
            f"{program} has no daemon: {_last_line(out)}",
            hint="start docker and let this user use it, or install podman",
        )
    rootless = "name=rootless" in json.dumps(out)
    user = "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"
    return Runtime(program, ("--log-driver", "none", "--ipc", "host", "--user", user))


# --- running -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Containers:
    """The containers of one home, by their names: two homes on one machine must not meet."""

    prefix: str
    _asks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_ASKS))

    @classmethod
    def of(cls, home: Path) -> "Containers":
        return cls(f"lepton-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}")

    def name(self, attempt: str) -> str:
        return f"{self.prefix}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', attempt)}"

    def command(
        self,
        runtime: Runtime,
        attempt: Attempt,
        *,
        env: Mapping[str, str],
        mounts: list[str],
        directory: str,
        volumes: Sequence[Found] = (),
    ) -> tuple[str, ...]:
        """Run it in the foreground, with the variables of `env`. Their values are not in the
        command line, where any user of the machine could read them: the client passes its own on.
        See `client_environment`."""
        line = [runtime.program, "run", "--name", self.name(attempt.id)]
        line += [*runtime.options, *USUAL]
        if attempt.cpu_millis:
            line += ["--cpu-shares", str(max(2, attempt.cpu_millis * 1024 // 1000))]
        if attempt.limit_cpu_millis is not None:
            line += ["--cpus", f"{attempt.limit_cpu_millis / 1000:g}"]
        if attempt.limit_memory_bytes is not None:
            line += ["--memory", str(attempt.limit_memory_bytes)]
        if attempt.gpus and runtime.is_podman:
            for gpu in attempt.gpus:
                line += ["--device", f"nvidia.com/gpu={gpu}"]
        elif attempt.gpus:
            # The quotes are docker's own: without them the comma would begin another option.
            line += ["--gpus", f'"device={",".join(map(str, attempt.gpus))}"']
        for name, value in sorted(env.items()):
            line += ["--env", f"{name}={value}" if name in CLIENT_READS else name]
        for mount in sorted(mounts):
            line += ["--volume", f"{mount}:{mount}"]
        for host, address in attempt.hosts.items():
            line += ["--add-host", f"{host}:{address}"]
        for volume in volumes:
            line += ["--volume", f"{volume.source}:{volume.at}" + ":ro" * volume.read_only]
        line += ["--workdir", directory, "--entrypoint", attempt.command[0], attempt.image]
        return (*line, *attempt.command[1:])

    async def terminate(self, folder: Folder) -> bool:
        """Ask it to end, by its name: without privileges a client ends with 0 at a SIGTERM, and the
        program's own end is not awaited. False if it does not run (yet)."""
        with suppress(ContainersUnavailable):
            async with self._asks:
                name = self.name(folder.path.name)
                status, _ = await _ask(folder.container_program, "kill", "--signal", "TERM", name)
                return status == 0
        return False

    async def sweep(self, folder: Folder) -> None:
        """Make certain that its container is gone; keep what it alone knows of its end.

        Raises:
            ContainersUnavailable: that is not certain.
        """
        program = folder.container_program
        name = self.name(folder.path.name)
        async with self._asks:
            # Once: a container that is gone because it was removed says nothing.
            if not folder.container_judged:
                await _judge(folder, program, name)
                folder.judge_container()
            # With --force one that is not there is no error.
            status, out = await _ask(program, "rm", "--force", "--volumes", name)
            if status != 0 and "no such container" not in out.lower():
                raise ContainersUnavailable(_last_line(out))
            folder.forget_container()


def client_environment(ours: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a client that runs an attempt with the variables of `env`: ours, for it
    must find the same containers as whoever inspects and removes them, and theirs to pass on."""
    return {**ours, **{name: env[name] for name in env.keys() - CLIENT_READS}}


@dataclass(frozen=True, slots=True)
class _Container:
    status: str
    code: int
    out_of_memory: bool
    started: bool

    @property
    def runs(self) -> bool:
        return self.status in ("running", "paused", "stopping", "restarting")


async def _judge(folder: Folder, program: str, name: str) -> None:
    """Correct what the wrapper recorded, which is how the client ended, or did not record."""
    end = folder.read()
    if isinstance(end, Ending) and end.outcome is Outcome.EXITED and end.code == 0:
        return  # the usual end; a client says so of a program alone
    container = await _inspect(program, name)
    if container is not None and container.runs:
        await _ask(program, "kill", name)  # at once; `rm` would ask it first
    started = container is not None and container.started
    if isinstance(end, Claimed):  # the wrapper was killed; does the container know?
        # Not after a reboot, which is told as an exit that never was.
        if container and started and container.status in ("exited", "stopped") and end.of_this_boot:
            folder.record_exit(container.code, oom=container.out_of_memory)
    elif isinstance(end, Ending) and end.code is not None:
        if container and container.out_of_memory:
            folder.record_oom(end.code)
        elif end.outcome is Outcome.STOPPED:
            if not started or (container and container.runs and end.code != 137):
                folder.disown_exit(end.code)  # the stop met the client before there was a program
        elif not started and end.code not in (126, 127):
            folder.record_not_started(end.code)


async def _inspect(program: str, name: str) -> _Container | None:
    form = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.StartedAt}}"
    status, out = await _ask(program, "container", "inspect", "--format", form, name)
    if status != 0:
        if "no such container" in out.lower():
            return None
        raise ContainersUnavailable(_last_line(out))
    state, code, oom, since = _last_line(out).split(" ", 3)
    return _Container(state, int(code), oom == "true", not since.startswith(NEVER))


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
        raise ContainersUnavailable(f"{program} {arguments[0]} does not answer") from None
    finally:
        if process.returncode is None:  # nobody waits for it any more
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")


def _last_line(words: str) -> str:
    return words.strip().rpartition("\n")[2][-WORDS_BYTES:]
