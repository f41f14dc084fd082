"""A few threads that read, each with its own connection; what one writes is read at once after."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from leptonai.errors import Unavailable
from leptonai.stores.databases import Connection, Cursor, Database

READERS = 2  # threads

T = TypeVar("T")


class Readers:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._connections: set[Connection] = set()
        self._closed = False

    async def read(self, work: Callable[[Cursor], T]) -> T:
        """Do something that may take a while."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)

    async def read_quickly(self, work: Callable[[Cursor], T]) -> T:
        """Do something that takes no longer than changing threads would, where there is such."""
        if not self._database.quick_reads_inline:
            return await self.read(work)
        self._check_open()
        return self._do(work)

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        while self._connections:
            with contextlib.suppress(Exception):
                self._connections.pop().close()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed", hint="the platform is stopping")

    def _do(self, work: Callable[[Cursor], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        kept = connection is not None
        try:
            if connection is None:
                connection = self._local.connection = self._database.connect()
                self._connections.add(connection)
            return work(self._database.cursor(connection))
        except Exception as error:
            if connection is not None and self._database.is_lost(connection):
                self._connections.discard(connection)
                self._local.connection = None
                if kept:  # the server may have been restarted since: once more on a new one
                    return self._do(work)
            raise self._database.translate(error) from error
