"""The store in memory keeps the promise of every store."""

from pathlib import Path

from leptonai.ports.store import Store
from leptonai.stores import open_store
from leptonai.testing.points_contract import PointsContract
from leptonai.testing.store_contract import StoreContract
from leptonai.testing.values_contract import MessagesContract, ValuesContract


class TestMemoryStore(StoreContract, PointsContract, ValuesContract, MessagesContract):
    """One store a place, as a database would be."""

    async def open(self, where: Path) -> Store:
        self._stores: dict[Path, Store]
        stores = self.__dict__.setdefault("_stores", {})
        if where not in stores:
            stores[where] = await open_store("memory:")
        return stores[where]
