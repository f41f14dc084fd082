"""Envoy's process, in front of our gateway: found running, or started and kept up.

It binds the port itself, so ours is only reserved: two sockets that share a port, of which one
listens.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from leptonai.errors import LeptonError, NotFound, Unavailable
from leptonai.home import Home, replace_file
from leptonai.listening import reserve, url_of
from leptonai.log_files import open_log
from leptonai.main.beside import Record
from leptonai.processes import Process

READY_S = 15.0  # for the gateway's first files, and then for Envoy
LOOK_AGAIN_S = 0.02
END_S = 3.0
RESTART_S = (0.1, 5.0)  # wait before one that ended is started again: first, longest
FILES = ("cds.json", "rds.json")  # that it does not start without

log = logging.getLogger("leptonai")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyRecord(Record):
    program: str


def find_envoy() -> str:
    """Its program: of the Python package, or on the PATH.

    Raises:
        NotFound: there is none.
    """
    package = find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        program = Path(folder) / "_bin" / "envoy"
        if program.exists():
            return str(program)
    found = shutil.which("envoy")
    if found is None:
        raise NotFound("Envoy is not installed", hint="pip install 'openlepton[gateway]'")
    return found


class EnvoyProcess:
    def __init__(self, home: Home, *, host: str, port: int) -> None:
        """
        Raises:
            NotFound: Envoy is not installed.
        """
        self._home = home
        self._host = host
        self._asked_port = port
        self._program = find_envoy()
        self._process = Process(0, "")
        self._reserved: socket.socket | None = None
        self.started_here = False
        self.port = 0

    @property
    def url(self) -> str:
        return url_of(self._host, self.port)

    def prepare(self) -> None:
        """Take over the one that runs, if it was started as this one would be; else end it, with
        what it was told. Before the gateway starts, which writes what is new."""
        left = EnvoyRecord.left_behind(self._home, self._home.envoy_record)
        if left is not None:
            port = self._asked_port or left.port
            if (left.host, left.port, left.program) == (self._host, port, self._program):
                self._process, self.port = left.process, left.port
                return
            end_envoy(self._home)
        for path in self._home.envoy.glob("*.json"):
            path.unlink()

    def start(self) -> None:
        """Once the gateway runs.

        Raises:
            Unavailable: the port is taken, or Envoy does not start.
        """
        if not self._process.alive:
            self._spawn()

    def undo(self) -> None:
        if self.started_here:
            end_envoy(self._home)

    def let_go(self) -> None:
        if self._reserved is not None:
            self._reserved.close()

    async def supervise(self) -> None:
        """Start another whenever it ends, for ever."""
        first_s, longest_s = RESTART_S
        pause_s = first_s
        while True:
            await self._process.wait()
            log.warning("Envoy (pid %d) ended; starting it again", self._process.pid)
            await asyncio.sleep(pause_s)
            pause_s = min(longest_s, 2 * pause_s)
            try:
                await asyncio.to_thread(self._spawn)
            except (LeptonError, OSError) as error:
                log.warning("Envoy cannot be started: %s", error)
            else:
                pause_s = first_s

    def _spawn(self) -> None:
        from leptonai.gateway.envoy.resources import bootstrap

        if self._reserved is None:
            port = self.port or self._asked_port
            self._reserved = reserve(self._host, port, "--gateway-port")
            self.port = self._reserved.getsockname()[1]
        folder = self._home.envoy
        _until(lambda: all((folder / name).exists() for name in FILES), "the gateway")
        lua = files("leptonai.gateway.envoy").joinpath("digest.lua").read_text()
        told = bootstrap(self._host, self.port, lua)
        replace_file(folder / "bootstrap.json", json.dumps(told))
        with contextlib.suppress(FileNotFoundError):
            (folder / "admin.sock").unlink()
        with open_log(self._home.envoy_log) as output:
            started = subprocess.Popen(
                [
                    *(self._program, "--config-path", "bootstrap.json", "--disable-hot-restart"),
                    *("--log-level", "warning", "--concurrency", str(_workers())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=folder,
            )
        self._process = Process.of(started.pid)
        record = EnvoyRecord(
            pid=started.pid,
            started=self._process.started,
            host=self._host,
            port=self.port,
            program=self._program,
        )
        self._home.write_record(self._home.envoy_record, asdict(record))
        self.started_here = True

        def listens() -> bool:
            if started.poll() is not None:
                raise Unavailable("Envoy did not start", hint=f"see {self._home.envoy_log}")
            with contextlib.suppress(OSError):
                socket.create_connection(_reachable(self._host, self.port), 1.0).close()
                return True
            return False

        _until(listens, "Envoy")


def end_envoy(home: Home) -> None:
    """End the one that was left behind, if there is one."""
    left = EnvoyRecord.left_behind(home, home.envoy_record)
    if left is not None and not left.process.end(grace_s=END_S):
        raise Unavailable(f"Envoy (process {left.pid}) does not end", hint=f"see {home.envoy_log}")


def _reachable(host: str, port: int) -> tuple[str, int]:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104


def _workers() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _until(holds: Callable[[], bool], who: str) -> None:
    give_up_at = time.monotonic() + READY_S
    while not holds():
        if time.monotonic() > give_up_at:
            raise Unavailable(f"{who} was not ready in {READY_S:g} s", hint="see its log")
        time.sleep(LOOK_AGAIN_S)
