"""Whose process listens on a port, on real processes."""

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leptonai.engines.local import LocalEngine
from leptonai.ports.engine import Attempt
from leptonai.supervisor import Cgroups
from leptonai.testing.engine_contract import PATIENCE_S, clean_up
from leptonai.testing.free_ports import a_free_port

BOTH = pytest.mark.parametrize("cgroups", [None, Cgroups(0)], ids=["cgroups", "no cgroups"])
# Python may lie in a path with spaces.
PYTHON = {"PYTHON": sys.executable}
SERVER = '"$PYTHON" -m http.server'


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


async def no_tree(digest: str, directory: Path) -> None:
    raise AssertionError("no attempt of these tests has a tree")


def while_it_runs(
    home: Path, cgroups: Cgroups | None, script: str, story: Callable[[LocalEngine], object]
) -> None:
    async def main() -> None:
        engine = LocalEngine(home, fetch_tree=no_tree, clock=Clock(), cgroups=cgroups)
        await engine.open()
        try:
            attempt = Attempt(id="a.0", node="local", command=("sh", "-c", script), env=PYTHON)
            await engine.start(attempt, epoch=1)
            await story(engine)
        finally:
            await clean_up(engine, "local")

    asyncio.run(main())


async def answered(port: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


@BOTH
def test_a_stranger_on_its_port_is_not_the_attempt(tmp_path, cgroups):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]

        async def story(engine: LocalEngine) -> None:
            await answered(port)
            assert await engine.listens("local", "a.0", port) is False

        while_it_runs(tmp_path, cgroups, "exec sleep 600", story)


@BOTH
@pytest.mark.parametrize(
    "server",
    [
        pytest.param("exec {server} {port}", id="itself"),
        pytest.param("sh -c '{server} {port} & wait' & wait", id="a child of a child"),
        pytest.param("setsid {server} {port} & wait", id="in a session of its own"),
        # As a program that writes its title over its environment. Without cgroups nothing tells
        # at the end that it belongs to the attempt, so it ends by itself.
        pytest.param("env -i timeout 60 {server} {port} & wait", id="without its environment"),
        pytest.param("exec {server} {port} --bind ::", id="on IPv6 and IPv4"),
    ],
)
def test_whatever_the_attempt_has_started_listens_for_it(tmp_path, cgroups, server):
    port = a_free_port()

    async def story(engine: LocalEngine) -> None:
        await answered(port)
        async with asyncio.timeout(PATIENCE_S):
            while not await engine.listens("local", "a.0", port):
                await asyncio.sleep(0.02)

    while_it_runs(tmp_path, cgroups, server.format(server=SERVER, port=port), story)


def test_it_is_asked_who_takes_ipv4_not_who_listens_on_the_same_port_beside(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        beside = (
            "import socket, time; s = socket.create_server(('::1', {}), family=socket.AF_INET6);"
            "print('listens', flush=True); time.sleep(600)"
        )

        async def story(engine: LocalEngine) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    log = await engine.read_log("local", "a.0", offset=0, limit=100)
                    if log is not None and b"listens" in log.data:
                        break
                    await asyncio.sleep(0.02)
            assert await engine.listens("local", "a.0", port) is False

        script = f'exec "$PYTHON" -c "{beside.format(port)}"'
        while_it_runs(tmp_path, None, script, story)
