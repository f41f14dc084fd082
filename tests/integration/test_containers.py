"""Images are run for real, where podman can: the image is made here, from programs of this machine.

No container program comes with the tests, so without one they are skipped, in CI too.
"""

import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from leptonai.core.records import EndReason
from leptonai.engines.local import LocalEngine
from leptonai.engines.local.containers import Containers, NoRuntime, find_runtime
from leptonai.ports.engine import Attempt, Engine, Running, Tree
from leptonai.testing.engine_contract import PATIENCE_S, EngineContract, ended, log_of, until
from leptonai.testing.platform import RunningPlatform

EPOCH = 1
PODMAN = shutil.which("podman")
PROGRAMS = ("sh", "cat", "head", "id", "readlink", "sleep", "tail", "touch")
TOLD = "only in the image"
MEMORY_BYTES = 64 << 20


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


# --- the image -----------------------------------------------------------------------------------


def root_file_system() -> bytes:
    """Programs of this machine in /bin, with the libraries that they are linked with."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        libraries = set()
        for program in PROGRAMS:
            path = shutil.which(program)
            assert path, f"this machine has no {program}"
            tar.add(path, f"bin/{program}")
            linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
            libraries |= set(re.findall(r"(/\S+) \(0x", linked.stdout))
        for library in sorted(libraries):
            tar.add(library)
        told = tarfile.TarInfo("etc/told")
        told.size = len(TOLD)
        tar.addfile(told, io.BytesIO(TOLD.encode()))
    return out.getvalue()


def podman(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    assert PODMAN
    return subprocess.run(
        [PODMAN, *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if PODMAN is None:
        pytest.skip("podman is not installed")
    runtime = asyncio.run(find_runtime())
    if isinstance(runtime, NoRuntime):
        pytest.skip(runtime.because)
    name = f"localhost/lepton-test-{uuid.uuid4().hex[:8]}:1"
    made = podman("import", "-", name, stdin=root_file_system())
    if made.returncode:
        pytest.skip(f"podman cannot make an image here: {made.stderr.decode()[-300:]}")
    try:
        tried = podman("run", "--rm", *runtime.options, "--network", "host", name, "/bin/id")
        if tried.returncode:
            pytest.skip(f"podman cannot run an image here: {tried.stderr.decode()[-300:]}")
        yield name
    finally:
        podman("rmi", "--force", name)


# --- the contract of every engine ----------------------------------------------------------------


async def no_tree(digest: str, directory: Path) -> None:
    (directory / digest).write_text("laid out\n")


def an_image_engine(home: Path, image: str, **options) -> LocalEngine:
    """Runs every attempt in the image."""

    class ImageEngine(LocalEngine):
        async def start(self, attempt: Attempt, *, epoch: int) -> None:
            await super().start(replace(attempt, image=attempt.image or image), epoch=epoch)

    return ImageEngine(
        home, **{"fetch_tree": no_tree, "clock": Clock(), "containers": "auto", **options}
    )


class TestLocalEngineWithContainers(EngineContract):
    prints_ready = True

    @pytest.fixture(autouse=True)
    def _image(self, image: str) -> None:
        self.image = image

    @asynccontextmanager
    async def open(self, home: Path) -> AsyncIterator[Engine]:
        self.home = home / "a home"
        engine = an_image_engine(self.home, self.image)
        await engine.open()
        assert engine.runs_images
        yield engine

    def sleeps(self, seconds: float) -> tuple[str, ...]:
        return ("sleep", str(seconds))

    def exits(self, code: int) -> tuple[str, ...]:
        return ("sh", "-c", f"exit {code}")

    def prints(self, text: str) -> tuple[str, ...]:
        return ("sh", "-c", f"echo '{text}'")

    def ignores_term(self) -> tuple[str, ...]:
        return ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")

    async def _ignoring(self, engine: Engine, node: str, attempt: str) -> None:
        """Podman must know it too: of a program that ends before podman has written down that it
        started, nobody can tell that it did, nor with which exit code."""
        await super()._ignoring(engine, node, attempt)
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(state_of_container, self.home, attempt) != "running":
                await asyncio.sleep(0.02)


# --- what is different in a container ------------------------------------------------------------


@asynccontextmanager
async def an_engine(home: Path, image: str, **options) -> AsyncIterator[LocalEngine]:
    engine = an_image_engine(home, image, **options)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.fence("local", epoch=EPOCH)
        await engine.close()


def a_script(text: str, *, id: str = "a.0", **fields) -> Attempt:
    return Attempt(id=id, node="local", command=("sh", "-c", text), **fields)


async def run(engine: LocalEngine, attempt: Attempt):
    await engine.start(attempt, epoch=EPOCH)
    return (await ended(engine, "local", attempt.id)).how


async def says(engine: LocalEngine, words: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while words not in await log_of(engine, "local", "a.0"):
            await asyncio.sleep(0.02)


def how(end) -> tuple[EndReason, int | None]:
    return (end.reason, end.exit_code)


def wrapper_pid(home: Path, id: str = "a.0") -> int:
    return int((home / "attempts/live" / id / "claim").read_text().split()[1])


def state_of_container(home: Path, id: str = "a.0") -> str:
    """ "" if there is none."""
    name = Containers.of(home).name(id)
    return podman("container", "inspect", "-f", "{{.State.Status}}", name).stdout.decode().strip()


def test_it_sees_the_files_of_its_image_and_the_network_and_user_of_the_host(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            script = "cat /etc/told; echo; readlink /proc/self/ns/net; id -u; cat /proc/net/tcp"
            assert (await run(engine, a_script(script))).succeeded
            told, network, user, *sockets = (await log_of(engine, "local", "a.0")).splitlines()
            assert told.decode() == TOLD
            assert network.decode() == str(Path("/proc/self/ns/net").readlink())
            assert user == b"0"
            assert any(f":{port:04X} ".encode() in line for line in sockets)
        assert state_of_container(tmp_path) == ""

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        asyncio.run(main())


def test_it_starts_in_its_files_and_what_it_writes_there_is_ours(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            attempt = a_script(
                "cat hello; touch made; echo $LEPTON_MODEL_DIR; cat $LEPTON_MODEL_DIR/weights",
                trees=(Tree("hello", at="workdir"), Tree("weights", at="model")),
                start_in="workdir",
            )
            assert (await run(engine, attempt)).succeeded
            trees = tmp_path / "attempts/live/a.0/trees"
            printed = (await log_of(engine, "local", "a.0")).decode()
            assert printed == f"laid out\n{trees}/model\nlaid out\n"
            assert (trees / "workdir/made").stat().st_uid == os.getuid()

    asyncio.run(main())


def test_its_secrets_are_in_nobodys_command_line(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            attempt = a_script(
                'echo "$KEY"; sleep 600', env={"KEY": "s3cret\nof two lines", "HOME": "/its own"}
            )
            await engine.start(attempt, epoch=EPOCH)
            await says(engine, b"s3cret\nof two lines\n")
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    assert b"s3cret" not in process.read_bytes()
                except OSError:
                    continue  # it has ended
            name = Containers.of(tmp_path).name("a.0")
            shown = podman("container", "inspect", name).stdout
            assert (
                b"s3cret"
                not in json.dumps(json.loads(shown)[0]["Config"]["CreateCommand"]).encode()
            )

    asyncio.run(main())


def test_variables_that_its_client_would_read_are_the_containers_alone(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            env = {"HOME": "/its own", "PATH": "/bin", "DOCKER_HOST": "nowhere", "TMPDIR": "/no"}
            script = 'echo "$HOME|$PATH|$DOCKER_HOST|$TMPDIR"'
            assert (await run(engine, a_script(script, env=env))).succeeded
            assert await log_of(engine, "local", "a.0") == b"/its own|/bin|nowhere|/no\n"

    asyncio.run(main())


def test_it_is_asked_to_stop_once_and_gets_its_grace(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            script = """
                trap 'echo asked; asked=1' TERM
                echo ready
                while [ -z "$asked" ]; do sleep 0.05; done
                sleep 0.5
                exit 9
            """
            await engine.start(a_script(script), epoch=EPOCH)
            await says(engine, b"ready\n")
            await engine.stop("local", "a.0", grace_ms=60_000, epoch=EPOCH)
            end = (await ended(engine, "local", "a.0")).how
            assert how(end) == (EndReason.STOPPED, 9)
            assert await log_of(engine, "local", "a.0") == b"ready\nasked\n"
        assert state_of_container(tmp_path) == ""

    asyncio.run(main())


def test_it_is_killed_at_its_memory_limit(image, tmp_path):
    if os.geteuid() != 0 and not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("podman needs cgroup v2 for limits without privileges")

    async def main():
        async with an_engine(tmp_path, image) as engine:
            held = 4 * MEMORY_BYTES
            script = f"head -c {held} /dev/zero | tail -c {held} > /dev/null"
            end = await run(engine, a_script(script, limit_memory_bytes=MEMORY_BYTES))
            # Not every podman tells that it was the memory; all tell the kill.
            assert end.exit_code == 128 + signal.SIGKILL
            assert end.reason in (EndReason.OUT_OF_MEMORY, EndReason.SIGNALLED)
            assert (await run(engine, a_script(script, id="b.0"))).succeeded

    asyncio.run(main())


def test_an_image_that_cannot_be_had_is_told_in_podmans_words(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            end = await run(engine, a_script("true", image="no such image!"))
            assert how(end) == (EndReason.NOT_STARTED, None)
            assert "invalid reference format" in end.message

    asyncio.run(main())


def test_a_stop_while_the_image_is_fetched_ends_the_fetch(image, tmp_path):
    async def main():
        # A registry that never answers.
        with socket.create_server(("127.0.0.1", 0)) as registry:
            async with an_engine(tmp_path, image) as engine:
                attempt = a_script("true", image=f"127.0.0.1:{registry.getsockname()[1]}/x:1")
                await engine.start(attempt, epoch=EPOCH)
                await says(engine, b"Trying to pull")
                await engine.stop("local", "a.0", grace_ms=60_000, epoch=EPOCH)
                end = (await ended(engine, "local", "a.0")).how
                assert how(end) == (EndReason.STOPPED, None)

    asyncio.run(main())


# --- pulling the plug ----------------------------------------------------------------------------

PLATFORM = """
    import asyncio, sys, time
    from pathlib import Path
    from leptonai.engines.local import LocalEngine
    from leptonai.ports.engine import Attempt

    class Clock:
        def now_ms(self):
            return time.time_ns() // 1_000_000

    async def main(home, image, *scripts):
        engine = LocalEngine(Path(home), fetch_tree=None, clock=Clock(), containers="auto")
        await engine.open()
        for number, script in enumerate(scripts):
            command = ("sh", "-c", "echo up; " + script)
            attempt = Attempt(id=f"r{number}.0", node="local", command=command, image=image)
            await engine.start(attempt, epoch=1)
        for number in range(len(scripts)):
            while not (await engine.read_log("local", f"r{number}.0", offset=0, limit=9)).data:
                await asyncio.sleep(0.05)
        print("up", flush=True)
        await asyncio.sleep(600)

    asyncio.run(main(*sys.argv[1:]))
"""


def killed_platform(home: Path, image: str, *scripts: str) -> None:
    """What a platform leaves that was killed as soon as all of `scripts` ran."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PLATFORM), str(home), image, *scripts],
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        process.wait()


def test_after_kill_9_of_the_platform_its_containers_are_adopted(image, tmp_path):
    killed_platform(tmp_path, image, "sleep 0.7; exit 42", "sleep 600")

    async def main():
        # What ran in a container is also found by a platform that starts no more of them.
        async with an_engine(tmp_path, image, containers="off") as engine:
            assert how((await ended(engine, "local", "r0.0")).how) == (EndReason.EXITED, 42)
            stays = await until(engine, "local", "r1.0", lambda state: state is not None)
            assert isinstance(stays, Running)
            await engine.stop("local", "r1.0", grace_ms=60_000, epoch=EPOCH)
            end = (await ended(engine, "local", "r1.0")).how
            assert how(end) == (EndReason.STOPPED, 128 + signal.SIGTERM)
        assert (state_of_container(tmp_path, "r0.0"), state_of_container(tmp_path, "r1.0")) == (
            ("", "")
        )

    asyncio.run(main())


def test_a_container_tells_its_exit_code_when_platform_and_wrapper_were_killed(image, tmp_path):
    killed_platform(tmp_path, image, "sleep 1; exit 7")
    os.kill(wrapper_pid(tmp_path, "r0.0"), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while state_of_container(tmp_path, "r0.0") != "exited":
        assert time.monotonic() < deadline
        time.sleep(0.05)

    async def main():
        async with an_engine(tmp_path, image) as engine:
            assert how((await ended(engine, "local", "r0.0")).how) == (EndReason.EXITED, 7)
        assert state_of_container(tmp_path, "r0.0") == ""

    asyncio.run(main())


def test_a_container_whose_wrapper_was_killed_is_swept_and_lost(image, tmp_path):
    async def main():
        async with an_engine(tmp_path, image) as engine:
            await engine.start(a_script("trap '' TERM; echo up; sleep 600"), epoch=EPOCH)
            await says(engine, b"up")
            os.kill(wrapper_pid(tmp_path), signal.SIGKILL)
            end = (await ended(engine, "local", "a.0")).how
            assert how(end) == (EndReason.LOST, None)
            assert state_of_container(tmp_path) == ""

    asyncio.run(main())


# --- the platform --------------------------------------------------------------------------------


def in_the_image(platform: RunningPlatform, name: str, image: str) -> tuple[int, str, list[str]]:
    """A job that prints what only the image has: its exit code, its log, its events' reasons."""
    options = ("--wait", "--container-image", image)
    done = platform.cli(
        "job", "create", "-n", name, *options, "--", "cat", "/etc/told", check=False
    )
    printed = platform.cli("job", "log", name).stdout
    events = json.loads(platform.cli("job", "events", name, "-o", "json").stdout)
    return done.returncode, printed, [event["reason"] for event in events]


def test_a_platform_runs_images_only_when_it_was_told_to(image, tmp_path):
    with RunningPlatform(tmp_path / "home", "--containers", "auto") as platform:
        code, printed, reasons = in_the_image(platform, "inside", image)
        # The last line: podman says first what it cannot limit here.
        assert (code, printed.splitlines()[-1]) == (0, TOLD)
        assert "ImageIgnored" not in reasons
        checks = json.loads(platform.cli("doctor", "-o", "json").stdout)
        (containers,) = (check for check in checks if check["name"] == "containers")
        assert (containers["ok"], containers["found"]) == (True, f"{PODMAN} starts containers")
    with RunningPlatform(tmp_path / "another", "--containers", "off") as platform:
        code, printed, reasons = in_the_image(platform, "outside", image)
        assert code != 0
        assert TOLD not in printed
        assert "ImageIgnored" in reasons
