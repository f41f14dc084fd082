"""The gateway's process: from its listening socket to its last answer."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

from leptonai.errors import LeptonError, Unavailable
from leptonai.home import Home
from leptonai.log_files import keep_bounded
from leptonai.otlp import Collector

from .access_log import AccessLog
from .control_plane import ControlPlane
from .downstream import ClientConnection
from .envoy.front import Front
from .follow import Follower
from .gateway import Gateway
from .handover import Handover
from .limits import Limits
from .tracing import Tracer

BACKLOG = 2048  # connections that the kernel keeps for us
FIRST_TABLE_S = 1.0  # for the control plane's route table; then requests are let in by the kept one
LAST_SPANS_S = 1.0  # that a gateway which ends takes for its last spans
FILES_BESIDE_CLIENTS = 1024  # what a process needs, and connections to replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a gateway is told.

    `token_file` holds, with mode 0600, the token it shows to the control plane. `fd` is a bound
    socket that it inherits; without one it binds `host` and `port` itself. `starter` is closed when
    it takes no more callers.
    """

    home: Path
    control_url: str
    token_file: Path
    host: str = "127.0.0.1"
    port: int = 8421
    fd: int | None = None
    starter: socket.socket | None = None
    access_log: bool = False  # a line for each request, in the home's logs
    behind_envoy: bool = False  # which takes all requests first
    collector: Collector | None = None  # where spans go
    limits: Limits = field(default_factory=Limits)


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then let requests end; a second signal ends it at once.

    Raises:
        Unavailable: the port is taken.
    """
    loop = asyncio.get_running_loop()
    gateway = Gateway(loop, config.limits)
    if config.access_log:
        gateway.access_log = AccessLog(gateway, Home(config.home).access_log)
    if config.collector is not None:
        gateway.tracer = Tracer(gateway, config.collector)
    control_plane = ControlPlane(config.control_url, config.token_file)
    follower = Follower(gateway, control_plane, config.home / "gateway" / "routes.json")
    listener = _listener(config)
    _allow_files(2 * config.limits.connections + FILES_BESIDE_CLIENTS)
    if config.behind_envoy:
        host, port = listener.getsockname()[:2]
        gateway.front = Front(gateway, Home(config.home).envoy, (host, port))
    follower.load_copy()
    following = loop.create_task(follower.run())
    # What is kept may be old, and must not deny what there is.
    await follower.polled(FIRST_TABLE_S)
    if gateway.front is not None:
        await gateway.front.begin()
    stop = asyncio.Event()
    at_once = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, lambda: at_once.set() if stop.is_set() else stop.set())
    server = await loop.create_server(
        lambda: ClientConnection(gateway), sock=listener, backlog=BACKLOG
    )
    handover = Handover(loop, listener)
    if config.starter is not None:
        handover.tell(config.starter)
    try:
        handover.open(Home(config.home).gateway_handover)
    except OSError as error:
        gateway.log(f"the socket cannot be handed over later: {error}")
    reporting = loop.create_task(gateway.reporter.run(control_plane))
    bounding = loop.create_task(keep_bounded(Home(config.home).gateway_log))
    tracing = [loop.create_task(gateway.tracer.run())] if gateway.tracer else []
    fronting = []
    if gateway.front is not None:
        fronting = [
            loop.create_task(gateway.front.run()),
            loop.create_task(keep_bounded(Home(config.home).envoy_log)),
        ]
    await stop.wait()
    server.close()
    handover.close()
    draining = loop.create_task(gateway.drain())
    ending = loop.create_task(at_once.wait())
    await asyncio.wait((draining, ending), return_when=asyncio.FIRST_COMPLETED)
    for task in (following, reporting, bounding, draining, ending, *fronting):
        task.cancel()
    if not at_once.is_set():
        await gateway.reporter.tell_the_rest(control_plane)
        if gateway.tracer is not None:
            await gateway.tracer.send_the_rest(LAST_SPANS_S)
    for task in tracing:
        task.cancel()
    follower.save_now()
    if gateway.access_log is not None:
        gateway.access_log.flush()
    for client in tuple(gateway.clients):
        client.abort()


def _listener(config: Config) -> socket.socket:
    if config.fd is not None:
        try:
            return socket.socket(fileno=config.fd)
        except OSError as error:
            raise LeptonError(
                f"file descriptor {config.fd} is no socket: {error.strerror}",
                hint="pass a bound TCP socket",
            ) from error
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {config.host}:{config.port}: {os.strerror(error.errno or 0)}",
            hint="choose another with --port",
        ) from error
    return listener


def _allow_files(count: int) -> None:
    """Raise the soft limit of open files as far as it must and may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
