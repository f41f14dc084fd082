"""Copies of a template, as a supervisor sees them: on real processes, with nothing loaded."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from leptonai.supervisor import (
    Cgroups,
    Ending,
    Folder,
    Launch,
    Outcome,
    Supervisor,
    copying,
    processes,
)
from leptonai.supervisor.template import CLAIMED_BEFORE, ROOM_BYTES, ROOM_VARIABLE, SOCKET
from leptonai.testing.engine_contract import PATIENCE_S

BOTH = pytest.mark.parametrize(
    "cgroups", [Cgroups.detect("lepton-copies"), Cgroups(0)], ids=["cgroups", "no cgroups"]
)
# What a copy does is what $DO says; the command says that it is the command.
TEMPLATE = """
import os, signal, subprocess, sys, time
from leptonai.supervisor import template
from leptonai.supervisor.template import Template
template.REQUEST_TIMEOUT_S = 60.0  # who asks may be slow
loaded = [1, 2, 3]
template = Template(sys.argv[1], ready_within_s=float(sys.argv[2]))
open("listens", "w").close()
copy = template.copy()
exec(os.environ["DO"])
"""
COMMAND = ("sh", "-c", "echo the command runs; exit 5")
SERVES = "copy.ready(); print('serves', flush=True); time.sleep(600)"
CHILD = (
    "child = subprocess.Popen(['setsid', 'sleep', '600']);"
    "open('child.new', 'w').write(str(child.pid)); os.rename('child.new', 'child');"
)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is no reason to start it otherwise."""
    monkeypatch.setattr(copying, "CLAIMED_WITHIN_S", PATIENCE_S)


class Copies:
    def __init__(self, supervisor: Supervisor, template: Path) -> None:
        self.supervisor = supervisor
        self.template = template

    async def start(self, do: str, id: str = "a.0", **env: str) -> str | None:
        """What was told of it; None where there was no copy."""
        launch = a_launch(id, do, **env)
        copy = await self.supervisor.start_copy(launch, str(self.template))
        return await copy.trouble() if copy else None

    async def ended(self, id: str = "a.0") -> Ending:
        async with asyncio.timeout(PATIENCE_S):
            while id not in self.supervisor.ended:
                await asyncio.sleep(0.01)
        return self.supervisor.ended[id]

    def log(self, id: str = "a.0") -> str:
        return Path(self.supervisor.folder(id).log).read_text()

    def pids(self, id: str = "a.0") -> list[int]:
        """The keeper, and what it has started, oldest first. Only those that are its own for
        certain: what is in the middle of an exec anywhere on this machine may be."""
        mark = self.supervisor.mark(id)
        return sorted(pid for pid in processes.find([mark])[mark] if processes.belongs(pid, mark))


def a_launch(id: str, do: str, **env: str) -> Launch:
    given = {"PATH": os.environ["PATH"], "DO": do, **env}
    return Launch(id=id, command=COMMAND, env=given)


@contextmanager
def a_template(folder: Path, ready_within_s: float = PATIENCE_S) -> Iterator[subprocess.Popen]:
    folder.mkdir(exist_ok=True)
    env = {**os.environ, ROOM_VARIABLE: " " * ROOM_BYTES, "OF_THE_TEMPLATE": "secret"}
    line = [sys.executable, "-c", TEMPLATE, str(folder), str(ready_within_s)]
    process = subprocess.Popen(line, env=env, start_new_session=True)
    try:
        give_up_at = time.monotonic() + PATIENCE_S
        while not (folder / "listens").exists():
            assert process.poll() is None and time.monotonic() < give_up_at
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def a_supervisor(live: Path, cgroups: Cgroups) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(
        live, cgroups, now_ms=lambda: time.time_ns() // 1_000_000, on_change=lambda _: None
    )
    await supervisor.adopt()
    try:
        yield supervisor
    finally:
        await supervisor.close()


@asynccontextmanager
async def copies(
    place: Path, cgroups: Cgroups, ready_within_s: float = PATIENCE_S
) -> AsyncIterator[Copies]:
    """Leaves nothing running behind."""
    with a_template(place / "template", ready_within_s):
        async with a_supervisor(place / "live", cgroups) as supervisor:
            made = Copies(supervisor, place / "template")
            try:
                yield made
            finally:
                assert await supervisor.end_everything(PATIENCE_S)
                for folder in (place / "live").iterdir():
                    assert made.pids(folder.name) == []


@BOTH
@pytest.mark.parametrize(
    ("do", "outcome", "code"),
    [
        ("copy.ready()", Outcome.EXITED, 0),
        ("copy.ready(); sys.exit(3)", Outcome.EXITED, 3),
        ("copy.ready(); loaded[7]", Outcome.EXITED, 1),
        ("copy.ready(); os.kill(os.getpid(), signal.SIGKILL)", Outcome.SIGNALLED, 137),
        ("copy.ready(); os.kill(os.getpid(), signal.SIGTERM)", Outcome.SIGNALLED, 143),
        # Its keeper is of its group, and must live to tell.
        ("copy.ready(); os.killpg(0, signal.SIGTERM)", Outcome.SIGNALLED, 143),
    ],
)
def test_how_a_copy_ends_is_told(tmp_path, cgroups, do, outcome, code):
    async def test() -> None:
        async with copies(tmp_path, cgroups) as some:
            assert await some.start(do) == ""
            end = await some.ended()
            assert (end.outcome, end.code) == (outcome, code)
            assert "the command runs" not in some.log()
            assert ("IndexError" in some.log()) == ("loaded[7]" in do)

    asyncio.run(test())


@BOTH
def test_a_copy_has_what_was_loaded_and_of_its_attempt_everything_else(tmp_path, cgroups):
    async def test() -> None:
        async with copies(tmp_path, cgroups) as some:
            do = (
                "copy.ready();"
                "print(loaded, sorted(set(os.environ) & {'MINE', 'OF_THE_TEMPLATE'}));"
                "print(os.getcwd(), os.getsid(0) == os.getppid(), file=sys.stderr);"
                "print(os.read(0, 1), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
            )
            assert await some.start(do, MINE="1") == ""
            await some.ended()
            work = some.supervisor.folder("a.0").at("work")
            assert sorted(some.log().splitlines()) == sorted(
                ["[1, 2, 3] ['MINE']", f"{work} True", "b'' True"]
            )
            assert Path(some.supervisor.folder("a.0").log).stat().st_mode & 0o077 == 0

    asyncio.run(test())


@BOTH
def test_a_stop_reaches_a_copy_and_it_ends_as_it_likes(tmp_path, cgroups):
    async def test() -> None:
        async with copies(tmp_path, cgroups) as some:
            await some.start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));" + SERVES)
            some.supervisor.stop("a.0", PATIENCE_S)
            end = await some.ended()
            assert (end.outcome, end.code) == (Outcome.STOPPED, 7)

    asyncio.run(test())


@BOTH
def test_what_a_copy_has_started_ends_with_it(tmp_path, cgroups):
    async def test() -> None:
        async with copies(tmp_path, cgroups) as some:
            await some.start(CHILD + SERVES)
            async with asyncio.timeout(PATIENCE_S):
                while len(some.pids()) < 3:
                    await asyncio.sleep(0.01)
            some.supervisor.stop("a.0", 0)
            assert (await some.ended()).outcome is Outcome.STOPPED
            assert some.pids() == []

    asyncio.run(test())


@BOTH
def test_a_copy_whose_keeper_is_killed_is_killed_too_and_lost(tmp_path, cgroups):
    async def test() -> None:
        async with copies(tmp_path, cgroups) as some:
            await some.start(SERVES)
            keeper, _ = some.pids()
            os.kill(keeper, signal.SIGKILL)
            assert (await some.ended()).outcome is Outcome.LOST
            assert some.pids() == []

    asyncio.run(test())


@BOTH
def test_copies_outlive_their_template_and_their_supervisor(tmp_path, cgroups):
    async def test() -> None:
        go = tmp_path / "go"
        waits = (
            f"copy.ready()\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nsys.exit(9)"
        )
        with a_template(tmp_path / "template") as template:
            async with a_supervisor(tmp_path / "live", cgroups) as supervisor:
                assert await Copies(supervisor, tmp_path / "template").start(waits) == ""
            template.kill()
            template.wait()
        async with a_supervisor(tmp_path / "live", cgroups) as supervisor:
            assert list(supervisor.running) == ["a.0"]
            go.touch()
            end = await Copies(supervisor, tmp_path / "template").ended()
            assert (end.outcome, end.code) == (Outcome.EXITED, 9)

    asyncio.run(test())


@BOTH
@pytest.mark.parametrize(
    ("do", "within_s", "why"),
    [
        (
            CHILD + "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
            0.3,
            "within 0.3 s",
        ),
        ("sys.exit(0)", PATIENCE_S, "ended before"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", 0.3, "within 0.3 s"),
    ],
)
def test_a_copy_that_does_not_get_ready_makes_way_for_the_command(
    tmp_path, cgroups, do, within_s, why
):
    async def test() -> None:
        async with copies(tmp_path, cgroups, ready_within_s=within_s) as some:
            told = await some.start(do)
            assert told is not None and why in told
            assert (await some.ended()).code == 5
            *_, said, ran = some.log().splitlines()
            assert said.startswith("leptonai: the copy of its template")
            assert ran == "the command runs"
            assert some.pids() == []

    asyncio.run(test())


@BOTH
def test_a_template_that_hangs_holds_nobody_up_and_starts_nothing_later(
    tmp_path, cgroups, monkeypatch
):
    monkeypatch.setattr(copying, "CLAIMED_WITHIN_S", 0.3)

    async def test() -> None:
        with a_template(tmp_path / "template") as template:
            async with a_supervisor(tmp_path / "live", cgroups) as supervisor:
                some = Copies(supervisor, tmp_path / "template")
                template.send_signal(signal.SIGSTOP)
                assert await some.start("print('late')") is None
                supervisor.start(a_launch("a.0", ""))
                assert (await some.ended()).code == 5
                template.send_signal(signal.SIGCONT)
                monkeypatch.setattr(copying, "CLAIMED_WITHIN_S", PATIENCE_S)
                assert await some.start(SERVES, "b.0") == ""  # it has dealt with the first by now
                assert some.log() == "the command runs\n"
                assert await supervisor.end_everything(PATIENCE_S)

    asyncio.run(test())


def test_of_a_copy_and_a_plain_start_one_runs(tmp_path):
    async def test() -> None:
        async with copies(tmp_path, Cgroups(0)) as some:
            for number in range(10):
                id = f"a.{number}"
                launch = a_launch(id, "copy.ready(); print('the copy runs', flush=True)")
                asking = asyncio.create_task(some.supervisor.start_copy(launch, str(some.template)))
                await asyncio.sleep(number * 0.002)
                some.supervisor.start(launch)
                await asking
                await some.ended(id)
                assert some.log(id).count("runs") == 1

    asyncio.run(test())


def test_a_wrapper_that_comes_too_late_ends_without_the_copy(tmp_path, monkeypatch):
    late = tmp_path / "late.sh"
    late.write_text(f"until [ -e {tmp_path}/goes ]; do sleep 0.01; done; exit {CLAIMED_BEFORE}")
    monkeypatch.setattr("leptonai.supervisor.launch.WRAPPER", late)

    async def test() -> None:
        async with copies(tmp_path, Cgroups(0)) as some:
            done = tmp_path / "done"
            launch = a_launch(
                "a.0",
                "copy.ready(); print('serves', flush=True)\n"
                f"while not os.path.exists({str(done)!r}): time.sleep(0.01)\n"
                "print('the copy runs'); sys.exit(3)",
            )
            some.supervisor.start(launch)
            copy = await some.supervisor.start_copy(launch, str(some.template))
            assert copy is not None and await copy.trouble() == ""
            wrapper = some.supervisor._watches["a.0"].members.wrapper_pid
            (tmp_path / "goes").touch()
            async with asyncio.timeout(PATIENCE_S):
                while processes.read_stat(wrapper) is not None:
                    await asyncio.sleep(0.01)
            assert "a.0" in some.supervisor.running
            done.touch()
            assert (await some.ended()).code == 3
            assert some.log() == "serves\nthe copy runs\n"

    asyncio.run(test())


def test_a_wrapper_that_dies_while_a_copy_claims_ends_without_the_copy(tmp_path, monkeypatch):
    dies = tmp_path / "dies.sh"
    dies.write_text(f"until [ -e {tmp_path}/goes ]; do sleep 0.01; done; exit 1")
    monkeypatch.setattr("leptonai.supervisor.launch.WRAPPER", dies)
    read, looks = Folder.read, []

    def too_early(folder: Folder) -> object:
        """The first look is just before the claim."""
        looks.append(read(folder))
        return looks[-1] if len(looks) > 1 else None

    async def test() -> None:
        async with copies(tmp_path, Cgroups(0)) as some:
            launch = a_launch("a.0", SERVES)
            some.supervisor.start(launch)
            copy = await some.supervisor.start_copy(launch, str(some.template))
            assert copy is not None and await copy.trouble() == ""
            monkeypatch.setattr(Folder, "read", too_early)
            (tmp_path / "goes").touch()
            async with asyncio.timeout(PATIENCE_S):
                while not looks:
                    await asyncio.sleep(0.01)
            some.supervisor.stop("a.0", PATIENCE_S)
            assert (await some.ended()).code == 128 + signal.SIGTERM

    asyncio.run(test())


def test_one_that_was_stopped_before_is_not_copied(tmp_path):
    async def test() -> None:
        async with copies(tmp_path, Cgroups(0)) as some:
            some.supervisor.stop("a.0", 0)
            assert await some.start("print('no')") is None
            assert (await some.ended()).outcome is Outcome.STOPPED
            assert not Path(some.supervisor.folder("a.0").log).exists()

    asyncio.run(test())


def test_without_a_template_there_is_no_copy(tmp_path):
    async def test() -> None:
        async with a_supervisor(tmp_path / "live", Cgroups(0)) as supervisor:
            (tmp_path / "template").mkdir()
            assert await Copies(supervisor, tmp_path / "template").start(SERVES) is None
            assert await Copies(supervisor, tmp_path / "nowhere").start(SERVES) is None
            assert not supervisor.running

    asyncio.run(test())


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"\0\0\0\7[1,2,3]", b"GET / HTTP/1.0\r\n\r\n"],
)
def test_a_template_takes_no_nonsense(tmp_path, sent):
    async def test() -> None:
        async with copies(tmp_path, Cgroups(0)) as some:
            there = os.open(some.template, os.O_PATH)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(f"/proc/self/fd/{there}/{SOCKET}")
                caller.sendall(sent)
                caller.shutdown(socket.SHUT_WR)
                with suppress(ConnectionError):
                    assert caller.recv(1) == b""
            os.close(there)
            assert (some.template / SOCKET).stat().st_mode & 0o077 == 0
            assert await some.start("copy.ready()") == ""

    asyncio.run(test())
