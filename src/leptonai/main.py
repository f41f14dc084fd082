"""The composition root: the only module that names adapters.

``python -m leptonai.main`` runs the control plane of one home, and sees to it that a gateway runs
beside it: another process, which goes on when this one dies. ``leptonai up`` starts it.

Heavy imports wait until the ports are bound and the gateway is on its way: being ready in a second
depends on it.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leptonai import __version__
from leptonai.errors import Conflict, InvalidRequest, LeptonError, Unavailable
from leptonai.home import Home, PlatformState, replace_file

BACKLOG = 2048
DRAIN_S = 5  # for requests under way when the platform stops
GATEWAY_RESTART_S = (0.1, 5.0)  # wait before a gateway that ended is started again: first, longest
STOP_WORKLOADS_S = 30.0

log = logging.getLogger("leptonai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8420
    gateway_port: int = 8421
    workspace: str = "default"
    database: str = ""  # URL; "" is SQLite in the home
    containers: str = "off"  # auto: run images with podman or docker


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Tells `--ready-fd` once what became of the start, as one line of JSON."""
    parser = argparse.ArgumentParser(prog="leptonai.main")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--options", default="{}", help="JSON")
    given = parser.parse_args(arguments)
    options = Options(**json.loads(given.options))
    home = Home(given.home)

    def tell(answer: dict[str, Any]) -> None:
        if given.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(given.ready_fd, json.dumps(answer).encode() + b"\n")
                os.close(given.ready_fd)

    try:
        with _locked(home):
            _serve(home, options, ready=lambda state: tell({"ready": asdict(state)}))
    except LeptonError as error:
        tell({"error": error.wire()})
        print(f"{error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except Exception as error:
        tell({"error": {"code": "Internal", "message": f"{type(error).__name__}: {error}",
                        "hint": f"see {home.control_log}"}})  # fmt: skip
        raise
    return 0


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """One control plane for each home."""
    home.make()
    with home.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            state = home.state()
            raise Conflict(
                f"a platform already runs in {home.path}" + (f" (pid {state.pid})" if state else ""),
                hint="see `leptonai status`, or stop it with `leptonai down`",
            ) from None
        yield


def _serve(home: Home, options: Options, ready: Callable[[PlatformState], None]) -> None:
    gc.disable()  # nothing that imports make is garbage
    control = bind(options.host, options.port, "--port")
    port = control.getsockname()[1]
    gateway = Gateway(home, options, f"http://{_reachable(options.host)}:{port}")
    gateway.start()
    try:
        asyncio_run = _event_loop_runner()
        asyncio_run(_run(home, options, control, gateway, ready))
    finally:
        gateway.let_go()
        home.forget_state()


async def _run(
    home: Home,
    options: Options,
    listening: socket.socket,
    gateway: "Gateway",
    ready: Callable[[PlatformState], None],
) -> None:
    import uvicorn

    from leptonai.blobs import BlobStore
    from leptonai.blobs.tree import unpack
    from leptonai.control.api.app import make_app
    from leptonai.control.api.context import Config, Context
    from leptonai.control.clock import SystemClock
    from leptonai.control.explain import explain
    from leptonai.control.plane import ControlPlane
    from leptonai.control.prober import TcpProber
    from leptonai.engines.local import LocalEngine
    from leptonai.monitoring.audit import AuditLog
    from leptonai.security.keys import load_or_create_key
    from leptonai.security.secrets import Sealer
    from leptonai.security.tokens import Authenticator, JobTokens
    from leptonai.stores import open_store

    raise NotImplementedError


class Gateway:
    """The gateway process of a home: found running, or started, and started again when it ends.

    Its listening socket is ours too, so that no caller is refused while it starts again.
    """

    def __init__(self, home: Home, options: Options, control_url: str) -> None:
        self._home = home
        self._options = options
        self._control_url = control_url
        self._state_file = home.gateway / "process.json"
        self._listening: socket.socket | None = None
        self._pid = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{_reachable(self._options.host)}:{self.port}"

    def start(self) -> None:
        """Take over the gateway that an earlier control plane left, or start one."""
        asked = self._options.gateway_port
        left = self._left_behind()
        if left is not None and left["control_url"] == self._control_url:
            if asked in (0, left["port"]) and left["host"] == self._options.host:
                self._pid, self.port = left["pid"], left["port"]
                return
        if left is not None:
            end_process(left["pid"], self._home.gateway_log)
        self._spawn()

    async def supervise(self) -> None:
        """Start it again whenever it ends, for ever."""
        wait_s, longest_s = GATEWAY_RESTART_S
        while True:
            await _ended(self._pid)
            log.warning("the gateway (pid %d) ended; starting it again", self._pid)
            await asyncio.sleep(wait_s)
            wait_s = min(longest_s, 2 * wait_s)
            self._spawn()

    def let_go(self) -> None:
        if self._listening is not None:
            self._listening.close()

    def stop(self) -> None:
        end_process(self._pid, self._home.gateway_log)

    def _spawn(self) -> None:
        if self._listening is None:
            port = self.port or self._options.gateway_port
            self._listening = bind(self._options.host, port, "--gateway-port")
            self.port = self._listening.getsockname()[1]
        descriptor = self._listening.fileno()
        with self._home.gateway_log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "leptonai.gateway"),
                    *("--home", str(self._home.path), "--fd", str(descriptor)),
                    *("--control-url", self._control_url),
                    *("--token-file", str(self._home.gateway / "token")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[descriptor],
                start_new_session=True,
                cwd="/",
            )
        self._pid = process.pid
        facts = {
            "pid": process.pid,
            "started": _start_time(process.pid),
            "host": self._options.host,
            "port": self.port,
            "control_url": self._control_url,
        }
        replace_file(self._state_file, json.dumps(facts))

    def _left_behind(self) -> dict[str, Any] | None:
        try:
            left: dict[str, Any] = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            return None
        started = _start_time(left["pid"])
        return left if started and started == left["started"] else None


async def _ended(pid: int) -> None:
    """Wait for the end of any process, also one that is not our child; reap it if it is."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: gone.done() or gone.set_result(None))
    try:
        await gone
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_process(pid: int, its_log: Path, grace_s: float = DRAIN_S) -> None:
    """SIGTERM, and SIGKILL for one that does not heed it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number, patience_s in ((signal.SIGTERM, grace_s + 1), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], patience_s)[0]:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                return
    finally:
        os.close(descriptor)
    raise Unavailable(f"process {pid} does not end", hint=f"see {its_log}")


def _start_time(pid: int) -> str:
    """When a process began, in ticks since boot: tells it from a later one of the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def bind(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; 0 takes any free port."""
    if not 0 <= port <= 65535:
        raise InvalidRequest(f"{port} is not a port", hint=f"give {option} a number up to 65535")
    try:
        listening = socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"port {port} of {host} cannot be used: {error.strerror or error}",
            hint=f"free it, or choose another: {option} 0 takes any free port",
        ) from None
    listening.setblocking(False)
    return listening


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104


def _event_loop_runner() -> Any:
    import uvloop

    return uvloop.run
