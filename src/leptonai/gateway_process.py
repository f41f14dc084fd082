"""The gateway's process, as the control plane sees it: found running, or started and kept up."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass

from leptonai import __version__
from leptonai.errors import LeptonError, Unavailable
from leptonai.home import Home, replace_file
from leptonai.listening import bind, url_of
from leptonai.log_files import open_log
from leptonai.processes import Process

DRAIN_S = 3.0  # for requests under way when it is to end
RESTART_S = (0.1, 5.0)  # wait before one that ended is started again: first, longest
HEALTHY_S = 60.0  # a run this long forgets the ends before it

log = logging.getLogger("leptonai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is written down of a gateway, for those who come later."""

    pid: int
    started: str
    host: str
    port: int
    control_url: str
    version: str

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)


class GatewayProcess:
    """Its listening socket is ours too, so that no caller is refused while it starts again."""

    def __init__(self, home: Home, *, host: str, port: int, control_url: str) -> None:
        self._home = home
        self._host = host
        self._asked_port = port
        self._control_url = control_url
        self._listening: socket.socket | None = None
        self._process = Process(0, "")
        self.port = 0

    @property
    def url(self) -> str:
        return url_of(self._host, self.port)

    def start(self) -> None:
        """Take over the gateway that an earlier control plane left, or start one."""
        left = _left_behind(self._home)
        if left is not None:
            asked = (self._host, self._asked_port or left.port, self._control_url, __version__)
            if asked == (left.host, left.port, left.control_url, left.version):
                self._process, self.port = left.process, left.port
                return
            end_gateway(self._home)
        self._spawn()

    def undo(self) -> None:
        """End it again, if it was started here and not found running."""
        if self._listening is not None:
            _end(self._process, self._home)

    def let_go(self) -> None:
        """Leave it running."""
        if self._listening is not None:
            self._listening.close()

    async def supervise(self) -> None:
        """Start it again whenever it ends, for ever."""
        loop = asyncio.get_running_loop()
        first_s, longest_s = RESTART_S
        pause_s = first_s
        while True:
            since_s = loop.time()
            await self._process.wait()
            if loop.time() - since_s >= HEALTHY_S:
                pause_s = first_s
            log.warning("the gateway (pid %d) ended; starting it again", self._process.pid)
            await asyncio.sleep(pause_s)
            pause_s = min(longest_s, 2 * pause_s)
            try:
                self._spawn()
            except (LeptonError, OSError) as error:
                log.warning("the gateway cannot be started: %s", error)

    def _spawn(self) -> None:
        if self._listening is None:
            port = self.port or self._asked_port
            self._listening = bind(self._host, port, "--gateway-port")
            self.port = self._listening.getsockname()[1]
        descriptor = self._listening.fileno()
        # First it is on record, and only then it works: one that nobody could find again, because
        # this process was killed in between, sees the pipe close and ends.
        wait, go = os.pipe()
        try:
            with open_log(self._home.gateway_log) as output:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "leptonai.gateway"),
                        *("--home", str(self._home.path)),
                        *("--fd", str(descriptor), "--wait-fd", str(wait)),
                        *("--control-url", self._control_url),
                        *("--token-file", str(self._home.gateway_token_file)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[descriptor, wait],
                    start_new_session=True,
                    cwd="/",
                )
            self._process = Process.of(process.pid)
            record = Record(
                pid=process.pid,
                started=self._process.started,
                host=self._host,
                port=self.port,
                control_url=self._control_url,
                version=__version__,
            )
            replace_file(self._home.gateway_record, json.dumps(asdict(record)))
            os.write(go, b"\n")
        finally:
            os.close(wait)
            os.close(go)


def end_gateway(home: Home) -> bool:
    """End the gateway that was left behind; says whether there was one."""
    left = _left_behind(home)
    if left is not None:
        _end(left.process, home)
    return left is not None


def _left_behind(home: Home) -> Record | None:
    try:
        record = Record(**json.loads(home.gateway_record.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.process.alive else None


def _end(process: Process, home: Home) -> None:
    if not process.end(grace_s=DRAIN_S):
        raise Unavailable(
            f"the gateway (process {process.pid}) does not end", hint=f"see {home.gateway_log}"
        )
