import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from time import time_ns
from typing import Any

import uvloop

from leptonai.engines.local import LocalEngine
from leptonai.ports.engine import Engine
from leptonai.supervisor import Cgroups
from leptonai.testing.engine_contract import EngineContract


class Clock:
    def now_ms(self) -> int:
        return time_ns() // 1_000_000


async def no_trees(digest: str, directory: Path) -> None:
    raise AssertionError("no attempt of these tests has a tree")


class TestLocalEngine(EngineContract):
    cgroups: Cgroups | None = None  # as the machine has them
    prints_ready = True

    @asynccontextmanager
    async def open(self, home: Path) -> AsyncIterator[Engine]:
        engine = LocalEngine(
            home / "a home", fetch_tree=no_trees, clock=Clock(), cgroups=self.cgroups
        )
        await engine.open()
        yield engine

    def sleeps(self, seconds: float) -> tuple[str, ...]:
        return ("sleep", str(seconds))

    def exits(self, code: int) -> tuple[str, ...]:
        return ("sh", "-c", f"exit {code}")

    def prints(self, text: str) -> tuple[str, ...]:
        return ("echo", text)

    def saves(self, text: str) -> tuple[str, ...]:
        script = 'cd "$LEPTON_CHECKPOINT_DIR" && echo "$1" >> file && cat file'
        return ("sh", "-c", script, "sh", text)

    def serves(self, port: int) -> tuple[str, ...]:
        return (sys.executable, "-m", "http.server", str(port))

    def ignores_term(self) -> tuple[str, ...]:
        return ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")


class TestLocalEngineWithoutCgroups(TestLocalEngine):
    cgroups = Cgroups(0)


class TestLocalEngineOnUvloop(TestLocalEngine):
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        uvloop.run(main)
