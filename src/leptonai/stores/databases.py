"""What differs between SQLite and PostgreSQL: connecting, lists as parameters, and their errors.

SQLite is here; PostgreSQL in `postgres.py`.
"""

import os
import shlex
import sqlite3
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from leptonai.errors import InvalidRequest, LeptonError, StorageFull, Unavailable
from leptonai.stores.decisions import unstorable

BUSY_WAIT_S = 5  # for another process that holds the database
CONNECT_WAIT_S = 5

Connection = Any  # of the driver
Cursor = Any


class Database(Protocol):
    """One kind of database at one address."""

    dialect: sa.Dialect
    begin: str  # starts a transaction in which nobody else writes
    begin_reading: str  # starts one that sees one instant
    announce: str | None  # tells other processes, inside a transaction, that something is written
    lock_schema: str | None  # what else it takes to be the only one who changes the tables
    quick_reads_inline: bool  # whether reading one row is quicker than changing threads

    def connect(self, *, writes: bool = False) -> Connection:
        """A connection of the driver, without transactions but those that are begun by hand."""
        ...

    def check(self) -> None:
        """Before something is written.

        Raises:
            Unavailable: it would be lost.
        """
        ...

    def cursor(self, connection: Connection) -> Cursor: ...

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows ON CONFLICT."""
        ...

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        """Whether the column is in a list, which is one parameter made by `as_list`."""
        ...

    def begins(self, column: sa.ColumnElement[str], parameter: str) -> sa.ColumnElement[bool]:
        """Whether the column begins with one of such a list."""
        ...

    def as_list(self, values: Iterable[str]) -> object: ...

    def mentions(self, column: sa.ColumnElement[bytes], parameter: str) -> sa.ColumnElement[bool]:
        """Whether the column's bytes have those of the parameter among them."""
        ...

    def is_lost(self, connection: Connection) -> bool: ...

    def process_id(self, connection: Connection) -> int:
        """Of the server's process behind the connection; 0 where there is none."""
        ...

    def listen(self) -> AsyncIterator[int | None] | None:
        """Which process has written, whenever one has; None after what may have been missed.

        Returns:
            None where processes announce nothing.
        """
        ...

    def translate(self, error: Exception) -> Exception:
        """The driver's error as one of ours: a TryLater where the database is in trouble."""
        ...


def database_at(url: str) -> Database:
    if url.startswith("sqlite"):  # not read as a URL: any character may be in a path
        return Sqlite(url.partition("://")[2].removeprefix("/"))
    from leptonai.stores.postgres import Postgres  # its dialect takes a tenth of a start

    return Postgres(sa.make_url(url))


class Sqlite:
    dialect: sa.Dialect = sqlite.dialect(paramstyle="named")
    begin = "BEGIN IMMEDIATE"
    begin_reading = "BEGIN"
    announce: str | None = None
    lock_schema: str | None = None
    quick_reads_inline = True

    def __init__(self, file: str) -> None:
        if file in ("", ":memory:"):
            raise InvalidRequest(
                "a SQLite store needs a file", hint="give sqlite:///path/to/file, or memory:"
            )
        self.path = Path(file)
        self._log = Path(f"{file}-wal")
        self._files = (self.path, self._log, Path(f"{file}-shm"))
        self._opened: dict[Path, int] = {}  # the inodes of its files

    def connect(self, *, writes: bool = False) -> Connection:
        if self._opened:
            if writes:
                self._opened.pop(self._log, None)  # comes and goes with the connections
            self.check()
        try:
            self.path.touch(mode=0o600)  # it holds hashes of tokens; its WAL inherits the mode
        except OSError as error:
            raise Unavailable(
                f"the database {self.path} cannot be opened: {error.strerror}",
                hint="make its directory, and let this user write there",
            ) from error
        for each in self._files:
            if each.exists() and not os.access(each, os.R_OK | os.W_OK):
                # Before a WAL of the same mode is made, which would stay when the mode is mended.
                raise Unavailable(
                    f"{each} may not be read and written (its mode is "
                    f"{each.stat().st_mode & 0o777:03o})",
                    hint=f"run `chmod 600 {shlex.quote(str(each))}` as its owner",
                )
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_WAIT_S,
            isolation_level=None,  # the driver begins no transactions of its own
            check_same_thread=False,  # each is used by one thread at a time
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit returns after its fsync
        self._opened.setdefault(self.path, self.path.stat().st_ino)
        return connection

    def check(self) -> None:
        # What is written to a file that was removed is there until we end, and then no more.
        for path in (self.path, self._log):
            try:
                status = path.stat()
                inode = status.st_ino if status.st_size or path == self._log else 0
            except OSError:
                inode = 0
            if self._opened.get(path, inode) != inode:
                raise Unavailable(
                    f"the file {path} was removed, replaced or emptied while it is in use;"
                    " nothing was written",
                    hint="put the same file back; or restore a backup, and start the platform anew",
                )
            if inode:
                self._opened[path] = inode

    def cursor(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        return connection.cursor()

    def insert(self, table: sa.Table) -> sqlite.Insert:
        return sqlite.insert(table)

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        values = sa.func.json_each(sa.bindparam(parameter)).table_valued("value")
        return column.in_(sa.select(values.c.value))

    def begins(self, column: sa.ColumnElement[str], parameter: str) -> sa.ColumnElement[bool]:
        begin = sa.func.json_each(sa.bindparam(parameter)).table_valued("value").c.value
        one: sa.ColumnElement[int] = sa.literal_column("1")
        return sa.exists().where(sa.func.substr(column, one, sa.func.length(begin)) == begin)

    def mentions(self, column: sa.ColumnElement[bytes], parameter: str) -> sa.ColumnElement[bool]:
        return sa.func.instr(
            column, sa.bindparam(parameter, type_=sa.LargeBinary)
        ) > sa.literal_column("0")

    def as_list(self, values: Iterable[str]) -> object:
        return msgspec.json.encode(list(values)).decode()

    def is_lost(self, connection: sqlite3.Connection) -> bool:
        return False

    def process_id(self, connection: sqlite3.Connection) -> int:
        return 0

    def listen(self) -> None:
        return None

    def translate(self, error: Exception) -> Exception:
        if isinstance(error, OverflowError | UnicodeError):
            return unstorable(error)
        if not isinstance(error, sqlite3.Error):
            return error
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        # A write beyond a quota or a size limit is told as an I/O error of writing.
        if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE:
            return full(f"{self.path.parent}")
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return Unavailable(
                f"the database {self.path} is damaged: {error}",
                hint="restore it from a backup; `sqlite3 FILE .recover` saves what can be read",
            )
        if code & 0xFF in _SQLITE_TROUBLE:
            return Unavailable(
                f"the database {self.path} does not answer: {error}",
                hint="look whether another process holds it, and whether its disk is well",
            )
        return error


_SQLITE_TROUBLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
}


def is_trouble(error: Exception) -> bool:
    """Whether the database itself is in trouble, so that any other write would have failed too."""
    return isinstance(error, StorageFull | Unavailable)


def full(where: str) -> LeptonError:
    return StorageFull(
        f"the disk of {where} is full; nothing was written", hint="free some space and try again"
    )
