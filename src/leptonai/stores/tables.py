"""The tables. A change here needs a migration beside it, and `SCHEMA` to name it."""

from typing import Any

import sqlalchemy as sa

SCHEMA = "0005"  # the newest revision in migrations/versions

metadata = sa.MetaData()

_CONDITION = "only where"

# Compared and sorted by code point everywhere, as SQLite and Python do.
Text = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")

records = sa.Table(
    "records",
    metadata,
    # The id comes first, so that records of any kind are found by their ids alone.
    sa.Column("id", Text, primary_key=True),
    sa.Column("kind", Text, primary_key=True),
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("unique_key", Text),  # None again once the record is deleted
    sa.Column("name", Text, nullable=False),
    sa.Column("parent", Text, nullable=False),
    sa.Column("state", Text, nullable=False),
    sa.Column("owner", Text, nullable=False),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("due_at_ms", sa.BigInteger),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),  # of its last change, deletion included
    sa.Column("deleted", sa.Boolean, nullable=False),  # kept a while, for those who follow
    sa.Column("document", sa.LargeBinary, nullable=False),  # the whole record as JSON
)


def _only_where(condition: sa.ColumnElement[bool]) -> dict[str, Any]:
    return {"info": {_CONDITION: condition}}


def set_conditions(dialect: str) -> None:
    """For indexes of some rows alone, before they are made in a database of that dialect.

    SQLAlchemy loads a dialect as soon as an index names it, and that of PostgreSQL takes a tenth of
    the time in which a platform starts.
    """
    for table in metadata.tables.values():
        for index in table.indexes:
            if _CONDITION in index.info:
                index.dialect_options[dialect]["where"] = index.info[_CONDITION]


sa.Index("records_seq", records.c.seq, unique=True)
sa.Index("records_created", records.c.kind, records.c.workspace, records.c.created_at_ms)
sa.Index("records_name", records.c.name)
sa.Index("records_parent", records.c.parent)
sa.Index(
    "records_unique_key",
    records.c.unique_key,
    records.c.kind,
    records.c.workspace,
    unique=True,
    **_only_where(records.c.unique_key.is_not(None)),
)
sa.Index("records_live", records.c.kind, **_only_where(records.c.live.is_(sa.true())))
sa.Index("records_due", records.c.due_at_ms, **_only_where(records.c.due_at_ms.is_not(None)))
sa.Index("records_deleted", records.c.seq, **_only_where(records.c.deleted.is_(sa.true())))

events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("workspace", Text, nullable=False),
    sa.Column("kind", Text, nullable=False),
    sa.Column("id", Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)
sa.Index("events_subject", events.c.workspace, events.c.kind, events.c.id, events.c.seq)
sa.Index("events_at", events.c.at_ms)

# "seq" is the newest seq given out. Every writer updates it first and so holds its row until the
# commit: whatever the database, commits become visible in the order of their seqs.
# "forgotten" is the seq up to which deleted records may have been pruned.
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)

# Points of runs. What arrives is kept as it is (`metric_batches`), and from time to time sorted by
# key into chunks, which are merged into larger ones; so a batch costs one row, and a curve is few.
metric_runs = sa.Table(
    "metric_runs",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("run", Text, primary_key=True),
    sa.Column("known", sa.LargeBinary, nullable=False),  # core.points.RunPoints as msgpack
)

metric_writers = sa.Table(
    "metric_writers",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("run", Text, primary_key=True),
    sa.Column("writer", Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
)

metric_batches = sa.Table(
    "metric_batches",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("run", Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

metric_chunks = sa.Table(
    "metric_chunks",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("run", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("stream", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("first_step", sa.BigInteger, nullable=False),
    sa.Column("last_step", sa.BigInteger, nullable=False),
    sa.Column("points", sa.BigInteger, nullable=False),
    sa.Column("sum", sa.LargeBinary, nullable=False),  # core.points.Sum as msgpack
    sa.Column("data", sa.LargeBinary, nullable=False),  # as core.curves packs them; comes last
)

# How many requests an endpoint got in each step of a day: see core.counts. The only history of its
# traffic that outlives a control plane.
request_counts = sa.Table(
    "request_counts",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("endpoint", Text, primary_key=True),  # its id
    sa.Column("day", sa.BigInteger, primary_key=True),  # since 1970, UTC
    sa.Column("column", sa.LargeBinary, nullable=False),  # as core.counts packs it
)
sa.Index("request_counts_day", request_counts.c.day)

# The values of key spaces. `number` grows with every new key of a space: pages go by it, so that
# who reads page by page misses no key that was there all the while.
key_values = sa.Table(
    "key_values",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("space", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
sa.Index(
    "key_values_number",
    key_values.c.workspace,
    key_values.c.space,
    key_values.c.number,
    unique=True,
)

# Messages of queues, in the order of `number`. One that was taken stays, without its text, for as
# long as the same text is not to be sent again.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("workspace", Text, primary_key=True),
    sa.Column("queue", Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),  # SHA-256 of its text
    sa.Column("sent_at_ms", sa.BigInteger, nullable=False),
    sa.Column("text", sa.Text),  # None once it was taken
)
sa.Index("messages_digest", messages.c.workspace, messages.c.queue, messages.c.digest)

# Alembic's own table, which is not one of ours to migrate.
revision = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), primary_key=True),
)
