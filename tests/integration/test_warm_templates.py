"""Templates of models and photons, as the local engine keeps and copies them: real processes."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from leptonai.engines.local import LocalEngine
from leptonai.engines.local.templates import MAX_TEMPLATES, code_in_use
from leptonai.ports.engine import (
    Attempt,
    Cold,
    Ended,
    Loaded,
    Loading,
    Seen,
    TemplateState,
    Tree,
    Warm,
)
from leptonai.supervisor import copying
from leptonai.testing.engine_contract import log_of
from leptonai.testing.free_ports import a_free_port

COMMAND = ("python", "-m", "leptonai.serving.model")
EPOCH = 1
PATIENCE_S = 120.0  # with what imports much, on a machine that does much else
WITHHELD = frozenset({"HUSH", "LEPTON_REPLICA_ID", "PORT"})
# `__main__` is the template that loads it: a busy machine is no reason for it to give up a copy.
DRAWS = """
import os, random
import __main__
import numpy as np
from leptonai.photon import Photon

class Draws(Photon):
    deployment_template = {"env": {"OF_THE_PHOTON": "1"}}

    def init(self):
        __main__.READY_WITHIN_S = 120.0
        self.loaded_by = os.getpid()
        random.seed(7)
        np.random.seed(7)

    @Photon.handler
    def draw(self) -> list[float]:
        return [random.random(), float(np.random.rand())]

    @Photon.handler(method="GET")
    def environment(self) -> dict:
        return dict(os.environ)

    @Photon.handler(method="GET")
    def processes(self) -> list[int]:
        return [self.loaded_by, os.getpid()]
"""


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is no reason to start it plainly."""
    monkeypatch.setattr(copying, "CLAIMED_WITHIN_S", PATIENCE_S)


class Node:
    """An engine whose trees are the directories that their digests name."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    async def template(self, attempt: Attempt) -> TemplateState:
        """What becomes of one."""
        await self.engine.warm(attempt, epoch=EPOCH)
        return await self.settled(attempt.warm.key)

    async def settled(self, key: str) -> TemplateState:
        async with asyncio.timeout(PATIENCE_S):
            while isinstance(state := (await self.templates()).get(key), Loading) or not state:
                await self.engine.changed()
        return state

    async def templates(self) -> dict[str, TemplateState]:
        seen = await self.engine.observe("local")
        assert isinstance(seen, Seen)
        return dict(seen.templates)

    async def start(self, attempt: Attempt) -> None:
        await self.engine.start(attempt, epoch=EPOCH)

    async def stop(self, attempt: Attempt) -> Ended:
        await self.engine.stop("local", attempt.id, grace_ms=30_000, epoch=EPOCH)
        return await self.ended(attempt)

    async def ended(self, attempt: Attempt) -> Ended:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                seen = await self.engine.observe("local")
                assert isinstance(seen, Seen)
                if isinstance(state := seen.attempts.get(attempt.id), Ended):
                    return state
                await self.engine.changed()

    async def log(self, attempt: Attempt) -> str:
        return (await log_of(self.engine, "local", attempt.id)).decode()


@asynccontextmanager
async def a_node(home: Path, *, fence: bool = True) -> AsyncIterator[Node]:
    async def fetch(digest: str, directory: Path) -> None:
        shutil.copytree(digest, directory, dirs_exist_ok=True)

    engine = LocalEngine(home, fetch_tree=fetch, clock=Clock())
    await engine.open()
    try:
        yield Node(engine)
    finally:
        if fence:
            assert await engine.fence("local", epoch=EPOCH)
        await engine.close()
        if fence:
            assert strays(home) == []


def strays(home: Path) -> list[str]:
    """What still runs of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if os.fsencode(home) in environment and b"Z" not in (process / "stat").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def a_photon(place: Path, source: str = DRAWS, name: str = "Draws") -> Path:
    place.mkdir(exist_ok=True)
    (place / "photon.py").write_text(source)
    packed = {"name": "it", "file": "photon.py", "photon": name}
    packed["deployment_template"] = {"env": {"OF_THE_PHOTON": "1"}}
    (place / "photon.json").write_text(json.dumps(packed))
    return place


def an_attempt(model: Path, id: str = "a.0", key: str = "key", **env: str) -> Attempt:
    port = a_free_port()
    given = {"PORT": str(port), "LEPTON_REPLICA_ID": id, "OMP_NUM_THREADS": "1", "HUSH": "secret"}
    return Attempt(
        id=id,
        node="local",
        command=COMMAND,
        env=given | env,
        ports=(port,),
        trees=(Tree(digest=str(model), at="model"),),
        warm=Warm(key, WITHHELD),
    )


async def ask(attempt: Attempt, path: str, body: object = None) -> Any:
    """Its answer, once there is one."""
    sent = b"" if body is None else json.dumps(body).encode()
    verb = "GET" if body is None else "POST"
    head = f"{verb} /{path} HTTP/1.0\r\nContent-Length: {len(sent)}\r\n\r\n".encode()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", attempt.ports[0])
                break
            except OSError:
                await asyncio.sleep(0.01)
        writer.write(head + sent)
        answer = await reader.read()
        writer.close()
    status, _, rest = answer.partition(b"\r\n")
    assert b"200" in status, answer
    return json.loads(rest.partition(b"\r\n\r\n")[2])


def test_copies_have_what_is_loaded_and_nothing_else_in_common(tmp_path):
    async def test() -> None:
        model = a_photon(tmp_path / "photon")
        async with a_node(tmp_path / "home") as node:
            first, second = (an_attempt(model, id) for id in ("a.0", "b.0"))
            state = await node.template(first)
            assert isinstance(state, Loaded) and state.memory_bytes > 0
            await node.start(first)
            await node.start(second)
            by, own = await ask(first, "processes")
            assert (by, own) != (own, by)
            assert (await ask(second, "processes"))[0] == by
            draws = [await ask(each, "draw", {}) for each in (first, second)]
            assert all(one != other for one, other in zip(*draws, strict=True))
            environment = await ask(second, "environment")
            assert environment["LEPTON_ATTEMPT_ID"] == "b.0"
            assert environment["HUSH"] == "secret"
            assert environment["OF_THE_PHOTON"] == "1"
            assert not any(name.startswith("LEPTON_TEMPLATE") for name in environment)
            told = Path(f"/proc/{by}/environ").read_bytes()
            assert b"secret" not in told and b"HUSH=" not in told
            assert "Uvicorn running" in await node.log(second)
            assert not (tmp_path / "home" / "attempts" / "live" / "a.0" / "trees").exists()
            end = (await node.stop(first)).how
            assert (end.reason, end.exit_code) == ("Stopped", 128 + 15)
            assert "Application shutdown complete" in await node.log(first)

    asyncio.run(test())


REFUSED = {
    "warm_start = False": "    warm_start = False",
    "threads run after init": """
    def init(self):
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()""",
    "connections or an event loop": """
    def init(self):
        import socket
        self.connection = socket.socket()""",
    "event loop are open": """
    def init(self):
        import asyncio
        self.loop = asyncio.new_event_loop()""",
    "processes run": """
    def init(self):
        import subprocess
        subprocess.Popen(["sleep", "600"])""",
    "init reads $HUSH": """
    def init(self):
        import os
        self.hush = os.environ.get("HUSH")""",
    "reads $HUSH, which only": """
    def init(self):
        import os
        self.all = dict(os.environ)""",
    "init reads $PORT": """
    def init(self):
        import os
        self.port = os.environ["PORT"]""",
    "init failed in the template: ZeroDivisionError": """
    def init(self):
        1 / 0""",
    "a launch of its own": """
    def launch(self, host=None, port=None):
        super().launch(host, port)""",
    "ended with code 7 before": """
    def init(self):
        import os
        os._exit(7)""",
}


def test_what_may_not_be_copied_is_told_why_and_started_plainly(tmp_path):
    async def test() -> None:
        async with a_node(tmp_path / "home") as node:
            for number, (why, body) in enumerate(REFUSED.items()):
                source = f"from leptonai.photon import Photon\nclass Draws(Photon):\n{body}\n"
                model = a_photon(tmp_path / f"photon-{number}", source)
                state = await node.template(an_attempt(model, key=f"key-{number}"))
                assert isinstance(state, Cold)
                assert why in state.because
            assert len(await node.templates()) == len(REFUSED)
            plain = an_attempt(tmp_path / "photon-0", key="key-0")
            await node.start(plain)
            await ask(plain, "healthz")

    asyncio.run(test())


def test_a_copy_that_waits_for_a_thread_that_it_does_not_have_is_started_anew(tmp_path):
    async def test() -> None:
        hangs = (
            "import os, time\nfrom leptonai.photon import Photon\nclass Draws(Photon):\n"
            "    def init(self):\n        self.loaded_by = os.getpid()\n"
            "    def warm_up(self):\n        while os.getpid() != self.loaded_by: time.sleep(1)\n"
        )
        model = a_photon(tmp_path / "photon", hangs)
        async with a_node(tmp_path / "home") as node:
            attempt = an_attempt(model)
            assert isinstance(await node.template(attempt), Loaded)
            for each in (an_attempt(model, "b.0"), attempt):
                await node.start(each)
                await ask(each, "healthz")
                assert "it is started anew" in await node.log(each)
            async with asyncio.timeout(PATIENCE_S):
                while not isinstance((await node.templates()).get("key"), Cold):
                    await node.engine.changed()
            assert (await node.stop(attempt)).how.exit_code == 128 + 15

    asyncio.run(test())


def test_a_model_is_asked_in_a_copy_with_more_threads_than_its_template_had(tmp_path):
    pytest.importorskip("torch")
    from leptonai.training.models import CNN

    CNN(input_shape=(16, 16, 3), num_classes=2).save(tmp_path / "model")

    async def test() -> None:
        async with a_node(tmp_path / "home") as node:
            attempt = an_attempt(tmp_path / "model", OMP_NUM_THREADS="2")
            assert isinstance(await node.template(attempt), Loaded)
            await node.start(attempt)
            pixels = [[[0.5] * 3] * 16] * 16
            answer = await ask(attempt, "predict", {"inputs": [pixels]})
            assert sum(answer["probabilities"][0]) == pytest.approx(1.0)
            assert "started anew" not in await node.log(attempt)

    asyncio.run(test())


def test_the_next_engine_finds_templates_again_and_one_that_died_is_not_missed(tmp_path):
    async def test() -> None:
        model = a_photon(tmp_path / "photon")
        first, second, third = (an_attempt(model, id) for id in ("a.0", "b.0", "c.0"))
        async with a_node(tmp_path / "home", fence=False) as node:
            assert isinstance(await node.template(first), Loaded)
            await node.start(first)
            template, _ = await ask(first, "processes")
        async with a_node(tmp_path / "home") as node:
            assert isinstance(await node.settled("key"), Loaded)
            await node.start(second)
            assert (await ask(second, "processes"))[0] == template
            os.kill(template, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                while await node.templates():
                    await node.engine.changed()
            await node.start(third)
            assert (await ask(third, "processes"))[0] != template
            assert (await ask(second, "processes"))[0] == template
            places = tmp_path / "home" / "attempts" / "templates"
            assert len(list(places.iterdir())) == 1, "its copies read what lies there"
            for each in (first, second):
                await node.stop(each)
                await node.engine.forget("local", each.id, epoch=EPOCH)
            assert list(places.iterdir()) == []

    asyncio.run(test())


def test_the_template_that_was_not_used_for_longest_makes_room(tmp_path):
    async def test() -> None:
        model = a_photon(tmp_path / "photon")
        async with a_node(tmp_path / "home") as node:
            for number in range(MAX_TEMPLATES):
                await node.template(an_attempt(model, f"a.{number}", f"key-{number}"))
            await node.start(an_attempt(model, "b.0", "key-0"))
            await node.template(an_attempt(model, "a.9", "key-9"))
            assert set(await node.templates()) == {"key-0", "key-2", "key-3", "key-9"}
            await node.engine.cool("local", "key-2", epoch=EPOCH)
            assert set(await node.templates()) == {"key-0", "key-3", "key-9"}

    asyncio.run(test())


def test_a_template_that_cannot_get_its_files_is_cold(tmp_path):
    async def test() -> None:
        async with a_node(tmp_path / "home") as node:
            state = await node.template(an_attempt(tmp_path / "nowhere"))
            assert isinstance(state, Cold) and "cannot be started" in state.because
            gone = an_attempt(tmp_path / "nowhere", "b.0")
            await node.start(gone)
            assert (await node.ended(gone)).how.reason == "NotStarted"

    asyncio.run(test())


def test_code_is_another_one_when_it_changed_and_not_when_it_was_compiled(tmp_path):
    package, libraries = tmp_path / "package", tmp_path / "site-packages"
    module, installed = package / "inner" / "module.py", libraries / "numpy-2.1.dist-info"
    module.parent.mkdir(parents=True)
    module.write_text("")
    installed.mkdir(parents=True)
    codes = [code_in_use(package, [libraries])]
    for compiled in (package, module.parent, libraries):
        (compiled / "__pycache__").mkdir()
    assert code_in_use(package, [libraries, tmp_path / "none"]) == codes[0]
    os.utime(module, ns=(1, 1))
    codes.append(code_in_use(package, [libraries]))
    installed.rename(libraries / "numpy-2.2.dist-info")
    codes.append(code_in_use(package, [libraries]))
    os.utime(libraries / "numpy-2.2.dist-info", ns=(1, 1))
    codes.append(code_in_use(package, [libraries]))
    assert len(set(codes)) == len(codes)
