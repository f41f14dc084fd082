"""Bringing a database to the tables of this Lepton."""

from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from leptonai.errors import Conflict
from leptonai.stores import tables
from leptonai.stores.databases import Database, is_trouble

MIGRATIONS = Path(__file__).parent / "migrations"


def prepare(database: Database) -> None:
    """Make the tables of a new database, or bring old ones up to date. Costs one row where neither
    is due.

    Raises:
        Conflict: the tables are of a newer Lepton.
        TryLater: the database is full, or does not answer.
    """
    try:
        if _read_revision(database) != tables.SCHEMA:
            _change(database)
    except Exception as error:
        raise database.translate(_driver_error(error)) from error


def _read_revision(database: Database) -> str | None:
    with closing(database.connect()) as connection:
        cursor = database.cursor(connection)
        try:
            cursor.execute("SELECT version_num FROM alembic_version")
        except Exception as error:
            if is_trouble(database.translate(error)):
                raise
            return None  # there is no such table
        row = cursor.fetchone()
        return str(row[0]) if row else None


def _change(database: Database) -> None:
    engine = sa.create_engine(
        sa.URL.create(f"{database.dialect.name}+{database.dialect.driver}"),
        creator=database.connect,
        poolclass=sa.NullPool,
    )
    sa.event.listen(engine, "begin", lambda begun: begun.exec_driver_sql(database.begin))
    with engine.begin() as connection:
        if database.lock_schema is not None:
            connection.exec_driver_sql(database.lock_schema)
        if not sa.inspect(connection).has_table(tables.revision.name):
            create(connection)
            return
        found = connection.scalar(sa.select(tables.revision))
        if found != tables.SCHEMA:  # nobody else changed it in between
            migrate(connection, str(found))


def create(connection: sa.Connection) -> None:
    """Make every table in its newest form."""
    tables.set_conditions(connection.dialect.name)
    tables.metadata.create_all(connection, checkfirst=False)
    tables.revision.create(connection, checkfirst=False)
    connection.execute(sa.insert(tables.revision), {"version_num": tables.SCHEMA})
    connection.execute(
        sa.insert(tables.counters),
        [{"name": "seq", "value": 0}, {"name": "forgotten", "value": 0}],
    )


def migrate(connection: sa.Connection, found: str = "base", to: str = "head") -> None:
    """Run the migrations from what was found."""
    # Alembic takes a second and some memory to import, and is hardly ever needed.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        ScriptDirectory.from_config(config).get_revision(found)
    except CommandError as error:
        raise Conflict(
            f"the database was made by a newer Lepton: its schema {found} is not known here, "
            f"where {tables.SCHEMA} is the newest",
            hint="install that Lepton or a newer one, or name another database",
        ) from error
    command.upgrade(config, to)


def _driver_error(error: Exception) -> Exception:
    original = getattr(error, "orig", None)  # inside SQLAlchemy's
    return original if isinstance(original, Exception) else error
