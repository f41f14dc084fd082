"""``python -m leptonai.gateway``: how the platform starts it."""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from leptonai.errors import LeptonError
from leptonai.otlp import Collector

from .server import Config, serve


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m leptonai.gateway", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="where the last table is kept")
    parser.add_argument("--control-url", required=True, help="http://HOST:PORT")
    parser.add_argument("--token-file", type=Path, required=True, help="for the control plane")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8421)
    parser.add_argument("--access-log", action="store_true", help="one line for each request")
    parser.add_argument(
        "--behind-envoy", action="store_true", help="keep Envoy's files, and believe what it says"
    )
    parser.add_argument("--fd", type=int, help="a bound socket, instead of --host and --port")
    parser.add_argument(
        "--starter-fd",
        type=int,
        help="a socket: wait for a byte from it, end where it is closed without one, "
        "and close it when no more callers are taken",
    )
    given = parser.parse_args(arguments)
    starter = None if given.starter_fd is None else socket.socket(fileno=given.starter_fd)
    if starter is not None and not starter.recv(1):
        return 0
    try:
        collector = Collector.of(os.environ)
    except LeptonError as error:
        print(f"gateway: {error.message}; {error.hint}", file=sys.stderr)
        collector = None  # requests matter more
    config = Config(
        home=given.home,
        control_url=given.control_url,
        token_file=given.token_file,
        host=given.host,
        port=given.port,
        fd=given.fd,
        starter=starter,
        access_log=given.access_log,
        collector=collector,
        behind_envoy=given.behind_envoy,
    )
    try:
        run(config)
    except LeptonError as error:
        print(f"gateway: {error.message}; {error.hint}", file=sys.stderr)
        return 1
    return 0


def run(config: Config) -> None:
    """`serve` on the quickest event loop that is installed."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(config))


if __name__ == "__main__":
    sys.exit(main())
