"""The messages of queues in a database: SQLite or PostgreSQL, by the same code."""

import hashlib
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import bindparam

from leptonai.ports.messages import SAME_FOR_MS
from leptonai.stores.databases import Cursor, Database
from leptonai.stores.readers import Readers
from leptonai.stores.tables import messages as table
from leptonai.stores.writer import Writer

DROPPED_AT_ONCE = 100  # of the messages that were taken long ago, with each that is taken

_NOTHING: sa.ColumnElement[int] = sa.literal_column("0")  # SQLite's LIMIT has a parameter else


class SqlMessages:
    """Keeps the promise of `ports.messages.MessageStore`.

    Each write takes turns with every other one of the database, as commits do, so that no message
    is taken twice.
    """

    def __init__(
        self, database: Database, turn: Callable[[Cursor], None], readers: Readers, writer: Writer
    ) -> None:
        """`turn` waits for the writers before, and has those after wait for the transaction."""
        self._turn = turn
        self._readers = readers
        self._writer = writer
        of_queue = (
            table.c.workspace == bindparam("workspace"),
            table.c.queue == bindparam("queue"),
        )
        waits = (*of_queue, table.c.text.is_not(None))
        number = (*of_queue, table.c.number == bindparam("number"))

        def text(statement: sa.ClauseElement) -> str:
            return str(statement.compile(dialect=database.dialect))

        self._last = text(sa.select(sa.func.max(table.c.number)).where(*of_queue))
        self._same = text(
            sa.select(table.c.number)
            .where(
                *of_queue,
                table.c.digest == bindparam("digest"),
                table.c.sent_at_ms > bindparam("since_ms"),
            )
            .limit(sa.literal_column("1"))
            .offset(_NOTHING)
        )
        self._send = text(sa.insert(table))
        self._first = text(
            sa.select(table.c.number, table.c.text)
            .where(*waits)
            .order_by(table.c.number)
            .limit(sa.literal_column("1"))
            .offset(_NOTHING)
        )
        self._take = text(sa.update(table).where(*number).values(text=sa.null()))
        old = (
            sa.select(table.c.number)
            .where(*of_queue, table.c.text.is_(None), table.c.sent_at_ms <= bindparam("since_ms"))
            .order_by(table.c.number)
            .limit(sa.literal_column(str(DROPPED_AT_ONCE)))
            .offset(_NOTHING)
        )
        # The last one of a queue stays: its number is not to be given again.
        last = sa.select(sa.func.max(table.c.number)).where(*of_queue).scalar_subquery()
        self._drop = text(
            sa.delete(table).where(*of_queue, table.c.number.in_(old), table.c.number < last)
        )
        self._length = text(sa.select(sa.func.count()).select_from(table).where(*waits))
        self._forget = text(sa.delete(table).where(*of_queue))

    async def send(self, workspace: str, queue: str, text: str, now_ms: int) -> bool:
        name = {"workspace": workspace, "queue": queue}
        digest = hashlib.sha256(text.encode()).digest()

        def write(cursor: Cursor) -> bool:
            self._turn(cursor)
            cursor.execute(self._same, {**name, "digest": digest, "since_ms": now_ms - SAME_FOR_MS})
            if cursor.fetchone() is not None:
                return False
            cursor.execute(self._last, name)
            ((last,),) = cursor.fetchall()
            row = {"number": (last or 0) + 1, "digest": digest, "sent_at_ms": now_ms, "text": text}
            cursor.execute(self._send, {**name, **row})
            return True

        return await self._writer.alone(write)

    async def receive(self, workspace: str, queue: str, now_ms: int) -> str | None:
        name = {"workspace": workspace, "queue": queue}
        if await self.length(workspace, queue) == 0:
            return None  # whoever asks again and again costs no write

        def write(cursor: Cursor) -> str | None:
            self._turn(cursor)
            cursor.execute(self._first, name)
            row = cursor.fetchone()
            if row is None:
                return None
            cursor.execute(self._take, {**name, "number": row[0]})
            cursor.execute(self._drop, {**name, "since_ms": now_ms - SAME_FOR_MS})
            return str(row[1])

        return await self._writer.alone(write)

    async def length(self, workspace: str, queue: str) -> int:
        def read(cursor: Cursor) -> int:
            cursor.execute(self._length, {"workspace": workspace, "queue": queue})
            ((count,),) = cursor.fetchall()
            return int(count)

        return await self._readers.read(read)

    async def forget(self, workspace: str, queue: str) -> None:
        name = {"workspace": workspace, "queue": queue}
        await self._writer.alone(lambda cursor: cursor.execute(self._forget, name) and None)
