"""What the local engine promises beyond the contract of all engines, on real processes."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from leptonai.core.records import EndReason
from leptonai.engines.local import LocalEngine
from leptonai.engines.local.environment import base_environment
from leptonai.errors import NotFound, StaleEpoch
from leptonai.home import Home
from leptonai.monitoring.logs import LineDates
from leptonai.ports.engine import KEPT, Attempt, Ended, Running, Seen, Tree, VolumeAt
from leptonai.supervisor import Cgroups, Folder, processes
from leptonai.supervisor.launch import WRAPPER
from leptonai.testing.engine_contract import PATIENCE_S, ended, log_of, until

EPOCH = 1
HAS_LIMITS = Cgroups.detect("lepton-probe").limits != "none"
BOTH = pytest.mark.parametrize("cgroups", [None, Cgroups(0)], ids=["cgroups", "no cgroups"])


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


async def no_tree(digest: str, directory: Path) -> None:
    raise NotFound(f"there is no blob {digest}")


@asynccontextmanager
async def an_engine(home: Path, **options) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(home, **{"fetch_tree": no_tree, "clock": Clock(), **options})
    await engine.open()
    try:
        yield engine
    finally:
        await engine.fence("local", epoch=EPOCH)
        await engine.close()


def an_attempt(*command: str, id: str = "a.0", **fields) -> Attempt:
    return Attempt(id=id, node="local", command=command, **fields)


async def run(engine: LocalEngine, attempt: Attempt):
    await engine.start(attempt, epoch=EPOCH)
    return (await ended(engine, "local", attempt.id)).how


def how(end) -> tuple[EndReason, int | None]:
    return (end.reason, end.exit_code)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def pid_in(path: Path) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while not (path.exists() and path.read_text().endswith("\n")):
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def claimed(folder: Path) -> str:
    """The claim, as soon as its wrapper has written all of it."""
    claim = folder / "claim"
    async with asyncio.timeout(PATIENCE_S):
        while not (claim.exists() and claim.read_text().endswith(".\n")):
            await asyncio.sleep(0.01)
    return claim.read_text()


def mark_in(live: Path) -> str:
    """Of attempt a.0 there."""
    return f"{live.stat().st_dev:x}.{live.stat().st_ino:x}/a.0"


def descendant(out: Path, seconds: int = 600) -> str:
    """Shell text: a child in a session of its own, whose pid goes to `out`."""
    return f"setsid sh -c 'echo $$ > {out}.new; mv {out}.new {out}; exec sleep {seconds}' & "


# --- pulling the plug ----------------------------------------------------------------------------

PLATFORM = """
    import asyncio, sys, time
    from pathlib import Path
    from leptonai.engines.local import LocalEngine
    from leptonai.ports.engine import Attempt
    from leptonai.supervisor import Cgroups

    class Clock:
        def now_ms(self):
            return time.time_ns() // 1_000_000

    async def main(home, cgroups, *commands):
        engine = LocalEngine(Path(home), fetch_tree=None, clock=Clock(),
                             cgroups=Cgroups(0) if cgroups == "none" else None)
        await engine.open()
        for number, command in enumerate(commands):
            attempt = Attempt(id=f"r{number}.0", node="local", command=("sh", "-c", command))
            await engine.start(attempt, epoch=1)
        print("started", flush=True)
        await asyncio.sleep(600)

    asyncio.run(main(*sys.argv[1:]))
"""


def killed_platform(home: Path, cgroups: Cgroups | None, *commands: str) -> None:
    """A control process that started these and was then killed with SIGKILL."""
    script = textwrap.dedent(PLATFORM)
    line = [sys.executable, "-c", script, str(home), "none" if cgroups else "auto", *commands]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "started\n"
    finally:
        process.kill()
        # Its output ends with it although its workloads live on: they hold none of its streams.
        assert process.stdout.read() == ""
        process.wait()


@BOTH
def test_after_a_kill_of_the_platform_all_is_adopted_with_the_real_exit_codes(tmp_path, cgroups):
    go = tmp_path / "go"
    waits = f"while [ ! -e '{go}' ]; do sleep 0.02; done; "
    side = tmp_path / "side"
    killed_platform(
        tmp_path / "home",
        cgroups,
        f"{waits} echo late; exit 3",
        "exit 4",
        f"kill -9 $PPID; {waits} echo never",
        f"echo x >> '{side}'; {waits}",
    )

    async def main():
        async with an_engine(tmp_path / "home", cgroups=cgroups) as engine:
            for number in range(4):  # as a control plane would that does not know how far it got
                await engine.start(an_attempt("false", id=f"r{number}.0"), epoch=EPOCH)
            first = await engine.observe("local")
            assert isinstance(first, Seen)
            assert isinstance(first.attempts["r0.0"], Running)
            go.touch()
            ends = [(await ended(engine, "local", f"r{n}.0")).how for n in range(4)]
            assert [how(end) for end in ends] == [
                (EndReason.EXITED, 3),
                (EndReason.EXITED, 4),
                (EndReason.LOST, None),
                (EndReason.EXITED, 0),
            ]
            assert await log_of(engine, "local", "r0.0") == b"late\n"
            assert side.read_text() == "x\n"

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("stopped", [False, True])
def test_one_whose_wrapper_has_not_claimed_it_yet_is_adopted_too(tmp_path, cgroups, stopped):
    async def main():
        folder = Folder(tmp_path / "attempts/live/a.0")
        folder.prepare()
        os.mkfifo(tmp_path / "go")
        words = ["sh", WRAPPER, shutil.which("mv"), folder.identity(()), folder.at("work")]
        line = f"read go <'{tmp_path}/go'; exec \"$@\""
        wrapper = await asyncio.create_subprocess_exec(
            *("sh", "-c", line, "sh", *words, "--", "sh", "-c", "touch ran; exit 3"),
            cwd=folder.path,
            env={**os.environ, "LEPTON_ATTEMPT_MARK": mark_in(folder.path.parent)},
            start_new_session=True,
        )
        go = await asyncio.to_thread(os.open, tmp_path / "go", os.O_WRONLY)
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            first = await engine.observe("local")
            assert isinstance(first, Seen)
            assert isinstance(first.attempts["a.0"], Running)
            if stopped:
                await engine.stop("local", "a.0", grace_ms=600_000, epoch=EPOCH)
            os.write(go, b"\n")
            os.close(go)
            end = (await ended(engine, "local", "a.0")).how
            assert (how(end), Path(folder.at("work/ran")).exists()) == (
                ((EndReason.STOPPED, None), False) if stopped else ((EndReason.EXITED, 3), True)
            )
        await wrapper.wait()

    asyncio.run(main())


@BOTH
def test_one_whose_wrapper_was_killed_is_lost_and_its_children_are_swept(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            child = tmp_path / "child"
            command = descendant(child) + "kill -9 $PPID; sleep 600"
            assert how(await run(engine, an_attempt("sh", "-c", command))) == (
                EndReason.LOST,
                None,
            )
            assert not child.exists() or not alive(int(child.read_text()))

    asyncio.run(main())


@BOTH
def test_a_child_in_a_session_of_its_own_is_gone_after_a_stop(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            command = descendant(tmp_path / "child") + "exec sleep 600"
            await engine.start(an_attempt("sh", "-c", command), epoch=EPOCH)
            child = await pid_in(tmp_path / "child")
            assert alive(child)
            await engine.stop("local", "a.0", grace_ms=600_000, epoch=EPOCH)
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.STOPPED, 143)
            assert not alive(child)

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("wait", ["", "while [ ! -e child ]; do sleep 0.01; done; "])
def test_a_child_in_a_session_of_its_own_is_gone_after_the_end(tmp_path, cgroups, wait):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            end = await run(engine, an_attempt("sh", "-c", descendant(Path("child")) + wait))
            assert how(end) == (EndReason.EXITED, 0)
            child = tmp_path / "attempts/live/a.0/work/child"
            assert not child.exists() or not alive(int(child.read_text()))
            mark = f"LEPTON_ATTEMPT_MARK={mark_in(tmp_path / 'attempts/live')}".encode()
            assert not any(mark in environ.split(b"\0") for environ in environments())

    asyncio.run(main())


def environments() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found


def test_an_attempt_of_the_same_name_in_another_home_is_left_alone(tmp_path):
    async def main():
        async with (
            an_engine(tmp_path / "one", cgroups=Cgroups(0)) as one,
            an_engine(tmp_path / "two", cgroups=Cgroups(0)) as two,
        ):
            await one.start(an_attempt("sleep", "600"), epoch=EPOCH)
            await claimed(tmp_path / "one/attempts/live/a.0")
            assert how(await run(two, an_attempt("sh", "-c", "exit 3"))) == (EndReason.EXITED, 3)
            await two.fence("local", epoch=EPOCH)
            seen = await one.observe("local")
            assert isinstance(seen, Seen)
            assert isinstance(seen.attempts["a.0"], Running)
            await one.stop("local", "a.0", grace_ms=600_000, epoch=EPOCH)
            assert how((await ended(one, "local", "a.0")).how) == (EndReason.STOPPED, 143)

    asyncio.run(main())


@BOTH
def test_two_engines_that_start_the_same_attempt_run_it_once(tmp_path, cgroups):
    async def main():
        async with (
            an_engine(tmp_path / "home", cgroups=cgroups) as one,
            an_engine(tmp_path / "home", cgroups=cgroups) as two,
        ):
            side = tmp_path / "side"
            ids = [f"r{number}.0" for number in range(20)]
            for id in ids:
                attempt = an_attempt("sh", "-c", f"echo {id} >> '{side}'; exit 5", id=id)
                await asyncio.gather(
                    one.start(attempt, epoch=EPOCH), two.start(attempt, epoch=EPOCH)
                )
            for engine in (one, two):
                for id in ids:
                    assert how((await ended(engine, "local", id)).how) == (EndReason.EXITED, 5)
            assert sorted(side.read_text().split()) == sorted(ids)

    asyncio.run(main())


def test_a_start_that_comes_after_the_stop_of_another_engine_runs_nothing(tmp_path):
    async def main():
        async with an_engine(tmp_path) as late:
            async with an_engine(tmp_path) as early:
                await early.stop("local", "a.0", grace_ms=0, epoch=EPOCH)
            assert how(await run(late, an_attempt("touch", str(tmp_path / "ran")))) == (
                EndReason.STOPPED,
                None,
            )
            assert not (tmp_path / "ran").exists()

    asyncio.run(main())


@BOTH
def test_a_stop_right_after_the_start_always_ends_it(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            for number in range(30):
                id = f"r{number}.0"
                await engine.start(an_attempt("sleep", "600", id=id), epoch=EPOCH)
                await asyncio.sleep(number * 0.0001)  # sweeps over every step of the wrapper
                await engine.stop("local", id, grace_ms=600_000, epoch=EPOCH)
            for number in range(30):
                end = (await ended(engine, "local", f"r{number}.0")).how
                assert end.reason is EndReason.STOPPED, end
                assert end.exit_code in (None, 143), end

    asyncio.run(main())


@BOTH
def test_one_that_forks_all_the_time_is_killed_and_does_not_fail_to_fork(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            ends = []
            for number in range(40):
                id = f"r{number}.0"
                command = "trap '' TERM; echo ready; while :; do true | true; done"
                await engine.start(an_attempt("sh", "-c", command, id=id), epoch=EPOCH)
                while b"ready" not in await log_of(engine, "local", id):
                    await asyncio.sleep(0.01)
                await engine.stop("local", id, grace_ms=0, epoch=EPOCH)
                ends.append(how((await ended(engine, "local", id)).how))
            assert ends == [(EndReason.STOPPED, 137)] * 40

    asyncio.run(main())


@BOTH
def test_a_suspended_wrapper_is_woken_to_tell_the_exit_code(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            await engine.start(an_attempt("sleep", "600"), epoch=EPOCH)
            claim = await claimed(tmp_path / "attempts/live/a.0")
            os.kill(int(claim.split()[1]), signal.SIGSTOP)
            await engine.stop("local", "a.0", grace_ms=0, epoch=EPOCH)
            end = (await ended(engine, "local", "a.0")).how
            # One that had not forked yet forks after the stop, and its command ends unstarted.
            assert how(end) in ((EndReason.STOPPED, 128 + 9), (EndReason.STOPPED, 143))

    asyncio.run(main())


@BOTH
def test_its_own_code_is_kept_when_it_cleans_up_after_the_stop(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            command = "trap 'exit 7' TERM; touch ready; while :; do sleep 0.02; done"
            await engine.start(an_attempt("sh", "-c", command), epoch=EPOCH)
            ready = tmp_path / "attempts/live/a.0/work/ready"
            while not ready.exists():
                await asyncio.sleep(0.01)
            await engine.stop("local", "a.0", grace_ms=60_000, epoch=EPOCH)
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.STOPPED, 7)

    asyncio.run(main())


@BOTH
def test_a_program_that_signals_its_group_does_not_hit_the_record_of_its_end(tmp_path, cgroups):
    async def main():
        async with an_engine(tmp_path, cgroups=cgroups) as engine:
            command = "trap : TERM HUP INT; kill -TERM 0; kill -HUP 0; kill -INT 0; exit 9"
            assert how(await run(engine, an_attempt("sh", "-c", command))) == (EndReason.EXITED, 9)
            end = await run(engine, an_attempt("sh", "-c", "kill -KILL $$", id="b.0"))
            assert how(end) == (EndReason.SIGNALLED, 137)

    asyncio.run(main())


def test_a_zombie_counts_as_ended(tmp_path):
    """Adopted attempts may have a parent that never reaps them."""
    keeper = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import subprocess, sys, time
                subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, start_new_session=True)
                time.sleep(600)  # and never waits for it
                """
            ),
            *(sys.executable, "-c", textwrap.dedent(PLATFORM).replace("600", "0.2")),
            *(str(tmp_path), "auto", "sleep 0.5; exit 6"),
        ]
    )
    # The wrapper's parent, the platform, ends while it runs; whoever inherits it may not reap.
    try:

        async def main():
            live = tmp_path / "attempts/live/r0.0/claim"
            async with asyncio.timeout(PATIENCE_S):
                while not live.exists():
                    await asyncio.sleep(0.01)
            async with an_engine(tmp_path) as engine:
                assert how((await ended(engine, "local", "r0.0")).how) == (EndReason.EXITED, 6)

        asyncio.run(main())
    finally:
        keeper.kill()
        keeper.wait()


def test_an_unreaped_wrapper_without_a_status_is_lost(tmp_path):
    zombie = subprocess.Popen(["true"])
    while alive(zombie.pid):
        time.sleep(0.01)
    folder = Folder(tmp_path / "attempts/live/a.0")
    folder.prepare()
    stat = processes.read_stat(zombie.pid)
    assert stat is not None
    folder.claim(f"started {zombie.pid} {stat.started_ticks} {folder.identity(())}\n")

    async def main():
        async with an_engine(tmp_path) as engine:
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.LOST, None)

    asyncio.run(main())
    zombie.wait()


@pytest.mark.parametrize("claim", ["", "started 12", "started 1 1 another-boot 1\n.\n"])
def test_a_claim_that_names_no_living_wrapper_is_lost(tmp_path, claim):
    folder = Folder(tmp_path / "attempts/live/a.0")
    folder.prepare()
    Path(folder.at("claim")).write_text(claim)

    async def main():
        async with an_engine(tmp_path) as engine:
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.LOST, None)
            assert how(await run(engine, an_attempt("true"))) == (EndReason.LOST, None)

    asyncio.run(main())


@pytest.fixture
def tiny_disk(tmp_path):
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_loses_no_exit_status_and_prevents_no_stop(tiny_disk):
    async def main():
        async with an_engine(tiny_disk) as engine:
            fill = 'until [ -e "$0" ]; do sleep 0.01; done; cat /dev/zero > zeros; exit 5'
            runs = tiny_disk / "b-runs"
            await engine.start(an_attempt("sh", "-c", fill, str(runs)), epoch=EPOCH)
            other = an_attempt("sh", "-c", 'touch "$0"; exec sleep 600', str(runs), id="b.0")
            await engine.start(other, epoch=EPOCH)
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.EXITED, 5)
            assert os.statvfs(tiny_disk).f_bavail == 0
            await engine.stop("local", "b.0", grace_ms=600_000, epoch=EPOCH)
            assert how((await ended(engine, "local", "b.0")).how) == (EndReason.STOPPED, 143)
            # What cannot be recorded is not run, and says why.
            end = await run(engine, an_attempt("true", id="c.0"))
            assert how(end) == (EndReason.NOT_STARTED, None)
            assert "disk is full" in end.message
            # The next control plane on the same full disk tells the same.
            async with an_engine(tiny_disk) as again:
                assert how((await ended(again, "local", "a.0")).how) == (EndReason.EXITED, 5)
                assert how((await ended(again, "local", "b.0")).how) == (EndReason.STOPPED, 143)

    asyncio.run(main())


# --- what it is given ----------------------------------------------------------------------------


def test_the_environment_is_that_of_the_attempt_and_a_safe_part_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", "/platform")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "platform's own")
    monkeypatch.setenv("DATABASE_URL", "postgresql://platform:own@db")

    async def main():
        async with an_engine(tmp_path) as engine:
            attempt = an_attempt(
                sys.executable,
                "-c",
                "import json, os; print(json.dumps([dict(os.environ), os.getcwd(), os.getsid(0)]))",
                env={"GREETING": "hällo\nworld", "mv": "kept", "code": "kept"},
            )
            assert how(await run(engine, attempt)) == (EndReason.EXITED, 0)
            environment, cwd, _ = json.loads(await log_of(engine, "local", "a.0"))
            work = str(tmp_path / "attempts/live/a.0/work")
            assert cwd == work
            expected = {
                **base_environment(os.environ),
                "GREETING": "hällo\nworld",
                "mv": "kept",
                "code": "kept",
                "LEPTON_ATTEMPT_ID": "a.0",
                "LEPTON_ATTEMPT_MARK": mark_in(tmp_path / "attempts/live"),
                "PWD": work,
            }
            environment.pop("LC_CTYPE", None)  # Python's own doing
            expected.pop("LC_CTYPE", None)
            assert environment == expected
            assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)

    asyncio.run(main())


def test_a_secret_in_the_environment_is_neither_on_disk_nor_in_a_command_line(tmp_path):
    async def main():
        async with an_engine(tmp_path) as engine:
            secret = "correct-horse-battery-staple"
            await engine.start(an_attempt("sleep", "600", env={"KEY": secret}), epoch=EPOCH)
            await until(engine, "local", "a.0", lambda state: isinstance(state, Running))
            await claimed(tmp_path / "attempts/live/a.0")
            for path in tmp_path.rglob("*"):
                assert not path.is_file() or secret.encode() not in path.read_bytes(), path
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    assert secret.encode() not in path.read_bytes(), path
                except OSError:
                    continue
            assert secret not in repr(Attempt(id="a", node="n", command=(), env={"KEY": secret}))

    asyncio.run(main())


def test_it_holds_nothing_of_the_platforms_streams_and_files(tmp_path):
    async def main():
        leak = os.open(tmp_path / "leak", os.O_CREAT | os.O_RDWR)
        os.set_inheritable(leak, True)
        async with an_engine(tmp_path / "home") as engine:
            list_files = (
                "import os; print([os.path.realpath(f'/proc/self/fd/{n}') for n in (0, 1, 2)],"
                "sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1], os.getsid(0) != 0)"
            )
            await run(engine, an_attempt(sys.executable, "-c", list_files))
            log = str(tmp_path / "home/attempts/live/a.0/log")
            said = (await log_of(engine, "local", "a.0")).decode().strip()
            assert said == f"{['/dev/null', log, log]} [0, 1, 2] True"
        os.close(leak)

    asyncio.run(main())


def test_trees_are_laid_out_before_it_starts_and_told_by_name(tmp_path):
    fetched = []

    async def fetch(digest: str, directory: Path) -> None:
        fetched.append(digest)
        await asyncio.sleep(0.01)
        (directory / "file").write_text(digest)

    async def main():
        async with an_engine(tmp_path, fetch_tree=fetch) as engine:
            attempt = an_attempt(
                "sh",
                "-c",
                'cat file "$LEPTON_MY_MODEL_DIR/file"; [ "$PWD" = "$LEPTON_WORKDIR_DIR" ]',
                trees=(Tree("sha256:w", "workdir"), Tree("sha256:m", "my-model")),
                start_in="workdir",
            )
            await asyncio.gather(
                engine.start(attempt, epoch=EPOCH), engine.start(attempt, epoch=EPOCH)
            )
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.EXITED, 0)
            assert await log_of(engine, "local", "a.0") == b"sha256:wsha256:m"
            assert fetched == ["sha256:w", "sha256:m"]

    asyncio.run(main())


def test_a_stop_while_its_trees_are_fetched_keeps_it_from_starting(tmp_path):
    async def fetch_for_ever(digest: str, directory: Path) -> None:
        await asyncio.sleep(600)

    async def main():
        async with an_engine(tmp_path, fetch_tree=fetch_for_ever) as engine:
            attempt = an_attempt("true", trees=(Tree("sha256:w", "workdir"),))
            await engine.start(attempt, epoch=EPOCH)
            await asyncio.sleep(0.02)
            assert (await engine.observe("local")).attempts == {}
            await engine.stop("local", "a.0", grace_ms=1_000, epoch=EPOCH)
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.STOPPED, None)
            await engine.forget("local", "a.0", epoch=EPOCH)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trees": (Tree("sha256:gone", "workdir"),)}, "there is no blob sha256:gone"),
        ({"trees": (Tree("sha256:x", "../x"),)}, "'../x' is no name for a directory"),
        ({"start_in": "workdir"}, "it should start in 'workdir', which is not among its files"),
        ({"env": {"BAD": "a\0b"}}, "it cannot be run: embedded null byte"),
        (
            {"env": {f"V{number}": "x" * 100_000 for number in range(40)}},
            "its command and environment are longer than the system allows",
        ),
    ],
)
def test_what_cannot_start_says_why_and_never_starts(tmp_path, fields, message):
    async def main():
        async with an_engine(tmp_path) as engine:
            end = await run(engine, an_attempt("true", **fields))
            assert (*how(end), end.message) == (EndReason.NOT_STARTED, None, message)
        async with an_engine(tmp_path) as engine:  # also after a restart
            end = await run(engine, an_attempt("true"))
            assert (*how(end), end.message) == (EndReason.NOT_STARTED, None, message)

    asyncio.run(main())


def test_a_port_that_is_taken_is_named(tmp_path):
    async def main():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            async with an_engine(tmp_path) as engine:
                end = await run(engine, an_attempt("true", ports=(port,)))
                assert how(end) == (EndReason.NOT_STARTED, None)
                assert end.message == f"port {port} is taken on local"

    asyncio.run(main())


def test_a_command_that_is_not_there_or_not_a_program_is_named(tmp_path):
    (tmp_path / "data").write_text("no program")

    async def main():
        async with an_engine(tmp_path) as engine:
            missing = await run(engine, an_attempt("no-such-program", "-x"))
            assert (*how(missing), missing.message) == (
                EndReason.EXITED,
                127,
                "command not found: no-such-program",
            )
            data = await run(engine, an_attempt(str(tmp_path / "data"), id="b.0"))
            assert how(data) == (EndReason.EXITED, 126)
            assert str(tmp_path / "data") in data.message

    asyncio.run(main())


@pytest.mark.skipif(not HAS_LIMITS, reason="this machine lets us make no control groups")
def test_one_that_takes_more_memory_than_its_limit_is_told_so_also_later(tmp_path):
    async def main():
        eat = "x = bytearray(400 << 20); print(len(x))"
        attempt = an_attempt(sys.executable, "-c", eat, limit_memory_bytes=50 << 20)
        async with an_engine(tmp_path) as engine:
            assert how(await run(engine, attempt)) == (EndReason.OUT_OF_MEMORY, 137)
        async with an_engine(tmp_path) as engine:
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.OUT_OF_MEMORY, 137)

    asyncio.run(main())


@pytest.mark.skipif(not HAS_LIMITS, reason="this machine lets us make no control groups")
def test_cpu_limits_reach_the_kernel(tmp_path):
    async def main():
        async with an_engine(tmp_path) as engine:
            attempt = an_attempt("sleep", "600", cpu_millis=500, limit_cpu_millis=1_500)
            await engine.start(attempt, epoch=EPOCH)
            claim = await claimed(tmp_path / "attempts/live/a.0")
            groups = [Path(line) for line in claim.splitlines()[1:-1]]
            told = {
                name: (group / name).read_text().strip()
                for group in groups
                for name in ("cpu.shares", "cpu.cfs_quota_us", "cpu.weight", "cpu.max")
                if (group / name).exists()
            }
            assert told in (
                {"cpu.shares": "512", "cpu.cfs_quota_us": "150000"},
                {"cpu.weight": "50", "cpu.max": "150000 100000"},
            )
            await engine.stop("local", "a.0", grace_ms=0, epoch=EPOCH)
            await ended(engine, "local", "a.0")
            assert not any(group.exists() for group in groups)

    asyncio.run(main())


def test_gpus_are_told_to_cuda_and_none_where_none_were_given(tmp_path, monkeypatch):
    from leptonai.engines.local import engine as module
    from leptonai.engines.local.machine import Gpus

    monkeypatch.setattr(module, "find_gpus", lambda: Gpus(4, "Fake 40GB", "1.2"))

    async def main():
        async with an_engine(tmp_path) as engine:
            (machine,) = await engine.machines()
            assert (machine.capacity.gpus, machine.capacity.gpu_type) == (4, "Fake 40GB")
            show = ("sh", "-c", 'echo "<$CUDA_VISIBLE_DEVICES>${CUDA_VISIBLE_DEVICES-unset}"')
            await run(engine, an_attempt(*show, gpus=(1, 3)))
            await run(engine, an_attempt(*show, id="b.0", env={"CUDA_VISIBLE_DEVICES": "0"}))
            assert await log_of(engine, "local", "a.0") == b"<1,3>1,3\n"
            assert await log_of(engine, "local", "b.0") == b"<>\n"

    asyncio.run(main())


def test_the_machine_is_described(tmp_path):
    async def main():
        async with an_engine(tmp_path) as engine:
            (machine,) = await engine.machines()
            assert machine.capacity.cpu_millis == len(os.sched_getaffinity(0)) * 1_000
            assert machine.capacity.memory_bytes > 0 < machine.capacity.disk_bytes
            assert machine.limits in ("cgroup-v1", "cgroup-v2", "none")
            assert {"os", "kernel", "cpu"} <= set(machine.facts)

    asyncio.run(main())


# --- logs ----------------------------------------------------------------------------------------


def test_a_log_is_capped_while_it_is_written_and_read_from_a_line_start(tmp_path, monkeypatch):
    monkeypatch.setattr("leptonai.engines.local.attempt_logs.TICK_S", 0.02)
    keep = 1 << 20

    async def main():
        async with an_engine(tmp_path, log_bytes=keep) as engine:
            write = "for i in range(400_000): print(f'line {i:09}')"
            await run(engine, an_attempt(sys.executable, "-u", "-c", write))
            path = tmp_path / "attempts/live/a.0/log"
            total = 400_000 * 15
            assert path.stat().st_size == total
            first = await engine.read_log("local", "a.0", offset=0, limit=15)
            assert first.offset > 0
            assert first.offset % 15 == 0
            assert first.data == f"line {first.offset // 15:09}\n".encode()
            last = await engine.read_log("local", "a.0", offset=total - 15, limit=100)
            assert (last.offset, last.data) == (total - 15, b"line 000399999\n")
            assert path.stat().st_blocks * 512 <= keep + (1 << 16)
            marks = await engine.log_marks("local", "a.0")
            assert marks.end == total
            assert list(marks.at_ns) == sorted(marks.at_ns)
            assert await engine.log_marks("local", "a.0") == marks

    asyncio.run(main())


def test_dates_of_lines_stay_when_the_log_grows_when_it_ends_and_when_the_platform_restarts(
    tmp_path,
):
    async def main():
        go = tmp_path / "go"
        write = f"echo one; while [ ! -e '{go}' ]; do sleep 0.01; done; echo two; echo three"
        async with an_engine(tmp_path / "home") as engine:
            await engine.start(an_attempt("sh", "-c", write), epoch=EPOCH)
            while (first := await engine.log_marks("local", "a.0")).end < 4:
                await asyncio.sleep(0.01)
            dated = LineDates(first, 0, None).of(4)
            go.touch()
            end = (await ended(engine, "local", "a.0")).how
            last = LineDates(await engine.log_marks("local", "a.0"), 0, None)
            times = last.of_each([4, 8, 14])
            assert times[0] == dated
            assert times == sorted(set(times))
            assert times[-1] < (end.finished_at_ms + 1) * 1_000_000
        async with an_engine(tmp_path / "home") as engine:
            await engine.forget("local", "a.0", epoch=EPOCH)
            again = LineDates(await engine.log_marks("local", "a.0"), 0, None)
            assert again.of_each([4, 8, 14]) == times

    asyncio.run(main())


def test_a_log_that_grew_while_no_platform_was_there_is_capped_too(tmp_path):
    go = tmp_path / "go"
    write = f"while [ ! -e '{go}' ]; do sleep 0.02; done; yes 123456789 | head -c 1000000"
    killed_platform(tmp_path / "home", None, write)
    go.touch()
    live = tmp_path / "home/attempts/live/r0.0"
    while not (live / "exited.0").exists():
        time.sleep(0.01)

    async def main():
        async with an_engine(tmp_path / "home", log_bytes=1 << 16) as engine:
            assert how((await ended(engine, "local", "r0.0")).how) == (EndReason.EXITED, 0)
            assert (live / "log").stat().st_blocks * 512 <= (1 << 16) + (1 << 13)
            last = await engine.read_log("local", "r0.0", offset=1_000_000 - 10, limit=100)
            assert (last.offset, last.data) == (999_990, b"123456789\n")

    asyncio.run(main())


def test_a_log_that_was_filled_between_two_looks_is_capped_at_the_end(tmp_path):
    keep = 1 << 20

    async def main():
        async with an_engine(tmp_path, log_bytes=keep) as engine:
            flood = "yes 0123456789abcdef | head -c 4000000; echo; echo the end"
            assert (await run(engine, an_attempt("sh", "-c", flood))).succeeded
            chunk = await engine.read_log("local", "a.0", offset=0, limit=4 << 20)
            assert len(chunk.data) <= keep + 4_096, "whole blocks are dropped"
            assert chunk.data.endswith(b"\nthe end\n")

    asyncio.run(main())


def test_whoever_holds_the_lock_may_come_with_another_database_which_counts_from_one(tmp_path):
    async def main():
        async with an_engine(tmp_path) as engine:
            await engine.stop("local", "a.0", grace_ms=0, epoch=57)
            engine.forget_epochs()
            await engine.stop("local", "b.0", grace_ms=0, epoch=1)
            with pytest.raises(StaleEpoch):
                await engine.stop("local", "c.0", grace_ms=0, epoch=0)

    asyncio.run(main())


def test_a_workload_that_outlives_the_platform_does_not_hold_its_lock(tmp_path):
    home = Home(tmp_path)

    async def main():
        async with an_engine(tmp_path) as engine:
            with home.locked():
                await engine.start(an_attempt("sleep", "600"), epoch=EPOCH)
            assert not home.is_locked

    asyncio.run(main())


# --- containers ----------------------------------------------------------------------------------

PODMAN = """\
#!/bin/sh
printf '%s\\n' "$*" >> "{calls}"
case "$*" in
*--rootfs*) exit 0 ;;
run*) echo "in a container, secret $SECRET"; [ -z "$SLEEP" ] || exec sleep "$SLEEP"; exit 3 ;;
*inspect*) echo "{inspected}" ;;
esac
"""


def a_podman(tmp_path: Path, monkeypatch, inspected: str = "exited 3 false 2026-") -> Path:
    calls = tmp_path / "calls"
    podman = tmp_path / "bin/podman"
    podman.parent.mkdir()
    podman.write_text(PODMAN.format(calls=calls, inspected=inspected))
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", f"{podman.parent}:{os.environ['PATH']}")
    return calls


def test_an_image_is_run_by_name_without_its_secrets_in_the_command_line(tmp_path, monkeypatch):
    calls = a_podman(tmp_path, monkeypatch)

    async def main():
        async with an_engine(tmp_path / "home", containers="auto") as engine:
            attempt = an_attempt(
                *("python", "-c", "print()"),
                image="python:3.12",
                env={"SECRET": "s3cret"},
                limit_memory_bytes=1 << 30,
                limit_cpu_millis=1_500,
            )
            assert how(await run(engine, attempt)) == (EndReason.EXITED, 3)
            assert await log_of(engine, "local", "a.0") == b"in a container, secret s3cret\n"
        work = tmp_path / "home/attempts/live/a.0/work"
        _, started, _, removed = calls.read_text().splitlines()
        assert "s3cret" not in calls.read_text()
        assert started.endswith(
            "label=disable --cpus 1.5 --memory 1073741824 --env LEPTON_ATTEMPT_ID "
            f"--env PYTHONUNBUFFERED --env SECRET --volume {work}:{work} --workdir {work} "
            "--entrypoint python python:3.12 -c print()"
        )
        name = started.split()[2]
        assert name.startswith("lepton-") and name.endswith("-a.0")
        assert removed == f"rm --force --volumes {name}"

    asyncio.run(main())


def test_a_container_whose_wrapper_was_killed_tells_its_code_itself(tmp_path, monkeypatch):
    calls = a_podman(tmp_path, monkeypatch, inspected="exited 42 false 2026-")

    async def main():
        async with an_engine(tmp_path / "home", containers="auto") as engine:
            attempt = an_attempt("x", image="i", env={"SLEEP": "600"})
            await engine.start(attempt, epoch=EPOCH)
            claim = await claimed(tmp_path / "home/attempts/live/a.0")
            os.kill(int(claim.split()[1]), signal.SIGKILL)
            assert how((await ended(engine, "local", "a.0")).how) == (EndReason.EXITED, 42)
            assert "inspect" in calls.read_text()

    asyncio.run(main())


def test_without_containers_the_image_is_ignored(tmp_path, monkeypatch):
    calls = a_podman(tmp_path, monkeypatch)

    async def main():
        async with an_engine(tmp_path / "home") as engine:
            end = await run(engine, an_attempt("true", image="nvcr.io/many-gigabytes"))
            assert how(end) == (EndReason.EXITED, 0)
        assert not calls.exists()

    asyncio.run(main())


# --- speed ---------------------------------------------------------------------------------------


def test_two_hundred_trivial_attempts_all_end(tmp_path, capsys):
    async def main():
        async with an_engine(tmp_path) as engine:
            begun = time.perf_counter()
            for number in range(200):
                await engine.start(an_attempt("true", id=f"r{number}.0"), epoch=EPOCH)
                await asyncio.sleep(0)
            done = 0
            async with asyncio.timeout(PATIENCE_S):
                while done < 200:
                    await engine.changed()
                    seen = await engine.observe("local")
                    done = sum(isinstance(state, Ended) for state in seen.attempts.values())
            took = time.perf_counter() - begun
            latencies = []
            for number in range(20):
                at = time.time_ns()
                show = an_attempt("date", "+%s%N", id=f"l{number}.0")
                assert (await run(engine, show)).succeeded
                said = int(await log_of(engine, "local", show.id))
                latencies.append((said - at) / 1e6)
            with capsys.disabled():
                print(
                    f"\n200 attempts of `true`: {200 / took:.0f}/s; "
                    f"start to the program's own clock: {sorted(latencies)[10]:.2f} ms"
                )
            assert {state.how.exit_code for state in seen.attempts.values()} == {0}

    asyncio.run(main())


# --- volumes -------------------------------------------------------------------------------------


def a_volume(root: Path, **fields) -> VolumeAt:
    root.mkdir(exist_ok=True)
    return VolumeAt(**{"name": "data", "root": str(root), "at": "/mnt/lepton-test/data"} | fields)


async def printed(engine: LocalEngine, *command: str, **fields) -> tuple[tuple, str]:
    end = await run(engine, an_attempt(*command, **fields))
    chunk = await engine.read_log("local", "a.0", offset=0, limit=1 << 20)
    return how(end), chunk.data.decode()


def test_a_volume_is_a_directory_at_its_place_that_nobody_else_sees(tmp_path):
    async def main():
        async with an_engine(tmp_path / "home") as engine:
            if not engine.mounts_volumes:
                pytest.skip("this machine lets its user mount nothing")
            root = tmp_path / "volume"
            writable = a_volume(root, path="sub/dir")
            fixed = a_volume(root, at="/lepton-test-fixed", read_only=True)
            script = (
                "echo made > /mnt/lepton-test/data/file; cat /lepton-test-fixed/sub/dir/file;"
                "touch /lepton-test-fixed/x 2>/dev/null || echo refused; pwd; exit 3"
            )
            volumes = (writable, fixed)
            end, log = await printed(engine, "sh", "-c", script, volumes=volumes)
            assert end == (EndReason.EXITED, 3)
            assert log.splitlines()[:2] == ["made", "refused"]
            assert log.splitlines()[2].endswith("/a.0/work")
            assert (root / "sub/dir/file").read_text() == "made\n"
            assert not Path("/mnt/lepton-test").exists()
            assert not Path("/lepton-test-fixed").exists()

    asyncio.run(main())


def test_the_other_workers_of_a_gang_are_found_by_their_names(tmp_path):
    async def main():
        async with an_engine(tmp_path / "home") as engine:
            if not engine.mounts_volumes:
                pytest.skip("this machine lets its user mount nothing")
            script = (
                "import socket; print(socket.gethostbyname('job-1.job-svc'));"
                "print(socket.gethostbyname('localhost'))"
            )
            hosts = {"job-1.job-svc": "127.0.0.7"}
            end, log = await printed(engine, "python3", "-c", script, hosts=hosts)
            assert (end, log) == ((EndReason.EXITED, 0), "127.0.0.7\n127.0.0.1\n")
            assert "job-1.job-svc" not in Path("/etc/hosts").read_text()

    asyncio.run(main())


def test_what_runs_with_volumes_is_stopped_as_anything_is(tmp_path):
    async def main():
        async with an_engine(tmp_path / "home") as engine:
            script = "trap 'echo saved; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
            attempt = an_attempt("sh", "-c", script, volumes=(a_volume(tmp_path / "volume"),))
            await engine.start(attempt, epoch=EPOCH)
            while True:
                chunk = await engine.read_log("local", "a.0", offset=0, limit=99)
                if chunk is not None and b"ready" in chunk.data:
                    break
                await asyncio.sleep(0.01)
            await engine.stop("local", "a.0", grace_ms=600_000, epoch=EPOCH)
            end = (await ended(engine, "local", "a.0")).how
            assert how(end) == (EndReason.STOPPED, 5)
            chunk = await engine.read_log("local", "a.0", offset=0, limit=99)
            # A shell may say of the `sleep` that it waited for that it was terminated.
            assert chunk.data.startswith(b"ready\n") and chunk.data.endswith(b"saved\n")

    asyncio.run(main())


def test_where_nothing_can_be_mounted_a_volume_is_a_link_in_the_working_directory(
    tmp_path, monkeypatch
):
    async def refused(place):
        return False

    monkeypatch.setattr("leptonai.engines.local.mounts.possible", refused)

    async def main():
        async with an_engine(tmp_path / "home") as engine:
            assert not engine.mounts_volumes
            volumes = (a_volume(tmp_path / "volume"),)
            end, log = await printed(
                engine, "sh", "-c", "echo made > mnt/lepton-test/data/file", volumes=volumes
            )
            assert (end, log) == ((EndReason.EXITED, 0), "")
            assert (tmp_path / "volume/file").read_text() == "made\n"

    asyncio.run(main())


def test_what_cannot_be_mounted_is_told_and_nothing_starts(tmp_path):
    async def main():
        root = tmp_path / "volume"
        gone = a_volume(root)
        (root / "out").symlink_to(tmp_path)
        cases = (
            ("a.0", a_volume(root, path="out"), "a link leads /out out of the volume"),
            ("b.0", a_volume(root, path="none", read_only=True), "there is no /none"),
            ("c.0", dataclasses.replace(gone, root=str(tmp_path / "gone")), "is not on this node"),
        )
        async with an_engine(tmp_path / "home") as engine:
            for id, volume, why in cases:
                end = await run(
                    engine, an_attempt("touch", str(tmp_path / "ran"), id=id, volumes=(volume,))
                )
                assert end.reason is EndReason.NOT_STARTED
                assert why in end.message
            assert not (tmp_path / "ran").exists()

    asyncio.run(main())


def test_a_program_that_is_not_there_is_told_with_volumes_too(tmp_path):
    async def main():
        async with an_engine(tmp_path / "home") as engine:
            volumes = (a_volume(tmp_path / "volume"),)
            end = await run(engine, an_attempt("no-such-program", volumes=volumes))
            assert how(end) == (EndReason.EXITED, 127)
            assert "no-such-program: not found" in end.message

    asyncio.run(main())


def test_files_with_secrets_are_their_users_alone(tmp_path):
    async def main():
        async with an_engine(tmp_path / "home") as engine:
            script = "stat -c %a $THE_FILE; cat $THE_FILE"
            end, log = await printed(engine, "sh", "-c", script, files={"THE_FILE": "text\n"})
            assert (end, log) == ((EndReason.EXITED, 0), "600\ntext\n")
            await engine.forget("local", "a.0", epoch=EPOCH)
            assert [*(tmp_path / "home").rglob("the_file")] == [], "and go with it"

    asyncio.run(main())


def test_one_that_starts_in_what_it_keeps_finds_what_others_of_its_name_left(tmp_path):
    async def main():
        async with an_engine(tmp_path) as engine:
            for number, said in enumerate((b"a\n", b"a\na\n")):
                attempt = an_attempt(
                    *("sh", "-c", "echo a >>left; cat left"),
                    id=f"a.{number}",
                    keeps="pod",
                    start_in=KEPT,
                )
                await engine.start(attempt, epoch=EPOCH)
                await ended(engine, "local", attempt.id)
                assert await log_of(engine, "local", attempt.id) == said
            lost = an_attempt("true", id="b.0", start_in=KEPT)
            await engine.start(lost, epoch=EPOCH)
            assert (await ended(engine, "local", "b.0")).how.reason is EndReason.NOT_STARTED

    asyncio.run(main())
