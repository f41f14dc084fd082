"""The values of key spaces in a database: SQLite or PostgreSQL, by the same code."""

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import bindparam

from leptonai.ports.values import Keys
from leptonai.stores.databases import Cursor, Database
from leptonai.stores.readers import Readers
from leptonai.stores.tables import key_values as table
from leptonai.stores.writer import Writer


class SqlValues:
    """Keeps the promise of `ports.values.ValueStore`."""

    def __init__(
        self, database: Database, turn: Callable[[Cursor], None], readers: Readers, writer: Writer
    ) -> None:
        """`turn` waits for the writers before, and has those after wait for the transaction."""
        self._turn = turn
        self._readers = readers
        self._writer = writer
        of_space = (
            table.c.workspace == bindparam("workspace"),
            table.c.space == bindparam("space"),
        )
        of_key = (*of_space, table.c.key == bindparam("key"))

        def text(statement: sa.ClauseElement) -> str:
            return str(statement.compile(dialect=database.dialect))

        self._get = text(sa.select(table.c.value).where(*of_key))
        self._delete = text(sa.delete(table).where(*of_key))
        self._forget = text(sa.delete(table).where(*of_space))
        self._last = text(sa.select(sa.func.max(table.c.number)).where(*of_space))
        insert = database.insert(table)
        self._put = text(
            insert.on_conflict_do_update(
                index_elements=list(table.primary_key), set_={"value": insert.excluded.value}
            )
        )
        self._keys = text(
            sa.select(table.c.number, table.c.key)
            .where(
                *of_space,
                table.c.number > bindparam("after"),
                table.c.key >= bindparam("first"),
                sa.func.substr(
                    table.c.key, sa.literal_column("1"), bindparam("chars", type_=sa.Integer)
                )
                == bindparam("prefix"),
            )
            .order_by(table.c.number)
            .limit(bindparam("count", type_=sa.Integer))
            .offset(sa.literal_column("0"))
        )

    async def put(self, workspace: str, space: str, key: str, value: bytes) -> None:
        name = {"workspace": workspace, "space": space}

        def write(cursor: Cursor) -> None:
            self._turn(cursor)  # nobody else is given the number meanwhile
            cursor.execute(self._last, name)
            ((last,),) = cursor.fetchall()
            row = {**name, "key": key, "number": (last or 0) + 1, "value": value}
            cursor.execute(self._put, row)

        await self._writer.alone(write)

    async def get(self, workspace: str, space: str, key: str) -> bytes | None:
        def read(cursor: Cursor) -> bytes | None:
            cursor.execute(self._get, {"workspace": workspace, "space": space, "key": key})
            row = cursor.fetchone()
            return None if row is None else bytes(row[0])

        return await self._readers.read_quickly(read)

    async def delete(self, workspace: str, space: str, key: str) -> None:
        name = {"workspace": workspace, "space": space, "key": key}
        await self._writer.alone(lambda cursor: cursor.execute(self._delete, name) and None)

    async def keys(
        self, workspace: str, space: str, *, prefix: str = "", after: int = 0, limit: int
    ) -> Keys:
        wanted = {
            "workspace": workspace,
            "space": space,
            "after": after,
            "first": prefix,  # lets the database leave out most by its index
            "prefix": prefix,
            "chars": len(prefix),
            "count": limit + 1,
        }

        def read(cursor: Cursor) -> Keys:
            cursor.execute(self._keys, wanted)
            rows = cursor.fetchall()
            more = len(rows) > limit
            return Keys([key for _, key in rows[:limit]], rows[limit - 1][0] if more else 0)

        return await self._readers.read(read)

    async def forget(self, workspace: str, space: str) -> None:
        name = {"workspace": workspace, "space": space}
        await self._writer.alone(lambda cursor: cursor.execute(self._forget, name) and None)
