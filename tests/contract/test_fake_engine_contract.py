from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from leptonai.ports.engine import Engine
from leptonai.testing.engine_contract import EngineContract
from leptonai.testing.fake_engine import FakeEngine, a_machine
from leptonai.testing.virtual_time import VirtualClock, run


class TestFakeEngine(EngineContract):
    def setup_method(self) -> None:
        self.engine = FakeEngine([a_machine("n1"), a_machine("n2")], clock=VirtualClock())

    @asynccontextmanager
    async def open(self, home: Path) -> AsyncIterator[Engine]:
        yield self.engine

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    def sleeps(self, seconds: float) -> tuple[str, ...]:
        return ("sleep", str(seconds))

    def exits(self, code: int) -> tuple[str, ...]:
        return ("exit", str(code))

    def prints(self, text: str) -> tuple[str, ...]:
        return ("print", text)

    def saves(self, text: str) -> tuple[str, ...]:
        return ("save", text)

    def serves(self, port: int) -> tuple[str, ...]:
        return ("serve", "0")

    def ignores_term(self) -> tuple[str, ...]:
        return ("ignore-term",)
