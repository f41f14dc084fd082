"""The gateway is kept up, and can always be found again."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from leptonai import __version__
from leptonai.home import Home, replace_file
from leptonai.main.gateway_process import GatewayProcess, GatewayRecord, end_gateway
from leptonai.processes import Process
from leptonai.testing.free_ports import a_free_port

PATIENCE_S = 60.0

# Dies in the very moment in which the gateway runs and is not yet on record.
DIES_EARLY = """
import os, signal, sys
from pathlib import Path
from leptonai import home
from leptonai.main import gateway_process
from leptonai.home import Home
home.replace_file = lambda path, text: os.kill(os.getpid(), signal.SIGKILL)
gateway = gateway_process.GatewayProcess(
    Home(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), control_url="http://127.0.0.1:9"
)
gateway.start()
"""


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.make()
    home.gateway_token_file.write_text("secret")
    yield home
    end_gateway(home)


def a_gateway(home: Home, port: int = 0) -> GatewayProcess:
    return GatewayProcess(home, host="127.0.0.1", port=port, control_url="http://127.0.0.1:9")


def recorded(home: Home) -> Process:
    return GatewayRecord(**home.read_record(home.gateway_record)).process


def test_one_that_was_left_running_is_taken_over(home):
    first, second = a_gateway(home), a_gateway(home)
    first.start()
    first.let_go()
    left = recorded(home)
    second.start()
    assert (second.port, recorded(home)) == (first.port, left)
    assert end_gateway(home)
    assert not left.alive


def test_one_of_another_version_is_replaced(home):
    first = a_gateway(home)
    first.start()
    first.let_go()
    left = recorded(home)
    facts = json.loads(home.gateway_record.read_text()) | {"version": "0.0.0"}
    replace_file(home.gateway_record, json.dumps(facts))
    second = a_gateway(home)
    second.start()
    second.let_go()
    give_up_at = time.monotonic() + PATIENCE_S
    while left.alive:
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    assert second.port == first.port
    assert recorded(home).alive


def test_one_whose_starter_was_killed_before_it_was_on_record_ends_by_itself(home):
    port = a_free_port()
    starter = subprocess.run(
        [sys.executable, "-c", DIES_EARLY, str(home.path), str(port)], check=False
    )
    assert starter.returncode == -signal.SIGKILL
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            a_gateway(home, port).start()  # as the next `up` does, once the port is free
            break
        except Exception:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
    assert recorded(home).alive


def test_one_that_cannot_be_started_again_is_tried_again(home):
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            doomed = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - takes no time
            process = Process.of(doomed.pid)
            record = GatewayRecord(
                pid=process.pid,
                started=process.started,
                host="127.0.0.1",
                port=port,
                control_url="http://127.0.0.1:9",
                version=__version__,
            )
            replace_file(home.gateway_record, json.dumps(asdict(record)))
            gateway = a_gateway(home)
            gateway.start()
            supervising = asyncio.create_task(gateway.supervise())
            doomed.kill()
            doomed.wait()
            await asyncio.sleep(0.5)
            assert not supervising.done()
        async with asyncio.timeout(PATIENCE_S):
            while recorded(home) == process:
                await asyncio.sleep(0.05)
        assert recorded(home).alive
        supervising.cancel()
        gateway.let_go()

    asyncio.run(main())


def test_it_inherits_its_socket_and_nothing_else_of_ours(home):
    kept = os.open(home.path / "a-file", os.O_CREAT | os.O_RDWR)
    gateway = a_gateway(home)
    gateway.start()
    gateway.let_go()
    folder = Path(f"/proc/{recorded(home).pid}/fd")
    opened = {str(descriptor.readlink()) for descriptor in folder.iterdir()}
    assert str(home.path / "a-file") not in opened
    assert str(home.lock) not in opened
    os.close(kept)


def test_one_that_was_too_busy_to_give_its_socket_gives_it_later(home):
    first, second = a_gateway(home), a_gateway(home)
    first.start()
    first.let_go()
    left = recorded(home)
    os.kill(left.pid, signal.SIGSTOP)  # as one that takes its time to start
    second.start()

    async def main() -> None:
        supervising = asyncio.create_task(second.supervise())
        os.kill(left.pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            while second._listening is None:
                await asyncio.sleep(0.05)
            os.kill(left.pid, signal.SIGKILL)
            # Nobody is refused while there is no gateway.
            reader, writer = await asyncio.open_connection("127.0.0.1", first.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        supervising.cancel()
        second.let_go()

    asyncio.run(main())
