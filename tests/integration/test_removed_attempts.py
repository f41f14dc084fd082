"""What is left of an attempt is out of the way at once, and deleted behind everybody's back."""

import asyncio
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from leptonai.engines.local import LocalEngine, rubbish
from leptonai.ports.engine import Attempt
from leptonai.testing.engine_contract import PATIENCE_S, ended


class Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


async def no_trees(digest: str, directory: Path) -> None:
    raise AssertionError(digest)


@asynccontextmanager
async def an_engine(home: Path):
    engine = LocalEngine(home, fetch_tree=no_trees, clock=Clock())
    await engine.open()
    try:
        yield engine
    finally:
        await engine.fence("local", epoch=1)
        await engine.close()


async def run_and_remove(engine: LocalEngine, script: str) -> None:
    attempt = Attempt(id="a.0", node="local", command=("sh", "-c", script))
    await engine.start(attempt, epoch=1)
    await ended(engine, "local", "a.0")
    await engine.forget("local", "a.0", epoch=1)
    await engine.remove("local", "a.0", epoch=1)


def left(home: Path, part: str) -> list[str]:
    return [path.name for path in (home / "attempts" / part).iterdir()]


async def nothing_is_left(home: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while left(home, "removed"):
            await asyncio.sleep(0.01)


@pytest.fixture
def stuck_rm(tmp_path_factory, monkeypatch):
    """Deleting begins, and does not end."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / "rm").write_text("#!/bin/sh\nexec sleep 600\n")
    (programs / "rm").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        yield patch


def test_a_removal_does_not_wait_for_the_files_to_be_deleted(tmp_path, stuck_rm):
    async def main():
        async with an_engine(tmp_path) as engine:
            await run_and_remove(engine, "echo hello; touch kept")
            assert await engine.read_log("local", "a.0", offset=0, limit=10) is None
            assert (left(tmp_path, "live"), left(tmp_path, "done")) == ([], [])
            assert len(left(tmp_path, "removed")) == 1

    asyncio.run(main())


def test_what_was_not_deleted_when_the_platform_ended_is_deleted_by_the_next_one(
    tmp_path, stuck_rm
):
    async def main():
        async with an_engine(tmp_path) as engine:
            await run_and_remove(engine, "mkdir -p a/b; touch a/b/c")
        assert len(left(tmp_path, "removed")) == 1
        stuck_rm.undo()
        async with an_engine(tmp_path):
            await nothing_is_left(tmp_path)

    asyncio.run(main())


def test_folders_that_a_program_locked_are_deleted_too(tmp_path, monkeypatch):
    monkeypatch.setattr(rubbish, "FIRST_PAUSE_S", 0.01)

    async def main():
        async with an_engine(tmp_path) as engine:
            await run_and_remove(engine, "mkdir -p a/b; touch a/b/c; chmod 500 a/b; chmod 0 a .")
            await nothing_is_left(tmp_path)

    asyncio.run(main())


def test_what_a_link_leads_to_is_not_deleted(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")

    async def main():
        async with an_engine(tmp_path / "home") as engine:
            await run_and_remove(engine, f"ln -s {precious} link; ln -s {precious} ../link")
            await nothing_is_left(tmp_path / "home")

    asyncio.run(main())
    assert (precious / "file").read_text() == "mine"
