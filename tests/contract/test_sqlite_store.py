"""The store in a SQLite file keeps the promise of every store, and outlives its process."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from leptonai.core.records import Event, Job, Secret
from leptonai.errors import (
    Conflict,
    InvalidRequest,
    LeptonError,
    StorageFull,
    TryLater,
    Unavailable,
)
from leptonai.ports.store import Emit, Put, Query, Store
from leptonai.stores import databases, open_store
from leptonai.testing.counts_contract import CountsContract
from leptonai.testing.points_contract import PointsContract
from leptonai.testing.store_contract import (
    StoreContract,
    a_job,
    a_secret,
    an_event,
    put,
)
from leptonai.testing.values_contract import MessagesContract, ValuesContract


class TestSqliteStore(
    StoreContract, PointsContract, CountsContract, ValuesContract, MessagesContract
):
    async def open(self, where: Path) -> Store:
        return await open_at(where)


async def open_at(where: Path) -> Store:
    return await open_store(f"sqlite:///{where}/lepton.db")


# --- crashes -------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import asyncio, os, sys
from leptonai.ports.store import Emit, Put
from leptonai.stores import open_store
from leptonai.testing.store_contract import a_job, a_secret, an_event

async def write(store, writer):
    for i in range(1_000_000):
        id = f"{os.getpid()}-{writer}-{i}"
        await store.commit(Put(a_job(id)), Put(a_secret(id)), Emit(an_event(id, "Created")))
        os.write(1, f"{id}\\n".encode())  # acknowledged

async def main():
    store = await open_store(sys.argv[1])
    await asyncio.gather(*(write(store, writer) for writer in range(8)))

asyncio.run(main())
"""


def test_killing_the_process_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for rounds in range(1, 4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, f"sqlite:///{tmp_path}/lepton.db"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        acknowledged += [writer.stdout.readline().strip() for _ in range(40 * rounds)]
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
        acknowledged += rest.split("\n")[:-1]
        assert writer.wait() == -signal.SIGKILL

    async def check() -> None:
        store = await open_at(tmp_path)
        jobs = {job.id for job in await store.find(Job, Query())}
        secrets = {secret.id for secret in await store.find(Secret, Query())}
        events = {event.id for event in await store.events("default", limit=1_000_000)}
        assert set(acknowledged) <= jobs
        assert jobs == secrets == events  # each commit is there whole
        await store.close()

    asyncio.run(check())


def test_a_commit_waits_for_its_fsync(tmp_path: Path) -> None:
    connection = databases.database_at(f"sqlite:///{tmp_path}/lepton.db").connect(writes=True)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    connection.close()


# --- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 2 MB, where this user may mount one."""
    where = tmp_path / "small"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system; the test of a full database says the same")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_a_full_disk_refuses_commits_whole_until_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    asyncio.run(fill_and_recover(small_disk, make_room=ballast.unlink))


def test_a_full_database_refuses_commits_whole_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = {"pages": 200}
    connect = databases.Sqlite.connect

    def limited(self: databases.Sqlite, *, writes: bool = False) -> databases.Connection:
        connection = connect(self, writes=writes)
        connection.execute(f"PRAGMA max_page_count = {limit['pages']}")
        return connection

    monkeypatch.setattr(databases.Sqlite, "connect", limited)
    asyncio.run(fill_and_recover(tmp_path, make_room=lambda: limit.update(pages=100_000)))


async def fill_and_recover(where: Path, *, make_room: object) -> None:
    store = await open_at(where)
    written: list[str] = []
    refused: list[str] = []

    async def write(writer: int) -> None:
        for i in range(100):
            each = f"{writer}-{i}"
            try:
                await store.commit(
                    Put(a_job(each)),
                    Put(a_secret(each, bytes(20_000))),
                    Emit(an_event(each, "Created")),
                )
                written.append(each)
            except StorageFull:
                refused.append(each)
                return

    await asyncio.gather(*(write(writer) for writer in range(4)))
    assert len(refused) == 4
    assert written

    async def expect(ids: list[str]) -> None:
        for kind in (Job, Secret):
            assert {each.id for each in await store.find(kind, Query())} == set(ids)
        assert {event.id for event in await store.events("default")} == set(ids)

    await expect(written)
    assert callable(make_room)
    make_room()
    for each in refused:
        await store.commit(
            Put(a_job(each)), Put(a_secret(each, bytes(20_000))), Emit(an_event(each, "Created"))
        )
    await expect(written + refused)
    await store.close()
    store = await open_at(where)
    await expect(written + refused)
    await store.close()


# --- a database in trouble -----------------------------------------------------------------------


def test_a_database_that_another_process_holds_is_unavailable_until_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY_WAIT_S", 0.05)

    async def test() -> None:
        store = await open_at(tmp_path)
        job = await put(store, a_job("j1"))
        with contextlib.closing(sqlite3.connect(tmp_path / "lepton.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await store.commit(Put(replace(job, message="later")))
            assert await store.get(Job, "default", "j1") == job  # who reads never waits
        written = await put(store, replace(job, message="later"))
        assert await store.get(Job, "default", "j1") == written
        await store.close()

    asyncio.run(test())


def test_numbers_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        store = await open_at(tmp_path)
        with pytest.raises(InvalidRequest):
            await store.commit(Put(a_job("j1", created_at_ms=1 << 70)))
        assert await store.find(Job, Query()) == []
        await store.close()

    asyncio.run(test())


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        store = await open_at(tmp_path)
        following = asyncio.ensure_future(anext(store.changes(0)))
        await asyncio.sleep(0.01)
        late = [asyncio.ensure_future(store.commit(Put(a_job(f"j{i}")))) for i in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert [record.id for (record,) in await asyncio.gather(*late)] == [
            f"j{i}" for i in range(20)
        ]
        assert {record.id for record in (await following).records} <= {f"j{i}" for i in range(20)}
        for call in (
            store.commit(Put(a_job("late"))),
            store.get(Job, "default", "j1"),
            store.find(Job, Query()),
            anext(store.changes(0)),
        ):
            with pytest.raises(Unavailable):
                await call

    asyncio.run(test())


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("sqlite:////nowhere/at/all/lepton.db", Unavailable),
        ("sqlite://", InvalidRequest),
        ("redis://localhost", InvalidRequest),
        ("", InvalidRequest),
        ("postgresql://localhost:1/none", Unavailable),
    ],
)
def test_a_store_that_cannot_be_opened_says_what_to_do(url: str, error: type[LeptonError]) -> None:
    with pytest.raises(error) as caught:
        asyncio.run(open_store(url))
    assert caught.value.hint


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lepton.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(TryLater, match="not a database"):
        asyncio.run(open_at(tmp_path))


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    async def test() -> None:
        store = await open_at(tmp_path)
        await put(store, a_job("j1"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert modes == {f"lepton.db{end}": 0o600 for end in ("", "-wal", "-shm")}
        await store.close()

    umask = os.umask(0o022)
    try:
        asyncio.run(test())
    finally:
        os.umask(umask)


@pytest.mark.parametrize("file", ["lepton.db", "lepton.db-wal", "lepton.db-shm"])
def test_a_file_that_may_not_be_written_is_named_and_opens_again_once_it_may(
    tmp_path: Path, file: str
) -> None:
    program = (
        "import asyncio, sys; from leptonai.stores import open_store\n"
        "async def main(): await (await open_store(sys.argv[1])).close()\n"
        "asyncio.run(main())"
    )
    url = f"sqlite:///{tmp_path}/lepton.db"
    # Root is held by modes like anybody else where it may not override them.
    like_anybody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*(like_anybody if os.geteuid() == 0 else []), sys.executable, "-c", program, url]
    subprocess.run(command, check=True)
    (tmp_path / file).touch()
    (tmp_path / file).chmod(0o444)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert f"{tmp_path}/{file} may not be read and written (its mode is 444)" in refused.stderr
    (tmp_path / file).chmod(0o600)
    subprocess.run(command, check=True)


# --- its schema ----------------------------------------------------------------------------------


def test_a_database_of_a_newer_lepton_is_refused(tmp_path: Path) -> None:
    async def make() -> None:
        await (await open_at(tmp_path)).close()

    asyncio.run(make())
    with contextlib.closing(sqlite3.connect(tmp_path / "lepton.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(Conflict, match="newer Lepton"):
        asyncio.run(open_at(tmp_path))


def test_opening_a_new_or_current_database_loads_nothing_of_migrations_and_postgresql(
    tmp_path: Path,
) -> None:
    program = (
        "import asyncio, sys; from leptonai.stores import open_store\n"
        "async def main(): await (await open_store(sys.argv[1])).close()\n"
        "asyncio.run(main()); asyncio.run(main())\n"
        "print(sorted({'alembic', 'psycopg', 'sqlalchemy.dialects.postgresql'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/lepton.db"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n"


def test_an_event_emitted_alone_is_durable(tmp_path: Path) -> None:
    async def test() -> list[Event]:
        store = await open_at(tmp_path)
        await store.commit(Emit(an_event("j1", "Created")))
        await store.close()
        store = await open_at(tmp_path)
        try:
            return await store.events("default")
        finally:
            await store.close()

    assert asyncio.run(test()) == [an_event("j1", "Created", seq=1)]
