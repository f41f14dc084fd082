"""How many requests each endpoint got, by day."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    op.create_table(
        "request_counts",
        sa.Column("workspace", text, primary_key=True),
        sa.Column("endpoint", text, primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True),
        sa.Column("column", sa.LargeBinary, nullable=False),
    )
    op.create_index("request_counts_day", "request_counts", ["day"])
