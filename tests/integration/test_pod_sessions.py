"""What people do in a pod: its own process, spoken to as the gateway lets people speak to it."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.pod_world import KEY, PATIENCE_S, RunningPod, Said, a_pod, log_of, session
from websockets.asyncio.client import connect

from leptonai.client.sessions import Broken, carry, entered, run_session
from leptonai.errors import LeptonError, Unavailable
from leptonai.pod.server import ANSWER_AFTER_S
from leptonai.spec.pods import (
    STDIN,
    STDOUT,
    ExecControl,
    ExecEnd,
    ExecRequest,
    PodPlan,
    Window,
)
from leptonai.testing.platform import eventually

WINDOW = Window(rows=24, columns=80)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    with a_pod(tmp_path_factory.mktemp("pod") / "home") as running:
        yield running


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- commands -------------------------------------------------------------------------------------


def test_a_command_has_its_own_streams_and_its_exit_code(pod: RunningPod) -> None:
    said = asyncio.run(session(pod, "sh", "-c", "echo out; echo err >&2; exit 3"))
    assert (said.out, said.err, said.code) == (b"out\n", b"err\n", 3)


def test_bytes_come_back_as_they_went(pod: RunningPod) -> None:
    given = os.urandom(300_000) + bytes(range(256))
    # One message may not be larger than the pod takes: it is fed as a client would.
    said = asyncio.run(session(pod, "head", "-c", "300256", given=given))
    assert said.out == given


def test_it_starts_in_the_pods_home_with_the_pods_variables_and_without_its_key(
    pod: RunningPod,
) -> None:
    said = asyncio.run(session(pod, "sh", "-c", "pwd; echo $HOME; echo $LEPTON_PORT_18888; env"))
    lines = said.out.decode().splitlines()
    assert lines[:3] == [str(pod.home), str(pod.home), str(pod.ports[2])]
    assert KEY not in said.out.decode()
    assert not any(line.startswith("PORT=") for line in lines)


@pytest.mark.parametrize(
    ("command", "code"),
    [(["no-such-program"], 127), (["/etc/passwd"], 127), ([""], 126), (["a\0b"], 126)],
)
def test_what_cannot_be_run_is_said(pod: RunningPod, command: list[str], code: int) -> None:
    said = asyncio.run(session(pod, *command))
    assert said.code == code
    assert said.error


def test_a_command_that_dies_of_a_signal_ends_as_shells_say_it(pod: RunningPod) -> None:
    assert asyncio.run(session(pod, "sh", "-c", "kill -TERM $$")).code == 128 + signal.SIGTERM


def test_a_child_that_holds_the_output_open_does_not_hold_the_session(pod: RunningPod) -> None:
    said = asyncio.run(session(pod, "sh", "-c", "sleep 600 & echo $!"))
    os.kill(int(said.out), signal.SIGKILL)
    assert said.code == 0


def test_all_output_comes_however_slowly_it_is_read(pod: RunningPod) -> None:
    async def main() -> bytes:
        out = b""
        async with entered(pod.url, KEY, "/exec") as tunnel:
            await tunnel.send(ExecRequest(command=["head", "-c", "3000000", "/dev/zero"]))
            while isinstance(message := await tunnel.receive(ExecEnd), bytes):
                out += message[1:]
                await asyncio.sleep(0.01)
        return out

    assert len(asyncio.run(main())) == 3_000_000


def test_a_reader_that_does_not_read_slows_the_program_and_fills_no_memory(
    pod: RunningPod,
) -> None:
    def memory_kib() -> int:
        status = Path(f"/proc/{pod.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    async def main() -> int:
        async with entered(pod.url, KEY, "/exec") as tunnel:
            await tunnel.send(ExecRequest(command=["cat", "/dev/zero"]))
            await tunnel.receive(ExecEnd)
            before = memory_kib()
            await asyncio.sleep(1.0)  # cat would write gigabytes meanwhile
            return memory_kib() - before

    assert asyncio.run(main()) < 30_000


def test_signals_reach_the_command(pod: RunningPod) -> None:
    async def main() -> Said:
        said = Said()
        controls: asyncio.Queue[ExecControl] = asyncio.Queue()
        never = asyncio.Event()

        async def read() -> bytes:
            await never.wait()
            return b""

        script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
        async with entered(pod.url, KEY, "/exec") as tunnel:
            request = ExecRequest(command=["sh", "-c", script])
            running = asyncio.create_task(
                run_session(tunnel, request, read=read, write=said.take, controls=controls)
            )
            await said.until(b"ready")
            await controls.put(ExecControl(signal="INT"))
            said.code = (await running).code
        return said

    said = asyncio.run(main())
    assert (said.out, said.code) == (b"ready\ncaught\n", 9)


def test_who_leaves_hangs_up(pod: RunningPod) -> None:
    async def main(window: Window | None) -> int:
        async with entered(pod.url, KEY, "/exec") as tunnel:
            await tunnel.send(
                ExecRequest(command=["sh", "-c", "echo $$; sleep 600"], window=window)
            )
            first = await tunnel.receive(ExecEnd)
            assert isinstance(first, bytes)
            return int(first[1:])

    for window in (None, WINDOW):
        pid = asyncio.run(main(window))
        eventually(lambda pid=pid: not alive(pid))
    eventually(lambda: pod.report().activity.sessions == 0)


def test_many_sessions_at_once_are_kept_apart(pod: RunningPod) -> None:
    async def main() -> list[Said]:
        return await asyncio.gather(
            *(session(pod, "sh", "-c", f"cat; exit {n}", given=b"%d" % n) for n in range(40))
        )

    said = asyncio.run(main())
    assert [(s.out, s.code) for s in said] == [(b"%d" % n, n) for n in range(40)]


# --- on a terminal --------------------------------------------------------------------------------


def test_a_terminal_has_a_size_that_follows_the_window(pod: RunningPod) -> None:
    async def main() -> Said:
        said = Said()
        controls: asyncio.Queue[ExecControl] = asyncio.Queue()
        keys: asyncio.Queue[bytes] = asyncio.Queue()
        async with entered(pod.url, KEY, "/exec") as tunnel:
            wait = "while :; do sleep 0.05; done"
            script = f"stty size; trap 'stty size; exit 5' WINCH; echo ready; {wait}"
            request = ExecRequest(command=["sh", "-c", script], window=WINDOW, terminal="dumb")
            running = asyncio.create_task(
                run_session(tunnel, request, read=keys.get, write=said.take, controls=controls)
            )
            await said.until(b"ready")
            await controls.put(ExecControl(window=Window(rows=50, columns=132)))
            said.code = (await running).code
        return said

    said = asyncio.run(main())
    assert said.out.split() == [b"24", b"80", b"ready", b"50", b"132"]
    assert said.code == 5


def test_keys_on_a_terminal_do_what_they_do_on_any(pod: RunningPod) -> None:
    async def main() -> Said:
        said = Said()
        keys: asyncio.Queue[bytes] = asyncio.Queue()
        async with entered(pod.url, KEY, "/exec") as tunnel:
            request = ExecRequest(command=["sh"], window=WINDOW)
            running = asyncio.create_task(
                run_session(
                    tunnel, request, read=keys.get, write=said.take, controls=asyncio.Queue()
                )
            )
            await keys.put(b"PS1='ne''xt: '; tty; echo $((6*7))\n")
            await said.until(b"next: ")
            await keys.put(b"cat\n")
            await keys.put(b"meow\n")
            await said.until(b"meow\r\nmeow")  # as it was typed, and from cat
            await keys.put(b"\x03")  # ends cat, and not the shell
            await said.until(b"next: ", times=2)  # what is typed ahead, cat may still take
            await keys.put(b"echo still $((1+1))\n")
            await said.until(b"still 2")
            await keys.put(b"exit 7\n")
            said.code = (await running).code
        return said

    said = asyncio.run(main())
    assert b"/dev/pts/" in said.out
    assert said.code == 7


# --- ports ----------------------------------------------------------------------------------------


class Listener:
    """A server in the pod that does what it is told with one connection."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._serve = serve
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        wire, _ = self._socket.accept()
        with wire:
            self._serve(wire)


async def through(pod: RunningPod, port: int | str, given: bytes) -> bytes:
    """What a connection answers that sends all of `given`, says that this is all, and listens."""
    chunks = [given[at : at + 50_000] for at in range(0, len(given), 50_000)]
    got: list[bytes] = []

    async def read() -> bytes:
        return chunks.pop(0) if chunks else b""

    async def write(data: bytes) -> None:
        got.append(data)

    async with asyncio.timeout(PATIENCE_S):
        async with entered(pod.url, KEY, "/forward", port=str(port)) as tunnel:
            await carry(tunnel, read, write, lambda: got.append(b"|"))
    return b"".join(got)


def read_all(wire: socket.socket) -> bytes:
    data = b""
    while chunk := wire.recv(1 << 16):
        data += chunk
    return data


def test_who_has_said_all_still_hears_the_answer(pod: RunningPod) -> None:
    server = Listener(lambda wire: wire.sendall(b"%d bytes" % len(read_all(wire))))
    assert asyncio.run(through(pod, server.port, b"x" * 1_000_000)) == b"1000000 bytes|"


def test_a_server_that_speaks_first_and_ends_first_is_heard(pod: RunningPod) -> None:
    server = Listener(lambda wire: wire.sendall(b"hello" * 100_000))
    assert asyncio.run(through(pod, server.port, b"")) == b"hello" * 100_000 + b"|"


@pytest.mark.parametrize("port", ["0", "70000", "-1", "x", "", "80 80"])
def test_what_is_no_port_is_refused(pod: RunningPod, port: str) -> None:
    with pytest.raises(Unavailable, match="no port"):
        asyncio.run(through(pod, port, b""))


def test_where_nobody_listens_is_said(pod: RunningPod) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=f"listens on port {port}"):
        asyncio.run(through(pod, port, b""))


def test_a_server_that_does_not_read_slows_its_client(pod: RunningPod) -> None:
    done = threading.Event()
    server = Listener(lambda wire: done.wait(PATIENCE_S) and None)

    async def main() -> int:
        sent = 0
        async with entered(pod.url, KEY, "/forward", port=str(server.port)) as tunnel:
            try:
                async with asyncio.timeout(1.5):
                    while True:
                        await tunnel.send(bytes(60_000))
                        sent += 60_000
            except TimeoutError:
                return sent

    assert asyncio.run(main()) < 30_000_000
    done.set()


def test_a_port_that_the_pod_named_is_where_its_program_was_told_to_listen(
    pod: RunningPod,
) -> None:
    with socket.create_server(("127.0.0.1", pod.ports[2])) as server:

        def serve() -> None:
            wire, _ = server.accept()
            with wire:
                wire.sendall(b"here")

        threading.Thread(target=serve, daemon=True).start()
        assert asyncio.run(through(pod, 18888, b"")) == b"here|"


# --- who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/exec", "/forward?port=1", "/sync", "/jupyter", "/authorize"])
@pytest.mark.parametrize("key", ["", "wrong", KEY + "x"])
def test_without_the_key_nobody_is_let_in(pod: RunningPod, path: str, key: str) -> None:
    async def main() -> None:
        async with entered(pod.url, key, path):
            pass

    with pytest.raises(LeptonError, match="does not know its gateway"):
        asyncio.run(main())


@pytest.mark.parametrize(
    "message",
    ["", "{", "[]", '{"command": 1}', '{"command": ["a"], "window": {"rows": 0}}', b"\x00x"],
)
def test_a_first_message_that_is_none_ends_the_session(
    pod: RunningPod, message: str | bytes
) -> None:
    async def main() -> str | bytes:
        url = pod.url.replace("http", "ws") + "/exec"
        async with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as ws:
            await ws.send(message)
            return await ws.recv()

    assert '"code":126' in str(asyncio.run(main()))


def test_words_that_make_no_sense_do_not_end_a_session(pod: RunningPod) -> None:
    async def main() -> list[bytes | str]:
        url = pod.url.replace("http", "ws") + "/exec"
        async with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as ws:
            await ws.send('{"command":["cat"]}')
            for nonsense in ("", "{}", '{"signal":"SEGV"}', b"", b"\x07x"):
                await ws.send(nonsense)
            await ws.send(STDIN + b"hi")
            await ws.send('{"end_of_input":true}')
            return [message async for message in ws]

    assert asyncio.run(main()) == [STDOUT + b"hi", '{"code":0,"error":""}']


# --- how it is ------------------------------------------------------------------------------------


def nobody_is_in(pod: RunningPod) -> None:
    """Wait until those of earlier tests have left."""
    eventually(lambda: pod.report().activity, lambda seen: seen.sessions == seen.forwards == 0)


def test_it_tells_that_somebody_is_there(pod: RunningPod) -> None:
    async def main() -> None:
        async with entered(pod.url, KEY, "/exec") as tunnel:
            await tunnel.send(ExecRequest(command=["cat"]))
            await tunnel.send(STDIN + b"hi")
            await tunnel.receive(ExecEnd)
            report = await asyncio.to_thread(pod.report)
            assert report.activity.sessions == 1

    nobody_is_in(pod)
    asyncio.run(main())
    eventually(lambda: pod.report().activity.sessions == 0)


def test_who_knows_how_it_is_waits_until_it_is_otherwise(pod: RunningPod) -> None:
    nobody_is_in(pod)
    before = pod.report().version
    waiting = threading.Thread(target=pod.report, args=(f"after={before}",))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    asyncio.run(session(pod, "true"))
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_a_busy_program_is_seen(tmp_path: Path) -> None:
    # It ends by itself, should nobody see to it: no engine is behind this pod.
    plan = PodPlan(
        ports=[2222, 18889], command=["timeout", "20", "sh", "-c", "while :; do :; done"]
    )
    with a_pod(tmp_path / "home", plan, LEPTON_ATTEMPT_MARK=f"test/{tmp_path}") as pod:
        # However little of a busy machine it gets; an idle pod's programs use nothing.
        eventually(lambda: pod.report("after=0&cpu=1").activity.cpu_millis, lambda it: it > 0)


def test_the_users_command_runs_beside_it_and_its_end_is_told(tmp_path: Path) -> None:
    plan = PodPlan(ports=[2222, 18889], command=["sh", "-c", "echo in the log; exit 3"])
    with a_pod(tmp_path / "home", plan) as pod:
        report = eventually(pod.report, lambda report: report.notes)
        assert report.notes[0].message == "its command exited with code 3; the pod goes on"
        assert "in the log" in log_of(pod.home).read_text()
        assert asyncio.run(session(pod, "true")).code == 0


def test_who_waits_for_its_report_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    with a_pod(tmp_path / "home") as pod:
        waiting = threading.Thread(target=pod.report, args=(f"after={pod.report().version}",))
        waiting.start()
        waiting.join(0.2)
        pod.process.send_signal(signal.SIGTERM)
        assert pod.process.wait(ANSWER_AFTER_S - 5) == 0
        waiting.join(PATIENCE_S)


def test_sessions_end_with_the_pod(tmp_path: Path) -> None:
    async def main(pod: RunningPod) -> int:
        async with entered(pod.url, KEY, "/exec") as tunnel:
            await tunnel.send(
                ExecRequest(command=["sh", "-c", "echo $$; sleep 600"], window=WINDOW)
            )
            first = await tunnel.receive(ExecEnd)
            assert isinstance(first, bytes)
            pod.process.send_signal(signal.SIGTERM)
            with pytest.raises(Broken):
                while True:
                    message = await tunnel.receive(ExecEnd)
                    if isinstance(message, ExecEnd):
                        raise Broken("it has ended", hint="as it was to")
            return int(first[1:])

    with a_pod(tmp_path / "home") as pod:
        pid = asyncio.run(main(pod))
        assert pod.process.wait(PATIENCE_S) == 0
        eventually(lambda: not alive(pid))
