"""A migrated database is the same as a new one."""

from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from leptonai.stores import schema, tables


def test_the_newest_migration_is_the_schema_of_this_lepton() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [tables.SCHEMA]


def test_migrating_from_nothing_gives_what_is_made_at_once(tmp_path: Path) -> None:
    made, migrated = (
        sa.create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("made", "migrated")
    )
    with made.begin() as connection:
        schema.create(connection)
    with migrated.begin() as connection:
        schema.migrate(connection)
    assert contents(made) == contents(migrated)
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def contents(engine: sa.Engine) -> object:
    """Everything that a database says about its tables, and the rows they begin with."""
    inspector = sa.inspect(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, value FROM counters ORDER BY name").all()
        indexes = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"
        ).all()
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()
    columns = {
        name: [
            (column["name"], str(column["type"]), column["nullable"], column["primary_key"])
            for column in inspector.get_columns(name)
        ]
        for name in sorted(inspector.get_table_names())
    }
    return columns, indexes, rows, revision
