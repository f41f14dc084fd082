"""PostgreSQL, as a `Database`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from leptonai.errors import Unavailable, first_line
from leptonai.stores.databases import BUSY_WAIT_S, CONNECT_WAIT_S, Connection, Cursor, full
from leptonai.stores.decisions import unstorable

RECONNECT_S = 1.0  # after the connection on which writes are heard of was lost


class Postgres:
    dialect: sa.Dialect = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
    begin = "BEGIN"
    begin_reading = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    announce: str | None = "NOTIFY lepton_changes"
    lock_schema: str | None = "SELECT pg_advisory_xact_lock(7020094860)"  # any number of our own
    quick_reads_inline = False

    def __init__(self, url: sa.URL) -> None:
        import psycopg  # only where there is a PostgreSQL

        self._psycopg = psycopg
        self._url = url.set(drivername="postgresql+psycopg")
        self._where = f"{url.host or url.query.get('host', 'localhost')}/{url.database or ''}"

    def _options(self) -> dict[str, Any]:
        _, options = self.dialect.create_connect_args(self._url)
        return {
            "connect_timeout": CONNECT_WAIT_S,
            "keepalives_idle": 10,  # a server that is gone is noticed within half a minute
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **options,
            "autocommit": True,
        }

    def connect(self, *, writes: bool = False) -> Connection:
        connection = self._psycopg.connect(**self._options())
        # A store that is frozen in the middle of a commit must not hold up the others for ever.
        connection.execute(f"SET lock_timeout = '{BUSY_WAIT_S}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{BUSY_WAIT_S}s'")
        # A plan that was made while a table was empty scans it for as long as it is remembered.
        # The writer finds every row by an index, so it need not plan again, which makes it four
        # times as fast; a reader plans each time.
        if writes:
            connection.execute("SET enable_seqscan = off")
        else:
            connection.execute("SET plan_cache_mode = force_custom_plan")
        return connection

    def check(self) -> None:
        """Its files are the server's to mind."""

    def cursor(self, connection: Connection) -> Cursor:
        return connection.cursor(binary=True)

    def insert(self, table: sa.Table) -> postgresql.Insert:
        return postgresql.insert(table)

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        return column == sa.any_(sa.bindparam(parameter, type_=postgresql.ARRAY(sa.Text)))

    def begins(self, column: sa.ColumnElement[str], parameter: str) -> sa.ColumnElement[bool]:
        texts = sa.bindparam(parameter, type_=postgresql.ARRAY(sa.Text))
        begin = sa.func.unnest(texts).column_valued("begin")
        return sa.exists().where(sa.func.starts_with(column, begin))

    def mentions(self, column: sa.ColumnElement[bytes], parameter: str) -> sa.ColumnElement[bool]:
        return sa.func.pg_catalog.position(
            column, sa.bindparam(parameter, type_=sa.LargeBinary)
        ) > sa.literal_column("0")

    def as_list(self, values: Iterable[str]) -> object:
        return [str(value) for value in values]

    def is_lost(self, connection: Connection) -> bool:
        return bool(connection.closed)

    def process_id(self, connection: Connection) -> int:
        return int(connection.info.backend_pid)

    async def listen(self) -> AsyncIterator[int | None]:
        psycopg = self._psycopg
        while True:
            with contextlib.suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(**self._options()) as connection:
                    await connection.execute("LISTEN lepton_changes")
                    yield None
                    async for notice in connection.notifies():
                        yield notice.pid
            await asyncio.sleep(RECONNECT_S)

    def translate(self, error: Exception) -> Exception:
        psycopg = self._psycopg
        if isinstance(error, psycopg.errors.DiskFull):
            return full(f"the server {self._where}")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Unavailable(
                f"the database {self._where} does not answer: {first_line(error)}",
                hint="look whether the PostgreSQL server runs and lets this user in",
            )
        if isinstance(error, psycopg.DataError | OverflowError | UnicodeError):
            return unstorable(error)
        return error
