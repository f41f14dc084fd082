"""The gateway's process, as the control plane sees it: found running, or started and kept up."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass

from leptonai import __version__
from leptonai.errors import LeptonError, Unavailable
from leptonai.home import Home
from leptonai.listening import bind, url_of
from leptonai.log_files import open_log
from leptonai.main.beside import Record
from leptonai.main.envoy_process import EnvoyProcess, end_envoy
from leptonai.processes import Process

DRAIN_S = 3.0  # for requests under way when all is to end
DRAIN_MOST_S = 40.0  # for those of one that was replaced; it gives them 30 s itself
HANDOVER_S = 2.0  # for a gateway to give its socket
HANDOVER_AGAIN_S = 0.02
HANDOVER_LATER_S = 0.5  # between two asks of one that gave none at first
RESTART_S = (0.1, 5.0)  # wait before one that ended soon is started again: first, longest
# One that ran for so long is started again at once, and the ends before it are forgotten: while
# there is none, callers wait at a socket that this process alone holds, which may be killed, too.
HEALTHY_S = 5.0

OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = logging.getLogger("leptonai")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRecord(Record):
    control_url: str
    version: str
    access_log: bool = False
    otlp_endpoint: str = ""
    behind_envoy: bool = False


class GatewayProcess:
    """Its listening socket is ours too, so that no caller is refused while it starts again."""

    def __init__(
        self,
        home: Home,
        *,
        host: str,
        port: int,
        control_url: str,
        access_log: bool = False,
        otlp_endpoint: str = "",
        front: EnvoyProcess | None = None,
    ) -> None:
        """
        Args:
            front: what takes all requests, and gives some to this gateway, which then listens
                for it alone.
        """
        self._home = home
        self._host = host
        self._asked_port = port
        self._control_url = control_url
        self._access_log = access_log
        self._otlp_endpoint = otlp_endpoint
        self._front = front
        self._listening: socket.socket | None = None
        self._lifeline: socket.socket | None = None  # closed by it when it takes no more callers
        self._process = Process(0, "")
        self._started_here = False
        self.port = 0

    @property
    def url(self) -> str:
        return self._front.url if self._front else url_of(self._host, self.port)

    def start(self) -> None:
        """Take over the gateway that an earlier control plane left, or start one.

        One that was started differently is replaced: it ends what it does while the new one, on the
        same socket where the address is the same, takes its callers.
        """
        if self._front is None:
            self._start()
            return
        self._front.prepare()
        self._start()
        self._front.start()

    def _start(self) -> None:
        left = GatewayRecord.left_behind(self._home, self._home.gateway_record)
        if left is not None and left.behind_envoy != (self._front is not None):
            end_gateway(self._home)  # one of the two had the port that the other needs
            left = None
        if left is None:
            self._spawn()
            return
        port = self._asked_port or left.port
        asked = (self._control_url, __version__, self._access_log, self._otlp_endpoint)
        runs = (left.control_url, left.version, left.access_log, left.otlp_endpoint)
        same_place = (self._host, port) == (left.host, left.port)
        if same_place:
            self._take_socket(left.process)
        if same_place and asked == runs:
            self._process, self.port = left.process, left.port
            return
        if self._listening is None:
            end_gateway(self._home)
            self._spawn()
            return
        self._spawn()
        threading.Thread(target=_end_slowly, args=(left.process,), daemon=True).start()

    def undo(self) -> None:
        """End it again, if it was started here and not found running."""
        if self._front is not None:
            self._front.undo()
        if self._started_here:
            _end(self._process, self._home)

    def let_go(self) -> None:
        """Leave it running."""
        if self._front is not None:
            self._front.let_go()
        for ours in (self._listening, self._lifeline):
            if ours is not None:
                ours.close()

    async def supervise(self) -> None:
        """Start another whenever it ends or takes no more callers, for ever."""
        if self._front is not None:
            await asyncio.gather(self._keep_up(), self._front.supervise())
        await self._keep_up()

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        first_s, longest_s = RESTART_S
        pause_s = first_s
        while True:
            since_s = loop.time()
            await self._leaves()
            was_healthy = loop.time() - since_s >= HEALTHY_S
            if was_healthy:
                pause_s = first_s
            pid = self._process.pid
            if self._process.alive:  # it drains; nobody may wait for that
                log.warning("the gateway (pid %d) was told to end; starting another", pid)
            else:
                log.warning("the gateway (pid %d) ended; starting it again", pid)
                if not was_healthy:
                    await asyncio.sleep(pause_s)
                    pause_s = min(longest_s, 2 * pause_s)
            try:
                self._spawn()
            except (LeptonError, OSError) as error:
                log.warning("the gateway cannot be started: %s", error)

    def _environment(self) -> dict[str, str]:
        """OpenTelemetry's variables say more: what lets us in, and how much is recorded."""
        environ = {k: v for k, v in os.environ.items() if k not in OTLP_ENDPOINTS}
        return environ | ({OTLP_ENDPOINTS[0]: self._otlp_endpoint} if self._otlp_endpoint else {})

    async def _leaves(self) -> None:
        """Until it takes no more callers."""
        # One that was just starting when we found it gives its socket later, or ends.
        while self._lifeline is None and self._process.alive:
            found = await asyncio.to_thread(_ask_for_socket, self._home)
            if found is None:
                await asyncio.sleep(HANDOVER_LATER_S)
            else:
                self._listening, self._lifeline = found
        lifeline = self._lifeline
        if lifeline is None:
            return
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_recv(lifeline, 1)
        lifeline.close()
        self._lifeline = None

    def _take_socket(self, process: Process) -> None:
        """Get the listening socket of the gateway that runs, if it gives it."""
        give_up_at = time.monotonic() + HANDOVER_S
        while (found := _ask_for_socket(self._home)) is None:  # it may be just starting
            if not process.alive or time.monotonic() >= give_up_at:
                return
            time.sleep(HANDOVER_AGAIN_S)
        self._listening, self._lifeline = found

    def _spawn(self) -> None:
        if self._listening is None:
            port = self.port or self._asked_port
            self._listening = bind(self._host, port, "--gateway-port")
        self.port = self._listening.getsockname()[1]
        descriptor = self._listening.fileno()
        # First it is on record, and only then it works: one that nobody could find again, because
        # this process was killed in between, sees its starter close and ends.
        ours, its = socket.socketpair()
        try:
            with open_log(self._home.gateway_log) as output:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "leptonai.gateway"),
                        *("--home", str(self._home.path)),
                        *("--fd", str(descriptor), "--starter-fd", str(its.fileno())),
                        *("--control-url", self._control_url),
                        *("--token-file", str(self._home.gateway_token_file)),
                        *(["--access-log"] if self._access_log else []),
                        *(["--behind-envoy"] if self._front else []),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[descriptor, its.fileno()],
                    env=self._environment(),
                    start_new_session=True,
                    cwd="/",
                )
            self._process = Process.of(process.pid)
            record = GatewayRecord(
                pid=process.pid,
                started=self._process.started,
                host=self._host,
                port=self.port,
                control_url=self._control_url,
                version=__version__,
                access_log=self._access_log,
                otlp_endpoint=self._otlp_endpoint,
                behind_envoy=self._front is not None,
            )
            self._home.write_record(self._home.gateway_record, asdict(record))
            ours.send(b"\n")
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        if self._lifeline is not None:
            self._lifeline.close()
        ours.setblocking(False)
        self._lifeline = ours
        self._started_here = True


def end_gateway(home: Home) -> bool:
    """End the gateway that was left behind, and what was in front of it; says whether there was
    one."""
    end_envoy(home)
    left = GatewayRecord.left_behind(home, home.gateway_record)
    if left is not None:
        _end(left.process, home)
    return left is not None


def _ask_for_socket(home: Home) -> tuple[socket.socket, socket.socket] | None:
    """What the gateway listens on, and a connection that it closes when it takes no more callers;
    None if it does not answer."""
    folder = os.open(home.gateway, os.O_PATH | os.O_DIRECTORY)
    lifeline = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lifeline.settimeout(HANDOVER_S)
        # By way of a descriptor, since a Unix socket's path may have 108 bytes only.
        lifeline.connect(f"/proc/self/fd/{folder}/{home.gateway_handover.name}")
        _, descriptors, _, _ = socket.recv_fds(lifeline, 1, 1)
        listening = socket.socket(fileno=descriptors[0])
    except (OSError, IndexError):
        lifeline.close()
        return None
    finally:
        os.close(folder)
    lifeline.setblocking(False)
    return listening, lifeline


def _end_slowly(process: Process) -> None:
    """It ends by itself once its requests have; and if it does not, then by force."""
    process.end(grace_s=DRAIN_MOST_S)


def _end(process: Process, home: Home) -> None:
    if not process.end(grace_s=DRAIN_S):
        raise Unavailable(
            f"the gateway (process {process.pid}) does not end", hint=f"see {home.gateway_log}"
        )
