"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    op.create_table(
        "records",
        sa.Column("id", text, primary_key=True),
        sa.Column("kind", text, primary_key=True),
        sa.Column("workspace", text, primary_key=True),
        sa.Column("unique_key", text),
        sa.Column("name", text, nullable=False),
        sa.Column("parent", text, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("owner", text, nullable=False),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("due_at_ms", sa.BigInteger),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    _index("records_seq", "records", ["seq"], unique=True)
    _index("records_created", "records", ["kind", "workspace", "created_at_ms"])
    _index("records_name", "records", ["name"])
    _index("records_parent", "records", ["parent"])
    _index(
        "records_unique_key",
        "records",
        ["unique_key", "kind", "workspace"],
        unique=True,
        where=sa.column("unique_key").is_not(None),
    )
    _index("records_live", "records", ["kind"], where=sa.column("live").is_(sa.true()))
    _index("records_due", "records", ["due_at_ms"], where=sa.column("due_at_ms").is_not(None))
    _index("records_deleted", "records", ["seq"], where=sa.column("deleted").is_(sa.true()))
    op.create_table(
        "events",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("workspace", text, nullable=False),
        sa.Column("kind", text, nullable=False),
        sa.Column("id", text, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    _index("events_subject", "events", ["workspace", "kind", "id", "seq"])
    _index("events_at", "events", ["at_ms"])
    counters = op.create_table(
        "counters",
        sa.Column("name", text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "seq", "value": 0}, {"name": "forgotten", "value": 0}])
    op.create_table(
        "leases",
        sa.Column("name", text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
    )


def _index(
    name: str,
    table: str,
    columns: list[str],
    *,
    unique: bool = False,
    where: sa.ColumnElement[bool] | None = None,
) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
