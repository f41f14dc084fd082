"""A template: a process that has loaded a program, and is copied instead of loading it again.

::

    whoever starts ──request──▶ template ──fork──▶ keeper ──fork──▶ copy
                   ◀── what became of it ────────────┘

The keeper does for its copy what `wrapper.sh` does for a command: it claims the attempt, stays out
of its cgroup, and records how it ended. It takes the same claim, so that of a copy and a start
through the wrapper only one gets anywhere. The copy's template may die: nothing depends on it.

A copy that is not ready in time, or ends before it is, is replaced by the command itself.
"""

import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from leptonai.supervisor import processes
from leptonai.supervisor.cgroups import Group
from leptonai.supervisor.processes import MARK_VARIABLE

SOCKET = "socket"  # in the template's folder
ROOM_VARIABLE = "LEPTON_TEMPLATE_ROOM"  # takes the mark of a copy: see `_Environment`
ROOM_BYTES = 512
MAX_REQUEST_BYTES = 8 << 20  # an environment has at most 6 MiB
MAX_WAITING = 64
REQUEST_TIMEOUT_S = 1.0  # for all of a request, once its sender has connected
CLAIMED_BEFORE, BROKEN = 75, 70  # exit codes of a keeper, as of the wrapper's shell

# A program that signals its process group means itself, not the record of its end.
_KEPT_OFF = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGPIPE, signal.SIGALRM, signal.SIGTERM),
)
_LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An attempt to be run by a copy. All of it is what the wrapper would be given."""

    folder: str
    identity: str
    mark: str
    directory: str
    cgroups: tuple[str, ...]
    command: tuple[str, ...]  # what is run where the copy does not get ready
    env: Mapping[str, str] = field(repr=False)  # all of it; may hold secrets

    def encode(self) -> bytes:
        told = json.dumps(asdict(self)).encode()
        return _LENGTH.pack(len(told)) + told


class Copy:
    """This process, as a copy."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        """Say that it serves."""
        with suppress(OSError):
            os.write(self._pipe, b"1")
        os.close(self._pipe)


def peer_is_ours(connection: socket.socket) -> bool:
    size = _CREDENTIALS.size
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    uid: int = _CREDENTIALS.unpack(told)[1]
    return uid == os.getuid()


class Template:
    """This process, which is to be copied. It must have no other thread."""

    def __init__(self, folder: str, *, ready_within_s: float) -> None:
        """Listen in its folder.

        Args:
            ready_within_s: how long a copy may take before the command is run instead.
        """
        self._ready_within_s = ready_within_s
        self._environment = _Environment()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(folder)  # for the name of a socket may only have some hundred bytes
        before = os.umask(0o177)
        try:
            self._listener.bind(SOCKET)
        finally:
            os.umask(before)
        self._listener.listen(MAX_WAITING)

    def copy(self) -> Copy:
        """Fork at every request. Returns in copies alone, with the environment, directory and
        output of their attempt."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a keeper ended
        while True:
            connection, _ = self._listener.accept()
            with connection:
                request = _read(connection)
                if request is None:
                    continue
                sys.stdout.flush()
                sys.stderr.flush()
                try:
                    if os.fork():
                        continue
                except OSError:  # no room for a process: whoever asked runs the command
                    continue
                self._listener.close()
                return _Keeper(request, connection, self._ready_within_s, self._environment).copy()


class _Keeper:
    def __init__(
        self,
        request: Request,
        connection: socket.socket,
        ready_within_s: float,
        environment: "_Environment",
    ) -> None:
        self._request = request
        self._connection = connection
        self._ready_within_s = ready_within_s
        self._environment = environment
        self._signals = {number: signal.getsignal(number) for number in _KEPT_OFF}

    def copy(self) -> Copy:
        """Returns in the copy alone."""
        try:
            self._claim()
            reading, writing = os.pipe()
            pid = os.fork()
        except BaseException:
            traceback.print_exc()
            os._exit(BROKEN)
        if pid == 0:
            self._enter()
            os.close(reading)
            self._connection.close()
            return Copy(writing)
        os.close(writing)
        return self._keep(pid, reading)

    def _claim(self) -> None:
        request = self._request
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _KEPT_OFF:
            signal.signal(number, _do_nothing)
        self._environment.take(request.mark)
        try:
            os.chdir(request.folder)
            claim = os.open("claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError:  # it was started, or stopped, otherwise
            os._exit(CLAIMED_BEFORE)
        try:
            me = processes.read_stat(os.getpid())
            assert me is not None
            os.write(
                claim, f"started {os.getpid()} {me.started_ticks} {request.identity}\n".encode()
            )
        except OSError:
            _rename("failed.claim")
            os._exit(BROKEN)
        os.close(claim)
        log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for fd, stream in ((null, 0), (log, 1), (log, 2)):
            os.dup2(fd, stream)
        os.close(log)
        os.close(null)
        self._tell({"claimed": os.getpid()})

    def _enter(self) -> None:
        """In a child: become what the attempt is to be, in the order of the wrapper's."""
        request = self._request
        # First: a stop that one of these keeps off is seen by what it left in the folder.
        for caught, before in self._signals.items():
            signal.signal(caught, before)
        for group in request.cgroups:
            # Version 1 moves one thread alone, which is cheaper: there is no other.
            tasks = f"{group}/tasks"
            entrance = tasks if os.path.exists(tasks) else f"{group}/cgroup.procs"
            try:
                with open(entrance, "w") as file:
                    file.write("0")
            except OSError:
                _rename("failed.cgroup")
                os._exit(1)
        # A stop renames this file first and signals then.
        if not os.path.exists("goal.run"):
            os._exit(128 + signal.SIGTERM)
        try:
            os.chdir(request.directory)
        except OSError:
            _rename("failed.directory")
            os._exit(1)
        os.environ.clear()
        os.environ.update(request.env)

    def _keep(self, pid: int, reading: int) -> NoReturn:
        try:
            began = time.monotonic()
            trouble = self._trouble(pid, reading)
            if trouble and os.path.exists("goal.run") and os.path.exists("status"):
                self._tell({"failed": trouble})
                _say(f"leptonai: {trouble}; it is started anew")
                self._end(pid)
                if (pid := os.fork()) == 0:
                    self._run_command()
            else:
                self._tell({"ready_ms": round(1000 * (time.monotonic() - began))})
            os.close(reading)
            self._connection.close()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            _rename(f"exited.{code if code >= 0 else 128 - code}")
        except BaseException:
            traceback.print_exc()
            os._exit(BROKEN)
        os._exit(0)

    def _trouble(self, pid: int, reading: int) -> str:
        """Why the copy is not ready; "" if it is."""
        ended = os.pidfd_open(pid)
        try:
            seen, _, _ = select.select([reading, ended], [], [], self._ready_within_s)
        finally:
            os.close(ended)
        if seen:
            # Also where its end was seen alone: it may have been ready in between.
            os.set_blocking(reading, False)
            with suppress(BlockingIOError):
                if os.read(reading, 1):
                    return ""
            return "the copy of its template ended before it was ready"
        return f"the copy of its template was not ready within {self._ready_within_s:.1f} s"

    def _end(self, pid: int) -> None:
        """Nothing of the copy is left when this returns."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        group = Group(self._request.cgroups)
        mark = self._request.mark
        while True:
            if group:
                if not group.send(signal.SIGKILL):
                    return
            else:
                left = set(processes.find([mark])[mark]) - {os.getpid()}
                if not left:
                    return
                processes.signal_attempt(mark, left, signal.SIGKILL)
            time.sleep(0.001)

    def _run_command(self) -> NoReturn:
        try:
            self._enter()
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and not by a shell
                signal.signal(ignored, signal.SIG_DFL)
            command = self._request.command
            os.execvp(command[0], command)  # noqa: S606  # no shell
        except FileNotFoundError:
            _say(f"command not found: {self._request.command[0]}")
            os._exit(127)
        except BaseException:
            traceback.print_exc()
            os._exit(126)

    def _tell(self, what: dict[str, Any]) -> None:
        with suppress(OSError):  # who asked may be gone
            self._connection.sendall(json.dumps(what).encode() + b"\n")


class _Environment:
    """The environment that this process was started with, as others see it in /proc.

    That is where a process is found by the mark of its attempt. A fork has its parent's, so a copy
    writes its own mark there, into the room that a variable left for it.
    """

    def __init__(self) -> None:
        """
        Raises:
            RuntimeError: it leaves no room.
        """
        with open("/proc/self/environ", "rb") as file:
            whole = file.read()
        stat = processes.read_stat(os.getpid())
        assert stat is not None
        self._places: dict[bytes, tuple[int, int]] = {}
        at = stat.environment_start
        for variable in whole.split(b"\0"):
            self._places[variable.partition(b"=")[0]] = (at, len(variable))
            at += len(variable) + 1
        if self._places.get(ROOM_VARIABLE.encode(), (0, 0))[1] < ROOM_BYTES:
            raise RuntimeError(f"{ROOM_VARIABLE} is not in the environment")

    def take(self, mark: str) -> None:
        """Be found by this mark, and by no other."""
        room, size = self._places[ROOM_VARIABLE.encode()]
        text = f"{MARK_VARIABLE}={mark}".encode()
        assert len(text) <= size
        ctypes.memmove(room, text.ljust(size, b"\0"), size)
        if before := self._places.get(MARK_VARIABLE.encode()):
            ctypes.memset(before[0], 0, before[1])


def _read(connection: socket.socket) -> Request | None:
    """What is asked; None where it is nobody, nothing or not ours."""
    if not peer_is_ours(connection):
        return None
    connection.settimeout(REQUEST_TIMEOUT_S)
    try:
        (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
        if size > MAX_REQUEST_BYTES:
            return None
        told = json.loads(_exactly(connection, size))
        told["cgroups"], told["command"] = tuple(told["cgroups"]), tuple(told["command"])
        return Request(**told)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    give_up_at = time.monotonic() + REQUEST_TIMEOUT_S
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part or time.monotonic() > give_up_at:
            raise ValueError
        parts += part
    return parts


def _rename(record: str) -> None:
    """A rename needs no room on the disk. Without `status` this counts as lost."""
    with suppress(OSError):
        os.rename("status", record)


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _do_nothing(number: int, frame: object) -> None:
    """As a shell's `trap :`: it is caught, so that it is not ignored in a child."""
