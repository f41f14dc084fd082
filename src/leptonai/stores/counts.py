"""The counts of endpoints' requests in a database: SQLite or PostgreSQL, by the same code."""

from collections.abc import Callable, Mapping
from functools import cached_property

import sqlalchemy as sa
from sqlalchemy import bindparam

from leptonai.stores.databases import Cursor, Database
from leptonai.stores.readers import Readers
from leptonai.stores.tables import request_counts
from leptonai.stores.writer import Writer


class SqlCounts:
    """Keeps the promise of `ports.counts.CountStore`."""

    def __init__(self, database: Database, readers: Readers, writer: Writer) -> None:
        self._database = database
        self._readers = readers
        self._writer = writer

    @cached_property
    def _statements(self) -> "_Statements":
        return _Statements(self._database)

    async def change(
        self, workspace: str, endpoint: str, day: int, to: Callable[[bytes], bytes]
    ) -> None:
        row = {"workspace": workspace, "endpoint": endpoint, "day": day}

        def write(cursor: Cursor) -> None:
            cursor.execute(self._statements.one, row)
            found = cursor.fetchone()
            column = to(bytes(found[0]) if found else b"")
            cursor.execute(self._statements.put, {**row, "column": column})

        await self._writer.alone(write)

    async def read(self, workspace: str, endpoint: str, from_day: int) -> Mapping[int, bytes]:
        wanted = {"workspace": workspace, "endpoint": endpoint, "from_day": from_day}

        def read(cursor: Cursor) -> dict[int, bytes]:
            cursor.execute(self._statements.since, wanted)
            return {day: bytes(column) for day, column in cursor.fetchall()}

        return await self._readers.read(read)

    async def forget_before(self, day: int) -> None:
        await self._writer.alone(
            lambda cursor: cursor.execute(self._statements.forget, {"day": day}) and None
        )


class _Statements:
    def __init__(self, database: Database) -> None:
        table = request_counts
        whose = (
            table.c.workspace == bindparam("workspace"),
            table.c.endpoint == bindparam("endpoint"),
        )

        def text(statement: sa.ClauseElement) -> str:
            return str(statement.compile(dialect=database.dialect))

        self.one = text(
            sa.select(table.c.column)
            .where(*whose, table.c.day == bindparam("day"))
            .with_for_update()
        )
        insert = database.insert(table)
        self.put = text(
            insert.on_conflict_do_update(
                index_elements=list(table.primary_key), set_={"column": insert.excluded.column}
            )
        )
        self.since = text(
            sa.select(table.c.day, table.c.column).where(
                *whose, table.c.day >= bindparam("from_day")
            )
        )
        self.forget = text(sa.delete(table).where(table.c.day < bindparam("day")))
