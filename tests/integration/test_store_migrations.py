"""A migrated database is the same as a new one."""

import asyncio
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from leptonai.core.records import Model
from leptonai.ports.store import Put, Query
from leptonai.spec.artifacts import ArtifactSpec
from leptonai.stores import open_store, schema, tables


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


def test_versions_that_were_there_before_are_counted_by_their_format(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/old.db")
    url = f"sqlite:///{tmp_path}/old.db"

    async def keep() -> None:
        store = await open_store(url)
        for number, (format, deleted) in enumerate(
            [("photon", False), ("photon", True), ("pytorch", False)], start=1
        ):
            spec = ArtifactSpec(digest="sha256:0", size_bytes=1, format=format)
            model = Model(
                workspace="ws", id=f"m{number}", name="m", created_at_ms=1, spec=spec,
                number=number, deleted=deleted,
            )  # fmt: skip
            await store.commit(Put(model))
        await store.close()

    asyncio.run(keep())
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE records SET state = ''")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0004'")

    async def count() -> int:
        store = await open_store(url)
        try:
            return await store.count(Model, Query(workspace="ws", states=("photon",)))
        finally:
            await store.close()

    assert asyncio.run(count()) == 1


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
