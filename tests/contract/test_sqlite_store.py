"""The store in a SQLite file keeps the promise of every store, and loses nothing with its process."""

from pathlib import Path

from leptonai.ports.store import Store
from leptonai.stores import open_store
from leptonai.testing.store_contract import StoreContract


class TestSqliteStore(StoreContract):
    async def open(self, where: Path) -> Store:
        return await open_store(f"sqlite:///{where}/lepton.db")
