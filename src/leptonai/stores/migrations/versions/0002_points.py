"""The points of runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "metric_runs", *_keys("run"), sa.Column("known", sa.LargeBinary, nullable=False)
    )
    op.create_table("metric_writers", *_keys("run", "writer"), *_numbers("sequence", "attempt"))
    op.create_table(
        "metric_batches",
        *_keys("run"),
        sa.Column("number", sa.BigInteger, primary_key=True),
        *_numbers("attempt"),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "metric_chunks",
        *_keys("run", "key"),
        sa.Column("number", sa.BigInteger, primary_key=True),
        *_numbers("stream", "attempt", "first_step", "last_step", "points"),
        sa.Column("sum", sa.LargeBinary, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def _keys(*names: str) -> list[sa.Column[str]]:
    text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    return [sa.Column(name, text, primary_key=True) for name in ("workspace", *names)]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
